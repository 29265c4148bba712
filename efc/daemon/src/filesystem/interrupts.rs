//! Requests whose caller got a signal.
//!
//! A hard mount waits for its server, and file system calls are not interruptible: programs do not expect EINTR from
//! `open(2)` or `read(2)` of a file (the Go runtime signals its own threads all the time). So a signal alone changes
//! nothing, as with the kernel's NFS client. But a caller with SIGKILL pending will see no result, and must not stay in
//! D state for as long as its server is away: its request is answered EINTR at once. A call that only asks is dropped;
//! one that changes something continues without its caller ([`super::mutations`]) once it may have been sent. Whether
//! the server executes it is then as uncertain as for any process killed in a system call.
//!
//! The kernel sends INTERRUPT only once, at the first signal, so interrupted requests are polled until they end.

use efc_tasks::sync::Mutex;
use efc_tasks::sync::atomic::{AtomicBool, Ordering};
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use foldhash::HashMap;

use super::outside::Callers;
use efc_backend::{Cred, Ticket};
use efc_state::KeptData;

/// How often an interrupted request's caller is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Looks for a request that is not being served: most have ended, but one may have been read by a thread that has not begun it,
/// while another thread was told of the signal. A successor is told so of each redelivered request at once.
const LOOKS_FOR_UNKNOWN_MAX: u32 = 20;

#[derive(Default)]
struct Signal {
    killed: bool,
    waker: Option<Waker>,
}

/// A write that leaves for the server: what it takes to save it, should nobody wait for its answer any more.
pub struct Sending {
    /// The data, where it outlives this daemon.
    pub kept: KeptData,
    /// The file.
    pub node: u64,
    /// Where in the file.
    pub offset: u64,
    /// By whose rights.
    pub cred: Cred,
    /// Of the first call, which has all of it unless the server takes less at a time.
    pub ticket: Ticket,
}

/// How far a request has come, and whether its caller was killed.
#[derive(Default)]
pub struct Progress {
    signal: Mutex<Signal>,
    may_be_sent: AtomicBool,
    /// The write that has left.
    sending: Mutex<Option<Sending>>,
}

impl Progress {
    /// A call that changes something leaves now, or a predecessor may have sent one.
    pub fn set_sent(&self) {
        self.may_be_sent.store(true, Ordering::Relaxed);
    }

    /// A write leaves now; with what it takes to save it, if that can be done.
    pub fn set_sending(&self, write: Option<Sending>) {
        *self.sending.lock().expect("sending lock") = write;
        self.set_sent();
    }

    /// Takes the write that has left.
    pub fn take_sending(&self) -> Option<Sending> {
        self.sending.lock().expect("sending lock").take()
    }

    /// May the server execute something for the request that it has not answered?
    pub fn may_be_sent(&self) -> bool {
        self.may_be_sent.load(Ordering::Relaxed)
    }
}

struct Running {
    tid: u32,
    progress: Arc<Progress>,
}

/// Requests that are being served.
pub struct Interrupts {
    running: Mutex<HashMap<u64, Running>>,
    callers: Arc<dyn Callers>,
}

/// Ends with `None` when the caller was killed.
pub async fn run<T>(
    interrupts: &Interrupts,
    progress: &Arc<Progress>,
    (unique, tid): (u64, u32),
    operation: impl Future<Output = T>,
) -> Option<T> {
    interrupts.lock().insert(unique, Running { tid, progress: progress.clone() });
    let killed = poll_fn(|context| {
        let mut signal = progress.signal.lock().expect("signal lock");
        if signal.killed {
            return Poll::Ready(None);
        }
        signal.waker = Some(context.waker().clone());
        Poll::Pending
    });
    let result = futures_lite::future::or(async { Some(operation.await) }, killed).await;
    interrupts.lock().remove(&unique);
    result
}

impl Interrupts {
    /// None yet, of these callers.
    pub fn new(callers: Arc<dyn Callers>) -> Interrupts {
        Interrupts { running: Mutex::default(), callers }
    }

    fn lock(&self) -> efc_tasks::sync::MutexGuard<'_, HashMap<u64, Running>> {
        self.running.lock().expect("interrupts lock")
    }

    /// The caller of `unique` got a signal.
    pub fn interrupt(self: &Arc<Self>, unique: u64) {
        let interrupts = self.clone();
        efc_tasks::spawn(async move {
            for look in 0.. {
                match interrupts.is_unkilled(unique) {
                    Some(true) => {}
                    None if look < LOOKS_FOR_UNKNOWN_MAX => {}
                    _ => return,
                }
                efc_tasks::time::sleep(LOOK_AGAIN).await;
            }
        });
    }

    /// `None`: there is no such request, or none yet. `Some(false)`: it ends now because its caller was killed.
    fn is_unkilled(&self, unique: u64) -> Option<bool> {
        let (tid, progress) = self.lock().get(&unique).map(|running| (running.tid, running.progress.clone()))?;
        if !self.callers.is_killed(tid) {
            return Some(true);
        }
        let mut signal = progress.signal.lock().expect("signal lock");
        signal.killed = true;
        let waker = signal.waker.take();
        drop(signal);
        if let Some(waker) = waker {
            waker.wake();
        }
        Some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::Credentials;

    #[test]
    fn a_request_of_a_dead_caller_ends() {
        let (interrupts, progress) = (Arc::new(Interrupts::new(Arc::new(Credentials::new(None)))), Arc::default());
        let never = run(&interrupts, &progress, (5, u32::MAX >> 1), std::future::pending::<()>());
        let waiting = interrupts.clone();
        let interrupter = std::thread::spawn(move || {
            while waiting.lock().is_empty() {
                std::thread::yield_now();
            }
            waiting.interrupt(5);
        });
        assert_eq!(futures_lite::future::block_on(never), None);
        interrupter.join().expect("interrupter ends");
    }

    #[test]
    fn an_interrupt_may_overtake_its_request() {
        let (interrupts, progress) = (Arc::new(Interrupts::new(Arc::new(Credentials::new(None)))), Arc::default());
        interrupts.interrupt(7);
        let never = run(&interrupts, &progress, (7, u32::MAX >> 1), std::future::pending::<()>());
        let limit = async {
            async_io::Timer::after(Duration::from_secs(10)).await;
            Some(())
        };
        assert_eq!(futures_lite::future::block_on(futures_lite::future::or(never, limit)), None);
    }

    #[test]
    fn a_signal_that_does_not_kill_changes_nothing() {
        let (interrupts, progress) = (Arc::new(Interrupts::new(Arc::new(Credentials::new(None)))), Arc::default());
        let own = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let slow = run(&interrupts, &progress, (6, own), async {
            interrupts.interrupt(6);
            async_io::Timer::after(LOOK_AGAIN * 3).await;
        });
        assert_eq!(futures_lite::future::block_on(slow), Some(()));
        assert!(interrupts.lock().is_empty());
    }
}
