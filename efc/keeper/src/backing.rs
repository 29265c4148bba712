//! Files of a local store that the kernel reads in place of a session's own (FUSE passthrough): which ones a daemon may
//! have registered, and how many. Beside `inheritance`, the only unsafe code of this crate.
//!
//! Registering a file takes CAP_SYS_ADMIN, and gives more than its descriptor does: the kernel opens that file again
//! for whoever opens the session's, for writing too, with the keeper's rights and without checking permissions. So the
//! file must be one that the daemon could write to by itself: a regular file that belongs to a daemon's user, in its
//! store.
//!
//! Each daemon tells each keeper which numbers are in use, and all others are closed ([`Backings::keep`]): numbers that
//! a killed daemon had no time to give back, or that were exchanged with a former keeper and lost. Otherwise their
//! files would occupy the disk for as long as the session lives. Which numbers a former keeper has registered is not
//! known, but they are assigned in sequence, so they are below the first one that this keeper gets.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, opcode};

/// Files that a session may have registered at a time: each is open in the kernel.
const FILES_MAX: usize = 4096;
/// Numbers below the first that a keeper is given which may be those of an earlier one.
const EARLIER_MAX: u32 = 1 << 18;
/// The letter of ioctl(2) on `/dev/fuse` (FUSE_DEV_IOC_MAGIC of linux/fuse.h).
const LETTER: u8 = 229;
const OPEN: Opcode = opcode::write::<Map>(LETTER, 1);
const CLOSE: Opcode = opcode::write::<u32>(LETTER, 2);

/// `struct fuse_backing_map`.
#[repr(C)]
struct Map {
    descriptor: i32,
    flags: u32,
    padding: u64,
}

// SAFETY: the kernel reads the map, writes nothing, and answers with a number.
unsafe impl Ioctl for Map {
    type Output = u32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        OPEN
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<u32> {
        u32::try_from(output).map_err(|_| Errno::INVAL)
    }
}

/// What one session has registered, as far as this keeper knows.
#[derive(Debug, Default)]
pub struct Backings {
    ids: BTreeSet<u32>,
    /// The daemon has said what is in use, and no number was given since by which others could be found.
    may_be_others: bool,
}

impl Backings {
    /// Registers a file that came with a message, for the session `device`. `store` is the directory of its store, and
    /// `is_daemons` tells the users of daemons.
    ///
    /// # Errors
    /// What is wrong with the file, and those of the kernel: ELOOP for one of a stacked file system, EPERM if the session did not
    /// agree on passthrough.
    pub fn open(
        &mut self,
        device: impl AsFd,
        store: impl AsFd,
        files: &[OwnedFd],
        is_daemons: impl Fn(u32) -> bool,
    ) -> io::Result<u32> {
        let [file] = files else { return Err(io::Error::other("one descriptor is to come with it")) };
        check(file, store, is_daemons)?;
        if self.ids.len() >= FILES_MAX {
            return Err(io::Error::other(format!("{FILES_MAX} files are registered already")));
        }
        let map = Map { descriptor: file.as_raw_fd(), flags: 0, padding: 0 };
        // SAFETY: FUSE_DEV_IOC_BACKING_OPEN on /dev/fuse, as `Map` describes it; other devices refuse its number.
        let id = unsafe { rustix::ioctl::ioctl(&device, map) }?;
        self.ids.insert(id);
        if std::mem::take(&mut self.may_be_others) {
            self.close_others(&device, id);
        }
        Ok(id)
    }

    /// Closes what earlier keepers have registered and nobody uses.
    fn close_others(&self, device: impl AsFd, below: u32) {
        let others = (below.saturating_sub(EARLIER_MAX).max(1)..below).filter(|id| !self.ids.contains(id));
        let closed = others.filter(|id| close(&device, *id).is_ok()).count();
        if closed > 0 {
            log::info!("{closed} files that an earlier keeper had registered are so no longer");
        }
    }

