//! Versions of files: what tells one content from another, and when that can be relied on.
//!
//! A version is (mtime, ctime, size). A server's time stamps advance in ticks, so two changes within one tick may leave
//! the same version. A version is *settled* once the server's clock is known to be past its tick: then a later change
//! has another version, and what is read from then on under this version is its content. What was read before that is
//! not relied on at a later open.
//!
//! The server's clock is estimated from its own stamps: a stamp in a reply is not ahead of it, and it advances as ours
//! does ([`ServerClock`]). Only ctime is used, because every other time can be set by anybody.

use efc_tasks::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use efc_backend::{Attr, Time, WccAttr};

/// Longest tick of a server whose stamps have fractions of a second. Linux has 1 to 10 ms, Windows 16 ms.
const FINE_TICK: Duration = Duration::from_millis(20);
/// Longest tick of a server whose stamps are whole seconds, or even ones as on FAT. Stamps tell more than FSINFO's
/// time_delta: nfs-ganesha claims whole seconds and shows nanoseconds, and one export may have file systems of both
/// kinds.
const COARSE_TICK: Duration = Duration::from_secs(2);
/// How far the clocks of one server's machines may be apart, when the stamp of one file tells the age of another.
const SKEW_MAX: Duration = Duration::from_secs(1);
/// How far this node's clock may be from the server's: more than any mistaken time zone.
const NODE_SKEW_MAX: Duration = Duration::from_secs(24 * 3600);

/// What tells two contents of a file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Last modification of the data.
    pub mtime: Time,
    /// Last change of the attributes.
    pub ctime: Time,
    /// In bytes.
    pub size: u64,
}

impl Version {
    /// The version that `attr` describes.
    pub fn of(attr: &Attr) -> Version {
        Version { mtime: attr.mtime, ctime: attr.ctime, size: attr.size }
    }

    /// The version that a change has found.
    pub fn before(attr: &WccAttr) -> Version {
        Version { mtime: attr.mtime, ctime: attr.ctime, size: attr.size }
    }

    /// Is it of so long ago, by the clock of this node? That one may be wrong.
    pub fn looks_older_than(&self, age: Duration) -> bool {
        node_ns() >= since_epoch_ns(self.ctime) + nanos(age)
    }

    /// For how long after its ctime a change may still have this version.
    pub fn tick(&self) -> Duration {
        if self.ctime.nanos == 0 { COARSE_TICK } else { FINE_TICK }
    }
}

/// What is known of the server's clock: how late it is there at least.
pub(crate) struct ServerClock {
    started_at: Instant,
    /// Of the server's time over `started_at`'s, in ns; `i64::MIN`: nothing is known.
    ahead_ns: AtomicI64,
}

impl Default for ServerClock {
    /// Nothing is known yet.
    fn default() -> ServerClock {
        ServerClock { started_at: efc_tasks::time::now(), ahead_ns: AtomicI64::new(i64::MIN) }
    }
}

impl ServerClock {
    fn elapsed_ns(&self, at: Instant) -> i64 {
        nanos(at.saturating_duration_since(self.started_at))
    }

    /// A reply that came at `at` shows this ctime.
    pub fn observe(&self, ctime: Time, at: Instant) {
        let ahead_ns = since_epoch_ns(ctime).saturating_sub(self.elapsed_ns(at));
        // A stamp of the far future, from a time when the clock was wrong, says nothing of the clock of today.
        if ahead_ns > self.ahead_ns.load(Ordering::Relaxed) && since_epoch_ns(ctime) <= latest_ns() {
            self.ahead_ns.fetch_max(ahead_ns, Ordering::Relaxed);
        }
    }

    /// Is the server's clock past the tick of this version by as much as `rest`, at the time `at` of ours?
    pub fn is_past(&self, version: &Version, at: Instant, rest: Duration) -> bool {
        let changed_ns = since_epoch_ns(version.ctime);
        let ahead_ns = self.ahead_ns.load(Ordering::Relaxed);
        let server_ns = ahead_ns.saturating_add(self.elapsed_ns(at));
        let is_past_here = ahead_ns != i64::MIN && server_ns >= changed_ns + nanos(version.tick() + SKEW_MAX + rest);
        is_past_here || changed_ns <= node_ns() - nanos(NODE_SKEW_MAX + rest)
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn since_epoch_ns(time: Time) -> i64 {
    i64::from(time.seconds) * 1_000_000_000 + i64::from(time.nanos)
}

fn node_ns() -> i64 {
    nanos(efc_tasks::time::since_1970())
}

fn latest_ns() -> i64 {
    node_ns().saturating_add(nanos(NODE_SKEW_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(ctime_ns: i64) -> Version {
        let (seconds, nanos) = ((ctime_ns / 1_000_000_000) as u32, (ctime_ns % 1_000_000_000) as u32);
        Version { mtime: Time { seconds: 0, nanos: 0 }, ctime: Time { seconds, nanos }, size: 1 }
    }

    #[test]
    fn a_version_is_past_when_the_server_has_shown_a_later_time() {
        let (clock, now, start) = (ServerClock::default(), Instant::now(), node_ns() / 2_000_000_000 * 2_000_000_000);
        let fine = version(start + 500_000_000);
        assert!(!clock.is_past(&fine, now, Duration::ZERO), "nothing is known");
        clock.observe(fine.ctime, now);
        assert!(!clock.is_past(&fine, now, Duration::ZERO));
        assert!(clock.is_past(&fine, now + FINE_TICK + SKEW_MAX, Duration::ZERO), "its clock goes on");
        clock.observe(version(start + 1_600_000_000).ctime, now);
        assert!(clock.is_past(&fine, now, Duration::ZERO));
        let coarse = version(start);
        assert!(!clock.is_past(&coarse, now, Duration::ZERO), "whole seconds take longer");
        assert!(clock.is_past(&coarse, now + COARSE_TICK, Duration::ZERO));
    }

    #[test]
    fn a_file_of_long_ago_is_past_and_a_stamp_of_the_future_says_nothing() {
        let (clock, now) = (ServerClock::default(), Instant::now());
        assert!(clock.is_past(&version(node_ns() - nanos(NODE_SKEW_MAX) - 1), now, Duration::ZERO));
        clock.observe(version(node_ns() + nanos(NODE_SKEW_MAX) * 2).ctime, now);
        assert!(!clock.is_past(&version(node_ns() - 1), now, Duration::ZERO));
    }
}
