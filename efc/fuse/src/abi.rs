//! The kernel's FUSE interface, as far as we use it: numbers and layouts of version 7.45 (Linux 6.18).
//!
//! Layouts are declared once, field by field in the kernel's order. The macro gives each structure its size and a safe
//! decoder and encoder; all padding is explicit, so that what is written equals what C would lay out. Integers are in
//! the machine's byte order, as both ends are on one machine.

/// Version of the protocol that we speak.
pub const MAJOR: u32 = 7;
/// Newest minor version whose structures we know.
pub const MINOR: u32 = 45;
/// Oldest minor version that we serve (Linux 5.4).
pub const MINOR_MIN: u32 = 31;

/// Set in the unique of a request that is delivered again after [`notify::RESEND`].
pub const UNIQUE_RESENT: u64 = 1 << 63;

/// Numbers of the operations.
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const ACCESS: u32 = 34;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const NOTIFY_REPLY: u32 = 41;
    pub const BATCH_FORGET: u32 = 42;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const STATX: u32 = 52;
}

/// Numbers of the notifications, sent in the error field of a header whose unique is 0.
pub mod notify {
    pub const INVAL_INODE: i32 = 2;
    pub const INVAL_ENTRY: i32 = 3;
    pub const STORE: i32 = 4;
    pub const RESEND: i32 = 7;
}

/// Bits of INIT's flags; those from bit 32 on travel in `flags2`.
pub mod init {
    pub const ASYNC_READ: u64 = 1 << 0;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub const ASYNC_DIO: u64 = 1 << 15;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub const INIT_EXT: u64 = 1 << 30;
    pub const HAS_EXPIRE_ONLY: u64 = 1 << 35;
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub const PASSTHROUGH: u64 = 1 << 37;
    pub const HAS_RESEND: u64 = 1 << 39;
    pub const ALLOW_IDMAP: u64 = 1 << 40;
}

/// Bits of SETATTR's `valid`.
pub mod setattr {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
}

/// `getattr_flags` of GETATTR and STATX: the file handle is valid.
pub const GETATTR_FH: u32 = 1 << 0;
/// `fsync_flags` of FSYNC and FSYNCDIR: data only.
pub const FSYNC_DATASYNC: u32 = 1 << 0;
/// The basic fields and no birth time: `STATX_BASIC_STATS`.
pub const STATX_BASIC_STATS: u32 = 0x07ff;

/// An integer of the wire.
pub trait Field: Copy {
    /// Its size in bytes.
    const SIZE: usize;
    /// Reads it from the front of `bytes`.
    fn get(bytes: &[u8]) -> Option<Self>;
    /// Writes it to the front of `bytes`, which must hold it.
    fn put(self, bytes: &mut [u8]);
}

macro_rules! integer_fields {
    ($($integer:ty),*) => { $(
        impl Field for $integer {
            const SIZE: usize = size_of::<$integer>();
            #[inline]
            fn get(bytes: &[u8]) -> Option<Self> {
                bytes.first_chunk().map(|bytes| <$integer>::from_ne_bytes(*bytes))
            }
            #[inline]
            fn put(self, bytes: &mut [u8]) {
                bytes[..Self::SIZE].copy_from_slice(&self.to_ne_bytes());
            }
        }
    )* };
}
integer_fields!(u16, u32, u64, i32, i64);

macro_rules! wire {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $(pub $field: $kind),* }

        impl Field for $name {
            const SIZE: usize = 0 $(+ <$kind as Field>::SIZE)*;
            #[inline]
            fn get(bytes: &[u8]) -> Option<Self> {
                let bytes = bytes.get(..Self::SIZE)?;
                let mut offset = 0;
                $(
                    let $field = <$kind as Field>::get(&bytes[offset..])?;
                    offset += <$kind as Field>::SIZE;
                )*
                debug_assert_eq!(offset, Self::SIZE);
                Some($name { $($field),* })
            }
            #[inline]
            fn put(self, bytes: &mut [u8]) {
                let bytes = &mut bytes[..Self::SIZE];
                let mut offset = 0;
                $(
                    self.$field.put(&mut bytes[offset..]);
                    offset += <$kind as Field>::SIZE;
                )*
                debug_assert_eq!(offset, Self::SIZE);
            }
        }
    )* };
}

