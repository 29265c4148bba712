//! One TCP connection that outlives its sockets: unanswered calls, sending, reconnecting, replaying.
//!
//! Two threads serve a connection. The *reader* connects, receives, completes calls (which may run the caller's tasks
//! inline) and connects again when the socket breaks. It never waits for room to send: a full server that itself waits
//! for us to read would wait for ever. Calls are sent by the thread that makes them, as far as the socket takes them at
//! once; the rest is left to the *writer*, a thread that is started the first time this happens.
//!
//! A call stays in `pending` until it is answered or forgotten. A new socket gets every pending call again, in the
//! order of their making and with their old xids, so that a server with a duplicate-request cache executes each once;
//! calls that were sent before are marked as replayed, because not every server has one. A socket that brings nothing
//! for a while though calls are unanswered is given up: a NAS that failed over may have forgotten it silently. A single
//! call that is unanswered for as long, while others are answered, goes out once more.
//!
//! A connection is *down* after it fell silent or could not be made anew. What never left, and what may be executed
//! twice, moves to connections that stand. The rest waits for its own source port, by which a duplicate-request cache knows
//! it; since the network may lose all packets of one port (a dead member of a bundle), or a firewall refuse that one alone,
//! another port is tried too after a while.
//!
//! Locks: `sender` before `pending` before a call's own; nothing of a caller's is dropped or woken under any of them.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::call::Call;
use crate::transport::{Shared, Splicing};
use crate::{lock, random, receiver, socket};

/// Calls in flight per connection; further ones wait for their turn.
pub(crate) const IN_FLIGHT_MAX: usize = 256;
/// Virtual size; only touched pages count. Name resolution of the C library and inline tasks need some of it.
const STACK: usize = 512 << 10;
/// How long an attempt to connect to one address may take, as a part of the longest silence.
const CONNECT_LIMIT_PART: u32 = 6;
/// Attempts from the source port that the connection had, before every other one is from another.
const PORT_FAILURES_MAX: u32 = 2;
/// Attempts that the server, or what stands for it, answers with an error, before the source port may be the reason: in all
/// some seconds, in which most servers have restarted. They know a client by its port.
const REFUSALS_MAX: u32 = 6;
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// The writer looks again after this long in case the socket was given up meanwhile.
const WRITER_WAIT: Duration = Duration::from_secs(1);

/// One connection; shared by the client, its two threads and the calls' futures.
pub(crate) struct Connection {
    index: usize,
    shared: Arc<Shared>,
    stopped: AtomicBool,
    down: AtomicBool,
    outstanding: AtomicU64,
    pending: Mutex<Pending>,
    needed: Condvar,
    sender: Mutex<Sender>,
    backlog: Condvar,
}

#[derive(Default)]
struct Pending {
    calls: HashMap<u32, Arc<Call>>,
    waiting: VecDeque<Arc<Call>>,
    reader_runs: bool,
    /// The reader sleeps until it is needed; waking it costs a system call.
    reader_sleeps: bool,
}

#[derive(Default)]
struct Sender {
    socket: Option<Arc<TcpStream>>,
    /// Counts sockets; 0 before the first.
    generation: u64,
    queue: VecDeque<Arc<Call>>,
    /// Bytes of the queue's first call that have left.
    offset: usize,
    writer_runs: bool,
}

impl Connection {
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> Arc<Connection> {
        Arc::new(Connection {
            index,
            shared,
            stopped: AtomicBool::new(false),
            down: AtomicBool::new(false),
            outstanding: AtomicU64::new(0),
            pending: Mutex::default(),
            needed: Condvar::new(),
            sender: Mutex::default(),
            backlog: Condvar::new(),
        })
    }

    /// Serves a socket that is connected already.
    pub(crate) fn adopt(self: &Arc<Self>, socket: TcpStream) {
        self.start_reader(&mut lock(&self.pending), Some(socket));
    }

    /// Its number among the connections of its client.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// It fell silent, or could not be made, and was not made since.
    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Bytes that unanswered calls move, with a surcharge per call.
    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// When the oldest unanswered call was made.
    pub(crate) fn oldest_call(&self) -> Option<Instant> {
        let pending = lock(&self.pending);
        pending.calls.values().chain(&pending.waiting).map(|call| call.made).min()
    }

