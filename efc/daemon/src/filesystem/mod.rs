//! The file system: FUSE requests on one side, NFSv3 calls on the other.
//!
//! Each request is one task ([`efc_tasks::spawn`]). Operations are async functions that return a [`Response`] or an
//! [`Errno`]; [`Inner::serve`] is the one place that answers the kernel. What must outlive this process (node ids, open
//! handles with their credentials, open-unlinked files, data that waits for COMMIT) is in the saved state. What is kept
//! here may be lost at any moment: what is known of files, each at its [`Inode`], and pages of directories.
//!
//! The consistency mode ([`Freshness`]) decides what may be answered without asking the server. The permit that it
//! grants travels with the [`Answer`], and is held until the kernel has that.
//!
//! Written data is in the saved state when `write(2)` returns, and on the server's stable storage when `fsync(2)` or
//! `close(2)` does ([`behind`]). All pods of a node share this one session, so they see each other's writes at once.

mod ahead;
mod answer;
mod at_hand;
mod attributes;
mod behind;
mod blocks;
mod callers;
mod directories;
mod failures;
mod files;
mod growth;
mod interrupts;
mod latency;
mod listing;
mod mutations;
mod namespace;
mod once;
mod orphans;
mod outside;
mod passthrough;
mod reopening;
mod saved;
mod single_flight;
mod status;
#[cfg(test)]
mod tests;
mod unopened;
mod walks;
mod warming;
mod writes;

use efc_tasks::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use efc_tasks::sync::{Mutex, OnceLock};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use efc_backend::{Attr, Backend, Cred, FileHandle, FileType, Properties, Seen};
use efc_buffer::Budget;
use efc_cache::blocks::{Chain, GivenBy, Level};
use efc_cache::{Admission, Freshness, Inode, Inodes, Memory, MemoryUse, Names, Permit, Took, Writes};
use efc_fuse::{Errno, Filesystem, Operation, Reply, Request, Session, passes_through};
use efc_state::{Intent, State};
use foldhash::HashMap;

use crate::saved_server;
use ahead::Ahead;
use answer::{Answer, Outcome, ReadRequest, Response, Told};
use at_hand::AtHand;
use behind::Behind;
use failures::Failures;
use interrupts::{Interrupts, Progress};
use latency::{Class, Latencies};
use mutations::Objects;
use namespace::Counted;
use orphans::Orphans;
use passthrough::Modes;
use single_flight::SingleFlight;
use unopened::Unopened;
use walks::{Note, Step, Walks};
use writes::WritePlace;

pub use ahead::{AheadSwitch, Figures as AheadFigures};
pub use attributes::format_bits;
pub use behind::WriteBehind;
pub use callers::{Credentials, id_maps};
pub use once::SessionIdentity;
pub use outside::{Backing, Backings, Callers, Notify};

/// Settings of the file system.
#[derive(Clone)]
pub struct Settings {
    /// The consistency mode.
    pub freshness: Arc<dyn Freshness>,
    /// For how long written data may be held back.
    pub write_behind: Arc<WriteBehind>,
    /// Whether files are prefetched before they are opened.
    pub ahead: Arc<AheadSwitch>,
    /// Memory for data that the server has not committed, in bytes.
    pub uncommitted_bytes_max: u64,
    /// Memory for what is known of inodes, names and directories, in bytes.
    pub metadata_bytes_max: u64,
    /// How many returned names open directories may remember.
    pub listed_names_max: usize,
    /// Memory for what open directories have at hand of their listings, in bytes.
    pub at_hand_bytes_max: u64,
    /// How much of a listing the server is asked for at a time, in bytes.
    pub page_bytes: u32,
    /// Memory for data on its way to applications.
    pub buffers: Budget,
    /// Caches for blocks of data, in the order in which they are asked.
    pub levels: Vec<Arc<dyn Level>>,
    /// For how long a file must have been unchanged before its blocks are read for others.
    pub rest: Duration,
    /// Registers files of the node for passthrough, in a session that has negotiated it.
    pub backings: Option<Arc<dyn Backings>>,
    /// The kernel opens files by itself, and this credential is used for all calls.
    pub unopened: Option<Cred>,
}

