//! Which files are in use: how often each is open or being opened, and whether one of its names is being removed.
//!
//! A file's last name is removed only if the file is not open; otherwise the file is renamed. Check and removal must be
//! atomic, or an open in between gets a file that is gone. So an open counts before the server is asked for it
//! ([`Inode::open`]), and a removal begins by claiming the file ([`Inode::remove`]). If nobody uses the file then,
//! opens wait until the removal has ended, and find out from the server what is left. If it is in use, opens proceed.
//! Removals of one file's names wait for each other, so that of two removals neither relies on the name that the other
//! one removes.

use efc_tasks::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::inode::Inode;
use crate::inode::table::Inodes;

/// The uses of one file.
#[derive(Default)]
pub(crate) struct Uses {
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

/// What is counted over all files. Changed with the lock of a file's [`Uses`] held.
#[derive(Default)]
pub(crate) struct AllUses {
    /// Files with at least one open.
    open_files: AtomicUsize,
    /// Removals that have begun or ended so far.
    removal_events: AtomicU64,
    /// A removal has ended, or a file is not open any more.
    changed: Notify,
}

/// A removal of one name of a file is under way, until this is dropped.
pub struct Removal {
    file: Arc<Inode>,
    is_open: bool,
}

impl Uses {
    /// Is nothing counted?
    pub fn is_idle(&self) -> bool {
        self.opens == 0 && self.removal.is_none()
    }
}

impl Inodes {
    /// Is any file open, or being opened?
    pub fn is_any_open(&self) -> bool {
        self.shared.uses.open_files.load(Ordering::Acquire) > 0
    }

    /// Tells whether any name was removed between two looks at it.
    pub fn removal_events(&self) -> u64 {
        self.shared.uses.removal_events.load(Ordering::Acquire)
    }

    /// Ends when something has changed, or at once if `is_over`.
    pub async fn changed_unless(&self, is_over: impl Fn() -> bool) {
        let mut changed = pin!(self.shared.uses.changed.notified());
        changed.as_mut().enable();
        if !is_over() {
            changed.await;
        }
    }

    /// Wakes those who wait for a change: something that they look at beside this has changed.
    pub fn announce(&self) {
        self.shared.uses.changed.notify_waiters();
    }
}

impl Inode {
    /// Looks at the uses; `None` if there are none.
    fn look_at_uses<T>(&self, look: impl FnOnce(&Uses) -> T) -> Option<T> {
        self.while_busy(|busy| look(&busy.uses))
    }

    fn change_uses<T>(&self, change: impl FnOnce(&mut Uses) -> T) -> T {
        self.change_busy(|busy| change(&mut busy.uses))
    }

    /// What `attempt` answers as soon as it answers something.
    async fn when<T>(&self, mut attempt: impl FnMut(&mut Uses) -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.shared.uses.changed.notified());
            changed.as_mut().enable();
            if let Some(result) = self.change_uses(&mut attempt) {
                return result;
            }
            changed.await;
        }
    }

    /// Is this file open, or being opened?
    pub fn is_open(&self) -> bool {
        self.look_at_uses(|uses| uses.opens > 0).unwrap_or(false)
    }

    /// Is this file open, and not about to be closed for the last time?
    pub fn stays_open(&self) -> bool {
        self.look_at_uses(|uses| uses.opens > uses.closing).unwrap_or(false)
    }

    /// A granted open is being closed, until [`Inode::end_close`].
    pub fn begin_close(&self) {
        self.change_uses(|uses| uses.closing += 1);
        self.shared.uses.changed.notify_waiters();
    }

    /// It is closed, and [uncounted](Inode::uncount) now.
    pub fn end_close(&self) {
        self.change_uses(|uses| uses.closing = uses.closing.saturating_sub(1));
    }

    /// Has root this file open?
    pub fn is_open_by_root(&self) -> bool {
        self.look_at_uses(|uses| uses.opens_of_root > 0).unwrap_or(false)
    }

    /// How many opens of this file were granted.
    pub fn granted(&self) -> u32 {
        self.look_at_uses(|uses| uses.granted).unwrap_or(0)
    }

    /// Counts an open that is granted.
    pub fn count(&self, is_root: bool) {
        self.change_uses(|uses| {
            self.shared.uses.count(uses, is_root);
            uses.granted += 1;
        });
    }

    /// Counts an open before it is asked for; waits while the file is being removed.
    pub async fn open(&self, is_root: bool) {
        self.when(|uses| {
            let is_going = uses.removal == Some(Exclusion::All);
            (!is_going).then(|| self.shared.uses.count(uses, is_root))
        })
        .await;
    }

    /// One granted open less; `true` if nothing is left of what [`Inode::open`] and [`Inode::count`] have counted.
    pub fn uncount(&self, is_root: bool) -> bool {
        self.change_uses(|uses| uses.granted = uses.granted.saturating_sub(1));
        self.give_up(is_root)
    }

    /// The open that [`Inode::open`] has counted has been granted, and counts as such, or refused. Answers as
    /// [`Inode::uncount`].
    pub fn give_up(&self, is_root: bool) -> bool {
        let was_last = self.change_uses(|uses| self.shared.uses.uncount(uses, is_root));
        if was_last {
            self.shared.uses.changed.notify_waiters();
        }
        was_last
    }

    /// Begins the removal of one name of the file, after those that have begun before.
    pub async fn remove(self: &Arc<Self>) -> Removal {
        let is_open = self.when(|uses| self.shared.uses.begin_removal(uses)).await;
        Removal { file: Arc::clone(self), is_open }
    }
}

