//! What may be given without asking the server, and for how long the kernel may keep it: one place decides.
//!
//! The rest of the cache only knows what it has learned and when that was asked for. A [`Freshness`] is a consistency
//! mode: it says for each answer whether what is known will do. What it grants comes with a [`Permit`], which the
//! answer carries until the kernel has it: a mode that may have to take something back knows by that which answers are
//! still on their way.

use efc_tasks::sync::atomic::{AtomicU64, Ordering};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use efc_backend::{Attr, Seen};

use crate::inode::Inode;

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
pub trait Freshness: Send + Sync + 'static {
    /// May the attributes of `inode` be given as they are known? Whoever has asked the server asks this once more, to
    /// learn for how long the kernel may keep the answer: not at all, if it is no [`Admission::Hit`].
    fn admit(&self, inode: &Arc<Inode>) -> Admission;

    /// For how long the kernel may keep a name of `directory` that was just asked for.
    fn name_ttl(&self, directory: &Arc<Inode>) -> (Duration, Permit);

    /// May it be said without asking the server where a name of `directory` leads? Then for how long the kernel may keep
    /// that. What the directory's version stands for, its listing for one, may be said while [`Freshness::admit`] lets
    /// the directory's attributes be given.
    fn admit_name(&self, directory: &Arc<Inode>, proof: &NameProof) -> Option<(Duration, Permit)>;

    /// For how long a verdict of the server on a caller's search of a directory holds.
    fn search_ttl(&self) -> Duration;

    /// What an open of `inode` may rely on without asking the server; `None`: it asks.
    fn on_open(&self, inode: &Arc<Inode>) -> Option<Grant>;

    /// Before a call leaves that changes `objects`. The permit is held until the change is answered; `None`: there is
    /// nothing to wait for, nor to hold.
    fn before_change(&self, objects: &[Arc<Inode>]) -> Option<Pin<Box<dyn Future<Output = Permit> + Send>>>;
}

/// For how long a name is trusted at most, however long nothing has changed.
const NAME_TRUST_MAX: Duration = Duration::from_secs(60);

/// Close-to-open: names and attributes are trusted for a while, an open always asks.
///
/// A name that is there is trusted for as long as it is known to have been there without a change, within bounds; that
/// there is none, for as long as attributes are.
#[derive(Debug)]
pub struct CloseToOpen {
    attr_ttl_ns: AtomicU64,
    entry_ttl_ns: AtomicU64,
}

impl CloseToOpen {
    /// Attributes are trusted for `attr_ttl`, names for `entry_ttl`.
    pub fn new(attr_ttl: Duration, entry_ttl: Duration) -> CloseToOpen {
        let mode = CloseToOpen { attr_ttl_ns: AtomicU64::new(0), entry_ttl_ns: AtomicU64::new(0) };
        mode.set_ttl(attr_ttl, entry_ttl);
        mode
    }

    /// Changes for how long attributes and names are trusted. What the kernel was given before it keeps for as long as
    /// it was told.
    pub fn set_ttl(&self, attr_ttl: Duration, entry_ttl: Duration) {
        let nanos = |ttl: Duration| u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
        self.attr_ttl_ns.store(nanos(attr_ttl), Ordering::Relaxed);
        self.entry_ttl_ns.store(nanos(entry_ttl), Ordering::Relaxed);
    }

    /// For how long attributes and names are trusted.
    pub fn ttl(&self) -> (Duration, Duration) {
        let ttl = |ttl_ns: &AtomicU64| Duration::from_nanos(ttl_ns.load(Ordering::Relaxed));
        (ttl(&self.attr_ttl_ns), ttl(&self.entry_ttl_ns))
    }
}

impl Freshness for CloseToOpen {
    fn admit(&self, inode: &Arc<Inode>) -> Admission {
        let (ttl, _) = self.ttl();
        let young = inode.observed().and_then(|observed| {
            let left = ttl.checked_sub(efc_tasks::time::since(observed.at))?;
            (!left.is_zero()).then_some((observed.seen, left))
        });
        match young {
            Some((seen, ttl)) => Admission::Hit(Grant { seen, ttl, permit: Permit::unconditional() }),
            None => Admission::Ask,
        }
    }

    fn name_ttl(&self, _: &Arc<Inode>) -> (Duration, Permit) {
        (self.ttl().1, Permit::unconditional())
    }

    fn admit_name(&self, _: &Arc<Inode>, proof: &NameProof) -> Option<(Duration, Permit)> {
        let (ttl, entry_ttl) = self.ttl();
        let trust_max = NAME_TRUST_MAX.max(ttl);
        let age = efc_tasks::time::since(proof.asked);
        if ttl.is_zero() || proof.listed.is_some_and(|listed| efc_tasks::time::since(listed) >= trust_max) {
            return None;
        }
        let unchanged = proof.asked.saturating_duration_since(proof.since);
        let trust = if proof.is_there { unchanged.clamp(ttl, trust_max) } else { ttl };
        let left = trust.checked_sub(age).filter(|left| !left.is_zero())?;
        // A name that is not there is asked for again each time: that costs no call.
        let kept = if proof.is_there { left.min(ttl).min(entry_ttl) } else { Duration::ZERO };
        Some((kept, Permit::unconditional()))
    }

    fn search_ttl(&self) -> Duration {
        self.ttl().1
    }

    fn on_open(&self, _: &Arc<Inode>) -> Option<Grant> {
        None
    }

    fn before_change(&self, _: &[Arc<Inode>]) -> Option<Pin<Box<dyn Future<Output = Permit> + Send>>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{attr, inode, seen};

    const LONG: Duration = Duration::from_secs(60);

    fn granted(mode: &CloseToOpen, inode: &Arc<Inode>) -> Option<Duration> {
        match mode.admit(inode) {
            Admission::Hit(grant) => Some(grant.ttl),
            Admission::Ask | Admission::Wait(_) => None,
        }
    }

    #[test]
    fn attributes_are_given_while_they_are_young_and_nothing_has_changed_them() {
        let (mode, inode) = (CloseToOpen::new(LONG, Duration::ZERO), inode());
        assert_eq!(granted(&mode, &inode), None);
        inode.learn(seen(&attr(1, 1)));
        assert!(granted(&mode, &inode).is_some_and(|ttl| ttl <= LONG));
        mode.set_ttl(Duration::ZERO, LONG);
        assert_eq!(granted(&mode, &inode), None, "changed while it is in force");
        assert_eq!(mode.search_ttl(), LONG);
        mode.set_ttl(LONG, LONG);
        inode.expire();
        assert_eq!(granted(&mode, &inode), None);
    }

    #[test]
    fn names_are_trusted_the_longer_the_longer_they_have_not_changed() {
        let (mode, inode) = (CloseToOpen::new(Duration::from_secs(3), LONG), inode());
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
        mode.set_ttl(Duration::ZERO, LONG);
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
