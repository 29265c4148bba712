//! Reads by blocks, through the chain of caches ([`Chain`]).
//!
//! A read goes this way if there is a level that serves, and it is large, as the kernel's read-ahead is, or the file is small: a
//! whole block for a few bytes of a large file would cost more than it saves. The block is that of the version which
//! is known of the file. A level that has a block under a version has what that version will always stand for,
//! so the version need not be settled for us to use it; what the server gives under one that is not goes to nobody else.
//!
//! Whatever is in doubt is read from the server, as without caches, and so is what is read through O_DIRECT.

use std::ops::Range;
use std::sync::Arc;

use efc_backend::{Attr, Backend, Call, FileType, Seen};
use efc_buffer::{Buffer, Payload, SMALL, Sink};
use efc_cache::blocks::{BLOCK_BYTES, Block, BlockKey, Chain, Fetched};
use efc_cache::{Inode, Version};

use super::files::{OpenFile, PIPED_MIN};
use super::{Inner, ReadRequest, Response};

/// A file of so many bytes or less is read as a whole.
const WHOLE_FILE_MAX: u64 = SMALL as u64;

/// A part of a block.
pub(super) type Part = (Arc<Block>, Range<usize>);

impl<B: Backend> Inner<B> {
    /// Answers a read from blocks. `None`: the server is to be asked for just what is read.
    pub(super) async fn read_by_blocks(self: &Arc<Self>, file: &Arc<OpenFile>, read: &ReadRequest) -> Option<Response> {
        let chain = self.blocks.as_ref().filter(|chain| chain.serves() && !file.is_direct())?;
        let seen = self.seen_to_read(&file.inode)?;
        let version = Version::of(&seen.value);
        if read.size < PIPED_MIN && version.size > WHOLE_FILE_MAX {
            return None;
        }
        let end = version.size.min(read.offset.saturating_add(read.size.into()));
        if read.offset >= end {
            return None; // the server says where the file ends
        }
        let first = self.part(chain, file, seen, read.offset..end).await?;
        let next = read.offset + first.1.len() as u64;
        let second = if next < end { Some(self.part(chain, file, seen, next..end).await?) } else { None };
        Some(Response::Blocks(first, second))
    }

    /// The attributes of the version whose data a reader may be given, as far as it is known here.
    fn seen_to_read(&self, inode: &Inode) -> Option<Seen<Attr>> {
        let seen = inode.observed()?.seen;
        let is_old = |ttl| efc_tasks::time::since(seen.asked.at) >= ttl;
        let is_good = seen.value.kind == FileType::Regular && !self.freshness.data_ttl().is_some_and(is_old);
        is_good.then_some(seen)
    }

    /// What the block that has the first of these bytes of a file has of them.
    async fn part(
        self: &Arc<Self>,
        chain: &Arc<Chain>,
        file: &Arc<OpenFile>,
        seen: Seen<Attr>,
        bytes: Range<u64>,
    ) -> Option<Part> {
        let (version, index) = (Version::of(&seen.value), bytes.start / BLOCK_BYTES as u64);
        let key = BlockKey { file: *file.inode.handle(), version, index };
        let is_settled = file.inode.is_settled(seen.part(|attr| attr));
        let (inner, file) = (Arc::clone(self), Arc::clone(file));
        let fetch = async move |room| if is_settled { inner.fetch_block(&file, key, room).await } else { None };
        let block = chain.get(key, fetch).await?;
        let begin = (bytes.start - key.offset()) as usize;
        let end = block.len().min((bytes.end - key.offset()) as usize);
        Some((block, begin..end))
    }

    /// Reads a block from the server. `None`: that fails, or it has another version by now.
    async fn fetch_block(&self, file: &OpenFile, key: BlockKey, mut buffer: Buffer) -> Option<Fetched> {
        let (mut filled, mut is_settled) = (0, true);
        while filled < key.length() {
            let end = key.length().min(filled + self.limits.read_max as usize);
            let (at, sink) = (key.offset() + filled as u64, Sink::Buffer(buffer, filled..end));
            let (payload, read) = self.backend.read(Call::of(&file.cred), file.inode.handle(), at, sink).await;
            let Seen { value: read, asked } = read.ok()?;
            (buffer, _) = payload.and_then(Payload::into_buffer)?;
            if let Some(attr) = &read.attr {
                file.inode.learn(Seen { value: attr, asked });
                is_settled &= file.inode.is_settled(Seen { value: attr, asked });
            }
            if read.count == 0 || read.attr.is_some_and(|attr| Version::of(&attr) != key.version) {
                return None;
            }
            self.note_read(file, Seen { value: read.attr.as_ref(), asked });
            is_settled &= read.attr.is_some();
            filled += read.count as usize;
        }
        Some(Fetched { block: Block::new(buffer, filled), is_settled })
    }
}
