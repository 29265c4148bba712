//! Mode `sealed`, for data that nobody changes: what was asked for once is given for as long as this process lives.
//!
//! A successor asks again, so a change of such data becomes visible by an upgrade or a restart. Nobody could tell the
//! kernel of it, so the kernel keeps nothing longer than `attr_ttl_max`, and then asks this process, which costs no
//! call.

use std::sync::Arc;
use std::time::Duration;

use crate::freshness::{Admission, Freshness, NameProof, Permit, kept_name};
use crate::inode::Inode;
use crate::times::{LiveTimes, Times};

/// `sealed`.
#[derive(Debug)]
pub struct Sealed(LiveTimes);

impl Sealed {
    /// With these times, of which only `attr_ttl_max` counts.
    pub fn new(times: Times) -> Sealed {
        Sealed(LiveTimes::new(times))
    }

    fn kernel_ttl(&self) -> Duration {
        self.0.get().attr_ttl_max
    }
}

impl Freshness for Sealed {
    fn admit(&self, inode: &Arc<Inode>) -> Admission {
        let known = inode.observed();
        known.map_or(Admission::Ask, |observed| Admission::hit(observed.seen, self.kernel_ttl()))
    }

    fn name_ttl(&self, _: &Arc<Inode>) -> (Duration, Permit) {
        (self.kernel_ttl(), Permit::unconditional())
    }

    fn admit_name(&self, _: &Arc<Inode>, proof: &NameProof) -> Option<(Duration, Permit)> {
        Some((kept_name(proof, self.kernel_ttl()), Permit::unconditional()))
    }

    fn verdict_ttl(&self) -> Duration {
        Duration::MAX
    }

    fn opens_unasked(&self) -> bool {
        true
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

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn what_is_known_is_given_however_old_it_is_until_a_change_of_ours_makes_it_unknown() {
        let (mode, inode) = (Sealed::new(Times { attr_ttl_max: DAY, ..Times::default() }), inode());
        let long_ago = Instant::now().checked_sub(Duration::from_secs(500)).expect("up for so long");
        let asked = Tick { at: long_ago, ..tick() };
        assert!(matches!(mode.admit(&inode), Admission::Ask));
        inode.learn(Seen { value: &attr(1, 1), asked });
        assert!(matches!(mode.admit(&inode), Admission::Hit(grant) if grant.ttl == DAY));
        let open = || mode.on_open(&inode, &Cred::root(), Rights::OPEN).is_some();
        assert!(!open(), "the first open of each caller asks");
        inode.judged(&Cred::root(), Rights::OPEN, Seen { value: None, asked }, mode.verdict_ttl());
        assert!(open());
        let proof = |is_there| NameProof { is_there, asked: long_ago, since: long_ago, listed: Some(long_ago) };
        let kept = |is_there| mode.admit_name(&inode, &proof(is_there)).map(|(ttl, _)| ttl);
        assert_eq!([kept(true), kept(false)], [Some(DAY), Some(Duration::ZERO)]);
        drop(inode.mutate());
        assert!(matches!(mode.admit(&inode), Admission::Ask) && !open());
    }
}
