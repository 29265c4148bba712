//! Nodes: what the kernel's node ids stand for.
//!
//! A node id is the slot of a record and its generation, so an id that the kernel should have forgotten never names
//! another file. The record holds the file handle and how often the kernel was told of the node; it is freed when the
//! kernel has dropped as many references. Counts are raised before the answer that carries the id, and a FORGET that
//! dies with a daemon is not repeated, so a count can only be too high: then the node is known longer than need be.
//!
//! From handle to node leads an index in process memory: per shard a table of slots, whose keys are the handles in the
//! records themselves. A shard's lock guards publishing, freeing and counting of its nodes, so a lookup that finds a
//! node always finds it with a count above zero, whatever FORGET runs at the same time. Resolving an id takes no lock.
//!
//! A successor makes the index anew, on a thread of its own: a million nodes take 0.2 s, and reads of open files, which
//! resolve ids, need not wait for it. What needs the index or a free slot does ([`Nodes::find_id`], [`Nodes::lookup`]).
//! The index could lie in the memfd itself, but then a torn or damaged chain would cost more than a record, and each
//! lookup would have to mistrust it. A FORGET does not wait: it lowers the count where it is, and a node that goes
//! before the scan has reached it is found free by the scan.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::file_handles::{HANDLE_WORDS, Rest, pack_handle, unpack_handle};
use super::gate::Gate;
use super::layout::Header;
use super::record::{Id, Record};
use super::region::Region;
use super::regions::NODES;

/// What a node id stands for. Immutable while the node is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The server's name of the file, at most [`crate::FILE_HANDLE_MAX`] bytes.
    pub handle: Vec<u8>,
    /// The inode number of the file.
    pub fileid: u64,
    /// `S_IFMT` bits
    pub kind: u32,
}

/// The root, which the kernel knows as node 1 without ever looking it up.
pub const ROOT: Id = Id { generation: 0, slot: 1 };

// Mutable words.
const LOOKUPS: usize = 0;
const VERIFIER: usize = 1;
const UNCOMMITTED: usize = 2;
const PARENT: usize = 3;
/// A value of UNCOMMITTED: the node has uncommitted data, and a successor cannot send all of it again. To releases that
/// keep no written data every value but 0 means this.
const NOT_KEPT: u64 = 1;
/// A value of UNCOMMITTED: the node has uncommitted data, and all of it is saved for a successor.
const KEPT: u64 = 2;
// Sealed words.
const FILEID: usize = 0;
const KIND_AND_LENGTH: usize = 1;
const HANDLE: usize = 2;

const _: () = assert!(NODES.sealed() >= HANDLE + HANDLE_WORDS);

/// An open file takes as much memory as so many nodes: its record, what the daemon knows of it, and the inode, which stays.
const NODES_OF_AN_OPEN: u64 = 7;
/// A request that waits for the server takes as much memory as so many: its task, its call, and its slot where requests are saved.
const NODES_OF_A_REQUEST: u64 = 40;
/// This part of the memory for nodes is for opens and requests alone: what is known can be opened though no more can be looked up.
const OTHERS_PART: u64 = 8;

const SHARDS: usize = 64;
/// A shard with room for this many times its entries gives memory back, unless it is small.
const SPARE_MAX: usize = 8;
const SPARE_MIN: usize = 64;

/// A file handle as it lies in a record, and its hash.
struct Key {
    words: [u64; HANDLE_WORDS],
    rest: Rest,
    hash: u64,
}

type Shard = HashTable<u32>;

/// A predecessor's nodes that no name has led to since: the kernel may know them by names that nobody here does.
#[derive(Default)]
struct Unseen {
    /// A bit per slot. Changed under the lock of `by_parent`.
    slots: OnceLock<Box<[AtomicU64]>>,
    /// Directory -> how many of them were seen last in it.
    by_parent: Mutex<HashMap<u64, u32>>,
}

impl Unseen {
    /// The word and the bit in it of a slot that is marked.
    fn mark_of(&self, slot: u32) -> Option<(&AtomicU64, u64)> {
        let word = self.slots.get()?.get(slot as usize / 64)?;
        let bit = 1 << (slot % 64);
        (word.load(Ordering::Relaxed) & bit != 0).then_some((word, bit))
    }

