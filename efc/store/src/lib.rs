//! The local store: a directory of the node, on tmpfs, SSD or HDD, that caches blocks for the next pod, the next epoch,
//! and after restarts.
//!
//! [`Store`] is a [`Level`] of the chain of blocks; `layout` describes its directory. Only one process uses a directory
//! at a time; a second store waits until the first is gone, and serves nothing meanwhile. No content is guaranteed to
//! stay, nothing is synced, and nothing is used whose checksum does not match: a power cut, a full or broken disk or a
//! damaged file costs misses, never an error or a wrong byte. There are checksums of whole blocks only, so before parts
//! of a block are served the whole was compared, after it had reached the disk: what is only in the page cache may be
//! lost on the way there. There is no protection against somebody with write permission who forges content on purpose.
//!
//! No thread that polls tasks waits for the disk: what the page cache has is read at once, everything else by a few
//! threads (`reads`), which are waited for about as long as the backend would take (`policy::patience`). One thread
//! changes the disk (`writer`), from a queue that refuses what does not fit. Pure code decides what is kept
//! (`policy::queues`).

mod basics;
mod disk;
mod engine;
mod figures;
mod files;
mod hash;
mod index;
mod layout;
mod loading;
mod look_up;
mod opened;
pub mod policy;
mod probing;
mod reads;
mod segments;
mod sums;
mod syscall;
#[cfg(test)]
mod testing;
mod whole;
mod work;
mod writer;

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use efc_buffer::{Budget, Buffer};
use efc_cache::blocks::{Answer, BlockKey, Level};

pub use figures::{Figures, State};
pub use layout::is_memory;

use crate::basics::lock;
use crate::disk::{Device, Disk};
use crate::engine::Engine;
use crate::reads::Reads;
use crate::work::Job;

/// As much as writing and evicting needs, with some to spare.
const WRITER_STACK: usize = 512 << 10;

/// What a store is made of.
#[derive(Debug)]
pub struct Settings {
    /// The store's own directory, which the daemon's user may write to. All files are opened below it.
    pub directory: OwnedFd,
    /// What the store may hold, in bytes.
    pub size_max: u64,
    /// So much of the file system stays free whatever `size_max` says, in percent of it.
    pub free_min_percent: u8,
    /// The daemon's memory: fills give way to those who read.
    pub budget: Budget,
    /// Memory for the index, in bytes.
    pub index_bytes_max: u64,
    /// Files that are kept open for reading; for writing an eighth as many are. A few more are open for a moment.
    pub open_files_max: usize,
}

/// The store of one data set. Its threads end when this is dropped, and with the last of them it lets go of its
/// directory.
#[derive(Debug)]
pub struct Store<D: Disk = Device> {
    engine: Arc<Engine<D>>,
}

impl Store {
    /// Starts the store's threads. It waits for no disk: the directory is looked at by them.
    ///
    /// # Errors
    /// No thread is to be had.
    pub fn open(settings: Settings) -> io::Result<Arc<Store>> {
        Store::on(settings, Device)
    }
}

impl<D: Disk> Store<D> {
    fn on(settings: Settings, disk: D) -> io::Result<Arc<Store<D>>> {
        let engine = Arc::new(Engine::new(settings, disk, Reads::start()?));
        let store = Arc::new(Store { engine: engine.clone() });
        let thread = thread::Builder::new().name("store-writer".into()).stack_size(WRITER_STACK);
        thread.spawn(move || writer::run(engine))?;
        Ok(store)
    }

    /// Changes what the store may hold, in bytes; what it holds beyond goes soon.
    pub fn set_size_max(&self, bytes: u64) {
        self.engine.size_max.store(bytes, Ordering::Relaxed);
        self.engine.ask(Job::Look);
    }

    /// A file that holds all of the one that `of` is a block of, of more than 64 KiB, open for reading by nobody else; `None`: the store
    /// has not got all of it, or has not compared all blocks on the disk with their checksums in this life, which it does then for the next who
    /// asks. It ends when the disk has opened the file.
    pub async fn whole_file(&self, of: &BlockKey) -> Option<OwnedFd> {
        self.engine.whole_file(of).await
    }

    /// The figures as of now. It waits for no disk.
    pub fn figures(&self) -> Figures {
        self.engine.figures()
    }
}

impl<D: Disk> Drop for Store<D> {
    fn drop(&mut self) {
        self.engine.end();
    }
}

impl<D: Disk> Level for Store<D> {
    fn name(&self) -> &'static str {
        "store"
    }

    fn serves(&self) -> bool {
        self.engine.serves()
    }

    fn backend_took(&self, length: usize, took: Duration) {
        lock(&self.engine.patience).backend_took(length, took);
    }

    fn get(&self, key: BlockKey, room: Buffer) -> Answer<'_> {
        Box::pin(self.engine.look_up(key, room))
    }

    fn gives_parts(&self) -> bool {
        true
    }

    fn get_part(&self, key: BlockKey, part: Range<usize>, room: Buffer) -> Answer<'_> {
        Box::pin(self.engine.look_part_up(key, part, room))
    }
}

#[cfg(test)]
mod tests;
