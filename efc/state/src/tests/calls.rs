//! Tests of calls in flight that carry data of which the application was told, and of the answers to them.

use super::super::*;
use super::{memfd, open};

#[test]
fn a_successor_finds_calls_that_were_not_answered_and_the_answers_to_the_others() {
    let memfd = memfd();
    let state = open(&memfd).unwrap();
    assert!(state.may_hold_back());
    let kept = state.keep(b"data").unwrap();
    let write = |offset| {
        let (data, checksum) = (kept.bytes().clone(), payload_checksum(kept.bytes()));
        let (uid, gid, groups, unanswered) = (1, 2, Vec::new(), None);
        UncommittedWrite { node: 5, offset, data, checksum, verifier: UNSENT, uid, gid, groups, unanswered }
    };
    let [answered, in_flight] = [0, 4].map(|offset| state.save_write(&kept, &write(offset)).unwrap());
    let call =
        |write, number| SentCall { node: 5, offset: 4, length: 4, write, sent: SentAs { number, connection: Some(3) } };
    let [first, second] = [call(answered, 77), call(in_flight, 78)].map(|call| state.begin_call(&call).unwrap());
    assert_eq!(state.answered(answered), None);
    state.set_answered(answered, [9; 8]);
    state.end_call(first);
    drop(state);
    let state = open(&memfd).unwrap();
    assert_eq!((state.answered(answered), state.answered(in_flight)), (Some([9; 8]), None));
    assert_eq!(state.take_saved_calls(), [(second, call(in_flight, 78))]);
    state.remove_write(answered);
    let again = state.save_write(&kept, &write(0)).unwrap();
    assert_eq!(state.answered(again), None, "another record in the same slot");
    state.end_call(second);
    drop(state);
    assert_eq!(open(&memfd).unwrap().take_saved_calls(), []);
}
