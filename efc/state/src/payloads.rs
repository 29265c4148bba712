//! Written data that the server may still lose: kept until it is committed, so that it can be sent again, by a
//! successor too.
//!
//! Data is copied into a block of the arena before it is sent ([`Payloads::keep`]); what the network and a later
//! repetition use is that block. When the server has answered, and before the application is, a record of the index is
//! published that says what the block holds: node, place in the file, the server's verifier, by whose rights it was
//! written, and a checksum. When the server has committed it, the record is unpublished, and after that the block is
//! given back, once nobody sends from it any more. Wherever a SIGKILL hits, each acknowledged write that is not known
//! to be committed has its record and its block.
//!
//! Records are numbered. Of writes to the same place the last must win, so a successor sends them in that order, and
//! they are unpublished from the oldest on: what a SIGKILL leaves is then an end of the sequence, which covers nothing
//! newer.
//!
//! **Damage.** A payload's checksum is compared before it is sent again: what is wrong is not sent. A record that is
//! damaged does not say for sure whose data it was; its node stands in it twice, and each node that it may have been is
//! *distrusted*: its data is held to be lost unless the server's verifier proves that nothing is.
//!
//! **Other releases.** A daemon that knows nothing of this may have served in between, and committed or covered what
//! the records say. So each daemon that does know leaves its number beside the arena. If that of the immediate
//! predecessor is missing, the records are dropped, and their nodes distrusted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::arena::{Arena, Block, order_of};
use super::layout::Header;
use super::record::{Found, Id, Record};
use super::region::Region;
use super::regions::{ARENA, GROUPS_MAX, PAGE, WRITES};

// The mutable word: the node once more.
const NODE_COPY: usize = 0;
// Sealed words.
const NODE: usize = 0;
const OFFSET: usize = 1;
const SEQUENCE: usize = 2;
const VERIFIER: usize = 3;
/// First page of the block, and its order.
const BLOCK: usize = 4;
/// Where in the block it begins, and its length.
const EXTENT: usize = 5;
const OWNER: usize = 6;
const CHECKSUM_AND_COUNT: usize = 7;
/// Two to a word.
const GROUPS: usize = 8;
/// Number of the call; above it whether the server owes an answer to it, and the connection. 0 in what older releases have
/// saved.
const CALL: usize = GROUPS + GROUPS_MAX / 2;
const IS_UNANSWERED: u32 = 1;
/// Where the connection's number begins, one more than it is: 0, it is not known.
const CONNECTION_SHIFT: u32 = 8;

const _: () = assert!(WRITES.sealed() > CALL);

/// The verifier of a write that was sent and not answered. No server has it, so a release that knows nothing of such
/// writes sends the data again before it takes it for committed.
pub const UNANSWERED: [u8; 8] = *b"EFC sent";

/// The verifier of a write that is held back: no call has carried it. No server has it either, so a release that knows nothing
/// of such writes sends the data at the next COMMIT.
pub const UNSENT: [u8; 8] = *b"EFC held";

/// Memory that a payload of `length` bytes takes.
pub fn payload_cost(length: usize) -> u64 {
    (PAGE as u64) << order_of(length)
}

/// The checksum of a payload, as it is saved.
pub fn payload_checksum(payload: &[u8]) -> u32 {
    crc32c::crc32c(payload)
}

/// A copy of data that outlives this daemon once parts of it are published.
#[derive(Clone)]
pub struct KeptData {
    bytes: Bytes,
    page: u32,
    order: u8,
}

impl KeptData {
    fn new(block: Block) -> KeptData {
        let (page, order) = (block.page(), block.order());
        KeptData { bytes: Bytes::from_owner(block), page, order }
    }

    /// The data; its slices may be published.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// A write that the server has answered and not committed; or one that was sent, and may have been executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UncommittedWrite {
    /// The file.
    pub node: u64,
    /// Where in the file.
    pub offset: u64,
    /// What was written.
    pub data: Bytes,
    /// [`payload_checksum`] of it.
    pub checksum: u32,
    /// The server's.
    pub verifier: [u8; 8],
    /// User id of the writer, by whose rights it was written.
    pub uid: u32,
    /// Group id of the writer.
    pub gid: u32,
    /// Supplementary groups of the writer, at most [`GROUPS_MAX`].
    pub groups: Vec<u32>,
    /// The call that the server has not answered. The verifier is [`UNANSWERED`] then.
    pub unanswered: Option<SentAs>,
}

