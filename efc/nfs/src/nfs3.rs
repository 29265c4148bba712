//! NFSv3 on the wire (RFC 1813): arguments of the procedures into an [`Encoder`], results out of a [`Decoder`].
//!
//! A result decoder gets a whole reply behind its RPC header and answers what the caller sees. A failure's body carries
//! attributes too, and they end up in [`Error`]; a failure whose body is cut off is still that failure.

use efc_backend::*;

use crate::xdr::{Decoded, Decoder, Encoder, Malformed};

/// Procedure numbers (RFC 1813, section 3.3).
pub(crate) mod procedure {
    pub(crate) const NULL: u32 = 0;
    pub(crate) const GETATTR: u32 = 1;
    pub(crate) const SETATTR: u32 = 2;
    pub(crate) const LOOKUP: u32 = 3;
    pub(crate) const ACCESS: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const READ: u32 = 6;
    pub(crate) const WRITE: u32 = 7;
    pub(crate) const CREATE: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const SYMLINK: u32 = 10;
    pub(crate) const MKNOD: u32 = 11;
    pub(crate) const REMOVE: u32 = 12;
    pub(crate) const RMDIR: u32 = 13;
    pub(crate) const RENAME: u32 = 14;
    pub(crate) const LINK: u32 = 15;
    pub(crate) const READDIR: u32 = 16;
    pub(crate) const READDIRPLUS: u32 = 17;
    pub(crate) const FSSTAT: u32 = 18;
    pub(crate) const FSINFO: u32 = 19;
    pub(crate) const PATHCONF: u32 = 20;
    pub(crate) const COMMIT: u32 = 21;

    /// May it be executed again, even where no server knows that it was executed before? A WRITE may not: a copy that
    /// the server executes late would cover what was written after the other one was answered.
    pub(crate) fn is_repeatable(procedure: u32) -> bool {
        matches!(procedure, NULL | GETATTR | LOOKUP..=READ | READDIR..=COMMIT)
    }

    /// Does it only ask, and for no more than one object? (Not READDIR and READDIRPLUS.)
    pub(crate) fn changes_nothing(procedure: u32) -> bool {
        matches!(procedure, NULL | GETATTR | LOOKUP..=READ | FSSTAT..=PATHCONF)
    }
}

/// Longest name or symlink target that is taken from a server: Linux's PATH_MAX.
const PATH_MAX: usize = 4096;
/// READ and WRITE sizes of a server that names none.
const TRANSFER_DEFAULT: u32 = 8192;
/// Largest READ, WRITE or READDIRPLUS.
pub(crate) const TRANSFER_MAX: u32 = efc_buffer::PAYLOAD_MAX as u32;
/// READDIRPLUS size of a server that prefers none.
const READDIR_DEFAULT: u32 = 64 << 10;
/// Longest file handle, in bytes (NFS3_FHSIZE).
const HANDLE_MAX: usize = 64;

// ---------------------------------------------------------------- arguments

pub(crate) fn encode_handle(encoder: &mut Encoder, handle: &FileHandle) {
    encoder.opaque(handle.as_bytes());
}

pub(crate) fn encode_entry(encoder: &mut Encoder, dir: &FileHandle, name: &[u8]) {
    encoder.opaque(dir.as_bytes()).opaque(name);
}

pub(crate) fn encode_set_attr(encoder: &mut Encoder, attr: &SetAttr) {
    for word in [attr.mode, attr.uid, attr.gid] {
        match word {
            Some(word) => encoder.u32(1).u32(word),
            None => encoder.u32(0),
        };
    }
    match attr.size {
        Some(size) => encoder.u32(1).u64(size),
        None => encoder.u32(0),
    };
    for time in [attr.atime, attr.mtime] {
        match time {
            SetTime::Keep => encoder.u32(0),
            SetTime::Now => encoder.u32(1),
            SetTime::To(time) => encoder.u32(2).u32(time.seconds).u32(time.nanos),
        };
    }
}

pub(crate) fn encode_guard(encoder: &mut Encoder, guard: Option<Time>) {
    match guard {
        Some(ctime) => encoder.u32(1).u32(ctime.seconds).u32(ctime.nanos),
        None => encoder.u32(0),
    };
}

pub(crate) fn encode_create_how(encoder: &mut Encoder, how: &CreateHow) {
    match how {
        CreateHow::Unchecked(attr) => encode_set_attr(encoder.u32(0), attr),
        CreateHow::Guarded(attr) => encode_set_attr(encoder.u32(1), attr),
        CreateHow::Exclusive(verifier) => {
            encoder.u32(2).fixed(verifier);
        }
    }
}

