//! Files that grow elsewhere while they are read here: no reader gets zeros in place of data.
//!
//! A cached page in which a file ends has zeros behind the end, and Linux shows them in two ways. Told a larger size, it
//! believes it first and drops the pages afterwards. And a thread that was told one size cuts the pages off there, when it
//! gets to it: by then another thread may have been told of further growth, and have read it.
//!
//! So a file that others have open here is not made longer by attributes. Its pages are dropped ([`Sizes::hide`]):
//! those that are read from then on reach at least as far. Then the kernel is given the last byte of the file
//! (FUSE_NOTIFY_STORE), from which it takes the length, and cuts nothing off. That byte may be older than what a reader gets from the
//! server at the same time, so its page is dropped again. The kernel ignores attributes in answers to questions from
//! before all that:
//!
//! - read(2), which asks with its open file, waits for it and finds the file grown; readers that come at the same time wait
//!   for the same end. The only reader needs none of it: it takes the size from its own answer.
//! - stat(2), lookups, and open(2) wait for the drop alone, and their attributes are void for the kernel. stat(2) shows the
//!   new size all the same.
//!
//! A successor does not know what its predecessors have told the kernel, nor what the kernel has written since; a size that
//! was smaller would cut off pages with written data. What makes a file longer makes none shorter.
//!
//! Where the kernel opens files by itself it is unknown which ones are open, but known which version the pages of each
//! have ([`super::unopened`]): they are dropped before the kernel is told of any other.

use std::sync::Arc;
use std::time::Duration;

use efc_backend::{Attr, Backend, Call, FileHandle, FileType, Tick};
use efc_buffer::{Buffer, Payload, Sink};
use efc_cache::{Inode, Sizes};

use super::Inner;
use super::files::OpenFile;

/// How long an answer waits for pages to be dropped: a READ of them may wait for the server.
const DROP_TIME_LIMIT: Duration = Duration::from_secs(1);
/// How long a file stays as it was for the kernel after its pages were dropped. A read(2) that has found its page takes some
/// ten nanoseconds until it looks where the file ends; an interrupt or the hypervisor may stop it there for longer.
const LAST_LOOK_TIME: Duration = Duration::from_millis(2);

impl<B: Backend> Inner<B> {
    /// The sizes of a file that has grown elsewhere, if at least so many have it open.
    fn growth(&self, inode: &Inode, attr: &Attr, opens_min: u32) -> Option<Sizes> {
        if attr.kind != FileType::Regular || self.is_unopened() {
            return None;
        }
        // A successor knows only of pages that were noted.
        let noted = || {
            let pages = self.state.page_version(inode.node()?)?;
            Some(Sizes { told: pages.size, dropped_at: 0 })
        };
        let sizes = inode.sizes().or_else(noted).filter(|sizes| sizes.is_growth(attr.size))?;
        (inode.granted() >= opens_min).then_some(sizes)
    }

    /// Would the kernel take pages for what they need not be, if it were told what is known of the file now? Where data is
    /// good for a while only, each question of the kernel begins a new one, but for what was read before its version
    /// was settled: that must be read again.
    fn has_doubtful_pages(&self, inode: &Inode, attr: &Attr) -> bool {
        let is_unsettled = || self.freshness.data_ttl().is_some() && inode.granted() > 0 && inode.has_unsettled_pages();
        self.has_unopened_pages(inode, attr) || is_unsettled()
    }

    /// Has the file grown elsewhere, while it is open here, or must its pages go for another reason?
    pub(super) fn has_grown_unseen(&self, inode: &Inode, attr: &Attr) -> bool {
        self.is_open(inode) && (self.growth(inode, attr, 1).is_some() || self.has_doubtful_pages(inode, attr))
    }

    /// A file that may be open. What is open here is known here; where the kernel opens files by itself, nothing but the saved state need know of it.
    pub(super) fn maybe_open(&self, handle: &FileHandle) -> Option<Arc<Inode>> {
        if self.is_unopened() { Some(self.inodes.of(handle)) } else { self.inodes.get(handle) }
    }

