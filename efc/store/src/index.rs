//! The in-memory index of everything that the store holds: which blocks, where, and in which order they are evicted.
//!
//! There is one version of each file, indexed by the hash of its handle. Two files with the same hash replace each
//! other. For a large file the whole key is here; that of a small one is stored before its data.

use foldhash::HashMap;
use foldhash::HashSet;

use efc_cache::blocks::{BLOCK_BYTES, BlockKey};

use crate::hash::FileKey;
use crate::layout::header::HEADER_BYTES;
use crate::layout::index::ENTRY_BYTES;
use crate::policy::ghosts::GHOST_BYTES;
use crate::policy::queues::{Queues, Unit};
use crate::sums::Sums;

/// A file of one block, and not of more bytes, is a record of a segment.
pub(crate) const SMALL_MAX: u64 = 64 << 10;
/// Bytes of memory that a large file takes beside its checksums, about, and a small one.
const FILE_BYTES: u64 = 448;
const RECORD_BYTES: u64 = 96;
/// What the map of a large file takes on the disk.
pub(crate) const MAP_BYTES: u64 = 4096;
/// Samples are drawn from so many files.
const SAMPLES_MAX: usize = 64;
/// The most ghosts.
const GHOSTS_MAX: u64 = 1 << 20;
/// When something is used, its files are touched if they were not for so long, in seconds.
const TOUCH_INTERVAL: u32 = 60;

/// A small file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) segment: u64,
    /// Of its header.
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) filled_s: u32,
    /// Somebody has read it since it was filled.
    pub(crate) was_read: bool,
    /// It was kept once when its segment went.
    pub(crate) was_kept: bool,
}

/// A large file.
#[derive(Clone, Debug)]
pub(crate) struct Large {
    pub(crate) key: FileKey,
    pub(crate) sums: Sums,
    /// No other entry has the same, nor had: what is known of its files holds as long as it is there.
    pub(crate) life: u64,
    touched_s: u32,
}

#[derive(Clone, Debug)]
enum Entry {
    Small(Record),
    Large(Box<Large>),
}

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a segment.
    Record(Record),
    /// In its large file, with this checksum.
    Block { sum: u64, is_verified: bool, life: u64 },
}

/// A file in which blocks lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The data of a large file, of this life.
    Data { key: FileKey, life: u64 },
    /// A segment.
    Segment(u64),
}

/// A block that is read to see how long that takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Of its file.
    pub(crate) hash: u64,
    pub(crate) source: Source,
    pub(crate) offset: u64,
    pub(crate) length: usize,
}

/// Is the file one that is kept in a segment?
pub(crate) fn is_small(key: &FileKey) -> bool {
    key.version.size <= SMALL_MAX
}

/// Bytes that a block of this length takes on the disk.
pub(crate) fn on_disk(length: usize) -> u64 {
    (length as u64).next_multiple_of(4096)
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) queues: Queues,
    entries: HashMap<u64, Entry>,
    /// The hashes of the records of each segment.
    segments: HashMap<u64, Segment>,
    memory: u64,
    lives: u64,
}

#[derive(Debug, Default)]
struct Segment {
    hashes: HashSet<u64>,
    touched_s: u32,
}

impl Index {
    /// Empty, for so many bytes on the disk and about so many in memory.
    pub(crate) fn new(size_max: u64, bytes_max: u64) -> Index {
        let ghosts_max = (bytes_max / 8 / GHOST_BYTES).min(GHOSTS_MAX) as usize;
        let queues = Queues::new(size_max, ghosts_max);
        Index { queues, entries: HashMap::default(), segments: HashMap::default(), memory: 0, lives: 0 }
    }

    /// Bytes of memory, about.
    pub(crate) fn memory(&self) -> u64 {
        self.memory + self.queues.ghosts() as u64 * GHOST_BYTES
    }

