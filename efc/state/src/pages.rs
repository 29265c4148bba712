//! Page versions: of which version of a file the pages are that the kernel holds.
//!
//! The record of a node lies at the node's slot, so it is found without an index; it names the node's id, so what is noted of a node
//! says nothing of the next one in its slot. It is replaced in place:
//!
//! | word | content |
//! |---|---|
//! | 0 | seal: checksum (CRC-32C) of node id and words 1 to 3, with a bit above it that is always set; 0 while they change |
//! | 1 | mtime: seconds in the upper half, nanoseconds in the lower |
//! | 2 | ctime, likewise |
//! | 3 | size |
//!
//! Wherever a SIGKILL hits, the seal fits the other words or the record counts as missing, which costs no more than a file's
//! cached pages. Memory is taken a chunk at a time, where records are, since most nodes are never read: which chunks have memory
//! a successor asks the memfd. States made by a release without this region keep the versions in process memory.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard};

use super::layout::Place;
use super::mapping::{Mapping, WORD};
use super::record::{Format, Id};

/// Tag and size of a record; it has no state word, so no [`super::record::Record`] is made of it.
pub const FORMAT: Format = Format { tag: 13, version: 1, words: 4, mutable: 0, reserved: 0, chunk: 128 };

const SEALED: u64 = 1 << 32;
const LOCKS: usize = 16;
/// Versions that are kept in process memory, at most; then all are dropped.
const IN_MEMORY_MAX: usize = 1 << 16;

/// What tells two contents of a file apart. Times have seconds in the upper half and nanoseconds in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataVersion {
    /// Last modification of the data.
    pub mtime: u64,
    /// Last change of data or attributes.
    pub ctime: u64,
    /// In bytes.
    pub size: u64,
}

/// The version of each node's pages, for a successor too if the state has the region.
pub enum PageVersions {
    /// In the state.
    Saved(Saved),
    /// In a state that an older release has made.
    InMemory(Mutex<HashMap<u64, DataVersion>>),
}

/// The region of the state.
pub struct Saved {
    mapping: Arc<Mapping>,
    base: usize,
    capacity: u32,
    /// One bit for each chunk that has memory.
    chunks: Box<[AtomicU64]>,
    /// Guard the records of every [`LOCKS`]th slot against two writers.
    locks: [Mutex<()>; LOCKS],
}

impl PageVersions {
    /// Those in the region at `place`, if there is one.
    pub fn open(mapping: &Arc<Mapping>, place: Option<Place>) -> io::Result<PageVersions> {
        match place {
            Some(place) => Saved::open(mapping, &place).map(PageVersions::Saved),
            None => Ok(PageVersions::InMemory(Mutex::default())),
        }
    }

    /// The version that was noted last for the node.
    pub fn get(&self, node: u64) -> Option<DataVersion> {
        match self {
            PageVersions::Saved(saved) => saved.get(node),
            PageVersions::InMemory(versions) => in_memory(versions).get(&node).copied(),
        }
    }

    /// Notes the version of the node's pages. Without memory for it nothing is noted.
    pub fn set(&self, node: u64, version: DataVersion) {
        match self {
            PageVersions::Saved(saved) => saved.set(node, version),
            PageVersions::InMemory(versions) => {
                let mut versions = in_memory(versions);
                if versions.len() >= IN_MEMORY_MAX {
                    versions.clear();
                }
                versions.insert(node, version);
            }
        }
    }

    /// The node is gone.
    pub fn forget(&self, node: u64) {
        if let PageVersions::InMemory(versions) = self {
            in_memory(versions).remove(&node);
        }
    }
}

fn in_memory(versions: &Mutex<HashMap<u64, DataVersion>>) -> MutexGuard<'_, HashMap<u64, DataVersion>> {
    versions.lock().expect("page versions lock")
}

impl Saved {
    fn open(mapping: &Arc<Mapping>, place: &Place) -> io::Result<Saved> {
        let chunks = place.capacity.div_ceil(FORMAT.chunk);
        let saved = Saved {
            mapping: Arc::clone(mapping),
            base: place.base,
            capacity: place.capacity,
            chunks: (0..chunks.div_ceil(u64::BITS)).map(|_| AtomicU64::new(0)).collect(),
            locks: Default::default(),
        };
        let chunk_words = FORMAT.chunk as usize * FORMAT.words;
        for range in mapping.backed(place.base, place.capacity as usize * FORMAT.words)? {
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
        let chunk = slot / FORMAT.chunk;
        if !self.is_backed(chunk) {
            let count = FORMAT.chunk.min(self.capacity - chunk * FORMAT.chunk) as usize * FORMAT.words;
            self.mapping.allocate(self.base + (chunk * FORMAT.chunk) as usize * FORMAT.words, count)?;
            self.mark_backed(chunk);
        }
        Ok(())
    }

    fn words(&self, slot: u32) -> &[AtomicU64] {
        self.mapping.words(self.base + slot as usize * FORMAT.words, FORMAT.words)
    }

    fn get(&self, node: u64) -> Option<DataVersion> {
        let slot = Id::from(node).slot;
        if slot >= self.capacity || !self.is_backed(slot / FORMAT.chunk) {
            return None;
        }
        let words = self.words(slot);
        let seal = words[0].load(Ordering::Acquire);
        let [mtime, ctime, size] = [1, 2, 3].map(|index| words[index].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let version = DataVersion { mtime, ctime, size };
        (seal == seal_of(node, version) && words[0].load(Ordering::Relaxed) == seal).then_some(version)
    }

    fn set(&self, node: u64, version: DataVersion) {
        let slot = Id::from(node).slot;
        if slot >= self.capacity {
            return;
        }
        let _one = self.locks[slot as usize % LOCKS].lock().expect("page versions lock");
        if self.provide(slot).is_err() {
            return;
        }
        let words = self.words(slot);
        words[0].store(0, Ordering::Relaxed);
        // Who sees a word of the new version does not see the old seal any more.
        fence(Ordering::Release);
        for (word, value) in words[1..].iter().zip([version.mtime, version.ctime, version.size]) {
            word.store(value, Ordering::Relaxed);
        }
        words[0].store(seal_of(node, version), Ordering::Release);
    }
}

fn seal_of(node: u64, version: DataVersion) -> u64 {
    let mut bytes = [0; 4 * WORD];
    for (place, word) in bytes.chunks_mut(WORD).zip([node, version.mtime, version.ctime, version.size]) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    SEALED | u64::from(crc32c::crc32c(&bytes))
}
