//! Small files whose data was read when they were opened, until somebody reads it.
//!
//! One per node: what a later open has read takes the place of what an earlier one had. The data goes when it was read as a
//! whole, when the file is opened anew or changed by this daemon, when it is a second old, or when newer data needs its room. What was
//! asked for before such a change and comes after it is not taken in ([`Ticket`]), so no read is answered with data that is older
//! than the last open or write that this node has seen end.

use efc_tasks::sync::atomic::{AtomicU64, Ordering};
use efc_tasks::sync::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use efc_buffer::Buffer;

use super::versions::Version;

/// Files whose data waits for its reader, at most.
const FILES_MAX: usize = 64;
/// How long data may answer a read.
const TTL: Duration = Duration::from_secs(1);
/// Nodes share counters of changes; a change of another node costs a READ at worst.
const COUNTERS: usize = 1024;

struct WholeFile {
    data: Buffer,
    size: usize,
    version: Version,
    read_at: Instant,
}

/// What was read at open.
pub struct WholeFiles {
    files: Mutex<HashMap<u64, WholeFile>>,
    changes: Box<[AtomicU64]>,
}

/// From before a file's data was asked for: tells whether something has changed since.
#[derive(Clone, Copy)]
pub struct Ticket(u64);

/// A change of a file by this daemon: when it ends, however it ends, what was read before is gone.
pub struct Change<'a> {
    files: &'a WholeFiles,
    node: u64,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.files.begin(self.node);
    }
}

impl WholeFiles {
    /// None.
    pub fn new() -> WholeFiles {
        let changes = (0..COUNTERS).map(|_| AtomicU64::new(0)).collect();
        WholeFiles { files: Mutex::default(), changes }
    }

    fn files(&self) -> MutexGuard<'_, HashMap<u64, WholeFile>> {
        self.files.lock().expect("whole files lock")
    }

    fn changes(&self, node: u64) -> &AtomicU64 {
        &self.changes[node as usize % COUNTERS]
    }

    /// The node is opened or was changed: drops what was read before, and what is being read now.
    pub fn begin(&self, node: u64) -> Ticket {
        let mut files = self.files();
        files.remove(&node);
        Ticket(self.changes(node).fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// To be held while the node is changed.
    pub fn change(&self, node: u64) -> Change<'_> {
        Change { files: self, node }
    }

    /// Takes in the first `size` bytes of `data`, the whole file, asked for with this ticket.
    pub fn insert(&self, node: u64, ticket: Ticket, data: Buffer, size: usize, version: Version) {
        let mut files = self.files();
        if self.changes(node).load(Ordering::Relaxed) != ticket.0 {
            return;
        }
        if files.len() >= FILES_MAX {
            drop_oldest(&mut files);
        }
        files.insert(node, WholeFile { data, size, version, read_at: efc_tasks::time::now() });
    }

    /// Lets the oldest data go, whose memory newer data needs.
    pub fn make_room(&self) {
        drop_oldest(&mut self.files());
    }

    /// Answers a read of `length` bytes at `offset`, if the data is there and of the version that `is_current` accepts.
    pub fn read(
        &self,
        node: u64,
        offset: u64,
        length: usize,
        is_current: impl FnOnce(&Version) -> bool,
    ) -> Option<(Buffer, Range<usize>)> {
        let mut files = self.files();
        let whole = files.remove(&node)?;
        if efc_tasks::time::since(whole.read_at) >= TTL || !is_current(&whole.version) {
            return None;
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(whole.size);
        let end = whole.size.min(start.saturating_add(length));
        if start == 0 && end == whole.size {
            return Some((whole.data, 0..end)); // the kernel keeps it from here on
        }
        // For the moment until the kernel has it.
        let mut part = Buffer::new(end - start).ok()?;
        part[..end - start].copy_from_slice(&whole.data[start..end]);
        files.insert(node, whole);
        Some((part, 0..end - start))
    }
}

fn drop_oldest(files: &mut HashMap<u64, WholeFile>) {
    let oldest = files.iter().min_by_key(|(_, file)| file.read_at).map(|(node, _)| *node);
    oldest.and_then(|oldest| files.remove(&oldest));
}

#[cfg(test)]
mod tests {
    use efc_backend::{Attr, FileType, Time};

    use super::*;

    fn version(size: u64) -> Version {
        let time = Time { seconds: 1, nanos: 0 };
        Version::of(&Attr {
            kind: FileType::Regular,
            mode: 0,
            nlink: 1,
            uid: 0,
            gid: 0,
            size,
            used: 0,
            rdev: (0, 0),
            fsid: 0,
            fileid: 0,
            atime: time,
            mtime: time,
            ctime: time,
        })
    }

    fn insert(files: &WholeFiles, node: u64, ticket: Ticket) {
        let mut data = Buffer::new(4096).unwrap();
        data[..4].copy_from_slice(b"data");
        files.insert(node, ticket, data, 4, version(4));
    }

    fn read(files: &WholeFiles, node: u64) -> Option<Vec<u8>> {
        files.read(node, 0, 100, |found| *found == version(4)).map(|(data, range)| data[range].to_vec())
    }

    #[test]
    fn data_is_given_once_as_a_whole_and_in_parts_before() {
        let files = WholeFiles::new();
        insert(&files, 7, files.begin(7));
        let (part, range) = files.read(7, 1, 2, |_| true).expect("there");
        assert_eq!(&part[range], b"at");
        assert_eq!(read(&files, 7).as_deref(), Some(&b"data"[..]));
        assert_eq!(read(&files, 7), None);
    }

    #[test]
    fn a_change_or_a_later_open_ends_what_was_read_and_what_is_being_read() {
        let files = WholeFiles::new();
        let before = files.begin(7);
        insert(&files, 7, before);
        drop(files.change(7));
        assert_eq!(read(&files, 7), None);
        insert(&files, 7, before);
        assert_eq!(read(&files, 7), None, "asked for before the change");
        let first = files.begin(7);
        insert(&files, 7, files.begin(7));
        insert(&files, 7, first);
        assert!(read(&files, 7).is_some(), "the earlier open does not take the later one's data away");
    }

    #[test]
    fn the_oldest_make_room() {
        let files = WholeFiles::new();
        for node in 0..FILES_MAX as u64 + 10 {
            insert(&files, node, files.begin(node));
        }
        assert_eq!(files.files().len(), FILES_MAX);
        assert!(read(&files, FILES_MAX as u64 + 9).is_some());
        assert!(read(&files, 0).is_none());
    }

    #[test]
    fn data_of_another_version_is_dropped() {
        let files = WholeFiles::new();
        insert(&files, 7, files.begin(7));
        assert!(files.read(7, 0, 100, |_| false).is_none());
        assert_eq!(read(&files, 7), None);
    }
}
