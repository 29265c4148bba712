//! Daemons in cgroups of their own, on this machine's real hierarchies, and what they survive there. Needs root and
//! `/dev/fuse`.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use efc_mount_helper::mountinfo;
use efc_proto::error::Code;
use efc_proto::mount_status::State;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount};
use rustix::process::Signal;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use support::{Ground, config, is_running, kill, wait_until};

/// A name directly below the root of every hierarchy that nobody else uses; what is there goes with the test.
struct Name {
    name: String,
    roots: Vec<PathBuf>,
}

impl Name {
    fn new(purpose: &str) -> Name {
        let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let mounts = mountinfo::read().unwrap();
        let cgroups = mounts.into_iter().filter(|mount| matches!(mount.filesystem.as_str(), "cgroup" | "cgroup2"));
        let roots: Vec<PathBuf> = cgroups.map(|mount| mount.mount_point).collect();
        assert!(!roots.is_empty());
        Name { name: format!("efc-test-{purpose}-{nanoseconds:x}"), roots }
    }

    fn directories(&self) -> Vec<PathBuf> {
        self.roots.iter().map(|root| root.join(&self.name)).filter(|directory| directory.exists()).collect()
    }

    /// Paths of the cgroups below the name, in whichever hierarchies they are.
    fn below(&self) -> Vec<PathBuf> {
        let entries = self.directories().into_iter().flat_map(|directory| fs::read_dir(directory).unwrap());
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
    }

