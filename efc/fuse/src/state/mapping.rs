//! The memfd in our address space: the only unsafe code of this crate.
//!
//! The whole state is seen as words of 64 bits, all atomic. That makes sharing sound by construction: other threads, and for
//! a moment another daemon, may read and write the same memory, and a torn or hostile content can yield wrong numbers but
//! never undefined behaviour. What the numbers mean is for `record` to check.
//!
//! Payloads are the exception: system calls take them as bytes. A [`Span`] is a range that has one owner, who fills it before
//! anybody looks at it; nobody sees the range as words, or stores anything there, while the span lives.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, SealFlags};

/// Bytes of a word.
pub const WORD: usize = size_of::<AtomicU64>();

/// A sealed memfd, mapped whole. Its pages are sparse: [`Mapping::allocate`] comes before any use.
pub struct Mapping {
    memory: MmapRaw,
    memfd: OwnedFd,
    words: usize,
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
        Ok(Mapping { memory, memfd, words: length / WORD })
    }

    /// Backs these words with memory, so that using them cannot raise SIGBUS. Memory that is there already keeps its content.
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

    /// The words from `first` on, which must be allocated.
    ///
    /// # Panics
    /// If they are not all within the mapping.
    pub fn words(&self, first: usize, count: usize) -> &[AtomicU64] {
        let end = first.checked_add(count);
        assert!(end.is_some_and(|end| end <= self.words), "words {first}+{count} of {}", self.words);
        let start = self.memory.as_mut_ptr().cast::<AtomicU64>();
        // SAFETY: The mapping is page-aligned, readable and writable, and at least `self.words` words long (asserted above), and it
        // lives as long as `self`, which the result borrows. The file is sealed against shrinking, so the pages cannot
        // vanish. Every bit pattern is a valid AtomicU64. All access to this memory, here and in every other process that
        // maps it, is by atomic operations of this size, so no access is a data race.
        unsafe { std::slice::from_raw_parts(start.add(first), count) }
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
        // SAFETY: The range lies within the mapping (asserted when the span was made), which is writable and lives as long as the
        // span. No reference to it exists: the span is new, and its maker answers for nobody else using the range. `bytes` is
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
        // SAFETY: The range lies within the mapping (asserted when the span was made), is readable, and lives as long as `self`, which
        // the result borrows; the file cannot shrink. Nobody stores there while the span lives: in this process its maker answers for
        // that. Another process that maps the memfd is a predecessor that was killed before this one was started, or one that hangs and
        // was superseded: should it wake up, it ends the copy that it was at, finds out, and sends and releases nothing more.
        unsafe { std::slice::from_raw_parts(self.start(), self.length) }
    }
}
