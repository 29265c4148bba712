//! Real mounts over the real `/dev/fuse`: files through std::fs, redelivery, and daemons that are killed.
//!
//! Needs root, and fails without `/dev/fuse`. The program starts itself again in three roles. The *guard* has a mount namespace of its
//! own. It starts the *keeper*, which runs the tests in a pid namespace, and watches the time. In the end it kills the keeper and
//! aborts every connection that is still mounted: a process that holds both `/dev/fuse` and a file inside that mount cannot
//! die otherwise, because its last close waits for an answer that nobody gives. The keeper starts the *daemons* (stdin is
//! the device and stdout the state, so that no descriptor has to be conjured up).

mod ramfs;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use efc_fuse::state::{Node, State, UncommittedWrite, payload_checksum};
use efc_fuse::{Errno, Features, Session, SessionConfig};
use ramfs::{DATA, DATA_SIZE, Lever, RamFs, eventually, pattern};
use rustix::fs::MemfdFlags;
use rustix::mount::{MountFlags, UnmountFlags};

const ROLE: &str = "EFC_FUSE_TEST_ROLE";
const TIME_LIMIT: Duration = Duration::from_secs(90);
/// Of the names of our mount points.
const PREFIX: &str = "efc-fuse-test-";
const LONG: Duration = Duration::from_secs(3600);

const TESTS: &[(&str, fn())] = &[
    ("files_and_directories", files_and_directories),
    ("requests_of_a_mebibyte", requests_of_a_mebibyte),
    ("statx_and_masked_features", statx_and_masked_features),
    ("a_lost_reply_is_an_error", a_lost_reply_is_an_error),
    ("an_interrupt_names_its_request", an_interrupt_names_its_request),
    ("invalidation_shows_what_changed_behind", invalidation_shows_what_changed_behind),
    ("read_only_refuses", read_only_refuses),
    ("a_redelivered_request_is_executed_once", a_redelivered_request_is_executed_once),
    ("a_successor_answers_what_a_killed_daemon_held", a_successor_answers_what_a_killed_daemon_held),
    ("older_kernels_have_their_requests_replayed", older_kernels_have_their_requests_replayed),
    ("what_an_ending_daemon_still_took_is_replayed", what_an_ending_daemon_still_took_is_replayed),
    ("a_successor_answers_init", a_successor_answers_init),
    ("sigkill_tears_no_record", sigkill_tears_no_record),
    ("sigkill_costs_no_acknowledged_write", sigkill_costs_no_acknowledged_write),
];

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("guard") => guard(),
        Ok("keeper") => run_tests(),
        Ok("daemon") => daemon(),
        Ok("mute daemon") => mute_daemon(),
        Ok("churn") => churn(),
        Ok("writer") => writer(),
        _ if std::env::args().any(|argument| argument == "--list") => {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
            ExitCode::SUCCESS
        }
        _ => run_as("guard", &["--mount", "--propagation", "private"]).wait().map_or(ExitCode::FAILURE, exit_code),
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// This program in another role and in namespaces of its own. It is not in our process group, so that an interrupt from the terminal
/// does not keep the guard from tidying up.
fn run_as(role: &str, namespaces: &[&str]) -> Child {
    let mut command = Command::new("unshare");
    command.args(namespaces).arg(std::env::current_exe().unwrap()).args(std::env::args().skip(1));
    command.env(ROLE, role).process_group(0).spawn().expect("unshare(1)")
}

