//! Segments on the disk: small files stored one after the other, so that each costs one write and no file of its own.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::{Errno, Result};

use crate::disk::{Disk, read_all, write_all};
use crate::files::age_s;
use crate::hash::{FileKey, Hasher};
use crate::index::SMALL_MAX;
use crate::layout::header::{HEADER_BYTES, Header};
use crate::layout::index::{self, Entry, FOOTER_BYTES};
use crate::layout::{Folder, open};
use crate::policy::queues::Queue;

/// The most bytes of an index that are believed: of a segment full of empty files.
const INDEX_BYTES_MAX: u64 = 8 << 20;

pub(crate) fn path(number: u64) -> String {
    format!("{number:016x}")
}

/// A segment that is appended to.
#[derive(Debug)]
pub(crate) struct Appending {
    pub(crate) number: u64,
    file: OwnedFd,
    /// Where the next record begins.
    pub(crate) tail: u64,
    entries: Vec<Entry>,
}

impl Appending {
    /// A new one.
    pub(crate) fn begin(folder: &Folder, disk: &impl Disk, number: u64, queue: Queue) -> Result<Appending> {
        let file = open(&folder.segments, &path(number), OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC)?;
        write_all(disk, file.as_fd(), &Header::Segment { number, queue }.encode(folder.hasher), 0)?;
        Ok(Appending { number, file, tail: HEADER_BYTES as u64, entries: Vec::new() })
    }

    /// Appends a small file; where its record lies.
    pub(crate) fn append(&mut self, disk: &impl Disk, hasher: Hasher, key: FileKey, data: &[u8]) -> Result<u32> {
        let offset = u32::try_from(self.tail).map_err(|_| Errno::FBIG)?;
        let length = u32::try_from(data.len()).map_err(|_| Errno::FBIG)?;
        let header = Header::Record { key, length, sum: hasher.data(data) }.encode(hasher);
        let wanted = HEADER_BYTES + data.len();
        let written = disk.write(self.file.as_fd(), &[IoSlice::new(&header), IoSlice::new(data)], self.tail)?;
        if written < wanted {
            let rest = [&header[..], data].concat();
            write_all(disk, self.file.as_fd(), &rest[written..], self.tail + written as u64)?;
        }
        self.tail += (HEADER_BYTES + data.len()) as u64;
        self.entries.push(Entry { hash: hasher.file(&key), offset, length });
        Ok(offset)
    }

    /// Ends it with an index.
    pub(crate) fn seal(self, disk: &impl Disk, hasher: Hasher) -> Result<()> {
        seal(disk, self.file.as_fd(), hasher, self.tail, &self.entries).map(drop)
    }
}

fn seal(disk: &impl Disk, file: BorrowedFd<'_>, hasher: Hasher, tail: u64, entries: &[Entry]) -> Result<u64> {
    rustix::fs::ftruncate(file, tail)?; // what a failed append has left behind it
    let index = index::encode(entries, tail, hasher);
    write_all(disk, file, &index, tail)?;
    Ok(index.len() as u64)
}

/// Notes in which queue a segment is.
pub(crate) fn set_queue(folder: &Folder, disk: &impl Disk, number: u64, queue: Queue) -> Result<()> {
    let file = open(&folder.segments, &path(number), OFlags::RDWR)?;
    write_all(disk, file.as_fd(), &Header::Segment { number, queue }.encode(folder.hasher), 0)
}

/// What was found of a segment.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) queue: Queue,
    pub(crate) entries: Vec<Entry>,
    pub(crate) bytes: u64,
    /// Since something of it was last used, in seconds.
    pub(crate) age_s: u64,
}

