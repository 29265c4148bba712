//! What the kernel was told of an inode. It becomes void when the kernel forgets its node.
//!
//! If a file is opened and the server has another version of it than the kernel was told last, the kernel's attributes
//! must be invalidated. The version of its *pages* is a separate question, which the saved state answers: attributes
//! are told without a page being read.

use efc_backend::{Attr, FileType, Seen, Tick};

use crate::inode::{Facts, Inode};
use crate::version::Version;

/// Where the kernel's pages end. A large folio does not reach behind the page in which a file ends.
const PAGE: u64 = efc_buffer::PAGE as u64;

/// What the kernel believes of a file's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// At least that: what it was told last, or has written up to.
    pub told: u64,
    /// All pages were dropped when the file was known to be at least as long.
    pub dropped_at: u64,
}

impl Sizes {
    /// After the kernel was told `size`.
    fn after_telling(before: Option<Sizes>, size: u64) -> Sizes {
        let dropped_at = before.map_or(0, |sizes| if size < sizes.told { size } else { sizes.dropped_at });
        Sizes { told: size, dropped_at }
    }

    /// Is a file of `size` longer than the kernel takes it for, so that its length is not to be told by mere attributes? Between whole
    /// pages there is nothing that they could cut off.
    pub fn is_growth(&self, size: u64) -> bool {
        size > self.told && !(self.told.is_multiple_of(PAGE) && size.is_multiple_of(PAGE))
    }

    /// Would zeros be seen if the kernel believed in `size` now?
    pub fn hide(&self, size: u64) -> bool {
        !self.told.is_multiple_of(PAGE) && size > self.told.max(self.dropped_at)
    }
}

/// Answers and writes that have changed a file's size for the kernel: it takes no attributes any more that it asked for before.
#[derive(Clone, Copy, Default)]
struct Resized {
    /// If it has become longer: how long it is since then.
    to: u64,
    /// The place of the last of them among all answers; 0: there is none of which a later answer has not told.
    order: u64,
}

/// What the kernel knows of an inode, since it knows its node.
#[derive(Default)]
pub(crate) struct KernelView {
    /// The node; 0: the kernel does not know the inode.
    pub node: u64,
    /// What the kernel takes the object for.
    pub kind: Option<FileType>,
    /// And when that was asked for last.
    told: Option<Seen<Version>>,
    sizes: Option<Sizes>,
    resized: Resized,
    /// Among them is one by which the file became shorter, and no pages were dropped since.
    is_cut: bool,
    /// The place of the first READ since pages were dropped that no settled version stands for, and one more; 0: there is
    /// none.
    unsettled: u64,
    /// The place among all answers at which the last such READ was noted.
    unsettled_last: u64,
}

impl KernelView {
    /// The file has become longer for the kernel.
    fn lengthen(&mut self, size: u64) {
        self.resized = Resized { to: self.resized.to.max(size), order: Tick::of_answer().order };
    }

    /// The kernel is told `size`, which was asked for then. What was asked for before the file became longer does not make
    /// it shorter again; and by itself an answer makes no file longer that is open. Answers with what it believes then.
    fn tell_size(&mut self, size: u64, asked: Tick, is_open: bool) -> u64 {
        if asked.order >= self.resized.order {
            self.resized.to = 0;
        }
        let size = size.max(self.resized.to);
        match self.sizes {
            Some(sizes) if is_open && sizes.is_growth(size) => return sizes.told,
            Some(sizes) if size > sizes.told => self.lengthen(size),
            Some(sizes) if size < sizes.told => {
                self.resized.order = Tick::of_answer().order;
                self.is_cut = true;
            }
            _ => {}
        }
        self.sizes = Some(Sizes::after_telling(self.sizes, size));
        size
    }

    /// The kernel has been told of the node, and of nothing else.
    pub fn new(node: u64, kind: Option<FileType>) -> KernelView {
        KernelView { node, kind, ..KernelView::default() }
    }
}

impl Facts {
    pub(crate) fn is_plausible(&self, attr: &Attr) -> bool {
        let is_plausible = self.kernel.kind.is_none_or(|kind| kind == attr.kind) && i64::try_from(attr.size).is_ok();
        if !is_plausible {
            log::error!(
                "a garbled answer of the server is ignored: inode {} is {:?} of {} bytes in it",
                attr.fileid,
                attr.kind,
                attr.size
            );
        }
        is_plausible
    }
}

