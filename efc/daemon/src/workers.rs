//! The workers of the dataset, as its options name them.

use std::io;
use std::sync::Arc;

use efc_buffer::Budget;
use efc_proto::{CacheStats, DaemonConfig};
use efc_workers::{DataSetKey, Endpoint, Settings, WorkerState, Workers};

/// The workers, if there is a key for what lies there.
///
/// # Errors
/// `InvalidInput`: `key`, which is what the key's file holds, is no key. Others: there is no thread for them.
pub fn workers(config: &DaemonConfig, key: &[u8], budget: &Budget) -> io::Result<Option<Arc<Workers>>> {
    let Some(cache) = config.cache.as_ref().filter(|cache| !cache.workers_key.is_empty()) else { return Ok(None) };
    let parsed = std::str::from_utf8(key).ok().and_then(DataSetKey::parse).ok_or_else(|| {
        let path = &cache.workers_key;
        let message = format!("workers-key: {path} cannot be read, or does not hold 64 hexadecimal digits");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })?;
    let server = config.source.as_ref().map(|source| format!("{}:{}", source.host, source.port)).unwrap_or_default();
    let settings =
        Settings { key: parsed.of_server(&server), budget: budget.clone(), wait_max: efc_workers::health::WAIT_MAX };
    let workers = Workers::new(settings)?;
    workers.follow(endpoints(config));
    Ok(Some(Arc::new(workers)))
}

/// Where the workers listen. What names none is left out.
pub fn endpoints(config: &DaemonConfig) -> Vec<Endpoint> {
    let names = config.cache.as_ref().map_or("", |cache| &cache.workers);
    let parse = |name: &str| name.parse().inspect_err(|error| log::error!("workers: {error}")).ok();
    names.split('+').filter(|name| !name.is_empty()).filter_map(parse).collect()
}

/// Adds what this node knows of the workers.
pub fn add_figures(stats: &mut CacheStats, workers: &Workers) {
    for worker in workers.figures() {
        stats.workers += 1;
        stats.workers_refused += worker.counts.refused_blocks;
        if worker.state == WorkerState::Serving {
            stats.workers_ready += 1;
            stats.workers_capacity_bytes += worker.capacity_bytes;
            stats.workers_held_bytes += worker.held_bytes;
        }
    }
}
