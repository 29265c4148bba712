//! Whether it is worth waiting for a block that another node fetches. Nothing here has a clock or a socket.
//!
//! Who finds no block leaves a marker in its place and fetches it; who finds the marker waits for the block a little, by
//! its own clock, once for each block. A node that does not fill what it has marked, because it died or because it lies,
//! costs others that time: so a worker whose markers were waited for in vain too often has none for a while.

use std::time::{Duration, Instant};

/// A block that another fetches is waited for so long.
pub const WAIT_MAX: Duration = Duration::from_millis(100);
/// Waits in vain, one after the other, after which a worker's markers are ignored ...
const VAIN_MAX: u32 = 8;
/// ... for so long.
const IGNORED_FOR: Duration = Duration::from_secs(10);
/// Blocks that were waited for in vain and are remembered.
const REMEMBERED: usize = 64;

/// What came of waiting at one worker.
#[derive(Clone, Debug)]
pub struct Markers {
    vain_in_row: u32,
    ignored_until: Option<Instant>,
    vain: [Option<(u64, Instant)>; REMEMBERED],
}

impl Default for Markers {
    fn default() -> Markers {
        Markers { vain_in_row: 0, ignored_until: None, vain: [None; REMEMBERED] }
    }
}

impl Markers {
    /// Whether markers are made and looked at now.
    pub fn are_used(&self, at: Instant) -> bool {
        self.ignored_until.is_none_or(|until| at >= until)
    }

    /// Whether the block of this hash, which another fetches, is waited for.
    pub fn is_waited_for(&self, at: Instant, hash: u64) -> bool {
        let was_vain = |(vain, when): (u64, Instant)| vain == hash && at.saturating_duration_since(when) < IGNORED_FOR;
        self.are_used(at) && !self.vain[hash as usize % REMEMBERED].is_some_and(was_vain)
    }

    /// It did not come.
    pub fn waited_in_vain(&mut self, at: Instant, hash: u64) {
        self.vain[hash as usize % REMEMBERED] = Some((hash, at));
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
