//! The times of a consistency mode, which can be changed live.

use efc_tasks::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// For how long things are trusted. What each time means is the matter of a [mode](crate::Freshness).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The least for which attributes are trusted; the bound of everything in a mode that has one.
    pub attr_ttl: Duration,
    /// The longest for which attributes are trusted.
    pub attr_ttl_max: Duration,
    /// For which the kernel may keep names.
    pub entry_ttl: Duration,
}

/// [`Times`] that are read anew at each use. Two that are changed at once are not seen at once.
#[derive(Debug)]
pub struct LiveTimes([AtomicU64; 3]);

impl LiveTimes {
    /// These times.
    pub fn new(times: Times) -> LiveTimes {
        let live = LiveTimes(Default::default());
        live.set(times);
        live
    }

    /// Takes other times.
    pub fn set(&self, Times { attr_ttl, attr_ttl_max, entry_ttl }: Times) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        for (live, time) in self.0.iter().zip([attr_ttl, attr_ttl_max, entry_ttl]) {
            live.store(nanos(time), Ordering::Relaxed);
        }
    }

    /// The times as they are now.
    pub fn get(&self) -> Times {
        let [attr_ttl, attr_ttl_max, entry_ttl] = self.0.each_ref().map(|live| live.load(Ordering::Relaxed));
        let [attr_ttl, attr_ttl_max, entry_ttl] = [attr_ttl, attr_ttl_max, entry_ttl].map(Duration::from_nanos);
        Times { attr_ttl, attr_ttl_max, entry_ttl }
    }
}
