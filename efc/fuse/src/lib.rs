//! The FUSE transport: our own thin layer over `/dev/fuse`, and the saved state that lets another daemon take a session over.
//!
//! SKELETON: signatures are fixed, bodies to come.

mod request;
mod session;
pub mod state;

pub use request::{Access, Attr, Directory, Entry, Errno, OpenReply, Operation, Reply, Request, SetAttr, SetTime, Statfs};
pub use session::{Features, Notifier, Session, SessionConfig};

/// A file system: gets requests, owns their replies, and must not block the thread it is called on.
pub trait Filesystem: Send + Sync + 'static {
    /// Serves one request; `reply` may be kept and answered later from any thread.
    fn handle(&self, request: Request, reply: Reply);
    /// The kernel drops `lookups` references to `node`. No reply.
    fn forget(&self, node: u64, lookups: u64);
    /// The caller of request `unique` got a signal. Advisory: the request may be unknown by now.
    fn interrupt(&self, unique: u64);
}