/// The dataset as a file system.
pub struct Efc<B: Backend>(Arc<Inner<B>>);

/// Everything that tasks share.
struct Inner<B: Backend> {
    /// A reference to itself, for [`Inner::arc`].
    own: Weak<Inner<B>>,
    backend: B,
    properties: Properties,
    state: Arc<State>,
    notifier: Arc<dyn Notify>,
    /// Memory for data on its way to applications.
    buffers: Budget,
    /// Caches for blocks of data, if there are any.
    blocks: Option<Arc<Chain>>,
    /// For how long a file must have been unchanged before its blocks are shared.
    rest: Duration,
    /// The last READ was answered without attributes, so the version of its data is unknown.
    reads_without_version: AtomicBool,
    /// All that is known of files, each at its inode.
    inodes: Inodes,
    /// The consistency mode: what of that may be given without asking.
    freshness: Arc<dyn Freshness>,
    names: Names,
    /// The memory of inodes and names.
    memory: Arc<Memory>,
    callers: Arc<dyn Callers>,
    interrupts: Arc<Interrupts>,
    open: Mutex<OpenFiles>,
    /// What open directories have at hand of their listings.
    at_hand: Arc<AtHand>,
    /// Bytes of a listing that are asked for at a time.
    page_bytes: u32,
    modes: Modes,
    /// Files that are made longer for the kernel.
    growing: SingleFlight<FileHandle>,
    /// `None`: the kernel asks for each open of a file.
    unopened: Option<Unopened>,
    writes: Writes,
    behind: Behind,
    failures: Failures,
    orphans: Orphans,
    walks: Walks,
    ahead: Ahead,
    latencies: Latencies,
    silly_names: AtomicU64,
    /// Calls that have changed something at the server.
    changes: AtomicU64,
    /// The fsid of the dataset's root; in a session begun by 0.1.0 it is empty until the server was asked.
    root_fsid: OnceLock<u64>,
}

/// Open files and directories by fh.
#[derive(Default)]
struct OpenFiles {
    files: HashMap<u64, Arc<files::OpenFile>>,
    directories: HashMap<u64, Arc<directories::OpenDirectory>>,
}

/// The caller of a request, and whether the request may have been executed already.
struct Caller {
    cred: Cred,
    tid: u32,
    unique: u64,
    /// The kernel walks the path again after ESTALE.
    is_second_walk: bool,
    /// What a predecessor had begun for this request.
    earlier: Option<Intent>,
    may_be_done: bool,
    progress: Arc<Progress>,
}

impl<B: Backend> Efc<B> {
    /// The file system over `backend`; with a resumed `state`, files that were open are reopened.
    pub fn new(
        backend: B,
        properties: Properties,
        state: Arc<State>,
        notifier: Arc<dyn Notify>,
        callers: Arc<dyn Callers>,
        settings: Settings,
    ) -> Efc<B> {
        let root_fsid = saved_server::root_fsid(&state).map_or_else(OnceLock::new, OnceLock::from);
        listing::limit_remembered(settings.listed_names_max);
        let memory = Arc::new(Memory::new(settings.metadata_bytes_max));
        let ahead = Ahead::new(settings.ahead, &settings.buffers);
        let inner = Arc::new_cyclic(|own| Inner {
            own: own.clone(),
            backend,
            properties,
            notifier,
            inodes: Inodes::new(memory.clone()),
            freshness: settings.freshness,
            rest: settings.rest,
            blocks: Chain::new(settings.levels, settings.buffers.clone()),
            reads_without_version: AtomicBool::new(false),
            buffers: settings.buffers,
            names: Names::new(memory.clone()),
            memory,
            interrupts: Arc::new(Interrupts::new(callers.clone())),
            callers,
            open: Mutex::default(),
            at_hand: AtHand::new(settings.at_hand_bytes_max),
            page_bytes: settings.page_bytes,
            growing: SingleFlight::default(),
            modes: Modes::new(settings.backings.filter(|_| passes_through(&state)), state.clone()),
            unopened: settings.unopened.map(|cred| Unopened::new(cred, state.clone())),
            writes: Writes::new(settings.uncommitted_bytes_max, state.kept_writes_max()),
            behind: Behind::new(settings.write_behind),
            failures: Failures::load(state.clone()),
            orphans: Orphans::load(&state),
            walks: Walks::default(),
            ahead,
            latencies: Latencies::default(),
            silly_names: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            root_fsid,
            state,
        });
        inner.reopen();
        let unanswered = inner.restore_writes();
        inner.resume_sending();
        inner.answer_abandoned(unanswered);
        Efc(inner)
    }

