//! Attributes: their form for the kernel, and what we know of the recently used inodes.
//!
//! The cache answers GETATTR within `attr_ttl`, and remembers for each inode the *version* (mtime, ctime, size) that
//! the kernel was last told. When a file is opened and the server's version differs from it, another client has
//! changed the file, and the kernel's pages and attributes must go: that is what close-to-open consistency means.
//!
//! Replies overtake each other: two writes in flight come back in any order, and the attributes of the earlier one
//! must not make the file shorter again. The server's ctime decides; a tie between overlapping calls makes the entry
//! expire, so that the next question goes to the server.
//!
//! UNLINK and RENAME change attributes (nlink, ctime) of a file that they only name. Rather than ask the server which
//! one it was, everything asked before such a change expires: a question too many is cheaper than one with each.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use efc_nfs::{Attr, FileType, SetAttr, SetTime, Time};

/// Inodes remembered per shard; beyond that the shard starts anew.
const ENTRIES_PER_SHARD_MAX: usize = 8192;
const SHARDS: usize = 16;

/// What tells two contents of a file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    mtime: Time,
    ctime: Time,
    size: u64,
}

impl Version {
    /// The version that `attr` describes.
    pub fn of(attr: &Attr) -> Version {
        Version { mtime: attr.mtime, ctime: attr.ctime, size: attr.size }
    }
}

/// When a call was sent, on the cache's own clock of replies.
#[derive(Clone, Copy, Debug)]
pub struct Stamp(u64);

#[derive(Clone, Copy)]
struct Known {
    attr: Attr,
    /// `None`: not to be answered from.
    fetched_at: Option<Instant>,
    sent: u64,
    received: u64,
    told: Option<Version>,
}

/// Attributes of recently used inodes.
pub struct AttrCache {
    ttl: Duration,
    replies: AtomicU64,
    /// Answers to calls sent before this stamp are not answered from.
    names_changed: AtomicU64,
    shards: [Mutex<HashMap<u64, Known>>; SHARDS],
}

impl AttrCache {
    /// An empty cache that answers for `ttl`.
    pub fn new(ttl: Duration) -> AttrCache {
        AttrCache { ttl, replies: AtomicU64::new(0), names_changed: AtomicU64::new(0), shards: Default::default() }
    }

    fn shard(&self, node: u64) -> &Mutex<HashMap<u64, Known>> {
        &self.shards[node as usize % SHARDS]
    }

    /// Take before a call is sent, give to [`AttrCache::learn`] with its reply.
    pub fn stamp(&self) -> Stamp {
        Stamp(self.replies.load(Ordering::Acquire))
    }

    /// Takes in attributes from a reply to a call sent at `sent`.
    pub fn learn(&self, node: u64, attr: &Attr, sent: Stamp) {
        let received = self.replies.fetch_add(1, Ordering::AcqRel) + 1;
        let mut shard = self.shard(node).lock().expect("attribute lock");
        if shard.len() >= ENTRIES_PER_SHARD_MAX && !shard.contains_key(&node) {
            shard.clear();
        }
        let known =
            shard.entry(node).or_insert(Known { attr: *attr, fetched_at: None, sent: 0, received: 0, told: None });
        let overlapped = known.received > sent.0;
        if overlapped && known.attr.ctime > attr.ctime {
            return;
        }
        let doubtful = overlapped && known.attr.ctime == attr.ctime && Version::of(&known.attr) != Version::of(attr);
        *known = Known {
            attr: *attr,
            fetched_at: if doubtful { None } else { Some(Instant::now()) },
            sent: sent.0,
            received,
            told: known.told,
        };
    }

    /// After a change that was sent at `sent`: takes in what its reply says of the object, or trusts nothing any more.
    pub fn learn_or_expire(&self, node: u64, after: Option<&Attr>, sent: Stamp) {
        match after {
            Some(attr) => self.learn(node, attr, sent),
            None => self.expire(node),
        }
    }

    /// Attributes fit to answer with, and for how long the kernel may keep them.
    pub fn fresh(&self, node: u64) -> Option<(Attr, Duration)> {
        let shard = self.shard(node).lock().expect("attribute lock");
        let known = shard.get(&node)?;
        if known.sent < self.names_changed.load(Ordering::Acquire) {
            return None;
        }
        let left = self.ttl.checked_sub(known.fetched_at?.elapsed())?;
        (!left.is_zero()).then_some((known.attr, left))
    }

