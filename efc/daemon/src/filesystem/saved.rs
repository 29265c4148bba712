//! Opens and versions in the form in which the saved state holds them.

use efc_backend::{Cred, Time};
use efc_cache::Version;
use efc_state::{DataVersion, OpenHandle};

/// What the saved state holds of an open.
pub(super) fn saved_handle(unique: u64, node: u64, flags: u32, cred: &Cred, directory: bool) -> OpenHandle {
    OpenHandle {
        node,
        flags,
        uid: cred.uid,
        gid: cred.gid,
        groups: cred.groups.iter().copied().take(Cred::GROUPS_MAX).collect(),
        directory,
        cookie_verifier: [0; 8],
        unique,
        backing: 0,
    }
}

/// A version as the saved state keeps it.
pub(super) fn saved_version(version: &Version) -> DataVersion {
    let word = |time: Time| u64::from(time.seconds) << 32 | u64::from(time.nanos);
    DataVersion { mtime: word(version.mtime), ctime: word(version.ctime), size: version.size }
}
