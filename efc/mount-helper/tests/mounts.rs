//! The program against real mounts. Needs root. Each test has a mount namespace of its own, which ends with its thread.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use efc_mount_helper::mountinfo;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::Value;

/// A tmpfs with a volume's root and a target, in a private mount namespace.
struct Ground {
    base: PathBuf,
    _directory: tempfile::TempDir,
}

impl Ground {
    fn new() -> Ground {
        // SAFETY: a mount namespace of this thread's own changes no descriptor and no memory of other threads.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        mount("none", &base, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::create_dir_all(base.join("root/tenant/data")).unwrap();
        fs::create_dir(base.join("target")).unwrap();
        fs::write(base.join("root/tenant/data/file"), "hello").unwrap();
        fs::write(base.join("root/tenant/plain"), "").unwrap();
        Ground { base, _directory: directory }
    }

    fn root(&self) -> PathBuf {
        self.base.join("root")
    }

    fn target(&self) -> PathBuf {
        self.base.join("target")
    }

    fn bind(&self, path: &str, more: &[&str]) -> Output {
        let (root, target) = (self.root(), self.target());
        let base = text(&self.base);
        let arguments = ["bind", "--root", text(&root), "--path", path, "--beneath", base, "--target", text(&target)];
        helper(&[&arguments, more].concat())
    }

    fn unmount(&self, more: &[&str]) -> Output {
        let target = self.target();
        helper(&[&["unmount", "--target", text(&target)], more].concat())
    }

