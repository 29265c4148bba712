//! The memfd in our address space: the only unsafe code of this crate.
//!
//! The whole state is seen as words of 64 bits, all atomic. That makes sharing sound by construction: other threads,
//! and for a moment another daemon, may read and write the same memory, and a torn or hostile content can yield wrong
//! numbers but never undefined behaviour. What the numbers mean is for `record` to check.
//!
//! Payloads and requests are the exceptions: system calls take them as bytes. A [`Span`] is a range that has one owner,
//! who fills it before anybody looks at it; nobody sees the range as words, or stores anything there, while the span
//! lives. And the end of the mapping can be set apart for *areas* ([`Mapping::set_apart`]): memory that the kernel
//! reads requests into. An area is seen as plain bytes, by one owner in this process at a time, and words of it are not
//! to be had. It is resident, for a page fault there would be one inside read(2), in which a SIGKILL costs the request.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, FlockOperation, SealFlags, SeekFrom};
use rustix::process::{Flock, FlockType};

/// Bytes of a word.
pub const WORD: usize = size_of::<AtomicU64>();
/// Bytes of a page. Regions start at multiples of it; it is also the size of the smallest block of the arena.
pub const PAGE: usize = 4096;

static LOCK_REFUSED: AtomicBool = AtomicBool::new(false);

/// A sealed memfd, mapped whole. Its pages are sparse: [`Mapping::allocate`] comes before any use.
pub struct Mapping {
    memory: MmapRaw,
    memfd: OwnedFd,
    words: usize,
    /// From this word on there are areas.
    areas_from: AtomicUsize,
    /// First words of the areas that have an owner.
    owned: Mutex<HashSet<usize>>,
}

impl Mapping {
    /// Maps the first `length` bytes of `memfd`, which must be that large and sealed against shrinking.
    pub fn new(memfd: OwnedFd, length: usize) -> io::Result<Mapping> {
        let size = rustix::fs::fstat(&memfd)?.st_size;
        let sealed = rustix::fs::fcntl_get_seals(&memfd)?.contains(SealFlags::SHRINK);
        if !sealed || usize::try_from(size).is_ok_and(|size| size < length) {
            let reason = format!("the state's {size} bytes are not sealed, or fewer than {length}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let memory = MmapOptions::new().len(length).map_raw(&memfd)?;
        // A core dump has no use for gigabytes of holes.
        memory.advise(Advice::DontDump)?;
        let (areas_from, owned) = (AtomicUsize::new(usize::MAX), Mutex::default());
        Ok(Mapping { memory, memfd, words: length / WORD, areas_from, owned })
    }

    /// Backs these words with memory, so that using them cannot raise SIGBUS. Memory that is there already keeps its
    /// content.
    pub fn allocate(&self, first: usize, count: usize) -> io::Result<()> {
        let (offset, length) = ((first * WORD) as u64, (count * WORD) as u64);
        // tmpfs says ENOSPC, but what is short is memory.
        rustix::fs::fallocate(&self.memfd, FallocateFlags::empty(), offset, length).map_err(|errno| match errno {
            rustix::io::Errno::NOSPC => io::Error::from(rustix::io::Errno::NOMEM),
            other => other.into(),
        })
    }

    /// Gives the memory of these words back to the system, whole pages of it. They must be allocated again before use.
    pub fn release(&self, first: usize, count: usize) -> io::Result<()> {
        let (offset, length) = ((first * WORD) as u64, (count * WORD) as u64);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.memfd, flags, offset, length)?)
    }

    /// How many of these words there are up to the last one that was ever written, up to a page more; 0 if none was.
    ///
    /// # Errors
    /// Those of lseek(2).
    pub fn written(&self, first: usize, count: usize) -> io::Result<usize> {
        Ok(self.backed(first, count)?.last().map_or(0, |last| last.end - first))
    }

