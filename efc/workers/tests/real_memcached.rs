//! Workers that are real memcached servers.

mod support;

use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use efc_buffer::Purpose;
use efc_cache::blocks::{Level, Lookup};
use efc_workers::{Tls, WorkerState};
use rustix::process::Signal;
use support::{Memcached, Node, block, block_key, bytes, room, until};

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
    assert!(miss.room.is_some() && miss.fill.is_none() && !node.workers.serves());
}

#[test]
fn of_two_nodes_one_fetches_a_block_and_the_other_waits_for_it() {
    let server = Memcached::start(64);
    let [first, second] = [(); 2].map(|()| Node::new(1, &[server.endpoint()]).serving());
    // A busy machine may let the time pass in which a node waits: then it is another block's turn.
    let mut blocks = 0..;
    until("a node has waited for another one's block", || {
        let key = block_key("file", u64::MAX, blocks.next()?);
        let place = first.place(key);
        let found = std::thread::scope(|scope| {
            let found = scope.spawn(|| second.bytes(key));
            until("the second node waits, or not any more", || {
                let asked = server.client().statistic("get_hits");
                (asked > 0 || found.is_finished()).then_some(())
            });
            place.fill(&Arc::new(block(&bytes(7, MIB))));
            found.join().expect("no panic")
        });
        found.inspect(|found| assert!(*found == bytes(7, MIB)))
    });
    assert_eq!((second.counts().waits, second.counts().misses), (1, second.counts().vain_waits));
}

#[test]
fn a_marker_whose_node_gives_up_goes_and_one_whose_node_is_gone_costs_a_bounded_time() {
    let server = Memcached::start(64);
    let [first, second] = [(); 2].map(|()| Node::new(1, &[server.endpoint()]).serving());
    let key = |index| block_key("file", u64::MAX, index);
    drop(first.place(key(0)));
    until("the marker is deleted", || (server.client().statistic("delete_hits") == 1).then_some(()));
    drop(second.place(key(0)));
    assert_eq!(second.counts().vain_waits, 0);
    second.workers.backend_took(MIB, Duration::from_millis(5));

    let places: Vec<_> = (1..20).map(|index| first.place(key(index))).collect();
    for index in 1..20 {
        let Lookup::Miss(miss) = second.get(key(index)) else { panic!("nobody has it") };
        // The backend has it.
        std::thread::sleep(Duration::from_millis(6));
        second.workers.backend_took(MIB, Duration::from_millis(5));
        assert!(miss.room.is_some());
        // A marker is forgotten after two seconds, so a slow machine may find none any more.
        assert!(miss.fill.is_none() || second.counts().vain_waits + second.counts().misses >= 8, "block {index}");
    }
    assert!(second.counts().vain_waits <= 8);
    drop(places);
}

#[test]
fn who_comes_late_with_a_block_changes_nothing() {
    let server = Memcached::start(64);
    let [first, second] = [(); 2].map(|()| Node::new(1, &[server.endpoint()]).serving());
    let key = block_key("file", 1000, 0);
    let late = first.place(key);
    let name = until("the marker is there", || server.client().keys().pop());
    server.client().ask(format!("delete {name}\r\n").as_bytes(), b"\r\n");
    second.put(key, &bytes(1, 1000));
    let value = server.client().value(&name);
    late.fill(&Arc::new(block(&bytes(1, 1000))));
    until("the late block is refused", || (first.counts().fills_overtaken == 1).then_some(()));
    drop(first.place(block_key("other", 1, 0)));
    assert!(server.client().value(&name) == value, "nor does it delete what is there");
}

