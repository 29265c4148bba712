//! Record marking (RFC 5531, section 11) on the receiving side: a byte stream becomes records, fragments vanish.
//!
//! A small scratch buffer takes what the first `recv` of a record brings, so that a small reply costs one system call
//! and several small replies may share one. What is then still missing of a large payload goes straight to its
//! destination, with the scratch buffer behind it for the beginning of the next record. Lengths are the server's word
//! and are bounded here; a stream that breaks a bound is beyond repair and ends with `InvalidData`.

use std::io::{self, ErrorKind, IoSlice};

use efc_buffer::Pipe;

use crate::rpc::LAST_FRAGMENT;

/// Longest record: the largest READ or READDIRPLUS reply with room for its attributes.
pub(crate) const RECORD_MAX: usize = efc_buffer::PAYLOAD_MAX + (64 << 10);
/// Most fragments of a record: a limit against endless empty ones, above one per 256 bytes of the longest record.
const FRAGMENTS_MAX: usize = 8192;
/// Size of the scratch buffer: several small replies, and a small part of what is copied of a large one.
const SCRATCH: usize = 4096;
/// Payloads with less than this missing come through the scratch buffer.
const DIRECT_MIN: usize = 1024;

/// Where bytes come from.
pub(crate) trait Source {
    /// Receives at least one byte, first into `first` and what exceeds it into `second`. 0 means the end.
    fn receive(&mut self, first: &mut [u8], second: &mut [u8]) -> io::Result<usize>;

    /// Moves at least one byte and at most `count` into `pipe`. 0 means the end, `None` that the pipe takes no more.
    fn splice(&mut self, _pipe: &mut Pipe, _count: usize) -> io::Result<Option<usize>> {
        Ok(None)
    }
}

/// Splits a stream into records.
pub(crate) struct Records<S> {
    source: S,
    scratch: Box<[u8; SCRATCH]>,
    start: usize,
    end: usize,
    fragment_left: usize,
    fragments: usize,
    last: bool,
    record_left: usize,
}

impl<S: Source> Records<S> {
    pub(crate) fn new(source: S) -> Records<S> {
        let scratch = Box::new([0; SCRATCH]);
        Records { source, scratch, start: 0, end: 0, fragment_left: 0, fragments: 0, last: true, record_left: 0 }
    }

    /// Where the bytes come from, which may also be where calls go to.
    pub(crate) fn source(&mut self) -> &mut S {
        &mut self.source
    }

    /// Goes to the next record; what is left of the present one is skipped.
    pub(crate) fn next(&mut self) -> io::Result<()> {
        self.skip()?;
        self.fragments = 0;
        self.record_left = RECORD_MAX;
        self.mark()
    }

    /// Appends up to `count` bytes of the record to `into`; fewer only at the record's end.
    pub(crate) fn append(&mut self, into: &mut Vec<u8>, count: usize) -> io::Result<()> {
        let wanted = into.len() + count;
        while into.len() < wanted && self.in_fragment()? {
            if self.start == self.end {
                self.refill()?;
            }
            let taken = (wanted - into.len()).min(self.fragment_left).min(self.end - self.start);
            into.extend_from_slice(&self.scratch[self.start..self.start + taken]);
            self.start += taken;
            self.fragment_left -= taken;
        }
        Ok(())
    }