    /// Takes a call; it is sent at once if the connection stands and has room for it.
    pub(crate) fn submit(self: &Arc<Self>, call: &Arc<Call>) {
        self.outstanding.fetch_add(call.weight, Ordering::Relaxed);
        let mut pending = lock(&self.pending);
        let admitted = pending.calls.len() < IN_FLIGHT_MAX;
        if admitted {
            pending.calls.insert(call.xid, Arc::clone(call));
        } else {
            pending.waiting.push_back(Arc::clone(call));
        }
        if !pending.reader_runs {
            self.start_reader(&mut pending, None);
        } else if pending.reader_sleeps {
            self.needed.notify_one();
        }
        drop(pending);
        if admitted {
            self.send(call);
        }
    }

    /// Ends all threads; the client is gone and with it everybody who waits for a call.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(socket) = &lock(&self.sender).socket {
            let _ = socket.shutdown(Shutdown::Both);
        }
        drop(lock(&self.pending));
        self.needed.notify_all();
        self.backlog.notify_all();
    }

    /// The unanswered call with this xid.
    pub(crate) fn find(&self, xid: u32) -> Option<Arc<Call>> {
        lock(&self.pending).calls.get(&xid).map(Arc::clone)
    }

    /// The call is answered or nobody waits for it any more; the next in line takes its place.
    pub(crate) fn release(self: &Arc<Self>, call: &Call) {
        let mut pending = lock(&self.pending);
        let Some(released) = pending.calls.remove(&call.xid) else { return };
        let admitted = pending.waiting.pop_front();
        if let Some(next) = &admitted {
            pending.calls.insert(next.xid, Arc::clone(next));
        }
        drop(pending);
        self.outstanding.fetch_sub(call.weight, Ordering::Relaxed);
        drop(released);
        if let Some(next) = admitted {
            self.send(&next);
        }
    }

    /// Nobody waits for the call any more.
    pub(crate) fn forget(self: &Arc<Self>, call: &Call) {
        if !self.take_waiting(call) {
            self.release(call);
        }
    }

    /// Takes back a call that has not been admitted; false if it has.
    fn take_waiting(&self, call: &Call) -> bool {
        let mut pending = lock(&self.pending);
        let position = pending.waiting.iter().position(|waiting| waiting.xid == call.xid);
        let removed = position.and_then(|position| pending.waiting.remove(position));
        drop(pending);
        if removed.is_some() {
            self.outstanding.fetch_sub(call.weight, Ordering::Relaxed);
        }
        removed.is_some()
    }

    /// Takes back a call that another connection is to serve; false if this one does not have it.
    pub(crate) fn take(&self, call: &Call) -> bool {
        if self.take_waiting(call) {
            return true;
        }
        let removed = lock(&self.pending).calls.remove(&call.xid);
        if removed.is_some() {
            self.outstanding.fetch_sub(call.weight, Ordering::Relaxed);
        }
        removed.is_some()
    }

    /// Has the reader look whether it is needed.
    pub(crate) fn wake(&self) {
        drop(lock(&self.pending));
        self.needed.notify_all();
    }

    /// Marks the connection as down, and moves what may be moved to one that stands.
    fn go_down(self: &Arc<Self>) {
        self.down.store(true, Ordering::Relaxed);
        let pending = lock(&self.pending);
        let mut calls: Vec<_> =
            pending.calls.values().chain(&pending.waiting).filter(|call| call.is_movable()).cloned().collect();
        drop(pending);
        calls.sort_unstable_by_key(|call| call.sequence);
        let mut moved = 0;
        for call in &calls {
            let Some(other) = self.shared.standing(self.index) else { break };
            call.move_to(&other, self);
            moved += 1;
        }
        if moved > 0 {
            log::warn!("connection {} to {} is down: {moved} calls take others", self.index, self.shared.name());
        }
    }

    /// Sends the calls again whose answers must have been lost while others came.
    ///
    /// After the longest silence that is every call. Servers drop calls about an object that goes away meanwhile (nfs-ganesha does), so what
    /// asks for little goes out again much earlier: if it was `asked_before` replies came steadily.
    pub(crate) fn send_overdue(self: &Arc<Self>, asked_before: Option<Instant>) {
        let silence = self.silence_max();
        let is_passed_over = |call: &Call| call.asks_little && asked_before.is_some_and(|then| call.asked() < then);
        let is_overdue = |call: &&Arc<Call>| call.asked().elapsed() >= silence || is_passed_over(call);
        let overdue: Vec<_> = lock(&self.pending).calls.values().filter(is_overdue).cloned().collect();
        for call in overdue {
            call.note_asked();
            self.send_again(&call);
        }
    }

    /// Sends the oldest small question again while the server says nothing: it may have dropped that one call, on which all
    /// others wait. A server that is away is asked so little that it does no harm, and the silence goes on.
    pub(crate) fn probe(self: &Arc<Self>) {
        let questions = |pending: &Pending| {
            let small = pending.calls.values().filter(|call| call.asks_little);
            small.min_by_key(|call| call.sequence).cloned()
        };
        let oldest = questions(&lock(&self.pending));
        if let Some(oldest) = oldest {
            self.send_again(&oldest);
        }
    }

    /// For how long calls have been unanswered while nothing was received, if any are.
    pub(crate) fn silent_for(&self, heard: Instant) -> Option<Duration> {
        let pending = lock(&self.pending);
        let asked = pending.calls.values().chain(&pending.waiting).map(|call| call.asked()).min();
        asked.map(|asked| asked.max(heard).elapsed())
    }

    /// Whether payloads fit pipes.
    pub(crate) fn splicing(&self) -> &Splicing {
        &self.shared.splicing
    }

    /// After which silence a socket is given up.
    pub(crate) fn silence_max(&self) -> Duration {
        self.shared.silence_max
    }

    // ------------------------------------------------------------ sending

    fn send(self: &Arc<Self>, call: &Arc<Call>) {
        let mut sender = lock(&self.sender);
        // Without a socket the reader is about to make one, and sends all pending calls on it.
        let Some(socket) = &sender.socket else { return };
        if call.generation.swap(sender.generation, Ordering::Relaxed) == sender.generation {
            return;
        }
        if sender.queue.is_empty() {
            match self.send_some(socket, call, 0) {
                Ok(sent) if sent == call.len() => return,
                Ok(sent) => sender.offset = sent,
                Err(_) => return drop(give_up(sender)),
            }
        }
        sender.queue.push_back(Arc::clone(call));
        self.wake_writer(&mut sender);
    }

    /// Sends a call that has left once more, unless it is about to leave anyway.
    pub(crate) fn send_again(self: &Arc<Self>, call: &Arc<Call>) {
        let sender = lock(&self.sender);
        let is_queued = sender.queue.iter().any(|queued| Arc::ptr_eq(queued, call));
        if is_queued || !lock(&self.pending).calls.contains_key(&call.xid) {
            return;
        }
        call.generation.store(0, Ordering::Relaxed);
        drop(sender);
        self.send(call);
    }

    fn send_some(&self, socket: &TcpStream, call: &Call, offset: usize) -> io::Result<usize> {
        // What a daemon that hung still has to send is its successor's by now, and so is the memory that it lies in.
        self.shared.fence();
        let sent = socket::send(socket, &call.parts(), offset)?;
        if offset == 0 && sent > 0 && call.count_send() {
            self.shared.stats.retransmits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(sent)
    }

    /// Sends what fits of the queue; calls that have left go to `finished`, to be dropped without a lock.
    fn send_queue(&self, sender: &mut Sender, finished: &mut Vec<Arc<Call>>) -> io::Result<()> {
        let Some(socket) = sender.socket.clone() else { return Ok(()) };
        while let Some(call) = sender.queue.front() {
            if sender.offset > 0 || !call.is_forgotten() {
                sender.offset += self.send_some(&socket, call, sender.offset)?;
                if sender.offset < call.len() {
                    return Ok(());
                }
            }
            sender.offset = 0;
            finished.extend(sender.queue.pop_front());
        }
        Ok(())
    }

    fn wake_writer(self: &Arc<Self>, sender: &mut Sender) {
        if sender.writer_runs {
            return self.backlog.notify_one();
        }
        let connection = Arc::clone(self);
        sender.writer_runs = spawn(format!("nfs-write-{}", self.index), move || connection.write());
    }

    fn write(&self) {
        let mut finished = Vec::new();
        let mut sender = lock(&self.sender);
        while !self.stopped.load(Ordering::SeqCst) {
            let socket = sender.socket.clone().filter(|_| !sender.queue.is_empty());
            let Some(socket) = socket else {
                sender = self.backlog.wait(sender).expect("no panic under this lock");
                continue;
            };
            drop(sender);
            let ready = socket::wait_writable(&socket, WRITER_WAIT);
            sender = lock(&self.sender);
            if ready.and_then(|()| self.send_queue(&mut sender, &mut finished)).is_err() {
                drop(give_up(sender));
            } else {
                drop(sender);
            }
            finished.clear();
            sender = lock(&self.sender);
        }
    }

    // ------------------------------------------------------------ the reader

    fn start_reader(self: &Arc<Self>, pending: &mut Pending, socket: Option<TcpStream>) {
        let connection = Arc::clone(self);
        pending.reader_runs = spawn(format!("nfs-read-{}", self.index), move || connection.serve(socket));
    }

    fn serve(self: Arc<Self>, adopted: Option<TcpStream>) {
        let identity = self.shared.identity.as_deref();
        let source_port = identity.and_then(|identity| identity.source_port(self.index));
        let mut reconnect = Reconnect { source_port, ..Reconnect::default() };

        let mut next = adopted;
        while self.wait_until_needed(next.is_some()) {
            let Some(socket) = next.take().or_else(|| self.dial(&mut reconnect)) else { continue };
            reconnect.source_port = socket.local_addr().ok().map(|address| address.port());
            if let (Some(identity), Some(port)) = (identity, reconnect.source_port) {
                identity.connected(self.index, port);
            }
            let socket = Arc::new(socket);
            self.install(&socket);
            let ended = receiver::receive(&self, &socket);
            drop(give_up(lock(&self.sender)));
            drop(socket);
            if ended.progress {
                reconnect.failures = 0;
                reconnect.port_failures = 0;
            }
            if !ended.progress {
                self.note_failure(&mut reconnect, &ended.why);
            }
            let is_needed = self.oldest_call().is_some();
            if !self.stopped.load(Ordering::SeqCst) && is_needed {
                log::warn!("connection {} to {} broke: {}", self.index, self.shared.name(), ended.why);
            }
            if ended.why.kind() == ErrorKind::TimedOut || (is_needed && reconnect.failures > REFUSALS_MAX) {
                self.go_down();
            }
        }
    }

    /// Waits for a call unless there is a `socket` to serve. False: stop.
    fn wait_until_needed(&self, socket: bool) -> bool {
        let mut pending = lock(&self.pending);
        while !self.stopped.load(Ordering::SeqCst) {
            if socket || !pending.calls.is_empty() || self.is_missed() {
                return true;
            }
            pending.reader_sleeps = true;
            pending = self.needed.wait(pending).expect("no panic under this lock");
            pending.reader_sleeps = false;
        }
        false
    }

    /// It is down and its calls have moved: it is made anew although nobody waits for it.
    fn is_missed(&self) -> bool {
        self.is_down() && self.shared.standing(self.index).is_some()
    }

    fn is_wanted(&self) -> bool {
        !self.stopped.load(Ordering::SeqCst) && (!lock(&self.pending).calls.is_empty() || self.is_missed())
    }

    /// One attempt to connect, after the back-off that earlier failures ask for.
    fn dial(self: &Arc<Self>, reconnect: &mut Reconnect) -> Option<TcpStream> {
        if !self.pause(reconnect.delay()) {
            return None;
        }
        reconnect.failures += 1;
        match self.connect(reconnect.next_port()) {
            Ok(socket) => {
                if reconnect.failures > 1 {
                    log::info!("connection {} to {} stands again", self.index, self.shared.name());
                }
                Some(socket)
            }
            Err(error) => {
                if reconnect.failures == 1 {
                    log::warn!("cannot connect to {}: {error}; trying on", self.shared.name());
                }
                self.note_failure(reconnect, &error);
                self.go_down();
                None
            }
        }
    }

    /// Counts an attempt that brought no reply against its source port, if that may be the reason.
    fn note_failure(&self, reconnect: &mut Reconnect, why: &io::Error) {
        let is_lost = why.kind() == ErrorKind::TimedOut;
        if is_lost || (reconnect.failures > REFUSALS_MAX && self.shared.standing(self.index).is_some()) {
            reconnect.port_failures += 1;
        }
    }

    fn connect(&self, source_port: Option<u16>) -> io::Result<TcpStream> {
        let wanted = || self.is_wanted();
        let privileged = self.shared.privileged;
        let mut failure = io::Error::from(ErrorKind::NotFound);
        for address in self.shared.addresses()? {
            let deadline = Instant::now() + self.shared.silence_max / CONNECT_LIMIT_PART;
            let dial = socket::Dial { source_port, privileged, deadline, wanted: &wanted };
            match dial.connect(address) {
                Ok(socket) => {
                    *lock(&self.shared.address) = Some(address);
                    return Ok(socket);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Sleeps; false if nobody wants the connection any more.
    fn pause(&self, delay: Duration) -> bool {
        let end = Instant::now() + delay;
        let mut pending = lock(&self.pending);
        loop {
            if self.stopped.load(Ordering::SeqCst) || (pending.calls.is_empty() && !self.is_missed()) {
                return false;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            pending = self.needed.wait_timeout(pending, left).expect("no panic under this lock").0;
        }
    }

    /// Makes `socket` the one that calls are sent on, and sends all pending ones.
    fn install(self: &Arc<Self>, socket: &Arc<TcpStream>) {
        let mut finished = Vec::new();
        let mut sender = lock(&self.sender);
        if self.stopped.load(Ordering::SeqCst) {
            let _ = socket.shutdown(Shutdown::Both);
            return;
        }
        let was_down = self.down.swap(false, Ordering::Relaxed);
        sender.socket = Some(Arc::clone(socket));
        sender.generation += 1;
        if sender.generation > 1 {
            self.shared.stats.reconnects.fetch_add(1, Ordering::Relaxed);
        }
        let mut calls: Vec<_> = lock(&self.pending).calls.values().cloned().collect();
        calls.sort_unstable_by_key(|call| call.sequence);
        let repeated: Vec<_> = calls.iter().filter(|call| call.was_sent()).cloned().collect();
        for call in calls {
            call.generation.store(sender.generation, Ordering::Relaxed);
            call.note_asked();
            sender.queue.push_back(call);
        }
        if self.send_queue(&mut sender, &mut finished).is_err() {
            drop(give_up(sender));
            return;
        }
        if !sender.queue.is_empty() {
            self.wake_writer(&mut sender);
        }
        drop(sender);
        if was_down {
            self.shared.wake_others(self.index);
        }
        for call in repeated {
            call.set_repeated();
            call.wake();
        }
    }
}

/// Ends the sending on a socket; the reader notices and connects again. Answers what was queued, and no lock is held.
fn give_up(mut sender: MutexGuard<'_, Sender>) -> VecDeque<Arc<Call>> {
    sender.offset = 0;
    if let Some(socket) = sender.socket.take() {
        socket::abort(&socket);
    }
    std::mem::take(&mut sender.queue)
}

/// Starts a thread; without one the calls wait, and the next call tries again.
fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> bool {
    match thread::Builder::new().name(name).stack_size(STACK).spawn(run) {
        Ok(_) => true,
        Err(error) => {
            log::error!("cannot start a thread of the NFS client: {error}");
            false
        }
    }
}

/// What the reader remembers between two sockets.
#[derive(Default)]
struct Reconnect {
    /// Attempts since the last reply.
    failures: u32,
    source_port: Option<u16>,
    /// Those of them that the source port may be the reason for.
    port_failures: u32,
}

impl Reconnect {
    /// The source port of the next attempt; `None`: any other.
    fn next_port(&self) -> Option<u16> {
        let is_tried_again = self.port_failures < PORT_FAILURES_MAX || self.failures.is_multiple_of(2);
        self.source_port.filter(|_| is_tried_again)
    }

    /// None before the first attempt, then doubling, with up to a quarter of jitter.
    fn delay(&self) -> Duration {
        let Some(doublings) = self.failures.checked_sub(1) else { return Duration::ZERO };
        let delay = BACK_OFF_MIN.saturating_mul(1 << doublings.min(16)).min(BACK_OFF_MAX);
        delay.mul_f64(1.0 - 0.25 * (random() % 1024) as f64 / 1024.0)
    }
}

impl Shared {
    /// The server's addresses, freshly resolved, the last good one first. While names cannot be resolved, that one.
    fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let last = *lock(&self.address);
        match (self.host.as_str(), self.port).to_socket_addrs() {
            Ok(resolved) => {
                let mut addresses: Vec<_> = resolved.collect();
                addresses.sort_by_key(|address| Some(*address) != last);
                Ok(addresses)
            }
            Err(error) => last.map(|address| vec![address]).ok_or(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_starts_at_once_doubles_and_is_bounded() {
        let delay = |failures| Reconnect { failures, ..Reconnect::default() }.delay();
        assert_eq!(delay(0), Duration::ZERO);
        for (failures, longest) in [(1, 50), (2, 100), (3, 200), (8, 5000), (100, 5000)] {
            let delay = delay(failures).as_millis();
            assert!((longest * 3 / 4..=longest).contains(&delay), "{failures} failures: {delay} ms");
        }
    }
}
