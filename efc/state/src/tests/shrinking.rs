//! Tests of memory that goes back when nodes are forgotten, and of ids after that.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use super::super::floor::{BASE, FLOOR_MAX};
use super::super::free::GROUP;
use super::super::record::Id;
use super::super::region::KEPT_GROUPS;
use super::super::regions::{HEAD, NODES, PAGE};
use super::super::*;
use super::{header, memfd, node, open};

const COUNT: u64 = 40_000;

fn bytes(memfd: &OwnedFd) -> usize {
    rustix::fs::fstat(memfd).unwrap().st_blocks as usize * 512
}

fn look_up(state: &State, numbers: std::ops::Range<u64>) -> Vec<u64> {
    numbers.map(|number| state.lookup_node(&node(number)).unwrap()).collect()
}

fn forget(state: &State, ids: &[u64]) {
    ids.iter().for_each(|id| assert!(state.forget_node(*id, 1)));
}

/// Flips the floor's word.
fn damage_floor(memfd: &OwnedFd) {
    super::damage(memfd, PAGE + HEAD * 8);
}

#[test]
fn memory_of_forgotten_nodes_goes_back_and_no_id_comes_again() {
    let memfd = memfd();
    let mut state = open(&memfd).unwrap();
    state.set_root(&node(0));
    let few = look_up(&state, 1..10);
    let before = bytes(&memfd);
    let mut seen: HashSet<u64> = few.iter().copied().collect();
    for round in 1..6 {
        let ids = look_up(&state, round * COUNT..(round + 1) * COUNT);
        assert!(ids.iter().all(|id| seen.insert(*id)), "round {round}: an id came again");
        ids.iter().for_each(|id| state.set_page_version(*id, DataVersion { mtime: *id, ctime: 2, size: 3 }));
        let full = bytes(&memfd);
        assert!(full > before + COUNT as usize * (NODES.words + 4) * 8 * 9 / 10, "{full} bytes");
        forget(&state, &ids);
        // What is kept, with the facts about it, and an unused end of a chunk.
        let limit = before + KEPT_GROUPS * PAGE * 5 / 4 + (256 << 10);
        assert!(bytes(&memfd) <= limit, "round {round}: {} bytes stay, of {full}, and {limit} may", bytes(&memfd));
        if round % 2 == 0 {
            drop(state);
            state = open(&memfd).unwrap();
            assert_eq!((state.damaged_records(), state.node_count()), (0, 10));
            assert!(bytes(&memfd) <= limit, "a successor has scanned what had gone");
        }
    }
    assert!(few.iter().zip(1..).all(|(id, number)| state.node(*id) == Some(node(number))));
}

#[test]
fn memory_between_nodes_that_stay_goes_back_and_is_used_again() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    let ids = look_up(&state, 0..COUNT);
    let full = bytes(&memfd);
    let (stay, go): (Vec<(usize, u64)>, _) = ids.iter().copied().enumerate().partition(|(index, _)| index % 1000 == 0);
    forget(&state, &go.iter().map(|(_, id)| *id).collect::<Vec<u64>>());
    let less = bytes(&memfd);
    assert!(less < full / 2, "{less} of {full}");
    drop(state);
    let successor = open(&memfd).unwrap();
    assert_eq!((successor.damaged_records(), successor.node_count()), (0, stay.len() as u64));
    assert!(successor.orphans().is_empty() && bytes(&memfd) <= less, "nothing that had gone was looked at");
    assert!(stay.iter().all(|(number, id)| successor.node(*id) == Some(node(*number as u64))));
    let again = look_up(&successor, COUNT..2 * COUNT);
    let known: HashSet<u64> = ids.iter().copied().collect();
    assert!(again.iter().all(|id| !known.contains(id)));
    assert_eq!(again.iter().collect::<HashSet<_>>().len() as u64, COUNT);
    assert!(bytes(&memfd) <= full + PAGE, "{} of {full}", bytes(&memfd));
}

/// Release 0.1.0 knows of no floor: it begins a slot that holds 0 at generation 1.
#[test]
fn the_first_release_gives_no_id_again_and_its_own_keep_their_memory() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    let ids = look_up(&state, 0..COUNT);
    assert!(ids.iter().all(|id| Id::from(*id).generation > BASE));
    forget(&state, &ids[100..]);
    drop(state);
    let mut seen: HashSet<u64> = ids.into_iter().collect();
    let former = {
        let header = header(&memfd);
        let region = header.region(&NODES).unwrap();
        let mut live = 0;
        region.scan(|_, _| {
            live += 1;
            true
        });
        assert_eq!(live, 100);
        let taken: Vec<Id> = (0..COUNT).map(|_| region.take().unwrap().0).collect();
        for id in &taken {
            let sealed = [0, 8 << 32, (*id).into()]; // a handle of 8 bytes, the id
            region.record(id.slot).unwrap().publish(id.generation, &[1], &sealed);
        }
        taken
    };
    assert!(former.iter().any(|id| id.generation == 1), "it has used what had gone");
    assert!(former.iter().all(|id| seen.insert(u64::from(*id))), "an id came again");
    let state = open(&memfd).unwrap();
    assert_eq!((state.damaged_records(), state.node_count()), (0, 100 + COUNT));
    let full = bytes(&memfd);
    forget(&state, &former.iter().map(|id| u64::from(*id)).collect::<Vec<u64>>());
    let of_former = former.iter().filter(|id| id.generation == 1).count();
    assert!(bytes(&memfd) + of_former / GROUP as usize * PAGE / 2 > full, "it could come again under 0.1.0");
    let again = look_up(&state, COUNT..2 * COUNT);
    assert!(again.iter().all(|id| seen.insert(*id)), "an id came again");
}

#[test]
fn a_damaged_floor_counts_as_the_highest() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    let ids = look_up(&state, 0..COUNT);
    forget(&state, &ids);
    drop(state);
    damage_floor(&memfd);
    let state = open(&memfd).unwrap();
    assert_eq!((state.damaged_records(), state.node_count()), (0, 0));
    let again = look_up(&state, 0..COUNT);
    let known: HashSet<u64> = ids.into_iter().collect();
    assert!(again.iter().all(|id| !known.contains(id)));
    assert!(again.iter().any(|id| Id::from(*id).generation == FLOOR_MAX + 1));
}

#[test]
fn lookups_and_forgets_of_many_may_race_while_memory_goes() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let state = &state;
            scope.spawn(move || {
                for round in 0..4 {
                    let first = 1 + (thread * 4 + round) * 12_000;
                    let ids = look_up(state, first..first + 12_000);
                    for (id, number) in ids.iter().zip(first..) {
                        assert_eq!(state.node(*id), Some(node(number)));
                    }
                    forget(state, &ids);
                }
            });
        }
    });
    assert_eq!(state.node_count(), 0);
    assert!(bytes(&memfd) < KEPT_GROUPS * PAGE * 2 + (1 << 20), "{} bytes stay", bytes(&memfd));
    drop(state);
    let successor = open(&memfd).unwrap();
    assert_eq!((successor.damaged_records(), successor.node_count()), (0, 0));
}