    fn insert(&self, slot: u32, parent: u64) {
        let Some(word) = self.slots.get().and_then(|slots| slots.get(slot as usize / 64)) else { return };
        let (mut by_parent, bit) = (self.by_parent.lock().expect("unseen nodes lock"), 1 << (slot % 64));
        if parent != 0 && word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            *by_parent.entry(parent).or_default() += 1;
        }
    }

    /// A name has led to the node, or it is gone. Not to be called after its parent has changed.
    fn remove(&self, slot: u32, parent: &AtomicU64) {
        if self.mark_of(slot).is_none() {
            return;
        }
        let mut by_parent = self.by_parent.lock().expect("unseen nodes lock");
        let Some((word, bit)) = self.mark_of(slot) else { return };
        word.fetch_and(!bit, Ordering::Relaxed);
        let parent = parent.load(Ordering::Relaxed);
        let count = by_parent.get_mut(&parent).expect("a node that is marked is counted");
        *count -= 1;
        if *count == 0 {
            by_parent.remove(&parent);
        }
    }

    fn is_any_in(&self, parent: u64) -> bool {
        self.by_parent.lock().expect("unseen nodes lock").contains_key(&parent)
    }
}

pub struct Nodes {
    region: Region,
    shards: Box<[Mutex<Shard>]>,
    hasher: DefaultHashBuilder,
    count: AtomicU64,
    /// Nodes that there may be; those that are there already stay.
    count_max: AtomicU64,
    /// Files and directories that are open, which take of the same memory.
    opens: AtomicU64,
    /// Requests under way, as they were counted last, which do so too.
    requests: AtomicU64,
    /// The root, as it was when its record was whole.
    root: Mutex<Option<Node>>,
    unseen: Unseen,
    /// Opened when the index is whole.
    indexed: Gate,
    damaged: AtomicU64,
}

impl Nodes {
    /// The nodes of a state, to be found by [`Nodes::index`], for the daemon that opens it next.
    pub fn open(header: &Header) -> io::Result<Nodes> {
        let (region, header, daemon) = (header.region(&NODES)?, header.clone(), header.last_daemon() + 1);
        let region = region.shrinking(move || header.last_daemon() != daemon);
        region.provide(ROOT.slot)?;
        let nodes = Nodes {
            region,
            shards: (0..SHARDS).map(|_| Mutex::new(HashTable::new())).collect(),
            hasher: DefaultHashBuilder::default(),
            count: AtomicU64::new(0),
            count_max: AtomicU64::new(u64::MAX),
            opens: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            root: Mutex::new(None),
            unseen: Unseen::default(),
            indexed: Gate::new(),
            damaged: AtomicU64::new(0),
        };
        *nodes.root.lock().expect("root lock") = nodes.read(ROOT);
        Ok(nodes)
    }

    /// Slots to look at when the index is made.
    pub fn slots(&self) -> u32 {
        self.region.allocated()
    }

    /// Makes the index. Once, before or beside other calls.
    pub fn index(&self) {
        let expected = self.region.allocated() as usize / SHARDS;
        let words = self.region.allocated().div_ceil(64);
        self.unseen.slots.get_or_init(|| (0..words).map(|_| AtomicU64::new(0)).collect());
        let damaged = self.region.scan(|id, record| {
            let hash = self.hash_of(&record);
            let mut shard = self.shard(hash);
            if !record.is_live(id.generation) {
                return false; // forgotten since it was examined
            }
            if shard.is_empty() {
                // A little more than the mean, or most tables would grow once more.
                shard.reserve(expected + expected / 16, |_| unreachable!("the table is empty"));
            }
            shard.insert_unique(hash, id.slot, |slot| self.hash_of(&record_of(&self.region, *slot)));
            self.unseen.insert(id.slot, record.mutable()[PARENT].load(Ordering::Relaxed));
            self.count.fetch_add(1, Ordering::Relaxed);
            true
        });
        self.damaged.store(damaged, Ordering::Relaxed);
        self.indexed.open();
    }

    /// Ready when the index is whole; [`Nodes::lookup`] and [`Nodes::find_id`] do not block from then on.
    pub fn poll_indexed(&self, context: &Context<'_>) -> Poll<()> {
        self.indexed.poll(context)
    }

    /// How many records were damaged.
    pub fn damaged(&self) -> u64 {
        self.indexed.wait();
        self.damaged.load(Ordering::Relaxed)
    }

