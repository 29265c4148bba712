//! The data of one file that waits for COMMIT, and the pieces in which it is sent.

use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;
use efc_backend::{Cred, Verifier, WccAttr};

use super::chunk::{Chunk, Stage};
use crate::covered::Covered;

/// Pieces of one file that are in flight at a time.
pub(super) const PIECES_MAX: usize = 8;
/// Chunks that a piece does not take, before it looks at no more.
const SKIPPED_MAX: usize = 64;

/// Places for chunks that a file keeps which has none.
pub(super) const SPARE_MAX: usize = 16;
/// A file with places for so many times its chunks gives memory back.
const SPARE_TIMES_MAX: usize = 4;

/// What waits for COMMIT of one file.
#[derive(Default)]
pub struct Pending {
    /// By their ids.
    pub(super) chunks: Vec<Chunk>,
    /// The verifier of data that waits and is not kept: with another one at the server, it is lost.
    pub unkept: Option<Verifier>,
    /// The id of the next chunk.
    pub(super) next_id: u64,
    /// Chunks that are held back, and their bytes.
    pub(super) unsent: usize,
    pub(super) unsent_bytes: u64,
    /// When the oldest of them was written.
    pub(super) unsent_since: Option<Instant>,
    /// Chunks before this id are to be sent as soon as possible.
    wanted: u64,
    /// The bytes of each piece in flight.
    in_flight: Vec<Range<u64>>,
    /// Pieces so far.
    pieces: u64,
    /// Where unanswered data ends, or has ended since there is any.
    pub(super) unanswered_end: u64,
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
    pub(super) ids: Vec<u64>,
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

impl Pending {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.unkept.is_none()
    }

    /// Chunks have gone: gives memory back that the others do not need. The file may be known for long, and written to no more.
    pub(super) fn give_room_back(&mut self) {
        if self.chunks.capacity() > SPARE_MAX.max(self.chunks.len() * SPARE_TIMES_MAX) {
            self.chunks.shrink_to(self.chunks.len() * 2);
        }
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

    pub(super) fn note_oldest(&mut self) {
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

    pub(super) fn index_of(&self, id: u64) -> Option<usize> {
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

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

fn touch(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start <= other.end && other.start <= one.end
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
