//! What a directory stream has already returned: to continue after the server has voided its cookies.
//!
//! A cookie is a position in a listing, but a server may void it at any change of the directory (the cookie verifier
//! changes then), and a reader that removes what it lists changes the directory with each page. Then only names tell
//! what has been returned already: the listing is read again from its beginning, and names in the [`History`] are
//! skipped.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering}; // of the process: no schedule explorer's

/// Names that all open directories of this process remember, at most; up to 40 bytes each.
static REMEMBERED_MAX: AtomicUsize = AtomicUsize::new(256 << 10);

/// Names that are remembered now.
static REMEMBERED: AtomicUsize = AtomicUsize::new(0);

/// Limits the names that all open directories remember.
pub fn limit_remembered(names_max: usize) {
    REMEMBERED_MAX.store(names_max, Ordering::Relaxed);
}

/// The names that a stream has given out since its beginning, in order.
pub struct History {
    /// `None`: not known from the beginning on, because a predecessor has given them out, or because there were too
    /// many.
    given: Option<Vec<Given>>,
    /// Names before this one came with cookies that are void.
    valid_from: usize,
    /// The hashes of those names: they are not given out again.
    skipped: HashSet<u64>,
    hasher: RandomState,
}

/// One name that was given out.
struct Given {
    /// The place behind it.
    cookie: u64,
    /// Of the name.
    hash: u64,
}

/// Where [`History::go_back`] leads.
#[derive(Debug, PartialEq, Eq)]
pub enum Resumption {
    /// Behind a name that was given out with this cookie, which is valid.
    Valid,
    /// Behind a name whose cookie is void: the listing is to be read anew.
    Void,
    /// No name that is known was given out with this cookie.
    Unknown,
}

impl History {
    /// Of a stream whose beginning is not known.
    pub fn unknown() -> History {
        History { given: None, valid_from: 0, skipped: HashSet::new(), hasher: RandomState::new() }
    }

    /// The stream is at its beginning.
    pub fn begin(&mut self) {
        self.forget();
        self.given = Some(Vec::new());
    }

    /// The stream is somewhere.
    pub fn forget(&mut self) {
        let count = self.given.take().map_or(0, |given| given.len());
        REMEMBERED.fetch_sub(count, Ordering::Relaxed);
        self.valid_from = 0;
        self.skipped = HashSet::new();
    }

    /// Is all that was given out known?
    pub fn is_known(&self) -> bool {
        self.given.is_some()
    }

    /// `name` is given out, with the place behind it.
    pub fn add(&mut self, name: &[u8], cookie: u64) {
        let Some(given) = &mut self.given else { return };
        if REMEMBERED.fetch_add(1, Ordering::Relaxed) >= REMEMBERED_MAX.load(Ordering::Relaxed) {
            REMEMBERED.fetch_sub(1, Ordering::Relaxed);
            return self.forget();
        }
        given.push(Given { cookie, hash: self.hasher.hash_one(name) });
    }

    /// Goes back to the place behind the last name that was given out with this cookie.
    pub fn go_back(&mut self, cookie: u64) -> Resumption {
        let Some(given) = &mut self.given else { return Resumption::Unknown };
        let Some(index) = given.iter().rposition(|given| given.cookie == cookie) else { return Resumption::Unknown };
        REMEMBERED.fetch_sub(given.len() - (index + 1), Ordering::Relaxed);
        given.truncate(index + 1);
        if index >= self.valid_from {
            return Resumption::Valid;
        }
        self.skipped.clear();
        self.valid_from = 0;
        self.void_cookies();
        Resumption::Void
    }

    /// The cookies of all names so far are void, and the listing is read anew.
    pub fn void_cookies(&mut self) {
        let Some(given) = &self.given else { return };
        self.skipped.extend(given[self.valid_from..].iter().map(|given| given.hash));
        self.valid_from = given.len();
    }

    /// The listing is read anew though nobody knows what was given out before the place `cookie`: names may come
    /// twice, but none is missing.
    pub fn begin_anew(&mut self, cookie: u64) {
        self.begin();
        self.add(NO_NAME, cookie);
        self.void_cookies();
    }

    /// Did the last name come with a valid cookie, as far as is known?
    pub fn is_valid(&self) -> bool {
        self.valid_from == 0 || self.given.as_ref().is_some_and(|given| given.len() > self.valid_from)
    }

    /// Was the name given out before the listing was read anew?
    pub fn skips(&self, name: &[u8]) -> bool {
        !self.skipped.is_empty() && self.skipped.contains(&self.hasher.hash_one(name))
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.forget();
    }
}

/// In place of a name: none holds a slash.
const NO_NAME: &[u8] = b"/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_skipped_from_the_first_void_cookie_on() {
        let mut history = History::unknown();
        history.add(b"x", 9);
        assert!(!history.is_known() && history.go_back(9) == Resumption::Unknown);
        history.begin();
        (0..100_u64).for_each(|number| history.add(&number.to_le_bytes(), number + 1));
        assert_eq!([40, 41].map(|cookie| history.go_back(cookie)), [Resumption::Valid, Resumption::Unknown]);
        let skipped = |history: &History| (0..100_u64).filter(|number| history.skips(&number.to_le_bytes())).count();
        assert_eq!(skipped(&history), 0);
        history.void_cookies();
        assert_eq!(skipped(&history), 40);
        assert_eq!(history.go_back(10), Resumption::Void);
        assert_eq!(skipped(&history), 10);
    }

    #[test]
    fn a_cookie_that_came_twice_is_the_later_one() {
        let mut history = History::unknown();
        history.begin();
        assert!(history.is_valid());
        history.add(b"a", 1);
        history.void_cookies();
        assert!(!history.is_valid());
        history.add(b"b", 1);
        assert!(history.is_valid() && history.go_back(1) == Resumption::Valid && history.is_valid());
        assert!(history.skips(b"a") && !history.skips(b"b"));
    }

    #[test]
    fn a_listing_that_begins_anew_without_a_history_skips_nothing() {
        let mut history = History::unknown();
        history.begin_anew(7);
        assert!(history.is_known() && !history.is_valid() && !history.skips(b"a"));
        history.add(b"a", 1);
        assert!(history.is_valid() && history.go_back(7) == Resumption::Void);
    }
}
