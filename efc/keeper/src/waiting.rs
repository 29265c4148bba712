//! Waiting with a time limit, and threads for operations that have none.
//!
//! The keeper never waits for a process or a descriptor without a limit. What may take for ever is left to a thread of
//! its own, with a small stack.

use std::io;
use std::os::fd::AsFd;
use std::process::Child;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Stack of a thread, in bytes; none recurses.
const STACK_BYTES: usize = 256 << 10;

/// What [`do_in_time`] says of what it waits for no longer.
pub const HANGS: &str = "its disk does not answer";

/// Starts a thread of the keeper.
///
/// # Errors
/// Those of pthread_create(3).
pub fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(run).map(drop)
}

/// Has a thread do what may hang with a file system of the node, and waits for it so long.
///
/// # Errors
/// Those of [`start_thread`]; `TimedOut`, and it goes on: what comes of it is dropped.
pub fn do_in_time<T: Send + 'static>(
    name: &str,
    time_limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, outcome) = mpsc::channel();
    // Who waits no longer does without.
    start_thread(name, move || drop(done.send(work())))?;
    let hangs = |_| io::Error::new(io::ErrorKind::TimedOut, HANGS);
    outcome.recv_timeout(time_limit).map_err(hangs)
}

/// Waits for a child that may take for ever, so that it is no zombie when it does end; then calls `ended`.
///
/// # Errors
/// Those of [`start_thread`]; the child is a zombie from its end on then.
pub fn leave_to_a_thread(mut child: Child, ended: impl FnOnce() + Send + 'static) -> io::Result<()> {
    start_thread("reaper", move || {
        // Nobody is left who wants to know how the child ended.
        let _ = child.wait();
        ended();
    })
}

/// Whether `descriptor` becomes readable within `time_limit`.
pub fn wait_readable(descriptor: impl AsFd, time_limit: Duration) -> bool {
    let deadline = Instant::now() + time_limit;
    loop {
        let mut descriptors = [PollFd::new(&descriptor, PollFlags::IN)];
        match poll(&mut descriptors, Some(&timespec(deadline.saturating_duration_since(Instant::now())))) {
            Err(Errno::INTR) => {}
            Err(errno) => {
                log::error!("poll: {errno}");
                return false;
            }
            Ok(count) => return count > 0,
        }
    }
}

/// A duration as poll(2) takes it.
pub fn timespec(duration: Duration) -> Timespec {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: duration.subsec_nanos().into() }
}