pub(crate) fn encode_node(encoder: &mut Encoder, kind: NodeKind, attr: &SetAttr) {
    let (file_type, device) = match kind {
        NodeKind::Character(major, minor) => (FileType::Character, Some((major, minor))),
        NodeKind::Block(major, minor) => (FileType::Block, Some((major, minor))),
        NodeKind::Socket => (FileType::Socket, None),
        NodeKind::Fifo => (FileType::Fifo, None),
    };
    encoder.u32(file_type as u32);
    encode_set_attr(encoder, attr);
    if let Some((major, minor)) = device {
        encoder.u32(major).u32(minor);
    }
}

// ---------------------------------------------------------------- parts of results

fn time(decoder: &mut Decoder<'_>) -> Decoded<Time> {
    Ok(Time { seconds: decoder.u32()?, nanos: decoder.u32()? })
}

fn file_type(decoder: &mut Decoder<'_>) -> Decoded<FileType> {
    Ok(match decoder.u32()? {
        1 => FileType::Regular,
        2 => FileType::Directory,
        3 => FileType::Block,
        4 => FileType::Character,
        5 => FileType::Symlink,
        6 => FileType::Socket,
        7 => FileType::Fifo,
        _ => return Err(Malformed("unknown file type")),
    })
}

fn attr(decoder: &mut Decoder<'_>) -> Decoded<Attr> {
    Ok(Attr {
        kind: file_type(decoder)?,
        mode: decoder.u32()? & 0o7777,
        nlink: decoder.u32()?,
        uid: decoder.u32()?,
        gid: decoder.u32()?,
        size: decoder.u64()?,
        used: decoder.u64()?,
        rdev: (decoder.u32()?, decoder.u32()?),
        fsid: decoder.u64()?,
        fileid: decoder.u64()?,
        atime: time(decoder)?,
        mtime: time(decoder)?,
        ctime: time(decoder)?,
    })
}

fn post_op_attr(decoder: &mut Decoder<'_>) -> Decoded<Option<Attr>> {
    decoder.option(attr)
}

fn wcc(decoder: &mut Decoder<'_>) -> Decoded<Wcc> {
    let before =
        decoder.option(|decoder| Ok(WccAttr { size: decoder.u64()?, mtime: time(decoder)?, ctime: time(decoder)? }))?;
    Ok(Wcc { before, after: post_op_attr(decoder)? })
}

pub(crate) fn handle(decoder: &mut Decoder<'_>) -> Decoded<FileHandle> {
    FileHandle::new(decoder.opaque(HANDLE_MAX)?).ok_or(Malformed("a file handle is too long"))
}

fn name(decoder: &mut Decoder<'_>) -> Decoded<Vec<u8>> {
    let name = decoder.opaque(PATH_MAX)?;
    if name.is_empty() || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(Malformed("a directory entry's name is empty or holds a slash or NUL"));
    }
    Ok(name.to_vec())
}

/// What follows the status of a failed call.
#[derive(Clone, Copy)]
enum FailureBody {
    Nothing,
    Attr,
    Wcc,
    AttrAndWcc,
}

/// Reads the status; anything but NFS3_OK becomes an error with what its body tells.
fn succeed(decoder: &mut Decoder<'_>, body: FailureBody) -> Result<()> {
    let number = decoder.u32()?;
    if number == 0 {
        return Ok(());
    }
    let Some(status) = status(number) else {
        return Err(Error::new(ErrorKind::Garbled("unknown status")));
    };
    let mut error = Error::new(ErrorKind::Status(status));
    if matches!(body, FailureBody::Attr | FailureBody::AttrAndWcc) {
        error.attr = post_op_attr(decoder).unwrap_or(None);
    }
    if matches!(body, FailureBody::Wcc | FailureBody::AttrAndWcc) {
        error.wcc = wcc(decoder).unwrap_or_default();
    }
    Err(error)
}

fn status(number: u32) -> Option<Status> {
    use Status::*;
    const ALL: [Status; 28] = [
        Perm,
        NoEnt,
        Io,
        Nxio,
        Acces,
        Exist,
        XDev,
        NoDev,
        NotDir,
        IsDir,
        Inval,
        FBig,
        NoSpc,
        RoFs,
        MLink,
        NameTooLong,
        NotEmpty,
        DQuot,
        Stale,
        Remote,
        BadHandle,
        NotSync,
        BadCookie,
        NotSupp,
        TooSmall,
        ServerFault,
        BadType,
        Jukebox,
    ];
    ALL.into_iter().find(|status| *status as u32 == number)
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Error {
        Error::new(ErrorKind::Garbled(malformed.0))
    }
}

// ---------------------------------------------------------------- results

pub(crate) fn getattr(decoder: &mut Decoder<'_>) -> Result<Attr> {
    succeed(decoder, FailureBody::Nothing)?;
    Ok(attr(decoder)?)
}

/// SETATTR, REMOVE and RMDIR.
pub(crate) fn changed(decoder: &mut Decoder<'_>) -> Result<Wcc> {
    succeed(decoder, FailureBody::Wcc)?;
    Ok(wcc(decoder)?)
}

