//! One FUSE session: negotiation, the threads that read `/dev/fuse`, redelivery.
//!
//! A session belongs to the file descriptor, not to the process. The first daemon negotiates it (INIT) and saves the
//! outcome in the state; a later one finds it there, asks for redelivery of what its predecessor had read and not
//! answered, and goes on reading. Each thread reads one request at a time into a resident buffer and calls the file
//! system; the file system decides whether to answer there and then or later, from elsewhere.
//!
//! A thread ends with the session; the whole process ends when a thread finds that a later daemon has the session. The keeper's beats go through the same queue as everybody's requests, so a loop that answers them takes requests.
//!
//! Not guaranteed: that a FORGET read by a dying daemon is counted (its node then stays known for as long as the
//! session lives), and that requests with a redelivery bit were not executed before. The latter is the file system's to judge.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use efc_buffer::{Buffer, LARGE};
use rustix::io::Errno as SystemErrno;

use crate::features::{self, Features, Negotiated};
use crate::notify::{self, Notifier};
use crate::reply::Channel;
use crate::request::{Errno, Operation, Request};
use crate::state::State;
use crate::wire::{self, Inline, Malformed, Message};
use crate::{Filesystem, abi};

/// WRITE payloads from this size on, in bytes, stay in the buffer that they were read into.
const HAND_OVER_MIN: usize = 32 << 10;
/// How long to wait for mount(2), and how often to look.
const MOUNT_WAIT_MAX: Duration = Duration::from_secs(30);
const MOUNT_POLL: Duration = Duration::from_millis(2);
/// How often to look whether all requests are answered.
const ANSWERS_POLL: Duration = Duration::from_millis(1);

/// How a session is to run.
#[derive(Clone, Copy, Debug)]
pub struct SessionConfig {
    /// Threads that read `/dev/fuse`, at least 1.
    pub threads: usize,
    /// Refuse all that modifies, should a mount without MS_RDONLY let it through.
    pub read_only: bool,
    /// Requests that the kernel sends without a waiting caller, at most: read-ahead and the like. 0 means 64.
    pub max_background: u16,
    /// What the kernel may seem to have.
    pub features: Features,
    /// The mount may be id-mapped; [`Request::uid`] and `gid` are [`crate::UNTOLD`] then but for requests that make an inode.
    pub idmap: bool,
}

impl Default for SessionConfig {
    fn default() -> SessionConfig {
        SessionConfig { threads: 2, read_only: false, max_background: 64, features: Features::default(), idmap: false }
    }
}

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
    is_draining: AtomicBool,
}

