//! Writing blocks: admission, room, and the bytes.

use efc_cache::blocks::{Block, BlockKey};
use rustix::io::Errno;

use super::{Unwritten, Writer, file};
use crate::basics::lock;
use crate::disk::Disk;
use crate::files;
use crate::hash::FileKey;
use crate::index::{Index, MAP_BYTES, Record, is_small, on_disk, record_bytes};
use crate::layout::header::HEADER_BYTES;
use crate::layout::index::FOOTER_BYTES;
use crate::policy::queues::{Admission, Queue, Unit};
use crate::segments::Appending;
use crate::sums::Sums;

/// What a segment has beside its records.
const FRAME_BYTES: u64 = (HEADER_BYTES + FOOTER_BYTES) as u64;
/// A map is read whole, so larger files are left to others.
const FILE_BYTES_MAX: u64 = 64 << 40;
/// Bytes of a segment: a part of the store, within these bounds.
const SEGMENT_PART: u64 = 40;
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 256 << 10..=32 << 20;

impl<D: Disk> Writer<D> {
    /// Writes a block, if it is worth the room.
    pub(super) fn fill(&mut self, key: &BlockKey, block: &Block) {
        let mut filled = self.try_fill(key, block);
        if let Err(Unwritten::Failed(Errno::NOSPC | Errno::DQUOT)) = filled
            && self.evict_some(&file(key))
        {
            filled = self.try_fill(key, block);
        }
        match filled {
            Ok(bytes) => self.wrote(bytes, block.len()),
            Err(unwritten) => self.refused(unwritten),
        }
    }

    /// The bytes that it takes on the disk.
    fn try_fill(&mut self, key: &BlockKey, block: &Block) -> Result<u64, Unwritten> {
        let file = file(key);
        if file.version.size > FILE_BYTES_MAX || self.is_short_while_loading {
            return Err(Unwritten::Refused);
        }
        let hash = self.folder.hasher.file(&file);
        self.drop_what_is_over(hash, &file)?;
        if is_small(&file) { self.fill_small(hash, file, block) } else { self.fill_large(hash, key, block) }
    }

    /// Another version goes with the first block of this one, and so does a file of which nothing is left, since all of it was damaged: the
    /// next has files of its own, and nobody reads those of the former in their place. A small one is forgotten where its new record is added.
    fn drop_what_is_over(&mut self, hash: u64, key: &FileKey) -> Result<(), Errno> {
        let index = lock(&self.engine.index);
        let is_over = index.large(hash).is_some_and(|large| large.key != *key || large.sums.count() == 0);
        drop(index);
        if is_over { self.evict_large(hash).map(drop) } else { Ok(()) }
    }

    fn fill_large(&mut self, hash: u64, key: &BlockKey, block: &Block) -> Result<u64, Unwritten> {
        let file = file(key);
        let admission = self.have_large(hash, &file, block.len());
        let (is_new, life) = {
            let index = lock(&self.engine.index);
            let Some(large) = index.large(hash).filter(|large| large.key == file) else {
                return Err(Unwritten::Refused);
            };
            (large.sums.count() == 0, large.life)
        };
        let unit = Unit::File(hash);
        let bytes = on_disk(block.len()) + if is_new { MAP_BYTES } else { 0 };
        let written = if self.make_room(unit, admission, bytes) {
            let sum = self.folder.hasher.data(block);
            let write = |file: &files::Writable, disk: &D| file.write(disk, key.index, block, sum).map(|()| sum);
            self.with(hash, life, &file, is_new, write).map_err(Unwritten::Failed)
        } else {
            lock(&self.engine.index).queues.refused(hash, bytes, admission.distance, self.engine.now_s());
            Err(Unwritten::Refused)
        };
        match written {
            Ok(sum) => Ok(self.note_block(hash, key, sum, bytes)),
            Err(unwritten) => {
                self.unhave(hash, &file, &unwritten)?;
                Err(unwritten)
            }
        }
    }

    fn note_block(&mut self, hash: u64, key: &BlockKey, sum: u64, bytes: u64) -> u64 {
        let at_s = self.engine.now_s();
        let mut index = lock(&self.engine.index);
        if index.set_block(hash, key.index, sum) {
            index.queues.grew(Unit::File(hash), bytes, at_s);
        }
        bytes
    }

    /// Has an entry for the large file: that which is there, one that lies on the disk and was not loaded yet, or a new
    /// one.
    fn have_large(&mut self, hash: u64, key: &FileKey, length: usize) -> Admission {
        let unit = Unit::File(hash);
        let mut index = lock(&self.engine.index);
        if let Some(admission) = index.large(hash).and_then(|_| index.queues.admission(unit)) {
            return admission;
        }
        index.forget(hash); // a small file of the same handle
        drop(index);
        let name = self.folder.hasher.name(key);
        let found = files::load(&self.folder, &self.engine.disk, &name).ok().flatten();
        let at_s = self.engine.now_s();
        let mut index = lock(&self.engine.index);
        let is_loaded = index.has(hash); // meanwhile, by the other thread
        match found.filter(|found| found.key == *key && found.sums.count() > 0) {
            _ if is_loaded => {}
            Some(found) => {
                let bytes = Index::large_bytes(key, &found.sums);
                index.queues.load(unit, found.queue, bytes, found.age_s);
                index.add_large(hash, *key, found.sums);
            }
            None => {
                let admission = index.queues.admit(hash, on_disk(length), at_s);
                index.queues.add(unit, admission, at_s);
                index.add_large(hash, *key, Sums::default());
            }
        }
        let never = Admission { queue: Queue::Once, distance: u64::MAX, usual: None };
        index.queues.admission(unit).unwrap_or(never)
    }

