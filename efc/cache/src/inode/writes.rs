//! Written data that the server has not committed: what of it each file has, and how much there is of it altogether.
//!
//! A [`Chunk`] is one write. It may be held back ([`Stage::Unsent`]), be in flight, or be answered and wait for COMMIT. The chunks
//! of a file have one order, that of their ids: of bytes that were written twice the later chunk's count. What is held back
//! is gathered when it is sent ([`Pending::take_piece`]): a [`Piece`] is adjacent data of one credential, as much as one call
//! carries. Data is never sent before older data of the same bytes, nor while older data of these is in flight.
//!
//! Where the data lies and how it is described for a later process is the matter of whoever keeps it; here a chunk has the
//! number of its record and nothing more. A file with such data stays, whatever the kernel forgets.

use efc_tasks::sync::atomic::{AtomicU64, Ordering};
use efc_tasks::sync::{Mutex, MutexGuard};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use efc_backend::{Cred, FileHandle, Tick, Ticket, Verifier, WccAttr};
use foldhash::HashMap;
use foldhash::fast::RandomState;
use indexmap::IndexMap;
use tokio::sync::Notify;

use crate::covered::Covered;
use crate::inode::Inode;

/// Pieces of one file that are in flight at a time.
const PIECES_MAX: usize = 8;
/// Chunks that a piece does not take, before it looks at no more.
const SKIPPED_MAX: usize = 64;

/// All files with uncommitted data.
pub struct Writes {
    usage: Arc<Usage>,
    /// In the order in which they came to be here, nearly: no table's order of hashes decides what is sent first.
    files: Mutex<IndexMap<FileHandle, Arc<Inode>, RandomState>>,
}

/// What waits for COMMIT, and its limits.
struct Usage {
    /// Data that waits.
    bytes: AtomicU64,
    /// Memory that it takes, and that of writes on their way.
    memory: AtomicU64,
    memory_max: u64,
    /// Writes that wait.
    count: AtomicU64,
    count_max: u64,
    /// Data that the server has not answered.
    unanswered_bytes: AtomicU64,
    /// Data that waits, of each user.
    by_user: Mutex<HashMap<u32, u64>>,
}

/// Memory for a write on its way: what no write has taken over goes back.
pub struct Room {
    usage: Arc<Usage>,
    memory: u64,
}

/// The uncommitted data of one file.
#[derive(Default)]
pub struct FileWrites {
    /// Held shared by a write until it is recorded, exclusively while everything is sent again.
    pub order: tokio::sync::RwLock<()>,
    /// One COMMIT at a time.
    pub committing: Arc<tokio::sync::Mutex<()>>,
    /// Of what is pending.
    bytes: AtomicU64,
    /// What waits.
    pending: Mutex<Pending>,
    /// A piece was answered.
    pub answered: Notify,
    /// The place among all answers of the last answer to a piece: what was asked before does not show the piece.
    shown_from: AtomicU64,
}

/// What waits for COMMIT of one file.
#[derive(Default)]
pub struct Pending {
    /// By their ids.
    chunks: Vec<Chunk>,
    /// The verifier of data that waits and is not kept: with another one at the server, it is lost.
    pub unkept: Option<Verifier>,
    /// The id of the next chunk.
    next_id: u64,
    /// Chunks that are held back, and their bytes.
    unsent: usize,
    unsent_bytes: u64,
    /// When the oldest of them was written.
    unsent_since: Option<Instant>,
    /// Chunks before this id are to be sent as soon as possible.
    wanted: u64,
    /// The bytes of each piece in flight.
    in_flight: Vec<Range<u64>>,
    /// Pieces so far.
    pieces: u64,
    /// Where unanswered data ends, or has ended since there is any.
    unanswered_end: u64,
    /// Writes that are not held back, under way or about to be.
    through: u32,
    /// Calls of an earlier process are to be answered before anything is sent.
    pub is_blocked: bool,
    /// The end of the file by our own appends.
    own_end: Option<OwnEnd>,
    /// Another node appends to the file: its end is asked for before each append.
    pub is_shared: bool,
}

