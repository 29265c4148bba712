//! How long to wait before the next attempt.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Pauses that grow by a factor up to a limit. What counts attempts, and says how many are enough, is the caller's.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    factor: u32,
    max: Duration,
}

impl Backoff {
    /// Begins with `first` and doubles up to `max`.
    pub const fn doubling(first: Duration, max: Duration) -> Backoff {
        Backoff { first, factor: 2, max }
    }

    /// Begins with `first` and triples, without a limit: for a few attempts.
    pub const fn tripling(first: Duration) -> Backoff {
        Backoff { first, factor: 3, max: Duration::MAX }
    }

    /// The pause after `earlier` pauses.
    pub fn pause(&self, earlier: u32) -> Duration {
        self.first.saturating_mul(self.factor.saturating_pow(earlier)).min(self.max)
    }

    /// The pause after `earlier` pauses, shorter by up to a quarter, so that many who wait for one event do not come at
    /// once.
    pub fn jittered(&self, earlier: u32) -> Duration {
        let random = RandomState::new().build_hasher().finish();
        self.pause(earlier).mul_f64(1.0 - 0.25 * (random % 1024) as f64 / 1024.0)
    }

    /// Waits for the pause after `earlier` pauses.
    pub async fn wait(&self, earlier: u32) {
        crate::time::sleep(self.pause(earlier)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let backoff = Backoff::doubling(Duration::from_millis(50), Duration::from_secs(5));
        for (earlier, millis) in [(0, 50), (1, 100), (2, 200), (7, 5000), (40, 5000), (u32::MAX, 5000)] {
            assert_eq!(backoff.pause(earlier).as_millis(), millis);
            assert!((millis * 3 / 4..=millis).contains(&backoff.jittered(earlier).as_millis()));
        }
        assert_eq!(Backoff::tripling(Duration::from_millis(10)).pause(3).as_millis(), 270);
    }
}
