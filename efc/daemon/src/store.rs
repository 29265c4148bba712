//! The dataset's local store: a directory of the node that the keeper has given (`efc/keeper/src/stores.rs`).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use efc_buffer::Budget;
use efc_proto::{CacheConfig, DaemonConfig, StoreStats, store_stats};
use efc_store::{Settings, State, Store, is_memory};
use rustix::fs::Mode;

use crate::descriptors;
use crate::memory::Parts;

/// Of the file system, in percent.
const FREE_MIN_PERCENT_DEFAULT: u8 = 15;
/// Files that the store keeps open for reading, ...
const OPEN_FILES_MAX: usize = 256;
/// ... and which part of all that may be open: connections to the NAS and requests need some.
const DESCRIPTORS_PART: usize = 8;

/// What a store in this directory may take of this process's memory, whose limit is `memory_max_bytes`: half of it, on a tmpfs. `None`:
/// it lies elsewhere, or there is no limit.
pub fn memory_max(directory: Option<&OwnedFd>, memory_max_bytes: u64) -> Option<u64> {
    let is_limited =
        |directory: &&OwnedFd| memory_max_bytes > 0 && is_memory(directory).is_ok_and(|is_memory| is_memory);
    directory.filter(is_limited).map(|_| memory_max_bytes / 2)
}

/// The store, if the keeper has given a directory for it, which holds [`size_max`] bytes.
///
/// # Errors
/// There is no thread for it.
pub fn store(
    config: &DaemonConfig,
    directory: Option<OwnedFd>,
    (size_max, parts): (u64, &Parts),
    budget: &Budget,
) -> io::Result<Option<Arc<Store>>> {
    let Some(directory) = directory else { return Ok(None) };
    // All that gets into the directory may read and write what lies there, and that is its owner alone: of the next daemon another user.
    rustix::process::umask(Mode::empty());
    let settings = Settings {
        directory,
        size_max,
        free_min_percent: free_min_percent(config),
        budget: budget.clone(),
        index_bytes_max: parts.store_index_bytes_max,
        open_files_max: OPEN_FILES_MAX.min(descriptors::limit() / DESCRIPTORS_PART),
    };
    Store::open(settings).map(Some)
}

/// What the store may hold, in bytes, of which `memory_max` may be in this process's memory.
pub fn size_max(config: &DaemonConfig, memory_max: Option<u64>) -> u64 {
    let wanted = configured_bytes(config);
    match memory_max {
        Some(max) if max < wanted => {
            log::warn!(
                "the local store is on a tmpfs, which counts as the daemon's memory: it holds {} MiB, half of the limit",
                max >> 20
            );
            max
        }
        _ => wanted,
    }
}

/// What the options let the store hold, in bytes; 0: they want none.
pub fn configured_bytes(config: &DaemonConfig) -> u64 {
    cache(config).map_or(0, |cache| u64::from(cache.store_mib) << 20)
}

fn free_min_percent(config: &DaemonConfig) -> u8 {
    let percent = cache(config).map_or(0, |cache| cache.store_free_percent);
    u8::try_from(percent).ok().filter(|percent| (1..100).contains(percent)).unwrap_or(FREE_MIN_PERCENT_DEFAULT)
}

fn cache(config: &DaemonConfig) -> Option<&CacheConfig> {
    config.cache.as_ref()
}

/// What the store does, for the keeper.
pub fn figures(store: &Store) -> StoreStats {
    let figures = store.figures();
    let state = match figures.state {
        State::Waiting => store_stats::State::Waiting,
        State::Loading => store_stats::State::Loading,
        State::Serving => store_stats::State::Serving,
        State::Slow => store_stats::State::Slow,
        State::ReadOnly => store_stats::State::ReadOnly,
        State::Full => store_stats::State::Full,
        State::Failed(_) => store_stats::State::Failed,
    };
    StoreStats {
        state: state.into(),
        capacity_bytes: figures.size_max,
        held_bytes: figures.held_bytes,
        files: figures.files,
        hits: figures.hits,
        misses: figures.misses,
        filled_bytes: figures.fill_bytes,
        refused: figures.refused,
        evicted_bytes: figures.evicted_bytes,
        damaged: figures.damaged,
        late: figures.late,
        refused_busy: figures.refused_busy,
        refused_disk: figures.refused_disk,
        disk_bytes: figures.disk_bytes,
        disk_free_bytes: figures.disk_free_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(store_mib: u32, store_free_percent: u32) -> DaemonConfig {
        let cache = CacheConfig { store_mib, store_free_percent, ..Default::default() };
        DaemonConfig { cache: Some(cache), ..Default::default() }
    }

    #[test]
    fn a_store_in_memory_gets_half_of_the_limit_and_one_on_a_disk_what_it_wants() {
        let wanted = config(512, 0);
        let sizes = [None, Some(1 << 30), Some(128 << 20)].map(|max| size_max(&wanted, max) >> 20);
        assert_eq!(sizes, [512, 512, 128]);
        let memory = rustix::fs::memfd_create("efc-store-test", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
        let other = OwnedFd::from(std::fs::File::open("/proc").expect("there"));
        let of = |directory, limit| memory_max(directory, limit);
        assert_eq!([of(Some(&memory), 256), of(Some(&memory), 0)], [Some(128), None]);
        assert_eq!([of(Some(&other), 256), of(None, 256)], [None, None]);
        assert_eq!(size_max(&DaemonConfig::default(), None), 0);
    }

    #[test]
    fn what_stays_free_is_a_part_of_the_disk() {
        assert_eq!([0, 1, 90, 100, 300].map(|percent| free_min_percent(&config(64, percent))), [15, 1, 90, 15, 15]);
    }
}
