//! A SIGKILL is the end of one [`State`] and the beginning of another on the same memfd. What the kernel would do is
//! done by hand.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::MemfdFlags;

use super::super::State;
use super::super::journal::ANSWER_MAX;
use super::super::layout::Header;
use super::super::mapping::WORD;
use super::super::regions::{Format, REGIONS};
use super::super::tests::{planned, random, retag};
use super::predecessors::{SETTLED_AFTER, SETTLED_LOOKS, unique_of};
use super::slots::{ANSWER_HEAD, IDLE_TIME_MAX, KEPT_AREAS, SMALL_MAX};
use super::*;

const LARGE: usize = 200_000;

fn memfd() -> OwnedFd {
    rustix::fs::memfd_create("efc-requests-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap()
}

fn open(memfd: &OwnedFd, regions: &[Format]) -> Arc<Requests> {
    let state = State::open_with(memfd.try_clone().unwrap(), regions).unwrap();
    Arc::clone(state.requests().expect("a place for requests"))
}

fn plan() -> Vec<Format> {
    planned(&[(REQUESTS, 12), (AREAS, 6)])
}

/// As the kernel writes it: length, opcode, unique.
fn message(unique: u64, length: usize) -> Vec<u8> {
    let mut message: Vec<u8> = (0..length as u64).map(|index| (index * unique) as u8).collect();
    message[..4].copy_from_slice(&(length as u32).to_ne_bytes());
    message[8..16].copy_from_slice(&unique.to_ne_bytes());
    message
}

/// What read(2) does.
fn read(inbox: &mut Inbox, message: &[u8]) {
    inbox.room()[..message.len()].copy_from_slice(message);
}

fn keep(requests: &Arc<Requests>, message: &[u8]) -> KeptRequest {
    let mut inbox = requests.arm();
    read(&mut inbox, message);
    inbox.keep(message.len(), None).expect("not superseded").0
}

fn contents(found: &[KeptRequest]) -> Vec<Vec<u8>> {
    found.iter().map(|kept| kept.to_vec()).collect()
}

#[test]
fn what_was_read_is_found_once_wherever_its_reader_was_killed() {
    for length in [40, SMALL_MAX, SMALL_MAX + 1, LARGE, MESSAGE_MAX] {
        let expected = [message(77, length)];
        type Step = fn(&Arc<Requests>, &[u8]);
        let steps: [(&str, Step, bool); 6] = [
            ("armed", |requests, _| drop(requests.arm()), false),
            ("read", |requests, message| read(&mut requests.arm(), message), true),
            (
                "copied, and still armed",
                |requests, message| {
                    let mut inbox = requests.arm();
                    read(&mut inbox, message);
                    if message.len() <= SMALL_MAX {
                        requests.slots.copy(message);
                    }
                },
                true,
            ),
            ("kept", |requests, message| drop(keep(requests, message)), true),
            (
                "answered",
                |requests, message| {
                    let kept = keep(requests, message);
                    requests.save_answer(kept.slot, 77, 0, b"answer");
                    requests.end(kept.slot);
                },
                false,
            ),
            (
                "forgotten",
                |requests, message| {
                    let mut inbox = requests.arm();
                    read(&mut inbox, message);
                    drop(inbox.again().expect("not superseded"));
                },
                false,
            ),
        ];
        for (name, step, is_there) in steps {
            let memfd = memfd();
            step(&open(&memfd, &plan()), &expected[0]);
            let successor = open(&memfd, &plan());
            let found = successor.take_over();
            let wanted = if is_there { &expected[..] } else { &[] };
            assert_eq!(contents(&found), wanted, "{name}, {length} bytes");
            assert!(successor.is_settled() && successor.take_over().is_empty(), "{name}: found a second time");
            // The next one finds it too, until it is answered.
            let third = open(&memfd, &plan());
            let found = third.take_over();
            assert_eq!(contents(&found), wanted, "{name}, {length} bytes, after two kills");
            found.iter().for_each(|kept| third.end(kept.slot));
            assert!(open(&memfd, &plan()).take_over().is_empty(), "{name}: answered");
        }
    }
}

#[test]
fn a_saved_answer_is_found_with_its_request() {
    for length in [60, LARGE] {
        let memfd = memfd();
        let first = open(&memfd, &plan());
        let kept = keep(&first, &message(8, length));
        assert_eq!(first.answer(kept.slot, 8), None);
        first.save_answer(kept.slot, 8, 17, b"");
        first.save_answer(kept.slot, 8, 0, &[3; ANSWER_MAX]);
        let other = keep(&first, &message(10, length));
        first.save_answer(other.slot, 10, 0, &[3; ANSWER_MAX + 1]);
        let second = open(&memfd, &plan());
        let found = second.take_over();
        let answers: Vec<_> = found.iter().map(|kept| second.answer(kept.slot, unique_of(kept).unwrap())).collect();
        assert_eq!(answers, [Some((0, vec![3; ANSWER_MAX])), None], "one that does not fit is no answer");
        assert_eq!(second.answer(found[0].slot, 9), None, "nor is that of another request");
    }
}

/// Of the words that a step stores, those up to any one are new, and also any one is old.
#[test]
fn a_torn_slot_is_not_believed() {
    let memfd = memfd();
    let requests = open(&memfd, &plan());
    let before_use = keep(&requests, &message(2, 1000));
    requests.save_answer(before_use.slot, 2, 5, &[9; 100]);
    requests.end(before_use.slot); // a slot that was used before
    let place = {
        let header = Header::open(memfd.try_clone().unwrap(), &plan()).unwrap();
        (header.place(&REQUESTS).unwrap().base + before_use.slot as usize * REQUESTS.words) * WORD
    };
    let words = || {
        let mut bytes = vec![0; REQUESTS.words * WORD];
        rustix::io::pread(&memfd, &mut bytes, place as u64).unwrap();
        bytes
    };
    let seen = || {
        let successor = open(&memfd, &plan());
        let found = successor.take_over();
        let answer = found.first().and_then(|kept| successor.answer(kept.slot, 4));
        (contents(&found), answer)
    };
    let expected = message(4, 500);
    for step in ["copy", "answer"] {
        let before = words();
        match step {
            "copy" => assert_eq!(requests.slots.copy(&expected), Some(before_use.slot)),
            _ => requests.save_answer(before_use.slot, 4, 0, &[8; 144]),
        }
        let after = words();
        let changed: Vec<usize> =
            (0..REQUESTS.words).filter(|word| before[word * 8..][..8] != after[word * 8..][..8]).collect();
        assert!(changed.len() > 10, "{step} stores {} words", changed.len());
        for index in 0..changed.len() {
            for old in [&changed[index..], &changed[index..=index], &changed[..=index]] {
                let mut torn = after.clone();
                old.iter().for_each(|word| torn[word * 8..][..8].copy_from_slice(&before[word * 8..][..8]));
                rustix::io::pwrite(&memfd, &torn, place as u64).unwrap();
                let (found, answer) = seen();
                let is_right = match step {
                    // The head of an older answer does no harm: it belongs to another unique.
                    "copy" if *old == [ANSWER_HEAD] => found == [&expected[..]] && answer.is_none(),
                    "copy" => found.is_empty(),
                    _ => found == [&expected[..]] && answer.is_none(),
                };
                assert!(is_right, "{step} with old words {old:?}: {} requests, {answer:?}", found.len());
            }
        }
        rustix::io::pwrite(&memfd, &after, place as u64).unwrap();
    }
    assert_eq!(seen(), (vec![expected], Some((0, vec![8; 144]))));
}

#[test]
fn a_reader_waits_when_all_is_taken() {
    let requests = open(&memfd(), &planned(&[(REQUESTS, 3), (AREAS, 2)]));
    let small = keep(&requests, &message(2, 100));
    let large = keep(&requests, &message(4, LARGE)); // beside the inbox of the first
    let (sender, armed) = std::sync::mpsc::channel();
    let waiting = Arc::clone(&requests);
    let reader = std::thread::spawn(move || {
        let mut inbox = waiting.arm();
        read(&mut inbox, &message(6, 100));
        sender.send(()).unwrap();
        inbox.keep(100, None).unwrap().0.slot
    });
    assert!(armed.recv_timeout(Duration::from_millis(300)).is_err(), "no area is free");
    let area = large.lease().expect("for its payload");
    requests.end(large.slot);
    drop(large);
    assert!(armed.recv_timeout(Duration::from_millis(300)).is_err(), "the payload is still used");
    drop(area);
    armed.recv_timeout(Duration::from_secs(10)).expect("an area is free");
    assert_ne!(reader.join().unwrap(), small.slot);
}

#[test]
fn a_small_message_without_a_slot_stays_in_its_area() {
    let memfd = memfd();
    let plan = planned(&[(REQUESTS, 2), (AREAS, 2)]);
    let requests = open(&memfd, &plan);
    let mut inbox = requests.arm();
    let other = requests.arm();
    read(&mut inbox, &message(2, 100));
    let (kept, rest) = inbox.keep(100, None).unwrap();
    assert!(rest.is_none() && kept[..] == message(2, 100));
    drop(other);
    assert_eq!(contents(&open(&memfd, &plan).take_over()), [message(2, 100)]);
}

#[test]
fn one_who_is_superseded_changes_nothing_any_more() {
    let memfd = memfd();
    let first = open(&memfd, &plan());
    let kept = keep(&first, &message(2, 100));
    let (mut inbox, mut copied) = (first.arm(), first.arm());
    read(&mut inbox, &message(4, LARGE));
    read(&mut copied, &message(6, 50));
    let second = open(&memfd, &plan());
    assert_eq!(second.take_over().len(), 3);
    first.end(kept.slot);
    assert!(inbox.keep(LARGE, None).is_none() && copied.again().is_none());
    assert_eq!(open(&memfd, &plan()).take_over().len(), 3, "they are the successor's");
}

#[test]
fn a_slot_that_was_a_predecessors_is_nobody_elses_on_its_way_to_be_used() {
    let memfd = memfd();
    let kept = keep(&open(&memfd, &plan()), &message(2, 100));
    let second = open(&memfd, &plan());
    let mut predecessors = second.predecessors.lock().unwrap();
    let found = predecessors.take_over_from(&second.slots, false);
    assert_eq!(found.iter().map(|found| found.slot).collect::<Vec<_>>(), [kept.slot], "while it is still ending");
    second.end(kept.slot);
    let (slot, _area) = second.slots.take();
    assert_eq!(slot, kept.slot, "a thread is about to arm it");
    predecessors.take_over_from(&second.slots, true);
    let others: Vec<u32> = std::iter::from_fn(|| second.slots.copy(&message(4, 100))).collect();
    assert!(others.len() > 5 && !others.contains(&slot), "{others:?}");
}

#[test]
fn what_was_copied_is_not_executed_again_from_where_it_was_read() {
    let memfd = memfd();
    let first = open(&memfd, &plan());
    let mut inbox = first.arm();
    read(&mut inbox, &message(2, 100));
    first.slots.copy(&message(2, 100)).unwrap(); // and killed before it could read again
    let second = open(&memfd, &plan());
    let found = second.predecessors.lock().unwrap().take_over_from(&second.slots, false);
    assert_eq!(contents(&found), [message(2, 100)], "while the first is still ending");
    found.iter().for_each(|kept| second.end(kept.slot)); // answered, and killed as well
    assert!(open(&memfd, &plan()).take_over().is_empty(), "a second time");
}

#[test]
fn an_area_that_is_read_into_again_does_not_look_as_what_was_in_it() {
    let memfd = memfd();
    let first = open(&memfd, &plan());
    let mut inbox = first.arm();
    read(&mut inbox, &message(2, 100));
    let (_, inbox) = inbox.keep(100, None).unwrap();
    inbox.unwrap().room()[..8].copy_from_slice(&message(4, 100)[..8]); // the kernel has come that far
    let second = open(&memfd, &plan());
    let mut predecessors = second.predecessors.lock().unwrap();
    assert_eq!(predecessors.take_over_from(&second.slots, false).len(), 1);
    assert_eq!(predecessors.take_over_from(&second.slots, true).len(), 1, "the other is not thrown away");
}

#[test]
fn a_message_that_may_still_be_copied_is_waited_for() {
    let memfd = memfd();
    let first = open(&memfd, &plan());
    read(&mut first.arm(), &message(2, LARGE));
    let second = open(&memfd, &plan());
    let mut predecessors = second.predecessors.lock().unwrap();
    let mut look = || predecessors.take_over_from(&second.slots, false).len();
    assert_eq!(look(), 0);
    std::thread::sleep(SETTLED_AFTER); // without a processor
    let looks = (1..=SETTLED_LOOKS).map(|_| look()).collect::<Vec<_>>();
    let expected = (1..=SETTLED_LOOKS).map(|count| usize::from(count == SETTLED_LOOKS)).collect::<Vec<_>>();
    assert_eq!(looks, expected);
}

#[test]
fn areas_that_are_not_needed_give_their_memory_back() {
    let memfd = memfd();
    let requests = open(&memfd, &planned(&[(REQUESTS, 64), (AREAS, 32)]));
    requests.take_over();
    let blocks = || rustix::fs::fstat(&memfd).unwrap().st_blocks as usize * 512;
    let many: Vec<KeptRequest> = (1..=20).map(|number| keep(&requests, &message(number * 2, LARGE))).collect();
    assert!(blocks() >= 20 * MESSAGE_MAX);
    many.iter().for_each(|kept| requests.end(kept.slot));
    drop(many);
    requests.trim();
    assert!(blocks() >= 20 * MESSAGE_MAX, "they were needed just now");
    std::thread::sleep(IDLE_TIME_MAX);
    requests.trim();
    assert!(blocks() < (KEPT_AREAS + 1) * MESSAGE_MAX, "{} bytes stay", blocks());
    let again: Vec<KeptRequest> = (1..=20).map(|number| keep(&requests, &message(number * 2, LARGE))).collect();
    assert!(again.iter().zip(1..).all(|(kept, number)| kept[..] == message(number * 2, LARGE)));
}

#[test]
fn a_state_without_a_place_for_requests_is_taken_over() {
    let memfd = memfd();
    drop(open(&memfd, REGIONS));
    retag(&memfd, REQUESTS, 200);
    State::check(memfd.try_clone().unwrap()).unwrap();
    assert!(State::open(memfd).unwrap().requests().is_none());
}

#[test]
fn requests_behave_like_a_map() {
    let memfd = memfd();
    let mut requests = open(&memfd, &plan());
    let mut model: BTreeMap<u64, (Vec<u8>, Option<Vec<u8>>)> = BTreeMap::new();
    let mut held: BTreeMap<u64, u32> = BTreeMap::new(); // unique -> slot
    let mut inbox = None;
    let mut random = random(88_172_645_463_325_252);
    let mut kills = 0;
    for unique in (2..20_000).step_by(2) {
        match random(8) {
            0..=3 if held.len() < 4 => {
                let length = [40, 900, SMALL_MAX, SMALL_MAX + 1, 40_000][random(5) as usize];
                let message = message(unique, length);
                let mut current: Inbox = inbox.take().unwrap_or_else(|| requests.arm());
                read(&mut current, &message);
                let (kept, rest) = current.keep(length, None).unwrap();
                inbox = rest;
                held.insert(unique, kept.slot);
                model.insert(unique, (message, None));
            }
            4 => {
                if let Some((unique, slot)) = held.iter().next() {
                    let answer = vec![random(256) as u8; random(ANSWER_MAX as u64 + 1) as usize];
                    requests.save_answer(*slot, *unique, 0, &answer);
                    model.get_mut(unique).unwrap().1 = Some(answer);
                }
            }
            5 | 6 => {
                if let Some((unique, slot)) = held.pop_last() {
                    requests.end(slot);
                    model.remove(&unique);
                }
            }
            7 if random(4) == 0 => {
                if let Some(armed) = inbox.as_mut().filter(|_| random(2) == 0) {
                    let message = message(unique, 3000); // read at the last moment
                    read(armed, &message);
                    model.insert(unique, (message, None));
                }
                inbox = None;
                requests = open(&memfd, &plan());
                let found = requests.take_over();
                held = found.iter().map(|kept| (unique_of(kept).unwrap(), kept.slot)).collect();
                assert_eq!(held.len(), found.len(), "twice the same");
                let answer =
                    |kept: &KeptRequest| requests.answer(kept.slot, unique_of(kept).unwrap()).map(|answer| answer.1);
                let seen = found.iter().map(|kept| (unique_of(kept).unwrap(), (kept.to_vec(), answer(kept))));
                assert_eq!(seen.collect::<BTreeMap<_, _>>(), model);
                kills += 1;
            }
            _ => {}
        }
    }
    assert!(kills > 200, "{kills}");
}
