//! The on-disk layout of a store's directory. Layout 1:
//!
//! ```text
//! lock                      flock(2)ed by the process that uses the directory
//! layout                    "efc-store 1 SEED SUM\n": the seed of all hashes, and a checksum of that, in hex
//! files/XX/NAME.data        a large file: its bytes at their own offsets, with holes; as large as the file is
//! files/XX/NAME.map         a header, then 8 bytes for each block of 1 MiB: its checksum, 0 if it is not there
//! segments/NUMBER           a header, then small files: for each a header and its bytes; a sealed one has an index last
//! ```
//!
//! `NAME` is 32 hex digits of two hashes, of the file's handle and of handle and version; `XX` are its first two.
//! `NUMBER` is 16 hex digits. A header has 128 bytes ([`header`]), with the whole key that it stands for; numbers are
//! little-endian, checksums XXH3 with the seed. The modification time of a map, or of a segment, is approximately the
//! time of its last use. The size of a store is the sum of what `du` says of `files` and `segments`.
//!
//! Nothing is ever synced: after a power cut any page of any file may have its former content. So nothing is used whose
//! checksum does not match; it counts as missing. A layout with another number is left alone; a directory without a
//! layout, or with a damaged one, is initialised again.

pub(crate) mod header;
pub(crate) mod index;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use twox_hash::XxHash3_64;

use crate::disk::{Disk, read_all, write_all};
use crate::hash::Hasher;

/// What the kernel calls tmpfs.
const TMPFS: i64 = 0x0102_1994;
/// The first words of a layout.
const LAYOUT: &str = "efc-store ";
/// Bytes of the file `layout` that are looked at.
const LAYOUT_BYTES_MAX: usize = 128;

/// Why a directory cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Another process uses it.
    Locked,
    /// Another release's store lies there.
    Unknown,
    /// The file system says so.
    Failed(Errno),
}

impl From<Errno> for Unfit {
    fn from(errno: Errno) -> Unfit {
        Unfit::Failed(errno)
    }
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unfit::Locked => f.write_str("another process uses it"),
            Unfit::Unknown => f.write_str("a store of another release lies there: empty the directory to use it"),
            Unfit::Failed(errno) => std::fmt::Display::fmt(&std::io::Error::from(*errno), f),
        }
    }
}

/// A directory with a store, which this process alone uses.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) files: OwnedFd,
    pub(crate) segments: OwnedFd,
    pub(crate) hasher: Hasher,
    /// Its data is in memory: nothing there needs waiting for a disk.
    pub(crate) is_memory: bool,
    /// Held as long as this is.
    _lock: OwnedFd,
}

impl Folder {
    /// Takes the directory in use.
    pub(crate) fn take(directory: BorrowedFd<'_>, disk: &impl Disk) -> Result<Folder, Unfit> {
        let lock = lock(directory)?;
        let hasher = match read_layout(directory, disk)? {
            Some(hasher) => hasher,
            None => begin(directory, disk)?,
        };
        let files = folder(directory, "files")?;
        let segments = folder(directory, "segments")?;
        let is_memory = is_memory(&files)?;
        Ok(Folder { files, segments, hasher, is_memory, _lock: lock })
    }

    /// What the file system has.
    pub(crate) fn space(&self) -> Result<Space, Errno> {
        let of = rustix::fs::fstatvfs(&self.files)?;
        Ok(Space {
            size: of.f_blocks.saturating_mul(of.f_frsize),
            free: of.f_bavail.saturating_mul(of.f_frsize),
            is_read_only: of.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        })
    }
}

/// What a file system has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// In bytes.
    pub(crate) size: u64,
    /// Of these, what this user may still take.
    pub(crate) free: u64,
    /// Nothing can be changed.
    pub(crate) is_read_only: bool,
}

/// Whether what lies in a directory is memory: a tmpfs.
///
/// # Errors
/// Those of fstatfs(2).
pub fn is_memory(directory: impl AsFd) -> Result<bool, Errno> {
    Ok(rustix::fs::fstatfs(directory)?.f_type as i64 == TMPFS)
}

fn lock(directory: BorrowedFd<'_>) -> Result<OwnedFd, Unfit> {
    let open = |flags| rustix::fs::openat(directory, "lock", flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, OPEN);
    let lock = match open(OFlags::RDWR | OFlags::CREATE) {
        Err(Errno::ROFS) => open(OFlags::RDONLY)?,
        opened => opened?,
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(Unfit::Locked),
        locked => Ok(locked.map(|()| lock)?),
    }
}

/// The mode of files; folders have that of [`FOLDER`]. Who may do anything with them is said by the directory that they are in, whose owner may
/// change from one process to the next.
pub(crate) const OPEN: Mode = Mode::from_raw_mode(0o666);
const FOLDER: Mode = Mode::from_raw_mode(0o777);

