//! Runs the tasks of the data plane: nothing here knows what they do.

mod executor;

pub use executor::spawn;