/// The end of a file by this node's own appends.
#[derive(Clone, Copy, Debug)]
struct OwnEnd {
    end: u64,
    /// The last append.
    at: Instant,
}

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

/// Adjacent data of one credential, for one call.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Where in the file.
    pub range: Range<u64>,
    /// The data.
    pub data: Bytes,
    /// In whose name.
    pub cred: Cred,
    /// The record of its newest chunk.
    pub record: Option<u64>,
    /// Its chunks.
    ids: Vec<u64>,
    /// Where its first appended data begins.
    append_at: Option<u64>,
    /// Among the pieces of the file.
    number: u64,
    /// Nothing else of the file was in flight when it was taken.
    is_alone: bool,
}

impl Piece {
    /// The ids of its chunks.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }
}

impl FileWrites {
    /// What waits, as long as this is held.
    pub fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("pending lock")
    }
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

impl Usage {
    fn is_full(&self, memory: u64) -> bool {
        memory > self.memory_max || self.count.load(Ordering::Relaxed) >= self.count_max
    }

    fn add(&self, chunk: &Chunk) {
        self.bytes.fetch_add(chunk.data.len() as u64, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        if chunk.stage != Stage::Written {
            self.unanswered_bytes.fetch_add(chunk.data.len() as u64, Ordering::Relaxed);
        }
        *self.users().entry(chunk.cred.uid).or_default() += chunk.data.len() as u64;
    }

    fn users(&self) -> MutexGuard<'_, HashMap<u32, u64>> {
        self.by_user.lock().expect("users lock")
    }

    fn subtract(&self, chunk: &Chunk) {
        self.bytes.fetch_sub(chunk.data.len() as u64, Ordering::Relaxed);
        self.memory.fetch_sub(chunk.memory, Ordering::Relaxed);
        self.count.fetch_sub(1, Ordering::Relaxed);
        if chunk.stage != Stage::Written {
            self.unanswered_bytes.fetch_sub(chunk.data.len() as u64, Ordering::Relaxed);
        }
        let mut users = self.users();
        if let Some(bytes) = users.get_mut(&chunk.cred.uid) {
            *bytes -= chunk.data.len() as u64;
            if *bytes == 0 {
                users.remove(&chunk.cred.uid);
            }
        }
    }
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

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

fn touch(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start <= other.end && other.start <= one.end
}

impl Room {
    /// Hands over as much, or what is left.
    pub fn take(&mut self, memory: u64) -> u64 {
        let taken = memory.min(self.memory);
        self.memory -= taken;
        taken
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.usage.memory.fetch_sub(self.memory, Ordering::Relaxed);
    }
}

impl Pending {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.unkept.is_none()
    }

    /// What waits and is kept, in the order of the writes.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// How many chunks at the beginning the server has answered.
    pub fn answered_first(&self) -> usize {
        self.chunks.iter().position(|chunk| chunk.stage != Stage::Written).unwrap_or(self.chunks.len())
    }

    /// Is there data that the server has not answered?
    pub fn has_unanswered(&self) -> bool {
        self.unsent > 0 || !self.in_flight.is_empty()
    }

    /// Bytes that are held back.
    pub fn unsent_bytes(&self) -> u64 {
        self.unsent_bytes
    }

    /// When the oldest data was written that is held back.
    pub fn unsent_since(&self) -> Option<Instant> {
        self.unsent_since
    }

    /// Where unanswered data ends; `None` if there is none.
    pub fn unanswered_end(&self) -> Option<u64> {
        self.has_unanswered().then_some(self.unanswered_end)
    }

    /// All that was written so far is to be sent as soon as possible: chunks before the id that this answers.
    pub fn want_all(&mut self) -> u64 {
        self.wanted = self.next_id;
        self.next_id
    }

    /// Is a chunk before this id unanswered?
    pub fn has_unanswered_before(&self, id: u64) -> bool {
        let earlier = self.chunks.iter().take_while(|chunk| chunk.id < id);
        self.has_unanswered() && earlier.into_iter().any(|chunk| chunk.stage != Stage::Written)
    }

    /// A write that is not held back is about to begin: until [`Pending::end_through`] none is.
    pub fn begin_through(&mut self) {
        self.through += 1;
    }

