//! What names of directories lead to, as answers of the server have said: to an object, or to nothing; and listings.
//!
//! Each name has the answer that it is known by: when the question was sent, and what of the directory that answer stands
//! on ([`Standing`]). [`Names::known`] says what follows from that now, as a [`NameProof`] that the consistency mode judges;
//! what is not to be answered from is a hint, which tells without a call which object a removal or a rename may be about, and
//! which one the kernel knows by a name that cannot be looked up now.
//!
//! All names of a directory are known when its listing was read from begin to end while nothing changed, or when this node
//! has just made the directory; then there are no others, but for those that servers show in no listing ([`may_be_hidden`]). Our own
//! changes are followed.
//!
//! An inode stays while names of it are known: it is what they are compared with.
//!
//! What was not used for longest makes room ([`Memory`]), name by name: a clock goes round through the names of a shard. A directory
//! that loses a name to it is not known whole any more.

mod filter;
mod listing;

use efc_tasks::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use efc_tasks::sync::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Instant;

use efc_backend::FileHandle;
use foldhash::quality::RandomState;
use indexmap::IndexMap;
use smallvec::SmallVec;

use crate::freshness::NameProof;
use crate::inode::Inode;
use crate::inode::standing::Standing;
use crate::memory::Memory;
use crate::version::Version;

use filter::Filter;
pub use listing::{Gathering, ListedName, Listing};

const SHARDS: usize = 16;
/// Names that are looked at to make room, with one lock of a shard: the lock is held for microseconds.
const STEPS_MAX: usize = 256;
/// Shards that are looked at to make room for one more name or page.
const ROUNDS_MAX: usize = 64;
/// A directory whose table has room for more than this many times its names gives memory back.
const SPARE_MAX: usize = 2;

/// A name. A short one lies in its table: each in memory of its own, between inodes, they would keep the system from getting
/// the memory of inodes back.
type Name = SmallVec<[u8; 24]>;

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

/// What is known of one name.
struct Entry {
    /// `None`: there is no such name.
    object: Option<FileHandle>,
    /// The place among all answers from which on it holds.
    order: u64,
    asked: Instant,
    since: Instant,
    changes: u32,
    /// The number of the version that it belongs to; 0: it is not known for certain to belong to one.
    version: u32,
    is_proof: bool,
    is_used: bool,
}

/// All names of a directory are known.
#[derive(Clone, Copy)]
struct Whole {
    /// Names that are known from this place among all answers on are in it.
    order: u64,
    /// When it was asked for.
    read: Instant,
    /// When a call was sent last that has found it so: the first of the listing, or a change of ours.
    asked: Instant,
    changes: u32,
    /// The version that it is the listing of, if that is certain.
    version: Option<Version>,
    /// It was kept over changes of ours.
    is_kept: bool,
    /// One of these did not say what it had found: nothing later proves it anew.
    is_frozen: bool,
}

/// What is known of the names of one directory.
struct Directory {
    /// Held, so that its number of changes by others goes on for as long as names are compared with it.
    inode: Arc<Inode>,
    names: IndexMap<Name, Entry, RandomState>,
    hand: usize,
    /// The last version to which names are known to belong, and its number.
    version: Option<Version>,
    number: u32,
    whole: Option<Whole>,
    listing: Option<Arc<Listing>>,
    /// Moves when a name is lost or changed: a listing that is being read is not whole then.
    losses: u64,
    is_used: bool,
    long_bytes: u64,
    /// What is counted of it.
    bytes: u64,
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

impl Entry {
    fn named(&self) -> Named {
        self.object.map_or(Named::Absent, Named::Object)
    }

    fn new(object: Option<&FileHandle>, standing: &Standing, version: u32) -> Entry {
        Entry {
            object: object.copied(),
            order: standing.order,
            asked: standing.asked.at,
            since: standing.asked.at,
            changes: standing.changes,
            version,
            is_proof: standing.is_proof,
            is_used: false,
        }
    }
}

/// The directory as it is known at this moment.
struct Now {
    changes: u32,
    /// Its version, and when that was asked for, if it is known.
    version: Option<(Version, Instant)>,
}

impl Now {
    fn of(directory: &Inode) -> Now {
        let observed = directory.observed();
        let version = observed.map(|observed| (Version::of(&observed.seen.value), observed.seen.asked.at));
        Now { changes: directory.known_changes_by_others(), version }
    }

