//! Tests of what is kept of written data: blocks against a map of pages, records against a list, and everything torn.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::arena::{Arena, Buddies, ORDER_MAX, TOP, order_of};
use super::super::payloads::Payloads;
use super::super::regions::{ARENA, Format, PAGE, WRITES};
use super::super::*;
use super::{damage, header, memfd, node, place_of, planned, random, retag};

/// Room for 64 MiB. Only the first for a memfd has a say.
fn open(memfd: &OwnedFd) -> io::Result<State> {
    State::open_with(memfd.try_clone().unwrap(), &planned(&[(ARENA, 64 * TOP)]))
}

fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut random = random(seed * 2 + 1);
    (0..length).map(|_| random(256) as u8).collect()
}

/// Every third is not answered.
fn write(node: u64, offset: u64, kept: &KeptData) -> UncommittedWrite {
    let connection = offset.is_multiple_of(2).then_some((offset % 256) as u8);
    let unanswered = (offset % 3 == 2).then_some(SentAs { number: offset as u32, connection });
    UncommittedWrite {
        node,
        offset,
        data: kept.bytes().clone(),
        checksum: payload_checksum(kept.bytes()),
        verifier: if unanswered.is_some() { UNANSWERED } else { [7; 8] },
        uid: 1000 + offset as u32,
        gid: u32::MAX,
        groups: (0..offset as u32 % 17).map(|group| 70_000 + group).collect(),
        unanswered,
    }
}

/// Keeps and saves; answers the record and what a successor must find.
fn save(state: &State, node: u64, offset: u64, data: &[u8]) -> (u64, UncommittedWrite) {
    let kept = state.keep(data).unwrap();
    let write = write(node, offset, &kept);
    (state.save_write(&kept, &write).unwrap(), write)
}

fn saved(memfd: &OwnedFd) -> (State, Vec<SavedWrite>) {
    let state = open(memfd).unwrap();
    let saved = state.take_saved_writes();
    (state, saved)
}

fn arena(state: &State) -> &Arc<Arena> {
    state.payloads.as_ref().unwrap().arena()
}

#[test]
fn blocks_behave_like_a_map_of_pages() {
    const PAGES: u32 = 16 * TOP;
    let mut random = random(0x5eed);
    let mut buddies = Buddies::new(PAGES + 100); // the rest is no whole top
    let mut model: BTreeMap<u32, u8> = BTreeMap::new();
    let is_free = |model: &BTreeMap<u32, u8>, page: u32, order: u8| {
        let before = model.range(..page + (1 << order)).next_back();
        before.is_none_or(|(taken, order)| taken + (1 << order) <= page)
    };
    let mut bare: Vec<u32> = (0..PAGES / TOP).map(|top| top * TOP).collect();
    for step in 0..200_000 {
        let order = random(u64::from(ORDER_MAX) + 1) as u8;
        match random(8) {
            0..=2 => match buddies.take(order) {
                Some(page) => {
                    assert_eq!(page % (1 << order), 0);
                    assert!(page + (1 << order) <= PAGES && is_free(&model, page, order), "step {step}");
                    model.insert(page, order);
                }
                None => {
                    let with_memory = (0..PAGES / TOP).map(|top| top * TOP).filter(|top| !bare.contains(top));
                    let mut blocks = with_memory.flat_map(|top| (top..top + TOP).step_by(1 << order));
                    assert!(!blocks.any(|page| is_free(&model, page, order)), "step {step}: there was one");
                    if let Some(top) = bare.pop() {
                        assert!(buddies.claim(top, ORDER_MAX));
                        buddies.give(top, ORDER_MAX);
                    }
                }
            },
            3 => {
                let page = random(u64::from(PAGES) + 100) as u32;
                let is_possible = page.is_multiple_of(1 << order) && page < PAGES && is_free(&model, page, order);
                assert_eq!(buddies.claim(page, order), is_possible, "step {step}: {page} of order {order}");
                if is_possible {
                    bare.retain(|top| *top != page & !(TOP - 1));
                    model.insert(page, order);
                }
            }
            _ => {
                let from = random(PAGES.into()) as u32;
                if let Some((page, order)) = model.range(from..).next().map(|(page, order)| (*page, *order)) {
                    model.remove(&page);
                    buddies.give(page, order);
                }
            }
        }
    }
    model.iter().for_each(|(page, order)| buddies.give(*page, *order));
    let whole = std::iter::from_fn(|| buddies.take(ORDER_MAX)).count();
    assert_eq!(whole + bare.len(), (PAGES / TOP) as usize, "all halves have become whole");
    assert!(!buddies.claim(0, ORDER_MAX + 1));
}