    /// Gives back all numbers but these.
    pub fn keep(&mut self, device: impl AsFd, ids: &[u32]) {
        let kept = ids.iter().copied().take(FILES_MAX).collect();
        let unused = std::mem::replace(&mut self.ids, kept);
        let closed = unused.difference(&self.ids).filter(|id| close(&device, **id).is_ok()).count();
        if closed > 0 {
            log::info!("{closed} files that no daemon has given back are registered no longer");
        }
        self.may_be_others = true;
    }

    /// Gives a number back, which an earlier keeper may have had registered. Files that are open by it stay open.
    ///
    /// # Errors
    /// ENOENT if the kernel does not know it.
    pub fn close(&mut self, device: impl AsFd, id: u32) -> io::Result<()> {
        self.ids.remove(&id);
        close(device, id)
    }
}

fn close(device: impl AsFd, id: u32) -> io::Result<()> {
    // SAFETY: FUSE_DEV_IOC_BACKING_CLOSE on /dev/fuse reads a u32.
    Ok(unsafe { rustix::ioctl::ioctl(device, Setter::<CLOSE, u32>::new(id)) }?)
}

fn check(file: &OwnedFd, store: impl AsFd, is_daemons: impl Fn(u32) -> bool) -> io::Result<()> {
    let (found, place) = (fstat(file)?, fstat(store)?);
    let flags = fcntl_getfl(file)?;
    let why = if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        "it is no regular file"
    } else if flags.contains(OFlags::PATH) || flags & OFlags::RWMODE != OFlags::RDONLY {
        "it is not open for reading alone"
    } else if found.st_dev != place.st_dev {
        "it is on another file system than the store"
    } else if !is_daemons(found.st_uid) {
        "it belongs to somebody else"
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn only_files_that_a_daemon_could_write_to_by_itself_are_registered() {
        let store = tempfile::tempdir().unwrap();
        let path = store.path().join("file");
        let written = File::create(&path).unwrap();
        let own = rustix::process::geteuid().as_raw();
        let refused = |file: OwnedFd, owner: u32| {
            let directory = File::open(store.path()).unwrap();
            check(&file, directory, |uid| uid == owner).err().map(|error| error.to_string())
        };
        let (read, directory) = (|| File::open(&path).unwrap().into(), File::open(store.path()).unwrap().into());
        assert_eq!(refused(read(), own), None);
        assert_eq!(refused(read(), own + 1).as_deref(), Some("it belongs to somebody else"));
        assert_eq!(refused(written.into(), own).as_deref(), Some("it is not open for reading alone"));
        assert_eq!(refused(directory, own).as_deref(), Some("it is no regular file"));
        let only_named = rustix::fs::open(&path, OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        assert_eq!(refused(only_named, own).as_deref(), Some("it is not open for reading alone"));
        let elsewhere = File::open("/proc/self/status").unwrap().into();
        assert_eq!(refused(elsewhere, own).as_deref(), Some("it is on another file system than the store"));
    }

    #[test]
    fn what_was_not_agreed_on_is_refused_as_root() {
        // Needs /dev/fuse. The session is not mounted, so it has agreed on nothing.
        let (device, store) = (crate::kernel::open_fuse().unwrap(), tempfile::tempdir().unwrap());
        let directory = File::open(store.path()).unwrap();
        std::fs::write(store.path().join("file"), "content").unwrap();
        let file = || File::open(store.path().join("file")).unwrap().into();
        let mut backings = Backings::default();
        assert!(backings.open(&device, &directory, &[file()], |_| true).is_err());
        assert!(backings.open(&device, &directory, &[], |_| true).is_err());
        assert!(backings.close(&device, 1).is_err());
        assert!(backings.ids.is_empty());
        backings.keep(&device, &[8, 5, 3, 8]);
        assert!(backings.ids.iter().eq(&[3, 5, 8]), "{backings:?}");
        let many: Vec<u32> = (1..10_000).collect();
        backings.keep(&device, &many);
        assert_eq!(backings.ids.len(), FILES_MAX);
    }
}
