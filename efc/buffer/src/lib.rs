//! Resident buffers for the data path.
//!
//! All bulk data that the daemon exchanges with `/dev/fuse` lives in memory that is populated and, where the limits
//! allow, locked. The reason is recovery, not speed: a SIGKILL that hits a process inside a page fault of `read(2)` or
//! `write(2)` on `/dev/fuse` fails that request with EIO in the application; resident memory has no page faults. The
//! NFS client receives READ payloads straight into the same buffers, so a byte read from the NAS is copied once into
//! our memory and once out of it. A large payload can bypass our memory: see [`pipe`].
//!
//! Buffers come from a process-wide pool in two sizes and return to it on drop. Allocating one costs as much as filling
//! it, so the pool keeps those in steady use. Buffers that nobody has used for a second are returned to the system,
//! except for a few of each size, so that an idle daemon stays small. A [`Budget`] limits how many may be in use for
//! each purpose; allocation fails if the system has no memory.

mod budget;
mod payload;
pub mod pipe;

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use memmap2::{MmapMut, MmapOptions};

pub use budget::{Budget, BudgetLimits, Purpose, Room};
pub use payload::{Payload, Prefix, Sink};
pub use pipe::Pipe;

/// The largest READ or WRITE payload, in bytes.
pub const PAYLOAD_MAX: usize = 1 << 20;
/// A page of the kernel, in bytes: what FUSE counts requests in, and what files in the page cache end in. The daemon refuses kernels with others.
pub const PAGE: usize = 4096;
/// Size of a large buffer, in bytes: a full payload behind one page of headers, as `read(2)` on `/dev/fuse` needs.
pub const LARGE: usize = PAYLOAD_MAX + PAGE;
/// Size of a small buffer, in bytes.
pub const SMALL: usize = 64 << 10;

/// Idle buffers of a size that are always kept.
const KEPT_LARGE: usize = 2;
const KEPT_SMALL: usize = 8;
/// How long a buffer beyond those stays idle.
const IDLE_TIME_MAX: Duration = Duration::from_secs(1);

/// Idle buffers of one size.
struct Shelf {
    idle: Vec<Memory>,
    /// The fewest that were idle since the last trim: so many were not needed.
    unused: usize,
    kept: usize,
}

struct Pool {
    small: Mutex<Shelf>,
    large: Mutex<Shelf>,
    /// Tells the trimming thread that there is something to trim.
    surplus: Condvar,
    /// That thread runs.
    is_trimming: AtomicBool,
}

static POOL: Pool = Pool {
    small: Mutex::new(Shelf { idle: Vec::new(), unused: 0, kept: KEPT_SMALL }),
    large: Mutex::new(Shelf { idle: Vec::new(), unused: 0, kept: KEPT_LARGE }),
    surplus: Condvar::new(),
    is_trimming: AtomicBool::new(false),
};
static LOCK_REFUSED: AtomicBool = AtomicBool::new(false);
/// Bytes of all buffers, in use or idle.
static MAPPED_BYTES: AtomicU64 = AtomicU64::new(0);
/// Beyond so many, a new buffer takes the place of idle ones.
static MAPPED_BYTES_MAX: AtomicU64 = AtomicU64::new(u64::MAX);

/// The mapping of one buffer.
struct Memory(MmapMut);

impl Drop for Memory {
    fn drop(&mut self) {
        MAPPED_BYTES.fetch_sub(self.0.len() as u64, Ordering::Relaxed);
    }
}

/// Limits what the pool keeps of idle buffers, beside those in use.
fn limit_pool(bytes: u64) {
    MAPPED_BYTES_MAX.store(bytes, Ordering::Relaxed);
}

impl Shelf {
    fn take(&mut self) -> Option<Memory> {
        let taken = self.idle.pop();
        self.unused = self.unused.min(self.idle.len());
        taken
    }

