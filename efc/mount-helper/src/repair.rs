//! `repair`: puts a dataset's new mount into a mount namespace, in place of its dead ones.
//!
//! When nobody serves a FUSE session any more, its mounts answer ENOTCONN for ever, also those that a container runtime has
//! bound into containers. Once the dataset is mounted anew, each dead mount is replaced by a clone of the new one: of the
//! same directory or file, at the same place, with the same restrictions, propagation and id map.
//!
//! - What is dead and where is decided from mountinfo alone. A dead mount is never asked anything; the descriptor by which
//!   it is detached names it (O_PATH) without a request.
//! - The clone is attached beneath the dead mount, which is then detached (MOVE_MOUNT_BENEATH, Linux 6.5), so that no
//!   application sees the empty directory below both. Where that cannot be done, the dead one is detached first; where
//!   not even that (a mount that came locked from a more privileged namespace), the clone goes on top.
//! - Nothing is attached whose place is not exactly the dead mount's: names are resolved without symbolic links, and the
//!   mount that is found must be the one of the list. A container's processes can move directories meanwhile, but not make
//!   us mount elsewhere.
//! - A dead mount with somebody else's mount in it stays: that one cannot be reached through it any more, and would be lost.
//!   One mount that cannot be replaced does not keep others from it; the result says which and why.
//! - An id-mapped clone gets the user namespace of a process whose map is, to the digit, that of the dead mount.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use efc_mount_helper::mountinfo::{Mount, Propagation};
use efc_statmount::IdMap;
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use rustix::process::fchdir;
use serde_json::{Value, json};

use crate::error::{Context, Failure};
use crate::namespaces::{self, FILESYSTEM, Namespace};
use crate::syscall;

/// What mountinfo puts after a path that the kernel has forgotten: removed, or looked up in vain since the mount died.
const FORGOTTEN: &[u8] = b"//deleted";

/// A file system that nobody serves any more, and where its dataset is mounted now.
#[derive(Debug, PartialEq, Eq)]
pub struct Lost {
    /// Number of its device.
    pub device: (u32, u32),
    /// The dataset's new mount, in the mount namespace of this process.
    pub root: PathBuf,
}

/// The operation's arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Repair {
    /// A process in the mount namespace.
    pub process: u32,
    /// The inode of the mount namespace.
    pub namespace: u64,
    /// What is lost.
    pub lost: Vec<Lost>,
}

/// A dead mount, with what is needed to make another like it.
struct Dead {
    mount: Mount,
    root: PathBuf,
    id_map: Option<IdMap>,
}

impl Repair {
    /// Replaces all that can be. A namespace that has gone has nothing to replace.
    pub fn run(&self) -> Result<Value, Failure> {
        let io_error = |action: &'static str| move |error: io::Error| Failure::from_io(action, &error);
        let enter = "enter the mount namespace";
        let Some(namespace) = Namespace::open(self.process, self.namespace).map_err(io_error(enter))? else {
            return Ok(report(&[], &[]));
        };
        let dead = namespace.inside(|inside| self.dead(inside)).map_err(io_error(enter))??;
        // Clones are made here, where the dataset's new mount is.
        let clones: Vec<Result<OwnedFd, Failure>> = dead.iter().map(|dead| self.clone_for(dead)).collect();
        let replace = |inside: &Namespace| replace_all(inside, dead, clones);
        let (replaced, failed) = namespace.inside(replace).map_err(io_error(enter))?;
        Ok(report(&replaced, &failed))
    }

    /// What is to be replaced in the namespace in which this process is, parents first.
    fn dead(&self, inside: &Namespace) -> Result<Vec<Dead>, Failure> {
        let mounts = inside.mounts().map_err(|error| Failure::from_io("read mountinfo", &error))?;
        let lost = |mount: &Mount| self.lost.iter().find(|lost| lost.device == mount.device);
        let visible = mounts.iter().filter(|mount| mount.filesystem == FILESYSTEM && !is_covered(mount, &mounts));
        let dead = visible.filter_map(|mount| {
            let root = lost(mount)?.root.clone();
            let id_map = mount.has_option("idmapped").then(|| namespaces::id_map(mount.id)).flatten();
            Some(Dead { mount: mount.clone(), root, id_map })
        });
        Ok(dead.collect())
    }