    fn key(&self, handle: &[u8]) -> io::Result<Key> {
        let mut words = [0; HANDLE_WORDS];
        let rest = pack_handle(handle, &mut words).ok_or(rustix::io::Errno::INVAL)?;
        Ok(Key { words, rest, hash: hash_words(&self.hasher, &words) })
    }

    fn hash_of(&self, record: &Record<'_>) -> u64 {
        let handle = &record.sealed()[HANDLE..HANDLE + HANDLE_WORDS];
        hash_words(&self.hasher, &std::array::from_fn(|index| handle[index].load(Ordering::Relaxed)))
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        self.shards[shard_of(hash)].lock().expect("node shard lock")
    }

    fn find(&self, shard: &Shard, key: &Key) -> Option<u32> {
        shard.find(key.hash, |slot| is(&record_of(&self.region, *slot), key)).copied()
    }

    /// Sets what the root is. Not for use beside other calls.
    pub fn set_root(&self, node: &Node) -> io::Result<()> {
        self.indexed.wait();
        let key = self.key(&node.handle)?;
        *self.root.lock().expect("root lock") = Some(node.clone());
        let old = self.read(ROOT);
        if old.as_ref() == Some(node) {
            return Ok(());
        }
        if let Some(old) = old {
            let old = self.key(&old.handle)?;
            self.remove(&mut self.shard(old.hash), old.hash, ROOT);
        }
        let mut shard = self.shard(key.hash);
        self.publish(&mut shard, ROOT, &record_of(&self.region, ROOT.slot), node, &key);
        Ok(())
    }

    /// The node of this handle, counted once more; made if it is not known. Waits for the index.
    pub fn lookup(&self, node: &Node) -> io::Result<u64> {
        self.indexed.wait();
        let key = self.key(&node.handle)?;
        let mut shard = self.shard(key.hash);
        if let Some(slot) = self.find(&shard, &key) {
            let record = record_of(&self.region, slot);
            record.mutable()[LOOKUPS].fetch_add(1, Ordering::Relaxed);
            return Ok(self.id_in_use(slot).into());
        }
        if !self.has_room() {
            return Err(rustix::io::Errno::NOMEM.into());
        }
        let (id, record) = self.region.take()?;
        self.publish(&mut shard, id, &record, node, &key);
        Ok(id.into())
    }

