//! What a backend speaks of: handles, attributes, credentials, results. Names of types and fields in code font are
//! those of RFC 1813 for the same; where only NFSv3 has something, its description says so.

use std::fmt;
use std::sync::Arc;

/// What names an object for as long as it lives: up to 65 opaque bytes of the storage, equal only for the same object.
/// (NFSv3: `nfs_fh3` of up to 64 bytes, RFC 1813, section 2.3.3; one more says which of several servers it is.)
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileHandle {
    len: u8,
    bytes: [u8; FileHandle::MAX],
}

impl FileHandle {
    /// Most bytes that a handle has.
    pub const MAX: usize = 65;

    /// The handle made of `bytes`; `None` if there are more than [`FileHandle::MAX`].
    pub fn new(bytes: &[u8]) -> Option<FileHandle> {
        let mut handle = FileHandle { len: u8::try_from(bytes.len()).ok()?, bytes: [0; Self::MAX] };
        handle.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(handle)
    }

    /// The opaque bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

impl fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileHandle(")?;
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// In whose name a call is made. NFSv3 carries it as AUTH_SYS (RFC 5531, appendix A), with at most
/// [`Cred::GROUPS_MAX`] supplementary groups; more are cut off.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cred {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Arc<[u32]>,
}

impl Cred {
    /// Most supplementary groups that are taken along: as many as AUTH_SYS carries.
    pub const GROUPS_MAX: usize = 16;

    /// The superuser without supplementary groups.
    pub fn root() -> Cred {
        Cred { uid: 0, gid: 0, groups: Arc::new([]) }
    }
}

/// What an object is; the numbers are those of `ftype3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum FileType {
    /// Regular file.
    Regular = 1,
    /// Directory.
    Directory = 2,
    /// Block device.
    Block = 3,
    /// Character device.
    Character = 4,
    /// Symbolic link.
    Symlink = 5,
    /// Socket.
    Socket = 6,
    /// Named pipe.
    Fifo = 7,
}

/// A time, as `nfstime3` has it: from 1970 to 2106.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since the epoch.
    pub seconds: u32,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// The attributes of an object (`fattr3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Type of the object.
    pub kind: FileType,
    /// Permission bits, set-id bits and the sticky bit: no `S_IFMT` bits.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Bytes on disk.
    pub used: u64,
    /// Device major and minor number.
    pub rdev: (u32, u32),
    /// File system.
    pub fsid: u64,
    /// Inode number within the file system.
    pub fileid: u64,
    /// Last access.
    pub atime: Time,
    /// Last modification of the data.
    pub mtime: Time,
    /// Last change of the attributes.
    pub ctime: Time,
}

/// What a file's version is told by (`wcc_attr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WccAttr {
    /// Size in bytes.
    pub size: u64,
    /// Last modification of the data.
    pub mtime: Time,
    /// Last change of the attributes.
    pub ctime: Time,
}

/// The attributes of an object around a change of it (`wcc_data`). A storage may leave either out; `before` is a hint,
/// as servers of NFSv3 do not take it in one step with the change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wcc {
    /// Just before the change.
    pub before: Option<WccAttr>,
    /// Just after it.
    pub after: Option<Attr>,
}

/// A time in [`SetAttr`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it.
    #[default]
    Keep,
    /// The server's clock.
    Now,
    /// This time.
    To(Time),
}

/// Attributes to be changed; `None` leaves one as it is (`sattr3`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: SetTime,
    /// Modification time.
    pub mtime: SetTime,
}

impl SetAttr {
    /// May others be allowed what they were not before, or the other way round?
    pub fn changes_permissions(&self) -> bool {
        self.mode.is_some() || self.uid.is_some() || self.gid.is_some()
    }
}

/// How a file that exists is treated by making one of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateHow {
    /// Use it.
    Unchecked(SetAttr),
    /// Fail with EXIST.
    Guarded(SetAttr),
    /// Fail with EXIST unless it was made with this verifier: a repetition of the same call succeeds.
    Exclusive([u8; 8]),
}

/// What is made that is neither file nor directory nor link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// Character device: major, minor.
    Character(u32, u32),
    /// Block device: major, minor.
    Block(u32, u32),
    /// Socket.
    Socket,
    /// Named pipe.
    Fifo,
}

/// Where a name leads.
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    /// The object.
    pub handle: FileHandle,
    /// Its attributes.
    pub attr: Option<Attr>,
    /// The directory's attributes.
    pub dir_attr: Option<Attr>,
}

