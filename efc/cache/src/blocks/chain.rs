//! The chain of levels through which blocks are read: what is being read or was just read, each [`Level`] in its order, and
//! the backend last.
//!
//! A block is fetched once at a time: whoever asks for it meanwhile waits for the first. The fetch is a task of its own, so it
//! goes on when the one who began it is killed. What the levels above had not got they are given on the way back, but for
//! what the backend does not show to be of a settled version: that is for the one who began the fetch alone.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use efc_buffer::{Budget, Buffer, Purpose};
use efc_tasks::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use efc_tasks::sync::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::{Block, BlockKey, Fill, Level, Lookup, Miss, room_of};
use crate::histogram::{Histogram, Took};

/// Memory of blocks that were just read, in bytes: those who read in turn find them, and a reader whose reads end amid one.
const RECENT_BYTES_MAX: usize = 32 << 20;
/// How long it keeps one.
const RECENT_TIME_MAX: Duration = Duration::from_secs(1);

/// What the backend has given for a block.
#[derive(Debug)]
pub struct Fetched {
    /// Where it lies.
    pub block: Block,
    /// It is of the version that it was asked for under, and that is settled.
    pub is_settled: bool,
}

/// How often a level, or the backend, has given a block, how many bytes, and how long that took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Blocks.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Who waited for a block that another fetched is not among these: that wait is the fetch's.
    pub took: Took,
}

/// The same, of all of a chain.
#[derive(Clone, Debug)]
pub struct GivenBy {
    /// What had just been read.
    pub memory: Given,
    /// Each level, with its name.
    pub levels: Vec<(&'static str, Given)>,
    /// The backend.
    pub backend: Given,
}

impl GivenBy {
    /// What the level of this name has given.
    pub fn level(&self, name: &str) -> Given {
        self.levels.iter().find(|(of, _)| *of == name).map(|(_, given)| *given).unwrap_or_default()
    }
}

#[derive(Default)]
struct Counter {
    blocks: AtomicU64,
    bytes: AtomicU64,
    took: Histogram,
}

impl Counter {
    fn count(&self, bytes: usize) {
        self.blocks.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Given since `begun`.
    fn count_since(&self, begun: Instant, bytes: usize) {
        self.count(bytes);
        self.took.count(efc_tasks::time::since(begun));
    }

    fn get(&self) -> Given {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Given { blocks: load(&self.blocks), bytes: load(&self.bytes), took: self.took.took() }
    }
}

/// Why there is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// There is no memory for it, the backend gave nothing, or nothing that is good for those who have not asked it themselves.
    Unshared,
    /// The backend has not answered within its time limit.
    TimedOut,
}

type Waiter = oneshot::Sender<Result<Arc<Block>, Absent>>;

struct Recent {
    block: Arc<Block>,
    read_at: Instant,
}

#[derive(Default)]
struct Blocks {
    /// Who waits for a block that is being read.
    fetches: HashMap<BlockKey, Vec<Waiter>>,
    recent: HashMap<BlockKey, Recent>,
    /// Their keys, the oldest first.
    order: VecDeque<BlockKey>,
    recent_bytes: usize,
}

impl Blocks {
    fn keep(&mut self, key: BlockKey, block: &Arc<Block>) {
        let recent = Recent { block: block.clone(), read_at: efc_tasks::time::now() };
        self.recent_bytes += block.room();
        if let Some(before) = self.recent.insert(key, recent) {
            self.recent_bytes -= before.block.room();
        } else {
            self.order.push_back(key);
        }
        while self.recent_bytes > RECENT_BYTES_MAX {
            self.drop_oldest();
        }
    }

    /// `false`: there is none.
    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.order.pop_front().and_then(|key| self.recent.remove(&key)) else { return false };
        self.recent_bytes -= oldest.block.room();
        true
    }

    /// Drops what is old; `false`: nothing is left.
    fn drop_old(&mut self) -> bool {
        let is_old = |recent: &Recent| efc_tasks::time::since(recent.read_at) >= RECENT_TIME_MAX;
        while self.order.front().is_some_and(|key| self.recent.get(key).is_none_or(is_old)) {
            self.drop_oldest();
        }
        !self.order.is_empty()
    }
}

/// What somebody who asks for a block finds.
enum Place {
    There(Arc<Block>),
    /// Another fetches it.
    Awaited(oneshot::Receiver<Result<Arc<Block>, Absent>>),
    /// It is to be fetched.
    First,
}

