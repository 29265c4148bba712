//! Mounting and unmounting through a real keeper, with the smallest daemon. Needs root and `/dev/fuse`.

mod support;

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use efc_proto::error::Code;
use efc_proto::keeper_reply::Reply;
use efc_proto::keeper_request::Request;
use efc_proto::mount_status::State;
use efc_proto::{DaemonConfig, MountStatus};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::process::Signal;
use support::{Ground, abort, config, is_running, kill, mount_request, read_ahead, wait_until};

#[test]
fn a_mount_serves_and_ends() {
    let ground = Ground::new();
    let client = ground.client();
    let status = client.mount(&ground.target(), config("nas")).unwrap();
    assert_eq!(status.state(), State::Serving);
    assert_eq!((status.version.as_str(), status.restarts), ("smallest", 0));
    assert!(status.mounted_at_unix_ms > 0);
    assert_eq!(fs::read_to_string(ground.hello()).unwrap(), "hello, world\n");

    let mounts = ground.mounts_at(&ground.target());
    assert_eq!(mounts.len(), 1);
    assert_eq!(mounts[0].filesystem, "fuse.efc");
    assert_eq!(mounts[0].source, "nfs://nas/export");
    assert_eq!(mounts[0].device, (0, status.connection));
    assert!(mounts[0].has_option("nosuid") && mounts[0].has_option("nodev") && mounts[0].has_option("rw"));
    assert_eq!(read_ahead(status.connection), 8192);

    let stats = client.only().stats.unwrap();
    assert!(stats.fuse_requests > 0 && stats.nas_responding && !stats.resumed);
    client.unmount_soon(&ground.target());
    assert!(!is_running(status.pid));
    ground.assert_nothing_left();
    client.unmount_soon(&ground.target());
}

#[test]
fn options_reach_the_kernel() {
    let ground = Ground::new();
    let client = ground.client();
    let mut config = config("::1");
    config.read_only = true;
    config.read_ahead_kib = 1_024;
    config.source.as_mut().unwrap().port = 2049;
    let status = client.mount(&ground.target(), config).unwrap();
    let mounts = ground.mounts_at(&ground.target());
    assert_eq!(mounts[0].source, "nfs://[::1]:2049/export");
    assert!(mounts[0].has_option("ro"));
    assert_eq!(fs::write(ground.hello(), "").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(read_ahead(status.connection), 1024);
}

#[test]
fn mounting_again_is_success_only_for_the_same() {
    let ground = Ground::new();
    let client = ground.client();
    let first = client.mount(&ground.target(), config("nas")).unwrap();
    for _ in 0..10 {
        assert_eq!(client.mount(&ground.target(), config("nas")).unwrap().pid, first.pid);
    }
    let others = [(config("other"), false), (DaemonConfig { attr_ttl_ms: 5, ..config("nas") }, true)];
    for (other, can_be_changed) in others {
        let error = client.mount(&ground.target(), other).unwrap_err();
        assert_eq!(error.code(), Code::AlreadyExists);
        assert_eq!(error.message.contains("efc upgrade -o"), can_be_changed, "{}", error.message);
    }
    assert_eq!(ground.mounts_at(&ground.target()).len(), 1);
    assert_eq!(ground.children(), [first.pid]);
}

#[test]
fn what_the_keeper_is_reached_by_is_not_mounted_over() {
    let ground = Ground::new();
    let client = ground.client();
    for target in [ground.base.clone(), ground.base.join("run"), ground.base.join("run/s")] {
        let error = client.mount(&target, config("nas")).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(error.message.contains("run directory"), "{}", error.message);
    }
    // Where the node plugin mounts.
    let target = ground.base.join("run/mnt");
    fs::create_dir(&target).unwrap();
    client.mount(&target, config("nas")).unwrap();
    client.unmount_soon(&target);
}

#[test]
fn two_names_of_one_target_are_one_mount() {
    let ground = Ground::new();
    let client = ground.client();
    symlink(&ground.base, ground.base.join("alias")).unwrap();
    let alias = ground.base.join("alias/target");
    let first = client.mount(&alias, config("nas")).unwrap();
    assert_eq!(first.target, ground.target().to_str().unwrap());
    assert_eq!(client.mount(&ground.target(), config("nas")).unwrap().pid, first.pid);
    client.unmount_soon(&alias);
    ground.assert_nothing_left();
}

#[test]
fn bad_targets_are_refused_and_leave_nothing() {
    let ground = Ground::new();
    let client = ground.client();
    let base = &ground.base;
    fs::write(base.join("file"), "").unwrap();
    symlink("target", base.join("link")).unwrap();
    fs::create_dir(base.join("taken")).unwrap();
    mount("none", base.join("taken"), "tmpfs", MountFlags::empty(), None).unwrap();
    for (name, code) in [
        ("missing", Code::NotFound),
        ("missing/deeper", Code::NotFound),
        ("file", Code::FailedPrecondition),
        ("file/below", Code::FailedPrecondition),
        ("link", Code::FailedPrecondition),
        ("taken", Code::AlreadyExists),
        ("../x", Code::InvalidArgument),
    ] {
        let error = client.mount(&base.join(name), config("nas")).unwrap_err();
        assert_eq!(error.code(), code, "{name}: {}", error.message);
        assert!(error.message.contains(base.to_str().unwrap()), "{}", error.message);
    }
    assert!(!base.join("missing").exists());
    assert_eq!(client.unmount(&base.join("taken"), true).unwrap_err().code(), Code::FailedPrecondition);
    ground.assert_nothing_left();
}

#[test]
fn a_target_inside_an_efc_mount_is_refused_without_asking_its_daemon() {
    let ground = Ground::new();
    let client = ground.client();
    let pid = client.mount(&ground.target(), config("nas")).unwrap().pid;
    kill(pid, Signal::STOP);
    symlink("target", ground.base.join("link")).unwrap();
    for inside in ["target/inside", "target/inside/deeper", "link/inside"] {
        let error = client.mount(&ground.base.join(inside), config("nas")).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{}", error.message);
    }
    kill(pid, Signal::CONT);
}

#[test]
fn a_request_without_a_source_is_invalid() {
    let ground = Ground::new();
    let error = ground.client().mount(&ground.target(), Default::default()).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    ground.client().send(Request::Mount(Default::default()));
    ground.assert_nothing_left();
}

#[test]
fn what_the_daemon_fails_of_is_passed_on() {
    let ground = Ground::new();
    let error = ground.client().mount(&ground.target(), config("refused")).unwrap_err();
    assert_eq!((error.code(), error.message.as_str()), (Code::PermissionDenied, "the NAS refuses this client"));
    ground.assert_nothing_left();
}

#[test]
fn a_daemon_that_dies_before_it_serves_leaves_nothing() {
    let ground = Ground::new();
    for (host, status) in [("dies-connected", "3"), ("dies-mounted", "5")] {
        let error = ground.client().mount(&ground.target(), config(host)).unwrap_err();
        assert_eq!(error.code(), Code::Internal);
        assert!(error.message.contains(&format!("exited with status {status}")), "{}", error.message);
        ground.assert_nothing_left();
    }
}

#[test]
fn a_mount_that_the_kernel_refuses_leaves_nothing() {
    let ground = Ground::new();
    let error = ground.client().mount(&ground.target(), config("rootless")).unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.message.contains("Invalid argument"), "{}", error.message);
    ground.assert_nothing_left();
}

