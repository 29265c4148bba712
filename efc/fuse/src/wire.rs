//! From the bytes of a request to its meaning, and from an answer to its bytes.
//!
//! The kernel is the only writer of `/dev/fuse`, but a decoder that trusts lengths is a decoder that panics one day:
//! every field is read through bounds checks, and a request that does not add up becomes [`Malformed`], with its
//! unique if there is one, so that its caller gets an error instead of silence.

use std::ops::Range;
use std::time::Duration;

use crate::abi::{self, Field, opcode};
use crate::request::{Attr, Entry, Operation, Request, SetAttr, SetTime, Statfs};

/// Longest name that we take, in bytes: the kernel's own limit is 1,024, or PATH_MAX on newer ones.
const NAME_MAX: usize = 4095;
/// Longest target of a symbolic link, in bytes.
const TARGET_MAX: usize = 4095;

/// Data that takes longer to be copied than to wake a thread, in bytes.
const MUCH_DATA: usize = 32 << 10;

/// A message that the kernel sent.
#[derive(Debug)]
pub enum Message {
    /// To be answered. Its data, if it is a WRITE, is still to be taken from `payload`.
    Request { request: Request, payload: Range<usize> },
    /// Node ids and how many references the kernel drops, to be read with [`forgets`]. No reply.
    Forget { list: Range<usize> },
    /// One node forgotten. No reply.
    ForgetOne { node: u64, lookups: u64 },
    /// The request of this unique (without bit 63) was interrupted. No reply.
    Interrupt { unique: u64 },
    /// Negotiation.
    Init { unique: u64, offered: abi::InitIn, flags: u64 },
    /// The session ends when this is answered.
    Destroy { unique: u64 },
    /// A beat of this number has come through the queue. No reply.
    Beat { number: u64 },
}

impl Message {
    /// May it take longer than to wake another thread: is there much data to be copied, or are there many names?
    pub fn may_take_long(&self) -> bool {
        match self {
            Message::Request { request, payload } => match &request.operation {
                Operation::Read { size, .. } => *size as usize >= MUCH_DATA,
                Operation::Readdir { .. } | Operation::Readdirplus { .. } => true,
                _ => payload.len() >= MUCH_DATA,
            },
            Message::Forget { .. } => true,
            _ => false,
        }
    }
}

/// A request that makes no sense; `unique` is 0 if it cannot even be answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    pub unique: u64,
    pub opcode: u32,
}

/// The rest of a request's body.
struct Body<'a> {
    bytes: &'a [u8],
}

impl<'a> Body<'a> {
    fn take<T: Field>(&mut self) -> Option<T> {
        let value = T::get(self.bytes)?;
        self.bytes = &self.bytes[T::SIZE..];
        Some(value)
    }

    fn string(&mut self, length_max: usize) -> Option<Vec<u8>> {
        let length = self.bytes.iter().take(length_max + 1).position(|&byte| byte == 0)?;
        let (string, rest) = self.bytes.split_at(length);
        self.bytes = &rest[1..];
        (length > 0).then(|| string.to_vec())
    }

    fn name(&mut self) -> Option<Vec<u8>> {
        self.string(NAME_MAX).filter(|name| !name.contains(&b'/'))
    }
}

/// Decodes one message, as one read(2) gave it.
pub fn decode(message: &[u8]) -> Result<Message, Malformed> {
    let header = abi::InHeader::get(message).ok_or(Malformed { unique: 0, opcode: 0 })?;
    let malformed = || Malformed { unique: header.unique, opcode: header.opcode };
    let end = message.len().checked_sub(usize::from(header.extensions) * 8).ok_or_else(malformed)?;
    if header.length as usize != message.len() || end < abi::InHeader::SIZE {
        return Err(malformed());
    }
    decode_body(&header, &message[abi::InHeader::SIZE..end]).ok_or_else(malformed)
}

