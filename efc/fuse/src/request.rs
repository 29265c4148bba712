//! Requests and answers in their decoded form: what a file system sees. The wire forms are in `wire` and `abi`.
//!
//! Nothing here says whether a request is sensible: node ids, handles and flags are as the kernel sent them.

use std::time::Duration;

use bytes::Bytes;

/// A positive errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// A user or group that the kernel does not tell ([`crate::SessionConfig::idmap`]).
pub const UNTOLD: u32 = u32::MAX;

/// One request, without its reply.
#[derive(Debug)]
pub struct Request {
    /// Names the request for as long as it is unanswered. Without the redelivery bit (bit 63).
    pub unique: u64,
    /// What its answer is addressed to: `unique`, with the redelivery bit if the kernel has delivered it again.
    pub name: u64,
    /// A predecessor has had it, and may have executed it.
    pub resent: bool,
    /// What the request is about; for operations on a name, its parent directory.
    pub node: u64,
    /// File system user id of the caller.
    pub uid: u32,
    /// File system group id of the caller.
    pub gid: u32,
    /// Thread id of the caller in our pid namespace; 0 if there is none.
    pub pid: u32,
    /// What to do.
    pub operation: Operation,
}

/// One component of a path: never empty, without `/` and NUL.
pub type Name = Vec<u8>;

/// What is asked for. Flags are those of open(2) and of the FUSE ABI.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are those of the system calls of the same names")]
pub enum Operation {
    Lookup {
        name: Name,
    },
    Getattr {
        fh: Option<u64>,
    },
    Setattr(SetAttr),
    Readlink,
    Symlink {
        name: Name,
        target: Vec<u8>,
    },
    Mknod {
        name: Name,
        mode: u32,
        umask: u32,
        rdev: u32,
    },
    /// `mode` is what to make: the kernel has applied `umask` already, here and in `Mknod` and `Create`.
    Mkdir {
        name: Name,
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: Name,
    },
    Rmdir {
        name: Name,
    },
    /// `flags` are those of renameat2(2).
    Rename {
        name: Name,
        new_parent: u64,
        new_name: Name,
        flags: u32,
    },
    /// Makes `new_name` in the request's node another name of `node`.
    Link {
        node: u64,
        new_name: Name,
    },
    Open {
        flags: u32,
    },
    Read {
        fh: u64,
        offset: u64,
        size: u32,
        flags: u32,
    },
    /// `write_flags` are FUSE_WRITE_*. Data of 32 KiB and more lies in the buffer it was read into, which stays taken as long as
    /// the data is kept.
    Write {
        fh: u64,
        offset: u64,
        data: Bytes,
        flags: u32,
        write_flags: u32,
    },
    Statfs,
    Release {
        fh: u64,
        flags: u32,
        release_flags: u32,
    },
    Fsync {
        fh: u64,
        datasync: bool,
    },
    Flush {
        fh: u64,
    },
    Opendir {
        flags: u32,
    },
    Readdir {
        fh: u64,
        offset: u64,
        size: u32,
    },
    Readdirplus {
        fh: u64,
        offset: u64,
        size: u32,
    },
    Releasedir {
        fh: u64,
    },
    Fsyncdir {
        fh: u64,
        datasync: bool,
    },
    Access {
        mask: u32,
    },
    Create {
        name: Name,
        mode: u32,
        umask: u32,
        flags: u32,
    },
    /// ioctl(2) of an open file or directory; `data` is what its number says that comes with it. Answer with [`crate::ioctl_answer`].
    Ioctl {
        fh: u64,
        command: u32,
        data: Vec<u8>,
    },
    /// Answer with `Reply::statx`.
    Statx {
        fh: Option<u64>,
        mask: u32,
    },
    /// Anything else; answer ENOSYS.
    Other {
        opcode: u32,
    },
}

impl Operation {
    /// Whether it changes what the file system holds. Opening for writing does not by itself.
    pub(crate) fn modifies(&self) -> bool {
        matches!(
            self,
            Operation::Setattr(_)
                | Operation::Symlink { .. }
                | Operation::Mknod { .. }
                | Operation::Mkdir { .. }
                | Operation::Unlink { .. }
                | Operation::Rmdir { .. }
                | Operation::Rename { .. }
                | Operation::Link { .. }
                | Operation::Write { .. }
                | Operation::Create { .. }
        )
    }
}

/// What SETATTR changes; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of stat(2)")]
pub struct SetAttr {
    pub fh: Option<u64>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The current time, by the clock of whoever keeps the file.
    Now,
    /// A time since 1970.
    To {
        /// Whole seconds; negative before 1970.
        seconds: i64,
        /// 0 to 999,999,999, always forward.
        nanos: u32,
    },
}

/// Attributes as the kernel wants them; `mode` with its `S_IFMT` bits. Times are (seconds, nanoseconds) since 1970, and
/// seconds before it are negative numbers cast to `u64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of stat(2)")]
pub struct Attr {
    pub ino: u64,
    pub size: u64,
    /// Of 512 bytes.
    pub blocks: u64,
    pub atime: (u64, u32),
    pub mtime: (u64, u32),
    pub ctime: (u64, u32),
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device number as `makedev` encodes it for the kernel (new_encode_dev).
    pub rdev: u32,
    /// Preferred size of an I/O request, in bytes.
    pub blksize: u32,
}

/// A name's answer; `node` 0 is a negative entry, to be remembered for `entry_ttl`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    /// As `State::lookup_node` gave it.
    pub node: u64,
    /// 0 will do: our node ids carry their generation themselves.
    pub generation: u64,
    /// How long the kernel may trust the name.
    pub entry_ttl: Duration,
    /// How long the kernel may trust the attributes.
    pub attr_ttl: Duration,
    /// Of the node.
    pub attr: Attr,
}

/// The answer to OPEN, OPENDIR and CREATE.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenReply {
    /// Comes back in all requests on this open file.
    pub fh: u64,
    /// FOPEN_* bits
    pub flags: u32,
    /// With FOPEN_PASSTHROUGH, the kernel's number of the file that it reads in place of this one; else 0.
    pub backing: u32,
}

/// The answer to STATFS.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "the fields are those of statvfs(3)")]
pub struct Statfs {
    /// Of `block_size` bytes.
    pub blocks: u64,
    pub blocks_free: u64,
    /// To users that are not root.
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub block_size: u32,
    pub name_max: u32,
}

/// Bits of `Operation::Access::mask`.
pub struct Access;

impl Access {
    /// `R_OK`
    pub const READ: u32 = 4;
    /// `W_OK`
    pub const WRITE: u32 = 2;
    /// `X_OK`
    pub const EXECUTE: u32 = 1;
}
