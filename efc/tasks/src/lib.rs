//! Runs the tasks of the data plane, and gives them locks and time: nothing here knows what the tasks do.

mod executor;
pub mod sync;
pub mod time;

pub use executor::spawn;