fn decode_body(header: &abi::InHeader, bytes: &[u8]) -> Option<Message> {
    let mut body = Body { bytes };
    let unique = header.unique;
    match header.opcode {
        opcode::FORGET => {
            Some(Message::ForgetOne { node: header.node, lookups: body.take::<abi::ForgetIn>()?.lookups })
        }
        opcode::BATCH_FORGET => {
            let count = body.take::<abi::BatchForgetIn>()?.count as usize;
            let start = abi::InHeader::SIZE + abi::BatchForgetIn::SIZE;
            let length = count.checked_mul(abi::ForgetOne::SIZE).filter(|length| *length <= body.bytes.len())?;
            Some(Message::Forget { list: start..start + length })
        }
        opcode::INTERRUPT => {
            Some(Message::Interrupt { unique: body.take::<abi::InterruptIn>()?.unique & !abi::UNIQUE_RESENT })
        }
        opcode::INIT => {
            let offered = body.take::<abi::InitIn>()?;
            let high = if u64::from(offered.flags) & abi::init::INIT_EXT != 0 { body.take::<u32>()? } else { 0 };
            Some(Message::Init { unique, offered, flags: u64::from(offered.flags) | u64::from(high) << 32 })
        }
        opcode::DESTROY => Some(Message::Destroy { unique }),
        opcode::NOTIFY_REPLY => Some(Message::Beat { number: unique }),
        opcode::WRITE => decode_write(header, &mut body),
        _ => {
            let request = request(header, operation(header.opcode, &mut body)?);
            Some(Message::Request { request, payload: 0..0 })
        }
    }
}

fn request(header: &abi::InHeader, operation: Operation) -> Request {
    Request {
        unique: header.unique & !abi::UNIQUE_RESENT,
        name: header.unique,
        resent: header.unique & abi::UNIQUE_RESENT != 0,
        node: header.node,
        uid: header.uid,
        gid: header.gid,
        pid: header.pid,
        operation,
    }
}

fn decode_write(header: &abi::InHeader, body: &mut Body<'_>) -> Option<Message> {
    let write: abi::TransferIn = body.take()?;
    let start = abi::InHeader::SIZE + abi::TransferIn::SIZE;
    let length = write.size as usize;
    if length > body.bytes.len() {
        return None;
    }
    let operation = Operation::Write {
        fh: write.fh,
        offset: write.offset,
        data: bytes::Bytes::new(),
        flags: write.flags,
        write_flags: write.transfer_flags,
    };
    Some(Message::Request { request: request(header, operation), payload: start..start + length })
}

/// The nodes of a [`Message::Forget`].
pub fn forgets(list: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    list.chunks_exact(abi::ForgetOne::SIZE).filter_map(abi::ForgetOne::get).map(|one| (one.node, one.lookups))
}

fn operation(opcode: u32, body: &mut Body<'_>) -> Option<Operation> {
    Some(match opcode {
        opcode::LOOKUP => Operation::Lookup { name: body.name()? },
        opcode::GETATTR => {
            let getattr: abi::GetattrIn = body.take()?;
            Operation::Getattr { fh: (getattr.flags & abi::GETATTR_FH != 0).then_some(getattr.fh) }
        }
        opcode::STATX => {
            let statx: abi::StatxIn = body.take()?;
            let fh = (statx.getattr_flags & abi::GETATTR_FH != 0).then_some(statx.fh);
            Operation::Statx { fh, mask: statx.mask }
        }
        opcode::SETATTR => Operation::Setattr(set_attr(&body.take()?)),
        opcode::READLINK => Operation::Readlink,
        opcode::ACCESS => Operation::Access { mask: body.take::<abi::AccessIn>()?.mask },
        opcode::STATFS => Operation::Statfs,
        opcode::SYMLINK..=opcode::LINK | opcode::CREATE | opcode::RENAME2 => naming(opcode, body)?,
        _ => open_file(opcode, body)?,
    })
}

