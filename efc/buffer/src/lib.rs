//! Resident buffers for the data path.
//!
//! Everything that the daemon exchanges with `/dev/fuse` in bulk lives in memory that is populated and, where the
//! limits allow, locked. The reason is recovery, not speed: a SIGKILL that hits a process inside a page fault of
//! `read(2)` or `write(2)` on `/dev/fuse` ends that request with EIO in the application; with resident memory there
//! is no page fault. The NFS client receives READ payloads straight into the same buffers, so a byte read from the
//! NAS is copied once into our memory and once out of it. A large payload can go around our memory: see [`pipe`].
//!
//! Buffers come from a process-wide pool in two sizes and return to it on drop. Making one costs as much as filling
//! it, so the pool keeps what is in steady use; what nobody has used for a second goes back to the system, but for a
//! few of each size, so that an idle daemon stays small. The pool does not bound how many are in use: whoever hands out
//! work does (the kernel's `max_background`, the write budget).

mod payload;
pub mod pipe;

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, Once};
use std::time::Duration;

use memmap2::{MmapMut, MmapOptions};

pub use payload::{Payload, Prefix, Sink};
pub use pipe::Pipe;

/// The largest READ or WRITE payload, in bytes.
pub const PAYLOAD_MAX: usize = 1 << 20;
/// Size of a large buffer, in bytes: a full payload behind one page of headers, as `read(2)` on `/dev/fuse` needs.
pub const LARGE: usize = PAYLOAD_MAX + 4096;
/// Size of a small buffer, in bytes.
pub const SMALL: usize = 64 << 10;

/// Idle buffers of a size that are always kept.
const KEPT_LARGE: usize = 2;
const KEPT_SMALL: usize = 8;
/// How long a buffer beyond those stays idle.
const IDLE_TIME_MAX: Duration = Duration::from_secs(1);

/// Idle buffers of one size.
struct Shelf {
    idle: Vec<MmapMut>,
    /// The fewest that were idle since the last trim: so many were not needed.
    unused: usize,
    kept: usize,
}

struct Pool {
    small: Mutex<Shelf>,
    large: Mutex<Shelf>,
    /// Tells the trimming thread that there is something to trim.
    surplus: Condvar,
    trimmer: Once,
}

static POOL: Pool = Pool {
    small: Mutex::new(Shelf { idle: Vec::new(), unused: 0, kept: KEPT_SMALL }),
    large: Mutex::new(Shelf { idle: Vec::new(), unused: 0, kept: KEPT_LARGE }),
    surplus: Condvar::new(),
    trimmer: Once::new(),
};
static LOCK_REFUSED: AtomicBool = AtomicBool::new(false);

impl Shelf {
    fn take(&mut self) -> Option<MmapMut> {
        let taken = self.idle.pop();
        self.unused = self.unused.min(self.idle.len());
        taken
    }

    /// Takes out what was not needed since the last trim.
    fn trim(&mut self) -> Vec<MmapMut> {
        let surplus = self.unused.saturating_sub(self.kept);
        self.unused = self.idle.len() - surplus;
        self.idle.drain(..surplus).collect() // the oldest: the last in is the first out
    }

    fn has_surplus(&self) -> bool {
        self.idle.len() > self.kept
    }
}

impl Pool {
    fn shelf(&self, size: usize) -> MutexGuard<'_, Shelf> {
        let shelf = if size == SMALL { &self.small } else { &self.large };
        shelf.lock().expect("pool lock")
    }

    fn give_back(&'static self, memory: MmapMut) {
        let mut shelf = self.shelf(memory.len());
        shelf.idle.push(memory);
        if shelf.idle.len() == shelf.kept + 1 {
            drop(shelf);
            self.trimmer.call_once(|| {
                let thread = std::thread::Builder::new().name("buffer-trim".into()).stack_size(64 << 10);
                thread.spawn(|| self.trim_for_ever()).expect("a thread that trims the pool");
            });
            self.surplus.notify_one();
        }
    }

    fn trim_for_ever(&self) {
        loop {
            let large = self.large.lock().expect("pool lock");
            let has_none = |large: &mut Shelf| !large.has_surplus() && !self.shelf(SMALL).has_surplus();
            drop(self.surplus.wait_while(large, has_none).expect("pool lock"));
            std::thread::sleep(IDLE_TIME_MAX);
            let surplus = [self.shelf(SMALL).trim(), self.shelf(LARGE).trim()];
            drop(surplus); // unmapped without a lock
        }
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
        let idle = POOL.shelf(size).take();
        Buffer { memory: Some(idle.unwrap_or_else(|| map_resident(size))) }
    }
}

fn map_resident(size: usize) -> MmapMut {
    let memory = MmapOptions::new().len(size).populate().map_anon().expect("memory for a buffer");
    if let Err(error) = memory.lock()
        && !LOCK_REFUSED.swap(true, Ordering::Relaxed)
    {
        log::warn!("buffers are not locked in memory ({error}): raise RLIMIT_MEMLOCK");
    }
    memory
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            POOL.give_back(memory);
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

    #[test]
    fn what_is_not_used_goes() {
        drop((0..20).map(|_| Buffer::with_capacity(LARGE)).collect::<Vec<_>>());
        assert!(POOL.shelf(LARGE).idle.len() >= 10, "kept while in use");
        let deadline = std::time::Instant::now() + IDLE_TIME_MAX * 10;
        while POOL.shelf(LARGE).has_surplus() {
            assert!(std::time::Instant::now() < deadline, "idle buffers stay for ever");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
