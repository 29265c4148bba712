//! FUSE passthrough: files that the kernel reads directly from a complete copy on the node, and the consequences for
//! other opens of the same file. The kernel fails an open with EIO if it is answered with another mode than the file's
//! earlier opens that are still there.
//!
//! | open | it may be answered |
//! |---|---|
//! | nowhere | by passthrough, or with the kernel's pages |
//! | with pages, or for writing | with pages |
//! | by passthrough | by passthrough with the same number; with FOPEN_DIRECT_IO besides, its reads come here |
//!
//! So an inode's *mode* is decided by its first open and stays until its last RELEASE. The decision does not wait for
//! anything ([`Modes::enter`]), and is stored in the record of the open ([`efc_state::OpenHandle::backing`]). A record
//! is made after its open counts here, and is removed before it no longer does, so a successor never finds two modes of
//! one inode. It gives back all numbers that no record has: those of opens that a SIGKILL has prevented, and those
//! whose last close its predecessor had no time to report.
//!
//! A file that is open by passthrough is like a running program: opening it for writing or truncating it fails with
//! ETXTBSY. The kernel would use the same number for that open, and a shared mapping would then write to the node's
//! copy instead of the file. The error is delayed a moment: the kernel sends closes without waiting for them, so the
//! last one may be on its way.
//!
//! Not guaranteed: that a file which is opened a second time is passed through. The number is asked for only at the
//! first open, with a short time limit. Others that open the file meanwhile wait for the outcome, because otherwise the
//! first of a hundred would settle on pages for all of them.

use std::collections::hash_map::Entry;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use efc_backend::{Attr, FileHandle, FileType};
use efc_cache::Version;
use efc_cache::blocks::BlockKey;
use efc_fuse::Errno;
use efc_state::State;
use efc_tasks::sync::Mutex;
use efc_tasks::sync::atomic::{AtomicU64, Ordering};
use foldhash::HashMap;
use tokio::sync::{Mutex as Turns, Notify, OwnedMutexGuard};

use super::orphans::CLOSE_ON_ITS_WAY_MAX;
use super::outside::{Backing, Backings};

/// How long an open may wait for a number.
const OPEN_TIME_MAX: Duration = Duration::from_millis(50);
/// Smaller files lie together with others in the store, and are read when they are opened.
const SIZE_MIN: u64 = efc_buffer::SMALL as u64 + 1;

/// The modes of what is open, in a session that has agreed on passthrough.
pub struct Modes {
    /// None: the session has not.
    backings: Option<Arc<dyn Backings>>,
    state: Arc<State>,
    table: Mutex<Table>,
    /// Nobody has some file open by passthrough any more.
    closed: Notify,
    opens: AtomicU64,
}

#[derive(Default)]
struct Table {
    /// By node.
    modes: HashMap<u64, Mode>,
    /// Of nodes for whose first open a number is asked for.
    turns: HashMap<u64, Arc<Turns<()>>>,
    /// Of `modes`, those by passthrough.
    passing: u64,
}

/// Of what is open of one inode.
struct Mode {
    users: u64,
    /// 0: with pages.
    backing: u32,
}

/// What an open wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// To read.
    Read,
    /// To read past all caches, as far as it is up to the kernel.
    ReadDirect,
    /// To change data.
    Write,
}

/// A number for an open, and whether what it stands for is the file's content as it is known now. That is asked under a lock.
pub struct Offered<'a> {
    /// The number.
    pub backing: Backing,
    /// Whether it is of use.
    pub is_current: &'a dyn Fn() -> bool,
}

/// How an open is to be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entered {
    /// The kernel's number; 0: with pages.
    pub backing: u32,
    /// Reads come here all the same.
    pub is_direct: bool,
}

/// Counts as an open of a file, until it is dropped.
pub struct Writing<'a> {
    modes: &'a Modes,
    node: u64,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.modes.leave(self.node);
    }
}

/// Whose turn it is to ask for the number of a node. Given up, waited for or not, when it is dropped.
pub struct Turn<'a> {
    modes: &'a Modes,
    node: u64,
    turns: Arc<Turns<()>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut table = self.modes.table.lock().expect("modes lock");
        // The table's, and this.
        if Arc::strong_count(&self.turns) == 2 {
            table.turns.remove(&self.node);
        }
    }
}

impl Modes {
    /// Nothing is open yet.
    pub fn new(backings: Option<Arc<dyn Backings>>, state: Arc<State>) -> Modes {
        let (table, closed, opens) = (Mutex::default(), Notify::new(), AtomicU64::new(0));
        Modes { backings, state, table, closed, opens }
    }

    /// Whether it has to be known what is open in which mode.
    fn are_kept(&self) -> bool {
        self.backings.is_some()
    }

    /// What a predecessor has left open: nodes, and the numbers that their opens were answered with.
    pub fn load(&self, opens: impl Iterator<Item = (u64, u32)>) {
        let Some(backings) = &self.backings else { return };
        let mut table = self.table.lock().expect("modes lock");
        opens.for_each(|(node, backing)| table.enter(node, backing));
        self.state.set_passing_through(table.passing > 0);
        let used = table.modes.values().map(|mode| mode.backing).filter(|backing| *backing != 0).collect();
        drop(table);
        backings.keep(used);
    }

