//! One connection to a worker: questions are sent one behind the other, and answers come back in that order.
//!
//! The task that asks also sends, as much as the socket accepts at once; the rest is sent by the thread that serves the
//! connection (see [`crate::lanes`]). That thread also receives, and completes questions by running their tasks inline.
//! Nobody waits for room to send. A question that nobody waits for any more still gets its answer, so that it does not
//! delay others.
//!
//! Anything that a server should not do ends the connection; all its questions are then answered as lost.
//!
//! Locks: `sender` before `questions`; nothing of a caller's is dropped or woken under either. `receiving` is taken
//! only by the connection's thread, which holds it while tasks run.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, IoSlice};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use efc_buffer::Buffer;
use efc_tasks::time::{now, since};
use tokio::sync::{Notify, oneshot};

use crate::basics::lock;
use crate::incoming::{Expected, Incoming, Questions, Reply};
use crate::socket;
use crate::tls::{Tls, Wire};

/// Questions of one connection without an answer. Whoever would ask more goes without.
const QUESTIONS_MAX: usize = 64;
/// Bytes that are received before it is another connection's turn.
const TURN: usize = 1 << 20;
/// Pieces that are sent by one system call.
const PIECES_MAX: usize = 16;

/// Bytes to be sent.
#[derive(Debug)]
pub(crate) enum Piece {
    Line(Vec<u8>),
    Memory(Buffer, Range<usize>),
    /// So many, but not more than [`ZEROS_MAX`].
    Zeros(usize),
}

/// The most zeros of one piece.
pub(crate) const ZEROS_MAX: usize = 64 << 10;
static ZEROS: [u8; ZEROS_MAX] = [0; ZEROS_MAX];

impl Piece {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Piece::Line(line) => line,
            Piece::Memory(memory, range) => &memory[range.clone()],
            Piece::Zeros(count) => &ZEROS[..*count],
        }
    }
}

/// A piece of a command.
#[derive(Debug)]
struct Part {
    piece: Piece,
    /// The command ends with it, and has a value.
    ends_value: bool,
}

/// How many parts are handed over to be sent at once.
///
/// What follows a value must not share a record of TLS with it: memcached 1.6.18 leaves what it does not take of a record in OpenSSL's
/// buffer, and waits for the socket.
fn parts_at_once(parts: &VecDeque<Part>, is_encrypted: bool) -> usize {
    let ends_record = |part: &Part| is_encrypted && part.ends_value;
    parts.iter().take(PIECES_MAX).position(ends_record).map_or(PIECES_MAX, |last| last + 1)
}

/// A question without an answer.
#[derive(Debug)]
struct Question {
    opaque: u32,
    asked: Instant,
    weight: u64,
    expected: Expected,
    answered: oneshot::Sender<Reply>,
}

#[derive(Debug, Default)]
struct Sender {
    parts: VecDeque<Part>,
    /// Bytes of the first part that have left.
    sent: usize,
    is_closed: bool,
}

impl Sender {
    /// Adds a command.
    fn add(&mut self, pieces: impl IntoIterator<Item = Piece>) {
        let before = self.parts.len();
        self.parts.extend(pieces.into_iter().map(|piece| Part { piece, ends_value: false }));
        let has_value = self.parts.len() > before + 1;
        self.parts.back_mut().into_iter().for_each(|last| last.ends_value = has_value);
    }
}

#[derive(Debug, Default)]
struct Receiving {
    incoming: Incoming,
    /// Whose answer has begun, and how much it weighs.
    current: Option<(oneshot::Sender<Reply>, u64)>,
}

/// One connection, from when it begins to be made on.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: TcpStream,
    wire: Wire,
    made: Instant,
    sender: Mutex<Sender>,
    questions: Mutex<VecDeque<Question>>,
    receiving: Mutex<Receiving>,
    opaque: AtomicU32,
    outstanding: AtomicU64,
    /// When something was received last, in microseconds after `made`.
    heard: AtomicU64,
    why: OnceLock<String>,
    ended: Arc<Notify>,
}

impl Connection {
    /// Begins to connect, by TLS if the worker has a name for that; `ended` is told when it ends.
    pub(crate) fn open(address: SocketAddr, tls: Option<(&Tls, &str)>, ended: Arc<Notify>) -> io::Result<Connection> {
        Ok(Connection {
            socket: socket::connect(address)?,
            wire: tls.map_or(Ok(Wire::Plain), |(tls, host)| tls.wire(host))?,
            made: now(),
            sender: Mutex::default(),
            questions: Mutex::default(),
            receiving: Mutex::default(),
            opaque: AtomicU32::new(1),
            outstanding: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            why: OnceLock::new(),
            ended,
        })
    }

    /// Why it has ended, if it has.
    pub(crate) fn why(&self) -> Option<&str> {
        self.why.get().map(String::as_str)
    }