    /// Moves a process there, as a container's runtime does.
    fn take_in(&self, pid: u32) {
        for root in &self.roots {
            let directory = root.join(&self.name);
            fs::create_dir_all(&directory).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"].map(Path::new) {
                if directory.join(file).exists() && !directory.join("cgroup.events").exists() {
                    fs::copy(root.join(file), directory.join(file)).unwrap();
                }
            }
            fs::write(directory.join("cgroup.procs"), pid.to_string()).unwrap();
        }
    }

    /// All processes in any of the name's cgroups.
    fn processes(&self) -> BTreeSet<i32> {
        let lists = self.directories().into_iter().chain(self.below()).map(|directory| directory.join("cgroup.procs"));
        let lists = lists.filter_map(|list| fs::read_to_string(list).ok());
        lists.flat_map(|list| list.lines().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let processes = self.processes();
        processes.iter().filter(|pid| **pid != 0).for_each(|pid| kill(*pid, Signal::KILL));
        let is_gone = || {
            self.below().into_iter().chain(self.directories()).for_each(|directory| {
                // Busy until its processes have ended; the next round tries again.
                let _ = fs::remove_dir(directory);
            });
            self.directories().is_empty()
        };
        for _ in 0..200 {
            if is_gone() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        println!("left behind: {:?}", self.directories());
    }
}

/// The place of a process, if it is the same in every hierarchy that is mounted.
#[track_caller]
fn place_of(pid: i32, name: &Name) -> String {
    let listing = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let paths: BTreeSet<&str> = listing.lines().map(|line| line.splitn(3, ':').nth(2).unwrap()).collect();
    assert_eq!(listing.lines().count(), name.roots.len(), "{listing}");
    assert_eq!(paths.len(), 1, "{listing}");
    paths.first().unwrap().to_string()
}

#[track_caller]
fn assert_serves(ground: &Ground) {
    assert_eq!(fs::read_to_string(ground.hello()).unwrap(), "hello, world\n");
}

#[test]
fn each_daemon_has_a_cgroup_until_its_mount_is_gone() {
    let name = Name::new("each");
    let ground = Ground::with(&["--daemon-cgroup", &name.name]);
    let client = ground.client();
    let second = ground.base.join("second");
    fs::create_dir(&second).unwrap();
    let pids = [&ground.target(), &second].map(|target| client.mount(target, config("nas")).unwrap().pid);
    let places = pids.map(|pid| place_of(pid, &name));
    assert!(places[0].starts_with(&format!("/{}/target-", name.name)), "{places:?}");
    assert!(places[1].starts_with(&format!("/{}/second-", name.name)), "{places:?}");
    client.unmount_soon(&second);
    assert_eq!(name.below().len(), name.roots.len(), "those of the first mount: {:?}", name.below());

    // The next daemon comes to the same place, even if somebody has taken it away.
    let file = fs::File::open(ground.hello()).unwrap();
    kill(pids[0], Signal::KILL);
    file.read_exact_at(&mut [0; 13], 0).unwrap();
    assert_eq!(place_of(client.serving_after(1).pid, &name), places[0]);
    drop(file);
    client.unmount_soon(&ground.target());
    assert_eq!(name.below(), Vec::<PathBuf>::new());
    ground.assert_nothing_left();
}

#[test]
fn the_end_of_the_keepers_container_ends_no_daemon() {
    let (name, container) = (Name::new("daemons"), Name::new("container"));
    let mut ground = Ground::with(&["--daemon-cgroup", &name.name]);
    container.take_in(ground.keeper.id());
    let pid = ground.client().mount(&ground.target(), config("nas")).unwrap().pid;
    let place = place_of(pid, &name);
    let contained = container.processes();
    assert_eq!(contained, BTreeSet::from([ground.keeper.id() as i32]));
    contained.into_iter().for_each(|pid| kill(pid, Signal::KILL));
    ground.wait_for_end();
    assert_serves(&ground);
    assert!(is_running(pid));

    // A left-over goes with the next keeper's start, and the cgroup of a daemon that lives stays.
    let left_over = name.roots[0].join(&name.name).join("gone-0123456789abcdef");
    fs::create_dir(&left_over).unwrap();
    ground.restart_keeper();
    assert!(!left_over.exists());
    assert_eq!(place_of(pid, &name), place);
    assert_serves(&ground);
    ground.client().unmount_soon(&ground.target());
    wait_until("the daemon's end", || !is_running(pid));
    ground.signal(Signal::KILL);
    ground.wait_for_end();
    ground.restart_keeper();
    assert_eq!(name.below(), Vec::<PathBuf>::new());
    ground.signal(Signal::TERM);
    assert!(ground.wait_for_end().success());
    assert_eq!(name.directories(), Vec::<PathBuf>::new());
}

#[test]
fn a_daemon_that_lacks_memory_is_given_time_and_the_status_says_so() {
    let name = Name::new("memory");
    let ground = Ground::with(&["--daemon-cgroup", &name.name, "--daemon-memory-max", "16777216"]);
    let client = ground.client();
    client.mount(&ground.target(), config("greedy")).unwrap();
    let limit = "the daemon was killed by its memory limit of 16 MiB";
    let mut status = client.only();
    wait_until("the second daemon", || {
        status = client.only();
        status.restarts >= 1 && status.state() == State::Serving
    });
    assert!(status.reason.starts_with(&format!("{limit} at ")), "while the next one serves, too: {}", status.reason);
    // None of them dies as soon as it serves, and yet kill does not follow kill.
    wait_until("a wait", || {
        status = client.only();
        status.reason.contains("times in a row")
    });
    assert!(status.reason.starts_with(limit), "{}", status.reason);
    client.unmount(&ground.target(), true).unwrap();
    ground.assert_nothing_left();
}

#[test]
fn a_start_that_fails_leaves_no_cgroup() {
    let name = Name::new("refused");
    let ground = Ground::with(&["--daemon-cgroup", &name.name]);
    let error = ground.client().mount(&ground.target(), config("refused")).unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert_eq!(name.below(), Vec::<PathBuf>::new());
}

#[test]
fn a_cgroup_that_cannot_be_made_fails_the_mount() {
    let name = Name::new("full");
    let ground = Ground::with(&["--daemon-cgroup", &name.name]);
    // Only the unified hierarchy can be told that it is full.
    let limits = name.directories().into_iter().map(|directory| directory.join("cgroup.max.descendants"));
    let limits: Vec<PathBuf> = limits.filter(|limit| limit.exists()).collect();
    assert_eq!(limits.len(), 1, "this machine has no unified hierarchy");
    fs::write(&limits[0], "0").unwrap();
    let error = ground.client().mount(&ground.target(), config("nas")).unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.message.contains("cannot start the daemon"), "{}", error.message);
    assert!(error.message.contains(limits[0].parent().unwrap().to_str().unwrap()), "{}", error.message);
    ground.assert_nothing_left();
    assert_eq!(name.below(), Vec::<PathBuf>::new());
    fs::write(&limits[0], "max").unwrap();
    ground.client().mount(&ground.target(), config("nas")).unwrap();
}

