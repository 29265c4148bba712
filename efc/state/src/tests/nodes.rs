//! Tests of node records: ids, lookup counts, the index of handles, and the limit of their number.

use std::collections::HashMap;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::super::*;
use super::{handle, header, memfd, node, open, random};

#[test]
fn an_id_never_names_another_file() {
    let state = open(&memfd()).unwrap();
    state.set_root(&node(0));
    let mut seen = std::collections::HashSet::from([1]);
    for number in 1..2000 {
        let id = state.lookup_node(&node(number)).unwrap();
        assert!(seen.insert(id), "{id:#x} is used again");
        assert!(state.forget_node(id, 1));
        assert_eq!((state.node(id), state.forget_node(id, 1), state.nodes.uncommitted(id)), (None, false, None));
    }
    assert!(!state.forget_node(1, 1000), "the root stays");
    assert_eq!(state.node(1), Some(node(0)));
    assert_eq!([0, 2, u64::MAX, 1 << 32 | 1].map(|id| state.node(id)), [None, None, None, None]);
    assert_eq!((state.handle(0), state.handle(u64::MAX)), (None, None));
}

#[test]
fn forget_and_lookup_of_one_node_may_race() {
    let state = open(&memfd()).unwrap();
    state.set_root(&node(0));
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (state, start) = (&state, &start);
            scope.spawn(move || {
                start.wait();
                for turn in 0..30_000 {
                    let expected = node(1 + (turn * 7 + thread) % 3);
                    let id = state.lookup_node(&expected).unwrap();
                    assert_eq!(state.node(id).as_ref(), Some(&expected), "counted, and yet gone");
                    assert_eq!(state.find_node(&expected.handle), Some(id));
                    state.set_uncommitted(id, Some([thread as u8; 8]));
                    state.forget_node(id, 1);
                }
            });
        }
    });
    assert_eq!(state.node_count(), 1, "every reference was given back");
}

#[test]
fn nodes_behave_like_a_map() {
    let memfd = memfd();
    let mut state = open(&memfd).unwrap();
    state.set_root(&node(0));
    let mut model: HashMap<u64, (u64, u64)> = HashMap::new(); // number -> id, count
    let mut random = random(88_172_645_463_325_252);
    for step in 0..400_000 {
        let number = 1 + random(100_000);
        match random(5) {
            0..=2 => {
                let id = state.lookup_node(&node(number)).unwrap();
                let entry = model.entry(number).or_insert((id, 0));
                assert_eq!(entry.0, id);
                entry.1 += 1;
            }
            3 => {
                let known = model.get(&number).copied();
                assert_eq!(state.find_node(&node(number).handle), known.map(|known| known.0));
                if let Some((id, _)) = known {
                    assert_eq!(state.node(id), Some(node(number)));
                }
            }
            _ => {
                if let Some((id, count)) = model.get(&number).copied() {
                    let dropped = 1 + random(count);
                    assert_eq!(state.forget_node(id, dropped), dropped == count);
                    if dropped == count {
                        model.remove(&number);
                    } else {
                        model.insert(number, (id, count - dropped));
                    }
                }
            }
        }
        if step % 100_000 == 99_999 {
            drop(state);
            state = open(&memfd).unwrap();
            assert_eq!((state.damaged_records(), state.node_count()), (0, model.len() as u64 + 1));
        }
    }
}

/// What a node costs, and that a successor's time to find them all grows with their number and not faster: the times
/// are printed, and compared with each other only, because tests share their machine.
#[test]
fn many_nodes_are_cheap_and_found_in_linear_time() {
    let count: u64 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
    let (few, many) = (best_time_to_find(count / 8), best_time_to_find(count));
    assert!(many < few * 32, "{few:?} for an eighth of {many:?}");
}

/// The best of five times to open the state that knows so many nodes.
fn best_time_to_find(count: u64) -> Duration {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    for number in 0..count {
        state
            .lookup_node(&Node { handle: [number; 4].map(u64::to_le_bytes).concat(), fileid: number, kind: 0 })
            .unwrap();
    }
    let saved = rustix::fs::fstat(&memfd).unwrap().st_blocks as u64 * 512;
    let bytes = (saved + state.nodes.index_size() as u64) / count;
    drop(state);
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        let state = open(&memfd).unwrap();
        best = best.min(start.elapsed());
        assert_eq!(state.node_count(), count);
        assert!((saved + state.nodes.index_size() as u64) / count <= 200);
    }
    println!("{count} nodes: {bytes} bytes each, found in {best:?}");
    assert!(bytes <= 200, "{bytes} bytes per node");
    best
}

