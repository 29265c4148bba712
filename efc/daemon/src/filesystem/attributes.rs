//! Attributes: their form for the kernel, and what we know of the recently used inodes.
//!
//! The cache answers GETATTR within `attr_ttl`. It remembers for each inode which attributes the kernel was last told: when a
//! file is opened and the server's version of it is another, the kernel's attributes must go. Which version the kernel's *pages*
//! are of is another question, which the saved state answers (`page_version`): attributes are told without a page being read.
//!
//! Replies overtake each other: two writes in flight come back in any order, and the attributes of the earlier one
//! must not make the file shorter again. The server's ctime decides; a tie between overlapping calls makes the entry
//! expire, so that the next question goes to the server.
//!
//! UNLINK and RENAME change attributes (nlink, ctime) of a file that they only name. Rather than ask the server which
//! one it was, everything asked before such a change expires: a question too many is cheaper than one with each.

use efc_tasks::sync::atomic::{AtomicU64, Ordering};
use efc_tasks::sync::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::{Duration, Instant};

use efc_backend::{Attr, FileType, SetAttr, SetTime, Tick, Time};
use efc_state::State;
use indexmap::IndexMap;

use super::growth::Sizes;
use super::versions::{ServerClock, Version};
use crate::live::Ttl;

const SHARDS: usize = 16;
/// A shard whose table has room for this many times its entries gives memory back.
const SPARE_MAX: usize = 8;

#[derive(Clone, Copy)]
struct Known {
    attr: Attr,
    /// When a reply first showed the version of `attr`.
    first_seen: Instant,
    /// `None`: not to be answered from.
    fetched_at: Option<Instant>,
    sent: u64,
    received: u64,
    told: Option<Version>,
    sizes: Option<Sizes>,
    /// The kernel is dropping its pages for a reader.
    is_dropping: bool,
    /// Used since the hand of the clock last passed.
    is_used: bool,
}

/// Some of the inodes; the hand goes round, and takes the first one that was not used since it last came by.
#[derive(Default)]
struct Shard {
    known: IndexMap<u64, Known>,
    hand: usize,
}

impl Shard {
    fn get(&mut self, node: u64) -> Option<&mut Known> {
        let known = self.known.get_mut(&node)?;
        known.is_used = true;
        Some(known)
    }

    fn insert(&mut self, node: u64, known: Known, entries_max: usize) {
        if self.known.len() >= entries_max && !self.known.contains_key(&node) {
            self.evict_one();
        }
        self.known.insert(node, known);
    }

    fn evict_one(&mut self) {
        // Twice round at most: the first time takes the marks off.
        for _ in 0..=2 * self.known.len() {
            if self.hand >= self.known.len() {
                self.hand = 0;
            }
            let Some((_, known)) = self.known.get_index_mut(self.hand) else { return };
            if !std::mem::take(&mut known.is_used) {
                self.known.swap_remove_index(self.hand);
                self.hand += 1; // past the newest entry, which is in its place now
                return;
            }
            self.hand += 1;
        }
    }

    fn remove(&mut self, node: u64) {
        self.known.swap_remove(&node);
        let wanted = self.known.len() * 2;
        if self.known.capacity() > 64.max(self.known.len() * SPARE_MAX) {
            self.known.shrink_to(wanted);
        }
    }
}

/// Attributes of recently used inodes.
pub struct AttrCache {
    ttl: Ttl,
    /// Knows what the inodes are.
    nodes: Option<Arc<State>>,
    /// Answers to calls sent before this stamp are not answered from.
    names_changed: AtomicU64,
    clock: ServerClock,
    /// Beyond that those go that were not used for longest, nearly.
    entries_per_shard_max: usize,
    shards: [Mutex<Shard>; SHARDS],
}

impl AttrCache {
    /// An empty cache of `entries_max` inodes that answers for `ttl`.
    pub fn new(ttl: impl Into<Ttl>, entries_max: usize) -> AttrCache {
        AttrCache {
            ttl: ttl.into(),
            nodes: None,
            names_changed: AtomicU64::new(0),
            clock: ServerClock::new(),
            entries_per_shard_max: (entries_max / SHARDS).max(1),
            shards: Default::default(),
        }
    }

