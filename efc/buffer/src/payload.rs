//! Where the payload of a READ goes, and where it has gone.

use std::ops::Range;

use crate::{Buffer, Pipe, Room};

/// What precedes a payload in its pipe: the beginning of a message whose end is the payload.
pub type Prefix = [u8; 16];

/// Where the payload of a READ is to go.
#[derive(Debug)]
pub enum Sink {
    /// This range of this buffer.
    Buffer(Buffer, Range<usize>),
    /// A pipe, behind a prefix, so that it can be passed on without a copy: if exactly `count` bytes come, and fit one.
    /// A buffer takes them otherwise, for which there is room.
    Pipe {
        /// What precedes the payload.
        prefix: Prefix,
        /// Bytes.
        count: usize,
        /// For as many bytes.
        room: Room,
    },
}

impl Sink {
    /// Bytes that are asked for.
    pub fn len(&self) -> usize {
        match self {
            Sink::Buffer(_, range) => range.len(),
            Sink::Pipe { count, .. } => *count,
        }
    }

    /// Is nothing asked for?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where the payload of a READ has gone.
#[derive(Debug)]
pub enum Payload {
    /// At the beginning of this range of this buffer, without a prefix.
    Buffer(Buffer, Range<usize>),
    /// All that was asked for, behind the prefix.
    Pipe(Pipe),
}

impl Payload {
    /// The buffer and its range; `None` if the payload is in a pipe.
    pub fn into_buffer(self) -> Option<(Buffer, Range<usize>)> {
        match self {
            Payload::Buffer(buffer, range) => Some((buffer, range)),
            Payload::Pipe(_) => None,
        }
    }
}
