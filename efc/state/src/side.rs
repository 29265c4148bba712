//! Side regions: facts about nodes, for which their records have no room. One region for each kind of fact. (Facts about other
//! records are kept in the same way: they are named by the record's number instead of the node's.)
//!
//! The fact about a node lies at the node's slot, so it is found without an index; it names the node's id, so what is
//! noted of a node says nothing of the next one in its slot. It is replaced in place:
//!
//! | word | content |
//! |---|---|
//! | 0 | seal: checksum (CRC-32C) of node id and other words, a bit above it that is always set; 0 while they change |
//! | 1.. | the fact, as its type says ([`Fact`]) |
//!
//! Wherever a SIGKILL hits, the seal fits the other words or the fact counts as missing, which its users must be able
//! to bear. Memory is taken a chunk at a time, where facts are, since there are none about most nodes: which chunks
//! have memory a successor asks the memfd. In a state that an earlier release has made, without the region, facts are
//! kept in process memory: a successor lacks them.
//!
//! A new kind of fact is a row of the table of regions, with the capacity of NODES, and a type that is a [`Fact`].

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard};

use foldhash::HashMap;

use super::layout::Header;
use super::mapping::Mapping;
use super::record::Id;
use super::region::Location;
use super::regions::Format;

const SEALED: u64 = 1 << 32;
const LOCKS: usize = 16;
/// Facts of a kind that are kept in process memory, at most; then all are dropped.
const IN_MEMORY_MAX: usize = 1 << 16;

/// A kind of fact: `N` words of content.
pub trait Fact<const N: usize>: Copy {
    /// The region of such facts, whose slots have `N` + 1 words.
    const FORMAT: Format;

    /// The fact as words.
    fn to_words(self) -> [u64; N];

    /// The fact that these words are.
    fn from_words(words: [u64; N]) -> Self;
}

/// What is noted of each node, for a successor too if the state has the region.
pub enum Side<F, const N: usize> {
    /// The facts are in the state.
    Saved(Saved<N>),
    /// The facts are in process memory: an older release has made the state.
    InMemory(Mutex<HashMap<u64, F>>),
}

/// The region of the state.
pub struct Saved<const N: usize> {
    mapping: Arc<Mapping>,
    format: Format,
    place: Location,
    /// One bit for each chunk that has memory.
    chunks: Box<[AtomicU64]>,
    /// Guard the slots, every [`LOCKS`]th of them, against two writers.
    locks: [Mutex<()>; LOCKS],
}

impl<F: Fact<N>, const N: usize> Side<F, N> {
    /// The facts in the state's region, if it has one.
    pub fn open(header: &Header) -> io::Result<Side<F, N>> {
        const { assert!(F::FORMAT.words == N + 1) };
        match header.place_if_any(&F::FORMAT)? {
            Some(place) => Saved::open(header.mapping(), F::FORMAT, place).map(Side::Saved),
            None => Ok(Side::InMemory(Mutex::default())),
        }
    }

    /// The fact that was noted last about the node.
    pub fn get(&self, node: u64) -> Option<F> {
        match self {
            Side::Saved(saved) => saved.get(node).map(F::from_words),
            Side::InMemory(facts) => in_memory(facts).get(&node).copied(),
        }
    }

    /// Notes a fact about the node. Without memory for it nothing is noted.
    pub fn set(&self, node: u64, fact: F) {
        match self {
            Side::Saved(saved) => saved.set(node, fact.to_words()),
            Side::InMemory(facts) => {
                let mut facts = in_memory(facts);
                if facts.len() >= IN_MEMORY_MAX {
                    facts.clear();
                }
                facts.insert(node, fact);
            }
        }
    }

    /// The node is gone.
    pub fn forget(&self, node: u64) {
        if let Side::InMemory(facts) = self {
            in_memory(facts).remove(&node);
        }
    }

    /// The memory of the nodes in these slots has gone: that of the facts about them goes too.
    pub fn release(&self, slots: Range<u32>) {
        if let Side::Saved(saved) = self {
            saved.release(slots);
        }
    }
}

fn in_memory<F>(facts: &Mutex<HashMap<u64, F>>) -> MutexGuard<'_, HashMap<u64, F>> {
    facts.lock().expect("facts lock")
}

