//! Disks that are slow, full, read-only or broken.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use efc_cache::blocks::{BlockKey, Level, Lookup, Miss};
use efc_tasks::block_on;
use efc_tasks::time::in_time;
use rustix::io::Errno;

use crate::testing::{
    Faults, MIB, ask, block_of, close, hits, hits_part, key, loaded, missed, open, read, read_each, settings, until,
};
use crate::{State, Store};

fn faulty(path: &std::path::Path) -> (Arc<Faults>, Arc<Store<Arc<Faults>>>) {
    let faults = Arc::new(Faults::default());
    let store = loaded(settings(path, 100 * MIB), faults.clone());
    (faults, store)
}

fn fill(store: &Store<Arc<Faults>>, name: &str) -> [BlockKey; 2] {
    let keys = [key(&format!("large {name}"), MIB, 0), key(&format!("small {name}"), 1000, 0)];
    keys.iter().for_each(|key| assert!(!read(store, key)));
    keys
}

#[test]
fn a_slow_disk_is_not_waited_for_and_asked_again_when_it_is_in_time() {
    let directory = tempfile::tempdir_in("/tmp").expect("a directory");
    let (faults, store) = faulty(directory.path());
    let keys = fill(&store, "file");
    store.backend_took(1 << 20, Duration::from_millis(10));
    store.backend_took(1000, Duration::from_millis(10));
    faults.read_ms.store(1, Ordering::Relaxed);
    until("they come in time", || keys.iter().all(|key| hits(&*store, key)));
    let late = store.figures().late;
    faults.read_ms.store(1500, Ordering::Relaxed);
    let begun = Instant::now();
    for key in [keys[0], keys[1], keys[0], keys[1]] {
        assert!(store.serves());
        let Lookup::Miss(Miss { fill: None, .. }) = ask(&store, &key) else { panic!("it comes too late") };
    }
    assert!(begun.elapsed() < Duration::from_millis(1500), "none was waited for");
    assert_eq!((store.serves(), store.figures().state, store.figures().late), (false, State::Slow, late + 4));
    assert!(store.figures().condition().is_some());
    faults.read_ms.store(0, Ordering::Relaxed);
    until("it is in time again", || store.serves() && keys.iter().all(|key| hits(&*store, key)));
    assert_eq!((store.figures().damaged, store.figures().state), (0, State::Serving));
}

#[test]
fn reads_that_nobody_waits_for_any_more_give_their_memory_back() {
    let directory = tempfile::tempdir_in("/tmp").expect("a directory");
    let (faults, store) = faulty(directory.path());
    let keys = fill(&store, "file");
    faults.read_ms.store(800, Ordering::Relaxed);
    let rooms = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..20).map(|_| scope.spawn(|| ask(&store, &keys[0]))).collect();
        asked
            .into_iter()
            .filter(|_| true)
            .map(|one| one.join().expect("no panic"))
            .filter(|answer| matches!(answer, Lookup::Miss(Miss { room: Some(_), .. })))
            .count()
    });
    assert!(rooms >= 12, "of 20 all but those that are being read into, {rooms}");
}

#[test]
fn who_has_time_waits_until_what_is_on_the_way_to_a_disk_leaves_room() {
    let directory = tempfile::tempdir().expect("a directory");
    let (faults, store) = faulty(directory.path());
    let before = faults.writes.load(Ordering::Relaxed);
    faults.are_writes_held.store(true, Ordering::Relaxed);
    let block = Arc::new(block_of(&vec![7; MIB as usize]));
    let keys: Vec<BlockKey> = (0..100).map(|file| key(&format!("{file}"), MIB, 0)).collect();
    let mut files = keys.iter();
    while store.figures().refused_busy == 0 {
        missed(&*store, files.next().expect("there is an end of room")).fill(&block);
        until("the first is on its way", || faults.writes.load(Ordering::Relaxed) > before);
    }
    let mut place = missed(&*store, files.next().expect("one more"));
    block_on(place.turn()); // readers do not wait for a disk
    assert_eq!(block_on(in_time(place.unhurried_turn(), Some(Duration::from_millis(50)))), None);
    faults.are_writes_held.store(false, Ordering::Relaxed);
    block_on(place.unhurried_turn());
    place.fill(&block);
    let offered = keys.len() as u64 - files.len() as u64;
    until("all but the one are written", || store.figures().fills == offered - 1);
    assert_eq!(store.figures().refused, 1);
}

