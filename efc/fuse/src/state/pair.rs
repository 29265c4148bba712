//! One value that is replaced as a whole: two records, of which the live one with the later generation counts.
//!
//! The new value is published before the old one is given up, so a SIGKILL leaves one of them.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use super::record::{Id, Region};

pub struct Pair {
    region: Region,
    current: Mutex<Option<Id>>,
}

impl Pair {
    /// How many records it takes.
    pub const CAPACITY: u32 = 2;

    /// Finds the value in `region`; also says how many records are damaged.
    pub fn open(region: Region) -> io::Result<(Pair, u64)> {
        region.provide(Pair::CAPACITY - 1)?;
        let mut live = Vec::new();
        let damaged = region.scan(|id, _| {
            live.push(id);
            true
        });
        live.sort_by_key(|id: &Id| id.generation);
        let current = live.pop();
        for outdated in live {
            region.record(outdated.slot).expect("scanned").unpublish(outdated.generation);
        }
        Ok((Pair { region, current: Mutex::new(current) }, damaged))
    }

    /// Replaces the value.
    pub fn set(&self, sealed: &[u64]) {
        let mut current = self.current.lock().expect("pair lock");
        let next = match *current {
            Some(id) => Id { generation: id.generation + 1, slot: (id.slot + 1) % Pair::CAPACITY },
            None => Id { generation: 1, slot: 0 },
        };
        let other = self.region.record(next.slot).expect("provided when opened");
        other.publish(next.generation, &[], sealed);
        if let Some(id) = current.replace(next) {
            self.region.record(id.slot).expect("provided when opened").unpublish(id.generation);
        }
    }

    /// What `decode` makes of the value; `None` if there is none.
    pub fn get<T>(&self, decode: impl FnOnce(&[AtomicU64]) -> T) -> Option<T> {
        let current = self.current.lock().expect("pair lock");
        let id = (*current)?;
        self.region.record(id.slot)?.read(id.generation, decode)
    }
}
