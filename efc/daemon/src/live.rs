//! Options that change while this daemon serves: those that `proto/efc.proto` calls LIVE.
//!
//! Each is one atomic that whoever uses it reads anew; two of them changed at once are not seen at once. What the kernel was
//! told under former ones stays as it was told. Read-ahead and the limit on hanging are the keeper's to change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use efc_proto::{Change, DaemonConfig};

use crate::privileges;

/// How long something is trusted; copies change together.
#[derive(Clone, Debug, Default)]
pub struct Ttl(Arc<AtomicU64>);

/// What this daemon takes of its options at any time.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Of attributes.
    pub attr_ttl: Ttl,
    /// Of names.
    pub entry_ttl: Ttl,
}

impl Ttl {
    /// From now on.
    pub fn set(&self, ttl: Duration) {
        self.0.store(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Now.
    pub fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

impl From<Duration> for Ttl {
    fn from(ttl: Duration) -> Ttl {
        let new = Ttl::default();
        new.set(ttl);
        new
    }
}

impl Live {
    /// As configured.
    pub fn new(config: &DaemonConfig) -> Live {
        let live = Live::default();
        live.set_ttls(config);
        live
    }

    /// Takes `options` in place of `current`.
    ///
    /// # Errors
    /// Numbers of fields that only another daemon can have otherwise; nothing is changed then.
    pub fn take(&self, current: &DaemonConfig, options: &DaemonConfig) -> Result<(), Vec<u32>> {
        let fixed = current.differences(options).into_iter().filter(|(_, change)| *change != Change::Live);
        let fixed: Vec<u32> = fixed.map(|(number, _)| number).collect();
        if !fixed.is_empty() {
            return Err(fixed);
        }
        self.set_ttls(options);
        log::set_max_level(log_level(options));
        if let Err(error) = privileges::set_dumpable(is_debugged(options)) {
            log::warn!("whether this process may be traced stays as it was: {error}");
        }
        Ok(())
    }

    fn set_ttls(&self, config: &DaemonConfig) {
        self.attr_ttl.set(Duration::from_millis(config.attr_ttl_ms.into()));
        self.entry_ttl.set(Duration::from_millis(config.entry_ttl_ms.into()));
    }
}

/// The level of lines that are logged.
pub fn log_level(config: &DaemonConfig) -> log::LevelFilter {
    config.log_level.parse().unwrap_or(log::LevelFilter::Info)
}

/// Whether the process may be traced, and dump core.
pub fn is_debugged(config: &DaemonConfig) -> bool {
    config.log_level == "debug"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_change_together() {
        let live = Live::new(&DaemonConfig { attr_ttl_ms: 5, entry_ttl_ms: 6, ..Default::default() });
        let (attr_ttl, entry_ttl) = (live.attr_ttl.clone(), live.entry_ttl.clone());
        live.clone().set_ttls(&DaemonConfig { attr_ttl_ms: 7, ..Default::default() });
        assert_eq!((attr_ttl.get(), entry_ttl.get()), (Duration::from_millis(7), Duration::ZERO));
        assert_eq!(Ttl::from(Duration::MAX).get(), Duration::from_millis(u64::MAX));
    }
    #[test]
    fn what_is_not_live_changes_nothing() {
        let current = DaemonConfig { attr_ttl_ms: 5, threads: 2, ..Default::default() };
        let live = Live::new(&current);
        let options = DaemonConfig { attr_ttl_ms: 7, threads: 3, read_only: true, ..current.clone() };
        assert_eq!(live.take(&current, &options), Err(vec![3, 10]));
        assert_eq!(live.attr_ttl.get(), Duration::from_millis(5));
        assert_eq!(live.take(&current, &DaemonConfig { threads: 2, read_only: false, ..options }), Ok(()));
        assert_eq!(live.attr_ttl.get(), Duration::from_millis(7));
    }
}
