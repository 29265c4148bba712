//! mount_setattr(2), which neither rustix nor libc has: the only unsafe code of this crate.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Refuse writes. This and the following ones are of `linux/mount.h`.
pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
/// Ignore set-user-ID bits and file capabilities.
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
/// Ignore device nodes.
pub const MOUNT_ATTR_NODEV: u64 = 0x4;

/// Refuse to execute programs.
pub const MOUNT_ATTR_NOEXEC: u64 = 0x8;
/// Never note the time of an access.
pub const MOUNT_ATTR_NOATIME: u64 = 0x10;
/// Always note the time of an access; without this and the one before: as `relatime`.
pub const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
/// Do not note the time of an access to a directory.
pub const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
/// Follow no symbolic links.
pub const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x20_0000;
/// Both bits of the choice between the three ways to note the time of an access.
const MOUNT_ATTR_ATIME: u64 = 0x70;
const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
/// All that [`become_like`] decides, but for ids.
const MOUNT_ATTR_OPTIONS: u64 = MOUNT_ATTR_RDONLY
    | MOUNT_ATTR_NOSUID
    | MOUNT_ATTR_NODEV
    | MOUNT_ATTR_NOEXEC
    | MOUNT_ATTR_ATIME
    | MOUNT_ATTR_NODIRATIME
    | MOUNT_ATTR_NOSYMFOLLOW;

/// `struct mount_attr`, in its first version.
#[derive(Default)]
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace_fd: u64,
}

/// Adds `attributes` (`MOUNT_ATTR_*`) to the mount that `descriptor` refers to; the others stay.
///
/// # Errors
/// ENOSYS before Linux 5.12; those of mount_setattr(2) otherwise.
pub fn mount_setattr(descriptor: impl AsFd, attributes: u64) -> Result<(), Errno> {
    set(descriptor.as_fd(), &MountAttributes { set: attributes, ..Default::default() })
}

/// Gives exactly `attributes` to a mount that is attached nowhere yet, with a propagation (`MS_*`; 0: it stays), and maps its
/// ids as `user_namespace` does.
///
/// # Errors
/// As of [`mount_setattr`].
pub fn become_like(
    descriptor: impl AsFd,
    attributes: u64,
    propagation: u64,
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let idmap = user_namespace.map_or(0, |_| MOUNT_ATTR_IDMAP);
    let user_namespace_fd = user_namespace.map_or(0, |namespace| namespace.as_raw_fd() as u64);
    let request =
        MountAttributes { set: attributes | idmap, clear: MOUNT_ATTR_OPTIONS, propagation, user_namespace_fd };
    set(descriptor.as_fd(), &request)
}

fn set(descriptor: BorrowedFd<'_>, request: &MountAttributes) -> Result<(), Errno> {
    // SAFETY: the path is a constant terminated by zero, and the kernel reads no more than the given size of `request`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            descriptor.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(request),
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}
