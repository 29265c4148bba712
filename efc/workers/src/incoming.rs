//! Parses what comes from a worker: bytes in, answers out. Nothing here has a socket.
//!
//! A value goes where its asker wants it, without its header, which is stored separately: [`Incoming::place`] says
//! where the next bytes of it belong, so that they can be received right there. Whatever a server sends, parsing ends
//! with an answer or with a [`Fault`], after which nothing more from that server connection is believed.

use std::collections::HashMap;

use efc_buffer::Buffer;

use crate::protocol::{END_OF_LINE, Flags, LINE_MAX, Line};
use crate::seal::{HEADER, Header};

/// The longest value that is received, and thrown away, if somebody has put it there in place of a block.
const FOREIGN_MAX: usize = 4 << 20;

/// The statistics that anybody wants.
const WANTED: [&str; 4] = ["item_size_max", "slab_chunk_max", "limit_maxbytes", "bytes"];

/// A server does not keep to the protocol: how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) String);

fn fault<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault(what.into()))
}

/// What an answer is expected to.
#[derive(Debug)]
pub(crate) enum Expected {
    /// A value, behind its header, in this memory.
    Get(Buffer),
    Set,
    Delete,
    /// What a value is, without it.
    Flags,
    Statistics(HashMap<String, String>),
}

/// The answer to what was [`Expected`].
#[derive(Debug)]
pub(crate) enum Reply {
    Value(Value),
    /// There is none; the memory that was for it, if there was any.
    Missing(Option<Buffer>),
    Done,
    /// There is one, and this is what it is.
    Flags(Flags),
    /// Another value is there.
    Unchanged,
    /// The server could not do it.
    Failed(String),
    Statistics(HashMap<String, String>),
    /// The connection has ended before; the memory that was for it, if nothing has come yet.
    Lost(Option<Buffer>),
}

/// A value that somebody has set.
#[derive(Debug)]
pub(crate) struct Value {
    pub(crate) header: Header,
    /// Begins with what follows the header.
    pub(crate) memory: Buffer,
    /// With its header; what does not fit the memory is not there.
    pub(crate) length: usize,
    pub(crate) flags: Flags,
}

impl Value {
    /// What follows the header, so many bytes of it; `None` if the value has not so many.
    pub(crate) fn sealed(&mut self, length: usize) -> Option<(&Header, &mut [u8])> {
        if self.length < HEADER + length {
            return None;
        }
        Some((&self.header, self.memory.get_mut(..length)?))
    }
}

/// Where a stream of answers stands.
#[derive(Debug)]
enum Stage {
    /// In a line, of which this has come.
    Line(Vec<u8>),
    /// In a value, of which so much has come.
    Value(Value, usize),
    /// Behind a value, at this byte of the line's end.
    End(Value, usize),
}

/// The answers of one connection.
#[derive(Debug)]
pub(crate) struct Incoming {
    stage: Stage,
    /// Statistics that have begun.
    statistics: Option<HashMap<String, String>>,
    /// Lines of these.
    lines: usize,
}

/// What the next answer must be to, and what becomes of it.
pub(crate) trait Questions {
    /// The oldest question without an answer, with its opaque number; it is answered next.
    fn next(&mut self) -> Option<(u32, Expected)>;
    /// It is answered.
    fn answer(&mut self, reply: Reply);
}

impl Default for Incoming {
    fn default() -> Incoming {
        Incoming { stage: Stage::Line(Vec::new()), statistics: None, lines: 0 }
    }
}

impl Incoming {
    /// Where the next bytes belong, if they are a value's; bytes behind these go to [`Incoming::take`].
    pub(crate) fn place(&mut self) -> &mut [u8] {
        let Stage::Value(value, received) = &mut self.stage else { return &mut [] };
        let end = value.length.saturating_sub(HEADER).min(value.memory.len());
        match received.checked_sub(HEADER) {
            Some(begin) if begin < end => &mut value.memory[begin..end],
            _ => &mut [],
        }
    }

    /// So many bytes were received there.
    pub(crate) fn placed(&mut self, count: usize) {
        if let Stage::Value(_, received) = &mut self.stage {
            *received += count;
        }
        self.finish_value();
    }