    /// This cache, which takes no attributes in that cannot be those of their inode in `nodes`.
    pub fn checked_by(self, nodes: Arc<State>) -> AttrCache {
        AttrCache { nodes: Some(nodes), ..self }
    }

    /// Can these be the attributes of this inode? The kernel gives an inode up for ever, and the mount with it if it is
    /// the root, that turns into something else, or that has a size beyond what it can hold.
    pub fn is_plausible(&self, node: u64, attr: &Attr) -> bool {
        let kind = self.nodes.as_ref().and_then(|nodes| nodes.node_kind(node));
        let is_plausible = kind.is_none_or(|kind| kind == format_bits(attr.kind)) && i64::try_from(attr.size).is_ok();
        if !is_plausible {
            log::error!(
                "a garbled answer of the server is ignored: inode {} is {:?} of {} bytes in it",
                attr.fileid,
                attr.kind,
                attr.size
            );
        }
        is_plausible
    }

    fn shard(&self, node: u64) -> MutexGuard<'_, Shard> {
        self.shards[node as usize % SHARDS].lock().expect("attribute lock")
    }

    /// Takes in attributes from a reply to a call sent at `sent`.
    pub fn learn(&self, node: u64, attr: &Attr, sent: Tick) {
        if !self.is_plausible(node, attr) {
            return;
        }
        let Tick { order: received, at: now } = Tick::of_answer();
        self.clock.observe(attr.ctime, now);
        let mut shard = self.shard(node);
        let before = shard.get(node).map(|known| *known);
        let overlapped = before.is_some_and(|known| known.received > sent.order);
        let is_same = before.is_some_and(|known| Version::of(&known.attr) == Version::of(attr));
        if overlapped && before.is_some_and(|known| known.attr.ctime > attr.ctime) {
            return;
        }
        let is_tie = before.is_some_and(|known| known.attr.ctime == attr.ctime) && !is_same;
        let known = Known {
            attr: *attr,
            first_seen: before.filter(|_| is_same).map_or(now, |known| known.first_seen),
            fetched_at: (!(overlapped && is_tie)).then_some(now),
            sent: sent.order,
            received,
            told: before.and_then(|known| known.told),
            sizes: before.and_then(|known| known.sizes),
            is_dropping: before.is_some_and(|known| known.is_dropping),
            is_used: before.is_some(), // one that is seen once makes room before those that are used
        };
        shard.insert(node, known, self.entries_per_shard_max);
    }

    /// After a change that was sent at `sent`: takes in what its reply says of the object, or trusts nothing any more.
    pub fn learn_or_expire(&self, node: u64, after: Option<&Attr>, sent: Tick) {
        match after {
            Some(attr) if self.is_plausible(node, attr) => self.learn(node, attr, sent),
            _ => self.expire(node),
        }
    }

    /// A reply shows this ctime, of an object that need not be known here.
    pub fn observe_clock(&self, attr: &Attr) {
        self.clock.observe(attr.ctime, efc_tasks::time::now());
    }

    /// Attributes fit to answer with, and for how long the kernel may keep them.
    pub fn fresh(&self, node: u64) -> Option<(Attr, Duration)> {
        let mut shard = self.shard(node);
        let known = shard.get(node)?;
        if known.sent < self.names_changed.load(Ordering::Acquire) {
            return None;
        }
        let left = self.ttl.get().checked_sub(efc_tasks::time::since(known.fetched_at?))?;
        (!left.is_zero()).then_some((known.attr, left))
    }

    /// The last attributes seen, however old.
    pub fn last_seen(&self, node: u64) -> Option<Attr> {
        self.shard(node).get(node).map(|known| known.attr)
    }

    /// Something changed that no reply described.
    pub fn expire(&self, node: u64) {
        if let Some(known) = self.shard(node).known.get_mut(&node) {
            known.fetched_at = None;
        }
    }

    /// A name was removed or renamed: the file behind it, whichever it is, has other attributes now.
    pub fn expire_for_changed_name(&self) {
        self.names_changed.fetch_max(Tick::of_answer().order, Ordering::AcqRel);
    }

    /// Records that the kernel is told `attr` now.
    pub fn tell(&self, node: u64, attr: &Attr) {
        if let Some(known) = self.shard(node).known.get_mut(&node) {
            known.told = Some(Version::of(attr));
            known.sizes = Some(Sizes::after_telling(known.sizes, attr.size));
        }
    }

    /// The kernel has written up to `end`, and believes that the file is as long.
    pub fn wrote(&self, node: u64, end: u64) {
        if let Some(sizes) = self.shard(node).known.get_mut(&node).and_then(|known| known.sizes.as_mut()) {
            sizes.told = sizes.told.max(end);
        }
    }

    /// What the kernel believes of the file's size, if it was told anything.
    pub fn sizes(&self, node: u64) -> Option<Sizes> {
        self.shard(node).get(node)?.sizes
    }

    /// The kernel has dropped all pages, after the file had been seen to be `size` long.
    pub fn dropped_pages(&self, node: u64, size: u64) {
        if let Some(known) = self.shard(node).known.get_mut(&node) {
            // What a predecessor has told the kernel does not matter any more.
            let sizes = known.sizes.get_or_insert(Sizes { told: size, dropped_at: size });
            sizes.dropped_at = sizes.dropped_at.max(size);
        }
    }

    /// Begins to drop pages for a reader; `false` if that is going on.
    pub fn begin_drop(&self, node: u64) -> bool {
        let mut shard = self.shard(node);
        shard.known.get_mut(&node).is_some_and(|known| !std::mem::replace(&mut known.is_dropping, true))
    }

    /// The end of what [`AttrCache::begin_drop`] began.
    pub fn end_drop(&self, node: u64) {
        if let Some(known) = self.shard(node).known.get_mut(&node) {
            known.is_dropping = false;
        }
    }

    /// Is `attr` the version that the kernel was told last? If not it counts as told from now on.
    pub fn is_told(&self, node: u64, attr: &Attr) -> bool {
        if !self.is_plausible(node, attr) {
            return false;
        }
        let version = Version::of(attr);
        let mut shard = self.shard(node);
        let Some(known) = shard.known.get_mut(&node) else { return false };
        known.told.replace(version) == Some(version)
    }

    /// Will any change after the server's answer `attr` to a call sent at `sent` give the file another version?
    ///
    /// It will if the server's clock has been past the tick of that version: another reply has shown so much, or has shown
    /// the version itself a tick before.
    pub fn is_settled(&self, node: u64, attr: &Attr, sent: Tick) -> bool {
        let version = Version::of(attr);
        let first_seen = {
            let mut shard = self.shard(node);
            shard.get(node).filter(|known| Version::of(&known.attr) == version).map(|known| known.first_seen)
        };
        let was_seen =
            first_seen.is_some_and(|first_seen| sent.at.saturating_duration_since(first_seen) >= version.tick());
        was_seen || self.clock.is_past(&version, sent.at)
    }

    /// The kernel has forgotten the inode.
    pub fn forget(&self, node: u64) {
        self.shard(node).remove(node);
    }
}

