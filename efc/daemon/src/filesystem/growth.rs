//! Files that grow elsewhere while they are read here: no reader gets zeros in place of data.
//!
//! A cached page in which a file ends has zeros behind the end, and Linux shows them in two ways. Told a larger size, it
//! believes it first and drops the pages afterwards. And a thread that was told one size cuts the pages off there, when it
//! gets to it: by then another thread may have been told of further growth, and have read it.
//!
//! So a file that is open here is not made longer by attributes: several threads may share one open, and maps of it are read
//! without a question. Its pages are dropped ([`Sizes::hide`]): those that are read from then on reach at least as far. Then
//! the kernel is given the last byte of the file (FUSE_NOTIFY_STORE), from which it takes the length, and cuts nothing off.
//! That byte may be older than what a reader gets from the server at the same time, so its page is dropped again. The kernel
//! ignores attributes in answers to questions from before all that:
//!
//! - read(2), lseek(2) and stat(2) wait for it: who was shown a size finds the file as long, in a map of it, too. Those that come
//!   at the same time wait for the same end.
//! - Lookups and open(2) wait for the drop alone.
//!
//! If it had grown before it was opened, and was not open otherwise, there are no pages, and attributes tell the length.
//!
//! Where the server lets nobody read who has the file open, there is no byte to give, and nobody who could find zeros: attributes do it.
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
use efc_cache::{Inode, Sizes, Version};
use efc_fuse::Errno;

use super::Inner;
use super::files::OpenFile;
use super::saved::saved_version;
use crate::errno::errno;

/// How long an answer waits for pages to be dropped: a READ of them may wait for the server.
const DROP_TIME_LIMIT: Duration = Duration::from_secs(1);
/// How long a file stays as it was for the kernel after its pages were dropped. A read(2) that has found its page takes some
/// ten nanoseconds until it looks where the file ends; an interrupt or the hypervisor may stop it there for longer.
const LAST_LOOK_TIME: Duration = Duration::from_millis(2);

/// How a file has become longer for the kernel.
enum Grown {
    ByStore,
    /// It is to be.
    ByAttributes,
    /// It could not be done, or not in time.
    Not,
}

