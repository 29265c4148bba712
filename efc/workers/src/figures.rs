//! Counters of each worker, for status and metrics.

use std::fmt::{self, Display, Formatter};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One worker, as this node sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerFigures {
    /// `HOST:PORT`.
    pub address: String,
    /// Beside other workers.
    pub weight: u32,
    /// It is spoken to by TLS.
    pub tls: bool,
    /// Whether it is used, and if not, why.
    pub state: WorkerState,
    /// What an answer with a block takes that comes alone.
    pub latency: Option<Duration>,
    /// What the worker says of itself: memory for values of all its users, in bytes; 0: not known yet.
    pub capacity_bytes: u64,
    /// Bytes of values of all its users there.
    pub held_bytes: u64,
    /// Why it could not take a block, the last time that it said so.
    pub fill_trouble: Option<String>,
    /// What came of asking and filling.
    pub counts: Counts,
}

/// Whether a worker is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// It is being connected to for the first time.
    Connecting,
    /// It is asked.
    Serving,
    /// It answers, but later than the backend or too late: nobody waits for it.
    Slow,
    /// It cannot be reached or does not answer: why. It is tried again.
    Down(String),
    /// It cannot keep blocks as it is set up: why. It is looked at again.
    Unfit(String),
}

impl Display for WorkerState {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            WorkerState::Connecting => formatter.write_str("is being connected to"),
            WorkerState::Serving => formatter.write_str("is asked"),
            WorkerState::Slow => formatter.write_str("answers too late and is not asked"),
            WorkerState::Down(why) => write!(formatter, "does not answer and is tried again: {why}"),
            WorkerState::Unfit(why) => write!(formatter, "is not used, and looked at again: {why}"),
        }
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// What came of asking a worker and filling it, since this process began.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts { $($(#[$doc])* pub $name: u64),+ }

        /// [`Counts`] that go on.
        #[derive(Debug, Default)]
        pub(crate) struct Tally { $(pub(crate) $name: AtomicU64),+ }

        impl Tally {
            pub(crate) fn read(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed)),+ }
            }
        }
    };
}

counts! {
    /// Blocks that it gave.
    hits,
    /// Bytes of these blocks.
    hit_bytes,
    /// Blocks that it had not got, those that another node was fetching among them.
    misses,
    /// Blocks that it was not asked for, as it was slow, down or unfit, or as too much was under way.
    skipped,
    /// Answers that did not come in time.
    timeouts,
    /// Of these, those that were not waited for to the end, in favour of the backend.
    hedged,
    /// Answers that were lost with their connection.
    lost,
    /// Values that were not sealed for the name under which they were: damaged, or put there by others. Each is deleted.
    refused_blocks,
    /// Blocks that another node was fetching, and that came while they were waited for.
    waits,
    /// Blocks that another node was fetching, and that did not come in time.
    vain_waits,
    /// Further copies of hot blocks that were put there.
    copies_done,
    /// Blocks that were put there.
    fills_done,
    /// Bytes of these blocks.
    fill_bytes,
    /// Blocks that others had put there meanwhile, or whose marker was gone.
    fills_overtaken,
    /// Blocks that the worker could not take, for want of memory above all.
    fills_failed,
    /// Blocks that were not put there as there was no room to seal them in.
    fills_without_budget,
    /// Blocks that were not put there as too many were on their way to this worker, or as it was not there.
    fills_unsent,
    /// Connections that ended by something else than this node's will.
    broken_connections,
}

pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_said_in_words() {
        let refused = WorkerState::Down("Connection refused (os error 111)".into());
        assert_eq!(refused.to_string(), "does not answer and is tried again: Connection refused (os error 111)");
        assert_eq!(WorkerState::Slow.to_string(), "answers too late and is not asked");
    }
}
