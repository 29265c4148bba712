//! Several sources that are added and removed while the daemon serves.
//!
//! The configured sources are compared with those attached. A thread of its own connects to each new source, and
//! retries until that succeeds: a source that does not respond does not delay another. A removed source loses its name,
//! but keeps serving those who use it, until its place is needed for another one or the session ends. If it is added
//! again meanwhile, it is the same source.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use efc_backend::{Cred, FileHandle};
use efc_nfs::{Config, ConnectError, ConnectErrorKind, Counters};
use efc_proto::error::Code;
use efc_proto::{DaemonConfig, Error, MountedSource, SourceStats};
use efc_sources::{Path, SOURCES_MAX, Several, Source};
use efc_state::State;

use super::added;
use super::connecting::{self, Found, config_of, name_of, named, place_of, storage_of};
use super::saved::{AllAttached, Attached, save_root};

/// Between two tries to reach a source.
const RETRY_PAUSE: Duration = Duration::from_secs(3);
/// Why a source waits that could be reached.
const NO_NUMBER: &str = "this root has had as many sources as it can have: unmount it, and mount it again";
/// A server that lets a call wait longer is reported as not responding.
const RESPONDING_MAX: Duration = Duration::from_secs(5);

/// The sources of a session.
pub struct Attachments {
    several: Several<efc_nfs::Client>,
    state: Arc<State>,
    inner: Mutex<Inner>,
    /// What is configured has changed.
    changed: Condvar,
}

struct Inner {
    config: DaemonConfig,
    all: AllAttached,
    missing: Vec<Missing>,
    /// How many were missing so far: each is told from the others by its number among them.
    missed: u64,
    /// Numbers that are being connected with, also for what is missing no more.
    connecting: Vec<u8>,
    /// Counters of sources that were given up.
    given_up: Counters,
}

/// A source that is configured and not attached: a thread tries to reach it.
struct Missing {
    /// Whoever tries to reach it knows it by this: it may be taken away and come back meanwhile.
    id: u64,
    wanted: MountedSource,
    /// Why it is not there.
    reason: String,
    /// That it is going to have; 0: none was free yet.
    number: u8,
}

/// A source that is connected to with this number, as it is configured.
struct Numbered {
    number: u8,
    wanted: MountedSource,
    config: DaemonConfig,
}

/// Is it the same source, whether it may be changed or not?
fn is_same(one: &MountedSource, other: &MountedSource) -> bool {
    one.source == other.source && Path::new(one.path.as_bytes()) == Path::new(other.path.as_bytes())
}

fn is_wanted(config: &DaemonConfig, source: &MountedSource) -> bool {
    config.sources.iter().any(|wanted| is_same(wanted, source))
}

impl Attachments {
    /// For a session that begins with these sources.
    pub fn begin(config: DaemonConfig, state: Arc<State>, found: Vec<Found>) -> Arc<Attachments> {
        let last_number = found.last().map_or(0, |last| last.number);
        let sources = found.into_iter().filter_map(attached).collect();
        let all = AllAttached { sources, last_number, changed_at: efc_tasks::time::since_1970() };
        let attachments = Attachments::new(config, state, all);
        save_root(&attachments.state);
        if let Err(error) = attachments.lock().all.save(&attachments.state) {
            log::error!("{error}: no daemon can go on after this one");
        }
        attachments
    }

    /// As a predecessor has left them, and as they are configured since. One that knows of none, of a keeper that does not know of
    /// several, leaves them as they are.
    pub fn resume(mut config: DaemonConfig, state: Arc<State>) -> io::Result<Arc<Attachments>> {
        let all = AllAttached::load(&config, &state)?;
        if config.sources.is_empty() {
            let shown = all.sources.iter().filter(|attached| attached.source.path.is_some());
            config.sources = shown.map(|attached| attached.wanted.clone()).collect();
        }
        if state.node(crate::filesystem::ROOT).is_none() {
            log::error!("the saved state has lost the dataset's root: it is made anew");
            save_root(&state);
        }
        let attachments = Attachments::new(config.clone(), state, all);
        attachments.follow(&config);
        Ok(attachments)
    }

