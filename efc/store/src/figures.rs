//! Counters of the store, for status and metrics, and descriptions of its state for people.

use std::sync::atomic::{AtomicU64, Ordering};

/// Whether the store is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Another process holds the directory: one that this one replaces, above all.
    #[default]
    Waiting,
    /// It serves what it has found in the directory so far, and goes on looking.
    Loading,
    /// It serves.
    Serving,
    /// It answers later than the backend: nobody waits for it until it is in time again.
    Slow,
    /// The file system takes no writes: what is there is served.
    ReadOnly,
    /// The file system has no room, and nothing of the store's could make some: what is there is served.
    Full,
    /// The directory cannot be used, or nothing can be put there: why. It is tried again; what is there is served if it can be read.
    Failed(String),
}

/// The store, as of now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Whether it is used.
    pub state: State,
    /// What it may hold, in bytes.
    pub size_max: u64,
    /// What it holds, in bytes.
    pub held_bytes: u64,
    /// Files of which it holds something.
    pub files: u64,
    /// Blocks that it gave.
    pub hits: u64,
    /// Bytes of these blocks.
    pub hit_bytes: u64,
    /// Blocks that it had not got.
    pub misses: u64,
    /// Blocks that were put there.
    pub fills: u64,
    /// Bytes of these blocks.
    pub fill_bytes: u64,
    /// Blocks that were not put there: too much was on its way, or there was no room that was to be had for them.
    pub refused: u64,
    /// Of these, as too much was on its way to the disk.
    pub refused_busy: u64,
    /// Of these, as the file system did not take them.
    pub refused_disk: u64,
    /// Bytes that were let go to make room.
    pub evicted_bytes: u64,
    /// Blocks that were not what had been put there, or could not be read. Each counts as a miss, too.
    pub damaged: u64,
    /// Answers that were given up as the backend would have been sooner. Each counts as a miss, too.
    pub late: u64,
    /// Size of the file system, when it was looked at last, in bytes; 0: it was not yet.
    pub disk_bytes: u64,
    /// Of these, what could be taken.
    pub disk_free_bytes: u64,
}

impl Figures {
    /// Why the store does not do all that it should, for people; `None`: it does.
    pub fn condition(&self) -> Option<String> {
        match &self.state {
            State::Loading | State::Serving => None,
            State::Waiting => Some("another process holds the store's directory".into()),
            State::Slow => Some("the store answers later than the backend, and is not waited for".into()),
            State::ReadOnly => Some("the store's file system is read-only: nothing is added".into()),
            State::Full => Some("the store's file system has no room: nothing is added".into()),
            State::Failed(why) => Some(format!("the store's directory cannot be used: {why}")),
        }
    }
}

macro_rules! tally {
    ($($name:ident),+ $(,)?) => {
        /// The counters of [`Figures`], which go on, and what the disk had last.
        #[derive(Debug, Default)]
        pub(crate) struct Tally { $(pub(crate) $name: AtomicU64),+ }

        impl Tally {
            /// As they are now; the rest of the figures is not here.
            pub(crate) fn read(&self) -> Figures {
                Figures { $($name: self.$name.load(Ordering::Relaxed),)+ ..Figures::default() }
            }
        }
    };
}

tally! { hits, hit_bytes, misses, fills, fill_bytes, refused, refused_busy, refused_disk, evicted_bytes, damaged, late, disk_bytes, disk_free_bytes }

pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