    /// Takes out what was not needed since the last trim.
    fn trim(&mut self) -> Vec<Memory> {
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

    fn give_back(&'static self, memory: Memory) {
        let mut shelf = self.shelf(memory.0.len());
        shelf.idle.push(memory);
        if shelf.idle.len() == shelf.kept + 1 {
            drop(shelf);
            self.start_trimmer();
            self.surplus.notify_one();
        }
    }

    /// Starts the thread that trims, if it does not run. Without one the pool grows no further than what was in use at
    /// once.
    fn start_trimmer(&'static self) {
        if !self.is_trimming.swap(true, Ordering::Relaxed) {
            let thread = std::thread::Builder::new().name("buffer-trim".into()).stack_size(64 << 10);
            if let Err(error) = thread.spawn(|| self.trim_for_ever()) {
                log::error!("cannot start the thread that gives idle buffers back: {error}");
                self.is_trimming.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Gives all that is idle back to the system.
    fn clear(&self) {
        let idle = [SMALL, LARGE].map(|size| std::mem::take(&mut self.shelf(size).idle));
        drop(idle); // unmapped without a lock
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
    memory: Option<Memory>,
    /// Its part of a budget; given back after the memory.
    room: Option<Room>,
}

/// The size of the buffer that holds `size` bytes.
pub fn buffer_size(size: usize) -> usize {
    if size <= SMALL { SMALL } else { LARGE }
}

impl Buffer {
    /// Takes a buffer that holds at least `size` bytes and that no budget counts: for what is few in number. Others
    /// take [`Room`] first.
    ///
    /// # Errors
    /// `OutOfMemory`: the system has none.
    ///
    /// # Panics
    /// If `size` exceeds [`LARGE`].
    pub fn new(size: usize) -> io::Result<Buffer> {
        assert!(size <= LARGE, "{size} bytes do not fit a buffer");
        let size = buffer_size(size);
        let idle = POOL.shelf(size).take();
        let memory = idle.map_or_else(|| map_resident(size), Ok)?;
        Ok(Buffer { memory: Some(memory), room: None })
    }
}

fn map_resident(size: usize) -> io::Result<Memory> {
    let mapped = MAPPED_BYTES.load(Ordering::Relaxed);
    if mapped.saturating_add(size as u64) > MAPPED_BYTES_MAX.load(Ordering::Relaxed) {
        POOL.clear();
    }
    let map = || MmapOptions::new().len(size).populate().map_anon();
    let mapped = map().or_else(|_| {
        POOL.clear();
        map()
    });
    let memory = mapped.map_err(|error| {
        log::error!("the system has no memory for a buffer of {size} bytes: {error}");
        io::Error::from(io::ErrorKind::OutOfMemory)
    })?;
    MAPPED_BYTES.fetch_add(size as u64, Ordering::Relaxed);
    if let Err(error) = memory.lock()
        && !LOCK_REFUSED.swap(true, Ordering::Relaxed)
    {
        log::warn!("buffers are not locked in memory ({error}): raise RLIMIT_MEMLOCK");
    }
    Ok(Memory(memory))
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
        &self.memory.as_ref().expect("present until drop").0
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory.as_mut().expect("present until drop").0
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

    /// The tests of the pool, which is one, take turns.
    static TURN: Mutex<()> = Mutex::new(());

    #[test]
    fn sizes_and_reuse() {
        let _turn = TURN.lock();
        let mut small = Buffer::new(1).unwrap();
        assert_eq!(small.len(), SMALL);
        small[0] = 7;
        drop(small);
        assert_eq!(Buffer::new(SMALL + 1).unwrap().len(), LARGE);
    }

    #[test]
    fn what_is_not_used_goes() {
        let _turn = TURN.lock();
        drop((0..20).map(|_| Buffer::new(LARGE).unwrap()).collect::<Vec<_>>());
        assert!(POOL.shelf(LARGE).idle.len() >= 10, "kept while in use");
        let deadline = std::time::Instant::now() + IDLE_TIME_MAX * 10;
        while POOL.shelf(LARGE).has_surplus() {
            assert!(std::time::Instant::now() < deadline, "idle buffers stay for ever");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Set in a process of its own, which runs one test.
    const ALONE: &str = "EFC_TEST_ALONE";

    /// Runs the test `name` once more, in a process of its own.
    fn run_alone(name: &str) {
        let program = std::env::current_exe().unwrap();
        let output = std::process::Command::new(program).args(["--exact", name]).env(ALONE, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    #[test]
    fn where_the_system_has_no_memory_a_buffer_is_an_error() {
        if std::env::var_os(ALONE).is_none() {
            return run_alone("tests::where_the_system_has_no_memory_a_buffer_is_an_error");
        }
        let kept = Buffer::new(LARGE).unwrap();
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = status.split(' ').next().unwrap().parse().unwrap();
        let limit = Some(pages * 4096 + 8 * LARGE as u64);
        let limits = rustix::process::Rlimit { current: limit, maximum: limit };
        rustix::process::setrlimit(rustix::process::Resource::As, limits).unwrap();
        let mut buffers = Vec::new();
        let failure = loop {
            match Buffer::new(LARGE) {
                Ok(buffer) => buffers.push(buffer),
                Err(error) => break error,
            }
        };
        assert_eq!((failure.kind(), buffers.len() <= 8), (io::ErrorKind::OutOfMemory, true));
        let room = Room::uncounted(LARGE).buffer();
        assert_eq!(room.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        // What lies idle in the other size makes room.
        drop(buffers);
        assert!((0..4 * LARGE / SMALL).map(|_| Buffer::new(SMALL)).collect::<io::Result<Vec<_>>>().is_ok());
        drop(kept);
    }

    #[test]
    fn what_is_idle_counts_too_and_makes_room_for_what_is_used() {
        if std::env::var_os(ALONE).is_none() {
            return run_alone("tests::what_is_idle_counts_too_and_makes_room_for_what_is_used");
        }
        let mapped = || MAPPED_BYTES.load(Ordering::Relaxed);
        limit_pool(10 * LARGE as u64);
        drop((0..10).map(|_| Buffer::new(LARGE).unwrap()).collect::<Vec<_>>());
        assert_eq!(mapped(), 10 * LARGE as u64);
        let small: Vec<_> = (0..20).map(|_| Buffer::new(SMALL).unwrap()).collect();
        assert_eq!(mapped(), 20 * SMALL as u64);
        drop(small);
    }
}