#[test]
fn the_smallest_block_that_holds_it() {
    let lengths = [0, 1, PAGE, PAGE + 1, 3 * PAGE, 1 << 20, (1 << 20) + 1];
    assert_eq!(lengths.map(order_of), [0, 0, 0, 1, 2, ORDER_MAX, ORDER_MAX + 1]);
    assert_eq!((payload_cost(10), payload_cost(5000)), (4096, 8192));
}

#[test]
fn writes_survive_the_daemon_in_their_order_and_are_its_successors_own() {
    let memfd = memfd();
    let first = open(&memfd).unwrap();
    let mut expected: Vec<SavedWrite> = Vec::new();
    for number in 0..40_u64 {
        let data = bytes(number, [1, 100, 4096, 5000, 70_000, 1 << 20][number as usize % 6]);
        expected.push(save(&first, number % 3, number, &data));
    }
    for record in [3, 0, 0, 7] {
        first.remove_write(expected.remove(record).0);
    }
    expected.push(save(&first, 9, 40, b"in a slot that was used before"));
    drop(first); // its copies stay where they are: `expected` holds them

    let (second, found) = saved(&memfd);
    assert_eq!(found, expected);
    assert_eq!(second.damaged_records(), 0);
    expected.push(save(&second, 1, 41, b"of the second"));
    second.remove_write(expected.remove(1).0);
    assert!(second.take_saved_writes().is_empty(), "they are given once");
    drop(second);
    assert_eq!(saved(&memfd).1, expected);
}

