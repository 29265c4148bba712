//! Copies of hot blocks: when one is added, and how many a node knows of. They spread a block that many read at once
//! over the network cards of several workers.
//!
//! The first copy of a block is at the first worker of its order (`placement`), and says how many copies there are; the
//! others are at the next workers. A reader whose wait for the first copy was more than twice the usual one, at a
//! worker where that is no accident, adds one more at the next worker, and then raises the number in the first. Readers
//! use one of as many copies as the file's blocks were seen to have. If that one does not exist the reader uses the
//! first: a wrong number costs one small question.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use efc_backend::FileHandle;

/// Copies of a block, at most: from eight workers a thousand nodes read a block in the time of 125, and it takes the memory
/// of seven others.
pub const COPIES_MAX: u8 = 8;
/// A wait is long if it is more than this many times the median of all workers' answers ...
const LONG: u32 = 2;
/// ... and longer than that by this: smaller differences do not come from network load.
const LONG_MIN: Duration = Duration::from_millis(1);
/// One of this many long waits of a node adds a copy, so that not all that wait at the same time do, before any copy takes
/// effect. A hot block is waited for often.
const LONG_WAITS: u32 = 16;
/// How long the known number of copies of a file's blocks is used.
const BELIEVED_FOR: Duration = Duration::from_secs(10);
/// Files whose blocks have copies, and are remembered. Of others the first copies are read.
const FILES_MAX: usize = 1024;

/// A wait for a block.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// Its duration.
    pub took: Duration,
    /// The duration that it would have had alone.
    pub alone: Duration,
    /// The median that the same worker's last answers, this one included, have taken alone.
    pub worker: Duration,
    /// The same median for all workers.
    pub pool: Duration,
}

impl Wait {
    /// Whether the worker is busier than others and this reader was delayed by it: then the block needs another copy.
    pub fn is_long(&self) -> bool {
        let usual = self.took.mul_f64(self.pool.as_secs_f64() / self.alone.as_secs_f64().max(1e-9));
        let limit = self.pool * LONG;
        self.alone > limit && self.worker > limit && self.took > usual + LONG_MIN
    }
}

/// What a node knows of copies.
#[derive(Clone, Debug, Default)]
pub struct Copies {
    /// The number of copies that blocks of files were seen to have.
    known: HashMap<FileHandle, (u8, Instant)>,
    long_waits: u32,
}

impl Copies {
    /// Whether the block that was waited for should have one more copy.
    pub fn is_wanted(&mut self, wait: &Wait) -> bool {
        let is_long = wait.is_long();
        self.long_waits = self.long_waits.wrapping_add(u32::from(is_long));
        is_long && self.long_waits % LONG_WAITS == 1
    }

    /// The largest number of copies of a block of this file that was seen lately.
    pub fn known(&self, file: &FileHandle, at: Instant) -> u8 {
        let known = self.known.get(file).filter(|known| is_believed(known, at));
        known.map_or(1, |known| known.0)
    }

    /// Records the number of copies that a block of this file says it has.
    pub fn saw(&mut self, file: &FileHandle, copies: u8, at: Instant) {
        if copies <= 1 || copies < self.known(file, at) {
            return;
        }
        if self.known.len() >= FILES_MAX && !self.known.contains_key(file) {
            self.known.retain(|_, known| is_believed(known, at));
        }
        if self.known.len() < FILES_MAX || self.known.contains_key(file) {
            self.known.insert(*file, (copies.min(COPIES_MAX), at));
        }
    }
}

fn is_believed(known: &(u8, Instant), at: Instant) -> bool {
    at.saturating_duration_since(known.1) < BELIEVED_FOR
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(number: usize) -> FileHandle {
        FileHandle::new(&number.to_be_bytes()).expect("short")
    }

    #[test]
    fn a_wait_is_long_where_the_worker_is_crowded_and_not_by_accident_or_for_an_instant() {
        let micros = Duration::from_micros;
        let wait = |took, alone, worker, pool| {
            Wait { took: micros(took), alone: micros(alone), worker: micros(worker), pool: micros(pool) }.is_long()
        };
        assert!(wait(5_000, 300, 300, 100));
        assert!(!wait(5_000, 200, 300, 100), "twice is not more than twice");
        assert!(!wait(5_000, 300, 150, 100), "the worker is as others are");
        assert!(!wait(900, 300, 300, 100), "less than a millisecond");
        assert!(!wait(5_000, 300, 300, 200), "all workers are like that");
    }

    #[test]
    fn of_many_long_waits_few_add_a_copy_and_the_first_does() {
        let mut copies = Copies::default();
        let [short, long] = [1, 20].map(Duration::from_millis);
        let [short, long] = [short, long].map(|took| Wait { took, alone: took, worker: took, pool: short });
        assert!(!copies.is_wanted(&short) && copies.is_wanted(&long) && !copies.is_wanted(&short));
        let added = (0..10 * LONG_WAITS).filter(|_| copies.is_wanted(&long)).count();
        assert_eq!(added, 10);
    }

    #[test]
    fn the_most_copies_that_were_seen_are_believed_for_a_while() {
        let (mut copies, begin) = (Copies::default(), Instant::now());
        copies.saw(&file(1), 1, begin);
        assert!(copies.known.is_empty() && copies.known(&file(1), begin) == 1);
        copies.saw(&file(1), 3, begin);
        copies.saw(&file(1), 2, begin + BELIEVED_FOR / 2);
        assert_eq!((copies.known(&file(1), begin), copies.known(&file(2), begin)), (3, 1));
        assert_eq!(copies.known(&file(1), begin + BELIEVED_FOR), 1);
        copies.saw(&file(1), 2, begin + BELIEVED_FOR);
        assert_eq!(copies.known(&file(1), begin + BELIEVED_FOR), 2);
        copies.saw(&file(1), u8::MAX, begin + BELIEVED_FOR);
        assert_eq!(copies.known(&file(1), begin + BELIEVED_FOR), COPIES_MAX, "whatever a block says");
    }

    #[test]
    fn the_files_that_are_remembered_are_bounded() {
        let (mut copies, begin) = (Copies::default(), Instant::now());
        (0..3 * FILES_MAX).for_each(|number| copies.saw(&file(number), 2, begin));
        assert_eq!((copies.known.len(), copies.known(&file(0), begin)), (FILES_MAX, 2));
        copies.saw(&file(0), 3, begin);
        copies.saw(&file(2 * FILES_MAX), 2, begin + BELIEVED_FOR);
        assert_eq!(copies.known(&file(2 * FILES_MAX), begin + BELIEVED_FOR), 2, "old ones make room");
    }
}
