//! Something that is closed for a while and then open for ever: threads and tasks wait in front of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::task::{Context, Poll, Waker};

pub struct Gate {
    is_open: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
    opened: Condvar,
}

impl Gate {
    /// Closed.
    pub fn new() -> Gate {
        Gate { is_open: AtomicBool::new(false), waiting: Mutex::default(), opened: Condvar::new() }
    }

    /// Opens it, and wakes everybody, tasks on this thread.
    pub fn open(&self) {
        let waiting = {
            let mut waiting = self.waiting.lock().expect("gate lock");
            self.is_open.store(true, Ordering::Release);
            std::mem::take(&mut *waiting)
        };
        self.opened.notify_all();
        waiting.into_iter().for_each(Waker::wake); // without the lock
    }

    /// Blocks until it is open.
    pub fn wait(&self) {
        if !self.is_open.load(Ordering::Acquire) {
            let waiting = self.waiting.lock().expect("gate lock");
            drop(self.opened.wait_while(waiting, |_| !self.is_open.load(Ordering::Acquire)).expect("gate lock"));
        }
    }

    /// Ready when it is open.
    pub fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.lock().expect("gate lock");
        if self.is_open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        waiting.push(context.waker().clone());
        Poll::Pending
    }
}
