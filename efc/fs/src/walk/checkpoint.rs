//! Checkpoints: how far a walk has come, as a text that another process goes on from.
//!
//! A text holds, as numbers of seven bits a byte and in base64: whose walk of which directory it is, the totals, the files
//! with several names of which some were not seen, and the positions of all open directories; last a checksum. It is at
//! most [`TEXT_MAX`] long. A walk whose state needs more keeps the last text that did not: totals and positions of one
//! moment, from which on all is counted again, and nothing twice. About 10,000 files with several names fit, and 1,000
//! open directories.

use efc_backend::FileHandle;

use super::base64;
use super::links::Links;
use super::tree::{Directory, Place, Totals, Tree};

/// Longest text of a checkpoint, in bytes.
pub const TEXT_MAX: usize = 64 << 10;
const BYTES_MAX: usize = TEXT_MAX / 4 * 3;
const MAGIC: &[u8; 8] = b"efcwalk1";
const CHECKSUM: usize = 4;
/// No file with several names takes less, nor an open directory.
const LINK_BYTES_MIN: usize = 2;
const DIRECTORY_BYTES_MIN: usize = 8;

/// Whose walk it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walker {
    /// As whom it asks.
    pub uid: u32,
    /// As whom it asks.
    pub gid: u32,
    /// The directory at the top.
    pub top: FileHandle,
}

/// The text for a walk as it is now; `None` if that would be too long.
pub fn encode(walker: &Walker, tree: &Tree) -> Option<String> {
    let is_done = tree.open() == 0;
    // When all is counted, nobody asks for another name any more.
    let links = if is_done { 0 } else { tree.links().len() };
    if links * LINK_BYTES_MIN + tree.open() * DIRECTORY_BYTES_MIN > BYTES_MAX {
        return None;
    }
    let mut writer = Writer(MAGIC.to_vec());
    writer.number(walker.uid.into()).number(walker.gid.into());
    writer.bytes(walker.top.as_bytes());
    let Totals { bytes, files, directories, skipped, unchecked } = tree.totals();
    writer.number(bytes).number(files).number(directories).number(skipped).number(unchecked);
    writer.number(links as u64);
    if !is_done {
        let mut last = (0u64, 0u64);
        for ((fsid, fileid), left) in tree.links().sorted() {
            writer.number(fsid.wrapping_sub(last.0)).number(fileid.wrapping_sub(last.1)).number(left.into());
            last = (fsid, fileid);
        }
    }
    let positions = tree.positions();
    writer.number(positions.len() as u64);
    let mut last = walker.top;
    for directory in &positions {
        writer.directory(directory, &last);
        last = directory.handle;
    }
    let mut bytes = writer.0;
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    (bytes.len() <= BYTES_MAX).then(|| base64::encode(&bytes))
}

/// The walk that `text` is of; `None` if it is none.
pub fn decode(text: &str) -> Option<(Walker, Tree)> {
    if text.len() > TEXT_MAX {
        return None;
    }
    let bytes = base64::decode(text)?;
    let (content, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    if crc32c::crc32c(content).to_be_bytes() != checksum {
        return None;
    }
    let mut reader = Reader(content.strip_prefix(MAGIC)?);
    let (uid, gid) = (reader.number()?.try_into().ok()?, reader.number()?.try_into().ok()?);
    let walker = Walker { uid, gid, top: FileHandle::new(reader.bytes()?)? };
    let mut number = || reader.number();
    let totals =
        Totals { bytes: number()?, files: number()?, directories: number()?, skipped: number()?, unchecked: number()? };
    let links = reader.links()?;
    let mut last = walker.top;
    let directories: Option<Vec<_>> = (0..reader.number()?)
        .map(|_| {
            let directory = reader.directory(&last)?;
            last = directory.handle;
            Some(directory)
        })
        .collect();
    reader.0.is_empty().then_some((walker, Tree::resume(totals, links, directories?)))
}

struct Writer(Vec<u8>);

impl Writer {
    /// Seven bits a byte, the lowest first.
    fn number(&mut self, mut number: u64) -> &mut Self {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
        self
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// Handles of one server begin alike: only how much of `last` its handle begins with is written, and the rest.
    fn directory(&mut self, directory: &Directory, last: &FileHandle) {
        let Directory { handle, depth, place, counted, taken, restarts, is_skipped } = directory;
        let handle = handle.as_bytes();
        let common = handle.iter().zip(last.as_bytes()).take_while(|(one, other)| one == other).count();
        self.number(common as u64);
        self.bytes(&handle[common..]);
        self.number((*depth).into()).number(place.index);
        if place.index > 0 {
            self.number(place.cookie);
            self.0.extend_from_slice(&place.verifier);
        }
        self.number(*counted).number(*taken).number(u64::from(*restarts) << 1 | u64::from(*is_skipped));
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.number()?.try_into().ok()?;
        self.take(count)
    }

    fn links(&mut self) -> Option<Links> {
        let mut last = (0u64, 0u64);
        (0..self.number()?)
            .map(|_| {
                last = (last.0.wrapping_add(self.number()?), last.1.wrapping_add(self.number()?));
                Some((last, self.number()?.try_into().ok()?))
            })
            .collect()
    }

    fn directory(&mut self, last: &FileHandle) -> Option<Directory> {
        let common = usize::try_from(self.number()?).ok()?;
        let mut handle = last.as_bytes().get(..common)?.to_vec();
        handle.extend_from_slice(self.bytes()?);
        let handle = FileHandle::new(&handle)?;
        let depth = self.number()?.try_into().ok()?;
        let mut place = Place { index: self.number()?, ..Place::default() };
        if place.index > 0 {
            place.cookie = self.number()?;
            place.verifier = self.take(8)?.try_into().ok()?;
        }
        let (counted, taken, flags) = (self.number()?, self.number()?, self.number()?);
        let restarts = u32::try_from(flags >> 1).ok()?;
        Some(Directory { handle, depth, place, counted, taken, restarts, is_skipped: flags & 1 == 1 })
    }
}