    /// Removes open-unlinked files that nobody has open any more: their last close came while no daemon ran.
    pub fn reap_orphans(&self) {
        let inner = self.0.clone();
        efc_tasks::spawn(async move { inner.reap_unopened_orphans().await });
    }

    /// At the end of the session: sends and commits what is uncommitted, waiting at most `limit`.
    pub fn finish(&self, limit: Duration) {
        let all = async {
            self.0.inodes.all_settled().await;
            self.0.commit_all().await;
            self.0.reap_all_orphans().await;
        };
        if efc_tasks::block_on(efc_tasks::time::in_time(all, Some(limit))).is_none() {
            log::error!(
                "the server did not answer in time: {} written bytes are lost, and uncommitted data may be if it restarts",
                self.unanswered_bytes()
            );
        }
    }

    /// Waits until the server has answered all calls of killed callers, at most for `limit`.
    pub fn settle(&self, limit: Duration) {
        efc_tasks::block_on(efc_tasks::time::in_time(self.0.inodes.all_settled(), Some(limit)));
    }

    /// Files open now.
    pub fn open_files(&self) -> u64 {
        self.0.open.lock().expect("open files lock").files.len() as u64
    }

    /// The number of opens answered by passthrough, and of files open by it now.
    pub fn passed_through(&self) -> (u64, u64) {
        self.0.modes.figures()
    }

    /// Memory used for inodes, names and directories.
    pub fn metadata(&self) -> MemoryUse {
        self.0.memory.used()
    }

    /// What open directories have at hand of their listings, in bytes.
    #[cfg(test)]
    pub fn bytes_at_hand(&self) -> u64 {
        self.0.at_hand.bytes()
    }

    /// Holds back no more written data, and sends what was, waiting at most `limit`.
    pub fn stop_holding_back(&self, limit: Duration) {
        efc_tasks::block_on(efc_tasks::time::in_time(self.0.stop_holding_back(), Some(limit)));
    }

    /// Written bytes that the server has not answered.
    pub fn unanswered_bytes(&self) -> u64 {
        self.0.writes.unanswered_bytes()
    }

    /// The age of the oldest written data that was not sent.
    pub fn oldest_unsent(&self) -> Option<Duration> {
        self.0.writes.unsent_since().map(efc_tasks::time::since)
    }

    /// Appends that may overlap another node's.
    pub fn append_overlaps(&self) -> u64 {
        self.0.behind.append_overlaps()
    }

    /// The number of calls that have changed something at the server: data, attributes or names.
    pub fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Relaxed)
    }

    /// Counters of prefetched files.
    pub fn asked_ahead(&self) -> AheadFigures {
        self.0.ahead.figures()
    }

    /// What each level of the chain of caches has supplied; `None`: there is no chain.
    pub fn given_blocks(&self) -> Option<GivenBy> {
        self.0.blocks.as_ref().map(|chain| chain.given())
    }

    /// Latencies of reads that bypassed the chain of caches: from memory, and from the server.
    pub fn read_latencies(&self) -> (Took, Took) {
        (self.0.latencies.memory.took(), self.0.latencies.backend.took())
    }

    /// Latencies of requests, by class.
    pub fn operation_latencies(&self) -> impl Iterator<Item = (&'static str, Took)> {
        self.0.latencies.by_class()
    }

    /// Written bytes that wait for COMMIT.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.0.writes.bytes()
    }
}

