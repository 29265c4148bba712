//! Calls in flight that carry written data of which the application has long been told: nobody would repeat them but a
//! successor, who must before it sends anything newer to the same place.
//!
//! A call is published before it leaves, and unpublished when it is answered. It names its bytes of the file and the
//! record of the newest write in it ([`payloads`](super::payloads)): those bytes, as this and earlier writes have left them, are
//! what it carries. When the server has answered, its verifier is noted beside the record of each of these writes.

use std::io;
use std::sync::atomic::Ordering;

use super::payloads::SentAs;
use super::record::Id;
use super::region::Region;
use super::regions::{ANSWERED, CALLS, Format};
use super::side::Fact;

// Sealed words.
const NODE: usize = 0;
const OFFSET: usize = 1;
const LENGTH: usize = 2;
const WRITE: usize = 3;
const SENT: usize = 4;

const _: () = assert!(CALLS.sealed() > SENT);

/// A call that carries written data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentCall {
    /// The file.
    pub node: u64,
    /// Where in the file.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
    /// The record of the newest write in it.
    pub write: u64,
    /// By what the server knows the call again.
    pub sent: SentAs,
}

/// What a predecessor left, and its record.
pub type SavedCall = (u64, SentCall);

pub struct Calls {
    region: Region,
}

impl Calls {
    /// Finds what a predecessor left, in no order; also says how many records are damaged.
    pub fn open(region: Region) -> (Calls, Vec<SavedCall>, u64) {
        let mut found = Vec::new();
        let damaged = region.scan(|id, record| {
            let read = record.read(id.generation, |sealed| {
                let word = |index: usize| sealed[index].load(Ordering::Relaxed);
                let sent = SentAs::from_word(word(SENT))?;
                let (node, offset, length, write) = (word(NODE), word(OFFSET), word(LENGTH), word(WRITE));
                Some(SentCall { node, offset, length, write, sent })
            });
            let read = read.flatten();
            found.extend(read.map(|call| (u64::from(id), call)));
            read.is_some()
        });
        (Calls { region }, found, damaged)
    }

    /// Publishes a call that is about to leave, and names its record.
    pub fn begin(&self, call: &SentCall) -> io::Result<u64> {
        let mut sealed = [0; CALLS.sealed()];
        sealed[NODE] = call.node;
        sealed[OFFSET] = call.offset;
        sealed[LENGTH] = call.length;
        sealed[WRITE] = call.write;
        sealed[SENT] = call.sent.to_word();
        let (id, record) = self.region.take()?;
        record.publish(id.generation, &[], &sealed);
        Ok(id.into())
    }

    /// The call is answered.
    pub fn end(&self, record: u64) {
        let id = Id::from(record);
        if self.region.record(id.slot).is_some_and(|record| record.unpublish(id.generation)) {
            self.region.give_back(id.slot);
        }
    }
}

/// The verifier with which the server has answered data whose record was made before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered(pub [u8; 8]);

impl Fact<1> for Answered {
    const FORMAT: Format = ANSWERED;

    fn to_words(self) -> [u64; 1] {
        [u64::from_le_bytes(self.0)]
    }

    fn from_words([verifier]: [u64; 1]) -> Answered {
        Answered(verifier.to_le_bytes())
    }
}
