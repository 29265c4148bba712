//! One worker: its connections, its state, and the task that manages both.
//!
//! The task connects and asks for the worker's settings, and retries with growing back-off while that fails: no read
//! ever waits for it. A worker that sends nothing for as long as an answer may take is marked down at once, which
//! releases everything that waits for it. When it can be reached again, a probe is the first question.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use efc_buffer::Buffer;
use efc_tasks::Backoff;
use efc_tasks::time::{in_time, now, since};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::basics::{Then, lock};
use crate::connection::{Connection, Piece, statistics};
use crate::context::Context;
use crate::endpoint::Endpoint;
use crate::figures::{Tally, WorkerFigures, WorkerState, add, count};
use crate::incoming::{Expected, Reply};
use crate::keys::Name;
use crate::marks::Marks;
use crate::policy::copies::Wait;
use crate::policy::health::{Advice, Health};
use crate::policy::markers::Markers;
use crate::policy::placement::Seat;
use crate::protocol::{self, Cas, Flags, Token};
use crate::slabs::Slabs;

/// Maximum number of connections for questions; there is one until that is overloaded.
const CONNECTIONS_MAX: usize = 3;
/// With more bytes than this in flight on each, another connection is made ...
const CROWDED: u64 = 4 << 20;
/// ... to a worker whose large answers take no longer than this: on a slower network the first answers of a new
/// connection, which TCP starts slowly, would come much too late.
const GROWTH_LATENCY_MAX: Duration = Duration::from_millis(1);
/// Maximum of blocks on their way to one worker, in bytes.
const FILLING_MAX: usize = 16 << 20;
/// Time limit for connecting and asking for the settings.
const GREETING_MAX: Duration = Duration::from_secs(2);
/// Pauses between attempts to connect.
const RECONNECT: Backoff = Backoff::doubling(Duration::from_millis(100), Duration::from_secs(5));
/// After a worker has refused another connection, none is tried for this long.
const GROWTH_PAUSE: Duration = Duration::from_secs(5);
/// How often idle connections are checked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A connection that has received nothing for this long is given up, even if somebody waits.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How often the worker is asked for its statistics.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(10);
/// How long requests in flight at a removed worker may take.
const LEAVING_MAX: Duration = Duration::from_secs(1);
/// The weight of small questions.
const SMALL_WEIGHT: u64 = 1024;

/// Why a worker is not used.
#[derive(Debug)]
enum Trouble {
    Down(String),
    Unfit(String),
}

/// The connections of this node to a worker.
#[derive(Debug)]
struct Links {
    questions: Vec<Arc<Connection>>,
    /// For storing blocks, so that no question queues behind them.
    fills: Option<Arc<Connection>>,
    /// Another connection is wanted: for questions, for fills.
    wanted: (bool, bool),
    /// The last attempt failed.
    refused: Option<Instant>,
    state: WorkerState,
}

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) endpoint: Endpoint,
    pub(crate) seat: Seat,
    pub(crate) context: Arc<Context>,
    pub(crate) tally: Tally,
    pub(crate) markers: Mutex<Markers>,
    /// The markers that this node has set there.
    pub(crate) marks: Mutex<Marks>,
    health: Mutex<Health>,
    /// Why the worker last could not accept a block.
    fill_trouble: Mutex<Option<String>>,
    links: Mutex<Links>,
    capacity_bytes: AtomicU64,
    held_bytes: AtomicU64,
    /// Bytes that may still be sent to be stored.
    ways: Arc<Semaphore>,
    slabs: Mutex<Slabs>,
    is_leaving: AtomicBool,
    /// Wakes the task after a change.
    changed: Arc<Notify>,
}

impl Worker {
    pub(crate) fn new(endpoint: Endpoint, context: &Arc<Context>) -> Arc<Worker> {
        let links = Links {
            questions: Vec::new(),
            fills: None,
            wanted: (false, false),
            refused: None,
            state: WorkerState::Connecting,
        };
        Arc::new(Worker {
            seat: Seat::new(&endpoint.address(), endpoint.weight),
            endpoint,
            context: context.clone(),
            tally: Tally::default(),
            markers: Mutex::default(),
            marks: Mutex::default(),
            health: Mutex::new(Health::new(context.wait_max)),
            fill_trouble: Mutex::default(),
            links: Mutex::new(links),
            capacity_bytes: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
            ways: Arc::new(Semaphore::new(FILLING_MAX)),
            slabs: Mutex::default(),
            is_leaving: AtomicBool::new(false),
            changed: Arc::default(),
        })
    }

