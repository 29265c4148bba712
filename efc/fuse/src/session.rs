//! One FUSE session: negotiation, the threads that read `/dev/fuse`, redelivery.
//!
//! A session belongs to the file descriptor, not to the process. The first daemon negotiates it (INIT) and saves the
//! outcome in the state; a later one finds it there, asks for redelivery of what its predecessor had read and not
//! answered, and goes on reading. Each thread reads one request at a time into a resident buffer ([`Inbox`]) and calls the
//! file system; the file system decides whether to answer there and then or later, from elsewhere.
//!
//! A kernel before Linux 6.9 has no redelivery (RESEND). There requests are read into the saved state ([`efc_state::requests`]), and a
//! later daemon executes what it finds there before it reads anything: *replay*. A request that is replayed is marked like one
//! that is redelivered, and has its name from the first time. What a predecessor's threads still take while the kernel ends them is
//! found by a thread that looks until they are gone.
//!
//! A thread ends with the session; the whole process ends when a thread finds that a later daemon has the session. The keeper's beats go through the same queue as everybody's requests, so a loop that answers them takes requests.
//!
//! Not guaranteed: that a FORGET read by a dying daemon is counted (its node then stays known for as long as the
//! session lives), and that requests marked so were not executed before. The latter is the file system's to judge.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use efc_buffer::{Buffer, LARGE};
use efc_state::State;
use efc_state::requests::{self, Requests};
use rustix::io::Errno as SystemErrno;

use crate::abi;
use crate::config::SessionConfig;
use crate::filesystem::Filesystem;
use crate::inbox::{Inbox, NoMemory, payload_of};
use crate::lookout::{Lookout, Turn};
use crate::negotiation::{self, Negotiated};
use crate::notify::{self, Notifier};
use crate::reply::{Channel, Coming, NO_DATA};
use crate::request::{Errno, Operation, Request};
use crate::shortage::Shortage;
use crate::wire::{self, Inline, Malformed, Message};

const _: () = assert!(LARGE == requests::MESSAGE_MAX && efc_buffer::PAYLOAD_MAX == efc_state::PAYLOAD_MAX);

/// How long to wait for mount(2), and how often to look.
const MOUNT_WAIT_MAX: Duration = Duration::from_secs(30);
const MOUNT_POLL: Duration = Duration::from_millis(2);
/// How often to look whether all requests are answered.
const ANSWERS_POLL: Duration = Duration::from_millis(1);
/// How often to look for what a predecessor that is still ending has taken.
const REPLAY_POLL: Duration = Duration::from_millis(5);

/// A session. Clones share it.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

struct Shared {
    channel: Arc<Channel>,
    state: Arc<State>,
    config: SessionConfig,
    notifier: Mutex<Option<Notifier>>,
    shortage: Shortage,
    lookout: Lookout,
    is_draining: AtomicBool,
    /// No thread reads any more.
    is_over: AtomicBool,
}

impl Session {
    /// A session on `device`. With an initialised `state` it is resumed, without INIT.
    pub fn new(device: OwnedFd, state: Arc<State>, mut config: SessionConfig) -> Session {
        config.threads = config.threads.max(1);
        if config.max_background == 0 {
            config.max_background = SessionConfig::default().max_background;
        }
        let channel = Arc::new(Channel::new(device, Arc::clone(&state)));
        let (notifier, is_draining, is_over) = (Mutex::new(None), AtomicBool::new(false), AtomicBool::new(false));
        let (shortage, lookout) = Default::default();
        let shared = Shared { channel, state, config, notifier, shortage, lookout, is_draining, is_over };
        Session { shared: Arc::new(shared) }
    }

    /// New session: answers INIT (blocks until mount(2) is done and the kernel sends it). Resumed: asks the kernel for RESEND,
    /// if it has that.
    pub fn start(&self) -> io::Result<()> {
        let state = &self.shared.state;
        if let Some(negotiated) = Negotiated::of(state) {
            if negotiated.has_resend() {
                return self.shared.redeliver();
            }
            if self.shared.kept_requests().is_none() {
                log::warn!("neither the kernel nor the saved state has the requests that the last daemon held: lost");
            }
            return Ok(());
        }
        if state.daemon_number() > 1 && self.shared.config.features.may_resend() {
            // A predecessor may have read INIT and died before it saved anything. Fails before mount(2), and on old kernels.
            let _ = self.shared.redeliver();
        }
        self.shared.await_init()
    }

