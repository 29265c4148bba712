//! The directory on which something is mounted, or is to be.
//!
//! Named as (parent, last component): the parent is resolved once, with its symbolic links, and held open, so that
//! renaming a directory above cannot redirect what is done later. The last component is never followed, never `stat`ed
//! while something is mounted on it.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, open, openat, readlinkat};
use rustix::io::Errno;

/// A directory, by its resolved parent and its name there.
#[derive(Debug)]
pub struct Target {
    parent: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl Target {
    /// Resolves the parent of `path`.
    ///
    /// # Errors
    /// EINVAL for what [`split`] refuses; those of opening the parent otherwise. It hangs if the parent lies on a
    /// file system that does not answer.
    pub fn resolve(path: &Path) -> Result<Target, Errno> {
        let (parent, name) = split(path)?;
        let parent = open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Target::below(parent, name)
    }

    /// The entry `name` of a directory that is open already.
    ///
    /// # Errors
    /// Those of reading the directory's path from `/proc`; ENOENT if the directory has been removed.
    pub fn below(parent: OwnedFd, name: &OsStr) -> Result<Target, Errno> {
        let link = readlinkat(rustix::fs::CWD, descriptor_path(&parent), Vec::new())?;
        let directory = Path::new(OsStr::from_bytes(link.as_bytes()));
        if rustix::fs::fstat(&parent)?.st_nlink == 0 {
            return Err(Errno::NOENT);
        }
        let path = directory.join(name);
        Ok(Target { parent, name: name.to_owned(), path })
    }

    /// The absolute path without symbolic links, as `/proc/self/mountinfo` shows it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The parent directory.
    pub fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    /// A path that means this entry of the parent directory, whatever happens to the directories above.
    pub fn exact_path(&self) -> PathBuf {
        Path::new(&descriptor_path(&self.parent)).join(&self.name)
    }

    /// Opens the directory itself, without following a symbolic link and without a request to a FUSE daemon.
    ///
    /// # Errors
    /// ENOENT; ENOTDIR for anything but a directory, a symbolic link included.
    pub fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.parent, &self.name, flags, Mode::empty())
    }

    /// Whether the entry is a symbolic link. Ask only when nothing is mounted on it.
    pub fn is_symlink(&self) -> bool {
        readlinkat(&self.parent, &self.name, Vec::new()).is_ok()
    }
}

/// The path under which `/proc` shows what `descriptor` refers to.
pub fn descriptor_path(descriptor: impl AsFd) -> String {
    format!("/proc/thread-self/fd/{}", descriptor.as_fd().as_raw_fd())
}

/// Splits an absolute path into its parent and its last component.
///
/// # Errors
/// EINVAL for a relative path, for `/`, and for a path with `..`: none of them is ever meant.
pub fn split(path: &Path) -> Result<(&Path, &OsStr), Errno> {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if path.is_absolute() && plain => Ok((parent, name)),
        _ => Err(Errno::INVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_never_meant() {
        for path in ["", "/", "a", "a/b", "/a/../b", "/a/..", "../a"] {
            assert_eq!(split(Path::new(path)).unwrap_err(), Errno::INVAL, "{path}");
        }
        assert_eq!(split(Path::new("/a/b/")).unwrap(), (Path::new("/a"), OsStr::new("b")));
    }

    #[test]
    fn the_parent_is_resolved_and_the_leaf_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("real/leaf")).unwrap();
        std::os::unix::fs::symlink("real", base.join("link")).unwrap();
        std::os::unix::fs::symlink("leaf", base.join("real/other")).unwrap();
        let target = Target::resolve(&base.join("link/leaf")).unwrap();
        assert_eq!(target.path(), base.join("real/leaf"));
        target.open().unwrap();
        let target = Target::resolve(&base.join("link/other")).unwrap();
        assert_eq!(target.path(), base.join("real/other"));
        assert_eq!(target.open().unwrap_err(), Errno::NOTDIR);
        assert!(target.is_symlink());
        assert_eq!(Target::resolve(&base.join("none/leaf")).unwrap_err(), Errno::NOENT);
    }
}
