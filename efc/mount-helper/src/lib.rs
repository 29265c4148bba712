//! What is mounted where, decided without touching what is mounted.
//!
//! A dead FUSE daemon makes every path below its mount hang or fail with ENOTCONN, its root included: `stat` of a mount
//! point says nothing about whether something is mounted there. So two rules hold wherever this crate is used, by the
//! program `efc-mount-helper` and by the keeper: the kernel's own list (`/proc/self/mountinfo`) is the truth, and of a
//! target only the parent directory is ever resolved.

pub mod mountinfo;
pub mod target;
