//! What the daemon may do once it has its descriptors.
//!
//! It runs as an unprivileged user, one of its mount's own if the keeper gives it one, and keeps two capabilities:
//! CAP_NET_BIND_SERVICE, because NFS servers ask for source ports below 1024 and connections are made again at any time,
//! and CAP_IPC_LOCK, because the buffers of the data path are locked in memory. The bounding set holds nothing else, and
//! `no_new_privs` is set. It is not dumpable: its memory is other people's data, so it leaves no core file, and only root
//! can trace it or look at its descriptors. What it looks at itself, `/proc/TID/status` of callers, is open to everybody.

use std::io;

use efc_privileges::CapabilitySet;
use rustix::process::{DumpableBehavior, Gid, Uid, set_dumpable_behavior};
use rustix::thread::{set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// The user and group that a daemon runs as if it was given none: `nobody` and `nogroup`.
const UNPRIVILEGED: u32 = 65534;

/// Drops everything the daemon does not need and becomes user and group `uid`, 0 meaning `nobody`; with `dumpable`, it may
/// be traced and dump core. Call before the first thread is started: the calls are per thread, and later threads inherit.
/// Without privileges to drop (a daemon started by a user) only the bounds are set.
///
/// # Errors
/// Those of `capset(2)`, `prctl(2)` and `setresuid(2)`.
pub fn drop_unneeded(uid: u32, dumpable: bool) -> io::Result<()> {
    drop_all_but(CapabilitySet::NET_BIND_SERVICE | CapabilitySet::IPC_LOCK, uid, dumpable)
}

/// Likewise, for the process that looks at other processes' mounts and speaks with nobody but the daemon (`id_maps`).
///
/// # Errors
/// As above.
pub fn drop_all_but_looking_at_mounts() -> io::Result<()> {
    drop_all_but(CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE, 0, false)
}

fn drop_all_but(needed: CapabilitySet, uid: u32, dumpable: bool) -> io::Result<()> {
    efc_privileges::bound(needed)?;
    if rustix::process::geteuid().is_root() {
        let id = if uid == 0 { UNPRIVILEGED } else { uid };
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        set_keep_capabilities(true)?;
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        efc_privileges::keep(needed)?;
    }
    // Last: a change of user resets it.
    set_dumpable(dumpable)
}

/// Lets others of its user trace this process, and itself dump core, or not.
///
/// # Errors
/// Those of `prctl(2)`.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    let behavior = if dumpable { DumpableBehavior::Dumpable } else { DumpableBehavior::NotDumpable };
    Ok(set_dumpable_behavior(behavior)?)
}
