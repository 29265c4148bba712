//! `listmount(2)` and `statmount(2)` of `linux/mount.h`, which no library wraps yet: the mounts of a mount namespace,
//! and their properties. They need Linux 6.11, and fail with ENOSYS before. For another process's namespace the caller
//! needs CAP_SYS_ADMIN, and CAP_SYS_PTRACE to find it.

use std::fs::File;
use std::io;
use std::mem::{MaybeUninit, offset_of, size_of};

use rustix::ioctl::{Getter, ioctl, opcode};

// The same on all architectures, as of all system calls since Linux 5.0.
const SYS_STATMOUNT: libc::c_long = 457;
const SYS_LISTMOUNT: libc::c_long = 458;
/// `NS_GET_MNTNS_ID` of `linux/nsfs.h`.
const NS_GET_MNTNS_ID: rustix::ioctl::Opcode = opcode::read::<u64>(0xb7, 5);
/// The root of a mount namespace, to `listmount(2)`.
const LSMT_ROOT: u64 = u64::MAX;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
const STRINGS_MAX: usize = 8192;

/// What [`Namespace::stat`] shall tell: bits of `statmount.mask`.
pub mod mask {
    /// Ids and attributes.
    pub const MNT_BASIC: u64 = 1 << 1;
    /// [`fs_type`](super::Statmount::fs_type).
    pub const FS_TYPE: u64 = 1 << 5;
    /// [`fs_subtype`](super::Statmount::fs_subtype). Linux 6.13.
    pub const FS_SUBTYPE: u64 = 1 << 8;
    /// [`supports`](super::Statmount::supports). Linux 6.15.
    pub const SUPPORTED_MASK: u64 = 1 << 12;
    /// [`id_map`](super::Statmount::id_map). Linux 6.15.
    pub const ID_MAP: u64 = 1 << 13 | 1 << 14;
}

/// A mount namespace.
#[derive(Clone, Copy)]
pub struct Namespace(u64);

impl Namespace {
    /// The one of the calling thread.
    pub const OWN: Namespace = Namespace(0);

    /// The one of a thread.
    ///
    /// # Errors
    /// Those of `open(2)` for a thread that has ended or may not be looked at.
    pub fn of(tid: u32) -> io::Result<Namespace> {
        let file = File::open(format!("/proc/{tid}/ns/mnt"))?;
        // SAFETY: the kernel writes the u64 that this ioctl is declared to return.
        Ok(Namespace(unsafe { ioctl(&file, Getter::<NS_GET_MNTNS_ID, u64>::new()) }?))
    }

    /// Unique ids of its mounts.
    ///
    /// # Errors
    /// `InvalidData` if there are `limit` of them or more; those of `listmount(2)`.
    pub fn mounts(self, limit: usize) -> io::Result<Vec<u64>> {
        let mut mounts = vec![0_u64; limit];
        let request = self.request(LSMT_ROOT, 0);
        // SAFETY: the kernel reads `request.size` bytes of the request, and writes at most `limit` ids.
        let count = unsafe { libc::syscall(SYS_LISTMOUNT, &raw const request, mounts.as_mut_ptr(), limit, 0) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        if count == limit {
            return Err(io::ErrorKind::InvalidData.into());
        }
        mounts.truncate(count);
        Ok(mounts)
    }

    /// What the mount with this unique id is, as far as `mask` asks.
    ///
    /// # Errors
    /// Those of `statmount(2)`: ENOENT for a mount that has gone, EOVERFLOW for one with more than 8 KiB to tell.
    pub fn stat(self, mount: u64, mask: u64) -> io::Result<Box<Statmount>> {
        let mut stat = Box::new(MaybeUninit::<Statmount>::zeroed());
        let request = self.request(mount, mask);
        let size = size_of::<Statmount>();
        // SAFETY: the kernel reads `request.size` bytes of the request, and writes at most `size` bytes.
        let result = unsafe { libc::syscall(SYS_STATMOUNT, &raw const request, stat.as_mut_ptr(), size, 0) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: all its fields are integers, for which zeros and whatever the kernel wrote are values.
        Ok(unsafe { stat.assume_init() })
    }

    fn request(self, mount: u64, param: u64) -> Request {
        Request { size: size_of::<Request>() as u32, spare: 0, mount, param, namespace: self.0 }
    }
}

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
pub struct Statmount {
    size: u32,
    options: u32,
    mask: u64,
    device: [u32; 2],
    magic: u64,
    flags: u32,
    fs_type: u32,
    ids: [u64; 2],
    old_ids: [u32; 2],
    attributes: u64,
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
const _: () = assert!(offset_of!(Statmount, strings) == 512);

/// The id map of an id-mapped mount, each extent as in `/proc/PID/uid_map`: "INSIDE OUTSIDE COUNT".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// Of users.
    pub uids: Vec<String>,
    /// Of groups.
    pub gids: Vec<String>,
}

impl Statmount {
    /// The id that `/proc/PID/mountinfo` shows; another mount may have it later.
    pub fn id(&self) -> u64 {
        self.old_ids[0].into()
    }

    /// Whether the mount maps ids.
    pub fn is_id_mapped(&self) -> bool {
        self.attributes & MOUNT_ATTR_IDMAP != 0
    }

    /// Type of the file system, without what follows a dot.
    pub fn fs_type(&self) -> &[u8] {
        self.string(self.fs_type)
    }

    /// What follows the dot in the type of the file system.
    pub fn fs_subtype(&self) -> &[u8] {
        self.string(self.fs_subtype)
    }

    /// Whether the kernel can tell all of `mask`.
    pub fn supports(&self, mask: u64) -> bool {
        self.mask & mask::SUPPORTED_MASK != 0 && self.supported_mask & mask == mask
    }

    /// How the mount maps ids; `None` if it does not, or the kernel cannot tell.
    pub fn id_map(&self) -> Option<IdMap> {
        (self.mask & mask::ID_MAP == mask::ID_MAP).then(|| IdMap {
            uids: self.strings(self.uid_map, self.uid_map_count),
            gids: self.strings(self.gid_map, self.gid_map_count),
        })
    }

    fn string(&self, offset: u32) -> &[u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// `count` strings, one after another.
    fn strings(&self, first: u32, count: u32) -> Vec<String> {
        let rest = self.strings.get(first as usize..).unwrap_or_default();
        let texts = rest.split(|byte| *byte == 0).take(count as usize);
        texts.map(|text| String::from_utf8_lossy(text).into_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_mounts_have_the_ids_of_mountinfo() {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ids: Vec<u64> = table.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
        for namespace in [Namespace::OWN, Namespace::of(std::process::id()).unwrap()] {
            let mounts = namespace.mounts(100_000).unwrap();
            let stat = |mount: &u64| namespace.stat(*mount, mask::MNT_BASIC | mask::FS_TYPE).ok(); // it may have gone
            let stats: Vec<Box<Statmount>> = mounts.iter().filter_map(stat).collect();
            assert!(stats.iter().any(|stat| ids.contains(&stat.id())));
            assert!(stats.iter().all(|stat| !stat.fs_type().is_empty()));
            assert_eq!(namespace.mounts(1).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_mount_that_is_not_there() {
        let missing = Namespace::OWN.stat(1 << 60, mask::MNT_BASIC).err().unwrap();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
    }
}
