//! Files that were removed while open, and live on under a name of ours until their last close.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::file_handles::{HANDLE_WORDS, Rest, pack_handle, unpack_handle};
use super::mapping::WORD;
use super::record::{Id, pack, unpack};
use super::region::Region;
use super::regions::ORPHANS;

/// Record, directory handle, name, file handle.
pub type Orphan = (u64, Vec<u8>, Vec<u8>, Vec<u8>);

/// Longest name, in bytes.
const NAME_MAX: usize = 255;

// Sealed words.
/// Bytes of directory, name and file, in 16 bits each; of the handles, those beyond 64 lie in bytes 6 and 7.
const LENGTHS: usize = 0;
const DIRECTORY: usize = 1;
const FILE: usize = DIRECTORY + HANDLE_WORDS;
const NAME: usize = FILE + HANDLE_WORDS;

const _: () = assert!(ORPHANS.sealed() >= NAME + NAME_MAX.div_ceil(WORD));

pub struct Orphans {
    region: Region,
}

impl Orphans {
    /// Finds the orphans in `region`; also says how many records are damaged.
    pub fn open(region: Region) -> (Orphans, u64) {
        let damaged = region.scan(|_, _| true);
        (Orphans { region }, damaged)
    }

    /// Saves an orphan, and names its record.
    pub fn add(&self, dir: &[u8], name: &[u8], file: &[u8]) -> io::Result<u64> {
        let invalid = || rustix::io::Errno::INVAL;
        if name.len() > NAME_MAX {
            return Err(invalid().into());
        }
        let mut sealed = [0; ORPHANS.sealed()];
        let dir = pack_handle(dir, &mut sealed[DIRECTORY..FILE]).ok_or_else(invalid)?;
        let file = pack_handle(file, &mut sealed[FILE..NAME]).ok_or_else(invalid)?;
        pack(name, &mut sealed[NAME..]);
        let lengths = u64::from(dir.length) | (name.len() as u64) << 16 | u64::from(file.length) << 32;
        sealed[LENGTHS] = lengths | u64::from(dir.last) << 48 | u64::from(file.last) << 56;
        let (id, record) = self.region.take()?;
        record.publish(id.generation, &[], &sealed);
        Ok(id.into())
    }

    /// The file is gone. Ignored if the record is.
    pub fn remove(&self, orphan: u64) {
        let id = Id::from(orphan);
        if self.region.record(id.slot).is_some_and(|record| record.unpublish(id.generation)) {
            self.region.give_back(id.slot);
        }
    }

    /// All orphans.
    pub fn list(&self) -> Vec<Orphan> {
        let slots = self.region.slots();
        slots
            .filter_map(|(slot, record)| {
                let generation = record.generation();
                let (dir, name, file) = record.read(generation, decode)?;
                Some((Id { generation, slot }.into(), dir, name, file))
            })
            .collect()
    }
}

fn decode(sealed: &[AtomicU64]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let lengths = sealed[LENGTHS].load(Ordering::Relaxed);
    let handle = |from: usize, to: usize, length: u32, last: u32| {
        let rest = Rest { length: (lengths >> length) as u8, last: (lengths >> last) as u8 };
        unpack_handle(&sealed[from..to], rest)
    };
    let name = unpack(&sealed[NAME..], (lengths >> 16 & 0xffff) as usize);
    (handle(DIRECTORY, FILE, 0, 48), name, handle(FILE, NAME, 32, 56))
}