    /// Takes in what was received.
    pub(crate) fn take(&mut self, mut bytes: &[u8], questions: &mut impl Questions) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let taken = match &mut self.stage {
                Stage::Line(_) => self.take_line(bytes, questions)?,
                Stage::Value(..) => self.take_value(bytes),
                Stage::End(..) => self.take_end(bytes, questions)?,
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    fn take_line(&mut self, bytes: &[u8], questions: &mut impl Questions) -> Result<usize, Fault> {
        let Stage::Line(line) = &mut self.stage else { unreachable!("the stage is a line") };
        let (taken, is_whole) = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (bytes.len(), false),
        };
        if line.len() + taken > LINE_MAX {
            return fault("a line has no end");
        }
        line.extend_from_slice(&bytes[..taken]);
        if is_whole {
            let line = std::mem::take(line);
            let Some(text) = line.strip_suffix(END_OF_LINE) else { return fault("a line ends without CR") };
            self.take_answer(text, questions)?;
        }
        Ok(taken)
    }

    fn take_answer(&mut self, text: &[u8], questions: &mut impl Questions) -> Result<(), Fault> {
        let Some(line) = Line::parse(text) else {
            return fault(format!("no answer: {:?}", String::from_utf8_lossy(&text[..text.len().min(80)])));
        };
        if let Some(statistics) = self.statistics.take() {
            return self.take_statistic(line, statistics, questions);
        }
        let Some((opaque, expected)) = questions.next() else { return fault("an answer to nothing") };
        let reply = match (line, expected) {
            (Line::Value(length, flags), Expected::Get(memory)) => {
                agree(flags, opaque)?;
                return self.begin_value(length, flags, memory);
            }
            (line, Expected::Statistics(none)) => return self.take_statistic(line, none, questions),
            (Line::Missing(flags), Expected::Get(memory)) if flags.opaque.is_none_or(|number| number == opaque) => {
                Reply::Missing(Some(memory))
            }
            (Line::Missing(flags), Expected::Flags) if flags.opaque.is_none_or(|number| number == opaque) => {
                Reply::Missing(None)
            }
            (Line::Done(flags), Expected::Flags) => agree(flags, opaque).map(|()| Reply::Flags(flags))?,
            (Line::Missing(flags), Expected::Set | Expected::Delete) => {
                agree(flags, opaque).map(|()| Reply::Missing(None))?
            }
            (Line::Done(flags), Expected::Set | Expected::Delete) => agree(flags, opaque).map(|()| Reply::Done)?,
            (Line::Unchanged(flags), Expected::Set | Expected::Delete) => {
                agree(flags, opaque).map(|()| Reply::Unchanged)?
            }
            // The server has read the value over, and goes on: one that is full says this now and then.
            (Line::Failed(why), Expected::Set) => Reply::Failed(why),
            (line, _) => return fault(format!("the answer to something else: {line:?}")),
        };
        questions.answer(reply);
        Ok(())
    }

    fn take_statistic(
        &mut self,
        line: Line,
        mut statistics: HashMap<String, String>,
        questions: &mut impl Questions,
    ) -> Result<(), Fault> {
        /// memcached has some hundred.
        const STATISTICS_MAX: usize = 4096;
        match line {
            Line::Statistic(name, value) if self.lines < STATISTICS_MAX => {
                self.lines += 1;
                if WANTED.contains(&name.as_str()) {
                    statistics.insert(name, value);
                }
                self.statistics = Some(statistics);
            }
            Line::End => {
                self.lines = 0;
                questions.answer(Reply::Statistics(statistics));
            }
            line => return fault(format!("no statistics: {line:?}")),
        }
        Ok(())
    }

    fn begin_value(&mut self, length: usize, flags: Flags, memory: Buffer) -> Result<(), Fault> {
        if length > FOREIGN_MAX {
            return fault(format!("a value of {length} bytes"));
        }
        let value = Value { header: [0; HEADER], memory, length, flags };
        self.stage = Stage::Value(value, 0);
        self.finish_value();
        Ok(())
    }

    fn take_value(&mut self, bytes: &[u8]) -> usize {
        let Stage::Value(value, received) = &mut self.stage else { unreachable!("the stage is a value") };
        let taken = bytes.len().min(value.length - *received);
        for (into, at) in [(&mut value.header[..], 0), (&mut value.memory[..], HEADER)] {
            // What of `bytes` lies in `at..at + into.len()` of the value.
            let begin = at.saturating_sub(*received).min(taken);
            let place = (*received + begin).saturating_sub(at).min(into.len());
            let count = (taken - begin).min(into.len() - place);
            into[place..place + count].copy_from_slice(&bytes[begin..begin + count]);
        }
        *received += taken;
        self.finish_value();
        taken
    }

