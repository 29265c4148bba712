//! Records: the form of everything that is saved, and regions of equally large ones.
//!
//! | word | content |
//! |---|---|
//! | 0 | state: generation in the upper half, `FREED` or `LIVE` in the lower; 0 if never used |
//! | 1 | checksum (CRC-32C) in the lower half; tag and version above it |
//! | 2.. | `mutable` words: counters and the like, each valid by itself, outside the checksum |
//! | rest | sealed words: written before the record is published, never changed while it is live |
//!
//! The checksum covers slot, generation, tag, version and the sealed words. A record is published by a release store of
//! its state word after everything else, and unpublished by another, so wherever a SIGKILL hits, a record is there
//! whole or not at all. Readers take no lock: they read the state word, the content, and the state word again; as a
//! generation is never used twice, two equal readings of it prove that the content between them belongs to it.
//!
//! A damaged record (its state word or checksum is wrong when the state is opened) costs what it described, and its
//! slot.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::mapping::WORD;
use super::regions::{Format, HEAD};

const LIVE: u32 = u32::from_be_bytes(*b"LIVE");
const FREED: u32 = u32::from_be_bytes(*b"FREE");

/// What names the form of a record, above its checksum.
fn identity(format: &Format) -> u64 {
    u64::from(format.tag) << 32 | u64::from(format.version) << 40
}

pub fn state_word(generation: u32, state: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(state)
}

pub fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// Names one use of one slot, for ever: generation in the upper half, slot in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    pub generation: u32,
    pub slot: u32,
}

impl From<u64> for Id {
    fn from(number: u64) -> Id {
        let (generation, slot) = split(number);
        Id { generation, slot }
    }
}

impl From<Id> for u64 {
    fn from(id: Id) -> u64 {
        state_word(id.generation, id.slot)
    }
}

/// One slot of a region.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    format: &'a Format,
    words: &'a [AtomicU64],
    slot: u32,
}

/// What a slot holds when the state is opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Unused,
    Freed,
    /// A record of this generation that is whole.
    Live(u32),
    Damaged,
}

impl<'a> Record<'a> {
    /// The record in a slot of a region.
    pub fn new(format: &'a Format, words: &'a [AtomicU64], slot: u32) -> Record<'a> {
        Record { format, words, slot }
    }

    /// The generation of its present or last use.
    pub fn generation(&self) -> u32 {
        split(self.words[0].load(Ordering::Acquire)).0
    }

    /// Whether it is in this use.
    pub fn is_live(&self, generation: u32) -> bool {
        self.words[0].load(Ordering::Acquire) == state_word(generation, LIVE)
    }

    /// The mutable words of the record.
    pub fn mutable(&self) -> &'a [AtomicU64] {
        &self.words[HEAD..HEAD + self.format.mutable]
    }

    /// The sealed words of the record. Their owner may read them as they are; others use [`Record::read`].
    pub fn sealed(&self) -> &'a [AtomicU64] {
        &self.words[HEAD + self.format.mutable..]
    }

    /// What `decode` makes of the sealed words, if they are whole and the record was in this use all the while.
    pub fn read<T>(&self, generation: u32, decode: impl FnOnce(&[AtomicU64]) -> T) -> Option<T> {
        if !self.is_live(generation) || !self.is_whole(generation) {
            return None;
        }
        let value = decode(self.sealed());
        fence(Ordering::Acquire);
        (self.words[0].load(Ordering::Relaxed) == state_word(generation, LIVE)).then_some(value)
    }

    /// Fills a slot that is not live, and publishes it. Words that are not given become 0.
    pub fn publish(&self, generation: u32, mutable: &[u64], sealed: &[u64]) {
        assert!(mutable.len() <= self.format.mutable && sealed.len() <= self.format.sealed());
        if cfg!(feature = "torn-records") {
            self.words[0].store(state_word(generation, LIVE), Ordering::Release);
            std::thread::sleep(std::time::Duration::from_millis(2)); // so that a SIGKILL hits here
        }
        // The fence keeps the state word, which ended the last use of the slot, in front of the stores of the new
        // content: a reader that has read a word of the new content finds in `read` that the record it began with is
        // gone.
        fence(Ordering::Release);
        fill(self.mutable(), mutable);
        fill(self.sealed(), sealed);
        let checksum = u64::from(self.checksum(generation));
        self.words[1].store(checksum | identity(self.format), Ordering::Relaxed);
        self.words[0].store(state_word(generation, LIVE), Ordering::Release);
    }

    /// Ends this use; `false` if it had ended. The content stays, so a later use has to be of a later generation.
    pub fn unpublish(&self, generation: u32) -> bool {
        let (live, freed) = (state_word(generation, LIVE), state_word(generation, FREED));
        self.words[0].compare_exchange(live, freed, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn checksum(&self, generation: u32) -> u32 {
        const BLOCK: usize = 16;
        let mut bytes = [0; BLOCK * WORD];
        bytes[..8].copy_from_slice(&u64::from(Id { generation, slot: self.slot }).to_le_bytes());
        bytes[8..16].copy_from_slice(&identity(self.format).to_le_bytes());
        let mut length = 16;
        let mut checksum = 0;
        for word in self.sealed() {
            if length == bytes.len() {
                checksum = crc32c::crc32c_append(checksum, &bytes);
                length = 0;
            }
            bytes[length..length + WORD].copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
            length += WORD;
        }
        crc32c::crc32c_append(checksum, &bytes[..length])
    }

    /// Examines a slot that nobody uses yet.
    pub fn examine(&self) -> Found {
        let word = self.words[0].load(Ordering::Acquire);
        match split(word) {
            (0, 0) => Found::Unused,
            (_, FREED) => Found::Freed,
            (generation, LIVE) if self.is_whole(generation) => Found::Live(generation),
            _ => Found::Damaged,
        }
    }

    fn is_whole(&self, generation: u32) -> bool {
        let expected = u64::from(self.checksum(generation)) | identity(self.format);
        self.words[1].load(Ordering::Relaxed) == expected
    }
}

fn fill(words: &[AtomicU64], values: &[u64]) {
    for (index, word) in words.iter().enumerate() {
        word.store(values.get(index).copied().unwrap_or(0), Ordering::Relaxed);
    }
}

/// Bytes as sealed words, padded with zeros.
pub fn pack(bytes: &[u8], words: &mut [u64]) {
    for (word, chunk) in words.iter_mut().zip(bytes.chunks(WORD)) {
        let mut padded = [0; WORD];
        padded[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_le_bytes(padded);
    }
}

/// The first `length` bytes of sealed words; fewer if there are not as many.
pub fn unpack(words: &[AtomicU64], length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        words.iter().take(length.div_ceil(WORD)).flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}