    /// [`Inner::drop_before_growth`] of a file that was looked up.
    pub(super) async fn drop_before_look_up(&self, handle: &FileHandle, attr: &Attr) {
        if let Some(inode) = self.maybe_open(handle).filter(|inode| self.is_open(inode)) {
            self.drop_before_growth(&inode, attr).await;
        }
    }

    /// Before the kernel is told these attributes in an answer to anything but a read. `false`: it will ignore them.
    pub(super) async fn drop_before_growth(&self, inode: &Inode, attr: &Attr) -> bool {
        let growth = self.growth(inode, attr, 1);
        if growth.is_some_and(|sizes| sizes.hide(attr.size)) || self.has_doubtful_pages(inode, attr) {
            return !self.drop_pages(inode, attr.size).await;
        }
        let node = growth.and_then(|_| self.node_in_kernel(inode));
        node.into_iter().for_each(|node| self.notifier.inval_attributes(node));
        node.is_none()
    }

    /// The size to tell a read that comes through an open file: the kernel believes in it already, unless this is the only reader.
    pub(super) async fn size_for_reader(&self, file: &OpenFile, attr: &Attr) -> u64 {
        let inode = &file.inode;
        if self.has_doubtful_pages(inode, attr) {
            self.drop_pages(inode, attr.size).await;
        }
        while self.growth(inode, attr, 2).is_some() {
            if let Some(_flight) = self.growing.begin(*inode.handle()).await
                && let Some(sizes) = self.growth(inode, attr, 2)
                && !self.lengthen(file, sizes, attr.size).await
            {
                return inode.sizes().map_or(sizes.told, |sizes| sizes.told.max(sizes.dropped_at));
            }
        }
        self.note_growth(inode, attr);
        attr.size
    }

    /// The kernel takes the size from this answer, in which a file is longer than before, although it is open.
    pub(super) fn note_growth(&self, inode: &Inode, attr: &Attr) {
        if self.growth(inode, attr, 1).is_some() {
            inode.lengthened(attr.size);
        }
    }

    /// Makes a file as long for the kernel as it has been seen to be. `false`: it could not be done.
    async fn lengthen(&self, file: &OpenFile, sizes: Sizes, size: u64) -> bool {
        if sizes.hide(size) {
            if !self.drop_pages(&file.inode, size).await {
                return false;
            }
            efc_tasks::time::sleep(LAST_LOOK_TIME).await;
        }
        let (node, at) = (file.node, size - 1);
        let Some(byte) = self.byte_at(file, at).await else { return false };
        let stored = efc_tasks::time::in_time(self.notifier.store(node, at, byte), Some(DROP_TIME_LIMIT)).await;
        self.notifier.inval_inode(node, at as i64, 1);
        let is_longer = stored.unwrap_or(false);
        if is_longer {
            file.inode.lengthened(size);
        }
        is_longer
    }

    /// A byte of a file, from the server.
    async fn byte_at(&self, file: &OpenFile, offset: u64) -> Option<u8> {
        let sink = Sink::Buffer(Buffer::new(1).ok()?, 0..1);
        let (payload, read) = self.backend.read(Call::of(&file.cred), file.inode.handle(), offset, sink).await;
        let (buffer, _) = payload.and_then(Payload::into_buffer)?;
        (read.ok()?.value.count == 1).then(|| buffer[0])
    }

    /// Drops the kernel's pages of a file that has been seen to be `size` long. `false`: not all, or not in time.
    async fn drop_pages(&self, inode: &Inode, size: u64) -> bool {
        let Some(node) = self.node_in_kernel(inode) else { return false };
        let begun = Tick::of_answer();
        let dropped = efc_tasks::time::in_time(self.notifier.drop_pages(node), Some(DROP_TIME_LIMIT));
        let are_dropped = self.note_drop(node, async { dropped.await.unwrap_or(false) }).await;
        if are_dropped {
            inode.dropped_pages(size, begun);
        }
        are_dropped
    }

    /// Is a file open, or may it be, and known to the kernel? The others' pages nobody reads.
    fn is_open(&self, inode: &Inode) -> bool {
        (self.is_unopened() || inode.granted() > 0) && self.node_in_kernel(inode).is_some()
    }
}