    /// The end of what [`Pending::begin_through`] began.
    pub fn end_through(&mut self) {
        self.through -= 1;
    }

    /// May a write be held back now?
    pub fn may_hold_back(&self) -> bool {
        self.through == 0 && !self.is_blocked
    }

    /// Where the next append goes, if one went there since `since`.
    pub fn own_end(&self, since: Instant) -> Option<u64> {
        self.own_end.filter(|own| own.at >= since && !self.is_shared).map(|own| own.end)
    }

    /// The file was written up to `end`, by an append if `appends`.
    pub fn wrote(&mut self, end: u64, appends: bool) {
        match &mut self.own_end {
            Some(own) if !appends => own.end = own.end.max(end),
            own if appends => *own = Some(OwnEnd { end, at: efc_tasks::time::now() }),
            _ => {}
        }
    }

    /// The end of the file is not known any more.
    pub fn forget_end(&mut self) {
        self.own_end = None;
    }

    /// The next piece to send, of at most `max` bytes unless one chunk is longer; it is in flight from now on. `None`: nothing
    /// more is to be sent now.
    pub fn take_piece(&mut self, max: u64) -> Option<Piece> {
        if self.unsent == 0 || self.in_flight.len() >= PIECES_MAX || self.is_blocked {
            return None;
        }
        let mut skipped: Vec<Range<u64>> = Vec::new();
        let mut taken: Vec<usize> = Vec::new();
        let mut range = 0..0;
        for (index, chunk) in self.chunks.iter().enumerate().filter(|(_, chunk)| chunk.stage == Stage::Unsent) {
            let own = chunk.range();
            let first = taken.first().map(|first| &self.chunks[*first]);
            let is_wanted = match first {
                None if chunk.id >= self.wanted => return None,
                None => true,
                Some(first) => {
                    let length = range.end.max(own.end) - range.start.min(own.start);
                    chunk.cred == first.cred && touch(&range, &own) && length <= max
                }
            };
            if !is_wanted || self.in_flight.iter().chain(&skipped).any(|other| overlap(other, &own)) {
                skipped.push(own);
                if skipped.len() >= SKIPPED_MAX {
                    break;
                }
                continue;
            }
            range = if taken.is_empty() { own } else { range.start.min(own.start)..range.end.max(own.end) };
            taken.push(index);
            if range.end - range.start >= max {
                break;
            }
        }
        (!taken.is_empty()).then(|| self.fly(range, &taken))
    }

    /// These chunks leave as one piece.
    fn fly(&mut self, range: Range<u64>, taken: &[usize]) -> Piece {
        let chunks = || taken.iter().map(|index| &self.chunks[*index]);
        let newest = &self.chunks[*taken.last().expect("a piece has chunks")];
        let data = if taken.len() == 1 { newest.data.clone() } else { gather(&range, chunks()) };
        let piece = Piece {
            range: range.clone(),
            data,
            cred: newest.cred.clone(),
            record: newest.record,
            ids: chunks().map(|chunk| chunk.id).collect(),
            append_at: chunks().find(|chunk| chunk.appends).map(|chunk| chunk.offset),
            number: self.pieces + 1,
            is_alone: self.in_flight.is_empty(),
        };
        self.pieces += 1;
        for index in taken {
            self.chunks[*index].stage = Stage::InFlight;
            self.unsent_bytes -= self.chunks[*index].data.len() as u64;
        }
        self.unsent -= taken.len();
        self.note_oldest();
        self.in_flight.push(range);
        piece
    }

    /// The chunks up to that of `record` that lie in `range` are in flight since an earlier process: they are one piece.
    pub fn take_sent(&mut self, range: Range<u64>, record: u64) -> Option<Piece> {
        let last = self.chunks.iter().position(|chunk| chunk.record == Some(record))?;
        let cred = self.chunks[last].cred.clone();
        let is_part = |chunk: &Chunk| {
            let own = chunk.range();
            chunk.stage == Stage::Unsent && chunk.cred == cred && range.start <= own.start && own.end <= range.end
        };
        let taken: Vec<usize> = (0..=last).filter(|index| is_part(&self.chunks[*index])).collect();
        let mut covered = Covered::default();
        let parts = taken.iter().flat_map(|index| covered.cover(self.chunks[*index].range()));
        let length: u64 = parts.map(|part| part.end - part.start).sum();
        (length == range.end - range.start).then(|| self.fly(range, &taken))
    }