    /// Starts the task that manages the worker until it is removed.
    pub(crate) fn start(self: &Arc<Self>) {
        efc_tasks::spawn(self.clone().look_after());
    }

    /// Removes the worker: it is not asked any more, and its connections end after the requests in flight.
    pub(crate) fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    pub(crate) fn figures(&self) -> WorkerFigures {
        let (latency, is_slow) = {
            let health = lock(&self.health);
            (health.latency(), health.is_slow(usize::MAX, &lock(&self.context.backend).usual))
        };
        let state = match lock(&self.links).state.clone() {
            WorkerState::Serving if is_slow => WorkerState::Slow,
            state => state,
        };
        WorkerFigures {
            address: self.endpoint.address(),
            weight: self.endpoint.weight,
            tls: self.context.tls.is_some(),
            state,
            latency,
            capacity_bytes: self.capacity_bytes.load(Ordering::Relaxed),
            held_bytes: self.held_bytes.load(Ordering::Relaxed),
            fill_trouble: lock(&self.fill_trouble).clone(),
            counts: self.tally.read(),
        }
    }

    // --- asking -----------------------------------------------------------------------------------------------------

    /// Whether to ask for a block of `length` bytes while answers of the weight `load` are in flight.
    pub(crate) fn advise(&self, length: usize, load: u64) -> Advice {
        if lock(&self.links).questions.is_empty() {
            return Advice::Skip;
        }
        lock(&self.health).advise(now(), length, load, &lock(&self.context.backend).usual)
    }

    /// The answer came within its time; what the wait was like beside others, if that is known.
    pub(crate) fn answered(&self, length: usize, took: Duration, load: u64) -> Option<Wait> {
        let mut health = lock(&self.health);
        health.answered(length, took, load);
        health.wait(length, took, load, &lock(&self.context.usual))
    }

    /// The answer to what was asked at `asked` did not come within `deadline`. If nothing has come at all for a while, the
    /// worker is down, and whoever else waits for it need not.
    pub(crate) fn late(&self, length: usize, deadline: Duration, load: u64, asked: Instant) {
        count(&self.tally.timeouts);
        let late = lock(&self.health).late(length, asked, deadline, load);
        let Some(begin) = late else { return }; // any machine stands still for so long now and then
        let links = lock(&self.links);
        let has_spoken = links.questions.iter().chain(&links.fills).any(|connection| connection.heard() > begin);
        drop(links);
        if !has_spoken {
            let why = format!("it has said nothing for {} ms", since(begin).as_millis());
            self.end_all(&why, WorkerState::Down(why.clone()));
        }
    }

    fn end_all(&self, why: &str, state: WorkerState) {
        let mut links = lock(&self.links);
        let ended: Vec<_> = links.questions.drain(..).collect();
        let ended: Vec<_> = ended.into_iter().chain(links.fills.take()).collect();
        if !ended.is_empty() {
            links.state = state;
        }
        drop(links);
        ended.iter().for_each(|connection| connection.close(why));
        self.changed.notify_one();
    }

    /// The least busy connection for questions.
    fn best(&self) -> Option<Arc<Connection>> {
        let mut links = lock(&self.links);
        let best = links.questions.iter().min_by_key(|connection| connection.outstanding())?.clone();
        let may_grow = best.outstanding() > CROWDED && links.questions.len() < CONNECTIONS_MAX && !links.wanted.0;
        let is_wanted = may_grow && lock(&self.health).latency().is_some_and(|latency| latency <= GROWTH_LATENCY_MAX);
        links.wanted.0 |= is_wanted;
        drop(links);
        if is_wanted {
            self.changed.notify_one();
        }
        Some(best)
    }

