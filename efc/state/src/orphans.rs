//! Files that were removed while open, and live on under a name of ours until their last close.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::mapping::WORD;
use super::record::{Id, pack, unpack};
use super::region::Region;
use super::regions::{FILE_HANDLE_MAX, ORPHANS};

/// Record, directory handle, name, file handle.
pub type Orphan = (u64, Vec<u8>, Vec<u8>, Vec<u8>);

/// Longest name, in bytes.
const NAME_MAX: usize = 255;

// Sealed words.
/// Bytes of directory, name and file, in 16 bits each.
const LENGTHS: usize = 0;
const DIRECTORY: usize = 1;
const FILE: usize = DIRECTORY + FILE_HANDLE_MAX / WORD;
const NAME: usize = FILE + FILE_HANDLE_MAX / WORD;

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
        if dir.len() > FILE_HANDLE_MAX || name.len() > NAME_MAX || file.len() > FILE_HANDLE_MAX {
            return Err(rustix::io::Errno::INVAL.into());
        }
        let (id, record) = self.region.take()?;
        let mut sealed = [0; ORPHANS.sealed()];
        sealed[LENGTHS] = dir.len() as u64 | (name.len() as u64) << 16 | (file.len() as u64) << 32;
        pack(dir, &mut sealed[DIRECTORY..FILE]);
        pack(file, &mut sealed[FILE..NAME]);
        pack(name, &mut sealed[NAME..]);
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
    let part = |from: usize, to: usize, shift: u32| unpack(&sealed[from..to], (lengths >> shift & 0xffff) as usize);
    (part(DIRECTORY, FILE, 0), part(NAME, sealed.len(), 16), part(FILE, NAME, 32))
}
