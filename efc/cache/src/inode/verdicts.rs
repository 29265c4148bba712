//! Open verdicts: what the server lets callers do with a file, and since when that is known. (For directories:
//! [`searches`](super::searches).)
//!
//! A verdict is for one credential, its groups included, and for the object with its ctime then. It becomes void when
//! another ctime is seen, unless that is the result of a change of ours that does not touch permissions. A
//! [`Freshness`](crate::Freshness) decides how long a verdict holds. Attributes are no verdict, nor is an entry of a
//! listing.

use std::time::{Duration, Instant};

use efc_backend::{Attr, Cred, Seen, access};

use crate::inode::{Facts, Inode};

/// Credentials whose verdicts an object remembers; beyond that the oldest goes.
const VERDICTS_MAX: usize = 64;

/// What a caller may do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// Open a file to read or to execute it: READ of NFS serves both.
    pub const OPEN: Rights = Rights(1);
    /// Read a file.
    pub const READ: Rights = Rights(2);
    /// Open a file to write it.
    pub const WRITE: Rights = Rights(4);

    /// What the bits of an answer to ACCESS grant.
    pub fn of_access(granted: u32) -> Rights {
        let has = |bits: u32| granted & bits == bits;
        let rights = [
            (Rights::OPEN, granted & (access::READ | access::EXECUTE) != 0),
            (Rights::READ, has(access::READ)),
            (Rights::WRITE, has(access::MODIFY | access::EXTEND)),
        ];
        let granted = rights.into_iter().filter(|(_, is_granted)| *is_granted);
        granted.fold(Rights(0), |all, (right, _)| all.and(right))
    }

    /// Both.
    pub const fn and(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }

    /// Are these all of `other`, or more?
    pub fn contain(self, other: Rights) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What the server lets a caller do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict {
    /// When the call was sent whose answer it is.
    asked: Instant,
    rights: Rights,
    /// The state of the object's permissions that it is of.
    permissions: Permissions,
}

/// By credential: the groups count, too.
pub(crate) type Verdicts = Vec<(Cred, Verdict)>;

/// The state of an object's permissions: the place among all answers of the last that has shown a change which may be one
/// of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Permissions(u64);

impl Permissions {
    /// An answer of the place `received` shows that the permissions may be others than before.
    pub fn change(&mut self, received: u64) {
        self.0 = received;
    }
}

impl Facts {
    /// The state of permissions that a verdict is of which was asked for then, if that can be told.
    fn permissions_of(&self, Seen { value: attr, asked }: Seen<Option<&Attr>>) -> Option<Permissions> {
        let shows_last = || self.known.zip(attr).is_some_and(|(known, attr)| known.attr.ctime == attr.ctime);
        (asked.order >= self.permissions.0 || shows_last()).then_some(self.permissions)
    }
}

impl Inode {
    fn verdict(&self, cred: &Cred, rights: Rights, ttl: Duration) -> Option<Verdict> {
        let of = |verdicts: &Verdicts| verdicts.iter().find(|(of, _)| of == cred).map(|(_, verdict)| *verdict);
        let verdict = self.while_busy(|busy| of(&busy.verdicts))??;
        let is_fresh = efc_tasks::time::since(verdict.asked) < ttl;
        let holds = is_fresh && verdict.rights.contain(rights) && verdict.permissions == self.facts().permissions;
        holds.then_some(verdict)
    }

    /// Has the server granted the caller these rights less than `ttl` ago, of the file as it is known?
    pub fn grants(&self, cred: &Cred, rights: Rights, ttl: Duration) -> bool {
        self.verdict(cred, rights, ttl).is_some()
    }

    /// The server grants the caller these rights, and shows these attributes of the file with that, which have been
    /// [learned](Inode::learn). A verdict that holds by `ttl` and has others stays instead.
    pub fn judged(&self, cred: &Cred, rights: Rights, seen: Seen<Option<&Attr>>, ttl: Duration) {
        let Some(permissions) = self.facts().permissions_of(seen) else { return };
        // What holds and has not all been asked for again.
        let former = self.verdict(cred, Rights(0), ttl).filter(|former| !rights.contain(former.rights));
        let verdict = match former {
            Some(former) if former.rights.contain(rights) => return,
            // Rights that were granted one after the other hold as long as the first of them.
            Some(former) => {
                Verdict { asked: former.asked.min(seen.asked.at), rights: former.rights.and(rights), permissions }
            }
            None => Verdict { asked: seen.asked.at, rights, permissions },
        };
        self.note_verdict(cred, verdict);
    }

