//! Records: the form of everything that is saved, and regions of equally large ones.
//!
//! | word | content |
//! |---|---|
//! | 0 | state: generation in the upper half, `FREED` or `LIVE` in the lower; 0 if never used |
//! | 1 | checksum (CRC-32C) in the lower half; tag and version above it |
//! | 2.. | `mutable` words: counters and the like, each valid by itself, outside the checksum |
//! | rest | sealed words: written before the record is published, never changed while it is live |
//!
//! The checksum covers slot, generation, tag, version and the sealed words. A record is published by a release store of its
//! state word after everything else, and unpublished by another, so wherever a SIGKILL hits, a record is there whole or not at
//! all. Readers take no lock: they read the state word, the content, and the state word again; as a generation is never
//! used twice, two equal readings of it prove that the content between them belongs to it.
//!
//! A damaged record (its state word or checksum is wrong when the state is opened) costs what it described, and its slot.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard};

use super::mapping::{Mapping, WORD};

const LIVE: u32 = u32::from_be_bytes(*b"LIVE");
const FREED: u32 = u32::from_be_bytes(*b"FREE");
/// Words in front of the mutable ones.
const HEAD: usize = 2;

/// What is the same for all records of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Names the kind of record.
    pub tag: u8,
    /// Of the sealed words' layout.
    pub version: u8,
    /// Size of a record.
    pub words: usize,
    /// How many of them are mutable.
    pub mutable: usize,
    /// Slots that are not handed out.
    pub reserved: u32,
    /// Slots that get memory at a time.
    pub chunk: u32,
}

impl Format {
    const fn identity(&self) -> u64 {
        (self.tag as u64) << 32 | (self.version as u64) << 40
    }

    /// How many words of content a record has.
    pub const fn sealed(&self) -> usize {
        self.words - HEAD - self.mutable
    }
}

fn state_word(generation: u32, state: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(state)
}

fn split(word: u64) -> (u32, u32) {
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
    /// Of this generation.
    Live(u32),
    Damaged,
}

impl<'a> Record<'a> {
    /// The generation of its present or last use.
    pub fn generation(&self) -> u32 {
        split(self.words[0].load(Ordering::Acquire)).0
    }

    /// Whether it is in this use.
    pub fn is_live(&self, generation: u32) -> bool {
        self.words[0].load(Ordering::Acquire) == state_word(generation, LIVE)
    }

    /// Its mutable words.
    pub fn mutable(&self) -> &'a [AtomicU64] {
        &self.words[HEAD..HEAD + self.format.mutable]
    }

    /// Its sealed words. Their owner may read them as they are; others use [`Record::read`].
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
        // Who sees a word of the new content sees that the slot left its last use.
        fence(Ordering::Release);
        fill(self.mutable(), mutable);
        fill(self.sealed(), sealed);
        let checksum = u64::from(self.checksum(generation));
        self.words[1].store(checksum | self.format.identity(), Ordering::Relaxed);
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
        bytes[8..16].copy_from_slice(&self.format.identity().to_le_bytes());
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
        let expected = u64::from(self.checksum(generation)) | self.format.identity();
        self.words[1].load(Ordering::Relaxed) == expected
    }
}

fn fill(words: &[AtomicU64], values: &[u64]) {
    for (index, word) in words.iter().enumerate() {
        word.store(values.get(index).copied().unwrap_or(0), Ordering::Relaxed);
    }
}

/// Equally large records, with memory for as many as were ever in use at once.
pub struct Region {
    mapping: Arc<Mapping>,
    format: Format,
    /// Word of slot 0.
    base: usize,
    /// Word that says, for a successor, how many slots have memory; the inverse of that in the upper half.
    allocated_word: usize,
    capacity: u32,
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
    /// A region whose slots start at word `base`. Read it with [`Region::scan`] before use.
    pub fn new(
        mapping: Arc<Mapping>,
        format: Format,
        base: usize,
        capacity: u32,
        allocated_word: usize,
    ) -> io::Result<Region> {
        let word = mapping.words(allocated_word, 1)[0].load(Ordering::Acquire);
        let (inverse, counted) = split(word);
        let region = Region {
            mapping,
            format,
            base,
            allocated_word,
            capacity,
            allocated: AtomicU32::new(0),
            free: Mutex::new(FreeSlots { returned: Vec::new(), fresh: format.reserved }),
        };
        // A wrong number would hide what is there, or make a scan touch gigabytes of holes.
        if word != 0 && inverse == !counted && counted <= capacity {
            region.allocated.store(counted, Ordering::Relaxed);
        } else {
            region.count_anew(word)?;
        }
        Ok(region)
    }

    /// Finds how many slots have memory from what was written to it, instead of from a word that is damaged, or 0.
    fn count_anew(&self, damaged: u64) -> io::Result<()> {
        let written = self.mapping.written(self.base, self.capacity as usize * self.format.words)?;
        let Some(last) = written.div_ceil(self.format.words).checked_sub(1) else { return Ok(()) };
        log::error!("the number of slots of region {} is damaged ({damaged:#x}), and found anew", self.format.tag);
        self.provide((last as u32).min(self.capacity - 1))
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
        self.capacity
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
        Record { format: &self.format, words: self.words(slot), slot }
    }

    /// The words of a slot that has memory, for records of another form.
    pub fn words(&self, slot: u32) -> &[AtomicU64] {
        self.mapping.words(self.base + slot as usize * self.format.words, self.format.words)
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
        if slot >= self.capacity {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        let target = (slot + 1).next_multiple_of(self.format.chunk).min(self.capacity);
        let words = self.format.words;
        self.mapping.allocate(self.base + allocated as usize * words, (target - allocated) as usize * words)?;
        self.mapping.words(self.allocated_word, 1)[0].store(state_word(!target, target), Ordering::Release);
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
