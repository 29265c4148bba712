//! Reports lost data as Linux does for local files (errseq_t): once to each open description.
//!
//! A failure belongs to its file, not to the call that happens to find it, which may be a COMMIT in the background, or
//! another caller's. It is recorded before the data is dropped. Each description that is open then gets the error once,
//! from its next write or fsync; every close of a descriptor before that returns it too, without consuming it, since
//! the descriptor may be a child's. The first description that is opened later also gets it, if nobody has been told
//! before. Truncation, writes of others and the end of a process consume nothing.
//!
//! A file with failures has the last one, with its sequence number in the file; an open has the number of the last one
//! that it was told, or none. Opens of files without failures take no part in this. Both are saved, so they outlive the
//! daemon. Before a description is told, that is published as an intent of its request, so that a successor to which
//! the request is redelivered tells the same description and not the next.
//!
//! A state made by an older release has no place for this: there it holds as long as the daemon lives, and the next one
//! only knows the file's mark (`State::set_lost`), if nobody has been told yet. The mark is set in every state, for
//! older releases.

use efc_tasks::sync::atomic::{AtomicUsize, Ordering};
use efc_tasks::sync::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;

use efc_fuse::Errno;
use efc_state::{FailureOf, Intent, LOST, State};

use efc_backend::Backend;
use efc_cache::Inode;

use super::Inner;

/// Files whose failures are remembered, at most.
const FILES_MAX: usize = 1 << 15;
/// In [`Intent::other`] of a request that is told of a failure.
const TELLING: &[u8] = b"EFC telling";

/// The last failure of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Among those of the file, from 1.
    number: u32,
    errno: Errno,
    /// Somebody has heard of it.
    is_heard: bool,
}

impl Failure {
    fn to_word(self) -> u64 {
        u64::from(self.number) << 32 | (self.errno.0 as u64 & 0xffff) << 1 | u64::from(self.is_heard)
    }

    fn from_word(word: u64) -> Failure {
        let errno = Errno((word >> 1 & 0xffff) as i32);
        Failure { number: (word >> 32) as u32, errno, is_heard: word & 1 != 0 }
    }
}

#[derive(Default)]
struct Table {
    files: HashMap<u64, Failure>,
    /// By fh: the number of the last failure that it has heard of.
    heard: HashMap<u64, u32>,
}

/// Failures of files, and who has heard of them. They are kept here and not at the inodes: they are numbered, saved and limited
/// together, by the node ids and the numbers of opens that the saved state knows them by.
pub struct Failures {
    state: Arc<State>,
    /// Of `Table::files`: without any, nobody takes the lock.
    count: AtomicUsize,
    table: Mutex<Table>,
}

