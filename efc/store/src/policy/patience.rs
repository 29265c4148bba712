//! How long to wait for the disk: not much longer than the backend would take, because a reader that waits for a level
//! has not asked the backend yet. Also, whether to ask the disk at all: a few late answers in a row end that, and so do
//! late answers that outweigh those in time, until a probe was answered in time.
//!
//! An answer in time makes up for the time by which it came sooner than 1.2 times the backend's time, and for a fifth
//! of a late answer at least. So all readers together wait no longer than 1.2 times as long as for the backend, or than
//! an answer of the disk takes.

use std::time::{Duration, Instant};

/// Up to so many bytes a block counts as small: what it takes is mostly the way.
const SMALL_MAX: usize = 64 << 10;
/// An answer is waited for so many times as long as the backend takes for such a block, ...
const PATIENCE: f64 = 1.2;
/// ... but not less than this, as any machine stands still for some milliseconds now and then, ...
const WAIT_MIN: Duration = Duration::from_millis(5);
/// ... nor more than this. ...
const WAIT_MAX: Duration = Duration::from_secs(1);
/// ... As long as nothing is known of the backend, it is this.
const WAIT_FIRST: Duration = Duration::from_millis(50);
/// How much one answer of the backend counts among those before it.
const WEIGHT: f64 = 0.1;
/// An answer in time makes up for this part of a late one at least.
const MADE_UP_MIN: f64 = 0.2;
/// After so many late ones that nothing has made up for, nobody waits for any.
const LATE_MAX: f64 = 4.0;

/// What is known of the speed of backend and disk.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    /// What the backend takes for small blocks, and for large ones.
    backend: [Option<Duration>; 2],
    /// Late answers, less what those in time have made up for; no less than 0.
    lateness: f64,
    /// When one was late last. Whoever had begun to wait before that has waited for the same.
    late_at: Option<Instant>,
}

impl Patience {
    /// The backend took so long for a block of this length.
    pub fn backend_took(&mut self, length: usize, took: Duration) {
        let usual = &mut self.backend[class(length)];
        *usual = Some(usual.map_or(took, |before| before.mul_f64(1.0 - WEIGHT) + took.mul_f64(WEIGHT)));
    }

    /// How long an answer with a block of this length is waited for.
    pub fn wait(&self, length: usize) -> Duration {
        let Some(usual) = self.backend[class(length)] else { return WAIT_FIRST };
        usual.min(WAIT_MAX).mul_f64(PATIENCE).clamp(WAIT_MIN, WAIT_MAX)
    }

    /// An answer has come after so long, and in time, with a block of this length.
    pub fn in_time(&mut self, length: usize, took: Duration) {
        if !self.is_slow() {
            self.lateness = (self.lateness - self.made_up(length, took)).max(0.0);
        }
    }

    /// For how much of a late answer one makes up that took so long.
    fn made_up(&self, length: usize, took: Duration) -> f64 {
        let Some(usual) = self.backend[class(length)].map(|usual| usual.min(WAIT_MAX).as_secs_f64()) else {
            return MADE_UP_MIN;
        };
        // Who has waited in vain asks the backend then.
        let of_late = self.wait(length).as_secs_f64() + usual - PATIENCE * usual;
        ((PATIENCE * usual - took.as_secs_f64()) / of_late).max(MADE_UP_MIN)
    }

    /// The disk has not answered in time somebody who has waited from then until now. `true`: from now on nobody waits for it.
    pub fn late(&mut self, begun: Instant, at: Instant) -> bool {
        if self.late_at.is_some_and(|late_at| begun < late_at) {
            return false;
        }
        self.late_at = Some(at);
        let was_slow = self.is_slow();
        self.lateness = (self.lateness + 1.0).min(LATE_MAX);
        self.is_slow() && !was_slow
    }

    /// Nobody waits for the disk.
    pub fn is_slow(&self) -> bool {
        self.lateness >= LATE_MAX - 1e-6 // sums of fractions
    }

    /// It is in time again: it is waited for as if it had never been late.
    pub fn recovered(&mut self) {
        self.lateness = 0.0;
    }
}

fn class(length: usize) -> usize {
    usize::from(length > SMALL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn is_late(patience: &mut Patience) -> bool {
        patience.late(Instant::now(), Instant::now())
    }

    #[test]
    fn many_who_wait_for_a_disk_that_stands_still_once_count_once() {
        let (mut patience, begun) = (Patience::default(), Instant::now());
        let wave = |patience: &mut Patience, begun| (0..8).any(|_| patience.late(begun, Instant::now()));
        assert!(!wave(&mut patience, begun));
        assert!(!wave(&mut patience, Instant::now()) && !wave(&mut patience, Instant::now()));
        assert!(wave(&mut patience, Instant::now()));
    }

    #[test]
    fn an_answer_is_waited_for_as_long_as_the_backend_takes_within_bounds() {
        let mut patience = Patience::default();
        assert_eq!(patience.wait(MIB), WAIT_FIRST);
        patience.backend_took(MIB, Duration::from_millis(100));
        assert_eq!((patience.wait(MIB), patience.wait(4096)), (Duration::from_millis(120), WAIT_FIRST));
        (0..100).for_each(|_| patience.backend_took(MIB, Duration::from_micros(100)));
        assert_eq!(patience.wait(MIB), WAIT_MIN);
        (0..100).for_each(|_| patience.backend_took(MIB, Duration::MAX / 4));
        assert_eq!(patience.wait(MIB), WAIT_MAX);
    }

    #[test]
    fn four_late_answers_in_a_row_end_the_waiting_until_the_disk_is_in_time_again() {
        let mut patience = Patience::default();
        let late = |patience: &mut Patience, times| (0..times).map(|_| is_late(patience)).collect::<Vec<_>>();
        assert_eq!(late(&mut patience, 3), [false; 3]);
        (0..15).for_each(|_| patience.in_time(4096, Duration::ZERO));
        assert_eq!(late(&mut patience, 3), [false; 3]);
        assert!(!patience.is_slow());
        assert_eq!(late(&mut patience, 2), [true, false], "it is said once");
        patience.in_time(4096, Duration::ZERO); // somebody who had begun to wait before
        assert!(patience.is_slow());
        patience.recovered();
        assert!(!patience.is_slow());
    }

    /// Whatever the order: of all answers that take as long as the backend's, one of six may be late for long; of those that take no time, one
    /// of two.
    #[test]
    fn late_answers_cost_a_fifth_of_what_the_backend_takes_at_most() {
        const BACKEND: Duration = Duration::from_millis(10);
        let is_slow = |took: Duration, late: u32, in_time: u32| {
            let mut patience = Patience::default();
            patience.backend_took(MIB, BACKEND);
            (0..1000).any(|_| {
                (0..late).for_each(|_| _ = is_late(&mut patience));
                let is_slow = patience.is_slow();
                (0..in_time).for_each(|_| patience.in_time(MIB, took));
                is_slow
            })
        };
        let is_slow_after = |late, in_time| is_slow(BACKEND, late, in_time);
        assert!(is_slow_after(3, 1) && is_slow_after(1, 1) && is_slow_after(1, 4));
        assert!(!is_slow_after(1, 5) && !is_slow_after(3, 15));
        assert!(!is_slow(Duration::ZERO, 1, 1) && is_slow(Duration::ZERO, 3, 2));
    }
}
