//! Asking a slow disk from time to time, with nobody waiting, whether it is in time again.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use efc_buffer::{LARGE, Purpose};
use efc_tasks::time::{in_time, now, since, sleep};
use rustix::fs::Advice;
use tokio::sync::oneshot;

use crate::basics::lock;
use crate::disk::{Disk, read_all};
use crate::engine::Engine;
use crate::opened::open_source;

/// How often it is asked.
const INTERVAL: Duration = Duration::from_secs(5);
/// An answer that takes longer is not waited for; the next question waits for it all the same.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// From now on nobody waits for the disk, until an answer is in time.
pub(crate) fn begin<D: Disk>(engine: &Arc<Engine<D>>) {
    if engine.is_slow.swap(true, Ordering::AcqRel) {
        return;
    }
    log::warn!("the store answers later than the backend: it is not asked until it is in time again");
    let engine = Arc::downgrade(engine);
    efc_tasks::spawn(async move { while let Some(false) = probe_later(&engine).await {} });
}

/// Asks once, after a while. Is the disk in time? `None`: the store is not there any more.
async fn probe_later<D: Disk>(engine: &Weak<Engine<D>>) -> Option<bool> {
    sleep(INTERVAL).await;
    let engine = engine.upgrade()?;
    if engine.work.is_ended() {
        return None;
    }
    let Some((length, took)) = probe(&engine).await else { return Some(false) };
    let mut patience = lock(&engine.patience);
    let is_in_time = took <= patience.wait(length);
    if is_in_time {
        patience.recovered();
        engine.is_slow.store(false, Ordering::Release);
        log::info!("the store is in time again");
    }
    Some(is_in_time)
}

/// Reads a block from the disk. Its length, and what that took; `None`: there is no answer.
async fn probe<D: Disk>(engine: &Arc<Engine<D>>) -> Option<(usize, Duration)> {
    let folder = engine.folder.get()?.clone();
    let Some((source, offset, length)) = lock(&engine.index).sample() else { return Some((0, Duration::ZERO)) };
    let mut room = engine.budget.take(Purpose::Ahead, LARGE)?.buffer().ok()?;
    let (answers, mut answer) = oneshot::channel();
    let reader = engine.clone();
    let read = move || {
        let begun = now();
        let Ok(file) = open_source(&folder, &source) else { return };
        // The page cache is not what is asked.
        let _ = rustix::fs::fadvise(&file, offset, std::num::NonZeroU64::new(length as u64), Advice::DontNeed);
        let is_read = read_all(&reader.disk, file.as_fd(), &mut room[..length], offset).is_ok();
        let took = is_read.then(|| since(begun));
        drop((reader, folder));
        let _ = answers.send(took); // the store may be gone
    };
    if !engine.reads.add(Box::new(read)) {
        return None;
    }
    let took = in_time(&mut answer, Some(WAIT_MAX)).await?.ok()??;
    Some((length, took))
}
