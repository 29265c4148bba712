//! One value that is replaced as a whole: two records, of which the live one with the later generation counts.
//!
//! The new value is published before the old one is given up, so a SIGKILL leaves one of them. A value that nothing
//! could be done without is kept in both records: damage of one costs nothing, and the next daemon makes it good. A
//! release that knows of no copies takes the later one, and gives up the other.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::record::{Id, Record};
use super::region::Region;
use super::regions::PAIR;

pub struct Pair {
    region: Region,
    current: Mutex<Option<Id>>,
}

impl Pair {
    /// Finds the value in `region`; also says how many records are damaged.
    pub fn open(region: Region) -> io::Result<(Pair, u64)> {
        let (pair, live, damaged) = Pair::find(region)?;
        for outdated in live {
            pair.record(outdated).unpublish(outdated.generation);
        }
        Ok((pair, damaged))
    }

    /// Finds a value that has a copy, and makes the copy if there is none; also says how many records are damaged.
    pub fn open_twofold(region: Region) -> io::Result<(Pair, u64)> {
        let (pair, live, damaged) = Pair::find(region)?;
        if live.is_empty() {
            pair.copy();
        }
        Ok((pair, damaged))
    }

    /// The pair, what is live besides its value, and how many records are damaged.
    fn find(region: Region) -> io::Result<(Pair, Vec<Id>, u64)> {
        region.provide(PAIR - 1)?;
        let mut live = Vec::new();
        let damaged = region.scan(|id, _| {
            live.push(id);
            true
        });
        live.sort_by_key(|id: &Id| id.generation);
        let current = Mutex::new(live.pop());
        Ok((Pair { region, current }, live, damaged))
    }

    fn record(&self, id: Id) -> Record<'_> {
        self.region.record(id.slot).expect("provided when opened")
    }

    /// The record for `next`, which may hold a copy of an earlier value: half of a new one is no damage then.
    fn given_up(&self, next: Id) -> Record<'_> {
        let record = self.record(next);
        record.unpublish(record.generation());
        record
    }

    /// Replaces the value.
    pub fn set(&self, sealed: &[u64]) {
        let mut current = self.current.lock().expect("pair lock");
        let next = after(*current);
        self.given_up(next).publish(next.generation, &[], sealed);
        if let Some(id) = current.replace(next) {
            self.record(id).unpublish(id.generation);
        }
    }

    /// Replaces the value and its copy.
    pub fn set_twofold(&self, sealed: &[u64]) {
        self.set(sealed);
        self.copy();
    }

    /// Publishes the value once more, in the other record. Both stay live.
    fn copy(&self) {
        let mut current = self.current.lock().expect("pair lock");
        let Some(id) = *current else { return };
        let sealed: Vec<u64> = self.record(id).sealed().iter().map(|word| word.load(Ordering::Relaxed)).collect();
        let next = after(Some(id));
        self.given_up(next).publish(next.generation, &[], &sealed);
        *current = Some(next);
    }

    /// What `decode` makes of the value; `None` if there is none.
    pub fn get<T>(&self, decode: impl FnOnce(&[AtomicU64]) -> T) -> Option<T> {
        let current = self.current.lock().expect("pair lock");
        let id = (*current)?;
        self.region.record(id.slot)?.read(id.generation, decode)
    }
}

/// The use that follows: of the other record, and later than all before.
fn after(current: Option<Id>) -> Id {
    match current {
        Some(id) => Id { generation: id.generation + 1, slot: (id.slot + 1) % PAIR },
        None => Id { generation: 1, slot: 0 },
    }
}
