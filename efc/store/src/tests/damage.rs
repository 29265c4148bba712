//! Damaged files, and a directory that is not of one moment: what is there is what was put there, or it is not there.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use efc_cache::blocks::BlockKey;

use crate::Store;
use crate::testing::{
    Dice, MIB, block_of, bytes_of, changed_key, close, hits, hits_part, key, missed, open, read, read_each, snapshot,
    until,
};

const PAGE: usize = 4096;

fn keys() -> Vec<BlockKey> {
    let small = (0..60).map(|file| key(&format!("small {file}"), 900 + file * 700, 0));
    let large = (0..8).flat_map(|file| (0..3).map(move |index| key(&format!("large {file}"), 2 * MIB + 9000, index)));
    small.chain(large).collect()
}

fn filled(path: &Path) -> Vec<BlockKey> {
    let store = open(path, 1 << 30);
    let keys = keys();
    keys.iter().for_each(|key| assert!(!read(&*store, key)));
    close(store);
    keys
}

/// Makes the directory hold just these files.
fn restore(path: &Path, files: &HashMap<PathBuf, Vec<u8>>) {
    snapshot(path).keys().for_each(|file| std::fs::remove_file(file).expect("removed"));
    files.iter().for_each(|(file, bytes)| std::fs::write(file, bytes).expect("written"));
}

#[test]
fn a_flipped_byte_is_a_miss_that_is_counted_and_never_a_wrong_byte() {
    let directory = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let keys = filled(directory.path());
    close(open(directory.path(), 1 << 30)); // its segments are sealed now: there are indexes to damage
    let files = snapshot(directory.path());
    let mut names: Vec<_> = files.keys().filter(|file| !file.ends_with("lock")).cloned().collect();
    names.sort();
    let mut dice = Dice(3);
    let (mut damaged, mut missed) = (0, 0);
    for round in 0..120 {
        let name = &names[round % names.len()];
        let mut bytes = files[name].clone();
        let is_data = name.extension().is_some_and(|kind| kind == "data");
        let within = if is_data || round % 3 > 0 { bytes.len() } else { bytes.len().min(128) };
        let place = if round % 3 == 2 && !is_data {
            bytes.len() - 1 - dice.draw(64) as usize % within
        } else {
            dice.draw(within as u64) as usize
        };
        bytes[place] ^= 1 << dice.draw(8);
        std::fs::write(name, &bytes).expect("written");
        let store = open(directory.path(), 1 << 30);
        let misses = keys.iter().filter(|key| !hits(&*store, key)).count();
        damaged += store.figures().damaged;
        missed += misses;
        if is_data {
            assert_eq!((store.figures().damaged, misses), (1, 1), "{name:?} at {place}");
        }
        // What was lost can be put there again.
        if store.figures().condition().is_none() {
            read_each(&*store, &keys);
            assert!(keys.iter().all(|key| hits(&*store, key)), "{name:?} at {place}");
        }
        close(store);
        restore(directory.path(), &files);
    }
    assert!(damaged > 20 && missed > 60, "{damaged} damaged, {missed} missed");
}

#[test]
fn a_damaged_record_of_a_sealed_segment_costs_no_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let keys = filled(directory.path());
    close(open(directory.path(), 1 << 30)); // seals it
    let segment = directory.path().join("segments/0000000000000000");
    let mut bytes = std::fs::read(&segment).expect("the first");
    bytes[128 + 30] ^= 1;
    std::fs::write(&segment, bytes).expect("written");
    let store = open(directory.path(), 1 << 30);
    assert_eq!(keys.iter().filter(|key| !hits(&*store, key)).count(), 1);
    assert_eq!(store.figures().damaged, 1);
}

#[test]
fn what_was_found_damaged_once_is_forgotten_on_the_disk_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let keys = filled(directory.path());
    let files = snapshot(directory.path());
    let data = files.keys().find(|file| file.extension().is_some_and(|kind| kind == "data")).expect("one");
    let mut bytes = files[data].clone();
    bytes[5] ^= 1;
    std::fs::write(data, bytes).expect("written");
    for (damaged, misses) in [(1, 1), (0, 1)] {
        let store = open(directory.path(), 1 << 30);
        assert_eq!(keys.iter().filter(|key| !hits(&*store, key)).count(), misses);
        assert_eq!(store.figures().damaged, damaged);
        read(&*store, &key("another", 70_000, 0)); // what is to be forgotten comes before it
        close(store);
    }
}

#[test]
fn a_directory_of_two_moments_gives_misses_at_worst() {
    for seed in 0..6 {
        let directory = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let (path, mut dice) = (directory.path(), Dice(seed));
        let mut moments = Vec::new();
        let size_max = 10 * MIB; // so that files go and come again under the same names
        for _ in 0..4 {
            let store = open(path, size_max);
            for _ in 0..60 {
                let key = keys()[dice.draw(84) as usize];
                let key =
                    BlockKey { version: changed_key("", key.version.size, 0, dice.draw(2) as u32).version, ..key };
                read(&*store, &key);
                if dice.draw(20) == 0 {
                    moments.push(snapshot(path)); // amid it all
                }
            }
            close(store);
            moments.push(snapshot(path));
        }
        for _ in 0..5 {
            let (first, second) = (dice.draw(moments.len() as u64) as usize, dice.draw(moments.len() as u64) as usize);
            restore(path, &mixed(&moments[first.min(second)], &moments[first.max(second)], &mut dice));
            let store = open(path, size_max);
            for key in keys() {
                for changes in 0..2 {
                    let version = changed_key("", key.version.size, 0, changes).version;
                    let key = BlockKey { version, ..key };
                    let begin = dice.draw(key.length() as u64) as usize;
                    hits_part(&*store, &key, begin..key.length()); // hits are compared
                    read(&*store, &key);
                    compare_whole(&store, &key);
                }
            }
            assert!(store.figures().held_bytes <= size_max && store.figures().condition().is_none());
            close(store);
        }
    }
}

