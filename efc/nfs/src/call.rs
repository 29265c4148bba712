//! One call from its making to its outcome, shared by the future that waits for it ([`crate::reply`]) and the
//! connection that serves it. A call knows that connection by its number.
//!
//! The future may be dropped at any moment. Then the call is forgotten: it is not sent if it has not been, its reply
//! is read and dropped, and a READ's buffer that is being filled goes back to its pool when it is full. Nothing of the
//! caller's (waker, buffer, payload) is dropped or called while a lock is held, because with an inline executor that
//! may run any amount of code.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use efc_backend::ErrorKind;
use efc_buffer::{Buffer, Payload, Pipe, Prefix, Room, Sink};

use crate::basics::lock;
use crate::nfs3::procedure;
use crate::xdr::padding;

/// Where a READ's payload goes, and has gone.
pub(crate) enum Destination {
    /// This range of this buffer.
    Buffer(Buffer, Range<usize>),
    /// A pipe, if it can be; otherwise a buffer. Neither is there before the payload comes.
    Undecided(PipeSink),
    /// A pipe that holds the prefix and all that was asked for.
    Piped(Pipe),
}

/// A payload that goes to a pipe, behind `prefix`, if exactly `count` bytes come and fit one; to a buffer otherwise.
pub(crate) struct PipeSink {
    pub prefix: Prefix,
    pub count: usize,
    /// For the buffer.
    pub room: Room,
}

impl Destination {
    /// The destination of this sink; `takes_pipes` tells whether a pipe is worth a try.
    pub(crate) fn of(sink: Sink, takes_pipes: impl FnOnce() -> bool) -> io::Result<Destination> {
        Ok(match sink {
            Sink::Buffer(buffer, range) => Destination::Buffer(buffer, range),
            Sink::Pipe { prefix, count, room } if takes_pipes() => {
                Destination::Undecided(PipeSink { prefix, count, room })
            }
            Sink::Pipe { count, room, .. } => Destination::Buffer(room.buffer()?, 0..count),
        })
    }

    /// What it holds; `None`: no payload came to decide between pipe and buffer.
    pub(crate) fn into_payload(self) -> Option<Payload> {
        match self {
            Destination::Buffer(buffer, range) => Some(Payload::Buffer(buffer, range)),
            Destination::Piped(pipe) => Some(Payload::Pipe(pipe)),
            Destination::Undecided(_) => None,
        }
    }

    /// Bytes that may come.
    pub(crate) fn len(&self) -> usize {
        match self {
            Destination::Buffer(_, range) => range.len(),
            Destination::Undecided(sink) => sink.count,
            Destination::Piped(_) => 0,
        }
    }
}

/// A whole reply, or the part of a READ reply that precedes its payload; or why there is none.
pub(crate) type Outcome = Result<Vec<u8>, ErrorKind>;

/// What a call ends with for the future that waits for it.
pub(crate) struct Finished {
    pub outcome: Outcome,
    /// `None`: it was no READ, or the time limit passed while the buffer was being filled, or there is no memory for
    /// one.
    pub destination: Option<Destination>,
    pub replayed: bool,
}

/// An unanswered call.
pub(crate) struct Call {
    /// Position in the order of all calls of the client; its low half is the distance of the xid from the first one.
    pub sequence: u64,
    pub xid: u32,
    /// Bytes that this call moves, for balancing.
    pub weight: u64,
    pub made: Instant,
    /// Connection (counted by the times it was made) whose queue this call has entered.
    pub generation: AtomicU64,
    /// It may go out over another connection, where no server knows that it had gone out before.
    pub is_repeatable: bool,
    /// It changes nothing, and a second answer to it costs next to nothing.
    pub asks_little: bool,
    /// The number of the connection that serves it, which may change; `None` before it has one, and once it is
    /// forgotten. Locked before any lock of a connection.
    place: Mutex<Option<usize>>,
    /// When it was asked last, in milliseconds since it was made.
    asked_ms: AtomicU64,
    message: Vec<u8>,
    payload: Bytes,
    sends: AtomicU32,
    /// An earlier copy of it may be in the server.
    is_repeated: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waker: Option<Waker>,
    destination: Option<Destination>,
    outcome: Option<Outcome>,
    forgotten: bool,
}

/// Overhead of a call in `weight`: headers on both ways and the server's work, as the bytes they cost.
const WEIGHT_BASE: u64 = 4096;
/// Longest READ that is asked for again early, in bytes: on a slow link large ones are late for want of bandwidth.
const LITTLE_MAX: usize = 64 << 10;