    fn note_oldest(&mut self) {
        let mut unsent = self.chunks.iter().filter(|chunk| chunk.stage == Stage::Unsent);
        self.unsent_since = if self.unsent == 0 { None } else { unsent.next().map(|chunk| chunk.written_at) };
    }

    /// Is all that waits held back?
    pub fn is_all_unsent(&self) -> bool {
        self.unsent == self.chunks.len() && self.in_flight.is_empty() && self.unkept.is_none()
    }

    /// The records of a piece's chunks.
    pub fn records_of<'a>(&'a self, piece: &'a Piece) -> impl Iterator<Item = u64> + 'a {
        piece.ids.iter().filter_map(|id| self.chunks[self.index_of(*id)?].record)
    }

    /// Is the piece still to be sent? It is not if all was sent again meanwhile.
    pub fn is_in_flight(&self, piece: &Piece) -> bool {
        piece.ids.iter().all(|id| self.index_of(*id).is_some())
    }

    fn index_of(&self, id: u64) -> Option<usize> {
        self.chunks.binary_search_by_key(&id, |chunk| chunk.id).ok()
    }

    /// The piece is not in flight any more.
    pub fn land(&mut self, piece: &Piece) {
        if let Some(index) = self.in_flight.iter().position(|range| *range == piece.range) {
            self.in_flight.swap_remove(index);
        }
    }

    /// Takes in what the answer to a piece says of the file's size; `true` if another node has appended beside ours.
    pub fn sized(&mut self, piece: &Piece, before: Option<WccAttr>, after: Option<u64>) -> bool {
        if let (Some(own), Some(after)) = (&mut self.own_end, after) {
            own.end = own.end.max(after);
        }
        let is_only = piece.is_alone && self.pieces == piece.number;
        let is_longer = |(at, before): (u64, WccAttr)| before.size > at;
        let is_other = is_only && piece.append_at.zip(before).is_some_and(is_longer);
        self.is_shared |= is_other;
        is_other
    }

    /// Fills `into` with the file's bytes from `offset` on, if all of them are unanswered data.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        let asked = offset..offset + into.len() as u64;
        let parts =
            || self.chunks.iter().filter(|chunk| chunk.stage != Stage::Written && overlap(&chunk.range(), &asked));
        let cut = |chunk: &Chunk| chunk.offset.max(asked.start)..chunk.range().end.min(asked.end);
        let mut covered = Covered::default();
        let length: u64 = parts().flat_map(|chunk| covered.cover(cut(chunk))).map(|part| part.end - part.start).sum();
        if length < into.len() as u64 {
            return false;
        }
        for chunk in parts() {
            let part = cut(chunk);
            let from = (part.start - chunk.offset) as usize..(part.end - chunk.offset) as usize;
            into[(part.start - offset) as usize..(part.end - offset) as usize].copy_from_slice(&chunk.data[from]);
        }
        true
    }
}

/// The bytes of `range`, of which each is one of the chunks': the last one's.
fn gather<'a>(range: &Range<u64>, chunks: impl Iterator<Item = &'a Chunk>) -> Bytes {
    let mut data = vec![0; (range.end - range.start) as usize];
    for chunk in chunks {
        let at = (chunk.offset - range.start) as usize;
        data[at..at + chunk.data.len()].copy_from_slice(&chunk.data);
    }
    data.into()
}

impl Writes {
    /// At most `memory_max` bytes and `count_max` writes wait for COMMIT.
    pub fn new(memory_max: u64, count_max: u64) -> Writes {
        let (bytes, memory, count, unanswered_bytes, by_user) = Default::default();
        let usage = Usage { bytes, memory, memory_max, count, count_max, unanswered_bytes, by_user };
        Writes { usage: Arc::new(usage), files: Mutex::default() }
    }

