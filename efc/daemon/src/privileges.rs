//! What the daemon may do once it has its descriptors.
//!
//! It runs as an unprivileged user and keeps two capabilities: CAP_NET_BIND_SERVICE, because NFS servers ask for
//! source ports below 1024 and connections are made again at any time, and CAP_IPC_LOCK, because the buffers of the
//! data path are locked in memory. The bounding set holds nothing else, and `no_new_privs` is set.

use std::io;

use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, remove_capability_from_bounding_set,
    set_capabilities, set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

/// The user and group that a daemon runs as: `nobody` and `nogroup`.
const UNPRIVILEGED: u32 = 65534;

/// Drops everything the daemon does not need. Call before the first thread is started: the calls are per thread, and
/// later threads inherit. Without privileges to drop (a daemon started by a user) nothing happens.
///
/// # Errors
/// Those of `capset(2)`, `prctl(2)` and `setresuid(2)`.
pub fn drop_unneeded() -> io::Result<()> {
    drop_all_but(CapabilitySet::NET_BIND_SERVICE | CapabilitySet::IPC_LOCK)
}

/// Likewise, for the process that looks at other processes' mounts and speaks with nobody but the daemon (`id_maps`).
///
/// # Errors
/// As above.
pub fn drop_all_but_looking_at_mounts() -> io::Result<()> {
    drop_all_but(CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE)
}

fn drop_all_but(needed: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    for capability in CapabilitySet::all().difference(needed).iter() {
        if capability_is_in_bounding_set(capability).unwrap_or(false) {
            remove_capability_from_bounding_set(capability)?;
        }
    }
    let (uid, gid) = (Uid::from_raw(UNPRIVILEGED), Gid::from_raw(UNPRIVILEGED));
    set_keep_capabilities(true)?;
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    let sets = CapabilitySets { effective: needed, permitted: needed, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    Ok(())
}
