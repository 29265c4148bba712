//! Consistency modes: the one place that decides what may be given without asking the server, and how long the kernel
//! may keep it.
//!
//! The rest of the cache only records what it has learnt and when that was asked for. A [`Freshness`] is a consistency
//! mode: it decides for each answer whether what is known is sufficient. What it grants comes with a [`Permit`], which
//! the answer carries until the kernel has it, so that a mode which must revoke something knows which answers are still
//! on their way.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use efc_backend::{Attr, Cred, FileType, Seen};

use crate::inode::Inode;
use crate::inode::attributes::Observed;
use crate::inode::verdicts::Rights;
use crate::times::{LiveTimes, Times};

/// Held from a decision until the kernel has the answer that follows from it.
#[derive(Default)]
#[must_use]
pub struct Permit(Vec<Box<dyn Send + Sync>>);

impl Permit {
    /// A decision that nobody takes back.
    pub fn unconditional() -> Permit {
        Permit::default()
    }

    /// `guard` is dropped when the answer has been given.
    pub fn holding(guard: impl Send + Sync + 'static) -> Permit {
        Permit(vec![Box::new(guard)])
    }

    /// Both, for an answer that follows from two decisions.
    pub fn and(mut self, other: Permit) -> Permit {
        self.0.extend(other.0);
        self
    }
}

/// What may be given without asking.
pub struct Grant {
    /// The attributes, and when they were asked for.
    pub seen: Seen<Attr>,
    /// For how long the kernel may keep them.
    pub ttl: Duration,
    /// Goes with the answer.
    pub permit: Permit,
}

/// Whether attributes may be given as they are known.
pub enum Admission {
    /// They may.
    Hit(Grant),
    /// The server is to be asked.
    Ask,
    /// That is known when this has ended; then it is to be asked for again.
    Wait(Pin<Box<dyn Future<Output = ()> + Send>>),
}

impl Admission {
    /// They may, and nobody takes that back; the kernel may keep them for `ttl`.
    pub(crate) fn hit(seen: Seen<Attr>, ttl: Duration) -> Admission {
        Admission::Hit(Grant { seen, ttl, permit: Permit::unconditional() })
    }
}

/// Since when it is known what a name of a directory leads to.
#[derive(Clone, Copy, Debug)]
pub struct NameProof {
    /// To an object; else there is no such name.
    pub is_there: bool,
    /// When the call was sent that has shown it last: a question about the name, or about the version of the directory
    /// that it belongs to, or a change of ours.
    pub asked: Instant,
    /// When the call was sent that has shown it first. None has shown anything else since.
    pub since: Instant,
    /// When the listing was read that it follows from, if that was kept over changes of ours since: then it rests on
    /// what answers say of the version that these found, which is a hint.
    pub listed: Option<Instant>,
}

/// A consistency mode.
pub trait Freshness: Debug + Send + Sync + 'static {
    /// May the attributes of `inode` be given as they are known? Whoever has asked the server asks this once more, to
    /// learn for how long the kernel may keep the answer: not at all, if it is no [`Admission::Hit`].
    fn admit(&self, inode: &Arc<Inode>) -> Admission;

    /// For how long the kernel may keep a name of `directory` that was just asked for.
    fn name_ttl(&self, directory: &Arc<Inode>) -> (Duration, Permit);

    /// May it be said without asking the server where a name of `directory` leads? Then for how long the kernel may keep
    /// that. What the directory's version stands for, its listing for one, may be said while [`Freshness::admit`] lets
    /// the directory's attributes be given.
    fn admit_name(&self, directory: &Arc<Inode>, proof: &NameProof) -> Option<(Duration, Permit)>;

    /// For how long a verdict of the server on what a caller may do holds.
    fn verdict_ttl(&self) -> Duration;

    /// May files be opened without asking the server? Then the verdicts of those that asked are worth keeping.
    fn opens_unasked(&self) -> bool;

    /// What an open of `inode` by this caller, for what these rights are needed for, may rely on without asking the
    /// server; `None`: it asks.
    fn on_open(&self, inode: &Arc<Inode>, cred: &Cred, rights: Rights) -> Option<Grant> {
        if !(self.opens_unasked() && inode.grants(cred, rights, self.verdict_ttl())) {
            return None;
        }
        match self.admit(inode) {
            Admission::Hit(grant) => Some(grant),
            Admission::Ask | Admission::Wait(_) => None,
        }
    }

    /// For how long data that was read may be given until the version that it was read under is shown again; `None`: for
    /// as long as the file stays open.
    fn data_ttl(&self) -> Option<Duration> {
        None
    }

    /// The times in force.
    fn live_times(&self) -> &LiveTimes;

    /// Takes other times, while it is in force. What the kernel was given before it keeps for as long as it was told.
    fn set_times(&self, times: Times) {
        self.live_times().set(times);
    }

    /// Before a call leaves that changes these objects. The permit is held until the change is answered; `None`: there is
    /// nothing to wait for, nor to hold.
    fn before_change(&self, _objects: &[Arc<Inode>]) -> Option<Pin<Box<dyn Future<Output = Permit> + Send>>> {
        None
    }
}

