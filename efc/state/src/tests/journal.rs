//! Tests of the journal: intents and answers of requests that must not be executed twice.

use std::os::fd::OwnedFd;

use super::super::regions::JOURNAL;
use super::super::*;
use super::{handle, intent, memfd, open, place_of, retag};

/// The words of the journal's first record.
fn first_intent(memfd: &OwnedFd) -> Vec<u8> {
    let mut words = vec![0; JOURNAL.words * mapping::WORD];
    rustix::io::pread(memfd, &mut words, journal_start(memfd)).unwrap();
    words
}

fn journal_start(memfd: &OwnedFd) -> u64 {
    place_of(memfd, &JOURNAL) as u64
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
    retag(&memfd, JOURNAL, 200);
    let state = open(&memfd).unwrap();
    assert!(!state.has_journal());
    state.begin(2, &intent()).unwrap();
    assert_eq!((state.intent(2), state.intents()), (None, 0));
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
