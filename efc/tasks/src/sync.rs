//! The locks and atomics of the code that runs in tasks: those of the standard library, by one name, so that a test can
//! put others in their place that explore schedules.

pub use std::sync::{Mutex, MutexGuard, OnceLock, RwLock};

pub use std::sync::atomic;
