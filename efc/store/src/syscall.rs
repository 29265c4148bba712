//! The one system call of this crate that rustix does not have: the only unsafe code.
#![allow(unsafe_code)]

use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::{Errno, Result};

const ALL: u32 = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;

/// sync_file_range(2): has dirty pages written, and waits until they are. It flushes no cache of the device's, and no journal.
pub(crate) fn write_out(file: BorrowedFd<'_>, part: Range<u64>) -> Result<()> {
    let of = |bytes: u64| libc::off64_t::try_from(bytes).map_err(|_| Errno::INVAL);
    let (offset, length) = (of(part.start)?, of(part.end.saturating_sub(part.start))?);
    // SAFETY: the descriptor is open as long as it is borrowed, and no memory is passed.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, ALL) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn files_are_written_out_and_nothing_else_is() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, vec![7; 70_000]).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(write_out(file.as_fd(), 0..70_000), Ok(()));
        assert_eq!(write_out(file.as_fd(), 1 << 40..1 << 41), Ok(()), "there is nothing");
        assert_eq!(write_out(file.as_fd(), 0..u64::MAX), Err(Errno::INVAL));
        let (pipe, _) = rustix::pipe::pipe().unwrap();
        assert_eq!(write_out(pipe.as_fd(), 0..1), Err(Errno::SPIPE));
    }
}
