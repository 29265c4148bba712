//! A keeper of a test's own, in a mount namespace of its own that ends with the test.
#![allow(dead_code, missing_docs)] // each test file uses a part of it

pub mod programs;

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use efc_mount_helper::mountinfo::{self, Mount};
use efc_proto::error::Code;
use efc_proto::mount_status::State;
use efc_proto::{
    AdoptRequest, DaemonConfig, DaemonStats, Error, FindRootRequest, FoundRoot, HoldRequest, InstallRequest,
    KeeperReply, KeeperRequest, MountRequest, MountStatus, Source, StatusReply, StatusRequest, UnmountRequest,
    UpgradeRequest, keeper_reply::Reply, keeper_request::Request,
};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// How long anything that should happen may take on a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a whole test may take; then its mounts are aborted, so that it fails rather than hangs.
const TEST_TIME_LIMIT: Duration = Duration::from_secs(60);

pub struct Ground {
    pub base: PathBuf,
    pub keeper: Child,
    arguments: Vec<String>,
    /// Tells the watchdog, when it is dropped, that the test has ended.
    _running: Sender<()>,
    _directory: tempfile::TempDir,
}

impl Ground {
    /// A keeper with the smallest daemon, and an empty directory `target`.
    pub fn new() -> Ground {
        Ground::with(&[])
    }

    pub fn with(arguments: &[&str]) -> Ground {
        Ground::make(arguments, None)
    }

    /// A keeper that logs there, and not to a file.
    pub fn with_stderr(arguments: &[&str], stderr: Stdio) -> Ground {
        Ground::make(arguments, Some(stderr))
    }

    fn make(arguments: &[&str], stderr: Option<Stdio>) -> Ground {
        build_programs();
        // SAFETY: a mount namespace of this thread's own changes no descriptor and no memory of other threads.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        mount("none", &base, "tmpfs", MountFlags::empty(), Some(c"mode=755")).unwrap();
        fs::create_dir(base.join("target")).unwrap();
        let arguments: Vec<String> = arguments.iter().map(|argument| argument.to_string()).collect();
        let keeper = start_keeper(&base, &arguments, stderr);
        let (running, ended) = mpsc::channel();
        let watched = base.clone();
        // The thread inherits the mount namespace.
        std::thread::spawn(move || {
            if ended.recv_timeout(TEST_TIME_LIMIT) == Err(RecvTimeoutError::Timeout) {
                abort_all_below(&watched);
            }
        });
        Ground { base, keeper, arguments, _running: running, _directory: directory }
    }

    pub fn target(&self) -> PathBuf {
        self.base.join("target")
    }

    pub fn hello(&self) -> PathBuf {
        self.target().join("hello")
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.base.join("run"))
    }

    pub fn mounts_at(&self, path: &Path) -> Vec<Mount> {
        let mounts = mountinfo::read().unwrap();
        mountinfo::at(&mounts, path).cloned().collect()
    }

    /// The keeper's child processes.
    pub fn children(&self) -> Vec<i32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.keeper.id())).into_iter().flatten().flatten();
        let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>()).collect()
    }

    #[track_caller]
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.mounts_at(&self.target()), []);
        assert_eq!(self.children(), []);
        assert_eq!(self.client().status().mounts, []);
    }

    pub fn wait_for_end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the keeper's end", || {
            status = self.keeper.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.keeper), signal).unwrap();
    }

    /// A second keeper beside the first, for whoever calls this to end.
    pub fn start_next(&self) -> Child {
        start_keeper(&self.base, &self.arguments, None)
    }

    /// Another keeper in the same place.
    pub fn restart_keeper(&mut self) {
        self.keeper = start_keeper(&self.base, &self.arguments, None);
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the keeper's log:\n{}", fs::read_to_string(self.base.join("log")).unwrap_or_default());
        }
        let children = self.children();
        // All of this is best effort: what is gone already cannot be ended again.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        for pid in children {
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
        abort_all_below(&self.base);
        if std::thread::panicking() {
            println!("{}", fs::read_to_string(self.base.join("log")).unwrap_or_default());
        }
        let _ = unmount(&self.base, UnmountFlags::DETACH);
    }
}

fn abort_all_below(base: &Path) {
    for mount in mountinfo::read().unwrap_or_default() {
        if mount.filesystem == "fuse.efc" && mount.mount_point.starts_with(base) {
            abort(mount.device.1);
        }
    }
}