    fn publish(&self, shard: &mut Shard, id: Id, record: &Record<'_>, node: &Node, key: &Key) {
        let mut sealed = [0; NODES.sealed()];
        sealed[FILEID] = node.fileid;
        sealed[KIND_AND_LENGTH] = u64::from(node.kind) | key.rest.word() << 32;
        sealed[HANDLE..HANDLE + HANDLE_WORDS].copy_from_slice(&key.words);
        record.publish(id.generation, &[1], &sealed);
        shard.insert_unique(key.hash, id.slot, |slot| self.hash_of(&record_of(&self.region, *slot)));
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends a node; `true` if its slot is to be given back. It is not if the index lacks it: then the scan will find it
    /// free.
    fn remove(&self, shard: &mut Shard, hash: u64, id: Id) -> bool {
        record_of(&self.region, id.slot).unpublish(id.generation);
        let Ok(entry) = shard.find_entry(hash, |slot| *slot == id.slot) else { return false };
        entry.remove();
        self.unseen.remove(id.slot, &record_of(&self.region, id.slot).mutable()[PARENT]);
        if shard.capacity() > SPARE_MIN.max(shard.len() * SPARE_MAX) {
            shard.shrink_to(shard.len() * 2, |slot| self.hash_of(&record_of(&self.region, *slot)));
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// The id of the node in a slot. The caller has found the slot in a shard, and holds the lock of that shard.
    fn id_in_use(&self, slot: u32) -> Id {
        Id { generation: record_of(&self.region, slot).generation(), slot }
    }

    /// The id of this handle if it is known, without counting. Waits for the index.
    pub fn find_id(&self, handle: &[u8]) -> Option<u64> {
        self.indexed.wait();
        let key = self.key(handle).ok()?;
        let shard = self.shard(key.hash);
        self.find(&shard, &key).map(|slot| self.id_in_use(slot).into())
    }

    /// What the id stands for, while it is known.
    pub fn get(&self, id: u64) -> Option<Node> {
        let id = Id::from(id);
        let node = self.read(id);
        // Without its root a whole mount is lost, so a record that was damaged under a daemon does not count.
        if node.is_none() && id == ROOT { self.root.lock().expect("root lock").clone() } else { node }
    }

    fn read(&self, id: Id) -> Option<Node> {
        self.region.record(id.slot)?.read(id.generation, |sealed| {
            let kind_and_length = sealed[KIND_AND_LENGTH].load(Ordering::Relaxed);
            Node {
                handle: unpack_handle(&sealed[HANDLE..], Rest::of_word(kind_and_length >> 32)),
                fileid: sealed[FILEID].load(Ordering::Relaxed),
                kind: kind_and_length as u32,
            }
        })
    }

    /// The `S_IFMT` bits of what the id stands for, while it is known.
    pub fn kind(&self, id: u64) -> Option<u32> {
        if Id::from(id) == ROOT {
            return self.get(id).map(|root| root.kind);
        }
        let id = Id::from(id);
        let record = self.region.record(id.slot)?;
        record.read(id.generation, |sealed| sealed[KIND_AND_LENGTH].load(Ordering::Relaxed) as u32)
    }

    /// Calls `change` on the live record of `id`, under the lock of its shard.
    fn locked<T>(&self, id: Id, change: impl FnOnce(&mut Shard, u64, &Record<'_>) -> T) -> Option<T> {
        let record = self.region.record(id.slot)?;
        let hash = record.read(id.generation, |_| self.hash_of(&record))?;
        let mut shard = self.shard(hash);
        record.is_live(id.generation).then(|| change(&mut shard, hash, &record))
    }

    /// Lowers the count; if the node is gone now, the slots whose memory has gone with it. The root never goes.
    pub fn forget(&self, id: u64, lookups: u64) -> Option<Vec<Range<u32>>> {
        let id = Id::from(id);
        let outcome = self.locked(id, |shard, hash, record| {
            let count = &record.mutable()[LOOKUPS];
            let left = count.load(Ordering::Relaxed).saturating_sub(lookups);
            if left > 0 || id == ROOT {
                count.store(left, Ordering::Relaxed);
                return None;
            }
            Some(self.remove(shard, hash, id))
        });
        let is_to_give_back = outcome.flatten()?;
        Some(if is_to_give_back { self.region.give_back(id.slot) } else { Vec::new() })
    }

    /// Limits how many nodes there may be.
    pub fn limit(&self, count_max: u64) {
        self.count_max.store(count_max, Ordering::Relaxed);
    }

    /// The limit, if there is one, without what opens and requests take.
    pub fn limited_to(&self) -> Option<u64> {
        let limit = self.limit_set()?;
        Some(limit.saturating_sub(self.taken_by_others().saturating_sub(limit / OTHERS_PART)))
    }

    fn limit_set(&self) -> Option<u64> {
        Some(self.count_max.load(Ordering::Relaxed)).filter(|max| *max != u64::MAX)
    }

    /// What opens and requests take, as a number of nodes. A part of the memory is theirs alone; what they take beyond it, nodes
    /// lack.
    fn taken_by_others(&self) -> u64 {
        let [opens, requests] = [&self.opens, &self.requests].map(|count| count.load(Ordering::Relaxed));
        opens.saturating_mul(NODES_OF_AN_OPEN).saturating_add(requests.saturating_mul(NODES_OF_A_REQUEST))
    }

    /// Whether what opens and requests take fits.
    fn fits_others(&self) -> bool {
        let Some(limit) = self.limit_set() else { return true };
        let beyond = self.taken_by_others().saturating_sub(limit / OTHERS_PART);
        beyond == 0 || self.count.load(Ordering::Relaxed).saturating_add(beyond) <= limit
    }

    /// Whether there may be one more.
    pub fn has_room(&self) -> bool {
        self.limited_to().is_none_or(|limit| self.count.load(Ordering::Relaxed) < limit)
    }

    /// A file or directory is to be opened: counts it, if there may be one more.
    pub fn count_open(&self) -> io::Result<()> {
        self.opens.fetch_add(1, Ordering::Relaxed);
        if self.fits_others() {
            return Ok(());
        }
        self.uncount_opens(1);
        Err(rustix::io::Errno::NOMEM.into())
    }

    /// So many requests are under way: may there be one more?
    pub fn admits_request(&self, under_way: u64) -> bool {
        self.requests.store(under_way, Ordering::Relaxed);
        self.fits_others()
    }

    /// So many were opened by predecessors.
    pub fn inherit_opens(&self, opens: u64) {
        self.opens.store(opens, Ordering::Relaxed);
    }

    /// So many are not open any more.
    pub fn uncount_opens(&self, opens: u64) {
        self.opens.fetch_sub(opens, Ordering::Relaxed);
    }

    /// Nodes known, the root among them. Waits for the index.
    pub fn count(&self) -> u64 {
        self.indexed.wait();
        self.count.load(Ordering::Relaxed)
    }

    /// Bytes of process memory that the index takes.
    #[cfg(test)]
    pub fn index_size(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().expect("node shard lock").allocation_size()).sum()
    }

    /// Notes the verifier of uncommitted data, and whether all that data is kept, or that there is none. Ignored if the
    /// node is not known.
    pub fn set_uncommitted(&self, id: u64, verifier: Option<[u8; 8]>, is_kept: bool) {
        self.locked(id.into(), |_, _, record| {
            if let Some(verifier) = verifier {
                record.mutable()[VERIFIER].store(u64::from_le_bytes(verifier), Ordering::Relaxed);
            }
            let mark = if is_kept { KEPT } else { NOT_KEPT };
            record.mutable()[UNCOMMITTED].store(verifier.map_or(0, |_| mark), Ordering::Release);
        });
    }

    /// Uncommitted data of the node is not kept, if it has any.
    pub fn distrust(&self, id: u64) {
        self.locked(id.into(), |_, _, record| {
            let mark = &record.mutable()[UNCOMMITTED];
            let _ = mark.compare_exchange(KEPT, NOT_KEPT, Ordering::AcqRel, Ordering::Relaxed);
        });
    }

    /// The noted verifier, and whether all uncommitted data is kept.
    pub fn uncommitted(&self, id: u64) -> Option<([u8; 8], bool)> {
        self.locked(id.into(), |_, _, record| {
            let mark = record.mutable()[UNCOMMITTED].load(Ordering::Acquire);
            (mark != 0).then(|| (record.mutable()[VERIFIER].load(Ordering::Relaxed).to_le_bytes(), mark == KEPT))
        })
        .flatten()
    }

    /// Notes the directory in which the node was seen last. Ignored if the node is not known.
    ///
    /// `has_other_names`: some may be names by which the kernel knew it from a predecessor.
    pub fn set_parent(&self, id: u64, parent: u64, has_other_names: bool) {
        let id = Id::from(id);
        let Some(record) = self.region.record(id.slot).filter(|record| record.is_live(id.generation)) else { return };
        let (noted, was_unseen) = (&record.mutable()[PARENT], self.unseen.mark_of(id.slot).is_some());
        self.unseen.remove(id.slot, noted);
        noted.store(parent, Ordering::Relaxed);
        if was_unseen && has_other_names {
            self.unseen.insert(id.slot, parent);
        }
    }

    /// What [`Nodes::set_parent`] noted.
    pub fn parent(&self, id: u64) -> Option<u64> {
        let id = Id::from(id);
        let record = self.region.record(id.slot).filter(|record| record.is_live(id.generation))?;
        Some(record.mutable()[PARENT].load(Ordering::Relaxed)).filter(|parent| *parent != 0)
    }

    /// Has a predecessor told the kernel of a node in this directory that no name has led to since? Waits for the index.
    pub fn has_unseen_child(&self, parent: u64) -> bool {
        self.indexed.wait();
        self.unseen.is_any_in(parent)
    }
}

fn record_of(region: &Region, slot: u32) -> Record<'_> {
    region.record(slot).expect("a slot in the index has memory")
}

fn shard_of(hash: u64) -> usize {
    // The tables use the lowest bits, and the highest seven as tags.
    (hash >> 48) as usize % SHARDS
}

fn hash_words(hasher: &DefaultHashBuilder, words: &[u64; HANDLE_WORDS]) -> u64 {
    hasher.hash_one(words)
}

fn is(record: &Record<'_>, key: &Key) -> bool {
    let sealed = record.sealed();
    let same = |(word, expected): (&AtomicU64, &u64)| word.load(Ordering::Relaxed) == *expected;
    sealed[KIND_AND_LENGTH].load(Ordering::Relaxed) >> 32 == key.rest.word()
        && sealed[HANDLE..HANDLE + HANDLE_WORDS].iter().zip(&key.words).all(same)
}