/// Operations that make, move or remove names.
fn naming(opcode: u32, body: &mut Body<'_>) -> Option<Operation> {
    Some(match opcode {
        opcode::SYMLINK => Operation::Symlink { name: body.name()?, target: body.string(TARGET_MAX)? },
        opcode::MKNOD => {
            let mknod: abi::MknodIn = body.take()?;
            Operation::Mknod { name: body.name()?, mode: mknod.mode, umask: mknod.umask, rdev: mknod.rdev }
        }
        opcode::MKDIR => {
            let mkdir: abi::MkdirIn = body.take()?;
            Operation::Mkdir { name: body.name()?, mode: mkdir.mode, umask: mkdir.umask }
        }
        opcode::UNLINK => Operation::Unlink { name: body.name()? },
        opcode::RMDIR => Operation::Rmdir { name: body.name()? },
        opcode::RENAME => {
            let new_parent = body.take::<abi::RenameIn>()?.new_parent;
            Operation::Rename { name: body.name()?, new_parent, new_name: body.name()?, flags: 0 }
        }
        opcode::RENAME2 => {
            let rename: abi::Rename2In = body.take()?;
            let (name, new_name) = (body.name()?, body.name()?);
            Operation::Rename { name, new_parent: rename.new_parent, new_name, flags: rename.flags }
        }
        opcode::LINK => Operation::Link { node: body.take::<abi::LinkIn>()?.node, new_name: body.name()? },
        opcode::CREATE => {
            let create: abi::CreateIn = body.take()?;
            Operation::Create { name: body.name()?, mode: create.mode, umask: create.umask, flags: create.flags }
        }
        _ => Operation::Other { opcode },
    })
}

/// Operations on a file handle, and those that make one.
fn open_file(opcode: u32, body: &mut Body<'_>) -> Option<Operation> {
    Some(match opcode {
        opcode::OPEN => Operation::Open { flags: body.take::<abi::OpenIn>()?.flags },
        opcode::OPENDIR => Operation::Opendir { flags: body.take::<abi::OpenIn>()?.flags },
        opcode::READ => {
            let read: abi::TransferIn = body.take()?;
            Operation::Read { fh: read.fh, offset: read.offset, size: read.size, flags: read.flags }
        }
        opcode::READDIR => {
            let read: abi::TransferIn = body.take()?;
            Operation::Readdir { fh: read.fh, offset: read.offset, size: read.size }
        }
        opcode::READDIRPLUS => {
            let read: abi::TransferIn = body.take()?;
            Operation::Readdirplus { fh: read.fh, offset: read.offset, size: read.size }
        }
        opcode::RELEASE => {
            let release: abi::ReleaseIn = body.take()?;
            Operation::Release { fh: release.fh, flags: release.flags, release_flags: release.release_flags }
        }
        opcode::RELEASEDIR => Operation::Releasedir { fh: body.take::<abi::ReleaseIn>()?.fh },
        opcode::FLUSH => Operation::Flush { fh: body.take::<abi::FlushIn>()?.fh },
        opcode::FSYNC => {
            let fsync: abi::FsyncIn = body.take()?;
            Operation::Fsync { fh: fsync.fh, datasync: fsync.flags & abi::FSYNC_DATASYNC != 0 }
        }
        opcode::IOCTL => {
            let ioctl: abi::IoctlIn = body.take()?;
            let data = body.bytes.get(..ioctl.in_size as usize)?.to_vec();
            Operation::Ioctl { fh: ioctl.fh, command: ioctl.command, data }
        }
        opcode::FSYNCDIR => {
            let fsync: abi::FsyncIn = body.take()?;
            Operation::Fsyncdir { fh: fsync.fh, datasync: fsync.flags & abi::FSYNC_DATASYNC != 0 }
        }
        _ => Operation::Other { opcode },
    })
}

fn set_attr(wire: &abi::SetattrIn) -> SetAttr {
    let has = |bit: u32| wire.valid & bit != 0;
    let time = |bit: u32, bit_now: u32, seconds: u64, nanos: u32| match (has(bit), has(bit_now)) {
        (true, true) => Some(SetTime::Now),
        (true, false) => Some(SetTime::To { seconds: seconds.cast_signed(), nanos }),
        (false, _) => None,
    };
    use abi::setattr as bit;
    SetAttr {
        fh: has(bit::FH).then_some(wire.fh),
        mode: has(bit::MODE).then_some(wire.mode),
        uid: has(bit::UID).then_some(wire.uid),
        gid: has(bit::GID).then_some(wire.gid),
        size: has(bit::SIZE).then_some(wire.size),
        atime: time(bit::ATIME, bit::ATIME_NOW, wire.atime, wire.atime_nanos),
        mtime: time(bit::MTIME, bit::MTIME_NOW, wire.mtime, wire.mtime_nanos),
    }
}

