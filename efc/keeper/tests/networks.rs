//! Daemons in a network that somebody else holds, under a real keeper. Needs root, `/dev/fuse` and util-linux.

mod support;

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use efc_proto::error::Code;
use efc_proto::{DaemonConfig, NetworkOffer};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, socket_with};
use rustix::process::Signal;
use support::{Ground, config, kill, wait_until};

/// `efc-network` in a network namespace of its own; ended on drop.
struct Holder(Child);

impl Holder {
    fn start(ground: &Ground, unshare: &[&str]) -> Holder {
        fs::create_dir_all(socket_of(ground).parent().unwrap()).unwrap();
        // What a killed holder has left would be taken for the new one's.
        let _ = fs::remove_file(socket_of(ground));
        let mut command = Command::new("unshare");
        command.args(unshare).arg("--").arg(env!("CARGO_BIN_EXE_efc-network")).arg("--socket").arg(socket_of(ground));
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

fn in_pod_network() -> DaemonConfig {
    DaemonConfig { network: "pod".into(), ..config("nas") }
}

#[test]
fn successors_stay_in_the_network_until_it_is_replaced() {
    let ground = Ground::new();
    let client = ground.client();
    let mut holder = Holder::start(&ground, &["--net"]);
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
    let mut other = Holder::start(&ground, &["--net"]);
    assert_ne!(other.network(), network);
    assert_eq!(next_after(2), other.network(), "the network was replaced");
    other.end(Signal::TERM);
    assert!(!socket_of(&ground).exists());
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn the_next_keeper_finds_the_network_in_the_daemon() {
    let mut ground = Ground::new();
    let mut holder = Holder::start(&ground, &["--net"]);
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
    let mut holder = Holder::start(&ground, &["--uts"]);
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
        (&[mounts.as_fd()], "no network namespace"),
        (&[null.as_fd()], "no network namespace"),
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
