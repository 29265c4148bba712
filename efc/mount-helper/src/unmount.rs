//! `unmount`: takes away everything that is mounted at exactly one directory.
//!
//! Idempotent: a target on which nothing is mounted is success, and so is one that does not exist. A symbolic link is
//! refused, because what it leads to is not what was named. Mounts below the target or elsewhere are not touched.

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
    /// Detach now, let go when the last user has gone: never EBUSY.
    pub detach: bool,
}

impl Unmount {
    /// Unmounts.
    pub fn run(&self) -> Result<(), Failure> {
        let target = match Target::resolve(&self.target) {
            Err(Errno::NOENT) => return Ok(()),
            resolved => resolved.context(|| format!("resolve the parent of {}", self.target.display()))?,
        };
        if !is_mounted(&target)? {
            return if target.is_symlink() { Err(self.failure(Errno::LOOP)) } else { Ok(()) };
        }
        let detach = if self.detach { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        for _ in 0..STACK_MAX {
            match rustix::mount::unmount(target.exact_path(), UnmountFlags::NOFOLLOW | detach) {
                // EINVAL: somebody else was faster, as the list will show.
                Ok(()) | Err(Errno::INVAL) if !is_mounted(&target)? => return Ok(()),
                Ok(()) => {}
                Err(Errno::BUSY) => return Err(self.in_use(&target)),
                Err(errno) => return Err(self.failure(errno)),
            }
        }
        Err(self.failure(Errno::BUSY))
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
