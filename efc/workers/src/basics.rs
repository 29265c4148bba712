//! What many modules need and no crate of ours has.

use std::fmt;
use std::sync::{Mutex, MutexGuard};

/// What follows something that comes to its end later.
pub(crate) struct Then(Box<dyn FnOnce() + Send>);

impl Then {
    pub(crate) fn new(run: impl FnOnce() + Send + 'static) -> Then {
        Then(Box::new(run))
    }

    pub(crate) fn run(self) {
        (self.0)();
    }
}

impl fmt::Debug for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Then")
    }
}

/// Locks a mutex under which nothing panics.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic under this lock")
}
