//! Options that change while this daemon serves: those that `proto/efc.proto` calls LIVE.
//!
//! Each is one atomic that its users read each time; two that are changed together may become visible one after the
//! other. What the kernel was told under former values stays as it was told. The keeper applies read-ahead and the hang
//! limit.

use std::sync::Arc;
use std::time::Duration;

use efc_cache::blocks::Level;
use efc_cache::{Bounded, CloseToOpen, Freshness, Sealed, Times};
use efc_proto::{Change, DaemonConfig};
use efc_store::Store;
use efc_workers::Workers;

use crate::filesystem::{AheadSwitch, WriteBehind};
use crate::keeper::Keeper;
use crate::passthrough::Passthrough;
use crate::privileges;
use crate::store::{configured_bytes, size_max};
use crate::workers::{endpoints, names_file};

/// The number of the option that says where workers are. Without a key a daemon has none, whatever it says.
const WORKERS: u32 = 20_001;
/// The number of the option that says how large the local store is. A daemon has one from its start on, or none.
const STORE_SIZE: u32 = 20_005;

/// What this daemon takes of its options at any time.
#[derive(Clone)]
pub struct Live {
    /// The consistency mode, with its times.
    pub freshness: Arc<dyn Freshness>,
    /// For how long written data may be held back.
    pub write_behind: Arc<WriteBehind>,
    /// Whether files are asked for before they are opened.
    pub ahead: Arc<AheadSwitch>,
    /// Caches of blocks on other nodes, if there is a key for them.
    pub workers: Option<Arc<Workers>>,
    /// The cache of blocks on this node, if it has one.
    pub store: Option<Arc<Store>>,
    /// What it may take of this process's memory, if it lies there and that is limited: no other part has it.
    store_memory: Option<u64>,
    /// Its files that the kernel reads by itself.
    pub passthrough: Arc<Passthrough>,
}

impl Live {
    /// As configured.
    pub fn new(
        config: &DaemonConfig,
        workers: Option<Arc<Workers>>,
        (store, store_memory): (Option<Arc<Store>>, Option<u64>),
        keeper: Arc<Keeper>,
    ) -> Live {
        let times = times(config);
        let freshness: Arc<dyn Freshness> =
            match config.freshness.as_ref().map_or("", |freshness| &freshness.consistency) {
                "bounded" => Arc::new(Bounded::new(times)),
                "sealed" => Arc::new(Sealed::new(times)),
                _ => Arc::new(CloseToOpen::new(times)), // asks more than any other
            };
        let write_behind = Arc::new(WriteBehind::new(write_behind(config)));
        let ahead = Arc::new(AheadSwitch::new(asks_ahead(config)));
        let passthrough = Arc::new(Passthrough::new(config, store.clone(), keeper));
        Live { freshness, write_behind, ahead, workers, store, store_memory, passthrough }
    }

    /// The caches of blocks, the nearest first.
    pub fn levels(&self) -> Vec<Arc<dyn Level>> {
        let store = self.store.iter().map(|store| store.clone() as Arc<dyn Level>);
        store.chain(self.workers.iter().map(|workers| workers.clone() as Arc<dyn Level>)).collect()
    }

    /// Takes `options` in place of `current`, and what the file of workers holds, if they name one.
    ///
    /// # Errors
    /// Numbers of fields that only another daemon can have otherwise; nothing is changed then.
    pub fn take(&self, current: &DaemonConfig, options: &DaemonConfig, workers_file: &[u8]) -> Result<(), Vec<u32>> {
        let is_fixed = |(number, change): &(u32, Change)| match *number {
            _ if *change != Change::Live => true,
            WORKERS => self.workers.is_none(),
            STORE_SIZE => {
                let wanted = configured_bytes(options);
                self.store.is_none() || wanted == 0 || self.store_memory.is_some_and(|max| wanted > max)
            }
            _ => false,
        };
        let fixed = current.differences(options).into_iter().filter(is_fixed);
        let fixed: Vec<u32> = fixed.map(|(number, _)| number).collect();
        if !fixed.is_empty() {
            return Err(fixed);
        }
        self.freshness.set_times(times(options));
        self.write_behind.set_limit(write_behind(options));
        self.ahead.set(asks_ahead(options));
        // A file that cannot be read just now says nothing of where they are.
        if !names_file(options) || !workers_file.is_empty() {
            self.workers.iter().for_each(|workers| workers.follow(endpoints(options, workers_file)));
        }
        self.store.iter().for_each(|store| store.set_size_max(size_max(options, self.store_memory)));
        self.passthrough.follow(options);
        log::set_max_level(log_level(options));
        if let Err(error) = privileges::set_dumpable(is_debugged(options)) {
            log::warn!("whether this process may be traced stays as it was: {error}");
        }
        Ok(())
    }
}

