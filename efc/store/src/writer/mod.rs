//! The thread that changes the disk: it writes blocks, and evicts others to make room for them. Since there is only
//! one, its operations never conflict with each other.

mod evicting;
mod filling;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use efc_tasks::time::now;
use rustix::io::Errno;

use crate::basics::lock;
use crate::disk::Disk;
use crate::engine::{Engine, Phase};
use crate::figures::{add, count};
use crate::files::{self, Writable};
use crate::hash::FileKey;
use crate::index::file;
use crate::layout::{Folder, Space, Unfit, names};
use crate::loading;
use crate::policy::queues::{Queue, Unit};
use crate::policy::taking::Trouble;
use crate::segments::{self, Appending};
use crate::work::{Job, Next};

/// How often the lock of another process is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);
/// How often a directory is tried that cannot be used.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// The file system's free space is looked at after so many bytes that were written, ...
const LOOK_BYTES: u64 = 64 << 20;
/// ... and after so long without any.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Of large files that are kept open, so many are for reading to one for writing.
const READABLE_PER_WRITABLE: usize = 8;

/// Why a block was not written.
#[derive(Debug, PartialEq, Eq)]
enum Unwritten {
    /// There is no room for it, or none that it is worth.
    Refused,
    /// The file system says so.
    Failed(Errno),
}

impl From<Errno> for Unwritten {
    fn from(errno: Errno) -> Unwritten {
        Unwritten::Failed(errno)
    }
}

/// A large file that is open for writing.
#[derive(Debug)]
struct Held {
    life: u64,
    file: Writable,
}

/// A store whose file system leaves it less than so many bytes is full.
const ROOM_MIN: u64 = 2 << 20;

/// The thread.
#[derive(Debug)]
pub(crate) struct Writer<D> {
    engine: Arc<Engine<D>>,
    folder: Arc<Folder>,
    /// The last used comes last.
    writable: Vec<Held>,
    /// What has gone, and is still read.
    closing: Vec<Arc<OwnedFd>>,
    /// The segments that are appended to: of *once*, and of *again*.
    once: Option<Appending>,
    again: Option<Appending>,
    segments_next: u64,
    written: u64,
    /// The file system has less free than it is to have, and it is not known yet what there is that could go.
    is_short_while_loading: bool,
}

/// Waits until the directory is this store's, has it loaded, and writes what comes.
pub(crate) fn run<D: Disk>(engine: Arc<Engine<D>>) {
    let Some(folder) = take(&engine) else { return };
    let segments = names(&folder.segments).unwrap_or_default();
    let segments: Vec<u64> = segments.iter().filter_map(|name| crate::layout::hex(name)).collect();
    let segments_next = segments.iter().max().map_or(0, |last| last.saturating_add(1));
    let (once, again, writable, closing, written) = (None, None, Vec::new(), Vec::new(), 0);
    let is_short_while_loading = false;
    engine.set_phase(Phase::Loading);
    let mut writer =
        Writer { engine, folder, writable, closing, once, again, segments_next, written, is_short_while_loading };
    writer.look();
    let engine = writer.engine.clone();
    let _ = engine.folder.set(writer.folder.clone()); // once only
    loading::begin(&engine, segments);
    drop(engine);
    writer.serve();
}

/// The directory, once it is to be had; `None`: nobody wants it any more.
fn take<D: Disk>(engine: &Engine<D>) -> Option<Arc<Folder>> {
    loop {
        let pause = match Folder::take(engine.directory.as_fd(), &engine.disk) {
            Ok(folder) => return Some(Arc::new(folder)),
            Err(Unfit::Locked) => {
                engine.set_phase(Phase::Waiting);
                LOCK_INTERVAL
            }
            Err(unfit) => {
                engine.set_phase(Phase::Failed(unfit.to_string()));
                RETRY_INTERVAL
            }
        };
        if engine.work.ends_within(pause) {
            return None;
        }
    }
}

impl<D: Disk> Writer<D> {
    fn serve(&mut self) {
        loop {
            match self.engine.work.next(LOOK_INTERVAL) {
                Next::Job(Job::Fill { key, block }) => {
                    self.fill(&key, &block);
                    if self.written >= LOOK_BYTES {
                        self.look();
                    }
                }
                Next::Job(job) => self.change(job),
                Next::Idle => self.look(),
                Next::End => return,
            }
        }
    }

    /// Does what is no fill. What fails shows when the file is read, or does not matter.
    fn change(&mut self, job: Job) {
        let done = match job {
            Job::Clear { hash, life, index } => self.clear(hash, life, index),
            Job::Drop { hash, life } => self.drop_large(hash, life),
            Job::Touch(unit) => self.touch(unit),
            Job::Mark(unit) => self.mark(unit),
            Job::Look | Job::Fill { .. } => {
                self.look();
                Ok(())
            }
        };
        if let Err(error) = done {
            log::debug!("the store could not note something: {error}");
        }
    }

    fn clear(&mut self, hash: u64, life: u64, index: u64) -> Result<(), Errno> {
        let Some(key) = self.key(hash, life) else { return Ok(()) };
        if lock(&self.engine.index).large(hash).is_some_and(|large| large.sums.get(index).is_some()) {
            return Ok(()); // it was written again meanwhile
        }
        self.with(hash, life, &key, false, |file, disk| file.set_sum(disk, index, 0))
    }

