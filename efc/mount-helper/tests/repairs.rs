//! `survey` and `repair` against FUSE mounts that nobody serves, in mount namespaces of other processes. Needs root.
//!
//! The new mount is a tmpfs here, which to both operations is as good as any.

use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use efc_mount_helper::mountinfo::{self, Mount};
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::{Value, json};

/// In a private mount namespace: `new`, which is served, and `old`, which is not from `die` on.
struct Ground {
    base: PathBuf,
    session: Option<OwnedFd>,
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
        for name in ["old", "new", "elsewhere"] {
            fs::create_dir(base.join(name)).unwrap();
        }
        mount("none", base.join("new"), "tmpfs", MountFlags::NOSUID, None).unwrap();
        fs::write(base.join("new/file"), "content").unwrap();
        let session = open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", session.as_raw_fd());
        let options = CString::new(options).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("nas:/x", base.join("old"), "fuse.efc", flags, Some(options.as_c_str())).unwrap();
        Ground { base, session: Some(session), _directory: directory }
    }

    fn old(&self) -> PathBuf {
        self.base.join("old")
    }

    fn die(&mut self) {
        self.session = None;
    }

    fn device(&self) -> String {
        let mounts = mountinfo::read().unwrap();
        let (major, minor) = mountinfo::at(&mounts, &self.old()).next().unwrap().device;
        format!("{major}:{minor}")
    }

    fn survey(&self, device: &str) -> Value {
        result(helper(&["survey", "--device", device]))
    }

    /// In the mount namespace of a process.
    fn repair(&self, process: u32, device: &str) -> Value {
        self.repair_of(process, &namespace_of(process).to_string(), device)
    }

    fn repair_of(&self, process: u32, namespace: &str, device: &str) -> Value {
        let (root, process) = (self.base.join("new"), process.to_string());
        let root = root.to_str().unwrap();
        let arguments = ["repair", "--process", &process, "--namespace", namespace, "--device", device, "--root", root];
        result(helper(&arguments))
    }
}

fn namespace_of(process: u32) -> u64 {
    fs::metadata(format!("/proc/{process}/ns/mnt")).unwrap().ino()
}

/// The mount points that a survey has found in a process's mount namespace.
fn found(survey: &Value, process: u32) -> Vec<Value> {
    let namespaces = survey["namespaces"].as_array().unwrap().iter();
    let own = namespaces.filter(|found| found["namespace"] == json!(namespace_of(process)));
    own.flat_map(|found| found["mounts"].as_array().unwrap()).map(|mount| mount["mount_point"].clone()).collect()
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Else the directory could not be removed. Where this fails the test has failed before.
        let _ = unmount(&self.base, UnmountFlags::DETACH);
    }
}

/// A process that sleeps in a mount namespace of its own.
struct Sleeper(Child);

