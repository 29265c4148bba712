//! mount_setattr(2), which neither rustix nor libc has: the only unsafe code of this crate.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// Refuse writes. This and the next two are of `linux/mount.h`.
pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
/// Ignore set-user-ID bits and file capabilities.
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
/// Ignore device nodes.
pub const MOUNT_ATTR_NODEV: u64 = 0x4;

/// `struct mount_attr`, in its first version.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace_fd: u64,
}

/// Sets `attributes` (`MOUNT_ATTR_*`) on the mount that `descriptor` refers to; the others stay.
///
/// # Errors
/// ENOSYS before Linux 5.12; those of mount_setattr(2) otherwise.
pub fn mount_setattr(descriptor: impl AsFd, attributes: u64) -> Result<(), Errno> {
    let request = MountAttributes { set: attributes, clear: 0, propagation: 0, user_namespace_fd: 0 };
    // SAFETY: the path is a constant terminated by zero, and the kernel reads no more than the given size of `request`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            descriptor.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const request,
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}
