//! Writes that the server has not answered: reads of the same bytes wait for them.
//!
//! The kernel puts what write(2) writes into its pages, then asks us to write it. If it drops those pages meanwhile, since a
//! reply shows that the file has changed (another thread's write is enough), and another read fills them again before the
//! server has executed the write, they hold the old bytes, and the write's own caller reads them. So a READ is sent when the
//! WRITEs of its bytes that came before it have been answered.
//!
//! Who finds no write in flight pays one load of an atomic.

use efc_tasks::sync::atomic::{AtomicUsize, Ordering};
use efc_tasks::sync::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::Semaphore;

/// Closed when the write is over; never has permits.
type Over = Arc<Semaphore>;
/// The bytes of each write of a node.
type ByNode = HashMap<u64, Vec<(Range<u64>, Over)>>;

/// Writes in flight, by node.
#[derive(Default)]
pub struct InFlight {
    count: AtomicUsize,
    by_node: Mutex<ByNode>,
}

/// One write, in flight until this is dropped.
pub struct Writing<'a> {
    in_flight: &'a InFlight,
    node: u64,
    over: Over,
}

impl InFlight {
    fn by_node(&self) -> MutexGuard<'_, ByNode> {
        self.by_node.lock().expect("writes in flight lock")
    }

    /// A write of `length` bytes at `offset` begins.
    pub fn begin(&self, node: u64, offset: u64, length: usize) -> Writing<'_> {
        let over = Arc::new(Semaphore::new(0));
        let bytes = offset..offset.saturating_add(length as u64);
        self.by_node().entry(node).or_default().push((bytes, over.clone()));
        self.count.fetch_add(1, Ordering::Release);
        Writing { in_flight: self, node, over }
    }

    /// Ends when the writes of these bytes are over that are in flight now.
    pub async fn settled(&self, node: u64, offset: u64, length: u32) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let end = offset.saturating_add(length.into());
        let overlaps = |bytes: &Range<u64>| bytes.start < end && offset < bytes.end;
        let earlier: Vec<Over> = {
            let by_node = self.by_node();
            let writes = by_node.get(&node).into_iter().flatten();
            writes.filter(|(bytes, _)| overlaps(bytes)).map(|(_, over)| over.clone()).collect()
        };
        for over in earlier {
            let closed = over.acquire().await.map(drop);
            debug_assert!(closed.is_err(), "it has no permits");
        }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut by_node = self.in_flight.by_node();
        if let Some(writes) = by_node.get_mut(&self.node) {
            writes.retain(|(_, over)| !Arc::ptr_eq(over, &self.over));
            if writes.is_empty() {
                by_node.remove(&self.node);
            }
        }
        drop(by_node);
        self.in_flight.count.fetch_sub(1, Ordering::Release);
        self.over.close(); // wakes those that wait, so without the lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};

    #[test]
    fn reads_wait_for_earlier_writes_of_their_bytes_and_no_others() {
        let in_flight = InFlight::default();
        let is_settled = |node, offset, length| block_on(poll_once(in_flight.settled(node, offset, length))).is_some();
        let first = in_flight.begin(7, 100, 50);
        assert!(is_settled(7, 0, 100) && is_settled(7, 150, 100) && is_settled(8, 100, 50));
        assert!(!is_settled(7, 0, 101) && !is_settled(7, 149, 1));
        let mut waiting = Box::pin(in_flight.settled(7, 100, 1));
        assert!(block_on(poll_once(&mut waiting)).is_none());
        let later = in_flight.begin(7, 100, 1);
        drop(first);
        assert!(block_on(poll_once(&mut waiting)).is_some(), "the later one came after it");
        drop(later);
        assert!(is_settled(7, 0, 1000) && in_flight.by_node().is_empty());
    }
}