#[test]
fn mounts_and_unmounts_that_race_end_in_one_of_two_states() {
    let ground = Ground::new();
    for round in 0..20 {
        let (mounting, unmounting) = (ground.client(), ground.client());
        mounting.send(Request::Mount(mount_request(&ground.target(), config("nas"), 0)));
        let unmounted = unmounting.unmount(&ground.target(), round % 2 == 0);
        let mounted = mounting.receive();
        assert!(unmounted.is_ok(), "{unmounted:?}");
        let client = ground.client();
        client.mount(&ground.target(), config("nas")).unwrap();
        assert!(ground.hello().exists(), "round {round}, mount {mounted:?}");
        client.unmount_soon(&ground.target());
        ground.assert_nothing_left();
    }
}

#[test]
fn a_slow_daemon_is_given_up_in_time() {
    let ground = Ground::new();
    let started_at = Instant::now();
    let error = ground.client().mount_within(&ground.target(), config("slow"), 300).unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    assert!(error.message.contains("time limit"), "{}", error.message);
    assert!(started_at.elapsed() >= Duration::from_millis(300));
    ground.assert_nothing_left();
    ground.client().mount(&ground.target(), config("nas")).unwrap();
}

#[test]
fn concurrent_mounts_share_one_daemon() {
    let ground = Ground::new();
    let clients = [ground.client(), ground.client(), ground.client()];
    for client in &clients {
        client.send(Request::Mount(mount_request(&ground.target(), config("hesitant"), 0)));
    }
    let replies = clients.map(|client| match client.receive().unwrap() {
        // Its daemon may have reported between two of them.
        Reply::Mount(reply) => MountStatus { stats: None, ..reply.status.unwrap() },
        other => panic!("{other:?}"),
    });
    assert_eq!(replies[0], replies[1]);
    assert_eq!(replies[1], replies[2]);
    assert_eq!(ground.children().len(), 1);
    assert_eq!(ground.mounts_at(&ground.target()).len(), 1);
}

