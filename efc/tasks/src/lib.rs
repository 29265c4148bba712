//! Runs the tasks of the data plane, and gives them locks and time: nothing here knows what the tasks do.

mod backoff;
mod detached;
mod executor;
pub mod sync;
pub mod time;

pub use backoff::Backoff;
pub use detached::{Joined, detached};
pub use executor::spawn;