    /// Asks for a value, which is received into this memory.
    ///
    /// # Errors
    /// No connection can take the question; the memory is returned.
    pub(crate) fn get(
        &self,
        name: &Name,
        marks: bool,
        weight: u64,
        memory: Buffer,
    ) -> Result<oneshot::Receiver<Reply>, Buffer> {
        let Some(connection) = self.best() else { return Err(memory) };
        let opaque = connection.opaque();
        let line = [Piece::Line(protocol::get(name, opaque, marks))];
        connection.ask(opaque, line, weight, Expected::Get(memory)).map_err(|expected| match expected {
            Expected::Get(memory) => memory,
            _ => unreachable!("what was expected comes back"),
        })
    }

    /// Sets a marker if nothing is there, and returns what is there then, if the worker answers.
    pub(crate) async fn claim(&self, name: &Name) -> Option<Flags> {
        match self.ask_flags(|opaque| protocol::claim(name, opaque))?.await {
            Ok(Reply::Flags(flags)) => Some(flags),
            _ => None,
        }
    }

    /// Renews the marker of this number. A value that has replaced it meanwhile does not expire.
    pub(crate) fn renew(self: &Arc<Self>, name: &Name, cas: Cas) {
        let Some(answer) = self.ask_flags(|opaque| protocol::renew(name, opaque)) else { return };
        let (worker, name) = (self.clone(), *name);
        efc_tasks::spawn(async move {
            if let Ok(Reply::Flags(flags)) = answer.await
                && flags.cas != cas
                && flags.token == Token::None
            {
                drop(worker.ask_flags(|opaque| protocol::keep(&name, opaque)));
            }
        });
    }

    fn ask_flags(&self, line: impl FnOnce(u32) -> Vec<u8>) -> Option<oneshot::Receiver<Reply>> {
        let connection = self.best()?;
        let opaque = connection.opaque();
        connection.ask(opaque, [Piece::Line(line(opaque))], SMALL_WEIGHT, Expected::Flags).ok()
    }

    /// Deletes this value if it is still the same; the outcome does not matter.
    pub(crate) fn delete(&self, name: &Name, cas: Cas) {
        if let Some(connection) = self.best() {
            let opaque = connection.opaque();
            let line = [Piece::Line(protocol::delete(name, opaque, cas))];
            drop(connection.ask(opaque, line, SMALL_WEIGHT, Expected::Delete));
        }
    }

    // --- filling ----------------------------------------------------------------------------------------------------

    /// Reserves so many bytes to be sent to the worker; `None` if there are too many already, or if it is not connected.
    pub(crate) fn take(self: &Arc<Self>, length: usize) -> Option<OnTheWay> {
        if lock(&self.links).questions.is_empty() {
            return None;
        }
        let permit = self.ways.clone().try_acquire_many_owned(length as u32).ok()?;
        Some(OnTheWay { worker: self.clone(), length: length as u64, _permit: permit })
    }

    /// The same after waiting for its turn; `None` if nobody should wait for the worker.
    pub(crate) async fn turn(self: &Arc<Self>, length: usize) -> Option<OnTheWay> {
        let is_slow = lock(&self.health).is_slow(length, &lock(&self.context.backend).usual);
        if is_slow { None } else { self.unhurried_turn(length).await }
    }

    /// The same however slow the worker is; `None` if it is not there.
    pub(crate) async fn unhurried_turn(self: &Arc<Self>, length: usize) -> Option<OnTheWay> {
        if lock(&self.links).questions.is_empty() {
            return None;
        }
        let permit = self.ways.clone().acquire_many_owned(length as u32).await.ok()?;
        Some(OnTheWay { worker: self.clone(), length: length as u64, _permit: permit })
    }

    /// How the worker's memory is divided.
    pub(crate) fn slabs(&self) -> Slabs {
        *lock(&self.slabs)
    }

    /// Sends a command with a value, made by `command` from its opaque number; `false` if that cannot be done.
    /// `then` follows when the value is there.
    pub(crate) fn set<P: IntoIterator<Item = Piece>>(
        way: OnTheWay,
        then: Option<Then>,
        command: impl FnOnce(u32) -> P,
    ) -> bool {
        let Some(connection) = way.worker.for_fills() else { return false };
        let opaque = connection.opaque();
        let Ok(answer) = connection.ask(opaque, command(opaque), way.length, Expected::Set) else { return false };
        efc_tasks::spawn(async move { way.worker.filled(way.length, answer.await.ok(), then) });
        true
    }

