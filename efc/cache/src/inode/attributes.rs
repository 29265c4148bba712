//! The attributes of an inode: what replies have shown, and what follows from that.
//!
//! Replies overtake each other: two writes in flight are answered in any order, and the attributes of the earlier one
//! must not shrink the file again. The server's ctime decides; a tie between overlapping calls expires the attributes,
//! so that the next question goes to the server. Attributes that have [expired](Inode::expire) are not answered from,
//! and neither is a reply to a call that was sent before they did.
//!
//! [`Freshness`](crate::Freshness), not this module, decides how long attributes may be given; this module only says
//! what is known and since when.

use std::time::{Duration, Instant};

use efc_backend::{Attr, Seen, Tick};

use crate::inode::table::Inodes;
use crate::inode::{Facts, Inode};
use crate::version::Version;

/// Attributes that a reply has shown.
#[derive(Clone, Copy)]
pub(crate) struct Shown {
    pub attr: Attr,
    /// Of the call whose reply showed it last.
    pub asked: Tick,
    /// When a reply first showed the version of `attr`.
    first_seen: Instant,
    /// May it be answered from?
    is_valid: bool,
    /// The place of the reply among all answers.
    received: u64,
}

/// Attributes that nothing is known to have changed, and when their version was first and last shown.
#[derive(Clone, Copy, Debug)]
pub struct Observed {
    /// The attributes.
    pub seen: Seen<Attr>,
    /// When a reply has first shown their version, and none since has shown another.
    pub since: Instant,
}

impl Facts {
    /// Takes in `attr`, an answer with the tick `answered` to a call of the tick `asked`. If a change of ours has left them,
    /// permissions are as they were.
    fn learn(&mut self, attr: &Attr, (asked, answered): (Tick, Tick), is_ours: bool) {
        let Tick { order: received, at: now } = answered;
        let before = self.known;
        let overlapped = before.is_some_and(|known| known.received > asked.order);
        let is_same = before.is_some_and(|known| Version::of(&known.attr) == Version::of(attr));
        if overlapped && before.is_some_and(|known| known.attr.ctime > attr.ctime) {
            return;
        }
        let is_tie = before.is_some_and(|known| known.attr.ctime == attr.ctime) && !is_same;
        if !is_ours && before.is_some_and(|known| known.attr.ctime != attr.ctime) {
            self.permissions.change(received);
        }
        if overlapped && is_tie {
            self.expired = received; // nor does an answer to an older question tell which of the two came last
        }
        let is_void = asked.order < self.expired;
        self.known = Some(Shown {
            attr: *attr,
            asked,
            first_seen: before.filter(|_| is_same).map_or(now, |known| known.first_seen),
            is_valid: !is_void,
            received,
        });
    }

    pub(crate) fn expire(&mut self) {
        self.expired = Tick::of_answer().order;
        if let Some(known) = &mut self.known {
            known.is_valid = false;
        }
    }

    pub(crate) fn observed(&self) -> Option<Observed> {
        let Shown { attr, asked, first_seen, .. } = self.known.filter(|known| known.is_valid)?;
        Some(Observed { seen: Seen { value: attr, asked }, since: first_seen })
    }
}

impl Inodes {
    /// A reply shows this ctime, of an object that need not be known here.
    pub fn observe_clock(&self, attr: &Attr) {
        self.shared.clock.observe(attr.ctime, efc_tasks::time::now());
    }
}

impl Inode {
    /// Can these be the attributes of this object? The kernel gives an inode up for ever, and the mount with it if it
    /// is the root, that turns into something else, or that has a size beyond what it can hold.
    pub fn is_plausible(&self, attr: &Attr) -> bool {
        self.facts().is_plausible(attr)
    }

    /// Takes in what a reply shows of the object, unless that cannot be.
    pub fn learn(&self, Seen { value: attr, asked }: Seen<&Attr>) {
        self.take_in(attr, asked, |facts, received| {
            facts.lineage.shown(&Version::of(attr), asked.order, received);
            false
        });
    }

    /// Takes in attributes; `judge`, which is given the place of the reply among all answers, notes whose changes they
    /// show, and tells whether they are ours alone, which leave permissions as they are.
    pub(crate) fn take_in(&self, attr: &Attr, asked: Tick, judge: impl FnOnce(&mut Facts, u64) -> bool) {
        let mut facts = self.facts();
        if !facts.is_plausible(attr) {
            return;
        }
        // Taken with the lock held: answers about one object have one order.
        let answered = Tick::of_answer();
        self.shared.clock.observe(attr.ctime, answered.at);
        let is_ours = judge(&mut facts, answered.order);
        facts.learn(attr, (asked, answered), is_ours);
    }

    /// [`Inode::learn`] of a reply that came at `answered`.
    #[cfg(test)]
    pub fn learn_at(&self, seen: Seen<&Attr>, answered: Tick) {
        self.facts().learn(seen.value, (seen.asked, Tick { at: answered.at, ..Tick::of_answer() }), false);
    }

    /// What may be answered from, if [`Freshness`](crate::Freshness) finds it young enough.
    pub fn observed(&self) -> Option<Observed> {
        self.facts().observed()
    }

    /// The last attributes seen, however old.
    pub fn last_seen(&self) -> Option<Attr> {
        self.last_shown().map(|shown| shown.value)
    }

    /// The same, and when they were asked for.
    pub fn last_shown(&self) -> Option<Seen<Attr>> {
        self.facts().known.map(|Shown { attr, asked, .. }| Seen { value: attr, asked })
    }