#[test]
fn parts_of_one_block_are_saved_one_by_one() {
    let memfd = memfd();
    let first = open(&memfd).unwrap();
    let kept = first.keep(&bytes(5, 10_000)).unwrap();
    let whole = write(4, 0, &kept);
    let part = |range: std::ops::Range<usize>| {
        let data = whole.data.slice(range);
        UncommittedWrite { checksum: payload_checksum(&data), data, ..whole.clone() }
    };
    let parts = [part(0..1), part(1..6000), part(6000..10_000)];
    let records = parts.each_ref().map(|part| first.save_write(&kept, part).unwrap());
    first.remove_write(records[0]);
    let alien = UncommittedWrite { data: Bytes::from_static(b"elsewhere"), ..whole.clone() };
    assert_eq!(first.save_write(&kept, &alien).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    drop(first);
    let (second, mut found) = saved(&memfd);
    assert_eq!(found, [(records[1], parts[1].clone()), (records[2], parts[2].clone())]);
    // The block is free when its last part is.
    let others: Vec<KeptData> = (0..256).map(|_| second.keep(&[0; PAGE]).unwrap()).collect();
    found.truncate(1);
    drop(others);
    assert_eq!(found[0].1, parts[1]);
}

/// A SIGKILL between two stores, as the order of stores allows it: the state word comes last.
#[test]
fn a_torn_record_counts_as_none_and_distrusts_nobody_else() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    let ids: Vec<u64> = (1..4).map(|number| state.lookup_node(&node(number)).unwrap()).collect();
    let earlier = save(&state, ids[0], 3, b"in the slot before");
    let used = save(&state, ids[1], 3, b"a slot that was used before");
    state.remove_write(used.0);
    let place = (place_of(&memfd, &WRITES) + WRITES.words * mapping::WORD) as u64;
    let words = || {
        let mut words = vec![0; WRITES.words * mapping::WORD];
        rustix::io::pread(&memfd, &mut words, place).unwrap();
        words
    };
    let before = words();
    let whole = save(&state, ids[2], 16, &bytes(1, 5000));
    let after = words();
    drop(state);
    let changed: Vec<usize> =
        (0..WRITES.words).filter(|word| before[word * 8..][..8] != after[word * 8..][..8]).collect();
    assert!(changed.len() > 10, "{} words", changed.len());
    for index in 0..changed.len() {
        for old in [&changed[index..], &changed[index..=index], &changed[..=index]] {
            let mut torn = after.clone();
            old.iter().for_each(|word| torn[word * 8..][..8].copy_from_slice(&before[word * 8..][..8]));
            let published = u32::from_ne_bytes(torn[..4].try_into().unwrap()) == u32::from_be_bytes(*b"LIVE");
            rustix::io::pwrite(&memfd, &torn, place).unwrap();
            let state = open(&memfd).unwrap();
            ids.iter().for_each(|id| state.set_uncommitted(*id, Some([7; 8])));
            drop(state);
            rustix::io::pwrite(&memfd, &torn, place).unwrap();
            let (successor, found) = saved(&memfd);
            // The copy of the node lies outside the checksum.
            let is_whole = *old == [2];
            assert_eq!(found.len(), 1 + usize::from(is_whole), "words {old:?}");
            assert_eq!(found[0], earlier);
            assert_eq!(successor.damaged_records(), u64::from(published && !is_whole), "words {old:?}");
            assert_eq!(successor.unkept(ids[0]), None, "words {old:?}");
            if published && !is_whole {
                let distrusted = ids[1..].iter().any(|id| successor.unkept(*id) == Some([7; 8]));
                assert!(distrusted, "words {old:?}");
            }
            let again = open(&memfd).unwrap();
            assert_eq!(again.unkept(ids[0]), None);
        }
    }
    rustix::io::pwrite(&memfd, &after, place).unwrap();
    assert_eq!(saved(&memfd).1, [earlier, whole]);
}

#[test]
fn every_damaged_byte_of_a_record_is_noticed_and_said_once() {
    let memfd = memfd();
    let mut state = open(&memfd).unwrap();
    let id = state.lookup_node(&node(1)).unwrap();
    let place = place_of(&memfd, &WRITES);
    for byte in 0..WRITES.words * mapping::WORD {
        let (record, write) = save(&state, id, 5, b"data");
        state.set_uncommitted(id, Some([7; 8]));
        let slot = record::Id::from(record).slot as usize;
        drop(state);
        damage(&memfd, place + slot * WRITES.words * mapping::WORD + byte);
        let (second, found) = saved(&memfd);
        let is_copy = (16..24).contains(&byte);
        assert_eq!(found.len(), usize::from(is_copy), "byte {byte}");
        assert_eq!(second.unkept(id), (!is_copy).then_some([7; 8]), "byte {byte}");
        second.set_uncommitted(id, None);
        second.set_uncommitted(id, Some([8; 8]));
        drop((second, found));
        let (third, found) = saved(&memfd);
        assert_eq!(third.unkept(id), None, "byte {byte}: said twice");
        if is_copy {
            assert_eq!(found[0].1, write);
            third.remove_write(record);
        }
        state = third;
    }
}

