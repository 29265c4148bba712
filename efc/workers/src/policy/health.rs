//! Whether to ask a worker, and how long to wait for it: decided from the latencies of its answers compared with the
//! backend's. Nothing here has a clock or a socket.
//!
//! Answers in flight at the same time share the network, so a single latency says little. What counts is the time that
//! an answer would have taken alone, which is its share of everything in flight. Single values may be outliers, so
//! medians of the last answers are used.

use std::time::{Duration, Instant};

use super::copies::Wait;

/// The number of answers that a median is taken of.
const SAMPLES: usize = 15;
/// With fewer there is no median yet.
const SAMPLES_MIN: usize = 8;
/// Up to this many bytes an answer is small: its latency is mostly the round trip.
const SMALL_MAX: usize = 64 << 10;
/// The fixed cost of any answer, in bytes.
const SURCHARGE: u64 = 64 << 10;
/// An answer is waited for this many times its expected time ...
const PATIENCE: u32 = 4;
/// ... but not longer than this, unless configured otherwise, ...
pub const WAIT_MAX: Duration = Duration::from_millis(150);
/// ... nor shorter than this part of the maximum, since any machine stalls for 30 ms now and then. ...
const WAIT_MIN_PART: f64 = 0.2;
/// ... As long as nothing is known, it is this part of the maximum. If no answer was in time for that long, nobody waits
/// for the worker until one is again.
const WAIT_FIRST_PART: f64 = 0.5;
/// The interval of probes of a worker that nobody waits for.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// The load of an answer of `length` bytes on the network, in bytes.
pub fn weight(length: usize) -> u64 {
    length as u64 + SURCHARGE
}

/// The time that an answer of `length` bytes would have taken alone, if it took so long while answers of the weight `load`
/// were in flight, itself included.
pub fn alone(length: usize, took: Duration, load: u64) -> Duration {
    took.mul_f64(weight(length) as f64 / load.max(weight(length)) as f64)
}

/// A window of the last latencies, in microseconds: every worker has two of these.
#[derive(Clone, Debug, Default)]
struct Window {
    last: [u32; SAMPLES],
    count: u32,
}

impl Window {
    fn add(&mut self, took: Duration) {
        self.last[self.count as usize % SAMPLES] = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        // All that counts of more than the window holds is whose turn it is.
        self.count = if self.count as usize == 2 * SAMPLES - 1 { SAMPLES as u32 } else { self.count + 1 };
    }

    fn known(&self) -> usize {
        (self.count as usize).min(SAMPLES)
    }

    fn longest(&self) -> Option<Duration> {
        self.last[..self.known()].iter().max().copied().map(micros)
    }

    fn median(&self) -> Option<Duration> {
        let mut last = self.last;
        let known = &mut last[..self.known()];
        known.sort_unstable();
        known.get(known.len() / 2).copied().map(micros)
    }
}

fn micros(count: u32) -> Duration {
    Duration::from_micros(count.into())
}

/// Expected latencies of answers that come alone, separately for small and large ones.
#[derive(Clone, Debug, Default)]
pub struct Usual([Window; 2]);

impl Usual {
    /// Adds an answer of `length` bytes that took so long while answers of the weight `load` were in flight, itself included.
    pub fn add(&mut self, length: usize, took: Duration, load: u64) {
        self.window_mut(length).add(alone(length, took, load));
    }

    /// The expected latency of an answer of this length alone, once enough is known.
    pub fn alone(&self, length: usize) -> Option<Duration> {
        let window = self.window(length);
        if window.known() < SAMPLES_MIN { None } else { window.median() }
    }

    /// The latency of the slowest of the last answers alone, small or large.
    pub fn slowest(&self) -> Option<Duration> {
        self.0.iter().filter_map(Window::longest).max()
    }

    /// The expected latency of a large answer alone, once enough is known.
    pub fn large_alone(&self) -> Option<Duration> {
        self.alone(usize::MAX)
    }

    fn window(&self, length: usize) -> &Window {
        &self.0[usize::from(length > SMALL_MAX)]
    }

    fn window_mut(&mut self, length: usize) -> &mut Window {
        &mut self.0[usize::from(length > SMALL_MAX)]
    }
}

