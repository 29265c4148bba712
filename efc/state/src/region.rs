//! Regions: arrays of equally large slots, most of them records, with memory for as many as were ever in use at once.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::mapping::Mapping;
use super::record::{Found, Id, Record, split, state_word};
use super::regions::Format;

/// Where a region lies in a state.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Word of slot 0.
    pub base: usize,
    /// Slots that there can be.
    pub capacity: u32,
    /// The word of the last column of its row.
    pub last_column: usize,
}

/// Equally large slots, with memory for as many as were ever in use at once.
pub struct Region {
    mapping: Arc<Mapping>,
    format: Format,
    /// The last column says, for a successor, how many slots have memory; the inverse of that in the upper half.
    place: Place,
    allocated: AtomicU32,
    free: Mutex<FreeSlots>,
}

#[derive(Default)]
struct FreeSlots {
    /// Used before.
    returned: Vec<u32>,
    /// No slot from here on was ever used.
    fresh: u32,
}

impl Region {
    /// The region at `place`. Read it with [`Region::scan`] before use.
    pub fn new(mapping: Arc<Mapping>, format: Format, place: Place) -> io::Result<Region> {
        let word = mapping.words(place.last_column, 1)[0].load(Ordering::Acquire);
        let (inverse, counted) = split(word);
        let region = Region {
            mapping,
            format,
            place,
            allocated: AtomicU32::new(0),
            free: Mutex::new(FreeSlots { returned: Vec::new(), fresh: format.reserved }),
        };
        // A wrong number would hide what is there, or make a scan touch gigabytes of holes.
        if word != 0 && inverse == !counted && counted <= place.capacity {
            region.allocated.store(counted, Ordering::Relaxed);
        } else {
            region.count_anew(word)?;
        }
        Ok(region)
    }

    /// Finds how many slots have memory from what was written to it, instead of from a word that is damaged, or 0.
    fn count_anew(&self, damaged: u64) -> io::Result<()> {
        let written = self.mapping.written(self.place.base, self.place.capacity as usize * self.format.words)?;
        let Some(last) = written.div_ceil(self.format.words).checked_sub(1) else { return Ok(()) };
        log::error!("the number of slots of region {} is damaged ({damaged:#x}), and found anew", self.format.name);
        self.provide((last as u32).min(self.place.capacity - 1))
    }

    /// Examines all slots: hands the live ones to `live`, finds the free ones, and returns how many are damaged.
    ///
    /// Live records may be unpublished meanwhile, but no slot may be taken. `live` says whether it has found its record still
    /// live: one that it has is given back by whoever unpublishes it later, one that it has not is free.
    pub fn scan(&self, mut live: impl FnMut(Id, Record<'_>) -> bool) -> u64 {
        let (mut damaged, mut unused, mut returned) = (0, Vec::new(), Vec::new());
        let mut fresh = self.format.reserved;
        for slot in 0..self.allocated() {
            let record = self.slot(slot);
            let is_free = match record.examine() {
                Found::Unused => {
                    if slot >= self.format.reserved {
                        unused.push(slot);
                    }
                    continue;
                }
                Found::Live(generation) => !live(Id { generation, slot }, record),
                Found::Freed => true,
                Found::Damaged => {
                    damaged += 1;
                    false
                }
            };
            fresh = slot + 1;
            if is_free && slot >= self.format.reserved && record.generation() < u32::MAX {
                returned.push(slot);
            }
        }
        let mut free = self.free();
        free.fresh = free.fresh.max(fresh);
        free.returned.extend(returned);
        free.returned.extend(unused.into_iter().filter(|slot| *slot < fresh));
        damaged
    }

    fn free(&self) -> MutexGuard<'_, FreeSlots> {
        self.free.lock().expect("free slots lock")
    }

    /// Slots that there can be.
    pub fn capacity(&self) -> u32 {
        self.place.capacity
    }

    /// Slots that have memory.
    pub fn allocated(&self) -> u32 {
        self.allocated.load(Ordering::Acquire)
    }

    /// The slot, if it has memory.
    pub fn record(&self, slot: u32) -> Option<Record<'_>> {
        (slot < self.allocated()).then(|| self.slot(slot))
    }

    fn slot(&self, slot: u32) -> Record<'_> {
        Record::new(&self.format, self.words(slot), slot)
    }

    /// The words of a slot that has memory, for records of another form.
    pub fn words(&self, slot: u32) -> &[AtomicU64] {
        self.mapping.words(self.place.base + slot as usize * self.format.words, self.format.words)
    }

    /// Takes a free slot, for its next generation.
    ///
    /// # Errors
    /// ENOSPC when all are taken, ENOMEM when there is no memory for more.
    pub fn take(&self) -> io::Result<(Id, Record<'_>)> {
        let slot = {
            let mut free = self.free();
            match free.returned.pop() {
                Some(slot) => slot,
                None => {
                    self.provide(free.fresh)?;
                    free.fresh += 1;
                    free.fresh - 1
                }
            }
        };
        let record = self.slot(slot);
        Ok((Id { generation: record.generation() + 1, slot }, record))
    }

    /// Sees to it that `slot` has memory.
    pub fn provide(&self, slot: u32) -> io::Result<()> {
        let allocated = self.allocated();
        if slot < allocated {
            return Ok(());
        }
        if slot >= self.place.capacity {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        let target = (slot + 1).next_multiple_of(self.format.chunk).min(self.place.capacity);
        let words = self.format.words;
        self.mapping.allocate(self.place.base + allocated as usize * words, (target - allocated) as usize * words)?;
        self.mapping.words(self.place.last_column, 1)[0].store(state_word(!target, target), Ordering::Release);
        self.allocated.store(target, Ordering::Release);
        Ok(())
    }

    /// Makes an unpublished slot available. One whose generations are used up stays out of use.
    pub fn give_back(&self, slot: u32) {
        if self.slot(slot).generation() < u32::MAX {
            self.free().returned.push(slot);
        }
    }
}
