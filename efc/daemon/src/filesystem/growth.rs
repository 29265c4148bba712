//! Files that grow elsewhere while they are read here.
//!
//! A cached page in which a file ends has zeros behind the end. When the kernel is told a larger size it first believes it, and
//! then drops the pages: another reader sees the zeros for a while. So where a file that others have open here has grown elsewhere,
//! the pages are dropped first, and the new size is told afterwards: pages that are read from then on reach at least as
//! far ([`Sizes`]). The kernel ignores attributes in answers to questions from before the drop. That leaves two cases:
//!
//! - stat(2), look-ups, and open(2): the drop is waited for, then the answer goes out. stat(2) shows the new size; what the kernel
//!   itself believes it asks anew.
//! - read(2), which asks with its open file: it would not see the growth that was waited for, and with a writer that is
//!   quick enough never. It is told the size up to which pages were dropped last, and the next drop begins.
//!
//! A successor does not know what its predecessors have told the kernel, nor what the kernel has written since: a size made up
//! of that could be less than the kernel has, which would cut off pages with written data. There a reader waits for the drop, too.

use std::sync::Arc;
use std::time::Duration;

use efc_backend::{Attr, Backend, FileHandle, FileType};

use super::Inner;

/// Where the kernel's pages end. Larger pages than that end here too.
const PAGE: u64 = 4096;
/// How long an answer waits for pages to be dropped: a READ of them may wait for the server.
const DROP_TIME_LIMIT: Duration = Duration::from_secs(1);

/// What the kernel believes of a file's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// What it was told last, or has written up to.
    pub told: u64,
    /// All pages were dropped when the file was known to be at least as long.
    pub dropped_at: u64,
}

impl Sizes {
    /// After the kernel was told `size`.
    pub fn after_telling(before: Option<Sizes>, size: u64) -> Sizes {
        let dropped_at = before.map_or(0, |sizes| if size < sizes.told { size } else { sizes.dropped_at });
        Sizes { told: size, dropped_at }
    }

    /// Would zeros be seen if the kernel was told `size` now?
    fn hide(&self, size: u64) -> bool {
        !self.told.is_multiple_of(PAGE) && size > self.told.max(self.dropped_at)
    }
}

impl<B: Backend> Inner<B> {
    /// The sizes of a file that must not be told to be as long as `attr` says, if at least so many have it open.
    fn hidden_growth(&self, node: u64, attr: &Attr, opens_min: u32) -> Option<Sizes> {
        if attr.kind != FileType::Regular {
            return None;
        }
        // A successor knows only of pages that were noted.
        let noted = || self.state.page_version(node).map(|pages| Sizes { told: pages.size, dropped_at: 0 });
        let sizes = self.attrs.sizes(node).or_else(noted).filter(|sizes| sizes.hide(attr.size))?;
        let handle = self.handle_of(node).ok()?;
        (self.opens_of(&handle) >= opens_min).then_some(sizes)
    }

    /// How often a file is open.
    fn opens_of(&self, handle: &FileHandle) -> u32 {
        self.in_use.granted(handle)
    }

    /// The node of a file that is open; the others' pages nobody reads.
    fn node_if_open(&self, handle: &FileHandle) -> Option<u64> {
        if self.opens_of(handle) == 0 { None } else { self.state.find_node(handle.as_bytes()) }
    }

    /// Has the file grown elsewhere, while it is open here?
    pub(super) fn has_grown_unseen(&self, handle: &FileHandle, attr: &Attr) -> bool {
        self.node_if_open(handle).is_some_and(|node| self.hidden_growth(node, attr, 1).is_some())
    }

    /// [`Inner::drop_before_growth`] of a file that was looked up.
    pub(super) async fn drop_before_look_up(&self, handle: &FileHandle, attr: &Attr) {
        if let Some(node) = self.node_if_open(handle) {
            self.drop_before_growth(node, attr).await;
        }
    }

    /// Before the kernel is told these attributes in an answer to anything but a read. `false`: it will ignore them.
    pub(super) async fn drop_before_growth(&self, node: u64, attr: &Attr) -> bool {
        self.hidden_growth(node, attr, 1).is_none() || !self.drop_pages(node, attr.size).await
    }

    /// The size to tell a read that comes through an open file.
    pub(super) async fn size_for_reader(self: &Arc<Self>, node: u64, attr: &Attr) -> u64 {
        // The only reader raises the size itself, and finds the pages gone when it goes on.
        let Some(sizes) = self.hidden_growth(node, attr, 2) else { return attr.size };
        if self.attrs.sizes(node).is_none() {
            self.drop_pages(node, attr.size).await;
            return attr.size;
        }
        if self.attrs.begin_drop(node) {
            let (inner, size) = (Arc::clone(self), attr.size);
            efc_tasks::spawn(async move {
                inner.drop_pages(node, size).await;
                inner.attrs.end_drop(node);
            });
        }
        sizes.told.max(sizes.dropped_at)
    }

    /// Drops the kernel's pages of a file that has been seen to be `size` long. `false`: not all, or not in time.
    async fn drop_pages(&self, node: u64, size: u64) -> bool {
        let late = async {
            efc_tasks::time::sleep(DROP_TIME_LIMIT).await;
            false
        };
        let are_dropped = futures_lite::future::or(self.notifier.drop_pages(node), late).await;
        if are_dropped {
            self.attrs.dropped_pages(node, size);
        }
        are_dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_from_within_a_page_is_hidden_until_the_pages_were_dropped() {
        let sizes = Sizes { told: 5000, dropped_at: 0 };
        assert_eq!([4000, 5000, 5001].map(|size| sizes.hide(size)), [false, false, true]);
        assert!(!Sizes { told: 8192, dropped_at: 0 }.hide(9000), "a whole page has nothing behind its end");
        let dropped = Sizes { dropped_at: 6000, ..sizes };
        assert_eq!([6000, 6001].map(|size| dropped.hide(size)), [false, true]);
    }

    #[test]
    fn a_file_that_became_shorter_begins_anew() {
        let grown = Sizes::after_telling(Some(Sizes { told: 5000, dropped_at: 7000 }), 6000);
        assert_eq!(grown, Sizes { told: 6000, dropped_at: 7000 });
        assert_eq!(Sizes::after_telling(Some(grown), 100), Sizes { told: 100, dropped_at: 100 });
        assert_eq!(Sizes::after_telling(None, 100), Sizes { told: 100, dropped_at: 0 });
    }
}