/// After a resume: drops journal entries of a predecessor whose requests the kernel does not redeliver.
pub fn drop_unclaimed(session: Session) {
    efc_tasks::spawn(async move {
        loop {
            efc_tasks::time::sleep(REDELIVERY_TIME_MAX).await;
            if session.drop_unclaimed() {
                return;
            }
        }
    });
}

impl<B: Backend> Filesystem for Efc<B> {
    fn handle(&self, request: Request, reply: Reply) {
        let inner = self.0.clone();
        efc_tasks::spawn(async move { inner.serve(request, reply).await });
    }

    fn forget(&self, node: u64, lookups: u64) {
        self.0.forget_lookups(node, lookups);
    }

    fn interrupt(&self, unique: u64) {
        self.0.interrupts.interrupt(unique);
    }
}

impl<B: Backend> Inner<B> {
    async fn serve(self: Arc<Self>, request: Request, reply: Reply) {
        let (unique, tid) = (request.unique, request.pid);
        let (begun, class) = (efc_tasks::time::now(), Class::of(&request.operation));
        let (objects, progress) = (Objects::of(&request), Arc::default());
        let mut operation = pin!(self.execute(request, &progress));
        // Other calls of a soft mount have limits of their own ([`Backend::time_limit`]).
        let limit = objects.and_then(|_| self.backend.time_limit());
        let in_time = efc_tasks::time::in_time(operation.as_mut(), limit);
        let outcome = match interrupts::run(&self.interrupts, &progress, (unique, tid), in_time).await {
            None => Err(Errno(libc::EINTR)),
            Some(None) => Err(Errno(libc::EIO)),
            Some(Some(outcome)) => Ok(outcome),
        };
        if let Ok(Ok(_)) = &outcome {
            self.latencies.count(class, efc_tasks::time::since(begun));
        }
        match outcome {
            Err(why) => Box::pin(self.abandon((unique, objects), &progress, operation, (reply, why))).await,
            Ok(Ok(Answer { body: Response::Piped(pipe, read), permit })) => {
                if let Err(reply) = reply.piped(read.name, pipe) {
                    let again = Box::pin(self.read_to_buffer(&read)); // rare: it need not take room in each request
                    let again = interrupts::run(&self.interrupts, &progress, (unique, tid), again).await;
                    let data = again.map(|read| read.map(|(buffer, range)| Response::Data(buffer, range)));
                    let data = data.unwrap_or(Err(Errno(libc::EINTR)));
                    self.give(reply, data.map(|body| Answer { body, permit }));
                }
            }
            Ok(outcome) => self.give(reply, outcome),
        }
    }

    /// A counted reference to itself, for a task of its own.
    fn arc(&self) -> Arc<Self> {
        self.own.upgrade().expect("whoever runs this holds it")
    }

    /// Answers the kernel. The permit is held until the kernel has the answer.
    fn give(&self, reply: Reply, outcome: Outcome) {
        let Answer { body, permit } = match outcome {
            Ok(answer) => answer,
            Err(errno) => return reply.error(errno),
        };
        match body {
            Response::Empty => reply.empty(),
            Response::Entry(entry) => reply.entry(&entry),
            Response::Attr(attr, ttl) => reply.attr(&self.for_kernel(&attr), ttl),
            Response::Statx(attr, ttl) => reply.statx(&self.for_kernel(&attr), ttl),
            Response::Open(open) => reply.open(&open),
            Response::Create(entry, open) => reply.create(&entry, &open),
            Response::Data(buffer, range) => reply.data([&buffer[range], &[]]),
            Response::Blocks((first, range), None) => reply.data([&first[range], &[]]),
            Response::Blocks((first, begin), Some((second, end))) => reply.data([&first[begin], &second[end]]),
            Response::Piped(..) => unreachable!("given by the caller, who can read again"),
            Response::Bytes(bytes) => reply.data([&bytes, &[]]),
            Response::Written(count) => reply.written(count),
            Response::Statfs(statfs) => reply.statfs(&statfs),
            Response::Directory(page) => reply.directory(&page),
        }
        drop(permit);
    }

