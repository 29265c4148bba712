//! Resident buffers for the data path.
//!
//! Everything that the daemon exchanges with `/dev/fuse` in bulk lives in memory that is populated and, where the
//! limits allow, locked. The reason is recovery, not speed: a SIGKILL that hits a process inside a page fault of
//! `read(2)` or `write(2)` on `/dev/fuse` ends that request with EIO in the application; with resident memory there
//! is no page fault. The NFS client receives READ payloads straight into the same buffers, so a byte read from the
//! NAS is copied once into our memory and once out of it.
//!
//! Buffers come from a process-wide [`Pool`] in two sizes and return to it on drop. The pool keeps a few idle ones of
//! each size and gives the rest back to the system, so that an idle daemon stays small. It does not bound how many
//! are in use: whoever hands out work does (the kernel's `max_background`, the write budget).

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::{MmapMut, MmapOptions};

/// The largest READ or WRITE payload, in bytes.
pub const PAYLOAD_MAX: usize = 1 << 20;
/// Size of a large buffer, in bytes: a full payload behind one page of headers, as `read(2)` on `/dev/fuse` needs.
pub const LARGE: usize = PAYLOAD_MAX + 4096;
/// Size of a small buffer, in bytes.
pub const SMALL: usize = 64 << 10;

const IDLE_LARGE_MAX: usize = 4;
const IDLE_SMALL_MAX: usize = 16;

/// Idle buffers of both sizes.
pub struct Pool {
    large: Mutex<Vec<MmapMut>>,
    small: Mutex<Vec<MmapMut>>,
}

static POOL: Pool = Pool { large: Mutex::new(Vec::new()), small: Mutex::new(Vec::new()) };
static LOCK_REFUSED: AtomicBool = AtomicBool::new(false);

impl Pool {
    fn idle(&self, size: usize) -> (&Mutex<Vec<MmapMut>>, usize) {
        if size == SMALL { (&self.small, IDLE_SMALL_MAX) } else { (&self.large, IDLE_LARGE_MAX) }
    }
}

/// Resident memory of [`SMALL`] or [`LARGE`] bytes; its contents are unspecified when it is taken.
pub struct Buffer {
    memory: Option<MmapMut>,
}

impl Buffer {
    /// Takes a buffer that holds at least `size` bytes.
    ///
    /// # Panics
    /// If `size` exceeds [`LARGE`], or the system has no memory left.
    pub fn with_capacity(size: usize) -> Buffer {
        assert!(size <= LARGE, "{size} bytes do not fit a buffer");
        let size = if size <= SMALL { SMALL } else { LARGE };
        let (idle, _) = POOL.idle(size);
        let kept = idle.lock().expect("pool lock").pop();
        Buffer { memory: Some(kept.unwrap_or_else(|| map_resident(size))) }
    }
}

fn map_resident(size: usize) -> MmapMut {
    let memory = MmapOptions::new().len(size).populate().map_anon().expect("memory for a buffer");
    if let Err(error) = memory.lock() {
        if !LOCK_REFUSED.swap(true, Ordering::Relaxed) {
            log::warn!("buffers are not locked in memory ({error}): raise RLIMIT_MEMLOCK");
        }
    }
    memory
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        let (idle, idle_max) = POOL.idle(memory.len());
        let mut idle = idle.lock().expect("pool lock");
        if idle.len() < idle_max {
            idle.push(memory);
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.memory.as_ref().expect("present until drop")
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().expect("present until drop")
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_reuse() {
        let mut small = Buffer::with_capacity(1);
        assert_eq!(small.len(), SMALL);
        small[0] = 7;
        drop(small);
        assert_eq!(Buffer::with_capacity(SMALL + 1).len(), LARGE);
    }
}
