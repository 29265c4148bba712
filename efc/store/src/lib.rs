//! The local store: a directory of the node in which blocks that were read stay for the next reader, and after restarts.

mod figures;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use efc_buffer::{Budget, Buffer};
use efc_cache::blocks::{Answer, BlockKey, Level, Lookup, Miss};

pub use figures::{Figures, State};

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
}

/// The store of one data set.
#[derive(Debug)]
pub struct Store {
    size_max: AtomicU64,
    tally: figures::Tally,
}

impl Store {
    /// Starts the store's threads. It waits for no disk: the directory is looked at by them.
    ///
    /// # Errors
    /// No thread is to be had.
    pub fn open(settings: Settings) -> io::Result<Arc<Store>> {
        Ok(Arc::new(Store { size_max: AtomicU64::new(settings.size_max), tally: figures::Tally::default() }))
    }

    /// Changes what the store may hold, in bytes; what it holds beyond goes soon.
    pub fn set_size_max(&self, bytes: u64) {
        self.size_max.store(bytes, Ordering::Relaxed);
    }

    /// The figures as of now. It waits for no disk.
    pub fn figures(&self) -> Figures {
        Figures { size_max: self.size_max.load(Ordering::Relaxed), ..self.tally.read() }
    }
}

impl Level for Store {
    fn name(&self) -> &'static str {
        "store"
    }

    fn serves(&self) -> bool {
        false
    }

    fn get(&self, _key: BlockKey, room: Buffer) -> Answer<'_> {
        Box::pin(async { Lookup::Miss(Miss { room: Some(room), fill: None }) })
    }
}
