//! The kernel's part of a mount, by the rules of Linux's FUSE: lookup counts, names, attributes and pages that it keeps and
//! lets go, locks of inodes and directories, requests that are answered once and delivered again to the next daemon.
//!
//! A [`Kernel`] is one node with one mount. Its methods are system calls of a [`Task`]; each may run in a task of its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use efc_backend::{Cred, Properties, Time};
use efc_buffer::Budget;
use efc_cache::{Bounded, CloseToOpen, Freshness, Sealed, Times};
use efc_fuse::simulated::{Content, Listed, name_of_resent};
use efc_fuse::{Attr, Entry, Errno, Filesystem, Operation, Request, Session, SessionConfig, SetAttr};
use efc_model::{Client, Nas};
use efc_sources::{Path, Several, Source, Sources, own_root};
use efc_state::{Node, State};
use efc_tasks::simulation::{self, Process};
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};
use tokio::sync::{Notify as Wakeup, RwLock, oneshot};

use super::passing::{Mode, Registry};
use crate::filesystem::{AheadSwitch, Backings, Callers, Efc, Notify, ROOT, Settings, WriteBehind, drop_unclaimed};

pub const PAGE: u64 = 4096;
const FOPEN_DIRECT_IO: u32 = 1 << 0;
const FOPEN_KEEP_CACHE: u32 = 1 << 1;
const FOPEN_NOFLUSH: u32 = 1 << 5;
const FOPEN_PASSTHROUGH: u32 = 1 << 7;
/// What a system call ends with.
pub type Done<T> = Result<T, i32>;
/// What a request was answered with: an errno or 0, and content.
type Raw = Result<Vec<u8>, i32>;

/// Who makes a system call.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    pub tid: u32,
    pub uid: u32,
}

impl Task {
    pub fn new(uid: u32) -> Task {
        static NEXT: AtomicU32 = AtomicU32::new(100);
        Task { tid: NEXT.fetch_add(1, Ordering::Relaxed), uid }
    }

    pub fn root() -> Task {
        Task::new(0)
    }
}

/// Callers of which the test says what `/proc` would.
#[derive(Default)]
pub struct TestCallers {
    killed: Mutex<HashSet<u32>>,
    exiting: Mutex<HashSet<u32>>,
}

impl Callers for TestCallers {
    fn cred(&self, _tid: u32, uid: u32, gid: u32) -> Result<Cred, Errno> {
        Ok(Cred { uid, gid, groups: Arc::from([]) })
    }

    fn is_killed(&self, tid: u32) -> bool {
        self.killed.lock().unwrap().contains(&tid)
    }

    fn was_killed(&self, tid: u32) -> bool {
        self.is_killed(tid)
    }

    fn is_exiting(&self, tid: u32) -> bool {
        self.is_killed(tid) || self.exiting.lock().unwrap().contains(&tid)
    }
}

struct Pending {
    tid: u32,
    /// Under which name it was delivered last.
    name: u64,
    make: Box<dyn Fn(u64, bool) -> Request + Send>,
    answer: oneshot::Sender<Raw>,
}

struct Inode {
    lookups: u64,
    /// Opens, and system calls that are at it: it cannot be forgotten.
    users: u32,
    attr: Attr,
    attr_until: Instant,
    attr_version: u64,
    pages: BTreeMap<u64, Vec<u8>>,
    /// Changes whenever all pages are let go: a READ that was sent before fills none.
    epoch: u64,
    reads: u32,
    lock: Arc<RwLock<()>>,
    /// How it is open.
    mode: Mode,
}

struct Dentry {
    node: u64,
    until: Instant,
}

#[derive(Default)]
struct Tables {
    inodes: HashMap<u64, Inode>,
    dentries: HashMap<(u64, Vec<u8>), Dentry>,
    pending: BTreeMap<u64, Pending>,
    attr_version: u64,
    requests: u64,
    releases: u32,
    /// An OPEN, and a FLUSH, was answered with ENOSYS: no more are sent.
    opens_unasked: bool,
    flushes_unasked: bool,
}

struct Daemon {
    process: Process,
    session: Session,
    efc: Arc<Efc<Sources<Client>>>,
    state: Arc<State>,
    memfd: OwnedFd,
}

pub struct Shared {
    pub nas: Nas,
    /// Where several show, instead of the one at the root.
    several: Vec<(Path, Nas)>,
    number: u32,
    settings: Settings,
    time_limit: Option<Duration>,
    /// Files of the node that it may read in place of ours.
    registry: Option<Arc<Registry>>,
    tables: Mutex<Tables>,
    daemon: Mutex<Option<Daemon>>,
    callers: Arc<TestCallers>,
    /// A READ or a RELEASE has ended.
    ended: Wakeup,
    /// The process whose answers are taken.
    serving: AtomicU32,
    kills: AtomicU32,
}

/// A node with a mount of the NAS.
#[derive(Clone)]
pub struct Kernel(Arc<Shared>);

/// An open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    pub node: u64,
    pub fh: u64,
    flags: i32,
    open_flags: u32,
}

impl File {
    pub fn is_writable(self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }

    pub fn appends(self) -> bool {
        self.flags & libc::O_APPEND != 0
    }

    /// After fcntl(F_SETFL).
    pub fn with_flags(self, flags: i32) -> File {
        File { flags, ..self }
    }
}

/// A node that a system call is at.
struct Held {
    kernel: Kernel,
    node: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(inode) = self.kernel.0.tables().inodes.get_mut(&self.node) {
            inode.users -= 1;
        }
    }
}

/// The kernel as the daemon notifies it.
struct Notified(Weak<Shared>);

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
            let is_read = || kernel.tables().inodes.get(&node).is_some_and(|inode| inode.reads > 0);
            kernel.until(|| !is_read()).await;
            kernel.tables().drop_pages(node, 0, u64::MAX);
            true
        })
    }
}