#[test]
fn what_a_disk_has_taken_and_lost_is_given_to_nobody_in_other_pieces() {
    const SIZE: u64 = 3 * MIB;
    for error in [Errno::NOSPC, Errno::DQUOT, Errno::IO] {
        let directory = tempfile::tempdir().expect("a directory");
        let (faults, store) = faulty(directory.path());
        store.backend_took(1 << 20, Duration::from_secs(10));
        let keys = |name: &'static str| (0..3).map(move |index| key(name, SIZE, index)).collect::<Vec<BlockKey>>();
        for name in ["part", "whole", "kept"] {
            read_each(&*store, &keys(name));
            assert!(keys(name).iter().all(|key| hits(&*store, key)), "memory has it still");
        }
        assert!(hits_part(&*store, &keys("kept")[1], 5..99));
        faults.loss.store(error.raw_os_error(), Ordering::Relaxed);
        assert!(!hits_part(&*store, &keys("part")[1], 5..99));
        until("the loss is noticed", || store.figures().damaged == 1);
        assert!(hits_part(&*store, &keys("kept")[1], 5..99), "it had come there");
        let whole = || block_on(store.whole_file(&keys("whole")[0]));
        assert!(whole().is_none());
        until("the loss is noticed", || store.figures().damaged == 2);
        until("the files are gone", || store.figures().files == 1);
        faults.loss.store(0, Ordering::Relaxed);
        read_each(&*store, &keys("whole"));
        until("it is there again", || whole().is_some());
        assert!(hits_part(&*store, &keys("whole")[1], 5..99));
    }
}

#[test]
fn a_file_system_that_cannot_tell_what_has_come_to_the_disk_loses_nothing_and_gives_no_pieces() {
    let directory = tempfile::tempdir().expect("a directory");
    let (faults, store) = faulty(directory.path());
    let [large, _] = fill(&store, "file");
    faults.loss.store(Errno::OPNOTSUPP.raw_os_error(), Ordering::Relaxed);
    assert!(!hits_part(&*store, &large, 5..99) && hits(&*store, &large));
    assert_eq!(store.figures().damaged, 0);
}

#[test]
fn a_full_disk_is_tried_again_later_and_what_is_there_is_read() {
    for error in [Errno::NOSPC, Errno::DQUOT] {
        let directory = tempfile::tempdir().expect("a directory");
        let (faults, store) = faulty(directory.path());
        for file in 0..20 {
            fill(&store, &format!("{file}"));
        }
        let held = store.figures().held_bytes;
        faults.write_error.store(error.raw_os_error(), Ordering::Relaxed);
        assert!(!read(&*store, &key("one more", MIB, 0)));
        until("the disk counts as full", || store.figures().state == State::Full);
        assert_eq!(store.figures().refused, 1);
        let left = store.figures().held_bytes;
        assert!(left < held && left > held / 2, "some room was made");
        let writes = faults.writes.load(Ordering::Relaxed);
        let Lookup::Miss(Miss { fill: None, .. }) = ask(&store, &key("another", MIB, 0)) else { panic!("not now") };
        assert_eq!(faults.writes.load(Ordering::Relaxed), writes);
        let there = (0..20).filter(|file| hits(&*store, &key(&format!("large {file}"), MIB, 0))).count();
        assert!(there >= 15, "{there} of 20");
        faults.write_error.store(0, Ordering::Relaxed);
        let another = key("another", MIB, 0);
        until("it is tried again", || read(&*store, &another));
        assert_eq!(store.figures().state, State::Serving);
    }
}

#[test]
fn a_disk_that_takes_no_writes_any_more_is_said_and_tried_again_later() {
    for error in [Errno::IO, Errno::MFILE, Errno::ACCESS] {
        let directory = tempfile::tempdir().expect("a directory");
        let (faults, store) = faulty(directory.path());
        let keys = fill(&store, "file");
        faults.write_error.store(error.raw_os_error(), Ordering::Relaxed);
        assert!(!read(&*store, &key("another", MIB, 0)));
        let State::Failed(_) = store.figures().state else { panic!("nothing can be put there") };
        assert!(store.figures().condition().is_some());
        let Lookup::Miss(Miss { fill: None, .. }) = ask(&store, &key("another", MIB, 0)) else { panic!("not now") };
        assert!(keys.iter().all(|key| hits(&*store, key)), "what is there is read");
        faults.write_error.store(0, Ordering::Relaxed);
        until("it is tried again", || read(&*store, &key("another", MIB, 0)));
        assert_eq!(store.figures().state, State::Serving);
    }
}

