//! Files of the node that the kernel reads in place of ours: its rules, as the file system of the daemon relies on them.

use std::ffi::c_void;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use efc_fuse::{Features, Negotiated, SessionConfig};
use efc_state::State;

use crate::daemons::{Daemon, Reader};
use crate::mounts::{LONG, Mount, Served, memfd, own};
use crate::ramfs::{DATA, DATA_SIZE, eventually, pattern};

pub const FOPEN_DIRECT_IO: u32 = 1 << 0;
pub const FOPEN_KEEP_CACHE: u32 = 1 << 1;
pub const FOPEN_NOFLUSH: u32 = 1 << 5;
pub const FOPEN_PASSTHROUGH: u32 = 1 << 7;

/// FUSE_DEV_IOC_BACKING_OPEN.
fn register(device: impl AsFd, file: impl AsFd) -> io::Result<u32> {
    let map = [file.as_fd().as_raw_fd() as u32, 0, 0, 0];
    // SAFETY: the kernel reads 16 bytes there.
    let id = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), 0x4010_e501, &raw const map) };
    if id < 0 { Err(io::Error::last_os_error()) } else { Ok(id as u32) }
}

/// FUSE_DEV_IOC_BACKING_CLOSE.
fn unregister(device: impl AsFd, id: u32) -> io::Result<()> {
    // SAFETY: the kernel reads 4 bytes there.
    let closed = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), 0x4004_e502, &raw const id) };
    if closed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A file of the node with another content than [`DATA`] has.
fn backing_file() -> (tempfile::NamedTempFile, Vec<u8>) {
    let file = tempfile::Builder::new().tempfile_in(folder()).unwrap();
    let content: Vec<u8> = pattern().iter().map(|byte| !byte).collect();
    fs::write(file.path(), &content).unwrap();
    (file, content)
}

/// Not on an overlayfs, which temporary folders may be on.
fn folder() -> &'static Path {
    Path::new("/dev/shm")
}

fn served() -> Served {
    Served::new(LONG, SessionConfig { passthrough: true, ..SessionConfig::default() })
}

/// The errno of an open.
fn refusal(opened: io::Result<File>) -> Option<i32> {
    opened.err().and_then(|error| error.raw_os_error())
}

fn reads(served: &Served) -> u64 {
    served.filesystem.executed.lock().unwrap().get("read").copied().unwrap_or(0)
}

fn releases(served: &Served) -> u64 {
    served.filesystem.executed.lock().unwrap().get("release").copied().unwrap_or(0)
}

pub fn the_kernel_reads_a_file_of_the_node_by_itself() {
    let served = served();
    assert!(Negotiated::of(&served.state).unwrap().has_passthrough());
    let (file, content) = backing_file();
    let id = register(served.device(), file.reopen().unwrap()).unwrap();
    served.filesystem.open_with(FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, id);
    let mut opened = File::open(served.join(DATA)).unwrap();
    fs::remove_file(file.path()).unwrap();
    let mut read = Vec::new();
    opened.read_to_end(&mut read).unwrap();
    assert!(read == content, "other data");
    assert_eq!(reads(&served), 0);
    drop(opened);
    eventually("the file is released", || releases(&served) == 1);
    unregister(served.device(), id).unwrap();
    assert_eq!(unregister(served.device(), id).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    served.filesystem.open_with(0, 0);
    assert!(fs::read(served.join(DATA)).unwrap() == pattern(), "the file's own data");
}

pub fn a_file_that_is_passed_through_is_opened_in_no_other_way() {
    let served = served();
    let (file, content) = backing_file();
    let [id, other] = [(); 2].map(|()| register(served.device(), file.reopen().unwrap()).unwrap());
    let open = |flags, backing| {
        served.filesystem.open_with(flags, backing);
        File::open(served.join(DATA))
    };
    let cached = open(0, 0).unwrap();
    assert_eq!(refusal(open(FOPEN_PASSTHROUGH, id)), Some(libc::EIO), "it is open with pages");
    drop(cached);
    eventually("both are released", || releases(&served) == 2);
    let first = open(FOPEN_PASSTHROUGH, id).unwrap();
    let bad = [(0, 0), (FOPEN_DIRECT_IO, 0), (FOPEN_PASSTHROUGH, other), (FOPEN_PASSTHROUGH | FOPEN_KEEP_CACHE, id)];
    for (flags, backing) in bad {
        assert_eq!(refusal(open(flags, backing)), Some(libc::EIO), "flags {flags:#x}, backing {backing}");
    }
    let second = open(FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, id).unwrap();
    let direct = open(FOPEN_PASSTHROUGH | FOPEN_DIRECT_IO | FOPEN_NOFLUSH, id).unwrap();
    let mut byte = [0];
    second.read_exact_at(&mut byte, 5).unwrap();
    assert_eq!((byte[0], reads(&served)), (content[5], 0));
    direct.read_exact_at(&mut byte, 5).unwrap();
    assert_eq!((byte[0], reads(&served)), (pattern()[5], 1), "this one asks the daemon");
    // O_DIRECT of the file is that of the backing, too.
    served.filesystem.open_with(FOPEN_PASSTHROUGH | FOPEN_DIRECT_IO, id);
    let bypassing = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(served.join(DATA)).unwrap();
    bypassing.read_exact_at(&mut byte, 7).unwrap();
    assert_eq!((byte[0], reads(&served)), (pattern()[7], 2));
    drop((first, second, direct, bypassing));
    eventually("failed opens are released, too", || releases(&served) == 2 + bad.len() as u64 + 4);
    assert!(open(0, 0).is_ok(), "nobody has it open");
    eventually("that is released", || releases(&served) == 3 + bad.len() as u64 + 4);
    assert!(open(FOPEN_PASSTHROUGH, other).is_ok());
}

/// A shared mapping of a file. It keeps the mount busy, as an open file does.
struct Mapped(&'static [u8]);

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody else has the slice.
        unsafe { libc::munmap(self.0.as_ptr().cast_mut().cast(), self.0.len()) };
    }
}

