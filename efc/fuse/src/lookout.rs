//! The lookout: whether one of the reading threads waits for the kernel's next request, or all, and how.
//!
//! The requests of one caller follow each other within microseconds. To put a thread to sleep and wake it, on another processor
//! as a rule, takes several times as long as to answer a look-up or an open. So where all requests come from one caller, one
//! thread serves it: it keeps the lookout, and looks for the next request for a while before it sleeps. The others
//! wait for the lookout, or the kernel would wake one of them for each request.
//!
//! It gives the lookout away as soon as somebody else asks, or requests wait for it time and again, and while it executes one that may take
//! long. When there are several callers all threads wait in read(2): they keep the processors busy, and are found awake.
//!
//! Looking costs as much CPU time as working. It is done when nothing else is under way, which leaves the processors to whoever
//! works on that, and as long as three in four looks are worth it: on a machine whose other processors are busy, the
//! caller cannot go on while it is looked for, and of one that computes in between nothing comes in time.

use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long to look before sleeping: several times what a caller needs from an answer to its next request.
const LOOK_TIME: Duration = Duration::from_micros(50);
/// Requests in a row by which a caller shows that it is the only one.
const ALONE_MIN: u32 = 64;
/// Requests that were there at once, one after the other, which show that one thread is not enough.
const QUEUE_MIN: u32 = 8;
/// What a look in vain adds to the doubt; one that was worth it takes 1 off.
const MISS_COST: u32 = 3;
/// At the highest doubt, one look in 2 to the power of this is done.
const DOUBT_MAX: u32 = 10;

/// The lookout of a session.
#[derive(Default)]
pub struct Lookout(Mutex<Watch>);

/// The lookout in the hands of one thread.
pub type Turn<'a> = MutexGuard<'a, Watch>;

/// What is known of how requests come.
#[derive(Debug, Default)]
pub struct Watch {
    /// The thread that asked last, and how many requests in a row were its own.
    caller: u32,
    in_a_row: u32,
    /// Requests that were there at once, since the last that was not.
    at_once: u32,
    /// Of 2 to the power of this, one look is done.
    doubt: u32,
    /// So many are not done now.
    to_skip: u32,
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
    /// Is there one caller whom one thread can serve?
    pub fn is_alone(&self) -> bool {
        self.in_a_row >= ALONE_MIN
    }

    /// A request of this thread has come. 0: nobody knows whose.
    pub fn asks(&mut self, caller: u32) {
        if caller != 0 {
            self.in_a_row = if caller == self.caller { self.in_a_row.saturating_add(1) } else { 0 };
            self.caller = caller;
        }
    }

    /// Looks for the next request, if that is worth it. It may not be there afterwards: read(2) waits for it. `is_idle`: nothing else
    /// is under way.
    pub fn look(&mut self, device: BorrowedFd<'_>, is_idle: bool) {
        if is_there(device) {
            return self.was_there_at_once();
        }
        self.at_once = 0;
        if is_idle && self.is_worth_it() {
            let begun = Instant::now();
            let is_found = loop {
                match is_there(device) {
                    false if begun.elapsed() < LOOK_TIME => {}
                    is_found => break is_found,
                }
            };
            self.learn(is_found);
        }
    }

    fn was_there_at_once(&mut self) {
        self.at_once += 1;
        if self.at_once >= QUEUE_MIN {
            (self.at_once, self.in_a_row) = (0, 0);
        }
    }

    fn is_worth_it(&mut self) -> bool {
        let is_worth_it = self.to_skip == 0;
        self.to_skip = self.to_skip.saturating_sub(1);
        is_worth_it
    }

    fn learn(&mut self, was_worth_it: bool) {
        self.doubt = if was_worth_it { self.doubt.saturating_sub(1) } else { (self.doubt + MISS_COST).min(DOUBT_MAX) };
        self.to_skip = (1 << self.doubt) - 1;
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
        (1..QUEUE_MIN).for_each(|_| watch.look(device.as_fd(), true));
        assert!(watch.is_alone());
        watch.look(device.as_fd(), true);
        assert!(!watch.is_alone());
    }

    #[test]
    fn what_is_looked_for_in_vain_is_hardly_looked_for() {
        let (device, _kernel) = rustix::pipe::pipe().unwrap();
        let mut watch = alone();
        let mut look_in_vain = || watch.is_worth_it().then(|| watch.learn(false)).is_some();
        let mut looks = |times| (0..times).filter(|_| look_in_vain()).count();
        assert!(looks(1000) <= 5);
        assert!(looks(100_000) <= 100_000 / 1000);
        let mut watch = alone();
        watch.look(device.as_fd(), false);
        assert_eq!(watch.doubt, 0, "not looked for");
        watch.look(device.as_fd(), true);
        assert_eq!(watch.doubt, MISS_COST);
    }

    #[test]
    fn three_looks_that_are_worth_it_make_up_for_one_in_vain() {
        let mut watch = alone();
        for found in [true, true, true, false].into_iter().cycle().take(1000) {
            while !watch.is_worth_it() {}
            watch.learn(found);
        }
        assert!(watch.doubt <= MISS_COST);
    }
}
