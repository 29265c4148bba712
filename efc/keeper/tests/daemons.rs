//! Daemons that die, hang or complain, under a real keeper. Needs root and `/dev/fuse`.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use efc_proto::error::Code;
use efc_proto::mount_status::State;
use efc_proto::{DaemonConfig, MountStatus};
use rustix::process::Signal;
use support::{Ground, config, is_running, kill, wait_until};

#[test]
fn a_killed_daemon_is_replaced_and_open_files_go_on() {
    let ground = Ground::new();
    let client = ground.client();
    let mut pid = client.mount(&ground.target(), config("nas")).unwrap().pid;
    let file = fs::File::open(ground.hello()).unwrap();
    let mut buffer = [0; 13];
    // Two deaths are no reason to wait; the third would be.
    for restarts in 1..=2 {
        let killed_at = Instant::now();
        kill(pid, Signal::KILL);
        file.read_exact_at(&mut buffer, 0).unwrap();
        println!("served again {:?} after SIGKILL", killed_at.elapsed());
        assert_eq!(&buffer, b"hello, world\n");
        // The daemon may serve before the keeper has read its Ready.
        let status = client.serving_after(restarts);
        assert_ne!(status.pid, pid);
        let killed_at = status.reason.strip_prefix("the daemon was killed by signal 9 at ").unwrap();
        assert!(killed_at.ends_with('Z') && killed_at.parse::<jiff::Timestamp>().is_ok(), "{killed_at}");
        assert!(status.stats.unwrap().resumed);
        pid = status.pid;
    }
    drop(file);
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn a_daemon_that_keeps_dying_is_given_time() {
    let ground = Ground::new();
    let client = ground.client();
    let pid = client.mount(&ground.target(), config("crashes")).unwrap().pid;
    let started_at = Instant::now();
    kill(pid, Signal::KILL);
    wait_until("six restarts", || client.only().restarts >= 6);
    // Four successors start at once, the fifth after 100 ms, the sixth after 200 ms.
    assert!(started_at.elapsed() >= Duration::from_millis(300), "{:?}", started_at.elapsed());
    wait_until("the last death", || client.only().pid == 0);
    let status = client.only();
    assert_eq!(status.state(), State::Restarting);
    assert!(status.reason.starts_with("the daemon exited with status 7 at "), "{}", status.reason);
    assert!(status.reason.contains("times in a row as soon as it served; the next starts in"), "{}", status.reason);
    let before = status.restarts;
    std::thread::sleep(Duration::from_millis(300));
    assert!(client.only().restarts <= before + 1, "the wait grows");
    client.unmount(&ground.target(), true).unwrap();
    ground.assert_nothing_left();
}

#[test]
fn a_session_whose_state_is_of_no_use_is_given_up() {
    let ground = Ground::new();
    let client = ground.client();
    let pid = client.mount(&ground.target(), config("spoilt")).unwrap().pid;
    let file = fs::File::open(ground.hello()).unwrap();
    kill(pid, Signal::KILL);
    wait_until("the end of the session", || client.only().state() == State::Aborted);
    let status = client.only();
    assert!(status.reason.contains("(the state is spoilt)"), "{}", status.reason);
    assert_eq!((status.pid, status.restarts), (0, 2), "one more was asked");
    // Nobody waits for a daemon that never comes.
    assert!(fs::metadata(ground.hello()).is_err());
    assert!(std::os::unix::fs::FileExt::read_at(&file, &mut [0; 13], 0).is_err());
    drop(file);
    assert_eq!(client.upgrade(&ground.target()).unwrap_err().code(), Code::Unavailable);
    client.unmount(&ground.target(), true).unwrap();
    ground.assert_nothing_left();
    assert_eq!(client.mount(&ground.target(), config("nas")).unwrap().state(), State::Serving);
}

#[test]
fn an_unresponsive_nas_shows() {
    let ground = Ground::new();
    let client = ground.client();
    client.mount(&ground.target(), config("nas-silent")).unwrap();
    let status = client.only();
    assert_eq!(status.state(), State::UnresponsiveNas);
    assert!(status.reason.contains("4321 ms"), "{}", status.reason);
}

#[test]
fn a_daemon_that_does_not_report_delays_no_status() {
    let ground = Ground::new();
    let client = ground.client();
    let mount = |index: usize, source| {
        let target = ground.base.join(format!("target{index}"));
        fs::create_dir(&target).unwrap();
        client.mount(&target, config(source)).unwrap();
    };
    let shortest_status = || {
        let status = |_| {
            let started_at = Instant::now();
            client.status();
            started_at.elapsed()
        };
        (0..10).map(status).min().unwrap()
    };
    mount(0, "mute");
    let of_one = shortest_status();
    (1..4).for_each(|index| mount(index, "mute"));
    mount(4, "nas");
    let of_four = shortest_status();
    assert!(of_four < of_one * 3, "each mute daemon adds to the wait: {of_one:?} for one, {of_four:?} for four");
    let mounts = client.status().mounts;
    let mute: Vec<_> = mounts.iter().filter(|mount| mount.stats.is_none()).collect();
    assert_eq!(mute.len(), 4);
    assert!(mute.iter().all(|mount| mount.state() == State::Serving && mount.reason.contains("200 ms")));
}

#[test]
fn a_daemon_inherits_nothing_but_its_socket() {
    let ground = Ground::new();
    let pid = ground.client().mount(&ground.target(), config("nas")).unwrap().pid;
    let session = rustix::process::getsid(rustix::process::Pid::from_raw(pid)).unwrap();
    assert_eq!(session.as_raw_nonzero().get(), pid);
    let process = format!("/proc/{pid}");
    assert_eq!(fs::read(format!("{process}/environ")).unwrap(), b"");
    assert_eq!(fs::read_link(format!("{process}/cwd")).unwrap(), std::path::Path::new("/"));
    let mut descriptors: Vec<(u32, String)> = fs::read_dir(format!("{process}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name(), fs::read_link(entry.path()).unwrap()))
        .map(|(number, link)| (number.to_str().unwrap().parse().unwrap(), link.to_string_lossy().into_owned()))
        .collect();
    descriptors.sort();
    let numbers: Vec<u32> = descriptors.iter().map(|(number, _)| *number).collect();
    // It makes copies of its own behind these.
    assert_eq!(numbers[..7], [0, 1, 2, 3, 4, 5, 6], "{descriptors:?}");
    assert!(descriptors[3].1.starts_with("socket:"));
    let received = format!("{} {}", descriptors[4].1, descriptors[5].1);
    assert!(received.contains("/dev/fuse") && received.contains("memfd:efc-state"), "{received}");
    assert!(descriptors[6].1.starts_with("socket:"), "the listener for later keepers");
}

/// What a reader of one file, kept open, sees meanwhile: the longest wait.
fn read_during(ground: &Ground, action: impl FnOnce()) -> Duration {
    let (file, done) = (fs::File::open(ground.hello()).unwrap(), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut longest, mut buffer) = (Duration::ZERO, [0; 13]);
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let started_at = Instant::now();
                file.read_exact_at(&mut buffer, 0).unwrap();
                longest = longest.max(started_at.elapsed());
                assert_eq!(&buffer, b"hello, world\n");
            }
            longest
        });
        action();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap()
    })
}

