//! What a file system has to do: the interface that the daemon implements.

use crate::reply::Reply;
use crate::request::Request;

/// A file system: gets requests, owns their replies, and must not block the thread it is called on.
pub trait Filesystem: Send + Sync + 'static {
    /// Serves one request; `reply` may be kept and answered later from any thread.
    fn handle(&self, request: Request, reply: Reply);
    /// The kernel drops `lookups` references to `node`. No reply.
    fn forget(&self, node: u64, lookups: u64);
    /// The caller of request `unique` got a signal. Advisory: the request may be unknown by now.
    fn interrupt(&self, unique: u64);
}
