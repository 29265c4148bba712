//! What the kernel's own permission check lets through.
//!
//! With `default_permissions` the kernel checks mode bits, which stop everybody but root: a local root walks through
//! any directory whose names the kernel knows. A server that squashes root would not have let it in, and can say so only of the
//! directory that a call names, not of those above. So whatever root does by a path, the directories on it are searched by the
//! server's rules, with an ACCESS verdict for each that is remembered for as long as names are. What root may do
//! in the last of them the server decides itself. Other users need no such question: their mode bits are checked.
//!
//! What was reached before stays in reach: a file that root has open needs no path any more.

use efc_tasks::sync::Mutex;
use std::collections::HashMap;
use std::time::Instant;

use efc_backend::{Backend, Call, Cred, Seen, Status, access};
use efc_fuse::Errno;

use super::{Caller, Inner, ROOT};
use crate::errno::errno;
use crate::live::Ttl;

/// Verdicts remembered; beyond that the memory starts anew.
const VERDICTS_MAX: usize = 16384;

/// The server lets a caller search a directory.
#[derive(Clone, Copy)]
struct Verdict {
    /// Since when that is known of the directory itself.
    itself: Instant,
    /// Since when it is known of the directory and of all above it.
    path: Option<Instant>,
}

/// Directories that the server lets root search, by whatever groups that root has, and since when we know.
pub struct RootSearches {
    ttl: Ttl,
    allowed: Mutex<HashMap<(u64, Cred), Verdict>>,
}

impl RootSearches {
    /// Verdicts hold for `ttl`.
    pub fn new(ttl: impl Into<Ttl>) -> RootSearches {
        RootSearches { ttl: ttl.into(), allowed: Mutex::default() }
    }

    /// What is known of a directory, as far as it holds still.
    fn known(&self, directory: u64, cred: &Cred) -> Option<Verdict> {
        let ttl = self.ttl.get();
        let is_fresh = |since: &Instant| efc_tasks::time::since(*since) < ttl;
        let verdict = *self.allowed.lock().expect("searches lock").get(&(directory, cred.clone()))?;
        is_fresh(&verdict.itself).then_some(Verdict { path: verdict.path.filter(is_fresh), ..verdict })
    }

    /// The server has let the caller search the directory since `itself`.
    fn remember(&self, directory: u64, cred: &Cred, itself: Instant) {
        self.change(directory, cred, Verdict { itself, path: None }, |verdict| verdict.itself = itself);
    }

    /// And all that are above it since `path`.
    fn remember_path(&self, directory: u64, cred: &Cred, path: Instant) {
        let verdict = Verdict { itself: path, path: Some(path) };
        self.change(directory, cred, verdict, |verdict| verdict.path = Some(path));
    }

    fn change(&self, directory: u64, cred: &Cred, new: Verdict, change: impl FnOnce(&mut Verdict)) {
        let mut allowed = self.allowed.lock().expect("searches lock");
        if allowed.len() >= VERDICTS_MAX {
            allowed.clear();
        }
        allowed.entry((directory, cred.clone())).and_modify(change).or_insert(new);
    }
}

/// Notices a circle in a walk (Brent's algorithm): a path has none, but what was noted of directories that move may.
struct Circle {
    remembered: u64,
    steps: u64,
    limit: u64,
}

impl Circle {
    fn new(start: u64) -> Circle {
        Circle { remembered: start, steps: 0, limit: 1 }
    }

    /// Has the walk been at `place` before? Told at the latest in its third time round.
    fn closes_at(&mut self, place: u64) -> bool {
        if place == self.remembered {
            return true;
        }
        self.steps += 1;
        if self.steps == self.limit {
            (self.remembered, self.steps, self.limit) = (place, 0, self.limit * 2);
        }
        false
    }
}

impl<B: Backend> Inner<B> {
    /// May the caller reach `node`, as the server sees it? Looks at the directories above it.
    pub(super) async fn check_path(&self, caller: &Caller, node: u64) -> Result<(), Errno> {
        if caller.cred.uid != 0 || node == ROOT || caller.earlier.is_some() {
            return Ok(()); // where a predecessor had begun something, it had looked before
        }
        let Some(first) = self.state.parent(node) else { return Ok(()) };
        let (mut directory, mut oldest, mut circle) = (first, efc_tasks::time::now(), Circle::new(first));
        loop {
            match self.root_searches.known(directory, &caller.cred) {
                Some(Verdict { path: Some(path), .. }) => {
                    oldest = oldest.min(path);
                    break;
                }
                Some(Verdict { itself, path: None }) => oldest = oldest.min(itself),
                None => self.ask_to_search(caller, directory).await?,
            }
            if directory == ROOT {
                break;
            }
            let Some(above) = self.state.parent(directory) else { break };
            if circle.closes_at(above) {
                return Err(Errno(libc::ELOOP));
            }
            directory = above;
        }
        self.root_searches.remember_path(first, &caller.cred, oldest);
        Ok(())
    }

