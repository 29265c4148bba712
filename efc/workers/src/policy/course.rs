//! The course of one look-up: decides the next step from the outcome of the last one.
//!
//! First one of the block's copies is asked; if it is missing, the first copy. If that is missing too, the first node
//! to find that out fetches the block, and the others poll for as long as its marker stands and waiting is worth it.

use std::time::{Duration, Instant};

use super::copies::COPIES_MAX;
use super::markers::{Backend, Markers};

/// The first pause between polls for a block that another node is fetching; each is twice as long as the one before, ...
const PAUSE_MIN: Duration = Duration::from_millis(4);
/// ... but no longer than this, or than this part of the time waited already.
const PAUSE_MAX: Duration = Duration::from_millis(40);
const PAUSE_PART: u32 = 4;
/// The copy that has the number of copies, and in whose place markers are set.
pub const FIRST: u8 = 1;

/// The outcome of one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The block.
    Found {
        /// How many copies it says that it has.
        copies: u8,
        /// The wait for it was long.
        was_long: bool,
    },
    /// A miss. For the first copy: the marker is this node's, or there are no markers.
    Missing,
    /// Another node is fetching it.
    Awaited,
    /// The worker was not asked, or could not answer.
    Unasked,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the worker that has the copy of this number.
    Ask(u8),
    /// Poll the first copy after this time.
    Pause(Duration),
    /// The block was found.
    Take(Found),
    /// There is none: fetch the block, and store it at the first copy's worker.
    Fetch,
    /// There is none, or it comes too late: fetch the block, and store it nowhere.
    GiveUp {
        /// Waited for another node's fetch in vain.
        waited: bool,
    },
}

/// A block that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// How many copies it says that it has.
    pub copies: u8,
    /// The copy that is to be stored at its worker.
    pub add: Option<u8>,
    /// Another node was fetching it, and this one waited.
    pub waited: bool,
}

/// One look-up.
#[derive(Clone, Debug)]
pub struct Course {
    hash: u64,
    copy: u8,
    /// Copies that there may be.
    known: u8,
    /// The copy that was not where it was looked for.
    lacking: Option<u8>,
    /// Another one was tried in place of the one that was drawn.
    is_second: bool,
    /// Since when another node's fetch is waited for, and looks since.
    waits: Option<(Instant, u32)>,
}

impl Course {
    /// Of the block of this hash, of which so many copies are known; one of these is drawn.
    pub fn new(hash: u64, known: u8, draw: u64) -> Course {
        let known = known.clamp(FIRST, COPIES_MAX);
        let copy = FIRST + (draw % u64::from(known)) as u8;
        Course { hash, copy, known, lacking: None, is_second: false, waits: None }
    }

    /// The copy that is asked first, or now.
    pub fn copy(&self) -> u8 {
        self.copy
    }

    /// What follows from `outcome`. `markers` are those at the first copy's worker; a fetch of another node is waited for as long as
    /// `backend` would take.
    pub fn next(&mut self, at: Instant, outcome: Outcome, markers: &mut Markers, backend: &mut Backend) -> Step {
        match outcome {
            Outcome::Found { copies, was_long } => self.found(copies, was_long, markers),
            Outcome::Missing | Outcome::Awaited | Outcome::Unasked if self.copy != FIRST => {
                self.lacking = Some(self.copy).filter(|_| outcome == Outcome::Missing);
                self.ask_another(FIRST)
            }
            Outcome::Missing => Step::Fetch,
            Outcome::Awaited => self.wait(at, markers, backend),
            Outcome::Unasked if self.known > FIRST && !self.is_second => self.ask_another(FIRST + 1),
            Outcome::Unasked => Step::GiveUp { waited: false },
        }
    }

    fn ask_another(&mut self, copy: u8) -> Step {
        if self.is_second {
            return Step::GiveUp { waited: false };
        }
        (self.copy, self.is_second) = (copy, true);
        Step::Ask(copy)
    }

    fn found(&self, copies: u8, was_long: bool, markers: &mut Markers) -> Step {
        let waited = self.waits.is_some();
        if waited {
            markers.came();
        }
        let lost = self.lacking.filter(|lacking| *lacking <= copies);
        let more = (was_long && !waited && copies < COPIES_MAX).then(|| copies + 1);
        let add = if self.copy == FIRST { lost.or(more) } else { None };
        Step::Take(Found { copies, add, waited })
    }

