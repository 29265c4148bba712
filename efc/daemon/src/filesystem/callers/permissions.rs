//! What the kernel's own permission check lets through.
//!
//! With `default_permissions` the kernel checks mode bits, which stop everybody but root: a local root walks through
//! any directory whose names the kernel knows. A server that squashes root would not have let it in, and can say so only of the
//! directory that a call names, not of those above. So whatever root does by a path, the directories on it are searched by the
//! server's rules, with an ACCESS verdict for each that is remembered for as long as names are. What root may do
//! in the last of them the server decides itself. Other users need no such question: their mode bits are checked.
//!
//! What was reached before stays in reach: a file that root has open needs no path any more.

use std::sync::Arc;

use efc_backend::{Backend, Call, Seen, Status, access};
use efc_cache::{Inode, Verdict};
use efc_fuse::Errno;

use super::super::{Caller, Inner, ROOT};
use crate::errno::errno;

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
    pub(in super::super) async fn check_path(&self, caller: &Caller, node: u64) -> Result<(), Errno> {
        if caller.cred.uid != 0 || node == ROOT || caller.earlier.is_some() {
            return Ok(()); // where a predecessor had begun something, it had looked before
        }
        let Some(first) = self.state.parent(node) else { return Ok(()) };
        let ttl = self.freshness.verdict_ttl();
        let (mut directory, mut oldest, mut circle) = (first, efc_tasks::time::now(), Circle::new(first));
        loop {
            let inode = self.inode(directory).ok(); // one that is forgotten is not what it was reached by
            match (inode.as_ref().and_then(|inode| inode.search(&caller.cred, ttl)), &inode) {
                (Some(Verdict { path: Some(path), .. }), _) => {
                    oldest = oldest.min(path);
                    break;
                }
                (Some(Verdict { itself, path: None }), _) => oldest = oldest.min(itself),
                (None, Some(inode)) => self.ask_to_search(caller, inode).await?,
                (None, None) => {}
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
        if let Ok(first) = self.inode(first) {
            first.searched_path(&caller.cred, oldest);
        }
        Ok(())
    }

    /// Like [`Inner::check_path`], for calls that may be about a file that the caller has open: the kernel does not say.
    pub(in super::super) async fn check_path_or_open(&self, caller: &Caller, node: u64) -> Result<(), Errno> {
        match self.check_path(caller, node).await {
            Err(Errno(libc::EACCES)) if self.has_open(node) => Ok(()),
            checked => checked,
        }
    }

    /// Has root this file or directory open?
    fn has_open(&self, node: u64) -> bool {
        let is_open = self.inode(node).is_ok_and(|inode| inode.is_open_by_root());
        is_open || self.has_directory_open(0, node)
    }

    async fn ask_to_search(&self, caller: &Caller, directory: &Arc<Inode>) -> Result<(), Errno> {
        let question = directory.ask_names();
        let answer = self.backend.access(Call::of(&caller.cred), directory.handle(), access::LOOKUP).await;
        let Seen { value: (granted, attr), asked } = match answer {
            Ok(answer) => answer,
            Err(error) if error.is(Status::Stale) => return Ok(()), // gone: the file has moved since
            Err(error) => return Err(errno(&error)),
        };
        let standing = question.answered(asked, attr.as_ref());
        if granted & access::LOOKUP == 0 {
            return Err(Errno(libc::EACCES));
        }
        directory.searched(&caller.cred, &standing);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
