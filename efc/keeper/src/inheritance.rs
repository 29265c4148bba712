//! What processes inherit: the keeper from whoever started it, and a daemon from the keeper. Beside `backing`, the only
//! unsafe code of this crate.
//!
//! The keeper keeps only the three standard descriptors, and makes standard error non-blocking: the reader of a pipe or
//! socket, a container runtime or systemd's journal for example, may stop reading or go away, and neither keeper nor
//! daemons may wait for it. A line that finds it full or closed is lost.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::ioctl_fionbio;
use rustix::stdio::{dup2_stderr, stderr};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Closes every descriptor but the three standard ones. A pipe held open here for ever would keep a caller waiting for
/// its end, and every daemon would inherit it.
///
/// # Errors
/// ENOSYS before Linux 5.9.
///
/// # Safety
/// Nothing in this process may own a descriptor yet: call it first in `main`.
pub unsafe fn close_inherited_descriptors() -> io::Result<()> {
    let first: libc::c_uint = 3;
    // SAFETY: no memory is passed, and the caller vouches that nobody owns what is closed.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps standard error from blocking. A pipe is opened anew, since O_NONBLOCK on the one that is there would be everybody else's too.
/// A socket cannot be opened anew; systemd gives each process that it starts one of its own.
///
/// # Errors
/// ENXIO if nobody reads a pipe: then it is broken, which blocks nobody either. Those of open(2).
pub fn unblock_stderr() -> io::Result<()> {
    match FileType::from_raw_mode(fstat(stderr())?.st_mode) {
        FileType::Fifo => {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            Ok(dup2_stderr(open("/proc/self/fd/2", flags, Mode::empty())?)?)
        }
        FileType::Socket => Ok(ioctl_fionbio(stderr(), true)?),
        _ => Ok(()),
    }
}

/// Makes the command's process the leader of a session and process group of its own, which no terminal's hang-up and no
/// signal to the keeper's group reaches, and moves it to a network namespace, if one is given.
pub fn start_session(command: &mut Command, network: Option<Arc<OwnedFd>>) {
    let set_up = move || {
        rustix::process::setsid()?;
        if let Some(network) = &network {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        Ok(())
    };
    // SAFETY: setsid(2) and setns(2) are all that happens between fork and exec.
    unsafe { command.pre_exec(set_up) };
}
