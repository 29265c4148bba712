//! The data of small files that was read at their open, until it is read.
//!
//! There is one per file: what a later open has read replaces that of an earlier one. The data is dropped when it was
//! read as a whole, when the file is opened again or changed by this daemon, when it is a second old, or when newer
//! data needs its room. Data that was asked for before such a change and arrives after it is not taken in
//! ([`BeforeRead`]), so no read is answered with data that is older than the last open or write that this node has seen
//! end.

use efc_tasks::sync::atomic::Ordering;
use efc_tasks::sync::{Mutex, MutexGuard};
use std::ops::Range;
use std::time::{Duration, Instant};

use efc_backend::{FileHandle, Seen, Tick};
use efc_buffer::Buffer;
use foldhash::HashMap;

use crate::inode::Inode;
use crate::inode::table::Inodes;
use crate::version::Version;

/// Files whose data waits for its reader, at most.
const FILES_MAX: usize = 64;
/// How long data may answer a read.
const TTL: Duration = Duration::from_secs(1);

struct WholeFile {
    data: Buffer,
    size: usize,
    version: Version,
    asked: Tick,
    read_at: Instant,
}

/// The data of all files that was read at their open: it has one limit, so it lies here and not at the inodes.
#[derive(Default)]
pub(crate) struct WholeFiles {
    files: Mutex<HashMap<FileHandle, WholeFile>>,
}

/// From before a file's data was asked for: tells whether something has changed since.
#[derive(Clone, Copy)]
pub struct BeforeRead(u64);

impl WholeFiles {
    fn files(&self) -> MutexGuard<'_, HashMap<FileHandle, WholeFile>> {
        self.files.lock().expect("whole files lock")
    }
}

fn drop_oldest(files: &mut HashMap<FileHandle, WholeFile>) {
    let oldest = files.iter().min_by_key(|(_, file)| file.read_at).map(|(file, _)| *file);
    oldest.and_then(|oldest| files.remove(&oldest));
}

impl Inodes {
    /// Lets the oldest data go that was read at an open, whose memory newer data needs.
    pub fn drop_oldest_whole(&self) {
        drop_oldest(&mut self.shared.whole_files.files());
    }
}

