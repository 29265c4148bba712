//! Failures of written data that applications have not all heard of: one number for each file that has one, and one for
//! each open that has heard of one. What the numbers mean is the file system's to say.
//!
//! A record's number may be replaced at any time, by one store, so it lies outside the checksum.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard};

use super::record::Id;
use super::region::Region;
use super::regions::FAILURES;

// The mutable word.
const NUMBER: usize = 0;
// Sealed words.
const KIND: usize = 0;
const NAME: usize = 1;

const _: () = assert!(FAILURES.sealed() > NAME);

const FILE: u64 = 1;
const OPEN: u64 = 2;

/// What a number is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureOf {
    /// The file of this node.
    File(u64),
    /// The open of this fh.
    Open(u64),
}

impl FailureOf {
    fn words(self) -> [u64; 2] {
        match self {
            FailureOf::File(node) => [FILE, node],
            FailureOf::Open(fh) => [OPEN, fh],
        }
    }

    fn from_words(kind: u64, name: u64) -> Option<FailureOf> {
        match kind {
            FILE => Some(FailureOf::File(name)),
            OPEN => Some(FailureOf::Open(name)),
            _ => None,
        }
    }
}

pub struct Failures {
    /// `None`: the state was made by a release without such records.
    region: Option<Region>,
    records: Mutex<HashMap<FailureOf, Id>>,
}

impl Failures {
    /// Finds what a predecessor left; also says how many records are damaged.
    pub fn open(region: Option<Region>) -> (Failures, u64) {
        let mut records = HashMap::new();
        let damaged = region.as_ref().map_or(0, |region| {
            region.scan(|id, record| {
                let words = [KIND, NAME].map(|index| record.sealed()[index].load(Ordering::Relaxed));
                let Some(of) = FailureOf::from_words(words[0], words[1]) else { return true };
                records.insert(of, id);
                true
            })
        });
        (Failures { region, records: Mutex::new(records) }, damaged)
    }

    fn records(&self) -> MutexGuard<'_, HashMap<FailureOf, Id>> {
        self.records.lock().expect("failures lock")
    }

    /// Saves a number, in place of an earlier one.
    pub fn set(&self, of: FailureOf, number: u64) -> io::Result<()> {
        let Some(region) = &self.region else { return Ok(()) };
        let mut records = self.records();
        if let Some(record) = records.get(&of).and_then(|id| region.record(id.slot)) {
            record.mutable()[NUMBER].store(number, Ordering::Release);
            return Ok(());
        }
        let (id, record) = region.take()?;
        record.publish(id.generation, &[number], &of.words());
        records.insert(of, id);
        Ok(())
    }

    /// Drops a number. Nothing happens if there is none.
    pub fn remove(&self, of: FailureOf) {
        let (Some(region), Some(id)) = (&self.region, self.records().remove(&of)) else { return };
        if region.record(id.slot).is_some_and(|record| record.unpublish(id.generation)) {
            region.give_back(id.slot);
        }
    }

    /// All numbers.
    pub fn list(&self) -> Vec<(FailureOf, u64)> {
        let Some(region) = &self.region else { return Vec::new() };
        let number = |(of, id): (&FailureOf, &Id)| {
            Some((*of, region.record(id.slot)?.mutable()[NUMBER].load(Ordering::Acquire)))
        };
        self.records().iter().filter_map(number).collect()
    }
}
