//! Detects programs that open the files of a directory in the order of its listing, one after the other.
//!
//! With each open in order one more file is prefetched, up to a limit; after the first open out of order, none. So
//! never more is prefetched in vain than was opened in order.

use std::sync::{Arc, Weak};

use efc_backend::Cred;
use efc_cache::Inode;

/// Files that are asked for before they are opened, at most, by each program that opens in order.
const WINDOW_MAX: usize = 64;
/// Programs that are followed: of more, those that have opened a file most lately.
const SCANS_MAX: usize = 16;

/// Somebody opens files in order.
struct Scan {
    cred: Cred,
    /// What is opened next if it goes on so.
    next: Weak<Inode>,
    /// The last that was asked for, or opened.
    frontier: Weak<Inode>,
    /// How many were asked for and not opened.
    ahead: usize,
    window: usize,
}

/// Who opens files in order: the one that has opened a file last is the last.
#[derive(Default)]
pub struct Scans(Vec<Scan>);

impl Scans {
    /// A caller has opened a file; what is to be asked for now. `None`: it was not the next of any order.
    pub fn opened(&mut self, cred: &Cred, inode: &Arc<Inode>) -> Option<Vec<Arc<Inode>>> {
        let is_next = |scan: &Scan| scan.next.as_ptr() == Arc::as_ptr(inode) && scan.cred == *cred;
        let found = self.0.iter().position(is_next);
        let former = found.map(|place| self.0.remove(place));
        let Some(next) = inode.next_listed() else { return found.map(|_| Vec::new()) };
        let (next, frontier) = (Arc::downgrade(&next), Arc::downgrade(inode));
        let mut scan = match former {
            Some(scan) if scan.ahead > 0 => Scan { next, ahead: scan.ahead - 1, ..scan },
            Some(scan) => Scan { next, frontier, ..scan },
            None => Scan { cred: cred.clone(), next, frontier, ahead: 0, window: 0 },
        };
        let wanted = found.map(|_| scan.advance());
        if self.0.len() == SCANS_MAX {
            self.0.remove(0);
        }
        self.0.push(scan);
        wanted
    }
}

impl Scan {
    /// What is to be asked for after one more open in order.
    fn advance(&mut self) -> Vec<Arc<Inode>> {
        self.window = WINDOW_MAX.min(self.window + 1);
        let mut wanted = Vec::new();
        while self.ahead < self.window
            && let Some(further) = self.frontier.upgrade().and_then(|frontier| frontier.next_listed())
        {
            self.frontier = Arc::downgrade(&further);
            self.ahead += 1;
            wanted.push(further);
        }
        wanted
    }
}
