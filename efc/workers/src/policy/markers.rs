//! Whether to wait for a block that another node is fetching. Nothing here has a clock or a socket.
//!
//! A node that misses a block leaves a marker in its place and fetches it. A node that finds a marker waits for the
//! block for a limited time, by its own clock, once for each block. A marker expires soon unless its node renews it
//! because it is still fetching: when the backend is slow, as when thousands of nodes start at once, nodes that did not
//! wait would only make it slower. A node that does not fill what it has marked, because it died or because it lies,
//! costs others that time; so the markers of a worker at which too many waits were in vain are ignored for a while.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::health::{Usual, weight};

/// A block that another node is fetching is waited for this long, if the backend is not slower; ...
pub const WAIT_MIN: Duration = Duration::from_millis(100);
/// ... otherwise this many times as long as the slowest of the backend's last answers took, ...
const PATIENCE: u32 = 2;
/// ... but not longer than this, nor, before the backend has answered at all, longer than an unrenewed marker stands.
pub const WAIT_MAX: Duration = Duration::from_secs(10);
const WAIT_FIRST: Duration = LIFE;
/// memcached expires a marker after this time. Its clock ticks in seconds.
pub const LIFE: Duration = Duration::from_secs(2);
/// The interval of renewing a marker during the fetch; with memcached's coarse clock it may last hardly more than a second.
pub const RENEWAL: Duration = Duration::from_millis(500);
/// After this many waits in vain in a row a worker's markers are ignored ...
const VAIN_MAX: u32 = 8;
/// ... for this long.
const IGNORED_FOR: Duration = Duration::from_secs(10);
/// Blocks that were waited for in vain and are remembered.
const REMEMBERED: usize = 64;

/// The backend's latencies: they tell whether it would answer sooner than a node that is asking it already.
#[derive(Clone, Debug, Default)]
pub struct Backend {
    /// The expected latencies of its answers.
    pub usual: Usual,
    /// When a wait was last given up in its favour, if nothing asked since has been answered.
    tried: Option<Instant>,
}

impl Backend {
    /// A block of `length` bytes has come by `at`, which took so long.
    pub fn answered(&mut self, at: Instant, length: usize, took: Duration) {
        self.usual.add(length, took, weight(length));
        self.tried.take_if(|tried| at.checked_sub(took).is_some_and(|asked| asked >= *tried));
    }

    /// How long to wait for a block that another node is fetching.
    pub fn patience(&self) -> Duration {
        let slowest = self.usual.slowest();
        slowest.map_or(WAIT_FIRST, |slowest| slowest.saturating_mul(PATIENCE).clamp(WAIT_MIN, WAIT_MAX))
    }

    /// Whether a wait that has exceeded its time may be given up: one at a time, until the backend has shown by an answer
    /// that it is no slower than the other node.
    fn is_tried(&mut self, at: Instant, waited: Duration) -> bool {
        let may = waited >= WAIT_MAX || self.tried.is_none();
        if may {
            self.tried = Some(at);
        }
        may
    }

    /// Whether to wait on, and for how long, for a block that another node fetches and that was waited for since `begin`.
    pub fn wait_on(&mut self, at: Instant, begin: Instant) -> Option<Duration> {
        let waited = at.saturating_duration_since(begin);
        let left = self.patience().saturating_sub(waited);
        if left.is_zero() {
            return if self.is_tried(at, waited) { None } else { Some(WAIT_MIN) };
        }
        Some(left)
    }
}

/// The outcomes of waits at one worker.
#[derive(Clone, Debug, Default)]
pub struct Markers {
    vain_in_row: u32,
    ignored_until: Option<Instant>,
    /// The last ones, the latest first.
    vain: VecDeque<(u64, Instant)>,
}

impl Markers {
    /// Whether markers are made and looked at now.
    pub fn are_used(&self, at: Instant) -> bool {
        self.ignored_until.is_none_or(|until| at >= until)
    }

    /// Whether the block of this hash, which another fetches, is waited for.
    pub fn is_waited_for(&self, at: Instant, hash: u64) -> bool {
        let was_vain =
            |(vain, when): &(u64, Instant)| *vain == hash && at.saturating_duration_since(*when) < IGNORED_FOR;
        self.are_used(at) && !self.vain.iter().any(was_vain)
    }

    /// It did not come.
    pub fn waited_in_vain(&mut self, at: Instant, hash: u64) {
        self.vain.truncate(REMEMBERED - 1);
        self.vain.push_front((hash, at));
        self.vain_in_row += 1;
        if self.vain_in_row >= VAIN_MAX {
            self.vain_in_row = 0;
            self.ignored_until = Some(at + IGNORED_FOR);
        }
    }

    /// What was waited for came.
    pub fn came(&mut self) {
        self.vain_in_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_is_waited_for_once_and_a_worker_of_vain_markers_has_none_for_a_while() {
        let (mut markers, begin) = (Markers::default(), Instant::now());
        for block in 0..u64::from(VAIN_MAX) {
            assert!(markers.is_waited_for(begin, block));
            markers.waited_in_vain(begin, block);
            assert!(!markers.is_waited_for(begin, block));
        }
        assert!(!markers.are_used(begin) && !markers.is_waited_for(begin, 100));
        let later = begin + IGNORED_FOR;
        assert!(markers.are_used(later) && markers.is_waited_for(later, 0));
    }

    #[test]
    fn a_slow_backend_is_worth_waiting_for() {
        let (millis, begin) = (Duration::from_millis, Instant::now());
        let mut backend = Backend::default();
        assert_eq!(backend.patience(), LIFE);
        backend.answered(begin, 1 << 20, millis(5));
        assert_eq!(backend.patience(), WAIT_MIN);
        backend.answered(begin, 1 << 20, millis(400));
        assert_eq!(backend.patience(), millis(800));
        backend.answered(begin, 1 << 20, Duration::from_secs(1000));
        assert_eq!(backend.patience(), WAIT_MAX);
    }

    #[test]
    fn waits_are_given_up_one_at_a_time_until_the_backend_has_answered() {
        let (millis, begin) = (Duration::from_millis, Instant::now());
        let mut backend = Backend::default();
        backend.answered(begin, 1 << 20, millis(5));
        let at = begin + WAIT_MIN;
        assert_eq!(backend.wait_on(begin + WAIT_MIN / 2, begin), Some(WAIT_MIN / 2));
        assert_eq!(backend.wait_on(at, begin), None);
        assert_eq!(backend.wait_on(at, begin), Some(WAIT_MIN));
        backend.answered(at + millis(50), 1 << 20, millis(51));
        assert!(backend.wait_on(at + millis(50), begin).is_some(), "asked before");
        backend.answered(at + millis(50), 1 << 20, millis(50));
        assert_eq!(backend.wait_on(at + millis(50), begin), None);
        assert!(backend.wait_on(at + millis(60), begin).is_some());
        assert_eq!(backend.wait_on(begin + WAIT_MAX, begin), None, "not for ever");
    }

    #[test]
    fn what_comes_now_and_then_is_waited_for() {
        let (mut markers, begin) = (Markers::default(), Instant::now());
        for block in 0..100 {
            markers.waited_in_vain(begin, block);
            if block % 5 == 0 {
                markers.came();
            }
        }
        assert!(markers.are_used(begin));
    }
}
