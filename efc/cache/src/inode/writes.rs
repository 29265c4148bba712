//! Written data that the server has not committed: what of it each file has, and how much there is of it altogether.
//!
//! Where the data lies and how it is described for a later process is the matter of whoever keeps it; here a [`Chunk`]
//! has the number of its record and nothing more. A file with such data stays, whatever the kernel forgets.

use efc_tasks::sync::Mutex;
use efc_tasks::sync::atomic::{AtomicU64, Ordering};
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use efc_backend::{Cred, FileHandle, Ticket, Verifier};

use crate::inode::Inode;

/// All files with uncommitted data.
pub struct Writes {
    usage: Arc<Usage>,
    files: Mutex<HashMap<FileHandle, Arc<Inode>>>,
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
    pub pending: Mutex<Pending>,
}

/// What waits for COMMIT of one file.
#[derive(Default)]
pub struct Pending {
    /// In the order of their replies.
    chunks: Vec<Chunk>,
    /// The verifier of data that waits and is not kept: with another one at the server, it is lost.
    pub unkept: Option<Verifier>,
}

/// One write.
#[derive(Clone)]
pub struct Chunk {
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
    }

    fn subtract(&self, chunk: &Chunk) {
        self.bytes.fetch_sub(chunk.data.len() as u64, Ordering::Relaxed);
        self.memory.fetch_sub(chunk.memory, Ordering::Relaxed);
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
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

    /// What waits and is kept, in the order of the replies.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }
}

impl Writes {
    /// At most `memory_max` bytes and `count_max` writes wait for COMMIT.
    pub fn new(memory_max: u64, count_max: u64) -> Writes {
        let (bytes, memory, count) = Default::default();
        Writes { usage: Arc::new(Usage { bytes, memory, memory_max, count, count_max }), files: Mutex::default() }
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

    /// The file with the most uncommitted bytes.
    pub fn largest(&self) -> Option<Arc<Inode>> {
        let files = self.files.lock().expect("writes lock");
        let bytes = |file: &&Arc<Inode>| file.writes().bytes.load(Ordering::Relaxed);
        files.values().filter(|file| bytes(file) > 0).max_by_key(bytes).cloned()
    }

    /// All files with uncommitted data.
    pub fn files(&self) -> Vec<Arc<Inode>> {
        self.files.lock().expect("writes lock").values().cloned().collect()
    }

    /// A chunk of the file waits from now on. `pending` is the file's.
    pub fn add(&self, file: &Arc<Inode>, pending: &mut Pending, chunk: Chunk) {
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

    /// The first `count` chunks of the file do not wait any more; `retire` is told of each before it goes, the oldest
    /// first.
    pub fn remove(&self, file: &Inode, pending: &mut Pending, count: usize, mut retire: impl FnMut(&Chunk)) {
        for chunk in pending.chunks.drain(..count) {
            retire(&chunk);
            self.usage.subtract(&chunk);
            file.writes().bytes.fetch_sub(chunk.data.len() as u64, Ordering::Relaxed);
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
            self.files.lock().expect("writes lock").remove(file.handle());
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
        self.writes.get().is_some_and(|writes| !writes.pending.lock().expect("pending lock").is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::handle;

    fn chunk(length: usize, memory: u64) -> Chunk {
        let data = Bytes::from(vec![7; length]);
        Chunk {
            offset: 0,
            data,
            verifier: [0; 8],
            cred: Cred::root(),
            checksum: 0,
            unanswered: None,
            record: None,
            memory,
        }
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
        let mut pending = file.writes().pending.lock().expect("pending lock");
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

    #[test]
    fn files_with_uncommitted_data_are_listed_and_stay() {
        let (writes, inodes) = (Writes::new(1 << 20, 100), crate::testing::inodes());
        let [small, large] = [(b"small", 10), (b"large", 1000)].map(|(name, length)| {
            let file = inodes.of(&handle(name));
            writes.add(&file, &mut file.writes().pending.lock().expect("pending lock"), chunk(length, 0));
            file
        });
        assert_eq!(writes.largest().expect("two").handle(), large.handle());
        assert_eq!(writes.files().len(), 2);
        assert!(!small.is_idle());
        writes.remove(&large, &mut large.writes().pending.lock().expect("pending lock"), 1, |_| {});
        assert_eq!(writes.largest().expect("one").handle(), small.handle());
        assert!(large.is_idle());
    }
}