    fn drop_large(&mut self, hash: u64, life: u64) -> Result<(), Errno> {
        if self.key(hash, life).is_some() { self.evict_large(hash).map(drop) } else { Ok(()) }
    }

    fn touch(&self, unit: Unit) -> Result<(), Errno> {
        match unit {
            Unit::Segment(number) => files::touch(&self.folder.segments, &segments::path(number)),
            Unit::File(hash) => {
                let key = lock(&self.engine.index).large(hash).map(|large| large.key);
                let path = key.map(|key| files::map_path(&self.folder.hasher.name(&key)));
                path.map_or(Ok(()), |path| files::touch(&self.folder.files, &path))
            }
        }
    }

    /// Notes the queue of a unit on the disk.
    fn mark(&mut self, unit: Unit) -> Result<(), Errno> {
        let index = lock(&self.engine.index);
        let Some(queue) = index.queues.queue(unit) else { return Ok(()) };
        let large = if let Unit::File(hash) = unit { index.large(hash) } else { None };
        let large = large.map(|large| (large.key, large.life));
        drop(index);
        match (unit, large) {
            (Unit::Segment(number), _) => segments::set_queue(&self.folder, &self.engine.disk, number, queue),
            (Unit::File(hash), Some((key, life))) => {
                let folder = self.folder.clone();
                self.with(hash, life, &key, false, |file, disk| file.set_queue(&folder, disk, key, queue))
            }
            (Unit::File(_), None) => Ok(()),
        }
    }

    /// The key of the large file of this hash, if it has this life.
    fn key(&self, hash: u64, life: u64) -> Option<FileKey> {
        lock(&self.engine.index).large(hash).filter(|large| large.life == life).map(|large| large.key)
    }

    /// Does something with a large file that is open for writing.
    fn with<T>(
        &mut self,
        hash: u64,
        life: u64,
        key: &FileKey,
        is_new: bool,
        work: impl FnOnce(&Writable, &D) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let held = self.writable.iter().position(|held| held.life == life);
        let held = match held {
            Some(place) => self.writable.remove(place),
            None => {
                let queue = lock(&self.engine.index).queues.queue(Unit::File(hash)).unwrap_or(Queue::Once);
                let file = files::writable(&self.folder, &self.engine.disk, key, queue, is_new)?;
                Held { life, file }
            }
        };
        if self.writable.len() >= (self.engine.open_files_max / READABLE_PER_WRITABLE).max(1) {
            self.writable.remove(0);
        }
        let done = work(&held.file, &self.engine.disk);
        self.writable.push(held);
        done
    }

    /// Looks at what may be held, and lets go what is beyond that.
    fn look(&mut self) {
        self.written = 0;
        self.closing.retain(|file| Arc::strong_count(file) > 1);
        let configured = self.engine.size_max.load(Ordering::Relaxed);
        let space = self.space();
        if space.is_ok_and(|space| space.is_read_only) {
            self.has_trouble(Trouble::ReadOnly);
            return;
        }
        let is_loading = self.engine.is_loading();
        let mut index = lock(&self.engine.index);
        let (held, before) = (index.queues.held(), index.queues.size_max());
        let free_min = |size: u64| size / 100 * u64::from(self.engine.free_min_percent.min(100));
        self.is_short_while_loading =
            is_loading && space.is_ok_and(|Space { size, free, .. }| free < free_min(size).saturating_add(LOOK_BYTES));
        let size_max = match space {
            _ if is_loading => configured, // what is held is not known
            Ok(Space { size, free, .. }) => configured.min((held + free).saturating_sub(free_min(size))),
            Err(_) => configured.min(before),
        };
        index.queues.set_size_max(size_max);
        drop(index);
        if size_max < configured.min(ROOM_MIN) {
            self.has_trouble(Trouble::Full); // to be seen: nothing else would say why nothing is kept
        }
        self.shrink();
    }

    /// What the file system has now, which is noted for the figures.
    fn space(&self) -> Result<Space, Errno> {
        let space = self.folder.space()?;
        self.engine.tally.disk_bytes.store(space.size, Ordering::Relaxed);
        self.engine.tally.disk_free_bytes.store(space.free, Ordering::Relaxed);
        Ok(space)
    }

    /// Notes what the file system said.
    fn refused(&self, unwritten: Unwritten) {
        count(&self.engine.tally.refused);
        let Unwritten::Failed(error) = unwritten else { return };
        count(&self.engine.tally.refused_disk);
        let trouble = match error {
            Errno::NOSPC | Errno::DQUOT => {
                let _ = self.space(); // only the figures want it
                Trouble::Full
            }
            Errno::ROFS => Trouble::ReadOnly,
            _ => Trouble::Failed,
        };
        if self.has_trouble(trouble) && trouble == Trouble::Failed {
            log::warn!("nothing can be put into the store: {error}");
        }
    }

    /// Nothing is taken for a while. `true`: of this trouble nothing was known.
    fn has_trouble(&self, trouble: Trouble) -> bool {
        lock(&self.engine.taking).refused(trouble, now())
    }

    fn wrote(&mut self, bytes: u64, length: usize) {
        self.written += bytes;
        count(&self.engine.tally.fills);
        add(&self.engine.tally.fill_bytes, length as u64);
        lock(&self.engine.taking).written();
    }
}
