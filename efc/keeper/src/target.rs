//! Resolves a target without ever entering one of our own mounts.
//!
//! A keeper that waits for its own daemon when it should start that daemon hangs for good. A path may also lead into a
//! mount of ours by a symbolic link, so the parent is walked step by step, and before each step the mount that it would
//! enter is looked up in the kernel's list. That costs two small reads of `/proc` per step and no request to any
//! daemon.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use efc_mount_helper::mountinfo::{self, Mount};
use efc_mount_helper::target::{Target, split};
use efc_proto::Error;
use efc_proto::error::Code;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, open, openat, readlinkat, statat};

use crate::failure::{failure, path_code};
use crate::kernel::FILESYSTEM;

/// Most symbolic links on the way, as in path_resolution(7).
const LINKS_MAX: usize = 40;

/// Resolves the parent of `path`.
///
/// # Errors
/// INVALID_ARGUMENT for anything but an absolute path without `..`; NOT_FOUND; FAILED_PRECONDITION for a path below an
/// EFC mount or a component that is no directory.
pub fn resolve(path: &str) -> Result<Target, Error> {
    let (parent, name) = split(Path::new(path)).map_err(|_| {
        failure(Code::InvalidArgument, format!("target {path:?} is not an absolute path of a directory without \"..\""))
    })?;
    let at_fault = |error: std::io::Error| {
        failure(path_code(&error), format!("cannot resolve the directory above the target {path}: {error}"))
    };
    let mounts = mountinfo::read().map_err(at_fault)?;
    let parent = walk(parent, &mounts).map_err(at_fault)?;
    let parent = parent.ok_or_else(|| {
        failure(Code::FailedPrecondition, format!("target {path} lies inside an EFC mount; mount it elsewhere"))
    })?;
    Target::below(parent, name).map_err(|errno| at_fault(errno.into()))
}

/// Opens the directory `path`; `None` if that leads into an EFC mount.
fn walk(path: &Path, mounts: &[Mount]) -> std::io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = || open("/", flags | OFlags::DIRECTORY, Mode::empty());
    let mut current = root()?;
    let mut pending: VecDeque<OsString> = steps(path).collect();
    let mut links = 0;
    while let Some(step) = pending.pop_front() {
        let next = openat(&current, &step, flags, Mode::empty())?;
        let mount_id = mountinfo::mount_id(&next)?;
        if mounts.iter().any(|mount| mount.id == mount_id && mount.filesystem == FILESYSTEM) {
            return Ok(None);
        }
        let kind = FileType::from_raw_mode(statat(&next, "", AtFlags::EMPTY_PATH)?.st_mode);
        match kind {
            FileType::Directory => current = next,
            FileType::Symlink if links < LINKS_MAX => {
                links += 1;
                let link = readlinkat(&next, "", Vec::new())?;
                let link = Path::new(OsStr::from_bytes(link.as_bytes()));
                if link.is_absolute() {
                    current = root()?;
                }
                steps(link).rev().for_each(|step| pending.push_front(step));
            }
            FileType::Symlink => return Err(rustix::io::Errno::LOOP.into()),
            _ => return Err(rustix::io::Errno::NOTDIR.into()),
        }
    }
    Ok(Some(current))
}

fn steps(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_as_the_kernel_does() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("a/b/c")).unwrap();
        symlink("../a/b", base.join("a/relative")).unwrap();
        symlink(base.join("a"), base.join("absolute")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        std::fs::write(base.join("file"), "").unwrap();
        for path in ["a/b/c/leaf", "a/relative/c/leaf", "absolute/relative/c/leaf"] {
            let target = resolve(base.join(path).to_str().unwrap()).unwrap();
            assert_eq!(target.path(), base.join("a/b/c/leaf"), "{path}");
        }
        for (path, code) in [
            ("none/leaf", Code::NotFound),
            ("loop/leaf", Code::FailedPrecondition),
            ("file/leaf", Code::FailedPrecondition),
            ("a/../b", Code::InvalidArgument),
        ] {
            let error = resolve(base.join(path).to_str().unwrap()).unwrap_err();
            assert_eq!(error.code(), code, "{path}: {}", error.message);
        }
        assert_eq!(resolve("relative/path").unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn an_efc_mount_is_not_entered() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        std::fs::create_dir(base.join("below")).unwrap();
        let mut mounts = mountinfo::read().unwrap();
        let here = mountinfo::mount_id(open(&base, OFlags::PATH, Mode::empty()).unwrap()).unwrap();
        assert!(walk(&base.join("below"), &mounts).unwrap().is_some());
        mounts.iter_mut().filter(|mount| mount.id == here).for_each(|mount| mount.filesystem = FILESYSTEM.into());
        assert!(walk(&base.join("below"), &mounts).unwrap().is_none());
    }
}
