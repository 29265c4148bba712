//! Mutations whose caller is gone.
//!
//! A call that changes something at the server cannot be called back. If its caller is killed while it may have been
//! sent, or the time limit of a soft mount has passed, the caller is answered (EINTR or EIO), but the task continues
//! until the server has answered: the mutation is *abandoned*. Until then later mutations of the same object wait,
//! because the server executes the calls that it has received in an order of its own, and the dead process's bytes must
//! not overwrite what a live one has written since. The object is a file for changes of its content or attributes, and
//! a directory for changes of the names in it.
//!
//! An abandoned write is saved for a successor until it is answered: if this daemon dies first, the next one sends it
//! again, under its old number, while later mutations of its file wait. A successor does not know of other mutations.
//!
//! The inodes ([`efc_cache`]) record which mutations are abandoned, and who waits for them. Where nothing is abandoned,
//! this costs one load of an atomic.

use std::pin::Pin;
use std::sync::Arc;

use efc_backend::Backend;
use efc_fuse::{Errno, Operation, Reply, Request};

use super::interrupts::Progress;
use super::{Answer, Inner, Outcome, Response};

/// The nodes that a mutation is about: one, or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objects {
    first: u64,
    second: Option<u64>,
}

impl Objects {
    /// What `request` changes; `None` if it changes nothing.
    pub fn of(request: &Request) -> Option<Objects> {
        let second = match request.operation {
            Operation::Setattr(_)
            | Operation::Write { .. }
            | Operation::Symlink { .. }
            | Operation::Mknod { .. }
            | Operation::Mkdir { .. }
            | Operation::Unlink { .. }
            | Operation::Rmdir { .. }
            | Operation::Create { .. } => None,
            Operation::Rename { new_parent, .. } => Some(new_parent),
            Operation::Link { node, .. } => Some(node),
            _ => return None,
        };
        Some(Objects { first: request.node, second: second.filter(|second| *second != request.node) })
    }

    /// The file of `node` alone.
    pub fn file(node: u64) -> Objects {
        Objects { first: node, second: None }
    }

    /// The nodes.
    pub fn nodes(&self) -> impl Iterator<Item = u64> + use<> {
        [Some(self.first), self.second].into_iter().flatten()
    }
}

impl<B: Backend> Inner<B> {
    /// Ends when abandoned mutations of these objects have been answered.
    pub(super) async fn after_abandoned(&self, objects: Objects) {
        if !self.inodes.is_any_abandoned() {
            return;
        }
        for node in objects.nodes() {
            if let Ok(inode) = self.inode(node) {
                inode.settled().await;
            }
        }
    }

    /// The caller of `operation` was killed, or has waited for too long: answers it with `why`, and sees what may be on the wire to
    /// its end.
    pub(super) async fn abandon(
        self: &Arc<Self>,
        (unique, objects): (u64, Option<Objects>),
        progress: &Progress,
        mut operation: Pin<&mut impl Future<Output = Outcome>>,
        (reply, why): (Reply, Errno),
    ) {
        let Some(objects) = objects.filter(|_| progress.may_be_sent()) else { return reply.error(why) };
        let inodes = objects.nodes().filter_map(|node| self.inode(node).ok()).collect();
        let ended = async { Err(operation.as_mut().await) };
        let abandoned = match futures_lite::future::or(ended, async { Ok(self.inodes.abandon(inodes).await) }).await {
            Ok(abandoned) => abandoned,
            Err(outcome) => return self.give(reply, outcome),
        };
        log::info!("inode {}: a change whose caller is gone goes on until the NAS answers; others wait", objects.first);
        // Before the caller's process can end: a successor must know what the server may execute.
        let record = progress.take_sending().and_then(|write| self.save_unanswered(&write));
        reply.error(why);
        let outcome = operation.await;
        record.into_iter().for_each(|record| self.state.remove_write(record));
        self.state.end(unique);
        self.take_back(outcome);
        drop(abandoned);
        // Nobody else may ever commit it, and the kernel has not heard what the file is like now.
        if let Ok(first) = self.inode(objects.first) {
            self.commit(&first).await;
        }
        self.notifier.inval_inode(objects.first, 0, 0);
    }

    /// Undoes what an answer counts that the kernel does not get.
    fn take_back(self: &Arc<Self>, outcome: Outcome) {
        match outcome.map(|Answer { body, .. }| body) {
            Ok(Response::Entry(entry)) => self.forget_lookups(entry.node, 1),
            Ok(Response::Create(entry, open)) => {
                self.close(open.fh);
                self.forget_lookups(entry.node, 1);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mutation_is_about_what_it_changes() {
        let request =
            |operation| Request { unique: 8, name: 8, resent: false, node: 5, uid: 0, gid: 0, pid: 0, operation };
        let name = || b"name".to_vec();
        let rename = |new_parent| Operation::Rename { name: name(), new_parent, new_name: name(), flags: 0 };
        let nodes = |operation| Objects::of(&request(operation)).map(|objects| objects.nodes().collect::<Vec<u64>>());
        assert_eq!(nodes(Operation::Unlink { name: name() }), Some(vec![5]));
        assert_eq!(nodes(rename(5)), Some(vec![5]));
        assert_eq!(nodes(rename(6)), Some(vec![5, 6]));
        assert_eq!(nodes(Operation::Link { node: 7, new_name: name() }), Some(vec![5, 7]));
        assert_eq!(nodes(Operation::Lookup { name: name() }), None);
    }
}