#[test]
fn a_damaged_payload_shows() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    let (_, small) = save(&state, 1, 0, &bytes(1, 100));
    let (_, large) = save(&state, 2, 0, &bytes(2, 1 << 20));
    drop((state, small, large));
    let arena = place_of(&memfd, &ARENA);
    damage(&memfd, arena + 99);
    let whole = |saved: &SavedWrite| payload_checksum(&saved.1.data) == saved.1.checksum;
    let (_, found) = saved(&memfd);
    assert_eq!(found.iter().map(whole).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn records_that_share_a_page_cost_the_later() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    let id = state.lookup_node(&node(1)).unwrap();
    let (first, second) = (save(&state, 1, 0, &[1; 4096]), save(&state, id, 0, &[2; 8192]));
    state.set_uncommitted(id, Some([7; 8]));
    // A record that says that its block is the other's, and is whole.
    let region = |state: &State, slot: u64| {
        let region = state.header.region(&WRITES).unwrap();
        let record = region.record(slot as u32).unwrap();
        let generation = record.generation();
        let mut sealed: Vec<u64> = record.sealed().iter().map(|word| word.load(Ordering::Relaxed)).collect();
        sealed[4] = 1 << 32; // two pages from page 0 on
        record.unpublish(generation);
        record.publish(generation + 1, &[id], &sealed);
        assert!(state.keeps_payloads());
    };
    region(&state, 1);
    drop((state, second));
    let (successor, found) = saved(&memfd);
    assert_eq!(found, [first]);
    assert_eq!((successor.damaged_records(), successor.unkept(id)), (1, Some([7; 8])));
}

#[test]
fn what_was_kept_before_another_release_served_is_dropped_and_distrusted() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    let (id, other) = (state.lookup_node(&node(1)).unwrap(), state.lookup_node(&node(2)).unwrap());
    save(&state, id, 0, b"old");
    [id, other].iter().for_each(|id| state.set_uncommitted(*id, Some([7; 8])));
    drop(state);
    // A release that does not know the regions.
    retag(&memfd, ARENA, 200);
    let unaware = open(&memfd).unwrap();
    assert!(!unaware.keeps_payloads() && unaware.keep(b"data").is_err());
    assert_eq!(unaware.unkept(id), Some([7; 8]), "any mark has this meaning to it");
    drop(unaware);
    retag(&memfd, Format { tag: 200, ..ARENA }, ARENA.tag);
    let (back, found) = saved(&memfd);
    assert_eq!((found.len(), back.damaged_records()), (0, 0));
    assert_eq!((back.unkept(id), back.unkept(other)), (Some([7; 8]), None));
    drop(back);
    let (again, found) = saved(&memfd);
    assert_eq!((found.len(), again.unkept(id)), (0, Some([7; 8])), "it stays so until it is committed");
    again.set_uncommitted(id, Some([8; 8]));
    assert_eq!(again.unkept(id), None);
}

#[test]
fn what_was_kept_survives_daemons_that_are_killed_before_they_are_counted() {
    let memfd = memfd();
    {
        let state = open(&memfd).unwrap();
        save(&state, 1, 0, b"data");
    }
    let no_distrust = |node| panic!("node {node} is distrusted");
    for _ in 0..2 {
        let found = Payloads::open(&header(&memfd), no_distrust).unwrap();
        assert_eq!(found.map(|(_, writes, damaged)| (writes.len(), damaged)), Some((1, 0)));
    }
    assert_eq!(saved(&memfd).1.len(), 1);
}