#[test]
fn a_stopped_daemon_is_replaced_in_its_time() {
    let ground = Ground::new();
    let client = ground.client();
    let limited = DaemonConfig { hang_limit_ms: 400, ..config("nas") };
    let pid = client.mount(&ground.target(), limited).unwrap().pid;
    let longest = read_during(&ground, || {
        kill(pid, Signal::STOP);
        client.serving_after(1);
    });
    assert!(longest >= Duration::from_millis(300), "{longest:?}");
    assert!(client.only().reason.starts_with("the daemon hung for"), "{}", client.only().reason);
    assert!(!is_running(pid));
    std::thread::sleep(Duration::from_millis(1_000));
    assert_eq!(client.only().restarts, 1, "an idle daemon that answers beats is left alone");
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn a_daemon_that_reads_no_requests_is_replaced_though_it_reports() {
    let ground = Ground::new();
    let client = ground.client();
    let pid = client.mount(&ground.target(), DaemonConfig { hang_limit_ms: 400, ..config("wedges") }).unwrap().pid;
    let longest = read_during(&ground, || {
        client.serving_after(1);
    });
    assert!(longest >= Duration::from_millis(300), "{longest:?}");
    assert!(client.only().reason.starts_with("the daemon hung for"), "{}", client.only().reason);
    assert!(!is_running(pid));
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn the_next_keeper_takes_over_the_daemon() {
    let mut ground = Ground::new();
    let before = ground.client().mount(&ground.target(), config("nas")).unwrap();
    for _ in 0..3 {
        ground.signal(Signal::KILL);
        ground.wait_for_end();
        assert_eq!(fs::read_to_string(ground.hello()).unwrap(), "hello, world\n");
        ground.restart_keeper();
        let status = ground.client().only();
        assert_eq!((status.pid, status.restarts, status.state()), (before.pid, 0, State::Serving));
        assert_eq!((status.connection, &status.config), (before.connection, &before.config));
        assert_eq!(status.mounted_at_unix_ms, before.mounted_at_unix_ms);
        assert!(status.stats.is_some_and(|stats| !stats.resumed), "the daemon reports to its new keeper");
        let same = ground.client().mount(&ground.target(), config("nas")).unwrap();
        assert_eq!(same.pid, before.pid, "the same mount again is the one that is there");
    }
    let client = ground.client();
    kill(before.pid, Signal::KILL);
    client.serving_after(1);
    assert_eq!(fs::read_to_string(ground.hello()).unwrap(), "hello, world\n");
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

/// A process of its own that has a file open and reads it later. The test cannot hold that file itself: the exec of a
/// keeper that it starts would close its copy, and wait for the answer of a daemon that is not there yet.
struct LateReader(Child);

impl LateReader {
    fn start(path: &Path) -> LateReader {
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3<\"$1\"; echo open; read go; cat <&3", "reader"]).arg(path);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut word = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
        assert_eq!(&word, b"open\n");
        LateReader(child)
    }

    fn read(mut self) -> String {
        self.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
        String::from_utf8(self.0.wait_with_output().unwrap().stdout).unwrap()
    }
}

#[test]
fn a_client_gives_back_what_keeper_and_daemon_have_lost() {
    let mut ground = Ground::new();
    let pid = ground.client().mount(&ground.target(), config("nas")).unwrap().pid;
    let (status, descriptors) = ground.client().hold(&ground.target()).unwrap();
    let reader = LateReader::start(&ground.hello());
    ground.signal(Signal::KILL);
    ground.wait_for_end();
    kill(pid, Signal::KILL);
    ground.restart_keeper();
    let client = ground.client();
    assert_eq!(client.status().mounts, [], "nobody was met");
    let adopted = client.adopt(&status, &descriptors).unwrap();
    assert_eq!((adopted.target, adopted.connection), (status.target.clone(), status.connection));
    assert_eq!(reader.read(), "hello, world\n");
    client.serving_after(1);
    client.adopt(&status, &descriptors).unwrap();
    assert_eq!(client.only().restarts, 1, "a session that is here already stays as it is");
    client.unmount_soon(&ground.target());
    let error = client.adopt(&status, &descriptors).unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{}", error.message);
    ground.assert_nothing_left();
}

#[test]
fn a_daemon_that_hangs_holds_up_no_later_keeper() {
    let mut ground = Ground::new();
    let pid = ground.client().mount(&ground.target(), config("nas")).unwrap().pid;
    let (status, descriptors) = ground.client().hold(&ground.target()).unwrap();
    kill(pid, Signal::STOP);
    ground.signal(Signal::KILL);
    ground.wait_for_end();
    ground.restart_keeper();
    let client = ground.client();
    assert_eq!(client.status().mounts, []);
    client.adopt(&status, &descriptors).unwrap();
    assert_eq!(fs::read_to_string(ground.hello()).unwrap(), "hello, world\n");
    assert_ne!(client.only().pid, pid);
    kill(pid, Signal::KILL);
    client.unmount_soon(&ground.target());
}

#[test]
fn what_is_no_session_is_not_adopted() {
    let ground = Ground::new();
    let client = ground.client();
    client.mount(&ground.target(), config("nas")).unwrap();
    let (status, mut descriptors) = client.hold(&ground.target()).unwrap();
    assert_eq!(client.hold(&ground.base.join("elsewhere")).unwrap_err().code(), Code::NotFound);
    descriptors.truncate(1);
    assert_eq!(client.adopt(&status, &descriptors).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(client.adopt(&MountStatus::default(), &[]).unwrap_err().code(), Code::InvalidArgument);
    client.unmount_soon(&ground.target());
}