#[test]
fn a_directory_that_is_removed_under_it_is_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_, store) = faulty(directory.path());
    fill(&store, "file");
    std::fs::remove_dir_all(directory.path()).expect("removed");
    for key in [key("another", MIB, 0), key("large file", MIB, 0)] {
        read(&*store, &key); // is right, or not there
    }
    let State::Failed(_) = store.figures().state else { panic!("nothing can be put there") };
    std::fs::create_dir(directory.path()).expect("made"); // to be removed
}

#[test]
fn a_disk_that_becomes_read_only_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let (faults, store) = faulty(directory.path());
    let keys = fill(&store, "file");
    faults.write_error.store(Errno::ROFS.raw_os_error(), Ordering::Relaxed);
    assert!(!read(&*store, &key("another", MIB, 0)));
    assert_eq!(store.figures().state, State::ReadOnly);
    assert!(keys.iter().all(|key| hits(&*store, key)) && store.serves());
}

#[test]
fn a_file_that_cannot_be_read_goes() {
    let directory = tempfile::tempdir().expect("a directory");
    let (faults, store) = faulty(directory.path());
    let keys = fill(&store, "file");
    assert!(keys.iter().all(|key| hits(&*store, key)));
    faults.read_error.store(Errno::IO.raw_os_error(), Ordering::Relaxed);
    assert!(keys.iter().all(|key| !hits(&*store, key)));
    faults.read_error.store(0, Ordering::Relaxed);
    until("it goes", || store.figures().files == 0);
    assert_eq!(store.figures().damaged, 2);
    keys.iter().for_each(|key| assert!(!read(&*store, key)));
    until("they are there again", || keys.iter().all(|key| hits(&*store, key)));
}

#[test]
fn a_full_tmpfs_holds_what_fits_as_root() {
    let directory = tempfile::tempdir().expect("a directory");
    let mount = Mount::tmpfs(directory.path(), c"size=8m");
    let store = open(directory.path(), 1 << 30);
    let keys: Vec<_> = (0..40).map(|file| key(&format!("file {file}"), MIB, 0)).collect();
    read_each(&*store, &keys);
    let there = keys.iter().filter(|key| hits(&*store, key)).count();
    assert!((4..=8).contains(&there), "{there} files");
    assert_eq!(store.figures().damaged, 0);
    close(store);
    let store = open(directory.path(), 1 << 30);
    assert!(keys.iter().filter(|key| hits(&*store, key)).count() >= there);
    close(store);
    drop(mount);
}

#[test]
fn a_read_only_file_system_is_read_as_root() {
    let directory = tempfile::tempdir().expect("a directory");
    let mount = Mount::tmpfs(directory.path(), c"size=64m");
    let store = open(directory.path(), 1 << 30);
    let keys = [key("large", 3 * MIB, 1), key("small", 10, 0)];
    keys.iter().for_each(|key| assert!(!read(&*store, key)));
    close(store);
    mount.make_read_only();
    let store = open(directory.path(), 1 << 30);
    assert!(keys.iter().all(|key| hits(&*store, key)));
    assert!(!read(&*store, &key("another", 10, 0)));
    assert_eq!(store.figures().state, State::ReadOnly);
    close(store);
}

/// A file system that goes with this.
struct Mount<'a>(&'a std::path::Path);

impl<'a> Mount<'a> {
    fn tmpfs(path: &'a std::path::Path, options: &std::ffi::CStr) -> Mount<'a> {
        rustix::mount::mount("none", path, "tmpfs", rustix::mount::MountFlags::empty(), options).expect("as root");
        Mount(path)
    }

    fn make_read_only(&self) {
        let flags = rustix::mount::MountFlags::RDONLY;
        until("the files of the store that was closed are closed", || {
            match rustix::mount::mount_remount(self.0, flags, c"") {
                Err(Errno::BUSY) => false,
                remounted => remounted.map(|()| true).expect("as root"),
            }
        });
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
