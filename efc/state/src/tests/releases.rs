//! Tests of states that another release has made: one of 0.1.0's, and those with a region more or less than ours.

use std::os::fd::OwnedFd;

use super::super::layout::Header;
use super::super::regions::{AREAS, Format, NODES, PAGES, REGIONS, Release};
use super::super::side::{Fact, Side};
use super::super::*;
use super::{handle, intent, memfd, node, open};

/// A state that the program of release 0.1.0 has made: its size, and each word that is not 0, in hexadecimal digits.
const OF_0_1_0: &str = include_str!("state-0.1.0.txt");

fn made_by_0_1_0() -> OwnedFd {
    let memfd = memfd();
    let number = |digits: &str| u64::from_str_radix(digits, 16).unwrap();
    for line in OF_0_1_0.lines() {
        let (first, second) = line.split_once(' ').unwrap();
        if first == "size" {
            rustix::fs::ftruncate(&memfd, number(second)).unwrap();
            rustix::fs::fcntl_add_seals(&memfd, rustix::fs::SealFlags::SHRINK).unwrap();
        } else {
            rustix::io::pwrite(&memfd, &number(second).to_ne_bytes(), number(first) * 8).unwrap();
        }
    }
    memfd
}

#[test]
fn all_that_the_first_release_has_saved_is_found() {
    let memfd = made_by_0_1_0();
    State::check(memfd.try_clone().unwrap()).unwrap();
    let state = open(&memfd).unwrap();
    assert_eq!((state.daemon_number(), state.is_resumed(), state.damaged_records()), (2, true, 0));
    let (one, three) = (0x1_0000_0002, 0x1_0000_0004);
    let file = |number: u8, length| Node { handle: vec![number; length], fileid: number.into(), kind: 0o100_000 };
    assert_eq!(state.node(1), Some(Node { handle: vec![9; 28], fileid: 2, kind: 0o040_000 }));
    assert_eq!((state.node(one), state.node(three)), (Some(file(1, 64)), Some(file(3, 8))));
    assert_eq!((state.node_count(), state.find_node(&[2; 33]), state.parent(one)), (3, None, Some(1)));
    assert!(!state.forget_node(one, 1) && state.forget_node(one, 1), "it was looked up twice");
    let opened = OpenHandle {
        node: one,
        flags: 0x8002,
        uid: 1000,
        gid: 1001,
        groups: vec![5, 6, 7],
        directory: false,
        cookie_verifier: [3; 8],
        unique: 80,
        backing: 0,
    };
    assert_eq!(state.handles(), [(0x1_0000_0000, opened)]);
    assert_eq!(state.orphans(), [(0x1_0000_0000, b"directory".to_vec(), b"name".to_vec(), b"file".to_vec())]);
    assert_eq!(
        (state.blob(), state.agreement()),
        (b"what the daemon knows of its server".to_vec(), Some([45, 1 << 39, 3]))
    );
    assert_eq!((state.source_port(3), state.source_port(2)), (Some(1003), None));
    let begun = Intent { xid: 77, place: 88, object: vec![4; 20], other: vec![5; 30], made: vec![6; 40] };
    assert_eq!((state.intent(82), state.journal().answer(82)), (Some(begun), Some((17, b"answered".to_vec()))));
    assert!(!state.may_hold_back(), "0.1.0 has left no room for calls in flight");
    let [(_, write)] = state.take_saved_writes().try_into().unwrap();
    assert_eq!(
        (&write.data[..], write.node, write.offset, write.verifier),
        (&b"written data"[..], three, 4096, [7; 8])
    );
    assert_eq!((write.uid, write.gid, write.groups, state.unkept(three)), (10, 11, vec![12], None));
    assert_eq!(write.unanswered, None);
    let requests = state.requests().unwrap();
    let [request] = requests.take_over().try_into().map_err(|_| "one request").unwrap();
    assert_eq!((request.len(), requests.answer(request.slot, 90)), (100, Some((5, b"content".to_vec()))));
}

#[test]
fn what_came_after_the_first_release_does_without_in_its_states() {
    let memfd = made_by_0_1_0();
    let state = open(&memfd).unwrap();
    state.set_failure(FailureOf::File(0x1_0000_0002), 1).unwrap();
    let version = DataVersion { mtime: 1, ctime: 2, size: 3 };
    state.set_page_version(0x1_0000_0002, version);
    assert_eq!((state.failures(), state.page_version(0x1_0000_0002)), (vec![], Some(version)));
    drop(state);
    assert_eq!(open(&memfd).unwrap().page_version(0x1_0000_0002), None);
}