    /// How an open for `want` of this node is to be answered; it counts from now on. `offered` was asked for it: of use if that is the
    /// file's content still, since somebody may have opened, written and closed it meanwhile.
    ///
    /// # Errors
    /// ETXTBSY.
    pub fn enter(&self, node: u64, want: Want, offered: Option<Offered<'_>>) -> Result<Entered, Errno> {
        if !self.are_kept() {
            return Ok(Entered::default());
        }
        // What is not used is given back without the lock.
        let mut table = self.table.lock().expect("modes lock");
        let known = table.modes.get(&node).map(|mode| mode.backing);
        let (id, unused) = match (known, offered) {
            (Some(id), offered) => (id, offered),
            // Who has changed it and does not count any more has told the inode before.
            (None, Some(Offered { backing, is_current })) if is_current() => (backing.into_id(), None),
            (None, offered) => (0, offered),
        };
        if id != 0 && want == Want::Write {
            return Err(Errno(libc::ETXTBSY));
        }
        if id != 0 && table.passing == 0 {
            self.state.set_passing_through(true);
        }
        if id != 0 {
            self.state.set_witness(node); // no READ of it may ever come
        }
        table.enter(node, id);
        drop(table);
        drop(unused);
        self.opens.fetch_add(u64::from(id != 0), Ordering::Relaxed);
        Ok(Entered { backing: id, is_direct: id != 0 && want == Want::ReadDirect })
    }

    /// Waits until nobody has the file open by passthrough, if that may be soon, for who wants to change data.
    pub async fn closed(&self, node: u64) {
        if !self.are_kept() {
            return;
        }
        let is_passing = || {
            let table = self.table.lock().expect("modes lock");
            table.modes.get(&node).is_some_and(|mode| mode.backing != 0)
        };
        let closed = async {
            loop {
                let mut closed = pin!(self.closed.notified());
                closed.as_mut().enable();
                if !is_passing() {
                    return;
                }
                closed.await;
            }
        };
        efc_tasks::time::in_time(closed, Some(CLOSE_ON_ITS_WAY_MAX)).await;
    }

    /// Counts a change of data that is made without an open file, as one that is open for writing.
    ///
    /// # Errors
    /// ETXTBSY.
    pub async fn begin_writing(&self, node: u64) -> Result<Writing<'_>, Errno> {
        self.closed(node).await;
        self.write_at_once(node)
    }

    /// The same without waiting for closes that may be on their way.
    ///
    /// # Errors
    /// ETXTBSY.
    pub fn write_at_once(&self, node: u64) -> Result<Writing<'_>, Errno> {
        self.enter(node, Want::Write, None)?;
        Ok(Writing { modes: self, node })
    }

    /// An open less: its record is gone, or was never made.
    pub fn leave(&self, node: u64) {
        let Some(backings) = &self.backings else { return };
        let mut table = self.table.lock().expect("modes lock");
        let closed = table.leave(node);
        if closed.is_some() && table.passing == 0 {
            self.state.set_passing_through(false);
        }
        drop(table);
        if let Some(id) = closed {
            self.closed.notify_waiters();
            backings.close(id);
        }
    }

    /// Asks for a number for an open of this file, under the name that all who use its storage have for it, that is to be answered, if
    /// that may be of use. Whoever has the turn then enters before he gives it up.
    pub async fn ask(
        &self,
        (node, want): (u64, Want),
        (storage, file): (u64, FileHandle),
        attr: Option<&Attr>,
    ) -> (Option<Backing>, Option<Turn<'_>>) {
        let (Some(backings), Some(attr)) = (&self.backings, attr) else { return (None, None) };
        let is_candidate = want == Want::Read && attr.kind == FileType::Regular && attr.size >= SIZE_MIN;
        if !is_candidate || self.is_decided(node) {
            return (None, None);
        }
        let asking = async {
            let turn = self.turn(node).await;
            if self.is_decided(node) {
                return (None, Some(turn));
            }
            let backing = backings.clone().open(BlockKey { storage, file, version: Version::of(attr), index: 0 }).await;
            (backing, Some(turn))
        };
        efc_tasks::time::in_time(asking, Some(OPEN_TIME_MAX)).await.unwrap_or((None, None))
    }

    fn is_decided(&self, node: u64) -> bool {
        self.table.lock().expect("modes lock").modes.contains_key(&node)
    }

    async fn turn(&self, node: u64) -> Turn<'_> {
        let turns = self.table.lock().expect("modes lock").turns.entry(node).or_default().clone();
        let mut turn = Turn { modes: self, node, turns: turns.clone(), guard: None };
        turn.guard = Some(turns.lock_owned().await);
        turn
    }

    /// Opens that were answered by passthrough, and files that are open so.
    pub fn figures(&self) -> (u64, u64) {
        (self.opens.load(Ordering::Relaxed), self.table.lock().expect("modes lock").passing)
    }
}

impl Table {
    fn enter(&mut self, node: u64, backing: u32) {
        match self.modes.entry(node) {
            Entry::Occupied(mut mode) => mode.get_mut().users += 1,
            Entry::Vacant(vacant) => {
                vacant.insert(Mode { users: 1, backing });
                self.passing += u64::from(backing != 0);
            }
        }
    }

    /// The number that nobody uses any more.
    fn leave(&mut self, node: u64) -> Option<u32> {
        let Entry::Occupied(mut mode) = self.modes.entry(node) else { return None };
        mode.get_mut().users -= 1;
        if mode.get().users > 0 {
            return None;
        }
        let Mode { backing, .. } = mode.remove();
        self.passing -= u64::from(backing != 0);
        (backing != 0).then_some(backing)
    }
}
