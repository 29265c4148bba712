//! The memfd in our address space: the only unsafe code of this crate.
//!
//! The whole state is seen as words of 64 bits, all atomic. That makes sharing sound by construction: other threads, and for
//! a moment another daemon, may read and write the same memory, and a torn or hostile content can yield wrong numbers but
//! never undefined behaviour. What the numbers mean is for `record` to check.

use std::io;
use std::os::fd::OwnedFd;
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