    /// Which of these words have had something written to their page: word ranges, in order.
    ///
    /// Moves the offset of the memfd, which nothing else goes by.
    pub fn backed(&self, first: usize, count: usize) -> io::Result<Vec<Range<usize>>> {
        let (mut at, end) = ((first * WORD) as u64, ((first + count) * WORD) as u64);
        let mut ranges = Vec::new();
        while at < end {
            let start = match rustix::fs::seek(&self.memfd, SeekFrom::Data(at)) {
                Ok(start) if start < end => start,
                Ok(_) | Err(rustix::io::Errno::NXIO) => break, // no more data
                Err(errno) => return Err(errno.into()),
            };
            at = rustix::fs::seek(&self.memfd, SeekFrom::Hole(start))?.min(end);
            ranges.push(start as usize / WORD..at as usize / WORD);
        }
        Ok(ranges)
    }

    /// The words from `first` on, which must be allocated.
    ///
    /// # Panics
    /// If they are not all within the mapping.
    pub fn words(&self, first: usize, count: usize) -> &[AtomicU64] {
        let limit = self.words.min(self.areas_from.load(Ordering::Relaxed));
        let end = first.checked_add(count);
        assert!(end.is_some_and(|end| end <= limit), "words {first}+{count} of {limit}");
        let start = self.memory.as_mut_ptr().cast::<AtomicU64>();
        // SAFETY: The mapping is page-aligned, readable and writable, and at least `self.words` words long (asserted
        // above), and it lives as long as `self`, which the result borrows. The file is sealed against shrinking, so
        // the pages cannot vanish. Every bit pattern is a valid AtomicU64. All access to this memory, here and in every
        // other process that maps it, is by atomic operations of this size, so no access is a data race.
        unsafe { std::slice::from_raw_parts(start.add(first), count) }
    }

    /// Words from `first` on are areas for ever. To be called before anybody has had such words.
    pub fn set_apart(&self, first: usize) {
        assert!((first * WORD).is_multiple_of(PAGE), "areas begin at a page");
        self.areas_from.store(first, Ordering::Relaxed);
    }

    /// The area of these words, with resident memory. Memory that is there already keeps its content.
    ///
    /// # Panics
    /// If the words are not set apart, are no whole pages, or have an owner.
    pub fn area(self: &Arc<Self>, first: usize, count: usize) -> io::Result<Area> {
        let span = Span::found(Arc::clone(self), first, count * WORD);
        assert!(first >= self.areas_from.load(Ordering::Relaxed), "word {first} is not set apart");
        assert!((first * WORD).is_multiple_of(PAGE) && (count * WORD).is_multiple_of(PAGE), "{first}+{count}");
        self.allocate(first, count)?;
        assert!(self.owned.lock().expect("owners lock").insert(first), "the area at word {first} has an owner");
        let area = Area(span);
        area.make_resident();
        Ok(area)
    }

    /// Whether somebody in this process owns the area at this word.
    pub fn is_owned(&self, first: usize) -> bool {
        self.owned.lock().expect("owners lock").contains(&first)
    }

    /// The first two words of an area as they are now, whoever writes there.
    pub fn first_words(&self, first: usize) -> (u64, u64) {
        let owned = self.owned.lock().expect("owners lock");
        assert!(first + 1 < self.words && !owned.contains(&first), "the area at word {first} is ours");
        // SAFETY: The words lie within the mapping, which is aligned and lives as long as `self`. Nobody in this
        // process owns the area, and nobody comes to while the lock is held, so no reference to plain bytes exists
        // beside these atomic ones. The pages cannot vanish: the file is sealed against shrinking.
        let words = unsafe { std::slice::from_raw_parts(self.memory.as_mut_ptr().cast::<AtomicU64>().add(first), 2) };
        (words[0].load(Ordering::Acquire), words[1].load(Ordering::Relaxed))
    }

    /// Shows other processes that this one uses the state, until it has ended with all its threads. That holds as long
    /// as no copy of the memfd is closed in this process: a lock of this kind goes with the first one that is.
    pub fn mark_used(&self) -> io::Result<()> {
        Ok(rustix::io::retry_on_intr(|| rustix::fs::fcntl_lock(&self.memfd, FlockOperation::LockShared))?)
    }

