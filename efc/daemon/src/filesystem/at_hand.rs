//! What open directories have at hand of their listings, and its limit.
//!
//! Each has the page of the server of which the kernel is given entries, and what was read so far of a listing that may
//! be kept. Applications may have as many directories open as they like, each in the middle of a large listing. Beyond
//! the limit those let go of what they have that were read from least lately; what the kernel wants next of them is
//! asked of the server again.

use std::sync::Arc;

use efc_tasks::sync::atomic::{AtomicU64, Ordering};

/// All that open directories have at hand.
pub(super) struct AtHand {
    bytes: AtomicU64,
    bytes_max: u64,
    /// Uses so far.
    uses: AtomicU64,
}

/// What one open directory has of it.
pub(super) struct Part {
    all: Arc<AtHand>,
    bytes: AtomicU64,
    /// Its last use among all.
    used: AtomicU64,
}

impl AtHand {
    /// Nothing yet, and so much at most, in bytes.
    pub(super) fn new(bytes_max: u64) -> Arc<AtHand> {
        Arc::new(AtHand { bytes: AtomicU64::new(0), bytes_max, uses: AtomicU64::new(0) })
    }

    /// How much it is, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Is it more than there may be?
    pub(super) fn is_too_much(&self) -> bool {
        self.bytes() > self.bytes_max
    }

    /// Is there still more than what others are to leave? Somewhat less than there may be: who makes room looks at all.
    pub(super) fn has_to_shrink(&self) -> bool {
        self.bytes() > self.bytes_max / 4 * 3
    }
}

impl Part {
    /// Nothing yet.
    pub(super) fn new(all: &Arc<AtHand>) -> Part {
        Part { all: all.clone(), bytes: AtomicU64::new(0), used: AtomicU64::new(0) }
    }

    /// It is so much from now on, in bytes.
    pub(super) fn set(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        if bytes >= before {
            self.all.bytes.fetch_add(bytes - before, Ordering::Relaxed);
        } else {
            self.all.bytes.fetch_sub(before - bytes, Ordering::Relaxed);
        }
    }

    /// It is used now.
    pub(super) fn touch(&self) {
        self.used.store(self.all.uses.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// How much it is, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The place of its last use among all.
    pub(super) fn last_use(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_closed_does_not_count() {
        let all = AtHand::new(100);
        let [first, second] = [(); 2].map(|()| Part::new(&all));
        first.set(80);
        second.set(30);
        assert!(all.is_too_much());
        second.set(10);
        assert!(!all.is_too_much() && all.has_to_shrink());
        second.touch();
        assert!(first.last_use() < second.last_use());
        drop(first);
        assert!(!all.has_to_shrink() && all.bytes() == 10);
    }
}