/// Looks at a segment; `None`: it is damaged. One without an index is read from header to header, cut where there is
/// none, and sealed.
pub(crate) fn load(folder: &Folder, disk: &impl Disk, number: u64) -> Result<Option<Found>> {
    let path = path(number);
    let (file, is_writable) = match open(&folder.segments, &path, OFlags::RDWR) {
        Ok(file) => (file, true),
        Err(_) => (open(&folder.segments, &path, OFlags::RDONLY)?, false),
    };
    let (file, hasher) = (file.as_fd(), folder.hasher);
    let age_s = age_s(file)?;
    let Some(Header::Segment { number: known, queue }) = header(disk, file, hasher, 0)? else { return Ok(None) };
    if known != number {
        return Ok(None);
    }
    let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    if let Some(entries) = sealed(disk, file, hasher, size)? {
        return Ok(Some(Found { queue, entries, bytes: size, age_s }));
    }
    let (entries, tail) = scan(disk, file, hasher)?;
    let sealed = if is_writable { seal(disk, file, hasher, tail, &entries) } else { Err(Errno::ROFS) };
    let bytes = sealed.map_or(size, |index| tail + index);
    Ok(Some(Found { queue, entries, bytes, age_s }))
}

fn header(disk: &impl Disk, file: BorrowedFd<'_>, hasher: Hasher, offset: u64) -> Result<Option<Header>> {
    let mut bytes = [0; HEADER_BYTES];
    let length = read_all(disk, file, &mut bytes, offset)?;
    Ok(Header::decode(&bytes, hasher).filter(|_| length == HEADER_BYTES))
}

/// The entries of a sealed segment of this size.
fn sealed(disk: &impl Disk, file: BorrowedFd<'_>, hasher: Hasher, size: u64) -> Result<Option<Vec<Entry>>> {
    let Some(at) = size.checked_sub(FOOTER_BYTES as u64) else { return Ok(None) };
    let mut footer = [0; FOOTER_BYTES];
    read_all(disk, file, &mut footer, at)?;
    let Some(begin) = index::begin(&footer, size).filter(|begin| size - begin <= INDEX_BYTES_MAX) else {
        return Ok(None);
    };
    let mut bytes = vec![0; (size - begin) as usize];
    read_all(disk, file, &mut bytes, begin)?;
    Ok(index::decode(&bytes, hasher))
}

/// The records from the first to the last good header, and where the next would begin.
fn scan(disk: &impl Disk, file: BorrowedFd<'_>, hasher: Hasher) -> Result<(Vec<Entry>, u64)> {
    let (mut entries, mut tail) = (Vec::new(), HEADER_BYTES as u64);
    while let Some(Header::Record { key, length, .. }) = header(disk, file, hasher, tail)?
        && u64::from(length) <= SMALL_MAX
        && let Ok(offset) = u32::try_from(tail)
    {
        entries.push(Entry { hash: hasher.file(&key), offset, length });
        tail += HEADER_BYTES as u64 + u64::from(length);
    }
    Ok((entries, tail))
}

/// What a record was found to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// This file, whole.
    Sound(FileKey),
    /// Nothing that was written there.
    Damaged,
    /// Nothing yet: reading it would take time.
    Waits,
}

/// Reads the record at `offset`, with as many bytes of data as `into` has.
pub(crate) fn read_record(
    disk: &impl Disk,
    file: BorrowedFd<'_>,
    hasher: Hasher,
    offset: u64,
    into: &mut [u8],
    waits: bool,
) -> Result<Record> {
    let mut header = [0; HEADER_BYTES];
    let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(into)];
    let read = if waits { disk.read(file, &mut parts, offset) } else { disk.read_now(file, &mut parts, offset) };
    let length = match read {
        Err(Errno::AGAIN | Errno::OPNOTSUPP) if !waits => return Ok(Record::Waits),
        Err(Errno::INTR) => 0,
        read => read?,
    };
    if length < HEADER_BYTES + into.len() {
        if !waits {
            return Ok(Record::Waits);
        }
        // Part of it, for a signal above all: once more, piece by piece.
        read_all(disk, file, &mut header, offset)?;
        if read_all(disk, file, into, offset + HEADER_BYTES as u64)? < into.len() {
            return Ok(Record::Damaged);
        }
    }
    match Header::decode(&header, hasher) {
        Some(Header::Record { key, length, sum }) if length as usize == into.len() && sum == hasher.data(into) => {
            Ok(Record::Sound(key))
        }
        _ => Ok(Record::Damaged),
    }
}