    /// Asks once more for redelivery of all that is unanswered, while this daemon serves: for when a predecessor that was still
    /// ending has gone. What this daemon works on itself is not executed again. Where requests are replayed, there is
    /// nothing to ask: a thread looks for them.
    pub fn resend(&self) -> io::Result<()> {
        if self.shared.kept_requests().is_some() {
            return Ok(());
        }
        self.shared.channel.keep_refused.store(true, Ordering::Release);
        self.shared.redeliver()
    }

    /// Begins nothing more, and waits until all that was begun is answered; `false` if that takes longer than `limit`. A
    /// thread may read one request more: it leaves it unanswered, and the next daemon gets it.
    pub fn drain(&self, limit: Duration) -> bool {
        self.shared.is_draining.store(true, Ordering::Release);
        let deadline = Instant::now() + limit;
        while self.oldest_request().is_some() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(ANSWERS_POLL);
        }
        true
    }

    /// Drops journal entries of a predecessor whose requests were not delivered again: they were answered, or their callers
    /// killed. `false`: redelivery, which comes before anything else, may not be through; try again later.
    ///
    /// Call a while after [`Session::start`]: a thread may have read a request and not dispatched it yet.
    pub fn drop_unclaimed(&self) -> bool {
        let is_through = match self.shared.kept_requests() {
            Some(requests) => requests.is_settled(),
            None => self.shared.channel.fresh_seen.load(Ordering::Relaxed),
        };
        let dropped = if is_through { self.shared.state.journal().drop_unclaimed() } else { 0 };
        if is_through {
            self.shared.state.forget_openers();
        }
        if dropped > 0 {
            log::info!("{dropped} requests of a predecessor were not delivered again");
        }
        is_through
    }

    /// Serves until the session is unmounted, aborted or taken over, on `config.threads` threads; returns when all have
    /// ended. Not at all when they have ended because it drains: the session goes on with the next daemon, and whoever called
    /// [`Session::drain`] ends this one.
    pub fn run(&self, filesystem: Arc<dyn Filesystem>) -> io::Result<()> {
        if let Some(requests) = self.shared.kept_requests() {
            self.shared.replay(requests, &*filesystem);
            if !requests.is_settled() {
                let (shared, filesystem) = (Arc::clone(&self.shared), Arc::clone(&filesystem));
                thread::Builder::new().name("fuse-replay".into()).spawn(move || shared.replay_rest(&*filesystem))?;
            }
        }
        let mut threads = Vec::new();
        for number in 0..self.shared.config.threads {
            let (shared, filesystem) = (Arc::clone(&self.shared), Arc::clone(&filesystem));
            let named = thread::Builder::new().name(format!("fuse-{number}"));
            threads.push(named.spawn(move || shared.serve(&*filesystem))?);
        }
        let join = |thread: JoinHandle<io::Result<()>>| thread.join().expect("a serving thread panicked");
        let ended: Vec<io::Result<()>> = threads.into_iter().map(join).collect();
        while self.shared.is_draining.load(Ordering::Acquire) {
            thread::park();
        }
        self.shared.is_over.store(true, Ordering::Release);
        ended.into_iter().collect()
    }

    /// The writer of notifications; all callers share one thread.
    ///
    /// # Panics
    /// If the system cannot start that thread.
    pub fn notifier(&self) -> Notifier {
        let mut notifier = self.shared.notifier.lock().expect("notifier lock");
        let start = || Notifier::start(Arc::clone(&self.shared.channel)).expect("a thread for notifications");
        notifier.get_or_insert_with(start).clone()
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn set_tap(&self, tap: crate::reply::Tap) {
        let is_first = self.shared.channel.tap.set(tap).is_ok();
        debug_assert!(is_first, "one for each session");
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn take_simulated(&self, request: Request, filesystem: &dyn Filesystem) {
        self.shared.state.fence();
        self.shared.dispatch(request, None, filesystem);
    }

    /// Requests taken from the kernel so far.
    pub fn requests(&self) -> u64 {
        self.shared.channel.requests.load(Ordering::Relaxed)
    }

    /// For how long the oldest unanswered request has been waiting.
    pub fn oldest_request(&self) -> Option<Duration> {
        self.shared.channel.in_flight.oldest()
    }

    /// What was agreed with the kernel; `None` before INIT.
    pub fn negotiated(&self) -> Option<Negotiated> {
        Negotiated::of(&self.shared.state)
    }
}

impl Shared {
    /// Asks the kernel to deliver again what is unanswered.
    fn redeliver(&self) -> io::Result<()> {
        if cfg!(feature = "no-resend") {
            return Ok(());
        }
        Ok(notify::write(&self.channel.device, abi::notify::RESEND, &[])?)
    }

    fn await_init(&self) -> io::Result<()> {
        let mut buffer = Buffer::new(LARGE)?;
        let start = Instant::now();
        loop {
            let length = match rustix::io::read(&self.channel.device, &mut *buffer) {
                Ok(length) => length,
                Err(SystemErrno::INTR | SystemErrno::AGAIN | SystemErrno::NOENT) => continue,
                // Not mounted yet.
                Err(SystemErrno::PERM) if start.elapsed() < MOUNT_WAIT_MAX => {
                    thread::sleep(MOUNT_POLL);
                    continue;
                }
                Err(errno) => return Err(errno.into()),
            };
            match wire::decode(&buffer[..length]) {
                Ok(Message::Init { unique, offered, flags }) => return self.answer_init(unique, &offered, flags),
                other => {
                    log::error!("instead of INIT the kernel sent {other:?}");
                    return Err(io::Error::from(SystemErrno::PROTO));
                }
            }
        }
    }

    fn answer_init(&self, unique: u64, offered: &abi::InitIn, flags: u64) -> io::Result<()> {
        match negotiation::negotiate(offered, flags, &self.config) {
            Ok((out, negotiated)) => {
                // Saved first: a successor that finds it asks for redelivery, of INIT too if this answer never went out.
                negotiated.save(&self.state);
                self.channel.write(unique, 0, &mut Inline::new().with(out, 0), NO_DATA);
                log::info!("FUSE 7.{}, flags {:#x} of {flags:#x}", negotiated.minor, negotiated.flags);
                Ok(())
            }
            Err(errno) => {
                self.channel.write(unique, -errno.0, &mut Inline::new(), NO_DATA);
                Err(io::Error::from_raw_os_error(errno.0))
            }
        }
    }

    /// The requests in the saved state, if the kernel has no RESEND and they are kept there.
    fn kept_requests(&self) -> Option<&Arc<Requests>> {
        self.state.requests().filter(|_| Negotiated::of(&self.state).is_some_and(|negotiated| !negotiated.has_resend()))
    }

    /// Executes what predecessors had read and not answered, as far as it is found.
    fn replay(&self, requests: &Arc<Requests>, filesystem: &dyn Filesystem) {
        let found = requests.take_over();
        if !found.is_empty() {
            log::info!("{} requests of a predecessor go on", found.len());
        }
        for kept in found {
            self.replay_one(requests, kept, filesystem);
        }
    }

    fn replay_one(&self, requests: &Arc<Requests>, kept: requests::KeptRequest, filesystem: &dyn Filesystem) {
        let (mut request, payload) = match wire::decode(&kept) {
            Ok(Message::Request { request, payload }) => (request, payload),
            message => {
                if let Err(malformed) = message {
                    self.refuse(&malformed);
                }
                // What has no answer is not executed again: a FORGET lost leaves a count too high, a second one a count too low.
                return requests.end(kept.slot);
            }
        };
        request.resent = true;
        if let Operation::Write { data, .. } = &mut request.operation {
            *data = payload_of(&kept, payload);
        }
        let unique = request.unique;
        self.dispatch(request, Some(kept.slot), filesystem);
        // If its caller was interrupted, nobody would say so again.
        filesystem.interrupt(unique);
    }

    /// Looks until the predecessors are gone.
    fn replay_rest(&self, filesystem: &dyn Filesystem) {
        let Some(requests) = self.kept_requests() else { return };
        while !requests.is_settled() && !self.is_over.load(Ordering::Acquire) && !self.state.is_superseded() {
            thread::sleep(REPLAY_POLL);
            self.replay(requests, filesystem);
        }
    }

    /// One reading thread.
    fn serve(&self, filesystem: &dyn Filesystem) -> io::Result<()> {
        let mut inbox = match self.kept_requests() {
            Some(requests) => Inbox::saved(Arc::clone(requests)),
            None => Inbox::buffer()?,
        };
        let mut turn = None;
        loop {
            let watch: &mut Turn<'_> = turn.get_or_insert_with(|| self.lookout.turn());
            if self.is_draining.load(Ordering::Acquire) {
                return Ok(());
            }
            if self.channel.in_flight.count() > 0 {
                watch.leave_alone();
            }
            if watch.is_alone() {
                watch.look(self.channel.device.as_fd());
            } else {
                turn = None; // for others, too
            }
            match rustix::io::read(&self.channel.device, inbox.room()) {
                // What was just read is not answered: the next daemon gets it.
                Ok(_) if self.is_draining.load(Ordering::Acquire) => return Ok(()),
                Ok(length) => {
                    self.state.fence();
                    if !self.take(&mut inbox, length, &mut turn, filesystem)? {
                        return Ok(());
                    }
                }
                // NOENT: the request was interrupted before we got it.
                Err(SystemErrno::INTR | SystemErrno::AGAIN | SystemErrno::NOENT) => inbox.again(),
                Err(SystemErrno::NODEV | SystemErrno::CONNABORTED) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Takes one message; `false` if it was the last.
    fn take<'a>(
        &'a self,
        inbox: &mut Inbox,
        length: usize,
        turn: &mut Option<Turn<'a>>,
        filesystem: &dyn Filesystem,
    ) -> io::Result<bool> {
        let message = &inbox.room()[..length];
        let decoded = wire::decode(message);
        self.pass_on(turn, &decoded);
        match decoded {
            Ok(Message::Request { request, payload }) => {
                self.take_request(request, payload, inbox, length, filesystem);
                return Ok(true);
            }
            Ok(Message::ForgetOne { node, lookups }) => filesystem.forget(node, lookups),
            Ok(Message::Forget { list }) => {
                wire::forgets(&message[list]).for_each(|(node, lookups)| filesystem.forget(node, lookups));
            }
            Ok(Message::Interrupt { unique }) => filesystem.interrupt(unique),
            Ok(Message::Init { unique, offered, flags }) => self.answer_init(unique, &offered, flags)?,
            Ok(Message::Beat { number }) => {
                self.state.set_beat(number);
                self.kept_requests().inspect(|requests| requests.trim());
            }
            Ok(Message::Destroy { unique }) => {
                self.channel.write(unique, 0, &mut Inline::new(), NO_DATA);
                return Ok(false);
            }
            Err(malformed) => self.refuse(&malformed),
        }
        inbox.again();
        Ok(true)
    }

    /// Another thread waits for what comes next, unless one that has just been read is short and its caller alone.
    fn pass_on<'a>(&'a self, turn: &mut Option<Turn<'a>>, read: &Result<Message, Malformed>) {
        let Ok(message) = read else { return };
        *turn = turn.take().or_else(|| self.lookout.free());
        if let (Some(watch), Message::Request { request, .. }) = (turn.as_mut(), message) {
            match request.operation {
                Operation::Write { .. } => watch.leave_alone(),
                _ => watch.asks(request.pid),
            }
        }
        turn.take_if(|watch| message.may_take_long() || !watch.is_alone());
    }

    fn take_request(
        &self,
        mut request: Request,
        payload: Range<usize>,
        inbox: &mut Inbox,
        length: usize,
        filesystem: &dyn Filesystem,
    ) {
        let room = |size| self.shortage.room(&self.config.budget, size);
        let (data, slot) = match inbox.keep(length, payload, room) {
            Ok(kept) => kept,
            Err(NoMemory) => {
                log::error!("a write fails with ENOMEM: there is no memory for what applications write at once");
                self.channel.write(request.unique, -libc::ENOMEM, &mut Inline::new(), NO_DATA);
                return inbox.again();
            }
        };
        if let Operation::Write { data: place, .. } = &mut request.operation {
            *place = data;
        }
        self.dispatch(request, slot, filesystem);
    }

    fn refuse(&self, malformed: &Malformed) {
        log::error!("malformed request {:#x} of operation {}", malformed.unique, malformed.opcode);
        if malformed.unique != 0 {
            self.channel.write(malformed.unique, -libc::EPROTO, &mut Inline::new(), NO_DATA);
        }
    }

    fn dispatch(&self, request: Request, slot: Option<u32>, filesystem: &dyn Filesystem) {
        let gives_back = matches!(request.operation, Operation::Release { .. } | Operation::Releasedir { .. });
        if !request.resent {
            self.channel.fresh_seen.store(true, Ordering::Relaxed);
        }
        let coming = Coming { name: request.name, resent: request.resent, slot, gives_back };
        let Some(reply) = self.channel.arrive(coming) else { return };
        if self.config.read_only && request.operation.modifies() {
            return reply.error(Errno(libc::EROFS));
        }
        match &request.operation {
            Operation::Read { .. } | Operation::Write { .. } => self.state.set_witness(request.node),
            // The running kernel knows STATX though the session was negotiated as with an older one.
            Operation::Statx { .. }
                if Negotiated::of(&self.state).is_some_and(|negotiated| !negotiated.has_statx()) =>
            {
                return reply.error(Errno(libc::ENOSYS));
            }
            _ => {}
        }
        filesystem.handle(request, reply);
    }
}