    /// When a call was sent last that has shown this version to be the directory's, or else `asked`.
    fn last_shown(&self, version: Option<&Version>, asked: Instant) -> Instant {
        match (version, &self.version) {
            (Some(version), Some((now, shown))) if version == now => asked.max(*shown),
            _ => asked,
        }
    }
}

impl Directory {
    fn new(inode: &Arc<Inode>, losses: u64) -> Directory {
        Directory {
            inode: inode.clone(),
            names: IndexMap::default(),
            hand: 0,
            version: None,
            number: 0,
            whole: None,
            listing: None,
            losses,
            is_used: false,
            long_bytes: 0,
            bytes: 0,
        }
    }

    /// What the entry proves now.
    fn proof(&self, entry: &Entry, now: &Now) -> Option<NameProof> {
        if !entry.is_proof || entry.changes != now.changes {
            return None;
        }
        let version = self.version.as_ref().filter(|_| entry.version != 0 && entry.version == self.number);
        Some(NameProof {
            is_there: entry.object.is_some(),
            asked: now.last_shown(version, entry.asked),
            since: entry.since,
            listed: None,
        })
    }

    /// That there are no other names than those that are known.
    fn whole(&self, now: &Now) -> Option<(Whole, NameProof)> {
        let whole = self.whole.filter(|whole| whole.changes == now.changes)?;
        let proof = NameProof {
            is_there: false,
            asked: now.last_shown(whole.version.as_ref(), whole.asked),
            since: whole.read,
            listed: whole.is_kept.then_some(whole.read),
        };
        Some((whole, proof))
    }

    fn known(&mut self, name: &[u8], now: &Now) -> KnownName {
        self.is_used = true;
        let unknown = KnownName { named: Named::Unknown, proof: None };
        if let Some(entry) = self.names.get_mut(name) {
            entry.is_used = true;
        }
        let entry = self.names.get(name);
        let known = entry.map_or(unknown, |entry| KnownName { named: entry.named(), proof: self.proof(entry, now) });
        let Some((whole, proof)) = self.whole(now).filter(|_| !may_be_hidden(name)) else { return known };
        // A name that the listing has is known by itself.
        let is_listed = entry.is_some_and(|entry| entry.object.is_some() && entry.order >= whole.order);
        let is_newer = known.proof.is_none_or(|known| known.asked < proof.asked);
        if is_listed || !is_newer { known } else { KnownName { named: Named::Absent, proof: Some(proof) } }
    }

    /// The number of the version that an answer is known to belong to; 0: of none.
    fn number_of(&mut self, version: Option<&Version>) -> u32 {
        let Some(version) = version else { return 0 };
        if self.version.as_ref() != Some(version) {
            self.version = Some(*version);
            self.number = self.number.checked_add(1).unwrap_or(1);
        }
        self.number
    }

    /// Takes in what an answer says of a name.
    fn learn(&mut self, name: &[u8], object: Option<&FileHandle>, standing: &Standing) {
        let version = self.number_of(standing.version.as_ref());
        let mut entry = Entry::new(object, standing, version);
        let Some(known) = self.names.get_mut(name) else {
            if object.is_some() && !standing.is_ours {
                self.contradict(name);
            }
            self.long_bytes += long_bytes(name);
            self.names.insert(Name::from_slice(name), entry);
            return;
        };
        if known.order > entry.order {
            return; // an answer to an earlier question
        }
        known.is_used = true;
        let is_same = known.object == entry.object;
        if known.is_proof && !entry.is_proof {
            known.is_proof = is_same;
            return;
        }
        if known.is_proof && is_same {
            entry.since = known.since;
        }
        let is_new = entry.object.is_some() && known.object.is_none();
        *known = Entry { is_used: true, ..entry };
        if is_new && !standing.is_ours {
            self.contradict(name);
        }
    }

    /// An answer shows a name that no answer had shown: what was whole lacks it.
    fn contradict(&mut self, name: &[u8]) {
        self.whole = self.whole.filter(|_| may_be_hidden(name));
    }

    /// What is known is not all any more.
    fn lose(&mut self) {
        self.whole = None;
        self.losses += 1;
    }

    fn remove(&mut self, name: &[u8]) {
        if let Some((name, _)) = self.names.swap_remove_entry(name) {
            self.long_bytes -= long_bytes(&name);
        }
    }

