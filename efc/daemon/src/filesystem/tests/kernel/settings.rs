//! Settings of a daemon, by consistency mode.

use super::*;

/// Close-to-open, with how long what the daemon tells holds.
pub fn settings(ttl: Duration) -> Settings {
    let attr_ttl_max = Duration::from_secs(60);
    settings_of(Arc::new(CloseToOpen::new(Times { attr_ttl: ttl, attr_ttl_max, entry_ttl: ttl })))
}

/// The other modes.
pub fn bounded(ttl: Duration) -> Settings {
    settings_of(Arc::new(Bounded::new(Times { attr_ttl: ttl, ..Times::default() })))
}

pub fn sealed(kernel_ttl: Duration) -> Settings {
    settings_of(Arc::new(Sealed::new(Times { attr_ttl_max: kernel_ttl, ..Times::default() })))
}

fn settings_of(freshness: Arc<dyn Freshness>) -> Settings {
    Settings {
        freshness,
        write_behind: Arc::new(WriteBehind::new(Duration::ZERO)),
        ahead: Arc::new(AheadSwitch::new(true)),
        uncommitted_bytes_max: 1 << 20,
        metadata_bytes_max: 4 << 20,
        listed_names_max: 4096,
        at_hand_bytes_max: 1 << 20,
        page_bytes: 256 << 10,
        buffers: Budget::default(),
        levels: Vec::new(),
        rest: Duration::ZERO,
        backings: None,
        unopened: None,
    }
}

/// These settings, and for how long the daemon may hold written data back.
pub fn behind(write_behind: Duration, settings: Settings) -> Settings {
    Settings { write_behind: Arc::new(WriteBehind::new(write_behind)), ..settings }
}