impl Sleeper {
    fn start(unshare: &[&str]) -> Sleeper {
        let script = "echo ready; exec sleep 60";
        let mut child = Command::new("unshare")
            .args(unshare)
            .args(["--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        Sleeper(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn mounts_at(&self, path: &Path) -> Vec<Mount> {
        let mounts = mountinfo::parse(&fs::read(format!("/proc/{}/mountinfo", self.0.id())).unwrap()).unwrap();
        mountinfo::at(&mounts, path).cloned().collect()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn helper(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_efc-mount-helper")).args(arguments).output().unwrap()
}

#[track_caller]
fn result(output: Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

const PRIVATE: [&str; 3] = ["--mount", "--propagation", "private"];

#[test]
fn a_dead_mount_is_replaced_where_it_is_seen() {
    let mut ground = Ground::new();
    mount_remount(ground.old(), MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NOATIME, "")
        .unwrap();
    let sleepers = [Sleeper::start(&PRIVATE), Sleeper::start(&PRIVATE)];
    let device = ground.device();
    ground.die();
    let survey = ground.survey(&device);
    assert_eq!((survey["holders"].clone(), survey["is_complete"].clone()), (json!([]), json!(true)));
    for sleeper in &sleepers {
        assert_eq!(found(&survey, sleeper.pid()), [json!(ground.old())]);
        assert_eq!(ground.repair(sleeper.pid(), &device), json!({ "replaced": [ground.old()], "failed": [] }));
        let mounts = sleeper.mounts_at(&ground.old());
        assert_eq!(mounts.len(), 1, "{mounts:?}");
        assert_eq!((mounts[0].filesystem.as_str(), mounts[0].options.as_str()), ("tmpfs", "ro,noexec,noatime"));
        // Once more, there is nothing to do.
        assert_eq!(found(&ground.survey(&device), sleeper.pid()), [] as [Value; 0]);
        assert_eq!(ground.repair(sleeper.pid(), &device), json!({ "replaced": [], "failed": [] }));
    }
}

#[test]
fn a_locked_mount_is_covered() {
    let mut ground = Ground::new();
    let sleeper = Sleeper::start(&["--user", "--map-root-user", "--mount", "--propagation", "private"]);
    let device = ground.device();
    ground.die();
    assert_eq!(ground.repair(sleeper.pid(), &device), json!({ "replaced": [ground.old()], "failed": [] }));
    let mounts = sleeper.mounts_at(&ground.old());
    assert_eq!(mounts.last().unwrap().filesystem, "tmpfs", "{mounts:?}");
    assert_eq!(found(&ground.survey(&device), sleeper.pid()), [] as [Value; 0], "what is covered is nobody's loss");
}

#[test]
fn peers_are_repaired_together() {
    let mut ground = Ground::new();
    mount_change(&ground.base, MountPropagationFlags::SHARED | MountPropagationFlags::REC).unwrap();
    let sleepers = ["shared", "slave", "unchanged"].map(|how| Sleeper::start(&["--mount", "--propagation", how]));
    let device = ground.device();
    ground.die();
    for sleeper in &sleepers {
        assert_eq!(ground.repair(sleeper.pid(), &device)["failed"], json!([]));
    }
    let own = mountinfo::read().unwrap();
    let own: Vec<Mount> = mountinfo::at(&own, &ground.old()).cloned().collect();
    for mounts in sleepers.iter().map(|sleeper| sleeper.mounts_at(&ground.old())).chain([own]) {
        assert_eq!(mounts.len(), 1, "{mounts:?}");
        assert_eq!(mounts[0].filesystem, "tmpfs");
    }
}

#[test]
fn what_another_mount_hides_is_left() {
    let mut ground = Ground::new();
    let sleeper = Sleeper::start(&PRIVATE);
    let device = ground.device();
    ground.die();
    let process = sleeper.pid().to_string();
    // A directory of the same name is there, and is not meant.
    let script = format!("mount -t tmpfs none {} && mkdir {}", ground.base.display(), ground.old().display());
    let hide = ["--target", &process, "--mount", "sh", "-c", &script];
    assert!(Command::new("nsenter").args(hide).status().unwrap().success());
    let report = ground.repair(sleeper.pid(), &device);
    assert_eq!(report["replaced"], json!([]));
    let failed = report["failed"][0].clone();
    assert_eq!(failed["mount_point"], json!(ground.old()));
    assert_eq!(failed["errno"], json!("EBUSY"), "{failed}");
    let mounts = sleeper.mounts_at(&ground.old());
    assert_eq!(mounts.len(), 1, "{mounts:?}");
    assert_eq!(mounts[0].filesystem, "fuse.efc");
}

#[test]
fn a_mount_in_the_dead_one_keeps_it() {
    let mut ground = Ground::new();
    let (old, device) = (ground.old(), ground.device());
    mount("none", &old, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::create_dir(old.join("inner")).unwrap();
    mount("none", old.join("inner"), "tmpfs", MountFlags::empty(), None).unwrap();
    let sleeper = Sleeper::start(&PRIVATE);
    ground.die();
    // As long as something lies on it, nobody sees it, and nothing may be lost for it.
    assert_eq!(ground.repair(sleeper.pid(), &device), json!({ "replaced": [], "failed": [] }));
    assert_eq!(sleeper.mounts_at(&old).len(), 2);
    assert_eq!(sleeper.mounts_at(&old.join("inner")).len(), 1);
}

#[test]
fn another_process_of_that_number_is_let_alone() {
    let mut ground = Ground::new();
    let sleeper = Sleeper::start(&PRIVATE);
    let device = ground.device();
    ground.die();
    assert_eq!(ground.repair_of(sleeper.pid(), "1", &device), json!({ "replaced": [], "failed": [] }));
    assert_eq!(sleeper.mounts_at(&ground.old())[0].filesystem, "fuse.efc");
}