/// Close-to-open: names and attributes are trusted for a while, an open always asks.
///
/// Attributes of a file are trusted for as long as they are known to have been there without a change, within bounds, and
/// so is a name that is there. Those of a directory, and that there is no such name, are for the least of these times.
#[derive(Debug)]
pub struct CloseToOpen(LiveTimes);

impl CloseToOpen {
    /// With these times.
    pub fn new(times: Times) -> CloseToOpen {
        CloseToOpen(LiveTimes::new(times))
    }

    /// For how long it is trusted what has been seen unchanged for so long.
    fn trust(&self, unchanged: Duration) -> Duration {
        let Times { attr_ttl, attr_ttl_max, .. } = self.0.get();
        // Who trusts nothing does not begin to.
        if attr_ttl.is_zero() { attr_ttl } else { unchanged.clamp(attr_ttl, attr_ttl_max.max(attr_ttl)) }
    }
}

impl Freshness for CloseToOpen {
    fn admit(&self, inode: &Arc<Inode>) -> Admission {
        let Some(Observed { seen, since }) = inode.observed() else { return Admission::Ask };
        let unchanged = match seen.value.kind {
            FileType::Directory => Duration::ZERO,
            _ => seen.asked.at.saturating_duration_since(since),
        };
        match left(self.trust(unchanged), seen.asked.at) {
            Some(left) => Admission::hit(seen, left.min(self.0.get().attr_ttl)),
            None => Admission::Ask,
        }
    }

    fn name_ttl(&self, _: &Arc<Inode>) -> (Duration, Permit) {
        (self.0.get().entry_ttl, Permit::unconditional())
    }

    fn admit_name(&self, _: &Arc<Inode>, proof: &NameProof) -> Option<(Duration, Permit)> {
        let Times { attr_ttl, attr_ttl_max, entry_ttl } = self.0.get();
        if proof.listed.is_some_and(|listed| left(attr_ttl_max.max(attr_ttl), listed).is_none()) {
            return None;
        }
        let unchanged = proof.asked.saturating_duration_since(proof.since);
        let left = left(self.trust(if proof.is_there { unchanged } else { Duration::ZERO }), proof.asked)?;
        Some((kept_name(proof, left.min(attr_ttl).min(entry_ttl)), Permit::unconditional()))
    }

    fn verdict_ttl(&self) -> Duration {
        self.0.get().entry_ttl
    }

    fn opens_unasked(&self) -> bool {
        false
    }

    fn live_times(&self) -> &LiveTimes {
        &self.0
    }
}

/// What is left of a trust in what was asked for then.
pub(crate) fn left(trust: Duration, asked: Instant) -> Option<Duration> {
    trust.checked_sub(efc_tasks::time::since(asked)).filter(|left| !left.is_zero())
}

