//! What a reader thread does with a socket: records in, calls completed.
//!
//! The reply of a READ is received in two steps, its header into a small vector and its payload straight into the
//! caller's buffer, or moved into a pipe without being copied at all. A payload that does not fit its pipe (which has
//! slots, not bytes), or is cut into fragments, ends in a buffer with what the pipe had taken. Every other
//! reply, and every failed READ, is taken whole and decoded by the future that waits.

use std::io::{self, ErrorKind, IoSliceMut, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use efc_buffer::{Buffer, Pipe};

use crate::call::{Call, Destination};
use crate::connection::Connection;
use crate::record::{RECORD_MAX, Records, Source};
use crate::rpc::REPLY_HEADER;
use crate::socket;
use crate::transport::Splicing;
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

/// How receiving ended.
pub(crate) struct Ended {
    /// At least one record was received.
    pub progress: bool,
    pub why: io::Error,
}

/// Receives until the socket breaks, is shut down, or is silent for too long.
pub(crate) fn receive(connection: &Arc<Connection>, socket: &TcpStream) -> Ended {
    let mut progress = false;
    let set = socket.set_read_timeout(Some(connection.silence_max() / LOOKS_PER_SILENCE));
    let mut records = Records::new(Watched { socket, connection, heard: Instant::now() });
    let mut received = set;
    let look_after = connection.silence_max() / LOOKS_PER_SILENCE;
    let mut looked_at = Instant::now();
    while received.is_ok() {
        received = receive_one(connection, &mut records);
        progress |= received.is_ok();
        let since_look = looked_at.elapsed();
        if received.is_ok() && since_look >= look_after {
            // Longer: the server was silent as a whole, and goes on where it was.
            let is_steady = since_look < look_after * 2;
            connection.send_overdue(is_steady.then_some(looked_at));
            looked_at = Instant::now();
        }
    }
    Ended { progress, why: received.expect_err("the loop has ended") }
}

/// A socket under the watch for silence.
struct Watched<'a> {
    socket: &'a TcpStream,
    connection: &'a Arc<Connection>,
    heard: Instant,
}

impl Watched<'_> {
    /// Nothing has come for a while: gives the connection up after the longest silence, and has the server say something
    /// until then.
    fn check_silence(&self) -> io::Result<()> {
        let silence_max = self.connection.silence_max();
        match self.connection.silent_for(self.heard) {
            Some(silence) if silence >= silence_max => {
                return Err(io::Error::new(ErrorKind::TimedOut, "no reply for too long"));
            }
            Some(silence) if silence >= silence_max / LOOKS_PER_SILENCE => self.connection.probe(),
            _ => {}
        }
        Ok(())
    }
}

impl Source for Watched<'_> {
    fn receive(&mut self, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.read_vectored(&mut [IoSliceMut::new(first), IoSliceMut::new(second)]) {
                Ok(received) => {
                    self.heard = Instant::now();
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
                    self.heard = Instant::now();
                    return Ok(Some(moved));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                // Bytes are there, so it is the pipe that is full.
                Err(_) if is_readable => return Ok(None),
                Err(_) => {
                    is_readable =
                        socket::wait_readable(self.socket, self.connection.silence_max() / LOOKS_PER_SILENCE)?;
                    if !is_readable {
                        self.check_silence()?;
                    }
                }
            }
        }
    }
}

fn receive_one<S: Source>(connection: &Arc<Connection>, records: &mut Records<S>) -> io::Result<()> {
    records.next()?;
    let mut head = Vec::with_capacity(HEAD);
    records.append(&mut head, 4)?;
    let Some(xid) = word(&head, 0) else {
        return Err(io::Error::new(ErrorKind::InvalidData, "a record is too short for a reply"));
    };
    // A reply that nobody waits for any more is skipped on the way to the next record.
    let Some(call) = connection.find(xid) else { return Ok(()) };
    let received = match call.take_destination() {
        Some(destination) => receive_read(records, connection.splicing(), &mut head, &call, destination),
        None => records.append(&mut head, RECORD_MAX),
    };
    let outcome = match &received {
        Ok(()) => Ok(head),
        // Asked again, this server would answer the same: the call fails, and the stream with it.
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(efc_backend::ErrorKind::Garbled("broken record")),
        Err(_) => return received,
    };
    connection.release(&call);
    call.complete(outcome);
    received
}

/// The destination goes back to the call in any case: after a broken connection it is needed again.
fn receive_read<S: Source>(
    records: &mut Records<S>,
    splicing: &Splicing,
    head: &mut Vec<u8>,
    call: &Call,
    mut destination: Destination,
) -> io::Result<()> {
    let received = receive_read_head(records, head).and_then(|payload| match payload {
        None => records.append(head, RECORD_MAX),
        Some(length) if length > destination.len() => {
            Err(io::Error::new(ErrorKind::InvalidData, "READ brings more than was asked for"))
        }
        Some(length) => receive_payload(records, splicing, &mut destination, length),
    });
    call.return_destination(destination);
    received
}

/// Takes a payload of `length` bytes, which is not more than the destination holds.
fn receive_payload<S: Source>(
    records: &mut Records<S>,
    splicing: &Splicing,
    destination: &mut Destination,
    length: usize,
) -> io::Result<()> {
    let (prefix, count) = match destination {
        Destination::Buffer(buffer, range) => return records.fill(&mut buffer[range.start..][..length]),
        Destination::Pipe { prefix, count, .. } => (*prefix, *count),
    };
    // The prefix announces `count` bytes.
    let pipe = if length == count { Pipe::take() } else { None };
    let mut buffer = None;
    let mut received = 0;
    if let Some(mut pipe) = pipe {
        received = records.pour(&mut pipe, &prefix, length)?;
        splicing.tried(received == length);
        if received == length {
            *destination = Destination::Pipe { prefix, count, filled: Some(pipe) };
            return Ok(());
        }
        if received > 0 {
            let buffer = buffer.insert(Buffer::with_capacity(count));
            pipe.read_exact(&mut prefix.clone())?;
            pipe.read_exact(&mut buffer[..received])?;
        }
    }
    let mut buffer = buffer.unwrap_or_else(|| Buffer::with_capacity(count));
    records.fill(&mut buffer[received..length])?;
    *destination = Destination::Buffer(buffer, 0..count);
    Ok(())
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
