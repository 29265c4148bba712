//! memcached's meta protocol, as far as it is spoken here (doc/protocol.txt of memcached, "Meta Commands"): requests are
//! written, lines of answers are read. Nothing here has a socket.
//!
//! Every command carries an opaque number which its answer brings back, so that a server that answers out of turn, or
//! something else than was asked, is noticed. Answers come in the order of the commands.

use std::str::{self, FromStr};

use crate::keys::Name;
use crate::policy::markers::LIFE;

/// The longest line of an answer: those of memcached have some dozen bytes, but settings have paths of files in them.
pub(crate) const LINE_MAX: usize = 8192;
/// Seconds after which memcached forgets a marker.
const MARKER_SECONDS: i64 = LIFE.as_secs() as i64;

/// The number of a value at memcached: another one for each time it is set.
pub(crate) type Cas = u64;

/// Asks for a value; with `marks`, whoever finds none gets an empty one made, the marker, and is told whether he is the first.
pub(crate) fn get(name: &Name, opaque: u32, marks: bool) -> Vec<u8> {
    let mut line = command("mg", name);
    line.extend_from_slice(format!(" v c t O{opaque}").as_bytes());
    if marks {
        line.extend_from_slice(format!(" N{MARKER_SECONDS}").as_bytes());
    }
    line.extend_from_slice(END_OF_LINE);
    line
}

/// Makes a marker, if there is nothing, and asks for no value.
pub(crate) fn claim(name: &Name, opaque: u32) -> Vec<u8> {
    meta(name, opaque, &format!("N{MARKER_SECONDS}"))
}

/// Lets a marker stand as long as a new one.
pub(crate) fn renew(name: &Name, opaque: u32) -> Vec<u8> {
    meta(name, opaque, &format!("T{MARKER_SECONDS}"))
}

/// Lets a value stay for ever.
pub(crate) fn keep(name: &Name, opaque: u32) -> Vec<u8> {
    meta(name, opaque, "T0")
}

/// Does something with what stands under a name, and asks for its number and time alone.
fn meta(name: &Name, opaque: u32, flag: &str) -> Vec<u8> {
    let mut line = command("mg", name);
    line.extend_from_slice(format!(" c t O{opaque} {flag}").as_bytes());
    line.extend_from_slice(END_OF_LINE);
    line
}

/// Sets a value of `length` bytes, which follow; with `cas` only in place of that one.
pub(crate) fn set(name: &Name, opaque: u32, length: usize, cas: Option<Cas>) -> Vec<u8> {
    let mut line = command("ms", name);
    line.extend_from_slice(format!(" {length} T0 O{opaque}").as_bytes());
    finish(line, cas)
}

/// Deletes the value of this number.
pub(crate) fn delete(name: &Name, opaque: u32, cas: Cas) -> Vec<u8> {
    let mut line = command("md", name);
    line.extend_from_slice(format!(" O{opaque}").as_bytes());
    finish(line, Some(cas))
}

/// Asks for all statistics, or for those of one kind.
pub(crate) fn statistics(kind: &str) -> Vec<u8> {
    let blank = if kind.is_empty() { "" } else { " " };
    format!("stats{blank}{kind}\r\n").into_bytes()
}

/// Ends lines and values.
pub(crate) const END_OF_LINE: &[u8] = b"\r\n";

fn command(verb: &str, name: &Name) -> Vec<u8> {
    let mut line = Vec::with_capacity(96);
    line.extend_from_slice(verb.as_bytes());
    line.push(b' ');
    line.extend_from_slice(name.as_bytes());
    line
}

fn finish(mut line: Vec<u8>, cas: Option<Cas>) -> Vec<u8> {
    if let Some(cas) = cas {
        line.extend_from_slice(format!(" C{cas}").as_bytes());
    }
    line.extend_from_slice(END_OF_LINE);
    line
}

/// A line of an answer, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A value of this length follows (VA).
    Value(usize, Flags),
    /// Done (HD).
    Done(Flags),
    /// There is no such value (EN, NF).
    Missing(Flags),
    /// Not done: another value is there, or it is not what it was (NS, EX).
    Unchanged(Flags),
    /// One of the statistics (STAT).
    Statistic(String, String),
    /// The last of the statistics (END).
    End,
    /// The server cannot do it (SERVER_ERROR), and why.
    Failed(String),
}

/// What an answer says beside its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) opaque: Option<u32>,
    pub(crate) cas: Cas,
    /// Seconds until it is forgotten; -1: never.
    pub(crate) seconds_left: i64,
    pub(crate) token: Token,
}

/// What an asker is told of a value that was made as a marker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Token {
    /// It was not made so.
    #[default]
    None,
    /// This asker made it (W).
    Won,
    /// Another did (Z).
    Given,
}

impl Flags {
    /// An empty value with these flags is a marker as [`get`] leaves one: others might stay for ever. Who makes one is
    /// told -1 for its time.
    pub(crate) fn is_marker(&self) -> bool {
        match self.token {
            Token::None => false,
            Token::Won => true,
            Token::Given => (0..=MARKER_SECONDS).contains(&self.seconds_left),
        }
    }
}