impl Tables {
    fn next_version(&mut self) -> u64 {
        self.attr_version += 1;
        self.attr_version
    }

    fn inval_attributes(&mut self, node: u64) {
        let version = self.next_version();
        if let Some(inode) = self.inodes.get_mut(&node) {
            inode.attr_until = efc_tasks::time::now();
            inode.attr_version = version;
        }
    }

    fn drop_pages(&mut self, node: u64, first: u64, last: u64) {
        if let Some(inode) = self.inodes.get_mut(&node) {
            inode.pages.retain(|page, _| *page < first || *page > last);
            inode.epoch += 1;
        }
    }

    /// `fuse_change_attributes`: attributes from an answer to a question that was asked at `version`.
    fn take_attributes(&mut self, node: u64, attr: &Attr, ttl: Duration, version: u64) {
        let next = self.next_version();
        let Some(inode) = self.inodes.get_mut(&node) else { return };
        if inode.attr_version > version {
            return;
        }
        let before = std::mem::replace(&mut inode.attr, *attr);
        inode.attr_version = next;
        inode.attr_until = efc_tasks::time::now() + ttl;
        if before.size != attr.size || before.mtime != attr.mtime {
            self.drop_pages(node, 0, u64::MAX);
        }
    }

    /// Takes an entry, whose lookup is counted from now on.
    fn take_entry(&mut self, parent: u64, name: &[u8], entry: &Entry, version: u64) {
        let now = efc_tasks::time::now();
        let first = self.next_version();
        let inode = self.inodes.entry(entry.node).or_insert_with(|| Inode {
            lookups: 0,
            users: 0,
            attr: entry.attr,
            attr_until: now + entry.attr_ttl,
            attr_version: first,
            pages: BTreeMap::new(),
            epoch: 0,
            reads: 0,
            lock: Arc::default(),
            mode: Mode::default(),
        });
        inode.lookups += 1;
        self.take_attributes(entry.node, &entry.attr, entry.attr_ttl, version);
        self.dentries.insert((parent, name.to_vec()), Dentry { node: entry.node, until: now + entry.entry_ttl });
    }
}

/// A copy of the saved state as it is now: what a SIGKILL leaves.
fn copy(memfd: &OwnedFd) -> OwnedFd {
    let size = rustix::fs::fstat(memfd).unwrap().st_size as u64;
    let copied = memfd_new();
    rustix::fs::ftruncate(&copied, size).unwrap();
    let (mut offset, mut buffer) = (0, vec![0; 1 << 20]);
    while let Ok(begin) = rustix::fs::seek(memfd, SeekFrom::Data(offset)) {
        let end = rustix::fs::seek(memfd, SeekFrom::Hole(begin)).unwrap();
        offset = begin;
        while offset < end {
            let length = (end - offset).min(buffer.len() as u64) as usize;
            let read = rustix::io::pread(memfd, &mut buffer[..length], offset).unwrap();
            let written = rustix::io::pwrite(&copied, &buffer[..read], offset).unwrap();
            offset += written as u64;
        }
    }
    rustix::fs::fcntl_add_seals(&copied, SealFlags::SHRINK).unwrap();
    copied
}

fn memfd_new() -> OwnedFd {
    rustix::fs::memfd_create("efc-model-test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap()
}

impl Shared {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    /// Ends when `is_so`, which READs and RELEASEs that end may bring about.
    async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if is_so() {
                return;
            }
            ended.await;
        }
    }

    /// Takes an answer to the request of this name.
    fn answered(&self, name: u64, error: i32, content: &[u8]) -> bool {
        let mut tables = self.tables();
        let unique = name & !name_of_resent(0);
        if tables.pending.get(&unique).is_none_or(|pending| pending.name != name) {
            return false;
        }
        let pending = tables.pending.remove(&unique).unwrap();
        drop(tables);
        log::debug!("{unique}: errno {} and {} bytes at {:?}", -error, content.len(), efc_tasks::time::now());
        let _ = pending.answer.send(if error == 0 { Ok(content.to_vec()) } else { Err(-error) });
        true
    }
}

/// Close-to-open, with how long what the daemon tells holds.
pub fn settings(ttl: Duration) -> Settings {
    let attr_ttl_max = Duration::from_secs(60);
    settings_of(Arc::new(CloseToOpen::new(Times { attr_ttl: ttl, attr_ttl_max, entry_ttl: ttl })))
}

/// The other modes.
pub fn bounded(ttl: Duration) -> Settings {
    settings_of(Arc::new(Bounded::new(Times { attr_ttl: ttl, ..Times::default() })))
}

pub fn sealed(kernel_ttl: Duration) -> Settings {
    settings_of(Arc::new(Sealed::new(Times { attr_ttl_max: kernel_ttl, ..Times::default() })))
}

pub fn settings_of(freshness: Arc<dyn Freshness>) -> Settings {
    Settings {
        freshness,
        write_behind: Arc::new(WriteBehind::new(Duration::ZERO)),
        ahead: Arc::new(AheadSwitch::new(true)),
        uncommitted_bytes_max: 1 << 20,
        metadata_bytes_max: 4 << 20,
        listed_names_max: 4096,
        buffers: Budget::default(),
        levels: Vec::new(),
        rest: Duration::ZERO,
        backings: None,
        unopened: None,
    }
}

/// These settings, and for how long the daemon may hold written data back.
pub fn behind(write_behind: Duration, settings: Settings) -> Settings {
    Settings { write_behind: Arc::new(WriteBehind::new(write_behind)), ..settings }
}

impl Shared {
    /// What a daemon stands on.
    fn storage(&self) -> Sources<Client> {
        if self.several.is_empty() {
            return Sources::One(self.nas.client(self.number, self.time_limit));
        }
        let properties = Properties { read_max: 1 << 17, write_max: 1 << 16, ignores_case: false };
        let source = |(number, (path, nas)): (u8, &(Path, Nas))| {
            let root = (nas.root(), nas.attr("").unwrap());
            let client = nas.client(self.number, self.time_limit);
            Source::new((number, path.clone()), root, (properties, false), (number.into(), client))
        };
        let list = (1..).zip(&self.several).map(source).collect();
        Sources::Several(Several::new(list, Time::default(), self.time_limit))
    }
}

