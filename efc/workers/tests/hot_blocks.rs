//! Blocks that many want, on real workers of which one has too much to do.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use efc_cache::blocks::{BlockKey, Lookup};
use efc_workers::Endpoint;
use support::{Memcached, Node, block_key, bytes, endpoint, until};

const LENGTH: usize = 100_000;
/// Long beside what an answer takes on loopback.
const DELAY: Duration = Duration::from_millis(15);

/// A worker behind a network that can be slow.
struct Far {
    server: Memcached,
    port: u16,
    is_slow: Arc<AtomicBool>,
}

impl Far {
    fn start() -> Far {
        let server = Memcached::start(64);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (port, is_slow) = (listener.local_addr().expect("bound").port(), Arc::new(AtomicBool::new(false)));
        let (behind, slow) = (server.port, is_slow.clone());
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(("127.0.0.1", behind)) else { return };
                let (to, from) = (far.try_clone().expect("a descriptor"), near.try_clone().expect("a descriptor"));
                let slow = slow.clone();
                thread::spawn(move || relay(from, to, &AtomicBool::new(false)));
                thread::spawn(move || relay(far, near, &slow));
            }
        });
        Far { server, port, is_slow }
    }

    fn endpoint(&self) -> Endpoint {
        endpoint(self.port)
    }

    fn set_slow(&self, is_slow: bool) {
        self.is_slow.store(is_slow, Ordering::Relaxed);
    }

    fn has(&self, name: &str) -> bool {
        self.server.client().has(name)
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream, is_slow: &AtomicBool) {
    let mut piece = vec![0; 1 << 20];
    while let Ok(count) = from.read(&mut piece)
        && count > 0
    {
        if is_slow.load(Ordering::Relaxed) {
            thread::sleep(DELAY);
        }
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn key(index: u64) -> BlockKey {
    // Files of one block: what is known of one says nothing of others.
    block_key(&format!("file {index}"), LENGTH as u64, 0)
}

/// Reads a block as the chain does; `false`: it is nowhere.
fn read(node: &Node, index: u64) -> bool {
    let Lookup::Hit { block, fill } = node.get(key(index)) else { return false };
    assert!(block[..] == bytes(index, LENGTH), "block {index}");
    let block = Arc::new(block);
    fill.into_iter().for_each(|fill| fill.fill(&block));
    true
}

/// Three workers with blocks; the name of block 0, which lies at the first of them alone, and blocks of the others.
fn pool() -> (Vec<Far>, Node, String, Vec<u64>) {
    let mut pool: Vec<Far> = (0..3).map(|_| Far::start()).collect();
    let endpoints: Vec<_> = pool.iter().map(Far::endpoint).collect();
    let node = Node::new(1, &endpoints).serving();
    node.put(key(0), &bytes(0, LENGTH));
    let first = until("the block is seen", || pool.iter().position(|far| !far.server.client().keys().is_empty()));
    pool.swap(0, first);
    let name = until("the block is seen", || pool[0].server.client().keys().pop());
    let mut others = Vec::new();
    for index in 1..40 {
        let before = pool[0].server.client().statistic("cmd_set");
        node.put(key(index), &bytes(index, LENGTH));
        if pool[0].server.client().statistic("cmd_set") == before {
            others.push(index);
        }
    }
    (pool, node, name, others)
}

/// Reads as a busy node does until block 0 has copies at all workers.
fn make_hot(pool: &[Far], node: &Node, name: &str, others: &[u64]) {
    pool[0].set_slow(true);
    until("all workers have a copy", || {
        // Most answers are those of the others: that is what is usual.
        others.iter().take(12).for_each(|index| assert!(read(node, *index)));
        (0..4).for_each(|_| assert!(read(node, 0)));
        pool.iter().all(|far| far.has(name)).then_some(())
    });
    pool[0].set_slow(false);
}

fn hits(node: &Node) -> Vec<u64> {
    node.figures().iter().map(|one| one.counts.hits).collect()
}

#[test]
fn a_hot_block_gets_a_copy_at_each_worker_and_is_read_from_all() {
    // A machine that stands still for a moment makes one worker look slower than the others.
    let calm = (0..5).find_map(|_| {
        let (pool, node, name, others) = pool();
        (0..20).for_each(|_| others.iter().chain(&[0]).for_each(|index| assert!(read(&node, *index))));
        let is_calm = !pool[1].has(&name) && !pool[2].has(&name);
        is_calm.then_some((pool, node, name, others))
    });
    let (pool, node, name, others) = calm.expect("all workers are alike: nothing is hot");

    make_hot(&pool, &node, &name, &others);
    let copies: u64 = node.figures().iter().map(|one| one.counts.copies_done).sum();
    assert!(copies >= 2, "{copies}");

    let endpoints: Vec<_> = pool.iter().map(Far::endpoint).collect();
    let other = Node::new(1, &endpoints).serving();
    until("the first copy says how many there are", || {
        let before = hits(&other);
        (0..30).for_each(|_| assert!(read(&other, 0)));
        hits(&other).iter().zip(before).all(|(after, before)| *after >= before + 5).then_some(())
    });
    assert!(others.iter().all(|index| read(&other, *index)));
}

#[test]
fn a_copy_that_is_lost_or_damaged_costs_no_wrong_byte_and_comes_back() {
    let (pool, node, name, others) = pool();
    make_hot(&pool, &node, &name, &others);
    until("the node knows of three", || {
        let before = hits(&node);
        (0..30).for_each(|_| assert!(read(&node, 0)));
        hits(&node).iter().zip(before).all(|(after, before)| *after > before).then_some(())
    });

    pool[1].server.client().ask(format!("delete {name}\r\n").as_bytes(), b"\r\n");
    assert!((0..60).all(|_| read(&node, 0)), "the first copy is there");
    until("the copy is back", || pool[1].has(&name).then_some(()));

    // Numbers of copies that somebody without the key has written: the seal covers them.
    let mut rogue = pool[0].server.client();
    let mut value = rogue.value(&name);
    assert_eq!(value[1], 2, "two further ones");
    for further in [0, 1, 7, 255] {
        value[1] = further;
        rogue.set(&name, &value);
        until("it is refused", || {
            read(&node, 0);
            (!rogue.has(&name)).then_some(())
        });
    }
    assert!(node.figures().iter().all(|one| one.counts.lost == 0));

    // The others are found still, and who finds none puts the first one there.
    assert!((0..60).any(|_| read(&node, 0)));
    let place = until("there is no first copy", || match node.get(key(0)) {
        Lookup::Miss(miss) => miss.fill,
        Lookup::Hit { .. } => None,
    });
    place.fill(&Arc::new(support::block(&bytes(0, LENGTH))));
    until("the first copy is back", || rogue.has(&name).then_some(()));
    assert!((0..60).all(|_| read(&node, 0)));
}
