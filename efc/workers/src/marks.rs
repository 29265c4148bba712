//! The markers that this node has set at one worker, for blocks that it is fetching.

use std::collections::HashMap;
use std::time::Instant;

use efc_tasks::time::{now, since};

use crate::keys::Name;
use crate::policy::markers::RENEWAL;
use crate::protocol::Cas;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    next: u64,
    marks: HashMap<u64, Mark>,
    /// There is a task that renews them.
    is_renewing: bool,
}

#[derive(Debug)]
struct Mark {
    name: Name,
    cas: Cas,
    renewed: Instant,
}

impl Marks {
    /// Adds one that has just been left; its number, and whether a task is to be started that renews them.
    pub(crate) fn add(&mut self, name: &Name, cas: Cas) -> (u64, bool) {
        let number = self.next;
        self.next += 1;
        self.marks.insert(number, Mark { name: *name, cas, renewed: now() });
        (number, !std::mem::replace(&mut self.is_renewing, true))
    }

    /// Takes the one of this number out, if it is still there.
    pub(crate) fn remove(&mut self, number: u64) -> Option<(Name, Cas)> {
        self.marks.remove(&number).map(|mark| (mark.name, mark.cas))
    }

    /// Those that are to be renewed now; `None`: there is none any more, and the task is to end.
    pub(crate) fn due(&mut self) -> Option<Vec<(Name, Cas)>> {
        if self.marks.is_empty() {
            self.is_renewing = false;
            return None;
        }
        let old = self.marks.values_mut().filter(|mark| since(mark.renewed) >= RENEWAL / 2);
        Some(old.map(|mark| (mark.name, mark.cas, mark.renewed = now())).map(|(name, cas, ())| (name, cas)).collect())
    }
}
