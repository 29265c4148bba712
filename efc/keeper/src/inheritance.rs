//! Descriptors that whoever started the keeper left open: the only unsafe code of this crate.
#![allow(unsafe_code)]

use std::io;

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
