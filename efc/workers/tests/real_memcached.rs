//! Workers that are real memcached servers.

mod support;

use efc_workers::WorkerState;
use support::{Memcached, Node, block_key, bytes};

const MIB: usize = 1 << 20;

#[test]
fn what_one_node_has_put_there_another_one_finds() {
    let (first, second) = (Memcached::start(64), Memcached::start(64));
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
