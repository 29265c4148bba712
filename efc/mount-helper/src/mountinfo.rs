//! `/proc/self/mountinfo`, parsed (proc(5)).
//!
//! The list belongs to the mount namespace of the thread that reads it and is a snapshot: a mount may come or go right
//! after. Paths are as seen from the root directory of this process, and are compared byte by byte.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Of mounts beneath a mount, among mount namespaces (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Neither out nor in; unbindable mounts, too.
    Private,
    /// In only.
    Slave,
    /// Both ways.
    Shared,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Identifies the mount for as long as it exists.
    pub id: u64,
    /// The mount below which this one hangs.
    pub parent_id: u64,
    /// Major and minor number of the file system's device; FUSE has major 0 and the connection's number as minor.
    pub device: (u32, u32),
    /// The directory of the file system that is mounted (`/` unless it is a bind mount of a directory).
    pub root: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Options of this mount, such as `ro,nosuid`.
    pub options: String,
    /// Whom mounts beneath it reach, and whose appear there.
    pub propagation: Propagation,
    /// File system type, with the subtype: `fuse.efc`.
    pub filesystem: String,
    /// What was mounted, as given to mount(2).
    pub source: OsString,
}

impl Mount {
    /// Whether `option` is among the options of this mount.
    pub fn has_option(&self, option: &str) -> bool {
        self.options.split(',').any(|candidate| candidate == option)
    }
}

/// All mounts of this mount namespace, in the order in which they were made.
///
/// # Errors
/// Those of reading `/proc/self/mountinfo`; `InvalidData` for a line that is not of the documented form.
pub fn read() -> io::Result<Vec<Mount>> {
    // Not /proc/self: a thread may have a mount namespace of its own.
    parse(&std::fs::read("/proc/thread-self/mountinfo")?)
}

/// The mounts at exactly `path`, the one that is visible last.
pub fn at<'a>(mounts: &'a [Mount], path: &'a Path) -> impl DoubleEndedIterator<Item = &'a Mount> {
    mounts.iter().filter(move |mount| mount.mount_point == path)
}

/// The identifier of the mount that `descriptor` was opened on, found without a request to its file system.
///
/// # Errors
/// Those of reading `/proc/self/fdinfo`; `InvalidData` if the kernel does not tell.
pub fn mount_id(descriptor: impl AsFd) -> io::Result<u64> {
    let info = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", descriptor.as_fd().as_raw_fd()))?;
    info.lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no mnt_id in fdinfo"))
}

/// The mounts of a list that was read elsewhere: of another process, or through another `/proc`.
///
/// # Errors
/// `InvalidData` for a line that is not of the documented form.
pub fn parse(list: &[u8]) -> io::Result<Vec<Mount>> {
    list.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("mountinfo: {}", String::from_utf8_lossy(line)))
            })
        })
        .collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent_id = number(fields.next()?)?;
    let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let root = PathBuf::from(unescape(fields.next()?));
    let mount_point = PathBuf::from(unescape(fields.next()?));
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    // Any number of optional fields, ended by a hyphen.
    let mut propagation = Propagation::Private;
    loop {
        match fields.next()? {
            b"-" => break,
            field if field.starts_with(b"shared:") => propagation = Propagation::Shared,
            field if field.starts_with(b"master:") && propagation == Propagation::Private => {
                propagation = Propagation::Slave;
            }
            _ => {}
        }
    }
    let filesystem = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    Some(Mount { id, parent_id, device, root, mount_point, options, propagation, filesystem, source })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Undoes the kernel's escapes of space, tab, newline, `#` and backslash: `\040` and the like.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        if let Some(digits) = octal {
            let code = digits.iter().fold(0u32, |code, digit| code * 8 + u32::from(digit - b'0'));
            plain.push(code as u8);
            rest = &tail[3..];
        } else {
            plain.push(byte);
            rest = tail;
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_manual_page() {
        let line = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue\n";
        let mounts = parse(line).unwrap();
        assert_eq!(
            mounts,
            [Mount {
                id: 36,
                parent_id: 35,
                device: (98, 0),
                root: "/mnt1".into(),
                mount_point: "/mnt2".into(),
                options: "rw,noatime".into(),
                propagation: Propagation::Slave,
                filesystem: "ext3".into(),
                source: "/dev/root".into(),
            }]
        );
        assert!(mounts[0].has_option("noatime") && !mounts[0].has_option("atime"));
    }

    #[test]
    fn escapes_are_undone() {
        let line = b"1 0 0:70 / /a\\040b\\134c\\012 rw - fuse.efc nfs://[::1]/x\\0437\\9 rw";
        let mounts = parse(line).unwrap();
        assert_eq!(mounts[0].mount_point, Path::new("/a b\\c\n"));
        assert_eq!(mounts[0].source, "nfs://[::1]/x#7\\9");
    }

    #[test]
    fn only_the_exact_path_counts() {
        let lines = b"1 0 0:1 / /a rw - tmpfs x rw\n2 1 0:2 / /a/b rw - tmpfs x rw\n3 1 0:3 / /a rw - tmpfs x rw\n";
        let mounts = parse(lines).unwrap();
        let ids: Vec<u64> = at(&mounts, Path::new("/a")).map(|mount| mount.id).collect();
        assert_eq!(ids, [1, 3]);
    }

    #[test]
    fn a_broken_line_is_an_error() {
        for line in ["x", "1 0 0:1 / /a rw shared:1 tmpfs x rw", "1 0 0 / /a rw - tmpfs x rw"] {
            assert_eq!(parse(line.as_bytes()).unwrap_err().kind(), io::ErrorKind::InvalidData, "{line}");
        }
    }

    #[test]
    fn the_running_kernels_list_is_understood() {
        let mounts = read().unwrap();
        assert!(at(&mounts, Path::new("/")).next().is_some());
        let root = std::fs::File::open("/").unwrap();
        assert!(mounts.iter().any(|mount| mount.id == mount_id(&root).unwrap()));
    }
}
