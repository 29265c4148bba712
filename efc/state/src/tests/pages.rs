//! Tests of the versions of the kernel's pages.

use super::super::regions::PAGES;
use super::super::*;
use super::{damage, memfd, node, open};

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