/// The `S_IFMT` bits of a type.
pub fn format_bits(kind: FileType) -> u32 {
    match kind {
        FileType::Regular => libc::S_IFREG,
        FileType::Directory => libc::S_IFDIR,
        FileType::Block => libc::S_IFBLK,
        FileType::Character => libc::S_IFCHR,
        FileType::Symlink => libc::S_IFLNK,
        FileType::Socket => libc::S_IFSOCK,
        FileType::Fifo => libc::S_IFIFO,
    }
}

/// The number by which the kernel knows an inode. A session has one `st_dev` for all file systems that the server has
/// below the dataset's root (children of a ZFS, junctions, what `crossmnt` shows), and each of them counts its inodes for
/// itself. The root's keep their numbers; those of others get one of 62 bits that is the same on every node.
pub fn inode_number(root_fsid: u64, fsid: u64, fileid: u64) -> u64 {
    if fsid == root_fsid { fileid } else { 1 << 62 | mix(mix(fsid) ^ fileid) >> 2 }
}

/// A permutation of 64 bits in which each bit depends on all (the finalizer of SplitMix64). Saved nowhere, but part of what
/// applications see: it must not change.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// Attributes in the kernel's form.
pub fn for_kernel(attr: &Attr, root_fsid: u64) -> efc_fuse::Attr {
    let time = |time: Time| (u64::from(time.seconds), time.nanos);
    efc_fuse::Attr {
        ino: inode_number(root_fsid, attr.fsid, attr.fileid),
        size: attr.size,
        blocks: attr.used.div_ceil(512),
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        mode: format_bits(attr.kind) | (attr.mode & 0o7777),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: encode_device(attr.rdev),
        blksize: 1 << 20,
    }
}