impl AllUses {
    fn count(&self, uses: &mut Uses, is_root: bool) {
        self.open_files.fetch_add(usize::from(uses.opens == 0), Ordering::AcqRel);
        uses.opens += 1;
        uses.opens_of_root += u32::from(is_root);
    }

    fn uncount(&self, uses: &mut Uses, is_root: bool) -> bool {
        debug_assert!(uses.opens > 0, "an open is given back once");
        if uses.opens == 0 {
            return false;
        }
        uses.opens -= 1;
        uses.opens_of_root = uses.opens_of_root.saturating_sub(is_root.into());
        let was_last = uses.opens == 0;
        self.open_files.fetch_sub(usize::from(was_last), Ordering::AcqRel);
        was_last
    }

    /// Whether the file is open; `None` while another removal is under way.
    fn begin_removal(&self, uses: &mut Uses) -> Option<bool> {
        if uses.removal.is_some() {
            return None;
        }
        let is_open = uses.opens > 0;
        uses.removal = Some(if is_open { Exclusion::Removals } else { Exclusion::All });
        self.removal_events.fetch_add(1, Ordering::AcqRel);
        Some(is_open)
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
        self.file.change_uses(|uses| {
            self.file.shared.uses.removal_events.fetch_add(1, Ordering::AcqRel);
            uses.removal = None;
        });
        self.file.shared.uses.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{handle, inode};
    use futures_lite::future::{block_on, poll_once};

    #[test]
    fn an_open_waits_for_a_removal_and_counts_after_it() {
        let inodes = crate::testing::inodes();
        let (a, b) = (inodes.of(&handle(b"a")), inodes.of(&handle(b"b")));
        let removal = block_on(a.remove());
        assert!(!removal.is_open());
        let mut open = Box::pin(a.open(false));
        assert!(block_on(poll_once(&mut open)).is_none(), "the file is going");
        assert!(block_on(poll_once(b.open(false))).is_some(), "another file");
        assert!(!a.is_open());
        drop(removal);
        assert!(block_on(poll_once(&mut open)).is_some());
        assert!(a.is_open());
    }

    #[test]
    fn a_removal_of_an_open_file_lets_opens_pass_but_no_other_removal() {
        let a = inode();
        block_on(a.open(true));
        let first = block_on(a.remove());
        assert!(first.is_open());
        assert!(block_on(poll_once(a.open(false))).is_some());
        let mut second = Box::pin(a.remove());
        assert!(block_on(poll_once(&mut second)).is_none());
        assert!(!a.give_up(true) && a.give_up(false), "the second open was the last");
        assert!(block_on(poll_once(&mut second)).is_none(), "the first removal is not through");
        drop(first);
        assert!(!block_on(second).is_open(), "nobody has it open any more");
    }

    #[test]
    fn a_file_whose_opens_are_all_being_closed_does_not_stay_open() {
        let a = inode();
        a.count(false);
        a.count(false);
        a.begin_close();
        assert!(a.stays_open(), "one of two");
        a.begin_close();
        assert!(!a.stays_open() && a.is_open());
        a.end_close();
        assert!(!a.uncount(false) && !a.stays_open());
        a.count(false);
        assert!(a.stays_open(), "opened anew");
    }

    #[test]
    fn nothing_stays_behind() {
        let inodes = crate::testing::inodes();
        let a = inodes.of(&handle(b"a"));
        block_on(a.open(true));
        assert!(inodes.is_any_open() && a.is_open_by_root());
        let removal = block_on(a.remove());
        a.count(false);
        assert_eq!(a.granted(), 1);
        assert!(!a.give_up(true) && a.uncount(false));
        assert!(!inodes.is_any_open() && !a.is_open_by_root());
        drop(removal);
        assert!(a.is_idle());
        assert_eq!(inodes.removal_events(), 2);
    }
}