/// Uses a bit of everything.
fn use_all(state: &State) {
    state.set_root(&node(0));
    let id = state.lookup_node(&node(1)).unwrap();
    state.set_page_version(id, DataVersion { mtime: 1, ctime: 2, size: 3 });
    state.set_uncommitted(id, Some([7; 8]));
    state.open_handle(&handle(id)).unwrap();
    state.add_orphan(b"d", b"n", b"f").unwrap();
    state.set_failure(FailureOf::File(id), 5).unwrap();
    state.begin(77, &intent()).unwrap();
    state.save_blob(b"blob");
    state.save_agreement([1, 2, 3]);
    state.save_source_port(3, 1003);
    if let Ok(kept) = state.keep(b"data") {
        let data = kept.bytes().clone();
        let checksum = payload_checksum(&data);
        let (verifier, uid, gid, groups, unanswered) = ([7; 8], 0, 0, Vec::new(), None);
        let write = UncommittedWrite { node: id, offset: 0, data, checksum, verifier, uid, gid, groups, unanswered };
        state.save_write(&kept, &write).unwrap();
    }
}

#[test]
fn each_region_that_is_optional_can_be_missing_and_no_other() {
    for missing in REGIONS {
        let others: Vec<Format> = REGIONS.iter().filter(|format| *format != missing).copied().collect();
        let memfd = memfd();
        let opened = State::open_with(memfd.try_clone().unwrap(), &others);
        assert_eq!(opened.is_ok(), missing.is_optional, "{}", missing.name);
        let Ok(state) = opened else { continue };
        use_all(&state);
        drop(state);
        State::check(memfd.try_clone().unwrap()).unwrap();
        let successor = open(&memfd).unwrap();
        assert_eq!((successor.damaged_records(), successor.node_count()), (0, 2), "{}", missing.name);
        assert_eq!((successor.handles().len(), successor.orphans().len()), (1, 1), "{}", missing.name);
        assert_eq!((successor.blob(), successor.agreement()), (b"blob".to_vec(), Some([1, 2, 3])), "{}", missing.name);
    }
}

/// A kind of fact that a later release knows of.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Later(u64);

impl Fact<1> for Later {
    const FORMAT: Format = Format { name: "LATER", tag: 250, words: 2, since: Release(9, 9, 9), ..PAGES };

    fn to_words(self) -> [u64; 1] {
        [self.0]
    }

    fn from_words([word]: [u64; 1]) -> Later {
        Later(word)
    }
}

/// The table of a later release, which has one row more.
fn later_regions() -> Vec<Format> {
    let (areas, others) = REGIONS.split_last().unwrap();
    assert_eq!((*areas, Later::FORMAT.capacity), (AREAS, NODES.capacity));
    [others, &[Later::FORMAT, *areas]].concat()
}

#[test]
fn a_region_of_a_later_release_is_left_alone_by_an_earlier_one() {
    let memfd = memfd();
    let regions = later_regions();
    let header = Header::open(memfd.try_clone().unwrap(), &regions).unwrap();
    let facts: Side<Later, 1> = Side::open(&header).unwrap();
    let state = open(&memfd).unwrap();
    let id = state.lookup_node(&node(5)).unwrap();
    facts.set(id, Later(17));
    drop((state, facts));
    let earlier = open(&memfd).unwrap();
    use_all(&earlier);
    assert_eq!(earlier.find_node(&node(5).handle), Some(id));
    drop(earlier);
    let facts: Side<Later, 1> = Side::open(&header).unwrap();
    assert_eq!((facts.get(id), facts.get(id + 1)), (Some(Later(17)), None));
    let again = open(&memfd).unwrap();
    assert_eq!((again.damaged_records(), again.orphans().len(), again.intents()), (0, 1, 1));
}

#[test]
fn a_region_that_an_earlier_release_did_not_make_costs_its_facts_alone() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    let header = Header::open(memfd.try_clone().unwrap(), &later_regions()).unwrap();
    let facts: Side<Later, 1> = Side::open(&header).unwrap();
    let id = state.lookup_node(&node(5)).unwrap();
    facts.set(id, Later(17));
    assert_eq!(facts.get(id), Some(Later(17)));
    facts.forget(id);
    assert_eq!(facts.get(id), None);
    facts.set(id, Later(18));
    let successor: Side<Later, 1> = Side::open(&header).unwrap();
    assert_eq!(successor.get(id), None);
}
