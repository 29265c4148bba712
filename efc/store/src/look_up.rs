//! Looking a block up: at once in memory and in the page cache, otherwise on the disk, which is waited for about as
//! long as the backend would take.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use efc_buffer::{Buffer, LARGE, Purpose};
use efc_cache::blocks::{Block, BlockKey, Fill, Lookup, Miss, Turn};
use efc_tasks::time::{in_time, now, since, sleep};
use rustix::io::Errno;
use tokio::sync::oneshot;

use crate::basics::lock;
use crate::disk::{Disk, has_lost, is_lost, read_all};
use crate::engine::Engine;
use crate::figures::{add, count};
use crate::index::{Place, Source, Used, file};
use crate::layout::Folder;
use crate::opened::open_source;
use crate::probing;
use crate::segments::{Record, read_record};
use crate::work::Job;

/// How often who has time looks whether there is room on the way to the disk.
const TURN_INTERVAL: Duration = Duration::from_millis(10);

/// What a read has found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// The block.
    Sound,
    /// Another file's: the hashes of their handles are the same, or it is of another version.
    Another,
    /// Not what was written there.
    Damaged,
    /// Nothing yet: it would take time.
    Waits,
    /// It cannot be read.
    Failed(Errno),
}

/// The memory for a read whose turn has not come yet. Nobody reads into it once this is dropped.
struct Asked {
    waiting: Arc<Mutex<Option<Buffer>>>,
}

impl Asked {
    fn new(room: Buffer) -> Asked {
        Asked { waiting: Arc::new(Mutex::new(Some(room))) }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        lock(&self.waiting).take();
    }
}

/// A block that is there, and what of it is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) hash: u64,
    pub(crate) key: BlockKey,
    pub(crate) place: Place,
    /// All of it, unless it was compared with its checksum before.
    pub(crate) part: Range<usize>,
    /// It is to come to the disk first, to be compared for those who read it in other pieces later.
    pub(crate) is_verified_now: bool,
}

impl Target {
    fn source(&self) -> Source {
        match self.place {
            Place::Record(record) => Source::Segment(record.segment),
            Place::Block { life, .. } => Source::Data { key: file(&self.key), life },
        }
    }

    /// Reads it into `room`, and looks whether it is what it should be.
    fn read(
        &self,
        disk: &impl Disk,
        folder: &Folder,
        from: BorrowedFd<'_>,
        room: &mut Buffer,
        waits: bool,
    ) -> Result<Came, Errno> {
        let into = &mut room[..self.part.len()];
        let sum = match self.place {
            Place::Record(record) => {
                let offset = u64::from(record.offset);
                return Ok(match read_record(disk, from, folder.hasher, offset, into, waits)? {
                    Record::Sound(key) if key == file(&self.key) => Came::Sound,
                    Record::Sound(_) => Came::Another,
                    Record::Damaged => Came::Damaged,
                    Record::Waits => Came::Waits,
                });
            }
            Place::Block { sum, .. } => sum,
        };
        let offset = self.key.offset() + self.part.start as u64;
        if waits {
            if read_all(disk, from, into, offset)? < into.len() {
                return Ok(Came::Damaged);
            }
        } else {
            match disk.read_now(from, &mut [std::io::IoSliceMut::new(into)], offset) {
                Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => return Ok(Came::Waits),
                Ok(length) if length < into.len() => return Ok(Came::Waits),
                read => read?,
            };
        }
        // A part has no checksum of its own.
        let is_sound = self.part.len() < self.key.length() || folder.hasher.data(into) == sum;
        Ok(if is_sound { Came::Sound } else { Came::Damaged })
    }
}

impl<D: Disk> Engine<D> {
    /// Gives the block, if it is there and comes in time.
    pub(crate) async fn look_up(self: &Arc<Self>, key: BlockKey, room: Buffer) -> Lookup {
        let Some(folder) = self.folder.get().filter(|_| key.length() > 0) else { return nothing(room) };
        let hash = folder.hasher.file(&file(&key));
        let Some(place) = lock(&self.index).find(hash, &key) else { return self.miss(key, room) };
        self.give(folder, Target { hash, key, place, part: 0..key.length(), is_verified_now: false }, room).await
    }

