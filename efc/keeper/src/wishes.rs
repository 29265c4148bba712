//! The queue of upgrades of one mount that clients have asked for: done one after the other, each with an answer of its
//! own.
//!
//! A client derives the options that it wants from those that it has seen, and another client's upgrade may have come
//! in between. So a request includes the options that it was derived from, and only the differences are applied to the
//! options in force when its turn comes.

use std::collections::{HashMap, VecDeque};

use efc_proto::error::Code;
use efc_proto::{DaemonConfig, Error, MountStatus};

use crate::failure::failure;

/// Most wishes that wait for one mount.
const WAITING_MAX: usize = 64;

/// The number of a wish whose client waits no longer.
const GIVEN_UP: u64 = 0;

/// What a client wants daemons to serve with from now on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    /// `None`: as before.
    pub options: Option<DaemonConfig>,
    /// What `options` was made from; `None`: `options` is wanted as a whole.
    pub base: Option<DaemonConfig>,
    /// The daemon may stay, and take the options.
    pub in_place: bool,
    /// What the file holds that says where workers are, if it has been read.
    pub workers_file: Option<Vec<u8>>,
    /// The network that the daemon shall be in, as [`crate::network::of_process`] says it, and nothing else: one that is there stays.
    pub network: Option<String>,
}

impl Wish {
    /// The options that it asks for, where `current` are in force.
    pub fn options_over(&self, current: &DaemonConfig) -> Option<DaemonConfig> {
        let options = self.options.clone()?;
        Some(match &self.base {
            Some(base) => current.merged(options, base),
            None => options,
        })
    }
}

/// All wishes of one mount. Each has a number, by which its client finds the answer.
#[derive(Debug, Default)]
pub struct Wishes {
    last: u64,
    waiting: VecDeque<(u64, Wish)>,
    /// Numbers of the wishes that the upgrade under way fulfils.
    under_way: Vec<u64>,
    /// Answers that were not fetched yet; who does not wait any more gets none.
    answers: HashMap<u64, Result<MountStatus, Error>>,
}

impl Wishes {
    /// Queues a wish; its number.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if too many wait already.
    pub fn add(&mut self, wish: Wish) -> Result<u64, Error> {
        if self.waiting.len() >= WAITING_MAX {
            let message = format!("{WAITING_MAX} upgrades of this mount wait for their turn already");
            return Err(failure(Code::ResourceExhausted, message));
        }
        self.last += 1;
        self.waiting.push_back((self.last, wish));
        Ok(self.last)
    }

    /// The wish whose turn it is, unless an upgrade is under way. One that asks for another daemon and nothing else takes all
    /// others of its kind along; options may be refused, which is no answer to somebody who did not ask for them.
    pub fn begin_next(&mut self) -> Option<Wish> {
        if !self.under_way.is_empty() {
            return None;
        }
        let (number, wish) = self.waiting.pop_front()?;
        self.under_way.push(number);
        if wish.options.is_none() {
            let (alike, others) = self.waiting.drain(..).partition(|(_, other)| *other == wish);
            self.waiting = others;
            let alike: VecDeque<(u64, Wish)> = alike;
            self.under_way.extend(alike.into_iter().map(|(number, _)| number));
        }
        Some(wish)
    }

    /// The upgrade that was under way has come to its end.
    pub fn finish(&mut self, result: &Result<MountStatus, Error>) {
        let waited_for = self.under_way.drain(..).filter(|number| *number != GIVEN_UP);
        self.answers.extend(waited_for.map(|number| (number, result.clone())));
    }

    /// Whether there is an answer.
    pub fn is_answered(&self, number: u64) -> bool {
        self.answers.contains_key(&number)
    }

    /// Fetches the answer.
    pub fn take_answer(&mut self, number: u64) -> Option<Result<MountStatus, Error>> {
        self.answers.remove(&number)
    }

    /// Its client waits no longer. False if the upgrade is under way, and goes on without it.
    pub fn give_up(&mut self, number: u64) -> bool {
        let waiting = self.waiting.len();
        self.waiting.retain(|(waiting, _)| *waiting != number);
        // The place of one that is under way stays taken, since something is.
        self.under_way.iter_mut().filter(|wish| **wish == number).for_each(|wish| *wish = GIVEN_UP);
        self.waiting.len() < waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(attr_ttl_ms: u32, soft: bool) -> DaemonConfig {
        DaemonConfig { attr_ttl_ms, soft, ..Default::default() }
    }

    fn wish(options: DaemonConfig, base: DaemonConfig) -> Wish {
        Wish { options: Some(options), base: Some(base), in_place: true, ..Default::default() }
    }

    #[test]
    fn only_what_a_wish_changes_is_changed() {
        let current = with(7, true);
        assert_eq!(Wish::default().options_over(&current), None);
        assert_eq!(wish(with(9, false), with(1, false)).options_over(&current), Some(with(9, true)));
        assert_eq!(wish(with(1, true), with(1, false)).options_over(&current), Some(with(7, true)));
        let whole = Wish { options: Some(with(9, false)), ..Default::default() };
        assert_eq!(whole.options_over(&current), Some(with(9, false)));
    }

    #[test]
    fn each_has_its_turn_and_its_answer() {
        let mut wishes = Wishes::default();
        let plain = wishes.add(Wish::default()).unwrap();
        let first = wishes.add(wish(with(1, false), with(0, false))).unwrap();
        let second = wishes.add(wish(with(2, false), with(0, false))).unwrap();
        let other = wishes.add(Wish::default()).unwrap();
        assert_eq!(wishes.begin_next(), Some(Wish::default()));
        assert_eq!(wishes.begin_next(), None);
        let late = wishes.add(Wish::default()).unwrap();
        let status = MountStatus { pid: 5, ..Default::default() };
        wishes.finish(&Ok(status.clone()));
        for number in [plain, other] {
            assert_eq!(wishes.take_answer(number), Some(Ok(status.clone())));
        }
        assert!(!wishes.is_answered(first) && !wishes.is_answered(late));
        assert_eq!(wishes.begin_next().unwrap().options, Some(with(1, false)));
        wishes.finish(&Err(failure(Code::FailedPrecondition, "refused")));
        assert!(wishes.take_answer(first).unwrap().is_err());
        assert!(!wishes.is_answered(late), "it did not ask for what was refused");
        assert!(wishes.give_up(second));
        assert_eq!(wishes.begin_next(), Some(Wish::default()));
    }

    #[test]
    fn who_gives_up_leaves_nothing_behind() {
        let mut wishes = Wishes::default();
        let number = wishes.add(Wish::default()).unwrap();
        wishes.begin_next().unwrap();
        assert!(!wishes.give_up(number));
        wishes.add(Wish::default()).unwrap();
        assert_eq!(wishes.begin_next(), None, "one is under way still");
        wishes.finish(&Ok(MountStatus::default()));
        assert!(!wishes.is_answered(number));
        assert!(wishes.begin_next().is_some());
    }

    #[test]
    fn too_many_are_refused() {
        let mut wishes = Wishes::default();
        for _ in 0..WAITING_MAX {
            wishes.add(Wish::default()).unwrap();
        }
        assert_eq!(wishes.add(Wish::default()).unwrap_err().code(), Code::ResourceExhausted);
        wishes.begin_next().unwrap();
        wishes.add(Wish::default()).unwrap();
    }
}
