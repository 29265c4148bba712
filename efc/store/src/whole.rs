//! Large files that are complete, for readers that bypass the store (passthrough): each block was compared with its
//! checksum once in the life of this process, after it had reached the disk. Blocks that were not are compared in the
//! background, one at a time between the reads that somebody waits for, and then the file is available to the next
//! reader.
//!
//! Damage on the disk after that is not noticed. A file that is evicted or damaged is removed by its name; whoever has
//! it open keeps it as it is.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use efc_buffer::{Buffer, LARGE, Purpose};
use efc_cache::blocks::BlockKey;
use tokio::sync::oneshot;

use crate::basics::lock;
use crate::disk::Disk;
use crate::engine::Engine;
use crate::hash::FileKey;
use crate::index::{Large, Place, Source, block, file, is_small};
use crate::layout::Folder;
use crate::look_up::{Came, Target};
use crate::opened::open_source;

/// Files whose blocks are compared at a time. Each has a thread wait for the disk, and some are for those who read.
const VERIFYING_MAX: usize = 2;

/// What is there of a file.
enum Extent {
    /// All of it.
    Whole(Source),
    /// All, but this block was not compared with its checksum.
    Unverified { index: u64, sum: u64, life: u64 },
}

fn extent(large: &Large) -> Option<Extent> {
    let (key, life) = (large.key, large.life);
    let blocks = key.version.size.div_ceil(efc_cache::blocks::BLOCK_BYTES as u64);
    if large.sums.count() < blocks {
        return None;
    }
    Some(match large.sums.first_unverified() {
        Some((index, sum)) => Extent::Unverified { index, sum, life },
        None => Extent::Whole(Source::Data { key, life }),
    })
}

impl<D: Disk> Engine<D> {
    /// A descriptor of the whole file of this block, open for reading and nobody else's; `None`: it is not whole, or not known to be.
    pub(crate) async fn whole_file(self: &Arc<Self>, of: &BlockKey) -> Option<OwnedFd> {
        let folder = self.folder.get().filter(|_| self.serves())?;
        let key = file(of);
        let hash = folder.hasher.file(&key);
        match self.extent(hash, &key).filter(|_| !is_small(&key))? {
            Extent::Whole(source) => self.open_whole(folder.clone(), hash, key, source).await,
            Extent::Unverified { life, .. } => {
                self.begin_verifying(hash, key, life);
                None
            }
        }
    }

    fn extent(&self, hash: u64, key: &FileKey) -> Option<Extent> {
        let index = lock(&self.index);
        index.large(hash).filter(|large| large.key == *key).and_then(extent)
    }

    async fn open_whole(
        self: &Arc<Self>,
        folder: Arc<Folder>,
        hash: u64,
        key: FileKey,
        source: Source,
    ) -> Option<OwnedFd> {
        let (answers, answer) = oneshot::channel();
        let open = move || {
            let opened = open_source(&folder, &source).ok();
            let size = |file: &OwnedFd| rustix::fs::fstat(file).map_or(0, |found| found.st_size as u64);
            let whole = opened.filter(|file| size(file) == key.version.size);
            drop(folder); // the one who waits goes on here
            let _ = answers.send(whole); // too late is too late
        };
        if !self.reads.add(Box::new(open)) {
            return None;
        }
        let file = answer.await.ok()??;
        // It may have gone before it was opened, and another one have come in its place.
        let is_same = lock(&self.index).has_source(hash, &source);
        let is_whole = matches!(self.extent(hash, &key), Some(Extent::Whole(_)));
        if !is_same || !is_whole {
            return None;
        }
        self.note_use(hash, &block(&key, 0));
        Some(file)
    }

    fn begin_verifying(self: &Arc<Self>, hash: u64, key: FileKey, life: u64) {
        let mut verifying = lock(&self.verifying);
        if verifying.len() < VERIFYING_MAX && verifying.insert(life) {
            drop(verifying);
            self.verify_later(hash, key, life);
        }
    }

    /// Has the next block compared when it is its turn.
    fn verify_later(self: &Arc<Self>, hash: u64, key: FileKey, life: u64) {
        let engine = self.clone();
        let verify = move || {
            if engine.verify_next(hash, &key, life) {
                engine.verify_later(hash, key, life);
            } else {
                lock(&engine.verifying).remove(&life);
            }
        };
        if !self.reads.add(Box::new(verify)) {
            lock(&self.verifying).remove(&life);
        }
    }

    /// `true`: there may be more of the file.
    fn verify_next(self: &Arc<Self>, hash: u64, key: &FileKey, of_life: u64) -> bool {
        let (Some(folder), Some(mut room)) = (self.folder.get(), self.room_to_verify()) else { return false };
        let Some(Extent::Unverified { index, sum, life }) = self.extent(hash, key).filter(|_| self.serves()) else {
            return false;
        };
        let (key, place) = (block(key, index), Place::Block { sum, is_verified: false, life });
        let target = Target { hash, key, place, part: 0..key.length(), is_verified_now: true };
        if life != of_life {
            return false; // another one that has come in its place, for whom somebody else asks
        }
        match self.read(folder, &target, &mut room) {
            Came::Sound => {
                lock(&self.index).verify_block(hash, index, sum, life);
                return true;
            }
            Came::Damaged => self.damaged(&target),
            Came::Failed(error) => self.failed(&target, error),
            Came::Another | Came::Waits => {}
        }
        false
    }

    fn room_to_verify(&self) -> Option<Buffer> {
        self.budget.take(Purpose::Ahead, LARGE)?.buffer().ok()
    }

    fn note_use(&self, hash: u64, key: &BlockKey) {
        let at_s = self.now_s();
        let used = lock(&self.index).used(hash, key, at_s);
        self.follow_use(used);
    }
}
