//! What a daemon knows of the files of its dataset, and how long it may rely on that. Nothing here knows FUSE, the
//! server's protocol, or where a process keeps what its successor must know.
//!
//! An [`Inode`] is one object of the server, named by its handle. Everything known of the object belongs to it:
//! attributes and what the kernel was told of them, opens and removals, writes and mutations in flight, uncommitted
//! data, verdicts on callers. [`Inodes`] is the table of them. [`Names`] says which objects names lead to.
//!
//! A change of an object begins with [`Inode::mutate`] and ends with its answer; a change that ends without an answer
//! expires what is known of the object. The time of a call is never supplied by a caller: it is part of the backend's
//! answer ([`Seen`](efc_backend::Seen)).
//!
//! A [`Freshness`], the consistency mode, decides what may be given without asking the server, and nothing else does.

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
