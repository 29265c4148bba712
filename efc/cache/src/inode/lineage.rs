//! Tells whether an object was changed by this node alone, or by others too.
//!
//! The answer to a change of our own has the versions before and after it (WCC data). If the version before is the one
//! that our previous change has left, nobody else has changed the object in between: cached content that followed our
//! changes stays valid with the new version. A version that no change of ours has left is the work of *others*.
//!
//! Replies to several changes in flight arrive in any order, so a change whose predecessor is not known yet waits for
//! it while others are in flight. What cannot be decided counts as the work of others: that costs a question, never
//! wrong data. Servers may take the version before from their own caches, so this is a hint: content that is kept for
//! long on its basis alone must be revalidated now and then.

use crate::version::Version;

/// Changes that wait for their predecessor; beyond that they count as the work of others.
const STEPS_MAX: usize = 64;

/// The history of one object, as far as this node knows it.
#[derive(Default)]
pub(crate) struct Lineage {
    /// The version up to which all changes are known.
    at: Option<Version>,
    /// The place among all answers of the one that moved `at`.
    moved: u64,
    /// Own changes that do not follow on `at`; hardly ever any.
    steps: Option<Box<Steps>>,
    in_flight: u32,
    /// The place among all answers of the last end of a change of ours.
    ended: u64,
    by_others: u32,
    /// Of these, changes of ours whose answers did not say what they had found.
    unseen: u32,
}

/// From which version to which.
#[derive(Default)]
struct Steps(Vec<(Version, Version)>);

impl Lineage {
    /// Changes by others that were noticed so far.
    pub fn by_others(&self) -> u32 {
        self.by_others
    }

    /// Changes that others are known to have made, without what they may have done just before changes of ours.
    pub fn known_by_others(&self) -> u32 {
        self.by_others.wrapping_sub(self.unseen)
    }

    /// Is this the version up to which all changes are known?
    pub fn is_at(&self, version: &Version) -> bool {
        self.at.as_ref() == Some(version)
    }

    /// Has no change of ours been under way since this place among all answers?
    pub fn is_quiet_since(&self, order: u64) -> bool {
        self.in_flight == 0 && self.ended <= order
    }

    /// A reply of the place `received`, to a question of the place `asked`, shows this version.
    pub fn shown(&mut self, version: &Version, asked: u64, received: u64) {
        match self.at {
            None => self.move_to(Some(*version), received),
            Some(at) if at == *version => {}
            // It may be what a change of ours has left that is not answered yet, or older than what is known.
            Some(_) if self.in_flight > 0 || asked < self.moved => {}
            Some(_) => self.changed_by_others(Some(*version), received),
        }
    }

    /// A change of ours begins.
    pub fn begin(&mut self) {
        self.in_flight += 1;
    }

    /// It was answered, in the place `received`, with the version that it found and the one that it left, if the reply
    /// has them.
    pub fn changed(&mut self, from: Option<Version>, to: Option<Version>, received: u64) {
        match (from, to) {
            (_, Some(to)) if self.at.is_none() => self.move_to(Some(to), received),
            (Some(from), Some(to)) if self.at == Some(from) => self.move_to(Some(to), received),
            (None, Some(to)) if self.at == Some(to) => {}
            (Some(from), Some(to)) if self.in_flight > 1 && self.waiting() < STEPS_MAX => {
                self.steps.get_or_insert_default().0.push((from, to));
            }
            (from, to) => {
                if from.is_none() && to.is_some() {
                    self.unseen = self.unseen.wrapping_add(1);
                }
                self.changed_by_others(to, received);
            }
        }
    }

    /// What it has done is not known.
    pub fn lost(&mut self, received: u64) {
        self.changed_by_others(None, received);
    }

    /// The end of what [`Lineage::begin`] began.
    pub fn end(&mut self, received: u64) {
        debug_assert!(self.in_flight > 0, "a change ends once");
        self.in_flight -= 1;
        self.ended = received;
        if self.in_flight == 0 && self.waiting() > 0 {
            self.changed_by_others(None, received);
        }
    }

    fn move_to(&mut self, version: Option<Version>, received: u64) {
        self.at = version;
        self.moved = received;
        let Some(Steps(steps)) = self.steps.as_deref_mut() else { return };
        while let Some(next) = steps.iter().position(|(from, _)| Some(*from) == self.at) {
            self.at = Some(steps.swap_remove(next).1);
        }
        if steps.is_empty() {
            self.steps = None;
        }
    }

    fn waiting(&self) -> usize {
        self.steps.as_ref().map_or(0, |steps| steps.0.len())
    }

    fn changed_by_others(&mut self, to: Option<Version>, received: u64) {
        self.by_others = self.by_others.wrapping_add(1);
        self.steps = None;
        self.move_to(to, received);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::attr;

    fn version(number: u32) -> Version {
        Version::of(&attr(1, number))
    }

    fn change(lineage: &mut Lineage, from: u32, to: u32) {
        lineage.changed(Some(version(from)), Some(version(to)), 0);
        lineage.end(0);
    }

    #[test]
    fn own_changes_follow_on_each_other_in_any_order_of_replies() {
        let mut lineage = Lineage::default();
        lineage.shown(&version(0), 0, 1);
        (0..3).for_each(|_| lineage.begin());
        change(&mut lineage, 2, 3);
        lineage.shown(&version(2), 5, 6); // of a change that is not answered
        change(&mut lineage, 1, 2);
        change(&mut lineage, 0, 1);
        lineage.shown(&version(3), 9, 10);
        assert_eq!(lineage.by_others(), 0);
    }

    #[test]
    fn a_version_that_no_change_of_ours_has_left_is_the_work_of_others() {
        let mut lineage = Lineage::default();
        lineage.shown(&version(0), 0, 1);
        lineage.shown(&version(7), 2, 3);
        assert_eq!(lineage.by_others(), 1);
        lineage.shown(&version(0), 2, 4);
        assert_eq!(lineage.by_others(), 1, "an overtaken reply");
        lineage.begin();
        change(&mut lineage, 8, 9);
        assert_eq!(lineage.by_others(), 2, "found another version than was left");
        (0..2).for_each(|_| lineage.begin());
        change(&mut lineage, 10, 11);
        change(&mut lineage, 9, 10);
        assert_eq!(lineage.by_others(), 2);
        (0..2).for_each(|_| lineage.begin());
        change(&mut lineage, 12, 13);
        change(&mut lineage, 11, 12);
        assert_eq!(lineage.by_others(), 2);
        (0..2).for_each(|_| lineage.begin());
        change(&mut lineage, 14, 15);
        lineage.changed(Some(version(13)), Some(version(16)), 0);
        lineage.end(0);
        assert_eq!(lineage.by_others(), 3, "somebody stepped in between");
    }

    #[test]
    fn what_is_not_told_may_be_the_work_of_others() {
        let mut lineage = Lineage::default();
        lineage.shown(&version(0), 0, 1);
        lineage.begin();
        lineage.changed(None, Some(version(1)), 2);
        lineage.end(2);
        assert_eq!((lineage.by_others(), lineage.known_by_others()), (1, 0));
        lineage.begin();
        lineage.lost(3);
        lineage.end(3);
        assert_eq!((lineage.by_others(), lineage.known_by_others()), (2, 1));
        lineage.begin();
        for _ in 0..2 * STEPS_MAX as u32 {
            lineage.begin();
            change(&mut lineage, 100, 200);
        }
        assert!(lineage.waiting() <= STEPS_MAX);
    }
}