/// Largest answer that is built inline, header included: that of STATX.
pub const INLINE_MAX: usize = abi::OutHeader::SIZE + abi::StatxOut::SIZE + abi::STATX_SPARE;

/// A small answer under construction, on the stack: room for the header, then fields.
pub struct Inline {
    bytes: [u8; INLINE_MAX],
    length: usize,
}

impl Inline {
    /// An answer without content.
    pub fn new() -> Inline {
        Inline { bytes: [0; INLINE_MAX], length: abi::OutHeader::SIZE }
    }

    /// Adds `value`, and zeros of `spare` bytes behind it.
    pub fn with<T: Field>(mut self, value: T, spare: usize) -> Inline {
        value.put(&mut self.bytes[self.length..]);
        self.length += T::SIZE + spare;
        assert!(self.length <= INLINE_MAX);
        self
    }

    /// Puts the header in front, and gives all bytes; `outside` bytes of data follow them elsewhere.
    pub fn sealed(&mut self, unique: u64, error: i32, outside: usize) -> &[u8] {
        let length = u32::try_from(self.length + outside).unwrap_or(u32::MAX);
        abi::OutHeader { length, error, unique }.put(&mut self.bytes);
        &self.bytes[..self.length]
    }

    /// What was added.
    pub fn content(&self) -> &[u8] {
        &self.bytes[abi::OutHeader::SIZE..self.length]
    }

    /// An answer of these bytes, if they are few enough.
    pub fn copy(content: &[u8]) -> Option<Inline> {
        let mut inline = Inline::new();
        inline.length += content.len();
        inline.bytes.get_mut(abi::OutHeader::SIZE..inline.length)?.copy_from_slice(content);
        Some(inline)
    }
}

/// Attributes for the wire.
pub fn attr(attr: &Attr) -> abi::Attr {
    abi::Attr {
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.0,
        mtime: attr.mtime.0,
        ctime: attr.ctime.0,
        atime_nanos: attr.atime.1,
        mtime_nanos: attr.mtime.1,
        ctime_nanos: attr.ctime.1,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        block_size: attr.blksize,
        flags: 0,
    }
}

/// A name's answer for the wire.
pub fn entry(entry: &Entry) -> abi::EntryOut {
    abi::EntryOut {
        node: entry.node,
        generation: entry.generation,
        entry_seconds: entry.entry_ttl.as_secs(),
        attr_seconds: entry.attr_ttl.as_secs(),
        entry_nanos: entry.entry_ttl.subsec_nanos(),
        attr_nanos: entry.attr_ttl.subsec_nanos(),
        attr: attr(&entry.attr),
    }
}

/// Attributes and their time to live for the wire.
pub fn attr_out(value: &Attr, ttl: Duration) -> abi::AttrOut {
    abi::AttrOut { seconds: ttl.as_secs(), nanos: ttl.subsec_nanos(), unused: 0, attr: attr(value) }
}

/// Attributes and their time to live in the form of STATX.
pub fn statx_out(attr: &Attr, ttl: Duration) -> abi::StatxOut {
    let time = |(seconds, nanos): (u64, u32)| abi::StatxTime { seconds: seconds.cast_signed(), nanos, unused: 0 };
    let stat = abi::Statx {
        mask: abi::STATX_BASIC_STATS,
        block_size: attr.blksize,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        mode: attr.mode as u16, // S_IFMT and the permissions fill 16 bits
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime),
        ctime: time(attr.ctime),
        mtime: time(attr.mtime),
        // The inverse of new_encode_dev, which `Attr::rdev` is in.
        rdev_major: (attr.rdev & 0xfff00) >> 8,
        rdev_minor: (attr.rdev & 0xff) | ((attr.rdev >> 12) & 0xfff00),
        ..abi::Statx::default()
    };
    abi::StatxOut { seconds: ttl.as_secs(), nanos: ttl.subsec_nanos(), stat, ..abi::StatxOut::default() }
}

