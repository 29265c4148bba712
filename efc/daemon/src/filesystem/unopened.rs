//! Files that the kernel opens without asking (FUSE no_open), in a session with the option `small-files`. What an open
//! would have checked is checked when a READ comes; and stale pages are dropped before the kernel is told of another
//! version.
//!
//! The first OPEN is answered with ENOSYS, and so is the first FLUSH. From then on the kernel opens and closes regular
//! files by itself for as long as the session lives, whichever daemon serves it: READs come with the handle 0, for the
//! node that they name. Reads that the kernel serves from its pages do not come here at all, so a revoked permission
//! takes effect only for data that has to be read again. That is what the option is for, and why it names the one
//! credential with which everything is asked.
//!
//! A READ is admitted as an open would be ([`Inner::admit_read`]): by what is known of the file within the mode's time,
//! or by the server. The saved state records for each inode which version its pages have ([`Unopened::note`]):
//!
//! | noted | its pages |
//! |---|---|
//! | nothing, or [`NO_PAGES`] | there are none |
//! | a version | are of that version, all of them |
//! | [`DOUBTFUL`] | may be of several, or of one that others may share |
//! | [`DROPPING`] | are being dropped |
//!
//! The kernel itself drops pages only when it is told another size or modification time; it ignores ctime. So whoever
//! tells it attributes has the pages dropped first, unless they are of exactly that version ([`super::growth`]). A
//! successor finds all of this in the saved state.
//!
//! Not guaranteed: that there is memory for the note of an inode. Without one, only the kernel's own comparison
//! remains. Directories are opened as usual, because their listings need handles.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use efc_backend::{Attr, Backend, Cred, FileHandle, FileType};
use efc_cache::{Inode, Version};
use efc_fuse::Errno;
use efc_state::{DataVersion, State};
use efc_tasks::sync::{Mutex, MutexGuard};
use foldhash::HashMap;

use super::files::OpenFile;
use super::saved::saved_version;
use super::single_flight::SingleFlight;
use super::{Inner, ReadRequest};

/// No file with pages has this version: it is that of an empty one of 1970.
const NO_PAGES: DataVersion = DataVersion { mtime: 0, ctime: 0, size: 0 };
/// No file is of these sizes.
const DOUBTFUL: DataVersion = DataVersion { mtime: 0, ctime: 0, size: u64::MAX };
const DROPPING: DataVersion = DataVersion { mtime: 0, ctime: 0, size: u64::MAX - 1 };

/// In whose name everything is asked, and of which versions the kernel has pages.
pub(super) struct Unopened {
    cred: Cred,
    state: Arc<State>,
    /// Guards what is noted of all nodes: two READs may end at once. How often the pages of a node are being dropped, if they are.
    drops: Mutex<HashMap<u64, u32>>,
    /// READs that ask the server for a file.
    asked: SingleFlight<FileHandle>,
}

impl Unopened {
    /// What predecessors have noted is in `state`.
    pub(super) fn new(cred: Cred, state: Arc<State>) -> Unopened {
        Unopened { cred, state, drops: Mutex::default(), asked: SingleFlight::default() }
    }

    fn noted(&self, node: u64) -> DataVersion {
        self.state.page_version(node).unwrap_or(NO_PAGES)
    }

    /// The kernel is about to fill pages of this version; `None`: of none that stands for them.
    fn note(&self, node: u64, version: Option<DataVersion>) {
        let _guard = self.drops();
        let (noted, filled) = (self.noted(node), version.unwrap_or(DOUBTFUL));
        if noted != filled {
            self.state.set_page_version(node, if noted == NO_PAGES { filled } else { DOUBTFUL });
        }
    }

    /// Has the kernel pages that need not be of this version?
    fn has_others(&self, node: u64, version: DataVersion) -> bool {
        ![NO_PAGES, version].contains(&self.noted(node))
    }

    /// All pages of a node are dropped from now on, until this ends.
    fn begin_drop(&self, node: u64) -> Dropping<'_> {
        let mut drops = self.drops();
        *drops.entry(node).or_default() += 1;
        self.state.set_page_version(node, DROPPING);
        Dropping { unopened: self, node, are_gone: false }
    }

    fn drops(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.drops.lock().expect("drops lock")
    }
}

/// The pages of a node are being dropped until this is: then they are gone, but for those that were noted meanwhile, or they are not.
struct Dropping<'a> {
    unopened: &'a Unopened,
    node: u64,
    are_gone: bool,
}

impl Drop for Dropping<'_> {
    fn drop(&mut self) {
        let mut drops = self.unopened.drops();
        let Entry::Occupied(mut under_way) = drops.entry(self.node) else { return };
        *under_way.get_mut() -= 1;
        let is_last = *under_way.get() == 0;
        if is_last {
            under_way.remove();
        }
        // Another one that is under way may have begun after pages were filled that this one has left there: it says what becomes of them.
        if self.unopened.noted(self.node) == DROPPING && (is_last || !self.are_gone) {
            self.unopened.state.set_page_version(self.node, if self.are_gone { NO_PAGES } else { DOUBTFUL });
        }
    }
}

impl<B: Backend> Inner<B> {
    /// Does the kernel open files without asking?
    pub(super) fn is_unopened(&self) -> bool {
        self.unopened.is_some()
    }