    fn finish_value(&mut self) {
        if matches!(&self.stage, Stage::Value(value, received) if *received >= value.length) {
            let stage = std::mem::replace(&mut self.stage, Stage::Line(Vec::new()));
            if let Stage::Value(value, _) = stage {
                self.stage = Stage::End(value, 0);
            }
        }
    }

    fn take_end(&mut self, bytes: &[u8], questions: &mut impl Questions) -> Result<usize, Fault> {
        let Stage::End(_, place) = &mut self.stage else { unreachable!("the stage is the end of a value") };
        let taken = bytes.len().min(END_OF_LINE.len() - *place);
        if bytes[..taken] != END_OF_LINE[*place..*place + taken] {
            return fault("a value is not as long as was said");
        }
        *place += taken;
        if *place == END_OF_LINE.len()
            && let Stage::End(value, _) = std::mem::replace(&mut self.stage, Stage::Line(Vec::new()))
        {
            questions.answer(Reply::Value(value));
        }
        Ok(taken)
    }
}

/// The answer is to what was asked.
fn agree(flags: Flags, opaque: u32) -> Result<(), Fault> {
    if flags.opaque == Some(opaque) { Ok(()) } else { fault("the answer to another question") }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::testing::bytes;

    /// Questions that were asked, and what was answered.
    #[derive(Default)]
    struct Asked {
        expected: VecDeque<(u32, Expected)>,
        replies: Vec<Reply>,
    }

    impl Questions for Asked {
        fn next(&mut self) -> Option<(u32, Expected)> {
            self.expected.pop_front()
        }

        fn answer(&mut self, reply: Reply) {
            self.replies.push(reply);
        }
    }

    fn asked(expected: impl IntoIterator<Item = Expected>) -> Asked {
        Asked { expected: (0..).zip(expected).collect(), replies: Vec::new() }
    }

    fn memory() -> Expected {
        Expected::Get(Buffer::new(1).expect("memory"))
    }

    /// Feeds a stream in pieces of these sizes, as a socket does: values go to their place first.
    fn feed(stream: &[u8], mut sizes: impl FnMut() -> usize, asked: &mut Asked) -> Result<(), Fault> {
        let (mut incoming, mut rest) = (Incoming::default(), stream);
        while !rest.is_empty() {
            let size = sizes().clamp(1, rest.len());
            let place = incoming.place();
            let direct = place.len().min(size);
            place[..direct].copy_from_slice(&rest[..direct]);
            incoming.placed(direct);
            incoming.take(&rest[direct..size], asked)?;
            rest = &rest[size..];
        }
        Ok(())
    }

    /// Answers to ten questions, two of them with values of these bytes behind the header.
    fn stream(long: &[u8]) -> Vec<u8> {
        let head = |opaque, length| format!("VA {length} c{opaque} O{opaque}\r\n").into_bytes();
        let value = |opaque: u32, value: &[u8]| [&head(opaque, value.len()), value, b"\r\n"].concat();
        [
            value(0, &[&[7; HEADER], long].concat()),
            b"EN\r\n".into(),
            b"VA 0 c2 O2 W\r\n\r\n".into(),
            b"HD O3\r\nNF O4\r\nEX O5\r\nSERVER_ERROR out of memory storing object\r\n".into(),
            b"STAT item_size_max 100\r\nSTAT b c d\r\nEND\r\n".into(),
            value(8, b"short"),
            b"HD O9\r\n".into(),
        ]
        .concat()
    }

    fn questions() -> Asked {
        let sets = [Expected::Set, Expected::Delete, Expected::Set, Expected::Set];
        let statistics = Expected::Statistics(HashMap::new());
        asked([memory(), memory(), memory()].into_iter().chain(sets).chain([statistics, memory(), Expected::Set]))
    }

    #[test]
    fn answers_are_the_same_however_the_stream_is_cut() {
        let long = bytes(1, 60_000);
        let stream = stream(&long);
        for seed in 0..300u64 {
            let sizes = bytes(seed, 100_000);
            let largest = [1, 3, 50, 5_000, 70_000][seed as usize % 5];
            let mut drawn = sizes.chunks_exact(3).map(|three| u32::from_be_bytes([0, three[0], three[1], three[2]]));
            let mut asked = questions();
            feed(&stream, || drawn.next().map_or(1, |size| size as usize % largest + 1), &mut asked).expect("no fault");
            let mut replies = asked.replies.into_iter();
            let Some(Reply::Value(mut value)) = replies.next() else { panic!("no value") };
            let (header, sealed) = value.sealed(long.len()).expect("fits");
            assert_eq!((header, &*sealed), (&[7; HEADER], &long[..]), "seed {seed}");
            let rest: Vec<String> = replies.map(|reply| format!("{reply:?}")).collect();
            assert!(
                rest[0].starts_with("Missing(Some")
                    && rest[1].contains("length: 0, flags: Flags { opaque: Some(2), cas: 2")
            );
            assert_eq!(rest[2..5], ["Done", "Missing(None)", "Unchanged"]);
            assert!(rest[5].starts_with("Failed(\"out of") && rest[6].contains("\"item_size_max\": \"100\""));
            assert!(rest[7].contains("length: 5") && rest[8] == "Done" && rest.len() == 9);
        }
    }

    #[test]
    fn whatever_does_not_keep_to_the_protocol_is_a_fault_and_no_panic() {
        for (stream, what) in [
            (&b"VA 5 O0\r\nabcdeXX"[..], "not as long"),
            (b"VA 99999999 O0\r\n", "a value of"),
            (b"VA 5 O1\r\n", "another question"),
            (b"VA 5\r\n", "another question"),
            (b"EN O9\r\n", "something else"),
            (b"HD O0\r\n", "something else"),
            (b"STAT bytes 1\r\n", "something else"),
            (b"SERVER_ERROR out of memory writing get response\r\n", "something else"),
            (b"END\r\n", "something else"),
            (b"ERROR\r\n", "no answer"),
            (b"EN\n", "without CR"),
            (b"EN\r\nEN\r\n", "to nothing"),
            (&[b'A'; LINE_MAX + 1], "no end"),
        ] {
            let why = feed(stream, || 4, &mut asked([memory()])).expect_err("a fault").0;
            assert!(why.contains(what), "{why} for {}", String::from_utf8_lossy(stream));
        }
        let why = feed(b"STAT a b\r\nHD\r\n", || 9, &mut asked([Expected::Statistics(HashMap::new())]));
        assert!(why.expect_err("a fault").0.contains("no statistics"));
        let endless = b"STAT a b\r\n".repeat(5_000);
        let why = feed(&endless, || 999, &mut asked([Expected::Statistics(HashMap::new())]));
        assert!(why.expect_err("a fault").0.contains("no statistics"));
    }

    #[test]
    fn a_stream_with_damage_anywhere_never_panics() {
        let whole = stream(&bytes(1, 300));
        for seed in 0..20_000u64 {
            let mut damaged = whole.clone();
            let draws = bytes(seed, 8);
            let at = u16::from_be_bytes([draws[0], draws[1]]) as usize % damaged.len();
            match draws[2] % 3 {
                0 => damaged[at] ^= 1 << (draws[3] % 8),
                1 => drop(damaged.drain(at..(at + draws[3] as usize).min(whole.len()))),
                _ => drop(damaged.splice(at..at, whole[..draws[3] as usize].iter().copied())),
            }
            let _ = feed(&damaged, || 1 + draws[4] as usize, &mut questions());
        }
    }

    #[test]
    fn what_of_a_value_does_not_fit_its_place_is_read_over() {
        let stream = [b"VA 100000 c3 O0\r\n", &bytes(1, 100_000)[..], b"\r\nEN\r\n"].concat();
        let mut asked = asked([memory(), memory()]);
        feed(&stream, || 3000, &mut asked).expect("no fault");
        let Reply::Value(value) = &mut asked.replies[0] else { panic!("no value") };
        assert!(value.length == 100_000 && value.sealed(70_000).is_none());
        assert_eq!(value.sealed(60_000).expect("fits").1, &bytes(1, 100_000)[HEADER..60_000 + HEADER]);
        assert!(value.sealed(100_000).is_none());
        assert_eq!(asked.replies.len(), 2);
    }
}
