//! The state that the threads of a store share.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use efc_buffer::{Budget, LARGE, Purpose};
use efc_tasks::time::{now, since};

use crate::Settings;
use crate::basics::lock;
use crate::disk::Disk;
use crate::figures::{Figures, State, Tally};
use crate::index::Index;
use crate::layout::Folder;
use crate::opened::Opened;
use crate::policy::patience::Patience;
use crate::policy::taking::{Taking, Trouble};
use crate::reads::Reads;
use crate::work::{Job, Work};

/// How far the store has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Another process holds the directory.
    Waiting,
    /// The directory cannot be used.
    Failed(String),
    /// What is in the directory is being looked at.
    Loading,
    /// All is known.
    Loaded,
}

/// One store.
#[derive(Debug)]
pub(crate) struct Engine<D> {
    pub(crate) disk: D,
    pub(crate) directory: OwnedFd,
    pub(crate) budget: Budget,
    pub(crate) free_min_percent: u8,
    pub(crate) index_bytes_max: u64,
    pub(crate) open_files_max: usize,
    pub(crate) size_max: AtomicU64,
    /// Set once the directory is this store's.
    pub(crate) folder: OnceLock<Arc<Folder>>,
    pub(crate) index: Mutex<Index>,
    pub(crate) opened: Mutex<Opened>,
    pub(crate) patience: Mutex<Patience>,
    pub(crate) taking: Mutex<Taking>,
    pub(crate) work: Work,
    pub(crate) reads: Arc<Reads>,
    pub(crate) tally: Tally,
    /// The lives of files whose blocks are being compared, for whoever wants them whole.
    pub(crate) verifying: Mutex<HashSet<u64>>,
    phase: Mutex<Phase>,
    /// What [`Patience::is_slow`] says.
    pub(crate) is_slow: AtomicBool,
    begun: Instant,
}

impl<D: Disk> Engine<D> {
    pub(crate) fn new(settings: Settings, disk: D, reads: Arc<Reads>) -> Engine<D> {
        let Settings { directory, size_max, free_min_percent, budget, index_bytes_max, open_files_max } = settings;
        let work = Work::new(&budget);
        Engine {
            disk,
            directory,
            budget,
            free_min_percent,
            index_bytes_max,
            size_max: AtomicU64::new(size_max),
            folder: OnceLock::new(),
            index: Mutex::new(Index::new(size_max, index_bytes_max)),
            opened: Mutex::new(Opened::new(open_files_max)),
            open_files_max,
            patience: Mutex::default(),
            taking: Mutex::default(),
            work,
            reads,
            tally: Tally::default(),
            verifying: Mutex::default(),
            phase: Mutex::new(Phase::Waiting),
            is_slow: AtomicBool::new(false),
            begun: now(),
        }
    }

    /// Seconds since the store was begun.
    pub(crate) fn now_s(&self) -> u32 {
        u32::try_from(since(self.begun).as_secs()).unwrap_or(u32::MAX)
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        let before = std::mem::replace(&mut *lock(&self.phase), phase.clone());
        if let Phase::Failed(why) = &phase
            && before != phase
        {
            log::warn!("the store's directory cannot be used: {why}");
        }
    }

    pub(crate) fn is_loading(&self) -> bool {
        *lock(&self.phase) == Phase::Loading
    }

    pub(crate) fn serves(&self) -> bool {
        self.folder.get().is_some() && !self.is_slow.load(Ordering::Relaxed)
    }

    /// Is a block to be offered a place now? There may be trouble, and fills give way to reads that need memory.
    pub(crate) fn takes(&self) -> bool {
        self.budget.take(Purpose::Ahead, LARGE).is_some() && lock(&self.taking).tries(now())
    }

    /// Has the writer do something that may as well not be done.
    pub(crate) fn ask(&self, job: Job) {
        self.work.add(job);
    }

    pub(crate) fn figures(&self) -> Figures {
        let index = lock(&self.index);
        let (held_bytes, files) = (index.queues.held(), index.files());
        drop(index);
        let size_max = self.size_max.load(Ordering::Relaxed);
        Figures { state: self.state(), size_max, held_bytes, files, ..self.tally.read() }
    }

    fn state(&self) -> State {
        match lock(&self.phase).clone() {
            Phase::Waiting => return State::Waiting,
            Phase::Failed(why) => return State::Failed(why),
            _ if self.is_slow.load(Ordering::Relaxed) => return State::Slow,
            Phase::Loading => return State::Loading,
            Phase::Loaded => {}
        }
        match lock(&self.taking).trouble() {
            Some(Trouble::ReadOnly) => State::ReadOnly,
            Some(Trouble::Full) => State::Full,
            Some(Trouble::Failed) => State::Failed("nothing can be put there".into()),
            None => State::Serving,
        }
    }

    /// Lets all threads end, once what they do has ended.
    pub(crate) fn end(&self) {
        self.work.end();
        self.reads.end();
    }
}
