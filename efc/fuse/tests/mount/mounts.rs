//! Mounts of their own for tests, before a daemon or served by this process.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use efc_fuse::{Errno, Session, SessionConfig};
use efc_state::State;
use rustix::fs::MemfdFlags;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::ramfs::RamFs;

/// Of the names of our mount points.
pub const PREFIX: &str = "efc-fuse-test-";
/// Longer than any test.
pub const LONG: Duration = Duration::from_secs(3600);

pub fn memfd() -> OwnedFd {
    rustix::fs::memfd_create("efc-fuse-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap()
}

pub fn own(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

/// A mounted device, before or behind its daemon.
pub struct Mount {
    pub device: OwnedFd,
    pub path: PathBuf,
}

impl Mount {
    pub fn new() -> Mount {
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
        let unique = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let path = std::env::temp_dir().join(format!("{PREFIX}{}-{unique}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read=1048576\0",
            device.as_raw_fd()
        );
        let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).unwrap();
        let mounted =
            rustix::mount::mount(c"test", &path, c"fuse.efc", MountFlags::NOSUID | MountFlags::NODEV, options);
        if let Err(errno) = mounted {
            let _ = fs::remove_dir(&path);
            panic!("mount: {errno}");
        }
        Mount { device: device.into(), path }
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return; // detached, the guard would not find it, and something may still wait in it
        }
        let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.path);
    }
}

/// A mount served by threads of this process.
pub struct Served {
    mount: Option<Mount>,
    pub session: Session,
    pub state: Arc<State>,
    pub filesystem: Arc<RamFs>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    pub fn new(ttl: Duration, config: SessionConfig) -> Served {
        let mount = Mount::new();
        let state = Arc::new(State::open(memfd()).unwrap());
        let filesystem = RamFs::new(Arc::clone(&state), ttl);
        let session = Session::new(own(&mount.device), Arc::clone(&state), config);
        session.start().unwrap();
        let (running, served) = (session.clone(), Arc::clone(&filesystem));
        let thread = std::thread::spawn(move || running.run(served).unwrap());
        Served { mount: Some(mount), session, state, filesystem, thread: Some(thread) }
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.mount.as_ref().unwrap().join(name)
    }

    pub fn device(&self) -> &OwnedFd {
        &self.mount.as_ref().unwrap().device
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // What a failed test left unanswered would keep the mount busy.
        self.filesystem.let_go(Some(Errno(libc::EIO)));
        self.mount.take();
        if !std::thread::panicking() {
            self.thread.take().unwrap().join().expect("the session's thread");
        }
    }
}
