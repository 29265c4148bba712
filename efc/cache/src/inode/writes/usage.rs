//! How much data waits for COMMIT, in all files and of each user, and how much room is left.

use efc_tasks::sync::atomic::{AtomicU64, Ordering};
use efc_tasks::sync::{Mutex, MutexGuard};
use std::sync::Arc;

use foldhash::HashMap;

use super::chunk::{Chunk, Stage};

/// What waits for COMMIT, and its limits.
pub(super) struct Usage {
    /// Data that waits.
    pub(super) bytes: AtomicU64,
    /// Memory that it takes, and that of writes on their way.
    pub(super) memory: AtomicU64,
    pub(super) memory_max: u64,
    /// Writes that wait.
    pub(super) count: AtomicU64,
    pub(super) count_max: u64,
    /// Data that the server has not answered.
    pub(super) unanswered_bytes: AtomicU64,
    /// Data that waits, of each user.
    pub(super) by_user: Mutex<HashMap<u32, u64>>,
}

impl Usage {
    pub(super) fn is_full(&self, memory: u64) -> bool {
        memory > self.memory_max || self.count.load(Ordering::Relaxed) >= self.count_max
    }

    pub(super) fn add(&self, chunk: &Chunk) {
        self.bytes.fetch_add(chunk.data.len() as u64, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        if chunk.stage != Stage::Written {
            self.unanswered_bytes.fetch_add(chunk.data.len() as u64, Ordering::Relaxed);
        }
        *self.users().entry(chunk.cred.uid).or_default() += chunk.data.len() as u64;
    }

    pub(super) fn users(&self) -> MutexGuard<'_, HashMap<u32, u64>> {
        self.by_user.lock().expect("users lock")
    }

    pub(super) fn subtract(&self, chunk: &Chunk) {
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

/// Memory for a write on its way: what no write has taken over goes back.
pub struct Room {
    pub(super) usage: Arc<Usage>,
    pub(super) memory: u64,
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