    /// Takes back lookup counts of a node that the kernel has returned, or was never given.
    fn forget_lookups(&self, node: u64, lookups: u64) {
        if !self.writes.is_empty()
            && let Some(inode) = self.inodes.by_node(node)
            && inode.has_uncommitted()
        {
            self.behind.defer_forget(node, lookups); // a successor must know the file
            return self.give_back_forgotten(&inode);
        }
        if self.state.forget_node(node, lookups) {
            self.inodes.forget(node, |inode| matches!(self.freshness.admit(inode), Admission::Hit(_)));
            self.failures.forget(node);
        }
    }

    /// Executes a request as a step of its thread's path walk ([`walks`]).
    async fn execute(self: &Arc<Self>, request: Request, progress: &Arc<Progress>) -> Outcome {
        let (tid, node, step) = (request.pid, request.node, Step::of(&request.operation));
        let is_readlink = matches!(request.operation, Operation::Readlink);
        let note = self.walks.take(tid);
        if let Some(errno) = note.as_ref().and_then(|note| note.refusal(node, step)) {
            return Err(errno);
        }
        let outcome = self.perform(request, progress, note.as_ref().is_some_and(Note::is_second_walk)).await;
        if let (Err(Errno(libc::ESTALE)), Ok(inode)) = (&outcome, self.inode(node)) {
            inode.expire(); // it is gone: no name that led to it is answered with it any more
        }
        match (note, &outcome) {
            (Some(Note::Held { .. }), Err(Errno(libc::ESTALE))) if step == Step::Open => Err(Errno(libc::ENOENT)),
            (Some(note), Err(Errno(libc::ESTALE))) if is_readlink && note.is_second_walk() => Err(Errno(libc::ENOENT)),
            (_, Err(Errno(libc::ESTALE))) if step != Step::None => {
                self.walks.note(tid, Note::Again);
                outcome
            }
            (Some(note), Ok(_)) if step == Step::Look && note.is_second_walk() => {
                self.keep_walking(tid, note);
                outcome
            }
            _ => outcome,
        }
    }

    async fn perform(self: &Arc<Self>, request: Request, progress: &Arc<Progress>, is_second_walk: bool) -> Outcome {
        let _writing = match &request.operation {
            Operation::Write { offset, data, .. } => {
                self.inode(request.node).ok().map(|inode| inode.begin_write(*offset, data.len()))
            }
            _ => None,
        };
        // A truncation that a predecessor has sent counts before opens that come after it: until here it has waited for nothing.
        let _truncating = match &request.operation {
            Operation::Setattr(change) if change.size.is_some() => self.modes.write_at_once(request.node).ok(),
            _ => None,
        };
        let Some(objects) = Objects::of(&request) else {
            return self.dispatch(request, progress, is_second_walk).await;
        };
        if request.resent {
            progress.set_sent(); // by a predecessor
        }
        self.after_abandoned(objects).await;
        let permit = self.before_change(objects).await;
        let is_of_names = !matches!(request.operation, Operation::Write { .. } | Operation::Setattr(_));
        let outcome = self.dispatch(request, progress, is_second_walk).await;
        if is_of_names && outcome.is_ok() {
            self.count_change();
        }
        outcome.map(|answer| answer.under(permit))
    }