impl<B: Backend> Inner<B> {
    /// The sizes of an open file that has grown elsewhere.
    fn growth(&self, inode: &Inode, attr: &Attr) -> Option<Sizes> {
        if attr.kind != FileType::Regular || self.is_unopened() || inode.granted() == 0 {
            return None;
        }
        // A successor takes no size for granted, unless pages were noted of this version, or the file has not changed for long.
        let noted = || {
            let pages = self.state.page_version(inode.node()?);
            let is_at_rest = || inode.last_shown().is_none_or(|seen| inode.is_settled(seen.part(|attr| attr)));
            let is_known = pages.map_or_else(is_at_rest, |pages| pages == saved_version(&Version::of(attr)));
            (!is_known).then_some(Sizes { told: 1, dropped_at: 0 })
        };
        inode.sizes().or_else(noted).filter(|sizes| sizes.is_growth(attr.size))
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
        self.is_open(inode) && (self.growth(inode, attr).is_some() || self.has_doubtful_pages(inode, attr))
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

    /// Before the kernel is told these attributes in an answer to a lookup or an open. `false`: it will ignore them.
    pub(super) async fn drop_before_growth(&self, inode: &Inode, attr: &Attr) -> bool {
        let growth = self.growth(inode, attr);
        if growth.is_some_and(|sizes| sizes.hide(attr.size)) || self.has_doubtful_pages(inode, attr) {
            return !self.drop_pages(inode, attr.size).await;
        }
        growth.is_none() || !self.void_attributes(inode)
    }

    /// Before the kernel is told these attributes in an answer to anything else: it believes in the size already, if the file is
    /// open. `false`: it will ignore them.
    pub(super) async fn grow(&self, inode: &Arc<Inode>, attr: &Attr) -> bool {
        let is_void = self.has_doubtful_pages(inode, attr) && self.drop_pages(inode, attr.size).await;
        if self.growth(inode, attr).is_none() {
            return !is_void;
        }
        if self.is_first_look(inode, attr) {
            inode.grown(attr.size);
            return !is_void;
        }
        // Who has a time limit does not wait for one of others after the other.
        let grown = efc_tasks::time::in_time(self.grow_together(inode, attr), self.backend.time_limit()).await;
        match grown {
            Some(Grown::ByAttributes) => true,
            _ => !self.void_attributes(inode),
        }
    }

    /// Is this the first look of who has opened a file that nobody else has open, and that has not grown since? There are no pages.
    fn is_first_look(&self, inode: &Arc<Inode>, attr: &Attr) -> bool {
        inode.granted() == 1 && self.readers(inode).iter().all(|file| file.is_unread_since(attr.size))
    }

    /// One of those that want a file to be so long makes it so, and the others wait for that.
    async fn grow_together(&self, inode: &Arc<Inode>, attr: &Attr) -> Grown {
        while self.growth(inode, attr).is_some() {
            let Some(_flight) = self.growing.begin(*inode.handle()).await else { continue };
            let Some(sizes) = self.growth(inode, attr) else { break };
            match self.lengthen(inode, sizes, attr.size).await {
                Grown::ByStore => {}
                other => return other,
            }
        }
        Grown::ByStore
    }

    /// The kernel ignores attributes in answers to questions that it has asked before. `false`: it does not know the file.
    fn void_attributes(&self, inode: &Inode) -> bool {
        let node = self.node_in_kernel(inode);
        node.into_iter().for_each(|node| self.notifier.inval_attributes(node));
        node.is_some()
    }

    /// The kernel takes the size from this answer, in which a file is longer than before, although it is open.
    pub(super) fn note_growth(&self, inode: &Inode, attr: &Attr) {
        if self.growth(inode, attr).is_some() {
            inode.grown(attr.size);
        }
    }

    /// Makes a file as long for the kernel as it has been seen to be.
    async fn lengthen(&self, inode: &Arc<Inode>, sizes: Sizes, size: u64) -> Grown {
        let readers = self.readers(inode);
        if !readers.is_empty() && sizes.hide(size) {
            if !self.drop_pages(inode, size).await {
                return Grown::Not;
            }
            efc_tasks::time::sleep(LAST_LOOK_TIME).await;
        }
        let at = size - 1;
        for file in readers {
            match self.byte_at(&file, at).await {
                Ok(Some(byte)) => return self.store_byte(&file, at, byte).await,
                Ok(None) => {}
                Err(_) => return Grown::Not,
            }
        }
        inode.grown(size);
        Grown::ByAttributes
    }

    async fn store_byte(&self, file: &OpenFile, at: u64, byte: u8) -> Grown {
        let stored = efc_tasks::time::in_time(self.notifier.store(file.node, at, byte), Some(DROP_TIME_LIMIT)).await;
        self.notifier.inval_inode(file.node, at as i64, 1);
        if stored != Some(true) {
            return Grown::Not;
        }
        file.inode.grown(at + 1);
        Grown::ByStore
    }

    /// Opens of a file that its data can be asked for through, one of each user.
    fn readers(&self, inode: &Arc<Inode>) -> Vec<Arc<OpenFile>> {
        let open = self.open.lock().expect("open files lock");
        let mut readers = Vec::<Arc<OpenFile>>::new();
        for file in open.files.values().filter(|file| Arc::ptr_eq(&file.inode, inode) && file.is_readable()) {
            if !readers.iter().any(|reader| reader.cred == file.cred) {
                readers.push(Arc::clone(file));
            }
        }
        readers
    }

    /// A byte of a file, from the server. `None`: the file is shorter, or its user may not read it.
    async fn byte_at(&self, file: &OpenFile, offset: u64) -> Result<Option<u8>, Errno> {
        let sink = Sink::Buffer(Buffer::new(1).map_err(|_| Errno(libc::ENOMEM))?, 0..1);
        let (payload, read) = self.backend.read(Call::of(&file.cred), file.inode.handle(), offset, sink).await;
        match read.map_err(|error| errno(&error)) {
            Ok(read) if read.value.count == 1 => {
                Ok(payload.and_then(Payload::into_buffer).map(|(buffer, _)| buffer[0]))
            }
            Ok(_) | Err(Errno(libc::EACCES | libc::EPERM | libc::ESTALE)) => Ok(None),
            Err(error) => Err(error),
        }
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