wire! {
    /// In front of every request. `extensions` counts units of 8 bytes at the end of the request.
    InHeader { length: u32, opcode: u32, unique: u64, node: u64, uid: u32, gid: u32, pid: u32, extensions: u16, padding: u16 }
    /// In front of every reply and notification. `error` is 0 or a negative errno.
    OutHeader { length: u32, error: i32, unique: u64 }
    InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32 }
    /// `fuse_init_out`; what follows `stack_depth_max` we leave 0.
    InitOut {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16, congestion_threshold: u16,
        max_write: u32, time_granularity: u32, max_pages: u16, map_alignment: u16, flags2: u32,
        stack_depth_max: u32, unused0: u64, unused1: u64, unused2: u64,
    }
    Attr {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atime_nanos: u32, mtime_nanos: u32,
        ctime_nanos: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, block_size: u32, flags: u32,
    }
    EntryOut {
        node: u64, generation: u64, entry_seconds: u64, attr_seconds: u64, entry_nanos: u32, attr_nanos: u32, attr: Attr,
    }
    AttrOut { seconds: u64, nanos: u32, unused: u32, attr: Attr }
    StatxTime { seconds: i64, nanos: u32, unused: i32 }
    Statx {
        mask: u32, block_size: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16, unused0: u16,
        ino: u64, size: u64, blocks: u64, attributes_mask: u64,
        atime: StatxTime, btime: StatxTime, ctime: StatxTime, mtime: StatxTime,
        rdev_major: u32, rdev_minor: u32, dev_major: u32, dev_minor: u32,
    }
    /// `fuse_statx_out` up to `fuse_statx`, whose 112 bytes of spare fields are written as zeros.
    StatxOut { seconds: u64, nanos: u32, flags: u32, unused0: u64, unused1: u64, stat: Statx }
    GetattrIn { flags: u32, unused: u32, fh: u64 }
    StatxIn { getattr_flags: u32, unused: u32, fh: u64, flags: u32, mask: u32 }
    SetattrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64, ctime: u64,
        atime_nanos: u32, mtime_nanos: u32, ctime_nanos: u32, mode: u32, unused4: u32, uid: u32, gid: u32, unused5: u32,
    }
    MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32 }
    MkdirIn { mode: u32, umask: u32 }
    RenameIn { new_parent: u64 }
    Rename2In { new_parent: u64, flags: u32, padding: u32 }
    LinkIn { node: u64 }
    OpenIn { flags: u32, open_flags: u32 }
    OpenOut { fh: u64, flags: u32, backing: u32 }
    CreateIn { flags: u32, mode: u32, umask: u32, open_flags: u32 }
    /// READ, READDIR, READDIRPLUS; and WRITE, whose data follows.
    TransferIn { fh: u64, offset: u64, size: u32, transfer_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    WriteOut { count: u32, padding: u32 }
    ReleaseIn { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    FlushIn { fh: u64, unused: u32, padding: u32, lock_owner: u64 }
    FsyncIn { fh: u64, flags: u32, padding: u32 }
    AccessIn { mask: u32, padding: u32 }
    InterruptIn { unique: u64 }
    /// `in_size` bytes follow.
    IoctlIn { fh: u64, flags: u32, command: u32, argument: u64, in_size: u32, out_size: u32 }
    /// What the caller gets follows.
    IoctlOut { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 }
    ForgetIn { lookups: u64 }
    BatchForgetIn { count: u32, unused: u32 }
    ForgetOne { node: u64, lookups: u64 }
    /// `fuse_kstatfs` up to `padding`, whose 24 bytes of spare fields are written as zeros.
    StatfsOut {
        blocks: u64, blocks_free: u64, blocks_available: u64, files: u64, files_free: u64,
        block_size: u32, name_max: u32, fragment_size: u32, padding: u32,
    }
    /// The name follows, padded with zeros to 8 bytes.
    Dirent { ino: u64, offset: u64, name_length: u32, kind: u32 }
    InvalInode { node: u64, offset: i64, length: i64 }
    /// The name and a NUL follow.
    InvalEntry { parent: u64, name_length: u32, flags: u32 }
    /// The data follows.
    Store { node: u64, offset: u64, length: u32, padding: u32 }
}

/// Spare bytes at the end of `fuse_statx`.
pub const STATX_SPARE: usize = 112;
/// Spare bytes at the end of `fuse_kstatfs`.
pub const STATFS_SPARE: usize = 24;

// The kernel's sizes. A field forgotten above would shift all that follow it.
const _: () = assert!(InHeader::SIZE == 40);
const _: () = assert!(OutHeader::SIZE == 16);
const _: () = assert!(InitIn::SIZE == 16);
const _: () = assert!(InitOut::SIZE == 64);
const _: () = assert!(Attr::SIZE == 88);
const _: () = assert!(EntryOut::SIZE == 128);
const _: () = assert!(AttrOut::SIZE == 104);
const _: () = assert!(StatxOut::SIZE + STATX_SPARE == 32 + 256);
const _: () = assert!(StatxIn::SIZE == 24);
const _: () = assert!(SetattrIn::SIZE == 88);
const _: () = assert!(OpenOut::SIZE == 16);
const _: () = assert!(TransferIn::SIZE == 40);
const _: () = assert!(ReleaseIn::SIZE == 24);
const _: () = assert!(FlushIn::SIZE == 24);
const _: () = assert!(IoctlIn::SIZE == 32);
const _: () = assert!(IoctlOut::SIZE == 16);
const _: () = assert!(StatfsOut::SIZE + STATFS_SPARE == 80);
const _: () = assert!(Dirent::SIZE == 24);
