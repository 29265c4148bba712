//! The threads that wait for the disk, so that no task does: a few, and a queue of bounded length before them.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::basics::lock;

/// Threads.
const THREADS: usize = 4;
/// Reads that wait for one.
const WAITING_MAX: usize = 256;
/// Tasks that wait for an answer go on here, as on the NFS client's threads.
const STACK: usize = 2 << 20;

/// Something that takes time.
pub(crate) type Read = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Waiting {
    reads: VecDeque<Read>,
    is_ended: bool,
}

/// The threads, and what waits for them. They end when they are told to, once what they do has ended.
#[derive(Default)]
pub(crate) struct Reads {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reads")
    }
}

impl Reads {
    /// Starts the threads.
    pub(crate) fn start() -> io::Result<Arc<Reads>> {
        let reads = Arc::new(Reads::default());
        for _ in 0..THREADS {
            let these = reads.clone();
            let thread = thread::Builder::new().name("store-reads".into()).stack_size(STACK);
            if let Err(error) = thread.spawn(move || these.run()) {
                reads.end();
                return Err(error);
            }
        }
        Ok(reads)
    }

    /// Has one of them do this; `false`: too many wait.
    pub(crate) fn add(&self, read: Read) -> bool {
        let mut waiting = lock(&self.waiting);
        if waiting.is_ended || waiting.reads.len() >= WAITING_MAX {
            return false;
        }
        waiting.reads.push_back(read);
        self.changed.notify_one();
        true
    }

    /// Lets the threads end. What waits is given up.
    pub(crate) fn end(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.is_ended = true;
        let given_up = std::mem::take(&mut waiting.reads);
        drop(waiting);
        self.changed.notify_all();
        drop(given_up);
    }

    fn run(&self) {
        loop {
            let waiting = lock(&self.waiting);
            let is_waiting = |waiting: &mut Waiting| waiting.reads.is_empty() && !waiting.is_ended;
            let mut waiting = self.changed.wait_while(waiting, is_waiting).expect("no panic under this lock");
            let Some(read) = waiting.reads.pop_front() else { return };
            drop(waiting);
            read();
        }
    }
}
