//! Large files on the disk: the data, and the map beside it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, OFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::{Errno, Result};

use efc_cache::blocks::BLOCK_BYTES;

use crate::disk::{Disk, read_all, write_all};
use crate::hash::FileKey;
use crate::layout::header::{HEADER_BYTES, Header};
use crate::layout::{Folder, make_folder, open, remove};
use crate::policy::queues::Queue;
use crate::sums::Sums;

/// Bytes of a checksum in a map.
const SUM_BYTES: u64 = 8;
/// Bytes of a map that are read at a time.
const PIECE: usize = 64 << 10;

/// A large file that is written to.
#[derive(Debug)]
pub(crate) struct Writable {
    data: OwnedFd,
    map: OwnedFd,
}

/// What was found of a large file.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) key: FileKey,
    pub(crate) queue: Queue,
    pub(crate) sums: Sums,
    /// Since it was last used, in seconds.
    pub(crate) age_s: u64,
}

pub(crate) fn data_path(name: &str) -> String {
    format!("{}/{name}.data", &name[..2])
}

pub(crate) fn map_path(name: &str) -> String {
    format!("{}/{name}.map", &name[..2])
}

/// Opens a large file for writing. If it `is_new`, nothing of what lies there under its name is left.
pub(crate) fn writable(
    folder: &Folder,
    disk: &impl Disk,
    key: &FileKey,
    queue: Queue,
    is_new: bool,
) -> Result<Writable> {
    let name = folder.hasher.name(key);
    if is_new {
        discard(folder, &name)?;
    }
    let flags = OFlags::RDWR | OFlags::CREATE;
    let map = match open(&folder.files, &map_path(&name), flags) {
        Err(Errno::NOENT) => {
            make_folder(&folder.files, &name[..2]).and_then(|()| open(&folder.files, &map_path(&name), flags))
        }
        opened => opened,
    }?;
    let data = open(&folder.files, &data_path(&name), flags)?;
    if is_new {
        rustix::fs::ftruncate(&data, key.version.size)?;
        write_all(disk, map.as_fd(), &Header::Map { key: *key, queue }.encode(folder.hasher), 0)?;
    }
    Ok(Writable { data, map })
}

impl Writable {
    /// Writes a block, and its checksum after it.
    pub(crate) fn write(&self, disk: &impl Disk, index: u64, data: &[u8], sum: u64) -> Result<()> {
        write_all(disk, self.data.as_fd(), data, index * BLOCK_BYTES as u64)?;
        self.set_sum(disk, index, sum)
    }

    /// Notes what checksum a block has; 0: it is not there.
    pub(crate) fn set_sum(&self, disk: &impl Disk, index: u64, sum: u64) -> Result<()> {
        write_all(disk, self.map.as_fd(), &sum.to_le_bytes(), HEADER_BYTES as u64 + index * SUM_BYTES)
    }

    /// Notes in which queue the file is.
    pub(crate) fn set_queue(&self, folder: &Folder, disk: &impl Disk, key: FileKey, queue: Queue) -> Result<()> {
        write_all(disk, self.map.as_fd(), &Header::Map { key, queue }.encode(folder.hasher), 0)
    }
}

/// Removes a large file. The map goes first: data without one is nothing.
pub(crate) fn discard(folder: &Folder, name: &str) -> Result<()> {
    let map = remove(&folder.files, &map_path(name));
    remove(&folder.files, &data_path(name)).and(map)
}

/// Reads the map of a large file; `None`: there is none, or it is damaged.
pub(crate) fn load(folder: &Folder, disk: &impl Disk, name: &str) -> Result<Option<Found>> {
    let map = match open(&folder.files, &map_path(name), OFlags::RDONLY) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    let mut header = [0; HEADER_BYTES];
    if read_all(disk, map.as_fd(), &mut header, 0)? < HEADER_BYTES {
        return Ok(None);
    }
    let Some(Header::Map { key, queue }) = Header::decode(&header, folder.hasher) else { return Ok(None) };
    if folder.hasher.name(&key) != name {
        return Ok(None);
    }
    let sums = sums(disk, map.as_fd(), &key)?;
    Ok(Some(Found { key, queue, sums, age_s: age_s(map.as_fd())? }))
}

fn sums(disk: &impl Disk, map: BorrowedFd<'_>, key: &FileKey) -> Result<Sums> {
    let blocks = key.version.size.div_ceil(BLOCK_BYTES as u64);
    let (mut sums, mut piece) = (Sums::default(), vec![0; PIECE]);
    let mut index = 0;
    while index < blocks {
        let length = read_all(disk, map, &mut piece, HEADER_BYTES as u64 + index * SUM_BYTES)?;
        for bytes in piece[..length].chunks_exact(SUM_BYTES as usize) {
            let sum = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            if sum != 0 && index < blocks {
                sums.set(index, sum);
            }
            index += 1;
        }
        if length < PIECE {
            break;
        }
    }
    Ok(sums)
}

/// How long ago the file was last touched, in seconds.
pub(crate) fn age_s(file: BorrowedFd<'_>) -> Result<u64> {
    let touched = rustix::fs::fstat(file)?.st_mtime;
    let touched = UNIX_EPOCH + Duration::from_secs(u64::try_from(touched).unwrap_or(0));
    Ok((UNIX_EPOCH + efc_tasks::time::since_1970()).duration_since(touched).map_or(0, |age| age.as_secs()))
}

/// Notes that something of the file was used now.
pub(crate) fn touch(folder: impl AsFd, path: &str) -> Result<()> {
    // Both, and to now: any other times only the file's owner may set, who may have been another process's user.
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    rustix::fs::utimensat(folder, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}
