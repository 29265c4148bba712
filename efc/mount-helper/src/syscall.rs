//! mount_setattr(2), listmount(2) and statmount(2), which neither rustix nor libc has: the only unsafe code of this crate.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Refuse writes. This and the following ones are of `linux/mount.h`.
pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
/// Ignore set-user-ID bits and file capabilities.
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
/// Ignore device nodes.
pub const MOUNT_ATTR_NODEV: u64 = 0x4;

/// Refuse to execute programs.
pub const MOUNT_ATTR_NOEXEC: u64 = 0x8;
/// Never note the time of an access.
pub const MOUNT_ATTR_NOATIME: u64 = 0x10;
/// Always note the time of an access; without this and the one before: as `relatime`.
pub const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
/// Do not note the time of an access to a directory.
pub const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
/// Follow no symbolic links.
pub const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x20_0000;
/// Both bits of the choice between the three ways to note the time of an access.
const MOUNT_ATTR_ATIME: u64 = 0x70;
const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
/// All that [`become_like`] decides, but for ids.
const MOUNT_ATTR_OPTIONS: u64 = MOUNT_ATTR_RDONLY
    | MOUNT_ATTR_NOSUID
    | MOUNT_ATTR_NODEV
    | MOUNT_ATTR_NOEXEC
    | MOUNT_ATTR_ATIME
    | MOUNT_ATTR_NODIRATIME
    | MOUNT_ATTR_NOSYMFOLLOW;

// The same on all architectures, as of all system calls since Linux 5.0.
const SYS_STATMOUNT: libc::c_long = 457;
const SYS_LISTMOUNT: libc::c_long = 458;
/// The root of a mount namespace, to listmount(2).
const LSMT_ROOT: u64 = u64::MAX;
const STATMOUNT_MNT_BASIC: u64 = 1 << 1;
const STATMOUNT_MNT_UIDMAP: u64 = 1 << 13;
const STATMOUNT_MNT_GIDMAP: u64 = 1 << 14;
/// Mounts that one call lists.
const MOUNTS_MAX: usize = 1024;
const STRINGS_MAX: usize = 8192;

/// `struct mount_attr`, in its first version.
#[derive(Default)]
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace_fd: u64,
}

/// Adds `attributes` (`MOUNT_ATTR_*`) to the mount that `descriptor` refers to; the others stay.
///
/// # Errors
/// ENOSYS before Linux 5.12; those of mount_setattr(2) otherwise.
pub fn mount_setattr(descriptor: impl AsFd, attributes: u64) -> Result<(), Errno> {
    set(descriptor.as_fd(), &MountAttributes { set: attributes, ..Default::default() })
}

/// Gives exactly `attributes` to a mount that is attached nowhere yet, with a propagation (`MS_*`; 0: it stays), and maps its
/// ids as `user_namespace` does.
///
/// # Errors
/// As of [`mount_setattr`].
pub fn become_like(
    descriptor: impl AsFd,
    attributes: u64,
    propagation: u64,
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let idmap = user_namespace.map_or(0, |_| MOUNT_ATTR_IDMAP);
    let user_namespace_fd = user_namespace.map_or(0, |namespace| namespace.as_raw_fd() as u64);
    let request =
        MountAttributes { set: attributes | idmap, clear: MOUNT_ATTR_OPTIONS, propagation, user_namespace_fd };
    set(descriptor.as_fd(), &request)
}

fn set(descriptor: BorrowedFd<'_>, request: &MountAttributes) -> Result<(), Errno> {
    // SAFETY: the path is a constant terminated by zero, and the kernel reads no more than the given size of `request`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            descriptor.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(request),
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// The id map of an id-mapped mount, each extent as in `/proc/PID/uid_map`: "INSIDE OUTSIDE COUNT".
#[derive(Debug, PartialEq, Eq)]
pub struct IdMap {
    /// Of users.
    pub uids: Vec<String>,
    /// Of groups.
    pub gids: Vec<String>,
}

/// `struct mnt_id_req`.
#[repr(C)]
struct StatmountRequest {
    size: u32,
    spare: u32,
    mount: u64,
    param: u64,
    namespace: u64,
}

/// `struct statmount`: its fixed part, as far as it is needed here, then strings at offsets from `strings`.
#[repr(C)]
struct Statmount {
    before: [u32; 14],
    old_ids: [u32; 2],
    between: [u32; 22],
    uid_map_count: u32,
    uid_map: u32,
    gid_map_count: u32,
    gid_map: u32,
    after: [u64; 43],
    strings: [u8; STRINGS_MAX],
}
const _: () = assert!(offset_of!(Statmount, old_ids) == 56 && offset_of!(Statmount, strings) == 512);

/// The id map of the mount with this id (as of mountinfo) in the mount namespace of this thread. Linux 6.15.
///
/// # Errors
/// Those of the two calls, ENOSYS before; `NotFound` for a mount that has gone.
pub fn id_map(mount_id: u64) -> io::Result<IdMap> {
    for unique_id in list_mounts()? {
        let Ok(basic) = statmount(unique_id, STATMOUNT_MNT_BASIC) else { continue };
        if u64::from(basic.old_ids[0]) != mount_id {
            continue;
        }
        let stat = statmount(unique_id, STATMOUNT_MNT_UIDMAP | STATMOUNT_MNT_GIDMAP)?;
        let uids = stat.extents(stat.uid_map, stat.uid_map_count);
        return Ok(IdMap { uids, gids: stat.extents(stat.gid_map, stat.gid_map_count) });
    }
    Err(io::ErrorKind::NotFound.into())
}

impl Statmount {
    /// `count` strings, one after another.
    fn extents(&self, first: u32, count: u32) -> Vec<String> {
        let rest = self.strings.get(first as usize..).unwrap_or_default();
        let texts = rest.split(|byte| *byte == 0).take(count as usize);
        texts.map(|text| String::from_utf8_lossy(text).into_owned()).collect()
    }
}

fn list_mounts() -> io::Result<Vec<u64>> {
    let mut all = Vec::new();
    loop {
        let mut ids = [0_u64; MOUNTS_MAX];
        let last = all.last().copied().unwrap_or(0);
        let request = StatmountRequest {
            size: size_of::<StatmountRequest>() as u32,
            spare: 0,
            mount: LSMT_ROOT,
            param: last,
            namespace: 0,
        };
        // SAFETY: the kernel reads `request.size` bytes of the request, and writes at most `MOUNTS_MAX` ids.
        let count = unsafe { libc::syscall(SYS_LISTMOUNT, &raw const request, ids.as_mut_ptr(), MOUNTS_MAX, 0) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        all.extend_from_slice(&ids[..count]);
        if count < MOUNTS_MAX {
            return Ok(all);
        }
    }
}

fn statmount(mount: u64, mask: u64) -> io::Result<Box<Statmount>> {
    let mut stat = Box::new(MaybeUninit::<Statmount>::zeroed());
    let request =
        StatmountRequest { size: size_of::<StatmountRequest>() as u32, spare: 0, mount, param: mask, namespace: 0 };
    // SAFETY: the kernel reads `request.size` bytes of the request, and writes at most the given size.
    let result =
        unsafe { libc::syscall(SYS_STATMOUNT, &raw const request, stat.as_mut_ptr(), size_of::<Statmount>(), 0) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all its fields are integers, for which zeros and whatever the kernel wrote are values.
    Ok(unsafe { stat.assume_init() })
}
