//! Daemons in a network that somebody else holds, under a real keeper. Needs root, `/dev/fuse` and util-linux.

mod support;

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use efc_proto::error::Code;
use efc_proto::mount_status::State;
use efc_proto::{DaemonConfig, MountStatus, NetworkOffer};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, socket_with};
use rustix::process::Signal;
use support::{Client, Ground, config, kill, wait_until};

/// `efc-network` in a network namespace of its own; ended on drop.
struct Holder(Child);

impl Holder {
    /// In a network of its own.
    fn start(ground: &Ground) -> Holder {
        Holder::start_by(ground, "unshare --net")
    }

    /// By a program that chooses its namespaces.
    fn start_by(ground: &Ground, prefix: &str) -> Holder {
        fs::create_dir_all(socket_of(ground).parent().unwrap()).unwrap();
        // What a killed holder has left would be taken for the new one's.
        let _ = fs::remove_file(socket_of(ground));
        let words: Vec<&str> = prefix.split(' ').collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .arg("--")
            .arg(env!("CARGO_BIN_EXE_efc-network"))
            .arg("--socket")
            .arg(socket_of(ground));
        let holder = Holder(command.spawn().unwrap());
        wait_until("the holder's socket", || socket_of(ground).exists());
        holder
    }

    fn network(&self) -> PathBuf {
        network_of(self.0.id())
    }

