//! Tests of the record of lost data: which files have lost some, and which opens have been told.

use super::super::regions::FAILURES;
use super::super::*;
use super::{memfd, open, retag};

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
    retag(&memfd, FAILURES, 200);
    let state = open(&memfd).unwrap();
    state.set_failure(FailureOf::File(7), 1).unwrap();
    state.remove_failure(FailureOf::File(7));
    assert_eq!(state.failures(), []);
    State::check(memfd.try_clone().unwrap()).unwrap();
}
