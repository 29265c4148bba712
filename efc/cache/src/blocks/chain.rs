//! The chain through which blocks are read: blocks being read or just read, then each [`Level`] in order, and the
//! backend last.
//!
//! A block is fetched only once at a time: readers that ask for it meanwhile wait for that fetch. The fetch is a task
//! of its own, so it continues if the reader that began it is killed. Levels that missed are given the block
//! afterwards, unless the backend does not show it to be of a settled version; then it is only for the reader that
//! began the fetch.
//!
//! Filling one level only ([`Chain::warm`]) shares fetches with readers; if a reader waits for such a fetch, the other
//! levels are filled all the same.

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

pub use warming::Warmed;

/// Memory for blocks that were just read, in bytes: for other readers of the same data, and for reads that end within a block.
const RECENT_BYTES_MAX: usize = 32 << 20;
/// How long such a block is kept.
const RECENT_TIME_MAX: Duration = Duration::from_secs(1);

/// The backend's answer for a block.
#[derive(Debug)]
pub struct Fetched {
    /// The data.
    pub block: Block,
    /// The data is of the version that was asked for, and that version is settled.
    pub is_settled: bool,
}

/// Counters of the blocks that a level, or the backend, has supplied: number, bytes, latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Blocks.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Latencies. Readers that waited for another's fetch do not count: the fetch does.
    pub took: Took,
}

/// These counters for all of a chain.
#[derive(Clone, Debug)]
pub struct GivenBy {
    /// Blocks that had just been read.
    pub memory: Given,
    /// Each level, with its name.
    pub levels: Vec<(&'static str, Given)>,
    /// The backend.
    pub backend: Given,
}

impl GivenBy {
    /// The counters of the level of this name.
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

    /// Counts a block that was supplied after a wait since `begun`.
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
    /// There is no memory for it, the backend failed, or its answer may be used only by its own caller.
    Unshared,
    /// The backend has not answered within its time limit.
    TimedOut,
}

type Waiter = oneshot::Sender<Result<Arc<Block>, Absent>>;

struct Recent {
    block: Arc<Block>,
    read_at: Instant,
}

/// Which levels are filled with a block that they lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filled {
    /// Those above the level that has it, since somebody reads it.
    Above,
    /// Only the level of this number.
    Only(usize),
}

/// A fetch in flight.
struct Fetch {
    waiting: Vec<Waiter>,
    /// Somebody reads the block; otherwise a level is only filled with it.
    is_read: bool,
}

/// The answers of the levels to a look-up.
struct Search {
    filled: Filled,
    /// Places for the block at the levels that are to be filled.
    places: Vec<Box<dyn Fill>>,
    /// The level that has the block; `None`: none has.
    found: Option<usize>,
}

impl Search {
    fn add(&mut self, level: usize, place: Option<Box<dyn Fill>>) {
        let is_wanted = [Filled::Above, Filled::Only(level)].contains(&self.filled);
        // What is not wanted goes at once: other nodes may wait for what is to come there.
        self.places.extend(place.filter(|_| is_wanted));
    }

    /// The level that is to be filled accepts nothing, so the backend need not be asked.
    fn is_in_vain(&self) -> bool {
        self.filled != Filled::Above && self.places.is_empty()
    }
}

/// A block that was fetched.
struct Sought {
    block: Arc<Block>,
    /// The level that had the block; `None`: the backend.
    found: Option<usize>,
    /// The one level that was to be filled was given the block.
    is_given: bool,
}

#[derive(Default)]
struct Blocks {
    fetches: HashMap<BlockKey, Fetch>,
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

/// The state of a block when somebody asks for it.
enum Place {
    There(Arc<Block>),
    /// Another task is fetching it.
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

    /// Whether any level would answer or accept anything now. If not, reads are better off without the chain.
    pub fn serves(&self) -> bool {
        self.levels.iter().any(|(level, _)| level.serves())
    }

    /// The counters of the chain.
    pub fn given(&self) -> GivenBy {
        let levels = self.levels.iter().map(|(level, counter)| (level.name(), counter.get())).collect();
        GivenBy { memory: self.from_recent.get(), levels, backend: self.from_backend.get() }
    }

    /// The block of `key`, from the first level that has it; otherwise `fetch` reads it from the backend, into the memory that it is given.
    ///
    /// # Errors
    /// [`Absent::Unshared`]: the reader must ask the backend itself. [`Absent::TimedOut`]: it has waited for the backend in vain.
    pub async fn get<F>(
        self: &Arc<Self>,
        key: BlockKey,
        fetch: impl FnOnce(Buffer) -> F + Send + 'static,
    ) -> Result<Arc<Block>, Absent>
    where
        F: Future<Output = Result<Fetched, Absent>> + Send + 'static,
    {
        let begun = efc_tasks::time::now();
        match self.place(&key, true) {
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
                let fetched = efc_tasks::detached(async move { chain.fetch(key, Filled::Above, fetch).await });
                fetched.end().await.map(|Sought { block, .. }| block)
            }
        }
    }

