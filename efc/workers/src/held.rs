//! Markers that this node has set for blocks that it is fetching: they are renewed for as long as that takes, so that
//! other nodes keep waiting, and removed if no block comes.

use std::sync::Arc;

use efc_tasks::time::sleep;

use crate::basics::lock;
use crate::keys::Name;
use crate::policy::markers::RENEWAL;
use crate::protocol::Cas;
use crate::worker::Worker;

/// One marker. Dropped it goes, unless a block has taken its place.
#[derive(Debug)]
pub(crate) struct Held {
    worker: Arc<Worker>,
    number: u64,
    pub(crate) cas: Cas,
}

impl Held {
    /// The marker of this number, which the node has just left at the worker.
    pub(crate) fn new(worker: &Arc<Worker>, name: &Name, cas: Cas) -> Held {
        let (number, is_first) = lock(&worker.marks).add(name, cas);
        if is_first {
            efc_tasks::spawn(renew(worker.clone()));
        }
        Held { worker: worker.clone(), number, cas }
    }

    /// The block is on its way to the marker's place.
    pub(crate) fn filled(self) {
        self.forget();
    }

    fn forget(&self) -> Option<(Name, Cas)> {
        lock(&self.worker.marks).remove(self.number)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((name, cas)) = self.forget() {
            self.worker.delete(&name, cas);
        }
    }
}

/// Renews the markers as long as there are any.
async fn renew(worker: Arc<Worker>) {
    loop {
        sleep(RENEWAL / 2).await;
        let Some(due) = lock(&worker.marks).due() else { return };
        due.iter().for_each(|(name, cas)| worker.renew(name, *cas));
    }
}