fn start_keeper(base: &Path, arguments: &[String], stderr: Option<Stdio>) -> Child {
    let program = Path::new(env!("CARGO_BIN_EXE_efc-keeper"));
    let log = || fs::OpenOptions::new().create(true).append(true).open(base.join("log")).unwrap().into();
    let mut keeper = Command::new(program)
        .arg("--run-dir")
        .arg(base.join("run"))
        .arg("--daemon")
        .arg(program.with_file_name("examples").join("smallest_daemon"))
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(stderr.unwrap_or_else(log))
        .spawn()
        .unwrap();
    let run_dir = base.join("run");
    wait_until("the keeper's socket", || {
        assert_eq!(keeper.try_wait().unwrap(), None, "the keeper ended");
        Client::try_connect(&run_dir).is_ok()
    });
    keeper
}

/// Builds what Cargo does not build for every way of running these tests: the helper, which the keeper finds beside
/// itself, and the daemon.
fn build_programs() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "efc-mount-helper", "--package", "efc-keeper"]);
        cargo.args(["--bins", "--examples"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        let program = Path::new(env!("CARGO_BIN_EXE_efc-keeper"));
        let profile = program.parent().unwrap();
        cargo.arg("--target-dir").arg(profile.parent().unwrap());
        cargo.args(profile.ends_with("release").then_some("--release"));
        assert!(cargo.status().unwrap().success());
    });
}

/// The kernel's read-ahead window of a mount, in KiB.
pub fn read_ahead(connection: u32) -> u32 {
    let text = fs::read_to_string(format!("/sys/class/bdi/0:{connection}/read_ahead_kb")).unwrap();
    text.trim().parse().unwrap()
}

/// Ends a FUSE connection as an administrator would.
pub fn abort(connection: u32) {
    let control = "/sys/fs/fuse/connections";
    let lever = format!("{control}/{connection}/abort");
    if !Path::new(&lever).exists() {
        // In this thread's mount namespace only.
        let _ = mount("fusectl", control, "fusectl", MountFlags::empty(), None);
    }
    if let Ok(mut lever) = fs::OpenOptions::new().write(true).open(lever) {
        let _ = lever.write_all(b"1");
    }
}

#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn is_running(pid: i32) -> bool {
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}

pub fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// A dataset on `host`; the host's name tells the smallest daemon what to do.
pub fn config(host: &str) -> DaemonConfig {
    let source = Source { host: host.into(), path: "/export".into(), ..Default::default() };
    DaemonConfig { source: Some(source), ..Default::default() }
}

pub struct Client {
    socket: OwnedFd,
}

impl Client {
    pub fn connect(run_dir: &Path) -> Client {
        Client::try_connect(run_dir).unwrap()
    }

