//! What a dataset's options and limits mean for the parts of this daemon.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use efc_buffer::Budget;
use efc_fuse::{Features, SessionConfig};
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

/// How the file system behaves.
pub fn settings(live: &Live, parts: &Parts, buffers: Budget) -> Settings {
    Settings {
        freshness: live.freshness.clone(),
        write_behind: live.write_behind.clone(),
        ahead: live.ahead.clone(),
        uncommitted_bytes_max: parts.uncommitted_bytes_max,
        metadata_bytes_max: parts.metadata_bytes_max,
        listed_names_max: parts.listed_names_max,
        buffers,
        levels: live.levels(),
        rest: REST,
        backings: Some(live.passthrough.clone()),
    }
}

fn or_default<T: Default + PartialEq>(value: T, default: T) -> T {
    if value == T::default() { default } else { value }
}