impl Inode {
    /// The node by which the kernel knows the inode; `None` if it does not.
    pub fn node(&self) -> Option<u64> {
        Some(self.facts().kernel.node).filter(|node| *node != 0)
    }

    /// Records that the kernel is told `attr` now, which was asked for then. The size that it believes in from then on.
    pub fn tell(&self, attr: &Attr, asked: Tick) -> u64 {
        let is_open = self.granted() > 0;
        let kernel = &mut self.facts().kernel;
        kernel.told = Some(Seen { value: Version::of(attr), asked });
        kernel.tell_size(attr.size, asked, is_open)
    }

    /// Is this the version that the kernel was told last? If not it counts as told from now on.
    pub fn is_told(&self, Seen { value: attr, asked }: Seen<&Attr>) -> bool {
        let mut facts = self.facts();
        let value = Version::of(attr);
        let told = |facts: &mut Facts| facts.kernel.told.replace(Seen { value, asked });
        facts.is_plausible(attr) && told(&mut facts).is_some_and(|told| told.value == value)
    }

    /// The version that the kernel was told last, and when the server was last asked for it.
    pub fn told(&self) -> Option<Seen<Version>> {
        self.facts().kernel.told
    }

    /// The kernel believes that the file is at least so long: it has written up to there.
    pub fn lengthened(&self, end: u64) {
        let kernel = &mut self.facts().kernel;
        if let Some(sizes) = kernel.sizes.as_mut() {
            sizes.told = sizes.told.max(end);
        }
        kernel.lengthen(end);
    }

    /// The kernel was made to believe that the file is at least so long, or is told so now. What a predecessor has told it was less.
    pub fn grown(&self, end: u64) {
        self.facts().kernel.sizes.get_or_insert(Sizes { told: end, dropped_at: 0 });
        self.lengthened(end);
    }

    /// The kernel gets data that was asked for then, and that ends with the file: it takes the file for no longer from then on.
    pub fn read_to_end(&self, end: u64, asked: Tick) {
        let kernel = &mut self.facts().kernel;
        if asked.order >= kernel.resized.order && kernel.sizes.is_some_and(|sizes| end < sizes.told) {
            kernel.tell_size(end, asked, true);
        }
    }

    /// What the kernel believes of the file's size, if it was told anything.
    pub fn sizes(&self) -> Option<Sizes> {
        self.facts().kernel.sizes
    }

    /// The kernel has dropped all pages since `begun`, after the file had been seen to be `size` long. Those that were filled meanwhile it may
    /// have; and if it was told meanwhile that the file is shorter, it may have cut them off there.
    pub fn dropped_pages(&self, size: u64, begun: Tick) {
        let mut facts = self.facts();
        let kernel = &mut facts.kernel;
        // What a predecessor has told the kernel is not known.
        let sizes = kernel.sizes.get_or_insert(Sizes { told: size.min(1), dropped_at: size });
        if !kernel.is_cut || kernel.resized.order < begun.order {
            kernel.is_cut = false;
            sizes.dropped_at = sizes.dropped_at.max(size);
        }
        if facts.kernel.unsettled_last < begun.order {
            facts.kernel.unsettled = 0;
        }
    }

    /// The kernel fills pages with what was asked for then and has been read now, under a version that was not settled.
    pub fn read_unsettled(&self, asked: Tick) {
        let mut facts = self.facts();
        // Its answer shows no attributes, maybe: all the same, whatever is asked for from now on is younger.
        facts.kernel.unsettled_last = Tick::of_answer().order;
        if facts.kernel.unsettled == 0 {
            facts.kernel.unsettled = asked.order + 1;
        }
    }

    /// The kernel lets all pages go, and nobody has the file open who could read others meanwhile.
    pub fn lets_pages_go(&self) {
        self.facts().kernel.unsettled = 0;
    }