    fn new(config: DaemonConfig, state: Arc<State>, all: AllAttached) -> Arc<Attachments> {
        let time_limit = crate::configuration::soft_time_limit(&config);
        let several = Several::new(sources(&all), all.changed(), time_limit);
        let (missing, connecting, given_up) = (Vec::new(), Vec::new(), Counters::default());
        let inner = Inner { config, all, missing, missed: 0, connecting, given_up };
        Arc::new(Attachments { several, state, inner: Mutex::new(inner), changed: Condvar::new() })
    }

    /// The sources as a storage.
    pub fn several(&self) -> &Several<efc_nfs::Client> {
        &self.several
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("attachments lock")
    }

    /// Has these sources from now on: takes away what is not among them, and tries to reach what is new. A keeper that does not know of
    /// several names none: they stay as they are.
    pub fn follow(self: &Arc<Self>, config: &DaemonConfig) {
        let mut inner = self.lock();
        if config.sources.is_empty() {
            let sources = std::mem::take(&mut inner.config.sources);
            inner.config = DaemonConfig { sources, ..config.clone() };
            return;
        }
        inner.config = config.clone();
        let mut is_changed = false;
        for attached in &mut inner.all.sources {
            is_changed |= adjust(attached, config);
        }
        if is_changed {
            self.publish(&mut inner);
        }
        inner.missing.retain(|missing| is_wanted(config, &missing.wanted));
        let new: Vec<MountedSource> = config.sources.iter().filter(|wanted| !inner.knows(wanted)).cloned().collect();
        for wanted in new {
            let reason = "the daemon is connecting to it".to_owned();
            inner.missed += 1;
            let id = inner.missed;
            inner.missing.push(Missing { id, wanted: wanted.clone(), reason, number: 0 });
            self.reach_in_thread(id, &wanted, &mut inner);
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// Saves what is attached, and shows it then.
    fn publish(&self, inner: &mut Inner) {
        let all = &mut inner.all;
        all.changed_at = efc_tasks::time::since_1970().max(all.changed_at + Duration::from_micros(1));
        if let Err(error) = all.save(&self.state) {
            log::error!("{error}: a successor finds the sources as they were");
        }
        self.several.set(sources(all), all.changed());
    }

    fn reach_in_thread(self: &Arc<Self>, id: u64, wanted: &MountedSource, inner: &mut Inner) {
        let attachments = Arc::clone(self);
        let reach = move || attachments.reach(id);
        if let Err(error) = std::thread::Builder::new().name("source".into()).spawn(reach) {
            // It is tried again with the next change.
            log::error!("source {}: no thread to connect to it: {error}", name_of(wanted));
            inner.missing.retain(|missing| missing.id != id);
        }
    }

    /// Tries to reach a source until it is there, or wanted no more.
    fn reach(&self, id: u64) {
        while let Some(numbered) = self.number_for(id) {
            let connected = numbered.and_then(|numbered| self.connect(&numbered));
            let Err(reason) = connected.and_then(|found| self.attach(id, found)) else { return };
            self.wait_to_retry(id, reason);
        }
    }

    /// The number of a source that is still missing, and how it is configured; `None` if it is not. The error says why there is no number.
    fn number_for(&self, id: u64) -> Option<Result<Numbered, String>> {
        let mut inner = self.lock();
        let place = inner.missing.iter().position(|missing| missing.id == id)?;
        let wanted = inner.missing[place].wanted.clone();
        if inner.missing[place].number == 0 {
            match self.free_number(&mut inner) {
                Some(number) => inner.missing[place].number = number,
                None => return Some(Err(NO_NUMBER.to_owned())),
            }
        }
        let number = inner.missing[place].number;
        inner.connecting.push(number);
        let config = DaemonConfig { sources: vec![wanted.clone()], ..inner.config.clone() };
        Some(Ok(Numbered { number, wanted, config }))
    }

    /// Connects to it. Until that has ended, nobody else gets its number, nor its place for what is saved of connections.
    fn connect(&self, numbered: &Numbered) -> Result<Found, String> {
        let Numbered { number, wanted, config } = numbered;
        let found = connecting::one(config, wanted, (*number, &self.state));
        let mut inner = self.lock();
        if let Some(place) = inner.connecting.iter().position(|other| other == number) {
            inner.connecting.swap_remove(place);
        }
        found.map_err(|error| error.message)
    }

    /// A number that no source of this session has had, whose place no other one has; one that was taken away gives up its own.
    fn free_number(&self, inner: &mut Inner) -> Option<u8> {
        let next = inner.all.last_number.checked_add(1)?;
        if inner.all.sources.len() + inner.missing.len() > SOURCES_MAX {
            self.give_up_one(inner)?;
        }
        let attached = inner.all.sources.iter().map(|attached| attached.source.number);
        let missing = inner.missing.iter().map(|missing| missing.number);
        let taken: Vec<u8> = attached.chain(missing).chain(inner.connecting.iter().copied()).collect();
        let is_free = |number: &u8| taken.iter().all(|other| *other == 0 || place_of(*other) != place_of(*number));
        (next..=u8::MAX).find(is_free)
    }

    /// Gives up the source that was taken away first; `None`: all show.
    fn give_up_one(&self, inner: &mut Inner) -> Option<()> {
        let taken_away = inner.all.sources.iter().filter(|attached| attached.source.path.is_none());
        let number = taken_away.min_by_key(|attached| attached.taken_away_at)?.source.number;
        let place = inner.all.sources.iter().position(|attached| attached.source.number == number)?;
        let Attached { source, wanted, .. } = inner.all.sources.remove(place);
        log::warn!("source {} was taken away, and is given up for another one", name_of(&wanted));
        inner.given_up = added(inner.given_up, Counters { oldest_call: None, ..source.backend.counters() });
        self.publish(inner);
        Some(())
    }

    /// Shows a source that was reached; nothing is done if it is wanted no more, or is another's to reach since it came back.
    fn attach(&self, id: u64, found: Found) -> Result<(), String> {
        let name = name_of(&found.wanted);
        let mut inner = self.lock();
        let Some(place) = inner.missing.iter().position(|missing| missing.id == id) else { return Ok(()) };
        let wanted = inner.missing[place].wanted.clone();
        let number = found.number;
        let attached = attached(Found { wanted, ..found }).ok_or_else(|| "no such path".to_owned())?;
        let mut all = inner.all.clone();
        all.sources.push(attached);
        all.sources.sort_by_key(|attached| attached.source.number);
        all.last_number = all.last_number.max(number);
        all.save(&self.state).map_err(|error| error.to_string())?;
        inner.all = all;
        inner.missing.remove(place);
        self.publish(&mut inner);
        log::info!("source {name} is there");
        Ok(())
    }

    /// Notes why a source is missing, says it once, and waits a while, or until the source is wanted no more.
    fn wait_to_retry(&self, id: u64, reason: String) {
        let until = Instant::now() + RETRY_PAUSE;
        let mut inner = self.lock();
        if let Some(missing) = inner.missing.iter_mut().find(|missing| missing.id == id && missing.reason != reason) {
            log::warn!("source {}: {reason}", name_of(&missing.wanted));
            missing.reason = reason;
        }
        while inner.missing.iter().any(|missing| missing.id == id) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            inner = self.changed.wait_timeout(inner, left).expect("attachments lock").0;
        }
    }

    /// What is to be told of the sources that are configured.
    pub fn stats(&self) -> Vec<SourceStats> {
        let inner = self.lock();
        let described = |wanted: &MountedSource| {
            let path = wanted.path.clone();
            let attached = inner.all.sources.iter().find(|attached| is_same(&attached.wanted, wanted));
            if let Some(attached) = attached {
                let oldest_call = attached.source.backend.counters().oldest_call;
                let responding = oldest_call.is_none_or(|age| age < RESPONDING_MAX);
                return SourceStats { path, attached: true, responding, reason: String::new() };
            }
            let missing = inner.missing.iter().find(|missing| is_same(&missing.wanted, wanted));
            let reason = missing.map_or_else(String::new, |missing| missing.reason.clone());
            SourceStats { path, attached: false, responding: false, reason }
        };
        inner.config.sources.iter().map(described).collect()
    }

    /// Counters of all connections.
    pub fn counters(&self) -> Counters {
        let inner = self.lock();
        let counters = inner.all.sources.iter().map(|attached| attached.source.backend.counters());
        counters.fold(inner.given_up, added)
    }

    /// Looks where the paths of all sources lead now, each within `time_limit`. One whose directory was replaced by another shows that
    /// from now on.
    ///
    /// # Errors
    /// There is no such directory any more. A server that does not answer is none: its source is taken for unmoved.
    pub fn find_roots(&self, time_limit: Duration) -> Result<(), Error> {
        let asked: Vec<(Attached, Config)> = {
            let inner = self.lock();
            let shown = inner.all.sources.iter().filter(|attached| attached.source.path.is_some());
            let config = |attached: &Attached| {
                let config = config_of(&inner.config, &attached.wanted, (attached.source.number, &self.state));
                Config { connect_time_limit: time_limit, ..config }
            };
            shown.map(|attached| (attached.clone(), config(attached))).collect()
        };
        std::thread::scope(|scope| {
            let looks: Vec<_> =
                asked.iter().map(|(attached, config)| scope.spawn(|| self.find_root(attached, config))).collect();
            looks.into_iter().try_for_each(|look| look.join().expect("looking does not panic"))
        })
    }

    fn find_root(&self, attached: &Attached, config: &Config) -> Result<(), Error> {
        let client = &attached.source.backend;
        match futures_lite::future::block_on(client.find_root(config)) {
            Ok(root) if root == attached.source.root => Ok(()),
            Ok(root) => {
                self.replace_root(attached, root, config.connect_time_limit);
                Ok(())
            }
            Err(ConnectError { kind: ConnectErrorKind::NotFound, message }) => {
                Err(named(&attached.wanted, Error { code: Code::NotFound.into(), message }))
            }
            Err(_) => Ok(()),
        }
    }

    /// A source shows another directory of its server from now on.
    fn replace_root(&self, attached: &Attached, root: FileHandle, time_limit: Duration) {
        let cred = Cred::root();
        let asked = efc_tasks::time::in_time(attached.source.backend.getattr(&cred, &root), Some(time_limit));
        let Some(Ok(attr)) = futures_lite::future::block_on(asked) else { return };
        let mut inner = self.lock();
        let number = attached.source.number;
        if let Some(attached) = inner.all.sources.iter_mut().find(|attached| attached.source.number == number) {
            log::warn!("source {}: its directory was replaced by another on the NAS", name_of(&attached.wanted));
            attached.source = attached.source.clone().with_root(root, attr);
            self.publish(&mut inner);
        }
    }
}

impl Inner {
    /// Is the source attached, or tried to be reached?
    fn knows(&self, wanted: &MountedSource) -> bool {
        let attached = self.all.sources.iter().map(|attached| &attached.wanted);
        attached.chain(self.missing.iter().map(|missing| &missing.wanted)).any(|known| is_same(known, wanted))
    }
}

/// A source that was reached, as it is served; `None` if its path is none.
fn attached(found: Found) -> Option<Attached> {
    let Found { wanted, number, client, mounted } = found;
    let path = Path::new(wanted.path.as_bytes())?;
    let about = (mounted.properties(), wanted.read_only);
    let root = (mounted.root, mounted.attr);
    let source = Source::new((number, path), root, about, (storage_of(&wanted), client));
    Some(Attached { wanted, port: mounted.port, source, taken_away_at: Duration::ZERO })
}

/// Has a source that is attached show, or not, as it is configured. Did that change anything?
fn adjust(attached: &mut Attached, config: &DaemonConfig) -> bool {
    let wanted = config.sources.iter().find(|wanted| is_same(wanted, &attached.wanted));
    let path = wanted.and_then(|wanted| Path::new(wanted.path.as_bytes()));
    let is_read_only = wanted.map_or(attached.source.is_read_only, |wanted| wanted.read_only);
    if (&path, is_read_only) == (&attached.source.path, attached.source.is_read_only) {
        return false;
    }
    let shown = if path.is_some() { "shows" } else { "was taken away" };
    log::info!("source {} {shown}{}", name_of(&attached.wanted), if is_read_only { ", read-only" } else { "" });
    attached.taken_away_at = if path.is_some() { Duration::ZERO } else { efc_tasks::time::since_1970() };
    attached.wanted = wanted.unwrap_or(&attached.wanted).clone();
    attached.source = attached.source.clone().shown_at(path).with_read_only(is_read_only);
    true
}

fn sources(all: &AllAttached) -> Vec<Source<efc_nfs::Client>> {
    all.sources.iter().map(|attached| attached.source.clone()).collect()
}
