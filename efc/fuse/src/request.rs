//! Requests and replies in their decoded form. Wire forms are in `wire`.
#![allow(missing_docs, unused_variables)]
use std::time::Duration;
use bytes::Bytes;

/// A positive errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// One request, without its reply.
#[derive(Debug)]
pub struct Request {
    /// Without the redelivery bit (bit 63).
    pub unique: u64,
    /// Delivered again after FUSE_NOTIFY_RESEND: a predecessor may have executed it.
    pub resent: bool,
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
    /// Thread id of the caller in our pid namespace; 0 if there is none.
    pub pid: u32,
    pub operation: Operation,
}

pub type Name = Vec<u8>;

/// What is asked for. Flags are those of open(2) and of the FUSE ABI.
#[derive(Debug)]
pub enum Operation {
    Lookup { name: Name },
    Getattr { fh: Option<u64> },
    Setattr(SetAttr),
    Readlink,
    Symlink { name: Name, target: Name },
    Mknod { name: Name, mode: u32, umask: u32, rdev: u32 },
    Mkdir { name: Name, mode: u32, umask: u32 },
    Unlink { name: Name },
    Rmdir { name: Name },
    Rename { name: Name, new_parent: u64, new_name: Name, flags: u32 },
    Link { node: u64, new_name: Name },
    Open { flags: u32 },
    Read { fh: u64, offset: u64, size: u32, flags: u32 },
    Write { fh: u64, offset: u64, data: Bytes, flags: u32, write_flags: u32 },
    Statfs,
    Release { fh: u64, flags: u32, release_flags: u32 },
    Fsync { fh: u64, datasync: bool },
    Flush { fh: u64 },
    Opendir { flags: u32 },
    Readdir { fh: u64, offset: u64, size: u32 },
    Readdirplus { fh: u64, offset: u64, size: u32 },
    Releasedir { fh: u64 },
    Fsyncdir { fh: u64, datasync: bool },
    Access { mask: u32 },
    Create { name: Name, mode: u32, umask: u32, flags: u32 },
    /// Answer with `Reply::statx`.
    Statx { fh: Option<u64>, mask: u32 },
    /// Anything else; answer ENOSYS.
    Other { opcode: u32 },
}

#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    pub fh: Option<u64>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

#[derive(Clone, Copy, Debug)]
pub enum SetTime { Now, To { seconds: i64, nanos: u32 } }

/// Attributes as the kernel wants them; `mode` with its `S_IFMT` bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    pub ino: u64, pub size: u64, pub blocks: u64,
    pub atime: (u64, u32), pub mtime: (u64, u32), pub ctime: (u64, u32),
    pub mode: u32, pub nlink: u32, pub uid: u32, pub gid: u32,
    /// Device number as `makedev` encodes it for the kernel (new_encode_dev).
    pub rdev: u32, pub blksize: u32,
}

/// A name's answer; `node` 0 is a negative entry, to be remembered for `entry_ttl`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry { pub node: u64, pub generation: u64, pub entry_ttl: Duration, pub attr_ttl: Duration, pub attr: Attr }

#[derive(Clone, Copy, Debug, Default)]
pub struct OpenReply { pub fh: u64, /// FOPEN_* bits
    pub flags: u32 }

#[derive(Clone, Copy, Debug, Default)]
pub struct Statfs { pub blocks: u64, pub blocks_free: u64, pub blocks_available: u64, pub files: u64, pub files_free: u64, pub block_size: u32, pub name_max: u32 }

/// Bits of `Operation::Access::mask`.
pub struct Access;
impl Access { pub const READ: u32 = 4; pub const WRITE: u32 = 2; pub const EXECUTE: u32 = 1; }

/// A directory page under construction, in the wire form of READDIR or READDIRPLUS, never larger than the request's size.
pub struct Directory {}
impl Directory {
    pub fn new(size: u32, plus: bool) -> Directory { todo!() }
    /// Adds an entry; `false`, and nothing added, if it does not fit. `kind` is the DT_* type. `offset` is where the next page
    /// continues behind it. In a READDIRPLUS page `entry` is the full answer (None: type and ino only, no lookup counted).
    pub fn push(&mut self, ino: u64, offset: u64, kind: u8, name: &[u8], entry: Option<&Entry>) -> bool { todo!() }
    pub fn is_empty(&self) -> bool { todo!() }
}

/// The one answer of a request. Dropped unanswered, it answers EIO. Answers to a request that the kernel gave up are ignored.
pub struct Reply {}
impl Reply {
    pub fn error(self, errno: Errno) { todo!() }
    pub fn empty(self) { todo!() }
    pub fn entry(self, entry: &Entry) { todo!() }
    pub fn attr(self, attr: &Attr, ttl: Duration) { todo!() }
    pub fn statx(self, attr: &Attr, ttl: Duration) { todo!() }
    pub fn open(self, open: &OpenReply) { todo!() }
    pub fn create(self, entry: &Entry, open: &OpenReply) { todo!() }
    /// READ and READLINK.
    pub fn data(self, data: &[u8]) { todo!() }
    pub fn written(self, count: u32) { todo!() }
    pub fn statfs(self, statfs: &Statfs) { todo!() }
    pub fn directory(self, page: &Directory) { todo!() }
}
