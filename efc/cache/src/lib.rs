//! What a daemon knows of the files of its dataset, and until when that may be relied on. Nothing here knows FUSE, a
//! protocol of the server, or where a process keeps what a later one must know.
//!
//! An [`Inode`] is one object of the server, named by its handle. All that is known of it belongs to it: attributes and
//! what the kernel was told of them, opens and removals, writes and mutations in flight, data that is not committed,
//! verdicts on searches. [`Inodes`] is the table of them. [`Names`] says what names lead to.
//!
//! A change of an object begins with [`Inode::mutate`] and ends with its answer; a change that ends without an answer
//! expires what is known. When something was asked is never said by a caller: it is part of the backend's answer
//! ([`Seen`](efc_backend::Seen)).
//!
//! What may be given without asking the server is decided by a [`Freshness`], the consistency mode, and by nothing
//! else.

mod abandoned;
mod attributes;
mod freshness;
mod in_flight;
mod inode;
mod inodes;
mod kernel_view;
mod lineage;
mod mutation;
mod names;
mod searches;
#[cfg(test)]
mod testing;
mod uses;
mod version;
mod whole_files;
mod writes;

pub use abandoned::Abandoned;
pub use attributes::Observed;
pub use freshness::{Admission, CloseToOpen, Freshness, Grant, Permit};
pub use in_flight::Writing;
pub use inode::Inode;
pub use inodes::{INODE_BYTES, Inodes};
pub use kernel_view::Sizes;
pub use mutation::Mutation;
pub use names::{Named, Names};
pub use searches::Verdict;
pub use uses::Removal;
pub use version::Version;
pub use whole_files::Ticket;
pub use writes::{Chunk, FileWrites, Pending, Room, Writes};
