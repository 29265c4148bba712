//! State that all workers of a data set share.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use efc_buffer::Budget;

use crate::basics::lock;
use crate::gate::Gate;
use crate::keys::Keys;
use crate::lanes::Lanes;
use crate::policy::copies::Copies;
use crate::policy::health::Usual;
use crate::policy::hedges::Hedges;
use crate::policy::markers::Backend;
use crate::resolve::Resolver;
use crate::seals::Seals;
use crate::settings::Settings;
use crate::tls::Tls;

/// What all workers of a data set share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) keys: Keys,
    pub(crate) budget: Budget,
    pub(crate) tls: Option<Tls>,
    /// Longest wait for an answer.
    pub(crate) wait_max: Duration,
    pub(crate) lanes: Lanes,
    pub(crate) resolver: Resolver,
    pub(crate) gate: Arc<Gate>,
    pub(crate) seals: Seals,
    pub(crate) backend: Mutex<Backend>,
    /// What any worker takes.
    pub(crate) usual: Mutex<Usual>,
    /// How many copies files' blocks have.
    pub(crate) copies: Mutex<Copies>,
    pub(crate) hedges: Mutex<Hedges>,
    /// Draws one of several copies: another one each time.
    draws: AtomicU64,
    /// Workers that are asked.
    serving: AtomicUsize,
}

/// A worker is asked, until this is dropped.
#[derive(Debug)]
pub(crate) struct Serving(Arc<Context>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Context {
    pub(crate) fn new(settings: Settings) -> io::Result<Context> {
        Ok(Context {
            keys: Keys::new(&settings.key),
            budget: settings.budget,
            tls: settings.tls,
            wait_max: settings.wait_max,
            lanes: Lanes::start()?,
            resolver: Resolver::new(),
            gate: Gate::new(),
            seals: Seals::start()?,
            backend: Mutex::default(),
            usual: Mutex::default(),
            copies: Mutex::default(),
            hedges: Mutex::default(),
            draws: AtomicU64::new(0),
            serving: AtomicUsize::new(0),
        })
    }

    /// A worker is asked from now on.
    pub(crate) fn begin_serving(self: &Arc<Self>) -> Serving {
        self.serving.fetch_add(1, Ordering::Relaxed);
        Serving(self.clone())
    }

    /// There is a worker that is asked.
    pub(crate) fn serves(&self) -> bool {
        self.serving.load(Ordering::Relaxed) > 0
    }

    /// A number that nobody else draws just now.
    pub(crate) fn draw(&self) -> u64 {
        self.draws.fetch_add(1, Ordering::Relaxed)
    }

    /// Some worker's answer of `length` bytes took so long.
    pub(crate) fn answered(&self, length: usize, took: Duration, load: u64) {
        let mut usual = lock(&self.usual);
        usual.add(length, took, load);
        let alone = usual.large_alone();
        drop(usual);
        alone.inspect(|alone| self.gate.adjust(*alone));
    }
}
