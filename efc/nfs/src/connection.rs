//! One TCP connection that outlives its sockets: unanswered calls, sending, reconnecting, retransmission.
//!
//! Two threads serve a connection. The *reader* connects, receives, completes calls (which may run the caller's tasks
//! inline) and reconnects when the socket breaks. It never waits for room to send, because a full server that itself
//! waits for us to read would then wait for ever. Calls are sent by the thread that makes them, as much as the socket
//! accepts at once; the rest is left to the *writer*, a thread that is started the first time this happens.
//!
//! A call stays in `pending` until it is answered or forgotten. A new socket gets every pending call again, in the
//! order of their making and with their old xids, so that a server with a duplicate-request cache executes each once;
//! calls that were sent before are marked as replayed, because not every server has one. A socket that receives nothing
//! for a while although calls are unanswered is given up: a NAS that failed over may have forgotten it silently. A
//! single call that is unanswered for as long, while others are answered, is sent once more.
//!
//! A connection is *down* after it fell silent or could not be re-established. Calls that were never sent, and those
//! that may be executed twice, move to connections that stand. The rest waits for its own source port, by which a
//! duplicate-request cache recognises it. Since the network may lose all packets of one port (a dead member of a link
//! aggregation), or a firewall refuse only that port, another port is tried too after a while.
//!
//! Locks: `sender` before `pending` before a call's own; nothing of a caller's is dropped or woken under any of them.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use efc_tasks::Backoff;
use efc_tasks::time::now;
use foldhash::HashMap;

use crate::basics::lock;
use crate::call::Call;
use crate::receiver::{self, Calls};
use crate::shared::{Shared, Splicing};
use crate::socket;

/// Calls in flight per connection; further ones wait for their turn.
pub(crate) const IN_FLIGHT_MAX: usize = 256;
/// Virtual size; only touched pages count. Name resolution of the C library needs some of it, and tasks that run inline: without
/// optimization more than half a megabyte.
const STACK: usize = 2 << 20;
/// How long an attempt to connect to one address may take, as a part of the longest silence.
const CONNECT_LIMIT_PART: u32 = 6;
/// Attempts from the source port that the connection had, before every other one is from another.
const PORT_FAILURES_MAX: u32 = 2;
/// Attempts that the server, or what stands for it, answers with an error, before the source port may be the reason: in all
/// some seconds, in which most servers have restarted. They know a client by its port.
const REFUSALS_MAX: u32 = 6;
/// Pauses between attempts; there is none before the first.
const RECONNECT: Backoff = Backoff::doubling(Duration::from_millis(50), Duration::from_secs(5));
/// The writer looks again after this long in case the socket was given up meanwhile.
const WRITER_WAIT: Duration = Duration::from_secs(1);

/// The connections of one client, as each of them and each call knows them: a call of a client that is gone finds none.
#[derive(Default)]
pub(crate) struct Peers(OnceLock<Vec<Weak<Connection>>>);

impl Peers {
    /// The connection of this number.
    pub(crate) fn get(&self, index: usize) -> Option<Arc<Connection>> {
        self.0.get()?.get(index)?.upgrade()
    }

    fn others(&self, index: usize) -> impl Iterator<Item = Arc<Connection>> {
        let all = self.0.get().into_iter().flatten().filter_map(Weak::upgrade);
        all.filter(move |connection| connection.index != index)
    }

    /// The connection with the least to do among those that stand, as far as is known, without `index`.
    fn standing(&self, index: usize) -> Option<Arc<Connection>> {
        let standing = self.others(index).filter(|connection| !connection.is_down());
        standing.min_by_key(|connection| connection.outstanding())
    }

    /// A connection stands again: those that nobody waits for may be made anew beside it.
    fn wake_others(&self, index: usize) {
        self.others(index).for_each(|connection| connection.wake());
    }
}

/// One connection; shared by the client, its two threads and the calls' futures.
pub(crate) struct Connection {
    /// Its number among the connections of its client.
    pub index: usize,
    shared: Arc<Shared>,
    peers: Arc<Peers>,
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

impl Pending {
    /// Takes a call among those that are sent.
    fn admit(&mut self, call: &Arc<Call>) {
        let other = self.calls.insert(call.xid, Arc::clone(call));
        // Numbers are given out once, and a call is at one connection at a time; another's would never end.
        assert!(other.is_none(), "two calls in flight have the xid {:#x}", call.xid);
    }
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
    /// So many connections of one client.
    pub(crate) fn peers(count: usize, shared: &Arc<Shared>) -> (Vec<Arc<Connection>>, Arc<Peers>) {
        let peers = Arc::<Peers>::default();
        let new = |index| Connection::new(index, Arc::clone(shared), Arc::clone(&peers));
        let connections: Vec<_> = (0..count).map(new).collect();
        peers.0.get_or_init(|| connections.iter().map(Arc::downgrade).collect());
        (connections, peers)
    }