    /// Counts a change at the server.
    fn count_change(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    async fn dispatch(self: &Arc<Self>, request: Request, progress: &Arc<Progress>, is_second_walk: bool) -> Outcome {
        let Request { unique, name, resent, node, uid, gid, pid, operation } = request;
        let caller = || {
            let earlier = resent.then(|| self.state.intent(unique)).flatten();
            let may_be_done = earlier.is_some() || (resent && !self.state.has_journal());
            Ok::<_, Errno>(Caller {
                cred: self.callers.cred(pid, uid, gid)?,
                tid: pid,
                unique,
                is_second_walk,
                earlier,
                may_be_done,
                progress: progress.clone(),
            })
        };
        if finds_nodes(&operation) {
            self.state.indexed().await; // a successor is still making it; what is open is served meanwhile
        }
        if tells_attributes(&operation) {
            self.learn_root_fsid().await?;
        }
        if resent && opens(&operation) {
            self.forget_open_of(unique);
        }
        match operation {
            Operation::Lookup { name } => self.lookup(&caller()?, node, &name).await,
            Operation::Getattr { fh } => {
                self.getattr(&caller()?, node, fh).await.map(|told| told.answer(Response::Attr))
            }
            Operation::Statx { fh, .. } => {
                self.getattr(&caller()?, node, fh).await.map(|told| told.answer(Response::Statx))
            }
            Operation::Setattr(change) => self.setattr(&caller()?, node, &change).await,
            Operation::Readlink => self.readlink(&caller()?, node).await,
            Operation::Symlink { name, target } => self.symlink(&caller()?, node, &name, &target).await,
            Operation::Mknod { name, mode, rdev, .. } => self.mknod(&caller()?, node, &name, mode, rdev).await,
            Operation::Mkdir { name, mode, .. } => self.mkdir(&caller()?, node, &name, mode).await,
            Operation::Unlink { name } => self.unlink(&caller()?, node, &name).await,
            Operation::Rmdir { name } => self.rmdir(&caller()?, node, &name).await,
            Operation::Rename { name, new_parent, new_name, flags } => {
                self.rename(&caller()?, (node, &name), (new_parent, &new_name), flags).await
            }
            Operation::Link { node: file, new_name } => self.link(&caller()?, file, node, &new_name).await,
            Operation::Open { flags } => self.open(&caller()?, node, flags).await,
            Operation::Create { name, mode, flags, .. } => self.create(&caller()?, node, &name, mode, flags).await,
            Operation::Read { fh, offset, size, flags } => {
                let read = ReadRequest { name, node, fh, offset, size, flags };
                let file = self.file_read(&read)?;
                let earlier_writes = file.inode.written(offset, size);
                efc_tasks::time::in_time(earlier_writes, self.backend.time_limit()).await.ok_or(Errno(libc::EIO))?;
                self.read(file, read).await
            }
            Operation::Write { fh, offset, data, flags, write_flags } => {
                let place = WritePlace::of(offset, flags, write_flags);
                self.write((unique, resent, progress), fh, place, data).await
            }
            Operation::Flush { fh } => self.flush(fh, pid).await,
            Operation::Fsync { fh, .. } => self.sync((unique, resent), fh).await,
            Operation::Release { fh, .. } => self.release(fh).await,
            Operation::Opendir { flags } => self.opendir(&caller()?, node, flags).await,
            Operation::Readdir { fh, offset, size } => self.readdir(fh, offset, size, false).await,
            Operation::Readdirplus { fh, offset, size } => self.readdir(fh, offset, size, true).await,
            Operation::Releasedir { fh } => self.releasedir(fh),
            // The server answers changes of a directory when they are on stable storage (RFC 1813, section 4.8).
            Operation::Fsyncdir { .. } => Ok(Response::Empty.into()),
            Operation::Statfs => self.statfs(&caller()?, node).await,
            Operation::Ioctl { fh, command, data } => self.ioctl((node, fh), command, &data).await,
            // Access: `default_permissions` lets the kernel decide, and OPEN asks the server. The rest NFSv3 lacks:
            // extended attributes, fallocate, seeking holes, server-side copies.
            Operation::Access { .. } | Operation::Other { .. } => Err(Errno(libc::ENOSYS)),
        }
    }

    /// The inode that a node stands for.
    fn inode(&self, node: u64) -> Result<Arc<Inode>, Errno> {
        if let Some(inode) = self.inodes.by_node(node) {
            return Ok(inode);
        }
        let known = self.state.node(node).ok_or(Errno(libc::ESTALE))?;
        let handle = FileHandle::new(&known.handle).ok_or(Errno(libc::ESTALE))?;
        let inode = self.inodes.of(&handle);
        self.inodes.bind(&inode, node, attributes::file_type(known.kind));
        Ok(inode)
    }

    /// Counts a lookup of the object `handle`, seen in `directory`, and describes it to the kernel.
    fn entry(&self, directory: &Arc<Inode>, handle: &FileHandle, seen: Seen<&Attr>) -> Result<Counted<'_, B>, Errno> {
        let (attr, inode) = (seen.value, self.inodes.of(handle));
        let counted = self.count_lookup(directory, &inode, attr)?;
        inode.learn(seen);
        let told = self.granted(&inode).unwrap_or_else(|| Told::once(Seen { value: *attr, asked: seen.asked }));
        let (entry_ttl, name_permit) = self.freshness.name_ttl(directory);
        Ok(counted.described(told, entry_ttl, name_permit))
    }