    /// How many files there are.
    pub(crate) fn files(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Where the block lies, if it is there; the hash is that of its file.
    pub(crate) fn find(&self, hash: u64, key: &BlockKey) -> Option<Place> {
        match self.entries.get(&hash)? {
            Entry::Small(record) if key.index == 0 && record.length as usize == key.length() => {
                Some(Place::Record(*record))
            }
            Entry::Large(large) if (large.key.file, large.key.version) == (key.file, key.version) => {
                let life = large.life;
                large.sums.get(key.index).map(|(sum, is_verified)| Place::Block { sum, is_verified, life })
            }
            _ => None,
        }
    }

    /// The large file of this hash.
    pub(crate) fn large(&self, hash: u64) -> Option<&Large> {
        match self.entries.get(&hash)? {
            Entry::Large(large) => Some(large),
            Entry::Small(_) => None,
        }
    }

    /// The small file of this hash.
    pub(crate) fn record(&self, hash: u64) -> Option<Record> {
        match self.entries.get(&hash)? {
            Entry::Small(record) => Some(*record),
            Entry::Large(_) => None,
        }
    }

    /// Is the file still one of the store's? Of a large one, the hash is that of its handle.
    pub(crate) fn has_source(&self, hash: u64, source: &Source) -> bool {
        match source {
            Source::Data { life, .. } => self.large(hash).is_some_and(|large| large.life == *life),
            Source::Segment(number) => self.queues.queue(Unit::Segment(*number)).is_some(),
        }
    }

    /// Is there anything of this hash?
    pub(crate) fn has(&self, hash: u64) -> bool {
        self.entries.contains_key(&hash)
    }

    /// Adds a large file; there is nothing of its hash.
    pub(crate) fn add_large(&mut self, hash: u64, key: FileKey, sums: Sums) {
        self.memory += FILE_BYTES + sums.memory();
        self.lives += 1;
        let large = Large { key, sums, life: self.lives, touched_s: 0 };
        self.entries.insert(hash, Entry::Large(Box::new(large)));
    }

    /// A block of a large file that is there has been written. `true`: it was not there before.
    pub(crate) fn set_block(&mut self, hash: u64, index: u64, sum: u64) -> bool {
        self.change_sums(hash, |sums| sums.set(index, sum)).unwrap_or(false)
    }

    /// A block of the file of this life is not what it should be. `true`: it was there.
    pub(crate) fn clear_block(&mut self, hash: u64, key: &BlockKey, life: u64) -> bool {
        let is_this = self.large(hash).is_some_and(|large| large.life == life);
        let is_cleared = is_this && self.change_sums(hash, |sums| sums.clear(key.index)).unwrap_or(false);
        if is_cleared {
            self.queues.shrank(Unit::File(hash), on_disk(key.length()));
        }
        is_cleared
    }

    /// A block of the file of this life was found to have this checksum.
    pub(crate) fn verify_block(&mut self, hash: u64, index: u64, sum: u64, life: u64) {
        if let Some(Entry::Large(large)) = self.entries.get_mut(&hash)
            && large.life == life
        {
            large.sums.verify(index, sum);
        }
    }

    fn change_sums<T>(&mut self, hash: u64, change: impl FnOnce(&mut Sums) -> T) -> Option<T> {
        let Some(Entry::Large(large)) = self.entries.get_mut(&hash) else { return None };
        let before = large.sums.memory();
        let changed = change(&mut large.sums);
        self.memory = self.memory + large.sums.memory() - before;
        Some(changed)
    }

    /// Adds a small file, in place of what there was of its hash: the large file, which is to be removed from the disk.
    pub(crate) fn add_record(&mut self, hash: u64, record: Record) -> Option<Large> {
        let replaced = self.forget_large(hash).map(|(large, _)| large);
        self.forget(hash);
        self.segments.entry(record.segment).or_default().hashes.insert(hash);
        self.memory += RECORD_BYTES;
        self.entries.insert(hash, Entry::Small(record));
        replaced
    }

    /// Forgets a file. A large one is to be removed from the disk and from the queues by whoever calls this.
    pub(crate) fn forget(&mut self, hash: u64) -> Option<Large> {
        match self.entries.remove(&hash)? {
            Entry::Small(record) => {
                if let Some(segment) = self.segments.get_mut(&record.segment) {
                    segment.hashes.remove(&hash);
                }
                self.memory -= RECORD_BYTES;
                None
            }
            Entry::Large(large) => {
                self.memory -= FILE_BYTES + large.sums.memory();
                Some(*large)
            }
        }
    }

    /// Forgets the record. `false`: it is not there any more.
    pub(crate) fn forget_record(&mut self, hash: u64, record: &Record) -> bool {
        let known = self.record(hash).map(|known| (known.segment, known.offset));
        let is_there = known == Some((record.segment, record.offset));
        if is_there {
            self.forget(hash);
        }
        is_there
    }

    /// The records of a segment.
    pub(crate) fn records(&self, segment: u64) -> Vec<(u64, Record)> {
        let hashes = self.segments.get(&segment).into_iter().flat_map(|segment| &segment.hashes);
        hashes.filter_map(|hash| Some((*hash, self.record(*hash)?))).collect()
    }

    /// Forgets a segment with all records that are still in it, and remembers them as ghosts. Its bytes.
    pub(crate) fn forget_segment(&mut self, number: u64) -> u64 {
        let unit = Unit::Segment(number);
        for hash in self.segments.remove(&number).unwrap_or_default().hashes {
            self.queues.remember(hash, unit);
            self.forget(hash);
        }
        self.queues.remove(unit)
    }

    /// Forgets a large file, and remembers it as a ghost. What it was, and its bytes.
    pub(crate) fn forget_large(&mut self, hash: u64) -> Option<(Large, u64)> {
        self.large(hash)?;
        let large = self.forget(hash)?;
        self.queues.remember(hash, Unit::File(hash));
        Some((large, self.queues.remove(Unit::File(hash))))
    }

    /// A block was read.
    pub(crate) fn used(&mut self, hash: u64, key: &BlockKey, at_s: u32) -> Used {
        let (unit, touched) = match self.entries.get_mut(&hash) {
            Some(Entry::Small(record)) => {
                record.was_read |= at_s.saturating_sub(record.filled_s) >= 2;
                let unit = Unit::Segment(record.segment);
                (unit, self.segments.get_mut(&record.segment).map(|segment| &mut segment.touched_s))
            }
            Some(Entry::Large(large)) => (Unit::File(hash), Some(&mut large.touched_s)),
            None => return Used { unit: Unit::File(hash), is_old: false, moves: false },
        };
        let is_due = |touched: &mut u32| {
            let is_old = at_s.saturating_sub(*touched) >= TOUCH_INTERVAL;
            if is_old {
                *touched = at_s;
            }
            is_old
        };
        let is_old = touched.is_some_and(is_due);
        Used { unit, is_old, moves: self.queues.used(unit, on_disk(key.length()), at_s) }
    }

    /// Some block, to try how fast the disk is: by the number of the try it is another one.
    pub(crate) fn sample(&self, number: usize) -> Option<Sample> {
        let few = self.entries.len().clamp(1, SAMPLES_MAX);
        self.entries.iter().skip(number % few).find_map(|(&hash, entry)| match entry {
            Entry::Large(large) => {
                let block = block(&large.key, large.sums.indexes().next()?);
                let source = Source::Data { key: large.key, life: large.life };
                Some(Sample { hash, source, offset: block.offset(), length: block.length() })
            }
            Entry::Small(record) => {
                let offset = u64::from(record.offset) + HEADER_BYTES as u64;
                Some(Sample { hash, source: Source::Segment(record.segment), offset, length: record.length as usize })
            }
        })
    }

    /// The records of the segment count as not read.
    pub(crate) fn forget_reads(&mut self, segment: u64) {
        for (hash, record) in self.records(segment) {
            self.entries.insert(hash, Entry::Small(Record { was_read: false, ..record }));
        }
    }

    /// Bytes that what is there of a large file takes on the disk.
    pub(crate) fn large_bytes(key: &FileKey, sums: &Sums) -> u64 {
        let last = key.version.size / BLOCK_BYTES as u64;
        let is_last_there = sums.get(last).is_some();
        let whole = (sums.count() - u64::from(is_last_there)) * BLOCK_BYTES as u64;
        MAP_BYTES + whole + if is_last_there { on_disk(block(key, last).length()) } else { 0 }
    }
}

/// The key of a file's block.
pub(crate) fn block(key: &FileKey, index: u64) -> BlockKey {
    BlockKey { storage: key.storage, file: key.file, version: key.version, index }
}

/// The key of a block's file.
pub(crate) fn file(key: &BlockKey) -> FileKey {
    FileKey { storage: key.storage, file: key.file, version: key.version }
}

/// Bytes of a record in its segment, and of its entry at the end.
pub(crate) fn record_bytes(length: u32) -> u64 {
    (HEADER_BYTES + ENTRY_BYTES) as u64 + u64::from(length)
}

/// What follows from a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) unit: Unit,
    /// It was not touched on the disk lately.
    pub(crate) is_old: bool,
    /// It has moved to *again*.
    pub(crate) moves: bool,
}
