//! `bind`: shows a directory of a volume at a target.
//!
//! The directory is found with openat2(2) beneath the volume's root, so neither `..` nor a symbolic link that a tenant
//! planted leads out of it, and the mount is made from the descriptor that was checked. It has its restrictions (nosuid,
//! nodev, perhaps read-only) before it becomes visible, except on kernels before 5.12, where they follow at once.
//! The target's parent is opened once, beneath kubelet's directory and without links, and what follows is done by that
//! descriptor: the target's directory is made in it if it is missing, and mounted on. Whoever moves the parent meanwhile
//! takes the mount along, so the mount is looked for afterwards where it was asked for, and taken away if it is elsewhere.
//! Nothing is mounted when this fails. What is at the target already is the caller's concern: a bind goes on top.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use efc_mount_helper::mountinfo::{self, Mount};
use efc_mount_helper::target::{Target, descriptor_path};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_remount, move_mount, open_tree, unmount,
};

use crate::error::{Context, Failure};
use crate::syscall::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, mount_setattr};

/// Of a target's directory, as kubelet makes them.
const TARGET_MODE: Mode = Mode::from_raw_mode(0o750);

/// The operation's arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Bind {
    /// Root of the volume.
    pub root: PathBuf,
    /// Directory below it; empty or `.` for the root itself.
    pub path: PathBuf,
    /// Directory beneath which the target lies: kubelet's.
    pub beneath: PathBuf,
    /// Where it shall appear.
    pub target: PathBuf,
    /// Refuse writes through this mount.
    pub read_only: bool,
}

impl Bind {
    /// Makes the mount.
    pub fn run(&self) -> Result<(), Failure> {
        let directory = self.open_directory()?;
        let target = Target::beneath(&self.beneath, &self.target)
            .context(|| format!("open the parent of the target {} without symbolic links", self.target.display()))?;
        target.make(TARGET_MODE).context(|| format!("make the target {}", self.target.display()))?;
        let mount_point = target.open().context(|| format!("open the target {}", self.target.display()))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(&directory, "", flags).context(|| format!("clone the mount of {}", self.source()))?;
        let restricted = match mount_setattr(&tree, self.attributes()) {
            Ok(()) => true,
            Err(Errno::NOSYS) => false,
            Err(errno) => return Err(Failure::new(format!("restrict the mount of {}", self.source()), errno)),
        };
        self.attach(&tree, &mount_point)?;
        self.require_in_place(&tree, &target)?;
        if restricted { Ok(()) } else { self.restrict_attached(&tree) }
    }

    /// Takes the mount away again if it is not where it was asked for.
    fn require_in_place(&self, tree: &OwnedFd, target: &Target) -> Result<(), Failure> {
        let moved = match target.has(tree) {
            Ok(true) => return Ok(()),
            Ok(false) => Errno::AGAIN,
            Err(errno) => errno,
        };
        let action = format!("mount on {}, whose parent was moved meanwhile", self.target.display());
        // One that cannot be taken away is at least no mount that anybody was promised.
        let _ = unmount(descriptor_path(tree), UnmountFlags::DETACH);
        Err(Failure::new(action, moved))
    }

    fn open_directory(&self) -> Result<OwnedFd, Failure> {
        let within = self.path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !within {
            return Err(Failure::new(format!("use {}: not a path below the root", self.path.display()), Errno::INVAL));
        }
        let root = open(&self.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .context(|| format!("open the root {}", self.root.display()))?;
        let path = if self.path.as_os_str().is_empty() { Path::new(".") } else { &self.path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&root, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve)
            .context(|| format!("open {} without symbolic links", self.source()))
    }

    fn attach(&self, tree: &OwnedFd, target: &OwnedFd) -> Result<(), Failure> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(tree, "", target, "", flags)
            .context(|| format!("mount {} on {}", self.source(), self.target.display()))
    }

    /// For kernels without mount_setattr(2): a remount, which sets exactly the flags that it is given.
    fn restrict_attached(&self, tree: &OwnedFd) -> Result<(), Failure> {
        let mount = descriptor_path(tree);
        let inherited = inherited_flags(tree).map_err(|error| Failure::from_io("read mountinfo", &error));
        let restricted = inherited.and_then(|inherited| {
            mount_remount(&mount, inherited | self.flags() | MountFlags::BIND, "")
                .context(|| format!("restrict the mount on {}", self.target.display()))
        });
        if restricted.is_err() {
            // Better no mount than an unrestricted one; there is nobody to tell if this fails as well.
            let _ = unmount(&mount, UnmountFlags::DETACH);
        }
        restricted
    }

    fn attributes(&self) -> u64 {
        let read_only = if self.read_only { MOUNT_ATTR_RDONLY } else { 0 };
        MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | read_only
    }

    fn flags(&self) -> MountFlags {
        let read_only = if self.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
        MountFlags::NOSUID | MountFlags::NODEV | read_only
    }

    fn source(&self) -> String {
        self.root.join(&self.path).display().to_string()
    }
}

/// The restrictions that the clone has from the mount it was made of. The access-time options stay by themselves.
fn inherited_flags(tree: &OwnedFd) -> io::Result<MountFlags> {
    let id = mountinfo::mount_id(tree)?;
    let mounts = mountinfo::read()?;
    let has = |option| mounts.iter().find(|mount| mount.id == id).is_some_and(|mount: &Mount| mount.has_option(option));
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, has("ro"));
    flags.set(MountFlags::NOEXEC, has("noexec"));
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mount::{MountPropagationFlags, mount, mount_change};
    use rustix::thread::{UnshareFlags, unshare_unsafe};

    /// Kernels before 5.12 cannot be had here, so their path is taken by hand. Needs root.
    #[test]
    fn restrictions_without_mount_setattr_as_root() {
        // SAFETY: a mount namespace of this thread's own changes no descriptor and no memory of other threads.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        mount("none", &base, "tmpfs", MountFlags::NOEXEC, None).unwrap();
        let target = base.join("target");
        let bind = Bind { root: base.clone(), path: "volume".into(), beneath: base.clone(), target, read_only: true };
        std::fs::create_dir(base.join("volume")).unwrap();
        std::fs::create_dir(&bind.target).unwrap();
        let source = bind.open_directory().unwrap();
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(&source, "", flags).unwrap();
        let target = open(&bind.target, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        bind.attach(&tree, &target).unwrap();
        bind.restrict_attached(&tree).unwrap();
        let mounts = mountinfo::read().unwrap();
        let made = mountinfo::at(&mounts, &bind.target).next_back().unwrap();
        for option in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(made.has_option(option), "{option} in {}", made.options);
        }
        let error = std::fs::write(bind.target.join("file"), "x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        std::fs::write(base.join("volume/file"), "x").unwrap();
        unmount(&base, UnmountFlags::DETACH).unwrap();
    }
}