impl Inode {
    /// The file is opened, or was changed: drops what was read before, and what is being read now.
    pub fn drop_whole(&self) -> BeforeRead {
        let mut files = self.shared.whole_files.files();
        files.remove(self.handle());
        BeforeRead(self.changes.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// The file's data is about to be asked for by nobody's open.
    pub fn before_read(&self) -> BeforeRead {
        BeforeRead(self.changes.load(Ordering::Relaxed))
    }

    /// Has nobody opened the file anew since, by asking the server, nor changed it here?
    pub fn is_as_before(&self, before: BeforeRead) -> bool {
        self.changes.load(Ordering::Relaxed) == before.0
    }

    /// Does the file's data wait for its reader?
    pub fn has_whole(&self) -> bool {
        let files = self.shared.whole_files.files();
        files.get(self.handle()).is_some_and(|whole| efc_tasks::time::since(whole.read_at) < TTL)
    }

    /// Takes in the first `size` bytes of `data`, the whole file in the version that was `seen` with it, asked for with this
    /// ticket.
    pub fn keep_whole(&self, before: BeforeRead, data: Buffer, size: usize, seen: Seen<Version>) {
        let mut files = self.shared.whole_files.files();
        if self.changes.load(Ordering::Relaxed) != before.0 {
            return;
        }
        if files.len() >= FILES_MAX {
            drop_oldest(&mut files);
        }
        let (version, asked, read_at) = (seen.value, seen.asked, efc_tasks::time::now());
        files.insert(*self.handle(), WholeFile { data, size, version, asked, read_at });
    }

    /// Answers a read of `length` bytes at `offset`, if the data is there and [may be given](Inode::may_give).
    pub fn read_whole(
        &self,
        offset: u64,
        length: usize,
        data_ttl: Option<Duration>,
    ) -> Option<Seen<(Buffer, Range<usize>)>> {
        let mut files = self.shared.whole_files.files();
        let whole = files.remove(self.handle())?;
        let read = Seen { value: &whole.version, asked: whole.asked };
        if efc_tasks::time::since(whole.read_at) >= TTL || !self.may_give(read, data_ttl) {
            return None;
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(whole.size);
        let end = whole.size.min(start.saturating_add(length));
        if start == 0 && end == whole.size {
            return Some(Seen { value: (whole.data, 0..end), asked: whole.asked }); // the kernel keeps it from here on
        }
        // For the moment until the kernel has it.
        let mut part = Buffer::new(end - start).ok()?;
        part[..end - start].copy_from_slice(&whole.data[start..end]);
        let asked = whole.asked;
        files.insert(*self.handle(), whole);
        Some(Seen { value: (part, 0..end - start), asked })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Inodes;
    use crate::testing::{attr, handle, seen, tick};

    fn inode(inodes: &Inodes, name: u64) -> Arc<Inode> {
        let inode = inodes.of(&handle(&name.to_le_bytes()));
        inode.learn(seen(&attr(4, 1)));
        inode
    }

    fn keep(inode: &Inode, before: BeforeRead) {
        let mut data = Buffer::new(4096).expect("memory");
        data[..4].copy_from_slice(b"data");
        inode.keep_whole(before, data, 4, Seen { value: Version::of(&attr(4, 1)), asked: tick() });
    }

    fn read(inode: &Inode) -> Option<Vec<u8>> {
        inode.read_whole(0, 100, None).map(|Seen { value: (data, range), .. }| data[range].to_vec())
    }

    #[test]
    fn data_is_given_once_as_a_whole_and_in_parts_before() {
        let inode = inode(&crate::testing::inodes(), 7);
        keep(&inode, inode.drop_whole());
        let (part, range) = inode.read_whole(1, 2, None).expect("there").value;
        assert_eq!(&part[range], b"at");
        assert_eq!(read(&inode).as_deref(), Some(&b"data"[..]));
        assert_eq!(read(&inode), None);
    }

    #[test]
    fn a_change_or_a_later_open_ends_what_was_read_and_what_is_being_read() {
        let inode = inode(&crate::testing::inodes(), 7);
        let before = inode.drop_whole();
        keep(&inode, before);
        drop(inode.mutate());
        assert_eq!(read(&inode), None);
        keep(&inode, before);
        assert_eq!(read(&inode), None, "asked for before the change");
        let first = inode.drop_whole();
        keep(&inode, inode.drop_whole());
        keep(&inode, first);
        assert!(read(&inode).is_some(), "the earlier open does not take the later one's data away");
    }

    #[test]
    fn data_is_given_no_longer_than_a_bound_allows() {
        let inode = inode(&crate::testing::inodes(), 7);
        keep(&inode, inode.drop_whole());
        assert!(inode.has_whole());
        assert!(inode.read_whole(1, 2, Some(Duration::from_secs(60))).is_some());
        assert!(inode.read_whole(1, 2, Some(Duration::ZERO)).is_none() && !inode.has_whole());
    }

    #[test]
    fn the_oldest_make_room() {
        let inodes = crate::testing::inodes();
        let all: Vec<Arc<Inode>> = (0..FILES_MAX as u64 + 10).map(|name| inode(&inodes, name)).collect();
        all.iter().for_each(|inode| keep(inode, inode.drop_whole()));
        assert_eq!(all[0].shared.whole_files.files().len(), FILES_MAX);
        assert!(read(&all[FILES_MAX + 9]).is_some());
        assert!(read(&all[0]).is_none());
    }

    #[test]
    fn data_that_was_read_before_its_version_was_settled_is_dropped_when_that_is_seen_again() {
        let inode = inode(&crate::testing::inodes(), 7);
        let now = efc_tasks::time::since_1970().as_secs() as u32;
        let (fresh, asked) = (attr(4, now), tick());
        let keep = || {
            let version = Seen { value: Version::of(&fresh), asked };
            inode.keep_whole(inode.drop_whole(), Buffer::new(4096).expect("memory"), 4, version);
        };
        inode.learn(Seen { value: &fresh, asked });
        let bound = Some(Duration::from_secs(60));
        keep();
        assert!(inode.read_whole(1, 2, bound).is_some(), "nobody relies on what was seen later");
        inode.learn(Seen { value: &fresh, asked: Tick { at: asked.at + Duration::from_secs(3), ..tick() } });
        assert!(inode.read_whole(1, 2, bound).is_none());
    }

    #[test]
    fn data_of_another_version_is_dropped() {
        let inode = inode(&crate::testing::inodes(), 7);
        keep(&inode, inode.drop_whole());
        inode.learn(seen(&attr(4, 2)));
        assert_eq!(read(&inode), None);
        inode.learn(seen(&attr(4, 1)));
        assert_eq!(read(&inode), None);
    }
}
