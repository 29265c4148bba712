//! Drops the keeper's privileges to the least with which it can mount, start daemons and end them.
//!
//! Programs that it starts cannot get more than these. The daemon drops most of them before it opens its first
//! connection (`efc/daemon/src/privileges.rs`), the mount helper at once.

use std::io;

use efc_privileges::CapabilitySet;

/// Drops everything else; with `makes_cgroups`, what they need stays. Call before the first thread is started.
///
/// # Errors
/// Those of prctl(2) and capset(2).
pub fn drop_unneeded(makes_cgroups: bool) -> io::Result<()> {
    let mut needed = own() | daemon();
    // Not even their owner, root, may make one below a root directory of mode 0555 otherwise.
    needed.set(CapabilitySet::DAC_OVERRIDE, makes_cgroups);
    efc_privileges::keep_only(needed)
}

/// What the keeper and its unmount helper need.
fn own() -> CapabilitySet {
    // mount(2), setns(2); the abort lever is a file of root's.
    CapabilitySet::SYS_ADMIN
        // Targets lie below directories of other users.
        | CapabilitySet::DAC_READ_SEARCH
        // Daemons have users of their own.
        | CapabilitySet::KILL
        // And so have their stores.
        | CapabilitySet::CHOWN
        // Whose files keep a mount busy; the descriptors of daemons whose keeper died.
        | CapabilitySet::SYS_PTRACE
        // The status of a thousand mounts is one message, larger than sockets take by default (SO_SNDBUFFORCE).
        | CapabilitySet::NET_ADMIN
}

/// What a daemon needs until it has become somebody else, and the two that it keeps.
fn daemon() -> CapabilitySet {
    CapabilitySet::SETUID
        | CapabilitySet::SETGID
        | CapabilitySet::SETPCAP
        // Pipes for splice(2), larger than a user's share.
        | CapabilitySet::SYS_RESOURCE
        | CapabilitySet::NET_BIND_SERVICE
        | CapabilitySet::IPC_LOCK
}