    /// The bytes `part` of the block of `key`, from a level that can return them without reading the whole block, and
    /// their range in the result; `None`: no level can now.
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

    /// The state of a block for a reader, or for filling a level only.
    fn place(&self, key: &BlockKey, is_read: bool) -> Place {
        let mut blocks = self.blocks();
        if let Some(recent) = blocks.recent.get(key) {
            return Place::There(recent.block.clone());
        }
        if let Some(fetch) = blocks.fetches.get_mut(key) {
            let (waiter, end) = oneshot::channel();
            fetch.waiting.push(waiter);
            fetch.is_read |= is_read;
            return Place::Awaited(end);
        }
        blocks.fetches.insert(*key, Fetch { waiting: Vec::new(), is_read });
        Place::First
    }

    /// Fetches a block, and gives it to all that wait for it, and to levels.
    async fn fetch<F>(
        self: &Arc<Self>,
        key: BlockKey,
        filled: Filled,
        fetch: impl FnOnce(Buffer) -> F,
    ) -> Result<Sought, Absent>
    where
        F: Future<Output = Result<Fetched, Absent>>,
    {
        let mut search = Search { filled, places: Vec::new(), found: None };
        let mut patience = Duration::ZERO;
        let fetched = match self.search(&key, &mut search).await {
            Ok(block) => Ok((Arc::new(block), true)),
            Err(_) if search.is_in_vain() => Err(Absent::Unshared),
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
        let is_read = self.finish(&key, &shared);
        let Search { places, found, .. } = search;
        let is_given = shared.is_ok() && !places.is_empty();
        if let Ok(block) = shared {
            match filled {
                Filled::Above => fill(places, &block, patience).await,
                Filled::Only(level) => {
                    warming::fill(places, &block).await;
                    let above = 0..found.unwrap_or(self.levels.len());
                    self.fill_others(above.filter(|other| is_read && *other != level), &key, &block).await;
                }
            }
        }
        fetched.map(|(block, _)| Sought { block, found, is_given })
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

    /// Memory for so many bytes, if there is some now, or if dropping recently read blocks frees it.
    fn room_for(&self, length: usize) -> Option<Buffer> {
        let room = || self.budget.take(Purpose::Ahead, room_of(length));
        let mut taken = room();
        while taken.is_none() && self.blocks().drop_oldest() {
            taken = room();
        }
        taken?.buffer().ok()
    }

    /// Asks the levels, and collects places at those that lack the block; `Err`: none has it, with the memory for it if
    /// there is some.
    async fn search(&self, key: &BlockKey, search: &mut Search) -> Result<Block, Option<Buffer>> {
        let mut room = self.room(key);
        for (number, (level, counter)) in self.levels.iter().enumerate().filter(|(_, (level, _))| level.serves()) {
            let Some(given) = room.take().or_else(|| self.room(key)) else { break };
            let begun = efc_tasks::time::now();
            let answer = match search.filled {
                Filled::Only(filled) if filled == number => level.get_unhurried(*key, given),
                _ => level.get(*key, given),
            };
            match answer.await {
                Lookup::Hit { block, fill } if block.len() == key.length() => {
                    counter.count_since(begun, block.len());
                    search.add(number, fill);
                    search.found = Some(number);
                    return Ok(block);
                }
                Lookup::Hit { block, .. } => {
                    log::error!("{} gave {} bytes for a block of {}", level.name(), block.len(), key.length());
                }
                Lookup::Miss(Miss { room: left, fill }) => {
                    room = left;
                    search.add(number, fill);
                }
            }
        }
        Err(room)
    }

    /// Ends a fetch. `true`: somebody reads the block.
    fn finish(self: &Arc<Self>, key: &BlockKey, shared: &Result<Arc<Block>, Absent>) -> bool {
        let mut blocks = self.blocks();
        let Fetch { waiting, is_read } = blocks.fetches.remove(key).expect("only its fetch ends it");
        if let Ok(block) = shared
            && is_read
        {
            blocks.keep(*key, block); // else whoever reads it next would have no level filled
        }
        drop(blocks);
        waiting.into_iter().for_each(|waiter| drop(waiter.send(shared.clone())));
        if shared.is_ok() && is_read {
            self.sweep();
        }
        is_read
    }

    /// Drops blocks by age, as long as there are any.
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

/// Gives a block to the levels that lack it. Its reader waits for them as long as the backend took, and no longer: so levels
/// that are slower than the backend at most double the time of first reads.
async fn fill(places: Vec<Box<dyn Fill>>, block: &Arc<Block>, patience: Duration) {
    let begun = efc_tasks::time::now();
    for mut place in places {
        let left = patience.saturating_sub(efc_tasks::time::since(begun));
        efc_tasks::time::in_time(place.turn(), Some(left)).await;
        place.fill(block);
    }
}

mod warming;

#[cfg(test)]
mod tests;