#[test]
fn nothing_can_be_read_on_a_worker_and_nothing_that_others_put_there_is_believed() {
    let server = Memcached::start(64);
    let node = Node::new(1, &[server.endpoint()]).serving();
    let (key, text) = (block_key("secret-name", 64 << 10, 0), b"secret data ".repeat(6_000));
    let text = &text[..key.length()];
    node.put(key, text);
    let other = block_key("secret-name", 64 << 10 | 1, 0);
    node.put(other, &bytes(1, other.length()));
    let mut rogue = server.client();
    until("both blocks are seen", || (rogue.keys().len() == 2).then_some(()));
    let values: Vec<(String, Vec<u8>)> = rogue.keys().into_iter().map(|key| (key.clone(), rogue.value(&key))).collect();
    for (name, value) in &values {
        assert!(!value.windows(8).any(|part| text.windows(8).take(12).any(|other| part == other)));
        assert!(!name.contains("secret") && name.len() == 32);
    }
    let (name, value) = values.iter().find(|(_, value)| value.len() == text.len() + 32).expect("it is there");
    let mut flipped = value.clone();
    flipped[value.len() / 2] ^= 1;
    let foreign = &values.iter().find(|(other, _)| other != name).expect("two").1[..];
    let forged = [&flipped[..], &value[1..], text, b"x", foreign, &bytes(3, 2_000_000)];
    for (count, forged) in (1..).zip(forged) {
        rogue.set(name, forged);
        assert_eq!(node.bytes(key), None);
        assert_eq!(node.counts().refused_blocks, count);
        until("it is deleted", || (!rogue.has(name)).then_some(()));
    }
    for marker in [format!("set {name} 0 0 0\r\n\r\n"), format!("mg {name} v N1000000\r\n")] {
        let end = if marker.starts_with("mg") { &b"\r\n\r\n"[..] } else { b"\r\n" };
        rogue.ask(marker.as_bytes(), end);
        let refused = node.counts().refused_blocks;
        assert_eq!(node.bytes(key), None);
        assert_eq!(
            (node.counts().refused_blocks, node.counts().vain_waits),
            (refused + 1, 0),
            "no marker of ours: {:?}",
            node.counts()
        );
        until("it is deleted", || (!rogue.has(name)).then_some(()));
    }
    rogue.set(name, &[value, &b"and more"[..]].concat());
    assert!(node.bytes(key).as_deref() == Some(text), "what follows the seal is nothing");
    node.put(block_key("another", 10, 0), &bytes(1, 10));
}

#[test]
fn questions_that_are_given_up_leave_the_others_whole() {
    let server = Memcached::start(64);
    let node = Node::new(1, &[server.endpoint()]).serving();
    let key = |index: u64| block_key("file", 20 * MIB as u64 - 9_000, index % 20);
    (0..20).for_each(|index| node.put(key(index), &bytes(index, key(index).length())));
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let node = &node;
            scope.spawn(move || {
                for index in (0..40).map(|step| step * 7 + thread) {
                    let mut given_up = pin!(node.workers.get(key(index), room()));
                    let _ = given_up.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                    let found = until("a worker on a busy machine is in time", || node.bytes(key(index + 1)));
                    assert!(found == bytes((index + 1) % 20, key(index + 1).length()));
                }
            });
        }
    });
    let counts = node.counts();
    assert_eq!((counts.refused_blocks, counts.broken_connections, counts.misses), (0, 0, 20));
}

#[test]
fn blocks_for_which_there_is_no_room_are_not_put_there() {
    let server = Memcached::start(64);
    let node = Node::new(1, &[server.endpoint()]).serving();
    let place = node.place(block_key("file", MIB as u64, 0));
    let taken: Vec<_> = std::iter::from_fn(|| node.budget.take(Purpose::Ahead, MIB)).collect();
    place.fill(&Arc::new(block(&bytes(1, MIB))));
    assert_eq!(node.counts().fills_without_budget, 1);
    drop(taken);
    until("the marker is deleted", || (server.client().statistic("delete_hits") == 1).then_some(()));
    node.put(block_key("file", MIB as u64, 0), &bytes(1, MIB));
}

#[test]
fn a_stopped_worker_is_waited_for_a_few_times_and_a_dead_one_not_at_all() {
    let server = Memcached::start(64);
    let node = Node::in_a_hurry(1, &[server.endpoint()]).serving();
    let key = |index| block_key("file", u64::MAX, index);
    until("a block is there", || {
        if let Lookup::Miss(miss) = node.get(key(0)) {
            miss.fill?.fill(&Arc::new(block(&bytes(1, MIB))));
        }
        node.bytes(key(0))
    });
    let before = node.counts();
    server.signal(Signal::STOP);
    (1..200).for_each(|index| assert_eq!(node.bytes(key(index)), None));
    let after = node.counts();
    assert!((1..=3).contains(&(after.timeouts - before.timeouts)), "{before:?} {after:?}");
    assert!(after.skipped - before.skipped >= 190);
    // At once, but for an answer that has come before and is read only now.
    let is_down = || matches!(node.figures()[0].state, WorkerState::Down(_)).then_some(());
    until("what it holds of this node's memory is free", is_down);
    server.signal(Signal::CONT);
    let is_there = || matches!(node.figures()[0].state, WorkerState::Serving | WorkerState::Slow).then_some(());
    until("it is there again", is_there);
    assert!(node.unhurried_bytes(key(0)).is_some(), "whoever has no reader waiting asks it at once");
    until("it is asked again", || node.bytes(key(0)));

    let port = server.port;
    drop(server);
    (1..200).for_each(|index| assert_eq!(node.bytes(key(index)), None));
    until("it is down", is_down);
    until("no worker serves", || (!node.workers.serves()).then_some(()));
    let server = Memcached::again(port, 64);
    until("the next one is filled", || {
        if let Lookup::Miss(miss) = node.get(key(0)) {
            miss.fill?.fill(&Arc::new(block(&bytes(1, MIB))));
        }
        node.bytes(key(0))
    });
    drop(server);
}

