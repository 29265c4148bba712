//! Watches the files that list datasets' workers: when one has changed, its content is sent to the daemon.
//!
//! One thread of the keeper does all of that. If the file system of such a file hangs, the thread hangs and no file is
//! watched; nothing else waits for it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Weak;
use std::time::{Duration, Instant};

use efc_proto::DaemonConfig;

use crate::entry::MountEntry;
use crate::files;
use crate::mounts::Mounts;
use crate::wishes::Wish;

/// How often the files are looked at. ConfigMaps of Kubernetes are no faster.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long a daemon may take to be told; it is told again at the next look otherwise.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// What each mount's daemon was last told of its file, or why that could not be read.
type Told = HashMap<PathBuf, Result<Vec<u8>, String>>;

/// Follows the files of these mounts for as long as there are any.
pub fn follow(mounts: &Weak<Mounts>) {
    let mut told = Told::new();
    loop {
        std::thread::sleep(INTERVAL);
        let Some(mounts) = mounts.upgrade() else { return };
        let entries = mounts.all();
        told.retain(|target, _| entries.iter().any(|entry| entry.target() == target));
        entries.iter().for_each(|entry| look(entry, &mounts, &mut told));
    }
}

/// Tells the daemon what its file holds, if that may be new to it. A file that is empty is being written.
fn look(entry: &MountEntry, mounts: &Mounts, told: &mut Told) {
    let options = entry.options();
    let Some(cache) = &options.cache else { return };
    let found = files::endpoints(cache).map_err(|error| format!("{} cannot be read: {error}", cache.workers));
    if found.as_ref().is_ok_and(Vec::is_empty) || told.get(entry.target()) == Some(&found) {
        return;
    }
    // A daemon of another release would be replaced; the next one reads the file when it starts.
    if entry.status().version != mounts.programs().daemon.get().version() {
        return;
    }
    if let Err(error) = tell(entry, &options, &found) {
        log::warn!("{}: its daemon knows of the workers that it was told of before: {error}", entry.target().display());
        if found.is_ok() {
            return; // the next look tells it
        }
    }
    told.insert(entry.target().to_owned(), found);
}

fn tell(entry: &MountEntry, options: &DaemonConfig, found: &Result<Vec<u8>, String>) -> Result<(), String> {
    let workers_file = Some(found.clone()?);
    let (options, base) = (Some(options.clone()), Some(options.clone()));
    let wish = Wish { options, base, in_place: true, workers_file, ..Wish::default() };
    entry.upgrade(wish, Instant::now() + TIME_LIMIT).map(drop).map_err(|error| error.message)
}
