//! What a reader thread does with a socket: records in, calls completed.
//!
//! The reply of a READ is received in two steps, its header into a small vector and its payload straight into the
//! caller's buffer, or moved into a pipe without being copied at all. A payload that does not fit its pipe (which has
//! slots, not bytes), or is cut into fragments, ends in a buffer with what the pipe had taken. Every other
//! reply, and every failed READ, is taken whole and decoded by the future that waits.

use std::io::{self, ErrorKind, IoSliceMut, Read};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use efc_buffer::{Buffer, Pipe, Prefix};
use efc_tasks::time::now;

use crate::call::{Call, Destination, PipeSink};
use crate::record::{RECORD_MAX, Records, Source};
use crate::rpc::REPLY_HEADER;
use crate::shared::Splicing;
use crate::socket;
use crate::xdr::padding;

/// Bytes of a post-operation attribute behind its flag.
const ATTR: usize = 84;
/// Bytes of a READ reply between its attributes and its payload: count, end of file, the payload's length.
const READ_TAIL: usize = 12;
/// Longest verifier of a reply whose payload is received directly; replies with a longer one are refused later on.
const VERIFIER_MAX: usize = 400;
/// Room for the header of any common READ reply and for most other replies.
const HEAD: usize = 256;

/// Calls without an answer are looked at so often within the longest silence: every 10 s.
const LOOKS_PER_SILENCE: u32 = 6;

/// The calls of one connection, as whoever receives their answers sees them.
pub(crate) trait Calls {
    /// The unanswered call with this xid.
    fn find(&self, xid: u32) -> Option<Arc<Call>>;

    /// The call is answered or nobody waits for it any more; the next in line takes its place.
    fn release(&self, call: &Call);

    /// Sends the calls again whose answers must have been lost while others came.
    ///
    /// After the longest silence that is every call. Servers drop calls about an object that goes away meanwhile
    /// (nfs-ganesha does), so what asks for little goes out again much earlier: if it was `asked_before` replies came
    /// steadily.
    fn send_overdue(&self, asked_before: Option<Instant>);

    /// Sends the oldest small question again while the server says nothing: it may have dropped that one call, on which
    /// all others wait. A server that is away is asked so little that it does no harm, and the silence goes on.
    fn probe(&self);

    /// For how long calls have been unanswered while nothing was received, if any are.
    fn silent_for(&self, heard: Instant) -> Option<Duration>;

    /// Whether payloads fit pipes.
    fn splicing(&self) -> &Splicing;

    /// After which silence a socket is given up.
    fn silence_max(&self) -> Duration;
}

/// How receiving ended.
pub(crate) struct Ended {
    /// At least one record was received.
    pub progress: bool,
    pub why: io::Error,
}

/// Receives until the socket breaks, is shut down, or is silent for too long.
pub(crate) fn receive(calls: &impl Calls, socket: &TcpStream) -> Ended {
    let mut progress = false;
    let set = socket.set_read_timeout(Some(calls.silence_max() / LOOKS_PER_SILENCE));
    let mut records = Records::new(Watched { socket, calls, heard: now() });
    let mut received = set;
    let look_after = calls.silence_max() / LOOKS_PER_SILENCE;
    let mut looked_at = now();
    while received.is_ok() {
        received = receive_one(calls, &mut records);
        progress |= received.is_ok();
        let since_look = looked_at.elapsed();
        if received.is_ok() && since_look >= look_after {
            // Longer: the server was silent as a whole, and goes on where it was.
            let is_steady = since_look < look_after * 2;
            calls.send_overdue(is_steady.then_some(looked_at));
            looked_at = now();
        }
    }
    Ended { progress, why: received.expect_err("the loop has ended") }
}

/// A socket under the watch for silence.
struct Watched<'a, C> {
    socket: &'a TcpStream,
    calls: &'a C,
    heard: Instant,
}

impl<C: Calls> Watched<'_, C> {
    /// Nothing has come for a while: gives the connection up after the longest silence, and has the server say
    /// something until then.
    fn check_silence(&self) -> io::Result<()> {
        let silence_max = self.calls.silence_max();
        match self.calls.silent_for(self.heard) {
            Some(silence) if silence >= silence_max => {
                return Err(io::Error::new(ErrorKind::TimedOut, "no reply for too long"));
            }
            Some(silence) if silence >= silence_max / LOOKS_PER_SILENCE => self.calls.probe(),
            _ => {}
        }
        Ok(())
    }
}

impl<C: Calls> Source for Watched<'_, C> {
    fn receive(&mut self, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.read_vectored(&mut [IoSliceMut::new(first), IoSliceMut::new(second)]) {
                Ok(received) => {
                    self.heard = now();
                    return Ok(received);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.check_silence()?,
                Err(error) => return Err(error),
            }
        }
    }

    fn splice(&mut self, pipe: &mut Pipe, count: usize) -> io::Result<Option<usize>> {
        let mut is_readable = false;
        loop {
            match pipe.splice_from(self.socket, count) {
                Ok(moved) => {
                    self.heard = now();
                    return Ok(Some(moved));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                // Bytes are there, so it is the pipe that is full.
                Err(_) if is_readable => return Ok(None),
                Err(_) => {
                    is_readable = socket::wait_readable(self.socket, self.calls.silence_max() / LOOKS_PER_SILENCE)?;
                    if !is_readable {
                        self.check_silence()?;
                    }
                }
            }
        }
    }
}

