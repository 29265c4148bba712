//! Written data that the server has not committed: which of it each file has, and how much there is in total.
//!
//! A [`Chunk`] is one write. It may be held back ([`Stage::Unsent`]), in flight, or answered and waiting for COMMIT.
//! The chunks of a file are ordered by their ids: of bytes that were written twice, the later chunk's count. Held
//! chunks are gathered when they are sent ([`Pending::take_piece`]): a [`Piece`] is adjacent data of one credential, as
//! much as one call carries. Data is never sent before older data of the same bytes, nor while older data of these is
//! in flight.
//!
//! Where the data is stored, and how it is described for a later process, is the caller's matter; here a chunk has only
//! the number of its record. An inode with such data stays, whatever the kernel forgets.

mod chunk;
mod pending;
#[cfg(test)]
mod tests;
mod usage;

use efc_tasks::sync::atomic::{AtomicU64, Ordering};
use efc_tasks::sync::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Instant;

use efc_backend::{FileHandle, Tick, Verifier};
use foldhash::fast::RandomState;
use indexmap::IndexMap;
use tokio::sync::Notify;

pub use chunk::{Chunk, Stage};
pub use pending::{Pending, Piece};
pub use usage::Room;
use usage::Usage;

use crate::inode::Inode;

/// All files with uncommitted data.
pub struct Writes {
    usage: Arc<Usage>,
    /// In the order in which they came to be here, nearly: no table's order of hashes decides what is sent first.
    files: Mutex<IndexMap<FileHandle, Arc<Inode>, RandomState>>,
}

/// What an inode takes more of memory once it was written to, in bytes; what waits is limited by itself.
pub(crate) const FILE_WRITES_BYTES: u64 =
    (size_of::<FileWrites>() + size_of::<tokio::sync::Mutex<()>>() + 6 * size_of::<usize>()) as u64;

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

impl FileWrites {
    /// What waits, as long as this is held.
    pub fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("pending lock")
    }
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
        pending.forget_end();
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

    fn forget(&self, file: &Inode, pending: &mut Pending, chunk: &Chunk) {
        self.usage.subtract(chunk);
        file.writes().bytes.fetch_sub(chunk.data.len() as u64, Ordering::Relaxed);
        self.unlist_if_settled(file, pending);
    }

    fn unlist_if_settled(&self, file: &Inode, pending: &mut Pending) {
        pending.give_room_back();
        if pending.chunks.is_empty() {
            self.files.lock().expect("writes lock").swap_remove(file.handle());
        }
    }
}

impl Inode {
    /// What was written to the file and is not committed.
    pub fn writes(&self) -> &FileWrites {
        self.writes.get_or_init(|| {
            self.shared.memory.change_inodes(0, FILE_WRITES_BYTES);
            Box::default()
        })
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