impl Failures {
    /// Those that a predecessor has saved, of files and opens that still are.
    pub fn load(state: Arc<State>) -> Failures {
        let mut table = Table::default();
        for (of, word) in state.failures() {
            match of {
                FailureOf::File(node) if state.node(node).is_some() => {
                    table.files.insert(node, Failure::from_word(word));
                }
                FailureOf::Open(fh) if state.handle(fh).is_some() => {
                    table.heard.insert(fh, word as u32);
                }
                _ => state.remove_failure(of),
            }
        }
        Failures { count: AtomicUsize::new(table.files.len()), state, table: Mutex::new(table) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("failures lock")
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn save(&self, of: FailureOf, word: u64) {
        if let Err(error) = self.state.set_failure(of, word) {
            log::warn!("cannot save whom to tell of lost data: {error}");
        }
    }

    /// Data of the file is lost.
    pub fn add(&self, node: u64, errno: Errno) {
        let mut table = self.table();
        if table.files.len() >= FILES_MAX && !table.files.contains_key(&node) {
            // All of that was logged.
            let heard = table.files.iter().find(|(_, failure)| failure.is_heard).or(table.files.iter().next());
            if let Some(dropped) = heard.map(|(node, _)| *node) {
                table.files.remove(&dropped);
                self.state.remove_failure(FailureOf::File(dropped));
            }
        }
        let number = table.files.get(&node).map_or(1, |last| last.number.wrapping_add(1).max(1));
        let failure = Failure { number, errno, is_heard: false };
        self.save(FailureOf::File(node), failure.to_word());
        table.files.insert(node, failure);
        self.count.store(table.files.len(), Ordering::Release);
    }

    /// The file is opened: what others have heard of is not told again.
    pub fn opened(&self, fh: u64, node: u64) {
        if self.is_empty() {
            return;
        }
        let mut table = self.table();
        if let Some(failure) = table.files.get(&node).copied().filter(|failure| failure.is_heard) {
            self.save(FailureOf::Open(fh), failure.number.into());
            table.heard.insert(fh, failure.number);
        }
    }

    /// The open is closed.
    pub fn closed(&self, fh: u64) {
        if !self.is_empty() && self.table().heard.remove(&fh).is_some() {
            self.state.remove_failure(FailureOf::Open(fh));
        }
    }

    /// The kernel has forgotten the file, so it is not open, and nobody is left to be told.
    pub fn forget(&self, node: u64) {
        if self.is_empty() {
            return;
        }
        let mut table = self.table();
        if table.files.remove(&node).is_some() {
            self.state.remove_failure(FailureOf::File(node));
        }
        self.count.store(table.files.len(), Ordering::Release);
    }

    /// What this open of the file has not heard of.
    pub fn unheard(&self, fh: u64, node: u64) -> Option<Failure> {
        if self.is_empty() {
            return None;
        }
        let table = self.table();
        let failure = *table.files.get(&node)?;
        (table.heard.get(&fh) != Some(&failure.number)).then_some(failure)
    }

    /// This open hears of it; `true` if it is the first to, to be followed by [`Failures::set_heard`].
    fn hear(&self, fh: u64, node: u64, failure: Failure) -> bool {
        let mut table = self.table();
        self.save(FailureOf::Open(fh), failure.number.into());
        table.heard.insert(fh, failure.number);
        table.files.get(&node).is_some_and(|last| last.number == failure.number && !last.is_heard)
    }

    /// Somebody has heard of it.
    pub fn set_heard(&self, node: u64, failure: Failure) {
        let mut table = self.table();
        if let Some(last) = table.files.get_mut(&node).filter(|last| last.number == failure.number) {
            last.is_heard = true;
            self.save(FailureOf::File(node), last.to_word());
        }
    }

    /// Is there a failure of which nobody has heard?
    pub fn is_unheard(&self, node: u64) -> bool {
        !self.is_empty() && self.table().files.get(&node).is_some_and(|failure| !failure.is_heard)
    }
}

impl<B: Backend> Inner<B> {
    /// Notes that data of the file is lost. Before the data is forgotten.
    pub(super) fn note_lost(&self, inode: &Inode, errno: Errno) {
        log::error!("{inode:?}: written data is lost (errno {}), as each open of it will be told", errno.0);
        if let Some(node) = inode.node() {
            self.failures.add(node, errno);
            self.state.set_lost(node);
        }
    }

    /// The verifier of data of this file that is not kept ([`State::unkept`]); not the mark of a failure that is known here.
    pub(super) fn unkept(&self, node: u64) -> Option<[u8; 8]> {
        self.state.unkept(node).filter(|verifier| *verifier != LOST || !self.failures.is_unheard(node))
    }

    /// Fails with what this open has not heard of yet, once.
    pub(super) fn tell_failure(&self, unique: u64, fh: u64, node: u64) -> Result<(), Errno> {
        let Some(failure) = self.failures.unheard(fh, node) else { return Ok(()) };
        let intent = Intent { place: failure.to_word(), other: TELLING.to_vec(), ..Intent::default() };
        self.state.begin(unique, &intent).map_err(|_| Errno(libc::ENOMEM))?;
        self.hear(fh, node, failure);
        Err(failure.errno)
    }

    /// Fails with what this open has not heard of yet, as often as it is asked: close(2) of one descriptor is not that of another, which
    /// may be a child's.
    pub(super) fn report_failure(&self, fh: u64, node: u64) -> Result<(), Errno> {
        let Some(failure) = self.failures.unheard(fh, node) else { return Ok(()) };
        if !failure.is_heard {
            self.unmark_lost(node, failure);
        }
        Err(failure.errno)
    }

    /// Fails as a predecessor was about to, whose request is delivered again.
    pub(super) fn tell_again(&self, unique: u64, fh: u64, node: u64) -> Result<(), Errno> {
        let intent = self.state.intent(unique).filter(|intent| intent.other == TELLING);
        let Some(failure) = intent.map(|intent| Failure::from_word(intent.place)) else { return Ok(()) };
        self.hear(fh, node, failure);
        Err(failure.errno)
    }

    fn hear(&self, fh: u64, node: u64, failure: Failure) {
        if self.failures.hear(fh, node, failure) {
            self.unmark_lost(node, failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use efc_state::{Node, OpenHandle};

    const EIO: Errno = Errno(libc::EIO);

    struct Scene {
        memfd: rustix::fd::OwnedFd,
        state: Arc<State>,
        node: u64,
    }

    impl Scene {
        fn new() -> Scene {
            let memfd = rustix::fs::memfd_create("efc-failures-test", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
            let state = Arc::new(State::open(memfd.try_clone().unwrap()).unwrap());
            let node = state.lookup_node(&Node { handle: b"file".to_vec(), fileid: 7, kind: libc::S_IFREG }).unwrap();
            Scene { memfd, state, node }
        }

        fn open(&self) -> u64 {
            let (flags, uid, gid, groups, directory) = (2, 0, 0, Vec::new(), false);
            let opened = OpenHandle {
                node: self.node,
                flags,
                uid,
                gid,
                groups,
                directory,
                cookie_verifier: [0; 8],
                unique: 2,
                backing: 0,
            };
            self.state.open_handle(&opened).unwrap()
        }

        fn successor(self) -> Scene {
            let Scene { memfd, state, node } = self;
            drop(state);
            let state = Arc::new(State::open(memfd.try_clone().unwrap()).unwrap());
            Scene { memfd, state, node }
        }
    }

    fn hears(failures: &Failures, fh: u64, node: u64) -> Option<Errno> {
        let failure = failures.unheard(fh, node)?;
        if failures.hear(fh, node, failure) {
            failures.set_heard(node, failure);
        }
        Some(failure.errno)
    }

    #[test]
    fn each_open_hears_of_each_failure_once() {
        let scene = Scene::new();
        let (node, failures) = (scene.node, Failures::load(scene.state.clone()));
        let (first, second) = (scene.open(), scene.open());
        assert_eq!(hears(&failures, first, node), None);
        failures.add(node, EIO);
        assert!(failures.is_unheard(node));
        let before_anybody = scene.open();
        failures.opened(before_anybody, node);
        assert_eq!(hears(&failures, first, node), Some(EIO));
        assert_eq!(hears(&failures, first, node), None);
        let after = scene.open();
        failures.opened(after, node);
        assert_eq!(hears(&failures, after, node), None);
        assert_eq!(hears(&failures, before_anybody, node), Some(EIO));
        failures.add(node, Errno(libc::ENOSPC));
        for open in [first, second, before_anybody, after] {
            assert_eq!(hears(&failures, open, node), Some(Errno(libc::ENOSPC)));
            assert_eq!(hears(&failures, open, node), None);
        }
        failures.forget(node);
        assert!(failures.is_empty());
    }

    #[test]
    fn who_has_heard_is_known_to_a_successor() {
        let scene = Scene::new();
        let (node, told, untold, closed) = (scene.node, scene.open(), scene.open(), scene.open());
        let failures = Failures::load(scene.state.clone());
        failures.add(node, Errno(libc::EDQUOT));
        for open in [told, closed] {
            assert_eq!(hears(&failures, open, node), Some(Errno(libc::EDQUOT)));
        }
        failures.closed(closed);
        drop(failures);
        let scene = scene.successor();
        let failures = Failures::load(scene.state.clone());
        assert!(!failures.is_unheard(node));
        assert_eq!(hears(&failures, told, node), None);
        assert_eq!(hears(&failures, untold, node), Some(Errno(libc::EDQUOT)));
        assert_eq!(scene.state.failures().len(), 3);
        scene.state.close_handle(untold);
        scene.state.forget_node(node, 1);
        drop(failures);
        let scene = scene.successor();
        drop(Failures::load(scene.state.clone()));
        assert_eq!(scene.state.failures(), [(FailureOf::Open(told), 1)], "what nobody uses any more is dropped");
    }
}
