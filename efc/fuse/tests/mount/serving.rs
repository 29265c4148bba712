//! A mount served by this process: files through std::fs, features, interrupts, notices, redelivery.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use efc_fuse::{Errno, Features, SessionConfig};

use crate::mounts::{LONG, Served};
use crate::ramfs::{DATA, DATA_SIZE, Lever, eventually, pattern};

pub fn files_and_directories() {
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

pub fn requests_of_a_mebibyte() {
    let served = Served::new(LONG, SessionConfig::default());
    let file = File::create(served.join("large")).unwrap();
    file.write_all_at(&vec![5; 4 << 20], 0).unwrap();
    assert_eq!(served.filesystem.largest_write.load(Ordering::Relaxed), 1 << 20);
    assert!(fs::read(served.join("large")).unwrap().iter().all(|&byte| byte == 5));
    assert!(served.session.requests() >= 5);
    let negotiated = served.session.negotiated().unwrap();
    assert!(negotiated.has_resend(), "this test suite wants Linux 6.9 or later");
}

pub fn statx_and_masked_features() {
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

/// Asks for the attributes of a file so many times.
fn ask(served: &Served, times: usize) {
    for _ in 0..times {
        fs::metadata(served.join(DATA)).unwrap();
    }
}

pub fn a_lone_caller_is_served_by_one_thread() {
    let readers = |served: &Served| std::mem::take(&mut *served.filesystem.readers.lock().unwrap()).len();
    let config = || SessionConfig { threads: 4, ..SessionConfig::default() };
    eventually("one thread serves a lone caller, if there is a processor for it", || {
        let served = Served::new(Duration::ZERO, config());
        ask(&served, 100);
        readers(&served);
        ask(&served, 30);
        readers(&served) == 1
    });
    let served = Served::new(Duration::ZERO, config());
    ask(&served, 200);
    eventually("several callers have several threads", || {
        std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(|| ask(&served, 50)))));
        readers(&served) > 1
    });
}

pub fn what_may_take_long_holds_up_nobody() {
    let served = Served::new(Duration::ZERO, SessionConfig::default());
    fs::write(served.join("large"), vec![5; 1 << 20]).unwrap();
    ask(&served, 200);
    served.filesystem.pull(Some(Lever::Occupy("read")));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read(served.join("large")).unwrap().len());
        served.filesystem.wait_occupied();
        ask(&served, 200);
        served.filesystem.let_go(None);
        assert_eq!(reader.join().unwrap(), 1 << 20);
    });
}

pub fn a_lost_reply_is_an_error() {
    let served = Served::new(LONG, SessionConfig::default());
    let file = File::open(served.join(DATA)).unwrap();
    served.filesystem.pull(Some(Lever::Lose("fsync")));
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    served.filesystem.pull(None);
    file.sync_all().unwrap();
}

pub fn an_interrupt_names_its_request() {
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

pub fn invalidation_shows_what_changed_behind() {
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

pub fn read_only_refuses() {
    let served = Served::new(LONG, SessionConfig { read_only: true, ..SessionConfig::default() });
    assert_eq!(fs::read(served.join(DATA)).unwrap(), pattern());
    assert_eq!(fs::create_dir(served.join("directory")).unwrap_err().raw_os_error(), Some(libc::EROFS));
    let file = File::options().write(true).open(served.join(DATA)).unwrap();
    assert_eq!(file.write_at(b"x", 0).unwrap_err().raw_os_error(), Some(libc::EROFS));
}

pub fn a_redelivered_request_is_executed_once() {
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
