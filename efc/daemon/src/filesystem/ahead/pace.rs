//! How many prefetches of a storage may be in flight: as many as server and network can handle beside what applications
//! ask for.
//!
//! Prefetches must not delay requests that somebody waits for. So latency is watched: while answers take about as long
//! as the fastest one recently, the limit grows; when they take longer, something is queueing, be it our calls or
//! others', and the limit shrinks.

use std::time::{Duration, Instant};

/// At once, at the least and at most.
const LIMIT_MIN: f64 = 4.0;
const LIMIT_MAX: f64 = 128.0;
const LIMIT_FIRST: f64 = 16.0;
/// An answer is late that took so many times as long as the fastest, and so much more.
const LATE_FACTOR: u32 = 2;
const LATE_TIME: Duration = Duration::from_millis(2);
/// What is left of the limit when answers are late.
const LESS: f64 = 0.7;
/// The fastest answer is forgotten after this time: the way to the server may be another by then.
const FASTEST_AGE_MAX: Duration = Duration::from_secs(10);

/// How many questions may be under way, from how long the last ones took.
pub struct Pace {
    under_way: usize,
    limit: f64,
    fastest: Option<(Duration, Instant)>,
    /// Answers until the limit may become smaller again: those to what was asked before it did.
    to_come: usize,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { under_way: 0, limit: LIMIT_FIRST, fastest: None, to_come: 0 }
    }
}

impl Pace {
    /// May one more be asked for?
    pub fn has_room(&self) -> bool {
        self.under_way < self.limit as usize
    }

    /// Is anything being asked for?
    pub fn is_busy(&self) -> bool {
        self.under_way > 0
    }

    /// One is asked for.
    pub fn begin(&mut self) {
        self.under_way += 1;
    }

    /// It is not asked for after all.
    pub fn give_up(&mut self) {
        self.under_way -= 1;
    }

    /// It was answered at `now`, after this time.
    pub fn end(&mut self, took: Duration, now: Instant) {
        self.under_way -= 1;
        let is_of_before = self.to_come > 0;
        self.to_come = self.to_come.saturating_sub(1);
        let fastest = match self.fastest {
            Some((fastest, at)) if fastest <= took && now.saturating_duration_since(at) < FASTEST_AGE_MAX => fastest,
            _ => {
                self.fastest = Some((took, now));
                took
            }
        };
        if took <= fastest * LATE_FACTOR + LATE_TIME {
            self.limit = LIMIT_MAX.min(self.limit + 1.0); // that doubles it with each round trip
        } else if !is_of_before {
            self.limit = LIMIT_MIN.max(self.limit * LESS);
            self.to_come = self.under_way;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Asks for as many as it may, which are all answered after `took`; how many these were.
    fn round(pace: &mut Pace, took: Duration, now: Instant) -> usize {
        let mut asked = 0;
        while pace.has_room() {
            pace.begin();
            asked += 1;
        }
        (0..asked).for_each(|_| pace.end(took, now));
        asked
    }

    #[test]
    fn more_are_asked_for_while_answers_come_in_time_and_fewer_when_they_are_late() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let asked: Vec<usize> = (0..5).map(|_| round(&mut pace, MS, now)).collect();
        assert!(asked.is_sorted() && asked[4] == LIMIT_MAX as usize, "{asked:?}");
        let fewer: Vec<usize> = (0..20).map(|_| round(&mut pace, 10 * MS, now)).collect();
        assert!(fewer.is_sorted_by(|a, b| a >= b) && fewer[19] == LIMIT_MIN as usize, "{fewer:?}");
        assert!(fewer[1] * 2 > fewer[0], "those that were late together count once");
        assert!((0..10).any(|_| round(&mut pace, MS, now) == LIMIT_MAX as usize));
    }

    #[test]
    fn a_way_that_is_longer_now_is_not_taken_for_a_queue_for_ever() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert!((0..5).any(|_| round(&mut pace, MS, now) == LIMIT_MAX as usize));
        let later = now + FASTEST_AGE_MAX;
        assert!((0..30).any(|_| round(&mut pace, 20 * MS, later) == LIMIT_MAX as usize));
    }
}
