//! Which objects the names of directories lead to, by the server's answers: to an object, or to nothing; and listings.
//!
//! Each name is stored with the answer it was learnt from: when the question was sent, and the state of the directory
//! that the answer rests on ([`Standing`]). [`Names::known`] derives from that, as of now, a [`NameProof`], which the
//! consistency mode judges. A name that may not be answered from is still a hint: without a call, it tells which object
//! a removal or a rename may be about, and which one the kernel knows by a name that cannot be looked up at present.
//!
//! All names of a directory are known when its listing was read from beginning to end while nothing changed, or when
//! this node has just created it; then there are no others, except for those that servers show in no listing. Our own
//! changes are applied.
//!
//! An inode stays while names of it are known, because names are compared with it.
//!
//! The least recently used names are evicted ([`Memory`]), one by one: a clock hand goes round through the names of a
//! shard. A directory that loses a name to eviction is no longer known completely.

mod directory;
mod filter;
mod listing;
#[cfg(test)]
mod tests;

use efc_tasks::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use efc_tasks::sync::{Mutex, MutexGuard};
use std::sync::Arc;

use efc_backend::FileHandle;
use foldhash::quality::RandomState;
use indexmap::IndexMap;

use crate::freshness::NameProof;
use crate::inode::Inode;
use crate::inode::standing::Standing;
use crate::memory::Memory;

use directory::{Directory, Now, Whole, long_bytes, pass};
use filter::Filter;
pub use listing::{Gathering, ListedName, Listing};

const SHARDS: usize = 16;
/// Names that are looked at to make room, with one lock of a shard: the lock is held for microseconds.
const STEPS_MAX: usize = 256;
/// Names that are looked at, on average, to make room for one: the hand of the clock passes those that were used of late.
const STEPS_FOR_ONE: usize = 4;
/// Shards that are looked at to make room, however few names have come.
const ROUNDS_MIN: usize = 64;
/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// This object.
    Object(FileHandle),
    /// There is no such name.
    Absent,
    /// No answer has said it lately.
    Unknown,
}

/// What is known of a name now.
#[derive(Clone, Copy, Debug)]
pub struct KnownName {
    /// What it leads to.
    pub named: Named,
    /// Since when; `None`: a hint, which is not answered from.
    pub proof: Option<NameProof>,
}

/// The directories of a shard, with the hand of the clock.
#[derive(Default)]
struct Shard {
    directories: IndexMap<FileHandle, Directory, RandomState>,
    hand: usize,
    /// Names that have led somewhere and made room; made for the first of them.
    dropped: Option<Filter>,
}

/// What names lead to, and listings.
pub struct Names {
    memory: Arc<Memory>,
    shards: [Mutex<Shard>; SHARDS],
    /// The shard whose clock goes on next.
    next: AtomicUsize,
    /// Directories that were ever known: each begins with another number of losses.
    readings: AtomicU64,
}

/// A listing is being read: what must not have happened until it is whole.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    losses: u64,
    first: Standing,
}

impl Named {
    /// The object, if there is one.
    pub fn object(self) -> Option<FileHandle> {
        match self {
            Named::Object(object) => Some(object),
            Named::Absent | Named::Unknown => None,
        }
    }
}

impl Shard {
    /// Goes on with the clock, at most so many steps; `false` if there is nothing left that could go.
    fn make_room(&mut self, memory: &Memory) -> bool {
        for _ in 0..STEPS_MAX {
            if self.directories.is_empty() || !memory.has_too_many_names() {
                break;
            }
            self.hand = if self.hand < self.directories.len() { self.hand } else { 0 };
            let (handle, directory) = self.directories.get_index_mut(self.hand).expect("within");
            let Some((_, entry)) = directory.names.get_index_mut(directory.hand) else {
                let is_gone = pass(directory, memory);
                if is_gone {
                    self.directories.swap_remove_index(self.hand);
                } else {
                    self.hand += 1;
                }
                continue;
            };
            if std::mem::take(&mut entry.is_used) {
                directory.hand += 1;
                continue;
            }
            let (name, entry) = directory.names.swap_remove_index(directory.hand).expect("within");
            directory.hand += 1; // past the newest name, if that is in its place now
            directory.long_bytes -= long_bytes(&name);
            if entry.object.is_some() {
                directory.lose();
                self.dropped.get_or_insert_with(Filter::new).insert((handle, &name[..]));
            }
            directory.count(memory);
        }
        !self.directories.is_empty()
    }
}