/// Space and limits for the wire.
pub fn statfs(statfs: &Statfs) -> abi::StatfsOut {
    abi::StatfsOut {
        blocks: statfs.blocks,
        blocks_free: statfs.blocks_free,
        blocks_available: statfs.blocks_available,
        files: statfs.files,
        files_free: statfs.files_free,
        block_size: statfs.block_size,
        name_max: statfs.name_max,
        fragment_size: statfs.block_size,
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request as the kernel would send it.
    fn message(opcode: u32, unique: u64, body: &[&[u8]]) -> Vec<u8> {
        let body = body.concat();
        let mut bytes = vec![0; abi::InHeader::SIZE];
        let length = (bytes.len() + body.len()) as u32;
        abi::InHeader { length, opcode, unique, node: 7, uid: 1, gid: 2, pid: 3, ..Default::default() }.put(&mut bytes);
        bytes.extend(body);
        bytes
    }

    fn bytes_of<T: Field>(value: T) -> Vec<u8> {
        let mut bytes = vec![0; T::SIZE];
        value.put(&mut bytes);
        bytes
    }

    fn operation_of(opcode: u32, body: &[&[u8]]) -> Option<Operation> {
        match decode(&message(opcode, 4, body)) {
            Ok(Message::Request { request, .. }) => Some(request.operation),
            Ok(other) => panic!("{other:?}"),
            Err(malformed) => {
                assert_eq!(malformed, Malformed { unique: 4, opcode });
                None
            }
        }
    }

    #[test]
    fn the_header_is_understood() {
        let Ok(Message::Request { request, .. }) = decode(&message(opcode::STATFS, 8 | abi::UNIQUE_RESENT, &[])) else {
            panic!("not a request");
        };
        assert_eq!((request.unique, request.resent, request.node), (8, true, 7));
        assert_eq!((request.uid, request.gid, request.pid), (1, 2, 3));
    }

    #[test]
    fn names_are_checked() {
        let lookup = |name: &[u8]| match operation_of(opcode::LOOKUP, &[name]) {
            Some(Operation::Lookup { name }) => Some(name),
            other => {
                assert!(other.is_none());
                None
            }
        };
        assert_eq!(lookup(b"name\0").as_deref(), Some(&b"name"[..]));
        for bad in [&b"name"[..], b"\0", b"", b"a/b\0", b"/\0"] {
            assert_eq!(lookup(bad), None);
        }
        assert!(lookup(&[&[b'x'; NAME_MAX][..], b"\0"].concat()).is_some());
        assert!(lookup(&[&[b'x'; NAME_MAX + 1][..], b"\0"].concat()).is_none());
    }

    #[test]
    fn fields_arrive_where_they_belong() {
        let rename = bytes_of(abi::Rename2In { new_parent: 9, flags: 1, padding: 0 });
        let Some(Operation::Rename { name, new_parent: 9, new_name, flags: 1 }) =
            operation_of(opcode::RENAME2, &[&rename, b"old\0new\0"])
        else {
            panic!("rename");
        };
        assert_eq!((&name[..], &new_name[..]), (&b"old"[..], &b"new"[..]));
        let create = bytes_of(abi::CreateIn { flags: 2, mode: 0o100644, umask: 0o22, open_flags: 0 });
        let created = operation_of(opcode::CREATE, &[&create, b"file\0"]);
        assert!(matches!(created, Some(Operation::Create { mode: 0o100644, umask: 0o22, flags: 2, .. })));
        let read = bytes_of(abi::TransferIn { fh: 5, offset: 6, size: 7, flags: 8, ..Default::default() });
        let read = operation_of(opcode::READ, &[&read]);
        assert!(matches!(read, Some(Operation::Read { fh: 5, offset: 6, size: 7, flags: 8 })));
        let ioctl = |in_size| bytes_of(abi::IoctlIn { fh: 5, command: 6, in_size, ..Default::default() });
        let asked = operation_of(opcode::IOCTL, &[&ioctl(4), b"data"]);
        assert!(matches!(asked, Some(Operation::Ioctl { fh: 5, command: 6, data }) if data == b"data"));
        assert!(operation_of(opcode::IOCTL, &[&ioctl(5), b"data"]).is_none());
        let symlink = operation_of(opcode::SYMLINK, &[b"name\0../target/x\0"]);
        assert!(matches!(symlink, Some(Operation::Symlink { target, .. }) if target == b"../target/x"));
        assert!(matches!(operation_of(999, &[b"anything"]), Some(Operation::Other { opcode: 999 })));
    }

    #[test]
    fn only_valid_attributes_are_set() {
        use abi::setattr as bit;
        let wire = abi::SetattrIn {
            valid: bit::SIZE | bit::ATIME | bit::ATIME_NOW | bit::MTIME,
            size: 10,
            mtime: (-2_i64).cast_unsigned(),
            mtime_nanos: 3,
            mode: 0o777,
            ..Default::default()
        };
        let Some(Operation::Setattr(set)) = operation_of(opcode::SETATTR, &[&bytes_of(wire)]) else {
            panic!("setattr")
        };
        let mtime = Some(SetTime::To { seconds: -2, nanos: 3 });
        assert_eq!(set, SetAttr { size: Some(10), atime: Some(SetTime::Now), mtime, ..SetAttr::default() });
    }

    #[test]
    fn a_write_points_at_its_payload() {
        let write = |size: u32| bytes_of(abi::TransferIn { fh: 1, offset: 2, size, ..Default::default() });
        let bytes = message(opcode::WRITE, 2, &[&write(5), b"hello"]);
        let Ok(Message::Request { payload, .. }) = decode(&bytes) else { panic!("write") };
        assert_eq!(&bytes[payload], b"hello");
        assert!(decode(&message(opcode::WRITE, 2, &[&write(6), b"hello"])).is_err());
        assert!(decode(&message(opcode::WRITE, 2, &[&write(u32::MAX), b"hello"])).is_err());
    }

    #[test]
    fn forgets_are_counted() {
        let one = |node| bytes_of(abi::ForgetOne { node, lookups: node + 1 });
        let head = |count| bytes_of(abi::BatchForgetIn { count, unused: 0 });
        let bytes = message(opcode::BATCH_FORGET, 0, &[&head(2), &one(10), &one(20)]);
        let Ok(Message::Forget { list }) = decode(&bytes) else { panic!("forget") };
        assert_eq!(forgets(&bytes[list]).collect::<Vec<_>>(), [(10, 11), (20, 21)]);
        for count in [3, u32::MAX] {
            assert!(decode(&message(opcode::BATCH_FORGET, 0, &[&head(count), &one(10), &one(20)])).is_err());
        }
    }

    #[test]
    fn garbage_never_panics() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let (mut sound, mut bad) = (0, 0);
        for _ in 0..200_000 {
            let body: Vec<u8> =
                (0..random() % 120).map(|_| if random() % 4 == 0 { 0 } else { random() as u8 }).collect();
            let mut bytes = message((random() % 60) as u32, 1, &[&body]);
            if random() % 8 == 0 {
                let position = random() as usize % bytes.len();
                bytes[position] ^= 1 << (random() % 8);
            }
            if random() % 8 == 0 {
                bytes.truncate(random() as usize % (bytes.len() + 1));
            }
            match decode(&bytes) {
                Ok(Message::Request { payload, .. }) => {
                    sound += 1;
                    assert!(bytes.get(payload).is_some());
                }
                Ok(Message::Forget { list }) => assert!(forgets(&bytes[list]).count() <= bytes.len() / 16),
                Ok(_) => sound += 1,
                Err(_) => bad += 1,
            }
        }
        assert!(sound > 1000 && bad > 1000, "{sound} sound, {bad} malformed");
    }

    #[test]
    fn small_answers_fit_inline() {
        let attr = Attr { mode: 0o100644, rdev: 0x0123_4567, size: 9, ..Attr::default() };
        let out = statx_out(&attr, Duration::new(3, 4));
        assert_eq!((out.stat.rdev_major, out.stat.rdev_minor), (0x345, 0x1267));
        let mut inline = Inline::new().with(out, abi::STATX_SPARE);
        assert_eq!(inline.sealed(6, 0, 0).len(), INLINE_MAX);
        assert_eq!(abi::OutHeader::get(inline.sealed(6, -2, 10)).unwrap().length as usize, INLINE_MAX + 10);
        assert_eq!(Inline::copy(inline.content()).unwrap().content(), inline.content());
        assert!(Inline::copy(&[0; INLINE_MAX]).is_none());
    }
}
