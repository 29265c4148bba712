//! The thread that seals blocks for workers, so that no read pays for it.

use std::fmt;
use std::io;
use std::sync::mpsc;
use std::thread;

const STACK: usize = 256 << 10;

type Work = Box<dyn FnOnce() + Send>;

/// The thread. It ends when this is dropped, after what it was given.
pub(crate) struct Seals(mpsc::Sender<Work>);

impl Seals {
    pub(crate) fn start() -> io::Result<Seals> {
        let (adds, added) = mpsc::channel::<Work>();
        let thread = thread::Builder::new().name("worker-seals".into()).stack_size(STACK);
        thread.spawn(move || added.into_iter().for_each(|work| work()))?;
        Ok(Seals(adds))
    }

    /// Has it do this, in its turn.
    pub(crate) fn add(&self, work: impl FnOnce() + Send + 'static) {
        let _ = self.0.send(Box::new(work)); // it goes on until this is dropped
    }
}

impl fmt::Debug for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seals")
    }
}