impl Kernel {
    /// Mounts the NAS; each `number` is another node.
    pub fn mount(nas: &Nas, number: u32, settings: Settings, time_limit: Option<Duration>) -> Kernel {
        Kernel::mount_with(nas, number, settings, time_limit, None)
    }

    /// One that agrees on passthrough, if there are files for that.
    pub fn mount_with(
        nas: &Nas,
        number: u32,
        settings: Settings,
        time_limit: Option<Duration>,
        registry: Option<Arc<Registry>>,
    ) -> Kernel {
        Kernel::mount_at_paths((nas, Vec::new()), number, settings, time_limit, registry)
    }

    /// Mounts several, each at a path; it agrees on passthrough, if there are files for that.
    pub fn mount_several(several: &[(&str, &Nas)], settings: Settings, registry: Option<Arc<Registry>>) -> Kernel {
        let at_path = |(path, nas): &(&str, &Nas)| (Path::new(path.as_bytes()).expect("a path"), (*nas).clone());
        Kernel::mount_at_paths((several[0].1, several.iter().map(at_path).collect()), 1, settings, None, registry)
    }

    fn mount_at_paths(
        (nas, several): (&Nas, Vec<(Path, Nas)>),
        number: u32,
        settings: Settings,
        time_limit: Option<Duration>,
        registry: Option<Arc<Registry>>,
    ) -> Kernel {
        let backings = registry.clone().map(|registry| registry as Arc<dyn Backings>);
        let settings = Settings { backings, ..settings };
        let kernel = Kernel(Arc::new(Shared {
            nas: nas.clone(),
            several,
            number,
            settings,
            time_limit,
            registry,
            tables: Mutex::default(),
            daemon: Mutex::default(),
            callers: Arc::default(),
            ended: Wakeup::new(),
            serving: AtomicU32::new(simulation::OUTSIDE),
            kills: AtomicU32::new(0),
        }));
        let now = efc_tasks::time::now();
        let root = Inode {
            lookups: 1,
            users: 1,
            attr: Attr { mode: libc::S_IFDIR | 0o777, ..Attr::default() },
            attr_until: now,
            attr_version: 0,
            pages: BTreeMap::new(),
            epoch: 0,
            reads: 0,
            lock: Arc::default(),
            mode: Mode::default(),
        };
        kernel.0.tables().inodes.insert(ROOT, root);
        kernel.start(memfd_new());
        kernel
    }

    /// Starts a daemon with this saved state.
    fn start(&self, memfd: OwnedFd) {
        static PROCESSES: AtomicU32 = AtomicU32::new(1);
        let process = PROCESSES.fetch_add(1, Ordering::Relaxed);
        self.0.serving.store(process, Ordering::Relaxed);
        simulation::in_process(process, || {
            let is_of_several = !self.0.several.is_empty();
            let open = if is_of_several { State::open_of_several } else { State::open };
            let state = Arc::new(open(memfd.try_clone().unwrap()).expect("a state"));
            let is_successor = state.is_resumed();
            let (root, fileid) = if is_of_several {
                (own_root(), ROOT)
            } else {
                (self.0.nas.root(), self.0.nas.attr("").unwrap().fileid)
            };
            if !is_successor {
                state.set_root(&Node { handle: root.as_bytes().to_vec(), fileid, kind: libc::S_IFDIR });
            }
            let session_config = SessionConfig { passthrough: self.0.registry.is_some(), ..SessionConfig::default() };
            let weak = Arc::downgrade(&self.0);
            let tap = move |name: u64, error: i32, content: &[u8]| {
                let kernel = weak.upgrade().filter(|kernel| kernel.serving.load(Ordering::Relaxed) == process);
                kernel.is_some_and(|kernel| kernel.answered(name, error, content))
            };
            let session = Session::simulated(state.clone(), session_config, Box::new(tap)).unwrap();
            let ignores_case = self.0.nas.options().ignores_case;
            let properties = Properties { read_max: 1 << 17, write_max: 1 << 17, ignores_case };
            let client = self.0.storage();
            let (notify, callers) = (Arc::new(Notified(Arc::downgrade(&self.0))), self.0.callers.clone());
            let efc = Arc::new(Efc::new(client, properties, state.clone(), notify, callers, self.0.settings.clone()));
            if is_successor {
                efc.reap_orphans();
                drop_unclaimed(session.clone());
            }
            *self.0.daemon.lock().unwrap() = Some(Daemon { process, session, efc, state, memfd });
        });
    }

    /// SIGKILL of the daemon, and a successor that the kernel delivers again to what is unanswered.
    pub fn kill_daemon(&self) {
        log::debug!("the daemon is killed");
        self.0.kills.fetch_add(1, Ordering::Relaxed);
        let old = self.0.daemon.lock().unwrap().take().expect("a daemon");
        let memfd = copy(&old.memfd);
        self.0.serving.store(simulation::OUTSIDE, Ordering::Relaxed);
        let uniques: Vec<u64> = {
            let mut tables = self.0.tables();
            // From now on the old one's answers are to requests that nobody knows.
            tables.pending.iter_mut().for_each(|(unique, pending)| pending.name = name_of_resent(*unique));
            tables.pending.keys().copied().collect()
        };
        let simulation = simulation::current().expect("a simulation");
        simulation.kill(old.process);
        simulation::in_process(old.process, || drop(old));
        self.start(memfd);
        for unique in uniques {
            self.deliver(unique, true);
        }
    }

