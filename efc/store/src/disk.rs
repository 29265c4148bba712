//! Disk access, which tests can replace by a disk that is slow, full, or broken.

use std::fmt::Debug;
use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, Result};

use crate::syscall;

/// What does the reading and writing of a store.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Reads what needs no waiting; `AGAIN`: all of it would.
    ///
    /// # Errors
    /// Those of preadv2(2).
    fn read_now(&self, file: BorrowedFd<'_>, into: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize>;

    /// Reads, and waits for it.
    ///
    /// # Errors
    /// Those of preadv(2).
    fn read(&self, file: BorrowedFd<'_>, into: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize>;

    /// Writes, and waits for what that takes.
    ///
    /// # Errors
    /// Those of pwritev(2).
    fn write(&self, file: BorrowedFd<'_>, from: &[IoSlice<'_>], offset: u64) -> Result<usize>;

    /// Has what was written to this part of the file come to the disk, and waits for that: write(2) leaves it in memory.
    ///
    /// # Errors
    /// Those of sync_file_range(2); each once, of all of the file: something that was written has got lost.
    fn write_out(&self, file: BorrowedFd<'_>, part: Range<u64>) -> Result<()>;
}

/// The disk that is there.
#[derive(Debug)]
pub struct Device;

impl Disk for Device {
    fn read_now(&self, file: BorrowedFd<'_>, into: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize> {
        rustix::io::preadv2(file, into, offset, rustix::io::ReadWriteFlags::NOWAIT)
    }

    fn read(&self, file: BorrowedFd<'_>, into: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize> {
        rustix::io::preadv(file, into, offset)
    }

    fn write(&self, file: BorrowedFd<'_>, from: &[IoSlice<'_>], offset: u64) -> Result<usize> {
        rustix::io::pwritev(file, from, offset)
    }

    fn write_out(&self, file: BorrowedFd<'_>, part: Range<u64>) -> Result<()> {
        syscall::write_out(file, part)
    }
}

/// Reads until `into` is full or the file ends; how many bytes.
pub(crate) fn read_all(disk: &impl Disk, file: BorrowedFd<'_>, into: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match disk.read(file, &mut [IoSliceMut::new(&mut into[done..])], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `from`.
pub(crate) fn write_all(disk: &impl Disk, file: BorrowedFd<'_>, from: &[u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < from.len() {
        match disk.write(file, &[IoSlice::new(&from[done..])], offset + done as u64) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Does the error of [`Disk::write_out`] say that something got lost?
pub(crate) fn has_lost(error: Errno) -> bool {
    matches!(error, Errno::IO | Errno::NOSPC | Errno::DQUOT)
}

/// Does the error say that what was to be read will not be read later either?
pub(crate) fn is_lost(error: Errno) -> bool {
    // UCLEAN and BADMSG are what file systems say of damage that they have found.
    matches!(
        error,
        Errno::IO | Errno::NOENT | Errno::UCLEAN | Errno::BADMSG | Errno::NODATA | Errno::LOOP | Errno::ISDIR
    )
}
