//! The lookout: whether one of the reading threads waits for the kernel's next request, or all, and how.
//!
//! Requests of one caller that are answered at once follow each other within microseconds. To put a thread to sleep and wake it,
//! on another processor as a rule, takes several times as long as to answer a look-up or an open. So where all requests are such,
//! one thread serves the caller: it keeps the lookout, and looks for the next request for a while before it sleeps. The
//! others wait for the lookout, or the kernel would wake one of them for each request.
//!
//! When there are several callers, or one whose requests wait for the NAS, all threads wait in read(2). Likewise with one whose requests wait
//! for the thread time and again, or come so late that they are looked for in vain: it computes, or there is no other
//! processor for it to go on with. After that it takes ever more of its requests to be served so again.
//!
//! Looking costs as much CPU time as working. It is not done for one who writes, which leaves the processors to whoever sends
//! what was written.

use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long to look before sleeping: several times what a caller needs from an answer to its next request.
const LOOK_TIME: Duration = Duration::from_micros(50);
/// Requests in a row by which a caller shows that it is the only one, at first, and when looks were often in vain.
const ALONE_MIN: u32 = 32;
const ALONE_MAX: u32 = 1 << 16;
/// Requests that were there at once, one after the other, which show that one thread is not enough.
const QUEUE_MIN: u32 = 8;
/// A look that is worth it gains 1, one in vain costs more. Who has nothing left is not looked for.
const CREDIT_MAX: u32 = 16;
const MISS_COST: u32 = 4;

/// The lookout of a session.
#[derive(Default)]
pub struct Lookout(Mutex<Watch>);

/// The lookout in the hands of one thread.
pub type Turn<'a> = MutexGuard<'a, Watch>;

/// What is known of how requests come.
#[derive(Debug)]
pub struct Watch {
    /// The thread that asked last, and how many requests in a row were its own.
    caller: u32,
    in_a_row: u32,
    /// How many there must be.
    alone_min: u32,
    /// Requests that were there at once, since the last that was not.
    at_once: u32,
    credit: u32,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch { caller: 0, in_a_row: 0, alone_min: ALONE_MIN, at_once: 0, credit: MISS_COST }
    }
}

impl Lookout {
    /// The lookout, when no other thread has it.
    pub fn turn(&self) -> Turn<'_> {
        self.0.lock().expect("lookout lock")
    }

    /// The lookout, if no other thread has it.
    pub fn free(&self) -> Option<Turn<'_>> {
        self.0.try_lock().ok()
    }
}

impl Watch {
    /// Is there one caller whom one thread serves best?
    pub fn is_alone(&self) -> bool {
        self.in_a_row >= self.alone_min
    }

    /// A request of this thread has come, after all others were answered at once. 0: nobody knows whose.
    pub fn asks(&mut self, caller: u32) {
        match caller {
            0 => {}
            same if same == self.caller => self.in_a_row = self.in_a_row.saturating_add(1),
            other => (self.caller, self.in_a_row) = (other, 0),
        }
    }

    /// The caller is not to be served by one thread for now.
    pub fn leave_alone(&mut self) {
        (self.in_a_row, self.at_once) = (0, 0);
    }

    /// Looks for the next request of a caller who is alone. It may not be there afterwards: read(2) waits for it.
    pub fn look(&mut self, device: BorrowedFd<'_>) {
        if is_there(device) {
            self.at_once += 1;
            if self.at_once >= QUEUE_MIN {
                self.leave_alone();
            }
            return;
        }
        self.at_once = 0;
        let begun = Instant::now();
        let is_found = loop {
            match is_there(device) {
                false if begun.elapsed() < LOOK_TIME => {}
                is_found => break is_found,
            }
        };
        self.learn(is_found);
    }

    fn learn(&mut self, was_worth_it: bool) {
        if was_worth_it {
            self.credit = (self.credit + 1).min(CREDIT_MAX);
            if self.credit == CREDIT_MAX {
                self.alone_min = ALONE_MIN;
            }
        } else if self.credit >= MISS_COST {
            self.credit -= MISS_COST;
        } else {
            self.leave_alone();
            self.alone_min = (self.alone_min * 2).min(ALONE_MAX);
            self.credit = MISS_COST;
        }
    }
}

/// Is there a request, or the end of the session?
fn is_there(device: BorrowedFd<'_>) -> bool {
    let mut device = [PollFd::from_borrowed_fd(device, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut device, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn alone() -> Watch {
        let mut watch = Watch::default();
        (0..=ALONE_MIN).for_each(|_| watch.asks(7));
        assert!(watch.is_alone());
        watch
    }

    #[test]
    fn callers_whom_nobody_knows_are_not_alone() {
        let mut watch = Watch::default();
        (0..2 * ALONE_MIN).for_each(|_| watch.asks(0));
        assert!(!watch.is_alone());
    }

    #[test]
    fn a_caller_is_alone_until_another_asks() {
        let mut watch = alone();
        watch.asks(0); // a close, which the kernel tells by itself
        assert!(watch.is_alone());
        watch.asks(8);
        assert!(!watch.is_alone());
        (1..ALONE_MIN).for_each(|_| watch.asks(8));
        assert!(!watch.is_alone());
        watch.asks(8);
        assert!(watch.is_alone());
    }

    #[test]
    fn a_caller_whose_requests_wait_is_not_served_alone() {
        let (device, kernel) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&kernel, b"request").unwrap();
        let mut watch = alone();
        (1..QUEUE_MIN).for_each(|_| watch.look(device.as_fd()));
        assert!(watch.is_alone());
        watch.look(device.as_fd());
        assert!(!watch.is_alone());
    }

    #[test]
    fn who_is_looked_for_in_vain_is_hardly_looked_for() {
        let (device, _kernel) = rustix::pipe::pipe().unwrap();
        let mut watch = Watch::default();
        let mut looks = |requests| {
            let mut look = || {
                watch.asks(7);
                watch.is_alone().then(|| watch.look(device.as_fd())).is_some()
            };
            (0..requests).filter(|_| look()).count()
        };
        assert!((1..=12).contains(&looks(1000)));
        looks(1 << 17);
        assert!((1..=2 * 4).contains(&looks(4 * ALONE_MAX)));
    }

    #[test]
    fn a_look_in_vain_now_and_then_does_no_harm() {
        let mut watch = alone();
        for found in [true, true, true, true, true, false].into_iter().cycle().take(1000) {
            watch.learn(found);
            assert!(watch.is_alone());
        }
        (0..CREDIT_MAX / MISS_COST + 1).for_each(|_| watch.learn(false));
        assert!(!watch.is_alone());
    }
}