/// What was made.
#[derive(Clone, Copy, Debug)]
pub struct Created {
    /// The new object; a server may leave it out.
    pub handle: Option<FileHandle>,
    /// Its attributes.
    pub attr: Option<Attr>,
    /// The directory around the change.
    pub dir: Wcc,
}

/// What came of a read; the payload is where the caller wanted it.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// Bytes received.
    pub count: u32,
    /// The file ends behind them.
    pub eof: bool,
    /// Attributes that came with the reply.
    pub attr: Option<Attr>,
}

/// How far written data is safe, in ascending order (`stable_how`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Stable {
    /// In the server's memory.
    Unstable = 0,
    /// The data on stable storage.
    Data = 1,
    /// Data and attributes on stable storage.
    File = 2,
}

/// A write verifier: it is another when the storage may have lost what was written and not committed.
pub type Verifier = [u8; 8];

/// What came of a write.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// Bytes taken, which may be fewer than sent.
    pub count: u32,
    /// How safe they are.
    pub stable: Stable,
    /// The server's write verifier.
    pub verifier: Verifier,
    /// The file around the change.
    pub wcc: Wcc,
}

/// What came of bringing written data to stable storage.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    /// The server's write verifier.
    pub verifier: Verifier,
    /// The file around the change.
    pub wcc: Wcc,
}

/// One entry of a directory; `attr` and `handle` are hints that a storage may leave out (READDIR of NFSv3 does).
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Inode number.
    pub fileid: u64,
    /// The name: any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// Continue behind this entry with this cookie.
    pub cookie: u64,
    /// Attributes.
    pub attr: Option<Attr>,
    /// Handle.
    pub handle: Option<FileHandle>,
}

/// A page of a listing.
#[derive(Clone, Debug)]
pub struct DirPage {
    /// The directory's attributes.
    pub dir_attr: Option<Attr>,
    /// Cookie verifier for the next page.
    pub verifier: [u8; 8],
    /// In the server's order.
    pub entries: Vec<DirEntry>,
    /// No page follows.
    pub eof: bool,
}

/// Sizes of a file system, in bytes and files.
#[derive(Clone, Copy, Debug, Default)]
pub struct FsStat {
    /// Total bytes.
    pub bytes_total: u64,
    /// Free bytes.
    pub bytes_free: u64,
    /// Bytes free to the caller.
    pub bytes_available: u64,
    /// Total file slots.
    pub files_total: u64,
    /// Free file slots.
    pub files_free: u64,
    /// File slots free to the caller.
    pub files_available: u64,
}

/// Answer of FSINFO, of NFSv3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsInfo {
    /// Largest READ, in bytes.
    pub read_max: u32,
    /// Largest WRITE, in bytes.
    pub write_max: u32,
    /// Preferred READDIR size, in bytes.
    pub readdir_preferred: u32,
    /// Largest file, in bytes.
    pub file_size_max: u64,
    /// Granularity of times.
    pub time_delta: Time,
}

/// What a storage says of itself once: all that the file system needs to know of it, and all that is saved of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Largest READ, in bytes.
    pub read_max: u32,
    /// Largest WRITE, in bytes.
    pub write_max: u32,
    /// Names that differ in case only are one name: one that no answer has shown may lead to an object all the same.
    pub ignores_case: bool,
}

/// Answer of PATHCONF, of NFSv3.
#[derive(Clone, Copy, Debug, Default)]
pub struct PathConf {
    /// Most hard links.
    pub link_max: u32,
    /// Longest name, in bytes.
    pub name_max: u32,
    /// Long names fail instead of being cut off.
    pub no_trunc: bool,
    /// Only the superuser may give a file away.
    pub chown_restricted: bool,
    /// Names that differ in case only are one name.
    pub ignores_case: bool,
}

/// Rights; the bits are those of ACCESS (RFC 1813, section 3.3.4).
pub mod access {
    /// Read data or a directory.
    pub const READ: u32 = 0x01;
    /// Look up a name in a directory.
    pub const LOOKUP: u32 = 0x02;
    /// Change existing data.
    pub const MODIFY: u32 = 0x04;
    /// Write new data, add entries.
    pub const EXTEND: u32 = 0x08;
    /// Delete an entry.
    pub const DELETE: u32 = 0x10;
    /// Execute a file.
    pub const EXECUTE: u32 = 0x20;
}
