//! Regions: arrays of equally large slots, most of them records, with memory for as many as were ever in use at once.
//!
//! A region with a [`Floor`] gives memory back too, a group of slots at a time that fills a page: when more than a few
//! groups are free, those with the highest numbers go.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::floor::Floor;
use super::free::{FreeSlots, GROUP};
use super::mapping::{Mapping, WORD};
use super::record::{Found, Id, Record, split, state_word};
use super::regions::{Format, HEAD, PAGE};

/// Free groups that keep their memory, in a region with a floor.
pub const KEPT_GROUPS: usize = 64;
/// Groups whose memory is given back at a time: others wait meanwhile.
const TRIMMED_MAX: usize = 64;
/// Memory of as many groups at once concerns others: that of facts about their slots is a page then.
const WINDOW: u32 = 4;

/// Where a region lies in a state.
#[derive(Clone, Copy, Debug)]
pub struct Location {
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
    place: Location,
    allocated: AtomicU32,
    free: Mutex<FreeSlots>,
    floor: Option<Floor>,
}

impl Region {
    /// The region at `place`. Read it with [`Region::scan`] before use.
    pub fn new(mapping: Arc<Mapping>, format: Format, place: Location) -> io::Result<Region> {
        let word = mapping.words(place.last_column, 1)[0].load(Ordering::Acquire);
        let (inverse, counted) = split(word);
        let region = Region {
            mapping,
            format,
            place,
            allocated: AtomicU32::new(0),
            free: Mutex::new(FreeSlots::new(format.reserved)),
            floor: None,
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

    /// The same region, which gives back the memory of slots that nobody uses. The floor lies in the first mutable word
    /// of slot 0.
    ///
    /// # Panics
    /// If slot 0 can be used, or a group is no page.
    pub fn shrinking(mut self, is_superseded: impl Fn() -> bool + Send + Sync + 'static) -> Region {
        assert!(
            self.format.reserved > 0 && self.format.mutable > 0 && GROUP as usize * self.format.words * WORD == PAGE
        );
        let word = self.place.base + HEAD;
        self.floor = Some(Floor::new(Arc::clone(&self.mapping), word, Box::new(is_superseded)));
        self
    }

    /// Examines all slots: hands the live ones to `live`, finds the free ones, and returns how many are damaged.
    ///
    /// Live records may be unpublished meanwhile, but no slot may be taken. `live` says whether it has found its record
    /// still live: one that it has is given back by whoever unpublishes it later, one that it has not is free.
    pub fn scan(&self, mut live: impl FnMut(Id, Record<'_>) -> bool) -> u64 {
        let (mut damaged, mut unused, mut returned) = (0, Vec::new(), Vec::new());
        let mut fresh = self.format.reserved;
        let backed = self.backed().unwrap_or_else(|error| {
            log::warn!("which memory of region {} has gone is not to be known: {error}", self.format.name);
            std::iter::once(0..self.allocated()).collect()
        });
        for slot in backed.iter().cloned().flatten() {
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
        free.raise_fresh(fresh);
        unused.retain(|slot| *slot < fresh);
        returned.into_iter().chain(unused).for_each(|slot| free.add(slot));
        let groups_between = backed.windows(2).flat_map(|pair| pair[0].end / GROUP..pair[1].start / GROUP);
        groups_between.filter(|group| (group + 1) * GROUP <= fresh).for_each(|group| free.add_hole(group));
        if self.floor.as_ref().is_some_and(Floor::is_noted) {
            self.set_allocated(free.fresh().next_multiple_of(GROUP).min(self.allocated()));
        }
        damaged
    }

    /// The slots that have memory.
    fn backed(&self) -> io::Result<Vec<Range<u32>>> {
        let allocated = self.allocated();
        if !self.floor.as_ref().is_some_and(Floor::is_noted) {
            return Ok(std::iter::once(0..allocated).collect());
        }
        let words = self.format.words;
        let backed = self.mapping.backed(self.place.base, allocated as usize * words)?;
        let slot = |word: usize| ((word - self.place.base) / words) as u32;
        Ok(backed.into_iter().map(|range| slot(range.start)..slot(range.end)).collect())
    }

    /// All slots that may be in use, with memory.
    pub fn slots(&self) -> impl Iterator<Item = (u32, Record<'_>)> {
        let holes = self.free().holes();
        let slots = (0..self.allocated()).filter(move |slot| !holes.contains(&(slot / GROUP)));
        slots.filter_map(|slot| Some((slot, self.record(slot)?)))
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

    /// The slot, if it has memory. (One whose memory went back, which only an id that is out of use can name, holds 0.)
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
        let slot = self.take_slot(&mut self.free())?;
        let record = self.slot(slot);
        let generation = match (record.generation(), &self.floor) {
            (0, Some(floor)) => floor.next(),
            (last, _) => last + 1,
        };
        Ok((Id { generation, slot }, record))
    }

    fn take_slot(&self, free: &mut FreeSlots) -> io::Result<u32> {
        if let Some(slot) = free.take() {
            return Ok(slot);
        }
        if let Some(group) = free.first_hole() {
            self.mapping.allocate(self.group_word(group), GROUP as usize * self.format.words)?;
            free.fill_hole(group);
            return free.take().ok_or_else(|| rustix::io::Errno::NOSPC.into());
        }
        let slot = free.fresh();
        self.provide(slot)?;
        free.raise_fresh(slot + 1);
        Ok(slot)
    }

    fn group_word(&self, group: u32) -> usize {
        self.place.base + (group * GROUP) as usize * self.format.words
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
        self.set_allocated(target);
        Ok(())
    }

    fn set_allocated(&self, slots: u32) {
        self.mapping.words(self.place.last_column, 1)[0].store(state_word(!slots, slots), Ordering::Release);
        self.allocated.store(slots, Ordering::Release);
    }

    /// Makes an unpublished slot available. One whose generations are used up stays out of use. Slots whose memory has
    /// gone for that, as ranges for which all of it has.
    pub fn give_back(&self, slot: u32) -> Vec<Range<u32>> {
        if self.slot(slot).generation() == u32::MAX {
            return Vec::new();
        }
        let mut free = self.free();
        free.add(slot);
        let Some(floor) = self.floor.as_ref().filter(|_| free.whole_groups() > KEPT_GROUPS) else { return Vec::new() };
        let surplus = self.take_surplus(floor, &mut free);
        drop(free); // giving memory back takes a while
        self.release(surplus)
    }

    /// Takes free groups out of reach whose memory may go.
    fn take_surplus(&self, floor: &Floor, free: &mut FreeSlots) -> Vec<u32> {
        let count = (free.whole_groups() - KEPT_GROUPS).min(TRIMMED_MAX);
        let groups: Vec<u32> = (0..count).filter_map(|_| free.take_group()).collect();
        let generations = |group: u32| (group * GROUP..(group + 1) * GROUP).map(|slot| self.slot(slot).generation());
        let (surplus, kept): (Vec<u32>, Vec<u32>) =
            groups.into_iter().partition(|group| floor.admits(generations(*group)));
        kept.into_iter().for_each(|group| free.keep_group(group));
        surplus
    }

    fn release(&self, groups: Vec<u32>) -> Vec<Range<u32>> {
        let mut gone = Vec::new();
        for group in groups {
            let released = self.mapping.release(self.group_word(group), GROUP as usize * self.format.words);
            let mut free = self.free();
            if let Err(error) = released {
                log::warn!("memory of region {} cannot be given back: {error}", self.format.name);
                free.keep_group(group);
                continue;
            }
            free.add_hole(group);
            let end = free.fresh().next_multiple_of(GROUP);
            if end < self.allocated() {
                self.set_allocated(end);
            }
            let first = group / WINDOW * WINDOW;
            if (first..first + WINDOW).all(|group| free.is_hole(group)) {
                gone.push(first * GROUP..(first + WINDOW) * GROUP);
            }
        }
        gone
    }
}
