//! Reads by blocks, through the chain of caches ([`Chain`]).
//!
//! A read uses the chain if a level serves, and it covers a good part of its block, as the kernel's read-ahead does, or
//! the block is that of a small file. Fetching a whole block for a few bytes of a large file would cost more than it
//! saves: such bytes come from a level that can return them alone, or from the server. A small file is looked up in the
//! chain when it is opened, so that it costs its reader one call to the server, and only a small one if a level has the
//! file.
//!
//! The block is that of the file's known version. A block that a level has under a version is what that version will
//! always stand for, so the version need not be settled for us to use it. The server is asked for a whole block only if
//! the file has been unchanged for a while, because otherwise nobody else could be given the block; nor is a server
//! whose READ answers show no attributes.
//!
//! Whatever is in doubt is read from the server, as without caches, and so is what is read through O_DIRECT. The
//! version is in doubt if the consistency mode would not allow its attributes to be given any more: page faults of a
//! mapping, and reads past the kernel's cache, come without a preceding question for attributes.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use efc_backend::{Attr, Backend, Error, ErrorKind, FileType, Seen};
use efc_buffer::{Buffer, Payload, SMALL, Sink};
use efc_cache::blocks::{Absent, BLOCK_BYTES, Block, BlockKey, Chain, Fetched};
use efc_cache::{Admission, Grant, Inode, Version};
use efc_fuse::Errno;
use efc_tasks::sync::OnceLock;
use efc_tasks::sync::atomic::Ordering;

use super::files::{OpenFile, PIPED_MIN};
use super::{Answer, Inner, ReadRequest, Response};
use crate::errno::errno;

/// A block of so many bytes or less is read as a whole, however little of it is read.
const SMALL_BLOCK_MAX: usize = SMALL;
/// Of a larger one a read must be for one of so many parts.
const PARTS_MAX: usize = BLOCK_BYTES / PIPED_MIN as usize;

/// A part of a block.
pub(super) type Part = (Arc<Block>, Range<usize>);

/// Reads a block from the server.
type Fetching = Pin<Box<dyn Future<Output = Result<Fetched, Absent>> + Send>>;

/// What the server has said to who fetches a block, if it was asked.
#[derive(Default)]
pub(super) struct Said {
    /// It has shown these attributes with the last of the block.
    shown: OnceLock<Seen<Attr>>,
    error: OnceLock<Errno>,
}

impl Said {
    /// It has refused, or did not answer.
    pub(super) fn error(&self) -> Option<Errno> {
        self.error.get().copied()
    }
}

impl<B: Backend> Inner<B> {
    /// Answers a read from blocks.
    ///
    /// # Errors
    /// [`Absent::Unshared`]: the server is to be asked for just what is read. [`Absent::TimedOut`]: it was waited for in vain.
    pub(super) async fn read_by_blocks(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        read: &ReadRequest,
    ) -> Result<Answer, Absent> {
        let chain = self.blocks.as_ref().filter(|chain| chain.serves() && !read.is_direct()).ok_or(Absent::Unshared)?;
        let Grant { seen, permit, .. } = self.version_to_read(&file.inode).ok_or(Absent::Unshared)?;
        let version = Version::of(&seen.value);
        let end = version.size.min(read.offset.saturating_add(read.size.into()));
        if read.offset >= end {
            return Err(Absent::Unshared); // where the file ends the server says
        }
        self.note_unopened(file, Some(version)); // what lies in a block was at rest
        let key = self.key_of(file, version, read.offset);
        if !is_worth_a_block(&key, read.size as usize) {
            let part = self.small_part(chain, file, seen, key, read.offset..end).await?;
            return Ok(Answer { body: Response::Blocks(part, None), permit });
        }
        let first = self.part(chain, file, seen, read.offset..end).await?;
        let next = read.offset + first.1.len() as u64;
        let second = if next < end { Some(self.part(chain, file, seen, next..end).await?) } else { None };
        Ok(Answer { body: Response::Blocks(first, second), permit })
    }

    /// The block that has the file's byte `offset`.
    pub(super) fn key_of(&self, file: &OpenFile, version: Version, offset: u64) -> BlockKey {
        let (storage, file) = self.backend.shared_name(file.inode.handle());
        BlockKey { storage, file, version, index: offset / BLOCK_BYTES as u64 }
    }

    /// The attributes of the version whose data a reader may be given, as far as it is known here.
    fn version_to_read(&self, inode: &Arc<Inode>) -> Option<Grant> {
        match self.freshness.admit(inode) {
            Admission::Hit(grant) => Some(grant).filter(|grant| grant.seen.value.kind == FileType::Regular),
            Admission::Ask | Admission::Wait(_) => None,
        }
    }

    /// A few bytes of a large block, if some level can give just these.
    async fn small_part(
        &self,
        chain: &Chain,
        file: &OpenFile,
        seen: Seen<Attr>,
        key: BlockKey,
        bytes: Range<u64>,
    ) -> Result<Part, Absent> {
        let part = (bytes.start - key.offset()) as usize..(bytes.end - key.offset()) as usize;
        if part.end > key.length() || !file.inode.may_be_at_rest(seen.part(|attr| attr), self.rest) {
            return Err(Absent::Unshared);
        }
        chain.get_part(&key, part).await.ok_or(Absent::Unshared)
    }

