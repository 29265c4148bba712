//! An entry for the kernel whose lookup is counted, and given back if no answer carries it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use efc_backend::Backend;
use efc_cache::{Inode, Permit};
use efc_fuse::Entry;

use crate::filesystem::{Answer, Inner, Response, Told};

/// An entry whose lookup is counted: given back, unless it is [given](Counted::give) to the kernel.
pub struct Counted<'a, B: Backend> {
    inner: &'a Inner<B>,
    pub(super) node: u64,
    inode: Arc<Inode>,
    entry: Entry,
    permit: Permit,
    is_given: bool,
}

impl<'a, B: Backend> Counted<'a, B> {
    /// The lookup of `node`, which stands for `inode`, has been counted.
    pub fn new(inner: &'a Inner<B>, node: u64, inode: Arc<Inode>) -> Counted<'a, B> {
        Counted { inner, node, inode, entry: Entry::default(), permit: Permit::unconditional(), is_given: false }
    }

    /// This entry, as the kernel is told of it: its name holds for `entry_ttl`, which `permit` allows.
    pub fn described(mut self, told: Told, entry_ttl: Duration, permit: Permit) -> Counted<'a, B> {
        self.entry = Entry { node: self.node, generation: self.node >> 32, entry_ttl, ..self.entry };
        self.permit = permit;
        self.with_attributes(told)
    }

    /// This entry, with these attributes.
    pub(super) fn with_attributes(mut self, told: Told) -> Counted<'a, B> {
        self.inode.tell(&told.attr, told.asked);
        let attr = self.inner.for_kernel(&self.inner.seen_by_kernel(&self.inode, told.attr));
        self.entry = Entry { attr, attr_ttl: told.ttl, ..self.entry };
        self.permit = std::mem::take(&mut self.permit).and(told.permit);
        self
    }

    /// The object.
    pub fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    /// The entry for an answer, and what it follows from. The lookup is the kernel's from now on.
    pub fn give(mut self) -> (Entry, Permit) {
        self.is_given = true;
        (self.entry, std::mem::take(&mut self.permit))
    }

    pub(super) fn answer(self) -> Answer {
        let (entry, permit) = self.give();
        Answer { body: Response::Entry(entry), permit }
    }
}

impl<B: Backend> Deref for Counted<'_, B> {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl<B: Backend> Drop for Counted<'_, B> {
    fn drop(&mut self) {
        if !self.is_given {
            self.inner.forget_lookups(self.node, 1);
        }
    }
}
