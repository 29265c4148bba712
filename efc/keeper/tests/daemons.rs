//! Daemons that die, hang or complain, under a real keeper. Needs root and `/dev/fuse`.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use efc_proto::mount_status::State;
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
        assert!(killed_at.elapsed() < Duration::from_secs(1), "{:?}", killed_at.elapsed());
        assert_eq!(&buffer, b"hello, world\n");
        // The daemon may serve before the keeper has read its Ready.
        wait_until("the restart", || client.only().restarts == restarts && client.only().state() == State::Serving);
        let status = client.only();
        assert_ne!(status.pid, pid);
        assert_eq!(status.reason, "the daemon was killed by signal 9");
        assert!(status.stats.unwrap().resumed);
        pid = status.pid;
    }
    drop(file);
    client.unmount(&ground.target(), false).unwrap();
    ground.assert_nothing_left();
}

#[test]
fn a_daemon_that_keeps_dying_is_given_time() {
    let ground = Ground::new();
    let client = ground.client();
    let pid = client.mount(&ground.target(), config("crashes")).unwrap().pid;
    let started_at = Instant::now();
    kill(pid, Signal::KILL);
    wait_until("four restarts", || client.only().restarts >= 4);
    // The second successor starts at once, the third after 100 ms, the fourth after 200 ms.
    assert!(started_at.elapsed() >= Duration::from_millis(300), "{:?}", started_at.elapsed());
    wait_until("the last death", || client.only().pid == 0);
    let status = client.only();
    assert_eq!(status.state(), State::Restarting);
    assert_eq!(status.reason, "the daemon exited with status 7");
    let before = status.restarts;
    std::thread::sleep(Duration::from_millis(300));
    assert!(client.only().restarts <= before + 1, "the wait grows");
    client.unmount(&ground.target(), true).unwrap();
    ground.assert_nothing_left();
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
    for index in 0..5 {
        let target = ground.base.join(format!("target{index}"));
        fs::create_dir(&target).unwrap();
        client.mount(&target, config(if index < 4 { "mute" } else { "nas" })).unwrap();
    }
    let started_at = Instant::now();
    let mounts = client.status().mounts;
    assert!(started_at.elapsed() >= Duration::from_millis(200));
    assert!(started_at.elapsed() < Duration::from_millis(700), "{:?}", started_at.elapsed());
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
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5], "{descriptors:?}");
    assert!(descriptors[3].1.starts_with("socket:"));
    let received = format!("{} {}", descriptors[4].1, descriptors[5].1);
    assert!(received.contains("/dev/fuse") && received.contains("memfd:efc-state"), "{received}");
}

#[test]
fn daemons_outlive_a_keeper_that_is_killed() {
    let mut ground = Ground::new();
    let pid = ground.client().mount(&ground.target(), config("nas")).unwrap().pid;
    ground.signal(Signal::KILL);
    ground.wait_for_end();
    assert_eq!(fs::read_to_string(ground.hello()).unwrap(), "hello, world\n");
    ground.restart_keeper();
    let client = ground.client();
    let error = client.mount(&ground.target(), config("nas")).unwrap_err();
    assert_eq!(error.code(), efc_proto::error::Code::AlreadyExists, "{}", error.message);
    client.unmount(&ground.target(), false).unwrap();
    wait_until("the daemon's end", || !is_running(pid));
    ground.assert_nothing_left();
}