/// The levels of a dataset, in front of its backend.
pub struct Chain {
    levels: Vec<(Arc<dyn Level>, Counter)>,
    budget: Budget,
    blocks: Mutex<Blocks>,
    from_recent: Counter,
    from_backend: Counter,
    is_sweeping: AtomicBool,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.levels.iter().map(|(level, _)| level)).finish()
    }
}

impl Chain {
    /// These levels, in this order; `None`: there are none. Blocks take memory of the purpose `Ahead` from `budget`.
    pub fn new(levels: Vec<Arc<dyn Level>>, budget: Budget) -> Option<Arc<Chain>> {
        if levels.is_empty() {
            return None;
        }
        Some(Arc::new(Chain {
            levels: levels.into_iter().map(|level| (level, Counter::default())).collect(),
            budget,
            blocks: Mutex::default(),
            from_recent: Counter::default(),
            from_backend: Counter::default(),
            is_sweeping: AtomicBool::new(false),
        }))
    }

    /// Is there a level that would answer or take anything now? If not, reads are better off without the chain.
    pub fn serves(&self) -> bool {
        self.levels.iter().any(|(level, _)| level.serves())
    }

    /// What has come from where.
    pub fn given(&self) -> GivenBy {
        let levels = self.levels.iter().map(|(level, counter)| (level.name(), counter.get())).collect();
        GivenBy { memory: self.from_recent.get(), levels, backend: self.from_backend.get() }
    }

    /// The block of `key`, from whoever has it first; `fetch` reads it from the backend, into the memory that it is given.
    ///
    /// # Errors
    /// [`Absent::Unshared`]: the reader asks the backend itself. [`Absent::TimedOut`]: it has waited for the backend.
    pub async fn get<F>(
        self: &Arc<Self>,
        key: BlockKey,
        fetch: impl FnOnce(Buffer) -> F + Send + 'static,
    ) -> Result<Arc<Block>, Absent>
    where
        F: Future<Output = Result<Fetched, Absent>> + Send + 'static,
    {
        let begun = efc_tasks::time::now();
        match self.place(&key) {
            Place::There(block) => {
                self.from_recent.count_since(begun, block.len());
                Ok(block)
            }
            Place::Awaited(end) => {
                let block = end.await.unwrap_or(Err(Absent::Unshared))?;
                self.from_recent.count(block.len());
                Ok(block)
            }
            Place::First => {
                let chain = self.clone();
                efc_tasks::detached(async move { chain.fetch(key, fetch).await }).end().await
            }
        }
    }

    /// The bytes `part` of the block of `key`, from whoever can give them without reading all of it, and where they are in what is given;
    /// `None`: nobody can now.
    pub async fn get_part(&self, key: &BlockKey, part: Range<usize>) -> Option<(Arc<Block>, Range<usize>)> {
        let begun = efc_tasks::time::now();
        let recent = self.blocks().recent.get(key).map(|recent| recent.block.clone());
        if let Some(block) = recent {
            self.from_recent.count_since(begun, part.len());
            return Some((block, part));
        }
        for (level, counter) in self.levels.iter().filter(|(level, _)| level.gives_parts() && level.serves()) {
            let (room, begun) = (self.room_for(part.len())?, efc_tasks::time::now());
            if let Lookup::Hit { block, .. } = level.get_part(*key, part.clone(), room).await
                && block.len() == part.len()
            {
                counter.count_since(begun, block.len());
                return Some((Arc::new(block), 0..part.len()));
            }
        }
        None
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().expect("blocks lock")
    }

    fn place(&self, key: &BlockKey) -> Place {
        let mut blocks = self.blocks();
        if let Some(recent) = blocks.recent.get(key) {
            return Place::There(recent.block.clone());
        }
        if let Some(waiters) = blocks.fetches.get_mut(key) {
            let (waiter, end) = oneshot::channel();
            waiters.push(waiter);
            return Place::Awaited(end);
        }
        blocks.fetches.insert(*key, Vec::new());
        Place::First
    }

    /// Fetches a block, and gives it to all who wait for it.
    async fn fetch<F>(self: &Arc<Self>, key: BlockKey, fetch: impl FnOnce(Buffer) -> F) -> Result<Arc<Block>, Absent>
    where
        F: Future<Output = Result<Fetched, Absent>>,
    {
        let (mut fills, mut patience) = (Vec::new(), Duration::ZERO);
        let fetched = match self.search(&key, &mut fills).await {
            Ok(block) => Ok((Arc::new(block), true)),
            Err(room) => {
                let begun = efc_tasks::time::now();
                let fetched = self.fetch_from_backend(&key, room, fetch).await;
                patience = efc_tasks::time::since(begun);
                fetched.map(|Fetched { block, is_settled }| (Arc::new(block), is_settled))
            }
        };
        let shared = match &fetched {
            Ok((block, is_settled)) => Some(block.clone()).filter(|_| *is_settled).ok_or(Absent::Unshared),
            Err(absent) => Err(*absent),
        };
        self.finish(&key, &shared);
        if let Ok(block) = shared {
            fill(fills, &block, patience).await;
        }
        fetched.map(|(block, _)| block)
    }