/// FORGETs that come while the index is being made: each slot is given back exactly once.
#[test]
fn forgets_beside_the_scan_free_each_slot_once() {
    const COUNT: u64 = 20_000;
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    let ids: Vec<u64> = (0..COUNT).map(|number| state.lookup_node(&node(number)).unwrap()).collect();
    drop(state);
    let header = header(&memfd);
    let nodes = nodes::Nodes::open(&header).unwrap();
    let ids = &ids[..];
    assert!(nodes.forget(ids[0], 1).is_some(), "before the scan");
    assert_eq!((nodes.get(ids[0]), nodes.get(ids[1])), (None, Some(node(1))));
    let start = Barrier::new(3);
    std::thread::scope(|scope| {
        for half in 0..2 {
            let (nodes, start) = (&nodes, &start);
            scope.spawn(move || {
                start.wait();
                ids.iter().skip(2 + half).step_by(4).for_each(|id| assert!(nodes.forget(*id, 1).is_some()));
            });
        }
        start.wait();
        nodes.index();
    });
    let left = COUNT - 1 - (COUNT - 2).div_ceil(4) - (COUNT - 3).div_ceil(4);
    assert_eq!(nodes.count(), left);
    let fresh: std::collections::HashSet<u32> =
        (0..COUNT).map(|number| nodes.lookup(&node(COUNT + number)).unwrap() as u32).collect();
    assert_eq!(fresh.len() as u64, COUNT, "a slot was given out twice");
    let kept = ids.iter().filter(|id| nodes.get(**id).is_some()).count() as u64;
    assert_eq!(kept, left);
    assert!(ids.iter().all(|id| nodes.get(*id).is_none() || !fresh.contains(&(*id as u32))));
}

#[test]
fn a_limit_of_nodes_is_kept_and_their_index_shrinks() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    state.limit_nodes(10_001);
    state.set_root(&node(99_999));
    let ids: Vec<u64> = (0..10_000).map(|number| state.lookup_node(&node(number)).unwrap()).collect();
    let full = state.nodes.index_size();
    assert_eq!(state.lookup_node(&node(10_000)).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
    assert_eq!(state.lookup_node(&node(5)).unwrap(), ids[5], "one that is known is found");
    assert!(!state.has_room_for_node());
    assert!(ids.iter().skip(6).all(|id| state.forget_node(*id, 1)));
    assert!(state.nodes.index_size() * 2 < full, "{} of {full}", state.nodes.index_size());
    assert!(
        ids[..6]
            .iter()
            .all(|id| state.node(*id).is_some() && state.find_node(&state.node(*id).unwrap().handle).is_some())
    );
    assert!(state.lookup_node(&node(10_000)).is_ok());
}

#[test]
fn opens_take_of_the_memory_for_nodes_and_a_part_is_theirs_alone() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    state.set_root(&node(99_999));
    state.limit_nodes(8000);
    let opened: Vec<u64> = (0..200).map(|_| state.open_handle(&handle(1)).unwrap()).collect();
    let left = state.nodes_max().unwrap();
    assert!((6000..8000).contains(&left), "{left}");
    let looked_up: Vec<u64> = (0..).map_while(|number| state.lookup_node(&node(number)).ok()).collect();
    assert_eq!(looked_up.len() as u64 + 1, left);
    assert_eq!(state.open_handle(&handle(1)).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
    opened[..100].iter().for_each(|fh| state.close_handle(*fh));
    state.close_handle(opened[0]);
    drop(state);
    let state = open(&memfd).unwrap();
    state.limit_nodes(8000);
    assert_eq!(state.nodes_max(), Some(8000), "a hundred opens fit their part");
    (looked_up.len()..).map_while(|number| state.lookup_node(&node(number as u64)).ok()).for_each(drop);
    let opened = (0..).map_while(|_| state.open_handle(&handle(1)).ok()).count();
    assert!((30..100).contains(&opened), "with all nodes that there may be, {opened} more can be opened");
}

#[test]
fn nodes_of_a_predecessor_are_unseen_until_a_name_leads_to_them() {
    let memfd = memfd();
    let first = open(&memfd).unwrap();
    let (directory, other) = (first.lookup_node(&node(1)).unwrap(), first.lookup_node(&node(2)).unwrap());
    let ids: Vec<u64> = (3..6).map(|number| first.lookup_node(&node(number)).unwrap()).collect();
    ids.iter().for_each(|id| first.set_parent(*id, directory, false));
    assert!(!first.has_unseen_child(directory), "this daemon knows the names that it has told");
    drop(first);
    let state = open(&memfd).unwrap();
    assert_eq!([state.has_unseen_child(directory), state.has_unseen_child(other)], [true, false]);
    assert!(state.forget_node(ids[0], 1));
    state.set_parent(ids[1], directory, false);
    state.set_parent(ids[1], other, false);
    assert!(state.has_unseen_child(directory), "one is left");
    state.set_parent(ids[2], other, true);
    assert_eq!([state.has_unseen_child(directory), state.has_unseen_child(other)], [false, true], "it has other names");
    assert!(state.forget_node(ids[2], 1));
    assert!(![directory, other].into_iter().any(|parent| state.has_unseen_child(parent)));
    let new = state.lookup_node(&node(7)).unwrap();
    state.set_parent(new, directory, true);
    assert!(!state.has_unseen_child(directory));
    assert_eq!(state.parent(ids[1]), Some(other));
}
