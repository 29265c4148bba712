//! The system calls that tell which mounts another process sees and how each maps ids: `listmount(2)` and `statmount(2)`
//! of `linux/mount.h`, which no library wraps yet. It takes CAP_SYS_ADMIN, and CAP_SYS_PTRACE to find a process's namespace.

use std::fs::File;
use std::io;
use std::mem::{MaybeUninit, size_of};

use rustix::ioctl::{Getter, ioctl, opcode};

use crate::id_maps::{Extent, IdMap};

// The same on all architectures, as of all system calls since Linux 5.0.
const SYS_STATMOUNT: libc::c_long = 457;
const SYS_LISTMOUNT: libc::c_long = 458;
/// `NS_GET_MNTNS_ID` of `linux/nsfs.h`.
const NS_GET_MNTNS_ID: rustix::ioctl::Opcode = opcode::read::<u64>(0xb7, 5);
/// The root of a mount namespace, to `listmount(2)`.
const LSMT_ROOT: u64 = u64::MAX;
/// Mounts that one call lists; more make the namespace's mounts unknown.
const MOUNTS_MAX: usize = 2048;
const STRINGS_MAX: usize = 4096;

/// Bits of `statmount.mask`.
mod mask {
    pub const MNT_BASIC: u64 = 1 << 1;
    pub const FS_TYPE: u64 = 1 << 5;
    pub const FS_SUBTYPE: u64 = 1 << 8;
    pub const SUPPORTED_MASK: u64 = 1 << 12;
    pub const MNT_UIDMAP: u64 = 1 << 13;
    pub const MNT_GIDMAP: u64 = 1 << 14;
}
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// `struct mnt_id_req`.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    mount: u64,
    param: u64,
    namespace: u64,
}

/// `struct statmount`: its fixed part, then strings at offsets from there.
#[repr(C)]
struct Statmount {
    size: u32,
    options: u32,
    mask: u64,
    device: [u32; 2],
    magic: u64,
    flags: u32,
    fs_type: u32,
    ids: [u64; 2],
    old_ids: [u32; 2],
    attr: u64,
    propagation: [u64; 4],
    root: u32,
    point: u32,
    namespace: u64,
    fs_subtype: u32,
    source: u32,
    option_arrays: [u32; 4],
    supported_mask: u64,
    uid_map_count: u32,
    uid_map: u32,
    gid_map_count: u32,
    gid_map: u32,
    spare: [u64; 43],
    strings: [u8; STRINGS_MAX],
}
const _: () = assert!(std::mem::offset_of!(Statmount, strings) == 512);

/// Whether the kernel can tell a mount's id map (Linux 6.15).
pub fn can_tell_id_maps() -> bool {
    let Ok(namespace) = namespace_of("self") else { return false };
    let Ok(mounts) = mounts_of(namespace) else { return false };
    let wanted = mask::MNT_UIDMAP | mask::MNT_GIDMAP;
    let told = |mount: &u64| statmount(namespace, *mount, mask::SUPPORTED_MASK);
    mounts
        .iter()
        .find_map(|mount| told(mount).ok())
        .is_some_and(|stat| stat.mask & mask::SUPPORTED_MASK != 0 && stat.supported_mask & wanted == wanted)
}

/// How the mounts of type `fuse.efc` in the mount namespace of a thread map ids, one entry for each; `None` for one that does not.
///
/// # Errors
/// Those of `open(2)` for a thread that has ended; `InvalidData` for a namespace of too many mounts or too long a map.
pub fn id_maps(tid: u32) -> io::Result<Vec<Option<IdMap>>> {
    let namespace = namespace_of(&tid.to_string())?;
    let mut found = Vec::new();
    for mount in mounts_of(namespace)? {
        let stat = match statmount(namespace, mount, mask::MNT_BASIC | mask::FS_TYPE | mask::FS_SUBTYPE) {
            Ok(stat) => stat,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue, // unmounted since
            Err(error) => return Err(error),
        };
        if stat.string(stat.fs_type) != b"fuse" || stat.string(stat.fs_subtype) != b"efc" {
            continue;
        }
        if stat.attr & MOUNT_ATTR_IDMAP == 0 {
            found.push(None);
            continue;
        }
        let stat = statmount(namespace, mount, mask::MNT_UIDMAP | mask::MNT_GIDMAP)?;
        let uids = stat.extents(stat.uid_map, stat.uid_map_count)?;
        let gids = stat.extents(stat.gid_map, stat.gid_map_count)?;
        found.push(Some(IdMap { uids, gids }));
    }
    Ok(found)
}

impl Statmount {
    fn string(&self, offset: u32) -> &[u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        &rest[..rest.iter().position(|byte| *byte == 0).unwrap_or(0)]
    }

    /// `count` strings "INSIDE KERNEL COUNT", one after another.
    fn extents(&self, mut offset: u32, count: u32) -> io::Result<Vec<Extent>> {
        let mut extents = Vec::new();
        for _ in 0..count {
            let text = self.string(offset);
            offset += text.len() as u32 + 1;
            let extent = str::from_utf8(text).ok().and_then(Extent::parse);
            extents.push(extent.ok_or(io::ErrorKind::InvalidData)?);
        }
        Ok(extents)
    }
}

/// The id of the mount namespace of a thread (or "self").
fn namespace_of(thread: &str) -> io::Result<u64> {
    let file = File::open(format!("/proc/{thread}/ns/mnt"))?;
    // SAFETY: the kernel writes the u64 that this ioctl is declared to return.
    Ok(unsafe { ioctl(&file, Getter::<NS_GET_MNTNS_ID, u64>::new()) }?)
}

fn mounts_of(namespace: u64) -> io::Result<Vec<u64>> {
    let mut mounts = vec![0_u64; MOUNTS_MAX];
    let request = Request { size: size_of::<Request>() as u32, spare: 0, mount: LSMT_ROOT, param: 0, namespace };
    // SAFETY: the kernel reads `request.size` bytes of the request, and writes at most `mounts.len()` ids.
    let count = unsafe { libc::syscall(SYS_LISTMOUNT, &raw const request, mounts.as_mut_ptr(), mounts.len(), 0) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    if count == MOUNTS_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    mounts.truncate(count);
    Ok(mounts)
}

fn statmount(namespace: u64, mount: u64, mask: u64) -> io::Result<Box<Statmount>> {
    let mut stat = Box::new(MaybeUninit::<Statmount>::zeroed());
    let request = Request { size: size_of::<Request>() as u32, spare: 0, mount, param: mask, namespace };
    let size = size_of::<Statmount>();
    // SAFETY: the kernel reads `request.size` bytes of the request, and writes at most `size` bytes.
    let result = unsafe { libc::syscall(SYS_STATMOUNT, &raw const request, stat.as_mut_ptr(), size, 0) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all its fields are integers, for which zeros and whatever the kernel wrote are values.
    Ok(unsafe { stat.assume_init() })
}