    /// Fills `into` from the record. A record that ends before is `InvalidData`.
    pub(crate) fn fill(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            if !self.in_fragment()? {
                return Err(broken("a record ends before its payload"));
            }
            let part = into.len().min(self.fragment_left);
            let taken = self.fill_part(&mut into[..part])?;
            self.fragment_left -= taken;
            into = &mut into[taken..];
        }
        Ok(())
    }

    /// Moves `count` bytes of the record into an empty `pipe`, behind `prefix`. Fewer if the pipe is full before; none,
    /// and no prefix, if they are not all in one fragment.
    pub(crate) fn pour(&mut self, pipe: &mut Pipe, prefix: &[u8], count: usize) -> io::Result<usize> {
        if !self.in_fragment()? || self.fragment_left < count {
            return Ok(0);
        }
        let mut poured = count.min(self.end - self.start);
        pipe.write(&[IoSlice::new(prefix), IoSlice::new(&self.scratch[self.start..self.start + poured])])?;
        self.start += poured;
        while poured < count {
            match self.source.splice(pipe, count - poured)? {
                Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Some(moved) => poured += moved,
                None => break,
            }
        }
        self.fragment_left -= poured;
        Ok(poured)
    }

    /// Skips the rest of the record.
    pub(crate) fn skip(&mut self) -> io::Result<()> {
        while self.in_fragment()? {
            if self.start == self.end {
                self.refill()?;
            }
            let taken = self.fragment_left.min(self.end - self.start);
            self.start += taken;
            self.fragment_left -= taken;
        }
        Ok(())
    }

    fn fill_part(&mut self, part: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end && part.len() >= DIRECT_MIN {
            let received = self.source.receive(part, &mut self.scratch[..])?;
            let direct = received.min(part.len());
            (self.start, self.end) = (0, received - direct);
            return if received == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(direct) };
        }
        if self.start == self.end {
            self.refill()?;
        }
        let taken = part.len().min(self.end - self.start);
        part[..taken].copy_from_slice(&self.scratch[self.start..self.start + taken]);
        self.start += taken;
        Ok(taken)
    }

    /// Is there more of this record? Goes to its next fragment where one ends.
    fn in_fragment(&mut self) -> io::Result<bool> {
        while self.fragment_left == 0 {
            if self.last {
                return Ok(false);
            }
            self.mark()?;
        }
        Ok(true)
    }

    fn mark(&mut self) -> io::Result<()> {
        let mut mark = [0; 4];
        for byte in &mut mark {
            if self.start == self.end {
                self.refill()?;
            }
            *byte = self.scratch[self.start];
            self.start += 1;
        }
        let mark = u32::from_be_bytes(mark);
        self.last = mark & LAST_FRAGMENT != 0;
        self.fragment_left = (mark & !LAST_FRAGMENT) as usize;
        self.fragments += 1;
        self.record_left =
            self.record_left.checked_sub(self.fragment_left).ok_or_else(|| broken("a record exceeds its limit"))?;
        if self.fragments > FRAGMENTS_MAX { Err(broken("a record has too many fragments")) } else { Ok(()) }
    }

    fn refill(&mut self) -> io::Result<()> {
        (self.start, self.end) = (0, 0);
        self.end = self.source.receive(&mut self.scratch[..], &mut [])?;
        if self.end == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives at most `step` bytes per call.
    struct Slow<'a>(&'a [u8], usize);

    impl Source for Slow<'_> {
        fn receive(&mut self, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(self.1).min(first.len() + second.len());
            let (now, later) = self.0.split_at(count);
            let direct = count.min(first.len());
            first[..direct].copy_from_slice(&now[..direct]);
            second[..count - direct].copy_from_slice(&now[direct..]);
            self.0 = later;
            Ok(count)
        }
    }

    fn framed(record: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut stream = Vec::new();
        let mut from = 0;
        for cut in cuts.iter().copied().chain([record.len()]) {
            let mark = (cut - from) as u32 | if cut == record.len() { LAST_FRAGMENT } else { 0 };
            stream.extend_from_slice(&mark.to_be_bytes());
            stream.extend_from_slice(&record[from..cut]);
            from = cut;
        }
        stream
    }

    #[test]
    fn fragments_cut_anywhere_and_received_in_any_step_make_the_same_records() {
        let record: Vec<u8> = (0..97).collect();
        for cut in 0..record.len() {
            for step in [1, 3, 50, 10_000] {
                let mut stream = framed(&record, &[cut / 2, cut]);
                stream.extend(framed(b"next", &[]));
                let mut records = Records::new(Slow(&stream, step));
                records.next().unwrap();
                let mut head = Vec::new();
                records.append(&mut head, 40).unwrap();
                let mut payload = [0; 50];
                records.fill(&mut payload).unwrap();
                assert_eq!((&head[..], &payload[..]), (&record[..40], &record[40..90]), "cut {cut} step {step}");
                records.next().unwrap();
                let mut next = Vec::new();
                records.append(&mut next, 100).unwrap();
                assert_eq!(next, b"next");
                assert_eq!(records.next().unwrap_err().kind(), ErrorKind::UnexpectedEof);
            }
        }
    }

    #[test]
    fn a_large_payload_and_the_next_record_arrive_whole() {
        let record: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
        let mut stream = framed(&record, &[10, 50_000, 99_990]);
        stream.extend(framed(b"next", &[]));
        for step in [7, 1000, 4096, 1 << 20] {
            let mut records = Records::new(Slow(&stream, step));
            records.next().unwrap();
            let mut payload = vec![0; record.len()];
            records.fill(&mut payload).unwrap();
            assert!(payload == record, "step {step}");
            records.next().unwrap();
            let mut next = Vec::new();
            records.append(&mut next, 4).unwrap();
            assert_eq!(next, b"next");
        }
    }

    #[test]
    fn bounds_hold() {
        let too_long = (RECORD_MAX as u32 + 1) | LAST_FRAGMENT;
        let kind = |stream: &[u8]| {
            let mut records = Records::new(Slow(stream, 4096));
            records.next().and_then(|()| records.skip()).unwrap_err().kind()
        };
        assert_eq!(kind(&too_long.to_be_bytes()), ErrorKind::InvalidData);
        assert_eq!(kind(&vec![0; 4 * (FRAGMENTS_MAX + 1)]), ErrorKind::InvalidData);
        assert_eq!(kind(&[0; 6]), ErrorKind::UnexpectedEof);
        let mut records = Records::new(Slow(&[0x80, 0, 0, 2, 1, 2, 3, 4], 100));
        records.next().unwrap();
        assert_eq!(records.fill(&mut [0; 3]).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
