//! Finds out what is mounted where, without touching any mount.
//!
//! A dead FUSE daemon makes every path below its mount hang or fail with ENOTCONN, the mount's root included, so `stat`
//! of a mount point does not tell whether something is mounted there. Two rules therefore hold wherever this crate is
//! used, in the program `efc-mount-helper` and in the keeper: the kernel's own list (`/proc/self/mountinfo`) is
//! authoritative, and of a target only the parent directory is ever resolved.

pub mod mountinfo;
pub mod target;