    fn filled(&self, length: u64, reply: Option<Reply>, then: Option<Then>) {
        match reply {
            Some(Reply::Done) => {
                then.into_iter().for_each(Then::run);
                count(&self.tally.fills_done);
                add(&self.tally.fill_bytes, length);
            }
            Some(Reply::Unchanged | Reply::Missing(_)) => count(&self.tally.fills_overtaken),
            Some(Reply::Failed(why)) => {
                count(&self.tally.fills_failed);
                *lock(&self.fill_trouble) = Some(why);
            }
            _ => count(&self.tally.lost),
        }
    }

    fn for_fills(&self) -> Option<Arc<Connection>> {
        let mut links = lock(&self.links);
        if let Some(fills) = &links.fills {
            return Some(fills.clone());
        }
        links.wanted.1 = true;
        drop(links);
        self.changed.notify_one();
        self.best()
    }

    // --- connections ------------------------------------------------------------------------------------------------

    async fn look_after(self: Arc<Self>) {
        let mut failures = 0;
        while !self.is_leaving.load(Ordering::Relaxed) {
            let answers = self.tally.read().hits + self.tally.read().misses;
            match self.connect().await {
                Ok(connection) => self.attend(connection).await,
                Err(trouble) => self.note(trouble),
            }
            // A worker that lets itself be connected to and then answers nothing is as good as one that is away.
            let has_answered = self.tally.read().hits + self.tally.read().misses > answers;
            failures = if has_answered { 0 } else { failures + 1 };
            self.pause(RECONNECT.jittered(failures)).await;
        }
        self.drain().await;
    }

    /// Waits, unless the worker is removed.
    async fn pause(&self, duration: Duration) {
        let begin = now();
        while !self.is_leaving.load(Ordering::Relaxed)
            && let Some(left) = duration.checked_sub(since(begin)).filter(|left| !left.is_zero())
        {
            in_time(self.changed.notified(), Some(left)).await;
        }
    }

    fn note(&self, trouble: Trouble) {
        let state = match trouble {
            Trouble::Down(why) => WorkerState::Down(why),
            Trouble::Unfit(why) => WorkerState::Unfit(why),
        };
        let mut links = lock(&self.links);
        if links.state != state {
            log::warn!("worker {} {state}", self.endpoint.address());
            links.state = state;
        }
    }

    /// Manages the connections until there is none for questions, or the worker is removed.
    async fn attend(self: &Arc<Self>, first: Arc<Connection>) {
        {
            let mut links = lock(&self.links);
            links.questions.push(first);
            links.state = WorkerState::Serving;
        }
        let (mut asked, _serving) = (None::<Instant>, self.context.begin_serving());
        while !self.is_leaving.load(Ordering::Relaxed) && self.let_go() {
            if asked.is_none_or(|asked| since(asked) >= STATISTICS_INTERVAL) {
                asked = Some(now());
                self.ask_what_it_holds();
            }
            if !self.grow().await {
                in_time(self.changed.notified(), Some(LOOK_INTERVAL)).await;
            }
        }
    }

    /// Drops connections that have ended or receive nothing; `false` if there is none for questions any more.
    fn let_go(&self) -> bool {
        let mut links = lock(&self.links);
        let all: Vec<_> = links.questions.iter().chain(&links.fills).cloned().collect();
        drop(links);
        for silent in all.iter().filter(|one| one.silent_since().is_some_and(|begin| since(begin) > SILENCE_MAX)) {
            lock(&self.health).silent();
            silent.close("it has said nothing for too long");
        }
        links = lock(&self.links);
        let ended = all.iter().filter_map(|connection| connection.why()).next().map(str::to_owned);
        links.questions.retain(|connection| connection.why().is_none());
        links.fills.take_if(|connection| connection.why().is_some());
        if let Some(why) = ended {
            count(&self.tally.broken_connections);
            if links.questions.is_empty() {
                links.state = WorkerState::Down(why);
                log::warn!("worker {} {}", self.endpoint.address(), links.state);
            }
        }
        !links.questions.is_empty()
    }

