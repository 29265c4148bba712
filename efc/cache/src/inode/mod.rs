//! An [`Inode`]: everything that this process knows of one file, directory or link of the server.

pub(crate) mod abandoned;
pub(crate) mod attributes;
pub(crate) mod in_flight;
pub(crate) mod kernel_view;
pub(crate) mod lineage;
pub(crate) mod mutation;
pub(crate) mod searches;
pub(crate) mod standing;
pub(crate) mod table;
pub(crate) mod uses;
pub(crate) mod verdicts;
pub(crate) mod whole_files;
pub(crate) mod writes;

use efc_tasks::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use efc_tasks::sync::{Mutex, MutexGuard, OnceLock};
use std::sync::{Arc, Weak};

use efc_backend::{Cred, FileHandle};

use crate::inode::abandoned::{AllAbandoned, Settled};
use crate::inode::attributes::Shown;
use crate::inode::in_flight::Writings;
use crate::inode::kernel_view::KernelView;
use crate::inode::lineage::Lineage;
use crate::inode::searches::{Search, Searches};
use crate::inode::uses::{AllUses, Uses};
use crate::inode::verdicts::{Permissions, Verdict, Verdicts};
use crate::inode::whole_files::WholeFiles;
use crate::inode::writes::{FILE_WRITES_BYTES, FileWrites};
use crate::memory::Memory;
use crate::version::ServerClock;

/// One object of the server, named by its handle. The kernel's node ids only point at it.
///
/// Who works with an object holds its `Arc`: as long as anybody does, there is no second [`Inode`] of that handle.
pub struct Inode {
    handle: FileHandle,
    pub(crate) shared: Arc<Shared>,
    /// Used since the hand of the clock last passed.
    pub(crate) is_used: AtomicBool,
    facts: Mutex<Facts>,
    /// Nothing, for most inodes most of the time.
    busy: Mutex<Option<Box<Busy>>>,
    /// Opens and changes so far: what was asked for before the last of them is not kept for a reader.
    pub(crate) changes: AtomicU64,
    /// The place of the last open of it among all opens; 0: there was none.
    opened: AtomicU64,
    pub(crate) writes: OnceLock<Box<FileWrites>>,
}

/// What all inodes share.
pub(crate) struct Shared {
    pub memory: Arc<Memory>,
    pub clock: ServerClock,
    pub uses: AllUses,
    pub abandoned: AllAbandoned,
    pub whole_files: WholeFiles,
}

impl Shared {
    /// Of no inodes yet, which take of this memory.
    pub fn new(memory: Arc<Memory>) -> Shared {
        let (clock, uses, abandoned, whole_files) = Default::default();
        Shared { memory, clock, uses, abandoned, whole_files }
    }
}

/// What is known of an object.
#[derive(Default)]
pub(crate) struct Facts {
    pub known: Option<Shown>,
    /// Replies to calls from before this place among all answers are not answered from.
    pub expired: u64,
    pub lineage: Lineage,
    pub permissions: Permissions,
    /// The file behind it in the last listing that has shown both; of a directory, the first of its listing. (Its memory stays for as long, but it is the older inode that makes room
    /// first.)
    pub next: Weak<Inode>,
    pub kernel: KernelView,
}

/// What is under way at an object, and what only few objects have.
#[derive(Default)]
pub(crate) struct Busy {
    pub uses: Uses,
    pub searches: Searches,
    pub verdicts: Verdicts,
    pub writings: Writings,
    pub abandoned: Vec<Settled>,
    /// What is counted of it, in bytes.
    counted: u64,
}

impl Busy {
    /// What it takes of memory, in bytes, as far as that stays when nothing is under way.
    fn bytes(&self) -> u64 {
        let (searches, verdicts) = (self.searches.capacity(), self.verdicts.capacity());
        // The groups of a caller lie elsewhere, for each process that he has anew.
        let groups = Cred::GROUPS_MAX * size_of::<u32>() + 2 * size_of::<usize>();
        let lists = searches * (size_of::<Search>() + groups) + verdicts * (size_of::<(Cred, Verdict)>() + groups);
        (size_of::<Busy>() + lists) as u64
    }

    fn is_idle(&self) -> bool {
        self.uses.is_idle() && self.writings.is_empty() && self.abandoned.is_empty()
    }
}

impl Inode {
    pub(crate) fn new(handle: FileHandle, shared: Arc<Shared>) -> Inode {
        Inode {
            handle,
            shared,
            is_used: AtomicBool::new(false), // one that is seen once makes room before those that are used
            facts: Mutex::default(),
            busy: Mutex::default(),
            changes: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            writes: OnceLock::new(),
        }
    }

    /// The server's name of the object.
    pub fn handle(&self) -> &FileHandle {
        &self.handle
    }

    /// A listing shows this file behind the other, or first in that directory.
    pub fn is_listed_behind(self: &Arc<Self>, former: &Inode) {
        former.facts().next = Arc::downgrade(self);
    }

    /// The first file of a listing of this directory, if it is still known; then the one behind this, in the last listing that has
    /// shown both.
    pub fn next_listed(&self) -> Option<Arc<Inode>> {
        self.facts().next.upgrade()
    }

    /// It is opened, as the open of this place among all. Answers the place of the one before.
    pub fn note_open(&self, place: u64) -> u64 {
        self.opened.swap(place, Ordering::Relaxed)
    }

    /// The place of the last open among all opens; 0: there was none.
    pub fn last_open(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Is the object neither open nor being removed, and is nothing under way at it or uncommitted?
    pub fn is_idle(&self) -> bool {
        self.while_busy(Busy::is_idle).unwrap_or(true) && !self.has_uncommitted()
    }

    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().expect("facts lock")
    }

    /// Looks at what is under way, if anything is.
    pub(crate) fn while_busy<T>(&self, look: impl FnOnce(&Busy) -> T) -> Option<T> {
        self.busy.lock().expect("busy lock").as_deref().map(look)
    }

    /// Changes what is under way.
    pub(crate) fn change_busy<T>(&self, change: impl FnOnce(&mut Busy) -> T) -> T {
        let mut busy = self.busy.lock().expect("busy lock");
        let found = busy.get_or_insert_default();
        let result = change(found);
        let is_over = found.is_idle() && found.searches.is_empty() && found.verdicts.is_empty();
        let bytes = if is_over { 0 } else { found.bytes() };
        self.shared.memory.change_inodes(std::mem::replace(&mut found.counted, bytes), bytes);
        if is_over {
            *busy = None;
        }
        result
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        if let Some(busy) = self.busy.get_mut().expect("busy lock").as_deref() {
            self.shared.memory.change_inodes(busy.counted, 0);
        }
        if self.writes.get().is_some() {
            self.shared.memory.change_inodes(FILE_WRITES_BYTES, 0);
        }
    }
}

impl PartialEq for Inode {
    fn eq(&self, other: &Inode) -> bool {
        self.handle == other.handle
    }
}

impl std::fmt::Debug for Inode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inode({:?})", self.handle)
    }
}