#[test]
fn a_containers_view_is_refused() {
    let name = Name::new("view");
    let ground = Ground::new();
    // As runc shows a privileged container its hierarchies of v1: the container's own cgroup, bound.
    let view = ground.base.join("view");
    fs::create_dir(&view).unwrap();
    mount("none", &view, "tmpfs", MountFlags::empty(), None).unwrap();
    for (number, root) in name.roots.iter().enumerate() {
        let (own, seen) = (root.join(&name.name), view.join(number.to_string()));
        fs::create_dir(&own).unwrap();
        fs::create_dir(&seen).unwrap();
        mount_bind(&own, &seen).unwrap();
    }
    let refused = Command::new(env!("CARGO_BIN_EXE_efc-keeper"))
        .args(["--daemon-cgroup", "efc", "--run-dir"])
        .arg(ground.base.join("other"))
        .arg("--cgroup-root")
        .arg(&view)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let complaint = String::from_utf8(refused.stderr).unwrap();
    assert!(complaint.contains("shows a part of the node's cgroups only"), "{complaint}");
    assert_eq!(name.below(), Vec::<PathBuf>::new());
}

#[test]
fn memory_can_be_limited() {
    let name = Name::new("memory");
    let ground = Ground::with(&["--daemon-cgroup", &name.name, "--daemon-memory-max", "67108864"]);
    ground.client().mount(&ground.target(), config("nas")).unwrap();
    let read = |directory: &PathBuf| {
        let files = ["memory.limit_in_bytes", "memory.max"].map(|file| directory.join(file));
        files.iter().find_map(|file| fs::read_to_string(file).ok())
    };
    let limits: Vec<String> = name.below().iter().filter_map(read).collect();
    assert_eq!(limits, ["67108864\n"]);
}

/// A node with cgroup v2 only, as far as the keeper can see: nothing else is at its `--cgroup-root`, and the keeper is in
/// the root of every hierarchy of v1. Which controllers the unified hierarchy has is the machine's affair.
#[test]
fn the_unified_hierarchy_alone_is_enough() {
    let name = Name::new("unified");
    let view = tempfile::tempdir().unwrap();
    // SAFETY: a mount namespace of this thread's own changes no descriptor and no memory of other threads.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount("cgroup2", view.path(), "cgroup2", MountFlags::empty(), None).unwrap();
    let root = view.path().to_str().unwrap();
    let ground = Ground::with(&["--daemon-cgroup", &name.name, "--cgroup-root", root]);
    for root in name.roots.iter().filter(|root| !root.join("cgroup.controllers").exists()) {
        fs::write(root.join("cgroup.procs"), ground.keeper.id().to_string()).unwrap();
    }
    let client = ground.client();
    let unified_place = |pid: i32| {
        let listing = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        listing.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
    };
    let pid = client.mount(&ground.target(), config("nas")).unwrap().pid;
    let place = unified_place(pid);
    assert!(place.starts_with(&format!("/{}/target-", name.name)), "{place}");
    assert_eq!(fs::read_to_string(format!("{root}{place}/cgroup.procs")).unwrap(), format!("{pid}\n"));
    assert_eq!(name.below().len(), 1, "nowhere else: {:?}", name.below());
    kill(pid, Signal::KILL);
    assert_eq!(unified_place(client.serving_after(1).pid), place);
    client.unmount_soon(&ground.target());
    assert_eq!(name.below(), Vec::<PathBuf>::new());
    drop(ground);
    unmount(view.path(), UnmountFlags::DETACH).unwrap();
}

#[test]
fn nobody_has_to_read_what_is_logged_to_a_pipe() {
    let (reader, writer) = std::io::pipe().unwrap();
    nobody_has_to_read(reader, OwnedFd::from(writer));
}

/// As systemd gives a service, whose journal may stop.
#[test]
fn nobody_has_to_read_what_is_logged_to_a_socket() {
    let (reader, writer) = UnixStream::pair().unwrap();
    nobody_has_to_read(reader, OwnedFd::from(writer));
}

fn nobody_has_to_read<R>(reader: R, writer: OwnedFd) {
    let mut ground = Ground::with_stderr(&[], writer.into());
    let client = ground.client();
    let pid = client.mount(&ground.target(), config("talkative")).unwrap().pid;
    // Several times what a pipe or a socket holds: the daemon has logged a line of 1 KiB for each.
    let file = fs::File::open(ground.hello()).unwrap();
    let read_often = || (0..600).for_each(|_| file.read_exact_at(&mut [0; 13], 0).unwrap());
    read_often();
    drop(reader);
    read_often();
    assert!(client.only().stats.unwrap().fuse_requests > 1200);
    ground.signal(Signal::KILL);
    ground.wait_for_end();
    read_often();
    assert!(is_running(pid));
}
