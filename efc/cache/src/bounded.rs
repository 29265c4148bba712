//! Consistency within a bound: whatever was validated within a time T is given without asking, opens included.
//!
//! An answer was true at the server at most T ago; it comes from this node's own calls, never from another node's
//! cache. Changes by this node are known from their own answers. A caller is admitted by its own verdict, which is at
//! most T old.

use std::sync::Arc;
use std::time::Duration;

use crate::freshness::{Admission, Freshness, NameProof, Permit, kept_name, left};
use crate::inode::Inode;
use crate::times::{LiveTimes, Times};

/// `bounded=T`: T is the mode's `attr_ttl`.
#[derive(Debug)]
pub struct Bounded(LiveTimes);

impl Bounded {
    /// With these times, of which only `attr_ttl` counts.
    pub fn new(times: Times) -> Bounded {
        Bounded(LiveTimes::new(times))
    }

    fn bound(&self) -> Duration {
        self.0.get().attr_ttl
    }
}

impl Freshness for Bounded {
    fn admit(&self, inode: &Arc<Inode>) -> Admission {
        let young = inode.observed().and_then(|observed| {
            let left = left(self.bound(), observed.seen.asked.at)?;
            Some(Admission::hit(observed.seen, left))
        });
        young.unwrap_or(Admission::Ask)
    }

    fn name_ttl(&self, _: &Arc<Inode>) -> (Duration, Permit) {
        (self.bound(), Permit::unconditional())
    }

    fn admit_name(&self, _: &Arc<Inode>, proof: &NameProof) -> Option<(Duration, Permit)> {
        // What changes of ours have found is a hint: no listing is older than T because of it.
        let asked = proof.listed.map_or(proof.asked, |listed| listed.min(proof.asked));
        Some((kept_name(proof, left(self.bound(), asked)?), Permit::unconditional()))
    }

    fn verdict_ttl(&self) -> Duration {
        self.bound()
    }

    fn opens_unasked(&self) -> bool {
        true
    }

    fn data_ttl(&self) -> Option<Duration> {
        Some(self.bound())
    }

    fn live_times(&self) -> &LiveTimes {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use efc_backend::{Cred, Seen, Tick};

    use super::*;
    use crate::inode::verdicts::Rights;
    use crate::testing::{attr, inode, tick};

    const S: Duration = Duration::from_secs(1);

    fn mode(seconds: u32) -> Bounded {
        Bounded::new(Times { attr_ttl: S * seconds, attr_ttl_max: 600 * S, entry_ttl: 600 * S })
    }

    fn before(seconds: u32) -> Tick {
        Tick { at: Instant::now().checked_sub(S * seconds).expect("up for so long"), ..tick() }
    }

    fn ttl(admission: Admission) -> Option<u128> {
        match admission {
            Admission::Hit(grant) => Some(grant.ttl.as_millis().div_ceil(1000)),
            Admission::Ask | Admission::Wait(_) => None,
        }
    }

    #[test]
    fn what_was_asked_for_within_the_bound_is_given_for_the_rest_of_it() {
        let (mode, inode) = (mode(10), inode());
        assert_eq!(ttl(mode.admit(&inode)), None);
        // A slow answer: it came now, and shows what was there when it was asked for.
        inode.learn(Seen { value: &attr(1, 1), asked: before(4) });
        assert_eq!(ttl(mode.admit(&inode)), Some(6));
        inode.learn_at(Seen { value: &attr(1, 1), asked: before(400) }, before(399));
        inode.learn(Seen { value: &attr(1, 1), asked: before(11) });
        assert_eq!(ttl(mode.admit(&inode)), None, "however long it has not changed");
        inode.learn(Seen { value: &attr(1, 1), asked: tick() });
        inode.expire();
        assert_eq!(ttl(mode.admit(&inode)), None);
        mode.set_times(Times { attr_ttl: S, ..Times::default() });
        assert_eq!(mode.name_ttl(&inode).0, S);
    }

    #[test]
    fn an_open_is_granted_by_the_callers_own_verdict_within_the_bound() {
        let (mode, inode, other) = (mode(10), inode(), Cred { uid: 7, ..Cred::root() });
        inode.learn(Seen { value: &attr(1, 1), asked: before(0) });
        let open = |cred: &Cred, rights| mode.on_open(&inode, cred, rights).is_some();
        assert!(!open(&Cred::root(), Rights::OPEN), "attributes are no verdict");
        let judged = |asked| inode.judged(&Cred::root(), Rights::OPEN, Seen { value: None, asked }, 10 * S);
        judged(before(11));
        assert!(!open(&Cred::root(), Rights::OPEN), "too old");
        judged(before(9));
        assert!(open(&Cred::root(), Rights::OPEN));
        assert!(!open(&other, Rights::OPEN) && !open(&Cred::root(), Rights::OPEN.and(Rights::WRITE)));
        inode.learn(Seen { value: &attr(1, 2), asked: before(0) });
        assert!(!open(&Cred::root(), Rights::OPEN), "it was changed");
    }

    #[test]
    fn an_open_needs_attributes_within_the_bound_as_well() {
        let (mode, inode) = (mode(10), inode());
        inode.learn(Seen { value: &attr(1, 1), asked: before(11) });
        inode.judged(&Cred::root(), Rights::OPEN, Seen { value: None, asked: tick() }, 10 * S);
        assert!(mode.on_open(&inode, &Cred::root(), Rights::OPEN).is_none());
    }

    #[test]
    fn names_hold_for_the_bound_and_a_listing_no_longer_because_of_changes_of_ours() {
        let (mode, inode) = (mode(10), inode());
        let kept = |is_there, asked: u32, listed: Option<u32>| {
            let listed = listed.map(|listed| before(listed).at);
            let proof = NameProof { is_there, asked: before(asked).at, since: before(500).at, listed };
            mode.admit_name(&inode, &proof).map(|(ttl, _)| ttl.as_millis().div_ceil(1000))
        };
        assert_eq!([kept(true, 4, None), kept(true, 11, None)], [Some(6), None]);
        assert_eq!([kept(false, 4, None), kept(false, 11, None)], [Some(0), None]);
        assert_eq!([kept(true, 1, Some(7)), kept(false, 1, Some(11))], [Some(3), None]);
    }
}
