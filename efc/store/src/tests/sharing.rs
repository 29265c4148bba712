//! Readers beside each other, and processes that follow each other in a directory, in peace or not.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use efc_buffer::Budget;
use efc_cache::blocks::{Absent, Chain, Fetched, Lookup, Miss};

use crate::testing::{
    Dice, MIB, ask, block_of, bytes_of, changed_key, close, hits, key, open, read, settings, snapshot, until,
};
use crate::{State, Store};

/// Set in a process that is to be killed: the directory.
const DIRECTORY: &str = "EFC_TEST_STORE";

#[test]
fn a_second_store_waits_for_the_first_and_goes_on_with_what_it_has_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = open(directory.path(), 1 << 30);
    let keys = [key("large", 3 * MIB, 1), key("small", 10, 0)];
    keys.iter().for_each(|key| assert!(!read(&*first, key)));
    let second = Store::open(settings(directory.path(), 1 << 30)).expect("threads");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(second.figures().state, State::Waiting);
    assert!(second.figures().condition().is_some());
    assert!(!efc_cache::blocks::Level::serves(&*second) && !read(&*second, &keys[0]));
    assert!(keys.iter().all(|key| hits(&*first, key)), "the first notices nothing");
    drop(first);
    until("it is the second's turn", || second.figures().state == State::Serving);
    assert!(keys.iter().all(|key| hits(&*second, key)));
    let third = Store::open(settings(directory.path(), 1 << 30)).expect("threads");
    close(third);
}

#[test]
fn readers_beside_each_other_while_all_changes_find_nothing_wrong() {
    for root in ["/dev/shm", "/tmp"] {
        let directory = tempfile::tempdir_in(root).expect("a directory");
        let store = open(directory.path(), 20 * MIB);
        let hits = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (store, hits) = (&store, &hits);
                scope.spawn(move || {
                    let mut dice = Dice(thread);
                    for _ in 0..1500 {
                        let file = dice.draw(25).min(dice.draw(25));
                        let size = [700, 60_000, 300_000, 2 * MIB + 1][file as usize % 4];
                        let key = changed_key(
                            &format!("{file}"),
                            size,
                            dice.draw(size.div_ceil(MIB)),
                            dice.draw(3) as u32 / 2,
                        );
                        match ask(store, &key) {
                            Lookup::Hit { block, .. } => {
                                assert!(block[..] == bytes_of(&key), "wrong bytes for {key:?}");
                                hits.fetch_add(1, Ordering::Relaxed);
                            }
                            Lookup::Miss(Miss { fill: Some(fill), .. }) => {
                                fill.fill(&Arc::new(block_of(&bytes_of(&key))))
                            }
                            Lookup::Miss(_) => {}
                        }
                        if dice.draw(200) == 0 {
                            store.set_size_max((5 + dice.draw(20)) * MIB);
                        }
                    }
                });
            }
        });
        assert!(hits.into_inner() > 500);
        assert_eq!(store.figures().damaged, 0);
        close(store);
    }
}

#[test]
fn a_chain_reads_each_block_from_the_backend_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let keys: Vec<_> = (0..20).map(|file| key(&format!("file {file}"), 30_000 + file * 9000, 0)).collect();
    let fetched = Arc::new(AtomicU64::new(0));
    for _ in 0..2 {
        let store = open(directory.path(), 1 << 30);
        let chain = Chain::new(vec![store.clone()], Budget::default()).expect("a level");
        for key in &keys {
            let (fetched, key) = (fetched.clone(), *key);
            let fetch = async move |_| {
                fetched.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Absent>(Fetched { block: block_of(&bytes_of(&key)), is_settled: true })
            };
            let block = efc_tasks::block_on(chain.get(key, fetch)).expect("a block");
            assert!(block[..] == bytes_of(&key));
        }
        until("all are there", || store.figures().fills + store.figures().hits == keys.len() as u64);
        drop(chain);
        close(store);
    }
    assert_eq!(fetched.load(Ordering::Relaxed), keys.len() as u64);
}

#[test]
fn a_store_of_another_release_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("layout"), "efc-store 7 of the future\n").expect("written");
    let store = open(directory.path(), 1 << 30);
    let State::Failed(why) = store.figures().state else { panic!("it cannot be used") };
    assert!(why.contains("another release") && !read(&*store, &key("file", 10, 0)));
    assert_eq!(snapshot(directory.path()).len(), 2, "the layout and the lock");
}

#[test]
fn a_process_that_is_killed_amid_its_writes_leaves_a_store_that_is_sound() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return write_for_ever(directory.as_ref());
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (program, name) = (std::env::current_exe().expect("this"), std::thread::current().name().map(str::to_owned));
    let mut there = 0;
    for round in 0..20 {
        let mut command = Command::new(&program);
        command.args(["--exact", name.as_deref().expect("a test"), "--nocapture"]).env(DIRECTORY, directory.path());
        let mut child = command.stdout(Stdio::null()).spawn().expect("started");
        std::thread::sleep(Duration::from_millis(60 + 37 * (round % 7)));
        child.kill().expect("it runs");
        assert_eq!(child.wait().expect("a child").signal(), Some(9), "round {round}");
        let store = open(directory.path(), SIZE_MAX);
        there += all_keys().filter(|key| hits(&*store, key)).count();
        assert!(store.figures().condition().is_none());
        close(store);
    }
    assert!(there > 200, "{there} blocks in all rounds");
}

const SIZE_MAX: u64 = 40 * MIB;

fn all_keys() -> impl Iterator<Item = efc_cache::blocks::BlockKey> {
    let large = (0..20).flat_map(|file| (0..3).map(move |index| key(&format!("large {file}"), 3 * MIB, index)));
    large.chain((0..200).map(|file| key(&format!("small {file}"), 1 + file * 300, 0)))
}

fn write_for_ever(directory: &std::path::Path) {
    let store = open(directory, SIZE_MAX);
    let (keys, mut dice): (Vec<_>, _) = (all_keys().collect(), Dice(std::process::id().into()));
    loop {
        read(&*store, &keys[dice.draw(keys.len() as u64) as usize]);
    }
}