    fn clone_for(&self, dead: &Dead) -> Result<OwnedFd, Failure> {
        let what = || format!("clone {} of the new mount", dead.mount.root.display());
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = open(&dead.root, flags | OFlags::DIRECTORY, Mode::empty()).context(what)?;
        let path = path_of_root(&dead.mount);
        let source = if path.as_os_str().is_empty() {
            root
        } else {
            let resolve =
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
            openat2(&root, path, flags | OFlags::NOFOLLOW, Mode::empty(), resolve).context(what)?
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(&source, "", flags).context(what)?;
        let user_namespace = self.user_namespace(dead)?;
        let user_namespace = user_namespace.as_ref().map(AsFd::as_fd);
        syscall::become_like(&tree, attributes(&dead.mount), propagation(&dead.mount), user_namespace)
            .context(|| format!("give the new mount the options {}", dead.mount.options))?;
        Ok(tree)
    }

    /// One that maps ids as the dead mount does; none for one that does not.
    fn user_namespace(&self, dead: &Dead) -> Result<Option<OwnedFd>, Failure> {
        if !dead.mount.has_option("idmapped") {
            return Ok(None);
        }
        let missing = || Failure::new("find a user namespace with the id map of the mount", Errno::NXIO);
        let map = dead.id_map.as_ref().ok_or_else(missing)?;
        let mut members =
            namespaces::processes().filter(|p| namespaces::mount_namespace_of(*p) == Some(self.namespace));
        members.find_map(|process| namespaces::user_namespace_with(process, map)).map(Some).ok_or_else(missing)
    }
}

/// The path in its file system that a mount shows, relative to the top: what has that name now takes its place.
fn path_of_root(mount: &Mount) -> &Path {
    let bytes = mount.root.as_os_str().as_bytes();
    let path = Path::new(OsStr::from_bytes(bytes.strip_suffix(FORGOTTEN).unwrap_or(bytes)));
    path.strip_prefix("/").unwrap_or(path)
}

/// Whether something else is mounted on the very root of `mount`, and is what is seen there.
pub fn is_covered(mount: &Mount, mounts: &[Mount]) -> bool {
    mounts.iter().any(|other| other.parent_id == mount.id && other.mount_point == mount.mount_point)
}

type Outcome = (Vec<Mount>, Vec<(Mount, Failure)>);

fn replace_all(inside: &Namespace, dead: Vec<Dead>, clones: Vec<Result<OwnedFd, Failure>>) -> Outcome {
    let (mut replaced, mut failed) = (Vec::new(), Vec::new());
    let ids: Vec<u64> = dead.iter().map(|dead| dead.mount.id).collect();
    // What took the place of which.
    let mut successors = HashMap::new();
    for (dead, clone) in dead.into_iter().zip(clones) {
        let place = LostMount { inside, mount: &dead.mount, ids: &ids, parent: successors.get(&dead.mount.parent_id) };
        let done = clone.and_then(|clone| {
            let id = inside.mount_id(&clone).map_err(|error| Failure::from_io("identify the new mount", &error))?;
            place.fill(&clone)?;
            Ok(id)
        });
        match done {
            Ok(id) => {
                successors.insert(dead.mount.id, id);
                replaced.push(dead.mount);
            }
            Err(failure) => failed.push((dead.mount, failure)),
        }
    }
    (replaced, failed)
}

/// Where a dead mount is, or was until the one that it lay on was replaced.
struct LostMount<'a> {
    inside: &'a Namespace,
    mount: &'a Mount,
    /// All that are to be replaced.
    ids: &'a [u64],
    /// The new mount that this one shall lie on, if the one before is gone.
    parent: Option<&'a u64>,
}

