//! Directories that the server lets a caller search, and since when that is known.

use std::time::{Duration, Instant};

use efc_backend::Cred;

use crate::inode::Inode;

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
pub(crate) type Searches = Vec<(Cred, Verdict)>;

impl Inode {
    /// What is known of a caller's searches of this directory, as far as it is younger than `ttl`.
    pub fn search(&self, cred: &Cred, ttl: Duration) -> Option<Verdict> {
        let is_fresh = |since: &Instant| efc_tasks::time::since(*since) < ttl;
        let of = |searches: &Searches| searches.iter().find(|(of, _)| of == cred).map(|(_, verdict)| *verdict);
        let verdict = self.while_busy(|busy| of(&busy.searches))??;
        is_fresh(&verdict.itself).then(|| Verdict { path: verdict.path.filter(is_fresh), ..verdict })
    }

    /// The server has let the caller search the directory since `itself`.
    pub fn searched(&self, cred: &Cred, itself: Instant) {
        self.change_search(cred, Verdict { itself, path: None }, |verdict| verdict.itself = itself);
    }

    /// And all that are above it since `path`.
    pub fn searched_path(&self, cred: &Cred, path: Instant) {
        let verdict = Verdict { itself: path, path: Some(path) };
        self.change_search(cred, verdict, |verdict| verdict.path = Some(path));
    }

    fn change_search(&self, cred: &Cred, new: Verdict, change: impl FnOnce(&mut Verdict)) {
        self.change_busy(|busy| {
            let searches = &mut busy.searches;
            if let Some((_, verdict)) = searches.iter_mut().find(|(of, _)| of == cred) {
                return change(verdict);
            }
            if searches.len() >= VERDICTS_MAX {
                let oldest = searches.iter().enumerate().min_by_key(|(_, (_, verdict))| verdict.itself);
                oldest.map(|(index, _)| index).into_iter().for_each(|index| drop(searches.swap_remove(index)));
            }
            searches.push((cred.clone(), new));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::inode;

    const TTL: Duration = Duration::from_secs(60);

    fn cred(gid: u32) -> Cred {
        Cred { gid, ..Cred::root() }
    }

    #[test]
    fn verdicts_are_of_one_credential_and_end() {
        let directory = inode();
        directory.searched(&cred(0), Instant::now());
        assert!(directory.search(&cred(0), TTL).is_some_and(|verdict| verdict.path.is_none()));
        assert!(directory.search(&cred(7), TTL).is_none(), "another group");
        directory.searched_path(&cred(0), Instant::now());
        assert!(directory.search(&cred(0), TTL).is_some_and(|verdict| verdict.path.is_some()));
        assert!(directory.search(&cred(0), Duration::ZERO).is_none());
        (0..1000).for_each(|gid| directory.searched(&cred(gid), Instant::now()));
        assert_eq!(directory.while_busy(|busy| busy.searches.len()), Some(VERDICTS_MAX));
        assert!(directory.search(&cred(999), TTL).is_some());
    }

    #[test]
    fn a_path_is_known_no_longer_than_its_oldest_verdict() {
        let directory = inode();
        let now = Instant::now();
        directory.searched(&cred(0), now);
        let Some(old) = now.checked_sub(Duration::from_secs(100)) else { return };
        directory.searched_path(&cred(0), old);
        assert!(directory.search(&cred(0), TTL).is_some_and(|verdict| verdict.path.is_none()));
    }
}
