//! Runs tasks on whichever thread makes them ready.
//!
//! A request is read from `/dev/fuse` by one thread and its RPC reply arrives on another. Handing the task to a third
//! thread in between would cost a context switch each way, which is most of the cost of a small file on a fast
//! network. So there is no pool: the thread that reads the request polls its task once, and the connection's reader
//! thread polls it again when the reply is there, and writes the answer to the kernel itself.
//!
//! Three rules follow. Tasks must not block (all waiting is by `await`). A wake-up inside a poll must not recurse: each
//! thread keeps a queue, and only the outermost wake-up on it drains that queue. And whoever wakes a task must hold no
//! lock that the task may want: tokio's locks and our NFS client keep to that, the event-listener crate and all that is
//! built on it do not.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;

use async_task::Runnable;

thread_local! {
    /// Tasks made ready by the task that runs on this thread; `None` while no task runs.
    static READY: RefCell<Option<VecDeque<Runnable>>> = const { RefCell::new(None) };
}

/// Starts `future` on this thread, and lets it continue on those that wake it.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    #[cfg(feature = "simulation")]
    let Some(future) = crate::simulation::take_over(future) else { return };
    let (runnable, task) = async_task::spawn(future, run);
    task.detach();
    run(runnable);
}

/// Waits on this thread until `future` ends.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    #[cfg(feature = "simulation")]
    if let Some(simulation) = crate::simulation::current() {
        return simulation.run(future);
    }
    futures_lite::future::block_on(future)
}

fn run(runnable: Runnable) {
    let outermost = READY.with_borrow_mut(|ready| match ready {
        Some(queue) => {
            queue.push_back(runnable);
            None
        }
        None => {
            *ready = Some(VecDeque::new());
            Some(runnable)
        }
    });
    let mut next = outermost;
    while let Some(runnable) = next {
        runnable.run();
        next = READY.with_borrow_mut(|ready| {
            let runnable = ready.as_mut().and_then(VecDeque::pop_front);
            if runnable.is_none() {
                *ready = None;
            }
            runnable
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_chain_of_wake_ups_does_not_recurse() {
        let finished = Arc::new(AtomicU32::new(0));
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        let guard = lock.clone().try_lock_owned().expect("free");
        for _ in 0..100_000 {
            let (lock, finished) = (lock.clone(), finished.clone());
            spawn(async move {
                let _guard = lock.lock().await;
                finished.fetch_add(1, Ordering::Relaxed);
            });
        }
        drop(guard);
        assert_eq!(finished.load(Ordering::Relaxed), 100_000);
    }
}