    fn wait(&mut self, at: Instant, markers: &mut Markers, backend: &mut Backend) -> Step {
        let Some((begin, looks)) = self.waits else {
            if !markers.is_waited_for(at, self.hash) {
                return Step::GiveUp { waited: false };
            }
            self.waits = Some((at, 1));
            return Step::Pause(PAUSE_MIN);
        };
        let Some(left) = backend.wait_on(at, begin) else {
            markers.waited_in_vain(at, self.hash);
            return Step::GiveUp { waited: true };
        };
        self.waits = Some((begin, looks + 1));
        let pause = (PAUSE_MIN * (1 << looks.min(8))).min(PAUSE_MAX);
        Step::Pause(pause.max(at.saturating_duration_since(begin) / PAUSE_PART).min(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: u64 = 7;
    const FOUND: Outcome = Outcome::Found { copies: 2, was_long: false };

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// The steps that follow from these outcomes, at once.
    fn steps(course: &mut Course, outcomes: &[Outcome]) -> Vec<Step> {
        let (mut markers, at) = (Markers::default(), Instant::now());
        outcomes.iter().map(|outcome| course.next(at, *outcome, &mut markers, &mut Backend::default())).collect()
    }

    fn take(copies: u8, add: Option<u8>) -> Step {
        Step::Take(Found { copies, add, waited: false })
    }

    #[test]
    fn the_copies_that_are_known_are_asked_evenly() {
        let mut asked = [0; 4];
        (0..300).for_each(|draw| asked[usize::from(Course::new(HASH, 3, draw).copy())] += 1);
        assert_eq!(asked, [0, 100, 100, 100]);
        assert!((0..300).all(|draw| Course::new(HASH, 0, draw).copy() == FIRST));
        assert!((0..300).all(|draw| Course::new(HASH, u8::MAX, draw).copy() <= COPIES_MAX));
    }

    #[test]
    fn a_copy_that_is_not_there_costs_one_question_and_is_put_there_if_the_block_says_that_it_should_be() {
        for (copies, add) in [(2, None), (3, Some(3))] {
            let mut course = Course::new(HASH, 3, 2);
            let found = Outcome::Found { copies, was_long: false };
            assert_eq!(steps(&mut course, &[Outcome::Missing, found]), [Step::Ask(FIRST), take(copies, add)]);
        }
        let mut course = Course::new(HASH, 3, 2);
        assert_eq!(steps(&mut course, &[Outcome::Awaited, Outcome::Missing]), [Step::Ask(FIRST), Step::Fetch]);
        let mut course = Course::new(HASH, 3, 2);
        let outcomes = [Outcome::Unasked, Outcome::Found { copies: 3, was_long: false }];
        assert_eq!(steps(&mut course, &outcomes), [Step::Ask(FIRST), take(3, None)], "nothing is known of it");
    }

    #[test]
    fn where_the_first_is_not_asked_another_is_and_then_none() {
        let give_up = Step::GiveUp { waited: false };
        let mut course = Course::new(HASH, 3, 0);
        assert_eq!(steps(&mut course, &[Outcome::Unasked, FOUND]), [Step::Ask(2), take(2, None)]);
        let mut course = Course::new(HASH, 3, 0);
        assert_eq!(steps(&mut course, &[Outcome::Unasked, Outcome::Missing]), [Step::Ask(2), give_up]);
        assert_eq!(steps(&mut Course::new(HASH, 1, 0), &[Outcome::Unasked]), [give_up]);
    }

    #[test]
    fn who_has_waited_long_for_the_first_adds_one_up_to_the_most() {
        for (copies, add) in [(1, Some(2)), (COPIES_MAX - 1, Some(COPIES_MAX)), (COPIES_MAX, None), (u8::MAX, None)] {
            let found = Outcome::Found { copies, was_long: true };
            assert_eq!(steps(&mut Course::new(HASH, 1, 0), &[found]), [take(copies, add)]);
        }
        let found = Outcome::Found { copies: 2, was_long: true };
        assert_eq!(steps(&mut Course::new(HASH, 2, 1), &[found]), [take(2, None)], "only the first knows");
    }

    #[test]
    fn a_marker_is_waited_for_as_long_as_it_is_worth_it() {
        for (took, patience, looks) in [(5, millis(100), 5), (500, millis(1000), 15)] {
            let (mut course, mut markers, begin) = (Course::new(HASH, 1, 0), Markers::default(), Instant::now());
            let (mut at, mut count, mut backend) = (begin, 0, Backend::default());
            backend.answered(begin, 1 << 20, millis(took));
            while let Step::Pause(pause) = course.next(at, Outcome::Awaited, &mut markers, &mut backend) {
                (at, count) = (at + pause, count + 1);
            }
            assert_eq!((at - begin, count), (patience, looks));
            let again = Course::new(HASH, 1, 0).next(at, Outcome::Awaited, &mut markers, &mut backend);
            assert_eq!(again, Step::GiveUp { waited: false }, "once for each block");
        }
    }

    #[test]
    fn what_was_waited_for_adds_no_copy() {
        let found = Outcome::Found { copies: 1, was_long: true };
        let steps = steps(&mut Course::new(HASH, 1, 0), &[Outcome::Awaited, found]);
        assert_eq!(steps[1], Step::Take(Found { copies: 1, add: None, waited: true }));
    }
}
