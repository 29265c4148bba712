//! Tests of the whole saved state. That a real SIGKILL leaves it whole is tested with real processes, in `tests/mount`.

mod calls;
mod payloads;
mod releases;
mod shrinking;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;

use super::layout::Header;
use super::pair::Pair;
use super::regions::{AGREEMENT, BLOB, FAILURES, Format, HANDLES, JOURNAL, NODES, ORPHANS, PAGES, REGIONS};
use super::*;

/// The table of regions with other capacities.
pub fn planned(capacities: &[(Format, u32)]) -> Vec<Format> {
    let capacity_of = |format: &Format| capacities.iter().find(|(other, _)| other.tag == format.tag);
    REGIONS
        .iter()
        .map(|format| capacity_of(format).map_or(*format, |(_, capacity)| Format { capacity: *capacity, ..*format }))
        .collect()
}

pub fn memfd() -> OwnedFd {
    rustix::fs::memfd_create("efc-state-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap()
}

pub fn open(memfd: &OwnedFd) -> io::Result<State> {
    State::open(memfd.try_clone().unwrap())
}

pub fn node(number: u64) -> Node {
    let mut handle = number.to_le_bytes().to_vec();
    handle.resize(8 + (number % 57) as usize, 0xaa);
    Node { handle, fileid: number, kind: 0o100_000 }
}

pub fn handle(node: u64) -> OpenHandle {
    OpenHandle {
        node,
        flags: 0x8002,
        uid: u32::MAX,
        gid: 1000,
        groups: (0..16).map(|group| 7000 + group).collect(),
        directory: node % 2 == 1,
        cookie_verifier: [3; 8],
        unique: node.wrapping_mul(8),
        backing: u32::MAX - node as u32,
    }
}

pub fn damage(memfd: &OwnedFd, offset: usize) {
    let mut byte = [0];
    rustix::io::pread(memfd, &mut byte, offset as u64).unwrap();
    byte[0] ^= 0x20;
    rustix::io::pwrite(memfd, &byte, offset as u64).unwrap();
}

/// Where the record of a node lies in the memfd, in bytes: the nodes are the first region.
fn place(id: u64) -> usize {
    4096 + record::Id::from(id).slot as usize * NODES.words * mapping::WORD
}

#[test]
fn everything_survives_the_daemon() {
    let memfd = memfd();
    let first = open(&memfd).unwrap();
    assert_eq!((first.is_resumed(), first.daemon_number(), first.blob().len()), (false, 1, 0));
    first.set_root(&node(99));
    let (file, gone) = (first.lookup_node(&node(5)).unwrap(), first.lookup_node(&node(6)).unwrap());
    assert!(first.forget_node(gone, 1));
    first.set_uncommitted(file, Some([9; 8]));
    let fh = first.open_handle(&handle(file)).unwrap();
    let closed = first.open_handle(&handle(1)).unwrap();
    first.set_cookie_verifier(fh, [4; 8]);
    first.close_handle(closed);
    let orphan = first.add_orphan(b"directory", &[b'n'; 255], &[1; 64]).unwrap();
    let removed = first.add_orphan(b"directory", b"name", b"file").unwrap();
    first.remove_orphan(removed);
    first.save_blob(b"one");
    first.save_blob(&[7; BLOB_MAX]);
    first.save_agreement([45, 1 << 39, u64::MAX]);
    let session = first.session_id();
    drop(first);

    let second = open(&memfd).unwrap();
    assert_eq!((second.is_resumed(), second.daemon_number(), second.session_id()), (true, 2, session));
    assert_eq!((second.damaged_records(), second.node_count()), (0, 2));
    assert_eq!((second.node(1), second.node(file), second.node(gone)), (Some(node(99)), Some(node(5)), None));
    assert_eq!((second.find_node(&node(99).handle), second.find_node(&node(5).handle)), (Some(1), Some(file)));
    assert_eq!((second.nodes.uncommitted(file), second.nodes.uncommitted(1)), (Some(([9; 8], true)), None));
    let open_handle = OpenHandle { cookie_verifier: [4; 8], ..handle(file) };
    assert_eq!(second.handles(), [(fh, open_handle)]);
    assert_eq!((second.close_opened_by(8), second.close_opened_by(file.wrapping_mul(8))), (None, Some(fh)));
    assert_eq!((second.handles(), second.close_opened_by(file.wrapping_mul(8))), (vec![], None));
    assert_eq!(second.orphans(), [(orphan, b"directory".to_vec(), vec![b'n'; 255], vec![1; 64])]);
    assert_eq!(second.blob(), [7; BLOB_MAX]);
    assert_eq!(second.agreement(), Some([45, 1 << 39, u64::MAX]));
    assert_eq!(second.lookup_node(&node(5)).unwrap(), file);
    assert!(!second.forget_node(file, 1) && second.forget_node(file, 1), "the count went on from 1");
}

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
fn a_session_of_several_sources_keeps_what_others_have_no_room_for() {
    let memfd = memfd();
    let first = State::open_of_several(memfd.try_clone().unwrap()).unwrap();
    let handle = |last| [&[7; 64][..], &[last]].concat();
    let node = |last| Node { handle: handle(last), fileid: 1, kind: 0o100_000 };
    let ids = [1, 2].map(|last| first.lookup_node(&node(last)).unwrap());
    assert_ne!(ids[0], ids[1], "they differ in their last byte alone");
    first.add_orphan(&handle(1), b"name", &handle(2)).unwrap();
    first.begin(2, &Intent { object: handle(3), other: handle(4), ..intent() }).unwrap();
    first.note_made(2, &handle(5));
    first.save_sources(&[5; 100_000]);
    for (place, port) in [(0, 7), (PORTS_OF_ONE, 8), (PORTS_OF_ONE + 1023, 9), (PORTS_OF_ONE + 1024, 10)] {
        first.save_source_port(place, port);
    }
    drop(first);
    // A daemon of the first release looks for version 2 here, and its keeper for what is not more.
    let mut layout = [0; 8];
    rustix::io::pread(&memfd, &mut layout, LAYOUT_OFFSET).unwrap();
    assert!(u64::from(u64::from_ne_bytes(layout) as u32) > OF_ONE_SOURCE);
    State::check(memfd.try_clone().unwrap()).unwrap();
    let second = open(&memfd).unwrap();
    assert!(second.is_of_several() && second.damaged_records() == 0);
    assert_eq!(ids.map(|id| second.node(id).unwrap().handle), [handle(1), handle(2)]);
    assert_eq!(second.find_node(&handle(2)), Some(ids[1]));
    assert_eq!(second.orphans()[0].1, handle(1));
    assert_eq!(second.orphans()[0].3, handle(2));
    let found = second.intent(2).unwrap();
    assert_eq!([found.object, found.other, found.made], [handle(3), handle(4), handle(5)]);
    assert_eq!(second.sources(), [5; 100_000]);
    let port = |place| second.source_port(place);
    assert_eq!([0, PORTS_OF_ONE, PORTS_OF_ONE + 1023].map(port), [Some(7), Some(8), Some(9)]);
    assert_eq!(port(PORTS_OF_ONE + 1024), None, "there is no room for so many");
    let one = open(&super::tests::memfd()).unwrap();
    assert!(!one.is_of_several() && one.sources().is_empty());
}

#[test]
fn what_does_not_fit_is_refused() {
    let state = open(&memfd()).unwrap();
    let invalid = |error: io::Error| assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    invalid(state.lookup_node(&Node { handle: vec![0; 66], fileid: 1, kind: 0 }).unwrap_err());
    invalid(state.open_handle(&OpenHandle { groups: vec![0; 17], ..handle(1) }).unwrap_err());
    invalid(state.add_orphan(&[0; 66], b"n", b"f").unwrap_err());
    invalid(state.add_orphan(b"d", &[b'n'; 256], b"f").unwrap_err());
    assert_eq!(state.find_node(&[0; 66]), None);
    assert_eq!((state.node_count(), state.handles().len(), state.orphans().len()), (0, 0, 0));
}

#[test]
fn a_full_region_is_an_error_until_something_leaves() {
    let regions = planned(&[(NODES, 10), (HANDLES, 3), (ORPHANS, 1)]);
    let state = State::open_with(memfd(), &regions).unwrap();
    let ids: Vec<u64> = (0..8).map(|number| state.lookup_node(&node(number)).unwrap()).collect();
    assert_eq!(state.lookup_node(&node(8)).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(state.lookup_node(&node(3)).unwrap(), ids[3], "a known node needs no room");
    assert!(state.forget_node(ids[0], 1));
    state.lookup_node(&node(8)).unwrap();
    let handles: Vec<u64> = (0..3).map(|number| state.open_handle(&handle(number)).unwrap()).collect();
    assert!(state.open_handle(&handle(3)).is_err());
    state.close_handle(handles[1]);
    assert!(state.open_handle(&handle(3)).is_ok());
    assert_eq!(state.handle(handles[1]), None);
    state.add_orphan(b"d", b"n", b"f").unwrap();
    assert!(state.add_orphan(b"d", b"n", b"f").is_err());
}

#[test]
fn every_torn_byte_is_noticed_and_costs_one_record() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    state.set_root(&node(0));
    let ids: Vec<u64> = (1..4).map(|number| state.lookup_node(&node(number)).unwrap()).collect();
    drop(state);
    let mutable = 16..16 + NODES.mutable * mapping::WORD;
    for byte in 0..NODES.words * mapping::WORD {
        damage(&memfd, place(ids[1]) + byte);
        let state = open(&memfd).unwrap();
        assert_eq!(state.damaged_records(), u64::from(!mutable.contains(&byte)), "byte {byte}");
        if !mutable.contains(&byte) {
            assert_eq!((state.node(ids[1]), state.forget_node(ids[1], 1)), (None, false));
            assert_eq!((state.node(ids[0]), state.node(ids[2])), (Some(node(1)), Some(node(3))));
            assert_eq!((state.node_count(), state.find_node(&node(2).handle)), (3, None));
            // Its slot stays out of use: its generation cannot be known.
            let id = state.lookup_node(&node(1000)).unwrap();
            assert_ne!(id as u32, ids[1] as u32);
            state.forget_node(id, 1);
        }
        damage(&memfd, place(ids[1]) + byte);
    }
    assert_eq!(open(&memfd).unwrap().node(ids[1]), Some(node(2)));
}

#[test]
fn an_alien_or_damaged_header_is_refused() {
    let refused = |memfd: &OwnedFd| open(memfd).err().map(|error| error.kind()) == Some(io::ErrorKind::InvalidData);
    let alien = memfd();
    rustix::io::pwrite(&alien, &[1; 8192], 0).unwrap();
    assert!(refused(&alien));
    let unsealed = memfd();
    rustix::fs::ftruncate(&unsealed, 1 << 30).unwrap();
    assert!(refused(&unsealed));
    let memfd = memfd();
    open(&memfd).unwrap().set_root(&node(0));
    for word in [0, 1, 2, 3, 8, 9, 10, 20] {
        damage(&memfd, word * 8);
        assert!(refused(&memfd), "word {word}");
        damage(&memfd, word * 8);
    }
    assert!(rustix::fs::ftruncate(&memfd, 4096).is_err(), "it cannot shrink under a daemon");
    assert_eq!(open(&memfd).unwrap().node(1), Some(node(0)));
}

#[test]
fn a_state_whose_formatting_was_cut_short_is_formatted_again() {
    let memfd = memfd();
    drop(open(&memfd).unwrap());
    rustix::io::pwrite(&memfd, &[0; 8], 0).unwrap(); // the magic is written last
    assert!(open(&memfd).is_err(), "it was opened before, so it had a beginning");
    rustix::io::pwrite(&memfd, &[0; 8], 4 * 8).unwrap();
    let state = open(&memfd).unwrap();
    assert_eq!((state.daemon_number(), state.is_resumed()), (1, false));
}

/// A state with a bit of everything, and what is in it.
fn filled() -> (OwnedFd, Vec<u64>, u64, u64) {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    state.set_root(&node(0));
    let ids = (1..3000).map(|number| state.lookup_node(&node(number)).unwrap()).collect();
    let fh = (0..600).map(|_| state.open_handle(&handle(3)).unwrap()).last().unwrap();
    let orphan = state.add_orphan(b"d", b"n", b"f").unwrap();
    state.begin(77, &intent()).unwrap();
    state.save_blob(b"blob");
    state.save_agreement(AGREED);
    state.save_source_port(3, 1003);
    (memfd, ids, fh, orphan)
}

const AGREED: [u64; AGREEMENT_WORDS] = [45, 1 << 39, 3];

#[test]
fn a_damaged_number_of_slots_costs_nothing() {
    for (row, value) in (0..11).flat_map(|row| [0, 0x20, u64::MAX, 1 << 63].map(|value| (row, value))) {
        let (memfd, ids, fh, orphan) = filled();
        let word = 8 + row * 4 + 3;
        let mut before = [0; 8];
        rustix::io::pread(&memfd, &mut before, word * 8).unwrap();
        let value = if value == 0 { 0 } else { u64::from_ne_bytes(before) ^ value };
        rustix::io::pwrite(&memfd, &value.to_ne_bytes(), word * 8).unwrap();
        let state = open(&memfd).unwrap();
        let place = format!("row {row}, {value:#x}");
        assert_eq!((state.damaged_records(), state.node_count()), (0, 3000), "{place}");
        for (number, id) in (1..).zip(&ids) {
            assert_eq!(state.node(*id), Some(node(number)), "{place}");
        }
        assert_eq!((state.handle(fh), state.handles().len()), (Some(handle(3)), 600), "{place}");
        assert_eq!(state.orphans().first().map(|found| found.0), Some(orphan), "{place}");
        assert_eq!((state.intent(77), state.blob()), (Some(intent()), b"blob".to_vec()), "{place}");
        assert_eq!((state.agreement(), state.source_port(3)), (Some(AGREED), Some(1003)), "{place}");
        let new = state.lookup_node(&node(5000)).unwrap();
        assert!(!ids.contains(&new), "{place}");
        drop(state);
        assert_eq!(open(&memfd).unwrap().node_count(), 3001, "{place}");
    }
}

#[test]
fn what_a_session_cannot_do_without_is_kept_twice() {
    // The fourth and the fifth region: two records of each.
    for (row, words) in [(3, BLOB.words), (4, AGREEMENT.words)] {
        for record in 0..2 {
            let (memfd, ..) = filled();
            let mut first = [0; 8];
            rustix::io::pread(&memfd, &mut first, (8 + row * 4 + 2) * 8).unwrap();
            let at = u64::from_ne_bytes(first) as usize * 8 + record * words * 8;
            for word in [0, 1, 3] {
                damage(&memfd, at + word * 8);
            }
            let state = open(&memfd).unwrap();
            assert_eq!((state.agreement(), state.blob()), (Some(AGREED), b"blob".to_vec()));
            assert_eq!((state.is_resumed(), state.damaged_records()), (true, 1));
            drop(state);
            assert_eq!(open(&memfd).unwrap().damaged_records(), 0, "it was made good");
        }
    }
}

#[test]
fn the_root_outlives_the_damage_of_its_record_under_a_daemon() {
    for byte in 0..NODES.words * mapping::WORD {
        let memfd = memfd();
        open(&memfd).unwrap().set_root(&node(7));
        let state = open(&memfd).unwrap();
        damage(&memfd, place(1) + byte);
        assert_eq!((state.node(1), state.node_kind(1)), (Some(node(7)), Some(node(7).kind)), "byte {byte}");
        drop(state);
        let mutable = 16..48;
        let next = open(&memfd).unwrap();
        assert_eq!(next.node(1).is_some(), mutable.contains(&byte), "byte {byte}: the next one is told");
        next.set_root(&node(7));
        drop(next);
        assert_eq!((open(&memfd).unwrap().node(1), open(&memfd).unwrap().node_count()), (Some(node(7)), 1));
    }
}

#[test]
fn a_release_without_copies_changes_a_value_and_back() {
    let (memfd, ..) = filled();
    let state = open(&memfd).unwrap();
    let (former, damaged) = Pair::open(state.header.region(&BLOB).unwrap()).unwrap();
    drop(state);
    assert_eq!(damaged, 0);
    let mut sealed = [0; BLOB.sealed()];
    sealed[0] = 3;
    record::pack(b"new", &mut sealed[1..]);
    former.set(&sealed);
    let state = open(&memfd).unwrap();
    assert_eq!((state.blob(), state.damaged_records()), (b"new".to_vec(), 0));
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
    let mut seed = 88_172_645_463_325_252_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
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

/// The words of the journal's first record.
fn first_intent(memfd: &OwnedFd) -> Vec<u8> {
    let mut words = vec![0; JOURNAL.words * mapping::WORD];
    rustix::io::pread(memfd, &mut words, journal_start(memfd)).unwrap();
    words
}

fn journal_start(memfd: &OwnedFd) -> u64 {
    let header = Header::open(memfd.try_clone().unwrap(), REGIONS).unwrap();
    (header.place(&JOURNAL).unwrap().base * mapping::WORD) as u64
}

pub fn intent() -> Intent {
    Intent { xid: 7, place: 9, object: vec![5; 64], other: vec![6; 17], made: Vec::new() }
}

#[test]
fn the_journal_survives_the_daemon() {
    let memfd = memfd();
    let first = open(&memfd).unwrap();
    for unique in [2, 4, 6, 8] {
        first.begin(unique, &intent()).unwrap();
    }
    first.note_made(4, b"made");
    first.journal().save_answer(6, 17, b"");
    first.journal().save_answer(6, 0, &[3; journal::ANSWER_MAX]);
    first.journal().save_answer(10, 0, b"nobody began it");
    first.journal().end(8);
    let moved = Intent { place: 10, ..intent() };
    first.begin(2, &moved).unwrap();
    drop(first);

    let second = open(&memfd).unwrap();
    assert_eq!((second.damaged_records(), second.intents()), (0, 3));
    assert_eq!(second.intent(2), Some(moved));
    assert_eq!(second.intent(4), Some(Intent { made: b"made".to_vec(), ..intent() }));
    assert_eq!([2, 4, 6, 8].map(|unique| second.journal().answer(unique).is_some()), [false, false, true, false]);
    assert_eq!(second.journal().answer(6), Some((0, vec![3; journal::ANSWER_MAX])));
    second.journal().claim(4);
    second.begin(12, &intent()).unwrap();
    assert_eq!(second.journal().drop_unclaimed(), 2, "what was not delivered again");
    assert_eq!([2, 4, 6, 12].map(|unique| second.intent(unique).is_some()), [false, true, false, true]);
    drop(second);
    assert_eq!(open(&memfd).unwrap().intents(), 2);
}

/// A SIGKILL between two stores: of the words that an update stores, those up to any one are new, and also any one is
/// old.
#[test]
fn a_torn_update_of_the_journal_counts_as_none() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    state.begin(2, &Intent::default()).unwrap();
    state.journal().end(2); // a slot that was used before
    let start = journal_start(&memfd);
    type Step = (&'static str, fn(&State), fn(&State) -> bool);
    let steps: [Step; 3] = [
        ("begin", |state| state.begin(2, &intent()).unwrap(), |state| state.intent(2) == Some(intent())),
        ("note", |state| state.note_made(2, &[9; 64]), |state| state.intent(2).is_some_and(|it| it.made == [9; 64])),
        (
            "answer",
            |state| state.journal().save_answer(2, 0, &[8; 144]),
            |state| state.journal().answer(2) == Some((0, vec![8; 144])),
        ),
    ];
    for (name, step, is_done) in steps {
        let before = first_intent(&memfd);
        step(&state);
        let after = first_intent(&memfd);
        let changed: Vec<usize> =
            (0..JOURNAL.words).filter(|word| before[word * 8..][..8] != after[word * 8..][..8]).collect();
        assert!(changed.len() > 2, "{name} stores {} words", changed.len());
        let old_words = |torn: &mut Vec<u8>, words: &[usize]| {
            words.iter().for_each(|word| torn[word * 8..][..8].copy_from_slice(&before[word * 8..][..8]));
        };
        for index in 0..changed.len() {
            for old in [&changed[index..], &changed[index..=index], &changed[..=index]] {
                let mut torn = after.clone();
                old_words(&mut torn, old);
                rustix::io::pwrite(&memfd, &torn, start).unwrap();
                let successor = open(&memfd).unwrap();
                assert!(!is_done(&successor), "{name} is believed though words {old:?} are torn");
                assert!(name == "begin" || successor.intent(2).is_some(), "{name} has torn the intent, words {old:?}");
            }
        }
        rustix::io::pwrite(&memfd, &after, start).unwrap();
        assert!(is_done(&open(&memfd).unwrap()), "{name}");
    }
}

#[test]
fn a_state_without_a_journal_is_taken_over_and_one_with_more_is_too() {
    let memfd = memfd();
    drop(open(&memfd).unwrap());
    // As another release would have made it: the row of the journal has a tag that we do not know.
    let header = Header::open(memfd.try_clone().unwrap(), REGIONS).unwrap();
    header.retag_for_test(JOURNAL, 200);
    let state = open(&memfd).unwrap();
    assert!(!state.has_journal());
    state.begin(2, &intent()).unwrap();
    assert_eq!((state.intent(2), state.intents()), (None, 0));
}

#[test]
fn source_ports_survive() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    assert_eq!(state.source_port(0), None);
    for connection in [0, 5, 63, 64] {
        state.save_source_port(connection, 700 + connection as u16);
    }
    state.save_source_port(5, 999);
    let next = open(&memfd).unwrap();
    assert_eq!(
        [0, 1, 5, 63, 64].map(|connection| next.source_port(connection)),
        [Some(700), None, Some(999), Some(763), None]
    );
}

/// FORGETs that come while the index is being made: each slot is given back exactly once.
#[test]
fn forgets_beside_the_scan_free_each_slot_once() {
    const COUNT: u64 = 20_000;
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    let ids: Vec<u64> = (0..COUNT).map(|number| state.lookup_node(&node(number)).unwrap()).collect();
    drop(state);
    let header = Header::open(memfd.try_clone().unwrap(), REGIONS).unwrap();
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
fn failures_survive_and_are_replaced_and_dropped() {
    let memfd = memfd();
    {
        let first = open(&memfd).unwrap();
        first.set_failure(FailureOf::File(7), 1 << 32 | 5).unwrap();
        first.set_failure(FailureOf::Open(7), 1).unwrap();
        first.set_failure(FailureOf::File(8), 3).unwrap();
        first.set_failure(FailureOf::File(7), 2 << 32 | 116).unwrap();
        first.remove_failure(FailureOf::File(8));
        first.remove_failure(FailureOf::File(9));
    }
    let mut found = open(&memfd).unwrap().failures();
    found.sort_by_key(|(_, number)| *number);
    assert_eq!(found, [(FailureOf::Open(7), 1), (FailureOf::File(7), 2 << 32 | 116)]);
}

#[test]
fn a_state_without_failures_does_without() {
    let memfd = memfd();
    drop(open(&memfd).unwrap());
    let header = Header::open(memfd.try_clone().unwrap(), REGIONS).unwrap();
    header.retag_for_test(FAILURES, 200);
    let state = open(&memfd).unwrap();
    state.set_failure(FailureOf::File(7), 1).unwrap();
    state.remove_failure(FailureOf::File(7));
    assert_eq!(state.failures(), []);
    State::check(memfd.try_clone().unwrap()).unwrap();
}

#[test]
fn a_request_closes_what_it_opened_under_a_predecessor_alone() {
    let memfd = memfd();
    let first = open(&memfd).unwrap();
    let (one, two) = (first.open_handle(&handle(4)).unwrap(), first.open_handle(&handle(6)).unwrap());
    drop(first);
    let second = open(&memfd).unwrap();
    let own = second.open_handle(&handle(10)).unwrap();
    second.close_handle(two);
    assert_eq!([4, 4, 6, 10].map(|node| second.close_opened_by(8 * node)), [Some(one), None, None, None]);
    assert!(second.handle(own).is_some());
    drop(second);
    let third = open(&memfd).unwrap();
    third.forget_openers();
    assert_eq!(third.close_opened_by(80), None);
    assert_eq!(third.handles().len(), 1);
}

fn version(number: u64) -> DataVersion {
    DataVersion { mtime: number << 32 | 5, ctime: number << 32 | 6, size: number }
}

#[test]
fn versions_of_pages_survive_the_daemon_and_belong_to_one_use_of_a_slot() {
    let memfd = memfd();
    let first = open(&memfd).unwrap();
    let nodes: Vec<u64> = (0..300).map(|number| first.lookup_node(&node(number)).unwrap()).collect();
    for (number, id) in nodes.iter().enumerate().step_by(150) {
        first.set_page_version(*id, version(7));
        first.set_page_version(*id, version(number as u64));
    }
    assert_eq!(first.page_version(nodes[1]), None);
    drop(first);
    let second = open(&memfd).unwrap();
    assert_eq!([0, 150, 149].map(|at| second.page_version(nodes[at])), [Some(version(0)), Some(version(150)), None]);
    assert!(second.forget_node(nodes[150], 1));
    let next = second.lookup_node(&node(1000)).unwrap();
    assert_eq!(record::Id::from(next).slot, record::Id::from(nodes[150]).slot, "the slot is used again");
    assert_eq!(second.page_version(next), None);
    second.set_page_version(next, version(8));
    second.set_page_version(nodes[150], version(9)); // by somebody who has not heard that it is gone
    assert_eq!((second.page_version(next), second.page_version(nodes[150])), (Some(version(8)), None));
}

#[test]
fn a_torn_version_of_pages_counts_as_missing() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    let id = state.lookup_node(&node(3)).unwrap();
    state.set_page_version(id, version(3));
    let place = state.header.place(&PAGES).unwrap();
    let start = (place.base + record::Id::from(id).slot as usize * PAGES.words) * mapping::WORD;
    for word in 0..PAGES.words {
        damage(&memfd, start + word * mapping::WORD);
        assert_eq!(state.page_version(id), None, "word {word}");
        damage(&memfd, start + word * mapping::WORD);
    }
    assert_eq!(state.page_version(id), Some(version(3)));
}

#[test]
fn a_state_of_an_older_release_keeps_versions_of_pages_in_memory() {
    let memfd = memfd();
    let first = open(&memfd).unwrap();
    let id = first.lookup_node(&node(3)).unwrap();
    first.header.retag_for_test(PAGES, 200);
    drop(first);
    let second = open(&memfd).unwrap();
    second.set_page_version(id, version(3));
    assert_eq!(second.page_version(id), Some(version(3)));
    assert!(second.forget_node(id, 1));
    assert_eq!(second.page_version(id), None);
    drop(second);
    assert_eq!(open(&memfd).unwrap().page_version(id), None);
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
