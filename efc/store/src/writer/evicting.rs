//! Eviction: large files by themselves, small ones with their segment, except for those that were read again.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::Writer;
use crate::basics::lock;
use crate::disk::Disk;
use crate::figures::add;
use crate::files;
use crate::hash::FileKey;
use crate::index::{self, Source, is_small, record_bytes};
use crate::layout::remove;
use crate::opened::open_source;
use crate::policy::queues::{Admission, Queue, Unit};
use crate::segments::{self, Record, read_record};

/// Of a segment that goes, what was read again is kept if it is at most this part; if it is more, the segment is.
const KEPT_PART: u64 = 4;
/// When the file system is full, this part of the store goes, in percent.
const FULL_PERCENT: u64 = 5;

impl<D: Disk> Writer<D> {
    /// Makes room for `bytes` more of a unit, which came with `admission`. `false`: there is none that they are worth.
    pub(super) fn make_room(&mut self, unit: Unit, admission: Admission, bytes: u64) -> bool {
        if !self.fit_memory(Some(unit)) {
            return false;
        }
        let engine = self.engine.clone();
        if lock(&engine.index).queues.fits(bytes) {
            return true;
        }
        loop {
            let index = lock(&engine.index);
            let victim = index.queues.victim(unit, admission, bytes).filter(|_| !index.queues.fits_below_mark(bytes));
            drop(index);
            let Some(victim) = victim else { break };
            if self.evict(victim).is_err() {
                break;
            }
        }
        lock(&engine.index).queues.fits(bytes)
    }

    /// Lets go what is beyond what may be held.
    pub(super) fn shrink(&mut self) {
        self.fit_memory(None);
        loop {
            let index = lock(&self.engine.index);
            let oldest = index.queues.oldest(None).filter(|_| !index.queues.fits(0));
            drop(index);
            let Some(oldest) = oldest else { return };
            if self.evict(oldest).is_err() {
                return;
            }
        }
    }

    /// Lets go what the index has no memory for. `false`: there is still more.
    fn fit_memory(&mut self, but: Option<Unit>) -> bool {
        loop {
            let index = lock(&self.engine.index);
            if index.memory() <= self.engine.index_bytes_max {
                return true;
            }
            let oldest = index.queues.oldest(but);
            drop(index);
            let Some(oldest) = oldest else { return false };
            if self.evict(oldest).is_err() {
                return false;
            }
        }
    }

    /// The file system is full: lets go a part of the store, but for this file. `true`: something has gone.
    pub(super) fn evict_some(&mut self, but: &FileKey) -> bool {
        let hash = self.folder.hasher.file(but);
        let but = if is_small(but) { None } else { Some(Unit::File(hash)) };
        let held = |writer: &Writer<D>| lock(&writer.engine.index).queues.held();
        let begin = held(self);
        let target = begin - begin / 100 * FULL_PERCENT;
        loop {
            let oldest = lock(&self.engine.index).queues.oldest(but);
            let Some(oldest) = oldest else { break };
            if self.evict(oldest).is_err() || held(self) < target {
                break;
            }
        }
        held(self) < begin
    }

    /// Lets a unit go, or keeps it after all: not more than once.
    fn evict(&mut self, unit: Unit) -> Result<(), Errno> {
        let bytes = match unit {
            Unit::File(hash) => self.evict_large(hash)?,
            Unit::Segment(number) => self.evict_segment(number)?,
        };
        add(&self.engine.tally.evicted_bytes, bytes);
        Ok(())
    }

    /// Lets a large file go; its bytes.
    pub(super) fn evict_large(&mut self, hash: u64) -> Result<u64, Errno> {
        let mut index = lock(&self.engine.index);
        let Some((large, bytes)) = index.forget_large(hash) else {
            return Ok(index.queues.remove(Unit::File(hash))); // or it would be the next to go for ever
        };
        drop(index);
        self.discard_large(large.key, large.life)?;
        Ok(bytes)
    }

    /// Removes the files of a large file that the index knows no more.
    pub(super) fn discard_large(&mut self, key: FileKey, life: u64) -> Result<(), Errno> {
        self.writable.retain(|held| held.life != life);
        self.close(&Source::Data { key, life });
        files::discard(&self.folder, &self.folder.hasher.name(&key))
    }

    fn evict_segment(&mut self, number: u64) -> Result<u64, Errno> {
        for queue in [Queue::Once, Queue::Again] {
            self.appending(queue).take_if(|segment| segment.number == number);
        }
        let unit = Unit::Segment(number);
        let mut index = lock(&self.engine.index);
        let mut read = index.records(number);
        read.retain(|(_, record)| record.was_read && !record.was_kept);
        if !index.queues.is_worth_keeping(unit) {
            read.clear();
        }
        let bytes: u64 = read.iter().map(|(_, record)| record_bytes(record.length)).sum();
        if bytes > index.queues.bytes(unit) / KEPT_PART {
            index.forget_reads(number);
            if index.queues.rescue(unit) {
                drop(index);
                self.mark(unit)?;
                return Ok(0);
            }
            read.clear();
        }
        let bytes = index.forget_segment(number);
        drop(index);
        self.keep(number, &read);
        self.close(&Source::Segment(number));
        remove(&self.folder.segments, &segments::path(number))?;
        Ok(bytes)
    }

    /// Closes what has gone, once nobody reads it any more: freeing its room may take time, which is none of the
    /// readers'.
    fn close(&mut self, source: &Source) {
        let file = lock(&self.engine.opened).close(source);
        self.closing.extend(file);
        self.closing.retain(|file| Arc::strong_count(file) > 1);
    }

    /// Copies these records of a segment that goes. What cannot be copied goes, too.
    fn keep(&mut self, number: u64, records: &[(u64, index::Record)]) {
        let Ok(from) = open_source(&self.folder, &Source::Segment(number)) else { return };
        for (hash, record) in records {
            let mut data = vec![0; record.length as usize];
            let offset = u64::from(record.offset);
            let hasher = self.folder.hasher;
            let read = read_record(&self.engine.disk, from.as_fd(), hasher, offset, &mut data, true);
            let Ok(Record::Sound(key)) = read else { continue };
            if !self.begin_kept() || self.append(Queue::Again, *hash, key, &data, true).is_err() {
                return;
            }
        }
    }
}