    /// The last attributes seen, however old.
    pub fn last_seen(&self, node: u64) -> Option<Attr> {
        self.shard(node).lock().expect("attribute lock").get(&node).map(|known| known.attr)
    }

    /// Something changed that no reply described.
    pub fn expire(&self, node: u64) {
        if let Some(known) = self.shard(node).lock().expect("attribute lock").get_mut(&node) {
            known.fetched_at = None;
        }
    }

    /// A name was removed or renamed: the file behind it, whichever it is, has other attributes now.
    pub fn expire_for_changed_name(&self) {
        let now = self.replies.fetch_add(1, Ordering::AcqRel) + 1;
        self.names_changed.fetch_max(now, Ordering::AcqRel);
    }

    /// Records that the kernel is told `attr` now.
    pub fn tell(&self, node: u64, attr: &Attr) {
        if let Some(known) = self.shard(node).lock().expect("attribute lock").get_mut(&node) {
            known.told = Some(Version::of(attr));
        }
    }

    /// Is `attr` the version that the kernel was told last? If not it counts as told from now on.
    pub fn is_told(&self, node: u64, attr: &Attr) -> bool {
        let version = Version::of(attr);
        let mut shard = self.shard(node).lock().expect("attribute lock");
        let Some(known) = shard.get_mut(&node) else { return false };
        known.told.replace(version) == Some(version)
    }

    /// The kernel has forgotten the inode.
    pub fn forget(&self, node: u64) {
        self.shard(node).lock().expect("attribute lock").remove(&node);
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

/// Attributes in the kernel's form.
pub fn for_kernel(attr: &Attr) -> efc_fuse::Attr {
    let time = |time: Time| (u64::from(time.seconds), time.nanos);
    efc_fuse::Attr {
        ino: attr.fileid,
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
        let cache = AttrCache::new(Duration::from_secs(60));
        let (first, second) = (cache.stamp(), cache.stamp());
        cache.learn(7, &attr(200, 11), second);
        cache.learn(7, &attr(100, 10), first);
        assert_eq!(cache.fresh(7).expect("known").0.size, 200);
    }

    #[test]
    fn a_tie_between_overlapping_replies_is_not_answered_from() {
        let cache = AttrCache::new(Duration::from_secs(60));
        let (first, second) = (cache.stamp(), cache.stamp());
        cache.learn(7, &attr(200, 10), second);
        cache.learn(7, &attr(100, 10), first);
        assert!(cache.fresh(7).is_none());
        cache.learn(7, &attr(300, 10), cache.stamp());
        assert_eq!(cache.fresh(7).expect("known").0.size, 300);
    }

    #[test]
    fn a_change_from_outside_is_noticed_once() {
        let cache = AttrCache::new(Duration::from_secs(60));
        assert!(!cache.is_told(7, &attr(1, 1)));
        cache.learn(7, &attr(1, 1), cache.stamp());
        cache.tell(7, &attr(1, 1));
        assert!(cache.is_told(7, &attr(1, 1)));
        assert!(!cache.is_told(7, &attr(1, 2)));
        assert!(cache.is_told(7, &attr(1, 2)));
    }

    #[test]
    fn an_expired_entry_is_not_answered_from() {
        let cache = AttrCache::new(Duration::from_secs(60));
        cache.learn(7, &attr(1, 1), cache.stamp());
        cache.expire(7);
        assert!(cache.fresh(7).is_none());
        assert_eq!(cache.last_seen(7).expect("known").size, 1);
    }

    #[test]
    fn a_changed_name_expires_what_was_asked_before() {
        let cache = AttrCache::new(Duration::from_secs(60));
        let before = cache.stamp();
        cache.learn(7, &attr(1, 1), before);
        cache.expire_for_changed_name();
        assert!(cache.fresh(7).is_none());
        cache.learn(8, &attr(1, 1), before);
        assert!(cache.fresh(8).is_none(), "asked before, answered after");
        cache.learn(7, &attr(1, 2), cache.stamp());
        assert!(cache.fresh(7).is_some());
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
