//! What threads that read requests do when there is no room for what applications write.

use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use efc_buffer::{Budget, Purpose, Room};

/// How long the threads that read wait for room for what an application writes, before such requests fail. In the meantime they
/// read nothing, so this is far below what the keeper takes for a hung daemon.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(1);
/// How often to look whether there is room.
const ROOM_POLL: Duration = Duration::from_millis(1);

/// Since when there has been no room for what applications write.
#[derive(Default)]
pub struct Shortage(Mutex<Option<Instant>>);

impl Shortage {
    /// Room for `size` bytes. Waits for it, but no longer than [`ROOM_WAIT_MAX`] from when there was none: after that everybody
    /// fails at once until there is some.
    pub fn room(&self, budget: &Budget, size: usize) -> Option<Room> {
        let mut room = budget.take(Purpose::Written, size);
        let mut begin = None;
        while room.is_none() {
            let since = *begin.get_or_insert_with(|| *self.lock().get_or_insert_with(Instant::now));
            if since.elapsed() >= ROOM_WAIT_MAX {
                return None;
            }
            thread::sleep(ROOM_POLL);
            room = budget.take(Purpose::Written, size);
        }
        *self.lock() = None;
        room
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().expect("shortage lock")
    }
}

#[cfg(test)]
mod tests {
    use efc_buffer::LARGE;

    use super::*;

    #[test]
    fn who_finds_no_room_waits_for_it_and_not_for_ever() {
        let budget = Budget::new(efc_buffer::BudgetLimits { written_bytes: 0, ..efc_buffer::BudgetLimits::NONE });
        let shortage = Shortage::default();
        let all = shortage.room(&budget, LARGE).expect("room for one");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| shortage.room(&budget, LARGE));
            while shortage.lock().is_none() {
                thread::yield_now();
            }
            drop(all);
            assert!(waiting.join().unwrap().is_some());
        });
        let _all = budget.take(Purpose::Written, LARGE);
        assert!(shortage.room(&budget, 1).is_none());
        let since = *shortage.lock();
        assert!(since.is_some_and(|since| since.elapsed() >= ROOM_WAIT_MAX));
        assert!(shortage.room(&budget, 1).is_none());
        assert_eq!(*shortage.lock(), since, "nor does the next one wait anew");
    }
}
