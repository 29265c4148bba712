//! Which files are in use: how often each is open or being opened, and whether one of its names is being removed.
//!
//! A file's last name is removed only if the file is not open; otherwise it gets another name ([`super::orphans`]). Looking and
//! removing must be one decision, or an open that comes in between gets a file that is gone. So an open counts before the server
//! is asked for it ([`InUse::open`]), and a removal begins by taking the file ([`InUse::remove`]): of a file that nobody uses
//! then, opens wait until the removal has ended, and find out from the server what is left. Of a file that is in use they go on.
//! Removals of one file's names wait for each other, so that two of them do not each count on the name that the other takes.
//!
//! Files are known by their handles: no node is needed, and a node that is forgotten and made anew is the same file.

use efc_tasks::sync::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use efc_backend::FileHandle;
use tokio::sync::Notify;

#[derive(Default)]
struct Use {
    /// Opens, and requests that are about to become one.
    opens: u32,
    /// Of these, opens that were granted.
    granted: u32,
    /// Of these, root's.
    opens_of_root: u32,
    /// Of these, opens that are being closed: what was written through them is being committed.
    closing: u32,
    removal: Option<Exclusion>,
}

/// Whom a removal keeps out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exclusion {
    /// Other removals: the file is open.
    Removals,
    /// Opens as well.
    All,
}

#[derive(Default)]
struct Table {
    files: HashMap<FileHandle, Use>,
    /// Files with at least one open.
    open_files: usize,
    /// Removals that have begun or ended so far.
    removal_events: u64,
}

/// The files that are open, being opened, or losing a name.
#[derive(Default)]
pub struct InUse {
    table: Mutex<Table>,
    /// A removal has ended, or a file is not open any more.
    changed: Notify,
}

/// A removal of one name of `file` is under way, until this is dropped.
pub struct Removal {
    in_use: Arc<InUse>,
    file: FileHandle,
    is_open: bool,
}

impl InUse {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("files in use lock")
    }

    /// What `attempt` answers as soon as it answers something.
    async fn when<T>(&self, mut attempt: impl FnMut(&mut Table) -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(result) = attempt(&mut self.table()) {
                return result;
            }
            changed.await;
        }
    }

    /// Is any file open, or being opened?
    pub fn is_any_open(&self) -> bool {
        self.table().open_files > 0
    }

    /// Is this file open, or being opened?
    pub fn is_open(&self, file: &FileHandle) -> bool {
        self.table().files.get(file).is_some_and(|found| found.opens > 0)
    }

    /// Is this file open, and not about to be closed for the last time?
    pub fn stays_open(&self, file: &FileHandle) -> bool {
        self.table().files.get(file).is_some_and(|found| found.opens > found.closing)
    }

    /// A granted open is being closed, until [`InUse::end_close`].
    pub fn begin_close(&self, file: &FileHandle) {
        if let Some(found) = self.table().files.get_mut(file) {
            found.closing += 1;
        }
        self.changed.notify_waiters();
    }

    /// It is closed, and [uncounted](InUse::uncount) now.
    pub fn end_close(&self, file: &FileHandle) {
        if let Some(found) = self.table().files.get_mut(file) {
            found.closing = found.closing.saturating_sub(1);
        }
    }

    /// Has root this file open?
    pub fn is_open_by_root(&self, file: &FileHandle) -> bool {
        self.table().files.get(file).is_some_and(|found| found.opens_of_root > 0)
    }

    /// Tells whether any name was removed between two looks at it.
    pub fn removal_events(&self) -> u64 {
        self.table().removal_events
    }

    /// How many opens of this file were granted.
    pub fn granted(&self, file: &FileHandle) -> u32 {
        self.table().files.get(file).map_or(0, |found| found.granted)
    }

    /// Counts an open that is granted.
    pub fn count(&self, file: &FileHandle, is_root: bool) {
        let mut table = self.table();
        table.count(file, is_root);
        table.files.entry(*file).or_default().granted += 1;
    }

    /// Counts an open before it is asked for; waits while the file is being removed.
    pub async fn open(&self, file: &FileHandle, is_root: bool) {
        self.when(|table| {
            if table.files.get(file).is_some_and(|found| found.removal == Some(Exclusion::All)) {
                return None;
            }
            table.count(file, is_root);
            Some(())
        })
        .await;
    }

    /// One granted open less; `true` if nothing is left of what [`InUse::open`] and [`InUse::count`] have counted.
    pub fn uncount(&self, file: &FileHandle, is_root: bool) -> bool {
        if let Some(found) = self.table().files.get_mut(file) {
            found.granted = found.granted.saturating_sub(1);
        }
        self.give_up(file, is_root)
    }

    /// The open that [`InUse::open`] has counted has been granted, and counts as such, or refused. Answers as [`InUse::uncount`].
    pub fn give_up(&self, file: &FileHandle, is_root: bool) -> bool {
        let was_last = self.table().uncount(file, is_root);
        if was_last {
            self.changed.notify_waiters();
        }
        was_last
    }

    /// Begins the removal of one name of `file`, after those that have begun before.
    pub async fn remove(self: &Arc<InUse>, file: &FileHandle) -> Removal {
        let is_open = self.when(|table| table.begin_removal(file)).await;
        Removal { in_use: Arc::clone(self), file: *file, is_open }
    }

    /// Ends when something has changed, or at once if `is_over`.
    pub async fn changed_unless(&self, is_over: impl Fn() -> bool) {
        let mut changed = pin!(self.changed.notified());
        changed.as_mut().enable();
        if !is_over() {
            changed.await;
        }
    }

    /// Wakes those who wait for a change: something that they look at beside this has changed.
    pub fn announce(&self) {
        self.changed.notify_waiters();
    }
}

