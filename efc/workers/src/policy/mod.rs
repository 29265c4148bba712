//! Decisions about workers and blocks, as pure code: events in, decisions out. Nothing here has a clock, a socket, a
//! thread or memory for blocks, so decisions of a node can be tested, and simulated with thousands of nodes.

pub mod copies;
pub mod course;
pub mod health;
pub mod hedges;
pub mod limit;
pub mod markers;
pub mod placement;

use std::time::Duration;

/// Longest wait for the turn to ask: on a slow network reads in flight wait for each other, whomever they ask.
pub const TURN_MAX: Duration = Duration::from_millis(150);
/// Longest time for asking: for the turn, and for the answers of one worker and another.
pub const ASK_MAX: Duration = Duration::from_millis(250);
const _: () = assert!(health::WAIT_MAX.as_millis() < ASK_MAX.as_millis() && TURN_MAX.as_millis() < ASK_MAX.as_millis());