/// Opens a file or folder beneath another.
pub(crate) fn open(folder: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(folder, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, OPEN)
}

/// Removes a file; it is fine if there is none.
pub(crate) fn remove(folder: impl AsFd, path: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(folder, path, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// Makes a folder; it is fine if there is one.
pub(crate) fn make_folder(folder: impl AsFd, path: &str) -> Result<(), Errno> {
    match rustix::fs::mkdirat(folder, path, FOLDER) {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

fn folder(directory: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match open(directory, path, flags) {
        Err(Errno::NOENT) => make_folder(directory, path).and_then(|()| open(directory, path, flags)),
        opened => opened,
    }
}

/// The names of what lies in a folder.
pub(crate) fn names(folder: impl AsFd) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        names.extend(entry.file_name().to_str().ok().filter(|name| !name.starts_with('.')).map(str::to_owned));
    }
    Ok(names)
}

/// The seed; `None`: the store is to be begun.
fn read_layout(directory: BorrowedFd<'_>, disk: &impl Disk) -> Result<Option<Hasher>, Unfit> {
    let file = match open(directory, "layout", OFlags::RDONLY) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    let mut bytes = [0; LAYOUT_BYTES_MAX];
    let length = read_all(disk, file.as_fd(), &mut bytes, 0)?;
    let Some(text) = std::str::from_utf8(&bytes[..length]).ok().and_then(|text| text.strip_prefix(LAYOUT)) else {
        return Ok(None);
    };
    let words: Vec<&str> = text.trim_end().split(' ').collect();
    match words[..] {
        ["1", seed, _] => Ok(hex(seed).map(Hasher).filter(|hasher| layout(*hasher).as_bytes() == &bytes[..length])),
        ["1", ..] => Ok(None),
        [number, ..] if number.parse::<u32>().is_ok() => Err(Unfit::Unknown),
        _ => Ok(None),
    }
}

fn layout(Hasher(seed): Hasher) -> String {
    let sum = XxHash3_64::oneshot(&seed.to_le_bytes());
    format!("{LAYOUT}1 {seed:016x} {sum:016x}\n")
}

/// The number that has these 16 hex digits.
pub(crate) fn hex(digits: &str) -> Option<u64> {
    let are_digits = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if are_digits { u64::from_str_radix(digits, 16).ok() } else { None }
}

/// Begins a store: whatever lies where its parts would is removed.
fn begin(directory: BorrowedFd<'_>, disk: &impl Disk) -> Result<Hasher, Unfit> {
    let files = folder(directory, "files")?;
    for beneath in names(&files)? {
        if let Ok(beneath) = open(&files, &beneath, OFlags::RDONLY | OFlags::DIRECTORY) {
            names(&beneath)?.iter().try_for_each(|name| remove(&beneath, name))?;
        }
    }
    let segments = folder(directory, "segments")?;
    names(&segments)?.iter().try_for_each(|name| remove(&segments, name))?;
    let mut seed = [0; 8];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
    let hasher = Hasher(u64::from_le_bytes(seed));
    let file = open(directory, "layout", OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
    write_all(disk, file.as_fd(), layout(hasher).as_bytes(), 0)?;
    Ok(hasher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Device;

    fn take(path: &std::path::Path) -> Result<Folder, Unfit> {
        let directory = std::fs::File::open(path).expect("a directory");
        Folder::take(directory.as_fd(), &Device)
    }

    #[test]
    fn a_directory_is_one_process_s_at_a_time_and_keeps_its_seed() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = take(directory.path()).expect("free");
        assert_eq!(take(directory.path()).expect_err("locked"), Unfit::Locked);
        let seed = first.hasher;
        drop(first);
        assert_eq!(take(directory.path()).expect("free again").hasher, seed);
    }

    #[test]
    fn a_damaged_layout_is_begun_anew_and_an_unknown_one_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let (layout, segment) = (directory.path().join("layout"), directory.path().join("segments/0"));
        let seed = take(directory.path()).expect("free").hasher;
        let sound = std::fs::read_to_string(&layout).expect("there");
        for damaged in ["", "efc-store", "efc-store 1", &sound.replace("e 1 ", "e 1 0"), &sound[..30], "\0\0\0\0"] {
            std::fs::write(&segment, "old").expect("written");
            std::fs::write(&layout, damaged).expect("written");
            assert_ne!(take(directory.path()).expect("anew").hasher, seed, "{damaged:?}");
            assert!(!segment.exists(), "{damaged:?}");
        }
        std::fs::write(&segment, "new").expect("written");
        std::fs::write(&layout, "efc-store 2 whatever").expect("written");
        assert_eq!(take(directory.path()).expect_err("unknown"), Unfit::Unknown);
        assert!(segment.exists());
    }
}
