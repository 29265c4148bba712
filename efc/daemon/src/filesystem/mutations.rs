//! Mutations whose caller is gone.
//!
//! A call that changes something at the server cannot be called back. If its caller is killed while it may be on the wire, or the
//! time limit of a soft mount has passed, the caller is answered (EINTR or EIO), but the task goes on until the server
//! has answered: the mutation is *abandoned*. Until then later mutations of the same object wait, because the server executes
//! what it has received in an order of its own, and the dead process's bytes must not cover what a living one has written
//! since. Objects are files for what changes their content or attributes, and directories for what changes names in them.
//!
//! A write that is abandoned is saved for a successor until it is answered: should this daemon die before that, the next one asks for
//! it again, under its old number, while later mutations of its file wait. Other mutations a successor does not know of.
//!
//! Who finds nothing abandoned pays one load of an atomic. Abandoned mutations are few: while there are [`ABANDONED_MAX`] of
//! them, killed callers wait like living ones.

use efc_tasks::sync::atomic::{AtomicUsize, Ordering};
use efc_tasks::sync::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use efc_backend::{Backend, FileHandle};
use efc_fuse::{Errno, Operation, Reply, Request};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::interrupts::Progress;
use super::{Answer, Inner, Response};

/// Mutations that go on without a caller, at most.
const ABANDONED_MAX: usize = 256;

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

    fn nodes(&self) -> impl Iterator<Item = u64> + use<> {
        [Some(self.first), self.second].into_iter().flatten()
    }
}

/// Ends when the server has answered: closed then, and never has permits.
type Settled = Arc<Semaphore>;

/// The mutations that nobody waits for.
pub struct Mutations {
    count: AtomicUsize,
    by_object: Mutex<HashMap<FileHandle, Vec<Settled>>>,
    room: Arc<Semaphore>,
}

impl Default for Mutations {
    fn default() -> Mutations {
        let room = Arc::new(Semaphore::new(ABANDONED_MAX));
        Mutations { count: AtomicUsize::new(0), by_object: Mutex::default(), room }
    }
}

/// One abandoned mutation; settled when this is dropped.
pub struct Abandoned {
    mutations: Arc<Mutations>,
    objects: Vec<FileHandle>,
    settled: Settled,
    _room: OwnedSemaphorePermit,
}

impl Mutations {
    fn by_object(&self) -> MutexGuard<'_, HashMap<FileHandle, Vec<Settled>>> {
        self.by_object.lock().expect("abandoned mutations lock")
    }

    /// Whether any mutation is abandoned.
    pub fn is_any_abandoned(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Makes later mutations of `objects` wait, from before this ends. Waits for room.
    pub async fn abandon(self: &Arc<Self>, objects: Vec<FileHandle>) -> Abandoned {
        let room = self.room.clone().acquire_owned().await.expect("this semaphore is never closed");
        let settled = Arc::new(Semaphore::new(0));
        let mut by_object = self.by_object();
        for object in &objects {
            by_object.entry(*object).or_default().push(settled.clone());
        }
        drop(by_object);
        self.count.fetch_add(1, Ordering::Release);
        Abandoned { mutations: self.clone(), objects, settled, _room: room }
    }

    /// Ends when those mutations of `object` that are abandoned now have been answered.
    pub async fn settled(&self, object: &FileHandle) {
        let earlier = self.by_object().get(object).cloned().unwrap_or_default();
        wait_for(earlier).await;
    }

    /// Ends when all that are abandoned now have been answered.
    pub async fn all_settled(&self) {
        let earlier = self.by_object().values().flatten().cloned().collect();
        wait_for(earlier).await;
    }
}

/// What `operation` ends with; `None` if that takes longer than `limit`.
pub async fn in_time<T>(operation: impl Future<Output = T>, limit: Option<Duration>) -> Option<T> {
    match limit {
        None => Some(operation.await),
        Some(limit) => {
            let late = async {
                efc_tasks::time::sleep(limit).await;
                None
            };
            futures_lite::future::or(async { Some(operation.await) }, late).await
        }
    }
}