pub(crate) fn lookup(decoder: &mut Decoder<'_>) -> Result<Lookup> {
    succeed(decoder, FailureBody::Attr)?;
    Ok(Lookup { handle: handle(decoder)?, attr: post_op_attr(decoder)?, dir_attr: post_op_attr(decoder)? })
}

pub(crate) fn access(decoder: &mut Decoder<'_>) -> Result<(u32, Option<Attr>)> {
    succeed(decoder, FailureBody::Attr)?;
    let attr = post_op_attr(decoder)?;
    Ok((decoder.u32()?, attr))
}

pub(crate) fn readlink(decoder: &mut Decoder<'_>) -> Result<(Vec<u8>, Option<Attr>)> {
    succeed(decoder, FailureBody::Attr)?;
    let attr = post_op_attr(decoder)?;
    Ok((decoder.opaque(PATH_MAX)?.to_vec(), attr))
}

/// A reply of READ up to its payload's length, which the transport has received already and compared with `count`.
pub(crate) fn read(decoder: &mut Decoder<'_>) -> Result<Read> {
    succeed(decoder, FailureBody::Attr)?;
    let attr = post_op_attr(decoder)?;
    let count = decoder.u32()?;
    let eof = decoder.bool()?;
    if decoder.u32()? != count {
        return Err(Error::new(ErrorKind::Garbled("READ counts other bytes than it carries")));
    }
    Ok(Read { count, eof, attr })
}

pub(crate) fn write(decoder: &mut Decoder<'_>) -> Result<Written> {
    succeed(decoder, FailureBody::Wcc)?;
    let wcc = wcc(decoder)?;
    let count = decoder.u32()?;
    let stable = match decoder.u32()? {
        0 => Stable::Unstable,
        1 => Stable::Data,
        2 => Stable::File,
        _ => return Err(Malformed("unknown stability").into()),
    };
    Ok(Written { count, stable, verifier: decoder.fixed()?, wcc })
}

pub(crate) fn commit(decoder: &mut Decoder<'_>) -> Result<Committed> {
    succeed(decoder, FailureBody::Wcc)?;
    let wcc = wcc(decoder)?;
    Ok(Committed { verifier: decoder.fixed()?, wcc })
}

/// CREATE, MKDIR, SYMLINK and MKNOD.
pub(crate) fn created(decoder: &mut Decoder<'_>) -> Result<Created> {
    succeed(decoder, FailureBody::Wcc)?;
    Ok(Created { handle: decoder.option(handle)?, attr: post_op_attr(decoder)?, dir: wcc(decoder)? })
}

pub(crate) fn rename(decoder: &mut Decoder<'_>) -> Result<(Wcc, Wcc)> {
    succeed(decoder, FailureBody::Wcc)?;
    Ok((wcc(decoder)?, wcc(decoder)?))
}

pub(crate) fn link(decoder: &mut Decoder<'_>) -> Result<(Option<Attr>, Wcc)> {
    succeed(decoder, FailureBody::AttrAndWcc)?;
    Ok((post_op_attr(decoder)?, wcc(decoder)?))
}

pub(crate) fn readdir(decoder: &mut Decoder<'_>) -> Result<DirPage> {
    dir_page(decoder, |decoder| {
        let (fileid, name, cookie) = (decoder.u64()?, name(decoder)?, decoder.u64()?);
        Ok(DirEntry { fileid, name, cookie, attr: None, handle: None })
    })
}

pub(crate) fn readdirplus(decoder: &mut Decoder<'_>) -> Result<DirPage> {
    dir_page(decoder, |decoder| {
        let (fileid, name, cookie) = (decoder.u64()?, name(decoder)?, decoder.u64()?);
        Ok(DirEntry { fileid, name, cookie, attr: post_op_attr(decoder)?, handle: decoder.option(handle)? })
    })
}

fn dir_page(decoder: &mut Decoder<'_>, entry: impl Fn(&mut Decoder<'_>) -> Decoded<DirEntry>) -> Result<DirPage> {
    succeed(decoder, FailureBody::Attr)?;
    let (dir_attr, verifier) = (post_op_attr(decoder)?, decoder.fixed()?);
    let mut entries = Vec::new();
    while let Some(entry) = decoder.option(&entry)? {
        entries.push(entry);
    }
    Ok(DirPage { dir_attr, verifier, entries, eof: decoder.bool()? })
}

pub(crate) fn fsstat(decoder: &mut Decoder<'_>) -> Result<FsStat> {
    succeed(decoder, FailureBody::Attr)?;
    post_op_attr(decoder)?;
    Ok(FsStat {
        bytes_total: decoder.u64()?,
        bytes_free: decoder.u64()?,
        bytes_available: decoder.u64()?,
        files_total: decoder.u64()?,
        files_free: decoder.u64()?,
        files_available: decoder.u64()?,
    })
}