    fn new(index: usize, shared: Arc<Shared>, peers: Arc<Peers>) -> Arc<Connection> {
        Arc::new(Connection {
            index,
            shared,
            peers,
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

    /// Takes a call that no connection has; it is sent at once if the connection stands and has room for it.
    pub(crate) fn submit(self: &Arc<Self>, call: &Arc<Call>) {
        *call.place() = Some(self.index);
        self.take_in(call);
    }

    /// Has another connection serve the call, unless this one does not have it any more.
    fn hand_over(&self, call: &Arc<Call>, other: &Arc<Connection>) {
        let mut place = call.place();
        if place.is_none() || !self.take(call) {
            return;
        }
        *place = Some(other.index);
        drop(place);
        call.generation.store(0, Ordering::Relaxed);
        call.note_asked();
        other.take_in(call);
        if call.is_forgotten() {
            other.forget(call); // it was not there yet when its future wanted to take it back
        }
    }

    fn take_in(self: &Arc<Self>, call: &Arc<Call>) {
        self.outstanding.fetch_add(call.weight, Ordering::Relaxed);
        let mut pending = lock(&self.pending);
        let admitted = pending.calls.len() < IN_FLIGHT_MAX;
        if admitted {
            pending.admit(call);
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
    fn take(&self, call: &Call) -> bool {
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
            let Some(other) = self.peers.standing(self.index) else { break };
            self.hand_over(call, &other);
            moved += 1;
        }
        if moved > 0 {
            log::warn!("connection {} to {} is down: {moved} calls take others", self.index, self.shared.name());
        }
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
        self.is_down() && self.peers.standing(self.index).is_some()
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
        if is_lost || (reconnect.failures > REFUSALS_MAX && self.peers.standing(self.index).is_some()) {
            reconnect.port_failures += 1;
        }
    }

    fn connect(&self, source_port: Option<u16>) -> io::Result<TcpStream> {
        let wanted = || self.is_wanted();
        let privileged = self.shared.privileged;
        let mut failure = io::Error::from(ErrorKind::NotFound);
        for address in self.shared.addresses()? {
            let deadline = now() + self.shared.silence_max / CONNECT_LIMIT_PART;
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
        let end = now() + delay;
        let mut pending = lock(&self.pending);
        loop {
            if self.stopped.load(Ordering::SeqCst) || (pending.calls.is_empty() && !self.is_missed()) {
                return false;
            }
            let left = end.saturating_duration_since(now());
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
            self.peers.wake_others(self.index);
        }
        for call in repeated {
            call.set_repeated();
            call.wake();
        }
    }
}

impl Calls for Arc<Connection> {
    fn find(&self, xid: u32) -> Option<Arc<Call>> {
        lock(&self.pending).calls.get(&xid).map(Arc::clone)
    }

    fn release(&self, call: &Call) {
        let mut pending = lock(&self.pending);
        let Some(released) = pending.calls.remove(&call.xid) else { return };
        let admitted = pending.waiting.pop_front();
        if let Some(next) = &admitted {
            pending.admit(next);
        }
        drop(pending);
        self.outstanding.fetch_sub(call.weight, Ordering::Relaxed);
        drop(released);
        if let Some(next) = admitted {
            self.send(&next);
        }
    }

    fn send_overdue(&self, asked_before: Option<Instant>) {
        let silence = self.silence_max();
        let is_passed_over = |call: &Call| call.asks_little && asked_before.is_some_and(|then| call.asked() < then);
        let is_overdue = |call: &&Arc<Call>| call.asked().elapsed() >= silence || is_passed_over(call);
        let overdue: Vec<_> = lock(&self.pending).calls.values().filter(is_overdue).cloned().collect();
        for call in overdue {
            call.note_asked();
            self.send_again(&call);
        }
    }

    fn probe(&self) {
        let questions = |pending: &Pending| {
            let small = pending.calls.values().filter(|call| call.asks_little);
            small.min_by_key(|call| call.sequence).cloned()
        };
        let oldest = questions(&lock(&self.pending));
        if let Some(oldest) = oldest {
            self.send_again(&oldest);
        }
    }

    fn silent_for(&self, heard: Instant) -> Option<Duration> {
        let pending = lock(&self.pending);
        let asked = pending.calls.values().chain(&pending.waiting).map(|call| call.asked()).min();
        asked.map(|asked| asked.max(heard).elapsed())
    }

    fn splicing(&self) -> &Splicing {
        &self.shared.splicing
    }

    fn silence_max(&self) -> Duration {
        self.shared.silence_max
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

    /// None before the first attempt.
    fn delay(&self) -> Duration {
        self.failures.checked_sub(1).map_or(Duration::ZERO, |failures| RECONNECT.jittered(failures))
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