    fn deliver(&self, unique: u64, resent: bool) {
        let request = {
            let tables = self.0.tables();
            let Some(pending) = tables.pending.get(&unique) else { return };
            (pending.make)(pending.name, resent)
        };
        log::debug!("{unique} of {}, node {:x}, {resent}: {:.200?}", request.pid, request.node, request.operation);
        self.with_daemon(|daemon| daemon.session.deliver(request, &*daemon.efc));
    }

    fn with_daemon<T>(&self, act: impl FnOnce(&Daemon) -> T) -> T {
        let (process, efc, state, session, memfd) = {
            let daemon = self.0.daemon.lock().unwrap();
            let daemon = daemon.as_ref().expect("a daemon");
            let memfd = daemon.memfd.as_fd().try_clone_to_owned().unwrap();
            (daemon.process, daemon.efc.clone(), daemon.state.clone(), daemon.session.clone(), memfd)
        };
        let daemon = Daemon { process, efc, state, session, memfd };
        simulation::in_process(process, || act(&daemon))
    }

    pub fn nas(&self) -> &Nas {
        &self.0.nas
    }

    /// Requests that were sent so far.
    pub fn requests(&self) -> u64 {
        self.0.tables().requests
    }

    /// The file system that is served now.
    pub fn efc(&self) -> Arc<Efc<Sources<Client>>> {
        self.with_daemon(|daemon| daemon.efc.clone())
    }

    /// The saved state as it is now.
    pub fn state(&self) -> Arc<State> {
        self.with_daemon(|daemon| daemon.state.clone())
    }

    /// SIGKILL of an application's task.
    pub fn kill(&self, task: Task) {
        self.0.callers.killed.lock().unwrap().insert(task.tid);
        let uniques: Vec<u64> = {
            let tables = self.0.tables();
            tables.pending.iter().filter(|(_, pending)| pending.tid == task.tid).map(|(unique, _)| *unique).collect()
        };
        self.with_daemon(|daemon| uniques.iter().for_each(|unique| daemon.efc.interrupt(*unique)));
    }

    /// Has the process of this task been killed?
    pub fn is_killed(&self, task: Task) -> bool {
        self.0.callers.is_killed(task.tid)
    }

    /// The process of an application's task ends by itself, and closes its files.
    pub fn set_exiting(&self, task: Task) {
        self.0.callers.exiting.lock().unwrap().insert(task.tid);
    }

    /// Sends a request and waits for its answer.
    pub async fn ask(&self, task: Task, node: u64, operation: impl Fn() -> Operation + Send + 'static) -> Raw {
        let (answer, answered) = oneshot::channel();
        let unique = {
            let mut tables = self.0.tables();
            tables.requests += 1;
            let unique = tables.requests * 2;
            let make = move |name: u64, resent: bool| Request {
                unique,
                name,
                resent,
                node,
                uid: task.uid,
                gid: task.uid,
                pid: task.tid,
                operation: operation(),
            };
            tables.pending.insert(unique, Pending { tid: task.tid, name: unique, make: Box::new(make), answer });
            unique
        };
        self.deliver(unique, false);
        answered.await.expect("every request is answered")
    }

    fn version(&self) -> u64 {
        self.0.tables().attr_version
    }

    fn lock_of(&self, node: u64) -> Arc<RwLock<()>> {
        self.0.tables().inodes.get(&node).map(|inode| inode.lock.clone()).unwrap_or_default()
    }

    /// LOOKUP, as a walk does for a name that is not trusted any more.
    async fn look_up(&self, task: Task, parent: u64, name: &[u8]) -> Done<u64> {
        let (asked, version) = (name.to_vec(), self.version());
        let answer = self.ask(task, parent, move || Operation::Lookup { name: asked.clone() }).await;
        let mut tables = self.0.tables();
        match answer {
            Ok(content) => {
                let entry = Content(&content).entry().ok_or(libc::EIO)?;
                tables.take_entry(parent, name, &entry, version);
                Ok(entry.node)
            }
            Err(errno) => {
                if errno != libc::ENOMEM && errno != libc::EINTR {
                    tables.dentries.remove(&(parent, name.to_vec()));
                }
                Err(errno)
            }
        }
    }

    /// The node of a name, trusted as long as the daemon said, or asked anew.
    pub async fn walk_name(&self, task: Task, parent: u64, name: &str, is_trusting: bool) -> Done<u64> {
        let known = {
            let tables = self.0.tables();
            let dentry = tables.dentries.get(&(parent, name.as_bytes().to_vec()));
            dentry.filter(|dentry| is_trusting && dentry.until > efc_tasks::time::now()).map(|dentry| dentry.node)
        };
        match known {
            Some(node) => Ok(node),
            None => self.look_up(task, parent, name.as_bytes()).await,
        }
    }

    fn hold(&self, node: u64) -> Held {
        if let Some(inode) = self.0.tables().inodes.get_mut(&node) {
            inode.users += 1;
        }
        Held { kernel: self.clone(), node }
    }

