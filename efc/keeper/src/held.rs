//! A held session: the descriptors that keep its mount alive, whoever has copies of them.
//!
//! `/dev/fuse` is the session; the state memfd is its daemons' saved state; the listener is where a later keeper
//! connects to the daemon. The listener's name lies in the run directory under `sessions`, one file per session, and is
//! all that a keeper finds there when it starts. A daemon that does not answer there has died, and its session is lost
//! or held by somebody else. A file beside it says where the session is mounted, only for the log: for a dead daemon
//! nobody else could tell.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use efc_proto::{MountStatus, ToKeeper, to_keeper};
use rustix::fs::fstat;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::kernel;
use crate::socket;

/// Below the run directory; as short as can be, since a socket's path has 108 bytes.
const FOLDER: &str = "s";
/// Ending of the file beside a listener that says where its session is mounted.
const TARGET: &str = "target";
/// How often a name that is taken is replaced by another.
const NAMES_MAX: u32 = 8;

/// The descriptors of one session. The listener's name goes when this is dropped by its last owner, unless it was kept.
#[derive(Debug)]
pub struct Held {
    /// `/dev/fuse`.
    pub device: OwnedFd,
    /// The state memfd.
    pub state: OwnedFd,
    listener: OwnedFd,
    name: PathBuf,
}

/// A living daemon, met at its listener.
#[derive(Debug)]
pub struct TakenOver {
    /// To talk with it.
    pub control: OwnedFd,
    /// Its pidfd.
    pub process: OwnedFd,
    /// Its process id.
    pub pid: i32,
}

/// Where the listeners of a run directory's sessions are.
#[derive(Clone, Debug)]
pub struct Listeners {
    folder: PathBuf,
}

impl Held {
    /// What a daemon gets, in this order.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [self.device.as_fd(), self.state.as_fd(), self.listener.as_fd()]
    }

    /// Memory that the saved state takes, in bytes.
    pub fn saved_bytes(&self) -> u64 {
        fstat(&self.state).map_or(0, |stat| stat.st_blocks as u64 * 512)
    }

    /// The session is over: nobody shall look for its daemon.
    pub fn forget(&self) {
        if let Err(error) = remove(&self.name) {
            log::warn!("{} stays: {error}", self.name.display());
        }
    }
}

impl Listeners {
    /// The listeners below `run_dir`.
    ///
    /// # Errors
    /// Those of making their folder.
    pub fn new(run_dir: &Path) -> io::Result<Listeners> {
        let folder = run_dir.join(FOLDER);
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Listeners { folder }),
        }
    }

    /// A session that did not exist before, to be mounted on `target`.
    ///
    /// # Errors
    /// Those of opening `/dev/fuse`, of memfd_create(2), and of a socket.
    pub fn create(&self, target: &Path) -> io::Result<Held> {
        self.hold(kernel::open_fuse()?, kernel::create_state()?, target)
    }

    /// A session that somebody else has held, mounted on `target`, and whose daemon is gone.
    ///
    /// # Errors
    /// Those of a socket.
    pub fn hold(&self, device: OwnedFd, state: OwnedFd, target: &Path) -> io::Result<Held> {
        let mut attempt = 1;
        loop {
            let mut random = [0; 4];
            getrandom(&mut random, GetRandomFlags::empty())?;
            let name = self.folder.join(format!("{:08x}", u32::from_ne_bytes(random)));
            match efc_proto::listen_at(&name, socket::BACKLOG) {
                Ok(listener) => {
                    if let Err(error) = std::fs::write(name.with_extension(TARGET), target.as_os_str().as_bytes()) {
                        log::warn!(
                            "{}: its session is {}, which cannot be noted: {error}",
                            target.display(),
                            name.display()
                        );
                    }
                    return Ok(Held { device, state, listener, name });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempt < NAMES_MAX => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether a mount on `target` would hide the listeners.
    pub fn lie_below(&self, target: &Path) -> bool {
        self.folder.starts_with(target)
    }

    /// Names of all listeners, those of dead daemons included.
    ///
    /// # Errors
    /// Those of reading a directory.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let names = std::fs::read_dir(&self.folder)?.map(|entry| Ok(entry?.file_name()));
        names
            .filter(|name| !name.as_ref().is_ok_and(|name| Path::new(name).extension() == Some(TARGET.as_ref())))
            .collect()
    }

    /// Where the session of this name is mounted, if that was noted; and its name.
    pub fn describe(&self, name: &OsString) -> String {
        let noted = std::fs::read(self.folder.join(name).with_extension(TARGET)).unwrap_or_default();
        match String::from_utf8_lossy(&noted).as_ref() {
            "" => format!("session {}", name.display()),
            target => format!("{target}: session {}", name.display()),
        }
    }

    /// Meets the daemon of this name, which may take as long as the daemon hangs; `None`, and no name any more, if it has
    /// died.
    ///
    /// # Errors
    /// Those of connecting, and `InvalidData` from a daemon that says something else.
    pub fn meet(&self, name: &OsString) -> io::Result<Option<(MountStatus, Held, TakenOver)>> {
        let name = self.folder.join(name);
        let control = match socket::connect(&name) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                remove(&name)?;
                return Ok(None);
            }
            connected => connected?,
        };
        let received = match efc_proto::receive::<ToKeeper>(&control) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            received => received?,
        };
        let Some((ToKeeper { message }, descriptors)) = received else {
            remove(&name)?;
            return Ok(None);
        };
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "it does not introduce itself as a daemon does");
        let Some(to_keeper::Message::Session(status)) = message else { return Err(invalid()) };
        let [device, state, listener, process] = <[OwnedFd; 4]>::try_from(descriptors).map_err(|_| invalid())?;
        let pid = status.pid;
        Ok(Some((status, Held { device, state, listener, name }, TakenOver { control, process, pid })))
    }
}

/// Removes a listener's name, and what is noted beside it.
fn remove(name: &Path) -> io::Result<()> {
    efc_proto::remove_if_there(&name.with_extension(TARGET))?;
    efc_proto::remove_if_there(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_daemon_that_has_died_is_known_where_it_was_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let listeners = Listeners::new(folder.path()).unwrap();
        let any = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let held = listeners.hold(any(), any(), Path::new("/mnt/data")).unwrap();
        let [name] = <[OsString; 1]>::try_from(listeners.names().unwrap()).unwrap();
        assert_eq!(listeners.describe(&name), format!("/mnt/data: session {}", name.display()));
        drop(held);
        assert!(listeners.meet(&name).unwrap().is_none());
        assert_eq!(std::fs::read_dir(folder.path().join(FOLDER)).unwrap().count(), 0, "nothing is left of it");
        assert_eq!(listeners.describe(&name), format!("session {}", name.display()));
    }
}
