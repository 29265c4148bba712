//! The keeper itself: its place, who may speak to it, and its end. Needs root and `/dev/fuse`.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use efc_proto::error::Code;
use efc_proto::keeper_request::Request;
use efc_proto::{CacheConfig, DaemonConfig, StatusRequest, keeper_reply::Reply};
use rustix::process::Signal;
use support::{Client, Ground, config, is_running, kill, wait_until};

/// Tells the test's own program, started by another user, where the keeper is.
const STRANGER: &str = "EFC_TEST_STRANGERS_RUN_DIR";

#[test]
fn one_keeper_serves_a_run_directory() {
    let ground = Ground::new();
    let second =
        Command::new(env!("CARGO_BIN_EXE_efc-keeper")).arg("--run-dir").arg(ground.base.join("run")).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let complaint = String::from_utf8(second.stderr).unwrap();
    assert!(complaint.contains(&format!("(pid {})", ground.keeper.id())), "{complaint}");
    assert_eq!(ground.client().status().keeper_pid, ground.keeper.id() as i32);
}

#[test]
fn the_socket_is_for_the_owner_only() {
    let ground = Ground::new();
    let mode = |name: &str| ground.base.join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("run/keeper.sock"), 0o600);
    assert_eq!(mode("run"), 0o700);
}

