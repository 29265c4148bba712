//! Writes that the server has not answered: reads of the same bytes wait for them.
//!
//! The kernel puts what write(2) writes into its pages, then sends us a WRITE. It may drop those pages meanwhile,
//! because a reply shows that the file has changed (another thread's write is enough). If another read refills them
//! before the server has executed the write, they hold the old bytes, and the write's own caller reads those. So a READ
//! is sent only when the earlier WRITEs of its bytes have been answered.
//!
//! Where no write is in flight, this costs a look at the inode.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::inode::Inode;

/// Closed when the write is over; never has permits.
type Over = Arc<Semaphore>;

/// The bytes of each write in flight.
pub(crate) type Writings = Vec<(Range<u64>, Over)>;

/// One write, in flight until this is dropped.
pub struct Writing {
    inode: Arc<Inode>,
    over: Over,
}

impl Inode {
    /// A write of `length` bytes at `offset` begins.
    pub fn begin_write(self: &Arc<Self>, offset: u64, length: usize) -> Writing {
        let over = Arc::new(Semaphore::new(0));
        let bytes = offset..offset.saturating_add(length as u64);
        self.change_busy(|busy| busy.writings.push((bytes, over.clone())));
        Writing { inode: self.clone(), over }
    }

    /// Ends when the writes of these bytes are over that are in flight now.
    pub async fn written(&self, offset: u64, length: u32) {
        let end = offset.saturating_add(length.into());
        let overlaps = |bytes: &Range<u64>| bytes.start < end && offset < bytes.end;
        let earlier: Option<Vec<Over>> = self.while_busy(|busy| {
            busy.writings.iter().filter(|(bytes, _)| overlaps(bytes)).map(|(_, over)| over.clone()).collect()
        });
        for over in earlier.into_iter().flatten() {
            let closed = over.acquire().await.map(drop);
            debug_assert!(closed.is_err(), "it has no permits");
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.inode.change_busy(|busy| busy.writings.retain(|(_, over)| !Arc::ptr_eq(over, &self.over)));
        self.over.close(); // wakes those that wait, so without the lock
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::inode;
    use futures_lite::future::{block_on, poll_once};

    #[test]
    fn reads_wait_for_earlier_writes_of_their_bytes_and_no_others() {
        let inode = inode();
        let is_settled = |offset, length| block_on(poll_once(inode.written(offset, length))).is_some();
        let first = inode.begin_write(100, 50);
        assert!(is_settled(0, 100) && is_settled(150, 100));
        assert!(!is_settled(0, 101) && !is_settled(149, 1));
        let mut waiting = Box::pin(inode.written(100, 1));
        assert!(block_on(poll_once(&mut waiting)).is_none());
        let later = inode.begin_write(100, 1);
        drop(first);
        assert!(block_on(poll_once(&mut waiting)).is_some(), "the later one came after it");
        drop(later);
        assert!(is_settled(0, 1000) && inode.is_idle());
    }
}
