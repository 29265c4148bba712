//! Probes a slow disk from time to time, with nobody waiting, to find out whether it is fast enough again.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use efc_buffer::{LARGE, Purpose};
use efc_tasks::time::{in_time, now, since, sleep};
use rustix::fs::Advice;
use tokio::sync::oneshot;

use crate::basics::lock;
use crate::disk::{Disk, is_lost, read_all};
use crate::engine::Engine;
use crate::index::{Sample, Source};
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
    efc_tasks::spawn(async move {
        let mut asked = Asked::default();
        while let Some(false) = probe_later(&engine, &mut asked).await {}
    });
}

/// What came of reading a sample: its length, and how long that took; `None`: it could not be read.
type Answer = Option<(usize, Duration)>;

/// How often was asked, and the question without an answer, if there is one. Another would wait behind it.
#[derive(Default)]
struct Asked {
    count: usize,
    answer: Option<oneshot::Receiver<Answer>>,
}

/// Asks once, after a while. Is the disk in time? `None`: the store is not there any more.
async fn probe_later<D: Disk>(engine: &Weak<Engine<D>>, asked: &mut Asked) -> Option<bool> {
    sleep(INTERVAL).await;
    let engine = engine.upgrade()?;
    if engine.work.is_ended() {
        return None;
    }
    let Some((length, took)) = probe(&engine, asked).await else { return Some(false) };
    let mut patience = lock(&engine.patience);
    let is_in_time = took <= patience.wait(length);
    if is_in_time {
        patience.recovered();
        engine.is_slow.store(false, Ordering::Release);
        log::info!("the store is in time again");
    }
    Some(is_in_time)
}

/// Has a block read from the disk, unless that is under way, and waits for what comes of it.
async fn probe<D: Disk>(engine: &Arc<Engine<D>>, asked: &mut Asked) -> Answer {
    let mut answer = match asked.answer.take() {
        Some(answer) => answer,
        None => {
            asked.count += 1;
            let Some(sample) = lock(&engine.index).sample(asked.count) else { return Some((0, Duration::ZERO)) };
            let (answers, answer) = oneshot::channel();
            let reader = engine.clone();
            let read = move || {
                let came = read_sample(&reader, &sample);
                drop(reader);
                let _ = answers.send(came); // the store may be gone
            };
            if !engine.reads.add(Box::new(read)) {
                return None;
            }
            answer
        }
    };
    match in_time(&mut answer, Some(WAIT_MAX)).await {
        Some(came) => came.ok()?,
        None => {
            asked.answer = Some(answer);
            None
        }
    }
}

/// Reads it from the disk, not from the page cache. A large file that cannot be read goes.
fn read_sample<D: Disk>(engine: &Engine<D>, sample: &Sample) -> Answer {
    let Sample { hash, source, offset, length } = *sample;
    let mut room = engine.budget.take(Purpose::Ahead, LARGE)?.buffer().ok()?;
    let begun = now();
    let read = open_source(engine.folder.get()?, &source).and_then(|file| {
        let length = std::num::NonZeroU64::new(length as u64);
        let _ = rustix::fs::fadvise(&file, offset, length, Advice::DontNeed);
        read_all(&engine.disk, file.as_fd(), &mut room[..sample.length], offset)
    });
    match (read, source) {
        (Ok(_), _) => Some((length, since(begun))),
        (Err(error), Source::Data { life, .. }) if is_lost(error) => {
            engine.lose(hash, life);
            None
        }
        (Err(_), _) => None,
    }
}