    /// May the kernel have pages that were read under a version which was not settled, before what is known of the file was
    /// asked for? Who tells it that now says that they are of that version.
    pub fn has_unsettled_pages(&self) -> bool {
        let facts = self.facts();
        let unsettled = facts.kernel.unsettled;
        unsettled != 0 && facts.known.is_some_and(|known| known.asked.order >= unsettled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{attr, inode, seen, tick};

    #[test]
    fn a_change_from_outside_is_noticed_once() {
        let inode = inode();
        assert!(!inode.is_told(seen(&attr(1, 1))));
        inode.tell(&attr(1, 1), tick());
        assert!(inode.is_told(seen(&attr(1, 1))));
        assert!(!inode.is_told(seen(&attr(1, 2))));
        assert!(inode.is_told(seen(&attr(1, 2))));
        assert!(!inode.is_told(seen(&attr(1 << 63, 2))), "what cannot be");
    }

    #[test]
    fn what_was_asked_for_before_a_write_had_ended_does_not_take_its_growth_back() {
        let inode = inode();
        let told = || inode.sizes().expect("told").told;
        inode.tell(&attr(10, 1), tick());
        let (before, between) = (tick(), {
            inode.lengthened(100);
            tick()
        });
        inode.lengthened(50);
        inode.tell(&attr(10, 1), before);
        assert_eq!(told(), 100);
        inode.tell(&attr(10, 1), between);
        assert_eq!(told(), 100, "the second write had not ended, and the kernel has written so far");
        inode.tell(&attr(120, 2), before);
        assert_eq!(told(), 120);
        inode.tell(&attr(20, 3), tick());
        assert_eq!(told(), 20, "shortened elsewhere since");
        inode.tell(&attr(10, 1), before);
        assert_eq!(told(), 10, "of no write is this the news");
    }

    #[test]
    fn an_answer_that_comes_late_does_not_make_the_file_shorter() {
        let inode = inode();
        let told = || inode.sizes().expect("told");
        inode.tell(&attr(100, 1), tick());
        let late = tick();
        inode.tell(&attr(200, 2), tick());
        inode.dropped_pages(200, Tick::of_answer());
        inode.tell(&attr(100, 1), late);
        assert_eq!(told(), Sizes { told: 200, dropped_at: 200 }, "the kernel ignores it");
        inode.tell(&attr(150, 3), tick());
        assert_eq!(told(), Sizes { told: 150, dropped_at: 150 }, "it was asked for since: shortened elsewhere");
    }

    #[test]
    fn pages_that_may_have_been_cut_off_while_they_were_dropped_are_to_be_dropped_again() {
        let inode = inode();
        let told = || inode.sizes().expect("told");
        inode.tell(&attr(200, 1), tick());
        let begun = Tick::of_answer();
        inode.tell(&attr(100, 2), tick());
        inode.dropped_pages(300, begun);
        assert_eq!(told(), Sizes { told: 100, dropped_at: 100 });
        inode.dropped_pages(300, Tick::of_answer());
        assert_eq!(told(), Sizes { told: 100, dropped_at: 300 });
    }

    #[test]
    fn a_read_that_ends_with_the_file_makes_it_shorter_unless_it_was_asked_for_before_it_grew() {
        let inode = inode();
        let told = || inode.sizes().expect("told");
        inode.tell(&attr(300, 1), tick());
        inode.dropped_pages(300, Tick::of_answer());
        let late = tick();
        inode.grown(400);
        inode.read_to_end(100, late);
        assert_eq!(told(), Sizes { told: 400, dropped_at: 300 });
        inode.read_to_end(100, tick());
        assert_eq!(told(), Sizes { told: 100, dropped_at: 100 });
        assert!(told().hide(300), "what is behind its new end is zeros");
    }

    #[test]
    fn a_change_of_anything_else_does_not_take_growth_back() {
        let inode = inode();
        inode.tell(&attr(100, 1), tick());
        let asked = tick();
        inode.grown(200);
        assert_eq!(inode.tell(&attr(100, 1), asked), 200);
        assert_eq!(inode.tell(&attr(50, 2), tick()), 50, "shortened elsewhere since");
    }

    #[test]
    fn what_was_read_before_its_version_was_settled_is_not_told_to_be_of_it() {
        let inode = inode();
        inode.learn(seen(&attr(1, 1)));
        inode.read_unsettled(tick());
        assert!(!inode.has_unsettled_pages(), "nothing newer is known");
        inode.learn(Seen { value: &attr(1, 1), asked: tick() });
        assert!(inode.has_unsettled_pages(), "the first of them is older");
        let begun = Tick::of_answer();
        inode.read_unsettled(tick());
        inode.dropped_pages(1, begun);
        inode.learn(Seen { value: &attr(1, 1), asked: tick() });
        assert!(inode.has_unsettled_pages(), "read while pages were dropped");
        inode.dropped_pages(1, Tick::of_answer());
        assert!(!inode.has_unsettled_pages());
    }

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