    async fn walk_once(&self, task: Task, path: &str, is_trusting: bool) -> Done<Held> {
        let mut held = self.hold(ROOT);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            held = self.hold(self.walk_name(task, held.node, name, is_trusting).await?);
        }
        Ok(held)
    }

    /// Does something with what a path leads to; once more, with all names asked anew, if that is ESTALE.
    async fn at_path<T>(&self, task: Task, path: &str, act: impl AsyncFn(u64) -> Done<T>) -> Done<T> {
        for is_trusting in [true, false] {
            let result = match self.walk_once(task, path, is_trusting).await {
                Ok(held) => act(held.node).await,
                Err(errno) => Err(errno),
            };
            if result.as_ref().err() != Some(&libc::ESTALE) || !is_trusting {
                return result;
            }
        }
        unreachable!("the second walk is the last one")
    }

    fn split(path: &str) -> (&str, &str) {
        path.rsplit_once('/').unwrap_or(("", path))
    }

    /// Does something in the directory of a path, whose lock is held.
    async fn in_directory<T>(&self, task: Task, path: &str, act: impl AsyncFn(u64, &str) -> Done<T>) -> Done<T> {
        let (dir, name) = Self::split(path);
        self.at_path(task, dir, async |parent| {
            let lock = self.lock_of(parent);
            let _locked = lock.write().await;
            act(parent, name).await
        })
        .await
    }

    /// open(2) of a file; with O_CREAT and O_EXCL as given.
    pub async fn open(&self, task: Task, path: &str, flags: i32) -> Done<File> {
        if flags & libc::O_CREAT != 0 {
            let created = self.create(task, path, flags).await;
            if created != Err(libc::EEXIST) || flags & libc::O_EXCL != 0 {
                return created;
            }
        }
        let file = self.at_path(task, path, async |node| self.open_node(task, node, flags).await).await?;
        if flags & libc::O_TRUNC != 0 {
            let change = SetAttr { size: Some(0), fh: Some(file.fh), ..SetAttr::default() };
            if let Err(errno) = self.set(task, file.node, change).await {
                let _ = self.close(task, file).await;
                return Err(errno);
            }
        }
        Ok(file)
    }

    pub async fn open_node(&self, task: Task, node: u64, flags: i32) -> Done<File> {
        let asked = (flags & !(libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC)) as u32;
        let is_unasked = self.0.tables().opens_unasked;
        let opened = if is_unasked {
            Err(libc::ENOSYS)
        } else {
            self.ask(task, node, move || Operation::Open { flags: asked }).await
        };
        if opened == Err(libc::ENOSYS) {
            return Ok(self.open_unasked(node, flags));
        }
        let content = opened?;
        let opened = Content(&content).open().ok_or(libc::EIO)?;
        let mut tables = self.0.tables();
        if opened.flags & (FOPEN_KEEP_CACHE | FOPEN_DIRECT_IO) == 0 {
            tables.drop_pages(node, 0, u64::MAX);
        }
        if let Some(inode) = tables.inodes.get_mut(&node) {
            inode.users += 1;
            inode.mode.enter(&opened, self.0.registry.as_deref());
        }
        Ok(File { node, fh: opened.fh, flags, open_flags: opened.flags })
    }

    /// An open that the daemon hears nothing of.
    fn open_unasked(&self, node: u64, flags: i32) -> File {
        let mut tables = self.0.tables();
        tables.opens_unasked = true;
        if let Some(inode) = tables.inodes.get_mut(&node) {
            inode.users += 1;
        }
        File { node, fh: 0, flags, open_flags: FOPEN_KEEP_CACHE }
    }

    /// `EEXIST` here also says that the name is known: the caller opens it.
    async fn create(&self, task: Task, path: &str, flags: i32) -> Done<File> {
        self.in_directory(task, path, async |parent, name| {
            match self.walk_name(task, parent, name, false).await {
                Ok(_) => return Err(libc::EEXIST),
                Err(libc::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
            let (asked, version) = (name.as_bytes().to_vec(), self.version());
            let content = self
                .ask(task, parent, move || Operation::Create {
                    name: asked.clone(),
                    mode: libc::S_IFREG | 0o666,
                    umask: 0,
                    flags: flags as u32,
                })
                .await?;
            let (entry, opened) = Content(&content).create().ok_or(libc::EIO)?;
            let mut tables = self.0.tables();
            tables.take_entry(parent, name.as_bytes(), &entry, version);
            let inode = tables.inodes.get_mut(&entry.node).expect("taken");
            inode.users += 1;
            inode.mode.enter(&opened, self.0.registry.as_deref());
            Ok(File { node: entry.node, fh: opened.fh, flags, open_flags: opened.flags })
        })
        .await
    }

    /// Attributes that may be believed, asked for if need be; with `file`, through it.
    pub async fn attributes(&self, task: Task, node: u64, file: Option<File>) -> Done<Attr> {
        let fresh = {
            let tables = self.0.tables();
            let inode = tables.inodes.get(&node).ok_or(libc::ESTALE)?;
            (inode.attr_until > efc_tasks::time::now()).then_some(inode.attr)
        };
        match fresh {
            Some(attr) => Ok(attr),
            None => self.ask_attributes(task, node, file).await,
        }
    }

    async fn ask_attributes(&self, task: Task, node: u64, file: Option<File>) -> Done<Attr> {
        let (version, fh) = (self.version(), file.map(|file| file.fh));
        let content = self.ask(task, node, move || Operation::Getattr { fh }).await?;
        let (attr, ttl) = Content(&content).attr().ok_or(libc::EIO)?;
        self.0.tables().take_attributes(node, &attr, ttl, version);
        Ok(attr)
    }

    /// stat(2)
    pub async fn stat(&self, task: Task, path: &str) -> Done<Attr> {
        self.at_path(task, path, async |node| self.attributes(task, node, None).await).await
    }

    /// read(2) at a place; as much as there is.
    pub async fn read(&self, task: Task, file: File, offset: u64, length: usize) -> Done<Vec<u8>> {
        if file.open_flags & FOPEN_DIRECT_IO != 0 {
            return self.ask_read(task, file, offset, length).await;
        }
        if file.open_flags & FOPEN_PASSTHROUGH != 0 {
            let tables = self.0.tables();
            return Ok(tables.inodes.get(&file.node).ok_or(libc::ESTALE)?.mode.read(offset, length));
        }
        let end = offset + length as u64;
        let is_known = {
            let tables = self.0.tables();
            let inode = tables.inodes.get(&file.node).ok_or(libc::ESTALE)?;
            inode.attr_until > efc_tasks::time::now() && end <= inode.attr.size
        };
        if !is_known {
            self.ask_attributes(task, file.node, Some(file)).await?;
        }
        let mut data = Vec::new();
        let mut at = offset;
        while at < end {
            let (size, page) = {
                let tables = self.0.tables();
                let inode = tables.inodes.get(&file.node).ok_or(libc::ESTALE)?;
                (inode.attr.size, inode.pages.get(&(at / PAGE)).cloned())
            };
            if at >= size {
                break;
            }
            let page = match page {
                Some(page) => page,
                None => self.fill_page(task, file, at / PAGE).await?,
            };
            // The size may have been learned anew with the page.
            let size = self.0.tables().inodes.get(&file.node).map_or(size, |inode| inode.attr.size);
            let stop = end.min(size).min((at / PAGE + 1) * PAGE);
            if stop <= at {
                break;
            }
            data.extend_from_slice(&page[(at % PAGE) as usize..(at % PAGE + (stop - at)) as usize]);
            at = stop;
        }
        Ok(data)
    }

    /// A READ as the kernel sends it, past its pages.
    pub async fn ask_read(&self, task: Task, file: File, offset: u64, length: usize) -> Done<Vec<u8>> {
        let File { fh, flags, .. } = file;
        let size = length as u32;
        self.ask(task, file.node, move || Operation::Read { fh, offset, size, flags: flags as u32 }).await
    }

    /// ioctl(2) that takes and gives these bytes.
    pub async fn ioctl(&self, task: Task, file: File, command: u32, data: &[u8]) -> Done<Vec<u8>> {
        let (fh, data) = (file.fh, data.to_vec());
        let answer = self.ask(task, file.node, move || Operation::Ioctl { fh, command, data: data.clone() }).await?;
        Content(&answer).ioctl().map(<[u8]>::to_vec).ok_or(libc::EIO)
    }

    async fn fill_page(&self, task: Task, file: File, page: u64) -> Done<Vec<u8>> {
        let (epoch, version) = {
            let mut tables = self.0.tables();
            let version = tables.attr_version;
            let inode = tables.inodes.get_mut(&file.node).ok_or(libc::ESTALE)?;
            inode.reads += 1;
            (inode.epoch, version)
        };
        let read = self.ask_read(task, file, page * PAGE, PAGE as usize).await;
        let mut tables = self.0.tables();
        let next = tables.next_version();
        let Some(inode) = tables.inodes.get_mut(&file.node) else { return Err(libc::ESTALE) };
        inode.reads -= 1;
        let result = read.map(|mut data| {
            let end = page * PAGE + data.len() as u64;
            if (data.len() as u64) < PAGE && inode.attr_version <= version && end < inode.attr.size {
                inode.attr.size = end;
                inode.attr_version = next;
            }
            data.resize(PAGE as usize, 0);
            if inode.epoch == epoch {
                inode.pages.insert(page, data.clone());
            }
            data
        });
        drop(tables);
        self.0.ended.notify_waiters();
        result
    }

    /// write(2) at a place; at the end of a file that is open with O_APPEND.
    pub async fn write(&self, task: Task, file: File, offset: u64, data: &[u8]) -> Done<u64> {
        let lock = self.lock_of(file.node);
        let _locked = lock.write().await;
        let offset = if file.flags & libc::O_APPEND != 0 {
            self.attributes(task, file.node, Some(file)).await?.size
        } else {
            offset
        };
        self.send_write(task, file, offset, data, 0).await?;
        let mut tables = self.0.tables();
        let version = tables.next_version();
        let Some(inode) = tables.inodes.get_mut(&file.node) else { return Err(libc::ESTALE) };
        let end = offset + data.len() as u64;
        inode.attr.size = inode.attr.size.max(end);
        (inode.attr_version, inode.attr_until) = (version, efc_tasks::time::now());
        inode.epoch += 1; // the kernel's lock of a page keeps READs of it out meanwhile
        if file.open_flags & FOPEN_DIRECT_IO != 0 {
            tables.drop_pages(file.node, offset / PAGE, end / PAGE);
            return Ok(offset);
        }
        for (index, byte) in data.iter().enumerate() {
            let at = offset + index as u64;
            if let Some(page) = inode.pages.get_mut(&(at / PAGE)) {
                page[(at % PAGE) as usize] = *byte;
            }
        }
        Ok(offset)
    }

    /// A page of a shared mapping is written back.
    pub async fn write_back(&self, task: Task, file: File, offset: u64, data: &[u8]) -> Done<()> {
        self.send_write(task, file, offset, data, 1).await
    }

    async fn send_write(&self, task: Task, file: File, offset: u64, data: &[u8], write_flags: u32) -> Done<()> {
        let (data, length) = (Bytes::copy_from_slice(data), data.len());
        let File { node, fh, flags, .. } = file;
        let write = move || Operation::Write { fh, offset, data: data.clone(), flags: flags as u32, write_flags };
        let content = self.ask(task, node, write).await?;
        let written = Content(&content).written().ok_or(libc::EIO)?;
        assert_eq!(written as usize, length, "a WRITE is taken whole");
        Ok(())
    }

    /// fsync(2)
    pub async fn fsync(&self, task: Task, file: File) -> Done<()> {
        let fh = file.fh;
        self.ask(task, file.node, move || Operation::Fsync { fh, datasync: false }).await.map(drop)
    }

    /// close(2) of the only descriptor; the RELEASE goes out without being waited for.
    pub async fn close(&self, task: Task, file: File) -> Done<()> {
        let flushed = if file.open_flags & FOPEN_NOFLUSH != 0 { Ok(()) } else { self.flush(task, file).await };
        self.release(file);
        flushed
    }

    /// close(2) of one of several descriptors.
    pub async fn flush(&self, task: Task, file: File) -> Done<()> {
        let fh = file.fh;
        if self.0.tables().flushes_unasked {
            return Ok(());
        }
        let flushed = self.ask(task, file.node, move || Operation::Flush { fh }).await.map(drop);
        if flushed == Err(libc::ENOSYS) {
            self.0.tables().flushes_unasked = true;
            return Ok(());
        }
        flushed
    }

    fn release(&self, file: File) {
        let mut tables = self.0.tables();
        if file.fh == 0 {
            tables.inodes.get_mut(&file.node).into_iter().for_each(|inode| inode.users -= 1);
            return;
        }
        tables.releases += 1;
        if let Some(inode) = tables.inodes.get_mut(&file.node) {
            inode.mode.leave(file.open_flags);
        }
        drop(tables);
        let kernel = self.clone();
        efc_tasks::spawn_outside(async move {
            let (fh, flags) = (file.fh, file.flags as u32);
            let released = move || Operation::Release { fh, flags, release_flags: 0 };
            let _ = kernel.ask(Task { tid: 0, uid: 0 }, file.node, released).await;
            let mut tables = kernel.0.tables();
            tables.releases -= 1;
            if let Some(inode) = tables.inodes.get_mut(&file.node) {
                inode.users -= 1;
            }
            drop(tables);
            kernel.0.ended.notify_waiters();
        });
    }

    /// Ends when all RELEASEs are answered.
    pub async fn released(&self) {
        self.0.until(|| self.0.tables().releases == 0).await;
    }

    /// SETATTR, with the inode's lock held.
    async fn set(&self, task: Task, node: u64, change: SetAttr) -> Done<Attr> {
        let lock = self.lock_of(node);
        let _locked = lock.write().await;
        let version = self.version();
        let content = self.ask(task, node, move || Operation::Setattr(change)).await?;
        let (attr, ttl) = Content(&content).attr().ok_or(libc::EIO)?;
        let mut tables = self.0.tables();
        if change.size.is_some() {
            tables.inval_attributes(node);
            tables.drop_pages(node, attr.size / PAGE, u64::MAX);
            let now = tables.attr_version;
            tables.take_attributes(node, &attr, ttl, now);
        } else {
            tables.take_attributes(node, &attr, ttl, version);
        }
        Ok(attr)
    }

    /// truncate(2), chmod(2), utimes(2)
    pub async fn setattr(&self, task: Task, path: &str, change: SetAttr) -> Done<Attr> {
        self.at_path(task, path, async |node| self.set(task, node, change).await).await
    }

    /// What makes an object other than an open file.
    async fn make(
        &self,
        task: Task,
        path: &str,
        operation: impl Fn(Vec<u8>) -> Operation + Clone + Send + 'static,
    ) -> Done<u64> {
        self.in_directory(task, path, async |parent, name| {
            match self.walk_name(task, parent, name, false).await {
                Ok(_) => return Err(libc::EEXIST),
                Err(libc::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
            let (asked, version, operation) = (name.as_bytes().to_vec(), self.version(), operation.clone());
            let content = self.ask(task, parent, move || operation(asked.clone())).await?;
            let entry = Content(&content).entry().ok_or(libc::EIO)?;
            self.0.tables().take_entry(parent, name.as_bytes(), &entry, version);
            Ok(entry.node)
        })
        .await
    }

    pub async fn mkdir(&self, task: Task, path: &str) -> Done<u64> {
        self.make(task, path, |name| Operation::Mkdir { name, mode: libc::S_IFDIR | 0o777, umask: 0 }).await
    }

    pub async fn symlink(&self, task: Task, target: &str, path: &str) -> Done<u64> {
        let target = target.as_bytes().to_vec();
        self.make(task, path, move |name| Operation::Symlink { name, target: target.clone() }).await
    }

    pub async fn mknod(&self, task: Task, path: &str, mode: u32) -> Done<u64> {
        self.make(task, path, move |name| Operation::Mknod { name, mode, umask: 0, rdev: 0x123 }).await
    }

    /// link(2)
    pub async fn link(&self, task: Task, from: &str, to: &str) -> Done<u64> {
        self.at_path(task, from, async |node| {
            self.make(task, to, move |new_name| Operation::Link { node, new_name }).await
        })
        .await
    }

    pub async fn readlink(&self, task: Task, path: &str) -> Done<Vec<u8>> {
        self.at_path(task, path, async |node| self.ask(task, node, || Operation::Readlink).await).await
    }

    async fn remove(&self, task: Task, path: &str, is_directory: bool) -> Done<()> {
        self.in_directory(task, path, async |parent, name| {
            let held = self.hold(self.walk_name(task, parent, name, true).await?);
            let node = held.node;
            let lock = self.lock_of(node);
            let _locked = lock.write().await;
            let asked = name.as_bytes().to_vec();
            let remove = move || match is_directory {
                true => Operation::Rmdir { name: asked.clone() },
                false => Operation::Unlink { name: asked.clone() },
            };
            let removed = self.ask(task, parent, remove).await.map(drop);
            let mut tables = self.0.tables();
            if removed.is_ok() || removed == Err(libc::EINTR) || removed == Err(libc::ENOENT) {
                tables.dentries.remove(&(parent, name.as_bytes().to_vec()));
            }
            tables.inval_attributes(node);
            tables.inval_attributes(parent);
            drop(tables);
            removed
        })
        .await
    }

    pub async fn unlink(&self, task: Task, path: &str) -> Done<()> {
        self.remove(task, path, false).await
    }

    pub async fn rmdir(&self, task: Task, path: &str) -> Done<()> {
        self.remove(task, path, true).await
    }

    /// rename(2), within one directory or between two.
    pub async fn rename(&self, task: Task, from: &str, to: &str) -> Done<()> {
        let (to_dir, to_name) = Self::split(to);
        let target = self.at_path(task, to_dir, async |node| Ok(self.hold(node))).await?;
        let new_parent = target.node;
        self.at_path(task, Self::split(from).0, async |parent| {
            let name = Self::split(from).1;
            let (first, second) = (self.lock_of(parent.min(new_parent)), self.lock_of(parent.max(new_parent)));
            let _first = first.write().await;
            let _second = if parent == new_parent { None } else { Some(second.write().await) };
            let moved = self.hold(self.walk_name(task, parent, name, true).await?);
            let replaced = self.walk_name(task, new_parent, to_name, true).await.map(|node| self.hold(node));
            let (old, new) = (name.as_bytes().to_vec(), to_name.as_bytes().to_vec());
            let (sent_old, sent_new) = (old.clone(), new.clone());
            let rename =
                move || Operation::Rename { name: sent_old.clone(), new_parent, new_name: sent_new.clone(), flags: 0 };
            let renamed = self.ask(task, parent, rename).await.map(drop);
            let mut tables = self.0.tables();
            match renamed {
                Ok(()) => {
                    let dentry = tables.dentries.remove(&(parent, old));
                    dentry.map(|dentry| tables.dentries.insert((new_parent, new), dentry));
                }
                Err(libc::EINTR) => {
                    tables.dentries.remove(&(parent, old));
                    tables.dentries.remove(&(new_parent, new));
                }
                Err(_) => {}
            }
            let replaced = replaced.as_ref().ok().map(|held| held.node);
            for node in [Some(moved.node), replaced, Some(parent), Some(new_parent)].into_iter().flatten() {
                tables.inval_attributes(node);
            }
            drop(tables);
            renamed
        })
        .await
    }

    /// opendir(3)
    pub async fn opendir(&self, task: Task, path: &str) -> Done<File> {
        self.at_path(task, path, async |node| {
            let content = self.ask(task, node, || Operation::Opendir { flags: 0 }).await?;
            let opened = Content(&content).open().ok_or(libc::EIO)?;
            if let Some(inode) = self.0.tables().inodes.get_mut(&node) {
                inode.users += 1;
            }
            Ok(File { node, fh: opened.fh, flags: 0, open_flags: opened.flags })
        })
        .await
    }

    /// One page of a listing, from `offset` on.
    pub async fn page(&self, task: Task, dir: File, offset: u64, size: u32, plus: bool) -> Done<Vec<Listed>> {
        let (fh, version) = (dir.fh, self.version());
        let read = move || match plus {
            true => Operation::Readdirplus { fh, offset, size },
            false => Operation::Readdir { fh, offset, size },
        };
        let content = self.ask(task, dir.node, read).await?;
        let listed = Content(&content).listed(plus).ok_or(libc::EIO)?;
        let mut tables = self.0.tables();
        for listed in &listed {
            if let Some(entry) = &listed.entry {
                assert!(listed.name != b"." && listed.name != b"..", "no lookup of these is counted");
                tables.take_entry(dir.node, &listed.name, entry, version);
            }
        }
        Ok(listed)
    }

    pub async fn closedir(&self, task: Task, dir: File) {
        let fh = dir.fh;
        self.ask(task, dir.node, move || Operation::Releasedir { fh }).await.expect("it is open");
        if let Some(inode) = self.0.tables().inodes.get_mut(&dir.node) {
            inode.users -= 1;
        }
    }

    /// All names of a directory but `.` and `..`, as they come.
    pub async fn list(&self, task: Task, path: &str, size: u32, plus: bool) -> Done<Vec<String>> {
        let dir = self.opendir(task, path).await?;
        let (mut names, mut offset) = (Vec::new(), 0);
        let result = loop {
            match self.page(task, dir, offset, size, plus).await {
                Err(errno) => break Err(errno),
                Ok(page) if page.is_empty() => break Ok(names),
                Ok(page) => {
                    offset = page.last().expect("not empty").offset;
                    let name = |listed: Listed| String::from_utf8(listed.name).expect("a name of ours");
                    names.extend(page.into_iter().map(name).filter(|name| name != "." && name != ".."));
                }
            }
        };
        self.closedir(task, dir).await;
        result
    }

    pub async fn blocks_free(&self, task: Task, path: &str) -> Done<u64> {
        self.at_path(task, path, async |node| {
            let content = self.ask(task, node, || Operation::Statfs).await?;
            Content(&content).blocks_free().ok_or(libc::EIO)
        })
        .await
    }

    /// Memory is short: forgets all that is not open. (A name that is trusted still is asked for anew.)
    pub fn forget_unused(&self) {
        let mut tables = self.0.tables();
        tables.dentries.clear();
        let unused: Vec<u64> =
            tables.inodes.iter().filter(|(_, inode)| inode.users == 0).map(|(node, _)| *node).collect();
        let forgotten: Vec<(u64, u64)> =
            unused.iter().map(|node| (*node, tables.inodes.remove(node).expect("found").lookups)).collect();
        drop(tables);
        self.with_daemon(|daemon| forgotten.iter().for_each(|(node, lookups)| daemon.efc.forget(*node, *lookups)));
    }

    /// Runs something to its end, with all that it leaves to be done.
    pub async fn settled(&self) {
        self.released().await;
        self.efc().0.inodes.all_settled().await;
    }

    /// How often the daemon was killed.
    pub fn kills(&self) -> u32 {
        self.0.kills.load(Ordering::Relaxed)
    }

    /// What is left when all is closed and forgotten: nothing, but the root.
    pub fn assert_nothing_leaked(&self) {
        self.assert_nothing_left();
        assert_eq!(self.state().node_count(), 1, "nodes whose lookups nobody gives back");
    }

    /// The same, but for lookups: of a request that a dying daemon had executed and not answered, the next one counts them again.
    pub fn assert_nothing_left(&self) {
        self.forget_unused();
        let state = self.state();
        assert_eq!(state.handles(), [], "open handles of which the kernel does not know");
        assert_eq!(state.orphans(), [], "silly names without an open file");
        assert_eq!(state.intents(), 0, "intents of requests that are answered");
        let efc = self.efc();
        assert!(!efc.0.inodes.is_any_abandoned(), "abandoned mutations");
        assert!(!efc.0.inodes.is_any_open(), "files that count as open");
        assert_eq!(efc.uncommitted_bytes(), 0, "bytes that wait for COMMIT");
        let hidden = |name: &String| name.starts_with(".nfs");
        assert!(!self.0.nas.names("").iter().any(hidden), "silly files are left: {:?}", self.0.nas.names(""));
    }
}