/// Payload of a WRITE that keeps its buffer.
struct Payload(Buffer);

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Session {
    /// A session on `device`. With an initialised `state` it is resumed, without INIT.
    pub fn new(device: OwnedFd, state: Arc<State>, mut config: SessionConfig) -> Session {
        config.threads = config.threads.max(1);
        if config.max_background == 0 {
            config.max_background = SessionConfig::default().max_background;
        }
        let channel = Arc::new(Channel::new(device, Arc::clone(&state)));
        let (notifier, is_draining) = (Mutex::new(None), AtomicBool::new(false));
        Session { shared: Arc::new(Shared { channel, state, config, notifier, is_draining }) }
    }

    /// New session: answers INIT (blocks until mount(2) is done and the kernel sends it). Resumed: asks the kernel for RESEND.
    pub fn start(&self) -> io::Result<()> {
        let state = &self.shared.state;
        if let Some(negotiated) = state.negotiated() {
            if !negotiated.has_resend() {
                log::warn!("the kernel has no RESEND: requests that the last daemon held are lost");
                return Ok(());
            }
            return self.shared.redeliver();
        }
        if state.generation() > 1 {
            // A predecessor may have read INIT and died before it saved anything. Fails before mount(2), and on old kernels.
            let _ = self.shared.redeliver();
        }
        self.shared.await_init()
    }

    /// Asks once more for redelivery of all that is unanswered, while this daemon serves: for when a predecessor that was still
    /// ending has gone. What this daemon works on itself is not executed again.
    pub fn resend(&self) -> io::Result<()> {
        self.shared.channel.keep_refused.store(true, Ordering::Release);
        self.shared.redeliver()
    }

    /// Begins nothing more, and waits until all that was begun is answered; `false` if that takes longer than `limit`. A
    /// thread may read one request more: it leaves it unanswered, and the next daemon asks for it.
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
        let is_through = self.shared.channel.fresh_seen.load(Ordering::Relaxed);
        let dropped = if is_through { self.shared.state.journal().drop_unclaimed() } else { 0 };
        if dropped > 0 {
            log::info!("{dropped} requests of a predecessor were not delivered again");
        }
        is_through
    }

    /// Serves until the session is unmounted, aborted or taken over, on `config.threads` threads; returns when all have
    /// ended.
    pub fn run(&self, filesystem: Arc<dyn Filesystem>) -> io::Result<()> {
        let mut threads = Vec::new();
        for number in 0..self.shared.config.threads {
            let (shared, filesystem) = (Arc::clone(&self.shared), Arc::clone(&filesystem));
            let named = thread::Builder::new().name(format!("fuse-{number}"));
            threads.push(named.spawn(move || shared.serve(&*filesystem))?);
        }
        let join = |thread: JoinHandle<io::Result<()>>| thread.join().expect("a serving thread panicked");
        let ended: Vec<io::Result<()>> = threads.into_iter().map(join).collect();
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
        self.shared.state.negotiated()
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
        let mut buffer = Buffer::with_capacity(LARGE);
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
        match features::negotiate(offered, flags, &self.config) {
            Ok((out, negotiated)) => {
                // Saved first: a successor that finds it asks for redelivery, of INIT too if this answer never went out.
                self.state.save_negotiated(&negotiated);
                self.channel.write(unique, 0, &mut Inline::new().with(out, 0), &[]);
                log::info!("FUSE 7.{}, flags {:#x} of {flags:#x}", negotiated.minor, negotiated.flags);
                Ok(())
            }
            Err(errno) => {
                self.channel.write(unique, -errno.0, &mut Inline::new(), &[]);
                Err(io::Error::from_raw_os_error(errno.0))
            }
        }
    }

    /// One reading thread.
    fn serve(&self, filesystem: &dyn Filesystem) -> io::Result<()> {
        let mut buffer = Buffer::with_capacity(LARGE);
        loop {
            match rustix::io::read(&self.channel.device, &mut *buffer) {
                // What was just read is not answered: the next daemon asks for it.
                Ok(_) if self.is_draining.load(Ordering::Acquire) => return Ok(()),
                Ok(length) => {
                    self.state.fence();
                    if !self.take(&mut buffer, length, filesystem)? {
                        return Ok(());
                    }
                }
                // NOENT: the request was interrupted before we got it.
                Err(SystemErrno::INTR | SystemErrno::AGAIN | SystemErrno::NOENT) => {}
                Err(SystemErrno::NODEV | SystemErrno::CONNABORTED) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Takes one message; `false` if it was the last.
    fn take(&self, buffer: &mut Buffer, length: usize, filesystem: &dyn Filesystem) -> io::Result<bool> {
        match wire::decode(&buffer[..length]) {
            Ok(Message::Request { request, payload }) => self.dispatch(request, payload, buffer, filesystem),
            Ok(Message::ForgetOne { node, lookups }) => filesystem.forget(node, lookups),
            Ok(Message::Forget { list }) => {
                wire::forgets(&buffer[list]).for_each(|(node, lookups)| filesystem.forget(node, lookups));
            }
            Ok(Message::Interrupt { unique }) => filesystem.interrupt(unique),
            Ok(Message::Init { unique, offered, flags }) => self.answer_init(unique, &offered, flags)?,
            Ok(Message::Beat { number }) => self.state.set_beat(number),
            Ok(Message::Destroy { unique }) => {
                self.channel.write(unique, 0, &mut Inline::new(), &[]);
                return Ok(false);
            }
            Err(malformed) => self.refuse(&malformed),
        }
        Ok(true)
    }

    fn refuse(&self, malformed: &Malformed) {
        log::error!("malformed request {:#x} of operation {}", malformed.unique, malformed.opcode);
        if malformed.unique != 0 {
            self.channel.write(malformed.unique, -libc::EPROTO, &mut Inline::new(), &[]);
        }
    }

    fn dispatch(&self, mut request: Request, payload: Range<usize>, buffer: &mut Buffer, filesystem: &dyn Filesystem) {
        let gives_back = matches!(request.operation, Operation::Release { .. } | Operation::Releasedir { .. });
        if !request.resent {
            self.channel.fresh_seen.store(true, Ordering::Relaxed);
        }
        let delivered = request.unique | if request.resent { abi::UNIQUE_RESENT } else { 0 };
        let Some(reply) = self.channel.arrive(delivered, gives_back) else { return };
        if self.config.read_only && request.operation.modifies() {
            return reply.error(Errno(libc::EROFS));
        }
        if matches!(request.operation, Operation::Read { .. } | Operation::Write { .. }) {
            self.state.set_witness(request.node);
        }
        match &mut request.operation {
            Operation::Write { data, .. } => *data = take_payload(buffer, payload),
            // The running kernel knows STATX though the session was negotiated as with an older one.
            Operation::Statx { .. } if self.state.negotiated().is_some_and(|negotiated| !negotiated.has_statx()) => {
                return reply.error(Errno(libc::ENOSYS));
            }
            _ => {}
        }
        filesystem.handle(request, reply);
    }
}

/// The payload of a WRITE: a copy if it is small, otherwise the whole buffer, which is replaced by a fresh one.
fn take_payload(buffer: &mut Buffer, payload: Range<usize>) -> Bytes {
    if payload.len() < HAND_OVER_MIN {
        return Bytes::copy_from_slice(&buffer[payload]);
    }
    let full = std::mem::replace(buffer, Buffer::with_capacity(LARGE));
    Bytes::from_owner(Payload(full)).slice(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_payloads_are_not_copied() {
        let mut buffer = Buffer::with_capacity(LARGE);
        buffer[80..80 + HAND_OVER_MIN].fill(7);
        let place = buffer[80..].as_ptr();
        let small = take_payload(&mut buffer, 80..80 + HAND_OVER_MIN - 1);
        assert_ne!(small.as_ptr(), place);
        assert_eq!(buffer[80..].as_ptr(), place, "the buffer is read into again");
        let large = take_payload(&mut buffer, 80..80 + HAND_OVER_MIN);
        assert_eq!(large.as_ptr(), place);
        assert_ne!(buffer[80..].as_ptr(), place);
        assert!(small.iter().chain(large.iter()).all(|&byte| byte == 7));
    }
}
