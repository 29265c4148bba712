//! The log that a keeper which `efc mount` has started writes into the run directory, with its daemons: kept to a size.
//!
//! That directory is on a file system that others share, memory on most hosts, and with `log-level=debug` a busy daemon would
//! fill it within hours. A log that has grown too long loses all but its end. What is written between two looks may go
//! beyond the limit, and lines that daemons write just while it is cut may get lost; while no keeper runs nobody looks.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fstat, ftruncate};
use rustix::stdio::stderr;

/// Name of the log in the run directory (`csi/cli/mount.py`).
const NAME: &str = "keeper.log";
/// How long it may become, in bytes.
const BYTES_MAX: u64 = 16 << 20;
/// What stays of one that has become too long, in bytes.
const BYTES_KEPT: usize = 1 << 20;
/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the log of this run directory to its size for as long as the process lives; returns at once if standard error is
/// something else.
pub fn keep_short(run_dir: &Path) {
    let path = run_dir.join(NAME);
    while let Ok(true) = is_written_to(stderr(), &path) {
        match cut(stderr(), &path) {
            Ok(false) => {}
            Ok(true) => log::info!("the log was longer than {} MiB: this is its end", BYTES_MAX >> 20),
            Err(error) => log::warn!("the log stays as long as it is: {error}"),
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Whether all that is written to the descriptor is appended to the file at `path`.
fn is_written_to(descriptor: impl AsFd, path: &Path) -> io::Result<bool> {
    let (opened, named) = (fstat(&descriptor)?, path.symlink_metadata()?);
    let is_same = (opened.st_dev, opened.st_ino) == (named.dev(), named.ino());
    Ok(is_same && named.is_file() && fcntl_getfl(&descriptor)?.contains(OFlags::APPEND))
}

/// Leaves of a file that is too long its end, in whole lines; whether it was.
fn cut(descriptor: impl AsFd, path: &Path) -> io::Result<bool> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let size = file.metadata()?.len();
    if size <= BYTES_MAX {
        return Ok(false);
    }
    let end = end_of(&file, size)?;
    ftruncate(&descriptor, 0)?;
    // What does not fit is lost, and what is shorter than asked for, too: it is a log.
    rustix::io::write(&descriptor, &end)?;
    Ok(true)
}

fn end_of(file: &File, size: u64) -> io::Result<Vec<u8>> {
    let mut end = vec![0; BYTES_KEPT];
    let length = file.read_at(&mut end, size.saturating_sub(BYTES_KEPT as u64))?;
    end.truncate(length);
    let first_line = end.iter().position(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    Ok(end.split_off(first_line))
}
