//! What the server lets callers do with an object, and since when that is known.
//!
//! A verdict is of one credential, its groups included, and of the object as its ctime was then: it is void when another
//! ctime is seen, unless a change of ours has left it that does not touch permissions. For how long a verdict holds is
//! decided by a [`Freshness`](crate::Freshness). Attributes are no verdict, nor is an entry of a listing.

use std::time::{Duration, Instant};

use efc_backend::{Attr, Cred, Seen, Tick, access};

use crate::inode::{Facts, Inode};

/// Credentials whose verdicts an object remembers; beyond that the oldest goes.
const VERDICTS_MAX: usize = 64;

/// What a caller may do with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// Open a file to read or to execute it: READ of NFS serves both.
    pub const OPEN: Rights = Rights(1);
    /// Read a file, or list a directory.
    pub const READ: Rights = Rights(2);
    /// Open a file to write it.
    pub const WRITE: Rights = Rights(4);
    /// Look up names in a directory.
    pub const SEARCH: Rights = Rights(8);

    /// What the bits of an answer to ACCESS grant.
    pub fn of_access(granted: u32) -> Rights {
        let has = |bits: u32| granted & bits == bits;
        let rights = [
            (Rights::OPEN, granted & (access::READ | access::EXECUTE) != 0),
            (Rights::READ, has(access::READ)),
            (Rights::WRITE, has(access::MODIFY | access::EXTEND)),
            (Rights::SEARCH, has(access::LOOKUP)),
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
pub struct Verdict {
    /// When the call was sent whose answer it is.
    pub itself: Instant,
    /// Since when it is known that the caller may search this directory and all above it.
    pub path: Option<Instant>,
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
    /// What the server has said of these rights of a caller, if that is younger than `ttl` and of the object as it is
    /// known.
    pub fn verdict(&self, cred: &Cred, rights: Rights, ttl: Duration) -> Option<Verdict> {
        let is_fresh = |since: &Instant| efc_tasks::time::since(*since) < ttl;
        let of = |verdicts: &Verdicts| verdicts.iter().find(|(of, _)| of == cred).map(|(_, verdict)| *verdict);
        let verdict = self.while_busy(|busy| of(&busy.verdicts))??;
        let holds = verdict.rights.contain(rights) && is_fresh(&verdict.itself);
        (holds && verdict.permissions == self.facts().permissions)
            .then(|| Verdict { path: verdict.path.filter(is_fresh), ..verdict })
    }

    /// What is known of a caller's searches of this directory, as far as it is younger than `ttl`.
    pub fn search(&self, cred: &Cred, ttl: Duration) -> Option<Verdict> {
        self.verdict(cred, Rights::SEARCH, ttl)
    }

    /// The server grants the caller these rights, and shows these attributes of the object with that, which have been
    /// [learned](Inode::learn). A verdict that holds by `ttl` and has others stays instead.
    pub fn judged(&self, cred: &Cred, rights: Rights, seen: Seen<Option<&Attr>>, ttl: Duration) {
        let Some(permissions) = self.facts().permissions_of(seen) else { return };
        let is_more = |known: &Verdict| !rights.contain(known.rights);
        let former = self.verdict(cred, Rights(0), ttl);
        if former.as_ref().is_some_and(|known| is_more(known) && known.rights.contain(rights)) {
            return;
        }
        // Rights that were granted one after the other hold as long as the first of them.
        let kept = former.filter(is_more);
        let rights = kept.map_or(rights, |known| known.rights.and(rights));
        let itself = kept.map_or(seen.asked.at, |known| known.itself.min(seen.asked.at));
        let path = former.and_then(|known| known.path);
        self.note_verdict(cred, Verdict { itself, path, rights, permissions });
    }

    /// The server has let the caller search the directory: a question that was `asked` then has been answered.
    pub fn searched(&self, cred: &Cred, asked: Tick, ttl: Duration) {
        self.judged(cred, Rights::SEARCH, Seen { value: None, asked }, ttl);
    }

    /// The caller may search all directories above this one too, and that is known since `path`.
    pub fn searched_path(&self, cred: &Cred, path: Instant) {
        self.change_busy(|busy| {
            if let Some((_, verdict)) = busy.verdicts.iter_mut().find(|(of, _)| of == cred) {
                verdict.path = Some(path);
            }
        });
    }

    fn note_verdict(&self, cred: &Cred, verdict: Verdict) {
        self.change_busy(|busy| {
            let verdicts = &mut busy.verdicts;
            if let Some((_, known)) = verdicts.iter_mut().find(|(of, _)| of == cred) {
                *known = verdict;
                return;
            }
            if verdicts.len() >= VERDICTS_MAX {
                let oldest = verdicts.iter().enumerate().min_by_key(|(_, (_, verdict))| verdict.itself);
                oldest.map(|(index, _)| index).into_iter().for_each(|index| drop(verdicts.swap_remove(index)));
            }
            verdicts.push((cred.clone(), verdict));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use efc_backend::{Wcc, WccAttr};

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
        inode.verdict(&cred(0), rights, TTL).is_some()
    }

    #[test]
    fn verdicts_are_of_one_credential_and_end() {
        let directory = inode();
        directory.searched(&cred(0), tick(), TTL);
        assert!(directory.search(&cred(0), TTL).is_some_and(|verdict| verdict.path.is_none()));
        assert!(directory.search(&cred(7), TTL).is_none(), "another group");
        let with_groups = Cred { groups: Arc::new([7]), ..cred(0) };
        assert!(directory.search(&with_groups, TTL).is_none(), "other groups");
        directory.searched_path(&cred(0), Instant::now());
        assert!(directory.search(&cred(0), TTL).is_some_and(|verdict| verdict.path.is_some()));
        assert!(directory.search(&cred(0), Duration::ZERO).is_none());
        (0..1000).for_each(|gid| directory.searched(&cred(gid), tick(), TTL));
        assert_eq!(directory.while_busy(|busy| busy.verdicts.len()), Some(VERDICTS_MAX));
        assert!(directory.search(&cred(999), TTL).is_some());
    }

    #[test]
    fn a_path_is_known_no_longer_than_its_oldest_verdict() {
        let directory = inode();
        directory.searched(&cred(0), tick(), TTL);
        let Some(old) = Instant::now().checked_sub(Duration::from_secs(100)) else { return };
        directory.searched_path(&cred(0), old);
        assert!(directory.search(&cred(0), TTL).is_some_and(|verdict| verdict.path.is_none()));
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
        assert!(both.is_some_and(|verdict| verdict.itself == old));
        let part = Duration::from_secs(10);
        assert!(inode.verdict(&cred(0), Rights::WRITE, part).is_none());
        inode.judged(&cred(0), Rights::WRITE, Seen { value: None, asked: tick() }, part);
        assert!(inode.verdict(&cred(0), Rights::WRITE, part).is_some(), "what has ended does not count");
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
