//! The known names of one directory, and what follows from them now.

use std::sync::Arc;
use std::time::Instant;

use efc_backend::FileHandle;
use foldhash::quality::RandomState;
use indexmap::IndexMap;
use smallvec::SmallVec;

use super::listing::Listing;
use super::{KnownName, Named};
use crate::freshness::NameProof;
use crate::inode::Inode;
use crate::inode::standing::Standing;
use crate::memory::Memory;
use crate::version::Version;

/// A table of names has room for so many.
const NAMES_MIN: usize = 3;
/// A directory whose table has room for more than this many times its names gives memory back.
const SPARE_MAX: usize = 2;

/// A name. A short one lies in its table: each in memory of its own, between inodes, they would keep the system from getting
/// the memory of inodes back.
pub(super) type Name = SmallVec<[u8; 24]>;

/// What is known of one name.
pub(super) struct Entry {
    /// `None`: there is no such name.
    pub(super) object: Option<FileHandle>,
    /// The place among all answers from which on it holds.
    pub(super) order: u64,
    pub(super) asked: Instant,
    pub(super) since: Instant,
    pub(super) changes: u32,
    /// The number of the version that it belongs to; 0: it is not known for certain to belong to one.
    pub(super) version: u32,
    pub(super) is_proof: bool,
    pub(super) is_used: bool,
}

/// All names of a directory are known.
#[derive(Clone, Copy)]
pub(super) struct Whole {
    /// Names that are known from this place among all answers on are in it.
    pub(super) order: u64,
    /// When it was asked for.
    pub(super) read: Instant,
    /// When a call was sent last that has found it so: the first of the listing, or a change of ours.
    pub(super) asked: Instant,
    pub(super) changes: u32,
    /// The version that it is the listing of, if that is certain.
    pub(super) version: Option<Version>,
    /// It was kept over changes of ours.
    pub(super) is_kept: bool,
    /// One of these did not say what it had found: nothing later proves it anew.
    pub(super) is_frozen: bool,
}

/// What is known of the names of one directory.
pub(super) struct Directory {
    /// Held, so that its number of changes by others goes on for as long as names are compared with it.
    pub(super) inode: Arc<Inode>,
    pub(super) names: IndexMap<Name, Entry, RandomState>,
    pub(super) hand: usize,
    /// The last version to which names are known to belong, and its number.
    pub(super) version: Option<Version>,
    pub(super) number: u32,
    pub(super) whole: Option<Whole>,
    pub(super) listing: Option<Arc<Listing>>,
    /// Moves when a name is lost or changed: a listing that is being read is not whole then.
    pub(super) losses: u64,
    pub(super) is_used: bool,
    pub(super) long_bytes: u64,
    /// What is counted of it.
    pub(super) bytes: u64,
}

impl Entry {
    pub(super) fn named(&self) -> Named {
        self.object.map_or(Named::Absent, Named::Object)
    }

    pub(super) fn new(object: Option<&FileHandle>, standing: &Standing, version: u32) -> Entry {
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
pub(super) struct Now {
    changes: u32,
    /// Its version, and when that was asked for, if it is known.
    version: Option<(Version, Instant)>,
}

impl Now {
    pub(super) fn of(directory: &Inode) -> Now {
        let observed = directory.observed();
        let version = observed.map(|observed| (Version::of(&observed.seen.value), observed.seen.asked.at));
        Now { changes: directory.known_changes_by_others(), version }
    }

    /// When a call was sent last that has shown this version to be the directory's, or else `asked`.
    pub(super) fn last_shown(&self, version: Option<&Version>, asked: Instant) -> Instant {
        match (version, &self.version) {
            (Some(version), Some((now, shown))) if version == now => asked.max(*shown),
            _ => asked,
        }
    }
}

impl Directory {
    pub(super) fn new(inode: &Arc<Inode>, losses: u64) -> Directory {
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
    pub(super) fn proof(&self, entry: &Entry, now: &Now) -> Option<NameProof> {
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
    pub(super) fn whole(&self, now: &Now) -> Option<(Whole, NameProof)> {
        let whole = self.whole.filter(|whole| whole.changes == now.changes)?;
        let proof = NameProof {
            is_there: false,
            asked: now.last_shown(whole.version.as_ref(), whole.asked),
            since: whole.read,
            listed: whole.is_kept.then_some(whole.read),
        };
        Some((whole, proof))
    }

    pub(super) fn known(&mut self, name: &[u8], now: &Now) -> KnownName {
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
    pub(super) fn number_of(&mut self, version: Option<&Version>) -> u32 {
        let Some(version) = version else { return 0 };
        if self.version.as_ref() != Some(version) {
            self.version = Some(*version);
            self.number = self.number.checked_add(1).unwrap_or(1);
        }
        self.number
    }

    /// Takes in what an answer says of a name.
    pub(super) fn learn(&mut self, name: &[u8], object: Option<&FileHandle>, standing: &Standing) {
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
    pub(super) fn contradict(&mut self, name: &[u8]) {
        self.whole = self.whole.filter(|_| may_be_hidden(name));
    }

    /// What is known is not all any more.
    pub(super) fn lose(&mut self) {
        self.whole = None;
        self.losses += 1;
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        if let Some((name, _)) = self.names.swap_remove_entry(name) {
            self.long_bytes -= long_bytes(&name);
        }
    }

    /// What it takes of memory, in bytes, without its listing. A table has room for up to twice its names, and for three at least.
    pub(super) fn bytes_now(&self) -> u64 {
        let places = (self.names.len() as u64 * 3 / 2).max(self.names.capacity().min(NAMES_MIN) as u64);
        DIRECTORY_BYTES + places * NAME_BYTES + self.long_bytes
    }

    /// Counts what it takes now.
    pub(super) fn count(&mut self, memory: &Memory) {
        let bytes = self.bytes_now();
        memory.change_names(std::mem::replace(&mut self.bytes, bytes), bytes);
    }

    /// Keeps this listing in place of the one that was kept.
    pub(super) fn keep(&mut self, listing: Option<Arc<Listing>>, memory: &Memory) {
        let bytes = |listing: &Option<Arc<Listing>>| listing.as_ref().map_or(0, |listing| listing.bytes());
        let before = bytes(&self.listing);
        self.listing = listing;
        memory.change_listings(before, bytes(&self.listing));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.listing.is_none()
    }
}

/// Is it what servers call the directory of an object's snapshots (`.snapshot`, `.snap`, `~snapshot`, `.zfs`, `.ckpt`)? Many show that in no
/// listing, and find it in each directory all the same.
fn may_be_hidden(name: &[u8]) -> bool {
    matches!(name, b".zfs" | b".ckpt") || name.windows(4).any(|part| part == b"snap")
}

/// What a directory takes beside its names, with its place in the table.
pub(super) const DIRECTORY_BYTES: u64 =
    (size_of::<FileHandle>() + size_of::<Directory>() + 4 * size_of::<usize>()) as u64;
/// What a name takes in the table of its directory: its own place, and one of the index.
pub(super) const NAME_BYTES: u64 = (size_of::<Name>() + size_of::<Entry>() + 3 * size_of::<usize>()) as u64;

/// What a name takes that does not lie in its table.
pub(super) fn long_bytes(name: &[u8]) -> u64 {
    if name.len() > Name::new().inline_size() { name.len() as u64 } else { 0 }
}

/// The clock has passed all names of a directory: memory that they do not need goes back, and its listing goes if nobody has
/// read it lately. `true` if nothing is left of it.
pub(super) fn pass(directory: &mut Directory, memory: &Memory) -> bool {
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