fn guard() -> ExitCode {
    let mut keeper = run_as("keeper", &["--pid", "--fork", "--kill-child"]);
    let start = Instant::now();
    let status = loop {
        match keeper.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if start.elapsed() > TIME_LIMIT => break None,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if status.is_none() {
        eprintln!("the tests did not end within {TIME_LIMIT:?}: killed");
        keeper.kill().unwrap();
    }
    let left = abort_connections();
    keeper.wait().unwrap();
    if left > 0 {
        eprintln!("{left} mounts were left behind");
    }
    status.filter(|_| left == 0).map_or(ExitCode::FAILURE, exit_code)
}

/// Aborts all connections that the tests have mounted in our namespace, unmounts them, and says how many there were.
fn abort_connections() -> usize {
    let control = std::env::temp_dir().join(format!("{PREFIX}control-{}", std::process::id()));
    fs::create_dir(&control).unwrap();
    rustix::mount::mount(c"none", &control, c"fusectl", MountFlags::empty(), None).unwrap();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut left = 0;
    for line in table.lines().filter(|line| line.contains(PREFIX) && line.contains(" fuse.efc ")) {
        let fields: Vec<&str> = line.split(' ').collect();
        let number = fields[2].split_once(':').unwrap().1;
        fs::write(control.join(number).join("abort"), "1").unwrap();
        rustix::mount::unmount(fields[4], UnmountFlags::DETACH).unwrap();
        fs::remove_dir(fields[4]).unwrap();
        left += 1;
    }
    rustix::mount::unmount(&control, UnmountFlags::DETACH).unwrap();
    fs::remove_dir(&control).unwrap();
    left
}

fn run_tests() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut failed = 0;
    for (name, test) in TESTS {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        print!("test {name} ... ");
        std::io::stdout().flush().unwrap();
        let outcome = std::panic::catch_unwind(test);
        println!("{}", if outcome.is_ok() { "ok" } else { "FAILED" });
        failed += usize::from(outcome.is_err());
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn memfd() -> OwnedFd {
    rustix::fs::memfd_create("efc-fuse-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap()
}

fn own(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

/// A mounted device, before or behind its daemon.
struct Mount {
    device: OwnedFd,
    path: PathBuf,
}

impl Mount {
    fn new() -> Mount {
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

    fn join(&self, name: impl AsRef<Path>) -> PathBuf {
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
struct Served {
    mount: Option<Mount>,
    session: Session,
    state: Arc<State>,
    filesystem: Arc<RamFs>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    fn new(ttl: Duration, config: SessionConfig) -> Served {
        let mount = Mount::new();
        let state = Arc::new(State::open(memfd()).unwrap());
        let filesystem = RamFs::new(Arc::clone(&state), ttl);
        let session = Session::new(own(&mount.device), Arc::clone(&state), config);
        session.start().unwrap();
        let (running, served) = (session.clone(), Arc::clone(&filesystem));
        let thread = std::thread::spawn(move || running.run(served).unwrap());
        Served { mount: Some(mount), session, state, filesystem, thread: Some(thread) }
    }

    fn join(&self, name: &str) -> PathBuf {
        self.mount.as_ref().unwrap().join(name)
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

fn files_and_directories() {
    let served = Served::new(LONG, SessionConfig::default());
    let (root, at) = (served.join(""), |name: &str| served.join(name));
    assert_eq!(fs::read(at(DATA)).unwrap(), pattern());
    let content: Vec<u8> = (0..3_000_000_u32).map(|index| (index / 7) as u8).collect();
    fs::write(at("file"), &content).unwrap();
    assert_eq!(fs::read(at("file")).unwrap(), content);
    assert_eq!(fs::metadata(at("file")).unwrap().len(), content.len() as u64);
    let file = File::options().read(true).write(true).open(at("file")).unwrap();
    file.write_all_at(b"small", 1_000_000).unwrap();
    file.sync_all().unwrap();
    file.set_len(1_000_003).unwrap();
    assert_eq!(&fs::read(at("file")).unwrap()[999_998..], [content[999_998], content[999_999], b's', b'm', b'a']);
    fs::set_permissions(at("file"), PermissionsExt::from_mode(0o604)).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(77)).unwrap();
    let metadata = fs::metadata(at("file")).unwrap();
    assert_eq!((metadata.mode(), metadata.mtime()), (0o100604, 77));
    drop(file);

    fs::create_dir(at("directory")).unwrap();
    fs::rename(at("file"), at("directory/moved")).unwrap();
    assert_eq!(fs::metadata(at("file")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    fs::hard_link(at("directory/moved"), at("second")).unwrap();
    assert_eq!(fs::metadata(at("second")).unwrap().nlink(), 2);
    symlink("directory/moved", at("link")).unwrap();
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("directory/moved"));
    assert_eq!(fs::read(at("link")).unwrap().len(), 1_000_003);
    assert_eq!(fs::remove_dir(at("directory")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    assert_eq!(rustix::fs::statvfs(&root).unwrap().f_bfree, 500);
    listing_is_complete(&served);

    for name in ["second", "link", "directory/moved"] {
        fs::remove_file(at(name)).unwrap();
    }
    fs::remove_dir(at("directory")).unwrap();
    eventually("only the root and the data file are known", || served.state.node_count() == 2);
    eventually("everything is closed", || served.state.handles().is_empty());
    eventually("nothing is in flight", || served.session.oldest_request().is_none());
}

fn listing_is_complete(served: &Served) {
    let directory = served.join("many");
    fs::create_dir(&directory).unwrap();
    let mut expected: Vec<String> = (0..1500).map(|index| format!("{index}-{}", "n".repeat(index % 200))).collect();
    for name in &expected {
        File::create(directory.join(name)).unwrap();
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).unwrap() {
        let entry = entry.unwrap();
        assert!(entry.file_type().unwrap().is_file() && entry.metadata().unwrap().is_file());
        found.push(entry.file_name().into_string().unwrap());
    }
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    assert!(served.filesystem.executed.lock().unwrap()["readdirplus"] > 0);
    fs::remove_dir_all(&directory).unwrap();
}

fn requests_of_a_mebibyte() {
    let served = Served::new(LONG, SessionConfig::default());
    let file = File::create(served.join("large")).unwrap();
    file.write_all_at(&vec![5; 4 << 20], 0).unwrap();
    assert_eq!(served.filesystem.largest_write.load(Ordering::Relaxed), 1 << 20);
    assert!(fs::read(served.join("large")).unwrap().iter().all(|&byte| byte == 5));
    assert!(served.session.requests() >= 5);
    let negotiated = served.session.negotiated().unwrap();
    assert!(negotiated.has_resend(), "this test suite wants Linux 6.9 or later");
}

fn statx_and_masked_features() {
    // std asks for the birth time too, which makes it STATX.
    for (features, statx) in [(Features::default(), true), (Features::of_kernel("5.10").unwrap(), false)] {
        let served = Served::new(Duration::ZERO, SessionConfig { features, ..SessionConfig::default() });
        let metadata = fs::metadata(served.join(DATA)).unwrap();
        assert_eq!((metadata.len(), metadata.mode(), metadata.mtime()), (DATA_SIZE as u64, 0o100644, 1));
        assert_eq!((metadata.atime(), metadata.ctime(), metadata.nlink()), (2, 3, 1));
        assert_eq!(served.filesystem.executed.lock().unwrap().contains_key("statx"), statx);
        assert_eq!(served.session.negotiated().unwrap().has_resend(), statx);
    }
}

fn a_lost_reply_is_an_error() {
    let served = Served::new(LONG, SessionConfig::default());
    let file = File::open(served.join(DATA)).unwrap();
    served.filesystem.pull(Some(Lever::Lose("fsync")));
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    served.filesystem.pull(None);
    file.sync_all().unwrap();
}

fn an_interrupt_names_its_request() {
    let served = Served::new(LONG, SessionConfig::default());
    served.filesystem.pull(Some(Lever::Hold("mkdir")));
    let mut maker = Command::new("mkdir").arg(served.join("directory")).spawn().unwrap();
    served.filesystem.wait_held();
    eventually("the request has an age", || served.session.oldest_request() > Some(Duration::from_millis(5)));
    maker.kill().unwrap();
    served.filesystem.wait_interrupted();
    served.filesystem.let_go(Some(Errno(libc::EINTR)));
    assert!(!maker.wait().unwrap().success());
}

fn invalidation_shows_what_changed_behind() {
    let served = Served::new(LONG, SessionConfig::default());
    let path = served.join(DATA);
    let _open = File::open(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap().len(), DATA_SIZE);
    fs::metadata(&path).unwrap(); // the read made the cached atime stale
    served.filesystem.change_behind(DATA, Some(b"changed"));
    assert_eq!(fs::metadata(&path).unwrap().len(), DATA_SIZE as u64, "attributes are cached for an hour");
    let node = served.filesystem.node_id(DATA);
    let notifier = served.session.notifier();
    assert!(notifier.inval_inode(node, 0, 0));
    assert!(notifier.inval_inode(12_345_678, 0, 0), "unknown to the kernel: ignored");
    eventually("the new content is seen", || fs::read(&path).unwrap() == b"changed");
    served.filesystem.change_behind(DATA, None);
    assert!(fs::metadata(&path).is_ok(), "the name is cached for an hour");
    assert!(served.session.notifier().inval_entry(1, DATA.as_bytes()));
    eventually("the name is gone", || fs::metadata(&path).is_err());
}

fn read_only_refuses() {
    let served = Served::new(LONG, SessionConfig { read_only: true, ..SessionConfig::default() });
    assert_eq!(fs::read(served.join(DATA)).unwrap(), pattern());
    assert_eq!(fs::create_dir(served.join("directory")).unwrap_err().raw_os_error(), Some(libc::EROFS));
    let file = File::options().write(true).open(served.join(DATA)).unwrap();
    assert_eq!(file.write_at(b"x", 0).unwrap_err().raw_os_error(), Some(libc::EROFS));
}

fn a_redelivered_request_is_executed_once() {
    let served = Served::new(LONG, SessionConfig::default());
    served.filesystem.pull(Some(Lever::Hold("mkdir")));
    let path = served.join("once");
    let maker = std::thread::spawn(move || fs::create_dir(path));
    served.filesystem.wait_held();
    for _ in 0..2 {
        let before = served.session.requests();
        served.session.resend().unwrap();
        eventually("the request was read again", || served.session.requests() > before);
    }
    served.filesystem.let_go(None);
    maker.join().unwrap().unwrap();
    assert_eq!(served.filesystem.executed.lock().unwrap()["mkdir"], 1);
    assert_eq!(served.filesystem.resent.load(Ordering::Relaxed), 0);
    resend_storm(&served);
}

/// Answers and redeliveries that pass each other: no answer is lost, nothing is made twice (EEXIST).
fn resend_storm(served: &Served) {
    let root = served.join("");
    let maker = std::thread::spawn(move || {
        for index in 0..2000 {
            fs::create_dir(root.join(format!("storm{index}"))).unwrap();
        }
    });
    while !maker.is_finished() {
        served.session.resend().unwrap();
        std::thread::yield_now();
    }
    maker.join().unwrap();
}

/// A daemon in a process of its own.
struct Daemon {
    child: Child,
    lines: BufReader<std::process::ChildStderr>,
}

impl Daemon {
    fn start(role: &str, mount: &Mount, state: &OwnedFd, hold: &str) -> Daemon {
        Daemon::on("", role, mount, state, hold)
    }

    /// As on this kernel.
    fn on(kernel: &str, role: &str, mount: &Mount, state: &OwnedFd, hold: &str) -> Daemon {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(ROLE, role)
            .env("HOLD", hold)
            .env("KERNEL", kernel)
            .stdin(own(&mount.device))
            .stdout(own(state))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Daemon { child, lines }
    }

    fn expect(&mut self, expected: &str) {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), expected, "of the daemon");
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn inherited() -> (OwnedFd, Arc<State>) {
    (own(std::io::stdin()), Arc::new(State::open(own(std::io::stdout())).unwrap()))
}

/// Serves the device, holding back one kind of requests if it is told so, until it is killed or the mount is gone.
fn daemon() -> ExitCode {
    let (device, state) = inherited();
    let filesystem = RamFs::new(Arc::clone(&state), LONG);
    let features = Features::of_kernel(&std::env::var("KERNEL").unwrap()).unwrap_or_default();
    let session = Session::new(device, Arc::clone(&state), SessionConfig { features, ..SessionConfig::default() });
    let hold: &'static str = std::env::var("HOLD").unwrap().leak();
    filesystem.pull((!hold.is_empty()).then_some(Lever::Hold(hold)));
    session.start().unwrap();
    eprintln!("serving, generation {}, resumed {}", state.generation(), state.is_resumed());
    if hold.starts_with('/') {
        let session = session.clone();
        std::thread::spawn(move || {
            eventually("it shall drain", || Path::new(hold).exists());
            assert!(session.drain(Duration::from_secs(1)));
            eprintln!("drained");
        });
    } else if !hold.is_empty() {
        let filesystem = Arc::clone(&filesystem);
        std::thread::spawn(move || {
            filesystem.wait_held();
            eprintln!("holding");
        });
    }
    session.run(filesystem).unwrap();
    if hold.starts_with('/') {
        park(); // its threads have each taken a request that they leave
    }
    ExitCode::SUCCESS
}

fn park() -> ! {
    loop {
        std::thread::park();
    }
}

/// Reads INIT, and is killed before it answers.
fn mute_daemon() -> ExitCode {
    let (device, _state) = inherited();
    let mut request = vec![0; 2 << 20];
    rustix::io::read(&device, &mut request).unwrap();
    eprintln!("holding");
    park()
}

/// Opens a file, says so, and reads it when told to. A process of its own, because ours holds the device: each daemon that we
/// start would inherit the open file and close it when it is executed, which waits for an answer from that very daemon.
struct Reader {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Reader {
    fn open(path: &Path) -> Reader {
        let script = "exec 3<\"$0\"; echo open; read go; exec cat <&3";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "open\n");
        Reader { child, output }
    }

    fn go(&mut self) {
        self.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }

    fn content(mut self) -> Vec<u8> {
        let mut content = Vec::new();
        self.output.read_to_end(&mut content).unwrap();
        assert!(self.child.wait().unwrap().success());
        content
    }
}

fn a_successor_answers_what_a_killed_daemon_held() {
    let (mount, state) = (Mount::new(), memfd());
    let mut daemon = Daemon::start("daemon", &mount, &state, "");
    daemon.expect("serving, generation 1, resumed false");
    let mut reader = Reader::open(&mount.join(DATA));
    daemon.kill();
    let mut daemon = Daemon::start("daemon", &mount, &state, "read");
    daemon.expect("serving, generation 2, resumed true");
    reader.go();
    daemon.expect("holding");
    daemon.kill();
    assert!(reader.child.try_wait().unwrap().is_none(), "nobody answered the read");
    let mut daemon = Daemon::start("daemon", &mount, &state, "");
    daemon.expect("serving, generation 3, resumed true");
    assert_eq!(reader.content(), pattern(), "through a file opened under the first daemon");
    fs::write(mount.join("new"), b"content").unwrap();
    assert_eq!(fs::read(mount.join("new")).unwrap(), b"content");
    drop(mount);
    eventually("the daemon ends with the mount", || daemon.child.try_wait().unwrap().is_some());
    assert!(daemon.child.wait().unwrap().success());
}

/// Writes `length` bytes of `source` to the beginning of a file, at once.
fn write(source: &Path, file: &Path, length: usize) -> Child {
    let operand = |name: &str, path: &Path| format!("{name}={}", path.display());
    let mut command = Command::new("dd");
    command.args([operand("if", source), operand("of", file), format!("bs={length}")]);
    command.args(["count=1", "conv=notrunc", "status=none"]).spawn().unwrap()
}

/// What a daemon has of a file, past the kernel's cache.
fn read_behind(file: &Path) -> Vec<u8> {
    let operands = [format!("if={}", file.display()), format!("bs={DATA_SIZE}"), "iflag=direct".into()];
    let output = Command::new("dd").args(operands).arg("status=none").output().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn older_kernels_have_their_requests_replayed() {
    for kernel in ["5.10", "6.1"] {
        let (mount, state) = (Mount::new(), memfd());
        let data = mount.join(DATA);
        let mut daemon = Daemon::on(kernel, "daemon", &mount, &state, "read");
        daemon.expect("serving, generation 1, resumed false");
        let mut reader = Reader::open(&data);
        reader.go();
        daemon.expect("holding");
        daemon.kill();
        // Twice: the second one gets it from the first one's successor.
        let mut daemon = Daemon::on(kernel, "daemon", &mount, &state, "read");
        daemon.expect("serving, generation 2, resumed true");
        daemon.expect("holding");
        daemon.kill();
        let mut daemon = Daemon::on(kernel, "daemon", &mount, &state, "");
        daemon.expect("serving, generation 3, resumed true");
        assert_eq!(reader.content(), pattern(), "on {kernel}");

        let source = std::env::temp_dir().join(format!("efc-fuse-source-{}", std::process::id()));
        fs::write(&source, vec![7; DATA_SIZE]).unwrap();
        for length in [100, 20_000, DATA_SIZE] {
            daemon.kill();
            let mut holding = Daemon::on(kernel, "daemon", &mount, &state, "write");
            holding.lines.read_line(&mut String::new()).unwrap();
            let mut writer = write(&source, &data, length);
            holding.expect("holding");
            holding.kill();
            daemon = Daemon::on(kernel, "daemon", &mount, &state, "");
            daemon.lines.read_line(&mut String::new()).unwrap();
            assert!(writer.wait().unwrap().success());
            let expected = [&vec![7; length], &pattern()[length..]].concat();
            assert!(read_behind(&data) == expected, "{length} bytes written on {kernel} are not there");
        }
        fs::remove_file(source).unwrap();
    }
}

/// A thread that reads while its daemon ends takes a request, and nobody works on it.
fn what_an_ending_daemon_still_took_is_replayed() {
    for is_killed in [true, false] {
        let (mount, state) = (Mount::new(), memfd());
        let trigger = std::env::temp_dir().join(format!("efc-fuse-drain-{}", std::process::id()));
        let _ = fs::remove_file(&trigger); // of a run that was killed
        let mut daemon = Daemon::on("6.1", "daemon", &mount, &state, trigger.to_str().unwrap());
        daemon.expect("serving, generation 1, resumed false");
        let mut reader = Reader::open(&mount.join(DATA));
        fs::write(&trigger, b"").unwrap();
        daemon.expect("drained");
        reader.go();
        std::thread::sleep(Duration::from_millis(50)); // it takes the read, and leaves it
        assert!(reader.child.try_wait().unwrap().is_none(), "nobody answers the read");
        if is_killed {
            daemon.kill();
        }
        let mut successor = Daemon::on("6.1", "daemon", &mount, &state, "");
        successor.expect("serving, generation 2, resumed true");
        // If it is not killed: with the other that its second thread takes.
        assert_eq!(reader.content(), pattern());
        fs::write(mount.join("new"), b"content").unwrap();
        daemon.kill();
        assert_eq!(fs::read(mount.join("new")).unwrap(), b"content");
        fs::remove_file(trigger).unwrap();
    }
}

fn a_successor_answers_init() {
    let (mount, state) = (Mount::new(), memfd());
    Daemon::start("mute daemon", &mount, &state, "").expect("holding");
    let mut daemon = Daemon::start("daemon", &mount, &state, "");
    daemon.expect("serving, generation 2, resumed false");
    assert_eq!(fs::read(mount.join(DATA)).unwrap(), pattern());
}

/// Makes, forgets, opens, closes and saves until it is killed.
fn churn() -> ExitCode {
    let state = State::open(own(std::io::stdout())).unwrap();
    std::io::stderr().write_all(b"churning\n").unwrap();
    for turn in 0_u64.. {
        let handle = (turn % 5000).to_le_bytes().repeat(1 + (turn % 8) as usize);
        let id = state.lookup_node(&Node { handle, fileid: turn, kind: 0o100000 }).unwrap();
        if turn % 3 != 0 {
            state.forget_node(id, 1);
        }
        let orphan = state.add_orphan(&turn.to_le_bytes(), b"name", &turn.to_be_bytes()).unwrap();
        state.remove_orphan(orphan);
        state.save_blob(&vec![turn as u8; turn as usize % 4000]);
    }
    ExitCode::SUCCESS
}

/// Starts a child on the state and kills it in the middle of its work.
fn kill_at_work(role: &str, memory: &OwnedFd, after: Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(ROLE, role)
        .stdout(own(memory))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 9];
    child.stderr.take().unwrap().read_exact(&mut line).unwrap();
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn sigkill_tears_no_record() {
    let memory = memfd();
    for round in 0..30 {
        kill_at_work("churn", &memory, Duration::from_micros(500 + 777 * round));
        let state = State::open(own(&memory)).unwrap();
        assert_eq!(state.damaged_records(), 0);
        assert_eq!(state.generation(), 2 * (round + 1));
        assert!(state.node_count() <= 5000);
        let blob = state.blob();
        assert!(blob.windows(2).all(|pair| pair[0] == pair[1]), "a mix of two blobs");
        assert!(state.orphans().iter().all(|(_, dir, name, _)| dir.len() == 8 && name == b"name"));
    }
}

/// Writes that are not committed at once, at most.
const UNCOMMITTED_MAX: usize = 20;

fn written(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(1 + (number * 7919 % 20_000) as usize)
}

/// Writes, acknowledges by the blob, and commits the oldest, until it is killed.
fn writer() -> ExitCode {
    let state = State::open(own(std::io::stdout())).unwrap();
    let mut waiting: VecDeque<(u64, UncommittedWrite)> = state.take_saved_writes().into();
    let first = waiting.back().map_or(0, |(_, last)| last.offset + 1);
    std::io::stderr().write_all(b"churning\n").unwrap();
    for number in first.. {
        let kept = state.keep(&written(number)).unwrap();
        let write = UncommittedWrite {
            node: number % 3,
            offset: number,
            data: kept.bytes().clone(),
            checksum: payload_checksum(kept.bytes()),
            verifier: [1; 8],
            uid: 0,
            gid: 0,
            groups: Vec::new(),
        };
        waiting.push_back((state.save_write(&kept, &write).unwrap(), write));
        state.save_blob(&number.to_le_bytes());
        while waiting.len() > UNCOMMITTED_MAX {
            let (record, data) = waiting.pop_front().unwrap();
            state.remove_write(record);
            drop(data);
        }
    }
    ExitCode::SUCCESS
}

fn sigkill_costs_no_acknowledged_write() {
    let memory = memfd();
    for round in 0..30 {
        kill_at_work("writer", &memory, Duration::from_micros(500 + 1777 * round));
        let state = State::open(own(&memory)).unwrap();
        assert_eq!(state.damaged_records(), 0);
        let found: Vec<UncommittedWrite> = state.take_saved_writes().into_iter().map(|(_, write)| write).collect();
        assert!(found.windows(2).all(|pair| pair[0].offset + 1 == pair[1].offset), "not one after the other");
        assert!(found.iter().all(|write| write.data == written(write.offset)), "others' bytes");
        let Ok(acknowledged) = state.blob().try_into().map(u64::from_le_bytes) else { continue };
        let (first, last) = (found[0].offset, found[found.len() - 1].offset);
        assert!(
            last >= acknowledged && last <= acknowledged + 1,
            "{acknowledged} was acknowledged, {last} is the last"
        );
        assert!(first == 0 || first + UNCOMMITTED_MAX as u64 <= last + 1, "{first} to {last}");
    }
}