    /// Makes another connection if one is wanted; `false` if none is.
    async fn grow(&self) -> bool {
        let (wanted, refused) = {
            let mut links = lock(&self.links);
            (std::mem::take(&mut links.wanted), links.refused)
        };
        if wanted == (false, false) || refused.is_some_and(|when| since(when) < GROWTH_PAUSE) {
            return false;
        }
        let connection = self.connect().await.ok();
        let mut links = lock(&self.links);
        links.refused = if connection.is_some() { None } else { Some(now()) };
        if wanted.1 && links.fills.is_none() {
            links.fills = connection;
        } else {
            links.questions.extend(connection);
        }
        true
    }

    async fn connect(&self) -> Result<Arc<Connection>, Trouble> {
        let addresses = self.context.resolver.addresses(&self.endpoint).await.map_err(Trouble::Down)?;
        let mut trouble = Trouble::Down("it has no address".into());
        for address in addresses {
            let tls = self.context.tls.as_ref().map(|tls| (tls, self.endpoint.host.as_str()));
            let opened = Connection::open(address, tls, self.changed.clone());
            let opened = opened.and_then(|one| {
                let connection = Arc::new(one);
                self.context.lanes.add(&connection).map(|()| connection)
            });
            let connection = opened.map_err(|error| Trouble::Down(error.to_string()))?;
            match greet(&connection).await {
                Ok(slabs) => {
                    *lock(&self.slabs) = slabs;
                    return Ok(connection);
                }
                Err(why) => trouble = why,
            }
            connection.close("it is of no use");
        }
        Err(trouble)
    }

    fn ask_what_it_holds(self: &Arc<Self>) {
        let connection = lock(&self.links).questions.first().cloned();
        let Some(Ok(answer)) = connection.map(|connection| ask_statistics(&connection, "")) else { return };
        let worker = self.clone();
        efc_tasks::spawn(async move {
            if let Ok(Reply::Statistics(known)) = answer.await {
                let number = |name| known.get(name).and_then(|text: &String| text.parse().ok()).unwrap_or(0);
                worker.capacity_bytes.store(number("limit_maxbytes"), Ordering::Relaxed);
                worker.held_bytes.store(number("bytes"), Ordering::Relaxed);
            }
        });
    }

    /// Ends all connections after the requests in flight.
    async fn drain(&self) {
        let begin = now();
        while since(begin) < LEAVING_MAX && self.is_busy() {
            efc_tasks::time::sleep(Duration::from_millis(10)).await;
        }
        self.end_all("it is not a worker any more", WorkerState::Down("it is not a worker any more".into()));
    }

    fn is_busy(&self) -> bool {
        let links = lock(&self.links);
        links.questions.iter().chain(&links.fills).any(|one| one.why().is_none() && one.outstanding() > 0)
    }
}

/// Bytes on their way to a worker, until this is dropped.
#[derive(Debug)]
pub(crate) struct OnTheWay {
    worker: Arc<Worker>,
    length: u64,
    _permit: OwnedSemaphorePermit,
}

fn ask_statistics(connection: &Connection, kind: &str) -> Result<oneshot::Receiver<Reply>, Expected> {
    let line = [Piece::Line(protocol::statistics(kind))];
    connection.ask(connection.opaque(), line, SMALL_WEIGHT, statistics())
}

/// Waits until the connection is established, and checks whether the worker can keep blocks, and how.
async fn greet(connection: &Arc<Connection>) -> Result<Slabs, Trouble> {
    let lost = || Trouble::Down(connection.why().unwrap_or("it has closed the connection").into());
    let answer = ask_statistics(connection, "settings").map_err(|_| lost())?;
    let reply = in_time(answer, Some(GREETING_MAX)).await;
    let Some(reply) = reply else { return Err(Trouble::Down("it does not answer".into())) };
    let Ok(Reply::Statistics(settings)) = reply else { return Err(lost()) };
    Slabs::read(&settings).map_err(Trouble::Unfit)
}
