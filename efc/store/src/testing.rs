//! What the tests of this crate are made of.

use efc_backend::{FileHandle, Time};
use efc_buffer::Buffer;
use efc_cache::Version;
use efc_cache::blocks::{Block, BlockKey};

/// A block of the file of this name and size.
pub(crate) fn key(name: &str, size: u64, index: u64) -> BlockKey {
    let time = Time { seconds: 7, nanos: 8 };
    let file = FileHandle::new(name.as_bytes()).expect("short");
    BlockKey { file, version: Version { mtime: time, ctime: time, size }, index }
}

/// A block of these bytes.
pub(crate) fn block_of(bytes: &[u8]) -> Block {
    let mut room = Buffer::new(bytes.len() + 1).expect("memory");
    room[..bytes.len()].copy_from_slice(bytes);
    Block::new(room, bytes.len())
}
