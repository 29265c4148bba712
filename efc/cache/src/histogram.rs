//! A latency histogram: durations counted in fixed buckets, without a lock, for counters that only grow.
//!
//! Not guaranteed: that the counts and the sum are of one moment. Each is read by itself while others count.

use std::time::Duration;

use efc_tasks::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the buckets but the last, which has no bound, in microseconds: from a block in memory to a NAS that hesitates.
pub const BOUNDS_US: [u64; 8] = [50, 250, 1000, 5000, 20_000, 100_000, 500_000, 2_500_000];

/// Times, as they are counted.
#[derive(Debug, Default)]
pub struct Histogram {
    sum_us: AtomicU64,
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
}

/// Times, as they were counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// Of all of them, in microseconds.
    pub sum_us: u64,
    /// How many were within each of [`BOUNDS_US`] and beyond the one before, and how many beyond the last.
    pub buckets: [u64; BOUNDS_US.len() + 1],
}

impl Histogram {
    /// Counts one.
    pub fn count(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let place = BOUNDS_US.partition_point(|bound| *bound < took_us);
        self.buckets[place].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(took_us, Ordering::Relaxed);
    }

    /// What was counted.
    pub fn took(&self) -> Took {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Took { sum_us: load(&self.sum_us), buckets: self.buckets.each_ref().map(load) }
    }
}

impl Took {
    /// These, and others.
    #[must_use]
    pub fn and(mut self, other: Took) -> Took {
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        for (own, others) in self.buckets.iter_mut().zip(other.buckets) {
            *own = own.saturating_add(others);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_in_the_first_bucket_that_it_is_not_beyond() {
        let histogram = Histogram::default();
        for took_us in [0, 50, 51, 2_500_000, 2_500_001] {
            histogram.count(Duration::from_micros(took_us));
        }
        let took = histogram.took();
        assert_eq!((took.buckets[0], took.buckets[1], took.buckets[7], took.buckets[8]), (2, 1, 1, 1));
        assert_eq!(took.sum_us, 5_000_102);
        assert_eq!(took.and(took).buckets[0], 4);
        assert!(BOUNDS_US.is_sorted());
    }
}