fn receive_one<S: Source>(calls: &impl Calls, records: &mut Records<S>) -> io::Result<()> {
    records.next()?;
    let mut head = Vec::with_capacity(HEAD);
    records.append(&mut head, 4)?;
    let Some(xid) = word(&head, 0) else {
        return Err(broken("a record is too short for a reply"));
    };
    // A reply that nobody waits for any more is skipped on the way to the next record.
    let Some(call) = calls.find(xid) else { return Ok(()) };
    let received = match call.take_destination() {
        Some(destination) => {
            let (destination, received) = receive_read(records, calls.splicing(), &mut head, destination);
            destination.into_iter().for_each(|destination| call.return_destination(destination));
            received
        }
        None => records.append(&mut head, RECORD_MAX),
    };
    let outcome = match &received {
        Ok(()) => Ok(head),
        // Asked again, this server would answer the same: the call fails, and the stream with it.
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(efc_backend::ErrorKind::Garbled("broken record")),
        Err(error) if error.kind() == ErrorKind::OutOfMemory => Err(efc_backend::ErrorKind::NoMemory),
        Err(_) => return received,
    };
    let is_for_want_of_memory = outcome == Err(efc_backend::ErrorKind::NoMemory);
    calls.release(&call);
    call.complete(outcome);
    // For want of memory this reply is skipped, and the stream goes on.
    if is_for_want_of_memory { Ok(()) } else { received }
}

/// Receives a whole reply. The destination comes back, filled or to be filled after a reconnect, unless there is no
/// memory for it.
fn receive_read<S: Source>(
    records: &mut Records<S>,
    splicing: &Splicing,
    head: &mut Vec<u8>,
    destination: Destination,
) -> (Option<Destination>, io::Result<()>) {
    let length = match receive_read_head(records, head) {
        Ok(Some(length)) if length <= destination.len() => length,
        Ok(Some(_)) => return (Some(destination), Err(broken("READ brings more than was asked for"))),
        Ok(None) => return (Some(destination), records.append(head, RECORD_MAX)),
        Err(error) => return (Some(destination), Err(error)),
    };
    match destination {
        Destination::Buffer(buffer, range) => fill(records, buffer, range, 0, length),
        Destination::Undecided(sink) => receive_undecided(records, splicing, sink, length),
        Destination::Piped(_) => (None, Err(broken("READ is answered twice"))),
    }
}

/// Receives a payload of `length` bytes into a pipe, or into a buffer with what of it the pipe has taken.
fn receive_undecided<S: Source>(
    records: &mut Records<S>,
    splicing: &Splicing,
    sink: PipeSink,
    length: usize,
) -> (Option<Destination>, io::Result<()>) {
    // The prefix announces `count` bytes.
    let pipe = if length == sink.count { Pipe::take() } else { None };
    let poured = pipe.map(|pipe| pour(records, splicing, pipe, &sink.prefix, length)).transpose();
    let part = match poured {
        Ok(Some((pipe, received))) if received == length => return (Some(Destination::Piped(pipe)), Ok(())),
        Ok(part) => part,
        Err(error) => return (Some(Destination::Undecided(sink)), Err(error)),
    };
    let (count, mut buffer) = match sink.room.buffer() {
        Ok(buffer) => (sink.count, buffer),
        Err(error) => return (None, Err(error)),
    };
    let moved = part.map_or(Ok(0), |(pipe, received)| move_out(pipe, &mut buffer[..received]));
    match moved {
        Ok(received) => fill(records, buffer, 0..count, received, length),
        Err(error) => (Some(Destination::Buffer(buffer, 0..count)), Err(error)),
    }
}

/// Fills `range` of a buffer from its byte `received` up to its byte `length`.
fn fill<S: Source>(
    records: &mut Records<S>,
    mut buffer: Buffer,
    range: Range<usize>,
    received: usize,
    length: usize,
) -> (Option<Destination>, io::Result<()>) {
    let filled = records.fill(&mut buffer[range.clone()][received..length]);
    (Some(Destination::Buffer(buffer, range)), filled)
}

/// Pours a payload into a pipe. Answers how many bytes of it the pipe has taken, behind the prefix; none, and no
/// prefix, if it is not to be had in one piece.
fn pour<S: Source>(
    records: &mut Records<S>,
    splicing: &Splicing,
    mut pipe: Pipe,
    prefix: &Prefix,
    length: usize,
) -> io::Result<(Pipe, usize)> {
    let received = records.pour(&mut pipe, prefix, length)?;
    splicing.tried(received == length);
    Ok((pipe, received))
}

/// Moves what a pipe holds of a payload, behind the prefix, to `into`; answers how much that is.
fn move_out(mut pipe: Pipe, into: &mut [u8]) -> io::Result<usize> {
    if !into.is_empty() {
        pipe.read_exact(&mut [0; size_of::<Prefix>()])?;
        pipe.read_exact(into)?;
    }
    Ok(into.len())
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// Receives the reply up to its payload, whose length it answers; `None` if the READ failed and nothing is known of
/// the rest.
fn receive_read_head<S: Source>(records: &mut Records<S>, head: &mut Vec<u8>) -> io::Result<Option<usize>> {
    records.append(head, REPLY_HEADER - head.len())?;
    let verifier = match [word(head, 4), word(head, 8), word(head, 16)] {
        [Some(1), Some(0), Some(length)] if length as usize <= VERIFIER_MAX => length as usize,
        _ => return Ok(None),
    };
    let results = REPLY_HEADER + verifier + padding(verifier);
    records.append(head, results + 8 - head.len())?;
    let attr = match [word(head, results - 4), word(head, results), word(head, results + 4)] {
        [Some(0), Some(0), Some(1)] => ATTR,
        [Some(0), Some(0), Some(0)] => 0,
        _ => return Ok(None),
    };
    records.append(head, attr + READ_TAIL)?;
    Ok(word(head, results + 8 + attr + READ_TAIL - 4).map(|length| length as usize))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|word| u32::from_be_bytes(word.try_into().expect("four bytes")))
}
