//! The locks and atomics of the code that runs in tasks: those of the standard library, by one name, so that a test can
//! put others in their place that explore schedules.

#[cfg(not(feature = "shuttle"))]
pub use std::sync::{Mutex, MutexGuard, RwLock, atomic};

#[cfg(feature = "shuttle")]
pub use shuttle::sync::{Mutex, MutexGuard, RwLock, atomic};

pub use std::sync::OnceLock;