/// The file of this block, if it is given whole, is what was put there.
fn compare_whole(store: &Store, key: &BlockKey) {
    let Some(file) = efc_tasks::block_on(store.whole_file(key)) else { return };
    let mut block = vec![0; key.length()];
    std::fs::File::from(file).read_exact_at(&mut block, key.offset()).expect("all of it");
    assert!(block == bytes_of(key), "wrong bytes in the file of {key:?}");
}

/// Files as they may be after a power cut: any page old or new, any file there or not, as long as one of both or
/// shorter, cut anywhere.
fn mixed(
    old: &HashMap<PathBuf, Vec<u8>>,
    new: &HashMap<PathBuf, Vec<u8>>,
    dice: &mut Dice,
) -> HashMap<PathBuf, Vec<u8>> {
    let mut files = HashMap::new();
    for name in old.keys().chain(new.keys()) {
        let nothing = Vec::new();
        let is_in_both = old.contains_key(name) && new.contains_key(name);
        if !is_in_both && dice.draw(2) == 0 && !name.ends_with("layout") {
            continue;
        }
        let (before, mut bytes) = (old.get(name).unwrap_or(&nothing), new.get(name).unwrap_or(&nothing).clone());
        if bytes.is_empty() || dice.draw(4) == 0 {
            bytes.resize(before.len(), 0);
        }
        for (place, page) in bytes.chunks_mut(PAGE).enumerate() {
            match dice.draw(3) {
                0 => {
                    let old = before.get(place * PAGE..).unwrap_or_default();
                    let length = old.len().min(page.len());
                    page[..length].copy_from_slice(&old[..length]);
                }
                1 if dice.draw(10) == 0 => page.fill(0), // never written
                _ => {}
            }
        }
        if dice.draw(8) == 0 {
            bytes.truncate(dice.draw(bytes.len() as u64 + 1) as usize);
        }
        files.insert(name.clone(), bytes);
    }
    files
}

#[test]
fn what_is_not_of_the_store_and_what_is_left_of_files_does_no_harm() {
    let directory = tempfile::tempdir().expect("a directory");
    let keys = filled(directory.path());
    let files = snapshot(directory.path());
    let mut maps: Vec<_> = files.keys().filter(|file| file.extension().is_some_and(|kind| kind == "map")).collect();
    maps.sort();
    std::fs::remove_file(maps[0]).expect("removed");
    std::fs::remove_file(maps[1].with_extension("data")).expect("removed");
    std::fs::write(maps[2], "").expect("written");
    std::fs::write(maps[3].with_extension("data"), "short").expect("written");
    let beneath = maps[0].parent().expect("a folder");
    for (name, bytes) in [("x", ""), ("0123.map", "y"), ("é.data", "z"), ("0123456789abcdeé0123456789abcde.map", "")]
    {
        std::fs::write(beneath.join(name), bytes).expect("written");
    }
    std::fs::write(directory.path().join("segments/zz"), "").expect("written");
    std::fs::create_dir(directory.path().join("segments/00000000000000ff")).expect("made");
    let store = open(directory.path(), 1 << 30);
    let there = keys.iter().filter(|key| hits(&*store, key)).count();
    assert_eq!(there, keys.len() - 4 * 3, "of four files all blocks are gone");
    for gone in [&maps[0].with_extension("data"), maps[1], maps[2]] {
        assert!(!gone.exists(), "{gone:?}");
    }
    read_each(&*store, &keys);
    assert!(keys.iter().all(|key| hits(&*store, key)));
}

/// All fall due before the first is put there again: their files have been closed for writing by then.
#[test]
fn many_files_that_were_damaged_are_whole_again_once_they_were_read_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), 1 << 30);
    let keys: Vec<_> = (0..100).map(|file| key(&format!("file {file}"), 70_000, 0)).collect();
    read_each(&*store, &keys);
    close(store);
    for (name, mut bytes) in snapshot(directory.path()) {
        if name.extension().is_some_and(|kind| kind == "data") {
            bytes[0] ^= 1;
            std::fs::write(name, bytes).expect("written");
        }
    }
    let store = open(directory.path(), 1 << 30);
    let fills: Vec<_> = keys.iter().map(|key| (key, missed(&*store, key))).collect();
    for (count, (key, fill)) in fills.into_iter().enumerate() {
        fill.fill(&std::sync::Arc::new(block_of(&bytes_of(key))));
        until("it is written", || store.figures().fills > count as u64);
    }
    assert_eq!(keys.iter().filter(|key| !hits(&*store, key)).count(), 0);
    assert_eq!(store.figures().damaged, 100);
}

/// What becomes of the disk while the store serves, which has compared all of it before.
#[test]
fn a_byte_that_flips_later_is_no_wrong_byte_either() {
    let directory = tempfile::tempdir().expect("a directory");
    let keys = filled(directory.path());
    let store = open(directory.path(), 1 << 30);
    assert!(keys.iter().all(|key| hits(&*store, key)));
    for (name, mut bytes) in snapshot(directory.path()) {
        if name.extension().is_some_and(|kind| kind == "data") {
            bytes.iter_mut().step_by(PAGE).for_each(|byte| *byte ^= 1);
            std::fs::write(name, bytes).expect("written");
        }
    }
    let large: Vec<_> = keys.iter().filter(|key| key.version.size > MIB).collect();
    assert!(large.iter().all(|key| !hits(&*store, key)), "none is what was put there");
    assert_eq!(store.figures().damaged, large.len() as u64);
}