/// By what a server knows a call again that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentAs {
    /// Its xid.
    pub number: u32,
    /// The connection on which it was sent, if that is known.
    pub connection: Option<u8>,
}

impl SentAs {
    pub(crate) fn to_word(self) -> u64 {
        let connection = self.connection.map_or(0, |connection| u32::from(connection) + 1);
        pair(self.number, IS_UNANSWERED | connection << CONNECTION_SHIFT)
    }

    /// `None`: in this word there is none.
    pub(crate) fn from_word(word: u64) -> Option<SentAs> {
        let (number, rest) = (word as u32, (word >> 32) as u32);
        let connection = (rest >> CONNECTION_SHIFT).checked_sub(1).and_then(|connection| connection.try_into().ok());
        (rest & IS_UNANSWERED != 0).then_some(SentAs { number, connection })
    }
}

/// What a predecessor left, and its record.
pub type SavedWrite = (u64, UncommittedWrite);

pub struct Payloads {
    index: Region,
    arena: Arc<Arena>,
    sequence: AtomicU64,
}

impl Payloads {
    /// Finds what a predecessor left, in order of writing, for the daemon that opens the state next; also says how many
    /// records are damaged. `None` if the state has no place for it. If not the immediate predecessor has left it, it
    /// is dropped.
    /// `distrust` is
    /// told the nodes whose data cannot be sent again.
    pub fn open(header: &Header, distrust: impl Fn(u64)) -> io::Result<Option<(Payloads, Vec<SavedWrite>, u64)>> {
        let places = (header.region_if_any(&WRITES)?, header.place_if_any(&ARENA)?);
        let (Some(index), Some(place), false) = (places.0, places.1, cfg!(feature = "no-payloads")) else {
            return Ok(None);
        };
        let last = header.last_daemon();
        // The second: of one that was killed before it was counted.
        let is_of_predecessor = [last, last + 1].contains(&header.last_column(&place));
        let found = Payloads::find(index, Arena::new(header, &place), is_of_predecessor, distrust);
        // Before the next daemon is counted, or a SIGKILL in between would cost what is kept.
        header.set_last_column(&place, last + 1);
        Ok(Some(found))
    }

    fn find(
        index: Region,
        arena: Arc<Arena>,
        is_of_predecessor: bool,
        distrust: impl Fn(u64),
    ) -> (Payloads, Vec<SavedWrite>, u64) {
        let mut found = Vec::new();
        let mut blocks: HashMap<(u32, u8), Bytes> = HashMap::new();
        let mut unusable = 0;
        let mut damaged = index.scan(|id, record| {
            let content = record.read(id.generation, |sealed| decode(sealed, &arena, &mut blocks));
            match content.flatten().filter(|_| is_of_predecessor) {
                Some((sequence, write)) => found.push((sequence, (u64::from(id), write))),
                None => {
                    unusable += 1;
                    distrust(record.sealed()[NODE].load(Ordering::Relaxed));
                    record.unpublish(id.generation);
                    return false;
                }
            }
            true
        });
        if is_of_predecessor {
            damaged += unusable;
        } else if unusable > 0 {
            log::warn!("{unusable} uncommitted writes of an earlier daemon are not kept: another release served since");
        }
        if damaged > 0 {
            distrust_damaged(&index, distrust);
        }
        drop(blocks);
        if index.allocated() > 0 {
            arena.sweep();
        }
        found.sort_unstable_by_key(|(sequence, _)| *sequence);
        let next = found.last().map_or(0, |(sequence, _)| sequence + 1);
        let payloads = Payloads { index, arena, sequence: AtomicU64::new(next) };
        (payloads, found.into_iter().map(|(_, saved)| saved).collect(), damaged)
    }

    /// Writes that can be kept at once.
    pub fn capacity(&self) -> u32 {
        self.index.capacity()
    }

    /// Copies data that is about to be written.
    pub fn keep(&self, data: &[u8]) -> io::Result<KeptData> {
        self.arena.copy(data).map(KeptData::new)
    }