    /// The open file of a READ, or what stands for it.
    pub(super) fn file_read(&self, read: &ReadRequest) -> Result<Arc<OpenFile>, Errno> {
        self.file_of(read.node, read.fh, read.flags)
    }

    /// The open file of `fh`, or what stands for it where the kernel opens files by itself.
    pub(super) fn file_of(&self, node: u64, fh: u64, flags: u32) -> Result<Arc<OpenFile>, Errno> {
        match &self.unopened {
            Some(unopened) => Ok(Arc::new(OpenFile::new(node, self.inode(node)?, unopened.cred.clone(), flags))),
            None => self.file(fh),
        }
    }

    /// May a READ at `offset` be answered through a file that the kernel has opened by itself? Asks as an open would. Of many that come at once, one asks.
    ///
    /// # Errors
    /// What the server says to an open.
    pub(super) async fn admit_read(self: &Arc<Self>, file: &Arc<OpenFile>, offset: u64) -> Result<(), Errno> {
        let Some(unopened) = &self.unopened else { return Ok(()) };
        let is_asked = self.open_with_what_is_known(file).await.is_none();
        if is_asked {
            self.ask_for_read(unopened, file).await?;
        }
        if offset == 0 {
            self.open_ahead(file, is_asked);
        }
        Ok(())
    }

    async fn ask_for_read(self: &Arc<Self>, unopened: &Unopened, file: &Arc<OpenFile>) -> Result<(), Errno> {
        // Who has a time limit asks at once, and waits for that alone.
        let waits = self.backend.time_limit().is_none();
        let asking = if waits { unopened.asked.begin(*file.inode.handle()).await } else { None };
        if waits && asking.is_none() && self.open_unasked(file).is_some() {
            return Ok(());
        }
        self.ask_to_open(file).await.map(drop)
    }

    /// The kernel fills pages with what was read, of this version; `None`: of none that stands for it. `false`: files are opened
    /// here, and what is noted of their pages is their opens' matter.
    pub(super) fn note_unopened(&self, file: &OpenFile, version: Option<Version>) -> bool {
        let Some(unopened) = &self.unopened else { return false };
        unopened.note(file.node, version.as_ref().map(saved_version));
        if version.is_some() && file.inode.told().is_some_and(|told| Some(told.value) != version) {
            self.notifier.inval_attributes(file.node); // it asks before it goes on with the pages
        }
        true
    }

    /// The node by which the kernel knows the inode. Where it opens files by itself, it may do so since a predecessor's time, when nothing but the
    /// saved state knows of that.
    pub(super) fn node_in_kernel(&self, inode: &Inode) -> Option<u64> {
        let saved = || self.state.find_node(inode.handle().as_bytes());
        inode.node().or_else(|| self.is_unopened().then(saved).flatten())
    }

    /// Has the kernel pages of a file that it has opened by itself, and that need not be of the version of `attr`?
    pub(super) fn has_unopened_pages(&self, inode: &Inode, attr: &Attr) -> bool {
        let Some(unopened) = &self.unopened else { return false };
        let Some(node) = self.node_in_kernel(inode) else { return false };
        attr.kind == FileType::Regular && unopened.has_others(node, saved_version(&Version::of(attr)))
    }

    /// Notes what becomes of all pages of a node while `dropping` drops them.
    pub(super) async fn note_drop(&self, node: u64, dropping: impl Future<Output = bool>) -> bool {
        let Some(unopened) = &self.unopened else { return dropping.await };
        let mut noted = unopened.begin_drop(node);
        noted.are_gone = dropping.await;
        noted.are_gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use efc_state::Node;
    use rustix::fs::{MemfdFlags, SealFlags};

    fn unopened() -> (Unopened, u64) {
        let memfd = rustix::fs::memfd_create("efc-test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK).unwrap();
        let state = Arc::new(State::open(memfd).unwrap());
        let node = state.lookup_node(&Node { handle: b"file".to_vec(), fileid: 7, kind: libc::S_IFREG }).unwrap();
        (Unopened::new(Cred::root(), state), node)
    }

    fn version(ctime: u64) -> DataVersion {
        DataVersion { mtime: 1, ctime, size: 1 }
    }

    #[test]
    fn pages_that_were_filled_while_others_were_dropped_are_gone_with_a_later_drop_alone() {
        for (first, second, expected) in [(true, true, NO_PAGES), (true, false, DOUBTFUL), (false, true, DOUBTFUL)] {
            let (unopened, node) = unopened();
            unopened.note(node, Some(version(1)));
            let mut former = unopened.begin_drop(node);
            unopened.note(node, Some(version(1)));
            let mut later = unopened.begin_drop(node);
            former.are_gone = first;
            drop(former);
            assert!(unopened.has_others(node, version(2)), "the later one is under way");
            later.are_gone = second;
            drop(later);
            assert_eq!(unopened.noted(node), expected);
            assert!(unopened.drops().is_empty());
        }
    }

    #[test]
    fn a_drop_that_is_given_up_leaves_doubt() {
        let (unopened, node) = unopened();
        drop(unopened.begin_drop(node));
        assert_eq!(unopened.noted(node), DOUBTFUL);
    }
}
