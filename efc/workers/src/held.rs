//! Markers that this node has left, of blocks that it is fetching: they are renewed as long as that takes, so that others
//! go on waiting, and go if no block comes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use efc_tasks::time::{now, since, sleep};

use crate::basics::lock;
use crate::context::Context;
use crate::keys::Name;
use crate::policy::markers::RENEWAL;
use crate::protocol::Cas;
use crate::worker::Worker;

/// All of a node.
#[derive(Debug, Default)]
pub(crate) struct AllHeld {
    next: u64,
    held: HashMap<u64, One>,
    /// There is a task that renews them.
    is_renewing: bool,
}

#[derive(Debug)]
struct One {
    worker: Arc<Worker>,
    name: Name,
    cas: Cas,
    renewed: Instant,
}

/// One marker. Dropped it goes, unless a block has taken its place.
#[derive(Debug)]
pub(crate) struct Held {
    context: Arc<Context>,
    number: u64,
    pub(crate) cas: Cas,
}

impl Held {
    /// The marker of this number, which the node has just left at the worker.
    pub(crate) fn new(worker: &Arc<Worker>, name: &Name, cas: Cas) -> Held {
        let context = worker.context.clone();
        let mut all = lock(&context.held);
        let number = all.next;
        all.next += 1;
        all.held.insert(number, One { worker: worker.clone(), name: *name, cas, renewed: now() });
        let begins = !std::mem::replace(&mut all.is_renewing, true);
        drop(all);
        if begins {
            efc_tasks::spawn(renew(context.clone()));
        }
        Held { context, number, cas }
    }

    /// The block is on its way to the marker's place.
    pub(crate) fn filled(self) {
        self.forget();
    }

    fn forget(&self) -> Option<One> {
        lock(&self.context.held).held.remove(&self.number)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(one) = self.forget() {
            one.worker.delete(&one.name, one.cas);
        }
    }
}

/// Renews the markers as long as there are any.
async fn renew(context: Arc<Context>) {
    loop {
        sleep(RENEWAL / 2).await;
        let mut all = lock(&context.held);
        if all.held.is_empty() {
            all.is_renewing = false; // with the lock held: the next one has a task of its own
            return;
        }
        let old = all.held.values_mut().filter(|one| since(one.renewed) >= RENEWAL / 2);
        let old: Vec<_> = old.map(|one| (one.worker.clone(), one.name, one.cas, one.renewed = now())).collect();
        drop(all);
        old.iter().for_each(|(worker, name, cas, ())| worker.renew(name, *cas));
    }
}
