//! The requests that this daemon has read and not answered yet.
//!
//! The kernel names a request by its unique. After FUSE_NOTIFY_RESEND it delivers every unanswered request once more,
//! under the same unique with bit 63 set, and takes an answer under that name only. A daemon that works on such a
//! request already must not execute it twice, so the table tells a redelivery from a new request, and tells an answer
//! under which name to go out. An answer and a redelivery can pass each other: the answer is refused, then the
//! redelivery arrives. The table keeps small refused answers for that moment; a large one is always that of a request
//! that only reads, which is executed again. Where the kernel has no such notification, the table knows each request's
//! slot in the saved state instead ([`efc_state::requests`]).
//!
//! The table is bounded. A request beyond the bound is refused, except those that give something back.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use foldhash::HashMap;

use crate::abi::UNIQUE_RESENT;
use crate::wire::Inline;

/// Unanswered requests, at most: more than a node has threads that could wait in our file system.
const IN_FLIGHT_MAX: usize = 1 << 16;
/// Refused answers kept for a redelivery, at most.
const KEPT_MAX: usize = 1024;
const SHARDS: usize = 16;

/// A small answer.
pub struct KeptAnswer {
    pub error: i32,
    pub content: Inline,
}

/// What to do with a request that was read.
pub enum Arrival {
    /// Execute it.
    New,
    /// It is being worked on: its answer will go out under the new name.
    Redelivered,
    /// It was executed; give this answer.
    Answered(Box<KeptAnswer>),
    /// Refuse it.
    Full,
}

/// Under which name an answer goes out now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub unique: u64,
    /// Of the request in the saved state.
    pub slot: Option<u32>,
    count: u32,
}

struct Waiting {
    arrived: Instant,
    delivery: Delivery,
    kept: Option<Box<KeptAnswer>>,
}

/// See the module.
pub struct InFlight {
    shards: [Mutex<HashMap<u64, Waiting>>; SHARDS],
    count: AtomicUsize,
    kept: AtomicUsize,
}

impl InFlight {
    pub fn new() -> InFlight {
        InFlight { shards: Default::default(), count: AtomicUsize::new(0), kept: AtomicUsize::new(0) }
    }

