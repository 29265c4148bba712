//! `unmount`: takes away everything that is mounted at exactly one directory.
//!
//! Idempotent: a target on which nothing is mounted is success, and so is one that does not exist. A symbolic link is
//! refused, because what it leads to is not what was named. Mounts below the target or elsewhere are not touched.
//! With a directory beneath which the target must lie, the parent is opened without links. The target's directory can be
//! removed in the same go, by the same descriptor of its parent: an empty one only.

use std::path::PathBuf;

use efc_mount_helper::mountinfo;
use efc_mount_helper::target::Target;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::{Context, Failure};
use crate::holders;

/// Most mounts on top of each other that are taken away; more mean that somebody mounts as fast as we unmount.
const STACK_MAX: usize = 1_000;

/// The operation's arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Unmount {
    /// Where.
    pub target: PathBuf,
    /// Directory beneath which the target lies, if symbolic links between the two are to be refused.
    pub beneath: Option<PathBuf>,
    /// Detach now, let go when the last user has gone: never EBUSY.
    pub detach: bool,
    /// Remove the target's directory, too. Anything else in its place stays, a symbolic link also.
    pub remove: bool,
}

impl Unmount {
    /// Unmounts.
    pub fn run(&self) -> Result<(), Failure> {
        let resolved = match &self.beneath {
            Some(base) => Target::beneath(base, &self.target),
            None => Target::resolve(&self.target),
        };
        let target = match resolved {
            Err(Errno::NOENT) => return Ok(()),
            resolved => resolved.context(|| format!("resolve the parent of {}", self.target.display()))?,
        };
        self.unmount_all(&target)?;
        if self.remove { self.remove_directory(&target) } else { Ok(()) }
    }

    fn unmount_all(&self, target: &Target) -> Result<(), Failure> {
        if !is_mounted(target)? {
            let is_refused = !self.remove && target.is_symlink();
            return if is_refused { Err(self.failure(Errno::LOOP)) } else { Ok(()) };
        }
        let detach = if self.detach { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        for _ in 0..STACK_MAX {
            match rustix::mount::unmount(target.exact_path(), UnmountFlags::NOFOLLOW | detach) {
                // EINVAL: somebody else was faster, as the list will show.
                Ok(()) | Err(Errno::INVAL) if !is_mounted(target)? => return Ok(()),
                Ok(()) => {}
                Err(Errno::BUSY) => return Err(self.in_use(target)),
                Err(errno) => return Err(self.failure(errno)),
            }
        }
        Err(self.failure(Errno::BUSY))
    }

    fn remove_directory(&self, target: &Target) -> Result<(), Failure> {
        target.remove().map_err(|errno| {
            let hint = match errno {
                Errno::NOTEMPTY => ", which holds files that are not the volume's (look at them, then remove them)",
                _ => "",
            };
            Failure::new(format!("remove the target {}{hint}", self.target.display()), errno)
        })
    }

    fn in_use(&self, target: &Target) -> Failure {
        let holders = match holders::describe(target.path()) {
            found if found.is_empty() => "a process that could not be found".to_owned(),
            found => found,
        };
        Failure::new(format!("unmount {}, which is in use by {holders}", self.target.display()), Errno::BUSY)
    }

    fn failure(&self, errno: Errno) -> Failure {
        Failure::new(format!("unmount {}", self.target.display()), errno)
    }
}

fn is_mounted(target: &Target) -> Result<bool, Failure> {
    let mounts = mountinfo::read().map_err(|error| Failure::from_io("read mountinfo", &error))?;
    Ok(mountinfo::at(&mounts, target.path()).next().is_some())
}