impl LostMount<'_> {
    fn fill(&self, clone: &OwnedFd) -> Result<(), Failure> {
        if let Some(parent) = self.parent {
            return self.attach(clone, &self.find(*parent)?);
        }
        self.refuse_guests()?;
        let dead = self.find(self.mount.id)?;
        let beneath = MoveMountFlags::MOVE_MOUNT_BENEATH | WHOLE;
        if move_mount(clone, "", &dead, "", beneath).is_ok() {
            return self.detach(&dead).context(|| format!("detach the dead mount at {}", self.name()));
        }
        match self.detach(&dead) {
            Ok(()) => self.attach(clone, &self.open()?),
            // Locked: it can only be covered.
            Err(Errno::INVAL) => self.attach(clone, &dead),
            Err(errno) => Err(Failure::new(format!("detach the dead mount at {}", self.name()), errno)),
        }
    }

    /// Mounts of others in the dead one would go with it.
    fn refuse_guests(&self) -> Result<(), Failure> {
        let mounts = self.inside.mounts().map_err(|error| Failure::from_io("read mountinfo", &error))?;
        let mut above = vec![self.mount.id];
        while let Some(id) = above.pop() {
            for guest in mounts.iter().filter(|mount| mount.parent_id == id) {
                if !self.ids.contains(&guest.id) {
                    let action = format!("replace {}: {} is mounted in it", self.name(), guest.mount_point.display());
                    return Err(Failure::new(action, Errno::BUSY));
                }
                above.push(guest.id);
            }
        }
        Ok(())
    }

    /// The mount point, which must be on the mount with this id.
    fn find(&self, id: u64) -> Result<OwnedFd, Failure> {
        let found = self.open()?;
        let found_id = self.inside.mount_id(&found).map_err(|error| Failure::from_io("identify a mount", &error))?;
        if found_id == id {
            return Ok(found);
        }
        Err(Failure::new(format!("replace {}: another mount hides it", self.name()), Errno::BUSY))
    }

    fn open(&self) -> Result<OwnedFd, Failure> {
        let what = || format!("reach {}", self.name());
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = open("/", flags | OFlags::DIRECTORY, Mode::empty()).context(what)?;
        let path = self.mount.mount_point.strip_prefix("/").unwrap_or(Path::new("."));
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&root, path, flags | OFlags::NOFOLLOW, Mode::empty(), resolve).context(what)
    }

    fn attach(&self, clone: &OwnedFd, place: &OwnedFd) -> Result<(), Failure> {
        move_mount(clone, "", place, "", WHOLE).context(|| format!("attach the new mount at {}", self.name()))
    }

    /// By the descriptor, whatever lies on it or beneath: through our own `/proc`, since paths here are the container's.
    fn detach(&self, mount: &OwnedFd) -> Result<(), Errno> {
        fchdir(self.inside.proc())?;
        unmount(format!("self/fd/{}", mount.as_fd().as_raw_fd()), UnmountFlags::DETACH)
    }

    fn name(&self) -> std::path::Display<'_> {
        self.mount.mount_point.display()
    }
}

/// Both ends of a move are descriptors.
const WHOLE: MoveMountFlags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH.union(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH);

/// The restrictions of a mount, from its options in mountinfo.
fn attributes(mount: &Mount) -> u64 {
    let by_name = [
        ("ro", syscall::MOUNT_ATTR_RDONLY),
        ("nosuid", syscall::MOUNT_ATTR_NOSUID),
        ("nodev", syscall::MOUNT_ATTR_NODEV),
        ("noexec", syscall::MOUNT_ATTR_NOEXEC),
        ("noatime", syscall::MOUNT_ATTR_NOATIME),
        ("nodiratime", syscall::MOUNT_ATTR_NODIRATIME),
        ("nosymfollow", syscall::MOUNT_ATTR_NOSYMFOLLOW),
    ];
    let named =
        by_name.iter().filter(|(name, _)| mount.has_option(name)).fold(0, |sum, (_, attribute)| sum | attribute);
    let is_strict = !mount.has_option("noatime") && !mount.has_option("relatime");
    if is_strict { named | syscall::MOUNT_ATTR_STRICTATIME } else { named }
}

/// As `MS_*`; 0 leaves the clone with the peers of the dataset's mount.
fn propagation(mount: &Mount) -> u64 {
    match mount.propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Shared => 0,
    }
}

fn report(replaced: &[Mount], failed: &[(Mount, Failure)]) -> Value {
    let replaced: Vec<_> = replaced.iter().map(|mount| mount.mount_point.to_string_lossy()).collect();
    let failed: Vec<Value> = failed
        .iter()
        .map(|(mount, failure)| {
            let (errno, message) = failure.parts();
            let (mount_point, root) = (mount.mount_point.to_string_lossy(), mount.root.to_string_lossy());
            let device = format!("{}:{}", mount.device.0, mount.device.1);
            json!({
                "device": device, "mount_point": mount_point, "root": root, "errno": errno, "message": message
            })
        })
        .collect();
    json!({ "replaced": replaced, "failed": failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_path_is_looked_for_by_its_name() {
        for (root, expected) in [("/", ""), ("/a/b", "a/b"), ("/a/b//deleted", "a/b"), ("/a/deleted", "a/deleted")] {
            let line = format!("1 0 0:1 {root} /x rw - fuse.efc nas:/x rw");
            let mounts = efc_mount_helper::mountinfo::parse(line.as_bytes()).unwrap();
            assert_eq!(path_of_root(&mounts[0]), Path::new(expected));
        }
    }
}
