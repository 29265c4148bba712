//! Notifications to the kernel: what it must no longer trust.
//!
//! Writing one can block on locks that an unanswered READ of the same file holds, so it is done by a thread of its
//! own, which never serves requests. The queue in front of it is bounded; a caller whose notification does not fit is
//! told so, and must not count on it (attributes and names then live until their TTL ends). Notifications go out in
//! order, but nothing tells when. A node or name that the kernel does not know is no error.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::io::Errno;
use tokio::sync::oneshot;

use crate::abi::{self, Field, notify};
use crate::reply::Channel;

/// Notifications that wait, at most.
const QUEUE_MAX: usize = 4096;

enum Notification {
    /// And who is told whether the kernel has taken it.
    Inode(abi::InvalInode, Option<oneshot::Sender<bool>>),
    Entry {
        parent: u64,
        name: Vec<u8>,
    },
    /// One byte, and who is told whether the kernel has taken it.
    Store(abi::Store, u8, oneshot::Sender<bool>),
}

/// Writes notifications, on a thread of its own: a caller never blocks on the kernel's locks.
#[derive(Clone)]
pub struct Notifier {
    channel: Arc<Channel>,
    queue: SyncSender<Notification>,
}

impl Notifier {
    /// Starts the thread; it ends when all notifiers are dropped.
    pub(crate) fn start(channel: Arc<Channel>) -> std::io::Result<Notifier> {
        let (queue, waiting) = sync_channel(QUEUE_MAX);
        let writer = Arc::clone(&channel);
        std::thread::Builder::new().name("fuse-notify".into()).spawn(move || write_all(&writer.device, &waiting))?;
        Ok(Notifier { channel, queue })
    }

    /// FUSE_NOTIFY_INVAL_INODE for the attributes alone, written before this returns: it waits for none of our answers
    /// (4 to 20 us on Linux 6.18 with requests in flight).
    pub fn inval_attributes(&self, node: u64) {
        is_taken(write(
            &self.channel.device,
            notify::INVAL_INODE,
            &encoded(abi::InvalInode { node, offset: -1, length: 0 }, &[]),
        ));
    }

    /// FUSE_NOTIFY_INVAL_INODE; `offset < 0`: attributes only; `length <= 0`: to the end. `false`: the queue is full, and
    /// nothing will be invalidated.
    pub fn inval_inode(&self, node: u64, offset: i64, length: i64) -> bool {
        self.queue.try_send(Notification::Inode(abi::InvalInode { node, offset, length }, None)).is_ok()
    }

    /// FUSE_NOTIFY_INVAL_INODE for attributes and all pages; ends when they are gone. `false`: the queue is full, or the kernel has refused it,
    /// and nothing was invalidated.
    ///
    /// It waits for READs of this file that the kernel has sent, and for dirty pages of mappings to be written: no answer to those
    /// may wait for it. The kernel ignores attributes of this inode in answers to questions that it asked before.
    pub async fn drop_pages(&self, node: u64) -> bool {
        let (done, dropped) = oneshot::channel();
        let notification = Notification::Inode(abi::InvalInode { node, offset: 0, length: 0 }, Some(done));
        self.queue.try_send(notification).is_ok() && dropped.await.unwrap_or(false)
    }

    /// FUSE_NOTIFY_STORE of one byte: the kernel has it in a page, and takes the file for no shorter than that. `false`: the queue is full, or
    /// the kernel has refused it.
    ///
    /// It waits for a READ of that page. The kernel ignores attributes of this inode in answers to questions that it asked before.
    pub async fn store(&self, node: u64, offset: u64, byte: u8) -> bool {
        let (done, stored) = oneshot::channel();
        let head = abi::Store { node, offset, length: 1, padding: 0 };
        self.queue.try_send(Notification::Store(head, byte, done)).is_ok() && stored.await.unwrap_or(false)
    }

    /// FUSE_NOTIFY_INVAL_ENTRY. `false`: the queue is full, and nothing will be invalidated.
    pub fn inval_entry(&self, parent: u64, name: &[u8]) -> bool {
        self.queue.try_send(Notification::Entry { parent, name: name.to_vec() }).is_ok()
    }
}

fn write_all(device: impl AsFd, waiting: &Receiver<Notification>) {
    for notification in waiting {
        let mut done = None;
        let written = match notification {
            Notification::Inode(inode, waiter) => {
                done = waiter;
                write(&device, notify::INVAL_INODE, &encoded(inode, &[]))
            }
            Notification::Entry { parent, name } => {
                let head = abi::InvalEntry { parent, name_length: name.len() as u32, flags: 0 };
                let mut bytes = encoded(head, &name);
                bytes.push(0);
                write(&device, notify::INVAL_ENTRY, &bytes)
            }
            Notification::Store(head, byte, waiter) => {
                done = Some(waiter);
                write(&device, notify::STORE, &encoded(head, &[byte]))
            }
        };
        let is_taken = is_taken(written);
        let _ = done.map(|done| done.send(is_taken)); // nobody may be waiting any more
    }
}

/// Has the kernel done so, or nothing of it that it could do it to? Else what it was told to let go is there still.
fn is_taken(written: Result<(), Errno>) -> bool {
    match written {
        // Unknown to the kernel, or not a directory there; or the session has ended.
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::NODEV) => true,
        Err(errno) => {
            log::warn!("the kernel refuses a notification: {errno}");
            false
        }
    }
}

fn encoded<T: Field>(head: T, tail: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; T::SIZE];
    head.put(&mut bytes);
    bytes.extend_from_slice(tail);
    bytes
}

/// Writes one notification.
pub fn write(device: impl AsFd, code: i32, content: &[u8]) -> Result<(), Errno> {
    let length = (abi::OutHeader::SIZE + content.len()) as u32; // names are short
    let message = encoded(abi::OutHeader { length, error: code, unique: 0 }, content);
    rustix::io::retry_on_intr(|| rustix::io::write(&device, &message)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_pages_to_go_is_told_if_the_kernel_has_refused_that() {
        for (device, is_taken) in [("/dev/null", true), ("/dev/full", false)] {
            let device = std::fs::OpenOptions::new().write(true).open(device).unwrap();
            let (queue, waiting) = sync_channel(QUEUE_MAX);
            let (done, dropped) = oneshot::channel();
            let inode = abi::InvalInode { node: 7, offset: 0, length: 0 };
            queue.send(Notification::Inode(inode, Some(done))).unwrap();
            drop(queue);
            write_all(&device, &waiting);
            assert_eq!(dropped.blocking_recv(), Ok(is_taken));
        }
        assert!(is_taken(Err(Errno::NOENT)), "a node that it does not know has no pages");
    }
}
