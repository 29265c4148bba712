//! What the tests of this crate are made of.

use std::collections::HashMap;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use efc_backend::{FileHandle, Time};
use efc_buffer::{Budget, Buffer, LARGE};
use efc_cache::Version;
use efc_cache::blocks::{Block, BlockKey, Fill, Level, Lookup, Miss};
use efc_tasks::block_on;
use rustix::io::{Errno, Result};

use crate::disk::{Device, Disk};
use crate::{Figures, Settings, State, Store};

pub(crate) const MIB: u64 = 1 << 20;
/// Ends hangs only.
const LIMIT: Duration = Duration::from_secs(60);

/// A block of the file of this name and size.
pub(crate) fn key(name: &str, size: u64, index: u64) -> BlockKey {
    changed_key(name, size, index, 0)
}

/// The same after so many changes.
pub(crate) fn changed_key(name: &str, size: u64, index: u64, changes: u32) -> BlockKey {
    let time = |seconds| Time { seconds, nanos: 8 };
    let file = FileHandle::new(name.as_bytes()).expect("short");
    BlockKey { storage: 0, file, version: Version { mtime: time(7), ctime: time(7 + changes), size }, index }
}

/// A block of these bytes.
pub(crate) fn block_of(bytes: &[u8]) -> Block {
    let mut room = Buffer::new(bytes.len() + 1).expect("memory");
    room[..bytes.len()].copy_from_slice(bytes);
    Block::new(room, bytes.len())
}

/// The bytes that the block of this key has: no two pages of any blocks are the same.
pub(crate) fn bytes_of(key: &BlockKey) -> Vec<u8> {
    let mut dice = Dice(twox_hash::XxHash3_64::oneshot(format!("{key:?}").as_bytes()));
    let mut bytes = vec![dice.next() as u8; key.length()];
    for page in bytes.chunks_mut(4096) {
        let (word, length) = (dice.next().to_le_bytes(), page.len().min(8));
        page[..length].copy_from_slice(&word[..length]);
    }
    bytes
}

/// Numbers that only look like random ones.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb)
    }

    pub(crate) fn draw(&mut self, below: u64) -> u64 {
        (self.next() >> 11) % below
    }
}

/// Waits until something is so.
pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "not in time: {what}");
        // Most of what is waited for takes microseconds.
        if begun.elapsed() < Duration::from_millis(2) {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A disk on which things go wrong when it is told so.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// What reads take that are not answered from memory, in milliseconds; 0: all are.
    pub(crate) read_ms: AtomicU64,
    /// Errno of each read; 0: none.
    pub(crate) read_error: AtomicI32,
    /// Errno of each write; 0: none.
    pub(crate) write_error: AtomicI32,
    /// Errno of what comes to the disk later than it was written; 0: none.
    pub(crate) loss: AtomicI32,
    /// Writes wait as long as this holds.
    pub(crate) are_writes_held: AtomicBool,
    /// Writes that have been tried.
    pub(crate) writes: AtomicU64,
}

fn fails(with: &AtomicI32) -> Result<()> {
    match with.load(Ordering::Relaxed) {
        0 => Ok(()),
        errno => Err(Errno::from_raw_os_error(errno)),
    }
}

impl Disk for Arc<Faults> {
    fn read_now(&self, file: BorrowedFd<'_>, into: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize> {
        fails(&self.read_error)?;
        if self.read_ms.load(Ordering::Relaxed) > 0 {
            return Err(Errno::AGAIN);
        }
        Device.read_now(file, into, offset)
    }

    fn read(&self, file: BorrowedFd<'_>, into: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize> {
        std::thread::sleep(Duration::from_millis(self.read_ms.load(Ordering::Relaxed)));
        fails(&self.read_error)?;
        Device.read(file, into, offset)
    }

    fn write(&self, file: BorrowedFd<'_>, from: &[IoSlice<'_>], offset: u64) -> Result<usize> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        until("writes may go on", || !self.are_writes_held.load(Ordering::Relaxed));
        fails(&self.write_error)?;
        Device.write(file, from, offset)
    }

    fn write_out(&self, file: BorrowedFd<'_>, part: Range<u64>) -> Result<()> {
        fails(&self.loss)?;
        Device.write_out(file, part)
    }
}

