//! FUSE operations on the kernel: making a session, its mount and read-ahead, ending it.
//!
//! Nothing here sends a request to a daemon: mount(2) of FUSE only queues INIT, and everything else uses `/proc`,
//! `/sys` or the session's own descriptor.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use efc_mount_helper::mountinfo::{self, Mount};
use efc_mount_helper::target::descriptor_path;
use efc_proto::{DaemonConfig, Source};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
use rustix::io::Errno;
use rustix::mount::MountFlags;

/// Type of our mounts, as in mountinfo.
pub const FILESYSTEM: &str = "fuse.efc";
/// Largest READ that the kernel sends, in bytes.
const MAX_READ: u32 = 1 << 20;
/// The kernel's read-ahead for one open file when the client does not say, in KiB.
const READ_AHEAD_DEFAULT_KIB: u32 = 8_192;
/// Where the kernel shows its FUSE connections.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// A FUSE session without a mount.
pub fn open_fuse() -> io::Result<OwnedFd> {
    Ok(open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// Empty memory for what must outlive a daemon; whoever sizes it may seal it.
pub fn create_state() -> io::Result<OwnedFd> {
    Ok(memfd_create("efc-state", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?)
}

/// Mounts the session on `directory`, an open descriptor of it.
///
/// # Errors
/// Those of mount(2). Nothing is mounted then.
pub fn mount(directory: &OwnedFd, session: &OwnedFd, config: &DaemonConfig, root_mode: u32) -> io::Result<()> {
    let options = format!(
        "fd={},rootmode={root_mode:o},user_id=0,group_id=0,allow_other,default_permissions,max_read={MAX_READ}",
        session.as_raw_fd()
    );
    let options = CString::new(options)?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, config.read_only);
    let source = config.source.as_ref().map_or_else(|| SEVERAL.to_owned(), url);
    rustix::mount::mount(source, descriptor_path(directory), FILESYSTEM, flags, options.as_c_str())?;
    Ok(())
}

/// A dataset of several sources, which come and go, as `mount` and `df` show it.
const SEVERAL: &str = "efc";

/// The dataset as `mount` and `df` show it.
fn url(source: &Source) -> String {
    let host = if source.host.contains(':') { format!("[{}]", source.host) } else { source.host.clone() };
    let port = if source.port == 0 { String::new() } else { format!(":{}", source.port) };
    let query = if source.mount_port == 0 { String::new() } else { format!("?mountport={}", source.mount_port) };
    format!("nfs://{host}{port}{}{query}", source.path)
}

/// What is visible at `path`, if it is a mount point.
pub fn mounted_at(path: &Path) -> io::Result<Option<Mount>> {
    let mounts = mountinfo::read()?;
    Ok(mountinfo::at(&mounts, path).next_back().cloned())
}

/// Whether a mount of the connection is anywhere in this mount namespace.
pub fn is_listed(connection: u32) -> io::Result<bool> {
    Ok(mountinfo::read()?.iter().any(|mount| mount.device == (0, connection) && mount.filesystem == FILESYSTEM))
}

/// Whether the connection is over: its last mount has gone, or it was aborted.
pub fn is_disconnected(session: &OwnedFd) -> bool {
    let mut descriptors = [PollFd::new(session, PollFlags::empty())];
    let polled = poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok() && descriptors[0].revents().contains(PollFlags::ERR)
}

/// Sets how far the kernel reads ahead in one open file, in KiB; 0 means the default.
///
/// INIT cannot: the kernel caps its answer at 128 KiB.
///
/// # Errors
/// Those of writing to sysfs.
pub fn set_read_ahead(connection: u32, read_ahead_kib: u32) -> io::Result<()> {
    let read_ahead_kib = if read_ahead_kib == 0 { READ_AHEAD_DEFAULT_KIB } else { read_ahead_kib };
    std::fs::write(format!("/sys/class/bdi/0:{connection}/read_ahead_kb"), read_ahead_kib.to_string())
}

/// Ends a connection at once: every request that waits on it fails with ECONNABORTED. A connection that is over is
/// success.
///
/// # Errors
/// Those of mounting fusectl, and of writing to it.
pub fn abort(connection: u32) -> io::Result<()> {
    let lever = format!("{CONNECTIONS}/{connection}/abort");
    let control = Path::new(CONNECTIONS);
    if mounted_at(control)?.is_none() {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        match rustix::mount::mount("fusectl", control, "fusectl", flags, None) {
            Ok(()) | Err(Errno::BUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    match std::fs::write(lever, "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

/// Puts a beat into the session's queue of requests: the daemon reads a NOTIFY_REPLY of this unique, and answers nothing.
///
/// # Errors
/// Those of write(2): ENOENT if the kernel does not know `node`, EINVAL if that is no regular file, ENODEV for a
/// session that is over.
pub fn send_beat(session: &OwnedFd, node: u64, number: u64) -> io::Result<()> {
    // struct fuse_out_header and struct fuse_notify_retrieve_out of linux/fuse.h.
    const RETRIEVE: u32 = 5;
    let mut message = [0; 48];
    message[0..4].copy_from_slice(&48u32.to_ne_bytes());
    message[4..8].copy_from_slice(&RETRIEVE.to_ne_bytes());
    message[16..24].copy_from_slice(&number.to_ne_bytes());
    message[24..32].copy_from_slice(&node.to_ne_bytes());
    rustix::io::retry_on_intr(|| rustix::io::write(session, &message))?;
    Ok(())
}

/// What a daemon has noted in the state at `offset`, one of the protocol; 0 if nothing.
///
/// # Errors
/// Those of pread(2).
pub fn read_note(state: &OwnedFd, offset: u64) -> io::Result<u64> {
    let mut number = [0; 8];
    rustix::io::pread(state, &mut number, offset)?;
    Ok(u64::from_ne_bytes(number))
}

/// A counter to wait on together with sockets (eventfd(2)).
pub fn create_waker() -> io::Result<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Makes `waker` readable.
pub fn wake(waker: impl AsFd) {
    // Fails only when the counter is full, and then the descriptor is readable already.
    let _ = rustix::io::write(waker, &1u64.to_ne_bytes());
}

/// Makes `waker` wait again.
pub fn clear(waker: impl AsFd) {
    // Fails only when there was nothing to clear.
    let _ = rustix::io::read(waker, &mut [0u8; 8][..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let source = |host: &str, port, mount_port| Source { host: host.into(), port, mount_port, path: "/d".into() };
        assert_eq!(url(&source("nas", 0, 0)), "nfs://nas/d");
        assert_eq!(url(&source("::1", 2049, 20048)), "nfs://[::1]:2049/d?mountport=20048");
    }

    #[test]
    fn a_session_without_a_mount_is_not_over_as_root() {
        // Needs /dev/fuse. A session that was never mounted polls as ERR: only ask after mount(2).
        assert!(is_disconnected(&open_fuse().unwrap()));
    }
}
