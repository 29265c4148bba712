//! A compact set of names with false positives now and then, and no false negatives: a Bloom filter.

use std::hash::{BuildHasher, Hash};

use foldhash::quality::FixedState;

/// With 60,000 names that goes for one in eight others.
pub(super) struct Filter(Box<[u64]>);

impl Filter {
    /// 32 KiB.
    const BITS: u64 = 1 << 18;

    pub fn new() -> Filter {
        Filter(vec![0; Filter::BITS as usize / 64].into())
    }

    fn bits(key: impl Hash) -> [u64; 2] {
        let hash = FixedState::default().hash_one(key);
        [hash % Filter::BITS, (hash >> 32) % Filter::BITS]
    }

    pub fn insert(&mut self, key: impl Hash) {
        for bit in Filter::bits(key) {
            self.0[bit as usize / 64] |= 1 << (bit % 64);
        }
    }

    pub fn may_hold(&self, key: impl Hash) -> bool {
        Filter::bits(key).iter().all(|bit| self.0[*bit as usize / 64] >> (bit % 64) & 1 == 1)
    }
}