    /// Publishes a write whose data is a part of `kept`, and names its record. Calls for one file come in the order of
    /// its writes.
    pub fn publish(&self, kept: &KeptData, write: &UncommittedWrite) -> io::Result<u64> {
        let start = (write.data.as_ptr() as usize).wrapping_sub(kept.bytes.as_ptr() as usize);
        let is_part = start.checked_add(write.data.len()).is_some_and(|end| end <= kept.bytes.len());
        if !is_part || write.groups.len() > GROUPS_MAX {
            return Err(rustix::io::Errno::INVAL.into());
        }
        let mut sealed = [0; WRITES.sealed()];
        sealed[NODE] = write.node;
        sealed[OFFSET] = write.offset;
        sealed[SEQUENCE] = self.sequence.fetch_add(1, Ordering::Relaxed);
        sealed[VERIFIER] = u64::from_le_bytes(write.verifier);
        sealed[BLOCK] = pair(kept.page, kept.order.into());
        sealed[EXTENT] = pair(start as u32, write.data.len() as u32); // of a block, so they are small
        sealed[OWNER] = pair(write.uid, write.gid);
        sealed[CHECKSUM_AND_COUNT] = pair(write.checksum, write.groups.len() as u32);
        for (index, group) in write.groups.iter().enumerate() {
            sealed[GROUPS + index / 2] |= u64::from(*group) << (32 * (index % 2));
        }
        if let Some(call) = write.unanswered {
            debug_assert!(write.verifier == UNANSWERED, "another release would take it for answered");
            sealed[CALL] = call.to_word();
        }
        let (id, record) = self.index.take()?;
        record.publish(id.generation, &[write.node], &sealed);
        Ok(id.into())
    }

    /// The write is committed, or given up. The oldest of a file first; the data is to be dropped after this.
    pub fn remove(&self, record: u64) {
        let id = Id::from(record);
        if self.index.record(id.slot).is_some_and(|record| record.unpublish(id.generation)) {
            self.index.give_back(id.slot);
        }
    }

    #[cfg(test)]
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// Sequence number and write; `None` if there is no such block, or it is another's.
fn decode(
    sealed: &[AtomicU64],
    arena: &Arc<Arena>,
    blocks: &mut HashMap<(u32, u8), Bytes>,
) -> Option<(u64, UncommittedWrite)> {
    let word = |index: usize| sealed[index].load(Ordering::Relaxed);
    let halves = |index: usize| (word(index) as u32, (word(index) >> 32) as u32);
    let (page, order) = halves(BLOCK);
    let block = (page, u8::try_from(order).ok()?);
    if let Entry::Vacant(entry) = blocks.entry(block) {
        entry.insert(Bytes::from_owner(arena.claim(block.0, block.1)?));
    }
    let (start, length) = halves(EXTENT);
    let end = start as usize + length as usize;
    let data = blocks.get(&block).filter(|bytes| end <= bytes.len())?.slice(start as usize..end);
    let (uid, gid) = halves(OWNER);
    let (checksum, count) = halves(CHECKSUM_AND_COUNT);
    let group = |index: usize| (word(GROUPS + index / 2) >> (32 * (index % 2))) as u32;
    let write = UncommittedWrite {
        node: word(NODE),
        offset: word(OFFSET),
        data,
        checksum,
        verifier: word(VERIFIER).to_le_bytes(),
        uid,
        gid,
        groups: (0..(count as usize).min(GROUPS_MAX)).map(group).collect(),
        unanswered: SentAs::from_word(word(CALL)),
    };
    Some((word(SEQUENCE), write))
}

/// Tells which nodes damaged records may have been about, and sees to it that no successor is told again.
fn distrust_damaged(index: &Region, distrust: impl Fn(u64)) {
    let records = (0..index.allocated()).filter_map(|slot| index.record(slot));
    for record in records.filter(|record: &Record<'_>| record.examine() == Found::Damaged) {
        for word in [&record.mutable()[NODE_COPY], &record.sealed()[NODE]] {
            distrust(word.load(Ordering::Relaxed));
            word.store(0, Ordering::Relaxed);
        }
    }
}