    fn shard(&self, unique: u64) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        // The kernel counts uniques in steps of two, and in one sequence per CPU on newer kernels: mix all bits.
        let mixed = (unique & !UNIQUE_RESENT).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.shards[(mixed >> 60) as usize % SHARDS].lock().expect("in-flight lock")
    }

    /// Requests that are unanswered.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed) as u64
    }

    /// A request was read, under this unique with its redelivery bit, and has this slot. If it has to be, it is taken even when
    /// the table is full, or there is no memory for one more.
    pub fn arrive(
        &self,
        unique: u64,
        slot: Option<u32>,
        has_to_be: bool,
        has_memory: impl FnOnce() -> bool,
    ) -> Arrival {
        let mut shard = self.shard(unique);
        if let Some(entry) = shard.get_mut(&(unique & !UNIQUE_RESENT)) {
            entry.delivery = Delivery { unique, count: entry.delivery.count + 1, ..entry.delivery };
            return match entry.kept.take() {
                Some(answer) => {
                    self.kept.fetch_sub(1, Ordering::Relaxed);
                    Arrival::Answered(answer)
                }
                None => Arrival::Redelivered,
            };
        }
        if !has_to_be && (self.count.load(Ordering::Relaxed) >= IN_FLIGHT_MAX || !has_memory()) {
            return Arrival::Full;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let entry = Waiting { arrived: Instant::now(), delivery: Delivery { unique, slot, count: 0 }, kept: None };
        shard.insert(unique & !UNIQUE_RESENT, entry);
        Arrival::New
    }

    /// The name under which to answer; `None` if the request is not in flight.
    pub fn delivery(&self, unique: u64) -> Option<Delivery> {
        self.shard(unique).get(&(unique & !UNIQUE_RESENT)).map(|entry| entry.delivery)
    }

    /// The kernel took the answer, or it is of no use any more.
    pub fn conclude(&self, unique: u64) {
        if self.shard(unique).remove(&(unique & !UNIQUE_RESENT)).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The kernel refused the answer under the name `delivery`. `Some`: a redelivery came meanwhile, answer that one.
    /// Otherwise the request is concluded, or, given an answer to `keep`, remembered with it until it is delivered again.
    pub fn refused(&self, delivery: Delivery, keep: Option<Box<KeptAnswer>>) -> Option<Delivery> {
        let mut shard = self.shard(delivery.unique);
        let unique = delivery.unique & !UNIQUE_RESENT;
        let entry = shard.get_mut(&unique)?;
        if entry.delivery != delivery {
            return Some(entry.delivery);
        }
        match keep {
            Some(answer) if self.kept.load(Ordering::Relaxed) < KEPT_MAX => {
                self.kept.fetch_add(1, Ordering::Relaxed);
                entry.kept = Some(answer);
            }
            _ => {
                shard.remove(&unique);
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
        None
    }

    /// For how long the oldest request has been waiting for its answer.
    pub fn oldest(&self) -> Option<Duration> {
        let arrived = |shard: &Mutex<HashMap<u64, Waiting>>| {
            let shard = shard.lock().expect("in-flight lock");
            shard.values().filter(|entry| entry.kept.is_none()).map(|entry| entry.arrived).min()
        };
        self.shards.iter().filter_map(arrived).min().map(|arrived| arrived.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Box<KeptAnswer> {
        Box::new(KeptAnswer { error: -5, content: Inline::new() })
    }

    #[test]
    fn a_redelivery_is_not_executed_and_renames_the_answer() {
        let table = InFlight::new();
        assert!(matches!(table.arrive(8, None, false, || true), Arrival::New));
        assert_eq!(table.delivery(8).map(|delivery| delivery.unique), Some(8));
        assert!(matches!(table.arrive(8 | UNIQUE_RESENT, None, false, || true), Arrival::Redelivered));
        assert_eq!(table.delivery(8).map(|delivery| delivery.unique), Some(8 | UNIQUE_RESENT));
        table.conclude(8);
        assert_eq!(table.delivery(8), None);
        assert!(table.oldest().is_none());
    }

    #[test]
    fn an_answer_refused_before_its_redelivery_is_kept_for_it() {
        let table = InFlight::new();
        table.arrive(8, None, false, || true);
        let delivery = table.delivery(8).unwrap();
        assert_eq!(table.refused(delivery, Some(answer())), None);
        assert!(table.oldest().is_none(), "nobody works on it");
        let Arrival::Answered(kept) = table.arrive(8 | UNIQUE_RESENT, None, false, || true) else {
            panic!("executed twice")
        };
        assert_eq!(kept.error, -5);
        assert_eq!(table.delivery(8).unwrap().unique, 8 | UNIQUE_RESENT);
    }

    #[test]
    fn an_answer_refused_after_its_redelivery_goes_out_again() {
        let table = InFlight::new();
        table.arrive(8 | UNIQUE_RESENT, None, false, || true);
        let first = table.delivery(8).unwrap();
        // Delivered a third time, under a name that it had already.
        assert!(matches!(table.arrive(8 | UNIQUE_RESENT, None, false, || true), Arrival::Redelivered));
        let second = table.refused(first, Some(answer())).unwrap();
        assert_eq!(table.refused(second, None), None);
        assert_eq!(table.delivery(8), None);
    }

    #[test]
    fn both_bounds_hold() {
        let table = InFlight::new();
        for unique in 0..IN_FLIGHT_MAX as u64 {
            assert!(matches!(table.arrive(unique * 2, None, false, || true), Arrival::New));
        }
        assert!(matches!(table.arrive(1, None, false, || true), Arrival::Full));
        assert!(matches!(table.arrive(1, None, true, || true), Arrival::New));
        for unique in 0..IN_FLIGHT_MAX as u64 {
            let delivery = table.delivery(unique * 2).unwrap();
            table.refused(delivery, Some(answer()));
        }
        let kept: usize = table.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert_eq!(kept, KEPT_MAX + 1);
    }
}