    /// What it takes of memory, in bytes, without its listing. A table has room for up to twice its names.
    fn bytes_now(&self) -> u64 {
        DIRECTORY_BYTES + self.names.len() as u64 * NAME_BYTES * 3 / 2 + self.long_bytes
    }

    /// Counts what it takes now.
    fn count(&mut self, memory: &Memory) {
        let bytes = self.bytes_now();
        memory.change_names(std::mem::replace(&mut self.bytes, bytes), bytes);
    }

    /// Keeps this listing in place of the one that was kept.
    fn keep(&mut self, listing: Option<Arc<Listing>>, memory: &Memory) {
        let bytes = |listing: &Option<Arc<Listing>>| listing.as_ref().map_or(0, |listing| listing.bytes());
        let before = bytes(&self.listing);
        self.listing = listing;
        memory.change_listings(before, bytes(&self.listing));
    }

    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.listing.is_none()
    }
}

/// Is it what servers call the directory of an object's snapshots (`.snapshot`, `.snap`, `~snapshot`, `.zfs`, `.ckpt`)? Many show that in no
/// listing, and find it in each directory all the same.
fn may_be_hidden(name: &[u8]) -> bool {
    matches!(name, b".zfs" | b".ckpt") || name.windows(4).any(|part| part == b"snap")
}

/// What a directory takes beside its names, with its place in the table.
const DIRECTORY_BYTES: u64 = (size_of::<FileHandle>() + size_of::<Directory>() + 4 * size_of::<usize>()) as u64;
/// What a name takes in the table of its directory: its own place, and one of the index.
const NAME_BYTES: u64 = (size_of::<Name>() + size_of::<Entry>() + 3 * size_of::<usize>()) as u64;

