//! What the file system needs of the kernel beside requests: notifications, information about callers from `/proc`, and
//! passthrough files. Tests replace it by a kernel of their own.

use std::pin::Pin;
use std::sync::Arc;

use efc_backend::Cred;
use efc_cache::blocks::BlockKey;
use efc_fuse::{Errno, Notifier};

use super::callers::{Credentials, signals};

/// Tells the kernel what it must no longer trust; see [`Notifier`].
pub trait Notify: Send + Sync + 'static {
    /// Attributes of a node.
    fn inval_attributes(&self, node: u64);
    /// Pages of a node, from `offset` on for `length` bytes; 0: to the end.
    fn inval_inode(&self, node: u64, offset: i64, length: i64);
    /// Attributes and all pages of a node; ends when they are gone, with `false` if they are not going to be.
    fn drop_pages(&self, node: u64) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
    /// A byte of a node, whose file is no shorter for the kernel from then on; ends with `false` if it is not going to be.
    fn store(&self, node: u64, offset: u64, byte: u8) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
}

impl Notify for Notifier {
    fn inval_attributes(&self, node: u64) {
        Notifier::inval_attributes(self, node);
    }

    fn inval_inode(&self, node: u64, offset: i64, length: i64) {
        Notifier::inval_inode(self, node, offset, length);
    }

    fn drop_pages(&self, node: u64) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(Notifier::drop_pages(self, node))
    }

    fn store(&self, node: u64, offset: u64, byte: u8) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(Notifier::store(self, node, offset, byte))
    }
}

/// Knows the callers of requests by their threads.
pub trait Callers: Send + Sync + 'static {
    /// The credential of a request. EIO if it cannot be found out.
    fn cred(&self, tid: u32, uid: u32, gid: u32) -> Result<Cred, Errno>;
    /// SIGKILL is pending, or there is no such thread any more.
    fn is_killed(&self, tid: u32) -> bool;
    /// Did SIGKILL end the process of this thread?
    fn was_killed(&self, tid: u32) -> bool;
    /// Has the thread given up its memory already, as it does at exit before it closes its files?
    fn is_exiting(&self, tid: u32) -> bool;
}

impl Callers for Credentials {
    fn cred(&self, tid: u32, uid: u32, gid: u32) -> Result<Cred, Errno> {
        self.of(tid, uid, gid)
    }

    fn is_killed(&self, tid: u32) -> bool {
        signals::is_killed(tid)
    }

    fn was_killed(&self, tid: u32) -> bool {
        signals::was_killed(tid)
    }

    fn is_exiting(&self, tid: u32) -> bool {
        signals::is_exiting(tid)
    }
}

/// Has the kernel read files of the node in place of ours.
pub trait Backings: Send + Sync + 'static {
    /// A file of the node that holds all of the one that `of` is a block of, under a number of the kernel's; `None`: there is none now.
    /// It may take its time, which its caller limits.
    fn open(self: Arc<Self>, of: BlockKey) -> Pin<Box<dyn Future<Output = Option<Backing>> + Send>>;
    /// No file is open by this number any more.
    fn close(&self, id: u32);
    /// Of the numbers that predecessors were given, files are open by these. Said before the first is asked for.
    fn keep(&self, ids: Vec<u32>);
}

/// A number of the kernel's for a file of the node, not 0. Dropped, it is given back.
pub struct Backing {
    id: u32,
    owner: Option<Arc<dyn Backings>>,
}

impl Backing {
    /// A number that `owner` takes back.
    pub fn new(id: u32, owner: Arc<dyn Backings>) -> Backing {
        Backing { id, owner: Some(owner) }
    }

    /// The number, for the caller to give back.
    pub fn into_id(mut self) -> u32 {
        self.owner = None;
        self.id
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.close(self.id);
        }
    }
}
