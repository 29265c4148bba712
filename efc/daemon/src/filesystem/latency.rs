//! How long requests and reads took, by what they were and by what answered them: for figures alone.
//!
//! A request counts when it has succeeded, from when it was taken to its answer; one that waits for what is not there yet says nothing of how
//! the file system does, and one whose caller is gone neither. What the kernel answers by itself, from its pages or a file of
//! the node, is not seen here.

use std::time::Duration;

use efc_cache::{Histogram, Took};
use efc_fuse::Operation;

/// What requests are, for their figures: few kinds, as each is a series of a dozen buckets for each dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Of names.
    Lookup,
    /// Of attributes.
    Attributes,
    /// Opening, making what is opened, and closing.
    Open,
    /// Listing directories.
    List,
    /// Reading data.
    Read,
    /// Writing data.
    Write,
    /// Having it on stable storage.
    Sync,
    /// Changes of names and attributes.
    Change,
    /// All else.
    Other,
}

impl Class {
    /// All of them, with their names.
    pub const ALL: [(Class, &'static str); 9] = [
        (Class::Lookup, "lookup"),
        (Class::Attributes, "attributes"),
        (Class::Open, "open"),
        (Class::List, "list"),
        (Class::Read, "read"),
        (Class::Write, "write"),
        (Class::Sync, "sync"),
        (Class::Change, "change"),
        (Class::Other, "other"),
    ];

    /// What this request is.
    pub fn of(operation: &Operation) -> Class {
        match operation {
            Operation::Lookup { .. } => Class::Lookup,
            Operation::Getattr { .. } | Operation::Statx { .. } => Class::Attributes,
            Operation::Open { .. } | Operation::Opendir { .. } | Operation::Create { .. } => Class::Open,
            Operation::Readdir { .. } | Operation::Readdirplus { .. } => Class::List,
            Operation::Read { .. } => Class::Read,
            Operation::Write { .. } => Class::Write,
            Operation::Flush { .. } | Operation::Fsync { .. } | Operation::Fsyncdir { .. } => Class::Sync,
            Operation::Setattr(_)
            | Operation::Symlink { .. }
            | Operation::Mknod { .. }
            | Operation::Mkdir { .. }
            | Operation::Unlink { .. }
            | Operation::Rmdir { .. }
            | Operation::Rename { .. }
            | Operation::Link { .. } => Class::Change,
            Operation::Readlink
            | Operation::Statfs
            | Operation::Release { .. }
            | Operation::Releasedir { .. }
            | Operation::Access { .. }
            | Operation::Ioctl { .. }
            | Operation::Other { .. } => Class::Other,
        }
    }
}

/// Times that are counted outside of the chain of caches.
#[derive(Default)]
pub(super) struct Latencies {
    operations: [Histogram; Class::ALL.len()],
    /// Reads of a small file that was read when it was opened.
    pub(super) memory: Histogram,
    /// Reads that asked the server for just what was read.
    pub(super) backend: Histogram,
}

impl Latencies {
    pub(super) fn count(&self, class: Class, took: Duration) {
        self.operations[class as usize].count(took);
    }

    /// By class.
    pub(super) fn by_class(&self) -> impl Iterator<Item = (&'static str, Took)> {
        Class::ALL.iter().map(|(class, name)| (*name, self.operations[*class as usize].took()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_a_place_of_its_own() {
        assert!(Class::ALL.iter().enumerate().all(|(place, (class, _))| *class as usize == place));
        let latencies = Latencies::default();
        latencies.count(Class::of(&Operation::Statfs), Duration::ZERO);
        let counted: Vec<_> =
            latencies.by_class().filter(|(_, took)| took.buckets[0] == 1).map(|(name, _)| name).collect();
        assert_eq!(counted, ["other"]);
    }
}