    /// A block was not written: a file that has no other goes, and one that cannot be written to.
    fn unhave(&mut self, hash: u64, key: &FileKey, unwritten: &Unwritten) -> Result<(), Errno> {
        let is_broken = matches!(unwritten, Unwritten::Failed(Errno::IO | Errno::UCLEAN | Errno::BADMSG));
        let index = lock(&self.engine.index);
        let is_empty = index.large(hash).is_some_and(|large| large.key == *key && large.sums.count() == 0);
        drop(index);
        if is_empty || is_broken { self.evict_large(hash).map(drop) } else { Ok(()) }
    }

    fn fill_small(&mut self, hash: u64, key: FileKey, block: &Block) -> Result<u64, Unwritten> {
        let (record, at_s) = (record_bytes(block.len() as u32), self.engine.now_s());
        let admission = lock(&self.engine.index).queues.admit(hash, record, at_s);
        let open = self.appending(admission.queue).as_ref().map(|segment| segment.number);
        let unit = Unit::Segment(open.unwrap_or(self.segments_next));
        let bytes = record + if open.is_none() { FRAME_BYTES } else { 0 };
        if !self.make_room(unit, admission, bytes) {
            lock(&self.engine.index).queues.refused(hash, bytes, admission.distance, at_s);
            return Err(Unwritten::Refused);
        }
        self.begin_segment(admission)?;
        self.append(admission.queue, hash, key, block, false)?;
        Ok(bytes)
    }

    pub(super) fn appending(&mut self, queue: Queue) -> &mut Option<Appending> {
        match queue {
            Queue::Once => &mut self.once,
            Queue::Again => &mut self.again,
        }
    }

    /// Sees to it that there is a segment of this queue that is appended to.
    fn begin_segment(&mut self, admission: Admission) -> Result<(), Unwritten> {
        let queue = admission.queue;
        if self.appending(queue).is_some() {
            return Ok(());
        }
        let number = self.segments_next;
        let segment = Appending::begin(&self.folder, &self.engine.disk, number, queue)?;
        self.segments_next += 1;
        let mut index = lock(&self.engine.index);
        let at_s = self.engine.now_s();
        index.queues.add(Unit::Segment(number), Admission { usual: None, ..admission }, at_s);
        index.queues.grew(Unit::Segment(number), FRAME_BYTES, at_s);
        drop(index);
        *self.appending(queue) = Some(segment);
        Ok(())
    }

    /// Appends a small file to the segment of this queue, for which there is room.
    pub(super) fn append(
        &mut self,
        queue: Queue,
        hash: u64,
        key: FileKey,
        data: &[u8],
        was_kept: bool,
    ) -> Result<(), Errno> {
        let (engine, hasher) = (self.engine.clone(), self.folder.hasher);
        let Some(segment) = self.appending(queue) else { return Err(Errno::NOENT) };
        let (number, offset) = (segment.number, segment.append(&engine.disk, hasher, key, data)?);
        let (length, filled_s) = (data.len() as u32, engine.now_s());
        let is_full = segment.tail >= self.segment_bytes();
        let mut index = lock(&engine.index);
        let record = Record { segment: number, offset, length, filled_s, was_read: false, was_kept };
        let replaced = index.add_record(hash, record);
        index.queues.grew(Unit::Segment(number), record_bytes(length), filled_s);
        drop(index);
        if let Some(large) = replaced
            && let Err(error) = self.discard_large(large.key, large.life)
        {
            log::debug!("a file of the store stays whose place another one has: {error}");
        }
        if is_full && let Err(error) = self.seal(queue) {
            log::debug!("a segment of the store could not be sealed: {error}");
        }
        Ok(())
    }

    /// One that cannot be sealed is read from record to record when it is loaded.
    fn seal(&mut self, queue: Queue) -> Result<(), Errno> {
        let Some(segment) = self.appending(queue).take() else { return Ok(()) };
        segment.seal(&self.engine.disk, self.folder.hasher)
    }

    fn segment_bytes(&self) -> u64 {
        let size_max = lock(&self.engine.index).queues.size_max();
        (size_max / SEGMENT_PART).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end())
    }

    /// A segment of *again* for what is kept of another.
    pub(super) fn begin_kept(&mut self) -> bool {
        self.begin_segment(Admission { queue: Queue::Again, distance: u64::MAX, usual: None }).is_ok()
    }
}
