//! The FUSE transport: a thin layer over `/dev/fuse`, on a saved state that lets another daemon take a session over.
//!
//! A mount outlives the daemons that serve it. The keeper holds the file descriptor of `/dev/fuse` and a memfd; a
//! daemon gets both, and when it dies the next one gets them again. Everything in this crate follows from that:
//!
//! - **Session** ([`Session`]): one descriptor, several blocking threads. Clones of the descriptor and io_uring would
//!   lose the requests that they had in flight when a daemon dies. INIT happens once in a session's life; later daemons
//!   ask for redelivery.
//! - **Requests and replies** ([`Request`], [`Reply`]): a reply is an owned, one-shot value that any thread may use. A
//!   request that is delivered twice to one daemon is executed once.
//! - **Memory**: requests are read into, and bulk answers written from, resident buffers (`efc_buffer`), because a
//!   SIGKILL in a page fault of read(2) or write(2) on this device turns into EIO in an application.
//! - **Saved state** ([`efc_state::State`]): node ids, open files and whatever else the kernel relies on, in the memfd.
//!
//! The semantics of a file system are none of this crate's business: the daemon implements [`Filesystem`]. Nothing here
//! waits for the network. The journal in the saved state is only as good as what the file system puts there: a request
//! that is marked `resent` and has an intent may have been executed by a predecessor, and only the file system can find
//! out.

mod abi;
mod config;
mod directory;
mod filesystem;
mod inbox;
mod inflight;
mod lookout;
mod negotiation;
mod notify;
mod reply;
mod request;
mod session;
mod shortage;
#[cfg(feature = "simulation")]
pub mod simulated;
mod wire;

pub use config::{Features, SessionConfig};
pub use directory::Directory;
pub use filesystem::Filesystem;
pub use negotiation::{Negotiated, maps_direct_io, passes_through};
pub use notify::Notifier;
pub use reply::{Reply, data_head, ioctl_answer};
pub use request::{Access, Attr, Entry, Errno, Name, OpenReply, Operation, Request, SetAttr, SetTime, Statfs, UNTOLD};
pub use session::Session;