    /// Memory for data that waits.
    pub fn memory_max(&self) -> u64 {
        self.usage.memory_max
    }

    /// Bytes of which the server has not answered that it has them.
    pub fn unanswered_bytes(&self) -> u64 {
        self.usage.unanswered_bytes.load(Ordering::Relaxed)
    }

    /// Does anything wait?
    pub fn is_empty(&self) -> bool {
        self.usage.count.load(Ordering::Relaxed) == 0
    }

    /// When the oldest data was written that is held back.
    pub fn unsent_since(&self) -> Option<Instant> {
        let since = |file: Arc<Inode>| file.writes().pending().unsent_since();
        self.files().into_iter().filter_map(since).min()
    }

    /// What is to be committed before more is written to this file by this user: the file, if it alone takes three quarters of the
    /// memory (at half of it all begins to be committed), or the largest file at its server of the user who takes seven eighths.
    pub fn too_large(
        &self,
        file: &Arc<Inode>,
        uid: u32,
        is_of_its_server: impl Fn(&Inode) -> bool,
    ) -> Option<Arc<Inode>> {
        if file.writes().bytes.load(Ordering::Relaxed) * 4 >= self.usage.memory_max * 3 {
            return Some(file.clone());
        }
        let of_user = self.usage.users().get(&uid).copied().unwrap_or(0);
        if of_user * 8 < self.usage.memory_max * 7 {
            return None;
        }
        let bytes_of = |file: &Arc<Inode>| {
            let pending = file.writes().pending();
            let own = pending.chunks.iter().filter(|chunk| chunk.cred.uid == uid);
            own.map(|chunk| chunk.data.len() as u64).sum::<u64>()
        };
        let files = self.files().into_iter().filter(|file| is_of_its_server(file));
        files.max_by_key(bytes_of).filter(|file| bytes_of(file) > 0)
    }

    /// Bytes that wait for COMMIT.
    pub fn bytes(&self) -> u64 {
        self.usage.bytes.load(Ordering::Relaxed)
    }

    /// Is half of a limit used?
    pub fn is_half_full(&self) -> bool {
        let Usage { memory, memory_max, count, count_max, .. } = &*self.usage;
        memory.load(Ordering::Relaxed) * 2 >= *memory_max || count.load(Ordering::Relaxed) * 2 >= *count_max
    }

