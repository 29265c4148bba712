//! The keeper's socket: made safely, and open to root and the keeper's own user only.
//!
//! A lock file identifies the keeper of a run directory; the kernel releases the lock when that process ends, in
//! whatever way. Its holder may replace the socket that an earlier keeper left behind. Who removes the directory removes the
//! lock with it: two keepers may then run for one path, of which the former leaves the latter's socket alone. One that was still waiting for
//! the lock tries for that of the next directory.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use efc_proto::NamedSocket;
use rustix::fs::{FlockOperation, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, socket_with};
use rustix::process::getuid;

/// Connections that may wait to be accepted.
pub const BACKLOG: i32 = 128;

/// The name of the lock in the run directory.
const LOCK: &str = "keeper.lock";
/// How long to wait for the lock of a keeper that has just been killed: a child that it was starting has the lock, too, until it
/// has become another program.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// How often a directory may be removed while it is being taken.
const REMOVALS_MAX: u32 = 8;

/// Components of the path of `/` and of directories such as `/run`, which all programs of the machine need.
const COMPONENTS_OF_SYSTEM: usize = 2;

/// The place of one keeper: at most one process has it.
#[derive(Debug)]
pub struct RunDir {
    run_dir: PathBuf,
    /// Locked. Descriptor 3 or whatever is first free, open for as long as the process lives.
    lock: File,
}

impl RunDir {
    /// Takes `run_dir`, made if need be.
    ///
    /// # Errors
    /// `AddrInUse` if a keeper has it already; `PermissionDenied` if others could write there, or need it.
    pub fn take(run_dir: &Path) -> io::Result<RunDir> {
        let mut place = RunDir::take_as_it_is(run_dir)?;
        // While it was waited for, somebody may have removed the directory, and another keeper may have taken the next one.
        for _ in 0..REMOVALS_MAX {
            if place.is_there() {
                break;
            }
            place = RunDir::take_as_it_is(run_dir)?;
        }
        Ok(place)
    }

    /// The same; the directory that was taken may be removed already.
    fn take_as_it_is(run_dir: &Path) -> io::Result<RunDir> {
        DirBuilder::new().recursive(true).mode(0o700).create(run_dir)?;
        let run_dir = run_dir.canonicalize()?;
        if run_dir.components().count() <= COMPONENTS_OF_SYSTEM {
            let message = format!(
                "{} is everybody's, but the keeper closes its run directory to other users: name a directory below",
                run_dir.display()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        let metadata = run_dir.metadata()?;
        let is_ours = metadata.uid() == 0 || metadata.uid() == getuid().as_raw();
        if !is_ours || metadata.mode() & 0o022 != 0 {
            let message = format!("{} belongs to somebody else, or others may write there", run_dir.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        if metadata.uid() == getuid().as_raw() {
            // Made by somebody else, a kubelet that mounts it into our container say: what is in it is nobody's business.
            std::fs::set_permissions(&run_dir, Permissions::from_mode(0o700))?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(run_dir.join(LOCK))?;
        if !is_locked_in_time(&lock) {
            let mut pid = String::new();
            lock.read_to_string(&mut pid)?;
            let message = format!("a keeper (pid {}) serves {} already", pid.trim(), run_dir.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        // It is for people alone. A full file system, which others share, is no reason to leave mounts without a keeper.
        if let Err(error) = write_pid(&mut lock) {
            log::warn!("keeper.lock does not say who the keeper is: {error}");
        }
        Ok(RunDir { run_dir, lock })
    }

    /// Whether the lock is still the one that others find.
    fn is_there(&self) -> bool {
        let file = |metadata: io::Result<Metadata>| metadata.ok().map(|found| (found.dev(), found.ino()));
        let own = file(self.lock.metadata());
        own.is_some() && own == file(self.run_dir.join(LOCK).metadata())
    }

    /// Listens on `keeper.sock`.
    ///
    /// # Errors
    /// Those of socket(2) to listen(2); ENAMETOOLONG for a run directory of more than about 90 bytes.
    pub fn listen(&self) -> io::Result<NamedSocket> {
        NamedSocket::listen(&self.run_dir.join("keeper.sock"), BACKLOG)
    }

    /// The run directory, made absolute.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }
}

/// Locks it, or gives up after [`LOCK_WAIT_MAX`].
fn is_locked_in_time(lock: &File) -> bool {
    let deadline = Instant::now() + LOCK_WAIT_MAX;
    while flock(lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(LOCK_POLL);
    }
    true
}

fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

/// Connects to the socket at `path`.
///
/// # Errors
/// Those of connect(2): `ConnectionRefused` if nobody listens any more.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Accepts one client; `None` if there is none after all.
pub fn accept(listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
    match accept_with(listener, SocketFlags::CLOEXEC) {
        Ok(client) => Ok(Some(client)),
        Err(errno) => match io::Error::from(errno) {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            error if error.kind() == io::ErrorKind::ConnectionAborted => Ok(None),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_a_child_of_a_killed_keeper_still_has_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let former = RunDir::take(directory.path()).unwrap();
        let child = former.lock.try_clone().unwrap(); // as fork(2) does it
        drop(former);
        let ends = thread::spawn(move || {
            thread::sleep(LOCK_WAIT_MAX / 5);
            drop(child);
        });
        assert!(RunDir::take(directory.path()).is_ok());
        ends.join().unwrap();
    }

    #[test]
    fn the_lock_of_a_directory_that_is_removed_meanwhile_is_nobodys() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("efc");
        let former = RunDir::take(&run_dir).unwrap();
        let waiting = {
            let run_dir = run_dir.clone();
            thread::spawn(move || RunDir::take(&run_dir))
        };
        thread::sleep(LOCK_WAIT_MAX / 5);
        std::fs::remove_dir_all(&run_dir).unwrap();
        let next = RunDir::take(&run_dir).unwrap();
        drop(former);
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(next.is_there());
    }

    #[test]
    fn a_place_has_one_keeper_and_a_stale_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("run/efc");
        std::fs::create_dir_all(&run_dir).unwrap();
        std::fs::set_permissions(&run_dir, Permissions::from_mode(0o755)).unwrap();
        let place = RunDir::take(&run_dir).unwrap();
        assert_eq!(run_dir.metadata().unwrap().mode() & 0o777, 0o700);
        let listener = place.listen().unwrap();
        let error = RunDir::take(&run_dir).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop((listener, place));
        assert!(run_dir.join("keeper.sock").exists());
        let place = RunDir::take(&run_dir).unwrap();
        place.listen().unwrap().remove().unwrap();
        assert!(!run_dir.join("keeper.sock").exists());
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(RunDir::take(directory.path()).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
