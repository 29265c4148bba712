//! Files that grow elsewhere while they are read here.
//!
//! A cached page in which a file ends has zeros behind the end. When the kernel is told a larger size, it first
//! believes it, and drops the pages afterwards: meanwhile another reader sees the zeros. So if a file that others have
//! open here has grown elsewhere, its pages are dropped first, and the new size is told afterwards: pages that are read
//! from then on reach at least as far ([`Sizes`]). The kernel ignores attributes in answers to questions from before
//! the drop. That leaves two cases:
//!
//! - stat(2), lookups, and open(2): the answer waits for the drop. stat(2) shows the new size; the kernel asks again
//!   for the attributes that it itself uses.
//! - read(2), which asks with its open file: it would not see the growth that it waited for, and with a writer that is
//!   fast enough never would. It is told the size up to which pages were dropped last, and the next drop begins.
//!
//! A successor does not know what its predecessors have told the kernel, nor what the kernel has written since: a size
//! computed from that could be smaller than the kernel's, which would cut off pages with written data. There a reader
//! waits for the drop, too.
//!
//! Where the kernel opens files by itself it is unknown which ones are open, but known which version the pages of each
//! have ([`super::unopened`]): they are dropped before the kernel is told of any other.

use std::sync::Arc;
use std::time::Duration;

use efc_backend::{Attr, Backend, FileHandle, FileType, Tick};
use efc_cache::{Inode, Sizes};

use super::Inner;

/// How long an answer waits for pages to be dropped: a READ of them may wait for the server.
const DROP_TIME_LIMIT: Duration = Duration::from_secs(1);

impl<B: Backend> Inner<B> {
    /// The sizes of a file that must not be told to be as long as `attr` says, if at least so many have it open.
    fn hidden_growth(&self, inode: &Inode, attr: &Attr, opens_min: u32) -> Option<Sizes> {
        if attr.kind != FileType::Regular || self.is_unopened() {
            return None;
        }
        // A successor knows only of pages that were noted.
        let noted = || {
            let pages = self.state.page_version(inode.node()?)?;
            Some(Sizes { told: pages.size, dropped_at: 0 })
        };
        let sizes = inode.sizes().or_else(noted).filter(|sizes| sizes.hide(attr.size))?;
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
        self.is_open(inode) && (self.hidden_growth(inode, attr, 1).is_some() || self.has_doubtful_pages(inode, attr))
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
        let must_drop = self.hidden_growth(inode, attr, 1).is_some() || self.has_doubtful_pages(inode, attr);
        !must_drop || !self.drop_pages(inode, attr.size).await
    }

    /// The size to tell a read that comes through an open file.
    pub(super) async fn size_for_reader(self: &Arc<Self>, inode: &Arc<Inode>, attr: &Attr) -> u64 {
        if self.has_doubtful_pages(inode, attr) {
            self.drop_pages(inode, attr.size).await;
            return attr.size;
        }
        // The only reader raises the size itself, and finds the pages gone when it goes on.
        let Some(sizes) = self.hidden_growth(inode, attr, 2) else { return attr.size };
        if inode.sizes().is_none() {
            self.drop_pages(inode, attr.size).await;
            return attr.size;
        }
        if inode.begin_drop() {
            let (inner, inode, size) = (Arc::clone(self), Arc::clone(inode), attr.size);
            efc_tasks::spawn(async move {
                inner.drop_pages(&inode, size).await;
                inode.end_drop();
            });
        }
        sizes.told.max(sizes.dropped_at)
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