    /// Whether another process that has marked the state is still there. The kernel ends a mark when the last thread of
    /// a process has gone past all its system calls.
    pub fn is_used_by_others(&self) -> bool {
        let all = Flock::from(FlockType::WriteLock);
        // Not to be known is as good as yes: somebody looks again later.
        rustix::process::fcntl_getlk(&self.memfd, &all).map_or(true, |other| other.is_some())
    }
}

/// Bytes of a mapping that are its alone: whoever makes one sees to it that nobody else uses them while it lives.
pub struct Span {
    mapping: Arc<Mapping>,
    first: usize,
    length: usize,
}

impl Span {
    /// What is there already, from word `first` on.
    ///
    /// # Panics
    /// If it is not all within the mapping.
    pub fn found(mapping: Arc<Mapping>, first: usize, length: usize) -> Span {
        let words = length.div_ceil(WORD);
        assert!(first.checked_add(words).is_some_and(|end| end <= mapping.words), "{length} bytes from word {first}");
        Span { mapping, first, length }
    }

    /// A copy of `bytes`.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn filled(mapping: Arc<Mapping>, first: usize, bytes: &[u8]) -> Span {
        let span = Span::found(mapping, first, bytes.len());
        // SAFETY: The range lies within the mapping (asserted when the span was made), which is writable and lives as
        // long as the span. No reference to it exists: the span is new, and its maker answers for nobody else using the
        // range.
        // `bytes` is
        // no part of it, for the same reason.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), span.start(), bytes.len()) };
        span
    }

    fn start(&self) -> *mut u8 {
        self.mapping.memory.as_mut_ptr().wrapping_add(self.first * WORD)
    }
}

impl AsRef<[u8]> for Span {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: The range lies within the mapping (asserted when the span was made), is readable, and lives as long
        // as `self`, which the result borrows; the file cannot shrink. Nobody stores there while the span lives: in
        // this process its maker answers for that. Another process that maps the memfd is a predecessor that was killed
        // before this one was started, or one that hangs and was superseded: should it wake up, it ends the copy that
        // it was at, finds out, and sends and releases nothing more.
        unsafe { std::slice::from_raw_parts(self.start(), self.length) }
    }
}

/// A resident [`Span`] of whole pages that its owner alone uses in this process, and may write to.
pub struct Area(Span);

impl Area {
    /// The first word of the area in the state.
    pub fn first(&self) -> usize {
        self.0.first
    }

    /// Has each page in the page table, writable, and keeps it there if that is allowed.
    fn make_resident(&self) {
        for page in (0..self.0.length).step_by(PAGE) {
            // SAFETY: The page lies within the area, which is owned by `self` and not shared yet, and is aligned for a
            // word. It is written to without a change of its content: a page that was only read may be mapped
            // read-only.
            unsafe { &*self.0.start().add(page).cast::<AtomicU64>() }.fetch_or(0, Ordering::Relaxed);
        }
        // SAFETY: mlock(2) changes no memory, and these pages are mapped.
        let locked = unsafe { rustix::mm::mlock(self.0.start().cast(), self.0.length) };
        if let Err(error) = locked
            && !LOCK_REFUSED.swap(true, Ordering::Relaxed)
        {
            log::warn!("buffers of requests are not locked in memory ({error}): raise RLIMIT_MEMLOCK");
        }
    }

    /// The content of the area. Other processes write to it only while it is theirs: a predecessor that is still
    /// ending, whose areas this process does not own before.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }

    /// The content of the area, to be written to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: The bytes lie within the mapping, which is writable, and have memory. No other reference in this
        // process exists: an area has one owner, words of it are not handed out, and `&mut self` keeps other views of
        // it away.
        unsafe { std::slice::from_raw_parts_mut(self.0.start(), self.0.length) }
    }

    /// Gives the memory back to the system; the content is lost.
    pub fn discard(self) {
        if let Err(error) = self.0.mapping.release(self.0.first, self.0.length / WORD) {
            log::warn!("a buffer's memory cannot be given back: {error}");
        }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        self.0.mapping.owned.lock().expect("owners lock").remove(&self.0.first);
    }
}
