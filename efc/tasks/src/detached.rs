//! Tasks that go on when nobody waits for them any more.

use std::future::Future;

use tokio::sync::oneshot;

use crate::spawn;

/// The end of a task, to be waited for. The task goes on when this is dropped.
pub struct Joined<T>(oneshot::Receiver<T>);

/// Starts `future` as a task of its own, which ends when it ends, whoever waits.
pub fn detached<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Joined<T> {
    let (ended, end) = oneshot::channel();
    spawn(async move {
        // Nobody waits any more: nobody wants to know.
        let _ = ended.send(future.await);
    });
    Joined(end)
}

impl<T> Joined<T> {
    /// Ends with what the task ends with.
    ///
    /// # Panics
    /// If the task has panicked.
    pub async fn end(self) -> T {
        self.0.await.expect("a task does not end without its result")
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_task_goes_on_without_its_waiter() {
        let (gate, count) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(AtomicU32::new(0)));
        let start = || {
            let (gate, count) = (gate.clone(), count.clone());
            detached(async move {
                gate.acquire().await.expect("open").forget();
                count.fetch_add(1, Ordering::Relaxed) + 1
            })
        };
        let (dropped, kept) = (start(), start());
        {
            assert!(poll(pin!(dropped.end())).is_none());
        }
        let mut end = pin!(kept.end());
        assert!(poll(end.as_mut()).is_none());
        gate.add_permits(2);
        assert_eq!((poll(end), count.load(Ordering::Relaxed)), (Some(2), 2));
    }
}