/// What to do with a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Ask it, and wait for so long.
    Ask(Duration),
    /// Probe it, with nobody waiting: an answer within this time shows that it has recovered.
    Probe(Duration),
    /// Do not ask it.
    Skip,
}

/// The health of one worker.
#[derive(Clone, Debug)]
pub struct Health {
    wait_max: Duration,
    usual: Usual,
    /// Since when no answer has come in time.
    late_since: Option<Instant>,
    is_late: bool,
    probed: Option<Instant>,
}

impl Health {
    /// Nothing is known yet; no answer is waited for longer than `wait_max`.
    pub fn new(wait_max: Duration) -> Health {
        Health { wait_max, usual: Usual::default(), late_since: None, is_late: false, probed: None }
    }

    /// What to do for a block of `length` bytes, with answers of the weight `load` in flight until this one has arrived,
    /// itself included, and a backend that usually takes so long.
    pub fn advise(&mut self, at: Instant, length: usize, load: u64, backend: &Usual) -> Advice {
        let deadline = self.deadline(length, load);
        if !self.is_slow(length, backend) {
            return Advice::Ask(deadline);
        }
        if self.probed.is_some_and(|probed| at.saturating_duration_since(probed) < PROBE_INTERVAL) {
            return Advice::Skip;
        }
        self.probed = Some(at);
        Advice::Probe(deadline)
    }

    /// Whether nobody should wait for it: it was late too often, or takes longer than the backend.
    pub fn is_slow(&self, length: usize, backend: &Usual) -> bool {
        let is_behind = match (self.usual.alone(length), backend.alone(length)) {
            (Some(own), Some(backend)) => own > backend.mul_f64(1.5) + Duration::from_micros(500),
            _ => false,
        };
        self.is_late || is_behind
    }

    fn deadline(&self, length: usize, load: u64) -> Duration {
        let Some(alone) = self.usual.alone(length) else { return self.wait_first() };
        let expected = alone.mul_f64(load.max(1) as f64 / weight(length) as f64);
        expected.saturating_mul(PATIENCE).clamp(self.wait_max.mul_f64(WAIT_MIN_PART), self.wait_max)
    }

    fn wait_first(&self) -> Duration {
        self.wait_max.mul_f64(WAIT_FIRST_PART)
    }

    /// No answer is waited for longer, whatever else is known.
    pub fn wait_max(&self) -> Duration {
        self.wait_max
    }

    /// An answer came in time.
    pub fn answered(&mut self, length: usize, took: Duration, load: u64) {
        self.usual.add(length, took, load);
        (self.late_since, self.is_late) = (None, false);
    }

    /// An answer to what was asked at `asked` did not come within `deadline`. Answers since when none has come in time, if
    /// that is so long that nobody waits for the worker any more.
    pub fn late(&mut self, length: usize, asked: Instant, deadline: Duration, load: u64) -> Option<Instant> {
        self.usual.add(length, deadline, load);
        let since = *self.late_since.get_or_insert(asked);
        self.is_late |= (asked + deadline).saturating_duration_since(since) >= self.wait_first();
        self.is_late.then_some(since)
    }

    /// It has sent nothing at all: nobody waits for it until it has answered in time.
    pub fn silent(&mut self) {
        self.is_late = true;
    }

    /// The wait for an answer that has come, beside those for other answers of this worker and for the `pool`'s; `None` as long as
    /// there is nothing to compare it with.
    pub fn wait(&self, length: usize, took: Duration, load: u64, pool: &Usual) -> Option<Wait> {
        let worker = self.usual.window(length).median()?;
        Some(Wait { took, alone: alone(length, took, load), worker, pool: pool.alone(length)? })
    }

