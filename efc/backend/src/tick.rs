//! When a call was made, and when an answer was taken in, in the one order of this process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Answers taken in so far.
static ANSWERS: AtomicU64 = AtomicU64::new(0);

/// A time: by the order of answers, which tells calls that overlap, and by the clock.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// The answers that had been taken in.
    pub order: u64,
    /// By the clock.
    pub at: Instant,
}

impl Tick {
    /// Now: whatever answer is taken in from now on has a later tick.
    pub fn now() -> Tick {
        Tick { order: ANSWERS.load(Ordering::Acquire), at: efc_tasks::time::now() }
    }

    /// An answer is taken in now.
    pub fn of_answer() -> Tick {
        Tick { order: ANSWERS.fetch_add(1, Ordering::AcqRel) + 1, at: efc_tasks::time::now() }
    }
}