pub(crate) fn settings(path: &Path, size_max: u64) -> Settings {
    let directory = File::open(path).expect("a directory").into();
    let (budget, index_bytes_max) = (Budget::default(), 64 * MIB);
    Settings { directory, size_max, free_min_percent: 0, budget, index_bytes_max, open_files_max: 256 }
}

/// A store that has looked at all of its directory.
pub(crate) fn loaded<D: Disk>(settings: Settings, disk: D) -> Arc<Store<D>> {
    let store = Store::on(settings, disk).expect("threads");
    until("it has loaded", || !matches!(store.figures().state, State::Waiting | State::Loading));
    store
}

/// The store of a directory, whose disk is waited for on a busy machine, too.
pub(crate) fn open(path: &Path, size_max: u64) -> Arc<Store> {
    let store = loaded(settings(path, size_max), Device);
    [1, MIB as usize].into_iter().for_each(|length| store.backend_took(length, Duration::from_secs(1)));
    store
}

/// Drops the store, and waits until its threads have ended.
pub(crate) fn close<D: Disk>(store: Arc<Store<D>>) {
    let engine = Arc::downgrade(&store.engine);
    drop(store);
    until("it has ended", || engine.strong_count() == 0);
}

/// What the store answers.
pub(crate) fn ask<D: Disk>(store: &Store<D>, key: &BlockKey) -> Lookup {
    block_on(store.get(*key, Buffer::new(LARGE).expect("memory")))
}

/// Is the block there? It is never a wrong one.
pub(crate) fn hits<D: Disk>(store: &Store<D>, key: &BlockKey) -> bool {
    match ask(store, key) {
        Lookup::Hit { block, .. } => {
            assert!(block[..] == bytes_of(key), "wrong bytes for {key:?}");
            true
        }
        Lookup::Miss(_) => false,
    }
}

/// Where a block is to be put that is not there.
pub(crate) fn missed<D: Disk>(store: &Store<D>, key: &BlockKey) -> Box<dyn Fill> {
    let Lookup::Miss(Miss { fill: Some(fill), .. }) = ask(store, key) else { panic!("it is to be put there") };
    fill
}

/// Is this part of the block there? It is never a wrong one.
pub(crate) fn hits_part<D: Disk>(store: &Store<D>, key: &BlockKey, part: Range<usize>) -> bool {
    match block_on(store.get_part(*key, part.clone(), Buffer::new(part.len()).expect("memory"))) {
        Lookup::Hit { block, .. } => {
            assert!(block[..] == bytes_of(key)[part], "wrong bytes for a part of {key:?}");
            true
        }
        Lookup::Miss(_) => false,
    }
}

/// How many fills have come to an end.
pub(crate) fn ended(figures: &Figures) -> u64 {
    figures.fills + figures.refused
}

/// Reads a block as a chain does: what the store has not got is put there, and that waited for. `true`: it was there.
pub(crate) fn read<D: Disk>(store: &Store<D>, key: &BlockKey) -> bool {
    match ask(store, key) {
        Lookup::Hit { block, .. } => {
            assert!(block[..] == bytes_of(key), "wrong bytes for {key:?}");
            true
        }
        Lookup::Miss(Miss { fill: Some(fill), .. }) => {
            let before = ended(&store.figures());
            fill.fill(&Arc::new(block_of(&bytes_of(key))));
            until("the block is written", || ended(&store.figures()) > before);
            false
        }
        Lookup::Miss(_) => false,
    }
}

/// Reads all of them, one after the other.
pub(crate) fn read_each<D: Disk>(store: &Store<D>, keys: &[BlockKey]) {
    for key in keys {
        read(store, key);
    }
}

/// The bytes of all files beneath a directory, as far as they can be read.
pub(crate) fn snapshot(path: &Path) -> HashMap<std::path::PathBuf, Vec<u8>> {
    let mut files = HashMap::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, is_folder) = (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_dir()));
            if is_folder {
                folders.push(path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                files.insert(path, bytes);
            }
        }
    }
    files
}