#[test]
fn concurrent_mounts_share_one_failure() {
    let ground = Ground::new();
    let clients = [ground.client(), ground.client()];
    for client in &clients {
        client.send(Request::Mount(mount_request(&ground.target(), config("slow"), 500)));
    }
    for client in &clients {
        assert_eq!(client.receive().unwrap_err().code(), Code::DeadlineExceeded);
    }
    ground.assert_nothing_left();
}

#[test]
fn a_mount_is_finished_when_its_client_has_gone() {
    let ground = Ground::new();
    ground.client().send(Request::Mount(mount_request(&ground.target(), config("hesitant"), 0)));
    let client = ground.client();
    wait_until("the mount", || client.status().mounts.iter().any(|mount| mount.state() == State::Serving));
    assert_eq!(fs::read_to_string(ground.hello()).unwrap(), "hello, world\n");
}

#[test]
fn a_mount_in_use_stays() {
    let ground = Ground::new();
    let client = ground.client();
    client.mount(&ground.target(), config("nas")).unwrap();
    let mut file = fs::File::open(ground.hello()).unwrap();
    let error = client.unmount(&ground.target(), false).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message.contains("in use by"), "{}", error.message);
    assert_eq!(client.only().state(), State::Serving);
    let mut content = String::new();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "hello, world\n");
    drop(file);
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn force_ends_a_mount_whose_daemon_hangs() {
    let ground = Ground::new();
    let client = ground.client();
    let status = client.mount(&ground.target(), config("nas")).unwrap();
    let mut file = fs::File::open(ground.hello()).unwrap();
    kill(status.pid, Signal::STOP);
    let reader = std::thread::spawn(move || file.read(&mut [0; 16]).unwrap_err());
    std::thread::sleep(Duration::from_millis(100));
    client.unmount(&ground.target(), true).unwrap();
    reader.join().unwrap();
    assert!(!is_running(status.pid));
    ground.assert_nothing_left();
    client.mount(&ground.target(), config("nas")).unwrap();
}

#[test]
fn force_gives_up_a_start() {
    let ground = Ground::new();
    let mounting = ground.client();
    mounting.send(Request::Mount(mount_request(&ground.target(), config("slow"), 0)));
    let client = ground.client();
    wait_until("the start", || client.status().mounts.iter().any(|mount| mount.pid != 0));
    assert_eq!(client.only().state(), State::Starting);
    client.unmount(&ground.target(), true).unwrap();
    assert_eq!(mounting.receive().unwrap_err().code(), Code::Unavailable);
    ground.assert_nothing_left();
}

#[test]
fn somebody_elses_unmount_is_noticed() {
    let ground = Ground::new();
    let client = ground.client();
    let status = client.mount(&ground.target(), config("nas")).unwrap();
    unmount(ground.target(), UnmountFlags::empty()).unwrap();
    wait_until("the end of the session", || client.status().mounts.is_empty());
    assert!(!is_running(status.pid));
    ground.assert_nothing_left();
    client.mount(&ground.target(), config("nas")).unwrap();
}

#[test]
fn a_bind_mount_keeps_a_session_whose_target_somebody_unmounted() {
    let ground = Ground::new();
    let client = ground.client();
    let bound = ground.base.join("bound");
    fs::create_dir(&bound).unwrap();
    let first = client.mount(&ground.target(), config("nas")).unwrap();
    mount_bind(ground.target(), &bound).unwrap();
    unmount(ground.target(), UnmountFlags::empty()).unwrap();
    let second = client.mount(&ground.target(), config("nas")).unwrap();
    assert_ne!(first.pid, second.pid);
    assert_eq!(client.status().mounts.len(), 2);
    for path in [bound.join("hello"), ground.hello()] {
        assert_eq!(fs::read_to_string(path).unwrap(), "hello, world\n");
    }
    unmount(&bound, UnmountFlags::empty()).unwrap();
    wait_until("the end of the first session", || client.status().mounts.len() == 1);
    assert_eq!(client.only().pid, second.pid);
}

#[test]
fn an_aborted_mount_stays_until_it_is_unmounted() {
    let ground = Ground::new();
    let client = ground.client();
    let status = client.mount(&ground.target(), config("nas")).unwrap();
    abort(status.connection);
    wait_until("the abort", || client.only().state() == State::Aborted);
    assert_eq!(fs::read(ground.hello()).unwrap_err().kind(), io::ErrorKind::NotConnected);
    let error = client.mount(&ground.target(), config("nas")).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message.contains("aborted"), "{}", error.message);
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
    client.mount(&ground.target(), config("nas")).unwrap();
    assert_eq!(fs::read_to_string(ground.hello()).unwrap(), "hello, world\n");
}