/// What a name takes that does not lie in its table.
fn long_bytes(name: &[u8]) -> u64 {
    if name.len() > Name::new().inline_size() { name.len() as u64 } else { 0 }
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

/// The clock has passed all names of a directory: memory that they do not need goes back, and its listing goes if nobody has
/// read it lately. `true` if nothing is left of it.
fn pass(directory: &mut Directory, memory: &Memory) -> bool {
    directory.hand = 0;
    let is_used = std::mem::take(&mut directory.is_used);
    if directory.names.capacity() > 8.max(directory.names.len() * SPARE_MAX) {
        directory.names.shrink_to(directory.names.len() * 3 / 2);
    }
    if !is_used {
        directory.keep(None, memory);
    }
    let is_gone = !is_used && directory.is_empty();
    if is_gone {
        memory.change_names(directory.bytes, 0);
    }
    is_gone
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
        let result = {
            let mut shard = self.shard(directory.handle());
            let found = shard
                .directories
                .entry(*directory.handle())
                .or_insert_with(|| Directory::new(directory, self.readings.fetch_add(1, Ordering::Relaxed) << 32));
            debug_assert!(Arc::ptr_eq(&found.inode, directory), "there is no second inode of a handle that is held");
            let result = change(found);
            found.count(&self.memory);
            result
        };
        self.make_room();
        result
    }

    fn make_room(&self) {
        for _ in 0..ROUNDS_MAX {
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
            known.names.reserve(names.size_hint().0);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Inodes;
    use crate::testing::{attr, handle, inodes, seen, tick};
    use efc_backend::{Attr, FileType, Tick, Wcc, WccAttr};

    /// The directory at a time that this node's clock takes for long ago: its version is settled.
    fn version(ctime: u32) -> Attr {
        Attr { kind: FileType::Directory, ..attr(1, ctime) }
    }

    struct World {
        names: Names,
        inodes: Inodes,
        directory: Arc<Inode>,
    }

    impl World {
        fn new() -> World {
            let inodes = inodes();
            let directory = inodes.of(&handle(b"directory"));
            directory.learn(seen(&version(1)));
            World { names: Names::new(Arc::new(Memory::new(1 << 20))), inodes, directory }
        }

        /// An answer of now, to a question of `asked`.
        fn answer_to(&self, asked: Tick, ctime: u32) -> Standing {
            self.directory.ask_names().answered(asked, Some(&version(ctime)))
        }

        fn answer(&self, ctime: u32) -> Standing {
            self.answer_to(tick(), ctime)
        }

        /// A change of ours.
        fn change(&self, from: u32, to: u32) -> Standing {
            let before = WccAttr { size: 1, mtime: version(from).mtime, ctime: version(from).ctime };
            self.directory.mutate().answered(seen(&Wcc { before: Some(before), after: Some(version(to)) }))
        }

        fn learn(&self, name: &[u8], object: Option<&[u8]>, standing: &Standing) {
            self.names.learn(&self.directory, name, object.map(handle).as_ref(), standing);
        }

        fn known(&self, name: &[u8]) -> (Named, bool) {
            let KnownName { named, proof } = self.names.known(&self.directory, name);
            (named, proof.is_some())
        }

        fn asked(&self, name: &[u8]) -> Instant {
            self.names.known(&self.directory, name).proof.expect("proven").asked
        }

        fn read(&self, names: &[&[u8]], ctime: u32) -> bool {
            let first = self.answer(ctime);
            let reading = self.names.begin_reading(&self.directory, &first);
            let objects: Vec<FileHandle> = names.iter().map(|name| handle(name)).collect();
            self.names.learn_page(&self.directory, names.iter().copied().zip(&objects), &first);
            let listing = Gathering::new(Version::of(&version(ctime)), 1000).finish([0; 8]);
            self.names.finish_reading(&self.directory, (&reading, &self.answer(ctime)), Some(listing))
        }
    }

    fn object(name: &[u8]) -> Named {
        Named::Object(handle(name))
    }

    #[test]
    fn names_are_bounded_and_those_that_are_asked_for_stay() {
        let memory = Arc::new(Memory::new(1 << 20));
        let (names, inodes) = (Names::new(memory.clone()), inodes());
        let directory = |number: u64| {
            let directory = inodes.of(&handle(&(number % 10).to_le_bytes()));
            let standing = directory.ask_names().answered(tick(), None);
            (directory, standing)
        };
        let learn = |number: u64, leads: bool| {
            let (directory, standing) = directory(number);
            let name = (number | u64::from(!leads) << 32).to_le_bytes();
            names.learn(&directory, &name, leads.then_some(&handle(b"object")), &standing);
        };
        let (first, standing) = directory(1);
        names.learn(&first, b"mount point", Some(&handle(b"object")), &standing);
        for number in 0..50_000_u64 {
            learn(number, true);
            learn(number, false);
            if number % 100 == 0 {
                assert_eq!(names.get(first.handle(), b"mount point"), object(b"object"), "after {number} others");
            }
            assert!(memory.used().names <= (1 << 20) + 1000, "{:?}", memory.used());
        }
        let (last, name) = (directory(49_999).0, 49_999_u64.to_le_bytes());
        assert_eq!(names.get(last.handle(), &name), object(b"object"));
        let dropped = |numbers: std::ops::Range<u64>| {
            let is_dropped =
                |number: &u64| names.may_have_dropped(directory(*number).0.handle(), &number.to_le_bytes());
            numbers.filter(is_dropped).count()
        };
        assert_eq!(dropped(0..5000), 5000);
        let never_learned = dropped(100_000..110_000);
        assert!(never_learned < 5000, "{never_learned} of 10,000");
        names.forget(last.handle(), &name);
        assert_eq!(names.get(last.handle(), &name), Named::Unknown);
        (0..10).for_each(|number| names.forget_directory(directory(number).0.handle()));
        assert_eq!(memory.used().names, 0);
    }

    #[test]
    fn the_last_answer_counts() {
        let world = World::new();
        let (earlier, later) = (tick(), tick());
        crate::testing::answer();
        world.learn(b"name", None, &world.answer_to(later, 1));
        assert_eq!(world.known(b"name"), (Named::Absent, true));
        assert_eq!(world.known(b"other"), (Named::Unknown, false));
        world.learn(b"name", Some(b"a"), &world.answer(1));
        assert_eq!(world.known(b"name"), (object(b"a"), true));
        world.learn(b"name", None, &world.answer_to(earlier, 1));
        assert_eq!(world.known(b"name"), (object(b"a"), true), "an overtaken answer");
    }

    #[test]
    fn what_others_change_ends_what_is_known() {
        let world = World::new();
        world.learn(b"name", Some(b"a"), &world.answer(1));
        world.names.changed(&world.directory, b"made", Some(&handle(b"b")), &world.change(1, 2));
        assert_eq!((world.known(b"name"), world.known(b"made")), ((object(b"a"), true), (object(b"b"), true)));
        world.directory.learn(seen(&version(7)));
        assert_eq!((world.known(b"name"), world.known(b"made")), ((object(b"a"), false), (object(b"b"), false)));
        world.names.changed(&world.directory, b"made", None, &world.change(9, 10));
        assert_eq!(world.known(b"made"), (Named::Absent, true), "of the change itself we know");
        world.learn(b"name", Some(b"a"), &world.answer(10));
        assert_eq!(world.known(b"name"), (object(b"a"), true));
        drop(world.directory.mutate());
        assert_eq!(world.known(b"name"), (object(b"a"), false), "a change without an answer");
    }

    #[test]
    fn a_version_that_is_shown_again_proves_its_names_anew() {
        let world = World::new();
        world.learn(b"name", Some(b"a"), &world.answer(1));
        world.learn(b"absent", None, &world.answer(1));
        let learned = world.asked(b"absent");
        std::thread::sleep(Duration::from_millis(1));
        world.directory.learn(seen(&version(1)));
        assert!(world.asked(b"absent") > learned && world.asked(b"name") > learned);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let unsettled = now as u32 + 3;
        world.directory.learn(seen(&version(unsettled)));
        world.learn(b"absent", None, &world.answer(unsettled));
        let learned = world.asked(b"absent");
        std::thread::sleep(Duration::from_millis(1));
        world.directory.learn(seen(&version(unsettled)));
        assert_eq!(world.asked(b"absent"), learned, "another change may have had that version");
    }

    #[test]
    fn a_whole_listing_says_what_is_not_there() {
        let world = World::new();
        assert!(world.read(&[b"a", b"b"], 1));
        assert_eq!((world.known(b"a"), world.known(b"c")), ((object(b"a"), true), (Named::Absent, true)));
        assert!(world.names.listing(&world.directory).is_some());
        let read = world.asked(b"c");
        std::thread::sleep(Duration::from_millis(1));
        world.directory.learn(seen(&version(1)));
        assert!(world.asked(b"c") > read, "validated by the version");
        // Our own changes are followed, for a while.
        world.names.changed(&world.directory, b"c", Some(&handle(b"c")), &world.change(1, 2));
        assert!(world.names.listing(&world.directory).is_none(), "it has no place for the new name");
        world.names.changed(&world.directory, b"a", None, &world.change(2, 3));
        let states = [&b"a"[..], b"b", b"c", b"d"].map(|name| world.known(name));
        let absent = (Named::Absent, true);
        assert_eq!(states, [absent, (object(b"b"), true), (object(b"c"), true), absent]);
        let proof = world.names.known(&world.directory, b"d").proof.expect("proven");
        assert_eq!(proof.listed.expect("a hint"), proof.since);
        let asked = proof.asked;
        world.directory.learn(seen(&version(3)));
        assert_eq!(world.asked(b"d"), asked, "only another listing says more than the hint does");
        // A change that found another version than ours had left.
        world.names.changed(&world.directory, b"e", Some(&handle(b"e")), &world.change(8, 9));
        assert_eq!(world.known(b"d"), (Named::Unknown, false));
    }

    #[test]
    fn a_listing_is_not_whole_if_anything_has_happened_meanwhile() {
        let world = World::new();
        let whole_after = |happens: &dyn Fn(), last: u32| {
            let first = world.answer(1);
            let reading = world.names.begin_reading(&world.directory, &first);
            happens();
            world.names.finish_reading(&world.directory, (&reading, &world.answer(last)), None)
        };
        assert!(whole_after(&|| (), 1));
        assert!(!whole_after(&|| (), 2), "another version");
        world.directory.learn(seen(&version(1)));
        assert!(!whole_after(&|| assert!(world.change(1, 1).is_proof), 1), "a change of ours");
        assert!(!whole_after(&|| world.names.forget(world.directory.handle(), b"x"), 1), "a name was lost");
        let first = world.directory.ask_names().answered(tick(), None);
        let reading = world.names.begin_reading(&world.directory, &first);
        assert!(!world.names.finish_reading(&world.directory, (&reading, &first), None), "no version was shown");
    }

    #[test]
    fn what_contradicts_a_whole_listing_ends_it() {
        let world = World::new();
        assert!(world.read(&[b"a"], 1));
        world.learn(b"c", Some(b"c"), &world.answer(1));
        assert_eq!(world.known(b"d"), (Named::Unknown, false), "another name is there that it lacks");
        assert!(world.read(&[b"a", b"c"], 1));
        world.names.forget(world.directory.handle(), b"a");
        assert_eq!([b"a", b"d"].map(|name| world.known(name)), [(Named::Unknown, false); 2]);
    }

    #[test]
    fn a_change_that_does_not_say_what_it_found_proves_nothing_anew() {
        let world = World::new();
        assert!(world.read(&[b"a"], 1));
        let unsaid = |to| world.directory.mutate().answered(seen(&Wcc { before: None, after: Some(version(to)) }));
        let read = world.asked(b"x");
        std::thread::sleep(Duration::from_millis(1));
        world.names.changed(&world.directory, b"b", Some(&handle(b"b")), &unsaid(2));
        world.names.changed(&world.directory, b"c", Some(&handle(b"c")), &world.change(2, 3));
        assert!(world.asked(b"x") <= read && world.known(b"a").1, "as good as before, and no better");
        world.names.changed(&world.directory, b"d", Some(&handle(b"d")), &world.change(7, 8));
        assert_eq!(world.known(b"x"), (Named::Unknown, false));
        assert!(world.read(&[b"a", b"b", b"c", b"d"], 8));
        let error = efc_backend::Error {
            wcc: Wcc { before: None, after: Some(version(9)) },
            asked: Some(tick()),
            ..efc_backend::Error::new(efc_backend::ErrorKind::Status(efc_backend::Status::NoSpc))
        };
        world.directory.mutate().refused(&error);
        assert_eq!(world.known(b"x"), (Named::Unknown, false), "what has failed has not changed it, so others have");
    }

    #[test]
    fn a_directory_of_our_own_making_is_empty_until_we_change_it() {
        let world = World::new();
        let made = world.inodes.of(&handle(b"made"));
        made.learn(seen(&version(5)));
        world.names.made_directory(&made, &world.change(1, 2));
        let known = |name| world.names.known(&made, name);
        assert!(known(b"x").named == Named::Absent && known(b"x").proof.is_some_and(|proof| proof.listed.is_some()));
        made.learn(seen(&version(6)));
        assert!(known(b"x").proof.is_none(), "others can, too");
        let copy = world.change(2, 3).doubted_if(true);
        world.names.made_directory(&made, &copy);
        assert!(known(b"x").proof.is_none(), "the server may have answered that long ago");
    }

    #[test]
    fn what_has_moved_is_known_as_long_as_what_its_former_name_led_to() {
        let world = World::new();
        world.learn(b"from", Some(b"a"), &world.answer(1));
        let before = world.names.known(&world.directory, b"from").proof.expect("proven");
        std::thread::sleep(Duration::from_millis(1));
        for (name, proof) in [(&b"to"[..], Some(before)), (b"other", None)] {
            let standing = world.change(1, 1);
            world.names.changed(&world.directory, name, Some(&handle(b"a")), &standing);
            world.names.moved(&world.directory, name, proof);
        }
        assert_eq!((world.asked(b"to"), world.known(b"other")), (before.asked, (object(b"a"), false)));
    }

    #[test]
    fn hints_do_not_replace_what_is_proven() {
        let world = World::new();
        let asked = tick();
        crate::testing::answer();
        world.names.changed(&world.directory, b"name", Some(&handle(b"new")), &world.change(1, 2));
        world.learn(b"name", Some(b"old"), &world.answer_to(asked, 1));
        assert_eq!(world.known(b"name"), (object(b"new"), true));
        let hint = world.answer(2).doubted_if(true);
        world.learn(b"name", Some(b"new"), &hint);
        assert_eq!(world.known(b"name"), (object(b"new"), true), "it says the same");
        world.learn(b"name", Some(b"other"), &hint);
        assert_eq!(world.known(b"name"), (object(b"new"), false), "it says something else");
    }

    #[test]
    fn names_that_are_forgotten_while_a_listing_is_large_give_memory_back() {
        let world = World::new();
        let names: Vec<Vec<u8>> =
            (0..500_u32).map(|number| format!("a name of more than {number} bytes").into()).collect();
        let listed: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        assert!(world.read(&listed, 1));
        let used = world.names.memory.used();
        assert!(used.names > 500 * NAME_BYTES && used.listings > 0, "{used:?}");
        world.names.forget_directory(world.directory.handle());
        let used = world.names.memory.used();
        assert_eq!((used.names, used.listings), (0, 0));
    }
}
