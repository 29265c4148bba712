//! What is decided about the store: pure code, events in and decisions out. Nothing here has a clock, a file or a
//! thread, so that what is kept and what goes can be played through with any number of files.

pub mod ghosts;
pub mod patience;
pub mod queues;
pub mod taking;
