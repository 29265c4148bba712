//! Search verdicts: the directories that the server lets a caller search, and since when that is known.
//!
//! A verdict is for one credential and for the directory as it was then. It becomes void when anybody else has changed
//! the directory, since that may have been a change of its permissions, and when this node has changed these itself.

use std::time::{Duration, Instant};

use efc_backend::Cred;

use crate::inode::Inode;
use crate::inode::standing::Standing;

/// Credentials whose verdicts a directory remembers; beyond that the oldest goes.
const VERDICTS_MAX: usize = 64;

/// The server lets a caller search a directory.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// Since when that is known of the directory itself.
    pub itself: Instant,
    /// Since when it is known of the directory and of all above it.
    pub path: Option<Instant>,
}

/// By credential: the groups count, too.
pub(crate) type Searches = Vec<Search>;

/// What is known of the rights of one caller.
pub(crate) struct Search {
    cred: Cred,
    /// Changes by others that were known when the directory was so.
    changes: u32,
    itself: Option<Instant>,
    path: Option<Instant>,
    list: Option<Instant>,
}

impl Search {
    fn oldest(&self) -> Option<Instant> {
        self.itself.max(self.list)
    }
}

impl Inode {
    /// What is known of a caller as the directory is now.
    fn look_at_search<T>(&self, cred: &Cred, look: impl FnOnce(&Search) -> Option<T>) -> Option<T> {
        let changes = self.known_changes_by_others();
        let of = |search: &&Search| search.cred == *cred && search.changes == changes;
        self.while_busy(|busy| busy.searches.iter().find(of).and_then(look))?
    }

    /// What is known of a caller's searches of this directory, as far as it is younger than `ttl`.
    pub fn search(&self, cred: &Cred, ttl: Duration) -> Option<Verdict> {
        let is_fresh = |since: &Instant| efc_tasks::time::since(*since) < ttl;
        self.look_at_search(cred, |search| {
            let itself = search.itself.filter(is_fresh)?;
            Some(Verdict { itself, path: search.path.filter(is_fresh) })
        })
    }

    /// Is it known since less than `ttl` that the server lets the caller list the directory?
    pub fn lists(&self, cred: &Cred, ttl: Duration) -> bool {
        let since = self.look_at_search(cred, |search| search.list);
        since.is_some_and(|since| efc_tasks::time::since(since) < ttl)
    }

    /// The server has let the caller search the directory: an answer about its names says so.
    pub fn searched(&self, cred: &Cred, standing: &Standing) {
        if standing.is_proof {
            self.searched_since(cred, standing.asked.at, standing.changes);
        }
    }

    /// The server has let the caller search the directory since `itself`, when others had made so many changes of it.
    fn searched_since(&self, cred: &Cred, itself: Instant, changes: u32) {
        self.change_search(cred, changes, |search| search.itself = Some(itself));
    }

    /// The server has let the caller list the directory: that says nothing of searches.
    pub fn listed(&self, cred: &Cred, standing: &Standing) {
        if standing.is_proof {
            self.change_search(cred, standing.changes, |search| search.list = Some(standing.asked.at));
        }
    }

    /// The server has let the caller search the directory and all that are above it since `path`.
    pub fn searched_path(&self, cred: &Cred, path: Instant) {
        self.change_search(cred, self.known_changes_by_others(), |search| {
            search.itself = search.itself.or(Some(path));
            search.path = Some(path);
        });
    }

    /// Who may search the directory has changed.
    pub fn void_searches(&self) {
        self.change_busy(|busy| busy.searches.clear());
    }

    fn change_search(&self, cred: &Cred, changes: u32, change: impl FnOnce(&mut Search)) {
        self.change_busy(|busy| {
            let searches = &mut busy.searches;
            if let Some(known) = searches.iter_mut().find(|known| known.cred == *cred) {
                if known.changes != changes {
                    // Of those above it the path says as much as before.
                    (known.changes, known.itself, known.list) = (changes, None, None);
                }
                return change(known);
            }
            if searches.len() >= VERDICTS_MAX {
                let oldest = searches.iter().enumerate().min_by_key(|(_, known)| known.oldest());
                oldest.map(|(index, _)| index).into_iter().for_each(|index| drop(searches.swap_remove(index)));
            }
            let mut new = Search { cred: cred.clone(), changes, itself: None, path: None, list: None };
            change(&mut new);
            searches.push(new);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{attr, inode, seen, tick};

    const TTL: Duration = Duration::from_secs(60);

    fn cred(gid: u32) -> Cred {
        Cred { gid, ..Cred::root() }
    }

    #[test]
    fn verdicts_are_of_one_credential_and_end() {
        let directory = inode();
        directory.searched_since(&cred(0), Instant::now(), 0);
        assert!(directory.search(&cred(0), TTL).is_some_and(|verdict| verdict.path.is_none()));
        assert!(directory.search(&cred(7), TTL).is_none(), "another group");
        directory.searched_path(&cred(0), Instant::now());
        assert!(directory.search(&cred(0), TTL).is_some_and(|verdict| verdict.path.is_some()));
        assert!(directory.search(&cred(0), Duration::ZERO).is_none());
        (0..1000).for_each(|gid| directory.searched_since(&cred(gid), Instant::now(), 0));
        assert_eq!(directory.while_busy(|busy| busy.searches.len()), Some(VERDICTS_MAX));
        assert!(directory.search(&cred(999), TTL).is_some());
    }

    #[test]
    fn a_path_is_known_no_longer_than_its_oldest_verdict() {
        let directory = inode();
        let now = Instant::now();
        directory.searched_since(&cred(0), now, 0);
        let Some(old) = now.checked_sub(Duration::from_secs(100)) else { return };
        directory.searched_path(&cred(0), old);
        assert!(directory.search(&cred(0), TTL).is_some_and(|verdict| verdict.path.is_none()));
    }

    #[test]
    fn a_verdict_is_void_when_the_directory_has_changed() {
        let directory = inode();
        directory.learn(seen(&attr(1, 1)));
        directory.searched_since(&cred(0), Instant::now(), 0);
        directory.searched_path(&cred(7), Instant::now());
        let known = || [0, 7].map(|gid| directory.search(&cred(gid), TTL).is_some());
        assert_eq!(known(), [true, true]);
        directory.learn(seen(&attr(1, 2)));
        assert_eq!(known(), [false, false], "somebody else has changed it");
        directory.searched_since(&cred(0), Instant::now(), directory.known_changes_by_others());
        assert_eq!(known(), [true, false]);
        directory.listed(&cred(7), &directory.ask_names().answered(tick(), None));
        assert!(directory.lists(&cred(7), TTL) && !directory.lists(&cred(0), TTL));
        assert_eq!(known(), [true, false], "who may list may not search");
        directory.void_searches();
        assert_eq!(known(), [false, false]);
    }
}
