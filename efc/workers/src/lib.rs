//! Workers: unmodified memcached servers whose memory is a shared cache for the blocks that the nodes of a data set
//! have read.
//!
//! [`Workers`] is a [`Level`] of the chain of blocks. Each block has its place at one worker (`policy::placement`),
//! under a name that reveals nothing (`keys`), and is encrypted and authenticated (`seal`): workers and their content
//! are not trusted. The only thing relied on is a worker's observed speed (`policy::health`): a worker may be
//! unreachable, slow, damaged or hostile, which costs reads a bounded time once, never an error. No content is
//! guaranteed to stay: a worker evicts what it likes.
//!
//! Of all nodes that want a block at once, one fetches it (`policy::markers`): the first that misses leaves a marker,
//! and the others wait for a limited time for the block. A block that many nodes want gets copies at several workers
//! (`policy::copies`, `spreading`).
//!
//! Data is not copied in between: an answer is received into the reader's memory and decrypted there in place; a block is
//! encrypted from its memory into a buffer of the budget, which is sent.

mod basics;
mod connection;
mod context;
mod endpoint;
mod figures;
mod filling;
mod gate;
mod held;
mod incoming;
mod keys;
mod lanes;
mod late;
mod look_up;
mod marks;
pub mod policy;
mod protocol;
mod resolve;
mod seal;
mod seals;
mod settings;
mod slabs;
mod socket;
mod spreading;
#[cfg(test)]
mod testing;
mod tls;
mod worker;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use efc_buffer::Buffer;
use efc_cache::blocks::{Answer, BlockKey, Level, Lookup, Miss};
use efc_tasks::time::now;

pub use endpoint::Endpoint;
pub use figures::{Counts, WorkerFigures, WorkerState};
pub use keys::DataSetKey;
pub use policy::health;
pub use settings::Settings;
pub use tls::Tls;

use crate::basics::lock;
use crate::context::Context;
use crate::look_up::LookUp;
use crate::policy::copies::COPIES_MAX;
use crate::policy::course::FIRST;
use crate::policy::placement::Seats;
use crate::worker::Worker;

/// How long an answer is waited for by who fills workers and has no reader waiting.
const PATIENCE: Duration = Duration::from_secs(1);

/// The workers of a data set.
#[derive(Debug)]
pub struct Workers {
    context: Arc<Context>,
    current: RwLock<Arc<Current>>,
}

/// The workers that are used now.
#[derive(Debug, Default)]
struct Current {
    workers: Vec<Arc<Worker>>,
    seats: Seats,
}

impl Current {
    /// The worker that has the copy of this number of the block of this hash; the first is 1.
    fn copy(&self, hash: u64, number: u8) -> Option<&Arc<Worker>> {
        let place = match number {
            FIRST => self.seats.choose(hash),
            _ => self.seats.choose_all(hash, usize::from(number)).get(usize::from(number) - 1).copied(),
        };
        place.map(|place| &self.workers[place])
    }

    /// Copies that a block can have.
    fn copies_max(&self) -> u8 {
        self.workers.len().min(usize::from(COPIES_MAX)) as u8
    }
}

impl Workers {
    /// No workers yet.
    ///
    /// # Errors
    /// No thread, or no descriptor, is to be had.
    pub fn new(settings: Settings) -> io::Result<Workers> {
        let context = Arc::new(Context::new(settings)?);
        Ok(Workers { context, current: RwLock::default() })
    }

    /// Uses these workers from now on: connects to those that are new, and lets go of those that are not among them once
    /// what is under way there has ended. An endpoint that is named twice counts once.
    pub fn follow(&self, endpoints: Vec<Endpoint>) {
        let mut current = self.current.write().expect("no panic under this lock");
        let known: HashMap<_, _> = current.workers.iter().map(|worker| (&worker.endpoint, worker)).collect();
        let mut named = HashSet::new();
        let named = endpoints.into_iter().filter(|endpoint| named.insert(endpoint.address()));
        let worker = |endpoint| match known.get(&endpoint) {
            Some(worker) => Arc::clone(worker),
            None => Worker::new(endpoint, &self.context),
        };
        let next: Vec<Arc<Worker>> = named.map(worker).collect();
        let seats = Seats::new(next.iter().map(|worker| worker.seat).collect());
        let after = Arc::new(Current { workers: next, seats });
        let before = std::mem::replace(&mut *current, after.clone());
        drop(current);
        without(&before.workers, &after.workers).for_each(|worker| worker.leave());
        without(&after.workers, &before.workers).for_each(Worker::start);
    }

    /// Each worker, as this node sees it.
    pub fn figures(&self) -> Vec<WorkerFigures> {
        self.current().workers.iter().map(|worker| worker.figures()).collect()
    }

    fn current(&self) -> Arc<Current> {
        self.current.read().expect("no panic under this lock").clone()
    }

    async fn look_up(&self, key: BlockKey, room: Buffer, patience: Option<Duration>) -> Lookup {
        if key.length() == 0 {
            return Lookup::Miss(Miss { room: Some(room), fill: None });
        }
        let (context, current) = (self.context.clone(), self.current());
        let name = context.keys.name(&key);
        LookUp { context, current, key, name, patience }.run(room).await
    }
}

/// Those of `some` that are not among `others`.
fn without<'a>(some: &'a [Arc<Worker>], others: &'a [Arc<Worker>]) -> impl Iterator<Item = &'a Arc<Worker>> {
    some.iter().filter(|worker| !others.iter().any(|other| Arc::ptr_eq(worker, other)))
}

impl Level for Workers {
    fn name(&self) -> &'static str {
        "workers"
    }

    fn serves(&self) -> bool {
        self.context.serves()
    }

    fn backend_took(&self, length: usize, took: Duration) {
        lock(&self.context.backend).answered(now(), length, took);
    }

    fn get(&self, key: BlockKey, room: Buffer) -> Answer<'_> {
        Box::pin(self.look_up(key, room, None))
    }

    fn get_unhurried(&self, key: BlockKey, room: Buffer) -> Answer<'_> {
        Box::pin(self.look_up(key, room, Some(PATIENCE)))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.current().workers.iter().for_each(|worker| worker.leave());
    }
}
