//! Whether opening ahead has been useful lately: if more prefetches were in vain than were used, it pauses for a while.

use std::time::{Duration, Instant};

/// Outcomes after which is judged.
const OUTCOMES: u32 = 128;
/// For how long nothing is asked for.
const REST: Duration = Duration::from_secs(30);

/// What came of the last files that were asked for ahead.
#[derive(Default)]
pub struct Trust {
    used: u32,
    wasted: u32,
    rests_until: Option<Instant>,
}

impl Trust {
    /// May files be asked for ahead?
    pub fn allows(&self, now: Instant) -> bool {
        self.rests_until.is_none_or(|end| end <= now)
    }

    /// A file was of use.
    pub fn used(&mut self, now: Instant) {
        self.used += 1;
        self.judge(now);
    }

    /// A file was asked for in vain.
    pub fn wasted(&mut self, now: Instant) {
        self.wasted += 1;
        self.judge(now);
    }

    fn judge(&mut self, now: Instant) {
        if self.used + self.wasted < OUTCOMES {
            return;
        }
        if self.wasted > self.used {
            self.rests_until = Some(now + REST);
        }
        (self.used, self.wasted) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_wrong_rests_and_begins_anew() {
        let (mut trust, now) = (Trust::default(), Instant::now());
        for _ in 0..10 * OUTCOMES {
            trust.used(now);
            trust.wasted(now);
            assert!(trust.allows(now), "half of it");
        }
        (0..OUTCOMES).for_each(|_| trust.wasted(now));
        assert!(!trust.allows(now) && trust.allows(now + REST));
        (0..OUTCOMES).for_each(|_| trust.used(now + REST));
        assert!(trust.allows(now + REST));
    }
}