    /// Gives a part of the block: alone if the block was compared with its checksum before, else by way of the whole of it.
    pub(crate) async fn look_part_up(self: &Arc<Self>, key: BlockKey, part: Range<usize>, mut room: Buffer) -> Lookup {
        let Some(folder) = self.folder.get().filter(|_| part.end <= key.length()) else { return nothing(room) };
        let hash = folder.hasher.file(&file(&key));
        let Some(place) = lock(&self.index).find(hash, &key) else { return nothing(room) };
        if matches!(place, Place::Block { is_verified: true, .. }) {
            return self.give(folder, Target { hash, key, place, part, is_verified_now: false }, room).await;
        }
        let whole = self.budget.take(Purpose::Ahead, key.length()).and_then(|whole| whole.buffer().ok());
        let Some(whole) = whole else { return nothing(room) };
        let target = Target { hash, key, place, part: 0..key.length(), is_verified_now: true };
        match self.give(folder, target, whole).await {
            Lookup::Hit { block, .. } => {
                let length = part.len();
                room[..length].copy_from_slice(&block[part]);
                Lookup::Hit { block: Block::new(room, length), fill: None }
            }
            Lookup::Miss(_) => nothing(room),
        }
    }

    async fn give(self: &Arc<Self>, folder: &Arc<Folder>, target: Target, mut room: Buffer) -> Lookup {
        let came = if target.is_verified_now { Came::Waits } else { self.read_now(folder, &target, &mut room) };
        match came {
            Came::Waits => self.read_later(folder, target, room).await,
            came => {
                lock(&self.patience).in_time(target.part.len(), Duration::ZERO);
                self.settle(&target, came, room)
            }
        }
    }

    /// Reads what needs no waiting. What lies in memory is read in any case.
    fn read_now(&self, folder: &Folder, target: &Target, room: &mut Buffer) -> Came {
        if folder.is_memory {
            return self.read(folder, target, room);
        }
        let Some(from) = lock(&self.opened).get(&target.source()) else { return Came::Waits };
        target.read(&self.disk, folder, from.as_fd(), room, false).unwrap_or_else(Came::Failed)
    }

    /// Reads, and waits for the disk.
    pub(crate) fn read(&self, folder: &Folder, target: &Target, room: &mut Buffer) -> Came {
        let source = target.source();
        let opened = lock(&self.opened).get(&source);
        let from = match opened.map_or_else(|| self.open(folder, target.hash, &source), Ok) {
            Ok(from) => from,
            Err(error) => return Came::Failed(error),
        };
        let begin = target.key.offset() + target.part.start as u64;
        let bytes = begin..begin + target.part.len() as u64;
        let is_out = if target.is_verified_now { self.disk.write_out(from.as_fd(), bytes) } else { Ok(()) };
        if let Err(error) = is_out {
            return Came::Failed(if has_lost(error) { Errno::IO } else { error });
        }
        target.read(&self.disk, folder, from.as_fd(), room, true).unwrap_or_else(Came::Failed)
    }

    /// Opens a file, and keeps it open unless it goes meanwhile. If it has gone, what was opened by its name may be another one that has come
    /// in its place: nobody gets that.
    fn open(&self, folder: &Folder, hash: u64, source: &Source) -> Result<Arc<OwnedFd>, Errno> {
        let file = Arc::new(open_source(folder, source)?);
        if !lock(&self.index).has_source(hash, source) {
            return Err(Errno::NOENT);
        }
        let oldest = lock(&self.opened).add(source, &file);
        drop(oldest);
        if !lock(&self.index).has_source(hash, source) {
            let gone = lock(&self.opened).close(source); // whoever has removed it may have looked before
            drop(gone);
        }
        Ok(file)
    }

    async fn read_later(self: &Arc<Self>, folder: &Arc<Folder>, target: Target, room: Buffer) -> Lookup {
        let (answers, mut answer) = oneshot::channel();
        let (asked, engine, folder) = (Asked::new(room), self.clone(), folder.clone());
        let (waiting, wanted) = (asked.waiting.clone(), target.clone());
        let read = move || {
            let Some(mut room) = lock(&waiting).take() else { return };
            let came = engine.read(&folder, &wanted, &mut room);
            drop((engine, folder)); // the one who waits goes on here
            let _ = answers.send((came, room)); // too late is too late
        };
        let begun = now();
        if !self.reads.add(Box::new(read)) {
            return self.late(asked, begun);
        }
        let wait = lock(&self.patience).wait(target.part.len());
        match in_time(&mut answer, Some(wait)).await {
            Some(Ok((came, room))) => {
                lock(&self.patience).in_time(target.part.len(), since(begun));
                self.settle(&target, came, room)
            }
            _ => self.late(asked, begun),
        }
    }