    async fn fetch_from_backend<F>(
        &self,
        key: &BlockKey,
        room: Option<Buffer>,
        fetch: impl FnOnce(Buffer) -> F,
    ) -> Result<Fetched, Absent>
    where
        F: Future<Output = Result<Fetched, Absent>>,
    {
        let room = room.or_else(|| self.room(key)).ok_or(Absent::Unshared)?;
        let begun = efc_tasks::time::now();
        let fetched = fetch(room).await?;
        self.from_backend.count_since(begun, fetched.block.len());
        let (length, took) = (fetched.block.len(), efc_tasks::time::since(begun));
        self.levels.iter().for_each(|(level, _)| level.backend_took(length, took));
        Ok(fetched)
    }

    /// Memory for this block, if there is some now.
    fn room(&self, key: &BlockKey) -> Option<Buffer> {
        self.room_for(key.length())
    }

    /// Memory for so many bytes, if there is some now, or if the blocks that were just read can give it.
    fn room_for(&self, length: usize) -> Option<Buffer> {
        let room = || self.budget.take(Purpose::Ahead, room_of(length));
        let mut taken = room();
        while taken.is_none() && self.blocks().drop_oldest() {
            taken = room();
        }
        taken?.buffer().ok()
    }

    /// Asks the levels, and collects the places at those that have not got the block; `Err`: none has it, and there may
    /// be memory for it.
    async fn search(&self, key: &BlockKey, fills: &mut Vec<Box<dyn Fill>>) -> Result<Block, Option<Buffer>> {
        let mut room = self.room(key);
        for (level, counter) in self.levels.iter().filter(|(level, _)| level.serves()) {
            let Some(given) = room.take().or_else(|| self.room(key)) else { break };
            let begun = efc_tasks::time::now();
            match level.get(*key, given).await {
                Lookup::Hit { block, fill } if block.len() == key.length() => {
                    counter.count_since(begun, block.len());
                    fills.extend(fill);
                    return Ok(block);
                }
                Lookup::Hit { block, .. } => {
                    log::error!("{} gave {} bytes for a block of {}", level.name(), block.len(), key.length());
                }
                Lookup::Miss(Miss { room: left, fill }) => {
                    room = left;
                    fills.extend(fill);
                }
            }
        }
        Err(room)
    }

    /// The end of a fetch.
    fn finish(self: &Arc<Self>, key: &BlockKey, shared: &Result<Arc<Block>, Absent>) {
        let mut blocks = self.blocks();
        if let Ok(block) = shared {
            blocks.keep(*key, block);
        }
        let waiters = blocks.fetches.remove(key).unwrap_or_default();
        drop(blocks);
        waiters.into_iter().for_each(|waiter| drop(waiter.send(shared.clone())));
        if shared.is_ok() {
            self.sweep();
        }
    }

    /// Lets blocks go when they are old, as long as there are any.
    fn sweep(self: &Arc<Self>) {
        if self.is_sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let chain = Arc::downgrade(self);
        efc_tasks::spawn(async move {
            loop {
                efc_tasks::time::sleep(RECENT_TIME_MAX).await;
                let Some(chain) = chain.upgrade() else { return };
                let mut blocks = chain.blocks();
                if !blocks.drop_old() {
                    chain.is_sweeping.store(false, Ordering::Release); // with the lock held: who keeps another one starts anew
                    return;
                }
            }
        });
    }
}

/// Gives a block to those that lack it. Who has read it waits for their turn as long as the backend took, and no longer: what is
/// read first takes twice as long at most for levels that are slower than the backend.
async fn fill(fills: Vec<Box<dyn Fill>>, block: &Arc<Block>, patience: Duration) {
    let begun = efc_tasks::time::now();
    for mut fill in fills {
        let left = patience.saturating_sub(efc_tasks::time::since(begun));
        efc_tasks::time::in_time(fill.turn(), Some(left)).await;
        fill.fill(block);
    }
}

#[cfg(test)]
mod tests;