impl Names {
    /// Remembers as much as there is `memory` for.
    pub fn new(memory: Arc<Memory>) -> Names {
        Names { memory, shards: Default::default(), next: AtomicUsize::new(0), readings: AtomicU64::new(0) }
    }

    fn shard(&self, directory: &FileHandle) -> MutexGuard<'_, Shard> {
        let sum = |bytes: &[u8]| bytes.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31) + usize::from(*byte));
        self.shards[sum(directory.as_bytes()) % SHARDS].lock().expect("names lock")
    }

    /// Looks at what is known of a directory, if anything is.
    fn look<T>(&self, directory: &FileHandle, look: impl FnOnce(&mut Directory) -> T) -> Option<T> {
        self.shard(directory).directories.get_mut(directory).map(look)
    }

    /// Changes what is known of a directory, and makes room for it.
    fn change<T>(&self, directory: &Arc<Inode>, change: impl FnOnce(&mut Directory) -> T) -> T {
        let (result, added) = {
            let mut shard = self.shard(directory.handle());
            let found = shard
                .directories
                .entry(*directory.handle())
                .or_insert_with(|| Directory::new(directory, self.readings.fetch_add(1, Ordering::Relaxed) << 32));
            debug_assert!(Arc::ptr_eq(&found.inode, directory), "there is no second inode of a handle that is held");
            let before = found.names.len();
            let result = change(found);
            found.count(&self.memory);
            (result, found.names.len().saturating_sub(before))
        };
        self.make_room(added);
        result
    }

    /// After so many names were added. All names may be in one shard.
    fn make_room(&self, added: usize) {
        for _ in 0..ROUNDS_MIN.max(added * STEPS_FOR_ONE / STEPS_MAX * SHARDS) {
            if !self.memory.has_too_many_names() {
                return;
            }
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            self.shards[next % SHARDS].lock().expect("names lock").make_room(&self.memory);
        }
    }

    /// An answer says what the name leads to, or that there is no such name.
    pub fn learn(&self, directory: &Arc<Inode>, name: &[u8], object: Option<&FileHandle>, standing: &Standing) {
        self.change(directory, |known| known.learn(name, object, standing));
    }

    /// An answer to a change of ours says what the name leads to since, or that there is no such name any more. What else is
    /// known of the directory stays so, if nobody else has changed it.
    pub fn changed(&self, directory: &Arc<Inode>, name: &[u8], object: Option<&FileHandle>, standing: &Standing) {
        self.change(directory, |known| {
            known.keep(None, &self.memory);
            known.losses += 1; // what is being read may lack it, or have it
            let asked = standing.asked.at;
            known.whole = known.whole.filter(|whole| standing.is_proof && whole.changes == standing.changes);
            known.whole = known.whole.map(|whole| {
                let is_frozen = whole.is_frozen || !standing.is_chained;
                let asked = if is_frozen { whole.asked } else { whole.asked.max(asked) };
                Whole { asked, version: None, is_kept: true, is_frozen, ..whole }
            });
            known.learn(name, object, standing);
        });
    }

    /// The name leads to what another name has led to, by this proof: what it leads to is known for no longer than that was.
    pub fn moved(&self, directory: &Arc<Inode>, name: &[u8], proof: Option<NameProof>) {
        self.look(directory.handle(), |known| {
            let Some(entry) = known.names.get_mut(name) else { return };
            match proof {
                Some(proof) => (entry.asked, entry.since) = (entry.asked.min(proof.asked), proof.asked),
                None => entry.is_proof = false,
            }
        });
    }

    /// This node has made the directory: it is empty.
    pub fn made_directory(&self, directory: &Arc<Inode>, standing: &Standing) {
        if !standing.is_proof {
            return;
        }
        let (asked, changes) = (standing.asked.at, directory.known_changes_by_others());
        let whole = Whole {
            order: standing.order,
            read: asked,
            asked,
            changes,
            version: None,
            is_kept: true,
            is_frozen: false,
        };
        self.change(directory, |known| known.whole = Some(whole));
    }

    /// It is not known any more what the name leads to.
    pub fn forget(&self, directory: &FileHandle, name: &[u8]) {
        self.look(directory, |known| {
            known.remove(name);
            known.lose();
        });
    }

    /// The directory has been removed.
    pub fn forget_directory(&self, directory: &FileHandle) {
        let Some(mut known) = self.shard(directory).directories.swap_remove(directory) else { return };
        self.memory.change_names(known.bytes, 0);
        known.keep(None, &self.memory);
    }

    /// What the name led to when it was last learned.
    pub fn get(&self, directory: &FileHandle, name: &[u8]) -> Named {
        let named = self.look(directory, |known| {
            let entry = known.names.get_mut(name)?;
            entry.is_used = true;
            Some(entry.named())
        });
        named.flatten().unwrap_or(Named::Unknown)
    }

    /// What is known of the name now.
    pub fn known(&self, directory: &Inode, name: &[u8]) -> KnownName {
        let now = Now::of(directory);
        let known = self.look(directory.handle(), |known| known.known(name, &now));
        known.unwrap_or(KnownName { named: Named::Unknown, proof: None })
    }

    /// May this name have led somewhere, and have made room for others since? Nearly always false if it never did.
    pub fn may_have_dropped(&self, directory: &FileHandle, name: &[u8]) -> bool {
        self.shard(directory).dropped.as_ref().is_some_and(|dropped| dropped.may_hold((directory, name)))
    }

    /// The first page of a listing was read.
    pub fn begin_reading(&self, directory: &Arc<Inode>, first: &Standing) -> Reading {
        Reading { losses: self.change(directory, |known| known.losses), first: *first }
    }

    /// A page says what names lead to.
    pub fn learn_page<'a>(
        &self,
        directory: &Arc<Inode>,
        names: impl Iterator<Item = (&'a [u8], &'a FileHandle)>,
        standing: &Standing,
    ) {
        self.change(directory, |known| {
            known.names.reserve(names.size_hint().1.unwrap_or_default());
            names.for_each(|(name, object)| known.learn(name, Some(object), standing));
        });
    }

    /// The last page of a listing was read: all names are known, if nothing has changed since the first. Answers whether it is so.
    pub fn finish_reading(
        &self,
        directory: &Arc<Inode>,
        (reading, last): (&Reading, &Standing),
        listing: Option<Listing>,
    ) -> bool {
        let first = &reading.first;
        let is_same = first.shown.is_some() && first.shown == last.shown && first.changes == last.changes;
        if !is_same || !first.is_proof || !last.is_proof || !directory.is_quiet_since(first.order) {
            return false;
        }
        self.change(directory, |known| {
            if known.losses != reading.losses {
                return false;
            }
            let version = first.version.filter(|version| last.version.as_ref() == Some(version));
            known.whole = Some(Whole {
                order: first.order,
                read: first.asked.at,
                asked: first.asked.at,
                changes: first.changes,
                version,
                is_kept: false,
                is_frozen: false,
            });
            known.is_used = true;
            known.keep(listing.map(Arc::new), &self.memory);
            true
        })
    }

    /// The listing of the directory as it is, if it is kept, and since when that is known.
    pub fn listing(&self, directory: &Inode) -> Option<(Arc<Listing>, NameProof)> {
        let now = Now::of(directory);
        self.look(directory.handle(), |known| {
            known.is_used = true;
            let (_, proof) = known.whole(&now)?;
            Some((known.listing.clone()?, proof))
        })?
    }

    /// Most bytes of a listing that is worth keeping.
    pub fn listing_bytes_max(&self) -> u64 {
        self.memory.max() / 8
    }
}