#[test]
fn too_much_is_an_error_until_something_leaves() {
    let state = State::open_with(memfd(), &planned(&[(WRITES, 3), (ARENA, 2 * TOP)])).unwrap();
    let errno = |result: io::Result<KeptData>| result.err().and_then(|error| error.raw_os_error());
    assert_eq!(errno(state.keep(&vec![0; (1 << 20) + 1])), Some(libc::EINVAL));
    let small = state.keep(b"small").unwrap();
    let large = state.keep(&vec![0; 1 << 20]).unwrap();
    assert_eq!(errno(state.keep(&vec![0; 1 << 20])), Some(libc::ENOSPC));
    drop(small);
    let other = state.keep(&vec![0; 1 << 20]).unwrap();
    assert_eq!(errno(state.keep(b"x")), Some(libc::ENOSPC));
    let records = [0, 1, 2].map(|offset| state.save_write(&large, &write(1, offset, &large)).unwrap());
    assert_eq!(state.save_write(&large, &write(1, 3, &large)).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    state.remove_write(records[1]);
    state.remove_write(records[1]);
    state.save_write(&other, &write(1, 3, &other)).unwrap();
    assert_eq!(state.kept_writes_max(), 3);
}

/// A block is not used again while somebody still sends from it.
#[test]
fn data_that_is_held_is_not_covered() {
    let state = open(&memfd()).unwrap();
    let held: Vec<(Bytes, Vec<u8>)> = (0..50)
        .map(|number| {
            let data = bytes(number, 1000 * number as usize);
            let (record, write) = save(&state, 1, 0, &data);
            state.remove_write(record);
            (write.data, data)
        })
        .collect();
    let others: Vec<KeptData> = (0..200).map(|length| state.keep(&vec![0xee; length * 100]).unwrap()).collect();
    assert!(held.iter().all(|(now, then)| now == then));
    drop(others);
}

#[test]
fn memory_that_is_not_needed_goes_back() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    let blocks = || rustix::fs::fstat(&memfd).unwrap().st_blocks as u64 * 512;
    let empty = blocks();
    let kept: Vec<KeptData> = (0..50).map(|_| state.keep(&[1; 1 << 20]).unwrap()).collect();
    assert!(blocks() >= empty + (50 << 20));
    let await_less = |limit: u64, what: &str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while blocks() > limit {
            assert!(Instant::now() < deadline, "{what}: {} bytes stay", blocks());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    drop(kept);
    await_less(empty + (4 << 20) + 4096, "after a burst");
    assert_eq!(arena(&state).tops_with_memory(64 * TOP), 4);
    // What a predecessor had in memory and nobody claims goes; what is claimed stays.
    let (_, write) = save(&state, 1, 0, &bytes(1, 1 << 20));
    let kept: Vec<KeptData> = (0..30).map(|_| state.keep(&[1; 1 << 20]).unwrap()).collect();
    std::mem::forget(kept);
    let expected = write.data.to_vec();
    std::mem::forget((write, state)); // killed
    let (successor, found) = saved(&memfd);
    await_less(empty + (2 << 20), "after a kill");
    assert_eq!(found[0].1.data, expected);
    drop(successor);
}

/// What is free to a daemon that hung while a successor came is in use by then.
#[test]
fn a_superseded_daemon_gives_nothing_back() {
    let memfd = memfd();
    let first = open(&memfd).unwrap();
    save(&first, 1, 0, b"so that there is something to sweep");
    drop(saved(&memfd)); // sweeps in a second, and is superseded before
    drop((0..40).map(|_| first.keep(&[1; 1 << 20]).unwrap()).collect::<Vec<_>>()); // trims in two
    let last = open(&memfd).unwrap();
    let data = bytes(2, 1 << 20);
    let kept: Vec<KeptData> = (0..40).map(|_| last.keep(&data).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(2500));
    assert!(kept.iter().all(|kept| kept.bytes() == &data));
}

/// The most that there can be: the time to find them grows with their number and not faster. It is printed.
#[test]
fn many_writes_are_found_in_linear_time() {
    let count = if cfg!(debug_assertions) { 10_000 } else { 1 << 17 };
    let [few, many] = [count / 8, count].map(|count| (0..3).map(|_| time_to_find(count)).min().unwrap());
    assert!(many < few * 32, "{few:?} for an eighth of {many:?}");
}

fn time_to_find(count: u64) -> Duration {
    let memfd = memfd();
    let open = |memfd: &OwnedFd| State::open(memfd.try_clone().unwrap()).unwrap();
    let state = open(&memfd);
    for number in 0..count {
        save(&state, number % 100, number, &number.to_le_bytes());
    }
    drop(state);
    let start = Instant::now();
    let found = open(&memfd).take_saved_writes();
    let took = start.elapsed();
    assert_eq!(found.len() as u64, count);
    assert!(found.iter().enumerate().all(|(number, (_, write))| write.offset == number as u64));
    println!("{count} writes: found in {took:?}");
    took
}