impl Line {
    /// Reads a line; `None` if it is no answer to anything that is asked here.
    pub(crate) fn parse(line: &[u8]) -> Option<Line> {
        let text = str::from_utf8(line).ok()?;
        let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
        Some(match kind {
            "VA" => {
                let (length, flags) = rest.split_once(' ').unwrap_or((rest, ""));
                Line::Value(number(length)?, Flags::parse(flags)?)
            }
            "HD" => Line::Done(Flags::parse(rest)?),
            "EN" | "NF" => Line::Missing(Flags::parse(rest)?),
            "NS" | "EX" => Line::Unchanged(Flags::parse(rest)?),
            "STAT" => {
                let (name, value) = rest.split_once(' ')?;
                Line::Statistic(name.into(), value.into())
            }
            "END" if rest.is_empty() => Line::End,
            "SERVER_ERROR" => Line::Failed(rest.into()),
            _ => return None,
        })
    }
}

impl Flags {
    fn parse(text: &str) -> Option<Flags> {
        let mut flags = Flags::default();
        for token in text.split(' ').filter(|token| !token.is_empty()) {
            let (flag, value) = token.split_at_checked(1)?;
            match flag {
                "O" => flags.opaque = Some(number(value)?),
                "c" => flags.cas = number(value)?,
                "t" => flags.seconds_left = if value == "-1" { -1 } else { number(value)? },
                "W" => flags.token = Token::Won,
                "Z" => flags.token = Token::Given,
                _ => {} // nothing else was asked for
            }
        }
        Some(flags)
    }
}

/// Digits only: no sign, as `parse` would take.
fn number<T: FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keys;
    use crate::testing::{block_key, bytes, data_set_key};

    #[test]
    fn requests_are_written_as_memcached_reads_them() {
        let name = Keys::new(&data_set_key(1)).name(&block_key(b"file", 1, 0));
        let key = str::from_utf8(name.as_bytes()).expect("text");
        let text = |line: Vec<u8>| String::from_utf8(line).expect("text");
        assert_eq!(text(get(&name, 7, false)), format!("mg {key} v c t O7\r\n"));
        assert_eq!(text(get(&name, 7, true)), format!("mg {key} v c t O7 N2\r\n"));
        assert_eq!(text(claim(&name, 7)), format!("mg {key} c t O7 N2\r\n"));
        assert_eq!(text(renew(&name, 7)), format!("mg {key} c t O7 T2\r\n"));
        assert_eq!(text(keep(&name, 7)), format!("mg {key} c t O7 T0\r\n"));
        assert_eq!(text(set(&name, 8, 20, None)), format!("ms {key} 20 T0 O8\r\n"));
        assert_eq!(text(set(&name, 8, 20, Some(3))), format!("ms {key} 20 T0 O8 C3\r\n"));
        assert_eq!(text(delete(&name, 9, 4)), format!("md {key} O9 C4\r\n"));
        assert_eq!(
            (text(statistics("")), text(statistics("settings"))),
            ("stats\r\n".into(), "stats settings\r\n".into())
        );
    }

    #[test]
    fn answers_are_read() {
        let flags = |opaque, cas, token| Flags { opaque: Some(opaque), cas, token, seconds_left: 0 };
        for (line, read) in [
            ("VA 0 c1 O12 W", Line::Value(0, flags(12, 1, Token::Won))),
            ("VA 70 c2 O12 Z", Line::Value(70, flags(12, 2, Token::Given))),
            ("VA 70", Line::Value(70, Flags::default())),
            ("EN", Line::Missing(Flags::default())),
            ("EN O5", Line::Missing(flags(5, 0, Token::None))),
            ("NF O5", Line::Missing(flags(5, 0, Token::None))),
            ("EX O5", Line::Unchanged(flags(5, 0, Token::None))),
            ("HD O5", Line::Done(flags(5, 0, Token::None))),
            ("STAT threads 4 of 5", Line::Statistic("threads".into(), "4 of 5".into())),
            ("END", Line::End),
            ("SERVER_ERROR out of memory", Line::Failed("out of memory".into())),
        ] {
            assert_eq!(Line::parse(line.as_bytes()), Some(read), "{line}");
        }
        for line in
            ["", "VA", "VA x", "VA -1", "VA +1", "VA 99999999999999999999", "HD O", "HD Ox", "ERROR", "END 1", "STAT x"]
        {
            assert_eq!(Line::parse(line.as_bytes()), None, "{line}");
        }
        assert_eq!(Line::parse(b"HD \xff"), None);
    }

    #[test]
    fn only_what_memcached_forgets_soon_is_a_marker() {
        for (line, is_marker) in [
            ("VA 0 c1 t-1 O1 W", true),
            ("VA 0 c1 t0 O1 Z", true),
            ("VA 0 c1 t2 O1", false),
            ("VA 0 c1 t-1 O1 Z", false),
            ("VA 0 c1 t3 O1 Z", false),
        ] {
            let Some(Line::Value(0, flags)) = Line::parse(line.as_bytes()) else { panic!("no value: {line}") };
            assert_eq!(flags.is_marker(), is_marker, "{line}");
        }
    }

    #[test]
    fn no_line_panics() {
        for seed in 0..20_000 {
            let mut line = bytes(seed, (seed % 40) as usize);
            for (byte, seed) in line.iter_mut().zip(seed..) {
                *byte = b"VAHDENSTAO 0123456789cWZ\xc3\xa9"[(*byte as u64 ^ seed) as usize % 26];
            }
            Line::parse(&line);
        }
    }
}