    fn mounts_at_target(&self) -> Vec<mountinfo::Mount> {
        let mounts = mountinfo::read().unwrap();
        mountinfo::at(&mounts, &self.target()).cloned().collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Else the directory could not be removed. Where this fails the test has failed before.
        let _ = unmount(&self.base, UnmountFlags::DETACH);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn helper(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_efc-mount-helper")).args(arguments).output().unwrap()
}

#[track_caller]
fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
}

#[track_caller]
fn fails(output: &Output, errno: &str) {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let failure: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(failure["errno"], errno, "{stderr}");
    assert!(failure["message"].as_str().unwrap().starts_with("cannot "), "{stderr}");
}

#[test]
fn a_directory_of_the_volume_appears_at_the_target() {
    let ground = Ground::new();
    succeeds(&ground.bind("tenant/data", &[]));
    assert_eq!(fs::read_to_string(ground.target().join("file")).unwrap(), "hello");
    fs::write(ground.target().join("new"), "x").unwrap();
    assert!(ground.root().join("tenant/data/new").exists());
    let mounts = ground.mounts_at_target();
    assert_eq!(mounts.len(), 1);
    assert_eq!(mounts[0].root, Path::new("/root/tenant/data"));
    assert!(mounts[0].has_option("nosuid") && mounts[0].has_option("nodev") && mounts[0].has_option("rw"));
}

#[test]
fn the_root_itself_has_two_names() {
    for path in ["", "."] {
        let ground = Ground::new();
        succeeds(&ground.bind(path, &[]));
        assert!(ground.target().join("tenant/data/file").exists(), "{path:?}");
    }
}

#[test]
fn read_only_holds_for_this_mount_alone() {
    let ground = Ground::new();
    succeeds(&ground.bind("tenant/data", &["--read-only"]));
    let error = fs::write(ground.target().join("file"), "x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    fs::write(ground.root().join("tenant/data/file"), "changed").unwrap();
    assert_eq!(fs::read_to_string(ground.target().join("file")).unwrap(), "changed");
}

#[test]
fn a_symbolic_link_is_never_followed_below_the_root() {
    let ground = Ground::new();
    symlink("/etc", ground.root().join("tenant/outside")).unwrap();
    symlink("data", ground.root().join("tenant/inside")).unwrap();
    symlink("tenant", ground.root().join("link")).unwrap();
    for path in ["tenant/outside", "tenant/inside", "link/data"] {
        fails(&ground.bind(path, &[]), "ELOOP");
    }
    assert!(ground.mounts_at_target().is_empty());
}

#[test]
fn a_path_that_leaves_the_root_is_refused() {
    let ground = Ground::new();
    for path in ["..", "tenant/..", "tenant/../../target", "/etc"] {
        fails(&ground.bind(path, &[]), "EINVAL");
    }
    assert!(ground.mounts_at_target().is_empty());
}

#[test]
fn what_is_missing_or_not_a_directory_is_named() {
    let ground = Ground::new();
    let missing = ground.bind("tenant/none", &[]);
    fails(&missing, "ENOENT");
    assert!(String::from_utf8_lossy(&missing.stderr).contains("root/tenant/none"));
    fails(&ground.bind("tenant/plain", &[]), "ENOTDIR");
    fails(&ground.bind("tenant/plain/below", &[]), "ENOTDIR");
    fs::remove_dir(ground.target()).unwrap();
    fs::write(ground.target(), "").unwrap();
    fails(&ground.bind("tenant", &[]), "ENOTDIR");
}

#[test]
fn a_target_that_is_a_symbolic_link_is_refused() {
    let ground = Ground::new();
    fs::create_dir(ground.base.join("elsewhere")).unwrap();
    fs::remove_dir(ground.target()).unwrap();
    symlink("elsewhere", ground.target()).unwrap();
    fails(&ground.bind("tenant", &[]), "ENOTDIR");
    fails(&ground.unmount(&[]), "ELOOP");
    let mounts = mountinfo::read().unwrap();
    assert!(mountinfo::at(&mounts, &ground.base.join("elsewhere")).next().is_none());
}

#[test]
fn unmount_takes_away_a_whole_stack_and_nothing_else() {
    let ground = Ground::new();
    for _ in 0..3 {
        mount("none", ground.target(), "tmpfs", MountFlags::empty(), None).unwrap();
    }
    assert_eq!(ground.mounts_at_target().len(), 3);
    succeeds(&ground.unmount(&[]));
    assert!(ground.mounts_at_target().is_empty());
    assert!(ground.root().join("tenant/data/file").exists());
}

#[test]
fn unmount_of_nothing_is_success() {
    let ground = Ground::new();
    succeeds(&ground.unmount(&[]));
    fs::remove_dir(ground.target()).unwrap();
    succeeds(&ground.unmount(&[]));
    succeeds(&helper(&["unmount", "--target", "/none/such/directory"]));
}

#[test]
fn a_busy_mount_is_detached_only_on_demand() {
    let ground = Ground::new();
    succeeds(&ground.bind("tenant/data", &[]));
    let held = fs::File::open(ground.target().join("file")).unwrap();
    let busy = ground.unmount(&[]);
    fails(&busy, "EBUSY");
    assert!(String::from_utf8_lossy(&busy.stderr).contains("in use by"));
    assert_eq!(ground.mounts_at_target().len(), 1);
    succeeds(&ground.unmount(&["--detach"]));
    assert!(ground.mounts_at_target().is_empty());
    assert_eq!(io::read_to_string(held).unwrap(), "hello");
}

#[test]
fn a_target_is_found_through_its_parents_symbolic_link() {
    let ground = Ground::new();
    symlink(&ground.base, ground.base.join("alias")).unwrap();
    succeeds(&ground.bind("tenant", &[]));
    succeeds(&helper(&["unmount", "--target", text(&ground.base.join("alias/target"))]));
    assert!(ground.mounts_at_target().is_empty());
}

/// A parent of targets, a directory outside, and a link that leads there; all in `ground.base`.
fn parents(ground: &Ground) -> (PathBuf, PathBuf, PathBuf) {
    let kubelet = ground.base.join("kubelet");
    let (parent, link, outside) = (kubelet.join("parent"), kubelet.join("link"), ground.base.join("outside"));
    fs::create_dir_all(&parent).unwrap();
    fs::create_dir_all(outside.join("mount")).unwrap();
    symlink("../outside", &link).unwrap();
    (parent, link, outside)
}

fn bind_at(ground: &Ground, target: &Path) -> Output {
    let (root, base) = (ground.root(), ground.base.join("kubelet"));
    let line = ["bind", "--root", text(&root), "--path", "tenant", "--beneath", text(&base), "--target", text(target)];
    helper(&line)
}

fn remove_at(ground: &Ground, target: &Path) -> Output {
    let base = ground.base.join("kubelet");
    helper(&["unmount", "--beneath", text(&base), "--target", text(target), "--remove"])
}

#[test]
fn a_target_is_made_and_removed_in_one_go() {
    let ground = Ground::new();
    let (parent, _, _) = parents(&ground);
    let target = parent.join("mount");
    succeeds(&bind_at(&ground, &target));
    assert!(target.join("data/file").exists());
    succeeds(&remove_at(&ground, &target));
    assert!(!target.exists());
    succeeds(&remove_at(&ground, &target));
    fs::create_dir(&target).unwrap();
    fs::write(target.join("precious"), "x").unwrap();
    fails(&remove_at(&ground, &target), "ENOTEMPTY");
    assert_eq!(fs::read_to_string(target.join("precious")).unwrap(), "x");
}

#[test]
fn a_parent_that_is_a_link_is_refused_and_nothing_outside_is_touched() {
    let ground = Ground::new();
    let (_, link, outside) = parents(&ground);
    let before = mountinfo::read().unwrap();
    fails(&bind_at(&ground, &link.join("mount")), "ELOOP");
    fails(&bind_at(&ground, &link.join("new")), "ELOOP");
    fails(&remove_at(&ground, &link.join("mount")), "ELOOP");
    let base = ground.base.join("kubelet");
    let statvfs = ["statvfs", "--beneath", text(&base), "--target", text(&link.join("mount"))].map(str::to_owned);
    fails(&helper(&statvfs.each_ref().map(String::as_str)), "ELOOP");
    fails(&bind_at(&ground, &outside.join("mount")), "EXDEV");
    assert_eq!(mountinfo::read().unwrap(), before);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

/// Exchanges two names until it is dropped.
struct Exchange {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Exchange {
    fn start(one: PathBuf, other: PathBuf) -> Exchange {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
            }
        });
        Exchange { stop, thread: Some(thread) }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

#[test]
fn a_parent_that_is_exchanged_for_a_link_leads_nothing_outside() {
    const TRIES: usize = 150;
    let ground = Ground::new();
    let (parent, link, outside) = parents(&ground);
    let target = parent.join("mount");
    let exchange = Exchange::start(parent.clone(), link);
    let (mut bound, mut refused) = (0, 0);
    for _ in 0..TRIES {
        let is_bound = bind_at(&ground, &target).status.success();
        *(if is_bound { &mut bound } else { &mut refused }) += 1;
        let mounts = mountinfo::read().unwrap();
        let strays: Vec<_> = mounts.iter().filter(|mount| mount.mount_point.starts_with(&outside)).collect();
        assert!(strays.is_empty(), "{strays:?}");
        remove_at(&ground, &target);
        assert!(outside.join("mount").is_dir());
    }
    drop(exchange);
    println!("{bound} bound, {refused} refused");
    assert!(bound > 0 && refused > 0, "{bound} bound, {refused} refused: there was no race");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn statvfs_prints_the_sizes() {
    let ground = Ground::new();
    mount("none", ground.target(), "tmpfs", MountFlags::empty(), Some(c"size=8m,nr_inodes=100")).unwrap();
    fs::write(ground.target().join("data"), vec![1; 1 << 20]).unwrap();
    let output = helper(&["statvfs", "--target", text(&ground.target())]);
    succeeds(&output);
    let sizes: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(sizes["bytes_total"], 8 << 20);
    assert_eq!(sizes["bytes_free"], 7 << 20);
    assert_eq!(sizes["bytes_available"], 7 << 20);
    assert_eq!(sizes["files_total"], 100);
    assert_eq!(sizes["files_free"], 98);
    fails(&helper(&["statvfs", "--target", "/none"]), "ENOENT");
}

#[test]
fn a_wrong_command_line_is_status_2() {
    let output = helper(&["unmount"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--target is missing"));
}
