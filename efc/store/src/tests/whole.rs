//! Files that are given whole, and those that are not.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use efc_tasks::block_on;

use crate::disk::Disk;
use crate::testing::{MIB, bytes_of, changed_key, close, hits, key, open, read_each, until};
use crate::{Store, files};

const SIZE: u64 = 3 * MIB + 70_000;

fn keys(name: &str) -> Vec<efc_cache::blocks::BlockKey> {
    (0..4).map(|index| key(name, SIZE, index)).collect()
}

fn whole<D: Disk>(store: &Store<D>, name: &str) -> Option<File> {
    block_on(store.whole_file(&key(name, SIZE, 0))).map(File::from)
}

fn content(name: &str) -> Vec<u8> {
    keys(name).iter().flat_map(bytes_of).collect()
}

/// Asks until it is compared.
fn wait_for_whole<D: Disk>(store: &Store<D>, name: &str) -> File {
    until("it is whole", || whole(store, name).is_some());
    whole(store, name).unwrap()
}

#[test]
fn a_file_is_given_when_all_is_there_and_was_compared_and_stays_as_it_is_when_it_has_gone() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), 100 * MIB);
    let keys = keys("file");
    read_each(&store, &keys[..3]);
    assert!(whole(&store, "file").is_none() && whole(&store, "other").is_none());
    read_each(&store, &keys[3..]);
    let mut file = wait_for_whole(&store, "file");
    let elsewhere = efc_cache::blocks::BlockKey { storage: 1, ..keys[0] };
    assert!(block_on(store.whole_file(&elsewhere)).is_none(), "the same handle at another storage");
    let other = changed_key("file", SIZE, 0, 1);
    assert!(block_on(store.whole_file(&other)).is_none(), "another version");
    assert!(file.write_at(b"x", 0).is_err(), "for reading alone");
    read_each(&store, &[other]); // in its place
    assert!(whole(&store, "file").is_none());
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert!(read == content("file"), "other bytes");
    close(store);
}

#[test]
fn small_files_lie_among_others_and_are_never_given() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), 100 * MIB);
    let small = key("small", 64 << 10, 0);
    read_each(&store, &[small]);
    assert!(hits(&*store, &small));
    assert!(block_on(store.whole_file(&small)).is_none());
    close(store);
}

#[test]
fn the_next_process_compares_anew_and_gives_nothing_that_was_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), 100 * MIB);
    for name in ["sound", "spoilt"] {
        read_each(&store, &keys(name));
        wait_for_whole(&store, name);
    }
    let folder = store.engine.folder.get().unwrap().clone();
    let spoilt = folder.hasher.name(&crate::index::file(&key("spoilt", SIZE, 0)));
    let path = files::data_path(&spoilt);
    close(store);
    drop(folder);
    let found = find(directory.path(), path.rsplit('/').next().unwrap());
    File::options().write(true).open(found).unwrap().write_at(b"spoilt", 2 * MIB).unwrap();
    let store = open(directory.path(), 100 * MIB);
    assert!(whole(&store, "sound").is_none(), "not before it is compared");
    wait_for_whole(&store, "sound");
    assert!(whole(&store, "spoilt").is_none());
    until("the damage is found", || store.figures().damaged == 1);
    assert!(whole(&store, "spoilt").is_none());
    read_each(&store, &keys("spoilt"));
    let mut read = Vec::new();
    wait_for_whole(&store, "spoilt").read_to_end(&mut read).unwrap();
    assert!(read == content("spoilt"), "mended");
    close(store);
}

fn find(folder: &std::path::Path, name: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.file_name() {
                _ if entry.is_dir() => folders.push(entry),
                Some(found) if found == name => return entry,
                _ => {}
            }
        }
    }
    panic!("{name} is not there")
}
