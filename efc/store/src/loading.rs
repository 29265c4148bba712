//! Loads the index from the directory at the start, on a thread of its own: what has been loaded serves at once, and
//! new blocks are accepted meanwhile. Segments come first, as they are few.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::basics::lock;
use crate::disk::Disk;
use crate::engine::{Engine, Phase};
use crate::files;
use crate::hash::FileKey;
use crate::index::{Index, Record};
use crate::layout::{Folder, hex, names, open, remove};
use crate::policy::queues::Unit;
use crate::segments;
use crate::work::Job;

const STACK: usize = 256 << 10;
/// With more in memory than the index may have, the loading waits this long for the writer to let something go.
const PAUSE: Duration = Duration::from_millis(20);
/// After so many files the writer looks whether there is too much.
const FILES_PER_LOOK: usize = 1024;

/// Starts the thread.
pub(crate) fn begin<D: Disk>(engine: &Arc<Engine<D>>, segments: Vec<u64>) {
    let loading = engine.clone();
    let thread = thread::Builder::new().name("store-loading".into()).stack_size(STACK);
    let begun = thread.spawn(move || {
        load(&loading, segments);
        loading.set_phase(Phase::Loaded);
        loading.ask(Job::Look);
    });
    if let Err(error) = begun {
        log::error!("what lies in the store is not looked at: {error}");
        engine.set_phase(Phase::Loaded);
    }
}

fn load<D: Disk>(engine: &Engine<D>, mut segments: Vec<u64>) {
    let Some(folder) = engine.folder.get() else { return };
    segments.sort_unstable();
    for number in segments.into_iter().rev() {
        if has_ended(engine) {
            return;
        }
        load_segment(engine, folder, number);
    }
    for beneath in names(&folder.files).unwrap_or_default() {
        if has_ended(engine) || load_files(engine, folder, &beneath).is_none() {
            return;
        }
    }
}

/// Is it the end? Waits while there is no memory for more.
fn has_ended<D: Disk>(engine: &Engine<D>) -> bool {
    while lock(&engine.index).memory() > engine.index_bytes_max {
        engine.ask(Job::Look);
        if engine.work.ends_within(PAUSE) {
            return true;
        }
    }
    engine.work.is_ended()
}

fn load_segment<D: Disk>(engine: &Engine<D>, folder: &Folder, number: u64) {
    let found = match segments::load(folder, &engine.disk, number) {
        Ok(Some(found)) => found,
        Ok(None) | Err(Errno::IO) => return gone(remove(&folder.segments, &segments::path(number))),
        Err(error) => return log::debug!("a segment of the store cannot be read: {error}"),
    };
    let mut index = lock(&engine.index);
    index.queues.load(Unit::Segment(number), found.queue, found.bytes, found.age_s);
    // The newest record of a file comes first.
    for entry in found.entries.iter().rev().filter(|entry| entry.length > 0) {
        if !index.has(entry.hash) {
            let (offset, length) = (entry.offset, entry.length);
            let record = Record { segment: number, offset, length, filled_s: 0, was_read: false, was_kept: false };
            index.add_record(entry.hash, record);
        }
    }
}

/// Loads the files of one folder; `None`: it is the end.
fn load_files<D: Disk>(engine: &Engine<D>, folder: &Folder, beneath: &str) -> Option<()> {
    let listed = open(&folder.files, beneath, OFlags::RDONLY | OFlags::DIRECTORY).and_then(names);
    let Ok(listed) = listed else { return Some(()) };
    let listed: HashSet<String> = listed.into_iter().collect();
    for (count, file) in listed.iter().enumerate() {
        if has_ended(engine) {
            return None;
        }
        if count % FILES_PER_LOOK == FILES_PER_LOOK - 1 {
            engine.ask(Job::Look);
        }
        let Some((name, kind)) = file.split_once('.').filter(|(name, _)| is_name(name, beneath)) else { continue };
        match kind {
            "map" if listed.contains(&format!("{name}.data")) => load_file(engine, folder, name),
            "data" if listed.contains(&format!("{name}.map")) => {}
            _ => discard(engine, folder, name),
        }
    }
    Some(())
}

fn is_name(name: &str, beneath: &str) -> bool {
    let is_one = name.len() == 32 && name.is_ascii() && beneath.len() == 2 && name.starts_with(beneath);
    is_one && hex(&name[..16]).is_some() && hex(&name[16..]).is_some()
}

/// Removes what is left of a file, unless it is one that has just been begun.
fn discard<D: Disk>(engine: &Engine<D>, folder: &Folder, name: &str) {
    let index = lock(&engine.index);
    let known = hex(&name[..16]).and_then(|hash| index.large(hash)).map(|large| large.key);
    drop(index);
    if known.is_none_or(|key| folder.hasher.name(&key) != name) {
        gone(files::discard(folder, name));
    }
}

fn gone(removed: Result<(), Errno>) {
    if let Err(error) = removed {
        log::debug!("a damaged file of the store stays: {error}");
    }
}

fn load_file<D: Disk>(engine: &Engine<D>, folder: &Folder, name: &str) {
    let found = match files::load(folder, &engine.disk, name) {
        Ok(Some(found)) if found.sums.count() > 0 => found,
        Ok(_) | Err(Errno::IO) => return discard(engine, folder, name),
        Err(error) => return log::debug!("a map of the store cannot be read: {error}"),
    };
    let hash = folder.hasher.file(&found.key);
    let mut index = lock(&engine.index);
    let known: Option<FileKey> = index.large(hash).map(|large| large.key);
    if known.is_none() {
        index.forget(hash); // a small file of the same handle, of which one version is old
        let bytes = Index::large_bytes(&found.key, &found.sums);
        index.queues.load(Unit::File(hash), found.queue, bytes, found.age_s);
        index.add_large(hash, found.key, found.sums);
    }
    drop(index);
    if known.is_some_and(|known| known != found.key) {
        gone(files::discard(folder, name)); // another version: of two, either is no more than a miss
    }
}