    /// Memory for a write, if it fits.
    pub fn reserve(&self, memory: u64) -> Option<Room> {
        let more = |used: u64| Some(used + memory).filter(|sum| !self.usage.is_full(*sum));
        self.usage.memory.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Room { usage: self.usage.clone(), memory })
    }

    /// Memory that a write of a predecessor takes already.
    pub fn inherit(&self, memory: u64) {
        self.usage.memory.fetch_add(memory, Ordering::Relaxed);
    }

    /// The file with the most uncommitted bytes, of those that are `among` the ones to look at.
    pub fn largest(&self, among: impl Fn(&Inode) -> bool) -> Option<Arc<Inode>> {
        let files = self.files.lock().expect("writes lock");
        let bytes = |file: &&Arc<Inode>| file.writes().bytes.load(Ordering::Relaxed);
        files.values().filter(|file| bytes(file) > 0 && among(file)).max_by_key(bytes).cloned()
    }

    /// All files with uncommitted data.
    pub fn files(&self) -> Vec<Arc<Inode>> {
        self.files.lock().expect("writes lock").values().cloned().collect()
    }

    /// A chunk of the file waits from now on. `pending` is the file's.
    pub fn add(&self, file: &Arc<Inode>, pending: &mut Pending, mut chunk: Chunk) {
        chunk.id = pending.next_id;
        pending.next_id += 1;
        if chunk.stage == Stage::Unsent {
            if !pending.has_unanswered() {
                pending.unanswered_end = 0;
            }
            pending.unsent += 1;
            pending.unsent_bytes += chunk.data.len() as u64;
            pending.unsent_since = pending.unsent_since.or(Some(chunk.written_at));
            pending.unanswered_end = pending.unanswered_end.max(chunk.range().end);
        }
        self.usage.add(&chunk);
        file.writes().bytes.fetch_add(chunk.data.len() as u64, Ordering::Relaxed);
        if pending.chunks.is_empty() {
            self.files.lock().expect("writes lock").insert(*file.handle(), file.clone());
        }
        pending.chunks.push(chunk);
    }

    /// The server has answered the write of this record now, with its verifier; `None`: it has refused it, and it waits no more.
    pub fn answered(&self, file: &Inode, pending: &mut Pending, record: u64, verifier: Option<Verifier>) {
        let Some(index) = pending.chunks.iter().position(|chunk| chunk.record == Some(record)) else { return };
        if let Some(verifier) = verifier {
            pending.chunks[index].verifier = verifier;
            pending.chunks[index].unanswered = None;
            return;
        }
        let refused = pending.chunks.remove(index);
        self.forget(file, pending, &refused);
    }

    /// The server has answered a piece, with its verifier, and may lose it; or, if `is_stable`, it may not.
    pub fn written(
        &self,
        file: &Inode,
        pending: &mut Pending,
        piece: &Piece,
        (verifier, is_stable): (Verifier, bool),
        retire: impl FnMut(&Chunk),
    ) {
        pending.land(piece);
        for id in &piece.ids {
            let Some(index) = pending.index_of(*id) else { continue };
            let chunk = &mut pending.chunks[index];
            self.usage.unanswered_bytes.fetch_sub(chunk.data.len() as u64, Ordering::Relaxed);
            (chunk.stage, chunk.verifier) = (Stage::Written, verifier);
        }
        // An earlier write that waits may be sent again: this one must follow it then, stable or not.
        let are_first = pending.chunks.iter().zip(&piece.ids).take_while(|(chunk, id)| chunk.id == **id).count();
        if is_stable && are_first == piece.ids.len() {
            self.remove(file, pending, are_first, retire);
        }
        self.show(file);
    }

    /// The server has refused a piece: its data is dropped. `retire` is told of each chunk before it goes.
    pub fn refused(&self, file: &Inode, pending: &mut Pending, piece: &Piece, mut retire: impl FnMut(&Chunk)) {
        pending.land(piece);
        for id in &piece.ids {
            let Some(index) = pending.index_of(*id) else { continue };
            retire(&pending.chunks[index]);
            let chunk = pending.chunks.remove(index);
            self.forget(file, pending, &chunk);
        }
        let unanswered = pending.chunks.iter().filter(|chunk| chunk.stage != Stage::Written);
        pending.unanswered_end = unanswered.map(|chunk| chunk.range().end).max().unwrap_or(0);
        pending.own_end = None;
        self.show(file);
    }

    fn show(&self, file: &Inode) {
        file.writes().shown_from.store(Tick::of_answer().order, Ordering::Release);
    }

    /// The first `count` chunks of the file do not wait any more; `retire` is told of each before it goes, the oldest
    /// first.
    pub fn remove(&self, file: &Inode, pending: &mut Pending, count: usize, mut retire: impl FnMut(&Chunk)) {
        let mut is_shown = true;
        for chunk in pending.chunks.drain(..count) {
            retire(&chunk);
            self.usage.subtract(&chunk);
            file.writes().bytes.fetch_sub(chunk.data.len() as u64, Ordering::Relaxed);
            is_shown &= chunk.stage == Stage::Written;
            if chunk.stage == Stage::Unsent {
                pending.unsent -= 1;
                pending.unsent_bytes -= chunk.data.len() as u64;
            }
        }
        if !is_shown {
            pending.note_oldest();
            self.show(file);
        }
        self.unlist_if_settled(file, pending);
    }

    fn forget(&self, file: &Inode, pending: &Pending, chunk: &Chunk) {
        self.usage.subtract(chunk);
        file.writes().bytes.fetch_sub(chunk.data.len() as u64, Ordering::Relaxed);
        self.unlist_if_settled(file, pending);
    }

    fn unlist_if_settled(&self, file: &Inode, pending: &Pending) {
        if pending.chunks.is_empty() {
            self.files.lock().expect("writes lock").swap_remove(file.handle());
        }
    }
}