pub(crate) fn fsinfo(decoder: &mut Decoder<'_>) -> Result<FsInfo> {
    succeed(decoder, FailureBody::Attr)?;
    post_op_attr(decoder)?;
    let [read_max, _read_preferred, _read_multiple] = words(decoder)?;
    let [write_max, _write_preferred, _write_multiple] = words(decoder)?;
    let readdir_preferred = decoder.u32()?;
    Ok(FsInfo {
        read_max: transfer_size(read_max),
        write_max: transfer_size(write_max),
        readdir_preferred: if readdir_preferred == 0 { READDIR_DEFAULT } else { readdir_preferred.min(TRANSFER_MAX) },
        file_size_max: decoder.u64()?,
        time_delta: time(decoder)?,
    })
}

fn words(decoder: &mut Decoder<'_>) -> Decoded<[u32; 3]> {
    Ok([decoder.u32()?, decoder.u32()?, decoder.u32()?])
}

/// What is made of a server's largest transfer: within our limit, and whole pages where there is one.
fn transfer_size(server_max: u32) -> u32 {
    match server_max {
        0 => TRANSFER_DEFAULT,
        1..4096 => server_max,
        _ => server_max.min(TRANSFER_MAX) & !4095,
    }
}

pub(crate) fn pathconf(decoder: &mut Decoder<'_>) -> Result<PathConf> {
    succeed(decoder, FailureBody::Attr)?;
    post_op_attr(decoder)?;
    Ok(PathConf {
        link_max: decoder.u32()?,
        name_max: decoder.u32()?,
        no_trunc: decoder.bool()?,
        chown_restricted: decoder.bool()?,
        ignores_case: decoder.bool()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr_words() -> Vec<u32> {
        vec![1, 0o100644, 1, 10, 20, 0, 4096, 0, 8192, 0, 0, 0, 3, 0, 77, 1, 2, 3, 4, 5, 6]
    }

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn attributes_have_no_type_bits_in_their_mode() {
        let mut words = vec![0];
        words.extend(attr_words());
        let attr = getattr(&mut Decoder::new(&bytes(&words))).unwrap();
        assert_eq!((attr.kind, attr.mode, attr.size, attr.fileid), (FileType::Regular, 0o644, 4096, 77));
        assert_eq!(attr.ctime, Time { seconds: 5, nanos: 6 });
    }

    #[test]
    fn failures_carry_their_attributes_even_cut_off() {
        let mut words = vec![2, 1];
        words.extend(attr_words());
        let error = lookup(&mut Decoder::new(&bytes(&words))).unwrap_err();
        assert!(error.is(Status::NoEnt));
        assert_eq!(error.attr.unwrap().fileid, 77);
        let error = changed(&mut Decoder::new(&bytes(&[66, 1, 0]))).unwrap_err();
        assert!(error.is(Status::NotEmpty) && error.wcc == Wcc::default());
        assert_eq!(changed(&mut Decoder::new(&bytes(&[4711]))).unwrap_err().kind, ErrorKind::Garbled("unknown status"));
    }

    #[test]
    fn every_status_is_known_by_its_number() {
        assert_eq!(status(10008), Some(Status::Jukebox));
        assert_eq!(status(70), Some(Status::Stale));
        assert_eq!(status(0), None);
    }

    #[test]
    fn names_of_a_hostile_directory_are_refused() {
        for hostile in [&b"../x"[..], b"a\0b", b""] {
            let mut encoder = Encoder::new();
            encoder.u32(0).u32(0).u64(0).u32(1).u64(1).opaque(hostile).u64(1).u32(0).u32(1);
            assert!(matches!(readdir(&mut Decoder::new(&encoder.finish())).unwrap_err().kind, ErrorKind::Garbled(_)));
        }
    }

    #[test]
    fn no_cut_of_a_directory_page_panics_or_passes() {
        let mut encoder = Encoder::new();
        encoder.u32(0).u32(0).u64(9).u32(1).u64(1).opaque(b"file").u64(5).u32(0).u32(0).u32(0).u32(1);
        let page = encoder.finish();
        let whole = readdirplus(&mut Decoder::new(&page)).unwrap();
        assert!(whole.eof && whole.entries[0].name == b"file" && whole.entries[0].cookie == 5);
        for cut in 0..page.len() {
            assert!(readdirplus(&mut Decoder::new(&page[..cut])).is_err());
        }
    }

    #[test]
    fn transfer_sizes_are_cut_to_pages_and_to_our_limit() {
        assert_eq!([0, 1000, 5000, 1 << 16, 64 << 20].map(transfer_size), [8192, 1000, 4096, 1 << 16, 1 << 20]);
    }
}
