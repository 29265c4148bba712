//! File data in blocks, and the cache levels that may hold them.
//!
//! A block is named by the file's handle, the file's version and the block's number ([`BlockKey`]). Under another
//! version it is another block, so the content of a level never has to be invalidated. Only a *settled* version (see
//! [`Version`]) may name blocks: one that every later change of the file replaces.
//!
//! A [`Level`] is asked for a block, and either has it, or offers a place for it ([`Fill`]) once another level or the
//! backend has supplied it. Levels may fail, be slow or return garbage; [`Level::get`] says what a level must do about
//! that itself.

mod chain;

use std::fmt::Debug;
use std::future::Future;
use std::ops::{Deref, Range};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use efc_backend::FileHandle;
use efc_buffer::{Buffer, PAYLOAD_MAX, buffer_size};

use crate::version::Version;

pub use chain::{Absent, Chain, Fetched, Given, GivenBy, Warmed};

/// Bytes of a block. The last block of a file has what is left.
pub const BLOCK_BYTES: usize = PAYLOAD_MAX;

/// Extra memory that a level may need beside a block: a page.
const BESIDE: usize = 4096;

/// Bytes of the buffer for a block of `length`; all of it counts, even if the block does not fill it.
fn room_of(length: usize) -> usize {
    buffer_size(length + BESIDE)
}

/// The name of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockKey {
    /// The storage that has the file, if there are several; 0: the only one.
    pub storage: u64,
    /// The file's handle, which all users of the storage share.
    pub file: FileHandle,
    /// A settled version of the file.
    pub version: Version,
    /// The block's number: it begins with the file's byte `index * BLOCK_BYTES`.
    pub index: u64,
}

impl BlockKey {
    /// The offset in the file at which the block begins.
    pub fn offset(&self) -> u64 {
        self.index.saturating_mul(BLOCK_BYTES as u64)
    }

    /// Bytes of the block; 0 for one behind the end of the file.
    pub fn length(&self) -> usize {
        self.version.size.saturating_sub(self.offset()).min(BLOCK_BYTES as u64) as usize
    }
}

/// The bytes of a block, in memory.
#[derive(Debug)]
pub struct Block {
    data: Buffer,
    length: usize,
}

impl Block {
    /// The first `length` bytes of `data`.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn new(data: Buffer, length: usize) -> Block {
        assert!(length <= data.len(), "a block lies in its buffer");
        Block { data, length }
    }

    /// Bytes of memory that it takes.
    pub fn room(&self) -> usize {
        self.data.len()
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data[..self.length]
    }
}

/// The answer of a level.
#[derive(Debug)]
pub enum Lookup {
    /// The level has the block.
    Hit {
        /// [`BlockKey::length`] bytes.
        block: Block,
        /// Stores the block at a further place of the level, where it should be as well.
        fill: Option<Box<dyn Fill>>,
    },
    /// The level does not have the block, or not in time.
    Miss(Miss),
}

/// A miss: a level does not have a block.
#[derive(Debug, Default)]
pub struct Miss {
    /// The memory that it was given for the block; `None` if that is still in use, for a late answer.
    pub room: Option<Buffer>,
    /// Stores the block in the level; `None` if the level does not want it.
    pub fill: Option<Box<dyn Fill>>,
}

/// A place for a block that a level lacks. Dropping it without a block gives the place up.
pub trait Fill: Debug + Send {
    /// Returns when the level can accept the block, which [`Fill::fill`] then stores. The reader of the block waits for
    /// that for a limited time, so that first reads are no faster than levels can store; others do not wait.
    fn turn(&mut self) -> Turn<'_> {
        Box::pin(std::future::ready(()))
    }

    /// The same for filling a level only: nobody waits for the block, so it may take until the level keeps what it accepts.
    fn unhurried_turn(&mut self) -> Turn<'_> {
        self.turn()
    }

    /// Has the block stored, asynchronously: this never blocks, and storing may fail.
    fn fill(self: Box<Self>, block: &Arc<Block>);
}

/// Completes when a level can accept a block.
pub type Turn<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Completes with the answer of a level.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Lookup> + Send + 'a>>;

/// A cache level for blocks.
pub trait Level: Debug + Send + Sync + 'static {
    /// The name of the level in metrics and logs.
    fn name(&self) -> &'static str;

    /// Whether the level would answer or accept anything now.
    fn serves(&self) -> bool {
        true
    }

    /// Reports how long the backend took for a block of `length` bytes: nobody should wait longer for a level.
    fn backend_took(&self, _length: usize, _took: Duration) {}

    /// Gives the block of `key`, in the memory `room`, which has at least [`BlockKey::length`] bytes and a page more.
    ///
    /// A level returns only what it was once filled with under the same key. If others can write to its storage it
    /// verifies that by itself, and returns nothing that is in doubt. It answers in bounded time, and not much later than
    /// the backend would: a slow level reports a miss. The future may be dropped at any time.
    fn get(&self, key: BlockKey, room: Buffer) -> Answer<'_>;

    /// The same for a caller that fills this level and has no reader waiting: it asks also a level that is slower than the backend.
    fn get_unhurried(&self, key: BlockKey, room: Buffer) -> Answer<'_> {
        self.get(key, room)
    }

    /// Whether the level can return a few bytes of a block without reading all of it.
    fn gives_parts(&self) -> bool {
        false
    }

    /// Returns the bytes `part` of the block of `key`, as a block of that length, in the memory `room`, which has a page
    /// more. The rules of [`Level::get`] apply here too; a miss has no place for the block.
    fn get_part(&self, _key: BlockKey, _part: Range<usize>, room: Buffer) -> Answer<'_> {
        Box::pin(async { Lookup::Miss(Miss { room: Some(room), fill: None }) })
    }
}

#[cfg(test)]
mod tests {
    use efc_backend::Time;

    use super::*;
    use crate::testing::handle;

    #[test]
    fn the_last_block_has_what_is_left_and_none_lies_behind_it() {
        let time = Time { seconds: 1, nanos: 0 };
        let of = |size, index| {
            let key =
                BlockKey { storage: 0, file: handle(b"f"), version: Version { mtime: time, ctime: time, size }, index };
            (key.offset(), key.length())
        };
        let block = BLOCK_BYTES as u64;
        assert_eq!(of(block + 7, 0), (0, BLOCK_BYTES));
        assert_eq!(of(block + 7, 1), (block, 7));
        assert_eq!((of(block, 1).1, of(0, 0).1, of(7, u64::MAX).1), (0, 0, 0));
    }
}
