//! Tests of the whole saved state. That a real SIGKILL leaves it whole is tested with real processes, in `tests/mount`.

mod calls;
mod damage;
mod failures;
mod journal;
mod nodes;
mod pages;
mod payloads;
mod releases;
mod shrinking;

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;

use super::layout::Header;
use super::regions::{Format, HANDLES, NODES, ORPHANS, REGIONS};
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

pub fn intent() -> Intent {
    Intent { xid: 7, place: 9, object: vec![5; 64], other: vec![6; 17], made: Vec::new() }
}

/// Random numbers below a limit; a seed replays them.
pub fn random(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    }
}

pub fn header(memfd: &OwnedFd) -> Header {
    Header::open(memfd.try_clone().unwrap(), REGIONS).unwrap()
}

/// Where a region begins in the memfd, in bytes.
pub fn place_of(memfd: &OwnedFd, format: &Format) -> usize {
    header(memfd).place(format).unwrap().base * mapping::WORD
}

/// Gives the row of a region another tag. With one that we do not know, it is as another release would have made it.
pub fn retag(memfd: &OwnedFd, format: Format, tag: u8) {
    header(memfd).retag_for_test(format, tag);
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