    fn end(&mut self, signal: Signal) {
        kill(self.0.id() as i32, signal);
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Most have been ended by their test.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn socket_of(ground: &Ground) -> PathBuf {
    ground.base.join("run/network/pod.sock")
}

fn network_of(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/net")).unwrap()
}

/// Status of the only mount once its daemon is in this network.
#[track_caller]
fn in_network(client: &Client, network: &Path) -> MountStatus {
    let mut status = client.only();
    wait_until("a daemon in the other network", || {
        status = client.only();
        fs::read_link(format!("/proc/{}/ns/net", status.pid)).is_ok_and(|present| present == network)
            && status.state() == State::Serving
    });
    status
}

fn in_pod_network() -> DaemonConfig {
    DaemonConfig { network: "pod".into(), ..config("nas") }
}

#[test]
fn successors_stay_in_the_network_until_it_is_replaced() {
    let ground = Ground::new();
    let client = ground.client();
    let mut holder = Holder::start(&ground);
    let network = holder.network();
    assert_ne!(network, network_of(ground.keeper.id()));
    let first = client.mount(&ground.target(), in_pod_network()).unwrap();
    assert_eq!(network_of(first.pid as u32), network);
    // Nobody else is moved.
    assert_ne!(network_of(ground.keeper.id()), network);

    let next_after = |restarts: u32| {
        kill(client.serving_after(restarts - 1).pid, Signal::KILL);
        let successor = client.serving_after(restarts);
        assert_eq!(fs::read_to_string(ground.hello()).unwrap(), "hello, world\n");
        network_of(successor.pid as u32)
    };
    holder.end(Signal::KILL);
    assert!(socket_of(&ground).exists());
    assert_eq!(next_after(1), network, "the holder is gone, not its network");
    let mut other = Holder::start(&ground);
    assert_ne!(other.network(), network);
    assert_eq!(next_after(2), other.network(), "the network was replaced");
    other.end(Signal::TERM);
    assert!(!socket_of(&ground).exists());
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

/// Reads a file of the mount again and again, on a thread, until it is told to stop; every read must succeed.
struct Reader {
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Reader {
    fn start(ground: &Ground) -> Reader {
        let (stopping, hello) = (Arc::new(AtomicBool::new(false)), ground.hello());
        let told = stopping.clone();
        let thread = std::thread::spawn(move || {
            let mut reads = 0;
            while !told.load(Ordering::Relaxed) {
                assert_eq!(fs::read_to_string(&hello).unwrap(), "hello, world\n");
                reads += 1;
            }
            reads
        });
        Reader { stopping, thread }
    }

    fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        assert!(self.thread.join().unwrap() > 0);
    }
}

#[test]
fn running_daemons_are_moved_when_the_network_was_replaced() {
    let ground = Ground::new();
    let client = ground.client();
    let mut holder = Holder::start(&ground);
    let first = client.mount(&ground.target(), in_pod_network()).unwrap();
    let reader = Reader::start(&ground);
    holder.end(Signal::KILL);
    wait_until("the status to say so", || {
        client.only().network_trouble.starts_with("nobody hands out the network \"pod\" now")
    });
    assert_eq!(client.only().pid, first.pid, "there is no other network");
    let mut other = Holder::start(&ground);
    let moved = in_network(&client, &other.network());
    assert_eq!((moved.restarts, moved.upgrades), (1, 1), "no daemon has died");
    reader.stop();
    wait_until("the status to say no more", || client.only().network_trouble.is_empty());

    // The container is started anew in the same pod: somebody else hands the same network out.
    let prefix = format!("nsenter --net=/proc/{}/ns/net", moved.pid);
    other.end(Signal::KILL);
    wait_until("the status to say so", || client.only().network_trouble.starts_with("nobody hands out"));
    let same = Holder::start_by(&ground, &prefix);
    assert_eq!(same.network(), network_of(moved.pid as u32));
    wait_until("the status to say no more", || client.only().network_trouble.is_empty());
    assert_eq!(client.only().pid, moved.pid);
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn a_network_that_is_replaced_again_and_again_moves_daemons_seldom() {
    let ground = Ground::new();
    let client = ground.client();
    let mut holder = Holder::start(&ground);
    client.mount(&ground.target(), in_pod_network()).unwrap();
    let reader = Reader::start(&ground);
    for _ in 0..20 {
        holder.end(Signal::KILL);
        holder = Holder::start(&ground);
        std::thread::sleep(Duration::from_millis(100));
    }
    in_network(&client, &holder.network());
    reader.stop();
    let moves = client.only().restarts;
    assert!((1..=3).contains(&moves), "{moves} moves");
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn a_mount_may_end_while_its_daemon_is_moved() {
    let ground = Ground::new();
    let client = ground.client();
    let mut holder = Holder::start(&ground);
    for moves in 1..=3 {
        client.mount(&ground.target(), in_pod_network()).unwrap();
        holder.end(Signal::KILL);
        holder = Holder::start(&ground);
        let log = || fs::read_to_string(ground.base.join("log")).unwrap();
        let limit = Instant::now() + Duration::from_secs(40); // of a third move
        while log().matches(": upgrading\n").count() < moves {
            assert!(Instant::now() < limit, "no move {moves}");
            std::thread::sleep(Duration::from_millis(1));
        }
        client.unmount_soon(&ground.target());
        ground.assert_nothing_left();
    }
}

#[test]
fn who_upgrades_a_daemon_moves_it_too() {
    let ground = Ground::new();
    let client = ground.client();
    let mut holder = Holder::start(&ground);
    client.mount(&ground.target(), in_pod_network()).unwrap();
    holder.end(Signal::KILL);
    holder = Holder::start(&ground);
    let upgraded = client.upgrade(&ground.target()).unwrap();
    assert_eq!(network_of(upgraded.pid as u32), holder.network());
    holder.end(Signal::KILL);
    wait_until("a look", || client.only().network_trouble.starts_with("nobody hands out"));
    assert_eq!(client.only().pid, upgraded.pid);
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn the_next_keeper_moves_daemons_too() {
    let mut ground = Ground::new();
    let mut holder = Holder::start(&ground);
    let pid = ground.client().mount(&ground.target(), in_pod_network()).unwrap().pid;
    ground.signal(Signal::KILL);
    ground.wait_for_end();
    holder.end(Signal::KILL);
    let other = Holder::start(&ground);
    ground.restart_keeper();
    let client = ground.client();
    assert_eq!(client.only().pid, pid, "taken over");
    in_network(&client, &other.network());
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn without_any_network_the_next_daemon_waits_for_one() {
    let mut ground = Ground::new();
    let mut holder = Holder::start(&ground);
    let client = ground.client();
    let pid = client.mount(&ground.target(), in_pod_network()).unwrap().pid;
    let (held, descriptors) = client.hold(&ground.target()).unwrap();
    ground.signal(Signal::KILL);
    ground.wait_for_end();
    kill(pid, Signal::KILL);
    holder.end(Signal::TERM);
    ground.restart_keeper();
    let client = ground.client();
    client.adopt(&held, &descriptors).unwrap();
    wait_until("the reason", || client.only().reason.contains("no daemon can be started"));
    assert_eq!(client.only().pid, 0, "it is not started in the keeper's own network");
    let other = Holder::start(&ground);
    in_network(&client, &other.network());
    drop(descriptors);
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn the_next_keeper_finds_the_network_in_the_daemon() {
    let mut ground = Ground::new();
    let mut holder = Holder::start(&ground);
    let network = holder.network();
    let pid = ground.client().mount(&ground.target(), in_pod_network()).unwrap().pid;
    holder.end(Signal::KILL);
    ground.signal(Signal::KILL);
    ground.wait_for_end();
    ground.restart_keeper();
    let client = ground.client();
    assert_eq!(client.only().pid, pid, "taken over");
    kill(pid, Signal::KILL);
    assert_eq!(network_of(client.serving_after(1).pid as u32), network);
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn a_holder_that_ends_late_leaves_its_successors_socket() {
    let ground = Ground::new();
    let client = ground.client();
    let mut first = Holder::start(&ground);
    let second = Holder::start(&ground);
    first.end(Signal::TERM);
    let mounted = client.mount(&ground.target(), in_pod_network()).unwrap();
    assert_eq!(network_of(mounted.pid as u32), second.network());
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn a_network_that_is_not_there_says_how_to_get_it() {
    let ground = Ground::new();
    let client = ground.client();
    let refused = |reason: &str| {
        let error = client.mount(&ground.target(), in_pod_network()).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{}", error.message);
        assert!(error.message.contains("network.enabled=true"), "{}", error.message);
        assert!(error.message.contains(reason), "{reason:?} in {}", error.message);
        ground.assert_nothing_left();
    };
    refused("No such file");
    let mut holder = Holder::start_by(&ground, "unshare --uts");
    refused("the keeper's own network");
    holder.end(Signal::KILL);
    refused("refused");
    let bad = DaemonConfig { network: "../keeper".into(), ..config("nas") };
    assert_eq!(client.mount(&ground.target(), bad).unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn only_a_network_namespace_is_taken() {
    let ground = Ground::new();
    let client = ground.client();
    let path = socket_of(&ground);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&listener, 8).unwrap();
    let file = |path: &str| File::open(Path::new(path)).unwrap();
    let (mounts, null) = (file("/proc/self/ns/mnt"), file("/dev/null"));
    let offers: [(&[BorrowedFd<'_>], &str); 4] = [
        (&[mounts.as_fd()], "not a network namespace"),
        (&[null.as_fd()], "not a network namespace"),
        (&[], "one descriptor"),
        (&[mounts.as_fd(), null.as_fd()], "one descriptor"),
    ];
    for (descriptors, reason) in offers {
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                let client: OwnedFd = accept(&listener).unwrap();
                efc_proto::send(&client, &NetworkOffer { version: "1".into() }, descriptors).unwrap();
            });
            client.mount(&ground.target(), in_pod_network()).unwrap_err()
        });
        assert!(error.message.contains(reason), "{reason:?} in {}", error.message);
    }
    // One that never answers costs half a second.
    let error = client.mount(&ground.target(), in_pod_network()).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{}", error.message);
    ground.assert_nothing_left();
}
