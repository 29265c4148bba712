//! The bounded queue of jobs for the one thread that changes the disk.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use efc_buffer::{Budget, LARGE, Purpose};
use efc_cache::blocks::{Block, BlockKey};

use crate::basics::lock;
use crate::policy::queues::Unit;

/// Blocks on their way to the disk, in bytes of their memory, ...
const FILLING_BYTES_MAX: u64 = 32 << 20;
/// ... and as a part of what all may have that is not read by anybody yet: a disk that hangs leaves the rest to others.
const FILLING_PART: u64 = 4;
/// All else that waits.
const JOBS_MAX: usize = 4096;

/// Something to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Write a block.
    Fill { key: BlockKey, block: Arc<Block> },
    /// A block of the large file of this hash and life is not there any more.
    Clear { hash: u64, life: u64, index: u64 },
    /// The large file of this hash and life cannot be read: it goes.
    Drop { hash: u64, life: u64 },
    /// Something of it was used.
    Touch(Unit),
    /// It has changed its queue.
    Mark(Unit),
    /// What is held, or may be, has changed.
    Look,
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Job::Fill { block, .. } => block.room(),
            _ => 0,
        }
    }
}

/// What the thread finds.
#[derive(Debug)]
pub(crate) enum Next {
    Job(Job),
    /// Nothing for a while.
    Idle,
    /// It is to end.
    End,
}

#[derive(Debug, Default)]
struct Jobs {
    jobs: VecDeque<Job>,
    bytes: usize,
    is_ended: bool,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Work {
    filling_bytes_max: usize,
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

impl Work {
    /// Empty. Blocks come out of this budget.
    pub(crate) fn new(budget: &Budget) -> Work {
        let part = (budget.bytes_max(Purpose::Ahead) / FILLING_PART).clamp(LARGE as u64, FILLING_BYTES_MAX);
        Work { filling_bytes_max: part as usize, jobs: Mutex::default(), changed: Condvar::default() }
    }

    /// `false`: there is too much already.
    pub(crate) fn add(&self, job: Job) -> bool {
        let mut jobs = lock(&self.jobs);
        let bytes = jobs.bytes + job.bytes();
        let fits = jobs.jobs.len() < JOBS_MAX && (bytes <= self.filling_bytes_max || job.bytes() == 0);
        if fits && !jobs.is_ended {
            jobs.bytes = bytes;
            jobs.jobs.push_back(job);
            self.changed.notify_all(); // whoever waits for the end hears it as well
        }
        fits && !jobs.is_ended
    }

    /// Would a block be taken now that takes so much memory?
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let jobs = lock(&self.jobs);
        jobs.jobs.len() < JOBS_MAX && jobs.bytes + bytes <= self.filling_bytes_max
    }

    /// The next one, or [`Next::Idle`] if there is none for so long.
    pub(crate) fn next(&self, limit: Duration) -> Next {
        let jobs = lock(&self.jobs);
        let is_waiting = |jobs: &mut Jobs| jobs.jobs.is_empty() && !jobs.is_ended;
        let (mut jobs, _) = self.changed.wait_timeout_while(jobs, limit, is_waiting).expect("no panic under this lock");
        if jobs.is_ended {
            return Next::End;
        }
        let Some(job) = jobs.jobs.pop_front() else { return Next::Idle };
        jobs.bytes -= job.bytes();
        Next::Job(job)
    }

    /// Waits for the end, so long at most. `true`: it has come.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        let jobs = lock(&self.jobs);
        let waited = self.changed.wait_timeout_while(jobs, limit, |jobs| !jobs.is_ended);
        waited.expect("no panic under this lock").0.is_ended
    }

    /// Nothing more is to be done; what waits is given up.
    pub(crate) fn end(&self) {
        let mut jobs = lock(&self.jobs);
        let given_up = std::mem::take(&mut jobs.jobs);
        jobs.is_ended = true;
        drop(jobs);
        self.changed.notify_all();
        drop(given_up); // without the lock
    }

    /// Is it the end?
    pub(crate) fn is_ended(&self) -> bool {
        lock(&self.jobs).is_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{block_of, key};

    #[test]
    fn blocks_have_a_limit_and_after_the_end_nothing_is_taken() {
        let work = Work::new(&Budget::default());
        let block = Arc::new(block_of(&[1; 70_000]));
        let fill = || Job::Fill { key: key("file", 70_000, 0), block: block.clone() };
        let taken = (0..100).take_while(|_| work.add(fill())).count();
        assert_eq!(taken, FILLING_BYTES_MAX as usize / block.room());
        assert!(work.add(Job::Look), "what has no bytes is taken");
        assert!(!work.has_room(block.room()));
        assert!(matches!(work.next(Duration::ZERO), Next::Job(Job::Fill { .. })));
        assert!(work.has_room(block.room()) && !work.has_room(block.room() + block.room()));
        assert!(work.add(fill()) && !work.add(fill()));
        work.end();
        assert!(!work.add(Job::Look) && matches!(work.next(Duration::ZERO), Next::End));
        assert_eq!(Arc::strong_count(&block), 1);
    }
}
