//! Decisions about the store, as pure code: events in, decisions out. Nothing here has a clock, a file or a thread, so
//! eviction can be simulated with any number of files.

pub mod ghosts;
pub mod patience;
pub mod queues;
pub mod taking;