    /// Like [`Inner::check_path`], for calls that may be about a file that the caller has open: the kernel does not say.
    pub(super) async fn check_path_or_open(&self, caller: &Caller, node: u64) -> Result<(), Errno> {
        match self.check_path(caller, node).await {
            Err(Errno(libc::EACCES)) if self.has_open(node) => Ok(()),
            checked => checked,
        }
    }

    /// Has root this file or directory open?
    fn has_open(&self, node: u64) -> bool {
        let is_open = self.handle_of(node).is_ok_and(|handle| self.in_use.is_open_by_root(&handle));
        is_open || self.has_directory_open(0, node)
    }

    /// The server has let the caller look up something in this directory.
    pub(super) fn has_searched(&self, caller: &Caller, directory: u64, since: Instant) {
        if caller.cred.uid == 0 {
            self.root_searches.remember(directory, &caller.cred, since);
        }
    }

    async fn ask_to_search(&self, caller: &Caller, directory: u64) -> Result<(), Errno> {
        let Ok(handle) = self.handle_of(directory) else { return Ok(()) }; // forgotten: not what it was reached by
        let asked_at = efc_tasks::time::now();
        let answer = self.backend.access(Call::of(&caller.cred), &handle, access::LOOKUP).await;
        let Seen { value: (granted, attr), asked } = match answer {
            Ok(answer) => answer,
            Err(error) if error.is(Status::Stale) => return Ok(()), // gone: the file has moved since
            Err(error) => return Err(errno(&error)),
        };
        if let Some(attr) = &attr {
            self.attrs.learn(directory, attr, asked);
        }
        if granted & access::LOOKUP == 0 {
            return Err(Errno(libc::EACCES));
        }
        self.root_searches.remember(directory, &caller.cred, asked_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn cred(gid: u32) -> Cred {
        Cred { gid, ..Cred::root() }
    }

    #[test]
    fn a_circle_is_noticed_and_a_long_path_is_none() {
        let mut circle = Circle::new(0);
        assert!((1..1_000_000).all(|place| !circle.closes_at(place)));
        for (tail, length) in [(0_u64, 1_u64), (5, 1), (0, 7), (1000, 3), (3, 1000)] {
            let place = |step: u64| if step < tail { step } else { tail + (step - tail) % length };
            let mut circle = Circle::new(place(0));
            let noticed = (1..).find(|step| circle.closes_at(place(*step)));
            assert!(noticed.is_some_and(|step| step <= 3 * (tail + length) + 1), "{tail} {length}: {noticed:?}");
        }
    }

    #[test]
    fn verdicts_are_of_one_credential_and_end() {
        let searches = RootSearches::new(Duration::from_secs(60));
        searches.remember(5, &cred(0), Instant::now());
        assert!(searches.known(5, &cred(0)).is_some_and(|verdict| verdict.path.is_none()));
        assert!(searches.known(5, &cred(7)).is_none(), "another group");
        assert!(searches.known(6, &cred(0)).is_none());
        searches.remember_path(5, &cred(0), Instant::now());
        assert!(searches.known(5, &cred(0)).is_some_and(|verdict| verdict.path.is_some()));
        let brief = RootSearches::new(Duration::ZERO);
        brief.remember_path(5, &cred(0), Instant::now());
        assert!(brief.known(5, &cred(0)).is_none());
    }

    #[test]
    fn a_path_is_known_no_longer_than_its_oldest_verdict() {
        let searches = RootSearches::new(Duration::from_secs(60));
        let now = Instant::now();
        searches.remember(5, &cred(0), now);
        let Some(old) = now.checked_sub(Duration::from_secs(100)) else { return };
        searches.remember_path(5, &cred(0), old);
        assert!(searches.known(5, &cred(0)).is_some_and(|verdict| verdict.path.is_none()));
    }
}
