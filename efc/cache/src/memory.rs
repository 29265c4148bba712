//! The memory limit that inodes, names and listings share: everything that is known of a dataset's metadata.
//!
//! Each kind counts its memory. When all together exceed the limit, a kind evicts if it uses more than its guaranteed
//! share: half of the limit for inodes, a quarter for names and listings together. So neither a walk of a large tree
//! nor a flood of names that do not exist evicts the other kind, while memory that one does not use is available to the
//! other.

use efc_tasks::sync::atomic::{AtomicU64, Ordering};

/// The limit and what is taken of it, in bytes.
pub struct Memory {
    max: AtomicU64,
    inodes: AtomicU64,
    names: AtomicU64,
    listings: AtomicU64,
}

/// What metadata takes of the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes that may be taken.
    pub max: u64,
    /// Bytes of inodes.
    pub inodes: u64,
    /// Bytes of names, with what they lead to.
    pub names: u64,
    /// Bytes of listings.
    pub listings: u64,
}

impl Memory {
    /// At most `bytes_max`, but for what is needed at the moment.
    pub fn new(bytes_max: u64) -> Memory {
        let zero = || AtomicU64::new(0);
        Memory { max: AtomicU64::new(bytes_max), inodes: zero(), names: zero(), listings: zero() }
    }

    /// Another limit from now on.
    pub fn set_max(&self, bytes_max: u64) {
        self.max.store(bytes_max, Ordering::Relaxed);
    }

    /// The limit, in bytes.
    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// What is taken now.
    pub fn used(&self) -> MemoryUse {
        let of = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed);
        MemoryUse { max: of(&self.max), inodes: of(&self.inodes), names: of(&self.names), listings: of(&self.listings) }
    }

    fn is_over(&self, used: &MemoryUse) -> bool {
        used.inodes + used.names + used.listings > used.max
    }

    /// Are there more inodes than there is room for?
    pub(crate) fn has_too_many_inodes(&self) -> bool {
        let used = self.used();
        self.is_over(&used) && used.inodes > used.max / 2
    }

    /// Are there more names and listings than there is room for?
    pub(crate) fn has_too_many_names(&self) -> bool {
        let used = self.used();
        self.is_over(&used) && used.names + used.listings > used.max / 4
    }

    /// Inodes take `now` bytes that took `before`.
    pub(crate) fn change_inodes(&self, before: u64, now: u64) {
        change(&self.inodes, before, now);
    }

    /// Names take `now` bytes that took `before`.
    pub(crate) fn change_names(&self, before: u64, now: u64) {
        change(&self.names, before, now);
    }

    /// Listings take `now` bytes that took `before`.
    pub(crate) fn change_listings(&self, before: u64, now: u64) {
        change(&self.listings, before, now);
    }
}

fn change(bytes: &AtomicU64, before: u64, now: u64) {
    if now >= before {
        bytes.fetch_add(now - before, Ordering::Relaxed);
    } else {
        bytes.fetch_sub(before - now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_more_than_its_part_makes_room() {
        let memory = Memory::new(1000);
        memory.change_inodes(0, 900);
        assert!(!memory.has_too_many_inodes() && !memory.has_too_many_names(), "nobody else needs it");
        memory.change_names(0, 200);
        assert!(memory.has_too_many_inodes() && !memory.has_too_many_names());
        memory.change_inodes(900, 450);
        memory.change_listings(0, 400);
        assert!(!memory.has_too_many_inodes() && memory.has_too_many_names());
        memory.set_max(2000);
        assert!(!memory.has_too_many_names());
        memory.change_names(200, 0);
        assert_eq!(memory.used(), MemoryUse { max: 2000, inodes: 450, names: 0, listings: 400 });
    }
}
