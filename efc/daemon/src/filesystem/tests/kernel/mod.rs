//! The kernel's part of a mount, by the rules of Linux's FUSE: lookup counts, names, attributes and pages that it keeps and
//! lets go, locks of inodes and directories, requests that are answered once and delivered again to the next daemon.
//!
//! A [`Kernel`] is one node with one mount. Its methods are system calls of a [`Task`]; each may run in a task of its own.

mod daemons;
mod files;
mod names;
mod paths;
mod settings;
mod tables;

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

use tables::{Held, Inode, Notified, Pending, Tables};

pub use settings::{behind, bounded, sealed, settings};

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

impl Shared {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    /// Ends when no READ of the node is under way.
    async fn until_read(&self, node: u64) {
        let is_read = || self.tables().inodes.get(&node).is_some_and(|inode| inode.reads > 0);
        self.until(|| !is_read()).await;
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

impl Kernel {
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