    fn note_verdict(&self, cred: &Cred, verdict: Verdict) {
        self.change_busy(|busy| {
            let verdicts = &mut busy.verdicts;
            if let Some((_, known)) = verdicts.iter_mut().find(|(of, _)| of == cred) {
                *known = verdict;
                return;
            }
            if verdicts.len() >= VERDICTS_MAX {
                let oldest = verdicts.iter().enumerate().min_by_key(|(_, (_, verdict))| verdict.asked);
                oldest.map(|(index, _)| index).into_iter().for_each(|index| drop(verdicts.swap_remove(index)));
            }
            verdicts.push((cred.clone(), verdict));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use efc_backend::{Tick, Wcc, WccAttr};

    use super::*;
    use crate::testing::{attr, inode, seen, tick};

    const TTL: Duration = Duration::from_secs(60);

    fn cred(gid: u32) -> Cred {
        Cred { gid, ..Cred::root() }
    }

    fn judge(inode: &Inode, rights: Rights, at: &Attr) {
        let answer = seen(at);
        inode.learn(answer);
        inode.judged(&cred(0), rights, Seen { value: Some(at), asked: answer.asked }, TTL);
    }

    fn may(inode: &Inode, rights: Rights) -> bool {
        inode.grants(&cred(0), rights, TTL)
    }

    #[test]
    fn verdicts_are_of_one_credential_and_end() {
        let file = inode();
        let judge = |cred: &Cred| file.judged(cred, Rights::OPEN, Seen { value: None, asked: tick() }, TTL);
        judge(&cred(0));
        assert!(file.grants(&cred(0), Rights::OPEN, TTL));
        assert!(!file.grants(&cred(7), Rights::OPEN, TTL), "another group");
        let with_groups = Cred { groups: Arc::new([7]), ..cred(0) };
        assert!(!file.grants(&with_groups, Rights::OPEN, TTL), "other groups");
        assert!(!file.grants(&cred(0), Rights::OPEN, Duration::ZERO));
        (0..1000).for_each(|gid| judge(&cred(gid)));
        assert_eq!(file.while_busy(|busy| busy.verdicts.len()), Some(VERDICTS_MAX));
        assert!(file.grants(&cred(999), Rights::OPEN, TTL));
    }

    #[test]
    fn a_verdict_is_of_what_was_asked_for() {
        let inode = inode();
        judge(&inode, Rights::of_access(access::EXECUTE), &attr(1, 1));
        assert!(may(&inode, Rights::OPEN) && !may(&inode, Rights::READ) && !may(&inode, Rights::WRITE));
        judge(&inode, Rights::of_access(access::MODIFY), &attr(1, 1));
        assert!(!may(&inode, Rights::WRITE), "a file that it cannot extend");
        judge(&inode, Rights::of_access(access::READ | access::MODIFY | access::EXTEND), &attr(1, 1));
        assert!(may(&inode, Rights::READ.and(Rights::WRITE)));
        judge(&inode, Rights::OPEN, &attr(1, 1));
        assert!(may(&inode, Rights::WRITE), "what has been granted before stays");
    }

    #[test]
    fn rights_of_several_answers_hold_as_long_as_the_oldest() {
        let inode = inode();
        let Some(old) = Instant::now().checked_sub(Duration::from_secs(50)) else { return };
        inode.judged(&cred(0), Rights::OPEN, Seen { value: None, asked: Tick { at: old, ..tick() } }, TTL);
        inode.judged(&cred(0), Rights::WRITE, Seen { value: None, asked: tick() }, TTL);
        let both = inode.verdict(&cred(0), Rights::OPEN.and(Rights::WRITE), TTL);
        assert!(both.is_some_and(|verdict| verdict.asked == old));
        let part = Duration::from_secs(10);
        assert!(!inode.grants(&cred(0), Rights::WRITE, part));
        inode.judged(&cred(0), Rights::WRITE, Seen { value: None, asked: tick() }, part);
        assert!(inode.grants(&cred(0), Rights::WRITE, part), "what has ended does not count");
    }

    #[test]
    fn a_change_by_others_voids_verdicts_and_one_of_ours_does_not() {
        let inode = inode();
        judge(&inode, Rights::OPEN, &attr(1, 1));
        let wcc = |from: &Attr, to: &Attr| {
            let before = WccAttr { size: from.size, mtime: from.mtime, ctime: from.ctime };
            Wcc { before: Some(before), after: Some(*to) }
        };
        inode.mutate().answered(seen(&wcc(&attr(1, 1), &attr(2, 2))));
        assert!(may(&inode, Rights::OPEN), "we wrote to it");
        inode.mutate().answered(seen(&wcc(&attr(2, 3), &attr(3, 4))));
        assert!(!may(&inode, Rights::OPEN), "somebody else changed it in between");
        judge(&inode, Rights::OPEN, &attr(3, 4));
        assert!(may(&inode, Rights::OPEN));
        inode.learn(seen(&attr(3, 5)));
        assert!(!may(&inode, Rights::OPEN));
        judge(&inode, Rights::OPEN, &attr(3, 6));
        assert!(may(&inode, Rights::OPEN), "its own answer has shown the change");
        inode.mutate().of_permissions().answered(seen(&wcc(&attr(3, 6), &attr(3, 6))));
        assert!(!may(&inode, Rights::OPEN), "we changed its permissions, within one tick of the server");
        judge(&inode, Rights::OPEN, &attr(3, 7));
        drop(inode.mutate());
        inode.learn(seen(&attr(3, 8)));
        assert!(!may(&inode, Rights::OPEN), "nobody knows whose change that was");
    }

    #[test]
    fn a_verdict_that_was_asked_for_before_a_change_was_seen_is_not_of_what_is_known() {
        let inode = inode();
        inode.learn(seen(&attr(1, 1)));
        let asked = tick();
        inode.learn(seen(&attr(1, 2)));
        inode.judged(&cred(0), Rights::OPEN, Seen { value: None, asked }, TTL);
        assert!(!may(&inode, Rights::OPEN));
        inode.judged(&cred(0), Rights::OPEN, Seen { value: Some(&attr(1, 1)), asked }, TTL);
        assert!(!may(&inode, Rights::OPEN));
        inode.judged(&cred(0), Rights::OPEN, Seen { value: Some(&attr(1, 2)), asked }, TTL);
        assert!(may(&inode, Rights::OPEN));
    }
}