    /// Counts a lookup of an object that was seen in `directory` with these attributes.
    fn count_lookup(&self, directory: &Inode, inode: &Arc<Inode>, attr: &Attr) -> Result<Counted<'_, B>, Errno> {
        let (handle, kind) = (inode.handle().as_bytes().to_vec(), format_bits(attr.kind));
        let node = efc_state::Node { handle, fileid: attr.fileid, kind };
        let id = self.state.lookup_node(&node).map_err(|_| Errno(libc::ENOMEM))?;
        let counted = Counted::new(self, id, inode.clone());
        if inode.node() != Some(id) {
            self.inodes.bind(inode, id, self.state.node_kind(id).and_then(attributes::file_type));
        }
        if !inode.is_plausible(attr) {
            return Err(Errno(libc::EIO));
        }
        self.note_parent(id, directory, attr);
        Ok(counted)
    }

    /// Notes in which directory the node was seen last.
    fn note_parent(&self, node: u64, directory: &Inode, attr: &Attr) {
        if let Some(parent) = directory.node() {
            let has_other_names = attr.nlink > 1 && attr.kind != FileType::Directory;
            self.state.set_parent(node, parent, has_other_names);
        }
    }

    /// The consistency mode's permit for a call that changes these objects, to be held until the call is answered.
    async fn before_change(&self, objects: Objects) -> Permit {
        let inodes: Vec<Arc<Inode>> = objects.nodes().filter_map(|node| self.inode(node).ok()).collect();
        match self.freshness.before_change(&inodes) {
            Some(allowed) => allowed.await,
            None => Permit::unconditional(),
        }
    }

    /// The limits of a call about this object.
    fn properties_of(&self, inode: &Inode) -> Properties {
        self.backend.properties(inode.handle()).unwrap_or(self.properties)
    }

    /// A number for a silly name, unique in this session.
    fn next_silly_number(&self) -> u64 {
        (self.state.daemon_number() << 32) | self.silly_names.fetch_add(1, Ordering::Relaxed)
    }
}

/// Whether the operation opens a file or directory.
fn opens(operation: &Operation) -> bool {
    matches!(operation, Operation::Open { .. } | Operation::Create { .. } | Operation::Opendir { .. })
}

/// Whether the answer contains inode numbers.
fn tells_attributes(operation: &Operation) -> bool {
    use Operation::{Create, Getattr, Link, Lookup, Mkdir, Mknod, Readdir, Readdirplus, Setattr, Statx, Symlink};
    matches!(
        operation,
        Lookup { .. }
            | Getattr { .. }
            | Statx { .. }
            | Setattr(_)
            | Create { .. }
            | Mknod { .. }
            | Mkdir { .. }
            | Symlink { .. }
            | Link { .. }
            | Readdir { .. }
            | Readdirplus { .. }
    )
}

/// Whether the operation looks nodes up by handle. The others are about nodes that the kernel names.
fn finds_nodes(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Lookup { .. }
            | Operation::Create { .. }
            | Operation::Mknod { .. }
            | Operation::Mkdir { .. }
            | Operation::Symlink { .. }
            | Operation::Link { .. }
            | Operation::Unlink { .. }
            | Operation::Rename { .. }
            | Operation::Readdirplus { .. }
    )
}

/// By then every request that is redelivered has arrived.
const REDELIVERY_TIME_MAX: Duration = Duration::from_secs(30);
/// The node id of the dataset's root.
pub const ROOT: u64 = 1;
/// Unit of statfs, in bytes.
const STATFS_BLOCK: u64 = 4096;
/// Longest name, in bytes.
const NAME_MAX: u32 = 255;
