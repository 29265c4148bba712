//! The free slots of a region, by groups: which can be taken, and which groups have no used slot, so that their memory
//! can go back.

use std::collections::{BTreeMap, BTreeSet};

/// Slots of a group.
pub const GROUP: u32 = u32::BITS;
const WHOLE: u32 = u32::MAX;

/// Free slots. Those with the lowest numbers are taken first, so that the others become free groups.
#[derive(Default)]
pub struct FreeSlots {
    /// Slots that were used before and have memory: a bit for each, by group.
    groups: BTreeMap<u32, u32>,
    /// Those groups that are free as a whole.
    whole: BTreeSet<u32>,
    /// Groups whose memory was given back.
    holes: BTreeSet<u32>,
    /// No slot from here on is in use.
    fresh: u32,
}

impl FreeSlots {
    /// None but those from `fresh` on.
    pub fn new(fresh: u32) -> FreeSlots {
        FreeSlots { fresh, ..FreeSlots::default() }
    }

    /// Takes a slot that was used before and has memory.
    pub fn take(&mut self) -> Option<u32> {
        let mut entry = self.groups.first_entry()?;
        let (group, slots) = (*entry.key(), *entry.get());
        self.whole.remove(&group);
        match slots & (slots - 1) {
            0 => drop(entry.remove()),
            rest => *entry.get_mut() = rest,
        }
        Some(group * GROUP + slots.trailing_zeros())
    }

    /// Adds a slot that has memory.
    pub fn add(&mut self, slot: u32) {
        let group = slot / GROUP;
        let slots = self.groups.entry(group).or_default();
        *slots |= 1 << (slot % GROUP);
        if *slots == WHOLE {
            self.whole.insert(group);
        }
        // The last group has slots that were never used.
        if self.fresh / GROUP == group && *slots == (1 << (self.fresh % GROUP)) - 1 {
            self.groups.remove(&group);
            self.fresh = group * GROUP;
            self.join_holes();
        }
    }

    /// The first slot that was never used, or not since its memory went back.
    pub fn fresh(&self) -> u32 {
        self.fresh
    }

    /// No slot before this one is to be had as a fresh one.
    pub fn raise_fresh(&mut self, slot: u32) {
        self.fresh = self.fresh.max(slot);
    }

    /// Free groups with memory.
    pub fn whole_groups(&self) -> usize {
        self.whole.len()
    }

    /// Takes the free group with the highest number out of reach.
    pub fn take_group(&mut self) -> Option<u32> {
        let group = self.whole.pop_last()?;
        self.groups.remove(&group);
        Some(group)
    }

    /// Puts a group back that was taken, which keeps its memory until one of its slots was used.
    pub fn keep_group(&mut self, group: u32) {
        self.groups.insert(group, WHOLE);
    }

    /// The memory of a group that was taken, or never found, is gone.
    pub fn add_hole(&mut self, group: u32) {
        self.holes.insert(group);
        self.join_holes();
    }

    /// Makes the holes in front of the fresh slots fresh slots.
    fn join_holes(&mut self) {
        while self.fresh.is_multiple_of(GROUP) && self.fresh > 0 && self.holes.remove(&(self.fresh / GROUP - 1)) {
            self.fresh -= GROUP;
        }
    }

    /// A group without memory, for its slots to be used again.
    pub fn first_hole(&self) -> Option<u32> {
        self.holes.first().copied()
    }

    /// The group has memory again.
    pub fn fill_hole(&mut self, group: u32) {
        self.holes.remove(&group);
        self.groups.insert(group, WHOLE);
        self.whole.insert(group);
    }

    /// Whether no slot of the group can be in use, as it has no memory.
    pub fn is_hole(&self, group: u32) -> bool {
        self.holes.contains(&group) || group * GROUP >= self.fresh
    }

    /// The groups without memory below the fresh slots.
    pub fn holes(&self) -> BTreeSet<u32> {
        self.holes.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_once_lowest_first_and_free_groups_last_first() {
        let mut free = FreeSlots::new(4 * GROUP);
        (0..4 * GROUP).rev().filter(|slot| *slot != 40).for_each(|slot| free.add(slot));
        assert_eq!((free.take(), free.take(), free.whole_groups()), (Some(0), Some(1), 2));
        assert_eq!((free.take_group(), free.take_group(), free.take_group()), (Some(3), Some(2), None));
        free.add_hole(2);
        assert!(free.is_hole(2) && !free.is_hole(3) && free.fresh() == 4 * GROUP);
        free.add_hole(3);
        assert_eq!((free.fresh(), free.first_hole()), (2 * GROUP, None), "what is behind the last used slot is fresh");
        let rest: Vec<u32> = std::iter::from_fn(|| free.take()).collect();
        assert!(rest.into_iter().eq((2..2 * GROUP).filter(|slot| *slot != 40)));
    }

    #[test]
    fn a_last_group_that_was_not_used_up_becomes_fresh_with_the_holes_before_it() {
        let mut free = FreeSlots::new(3 * GROUP + 2);
        [1, 2].into_iter().for_each(|hole| free.add_hole(hole));
        free.add(3 * GROUP);
        assert_eq!(free.fresh(), 3 * GROUP + 2);
        free.add(3 * GROUP + 1);
        assert_eq!((free.fresh(), free.take(), free.first_hole()), (GROUP, None, None));
    }

    #[test]
    fn a_hole_is_filled_before_it_is_used_and_a_group_that_is_kept_is_no_candidate() {
        let mut free = FreeSlots::new(3 * GROUP);
        (GROUP..2 * GROUP).for_each(|slot| free.add(slot));
        let group = free.take_group().unwrap();
        free.add_hole(group);
        assert_eq!((free.take(), free.first_hole()), (None, Some(1)));
        free.fill_hole(1);
        assert_eq!((free.first_hole(), free.whole_groups(), free.take()), (None, 1, Some(GROUP)));
        free.add(GROUP);
        assert_eq!(free.take_group(), Some(1));
        free.keep_group(1);
        assert_eq!((free.take_group(), free.take()), (None, Some(GROUP)));
    }
}