/// For how long the kernel may keep a name that is trusted for `left`. One that is not there it asks for again each
/// time: that costs no call, and it could not be taken back.
pub(crate) fn kept_name(proof: &NameProof, left: Duration) -> Duration {
    if proof.is_there { left } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{attr, directory_attr, inode, seen, tick};
    use efc_backend::{Tick, access};

    const S: Duration = Duration::from_secs(1);

    fn mode(attr_ttl: u64, attr_ttl_max: u64) -> CloseToOpen {
        CloseToOpen::new(times(attr_ttl, attr_ttl_max))
    }

    fn times(attr_ttl: u64, attr_ttl_max: u64) -> Times {
        let [attr_ttl, attr_ttl_max] = [attr_ttl, attr_ttl_max].map(Duration::from_secs);
        Times { attr_ttl, attr_ttl_max, entry_ttl: 60 * S }
    }

    /// Seconds, or parts of one, for which the kernel may keep what is granted.
    fn granted(mode: &CloseToOpen, inode: &Arc<Inode>) -> Option<u64> {
        match mode.admit(inode) {
            Admission::Hit(grant) => Some(grant.ttl.as_millis().div_ceil(1000) as u64),
            Admission::Ask | Admission::Wait(_) => None,
        }
    }

    #[test]
    fn attributes_are_given_while_they_are_young_and_nothing_has_changed_them() {
        let (mode, inode) = (mode(60, 60), inode());
        assert_eq!(granted(&mode, &inode), None);
        inode.learn(seen(&attr(1, 1)));
        assert_eq!(granted(&mode, &inode), Some(60));
        mode.set_times(times(0, 60));
        assert_eq!(granted(&mode, &inode), None, "changed while it is in force");
        assert_eq!(mode.verdict_ttl(), 60 * S);
        mode.set_times(times(60, 60));
        inode.expire();
        assert_eq!(granted(&mode, &inode), None);
    }

    #[test]
    fn files_are_trusted_the_longer_the_longer_they_have_not_changed_and_directories_are_not() {
        let mode = mode(3, 60);
        // Seen now, first so long ago, and asked for again so long ago.
        let after = |attr: &Attr, first: u64, last: u64| {
            let (inode, now) = (inode(), tick());
            let before = |seconds| Tick { at: now.at.checked_sub(S * seconds).expect("up for so long"), ..tick() };
            inode.learn_at(Seen { value: attr, asked: before(first as u32) }, before(first as u32));
            inode.learn_at(Seen { value: attr, asked: before(last as u32) }, before(last as u32));
            granted(&mode, &inode)
        };
        assert_eq!(after(&attr(1, 1), 2, 2), Some(1));
        assert_eq!(after(&attr(1, 1), 4, 4), None, "seen once");
        assert_eq!(after(&attr(1, 1), 14, 4), Some(3), "known for ten seconds, kept by the kernel as long as others");
        assert_eq!(after(&attr(1, 1), 21, 11), None);
        assert_eq!(after(&attr(1, 1), 500, 59), Some(1));
        assert_eq!(after(&attr(1, 1), 500, 61), None, "a minute at most");
        assert_eq!(after(&directory_attr(1), 500, 2), Some(1));
        assert_eq!(after(&directory_attr(1), 500, 4), None);
    }

    #[test]
    fn an_open_asks_whatever_is_known() {
        let (mode, inode) = (mode(60, 60), inode());
        let answer = seen(&());
        inode.learn(Seen { value: &attr(1, 1), asked: answer.asked });
        let verdict = Seen { value: Some(&attr(1, 1)), asked: answer.asked };
        inode.judged(&Cred::root(), Rights::of_access(access::READ), verdict, 60 * S);
        assert!(mode.on_open(&inode, &Cred::root(), Rights::OPEN).is_none());
    }

    #[test]
    fn names_are_trusted_the_longer_the_longer_they_have_not_changed() {
        let (mode, inode) = (mode(3, 60), inode());
        let kept = |is_there, asked: u64, since: u64, listed: Option<u64>| {
            let before = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).expect("up for so long");
            let proof = NameProof { is_there, asked: before(asked), since: before(since), listed: listed.map(before) };
            mode.admit_name(&inode, &proof).map(|(ttl, _)| ttl.as_millis().div_ceil(1000))
        };
        assert_eq!(kept(true, 0, 0, None), Some(3));
        assert_eq!(kept(true, 2, 2, None), Some(1));
        assert_eq!(kept(true, 4, 4, None), None, "seen once");
        assert_eq!(kept(true, 4, 14, None), Some(3), "known for ten seconds, and kept by the kernel as long as others");
        assert_eq!(kept(true, 11, 21, None), None);
        assert_eq!(kept(true, 59, 500, None), Some(1));
        assert_eq!(kept(true, 61, 500, None), None, "a minute at most");
        assert_eq!(
            [2, 4].map(|asked| kept(false, asked, 500, None)),
            [Some(0), None],
            "what is not there does not grow"
        );
        assert_eq!([59, 61].map(|listed| kept(false, 1, 1, Some(listed))), [Some(0), None]);
        mode.set_times(times(0, 60));
        assert_eq!([true, false].map(|is_there| kept(is_there, 0, 0, None)), [None, None]);
    }

    #[test]
    fn a_permit_holds_all_that_it_was_made_of() {
        let guard = Arc::new(());
        let permit = Permit::holding(guard.clone()).and(Permit::unconditional()).and(Permit::holding(guard.clone()));
        assert_eq!(Arc::strong_count(&guard), 3);
        drop(permit);
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}
