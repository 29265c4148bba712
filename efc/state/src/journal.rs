//! The journal: what was begun for a request that must not be executed twice, and what was answered.
//!
//! An *intent* is published before the call to the NAS leaves: the call's xid, and what has to be known from before to
//! tell afterwards whether it was executed. What the call made is *noted* where a second call must follow. The *answer*
//! is saved before the kernel is told, and the entry ends when the kernel has taken it. A successor that is delivered
//! the request again gives the saved answer; without one, the file system compares; without an intent, nothing has
//! left.
//!
//! An entry is one record. Its intent is sealed; note and answer are added while it is live, in mutable words, each
//! under a checksum of its own in a word that is stored last: a torn one counts as absent, which is the state before
//! it.
//!
//! A request may never be delivered again: its caller was killed, or the kernel had taken the answer and only the end
//! was not saved. Entries of a predecessor that nobody claims are dropped ([`Journal::drop_unclaimed`]).

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use foldhash::HashMap;

use super::file_handles::{HANDLE_WORDS, Rest, pack_handle, unpack_handle};
use super::mapping::WORD;
use super::record::{Id, Record, pack, unpack};
use super::region::Region;
use super::regions::JOURNAL;

/// Longest answer, in bytes: that of CREATE has 144.
pub const ANSWER_MAX: usize = 152;
const ANSWER_WORDS: usize = ANSWER_MAX / WORD;

// Mutable words. A head word holds a checksum in its upper half; 0 is none.
const NOTE_HEAD: usize = 0;
const NOTE: usize = 1;
const ANSWER_HEAD: usize = NOTE + HANDLE_WORDS;
const ANSWER: usize = ANSWER_HEAD + 1;
// Sealed words.
const UNIQUE: usize = 0;
/// xid in the lower half, then the lengths of both handles, and their last bytes if they have 65.
const XID_AND_LENGTHS: usize = 1;
const PLACE: usize = 2;
const OBJECT: usize = 3;
const OTHER: usize = OBJECT + HANDLE_WORDS;

const _: () = assert!(JOURNAL.mutable >= ANSWER + ANSWER_WORDS && JOURNAL.sealed() >= OTHER + HANDLE_WORDS);

/// In a head: there is one. Below it an errno, above it a length in bytes.
const PRESENT: u32 = 1 << 15;
/// In the number of a note: the byte below it is the 65th of the handle.
const LAST: u32 = 1 << 8;
/// Bytes of a handle that lie in a note's words.
const NOTE_BYTES: usize = HANDLE_WORDS * WORD;
const SHARDS: usize = 16;

/// What is known of a call before it leaves. What a request has no use for stays empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// The number of the call (of NFS: its xid).
    pub xid: u32,
    /// Where an append goes, or a mark that what the call makes is known by.
    pub place: u64,
    /// Handle of what the call removes or moves, at most [`crate::FILE_HANDLE_MAX`] bytes.
    pub object: Vec<u8>,
    /// Handle of what it replaces.
    pub other: Vec<u8>,
    /// Handle of what it made, as noted since.
    pub made: Vec<u8>,
}

struct OwnIntent {
    id: Id,
    /// The entry is a predecessor's, and its request was not delivered again.
    unclaimed: bool,
}

type Shard = HashMap<u64, OwnIntent>;

/// The journal of this daemon and its predecessors.
pub struct Journal {
    /// `None`: the state was made by a release without a journal.
    region: Option<Region>,
    shards: [Mutex<Shard>; SHARDS],
}

impl Journal {
    /// Finds what a predecessor left; also says how many records are damaged.
    pub fn open(region: Option<Region>) -> (Journal, u64) {
        let shards: [Mutex<Shard>; SHARDS] = Default::default();
        let mut journal = Journal { region: None, shards };
        let Some(region) = region.filter(|_| !cfg!(feature = "no-journal")) else { return (journal, 0) };
        let damaged = region.scan(|id, record| {
            let unique = record.sealed()[UNIQUE].load(Ordering::Relaxed);
            journal.shard(unique).insert(unique, OwnIntent { id, unclaimed: true });
            true
        });
        journal.region = Some(region);
        (journal, damaged)
    }

    /// Whether there is one.
    pub fn is_kept(&self) -> bool {
        self.region.is_some()
    }