    fn late(self: &Arc<Self>, asked: Asked, begun: Instant) -> Lookup {
        count(&self.tally.late);
        count(&self.tally.misses);
        let is_too_late = lock(&self.patience).late(begun, now());
        if is_too_late {
            probing::begin(self);
        }
        Lookup::Miss(Miss { room: lock(&asked.waiting).take(), fill: None })
    }

    fn miss(self: &Arc<Self>, key: BlockKey, room: Buffer) -> Lookup {
        count(&self.tally.misses);
        let fill = || Box::new(Filling { engine: self.clone(), key }) as Box<dyn Fill>;
        Lookup::Miss(Miss { room: Some(room), fill: self.takes().then(fill) })
    }

    /// What follows from what was read.
    fn settle(self: &Arc<Self>, target: &Target, came: Came, room: Buffer) -> Lookup {
        match came {
            Came::Sound => {
                self.used(target);
                return Lookup::Hit { block: Block::new(room, target.part.len()), fill: None };
            }
            Came::Damaged => self.damaged(target),
            Came::Failed(error) => self.failed(target, error),
            Came::Another | Came::Waits => {}
        }
        self.miss(target.key, room)
    }

    fn used(&self, target: &Target) {
        let Target { hash, key, place, part, is_verified_now } = target;
        count(&self.tally.hits);
        add(&self.tally.hit_bytes, part.len() as u64);
        let at_s = self.now_s();
        let mut index = lock(&self.index);
        if let (Place::Block { sum, life, .. }, true) = (place, *is_verified_now) {
            index.verify_block(*hash, key.index, *sum, *life);
        }
        let used = index.used(*hash, key, at_s);
        drop(index);
        self.follow_use(used);
    }

    /// What the disk is to know of a use.
    pub(crate) fn follow_use(&self, used: Used) {
        if used.moves {
            self.ask(Job::Mark(used.unit));
        }
        if used.is_old {
            self.ask(Job::Touch(used.unit));
        }
    }

    /// The block goes, if it has not gone meanwhile.
    pub(crate) fn damaged(&self, target: &Target) {
        let Target { hash, key, place, .. } = target;
        let mut index = lock(&self.index);
        let has_gone = match place {
            Place::Record(record) => index.forget_record(*hash, record),
            Place::Block { life, .. } => index.clear_block(*hash, key, *life),
        };
        drop(index);
        if !has_gone {
            return;
        }
        count(&self.tally.damaged);
        if let Place::Block { life, .. } = place {
            self.ask(Job::Clear { hash: *hash, life: *life, index: key.index });
        }
    }

    /// The file goes, if it is the file's fault, and if it has not gone meanwhile.
    pub(crate) fn failed(&self, target: &Target, error: Errno) {
        if !is_lost(error) {
            return log::debug!("a block could not be read: {error}");
        }
        match target.place {
            Place::Block { life, .. } => self.lose(target.hash, life),
            Place::Record(_) => self.damaged(target),
        }
    }

    /// The large file of this life cannot be read: it goes, if it has not gone.
    pub(crate) fn lose(&self, hash: u64, life: u64) {
        if lock(&self.index).large(hash).is_some_and(|large| large.life == life) {
            count(&self.tally.damaged);
            self.ask(Job::Drop { hash, life });
        }
    }
}

fn nothing(room: Buffer) -> Lookup {
    Lookup::Miss(Miss { room: Some(room), fill: None })
}

/// A place for a block that is not there.
#[derive(Debug)]
struct Filling<D> {
    engine: Arc<Engine<D>>,
    key: BlockKey,
}

impl<D: Disk> Fill for Filling<D> {
    fn unhurried_turn(&mut self) -> Turn<'_> {
        Box::pin(async {
            while !self.engine.work.has_room(LARGE) {
                sleep(TURN_INTERVAL).await;
            }
        })
    }

    fn fill(self: Box<Self>, block: &Arc<Block>) {
        let Filling { engine, key } = *self;
        // The chain may have something else than it asked for.
        if block.len() == key.length() && !engine.work.add(Job::Fill { key, block: block.clone() }) {
            count(&engine.tally.refused);
            count(&engine.tally.refused_busy);
        }
    }
}