impl Table {
    fn count(&mut self, file: &FileHandle, is_root: bool) {
        let found = self.files.entry(*file).or_default();
        self.open_files += usize::from(found.opens == 0);
        found.opens += 1;
        found.opens_of_root += u32::from(is_root);
    }

    fn uncount(&mut self, file: &FileHandle, is_root: bool) -> bool {
        let Some(found) = self.files.get_mut(file) else { return false };
        debug_assert!(found.opens > 0, "an open is given back once");
        found.opens = found.opens.saturating_sub(1);
        found.opens_of_root = found.opens_of_root.saturating_sub(is_root.into());
        let was_last = found.opens == 0;
        self.open_files -= usize::from(was_last);
        if was_last && found.removal.is_none() {
            self.files.remove(file);
        }
        was_last
    }

    /// Whether the file is open; `None` while another removal is under way.
    fn begin_removal(&mut self, file: &FileHandle) -> Option<bool> {
        let found = self.files.entry(*file).or_default();
        if found.removal.is_some() {
            return None;
        }
        let is_open = found.opens > 0;
        found.removal = Some(if is_open { Exclusion::Removals } else { Exclusion::All });
        self.removal_events += 1;
        Some(is_open)
    }

    fn end_removal(&mut self, file: &FileHandle) {
        self.removal_events += 1;
        let Some(found) = self.files.get_mut(file) else { return };
        found.removal = None;
        if found.opens == 0 {
            self.files.remove(file);
        }
    }
}

impl Removal {
    /// Was the file open when the removal began? If not, nobody opens it before the removal ends.
    pub fn is_open(&self) -> bool {
        self.is_open
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.in_use.table().end_removal(&self.file);
        self.in_use.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};

    fn file(name: &[u8]) -> FileHandle {
        FileHandle::new(name).expect("short")
    }

    #[test]
    fn an_open_waits_for_a_removal_and_counts_after_it() {
        let (in_use, a, b) = (Arc::new(InUse::default()), file(b"a"), file(b"b"));
        let removal = block_on(in_use.remove(&a));
        assert!(!removal.is_open());
        let mut open = Box::pin(in_use.open(&a, false));
        assert!(block_on(poll_once(&mut open)).is_none(), "the file is going");
        assert!(block_on(poll_once(in_use.open(&b, false))).is_some(), "another file");
        assert!(!in_use.is_open(&a));
        drop(removal);
        assert!(block_on(poll_once(&mut open)).is_some());
        assert!(in_use.is_open(&a));
    }

    #[test]
    fn a_removal_of_an_open_file_lets_opens_pass_but_no_other_removal() {
        let (in_use, a) = (Arc::new(InUse::default()), file(b"a"));
        block_on(in_use.open(&a, true));
        let first = block_on(in_use.remove(&a));
        assert!(first.is_open());
        assert!(block_on(poll_once(in_use.open(&a, false))).is_some());
        let mut second = Box::pin(in_use.remove(&a));
        assert!(block_on(poll_once(&mut second)).is_none());
        assert!(!in_use.give_up(&a, true) && in_use.give_up(&a, false), "the second open was the last");
        assert!(block_on(poll_once(&mut second)).is_none(), "the first removal is not through");
        drop(first);
        assert!(!block_on(second).is_open(), "nobody has it open any more");
    }

    #[test]
    fn a_file_whose_opens_are_all_being_closed_does_not_stay_open() {
        let (in_use, a) = (InUse::default(), file(b"a"));
        in_use.count(&a, false);
        in_use.count(&a, false);
        in_use.begin_close(&a);
        assert!(in_use.stays_open(&a), "one of two");
        in_use.begin_close(&a);
        assert!(!in_use.stays_open(&a) && in_use.is_open(&a));
        in_use.end_close(&a);
        assert!(!in_use.uncount(&a, false) && !in_use.stays_open(&a));
        in_use.count(&a, false);
        assert!(in_use.stays_open(&a), "opened anew");
    }

    #[test]
    fn nothing_stays_behind() {
        let (in_use, a) = (Arc::new(InUse::default()), file(b"a"));
        block_on(in_use.open(&a, true));
        assert!(in_use.is_any_open() && in_use.is_open_by_root(&a));
        let removal = block_on(in_use.remove(&a));
        in_use.count(&a, false);
        assert_eq!(in_use.granted(&a), 1);
        assert!(!in_use.give_up(&a, true) && in_use.uncount(&a, false));
        assert!(!in_use.is_any_open() && !in_use.is_open_by_root(&a));
        drop(removal);
        assert!(in_use.table().files.is_empty());
        assert_eq!(in_use.removal_events(), 2);
    }
}