#[test]
fn workers_come_and_go_while_blocks_are_read() {
    let servers = [(); 3].map(|()| Memcached::start(64));
    let all: Vec<_> = servers.iter().map(Memcached::endpoint).collect();
    let node = Node::new(1, &all[..2]).serving();
    let key = |index| block_key(&format!("file {index}"), 409_600, 0);
    (0..60).for_each(|file| node.put(key(file), &bytes(file, 409_600)));
    let found = |node: &Node| (0..60).filter(|file| node.bytes(key(*file)).is_some()).count();
    assert_eq!(found(&node), 60);
    node.workers.follow(all.clone());
    let node = node.serving();
    let moved = 60 - found(&node);
    assert!((5..=35).contains(&moved), "a third: {moved}");
    node.workers.follow(all[1..].to_vec());
    assert_eq!(node.figures().len(), 2);
    until("nobody is connected to the one that left", || {
        (servers[0].client().statistic("curr_connections") <= 2).then_some(())
    });
    node.workers.follow(vec![]);
    assert_eq!(found(&node), 0);
    node.workers.follow(all[..2].to_vec());
    let node = node.serving();
    assert_eq!(found(&node), 60, "nothing was lost meanwhile");
    drop(node);
    until("nobody is connected any more", || {
        servers.iter().all(|server| server.client().statistic("curr_connections") <= 2).then_some(())
    });
}

/// Runs openssl in a folder.
fn openssl(folder: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let done = command.args(arguments.split(' ')).current_dir(folder).output().expect("openssl is installed");
    assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An authority of this name, and a certificate and key that it has signed for 127.0.0.1.
fn sign(folder: &Path, authority: &str, name: &str) {
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    if !folder.join(format!("{authority}.pem")).exists() {
        openssl(
            folder,
            &format!("req -x509 {new_key} -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"),
        );
    }
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").expect("written");
    openssl(folder, &format!("req {new_key} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
    let signed_by = format!("-CA {authority}.pem -CAkey {authority}.key -CAcreateserial");
    openssl(folder, &format!("x509 -req -in {name}.csr {signed_by} -extfile names -out {name}.pem"));
}

#[test]
fn by_tls_only_nodes_and_workers_of_one_authority_meet() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    for (authority, name) in [("ours", "worker"), ("ours", "node"), ("theirs", "stranger")] {
        sign(folder.path(), authority, name);
    }
    let read = |name: &str| std::fs::read(path(name)).expect("it was made");
    let tls = |authority: &str, name: &str| {
        Tls::new(&read(&format!("{authority}.pem")), &read(&format!("{name}.pem")), &read(&format!("{name}.key")))
    };
    let [certificate, key, authority] =
        ["worker.pem", "worker.key", "ours.pem"].map(|name| path(name).display().to_string());
    let files = format!("ssl_chain_cert={certificate},ssl_key={key},ssl_ca_cert={authority},ssl_verify_mode=2");
    let server = Memcached::with(&["-m", "64", "-I", "2m", "-Z", "-o", &files]);

    let node = Node::by_tls(1, &[server.endpoint()], tls("ours", "node").expect("good")).serving();
    let key = |index| block_key("file", 9 * MIB as u64 + 5_000, index);
    (0..10).for_each(|index| node.put(key(index), &bytes(index, key(index).length())));
    for _ in 0..5 {
        (0..10).for_each(|index| assert!(node.bytes(key(index)) == Some(bytes(index, key(index).length()))));
    }
    assert!(node.figures()[0].tls);
    let strangers = [
        Node::new(1, &[server.endpoint()]),
        { Node::by_tls(1, &[server.endpoint()], tls("ours", "stranger").expect("good")) },
        Node::by_tls(1, &[server.endpoint()], tls("theirs", "node").expect("good")),
    ];
    for stranger in strangers {
        until("it is turned away", || matches!(stranger.figures()[0].state, WorkerState::Down(_)).then_some(()));
        assert_eq!(stranger.bytes(key(0)), None);
    }
    assert!(Tls::new(&read("ours.pem"), &read("node.pem"), &read("worker.key")).is_err(), "another's key");
    assert!(Tls::new(b"", &read("node.pem"), &read("node.key")).expect_err("empty").contains("authority"));
}
