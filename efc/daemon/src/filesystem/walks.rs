//! What a thread's path walk carries from one of its requests to the next.
//!
//! `open("a/b")` is several requests of one thread: a LOOKUP of each name that the kernel no longer trusts, then OPEN.
//! Two things must be known across them.
//!
//! A LOOKUP that fails for another reason than that the name is gone must not be answered with an error: the kernel
//! would drop the name, and with it whatever is mounted on it, in every container ([`super::namespace`]). It is
//! answered with what the kernel knows already, and this thread gets the error at its next request if that is about the
//! same object ([`Note::Refused`]).
//!
//! If a file was removed since the kernel looked it up, the answer is ESTALE, upon which the kernel walks the path once
//! more and looks each name up again. If the file that it finds then is removed in turn before the OPEN arrives, the
//! application would see ESTALE, which no local file system returns. So a file that is looked up in such a second walk
//! counts as open ([`Note::Held`]) until that OPEN. If another node has removed it nevertheless, it is as if it had
//! never existed: ENOENT. The same holds for a symbolic link that is gone when it is read in such a walk, because it
//! cannot be held.

use efc_tasks::sync::Mutex;
use efc_tasks::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use efc_fuse::{Errno, Operation};
use foldhash::HashMap;

/// Threads with a note, at most; what more would be noted is not.
const NOTES_MAX: usize = 4096;
/// A thread whose next request does not come by then walks no more.
pub const WALK_TIME_MAX: Duration = Duration::from_secs(2);

/// What is to be known at a thread's next request.
pub enum Note {
    /// A LOOKUP of this node was answered, though it had failed so.
    Refused {
        /// The node that was answered.
        node: u64,
        /// What its LOOKUP had failed with.
        errno: Errno,
    },
    /// Its last request was answered ESTALE: the kernel walks the path again.
    Again,
    /// In such a second walk, this file was looked up.
    Held {
        /// Drop it, and the file counts as one open less.
        _file: Box<dyn Send>,
    },
}

impl Note {
    /// Is the thread in its second walk?
    pub fn is_second_walk(&self) -> bool {
        matches!(self, Note::Again | Note::Held { .. })
    }

    /// The error that a request about `node` gets after all.
    pub fn refusal(&self, node: u64, step: Step) -> Option<Errno> {
        match self {
            Note::Refused { node: refused, errno } if *refused == node && step != Step::None => Some(*errno),
            _ => None,
        }
    }
}

/// Notes of threads, by their ids.
#[derive(Default)]
pub struct Walks {
    notes: Mutex<HashMap<u32, (u64, Note)>>,
    /// How many there are: most requests find that there are none.
    count: AtomicUsize,
    numbers: AtomicU64,
}

impl Walks {
    /// Notes something for the next request of `tid`, in place of what was noted. `Some`: the note's number, for [`Walks::expire`].
    pub fn note(&self, tid: u32, note: Note) -> Option<u64> {
        if tid == 0 {
            return None; // the kernel's own threads, and those that have no id here, are many
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut notes = self.notes.lock().expect("walks lock");
        if notes.len() >= NOTES_MAX && !notes.contains_key(&tid) {
            return None;
        }
        let earlier = notes.insert(tid, (number, note));
        self.count.store(notes.len(), Ordering::Release);
        drop(notes);
        drop(earlier); // it may hold a file, and closing that takes other locks
        Some(number)
    }

    /// What was noted for this request of `tid`. The note is gone then.
    pub fn take(&self, tid: u32) -> Option<Note> {
        if tid == 0 || self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.remove(tid, |_| true)
    }

    /// Drops the note of this number, if it is there still.
    pub fn expire(&self, tid: u32, number: u64) {
        drop(self.remove(tid, |found| found == number));
    }

    fn remove(&self, tid: u32, is_meant: impl Fn(u64) -> bool) -> Option<Note> {
        let mut notes = self.notes.lock().expect("walks lock");
        if !notes.get(&tid).is_some_and(|(number, _)| is_meant(*number)) {
            return None;
        }
        let note = notes.remove(&tid).map(|(_, note)| note);
        self.count.store(notes.len(), Ordering::Release);
        note
    }
}

/// What a request is in a path walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// No part of one: it is about a file that is open.
    None,
    /// Looks at attributes or a link's target, perhaps to see whether and where the walk goes on.
    Look,
    /// OPEN, where a walk ends.
    Open,
    /// Anything else that a walk consists of, or ends with.
    Other,
}

impl Step {
    /// Which step an operation is.
    pub fn of(operation: &Operation) -> Step {
        match operation {
            Operation::Getattr { fh: None } | Operation::Statx { fh: None, .. } | Operation::Readlink => Step::Look,
            Operation::Open { .. } => Step::Open,
            Operation::Setattr(change) if change.fh.is_none() => Step::Other,
            Operation::Lookup { .. }
            | Operation::Symlink { .. }
            | Operation::Mknod { .. }
            | Operation::Mkdir { .. }
            | Operation::Unlink { .. }
            | Operation::Rmdir { .. }
            | Operation::Rename { .. }
            | Operation::Link { .. }
            | Operation::Create { .. }
            | Operation::Opendir { .. } => Step::Other,
            _ => Step::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(node: u64) -> Note {
        Note::Refused { node, errno: Errno(libc::EACCES) }
    }

    #[test]
    fn an_error_reaches_the_next_request_of_that_thread_about_that_node() {
        let walks = Walks::default();
        walks.note(7, refused(5));
        assert!(walks.take(8).is_none(), "another thread");
        let note = walks.take(7).expect("noted");
        assert_eq!(note.refusal(5, Step::Open), Some(Errno(libc::EACCES)));
        assert_eq!(note.refusal(6, Step::Open), None);
        assert_eq!(
            note.refusal(5, Step::of(&Operation::Getattr { fh: Some(1) })),
            None,
            "an open file was reached before"
        );
        assert!(walks.take(7).is_none(), "once");
    }

    #[test]
    fn a_note_expires_unless_another_took_its_place() {
        let walks = Walks::default();
        let first = walks.note(7, refused(5)).expect("noted");
        let second = walks.note(7, Note::Again).expect("noted");
        walks.expire(7, first);
        assert!(walks.take(7).is_some_and(|note| note.is_second_walk()));
        walks.note(7, refused(5));
        walks.expire(7, second);
        assert!(walks.take(7).is_some());
    }

    #[test]
    fn notes_are_bounded_and_none_is_for_thread_0() {
        let walks = Walks::default();
        assert!(walks.note(0, Note::Again).is_none());
        let noted = (1..=2 * NOTES_MAX as u32).filter(|tid| walks.note(*tid, Note::Again).is_some()).count();
        assert_eq!(noted, NOTES_MAX);
        assert!(walks.note(1, refused(5)).is_some(), "one that has a note gets the new one");
    }
}
