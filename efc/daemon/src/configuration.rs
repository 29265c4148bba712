//! Turns a dataset's options and limits into the configurations of this daemon's parts.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use efc_backend::Cred;
use efc_buffer::Budget;
use efc_fuse::{Features, SessionConfig, UNTOLD};
use efc_nfs::{Config, Identity};
use efc_proto::{DaemonConfig, Source};
use efc_state::State;

use crate::filesystem::{SessionIdentity, Settings};
use crate::live::Live;
use crate::memory::Parts;
use crate::passthrough::wants_passthrough;

const CONNECTIONS_DEFAULT: usize = 4;
const THREADS_DEFAULT: usize = 2;
/// 40 KiB of kernel memory each.
const PIPES_MAX: usize = 16;
const UNCOMMITTED_MIB_DEFAULT: u64 = 64;
const METADATA_MIB_DEFAULT: u64 = 128;
const SOFT_TIME_LIMIT_DEFAULT: Duration = Duration::from_secs(30);
/// How long the first connection to the NAS may take; the keeper has a limit of its own.
const CONNECT_TIME_LIMIT: Duration = Duration::from_secs(25);

/// A file must have been unchanged for so long before its blocks are shared: longer than a write on the NAS takes.
const REST: Duration = Duration::from_secs(10);

/// What may be used of a limit of memory in bytes; 0: there is none.
pub fn parts(config: &DaemonConfig, memory_max_bytes: u64) -> Parts {
    let uncommitted_bytes_max = or_default(u64::from(config.uncommitted_mib), UNCOMMITTED_MIB_DEFAULT) << 20;
    let metadata_bytes_max = or_default(u64::from(config.metadata_mib), METADATA_MIB_DEFAULT) << 20;
    Parts::of(memory_max_bytes, uncommitted_bytes_max, metadata_bytes_max)
}

/// Pipes for large reads that are worth having: each thread that receives uses one at a time.
pub fn pipes(config: &DaemonConfig) -> usize {
    or_default(config.connections as usize, CONNECTIONS_DEFAULT).min(PIPES_MAX)
}

/// How to reach the NAS.
pub fn client_config(config: &DaemonConfig, state: &Arc<State>) -> Config {
    let source = config.source.clone().unwrap_or_default();
    client_config_of(config, source, Arc::new(SessionIdentity(state.clone())))
}

/// How to reach the NAS of this source, to which the client is who `identity` says.
pub fn client_config_of(config: &DaemonConfig, source: Source, identity: Arc<dyn Identity>) -> Config {
    let port = |port: u32| u16::try_from(port).ok().filter(|port| *port != 0);
    Config {
        host: source.host,
        port: port(source.port),
        mount_port: port(source.mount_port),
        path: source.path.into_bytes(),
        connections: or_default(config.connections as usize, CONNECTIONS_DEFAULT),
        time_limit: soft_time_limit(config),
        connect_time_limit: CONNECT_TIME_LIMIT,
        privileged_port: !config.unprivileged_port,
        identity: Some(identity),
    }
}

/// How long a call may wait; `None`: for ever.
pub fn soft_time_limit(config: &DaemonConfig) -> Option<Duration> {
    config.soft.then_some(match config.timeout_ms {
        0 => SOFT_TIME_LIMIT_DEFAULT,
        limit_ms => Duration::from_millis(limit_ms.into()),
    })
}

/// How to speak with the kernel.
///
/// # Errors
/// A kernel whose features are not known.
pub fn session_config(config: &DaemonConfig, parts: &Parts, buffers: &Budget) -> io::Result<SessionConfig> {
    let features = match config.fuse_features.as_str() {
        "" => Features::default(),
        name => Features::of_kernel(name)
            .ok_or_else(|| io::Error::other(format!("the features of Linux {name} are not known")))?,
    };
    Ok(SessionConfig {
        threads: or_default(config.threads as usize, THREADS_DEFAULT),
        read_only: config.read_only,
        max_background: parts.background_max,
        features,
        idmap: config.idmap,
        passthrough: wants_passthrough(config),
        budget: buffers.clone(),
    })
}

/// In whose name all is asked where the kernel shall open files by itself; `None`: it shall not.
///
/// # Errors
/// What cannot be meant, or would let a writer believe in what nobody has.
pub fn small_files(config: &DaemonConfig) -> io::Result<Option<Cred>> {
    let Some(freshness) = config.freshness.as_ref().filter(|freshness| !freshness.small_files.is_empty()) else {
        return Ok(None);
    };
    if !config.read_only || !matches!(freshness.consistency.as_str(), "bounded" | "sealed") {
        return Err(io::Error::other("the option small-files needs ro, and consistency=bounded or consistency=sealed"));
    }
    let ids = freshness.small_files.split_once(':').map(|(uid, gid)| (uid.parse(), gid.parse()));
    match ids {
        Some((Ok(uid), Ok(gid))) if uid != UNTOLD && gid != UNTOLD => {
            Ok(Some(Cred { uid, gid, groups: Arc::from([]) }))
        }
        _ => Err(io::Error::other(format!("small-files is UID:GID, not {:?}", freshness.small_files))),
    }
}

/// How the file system behaves.
pub fn settings(live: &Live, parts: &Parts, buffers: Budget, unopened: Option<Cred>) -> Settings {
    Settings {
        freshness: live.freshness.clone(),
        write_behind: live.write_behind.clone(),
        ahead: live.ahead.clone(),
        uncommitted_bytes_max: parts.uncommitted_bytes_max,
        metadata_bytes_max: parts.metadata_bytes_max,
        listed_names_max: parts.listed_names_max,
        at_hand_bytes_max: parts.at_hand_bytes_max,
        page_bytes: parts.page_bytes,
        buffers,
        levels: live.levels(),
        rest: REST,
        backings: Some(live.passthrough.clone()),
        unopened,
    }
}

fn or_default<T: Default + PartialEq>(value: T, default: T) -> T {
    if value == T::default() { default } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    use efc_proto::FreshnessConfig;

    fn config(read_only: bool, consistency: &str, small_files: &str) -> DaemonConfig {
        let freshness = FreshnessConfig {
            consistency: consistency.into(),
            small_files: small_files.into(),
            ..FreshnessConfig::default()
        };
        DaemonConfig { read_only, freshness: Some(freshness), ..DaemonConfig::default() }
    }

    #[test]
    fn files_are_opened_unasked_in_one_name_only_where_nobody_writes_and_opens_need_not_ask() {
        let found = |read_only, consistency, ids| small_files(&config(read_only, consistency, ids)).map_err(drop);
        let cred = Cred { uid: 1000, gid: 0, groups: Arc::from([]) };
        assert_eq!(found(true, "bounded", "1000:0"), Ok(Some(cred.clone())));
        assert_eq!(found(true, "sealed", "1000:0"), Ok(Some(cred)));
        assert_eq!([true, false].map(|read_only| found(read_only, "", "")), [Ok(None), Ok(None)]);
        assert_eq!(small_files(&DaemonConfig::default()).map_err(drop), Ok(None));
        assert_eq!(found(true, "", "1000:0"), Err(()), "close-to-open asks at each open");
        assert_eq!(found(false, "bounded", "1000:0"), Err(()));
        for ids in ["1000", "1000:", ":5", "-1:5", "4294967295:5", "5:4294967295", "a:b", "1:2:3", "4294967296:1"] {
            assert_eq!(found(true, "bounded", ids), Err(()), "{ids}");
        }
    }
}
