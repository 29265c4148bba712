//! What a daemon knows of the files of its dataset, and until when that may be relied on. Nothing here knows FUSE, a
//! protocol of the server, or where a process keeps what a later one must know.
//!
//! An [`Inode`] is one object of the server, named by its handle. All that is known of it belongs to it: attributes and
//! what the kernel was told of them, opens and removals, writes and mutations in flight, data that is not committed,
//! verdicts on callers. [`Inodes`] is the table of them. [`Names`] says what names lead to.
//!
//! A change of an object begins with [`Inode::mutate`] and ends with its answer; a change that ends without an answer
//! expires what is known. When something was asked is never said by a caller: it is part of the backend's answer
//! ([`Seen`](efc_backend::Seen)).
//!
//! What may be given without asking the server is decided by a [`Freshness`], the consistency mode, and by nothing
//! else.

pub mod blocks;
mod bounded;
mod covered;
mod freshness;
mod histogram;
mod inode;
mod memory;
mod names;
mod sealed;
#[cfg(test)]
mod testing;
mod times;
mod version;

pub use bounded::Bounded;
pub use covered::Covered;
pub use freshness::{Admission, CloseToOpen, Freshness, Grant, NameProof, Permit};
pub use histogram::{BOUNDS_US, Histogram, Took};
pub use inode::Inode;
pub use inode::abandoned::Abandoned;
pub use inode::attributes::Observed;
pub use inode::in_flight::Writing;
pub use inode::kernel_view::Sizes;
pub use inode::mutation::Mutation;
pub use inode::searches::Verdict;
pub use inode::standing::{NameQuestion, Standing};
pub use inode::table::{INODE_BYTES, Inodes};
pub use inode::uses::Removal;
pub use inode::verdicts::Rights;
pub use inode::whole_files::BeforeRead;
pub use inode::writes::{Chunk, FileWrites, Pending, Piece, Room, Stage, Writes};
pub use memory::{Memory, MemoryUse};
pub use names::{Gathering, KnownName, ListedName, Listing, Named, Names, Reading};
pub use sealed::Sealed;
pub use times::{LiveTimes, Times};
pub use version::Version;
