//! How much memory buffers may take, for each purpose apart: what can do without does not take it from what cannot.
//!
//! Room comes first, the buffer or the pipe after it: [`Room`] is taken before a READ leaves, goes with it, and comes
//! back when its buffer is dropped. Whoever waits for room is served in the order of asking. A task that has room must
//! not wait for more of the same purpose: others may do the same, and none would ever go on.

use std::io;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Buffer, LARGE, PAGE, buffer_size, limit_pool};

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// What an application waits for: data that it reads, a page of a directory.
    Demand,
    /// What an application writes, until it is where it stays.
    Written,
    /// What nobody has asked for yet.
    Ahead,
}

/// How many bytes all buffers of a purpose may take; `u64::MAX`: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLimits {
    /// For [`Purpose::Demand`].
    pub demand_bytes: u64,
    /// For [`Purpose::Written`].
    pub written_bytes: u64,
    /// For [`Purpose::Ahead`].
    pub ahead_bytes: u64,
}

impl BudgetLimits {
    /// No limits.
    pub const NONE: BudgetLimits =
        BudgetLimits { demand_bytes: u64::MAX, written_bytes: u64::MAX, ahead_bytes: u64::MAX };

    /// The bytes of all purposes together.
    pub fn sum(&self) -> u64 {
        self.demand_bytes.saturating_add(self.written_bytes).saturating_add(self.ahead_bytes)
    }
}

/// Buffers beside those that a budget counts: one for each thread that reads requests, and few others.
const UNCOUNTED_BYTES: u64 = 4 * LARGE as u64;

/// A pot for each purpose. Clones share them.
#[derive(Clone, Debug)]
pub struct Budget(Arc<[Pot; 3]>);

#[derive(Debug)]
struct Pot {
    free: Arc<Semaphore>,
    pages: u32,
}

impl Pot {
    fn new(bytes: u64) -> Pot {
        // At least one buffer of any size, or whoever wants one would wait for ever.
        let pages = u32::try_from(bytes / PAGE as u64).unwrap_or(u32::MAX).max((LARGE / PAGE) as u32);
        Pot { free: Arc::new(Semaphore::new(pages as usize)), pages }
    }
}

fn pages(size: usize) -> u32 {
    u32::try_from(size.div_ceil(PAGE)).unwrap_or(u32::MAX)
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::new(BudgetLimits::NONE)
    }
}

impl Budget {
    /// A budget of these limits. What the pool keeps of buffers that are not in use fits them too.
    pub fn new(limits: BudgetLimits) -> Budget {
        limit_pool(limits.sum().saturating_add(UNCOUNTED_BYTES));
        Budget(Arc::new([limits.demand_bytes, limits.written_bytes, limits.ahead_bytes].map(Pot::new)))
    }

    /// How many bytes all buffers of this purpose may take.
    pub fn bytes_max(&self, purpose: Purpose) -> u64 {
        u64::from(self.0[purpose as usize].pages) * PAGE as u64
    }

    /// Room for a buffer of at least `size` bytes (or [`LARGE`], if that is less), when it is its turn.
    pub async fn wait(&self, purpose: Purpose, size: usize) -> Room {
        let (pot, size) = (&self.0[purpose as usize], buffer_size(size.min(LARGE)));
        let permit = pot.free.clone().acquire_many_owned(pages(size).min(pot.pages)).await;
        Room { size, _permit: Some(permit.expect("this semaphore is never closed")) }
    }

    /// Room for `size` bytes in a buffer, or for as many on the heap, if there is some now and nobody waits for it.
    pub fn take(&self, purpose: Purpose, size: usize) -> Option<Room> {
        let pot = &self.0[purpose as usize];
        let permit = pot.free.clone().try_acquire_many_owned(pages(size).min(pot.pages)).ok()?;
        Some(Room { size, _permit: Some(permit) })
    }
}

/// Room for one buffer, or for as many bytes elsewhere; it is given back when this is dropped, or the buffer that it
/// became.
#[derive(Debug)]
pub struct Room {
    size: usize,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Room that no budget counts, for programs that use a few buffers.
    pub fn uncounted(size: usize) -> Room {
        Room { size, _permit: None }
    }

    /// A buffer in this room.
    ///
    /// # Errors
    /// `OutOfMemory`: the system has none.
    pub fn buffer(self) -> io::Result<Buffer> {
        let mut buffer = Buffer::new(self.size)?;
        buffer.room = Some(self);
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::SMALL;

    fn budget(bytes: u64) -> Budget {
        Budget::new(BudgetLimits { demand_bytes: bytes, ..BudgetLimits::NONE })
    }

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn what_does_not_fit_waits_its_turn_and_other_purposes_do_not() {
        let budget = budget(2 * LARGE as u64);
        let [first, second] = [(); 2].map(|()| poll(pin!(budget.wait(Purpose::Demand, LARGE))).expect("room"));
        let buffer = first.buffer().expect("memory");
        let mut large = pin!(budget.wait(Purpose::Demand, LARGE));
        assert!(poll(large.as_mut()).is_none());
        assert!(budget.take(Purpose::Ahead, LARGE).is_some());
        drop(second);
        let mut small = pin!(budget.wait(Purpose::Demand, 1));
        assert!(poll(small.as_mut()).is_none(), "it came later");
        assert!(budget.take(Purpose::Demand, 1).is_none(), "nor does anybody overtake");
        let large = poll(large).expect("it is its turn");
        assert!(poll(small.as_mut()).is_none());
        drop((large, buffer));
        assert!(poll(small).is_some());
        assert!(budget.take(Purpose::Demand, LARGE).is_some());
    }

    #[test]
    fn whoever_stops_waiting_holds_nobody_up() {
        let budget = budget(LARGE as u64);
        let all = budget.take(Purpose::Demand, LARGE).expect("room");
        {
            assert!(poll(pin!(budget.wait(Purpose::Demand, LARGE))).is_none());
        }
        let mut next = pin!(budget.wait(Purpose::Demand, SMALL));
        assert!(poll(next.as_mut()).is_none());
        drop(all);
        assert!(poll(next).is_some());
    }

    #[test]
    fn a_limit_below_one_buffer_is_one_buffer() {
        let budget = budget(0);
        assert!(poll(pin!(budget.wait(Purpose::Demand, 10 * LARGE))).is_some());
    }
}
