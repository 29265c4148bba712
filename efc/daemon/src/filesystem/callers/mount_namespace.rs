//! How the mounts of ours that another process sees map ids. It takes CAP_SYS_ADMIN, and CAP_SYS_PTRACE to find a process's
//! mount namespace.

use std::io;

use efc_statmount::{Namespace, mask};

use super::id_map::{Extent, IdMap};

/// A namespace with so many mounts is not looked at, as it would hold up everybody else: its callers are refused.
const MOUNTS_LIMIT: usize = 8192;

/// Whether the kernel can tell a mount's id map (Linux 6.15).
pub fn can_tell_id_maps() -> bool {
    let Ok(mounts) = Namespace::OWN.mounts(MOUNTS_LIMIT) else { return false };
    let told = |mount: &u64| Namespace::OWN.stat(*mount, mask::SUPPORTED_MASK);
    mounts.iter().find_map(|mount| told(mount).ok()).is_some_and(|stat| stat.supports(mask::ID_MAP))
}

/// How the mounts of type `fuse.efc` in the mount namespace of a thread map ids, one entry for each; `None` for one that does not.
///
/// # Errors
/// Those of `open(2)` for a thread that has ended; `InvalidData` for a namespace of too many mounts or a map that cannot be read.
pub fn id_maps(tid: u32) -> io::Result<Vec<Option<IdMap>>> {
    let namespace = Namespace::of(tid)?;
    let mut found = Vec::new();
    for mount in namespace.mounts(MOUNTS_LIMIT)? {
        let stat = match namespace.stat(mount, mask::MNT_BASIC | mask::FS_TYPE | mask::FS_SUBTYPE) {
            Ok(stat) => stat,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue, // unmounted since
            Err(error) => return Err(error),
        };
        if stat.fs_type() != b"fuse" || stat.fs_subtype() != b"efc" {
            continue;
        }
        if !stat.is_id_mapped() {
            found.push(None);
            continue;
        }
        let map = namespace.stat(mount, mask::ID_MAP)?.id_map().ok_or(io::ErrorKind::InvalidData)?;
        found.push(Some(IdMap { uids: extents(&map.uids)?, gids: extents(&map.gids)? }));
    }
    Ok(found)
}

fn extents(texts: &[String]) -> io::Result<Vec<Extent>> {
    texts.iter().map(|text| Extent::parse(text).ok_or_else(|| io::ErrorKind::InvalidData.into())).collect()
}