#[test]
fn a_stranger_is_refused_even_with_a_socket_that_lets_him_in() {
    let ground = Ground::new();
    fs::set_permissions(ground.base.join("run"), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(ground.base.join("run/keeper.sock"), Permissions::from_mode(0o666)).unwrap();
    // A copy, since the build's directory may be closed to others.
    let program = ground.base.join("stranger");
    // Made by another process: a program that is open for writing cannot be started, and a child that another test begins
    // just now may have inherited that descriptor.
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status().unwrap();
    assert!(copied.success());
    let output = Command::new(program)
        .args(["--exact", "stranger", "--ignored", "--nocapture"])
        .env(STRANGER, ground.base.join("run"))
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Not a test: what the stranger above does.
#[test]
#[ignore = "started by another test, as another user"]
fn stranger() {
    let run_dir = std::env::var_os(STRANGER).expect("where the keeper is");
    assert_eq!(rustix::process::getuid().as_raw(), 65534);
    let client = Client::connect(Path::new(&run_dir));
    assert_eq!(client.receive().unwrap_err().code(), Code::PermissionDenied);
}

#[test]
fn unknown_requests_get_an_answer() {
    let ground = Ground::new();
    let client = ground.client();
    let target = "/none/such/target".to_owned();
    client.send(Request::Status(StatusRequest { target, ..Default::default() }));
    let Reply::Status(status) = client.receive().unwrap() else { panic!() };
    assert_eq!(status.mounts, []);
    client.send(Request::Unmount(Default::default()));
    assert_eq!(client.receive().unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn a_status_that_one_message_does_not_hold_comes_in_several() {
    let ground = Ground::new();
    let client = ground.client();
    let targets: Vec<_> = (0..30).map(|number| ground.base.join(format!("mount-{number:02}"))).collect();
    for (number, target) in targets.iter().enumerate() {
        fs::create_dir(target).unwrap();
        let cache = Some(CacheConfig { workers: "a:1+".repeat(10_000), ..Default::default() });
        client.mount(target, DaemonConfig { cache, ..config(&format!("nas{number}")) }).unwrap();
    }
    let (mut found, mut after, mut pages) = (Vec::new(), String::new(), 0);
    while pages == 0 || !after.is_empty() {
        let request = StatusRequest { by_subsystem: true, after, ..Default::default() };
        let Ok(Reply::Status(reply)) = client.call(Request::Status(request)) else { panic!() };
        found.extend(reply.mounts.into_iter().map(|mount| PathBuf::from(mount.target)));
        (after, pages) = (reply.last, pages + 1);
    }
    assert_eq!((found, pages), (targets.clone(), 2));
    targets.iter().for_each(|target| client.unmount_soon(target));
}

#[test]
fn a_stale_socket_is_replaced() {
    let mut ground = Ground::new();
    ground.signal(Signal::KILL);
    ground.wait_for_end();
    assert!(ground.base.join("run/keeper.sock").exists());
    ground.restart_keeper();
    assert_eq!(ground.client().status().keeper_pid, ground.keeper.id() as i32);
}

#[test]
fn a_keeper_whose_directory_was_removed_leaves_the_next_one_its_socket() {
    let mut ground = Ground::new();
    fs::remove_dir_all(ground.base.join("run")).unwrap();
    let mut next = ground.start_next();
    ground.signal(Signal::TERM);
    assert!(ground.wait_for_end().success());
    assert_eq!(ground.client().status().keeper_pid, next.id() as i32);
    next.kill().unwrap();
    next.wait().unwrap();
}

#[test]
fn sigterm_lets_mounts_end_first() {
    let mut ground = Ground::new();
    let client = ground.client();
    client.mount(&ground.target(), config("nas")).unwrap();
    ground.signal(Signal::TERM);
    fs::create_dir(ground.base.join("other")).unwrap();
    wait_until("the refusal of new mounts", || {
        let refused = client.mount(&ground.base.join("other"), config("nas"));
        let is_refused = refused.is_err_and(|error| error.code() == Code::Unavailable);
        client.unmount_soon(&ground.base.join("other"));
        is_refused
    });
    assert_eq!(fs::read_to_string(ground.hello()).unwrap(), "hello, world\n");
    client.unmount_soon(&ground.target());
    assert!(ground.wait_for_end().success());
    assert!(!ground.base.join("run/keeper.sock").exists());
}

#[test]
fn sigterm_without_mounts_ends_at_once() {
    let mut ground = Ground::new();
    ground.signal(Signal::INT);
    assert!(ground.wait_for_end().success());
}

#[test]
fn a_second_signal_leaves_the_daemons_running() {
    let mut ground = Ground::new();
    let pid = ground.client().mount(&ground.target(), config("nas")).unwrap().pid;
    ground.signal(Signal::TERM);
    // Equal signals that come before the first is handled are one.
    std::thread::sleep(Duration::from_millis(100));
    ground.signal(Signal::TERM);
    assert!(ground.wait_for_end().success());
    assert!(is_running(pid));
    assert_eq!(fs::read_to_string(ground.hello()).unwrap(), "hello, world\n");
    kill(pid, Signal::KILL);
}

#[test]
fn an_idle_keeper_ends_if_asked_to() {
    let mut ground = Ground::with(&["--exit-when-idle"]);
    let client = ground.client();
    client.mount(&ground.target(), config("nas")).unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(ground.keeper.try_wait().unwrap(), None, "a mount is no idleness");
    client.unmount_soon(&ground.target());
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(ground.keeper.try_wait().unwrap(), None, "a client is no idleness");
    drop(client);
    let started_at = Instant::now();
    assert!(ground.wait_for_end().success());
    assert!(started_at.elapsed() >= Duration::from_millis(900), "{:?}", started_at.elapsed());
}

#[test]
fn many_mounts_cost_little_memory() {
    const MOUNTS: usize = 64;
    let ground = Ground::new();
    let client = ground.client();
    let resident_kib = || {
        let status = fs::read_to_string(format!("/proc/{}/status", ground.keeper.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    let before_kib = resident_kib();
    for index in 0..MOUNTS {
        let target = ground.base.join(format!("target{index}"));
        fs::create_dir(&target).unwrap();
        client.mount(&target, config("nas")).unwrap();
    }
    assert_eq!(client.status().mounts.iter().filter(|mount| mount.stats.is_some()).count(), MOUNTS);
    let (empty_kib, full_kib) = (before_kib, resident_kib());
    println!("keeper: {empty_kib} KiB without mounts, {full_kib} KiB with {MOUNTS}");
    assert!(full_kib < 16 << 10, "{full_kib} KiB");
    for index in 0..MOUNTS {
        client.unmount_soon(&ground.base.join(format!("target{index}")));
    }
    ground.assert_nothing_left();
}

#[test]
fn the_root_is_found_by_the_daemon_that_serves_it() {
    let ground = Ground::new();
    let client = ground.client();
    assert_eq!(client.find_root(&ground.target(), 10_000).unwrap_err().code(), Code::NotFound);
    client.mount(&ground.target(), config("nas")).unwrap();
    for _ in 0..2 {
        let root = client.find_root(&ground.target(), 10_000).unwrap();
        assert_eq!((root.served.as_slice(), root.found.as_slice()), (b"old".as_slice(), b"new".as_slice()));
    }
}

/// As daemons of a release are that does not know the question.
#[test]
fn a_daemon_that_does_not_say_where_its_root_is_goes_on() {
    let ground = Ground::new();
    let client = ground.client();
    let mounted = client.mount(&ground.target(), config("wordless")).unwrap();
    assert_eq!(client.find_root(&ground.target(), 100).unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(client.status().mounts[0].pid, mounted.pid);
    client.unmount_soon(&ground.target());
    assert_eq!(client.find_root(&ground.target(), 10_000).unwrap_err().code(), Code::NotFound);
}