impl<const N: usize> Saved<N> {
    fn open(mapping: Arc<Mapping>, format: Format, place: Location) -> io::Result<Saved<N>> {
        let chunks = place.capacity.div_ceil(format.chunk);
        let backed = mapping.backed(place.base, place.capacity as usize * format.words)?;
        let saved = Saved {
            mapping,
            format,
            place,
            chunks: (0..chunks.div_ceil(u64::BITS)).map(|_| AtomicU64::new(0)).collect(),
            locks: Default::default(),
        };
        let chunk_words = format.chunk as usize * format.words;
        for range in backed {
            // Whole chunks: a page that is cut off at an end belongs to another region.
            let (first, last) =
                ((range.start - place.base).div_ceil(chunk_words), (range.end - place.base) / chunk_words);
            (first..last).for_each(|chunk| saved.mark_backed(chunk as u32));
        }
        Ok(saved)
    }

    fn is_backed(&self, chunk: u32) -> bool {
        self.chunks[(chunk / u64::BITS) as usize].load(Ordering::Acquire) >> (chunk % u64::BITS) & 1 == 1
    }

    fn mark_backed(&self, chunk: u32) {
        self.chunks[(chunk / u64::BITS) as usize].fetch_or(1 << (chunk % u64::BITS), Ordering::Release);
    }

    /// Gives the slot's chunk memory.
    fn provide(&self, slot: u32) -> io::Result<()> {
        let Format { chunk: size, words, .. } = self.format;
        let chunk = slot / size;
        if !self.is_backed(chunk) {
            let count = size.min(self.place.capacity - chunk * size) as usize * words;
            self.mapping.allocate(self.place.base + (chunk * size) as usize * words, count)?;
            self.mark_backed(chunk);
        }
        Ok(())
    }

    fn release(&self, slots: Range<u32>) {
        let Format { chunk: size, words, .. } = self.format;
        let _all = self.locks.each_ref().map(|lock| lock.lock().expect("facts lock"));
        for chunk in (slots.start.div_ceil(size)..slots.end / size).filter(|chunk| self.is_backed(*chunk)) {
            self.chunks[(chunk / u64::BITS) as usize].fetch_and(!(1 << (chunk % u64::BITS)), Ordering::AcqRel);
            let (first, count) = (self.place.base + (chunk * size) as usize * words, size as usize * words);
            if let Err(error) = self.mapping.release(first, count) {
                log::warn!("memory of region {} cannot be given back: {error}", self.format.name);
            }
        }
    }

    fn words(&self, slot: u32) -> &[AtomicU64] {
        self.mapping.words(self.place.base + slot as usize * self.format.words, self.format.words)
    }

    fn get(&self, node: u64) -> Option<[u64; N]> {
        let slot = Id::from(node).slot;
        if slot >= self.place.capacity || !self.is_backed(slot / self.format.chunk) {
            return None;
        }
        let words = self.words(slot);
        let seal = words[0].load(Ordering::Acquire);
        let fact = std::array::from_fn(|index| words[1 + index].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        (seal == seal_of(node, &fact) && words[0].load(Ordering::Relaxed) == seal).then_some(fact)
    }

    fn set(&self, node: u64, fact: [u64; N]) {
        let slot = Id::from(node).slot;
        if slot >= self.place.capacity {
            return;
        }
        let _one = self.locks[slot as usize % LOCKS].lock().expect("facts lock");
        if self.provide(slot).is_err() {
            return;
        }
        let words = self.words(slot);
        words[0].store(0, Ordering::Relaxed);
        // A reader that sees a word of the new fact does not see the old seal any more.
        fence(Ordering::Release);
        words[1..].iter().zip(fact).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        words[0].store(seal_of(node, &fact), Ordering::Release);
    }
}

fn seal_of(node: u64, fact: &[u64]) -> u64 {
    let seed = crc32c::crc32c(&node.to_le_bytes());
    let checksum = fact.iter().fold(seed, |sum, word| crc32c::crc32c_append(sum, &word.to_le_bytes()));
    SEALED | u64::from(checksum)
}
