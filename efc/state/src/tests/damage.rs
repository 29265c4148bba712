//! Tests of damaged states: torn records, damaged headers, and what is kept twice for that.

use std::io;
use std::os::fd::OwnedFd;

use super::super::pair::Pair;
use super::super::regions::{AGREEMENT, BLOB, NODES};
use super::super::*;
use super::{damage, handle, intent, memfd, node, open, place};

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
