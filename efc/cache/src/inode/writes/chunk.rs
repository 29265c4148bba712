//! One write, from when it is held back until it is committed.

use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;
use efc_backend::{Cred, Ticket, Verifier};

/// How far a write has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is held back: the server was not asked.
    Unsent,
    /// The server was asked.
    InFlight,
    /// The server has answered, and may lose it.
    Written,
}

/// One write.
#[derive(Clone)]
pub struct Chunk {
    /// Its place in the order of the file's writes; given by [`Writes::add`].
    pub id: u64,
    /// How far it has come.
    pub stage: Stage,
    /// When it was written.
    pub written_at: Instant,
    /// It was placed at the end of the file.
    pub appends: bool,
    /// Where its data begins in the file.
    pub offset: u64,
    /// The data.
    pub data: Bytes,
    /// The server's, when it took the data.
    pub verifier: Verifier,
    /// In whose name it was written.
    pub cred: Cred,
    /// Of the data.
    pub checksum: u32,
    /// The call of an earlier process that the server has not answered.
    pub unanswered: Option<Ticket>,
    /// The number by which whoever keeps it for a later process knows it.
    pub record: Option<u64>,
    /// Its part of the memory in use.
    pub memory: u64,
}

impl Chunk {
    /// Data with this checksum that the server has taken, written now and known to nobody else.
    pub fn new(offset: u64, (data, checksum): (Bytes, u32), cred: Cred, verifier: Verifier) -> Chunk {
        Chunk {
            id: 0,
            stage: Stage::Written,
            written_at: efc_tasks::time::now(),
            appends: false,
            offset,
            data,
            verifier,
            cred,
            checksum,
            unanswered: None,
            record: None,
            memory: 0,
        }
    }

    /// Its bytes of the file.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.data.len() as u64
    }
}