    /// What the block that has the first of these bytes of a file has of them.
    async fn part(
        self: &Arc<Self>,
        chain: &Arc<Chain>,
        file: &Arc<OpenFile>,
        seen: Seen<Attr>,
        bytes: Range<u64>,
    ) -> Result<Part, Absent> {
        let key = self.key_of(file, Version::of(&seen.value), bytes.start);
        let (block, _) = self.block(chain, file, seen, key).await?;
        let begin = (bytes.start - key.offset()) as usize;
        let end = block.len().min((bytes.end - key.offset()) as usize);
        Ok((block, begin..end))
    }

    /// Sees to it that the reads which follow the open of a small file find it in memory. The answer is what the server has shown if
    /// it was read for this open, and so allows it.
    ///
    /// # Errors
    /// [`Absent::Unshared`]: nobody but the caller may be given what is read now. [`Absent::TimedOut`]: the server was waited for in vain.
    pub(super) async fn have_block(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        known: Seen<Attr>,
    ) -> Result<Option<Seen<Attr>>, Absent> {
        let is_direct = file.flags & libc::O_DIRECT as u32 != 0;
        let chain = self.blocks.as_ref().filter(|chain| chain.serves() && !is_direct).ok_or(Absent::Unshared)?;
        let key = self.key_of(file, Version::of(&known.value), 0);
        let (_, shown) = self.block(chain, file, known, key).await?;
        Ok(shown)
    }

    /// A block of the version `seen`, and what the server has shown if it was read from there for this caller.
    async fn block(
        self: &Arc<Self>,
        chain: &Arc<Chain>,
        file: &Arc<OpenFile>,
        seen: Seen<Attr>,
        key: BlockKey,
    ) -> Result<(Arc<Block>, Option<Seen<Attr>>), Absent> {
        let (fetch, said) = self.fetching(file, seen, key).ok_or(Absent::Unshared)?;
        let block = chain.get(key, fetch).await?;
        Ok((block, said.shown.get().copied()))
    }

    /// How the chain reads a block of the version `seen` from the server, and where it leaves what that has said; `None`: nobody can have put
    /// the block anywhere, nor may we.
    pub(super) fn fetching(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        seen: Seen<Attr>,
        key: BlockKey,
    ) -> Option<(impl FnOnce(Buffer) -> Fetching + Send + use<B>, Arc<Said>)> {
        let attr = seen.part(|attr| attr);
        if !file.inode.may_be_at_rest(attr, self.rest) {
            return None;
        }
        let shows_versions = !self.reads_without_version.load(Ordering::Relaxed);
        let is_settled = shows_versions && file.inode.is_at_rest(attr, self.rest);
        let said = Arc::new(Said::default());
        let (inner, file, kept) = (Arc::clone(self), Arc::clone(file), Arc::clone(&said));
        let fetch = move |room| -> Fetching {
            Box::pin(async move {
                if is_settled { inner.fetch_block(&file, key, room, &kept).await } else { Err(Absent::Unshared) }
            })
        };
        Some((fetch, said))
    }

    /// Reads a block from the server.
    ///
    /// # Errors
    /// That fails, or it has another version by now.
    async fn fetch_block(
        &self,
        file: &OpenFile,
        key: BlockKey,
        mut buffer: Buffer,
        said: &Said,
    ) -> Result<Fetched, Absent> {
        let (mut filled, mut is_settled) = (0, true);
        while filled < key.length() {
            let end = key.length().min(filled + self.properties_of(&file.inode).read_max as usize);
            let (at, sink) = (key.offset() + filled as u64, Sink::Buffer(buffer, filled..end));
            let asked = self.read_once(file, at, sink).await;
            let (payload, Seen { value: read, asked }) = asked.map_err(|error| absent(&error, said))?;
            (buffer, _) = payload.and_then(Payload::into_buffer).ok_or(Absent::Unshared)?;
            if read.count == 0 || read.attr.is_some_and(|attr| Version::of(&attr) != key.version) {
                return Err(Absent::Unshared);
            }
            let is_at_rest = |attr: &Attr| file.inode.is_at_rest(Seen { value: attr, asked }, self.rest);
            is_settled &= read.attr.as_ref().is_some_and(is_at_rest);
            filled += read.count as usize;
            if let Some(attr) = read.attr.filter(|_| filled == key.length()) {
                let _ = said.shown.set(Seen { value: attr, asked });
            }
        }
        Ok(Fetched { block: Block::new(buffer, filled), is_settled })
    }
}

/// Is a whole block worth reading for `size` bytes of it?
fn is_worth_a_block(key: &BlockKey, size: usize) -> bool {
    let length = key.length();
    length <= SMALL_BLOCK_MAX || size >= length / PARTS_MAX
}

/// What a failure of the server's leaves to whoever reads.
fn absent(error: &Error, said: &Said) -> Absent {
    let _ = said.error.set(errno(error));
    if error.kind == ErrorKind::TimedOut { Absent::TimedOut } else { Absent::Unshared }
}
