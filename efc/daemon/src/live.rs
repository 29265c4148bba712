//! Options that change while this daemon serves: those that `proto/efc.proto` calls LIVE.
//!
//! Each is one atomic that whoever uses it reads anew; two of them changed at once are not seen at once. What the kernel was
//! told under former ones stays as it was told. Read-ahead and the limit on hanging are the keeper's to change.

use std::sync::Arc;
use std::time::Duration;

use efc_cache::CloseToOpen;
use efc_proto::{Change, DaemonConfig};

use crate::filesystem::WriteBehind;
use crate::privileges;

/// What this daemon takes of its options at any time.
#[derive(Clone, Debug)]
pub struct Live {
    /// The consistency mode, with how long names and attributes are trusted.
    pub freshness: Arc<CloseToOpen>,
    /// For how long written data may be held back.
    pub write_behind: Arc<WriteBehind>,
}

impl Live {
    /// As configured.
    pub fn new(config: &DaemonConfig) -> Live {
        let freshness = Arc::new(CloseToOpen::new(Duration::ZERO, Duration::ZERO));
        let live = Live { freshness, write_behind: Arc::new(WriteBehind::new(Duration::ZERO)) };
        live.set_times(config);
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
        self.set_times(options);
        log::set_max_level(log_level(options));
        if let Err(error) = privileges::set_dumpable(is_debugged(options)) {
            log::warn!("whether this process may be traced stays as it was: {error}");
        }
        Ok(())
    }

    fn set_times(&self, config: &DaemonConfig) {
        let ttl = |ttl_ms: u32| Duration::from_millis(ttl_ms.into());
        self.freshness.set_ttl(ttl(config.attr_ttl_ms), ttl(config.entry_ttl_ms));
        let write_behind_ms = config.writing.unwrap_or_default().write_behind_ms;
        self.write_behind.set_limit(Duration::from_millis(write_behind_ms.into()));
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
    fn what_is_not_live_changes_nothing() {
        let current = DaemonConfig { attr_ttl_ms: 5, entry_ttl_ms: 6, threads: 2, ..Default::default() };
        let live = Live::new(&current);
        let options = DaemonConfig { attr_ttl_ms: 7, threads: 3, read_only: true, ..current.clone() };
        assert_eq!(live.take(&current, &options), Err(vec![3, 10]));
        assert_eq!(live.freshness.ttl(), (Duration::from_millis(5), Duration::from_millis(6)));
        assert_eq!(live.take(&current, &DaemonConfig { threads: 2, read_only: false, ..options }), Ok(()));
        assert_eq!(live.freshness.ttl(), (Duration::from_millis(7), Duration::from_millis(6)));
    }
}