    pub fn try_connect(run_dir: &Path) -> std::io::Result<Client> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(run_dir.join("keeper.sock"))?)?;
        Ok(Client { socket })
    }

    pub fn send(&self, request: Request) {
        self.send_with(request, &[]);
    }

    pub fn send_with(&self, request: Request, descriptors: &[BorrowedFd<'_>]) {
        efc_proto::send(&self.socket, &KeeperRequest { request: Some(request) }, descriptors).unwrap();
    }

    pub fn receive(&self) -> Result<Reply, Error> {
        let (KeeperReply { reply }, _) = efc_proto::receive(&self.socket).unwrap().expect("a reply");
        match reply.expect("a known reply") {
            Reply::Error(error) => Err(error),
            reply => Ok(reply),
        }
    }

    pub fn call(&self, request: Request) -> Result<Reply, Error> {
        self.send(request);
        self.receive()
    }

    pub fn mount(&self, target: &Path, config: DaemonConfig) -> Result<MountStatus, Error> {
        self.mount_within(target, config, 0)
    }

    pub fn mount_within(&self, target: &Path, config: DaemonConfig, limit_ms: u32) -> Result<MountStatus, Error> {
        match self.call(Request::Mount(mount_request(target, config, limit_ms)))? {
            Reply::Mount(reply) => Ok(reply.status.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    /// Unmounts what is in use for a moment at most: a child of another test has this test's files open until it executes
    /// a program.
    pub fn unmount_soon(&self, target: &Path) {
        let begin = Instant::now();
        while let Err(error) = self.unmount(target, false) {
            assert!(error.code() == Code::FailedPrecondition && begin.elapsed() < PATIENCE, "{}", error.message);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn unmount(&self, target: &Path, force: bool) -> Result<(), Error> {
        let request = UnmountRequest { target: target.to_str().unwrap().into(), force };
        match self.call(Request::Unmount(request))? {
            Reply::Unmount(_) => Ok(()),
            other => panic!("{other:?}"),
        }
    }

    /// The session's status and descriptors.
    pub fn hold(&self, target: &Path) -> Result<(MountStatus, Vec<OwnedFd>), Error> {
        self.send(Request::Hold(HoldRequest { target: target.to_str().unwrap().into() }));
        let (KeeperReply { reply }, descriptors) = efc_proto::receive(&self.socket).unwrap().expect("a reply");
        match reply.expect("a known reply") {
            Reply::Error(error) => Err(error),
            Reply::Hold(reply) => Ok((reply.status.unwrap(), descriptors)),
            other => panic!("{other:?}"),
        }
    }

    pub fn adopt(&self, status: &MountStatus, descriptors: &[OwnedFd]) -> Result<MountStatus, Error> {
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        self.send_with(Request::Adopt(AdoptRequest { status: Some(status.clone()) }), &descriptors);
        match self.receive()? {
            Reply::Adopt(reply) => Ok(reply.status.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    pub fn upgrade(&self, target: &Path) -> Result<MountStatus, Error> {
        self.upgrade_with(target, None)
    }

    pub fn upgrade_with(&self, target: &Path, options: Option<DaemonConfig>) -> Result<MountStatus, Error> {
        self.upgrade_from(target, options, None)
    }

    /// With options that were made from `base`.
    pub fn upgrade_from(
        &self,
        target: &Path,
        options: Option<DaemonConfig>,
        base: Option<DaemonConfig>,
    ) -> Result<MountStatus, Error> {
        self.ask_upgrade(UpgradeRequest { target: target.to_str().unwrap().into(), options, base, in_place: false })
    }

    /// The daemon may stay.
    pub fn configure(&self, target: &Path, options: DaemonConfig) -> Result<MountStatus, Error> {
        let target = target.to_str().unwrap().into();
        self.ask_upgrade(UpgradeRequest { target, options: Some(options), base: None, in_place: true })
    }

    fn ask_upgrade(&self, request: UpgradeRequest) -> Result<MountStatus, Error> {
        match self.call(Request::Upgrade(request))? {
            Reply::Upgrade(reply) => Ok(reply.status.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    pub fn install(&self, version: &str, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.send_with(Request::Install(InstallRequest { version: version.into() }), descriptors);
        match self.receive()? {
            Reply::Install(_) => Ok(()),
            other => panic!("{other:?}"),
        }
    }

    /// Where the dataset's root is now; `limit_ms` is how long its daemon may look.
    pub fn find_root(&self, target: &Path, limit_ms: u32) -> Result<FoundRoot, Error> {
        let request = FindRootRequest { target: target.to_str().unwrap().into(), time_limit_ms: limit_ms };
        match self.call(Request::FindRoot(request))? {
            Reply::FindRoot(reply) => Ok(reply.root.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    pub fn status(&self) -> StatusReply {
        match self.call(Request::Status(StatusRequest::default())) {
            Ok(Reply::Status(reply)) => reply,
            other => panic!("{other:?}"),
        }
    }

    /// Statistics of the only mount, by subsystem.
    pub fn stats(&self) -> Option<DaemonStats> {
        match self.call(Request::Status(StatusRequest { by_subsystem: true, ..Default::default() })) {
            Ok(Reply::Status(reply)) => reply.mounts[0].stats.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Status of the only mount.
    pub fn only(&self) -> MountStatus {
        let mut mounts = self.status().mounts;
        assert_eq!(mounts.len(), 1, "{mounts:?}");
        mounts.remove(0)
    }

    /// Status of the only mount once its daemon serves after so many restarts. It is one status that says both: between
    /// two, the daemon can die, and while the next one starts there is none.
    #[track_caller]
    pub fn serving_after(&self, restarts: u32) -> MountStatus {
        let mut status = self.only();
        wait_until("the next daemon", || {
            status = self.only();
            status.state() == State::Serving && status.restarts == restarts
        });
        status
    }
}

pub fn mount_request(target: &Path, config: DaemonConfig, time_limit_ms: u32) -> MountRequest {
    MountRequest { target: target.to_str().unwrap().into(), config: Some(config), time_limit_ms }
}
