//! What the kernel keeps of a mount: requests that are not answered, inodes with attributes and pages, names; and how the daemon ends that.

use super::*;

pub(super) struct Pending {
    pub(super) tid: u32,
    /// Under which name it was delivered last.
    pub(super) name: u64,
    pub(super) make: Box<dyn Fn(u64, bool) -> Request + Send>,
    pub(super) answer: oneshot::Sender<Raw>,
}

pub(super) struct Inode {
    pub(super) lookups: u64,
    /// Opens, and system calls that are at it: it cannot be forgotten.
    pub(super) users: u32,
    pub(super) attr: Attr,
    pub(super) attr_until: Instant,
    pub(super) attr_version: u64,
    pub(super) pages: BTreeMap<u64, Vec<u8>>,
    /// Changes whenever all pages are let go: a READ that was sent before fills none.
    pub(super) epoch: u64,
    pub(super) reads: u32,
    pub(super) lock: Arc<RwLock<()>>,
    /// How it is open.
    pub(super) mode: Mode,
}

impl Inode {
    /// One that nobody has looked up yet, with attributes that may be trusted for a while.
    pub(super) fn new(attr: Attr, attr_until: Instant, attr_version: u64) -> Inode {
        Inode {
            lookups: 0,
            users: 0,
            attr,
            attr_until,
            attr_version,
            pages: BTreeMap::new(),
            epoch: 0,
            reads: 0,
            lock: Arc::default(),
            mode: Mode::default(),
        }
    }
}

pub(super) struct Dentry {
    pub(super) node: u64,
    pub(super) until: Instant,
}

#[derive(Default)]
pub(super) struct Tables {
    pub(super) inodes: HashMap<u64, Inode>,
    pub(super) dentries: HashMap<(u64, Vec<u8>), Dentry>,
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(super) attr_version: u64,
    pub(super) requests: u64,
    pub(super) releases: u32,
    /// An OPEN, and a FLUSH, was answered with ENOSYS: no more are sent.
    pub(super) opens_unasked: bool,
    pub(super) flushes_unasked: bool,
}

/// A node that a system call is at.
pub(super) struct Held {
    pub(super) kernel: Kernel,
    pub(super) node: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(inode) = self.kernel.0.tables().inodes.get_mut(&self.node) {
            inode.users -= 1;
        }
    }
}

/// The kernel as the daemon notifies it.
pub(super) struct Notified(pub(super) Weak<Shared>);

impl Notify for Notified {
    fn inval_attributes(&self, node: u64) {
        if let Some(kernel) = self.0.upgrade() {
            kernel.tables().inval_attributes(node);
        }
    }

    fn inval_inode(&self, node: u64, offset: i64, length: i64) {
        let Some(kernel) = self.0.upgrade() else { return };
        let mut tables = kernel.tables();
        tables.inval_attributes(node);
        if offset >= 0 {
            let first = offset as u64 / PAGE;
            let last = if length > 0 { (offset + length - 1) as u64 / PAGE } else { u64::MAX };
            tables.drop_pages(node, first, last);
        }
    }

    fn drop_pages(&self, node: u64) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        let kernel = self.0.upgrade();
        kernel.iter().for_each(|kernel| kernel.tables().inval_attributes(node));
        Box::pin(async move {
            let Some(kernel) = kernel else { return false };
            kernel.until_read(node).await;
            kernel.tables().drop_pages(node, 0, u64::MAX);
            true
        })
    }

    fn store(&self, node: u64, offset: u64, byte: u8) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        let kernel = self.0.upgrade();
        Box::pin(async move {
            let Some(kernel) = kernel else { return false };
            kernel.until_read(node).await;
            kernel.tables().store(node, offset, byte);
            true
        })
    }
}

impl Tables {
    pub(super) fn next_version(&mut self) -> u64 {
        self.attr_version += 1;
        self.attr_version
    }

    pub(super) fn inval_attributes(&mut self, node: u64) {
        let version = self.next_version();
        if let Some(inode) = self.inodes.get_mut(&node) {
            inode.attr_until = efc_tasks::time::now();
            inode.attr_version = version;
        }
    }

    pub(super) fn drop_pages(&mut self, node: u64, first: u64, last: u64) {
        if let Some(inode) = self.inodes.get_mut(&node) {
            inode.pages.retain(|page, _| *page < first || *page > last);
            inode.epoch += 1;
        }
    }

    /// `fuse_notify_store` of one byte.
    fn store(&mut self, node: u64, offset: u64, byte: u8) {
        self.inval_attributes(node);
        let Some(inode) = self.inodes.get_mut(&node) else { return };
        inode.attr.size = inode.attr.size.max(offset + 1);
        if let Some(page) = inode.pages.get_mut(&(offset / PAGE)) {
            let at = (offset % PAGE) as usize;
            page.resize(page.len().max(at + 1), 0);
            page[at] = byte;
        }
    }

    /// `fuse_change_attributes`: attributes from an answer to a question that was asked at `version`.
    pub(super) fn take_attributes(&mut self, node: u64, attr: &Attr, ttl: Duration, version: u64) {
        if self.believe(node, attr, ttl, version) {
            self.drop_pages(node, 0, u64::MAX);
        }
    }

    /// Its first part. `true`: the pages are to be cut off, which the kernel does later, without a lock.
    pub(super) fn believe(&mut self, node: u64, attr: &Attr, ttl: Duration, version: u64) -> bool {
        let next = self.next_version();
        let Some(inode) = self.inodes.get_mut(&node) else { return false };
        if inode.attr_version > version {
            return false;
        }
        let before = std::mem::replace(&mut inode.attr, *attr);
        inode.attr_version = next;
        inode.attr_until = efc_tasks::time::now() + ttl;
        if before.size == attr.size && before.mtime != attr.mtime {
            self.drop_pages(node, 0, u64::MAX);
        }
        before.size != attr.size
    }

    /// Its second part, `truncate_pagecache`.
    pub(super) fn zero_behind(&mut self, node: u64, size: u64) {
        let Some(inode) = self.inodes.get_mut(&node) else { return };
        inode.pages.retain(|page, _| page * PAGE < size);
        if let Some(page) = inode.pages.get_mut(&(size / PAGE)) {
            page[(size % PAGE) as usize..].fill(0);
        }
    }

    /// Takes an entry, whose lookup is counted from now on.
    pub(super) fn take_entry(&mut self, parent: u64, name: &[u8], entry: &Entry, version: u64) {
        let now = efc_tasks::time::now();
        let first = self.next_version();
        let new = || Inode::new(entry.attr, now + entry.attr_ttl, first);
        let inode = self.inodes.entry(entry.node).or_insert_with(new);
        inode.lookups += 1;
        self.take_attributes(entry.node, &entry.attr, entry.attr_ttl, version);
        self.dentries.insert((parent, name.to_vec()), Dentry { node: entry.node, until: now + entry.entry_ttl });
    }
}