fn map(file: &File) -> Mapped {
    let (length, protection) = (DATA_SIZE, libc::PROT_READ);
    // SAFETY: a new mapping, of a length that the file has.
    let address = unsafe {
        libc::mmap(std::ptr::null_mut::<c_void>(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    assert_ne!(address, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    // SAFETY: it was just mapped, is readable, and is unmapped when nobody has it any more.
    Mapped(unsafe { std::slice::from_raw_parts(address.cast::<u8>(), length) })
}

pub fn a_mapping_outlives_the_last_close_and_the_backing() {
    let served = served();
    let (file, content) = backing_file();
    let id = register(served.device(), file.reopen().unwrap()).unwrap();
    served.filesystem.open_with(FOPEN_PASSTHROUGH, id);
    let opened = File::open(served.join(DATA)).unwrap();
    let mapped = map(&opened);
    drop(opened);
    eventually("it is released, though mapped", || releases(&served) == 1);
    unregister(served.device(), id).unwrap();
    drop(file);
    assert!(mapped.0 == content, "other data");
    assert_eq!(reads(&served), 0);
    served.filesystem.open_with(0, 0);
    assert!(fs::read(served.join(DATA)).unwrap() == pattern(), "whoever opens it now has its own data");
    assert!(mapped.0 == content, "the mapping stays as it was");
}

pub fn reads_go_on_without_a_daemon_and_the_next_one_has_the_same_backing() {
    let (mount, state) = (Mount::new(), memfd());
    // The number is known before a daemon has agreed on anything: the first of a connection is 1.
    let mut daemon = Daemon::with_backing(1, &mount, &state);
    daemon.expect("serving, daemon 1, resumed false");
    let (file, content) = backing_file();
    assert_eq!(register(&mount.device, file.reopen().unwrap()).unwrap(), 1);
    let (mut reading, mut waiting) = (Reader::open(&mount.join(DATA)), Reader::open(&mount.join(DATA)));
    daemon.kill();
    reading.go();
    assert!(reading.content() == content, "read while there is no daemon");
    let mut daemon = Daemon::with_backing(1, &mount, &state);
    daemon.expect("serving, daemon 2, resumed true");
    let mut third = Reader::open(&mount.join(DATA));
    for reader in [&mut waiting, &mut third] {
        reader.go();
    }
    assert!(waiting.content() == content && third.content() == content, "opened under different daemons");
    drop(mount);
    eventually("the daemon ends with the mount", || daemon.child.try_wait().unwrap().is_some());
    let left = State::open(own(&state)).unwrap().handles();
    assert_eq!(left, [], "records of files that are closed");
}

pub fn an_older_kernel_is_not_asked_for_it() {
    let features = Features::of_kernel("6.1").unwrap();
    let config = SessionConfig { passthrough: true, features, ..SessionConfig::default() };
    let served = Served::new(Duration::ZERO, config);
    assert!(!Negotiated::of(&served.state).unwrap().has_passthrough());
    let (file, _) = backing_file();
    assert_eq!(register(served.device(), file.reopen().unwrap()).unwrap_err().raw_os_error(), Some(libc::EPERM));
}
