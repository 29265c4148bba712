//! A small file system in memory, with levers for the tests: answers can be held back, lost, and things changed behind
//! the kernel's back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use efc_buffer::Buffer;
use efc_fuse::{
    Attr, Directory, Entry, Errno, Filesystem, OpenReply, Operation, Reply, Request, SetAttr, SetTime, Statfs,
};
use efc_state::{Node, OpenHandle, State};

/// The file that every tree has from the start, and its size in bytes.
pub const DATA: &str = "data";
pub const DATA_SIZE: usize = 1 << 20;
const ROOT: u64 = 1;

/// What `DATA` holds.
pub fn pattern() -> Vec<u8> {
    (0..DATA_SIZE as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

enum Content {
    File(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, u64>),
    Link(Vec<u8>),
}

struct Inode {
    content: Content,
    mode: u32,
    nlink: u32,
    mtime: (u64, u32),
}

struct Tree {
    inodes: HashMap<u64, Inode>,
    next: u64,
}

/// What to do with requests of one kind instead of answering them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lever {
    Hold(&'static str),
    Lose(&'static str),
    /// Keeps the thread that has read one, as if it were long at work.
    Occupy(&'static str),
}

#[derive(Default)]
struct Held {
    requests: Vec<(Request, Reply)>,
    interrupted: Vec<u64>,
    occupied: bool,
}

pub struct RamFs {
    state: Arc<State>,
    tree: Mutex<Tree>,
    ttl: Duration,
    lever: Mutex<Option<Lever>>,
    held: Mutex<Held>,
    changed: Condvar,
    pub largest_write: AtomicU64,
    pub executed: Mutex<HashMap<&'static str, u64>>,
    pub resent: AtomicU64,
    /// Threads that have read requests.
    pub readers: Mutex<HashSet<ThreadId>>,
    /// What opens of files are answered with.
    opening: Mutex<OpenReply>,
}

fn name_of(operation: &Operation) -> &'static str {
    match operation {
        Operation::Read { .. } => "read",
        Operation::Write { .. } => "write",
        Operation::Mkdir { .. } => "mkdir",
        Operation::Readdirplus { .. } => "readdirplus",
        Operation::Statx { .. } => "statx",
        Operation::Fsync { .. } => "fsync",
        Operation::Open { .. } => "open",
        Operation::Release { .. } => "release",
        _ => "other",
    }
}

type Answer = Result<Box<dyn FnOnce(Reply) + Send>, Errno>;

fn answer(give: impl FnOnce(Reply) + Send + 'static) -> Answer {
    Ok(Box::new(give))
}

const ENOENT: Errno = Errno(libc::ENOENT);

impl RamFs {
    pub fn new(state: Arc<State>, ttl: Duration) -> Arc<RamFs> {
        let mut tree = Tree { inodes: HashMap::new(), next: 3 };
        let root = Content::Directory(BTreeMap::from([(DATA.as_bytes().to_vec(), 2)]));
        tree.inodes.insert(ROOT, Inode { content: root, mode: 0o40755, nlink: 2, mtime: (1, 0) });
        let data = Content::File(pattern());
        tree.inodes.insert(2, Inode { content: data, mode: 0o100644, nlink: 1, mtime: (1, 0) });
        state.set_root(&Node { handle: ROOT.to_le_bytes().to_vec(), fileid: ROOT, kind: 0o40000 });
        Arc::new(RamFs {
            state,
            tree: Mutex::new(tree),
            ttl,
            lever: Mutex::new(None),
            held: Mutex::default(),
            changed: Condvar::new(),
            largest_write: AtomicU64::new(0),
            executed: Mutex::default(),
            resent: AtomicU64::new(0),
            readers: Mutex::default(),
            opening: Mutex::default(),
        })
    }

    /// Answers opens of files with these flags and this backing from now on.
    pub fn open_with(&self, flags: u32, backing: u32) {
        *self.opening.lock().unwrap() = OpenReply { fh: 0, flags, backing };
    }

    pub fn pull(&self, lever: Option<Lever>) {
        *self.lever.lock().unwrap() = lever;
    }

    fn wait(&self, what: &str, ready: impl Fn(&Held) -> bool) {
        let held = self.held.lock().unwrap();
        let limit = Duration::from_secs(20);
        let waited = self.changed.wait_timeout_while(held, limit, |held| !ready(held)).unwrap();
        assert!(!waited.1.timed_out(), "nothing {what} for {limit:?}");
    }

    /// Waits until a request is held back.
    pub fn wait_held(&self) {
        self.wait("held", |held| !held.requests.is_empty());
    }

    /// Waits until a thread is kept.
    pub fn wait_occupied(&self) {
        self.wait("at work", |held| held.occupied);
    }

    fn occupy(&self) {
        let mut held = self.held.lock().unwrap();
        held.occupied = true;
        self.changed.notify_all();
        drop(self.changed.wait_while(held, |held| held.occupied).unwrap());
    }

    /// Waits until a request that is held back is interrupted.
    pub fn wait_interrupted(&self) {
        let of_held = |held: &Held| held.requests.iter().any(|(request, _)| held.interrupted.contains(&request.unique));
        self.wait("interrupted", of_held);
    }

    /// Executes what was held back, with `error` if that is given.
    pub fn let_go(&self, error: Option<Errno>) {
        self.pull(None);
        self.held.lock().unwrap().occupied = false;
        self.changed.notify_all();
        let requests = std::mem::take(&mut self.held.lock().unwrap().requests);
        for (request, reply) in requests {
            match error {
                Some(errno) => reply.error(errno),
                None => self.execute(&request, reply),
            }
        }
    }

    /// Replaces a file's content without a word to the kernel.
    pub fn change_behind(&self, name: &str, content: Option<&[u8]>) {
        let mut tree = self.tree.lock().unwrap();
        let ino = tree.child(ROOT, name.as_bytes()).unwrap();
        match content {
            Some(bytes) => {
                let inode = tree.inodes.get_mut(&ino).unwrap();
                inode.content = Content::File(bytes.to_vec());
                inode.mtime.0 += 1;
            }
            None => {
                tree.children(ROOT).unwrap().remove(name.as_bytes());
            }
        }
    }

    /// The node id of a name in the root.
    pub fn node_id(&self, name: &str) -> u64 {
        let ino = self.tree.lock().unwrap().child(ROOT, name.as_bytes()).unwrap();
        self.state.find_node(&ino.to_le_bytes()).unwrap()
    }

    fn ino(&self, node: u64) -> Result<u64, Errno> {
        self.state.node(node).map(|node| node.fileid).ok_or(Errno(libc::ESTALE))
    }

    fn entry(&self, tree: &Tree, ino: u64) -> Result<Entry, Errno> {
        let attr = tree.attr(ino)?;
        let node = Node { handle: ino.to_le_bytes().to_vec(), fileid: ino, kind: attr.mode & 0o170000 };
        let id = self.state.lookup_node(&node).map_err(|_| Errno(libc::ENOMEM))?;
        Ok(Entry { node: id, generation: 0, entry_ttl: self.ttl, attr_ttl: self.ttl, attr })
    }

    fn open(&self, request: &Request, node: u64, directory: bool) -> Result<OpenReply, Errno> {
        let opening = if directory { OpenReply::default() } else { *self.opening.lock().unwrap() };
        let handle = OpenHandle {
            node,
            flags: 0,
            uid: request.uid,
            gid: request.gid,
            groups: Vec::new(),
            directory,
            cookie_verifier: [0; 8],
            unique: 0,
            backing: opening.backing,
        };
        let fh = self.state.open_handle(&handle).map_err(|_| Errno(libc::ENOMEM))?;
        Ok(OpenReply { fh, ..opening })
    }

    fn execute(&self, request: &Request, reply: Reply) {
        *self.executed.lock().unwrap().entry(name_of(&request.operation)).or_default() += 1;
        let mut tree = self.tree.lock().unwrap();
        let result = self.names(&mut tree, request).or_else(|_| self.files(&mut tree, request));
        drop(tree);
        match result {
            Ok(Ok(give)) => give(reply),
            Ok(Err(errno)) => reply.error(errno),
            Err(NotMine) => reply.error(Errno(libc::ENOSYS)),
        }
    }

    fn names(&self, tree: &mut Tree, request: &Request) -> Result<Answer, NotMine> {
        let made = |tree: &mut Tree, name: &[u8], inode: Inode| -> Answer {
            let parent = self.ino(request.node)?;
            let ino = tree.add(parent, name, inode)?;
            let entry = self.entry(tree, ino)?;
            answer(move |reply| reply.entry(&entry))
        };
        let node = |content, mode, nlink| Inode { content, mode, nlink, mtime: (1, 0) };
        Ok(match &request.operation {
            Operation::Lookup { name } => (|| {
                let ino = tree.child(self.ino(request.node)?, name)?;
                let entry = self.entry(tree, ino)?;
                answer(move |reply| reply.entry(&entry))
            })(),
            Operation::Mkdir { name, mode, .. } => {
                made(tree, name, node(Content::Directory(BTreeMap::new()), mode | 0o40000, 2))
            }
            Operation::Mknod { name, mode, .. } => made(tree, name, node(Content::File(Vec::new()), *mode, 1)),
            Operation::Symlink { name, target } => made(tree, name, node(Content::Link(target.clone()), 0o120777, 1)),
            Operation::Create { name, mode, .. } => (|| {
                let parent = self.ino(request.node)?;
                let ino = tree.add(parent, name, node(Content::File(Vec::new()), *mode, 1))?;
                let entry = self.entry(tree, ino)?;
                let open = self.open(request, entry.node, false)?;
                answer(move |reply| reply.create(&entry, &open))
            })(),
            Operation::Link { node, new_name } => (|| {
                let (parent, ino) = (self.ino(request.node)?, self.ino(*node)?);
                tree.children(parent)?.insert(new_name.clone(), ino);
                tree.inodes.get_mut(&ino).ok_or(ENOENT)?.nlink += 1;
                let entry = self.entry(tree, ino)?;
                answer(move |reply| reply.entry(&entry))
            })(),
            Operation::Unlink { name } | Operation::Rmdir { name } => (|| {
                let parent = self.ino(request.node)?;
                let ino = tree.child(parent, name)?;
                if tree.children(ino).is_ok_and(|children| !children.is_empty()) {
                    return Err(Errno(libc::ENOTEMPTY));
                }
                tree.children(parent)?.remove(name);
                tree.inodes.get_mut(&ino).ok_or(ENOENT)?.nlink -= 1;
                answer(Reply::empty)
            })(),
            Operation::Rename { name, new_parent, new_name, flags: 0 } => (|| {
                let (from, to) = (self.ino(request.node)?, self.ino(*new_parent)?);
                let ino = tree.children(from)?.remove(name).ok_or(ENOENT)?;
                tree.children(to)?.insert(new_name.clone(), ino);
                answer(Reply::empty)
            })(),
            Operation::Rename { .. } => Err(Errno(libc::EINVAL)),
            _ => return Err(NotMine),
        })
    }

    fn files(&self, tree: &mut Tree, request: &Request) -> Result<Answer, NotMine> {
        let ttl = self.ttl;
        let answered = match &request.operation {
            Operation::Getattr { .. } => tree
                .attr_of(self.ino(request.node))
                .map(|attr| Box::new(move |reply: Reply| reply.attr(&attr, ttl)) as Box<dyn FnOnce(Reply) + Send>),
            Operation::Statx { .. } => {
                let attr = tree.attr_of(self.ino(request.node));
                attr.map(|attr| Box::new(move |reply: Reply| reply.statx(&attr, ttl)) as _)
            }
            Operation::Setattr(set) => {
                let attr = self.ino(request.node).and_then(|ino| tree.set(ino, set));
                attr.map(|attr| Box::new(move |reply: Reply| reply.attr(&attr, ttl)) as _)
            }
            Operation::Open { .. } | Operation::Opendir { .. } => {
                let directory = matches!(request.operation, Operation::Opendir { .. });
                let open = self.open(request, request.node, directory);
                open.map(|open| Box::new(move |reply: Reply| reply.open(&open)) as _)
            }
            Operation::Read { fh, offset, size, .. } => self.read(tree, *fh, *offset, *size),
            Operation::Readlink => (|| match tree.inodes.get(&self.ino(request.node)?) {
                Some(Inode { content: Content::Link(target), .. }) => {
                    let target = target.clone();
                    answer(move |reply| reply.data([&target, &[]]))
                }
                _ => Err(Errno(libc::EINVAL)),
            })(),
            Operation::Write { fh, offset, data, .. } => {
                self.largest_write.fetch_max(data.len() as u64, Ordering::Relaxed);
                self.write(tree, *fh, *offset, data)
            }
            Operation::Readdir { fh, offset, size } => self.list(tree, *fh, *offset, *size, false),
            Operation::Readdirplus { fh, offset, size } => self.list(tree, *fh, *offset, *size, true),
            Operation::Release { fh, .. } | Operation::Releasedir { fh } => {
                self.state.close_handle(*fh);
                answer(Reply::empty)
            }
            Operation::Statfs => {
                let statfs =
                    Statfs { blocks: 1000, blocks_free: 500, block_size: 4096, name_max: 255, ..Statfs::default() };
                answer(move |reply| reply.statfs(&statfs))
            }
            Operation::Flush { .. } | Operation::Fsync { .. } | Operation::Fsyncdir { .. } => answer(Reply::empty),
            _ => return Err(NotMine),
        };
        Ok(answered)
    }

    fn read(&self, tree: &Tree, fh: u64, offset: u64, size: u32) -> Answer {
        let handle = self.state.handle(fh).ok_or(Errno(libc::EBADF))?;
        let Some(Content::File(bytes)) = tree.inodes.get(&self.ino(handle.node)?).map(|inode| &inode.content) else {
            return Err(Errno(libc::EISDIR));
        };
        let start = (offset as usize).min(bytes.len());
        let end = (start + size as usize).min(bytes.len());
        let mut buffer = Buffer::new(end - start).unwrap();
        buffer[..end - start].copy_from_slice(&bytes[start..end]);
        answer(move |reply| reply.data([&buffer[..end - start], &[]]))
    }

    fn write(&self, tree: &mut Tree, fh: u64, offset: u64, data: &[u8]) -> Answer {
        let handle = self.state.handle(fh).ok_or(Errno(libc::EBADF))?;
        let inode = tree.inodes.get_mut(&self.ino(handle.node)?).ok_or(ENOENT)?;
        let Content::File(bytes) = &mut inode.content else { return Err(Errno(libc::EISDIR)) };
        let (start, end) = (offset as usize, offset as usize + data.len());
        bytes.resize(bytes.len().max(end), 0);
        bytes[start..end].copy_from_slice(data);
        inode.mtime.1 = (inode.mtime.1 + 1) % 1_000_000_000;
        let count = data.len() as u32;
        answer(move |reply| reply.written(count))
    }

    fn list(&self, tree: &mut Tree, fh: u64, offset: u64, size: u32, plus: bool) -> Answer {
        let handle = self.state.handle(fh).ok_or(Errno(libc::EBADF))?;
        let children = tree.children(self.ino(handle.node)?)?.clone();
        // Continues behind an inode number, which stays right while names come and go.
        let mut following: Vec<_> = children.iter().filter(|(_, ino)| **ino > offset).collect();
        following.sort_by_key(|(_, ino)| **ino);
        let mut page = Directory::new(Buffer::new(size.min(1 << 20) as usize).unwrap(), size, plus);
        for (name, ino) in following {
            let entry = if plus { Some(self.entry(tree, *ino)?) } else { None };
            let kind = (tree.attr(*ino)?.mode >> 12) as u8;
            if !page.push(*ino, *ino, kind, name, entry.as_ref()) {
                entry.map(|entry| self.state.forget_node(entry.node, 1));
                break;
            }
        }
        answer(move |reply| reply.directory(&page))
    }
}

/// The request belongs to the other half.
struct NotMine;

impl Tree {
    fn children(&mut self, ino: u64) -> Result<&mut BTreeMap<Vec<u8>, u64>, Errno> {
        match self.inodes.get_mut(&ino).map(|inode| &mut inode.content) {
            Some(Content::Directory(children)) => Ok(children),
            _ => Err(Errno(libc::ENOTDIR)),
        }
    }

    fn child(&mut self, parent: u64, name: &[u8]) -> Result<u64, Errno> {
        self.children(parent)?.get(name).copied().ok_or(ENOENT)
    }

    fn add(&mut self, parent: u64, name: &[u8], inode: Inode) -> Result<u64, Errno> {
        let ino = self.next;
        if self.children(parent)?.contains_key(name) {
            return Err(Errno(libc::EEXIST));
        }
        self.children(parent)?.insert(name.to_vec(), ino);
        self.next += 1;
        self.inodes.insert(ino, inode);
        Ok(ino)
    }

    fn attr_of(&self, ino: Result<u64, Errno>) -> Result<Attr, Errno> {
        self.attr(ino?)
    }

    fn attr(&self, ino: u64) -> Result<Attr, Errno> {
        let inode = self.inodes.get(&ino).ok_or(ENOENT)?;
        let size = match &inode.content {
            Content::File(bytes) | Content::Link(bytes) => bytes.len() as u64,
            Content::Directory(_) => 4096,
        };
        let (mode, nlink, mtime) = (inode.mode, inode.nlink, inode.mtime);
        let blocks = size.div_ceil(512);
        Ok(Attr {
            ino,
            size,
            blocks,
            mode,
            nlink,
            mtime,
            atime: (2, 0),
            ctime: (3, 0),
            blksize: 4096,
            ..Attr::default()
        })
    }

    fn set(&mut self, ino: u64, set: &SetAttr) -> Result<Attr, Errno> {
        let inode = self.inodes.get_mut(&ino).ok_or(ENOENT)?;
        if let Some(mode) = set.mode {
            inode.mode = inode.mode & 0o170000 | mode & 0o7777;
        }
        if let (Some(size), Content::File(bytes)) = (set.size, &mut inode.content) {
            bytes.resize(size as usize, 0);
        }
        if let Some(SetTime::To { seconds, nanos }) = set.mtime {
            inode.mtime = (seconds.cast_unsigned(), nanos);
        }
        self.attr(ino)
    }
}

impl Filesystem for RamFs {
    fn handle(&self, request: Request, reply: Reply) {
        self.resent.fetch_add(u64::from(request.resent), Ordering::Relaxed);
        self.readers.lock().unwrap().insert(std::thread::current().id());
        let lever = *self.lever.lock().unwrap();
        match lever {
            Some(Lever::Hold(name)) if name == name_of(&request.operation) => {
                self.held.lock().unwrap().requests.push((request, reply));
                self.changed.notify_all();
                return;
            }
            Some(Lever::Lose(name)) if name == name_of(&request.operation) => return drop(reply),
            Some(Lever::Occupy(name)) if name == name_of(&request.operation) => self.occupy(),
            _ => {}
        }
        self.execute(&request, reply);
    }

    fn forget(&self, node: u64, lookups: u64) {
        self.state.forget_node(node, lookups);
    }

    fn interrupt(&self, unique: u64) {
        self.held.lock().unwrap().interrupted.push(unique);
        self.changed.notify_all();
    }
}

/// Waits until `ready`, for at most 10 s.
pub fn eventually(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(10), "still not so: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
