//! Ghosts: entries without data of what was evicted or refused lately, and how long ago. What is read again soon is
//! worth more than what was read once.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use foldhash::HashMap;

/// Bytes of memory that one takes, about.
pub const GHOST_BYTES: u64 = 64;

/// What is remembered of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ghost {
    /// When it was last used, in bytes that had been used.
    pub used: u64,
    /// The same in seconds.
    pub used_s: u32,
    /// How far it was from its use before that, in bytes used meanwhile.
    pub distance: u64,
}

/// A bounded number of hashes of files, each with what is remembered of it.
#[derive(Clone, Debug, Default)]
pub struct Ghosts {
    count_max: usize,
    ghosts: HashMap<u64, Ghost>,
    /// The oldest first.
    order: VecDeque<u64>,
}

impl Ghosts {
    /// None yet, and never more than `count_max`.
    pub fn new(count_max: usize) -> Ghosts {
        Ghosts { count_max, ..Ghosts::default() }
    }

    /// The file of this hash is not there any more.
    pub fn remember(&mut self, hash: u64, ghost: Ghost) {
        match self.ghosts.entry(hash) {
            Entry::Occupied(mut known) => *known.get_mut() = ghost,
            Entry::Vacant(place) => {
                place.insert(ghost);
                self.order.push_back(hash);
            }
        }
        while self.order.len() > self.count_max {
            self.order.pop_front().and_then(|oldest| self.ghosts.remove(&oldest));
        }
    }

    /// What is remembered of the file of this hash.
    pub fn of(&self, hash: u64) -> Option<Ghost> {
        self.ghosts.get(&hash).copied()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut ghosts = Ghosts::new(2);
        for (hash, used) in [(1, 10), (2, 20), (1, 30), (3, 40)] {
            ghosts.remember(hash, Ghost { used, used_s: 0, distance: 0 });
        }
        assert_eq!([1, 2, 3].map(|hash| ghosts.of(hash).map(|ghost| ghost.used)), [None, Some(20), Some(40)]);
        assert_eq!((ghosts.count(), ghosts.ghosts.len()), (2, 2));
    }
}