    fn shard(&self, unique: u64) -> MutexGuard<'_, Shard> {
        // As in `inflight`: uniques are even, and on newer kernels in one sequence per CPU.
        let mixed = unique.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.shards[(mixed >> 60) as usize % SHARDS].lock().expect("journal lock")
    }

    /// Publishes an intent, in place of an earlier one of this request.
    pub fn begin(&self, unique: u64, intent: &Intent) -> io::Result<()> {
        let Some(region) = &self.region else { return Ok(()) };
        let mut sealed = [0; JOURNAL.sealed()];
        sealed[UNIQUE] = unique;
        let invalid = || rustix::io::Errno::INVAL;
        let object = pack_handle(&intent.object, &mut sealed[OBJECT..OTHER]).ok_or_else(invalid)?;
        let other = pack_handle(&intent.other, &mut sealed[OTHER..]).ok_or_else(invalid)?;
        let rests = [object.length, other.length, object.last, other.last];
        sealed[XID_AND_LENGTHS] = u64::from(intent.xid) | u64::from(u32::from_le_bytes(rests)) << 32;
        sealed[PLACE] = intent.place;
        let (id, record) = region.take()?;
        record.publish(id.generation, &[], &sealed);
        let earlier = self.shard(unique).insert(unique, OwnIntent { id, unclaimed: false });
        earlier.into_iter().for_each(|entry| free(region, entry.id));
        Ok(())
    }

    /// What `look` finds in the live record of this request.
    fn with<T>(&self, unique: u64, look: impl FnOnce(Id, &Record<'_>) -> Option<T>) -> Option<T> {
        let region = self.region.as_ref()?;
        let shard = self.shard(unique);
        let id = shard.get(&unique)?.id;
        look(id, &region.record(id.slot)?)
    }

    /// What was begun for this request.
    pub fn intent(&self, unique: u64) -> Option<Intent> {
        self.with(unique, |id, record| {
            let intent = record.read(id.generation, decode)?;
            let made = added(id, record, NOTE_HEAD, NOTE..ANSWER_HEAD).map_or(Vec::new(), whole_handle);
            Some(Intent { made, ..intent })
        })
    }

    /// Notes the handle of what the call has made. Ignored without an intent.
    pub fn note_made(&self, unique: u64, handle: &[u8]) {
        let number = handle.get(NOTE_BYTES).map_or(0, |last| LAST | u32::from(*last));
        let first = &handle[..handle.len().min(NOTE_BYTES)];
        self.with(unique, |id, record| add(id, record, NOTE_HEAD, NOTE..ANSWER_HEAD, number, first));
    }

    /// Saves the answer to a request that has an intent: an errno or 0, and its content.
    pub fn save_answer(&self, unique: u64, errno: i32, content: &[u8]) {
        self.with(unique, |id, record| add(id, record, ANSWER_HEAD, ANSWER..JOURNAL.mutable, errno as u32, content));
    }

    /// The saved answer, to a request that is delivered again.
    pub fn answer(&self, unique: u64) -> Option<(i32, Vec<u8>)> {
        let (errno, content) =
            self.with(unique, |id, record| added(id, record, ANSWER_HEAD, ANSWER..JOURNAL.mutable))?;
        Some((errno as i32, content))
    }

    /// The request was delivered again: its entry is not to be dropped.
    pub fn claim(&self, unique: u64) {
        self.shard(unique).entry(unique).and_modify(|entry| entry.unclaimed = false);
    }

    /// The kernel has taken the answer, or wants none. Nothing happens if there is no entry.
    pub fn end(&self, unique: u64) {
        let Some(region) = &self.region else { return };
        let ended = self.shard(unique).remove(&unique);
        ended.into_iter().for_each(|entry| free(region, entry.id));
    }

    /// Drops the entries of a predecessor whose requests were not delivered again; says how many.
    pub fn drop_unclaimed(&self) -> usize {
        let Some(region) = &self.region else { return 0 };
        let drop_in = |shard: &Mutex<Shard>| {
            let mut shard = shard.lock().expect("journal lock");
            let dropped = shard.extract_if(|_, entry| entry.unclaimed).map(|(_, entry)| free(region, entry.id));
            dropped.count()
        };
        self.shards.iter().map(drop_in).sum()
    }

    /// How many entries there are.
    pub fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().expect("journal lock").len()).sum()
    }
}

fn free(region: &Region, id: Id) {
    if region.record(id.slot).is_some_and(|record| record.unpublish(id.generation)) {
        region.give_back(id.slot);
    }
}

fn decode(sealed: &[AtomicU64]) -> Intent {
    let word = |index: usize| sealed[index].load(Ordering::Relaxed);
    let [object, other, last_of_object, last_of_other] = ((word(XID_AND_LENGTHS) >> 32) as u32).to_le_bytes();
    let handle = |from: usize, length, last| unpack_handle(&sealed[from..], Rest { length, last });
    Intent {
        xid: word(XID_AND_LENGTHS) as u32,
        place: word(PLACE),
        object: handle(OBJECT, object, last_of_object),
        other: handle(OTHER, other, last_of_other),
        made: Vec::new(),
    }
}

/// The handle that was noted.
fn whole_handle((number, mut handle): (u32, Vec<u8>)) -> Vec<u8> {
    if number & LAST != 0 {
        handle.push(number as u8);
    }
    handle
}

/// Adds a note or an answer to a live record. What does not fit is not added: the file system compares then.
fn add(
    id: Id,
    record: &Record<'_>,
    head: usize,
    body: std::ops::Range<usize>,
    number: u32,
    bytes: &[u8],
) -> Option<()> {
    let words = record.mutable().get(body)?;
    if bytes.len() > words.len() * WORD || number >= PRESENT {
        return None;
    }
    let mut packed = [0; JOURNAL.mutable];
    pack(bytes, &mut packed);
    words.iter().zip(packed).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
    let low = number | PRESENT | (bytes.len() as u32) << 16;
    let checksum = checksum(id, low, bytes);
    record.mutable()[head].store(u64::from(low) | u64::from(checksum) << 32, Ordering::Release);
    Some(())
}

/// What was added, if it is whole.
fn added(id: Id, record: &Record<'_>, head: usize, body: std::ops::Range<usize>) -> Option<(u32, Vec<u8>)> {
    let word = record.mutable()[head].load(Ordering::Acquire);
    let low = word as u32;
    if low & PRESENT == 0 {
        return None;
    }
    let bytes = unpack(record.mutable().get(body)?, (low >> 16) as usize);
    (checksum(id, low, &bytes) == (word >> 32) as u32).then_some((low & (PRESENT - 1), bytes))
}

fn checksum(id: Id, low: u32, bytes: &[u8]) -> u32 {
    let seed = crc32c::crc32c(&u64::from(id).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &low.to_le_bytes()), bytes)
}