/// For how long written data may be held back.
fn write_behind(config: &DaemonConfig) -> Duration {
    Duration::from_millis(config.writing.unwrap_or_default().write_behind_ms.into())
}

/// Whether files are asked for before they are opened.
fn asks_ahead(config: &DaemonConfig) -> bool {
    config.prefetch != "off"
}

/// The times of the consistency mode.
fn times(config: &DaemonConfig) -> Times {
    let time = |time_ms: u32| Duration::from_millis(time_ms.into());
    let attr_ttl_max_ms = config.freshness.as_ref().map_or(0, |freshness| freshness.attr_ttl_max_ms);
    Times {
        attr_ttl: time(config.attr_ttl_ms),
        attr_ttl_max: time(attr_ttl_max_ms.max(config.attr_ttl_ms)),
        entry_ttl: time(config.entry_ttl_ms),
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

    use efc_proto::{CacheConfig, FreshnessConfig};

    fn live(config: &DaemonConfig) -> Live {
        Live::new(config, None, (None, None), Arc::default())
    }

    fn with_max(attr_ttl_ms: u32, attr_ttl_max_ms: u32) -> DaemonConfig {
        let freshness = Some(FreshnessConfig { attr_ttl_max_ms, ..Default::default() });
        DaemonConfig { attr_ttl_ms, entry_ttl_ms: 6, freshness, threads: 2, ..Default::default() }
    }

    fn as_times(attr_ttl_ms: u64, attr_ttl_max_ms: u64) -> Times {
        let [attr_ttl, attr_ttl_max, entry_ttl] = [attr_ttl_ms, attr_ttl_max_ms, 6].map(Duration::from_millis);
        Times { attr_ttl, attr_ttl_max, entry_ttl }
    }

    #[test]
    fn what_is_not_live_changes_nothing() {
        let current = with_max(5, 50);
        let live = live(&current);
        let options = DaemonConfig { threads: 3, read_only: true, ..with_max(7, 70) };
        assert_eq!(live.take(&current, &options, &[]), Err(vec![3, 10]));
        assert_eq!(live.freshness.live_times().get(), as_times(5, 50));
        assert_eq!(live.take(&current, &DaemonConfig { threads: 2, read_only: false, ..options }, &[]), Ok(()));
        assert_eq!(live.freshness.live_times().get(), as_times(7, 70));
    }

    #[test]
    fn a_daemon_without_a_key_leaves_other_workers_to_the_next_one() {
        let with = |workers: &str| {
            let cache = CacheConfig { workers: workers.into(), workers_key: "/key".into(), ..Default::default() };
            DaemonConfig { cache: Some(cache), ..with_max(5, 50) }
        };
        assert!(DaemonConfig::LIVE_FIELDS.contains(&WORKERS));
        assert_eq!(live(&with("a:1")).take(&with("a:1"), &with("b:1"), &[]), Err(vec![WORKERS]));
    }

    #[test]
    fn a_daemon_without_a_store_leaves_one_to_the_next() {
        let with = |store_mib| {
            let cache = CacheConfig { store_mib, ..Default::default() };
            DaemonConfig { cache: Some(cache), ..with_max(5, 50) }
        };
        assert!(DaemonConfig::LIVE_FIELDS.contains(&STORE_SIZE));
        assert_eq!(live(&with(64)).take(&with(64), &with(128), &[]), Err(vec![STORE_SIZE]));
    }

    #[test]
    fn who_says_nothing_of_a_longest_time_has_one_time() {
        let config = DaemonConfig { freshness: None, ..with_max(5, 50) };
        assert_eq!(live(&config).freshness.live_times().get(), as_times(5, 5));
        assert_eq!(live(&with_max(5, 3)).freshness.live_times().get(), as_times(5, 5));
    }

    #[test]
    fn the_mode_is_that_of_the_session() {
        let mode = |consistency: &str| {
            let freshness =
                Some(FreshnessConfig { consistency: consistency.into(), attr_ttl_max_ms: 9, ..Default::default() });
            DaemonConfig { freshness, ..DaemonConfig::default() }
        };
        let opens_unasked = |consistency| live(&mode(consistency)).freshness.opens_unasked();
        assert_eq!(["", "bounded", "sealed", "one of a later release"].map(opens_unasked), [false, true, true, false]);
        let live = live(&mode("bounded"));
        assert_eq!(live.take(&mode("bounded"), &mode("sealed"), &[]), Err(vec![18_001]));
    }
}
