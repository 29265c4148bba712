//! The directory on which something is mounted, or is to be.
//!
//! Named as (parent, last component): the parent is resolved once, with its symbolic links, and held open, so that
//! renaming a directory above cannot redirect what is done later. The last component is never followed, never `stat`ed
//! while something is mounted on it.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2, readlinkat, unlinkat};
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

    /// Resolves the parent of `path`, which must lie beneath `base`, without following a symbolic link between the two.
    /// `base` itself may be reached through links: those are the administrator's.
    ///
    /// # Errors
    /// EINVAL for what [`split`] refuses, XDEV for a path that does not lie beneath `base`, ELOOP for a symbolic link
    /// on the way, EAGAIN if a directory on the way was moved meanwhile; those of opening the parent otherwise.
    pub fn beneath(base: &Path, path: &Path) -> Result<Target, Errno> {
        let (parent, name) = split(path)?;
        let way = parent.strip_prefix(base).map_err(|_| Errno::XDEV)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = open(base, flags, Mode::empty())?;
        let expected = path_of(&base)?.join(way).join(name);
        let parent = if way.as_os_str().is_empty() {
            base
        } else {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            openat2(&base, way, flags, Mode::empty(), resolve)?
        };
        let target = Target::below(parent, name)?;
        if target.path == expected { Ok(target) } else { Err(Errno::AGAIN) }
    }

    /// The entry `name` of a directory that is open already.
    ///
    /// # Errors
    /// Those of reading the directory's path from `/proc`; ENOENT if the directory has been removed.
    pub fn below(parent: OwnedFd, name: &OsStr) -> Result<Target, Errno> {
        let directory = path_of(&parent)?;
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

    /// Makes the directory, unless the parent has an entry of this name already, whatever that is.
    ///
    /// # Errors
    /// Those of mkdir(2) but EEXIST.
    pub fn make(&self, mode: Mode) -> Result<(), Errno> {
        match mkdirat(&self.parent, &self.name, mode) {
            Err(Errno::EXIST) => Ok(()),
            made => made,
        }
    }

    /// Removes the directory. One that is not there is success, and so is anything else under its name, which stays.
    ///
    /// # Errors
    /// Those of rmdir(2): ENOTEMPTY, and EBUSY while something is mounted on it.
    pub fn remove(&self) -> Result<(), Errno> {
        match unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            removed => removed,
        }
    }

    /// Whether a mount, by a descriptor of its root, is the one at this path. It is not if the parent was moved
    /// meanwhile: then the mount went with it.
    ///
    /// # Errors
    /// Those of reading the path from `/proc`.
    pub fn has(&self, mount: impl AsFd) -> Result<bool, Errno> {
        let path = path_of(mount)?;
        // The kernel adds this for a directory that it does not find by its name any more, as a file system may forget one.
        let forgotten = [self.path.as_os_str().as_bytes(), b" (deleted)"].concat();
        Ok(path == self.path || path.as_os_str().as_bytes() == forgotten)
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

/// Where `/proc` says that a directory is now.
fn path_of(directory: impl AsFd) -> Result<PathBuf, Errno> {
    let link = readlinkat(rustix::fs::CWD, descriptor_path(&directory), Vec::new())?;
    Ok(PathBuf::from(OsStr::from_bytes(link.as_bytes())))
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

    #[test]
    fn beneath_a_base_no_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let outer = directory.path().canonicalize().unwrap();
        let base = outer.join("base");
        std::fs::create_dir_all(base.join("real")).unwrap();
        std::fs::create_dir(outer.join("outside")).unwrap();
        std::os::unix::fs::symlink("real", base.join("inward")).unwrap();
        std::os::unix::fs::symlink("../outside", base.join("outward")).unwrap();
        std::os::unix::fs::symlink("base", outer.join("alias")).unwrap();
        for (base, leaf) in [(&base, base.join("leaf")), (&base, base.join("real/leaf"))] {
            assert_eq!(Target::beneath(base, &leaf).unwrap().path(), leaf);
        }
        let alias = outer.join("alias");
        assert_eq!(Target::beneath(&alias, &alias.join("real/leaf")).unwrap().path(), base.join("real/leaf"));
        for link in ["inward", "outward"] {
            assert_eq!(Target::beneath(&base, &base.join(link).join("leaf")).unwrap_err(), Errno::LOOP, "{link}");
        }
        assert_eq!(Target::beneath(&base, &outer.join("outside/leaf")).unwrap_err(), Errno::XDEV);
        assert_eq!(Target::beneath(&base, &base.join("../outside/leaf")).unwrap_err(), Errno::INVAL);
        assert_eq!(Target::beneath(&base, &base.join("none/leaf")).unwrap_err(), Errno::NOENT);
    }

    #[test]
    fn the_directory_is_made_and_removed_where_the_parent_is_now() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("parent")).unwrap();
        std::fs::create_dir_all(base.join("other/leaf")).unwrap();
        let target = Target::beneath(&base, &base.join("parent/leaf")).unwrap();
        std::fs::rename(base.join("parent"), base.join("moved")).unwrap();
        std::os::unix::fs::symlink("other", base.join("parent")).unwrap();
        target.make(Mode::RWXU).unwrap();
        target.make(Mode::RWXU).unwrap();
        assert!(base.join("moved/leaf").is_dir());
        assert!(!target.has(target.open().unwrap()).unwrap());
        target.remove().unwrap();
        target.remove().unwrap();
        assert!(!base.join("moved/leaf").exists() && base.join("other/leaf").is_dir());
    }
}