    /// It speaks TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        !matches!(self.wire, Wire::Plain)
    }

    /// The sum of the weights of all questions without an answer.
    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Since when nothing was received though something is to come.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        let oldest = lock(&self.questions).front().map(|question| question.asked);
        let is_waiting = self.outstanding() > 0;
        is_waiting.then(|| oldest.map_or(self.heard(), |oldest| oldest.max(self.heard())))
    }

    /// When something was received last.
    pub(crate) fn heard(&self) -> Instant {
        self.made + Duration::from_micros(self.heard.load(Ordering::Relaxed))
    }

    /// The number of the next question.
    pub(crate) fn opaque(&self) -> u32 {
        self.opaque.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks. The answer comes even if nobody waits for it.
    ///
    /// # Errors
    /// The connection has ended or has too many questions: what was expected comes back.
    pub(crate) fn ask(
        &self,
        opaque: u32,
        pieces: impl IntoIterator<Item = Piece>,
        weight: u64,
        expected: Expected,
    ) -> Result<oneshot::Receiver<Reply>, Expected> {
        let (answered, answer) = oneshot::channel();
        let mut sender = lock(&self.sender);
        let mut questions = lock(&self.questions);
        if sender.is_closed || questions.len() >= QUESTIONS_MAX {
            return Err(expected);
        }
        self.outstanding.fetch_add(weight, Ordering::Relaxed); // first: a server may answer what it was not asked yet
        questions.push_back(Question { opaque, asked: now(), weight, expected, answered });
        drop(questions);
        sender.add(pieces);
        let sent = self.send(&mut sender);
        drop(sender);
        if let Err(error) = sent {
            self.close(&format!("cannot send: {error}"));
        }
        Ok(answer)
    }

    /// Sends what was left over. For the connection's thread.
    pub(crate) fn flush(&self) {
        let sent = self.send(&mut lock(&self.sender));
        if let Err(error) = sent {
            self.close(&format!("cannot send: {error}"));
        }
    }

    fn send(&self, sender: &mut Sender) -> io::Result<()> {
        self.wire.flush(&self.socket)?;
        while !sender.parts.is_empty() {
            let parts = sender.parts.iter().take(parts_at_once(&sender.parts, self.is_encrypted()));
            let mut slices: Vec<IoSlice<'_>> = parts.map(|part| IoSlice::new(part.piece.as_bytes())).collect();
            slices[0].advance(sender.sent);
            let sent = self.wire.send(&self.socket, &slices)?;
            if sent == 0 {
                return Ok(());
            }
            sender.sent += sent;
            while let Some(first) = sender.parts.front().map(|part| part.piece.as_bytes().len())
                && sender.sent >= first
            {
                sender.sent -= first;
                sender.parts.pop_front();
            }
        }
        Ok(())
    }

    /// Receives what is there, as far as it is this connection's turn, and completes what that answers; `true` if there
    /// may be more. For the connection's thread.
    pub(crate) fn receive(&self, scratch: &mut [u8]) -> bool {
        let received = self.receive_some(scratch);
        if let Err(error) = &received {
            self.close(&error.to_string());
        }
        if self.why.get().is_some() {
            // Whoever's answer has begun finds that it is lost.
            let receiving = std::mem::take(&mut *lock(&self.receiving));
            drop(receiving);
        }
        received.unwrap_or(false)
    }

    fn receive_some(&self, scratch: &mut [u8]) -> io::Result<bool> {
        let mut receiving = lock(&self.receiving);
        let Receiving { incoming, current } = &mut *receiving;
        let mut questions = InOrder { connection: self, current };
        let mut turn = TURN;
        while self.why.get().is_none() {
            if turn == 0 {
                return Ok(true);
            }
            let place = incoming.place();
            let room = place.len();
            let Some(received) = self.wire.receive(&self.socket, place, scratch)? else { return Ok(false) };
            if received == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server has closed the connection"));
            }
            self.heard.store(since(self.made).as_micros() as u64, Ordering::Relaxed);
            turn = turn.saturating_sub(received);
            incoming.placed(received.min(room));
            let taken = incoming.take(&scratch[..received.saturating_sub(room)], &mut questions);
            taken.map_err(|fault| io::Error::new(ErrorKind::InvalidData, fault.0))?;
        }
        Ok(false)
    }

    /// Ends it; all questions are lost.
    pub(crate) fn close(&self, why: &str) {
        let mut sender = lock(&self.sender);
        sender.is_closed = true;
        let parts = std::mem::take(&mut sender.parts);
        let questions = std::mem::take(&mut *lock(&self.questions));
        drop(sender);
        drop(parts);
        if self.why.set(why.into()).is_ok() {
            let _ = self.socket.shutdown(Shutdown::Both); // its thread sees it, and lets go of it
        }
        for question in questions {
            let memory = if let Expected::Get(memory) = question.expected { Some(memory) } else { None };
            let _ = question.answered.send(Reply::Lost(memory)); // nobody may wait any more
        }
        self.ended.notify_one();
    }
}

/// The questions of a connection, for those who answer them.
struct InOrder<'a> {
    connection: &'a Connection,
    current: &'a mut Option<(oneshot::Sender<Reply>, u64)>,
}

impl Questions for InOrder<'_> {
    fn next(&mut self) -> Option<(u32, Expected)> {
        let question = lock(&self.connection.questions).pop_front()?;
        *self.current = Some((question.answered, question.weight));
        Some((question.opaque, question.expected))
    }

    fn answer(&mut self, reply: Reply) {
        if let Some((answered, weight)) = self.current.take() {
            self.connection.outstanding.fetch_sub(weight, Ordering::Relaxed);
            let _ = answered.send(reply); // nobody may wait any more
        }
    }
}

/// Statistics that are to be answered.
pub(crate) fn statistics() -> Expected {
    Expected::Statistics(HashMap::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_value_has_a_record_of_its_own() {
        let mut sender = Sender::default();
        let line = |text: &str| Piece::Line(text.into());
        sender.add([line("mg a")]);
        sender.add([line("mg b")]);
        sender.add([line("ms c"), Piece::Zeros(100), line("end")]);
        sender.add([line("mg d")]);
        assert_eq!([true, false].map(|is_encrypted| parts_at_once(&sender.parts, is_encrypted)), [5, PIECES_MAX]);
        sender.parts.drain(..5);
        assert_eq!(parts_at_once(&sender.parts, true), PIECES_MAX);
    }
}
