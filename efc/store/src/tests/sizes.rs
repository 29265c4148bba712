//! What is kept and what goes.

use std::time::Duration;

use crate::policy::queues::{Queue, Unit};
use crate::testing::{MIB, close, hits, key, loaded, open, read, read_each, settings, until};
use crate::{Settings, State, Store};

fn passes(size: u64, count: u64, size_max: u64) -> Vec<u64> {
    let directory = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let store = open(directory.path(), size_max);
    let pass = |_| {
        let all = (0..count).flat_map(|file| (0..size.div_ceil(MIB)).map(move |index| (file, index)));
        let (mut hits, mut reads) = (0, 0);
        for (file, index) in all {
            hits += u64::from(read(&*store, &key(&format!("file {file}"), size, index)));
            reads += 1;
            assert!(store.figures().held_bytes <= size_max);
        }
        std::thread::sleep(Duration::from_millis(2100)); // what follows is another read
        hits * 100 / reads
    };
    (0..4).map(pass).collect()
}

#[test]
fn a_scan_over_three_times_the_size_finds_what_fits_from_the_second_pass_on() {
    for (size, count) in [(4000, 4000), (300_000, 120), (2 * MIB, 18), (40 * MIB, 1)] {
        let hits = passes(size, count, size * count / 3);
        assert!(hits[1..].iter().all(|hits| *hits >= 25), "{hits:?} % of {count} files of {size}");
    }
}

#[test]
fn a_smaller_size_is_in_force_soon_and_a_larger_one_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), 40 * MIB);
    let keys: Vec<_> = (0..30).map(|file| key(&format!("file {file}"), MIB, 0)).collect();
    keys.iter().for_each(|key| assert!(!read(&*store, key)));
    store.set_size_max(10 * MIB);
    until("it shrinks", || store.figures().held_bytes <= 10 * MIB);
    let left = keys.iter().filter(|key| hits(&*store, key)).count();
    assert!((8..=10).contains(&left), "{left} files");
    assert_eq!((store.figures().files, store.figures().size_max), (left as u64, 10 * MIB));
    store.set_size_max(40 * MIB);
    read_each(&*store, &keys);
    assert_eq!(keys.iter().filter(|key| hits(&*store, key)).count(), keys.len());
    store.set_size_max(0);
    until("all goes", || store.figures().held_bytes == 0);
    assert!(!read(&*store, &keys[0]) && !hits(&*store, &keys[0]));
    assert_eq!(store.figures().state, State::Serving);
}

#[test]
fn the_index_is_bounded_when_it_is_filled_and_when_it_is_loaded() {
    let directory = tempfile::tempdir().expect("a directory");
    let small = |bytes| Settings { index_bytes_max: bytes, ..settings(directory.path(), 1 << 30) };
    let store = loaded(small(64 << 10), crate::disk::Device);
    read_each(&*store, &(0..500).map(|file| key(&format!("large {file}"), 70_000, 0)).collect::<Vec<_>>());
    let files = store.figures().files;
    assert!((80..200).contains(&files), "{files} files");
    close(store);
    let store = loaded(small(16 << 10), crate::disk::Device);
    until("it fits", || (15..60).contains(&store.figures().files));
    let last = key("large 499", 70_000, 0);
    assert!(!read(&*store, &key("one more", 70_000, 0)) && (hits(&*store, &last) || store.figures().files < 60));
}

#[test]
fn a_part_of_the_file_system_stays_free_whatever_the_size() {
    let directory = tempfile::tempdir().expect("a directory");
    let all = Settings { free_min_percent: 100, ..settings(directory.path(), 1 << 40) };
    let store = loaded(all, crate::disk::Device);
    let key = key("file", 100_000, 0);
    assert!(!read(&*store, &key) && !hits(&*store, &key));
    assert_eq!((store.figures().state, store.figures().fills), (State::Full, 0));
}

#[test]
fn small_files_that_are_read_again_outlive_their_segment() {
    // Few of a segment are copied, of many the segment is kept.
    for part in [6, 1] {
        let directory = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let store = open(directory.path(), 8 * MIB);
        let small = |name: &'static str, count: u64| {
            (0..count).map(move |file| key(&format!("{name} {file}"), 16_000, 0)).collect::<Vec<_>>()
        };
        read_each(&*store, &small("there was room", 450));
        read_each(&*store, &small("passes", 1500));
        let new = small("new", 32);
        read_each(&*store, &new);
        std::thread::sleep(Duration::from_millis(2100));
        let again: Vec<_> = new.iter().step_by(part).filter(|key| hits(&*store, key)).collect();
        assert!(again.len() * part >= 16, "{} are still there", again.len());
        read_each(&*store, &small("passes, too", 300));
        let there = again.iter().filter(|key| hits(&*store, key)).count();
        assert!(there * 10 >= again.len() * 8, "{there} of {} of one in {part}", again.len());
        let others = new.iter().skip(1).step_by(6).filter(|key| part == 6 && hits(&*store, key)).count();
        assert_eq!(others, 0, "what was not read again goes");
    }
}

#[test]
fn where_a_file_stands_is_known_after_reopening() {
    let directory = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let store = open(directory.path(), 10 * MIB);
    let large =
        |name, count: u64| (0..count).map(|file| key(&format!("{name} {file}"), 300_000, 0)).collect::<Vec<_>>();
    read_each(&*store, &large("there was room", 40));
    read_each(&*store, &large("passes", 120));
    let new = large("new", 2);
    read_each(&*store, &new);
    std::thread::sleep(Duration::from_millis(2100));
    assert!(hits(&*store, &new[0]));
    let queues = |store: &Store| {
        let index = store.engine.index.lock().expect("no panic");
        new.iter()
            .map(|key| {
                index.queues.queue(Unit::File(
                    store.engine.folder.get().expect("it serves").hasher.file(&crate::index::file(key)),
                ))
            })
            .collect::<Vec<_>>()
    };
    let expected = [Some(Queue::Again), Some(Queue::Once)];
    assert_eq!(queues(&store), expected);
    read(&*store, &key("another", 70_000, 0)); // what is to be noted comes before it
    close(store);
    assert_eq!(queues(&open(directory.path(), 10 * MIB)), expected);
}