async fn wait_for(earlier: Vec<Settled>) {
    for settled in earlier {
        let closed = settled.acquire().await.map(drop);
        debug_assert!(closed.is_err(), "it has no permits");
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        let mut by_object = self.mutations.by_object();
        for object in &self.objects {
            let Some(all) = by_object.get_mut(object) else { continue };
            all.retain(|settled| !Arc::ptr_eq(settled, &self.settled));
            if all.is_empty() {
                by_object.remove(object);
            }
        }
        drop(by_object);
        self.mutations.count.fetch_sub(1, Ordering::Release);
        self.settled.close(); // wakes those that wait, so without the lock
    }
}

impl<B: Backend> Inner<B> {
    /// Ends when abandoned mutations of these objects have been answered.
    pub(super) async fn after_abandoned(&self, objects: Objects) {
        if !self.mutations.is_any_abandoned() {
            return;
        }
        for node in objects.nodes() {
            if let Ok(handle) = self.handle_of(node) {
                self.mutations.settled(&handle).await;
            }
        }
    }

    /// The caller of `operation` was killed, or has waited for too long: answers it with `why`, and sees what may be on the wire to
    /// its end.
    pub(super) async fn abandon(
        self: &Arc<Self>,
        (unique, objects): (u64, Option<Objects>),
        progress: &Progress,
        mut operation: Pin<&mut impl Future<Output = Answer>>,
        (reply, why): (Reply, Errno),
    ) {
        let Some(objects) = objects.filter(|_| progress.may_be_sent()) else { return reply.error(why) };
        let handles = objects.nodes().filter_map(|node| self.handle_of(node).ok()).collect();
        let ended = async { Err(operation.as_mut().await) };
        let abandoned = match futures_lite::future::or(ended, async { Ok(self.mutations.abandon(handles).await) }).await
        {
            Ok(abandoned) => abandoned,
            Err(answer) => return self.give(reply, answer),
        };
        log::info!("inode {}: a change whose caller is gone goes on until the NAS answers; others wait", objects.first);
        // Before the caller's process can end: a successor must know what the server may execute.
        let record = progress.take_sending().and_then(|write| self.save_unanswered(&write));
        reply.error(why);
        let answer = operation.await;
        record.into_iter().for_each(|record| self.state.remove_write(record));
        self.state.end(unique);
        self.take_back(answer);
        drop(abandoned);
        // Nobody else may ever commit it, and the kernel has not heard what the file is like now.
        self.commit(objects.first).await;
        self.notifier.inval_inode(objects.first, 0, 0);
    }

    /// Undoes what an answer counts that the kernel does not get.
    fn take_back(self: &Arc<Self>, answer: Answer) {
        match answer {
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

    use futures_lite::future::{block_on, poll_once};

    fn handle(name: &[u8]) -> FileHandle {
        FileHandle::new(name).expect("short")
    }

    #[test]
    fn later_mutations_of_the_object_wait_for_those_abandoned_before_and_no_others() {
        let mutations = Arc::new(Mutations::default());
        let (file, other) = (handle(b"file"), handle(b"other"));
        assert!(!mutations.is_any_abandoned());
        let first = block_on(mutations.abandon(vec![file]));
        let second = block_on(mutations.abandon(vec![file, other]));
        assert!(mutations.is_any_abandoned());
        let mut waiting = Box::pin(mutations.settled(&file));
        assert!(block_on(poll_once(&mut waiting)).is_none());
        let third = block_on(mutations.abandon(vec![file]));
        drop(first);
        assert!(block_on(poll_once(&mut waiting)).is_none(), "the second is not answered");
        assert!(block_on(poll_once(mutations.settled(&handle(b"another")))).is_some());
        drop(second);
        assert!(block_on(poll_once(&mut waiting)).is_some(), "the third came later");
        assert!(block_on(poll_once(mutations.settled(&other))).is_some());
        drop(third);
        assert!(!mutations.is_any_abandoned());
        assert!(mutations.by_object().is_empty());
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mutations = Arc::new(Mutations::default());
        let mut all: Vec<Abandoned> =
            (0..ABANDONED_MAX).map(|_| block_on(mutations.abandon(vec![handle(b"file")]))).collect();
        let mut one_more = Box::pin(mutations.abandon(vec![handle(b"file")]));
        assert!(block_on(poll_once(&mut one_more)).is_none());
        all.pop();
        assert!(block_on(poll_once(&mut one_more)).is_some());
    }

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
