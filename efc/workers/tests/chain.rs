//! Nodes that read through the chain of caches, with real workers as its only level.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use efc_buffer::{Budget, BudgetLimits, Buffer};
use efc_cache::blocks::{Absent, Block, BlockKey, Chain, Fetched};
use efc_tasks::block_on;
use support::{Memcached, Node, block_key, bytes, until};

const BLOCKS: u64 = 40;
const LENGTH: usize = 200_000;

fn key(index: u64) -> BlockKey {
    block_key(&format!("file {index}"), LENGTH as u64, 0)
}

/// A node that reads, and a backend that counts what it is asked for.
struct Reader {
    node: Arc<efc_workers::Workers>,
    chain: Arc<Chain>,
    fetches: Arc<AtomicU64>,
}

impl Reader {
    fn new(servers: &[Memcached], fetches: &Arc<AtomicU64>) -> Reader {
        let endpoints: Vec<_> = servers.iter().map(Memcached::endpoint).collect();
        let node = Arc::new(Node::new(1, &endpoints).serving().workers);
        let budget = Budget::new(BudgetLimits { ahead_bytes: 256 << 20, ..BudgetLimits::NONE });
        let chain = Chain::new(vec![node.clone()], budget).expect("a level");
        Reader { node, chain, fetches: fetches.clone() }
    }

    /// Reads all blocks, beginning with this one.
    fn read_all(&self, first: u64) {
        for index in (0..BLOCKS).map(|step| (first + step) % BLOCKS) {
            let fetches = self.fetches.clone();
            let fetch = async move |mut room: Buffer| {
                fetches.fetch_add(1, Ordering::Relaxed);
                room[..LENGTH].copy_from_slice(&bytes(index, LENGTH));
                Ok::<_, Absent>(Fetched { block: Block::new(room, LENGTH), is_settled: true })
            };
            let block = block_on(self.chain.get(key(index), fetch)).expect("a block");
            assert!(block[..] == bytes(index, LENGTH), "block {index}");
        }
    }

    /// Waits until all that it has read was put on workers.
    fn settle(&self) {
        until("all blocks are put there", || {
            let done: u64 = self.node.figures().iter().map(|one| one.counts.fills_done).sum();
            (done == BLOCKS).then_some(())
        });
    }
}

#[test]
fn what_one_node_has_read_others_read_from_workers() {
    let servers = [(); 3].map(|()| Memcached::start(64));
    let fetches = Arc::new(AtomicU64::new(0));
    let first = Reader::new(&servers, &fetches);
    first.read_all(0);
    first.settle();
    assert_eq!(fetches.load(Ordering::Relaxed), BLOCKS);
    (0..3).for_each(|start| Reader::new(&servers, &fetches).read_all(start));
    assert_eq!(fetches.load(Ordering::Relaxed), BLOCKS, "the backend is asked for nothing more");
}

#[test]
fn nodes_that_start_at_once_do_not_all_ask_the_backend() {
    let servers = [(); 2].map(|()| Memcached::start(64));
    let fetches = Arc::new(AtomicU64::new(0));
    let nodes: Vec<Reader> = (0..8).map(|_| Reader::new(&servers, &fetches)).collect();
    std::thread::scope(|scope| {
        for node in &nodes {
            scope.spawn(|| node.read_all(0));
        }
    });
    let fetched = fetches.load(Ordering::Relaxed);
    // A busy machine lets the time pass in which nodes wait for each other: this is far from what is usual.
    assert!((BLOCKS..BLOCKS * 4).contains(&fetched), "{fetched} times for {BLOCKS} blocks and 8 nodes");
}