    /// The object has changed, or may have, and no reply has described that.
    pub fn expire(&self) {
        self.facts().expire();
    }

    /// Will any change after the reply `seen` give the object another version?
    ///
    /// It will if the server's clock has been past the tick of that version: another reply has shown so much, or has
    /// shown the version itself a tick before.
    pub fn is_settled(&self, seen: Seen<&Attr>) -> bool {
        self.is_at_rest(seen, Duration::ZERO)
    }

    /// [`Inode::is_settled`], and for as long as `rest` already. A server may stamp a write when it begins, and have its
    /// data come into sight for as long as it lasts.
    pub fn is_at_rest(&self, Seen { value: attr, asked }: Seen<&Attr>, rest: Duration) -> bool {
        let version = Version::of(attr);
        let known = self.facts().known.filter(|known| Version::of(&known.attr) == version);
        let was_seen =
            known.is_some_and(|known| asked.at.saturating_duration_since(known.first_seen) >= version.tick() + rest);
        was_seen || self.shared.clock.is_past(&version, asked.at, rest)
    }

    /// May data be given that was read under this version? While that is the last seen; and within a bound, if there is one. Then it is not what
    /// the version stands for if that was shown again since, and was not settled before: another change of the same tick may have come between,
    /// and whoever relies on the younger answer takes the data for what is there now.
    pub fn may_give(&self, read: Seen<&Version>, data_ttl: Option<Duration>) -> bool {
        let last = self.last_shown().filter(|last| Version::of(&last.value) == *read.value);
        let (Some(last), Some(ttl)) = (last, data_ttl) else { return last.is_some() };
        let is_shown_again = last.asked.at > read.asked.at;
        let is_settled = || self.is_settled(Seen { value: &last.value, asked: read.asked });
        efc_tasks::time::since(read.asked.at) < ttl && (!is_shown_again || is_settled())
    }

    /// Can it be that somebody knows this version to be [at rest](Inode::is_at_rest)? A clock of this node that is wrong makes the answer
    /// wrong.
    pub fn may_be_at_rest(&self, seen: Seen<&Attr>, rest: Duration) -> bool {
        Version::of(seen.value).looks_older_than(rest) || self.is_at_rest(seen, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{attr, inode, seen, tick};

    #[test]
    fn an_overtaken_reply_does_not_shrink_the_file() {
        let inode = inode();
        let (first, second) = (tick(), tick());
        inode.learn(Seen { value: &attr(200, 11), asked: second });
        inode.learn(Seen { value: &attr(100, 10), asked: first });
        assert_eq!(inode.observed().expect("known").seen.value.size, 200);
    }

    #[test]
    fn a_tie_between_overlapping_replies_is_not_answered_from() {
        let inode = inode();
        let (first, second) = (tick(), tick());
        inode.learn(Seen { value: &attr(200, 10), asked: second });
        inode.learn(Seen { value: &attr(100, 10), asked: first });
        assert!(inode.observed().is_none());
        inode.learn(seen(&attr(300, 10)));
        assert_eq!(inode.observed().expect("known").seen.value.size, 300);
    }

    #[test]
    fn a_tie_is_not_decided_by_an_answer_to_an_older_question() {
        let inode = inode();
        let oldest = tick();
        let (first, second) = (tick(), tick());
        inode.learn(Seen { value: &attr(200, 10), asked: second });
        inode.learn(Seen { value: &attr(100, 10), asked: first });
        inode.learn(Seen { value: &attr(100, 10), asked: oldest });
        assert!(inode.observed().is_none(), "the same size, of before both");
    }

    #[test]
    fn a_version_is_settled_when_it_is_seen_again_a_tick_later() {
        let inode = inode();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let mut fresh = attr(1, now.as_secs() as u32);
        let at_once = tick();
        inode.learn(Seen { value: &fresh, asked: at_once });
        let later = |seconds| Tick { at: at_once.at + Duration::from_secs(seconds), ..tick() };
        assert!(!inode.is_settled(Seen { value: &fresh, asked: at_once }));
        let seen_later = Seen { value: &fresh, asked: later(3) };
        assert!(inode.is_settled(seen_later));
        let at_rest = [500, 2000].map(|millis| inode.is_at_rest(seen_later, Duration::from_millis(millis)));
        assert_eq!(at_rest, [true, false], "after a tick of two seconds");
        fresh.size = 2;
        assert!(!inode.is_settled(Seen { value: &fresh, asked: at_once }), "another version");
    }

    #[test]
    fn what_expires_is_not_answered_from_nor_is_what_was_asked_before() {
        let inode = inode();
        let before = tick();
        inode.learn(Seen { value: &attr(1, 1), asked: before });
        inode.expire();
        assert!(inode.observed().is_none());
        assert_eq!(inode.last_seen().expect("known").size, 1);
        inode.learn(Seen { value: &attr(1, 1), asked: before });
        assert!(inode.observed().is_none(), "asked before, answered after");
        inode.learn(seen(&attr(1, 2)));
        assert!(inode.observed().is_some());
    }

    #[test]
    fn what_cannot_be_is_not_taken_in() {
        let inode = inode();
        inode.learn(seen(&attr(1, 1)));
        inode.learn(seen(&attr(1 << 63, 2)));
        assert_eq!(inode.observed().expect("known").seen.value.size, 1);
    }
}
