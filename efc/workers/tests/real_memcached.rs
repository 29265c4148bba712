//! Workers that are real memcached servers.

mod support;

use efc_cache::blocks::Lookup;
use efc_workers::WorkerState;
use support::{Memcached, Node, block_key, bytes, until};

const MIB: usize = 1 << 20;
/// As `efc worker` starts it.
const CHUNKED: &[&str] = &["-m", "64", "-I", "2m", "-o", "slab_chunk_max=16384,slab_automove=0"];

#[test]
fn what_one_node_has_put_there_another_one_finds() {
    round_trip(&Memcached::start(64), &Memcached::start(64));
    round_trip(&Memcached::with(CHUNKED), &Memcached::start(64));
}

fn round_trip(first: &Memcached, second: &Memcached) {
    let endpoints = [first.endpoint(), second.endpoint()];
    let writer = Node::new(1, &endpoints).serving();
    let sizes = [1, 100, 4096, 70_000, MIB - 1, MIB, MIB + 5, 3 * MIB];
    for (file, size) in sizes.iter().enumerate() {
        let key = block_key(&format!("file {file}"), *size as u64, (size / MIB).saturating_sub(1) as u64);
        writer.put(key, &bytes(file as u64, key.length()));
    }
    let reader = Node::new(1, &endpoints).serving();
    for (file, size) in sizes.iter().enumerate() {
        let key = block_key(&format!("file {file}"), *size as u64, (size / MIB).saturating_sub(1) as u64);
        assert!(reader.bytes(key) == Some(bytes(file as u64, key.length())), "a file of {size} bytes");
    }
    let figures = reader.figures();
    assert_eq!(figures.iter().map(|one| one.counts.hits).sum::<u64>(), sizes.len() as u64);
    assert!(figures.iter().all(|one| one.state == WorkerState::Serving && one.counts.refused_blocks == 0));
    let stranger = Node::new(2, &endpoints).serving();
    assert_eq!(stranger.bytes(block_key("file 1", 100, 0)), None, "under another key it has another name");
}

/// Names and sizes of small files.
fn small_files() -> impl Iterator<Item = (String, usize)> {
    (0..400).map(|file| (format!("small {file}"), 4096 + file * 1_500 % (146 << 10)))
}

#[test]
fn a_worker_full_of_large_blocks_keeps_small_ones_if_its_chunks_are_small() {
    for (arguments, keeps_all) in [(CHUNKED, true), (&["-m", "64", "-I", "2m"][..], false)] {
        let server = Memcached::with(arguments);
        let node = Node::new(1, &[server.endpoint()]).serving();
        (0..100).for_each(|index| node.put(block_key("large", 200 << 20, index), &bytes(index, MIB)));
        assert!(node.figures()[0].capacity_bytes == 64 << 20);
        small_files().for_each(|(file, size)| node.put(block_key(&file, size as u64, 0), &bytes(1, size)));
        let kept = small_files().filter(|(file, size)| node.bytes(block_key(file, *size as u64, 0)).is_some()).count();
        assert_eq!(kept == 400, keeps_all, "{kept} of 400 with {arguments:?}");
    }
}

#[test]
fn a_worker_that_refuses_large_values_is_not_used_and_says_why() {
    let server = Memcached::with(&["-m", "64"]);
    let node = Node::new(1, &[server.endpoint()]);
    let why = until("the worker is looked at", || match node.figures().remove(0).state {
        WorkerState::Unfit(why) => Some(why),
        _ => None,
    });
    assert!(why.contains("-I 2m"), "{why}");
    let Lookup::Miss(miss) = node.get(block_key("file", 1, 0)) else { panic!("nobody has it") };
    assert!(miss.room.is_some() && miss.fill.is_none());
}
