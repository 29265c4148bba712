//! Processes and their mount namespaces, as `/proc` shows them.
//!
//! Only what the kernel has in memory is read, so nothing here waits for a file system: no path below a mount is opened,
//! and a mapping, whose list waits for page faults, is never looked at. Processes come and go meanwhile; one that cannot
//! be read has gone.

use std::fs::{File, read, read_dir, read_link, read_to_string};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use efc_mount_helper::mountinfo::{self, Mount};
use efc_statmount::{IdMap, mask};
use rustix::fs::{Mode, OFlags, fstat, open, openat, stat};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What mounts of ours are mounted as.
pub const FILESYSTEM: &str = "fuse.efc";
/// What the kernel allows a mount namespace by default (`fs.mount-max`).
const MOUNTS_LIMIT: usize = 100_000;

/// All processes of this pid namespace.
pub fn processes() -> impl Iterator<Item = u32> {
    let entries = read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The inode that tells a mount namespace from others while it exists.
pub fn mount_namespace_of(process: u32) -> Option<u64> {
    let link = read_link(format!("/proc/{process}/ns/mnt")).ok()?;
    link.to_str()?.strip_prefix("mnt:[")?.strip_suffix(']')?.parse().ok()
}

/// The mounts that a process sees from its root directory, and that root directory.
pub fn mounts_seen_by(process: u32) -> Option<(PathBuf, Vec<Mount>)> {
    let root = read_link(format!("/proc/{process}/root")).ok()?;
    Some((root, mountinfo::parse(&read(format!("/proc/{process}/mountinfo")).ok()?).ok()?))
}

/// The command of a process, as `ps -o comm` shows it.
pub fn command_of(process: u32) -> String {
    read_to_string(format!("/proc/{process}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// The values that lines of a process's descriptors have after `field`, in `/proc/PID/fdinfo`.
pub fn descriptor_fields(process: u32, field: &str) -> impl Iterator<Item = u64> {
    let entries = read_dir(format!("/proc/{process}/fdinfo")).into_iter().flatten().flatten();
    let value = move |text: String| text.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok());
    entries.filter_map(move |entry| value(read_to_string(entry.path()).ok()?))
}

/// How the mount with this id (as of mountinfo) in the mount namespace of this thread maps ids; `None` if nobody knows, as
/// before Linux 6.15.
pub fn id_map(mount_id: u64) -> Option<IdMap> {
    let namespace = efc_statmount::Namespace::OWN;
    let is_it = |mount: &u64| namespace.stat(*mount, mask::MNT_BASIC).is_ok_and(|stat| stat.id() == mount_id);
    let mount = namespace.mounts(MOUNTS_LIMIT).ok()?.into_iter().find(is_it)?;
    namespace.stat(mount, mask::ID_MAP).ok()?.id_map()
}

/// The user namespace of a process, if its map of ids is this one.
pub fn user_namespace_with(process: u32, map: &IdMap) -> Option<OwnedFd> {
    let namespace = open(format!("/proc/{process}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let is_same = |name: &str, extents: &[String]| {
        let text = read_to_string(format!("/proc/{process}/{name}")).ok()?;
        let words = |line: &str| line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<String>>();
        Some(text.lines().map(words).eq(extents.iter().map(|extent| words(extent))))
    };
    let has_map = is_same("uid_map", &map.uids)? && is_same("gid_map", &map.gids)?;
    // A map is written once, so it is that of the namespace that was opened, unless the process has another by now.
    let now = stat(format!("/proc/{process}/ns/user")).ok()?.st_ino;
    (has_map && fstat(&namespace).ok()?.st_ino == now).then_some(namespace)
}

/// A mount namespace that this process, while it has one thread, can be in for a while.
///
/// What `/proc` says of this process is read through a descriptor of the `/proc` at the start, for a container has
/// another one, or none.
pub struct Namespace {
    own: OwnedFd,
    other: OwnedFd,
    proc: OwnedFd,
}

impl Namespace {
    /// That of `process`; `None` if it has gone, or has another than the one with inode `expected` meanwhile.
    ///
    /// # Errors
    /// Those of opening files in `/proc` otherwise.
    pub fn open(process: u32, expected: u64) -> io::Result<Option<Namespace>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let proc = open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let own = open("/proc/self/ns/mnt", flags, Mode::empty())?;
        let other = match open(format!("/proc/{process}/ns/mnt"), flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH) => return Ok(None),
            opened => opened?,
        };
        let is_expected = fstat(&other)?.st_ino == expected;
        Ok(is_expected.then_some(Namespace { own, other, proc }))
    }

    /// Does something inside.
    ///
    /// # Errors
    /// Those of setns(2).
    pub fn inside<T>(&self, action: impl FnOnce(&Self) -> T) -> io::Result<T> {
        let kind = Some(LinkNameSpaceType::Mount);
        move_into_link_name_space(self.other.as_fd(), kind)?;
        let result = action(self);
        move_into_link_name_space(self.own.as_fd(), kind)?;
        Ok(result)
    }

    /// The mounts of the namespace in which this process is now, from the namespace's root.
    ///
    /// # Errors
    /// Those of reading mountinfo.
    pub fn mounts(&self) -> io::Result<Vec<Mount>> {
        mountinfo::parse(&self.read("self/mountinfo")?)
    }

    /// As [`mountinfo::mount_id`], in whatever namespace this process is now.
    ///
    /// # Errors
    /// As there.
    pub fn mount_id(&self, descriptor: &OwnedFd) -> io::Result<u64> {
        let text = self.read(&format!("self/fdinfo/{}", descriptor.as_raw_fd()))?;
        let text = String::from_utf8_lossy(&text);
        let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
        id.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no mnt_id in fdinfo"))
    }

    /// The `/proc` of this process's own namespace.
    pub fn proc(&self) -> &OwnedFd {
        &self.proc
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let file = File::from(openat(&self.proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
        let mut content = Vec::new();
        io::Read::read_to_end(&mut &file, &mut content)?;
        Ok(content)
    }
}