    /// What an answer with a block takes alone; of large ones if there were any.
    pub fn latency(&self) -> Option<Duration> {
        self.usual.0[1].median().or(self.usual.0[0].median())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn usual(took: Duration) -> Usual {
        let mut usual = Usual::default();
        (0..SAMPLES).for_each(|_| usual.add(MIB, took, weight(MIB)));
        usual
    }

    fn is_asked(health: &mut Health, at: Instant, backend: &Usual) -> bool {
        matches!(health.advise(at, MIB, weight(MIB), backend), Advice::Ask(_))
    }

    #[test]
    fn a_worker_slower_than_the_backend_is_left_alone_but_for_probes_and_comes_back() {
        let (mut health, backend, begin) = (Health::new(WAIT_MAX), usual(millis(5)), Instant::now());
        (0..SAMPLES).for_each(|_| health.answered(MIB, millis(7), weight(MIB)));
        assert!(is_asked(&mut health, begin, &backend), "not much slower");
        (0..SAMPLES).for_each(|_| health.answered(MIB, millis(20), weight(MIB)));
        assert!(matches!(health.advise(begin, MIB, weight(MIB), &backend), Advice::Probe(_)));
        assert_eq!(health.advise(begin + millis(10), MIB, weight(MIB), &backend), Advice::Skip);
        assert!(is_asked(&mut health, begin, &Usual::default()), "nothing is known of the backend");
        let mut at = begin;
        while !is_asked(&mut health, at, &backend) {
            health.answered(MIB, millis(2), weight(MIB));
            at += PROBE_INTERVAL;
        }
        assert!(at - begin < Duration::from_secs(5));
    }

    #[test]
    fn late_answers_end_the_waiting_once_there_was_none_in_time_for_a_while() {
        let (mut health, backend, begin) = (Health::new(WAIT_MAX), usual(millis(5)), Instant::now());
        (0..SAMPLES).for_each(|_| health.answered(MIB, millis(2), weight(MIB)));
        for round in 0..5 {
            let late = |_| health.late(MIB, begin + millis(round), millis(30), weight(MIB));
            assert!((0..20).filter_map(late).next().is_none());
            (0..SAMPLES).for_each(|_| health.usual.add(MIB, millis(2), weight(MIB)));
            assert!(is_asked(&mut health, begin, &backend), "many at once are one moment");
            health.answered(MIB, millis(2), weight(MIB));
        }
        for (late, is_enough) in [(0, false), (30, false), (44, false), (45, true)] {
            let since = health.late(MIB, begin + millis(late), millis(30), weight(MIB));
            assert_eq!(since, is_enough.then_some(begin));
            (0..SAMPLES).for_each(|_| health.usual.add(MIB, millis(2), weight(MIB)));
            assert_eq!(is_asked(&mut health, begin, &backend), !is_enough);
        }
        health.answered(MIB, millis(2), weight(MIB));
        assert!(is_asked(&mut health, begin + millis(1), &backend));
        health.silent();
        assert!(!is_asked(&mut health, begin + millis(2), &Usual::default()), "silence is enough");
    }

    #[test]
    fn answers_that_share_a_network_are_neither_slow_nor_late() {
        let (mut health, backend, begin) = (Health::new(WAIT_MAX), usual(millis(5)), Instant::now());
        // Thirty at a time, at 650 MiB/s.
        let (load, took) = (30 * weight(MIB), millis(46));
        (0..SAMPLES).for_each(|_| health.answered(MIB, took, load));
        let Advice::Ask(deadline) = health.advise(begin, MIB, load, &backend) else { panic!("it is faster") };
        assert!(deadline > took * 3);
        let Advice::Ask(alone) = health.advise(begin, MIB, weight(MIB), &backend) else { panic!("it is faster") };
        assert_eq!(alone, WAIT_MAX.mul_f64(WAIT_MIN_PART));
    }

    #[test]
    fn small_and_large_answers_are_told_apart() {
        let (mut health, mut backend) = (Health::new(WAIT_MAX), usual(millis(5)));
        (0..SAMPLES).for_each(|_| health.answered(MIB, millis(4), weight(MIB)));
        (0..SAMPLES).for_each(|_| health.answered(4096, millis(4), weight(4096)));
        (0..SAMPLES).for_each(|_| backend.add(4096, millis(1), weight(4096)));
        assert!(!health.is_slow(MIB, &backend) && health.is_slow(4096, &backend));
    }

    #[test]
    fn no_answer_is_waited_for_longer_than_the_longest_time() {
        let mut health = Health::new(WAIT_MAX);
        (0..SAMPLES).for_each(|_| health.answered(MIB, millis(500), weight(MIB)));
        assert_eq!(health.advise(Instant::now(), MIB, u64::MAX / 2, &Usual::default()), Advice::Ask(WAIT_MAX));
    }
}