impl Call {
    /// `message` is complete but for `payload` and its padding.
    pub(crate) fn new(
        (sequence, xid): (u64, u32),
        message: Vec<u8>,
        payload: Bytes,
        destination: Option<Destination>,
        procedure: u32,
    ) -> Call {
        let answer_bytes = destination.as_ref().map_or(0, Destination::len);
        let bytes = payload.len() + answer_bytes;
        Call {
            sequence,
            xid,
            weight: WEIGHT_BASE + bytes as u64,
            made: Instant::now(),
            generation: AtomicU64::new(0),
            is_repeatable: procedure::is_repeatable(procedure),
            asks_little: procedure::changes_nothing(procedure) && answer_bytes <= LITTLE_MAX,
            place: Mutex::new(None),
            asked_ms: AtomicU64::new(0),
            message,
            payload,
            sends: AtomicU32::new(0),
            is_repeated: AtomicBool::new(false),
            state: Mutex::new(State { destination, ..State::default() }),
        }
    }

    /// The message's parts on the wire.
    pub(crate) fn parts(&self) -> [&[u8]; 3] {
        [&self.message, &self.payload, &[0; 3][..padding(self.payload.len())]]
    }

    /// Bytes on the wire.
    pub(crate) fn len(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    /// Its first byte has left; true if one had before.
    pub(crate) fn count_send(&self) -> bool {
        self.sends.fetch_add(1, Ordering::Relaxed) > 0
    }

    /// An earlier copy of it may be in the server. To be followed by [`Call::wake`] once it has a future. No cache of
    /// replies has those of READ.
    pub(crate) fn set_repeated(&self) {
        let is_read = lock(&self.state).destination.is_some();
        self.is_repeated.store(!is_read, Ordering::Relaxed);
    }

    /// May an earlier copy of it be in the server?
    pub(crate) fn is_repeated(&self) -> bool {
        self.is_repeated.load(Ordering::Relaxed)
    }

    /// May it go out over another connection? One that never left, and one that may be executed twice.
    pub(crate) fn is_movable(&self) -> bool {
        self.is_repeatable || !(self.was_sent() || self.is_repeated())
    }

    /// The number of the connection that serves it; locked, so that it does not change.
    pub(crate) fn place(&self) -> MutexGuard<'_, Option<usize>> {
        lock(&self.place)
    }

    /// It leaves now, for a connection's new socket, for another connection, or once more.
    pub(crate) fn note_asked(&self) {
        self.asked_ms.store(self.made.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// When [`Call::note_asked`] was called last, or it was made.
    pub(crate) fn asked(&self) -> Instant {
        self.made + Duration::from_millis(self.asked_ms.load(Ordering::Relaxed))
    }

    /// Has its future look at it.
    pub(crate) fn wake(&self) {
        let waker = lock(&self.state).waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Has a part of it left?
    pub(crate) fn was_sent(&self) -> bool {
        self.sends.load(Ordering::Relaxed) > 0
    }

    /// Was it sent more than once?
    pub(crate) fn replayed(&self) -> bool {
        self.sends.load(Ordering::Relaxed) > 1
    }

    pub(crate) fn is_forgotten(&self) -> bool {
        lock(&self.state).forgotten
    }

    /// Takes the destination of a READ, to fill it.
    pub(crate) fn take_destination(&self) -> Option<Destination> {
        lock(&self.state).destination.take()
    }

    /// Gives the destination back: filled, or to be filled again after a reconnect.
    pub(crate) fn return_destination(&self, destination: Destination) {
        let mut state = lock(&self.state);
        let unwanted = if state.forgotten { Some(destination) } else { state.destination.replace(destination) };
        drop(state);
        drop(unwanted);
    }

    /// Ends the call and wakes its future.
    pub(crate) fn complete(&self, outcome: Outcome) {
        let mut state = lock(&self.state);
        if state.forgotten {
            return;
        }
        state.outcome = Some(outcome);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Polls for the outcome, on behalf of the future that waits for it.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Finished> {
        let mut state = lock(&self.state);
        if let Some(outcome) = state.outcome.take() {
            let destination = state.destination.take();
            return Poll::Ready(Finished { outcome, destination, replayed: self.replayed() });
        }
        if state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            return Poll::Pending;
        }
        let old = state.waker.replace(context.waker().clone());
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// The future is gone; answers the destination unless the connection is filling it.
    pub(crate) fn forget(&self) -> Option<Destination> {
        let mut state = lock(&self.state);
        state.forgotten = true;
        let unwanted = (state.waker.take(), state.outcome.take());
        let destination = state.destination.take();
        drop(state);
        drop(unwanted);
        destination
    }
}