impl Inode {
    /// What was written to the file and is not committed.
    pub fn writes(&self) -> &FileWrites {
        self.writes.get_or_init(Box::default)
    }

    /// Does any of it wait?
    pub fn has_uncommitted(&self) -> bool {
        self.writes.get().is_some_and(|writes| !writes.pending().is_empty())
    }

    /// Is there written data that the server has not answered?
    pub fn has_unanswered(&self) -> bool {
        self.writes.get().is_some_and(|writes| writes.pending().has_unanswered())
    }

    /// Does an answer to a call of this tick show all that was written when its caller asked for it? Not while data is held back
    /// or in flight, nor if the call left before the last answer to such data.
    pub fn shows_all(&self, asked: Tick) -> bool {
        let Some(writes) = self.writes.get() else { return true };
        !self.has_unanswered() && asked.order >= writes.shown_from.load(Ordering::Acquire)
    }

    /// Fills `into` with the file's bytes from `offset` on, if all of them are data that the server has not answered.
    pub fn read_unanswered(&self, offset: u64, into: &mut [u8]) -> bool {
        self.writes.get().is_some_and(|writes| writes.pending().read(offset, into))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::handle;

    fn chunk(length: usize, memory: u64) -> Chunk {
        let data = Bytes::from(vec![7; length]);
        Chunk { memory, ..Chunk::new(0, (data, 0), Cred::root(), [0; 8]) }
    }

    #[test]
    fn there_is_room_up_to_the_limits_and_what_is_not_used_goes_back() {
        let writes = Writes::new(100, 2);
        let mut room = writes.reserve(60).expect("it fits");
        assert!(writes.reserve(60).is_none() && writes.is_half_full());
        assert_eq!([room.take(20), room.take(u64::MAX)], [20, 40]);
        drop(room);
        assert!(writes.reserve(60).is_none(), "taken over by writes");
        let inodes = crate::testing::inodes();
        let file = inodes.of(&handle(b"file"));
        let mut pending = file.writes().pending();
        for memory in [20, 40] {
            writes.add(&file, &mut pending, chunk(memory as usize, memory));
        }
        assert!(writes.reserve(1).is_none(), "two writes wait");
        assert_eq!(writes.bytes(), 60);
        let mut retired = Vec::new();
        writes.remove(&file, &mut pending, 2, |chunk| retired.push(chunk.memory));
        assert_eq!((retired, writes.bytes()), (vec![20, 40], 0));
        assert!(writes.reserve(100).is_some());
    }

    fn held(offset: u64, data: &[u8], uid: u32) -> Chunk {
        let cred = Cred { uid, ..Cred::root() };
        Chunk { offset, data: Bytes::copy_from_slice(data), stage: Stage::Unsent, cred, ..chunk(0, 0) }
    }

    struct Scene {
        writes: Writes,
        file: Arc<Inode>,
    }

    impl Scene {
        fn new(chunks: &[(u64, &[u8], u32)]) -> Scene {
            let scene =
                Scene { writes: Writes::new(1 << 20, 100), file: crate::testing::inodes().of(&handle(b"file")) };
            chunks.iter().for_each(|(offset, data, uid)| scene.add(held(*offset, data, *uid)));
            scene
        }

        fn pending(&self) -> MutexGuard<'_, Pending> {
            self.file.writes().pending()
        }

        fn add(&self, chunk: Chunk) {
            self.writes.add(&self.file, &mut self.pending(), chunk);
        }

        fn take(&self) -> Option<(u64, Bytes)> {
            let mut pending = self.pending();
            pending.want_all();
            pending.take_piece(8).map(|piece| (piece.range.start, piece.data))
        }
    }

