//! Opening ahead: what a program will open next is asked for before it does.
//!
//! A program that opens the files of a directory in the order of their listing, one after the other, waits for the server at each: in a mode
//! in which an open may rely on what is known, the first open of each file by each caller still asks whether that caller may.
//! When a file is opened that lies behind the last one, the one behind it is asked for as if it were opened: that brings the verdict on the
//! caller, and the data of a small file. With each further open in order one more file is asked for ahead, up to a limit, and with
//! the first that is not in order nothing more is. So what was asked for in vain is never more than what was opened in order.

use std::sync::{Arc, Weak};

use efc_backend::{Backend, Cred};
use efc_cache::{Grant, Inode};
use efc_tasks::sync::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::Inner;
use super::files::OpenFile;

/// Files that are asked for before they are opened, at most, by each program that opens in order.
const WINDOW_MAX: usize = 16;
/// Programs that are followed: of more, those that have opened a file most lately.
const SCANS_MAX: usize = 16;
/// Files that are asked for at once, by all of them.
const UNDER_WAY_MAX: usize = 64;

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

/// A file is asked for.
struct Question {
    cred: Cred,
    inode: Arc<Inode>,
    /// Who waits for the end.
    waiting: Vec<oneshot::Sender<()>>,
}

/// A file is asked for until this is dropped: answered, or given up.
pub(super) struct Asking<'a> {
    ahead: &'a Ahead,
    file: &'a OpenFile,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.ahead.end(self.file);
    }
}

/// Who opens files in order.
#[derive(Default)]
pub(super) struct Ahead {
    /// The one that has opened a file last is the last.
    scans: Mutex<Vec<Scan>>,
    under_way: Mutex<Vec<Question>>,
}

impl Ahead {
    /// A caller has opened a file; what is to be asked for now.
    fn opened(&self, cred: &Cred, inode: &Arc<Inode>) -> Vec<Arc<Inode>> {
        let mut scans = self.scans.lock().expect("scans lock");
        let is_next = |scan: &Scan| scan.next.as_ptr() == Arc::as_ptr(inode) && scan.cred == *cred;
        let found = scans.iter().position(is_next);
        let former = found.map(|place| scans.remove(place));
        let Some(next) = inode.next_listed() else { return Vec::new() };
        let (next, frontier) = (Arc::downgrade(&next), Arc::downgrade(inode));
        let mut scan = match former {
            Some(scan) if scan.ahead > 0 => Scan { next, ahead: scan.ahead - 1, ..scan },
            Some(scan) => Scan { next, frontier, ..scan },
            None => Scan { cred: cred.clone(), next, frontier, ahead: 0, window: 0 },
        };
        let wanted = scan.advance(found.is_some());
        if scans.len() == SCANS_MAX {
            scans.remove(0);
        }
        scans.push(scan);
        wanted
    }

    fn questions(&self) -> MutexGuard<'_, Vec<Question>> {
        self.under_way.lock().expect("questions lock")
    }

    /// Begins to ask for a file; `false`: that is under way, or too much else is.
    fn begin(&self, file: &OpenFile) -> bool {
        let mut questions = self.questions();
        if questions.len() >= UNDER_WAY_MAX || questions.iter().any(|question| question.is_for(file)) {
            return false;
        }
        questions.push(Question { cred: file.cred.clone(), inode: file.inode.clone(), waiting: Vec::new() });
        true
    }

    /// Begins to ask for a file for whoever needs it now, until that is dropped; `None`: as [`Ahead::begin`].
    pub(super) fn asking<'a>(&'a self, file: &'a OpenFile) -> Option<Asking<'a>> {
        self.begin(file).then_some(Asking { ahead: self, file })
    }

    fn end(&self, file: &OpenFile) {
        self.questions().retain(|question| !question.is_for(file));
    }

    /// Waits for the answer, if this file is asked for now for this caller.
    async fn answered(&self, file: &OpenFile) -> Option<()> {
        let end = {
            let mut questions = self.questions();
            let question = questions.iter_mut().find(|question| question.is_for(file))?;
            let (waiting, end) = oneshot::channel();
            question.waiting.push(waiting);
            end
        };
        let _ = end.await; // dropped at the end
        Some(())
    }
}

impl Question {
    fn is_for(&self, file: &OpenFile) -> bool {
        Arc::ptr_eq(&self.inode, &file.inode) && self.cred == file.cred
    }
}

impl Scan {
    /// What is to be asked for now.
    fn advance(&mut self, is_in_order: bool) -> Vec<Arc<Inode>> {
        if is_in_order {
            self.window = WINDOW_MAX.min(self.window + 1);
        }
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

impl<B: Backend> Inner<B> {
    /// A file was opened for reading: asks for those that its caller will open next, if it goes on as before.
    pub(super) fn open_ahead(self: &Arc<Self>, file: &OpenFile) {
        if !self.freshness.opens_unasked() || file.is_writable() {
            return;
        }
        for inode in self.ahead.opened(&file.cred, &file.inode) {
            let file = OpenFile::new(inode.node().unwrap_or(0), inode, file.cred.clone(), file.flags);
            if self.open_unasked(&file).is_none() && self.ahead.begin(&file) {
                let (inner, file) = (Arc::clone(self), Arc::new(file));
                efc_tasks::spawn(async move {
                    // Whatever it is, who opens the file hears it again.
                    let _ = inner.ask_to_open(&file).await;
                    inner.ahead.end(&file);
                });
            }
        }
    }

    /// What an open may rely on: what is known, or is about to be.
    pub(super) async fn open_with_what_is_known(&self, file: &OpenFile) -> Option<Grant> {
        let known = self.open_unasked(file);
        // Who has a time limit asks at once, and waits for that alone.
        if known.is_some() || self.backend.time_limit().is_some() {
            return known;
        }
        self.ahead.answered(file).await?;
        self.open_unasked(file)
    }
}
