//! What an answer says of the names of a directory, and how long that remains true.
//!
//! A name that was looked up, a page that was listed, a change of ours: each is an answer about names. It is true from
//! the moment when its call was sent. Later events show in the directory's version. As long as only our own changes
//! have moved the version, what was learnt is not known to be wrong. As long as it has not moved at all, the answer is
//! as good as one given now, *if* the version was settled when the question was sent ([`Inode::is_settled`]). Answers
//! to questions that were sent while a change of ours was in flight may be of before or after that change: they are
//! hints.

use std::sync::Arc;

use efc_backend::{Attr, Seen, Tick};

use crate::inode::Inode;
use crate::version::Version;

/// A question about names of a directory, that is about to leave.
pub struct NameQuestion {
    directory: Arc<Inode>,
    changes: u32,
}

/// What an answer about names of a directory rests on.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// When the call was sent.
    pub(crate) asked: Tick,
    /// From which place among all answers on it holds: what is known of later is not touched by it.
    pub(crate) order: u64,
    /// Changes by others that were known when the directory was so.
    pub(crate) changes: u32,
    /// The version that the answer has shown.
    pub(crate) shown: Option<Version>,
    /// The same, if it is certain that what the answer says belongs to it.
    pub(crate) version: Option<Version>,
    /// It is the answer to a change of ours.
    pub(crate) is_ours: bool,
    /// It says what that has found.
    pub(crate) is_chained: bool,
    /// Else it says what may be, and nothing is answered from it.
    pub(crate) is_proof: bool,
}

impl Inode {
    /// A question about names of this directory is about to leave.
    pub fn ask_names(self: &Arc<Self>) -> NameQuestion {
        NameQuestion { directory: self.clone(), changes: self.known_changes_by_others() }
    }

    /// Has no change of ours been under way since this place among all answers?
    pub fn is_quiet_since(&self, order: u64) -> bool {
        self.facts().lineage.is_quiet_since(order)
    }

    /// Changes by others as of a reply that has been taken in, and shows the directory like that; before its call left they
    /// were `before`.
    pub(crate) fn changes_as_of(&self, before: u32, shown: Option<&Attr>) -> u32 {
        let lineage = &self.facts().lineage;
        match shown {
            Some(attr) if lineage.is_at(&Version::of(attr)) => lineage.known_by_others(),
            _ => before,
        }
    }
}

impl NameQuestion {
    /// The answer to a call that was sent at `asked`, which shows the directory as `shown`: that is taken in.
    pub fn answered(&self, asked: Tick, shown: Option<&Attr>) -> Standing {
        let shown = shown.filter(|attr| self.directory.is_plausible(attr));
        // Before it is taken in: whether the version was settled does not depend on this reply.
        let is_settled = shown.is_some_and(|attr| self.directory.is_settled(Seen { value: attr, asked }));
        shown.iter().for_each(|attr| self.directory.learn(Seen { value: attr, asked }));
        let changes = self.directory.changes_as_of(self.changes, shown);
        let is_quiet = self.directory.is_quiet_since(asked.order);
        let version = shown.filter(|_| is_settled && is_quiet).map(Version::of);
        let shown = shown.map(Version::of);
        Standing {
            asked,
            order: asked.order,
            changes,
            shown,
            version,
            is_ours: false,
            is_chained: false,
            is_proof: is_quiet,
        }
    }
}

impl Standing {
    /// This answer, which may be a copy of an earlier one: the server may have given it before it was asked.
    pub fn doubted_if(self, is_copy: bool) -> Standing {
        if is_copy { Standing { version: None, is_proof: false, ..self } } else { self }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{attr, inode, seen, tick};
    use efc_backend::{FileType, Wcc, WccAttr};

    fn version(ctime: u32) -> Attr {
        Attr { kind: FileType::Directory, ..attr(1, ctime) }
    }

    fn later(asked: Tick) -> Tick {
        Tick { at: asked.at + Duration::from_secs(10), ..tick() }
    }

    #[test]
    fn a_version_that_is_settled_when_the_question_leaves_stands_for_its_names() {
        let (directory, now) = (inode(), std::time::SystemTime::now());
        let now = now.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs() as u32;
        let first = tick();
        let standing = directory.ask_names().answered(first, Some(&version(now)));
        assert!(standing.is_proof && standing.version.is_none(), "nobody knows yet whether that tick is over");
        let standing = directory.ask_names().answered(later(first), Some(&version(now)));
        assert_eq!(standing.version, Some(Version::of(&version(now))));
        let standing = directory.ask_names().answered(later(first), Some(&version(now + 20)));
        assert!(standing.version.is_none(), "it has changed while it was asked for");
        assert_eq!(standing.changes, directory.known_changes_by_others(), "and that is how it was");
        assert!(directory.ask_names().answered(later(first), None).version.is_none());
    }

    #[test]
    fn an_answer_that_a_change_of_ours_has_overlapped_is_a_hint() {
        let directory = inode();
        directory.learn(seen(&version(1)));
        let (question, asked) = (directory.ask_names(), tick());
        let change = directory.mutate();
        assert!(!question.answered(asked, Some(&version(1))).is_proof, "under way");
        let before = WccAttr { size: 1, mtime: version(1).mtime, ctime: version(1).ctime };
        let ours = change.answered(seen(&Wcc { before: Some(before), after: Some(version(2)) }));
        assert!(ours.is_proof && ours.order > asked.order);
        assert!(!question.answered(asked, Some(&version(2))).is_proof, "ended since");
        assert!(directory.ask_names().answered(tick(), Some(&version(2))).is_proof);
        assert_eq!(directory.known_changes_by_others(), 0);
    }

    #[test]
    fn an_overtaken_answer_belongs_to_what_was_known_before() {
        let directory = inode();
        directory.learn(seen(&version(1)));
        let (question, asked) = (directory.ask_names(), tick());
        directory.learn(seen(&version(9)));
        assert_eq!((question.answered(asked, None).changes, directory.known_changes_by_others()), (0, 1));
    }
}
