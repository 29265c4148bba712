//! What the tests of this crate are made of.

use std::sync::Arc;

use efc_backend::{Attr, FileHandle, FileType, Seen, Tick, Time};

use crate::{Inode, Inodes, Memory};

pub fn handle(name: &[u8]) -> FileHandle {
    FileHandle::new(name).expect("short")
}

/// A table of inodes with room for many.
pub fn inodes() -> Inodes {
    Inodes::new(Arc::new(Memory::new(1 << 20)))
}

/// An inode of a table of its own.
pub fn inode() -> Arc<Inode> {
    inodes().of(&handle(b"inode"))
}

/// A regular file of this size that was last changed then.
pub fn attr(size: u64, ctime: u32) -> Attr {
    let time = Time { seconds: ctime, nanos: 0 };
    Attr {
        kind: FileType::Regular,
        mode: 0o644,
        nlink: 1,
        uid: 0,
        gid: 0,
        size,
        used: size,
        rdev: (0, 0),
        fsid: 1,
        fileid: 7,
        atime: time,
        mtime: time,
        ctime: time,
    }
}

/// A directory that was last changed then.
pub fn directory_attr(ctime: u32) -> Attr {
    Attr { kind: FileType::Directory, ..attr(0, ctime) }
}

/// When a call that leaves now was asked.
pub fn tick() -> Tick {
    seen(&()).asked
}

/// An answer that comes at once.
pub fn seen<T>(value: &T) -> Seen<&T> {
    futures_lite::future::block_on(Seen::of(async { Ok(value) })).expect("no call fails")
}

/// Some answer is taken in.
pub fn answer() {
    Tick::of_answer();
}
