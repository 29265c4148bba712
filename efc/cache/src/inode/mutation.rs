//! Mutations: changes of an object by this node, each registered at its inode from before its call is sent until its
//! answer has been taken in.
//!
//! A mutation that ends without an answer expires the object's attributes, without any caller having to do so. When a
//! mutation ends, in whatever way, data of the file that was read before is dropped
//! ([`whole_files`](super::whole_files)).

use std::sync::Arc;

use efc_backend::{Error, Seen, Tick, Wcc, WccAttr};

use crate::inode::Inode;
use crate::inode::standing::Standing;
use crate::version::Version;

/// A change of one object, in flight until this is dropped.
pub struct Mutation {
    inode: Arc<Inode>,
    /// Changes by others that were known before it.
    changes: u32,
    is_known: bool,
    changes_permissions: bool,
}

impl Inode {
    /// A call is about to leave that changes the object.
    pub fn mutate(self: &Arc<Self>) -> Mutation {
        let mut facts = self.facts();
        facts.lineage.begin();
        let changes = facts.lineage.known_by_others();
        Mutation { inode: self.clone(), changes, is_known: false, changes_permissions: false }
    }

    /// How many changes of the object by others than this node were noticed so far. What is cached of its content, and
    /// follows our own changes, is that of the last version seen as long as this number stays the same.
    pub fn changes_by_others(&self) -> u32 {
        self.facts().lineage.by_others()
    }
}

impl Inode {
    /// How many changes of the object others are known to have made. What they may have done just before a change of ours whose
    /// answer does not say what it found (some servers' answers to MKDIR) is not known: whoever relies on this number
    /// asks again in time.
    pub fn known_changes_by_others(&self) -> u32 {
        self.facts().lineage.known_by_others()
    }
}

impl Mutation {
    /// This one, which changes who may do what with the object: verdicts of before do not outlive it.
    pub fn of_permissions(mut self) -> Mutation {
        self.changes_permissions = true;
        self
    }

    /// The answer says what the object was like before and after the change. What it has made of a directory's names
    /// rests on that.
    pub fn answered(mut self, Seen { value: wcc, asked }: Seen<&Wcc>) -> Standing {
        let from = wcc.before.as_ref().map(Version::before);
        let after = wcc.after.filter(|attr| self.inode.is_plausible(attr));
        match &after {
            Some(after) => {
                let to = Some(Version::of(after));
                self.inode.take_in(after, asked, |facts, received| {
                    let by_others = facts.lineage.by_others();
                    facts.lineage.changed(from, to, received);
                    // A server that does not say what it found says nothing against it either.
                    from.is_none() || facts.lineage.by_others() == by_others
                });
                self.is_known = true;
            }
            None => self.lose(),
        }
        let changes = self.inode.changes_as_of(self.changes, after.as_ref());
        let (order, shown) = (Tick::of_answer().order, after.as_ref().map(Version::of));
        Standing {
            asked,
            order,
            changes,
            shown,
            version: None,
            is_ours: true,
            is_chained: from.is_some(),
            is_proof: true,
        }
    }

    /// The call failed. What its answer shows is taken in; if it shows nothing, the object may have changed.
    pub fn failed(self, error: &Error) {
        if let (Some(asked), Some(after)) = (error.asked, error.wcc.after) {
            // What it is like now it was before.
            let before = WccAttr { size: after.size, mtime: after.mtime, ctime: after.ctime };
            let before = error.wcc.before.or(Some(before));
            self.answered(Seen { value: &Wcc { before, ..error.wcc }, asked });
        }
    }

    /// The call failed. If the server has refused it the object is what it was, whether its answer shows that or not.
    pub fn refused(self, error: &Error) {
        match error.wcc.after {
            None => self.unchanged_if(error.status().is_some()),
            Some(_) => self.failed(error),
        }
    }

    /// It is known that the object was not changed, or it is not.
    pub fn unchanged_if(mut self, is_certain: bool) {
        self.is_known = is_certain;
    }

    fn lose(&mut self) {
        let mut facts = self.inode.facts();
        facts.expire();
        facts.lineage.lost(Tick::of_answer().order);
        self.is_known = true;
    }
}

impl Drop for Mutation {
    fn drop(&mut self) {
        if !self.is_known {
            self.lose();
        }
        let now = Tick::of_answer().order;
        let mut facts = self.inode.facts();
        facts.lineage.end(now);
        if self.changes_permissions {
            facts.permissions.change(now);
        }
        drop(facts);
        self.inode.drop_whole();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{attr, inode, seen, tick};
    use efc_backend::{Attr, ErrorKind, Status};

    fn wcc(before: &Attr, after: &Attr) -> Wcc {
        let before = WccAttr { size: before.size, mtime: before.mtime, ctime: before.ctime };
        Wcc { before: Some(before), after: Some(*after) }
    }

    #[test]
    fn a_change_of_ours_alone_leaves_what_is_cached_valid() {
        let inode = inode();
        inode.learn(seen(&attr(1, 1)));
        inode.mutate().answered(seen(&wcc(&attr(1, 1), &attr(2, 2))));
        assert_eq!((inode.observed().expect("known").seen.value.size, inode.changes_by_others()), (2, 0));
        inode.mutate().answered(seen(&wcc(&attr(7, 7), &attr(8, 8))));
        assert_eq!((inode.observed().expect("known").seen.value.size, inode.changes_by_others()), (8, 1));
    }

    #[test]
    fn a_mutation_without_an_answer_expires_the_object() {
        let inode = inode();
        let learn = || inode.learn(seen(&attr(1, 1)));
        learn();
        drop(inode.mutate());
        assert!(inode.observed().is_none());
        learn();
        inode.mutate().answered(seen(&wcc(&attr(1, 1), &attr(1 << 63, 2))));
        assert!(inode.observed().is_none(), "an answer that cannot be");
        learn();
        inode.mutate().failed(&Error::new(ErrorKind::Status(Status::NoSpc)));
        assert!(inode.observed().is_none(), "part of it may have been written");
        learn();
        inode.mutate().refused(&Error::new(ErrorKind::TimedOut));
        assert!(inode.observed().is_none(), "nobody has refused it");
        learn();
        inode.mutate().refused(&Error::new(ErrorKind::Status(Status::Exist)));
        assert!(inode.observed().is_some());
    }

    #[test]
    fn a_failure_may_say_what_the_object_is_like() {
        let inode = inode();
        let error = Error {
            wcc: wcc(&attr(1, 1), &attr(1, 2)),
            asked: Some(tick()),
            ..Error::new(ErrorKind::Status(Status::NoSpc))
        };
        inode.mutate().failed(&error);
        assert!(inode.observed().is_some());
    }
}
