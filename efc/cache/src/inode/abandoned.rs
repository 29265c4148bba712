//! Abandoned mutations, those whose caller is gone: they continue until the server has answered, and later mutations of
//! the same objects wait for them.
//!
//! The server executes the calls that it has received in an order of its own, and what a dead process has sent must not
//! overwrite what a live one has written since. The number is limited: while there are [`ABANDONED_MAX`], further
//! killed callers wait like live ones.

use efc_tasks::sync::Mutex;
use efc_tasks::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::inode::table::Inodes;
use crate::inode::{Inode, Shared};

/// Mutations that go on without a caller, at most.
const ABANDONED_MAX: usize = 256;

/// Ends when the server has answered: closed then, and never has permits.
pub(crate) type Settled = Arc<Semaphore>;

/// All abandoned mutations.
pub(crate) struct AllAbandoned {
    /// How many there are: who finds none pays one load.
    count: AtomicUsize,
    all: Mutex<Vec<Settled>>,
    room: Arc<Semaphore>,
}

impl Default for AllAbandoned {
    fn default() -> AllAbandoned {
        let room = Arc::new(Semaphore::new(ABANDONED_MAX));
        AllAbandoned { count: AtomicUsize::new(0), all: Mutex::default(), room }
    }
}

/// One abandoned mutation; settled when this is dropped.
pub struct Abandoned {
    shared: Arc<Shared>,
    objects: Vec<Arc<Inode>>,
    settled: Settled,
    _room: OwnedSemaphorePermit,
}

impl Inodes {
    /// Whether any mutation is abandoned.
    pub fn is_any_abandoned(&self) -> bool {
        self.shared.abandoned.count.load(Ordering::Acquire) > 0
    }

    /// Makes later mutations of `objects` wait, from before this ends. Waits for room.
    pub async fn abandon(&self, objects: Vec<Arc<Inode>>) -> Abandoned {
        let abandoned = &self.shared.abandoned;
        let room = abandoned.room.clone().acquire_owned().await.expect("this semaphore is never closed");
        let settled = Arc::new(Semaphore::new(0));
        objects.iter().for_each(|object| object.change_busy(|busy| busy.abandoned.push(settled.clone())));
        abandoned.all.lock().expect("abandoned mutations lock").push(settled.clone());
        abandoned.count.fetch_add(1, Ordering::Release);
        Abandoned { shared: self.shared.clone(), objects, settled, _room: room }
    }

    /// Ends when all mutations that are abandoned now have been answered.
    pub async fn all_settled(&self) {
        let earlier = self.shared.abandoned.all.lock().expect("abandoned mutations lock").clone();
        wait_for(earlier).await;
    }
}

impl Inode {
    /// Ends when those mutations of the object that are abandoned now have been answered.
    pub async fn settled(&self) {
        let earlier = self.while_busy(|busy| busy.abandoned.clone());
        wait_for(earlier.unwrap_or_default()).await;
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
        let is_other = |settled: &Settled| !Arc::ptr_eq(settled, &self.settled);
        for object in &self.objects {
            object.change_busy(|busy| busy.abandoned.retain(is_other));
        }
        self.shared.abandoned.all.lock().expect("abandoned mutations lock").retain(is_other);
        self.shared.abandoned.count.fetch_sub(1, Ordering::Release);
        self.settled.close(); // wakes those that wait, so without the locks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::handle;

    use futures_lite::future::{block_on, poll_once};

    #[test]
    fn later_mutations_of_the_object_wait_for_those_abandoned_before_and_no_others() {
        let inodes = crate::testing::inodes();
        let [file, other, another] = [b"file" as &[u8], b"other", b"another"].map(|name| inodes.of(&handle(name)));
        assert!(!inodes.is_any_abandoned());
        let first = block_on(inodes.abandon(vec![file.clone()]));
        let second = block_on(inodes.abandon(vec![file.clone(), other.clone()]));
        assert!(inodes.is_any_abandoned());
        let mut waiting = Box::pin(file.settled());
        assert!(block_on(poll_once(&mut waiting)).is_none());
        let mut all = Box::pin(inodes.all_settled());
        assert!(block_on(poll_once(&mut all)).is_none());
        let third = block_on(inodes.abandon(vec![file.clone()]));
        drop(first);
        assert!(block_on(poll_once(&mut waiting)).is_none(), "the second is not answered");
        assert!(block_on(poll_once(another.settled())).is_some());
        drop(second);
        assert!(block_on(poll_once(&mut waiting)).is_some(), "the third came later");
        assert!(block_on(poll_once(&mut all)).is_some());
        assert!(block_on(poll_once(other.settled())).is_some());
        drop(third);
        assert!(!inodes.is_any_abandoned());
        assert!(file.is_idle() && other.is_idle());
    }

    #[test]
    fn there_is_room_for_so_many() {
        let inodes = crate::testing::inodes();
        let file = inodes.of(&handle(b"file"));
        let mut all: Vec<Abandoned> =
            (0..ABANDONED_MAX).map(|_| block_on(inodes.abandon(vec![file.clone()]))).collect();
        let mut one_more = Box::pin(inodes.abandon(vec![file.clone()]));
        assert!(block_on(poll_once(&mut one_more)).is_none());
        all.pop();
        assert!(block_on(poll_once(&mut one_more)).is_some());
    }
}
