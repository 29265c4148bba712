//! Reads by blocks, through the chain of caches ([`Chain`]).
//!
//! A read goes this way if there is a level that serves, and it is large, as the kernel's read-ahead is, or the file is small: a
//! whole block for a few bytes of a large file would cost more than it saves. The block is that of the version which is known of
//! the file. A level that has a block under a version has what that version will always stand for, so the version need not be settled
//! for us to use it. The server is asked for a block only when the file has been unchanged for a while: nobody else
//! could be given it otherwise, and so it is with a server whose answers to READ show no attributes.
//!
//! Whatever is in doubt is read from the server, as without caches, and so is what is read through O_DIRECT. The version is in doubt
//! when the consistency mode would not let its attributes be given any more: page faults of a mapping, and reads past the kernel's
//! cache, come without a question for attributes before them.

use std::ops::Range;
use std::sync::Arc;

use efc_backend::{Attr, Backend, Error, ErrorKind, FileType, Seen};
use efc_buffer::{Buffer, Payload, SMALL, Sink};
use efc_cache::blocks::{Absent, BLOCK_BYTES, Block, BlockKey, Chain, Fetched};
use efc_cache::{Admission, Grant, Inode, Version};
use efc_tasks::sync::atomic::Ordering;

use super::files::{OpenFile, PIPED_MIN};
use super::{Answer, Inner, ReadRequest, Response};

/// A file of so many bytes or less is read as a whole.
const WHOLE_FILE_MAX: u64 = SMALL as u64;

/// A part of a block.
pub(super) type Part = (Arc<Block>, Range<usize>);

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
        let is_small = read.size < PIPED_MIN && version.size > WHOLE_FILE_MAX;
        // Where the file ends the server says.
        if is_small || read.offset >= end {
            return Err(Absent::Unshared);
        }
        let first = self.part(chain, file, seen, read.offset..end).await?;
        let next = read.offset + first.1.len() as u64;
        let second = if next < end { Some(self.part(chain, file, seen, next..end).await?) } else { None };
        Ok(Answer { body: Response::Blocks(first, second), permit })
    }

    /// The attributes of the version whose data a reader may be given, as far as it is known here.
    fn version_to_read(&self, inode: &Arc<Inode>) -> Option<Grant> {
        match self.freshness.admit(inode) {
            Admission::Hit(grant) => Some(grant).filter(|grant| grant.seen.value.kind == FileType::Regular),
            Admission::Ask | Admission::Wait(_) => None,
        }
    }

    /// What the block that has the first of these bytes of a file has of them.
    async fn part(
        self: &Arc<Self>,
        chain: &Arc<Chain>,
        file: &Arc<OpenFile>,
        seen: Seen<Attr>,
        bytes: Range<u64>,
    ) -> Result<Part, Absent> {
        let (version, index) = (Version::of(&seen.value), bytes.start / BLOCK_BYTES as u64);
        let key = BlockKey { file: *file.inode.handle(), version, index };
        let shows_versions = !self.reads_without_version.load(Ordering::Relaxed);
        let is_settled = shows_versions && file.inode.is_at_rest(seen.part(|attr| attr), self.rest);
        let (inner, file) = (Arc::clone(self), Arc::clone(file));
        let fetch = async move |room| {
            if is_settled { inner.fetch_block(&file, key, room).await } else { Err(Absent::Unshared) }
        };
        let block = chain.get(key, fetch).await?;
        let begin = (bytes.start - key.offset()) as usize;
        let end = block.len().min((bytes.end - key.offset()) as usize);
        Ok((block, begin..end))
    }

    /// Reads a block from the server.
    ///
    /// # Errors
    /// That fails, or it has another version by now.
    async fn fetch_block(&self, file: &OpenFile, key: BlockKey, mut buffer: Buffer) -> Result<Fetched, Absent> {
        let (mut filled, mut is_settled) = (0, true);
        while filled < key.length() {
            let end = key.length().min(filled + self.limits.read_max as usize);
            let (at, sink) = (key.offset() + filled as u64, Sink::Buffer(buffer, filled..end));
            let asked = self.read_once(file, at, sink).await;
            let (payload, Seen { value: read, asked }) = asked.map_err(|error| absent(&error))?;
            (buffer, _) = payload.and_then(Payload::into_buffer).ok_or(Absent::Unshared)?;
            if read.count == 0 || read.attr.is_some_and(|attr| Version::of(&attr) != key.version) {
                return Err(Absent::Unshared);
            }
            let is_at_rest = |attr: &Attr| file.inode.is_at_rest(Seen { value: attr, asked }, self.rest);
            is_settled &= read.attr.as_ref().is_some_and(is_at_rest);
            filled += read.count as usize;
        }
        Ok(Fetched { block: Block::new(buffer, filled), is_settled })
    }
}

/// What a failure of the server's leaves to whoever reads.
fn absent(error: &Error) -> Absent {
    if error.kind == ErrorKind::TimedOut { Absent::TimedOut } else { Absent::Unshared }
}