/// `new_encode_dev` of the kernel: 12 bits of major number, 20 of minor.
fn encode_device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

/// The inverse of [`encode_device`]: (major, minor).
pub fn decode_device(device: u32) -> (u32, u32) {
    ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & !0xff))
}

/// A change of attributes in the server's form.
pub fn for_server(change: &efc_fuse::SetAttr) -> SetAttr {
    let time = |time: Option<efc_fuse::SetTime>| match time {
        None => SetTime::Keep,
        Some(efc_fuse::SetTime::Now) => SetTime::Now,
        Some(efc_fuse::SetTime::To { seconds, nanos }) => SetTime::To(nearest_time(seconds, nanos)),
    };
    SetAttr {
        mode: change.mode.map(|mode| mode & 0o7777),
        uid: change.uid,
        gid: change.gid,
        size: change.size,
        atime: time(change.atime),
        mtime: time(change.mtime),
    }
}

/// The nearest time that NFSv3 can hold: its seconds are unsigned, of 32 bits, from 1970 to 2106.
///
/// A time at or beyond either end is that end, without nanoseconds, as for Linux's own client (`timestamp_truncate`).
fn nearest_time(seconds: i64, nanos: u32) -> Time {
    match u32::try_from(seconds) {
        Ok(seconds) if seconds != 0 && seconds != u32::MAX => Time { seconds, nanos },
        _ => Time { seconds: seconds.clamp(0, u32::MAX.into()) as u32, nanos: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES_MAX: usize = 1 << 17;

    fn attr(size: u64, ctime: u32) -> Attr {
        let time = Time { seconds: ctime, nanos: 0 };
        Attr {
            kind: FileType::Regular,
            mode: 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            size,
            used: size,
            rdev: (0, 0),
            fsid: 1,
            fileid: 7,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    #[test]
    fn an_overtaken_reply_does_not_shrink_the_file() {
        let cache = AttrCache::new(Duration::from_secs(60), ENTRIES_MAX);
        let (first, second) = (Tick::now(), Tick::now());
        cache.learn(7, &attr(200, 11), second);
        cache.learn(7, &attr(100, 10), first);
        assert_eq!(cache.fresh(7).expect("known").0.size, 200);
    }

    #[test]
    fn a_tie_between_overlapping_replies_is_not_answered_from() {
        let cache = AttrCache::new(Duration::from_secs(60), ENTRIES_MAX);
        let (first, second) = (Tick::now(), Tick::now());
        cache.learn(7, &attr(200, 10), second);
        cache.learn(7, &attr(100, 10), first);
        assert!(cache.fresh(7).is_none());
        cache.learn(7, &attr(300, 10), Tick::now());
        assert_eq!(cache.fresh(7).expect("known").0.size, 300);
    }

    #[test]
    fn a_change_from_outside_is_noticed_once() {
        let cache = AttrCache::new(Duration::from_secs(60), ENTRIES_MAX);
        assert!(!cache.is_told(7, &attr(1, 1)));
        cache.learn(7, &attr(1, 1), Tick::now());
        cache.tell(7, &attr(1, 1));
        assert!(cache.is_told(7, &attr(1, 1)));
        assert!(!cache.is_told(7, &attr(1, 2)));
        assert!(cache.is_told(7, &attr(1, 2)));
    }

    #[test]
    fn the_entries_that_are_used_stay() {
        let cache = AttrCache::new(Duration::from_secs(60), ENTRIES_MAX);
        for number in 0..(ENTRIES_MAX as u64 / SHARDS as u64 * 3) {
            cache.learn(number * SHARDS as u64, &attr(number, 1), Tick::now());
            assert_eq!(cache.last_seen(0).map(|attr| attr.size), Some(0), "after {number} others");
        }
        assert_eq!(cache.shard(0).known.len(), ENTRIES_MAX / SHARDS);
    }

    #[test]
    fn memory_goes_back_with_the_entries() {
        let cache = AttrCache::new(Duration::from_secs(60), ENTRIES_MAX);
        let nodes = || (0..4000).map(|number| number * SHARDS as u64);
        nodes().for_each(|node| cache.learn(node, &attr(1, 1), Tick::now()));
        nodes().skip(1).for_each(|node| cache.forget(node));
        assert!(cache.shard(0).known.capacity() <= 64, "{}", cache.shard(0).known.capacity());
        assert!(cache.last_seen(0).is_some());
    }

    #[test]
    fn a_version_is_settled_when_it_is_seen_again_a_tick_later() {
        let cache = AttrCache::new(Duration::from_secs(60), ENTRIES_MAX);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let mut fresh = attr(1, now.as_secs() as u32);
        let at_once = Tick::now();
        cache.learn(7, &fresh, at_once);
        let later = |seconds| Tick { at: at_once.at + Duration::from_secs(seconds), ..Tick::now() };
        assert!(!cache.is_settled(7, &fresh, at_once));
        assert!(cache.is_settled(7, &fresh, later(3)));
        fresh.size = 2;
        assert!(!cache.is_settled(7, &fresh, at_once), "another version");
    }

    #[test]
    fn an_expired_entry_is_not_answered_from() {
        let cache = AttrCache::new(Duration::from_secs(60), ENTRIES_MAX);
        cache.learn(7, &attr(1, 1), Tick::now());
        cache.expire(7);
        assert!(cache.fresh(7).is_none());
        assert_eq!(cache.last_seen(7).expect("known").size, 1);
    }

    #[test]
    fn a_changed_name_expires_what_was_asked_before() {
        let cache = AttrCache::new(Duration::from_secs(60), ENTRIES_MAX);
        let before = Tick::now();
        cache.learn(7, &attr(1, 1), before);
        cache.expire_for_changed_name();
        assert!(cache.fresh(7).is_none());
        cache.learn(8, &attr(1, 1), before);
        assert!(cache.fresh(8).is_none(), "asked before, answered after");
        cache.learn(7, &attr(1, 2), Tick::now());
        assert!(cache.fresh(7).is_some());
    }

    #[test]
    fn what_cannot_be_is_not_taken_in() {
        let cache = AttrCache::new(Duration::from_secs(60), ENTRIES_MAX);
        cache.learn(7, &attr(1, 1), Tick::now());
        let huge = attr(1 << 63, 2);
        cache.learn(7, &huge, Tick::now());
        assert_eq!(cache.fresh(7).expect("known").0.size, 1);
        cache.learn_or_expire(7, Some(&huge), Tick::now());
        assert!(cache.fresh(7).is_none() && !cache.is_told(7, &huge));
    }

    #[test]
    fn inode_numbers_tell_file_systems_apart() {
        assert_eq!(inode_number(1, 1, 2), 2);
        assert_eq!(inode_number(1, 7, 2), 5_884_430_347_533_855_049, "the same in every release");
        let numbers = (0..10).flat_map(|fsid| (1..1000).map(move |fileid| inode_number(1, fsid, fileid)));
        assert_eq!(numbers.collect::<std::collections::HashSet<_>>().len(), 9990);
    }

    #[test]
    fn device_numbers_survive() {
        for device in [(0, 0), (8, 1), (4095, (1 << 20) - 1), (1, 256)] {
            assert_eq!(decode_device(encode_device(device)), device);
        }
    }

    #[test]
    fn times_out_of_range_are_the_nearest() {
        let sent = |seconds| {
            let mtime = Some(efc_fuse::SetTime::To { seconds, nanos: 5 });
            match for_server(&efc_fuse::SetAttr { mtime, ..Default::default() }).mtime {
                SetTime::To(time) => (time.seconds, time.nanos),
                _ => panic!("no time is sent"),
            }
        };
        assert_eq!(sent(1), (1, 5));
        for seconds in [0, -1, i64::MIN] {
            assert_eq!(sent(seconds), (0, 0));
        }
        assert_eq!(sent(i64::from(u32::MAX) - 1), (u32::MAX - 1, 5));
        for seconds in [i64::from(u32::MAX), 1 << 32, i64::MAX] {
            assert_eq!(sent(seconds), (u32::MAX, 0));
        }
    }
}
