//! What many modules need and no crate of ours has.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard};

/// Locks a mutex under which nothing panics.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic under this lock")
}

/// 64 bits that differ between processes and calls; no secret depends on them.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
