//! Attributes in the kernel's form and in the server's.

use efc_backend::{Attr, FileType, SetAttr, SetTime, Time};

/// The `S_IFMT` bits of a type.
pub fn format_bits(kind: FileType) -> u32 {
    match kind {
        FileType::Regular => libc::S_IFREG,
        FileType::Directory => libc::S_IFDIR,
        FileType::Block => libc::S_IFBLK,
        FileType::Character => libc::S_IFCHR,
        FileType::Symlink => libc::S_IFLNK,
        FileType::Socket => libc::S_IFSOCK,
        FileType::Fifo => libc::S_IFIFO,
    }
}

/// The type that `S_IFMT` bits stand for.
pub fn file_type(bits: u32) -> Option<FileType> {
    use FileType::{Block, Character, Directory, Fifo, Regular, Socket, Symlink};
    let types = [Regular, Directory, Block, Character, Symlink, Socket, Fifo];
    types.into_iter().find(|kind| format_bits(*kind) == bits & libc::S_IFMT)
}

/// The number by which the kernel knows an inode. A session has one `st_dev` for all file systems that the server has
/// below the dataset's root (children of a ZFS, junctions, what `crossmnt` shows), and each of them counts its inodes for
/// itself. The root's keep their numbers; those of others get one of 62 bits that is the same on every node.
pub fn inode_number(root_fsid: u64, fsid: u64, fileid: u64) -> u64 {
    if fsid == root_fsid { fileid } else { 1 << 62 | mix(mix(fsid) ^ fileid) >> 2 }
}

/// A permutation of 64 bits in which each bit depends on all (the finalizer of SplitMix64). Saved nowhere, but part of what
/// applications see: it must not change.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// Attributes in the kernel's form.
pub fn for_kernel(attr: &Attr, root_fsid: u64) -> efc_fuse::Attr {
    let time = |time: Time| (u64::from(time.seconds), time.nanos);
    efc_fuse::Attr {
        ino: inode_number(root_fsid, attr.fsid, attr.fileid),
        size: attr.size,
        blocks: attr.used.div_ceil(512),
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        mode: format_bits(attr.kind) | (attr.mode & 0o7777),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: encode_device(attr.rdev),
        blksize: 1 << 20,
    }
}

/// `new_encode_dev` of the kernel: 12 bits of major number, 20 of minor.
fn encode_device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

/// The inverse of [`encode_device`]: (major, minor).
pub fn decode_device(device: u32) -> (u32, u32) {
    ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & !0xff))
}

/// A change of attributes in the server's form.
pub fn for_server(change: &efc_fuse::SetAttr) -> SetAttr {
    let time = |time: Option<efc_fuse::SetTime>| match time {
        None => SetTime::Keep,
        Some(efc_fuse::SetTime::Now) => SetTime::Now,
        Some(efc_fuse::SetTime::To { seconds, nanos }) => SetTime::To(nearest_time(seconds, nanos)),
    };
    SetAttr {
        mode: change.mode.map(|mode| mode & 0o7777),
        uid: change.uid,
        gid: change.gid,
        size: change.size,
        atime: time(change.atime),
        mtime: time(change.mtime),
    }
}

/// The nearest time that NFSv3 can hold: its seconds are unsigned, of 32 bits, from 1970 to 2106.
///
/// A time at or beyond either end is that end, without nanoseconds, as for Linux's own client (`timestamp_truncate`).
fn nearest_time(seconds: i64, nanos: u32) -> Time {
    match u32::try_from(seconds) {
        Ok(seconds) if seconds != 0 && seconds != u32::MAX => Time { seconds, nanos },
        _ => Time { seconds: seconds.clamp(0, u32::MAX.into()) as u32, nanos: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_their_bits_are_one_to_one() {
        let bits = [libc::S_IFREG, libc::S_IFDIR, libc::S_IFBLK, libc::S_IFCHR, libc::S_IFLNK, libc::S_IFSOCK];
        for bits in bits.into_iter().chain([libc::S_IFIFO]) {
            assert_eq!(file_type(bits | 0o644).map(format_bits), Some(bits));
        }
        assert_eq!(file_type(0), None);
    }

    #[test]
    fn inode_numbers_tell_file_systems_apart() {
        assert_eq!(inode_number(1, 1, 2), 2);
        assert_eq!(inode_number(1, 7, 2), 5_884_430_347_533_855_049, "the same in every release");
        let numbers = (0..10).flat_map(|fsid| (1..1000).map(move |fileid| inode_number(1, fsid, fileid)));
        assert_eq!(numbers.collect::<std::collections::HashSet<_>>().len(), 9990);
    }

    #[test]
    fn device_numbers_survive() {
        for device in [(0, 0), (8, 1), (4095, (1 << 20) - 1), (1, 256)] {
            assert_eq!(decode_device(encode_device(device)), device);
        }
    }

    #[test]
    fn times_out_of_range_are_the_nearest() {
        let sent = |seconds| {
            let mtime = Some(efc_fuse::SetTime::To { seconds, nanos: 5 });
            match for_server(&efc_fuse::SetAttr { mtime, ..Default::default() }).mtime {
                SetTime::To(time) => (time.seconds, time.nanos),
                _ => panic!("no time is sent"),
            }
        };
        assert_eq!(sent(1), (1, 5));
        for seconds in [0, -1, i64::MIN] {
            assert_eq!(sent(seconds), (0, 0));
        }
        assert_eq!(sent(i64::from(u32::MAX) - 1), (u32::MAX - 1, 5));
        for seconds in [i64::from(u32::MAX), 1 << 32, i64::MAX] {
            assert_eq!(sent(seconds), (u32::MAX, 0));
        }
    }
}