    #[test]
    fn adjacent_data_of_one_user_leaves_together() {
        let scene =
            Scene::new(&[(4, b"bb", 1), (2, b"aa", 1), (6, b"cc", 2), (20, b"dd", 1), (5, b"XY", 1), (8, b"ee", 2)]);
        assert!(scene.pending().take_piece(8).is_none(), "nobody wants it sent");
        let piece = |at, data: &'static [u8]| Some((at, Bytes::from_static(data)));
        assert_eq!(scene.take(), piece(2, b"aabb"), "what overlaps another user's data comes after that");
        assert_eq!(scene.take(), piece(6, b"ccee"));
        assert_eq!(scene.take(), piece(20, b"dd"));
        assert_eq!(scene.take(), None, "older data of these bytes is in flight");
        assert_eq!(scene.pending().unanswered_end(), Some(22));
    }

    #[test]
    fn a_piece_is_as_long_as_a_call_unless_one_write_is_longer() {
        let scene = Scene::new(&[(0, b"aaaaa", 1), (5, b"bbb", 1), (8, b"c", 1), (20, b"0123456789", 1)]);
        let lengths: Vec<usize> = std::iter::from_fn(|| scene.take()).map(|(_, data)| data.len()).collect();
        assert_eq!(lengths, [8, 1, 10]);
        let apart = Scene::new(&[]);
        (0..20).for_each(|number| apart.add(held(number * 100, b"x", 1)));
        assert_eq!(std::iter::from_fn(|| apart.take()).count(), PIECES_MAX);
    }

    #[test]
    fn what_is_not_answered_is_read_the_newest_first() {
        let scene = Scene::new(&[(0, b"aaaa", 1), (4, b"bbbb", 1)]);
        assert!(scene.take().is_some());
        scene.add(held(3, b"cc", 1));
        let mut data = [0; 6];
        assert!(scene.file.read_unanswered(1, &mut data));
        assert_eq!(&data, b"aaccbb");
        assert!(!scene.file.read_unanswered(4, &mut data), "beyond what is there");
    }

    #[test]
    fn an_answer_shows_all_if_it_was_asked_for_after_the_last_answer_to_data() {
        let scene = Scene::new(&[(0, b"aaaa", 1)]);
        let early = crate::testing::tick();
        assert!(!scene.file.shows_all(early));
        let mut pending = scene.pending();
        pending.want_all();
        let piece = pending.take_piece(8).expect("it is wanted");
        scene.writes.written(&scene.file, &mut pending, &piece, ([1; 8], false), |_| {});
        drop(pending);
        assert!(!scene.file.shows_all(early) && scene.file.shows_all(crate::testing::tick()));
        assert_eq!((scene.writes.unanswered_bytes(), scene.writes.bytes()), (0, 4));
        assert_eq!(scene.pending().answered_first(), 1);
    }

    #[test]
    fn neither_a_file_nor_a_user_takes_all_memory() {
        let (writes, inodes) = (Writes::new(100, 1000), crate::testing::inodes());
        let [one, other, third] = [b"one".as_slice(), b"other", b"third"].map(|name| inodes.of(&handle(name)));
        let add = |file: &Arc<Inode>, length: usize| {
            let mut pending = file.writes().pending();
            writes.add(file, &mut pending, held(0, &vec![0; length], 7));
        };
        add(&one, 40);
        add(&other, 45);
        assert!(writes.too_large(&one, 7, |_| true).is_none());
        add(&third, 3);
        assert_eq!(writes.too_large(&one, 7, |_| true), Some(other));
        assert!(writes.too_large(&one, 8, |_| true).is_none(), "another user");
        add(&one, 40);
        assert_eq!(writes.too_large(&one, 8, |_| true), Some(one));
    }

    #[test]
    fn files_with_uncommitted_data_are_listed_and_stay() {
        let (writes, inodes) = (Writes::new(1 << 20, 100), crate::testing::inodes());
        let [small, large] = [(b"small", 10), (b"large", 1000)].map(|(name, length)| {
            let file = inodes.of(&handle(name));
            writes.add(&file, &mut file.writes().pending(), chunk(length, 0));
            file
        });
        assert_eq!(writes.largest(|_| true).expect("two").handle(), large.handle());
        assert_eq!(writes.files().len(), 2);
        assert!(!small.is_idle());
        writes.remove(&large, &mut large.writes().pending(), 1, |_| {});
        assert_eq!(writes.largest(|_| true).expect("one").handle(), small.handle());
        assert!(large.is_idle());
    }
}
