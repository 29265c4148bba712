//! Drops the privileges of a process that it does not need, so that neither it nor a program that it starts can regain
//! them.
//!
//! Kubernetes propagates mounts to the node from privileged containers only, so the programs in these drop by
//! themselves what they do not need. The bounding set limits what any program started from here can get; `no_new_privs`
//! keeps it from getting more than its parent has. ARCHITECTURE.md has the table of what each process keeps.
//!
//! The system calls act per thread, and later threads inherit: call these before the first thread is started.

use std::io;

pub use rustix::thread::CapabilitySet;
use rustix::thread::{
    CapabilitySets, capabilities, capability_is_in_bounding_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// Leaves nothing but `needed` in the bounding set, and sets `no_new_privs`. A process that may not change its bounding
/// set (it has no CAP_SETPCAP) keeps it: it has no privileges to lend either.
///
/// # Errors
/// Those of prctl(2).
pub fn bound(needed: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    if !capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for capability in CapabilitySet::all().difference(needed).iter() {
        // A kernel that does not know one cannot grant it.
        if capability_is_in_bounding_set(capability).unwrap_or(false) {
            remove_capability_from_bounding_set(capability)?;
        }
    }
    Ok(())
}

/// Leaves nothing but `needed`, as far as it is there, in the permitted and effective sets, and nothing inheritable.
///
/// # Errors
/// Those of capset(2).
pub fn keep(needed: CapabilitySet) -> io::Result<()> {
    let permitted = capabilities(None)?.permitted & needed;
    let sets = CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

/// [`bound`] and [`keep`].
///
/// # Errors
/// As theirs.
pub fn keep_only(needed: CapabilitySet) -> io::Result<()> {
    bound(needed)?;
    keep(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own, which is all that changes.
    #[test]
    fn nothing_else_is_left() {
        let kept = std::thread::spawn(|| {
            let needed = CapabilitySet::KILL | CapabilitySet::SYS_ADMIN;
            let had = capabilities(None).unwrap();
            let may_bound = had.effective.contains(CapabilitySet::SETPCAP);
            keep_only(needed).unwrap();
            let sets = capabilities(None).unwrap();
            assert_eq!(sets.effective, had.permitted & needed);
            assert_eq!((sets.permitted, sets.inheritable), (sets.effective, CapabilitySet::empty()));
            let bounding =
                CapabilitySet::all().iter().filter(|one| capability_is_in_bounding_set(*one).unwrap_or(false));
            assert!(!may_bound || needed.contains(bounding.collect()));
            // Again, with less than before.
            keep_only(CapabilitySet::KILL).unwrap();
            assert_eq!(capabilities(None).unwrap().effective, had.permitted & CapabilitySet::KILL);
        });
        kept.join().unwrap();
    }
}
