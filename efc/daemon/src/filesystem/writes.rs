//! Writing, and what it takes to lose nothing.
//!
//! `write(2)` returns when the server has the data, in its memory (WRITE with UNSTABLE); `fsync(2)` and `close(2)`
//! return when it is on stable storage (COMMIT). In between a server that restarts may lose it, and says so by another
//! write verifier: then everything since the last COMMIT is sent again, in order, while no new write of that file is
//! under way, since an old write sent late must not cover a newer one. For this, data is kept until it is committed,
//! within a budget for the whole daemon: at half of it files are committed in the background, at the whole of it
//! writers wait.
//!
//! What is kept lies in the saved state, and so does what it takes to send it: it outlives this daemon. A successor finds it
//! ([`Inner::restore_writes`]) and goes on as if it had written it itself. Data is copied there before it is sent, described there
//! before the application is answered, and forgotten, the oldest write first, when the server has committed it. What cannot be
//! kept, for want of memory, is committed before the application is answered.
//!
//! Some data is not kept though an application was told that it is written: in a state that an older release has made, after
//! an older release has served for a while, and what a damaged record described. The saved state marks such files with the
//! verifier of the first such write. As long as the server has that verifier nothing is lost; with another, the next
//! `fsync(2)` or `close(2)` fails with EIO.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use efc_fuse::Errno;
use efc_fuse::state::{Kept, UncommittedWrite, payload_checksum, payload_cost};
use efc_nfs::{Cred, FileHandle, Stable, Verifier};

use super::files::OpenFile;
use super::interrupts::Progress;
use super::{Answer, Inner, Response};
use crate::errno::errno;

/// Where a WRITE goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    offset: u64,
    /// To the end of the file, wherever the kernel believes that to be.
    appends: bool,
}

impl Place {
    /// `flags` are those that the file has now (fcntl(2) may have changed those of its open), `write_flags` those of FUSE. Pages
    /// of the page cache, which come from mappings, go where they belong: their WRITE names whichever open is at hand.
    pub fn of(offset: u64, flags: u32, write_flags: u32) -> Place {
        let appends = flags & libc::O_APPEND as u32 != 0 && write_flags & FUSE_WRITE_CACHE == 0;
        Place { offset, appends }
    }
}

/// In `write_flags`: the data comes from the page cache.
const FUSE_WRITE_CACHE: u32 = 1 << 0;

/// Files with uncommitted data.
pub struct Writes {
    usage: Arc<Usage>,
    files: Mutex<HashMap<u64, Arc<FileWrites>>>,
}

/// What waits for COMMIT, and its limits.
struct Usage {
    /// Data that waits.
    bytes: AtomicU64,
    /// Memory that it takes, and that of writes on their way.
    memory: AtomicU64,
    memory_max: u64,
    /// Writes that wait.
    count: AtomicU64,
    count_max: u64,
}

/// Memory for a write on its way: what no write has taken over goes back.
struct Room {
    usage: Arc<Usage>,
    memory: u64,
}

struct FileWrites {
    node: u64,
    handle: FileHandle,
    /// Held shared by a write until it is recorded, exclusively while everything is sent again.
    order: tokio::sync::RwLock<()>,
    /// One COMMIT at a time.
    committing: tokio::sync::Mutex<()>,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    /// In the order of their replies.
    chunks: Vec<Chunk>,
    /// The mark of data that is not kept.
    unkept: Option<Verifier>,
    /// Of a background commit, for the next fsync or close.
    failed: Option<Errno>,
}

#[derive(Clone)]
struct Chunk {
    offset: u64,
    data: Bytes,
    verifier: Verifier,
    cred: Cred,
    checksum: u32,
    /// In the saved state.
    record: Option<u64>,
    /// Its part of the memory in use.
    memory: u64,
}

/// Data on its way to the server.
struct Outgoing {
    data: Bytes,
    /// The copy that outlives this daemon, of which `data` is a part.
    kept: Option<Kept>,
    room: Option<Room>,
}

impl Usage {
    fn is_full(&self, memory: u64) -> bool {
        memory > self.memory_max || self.count.load(Ordering::Relaxed) >= self.count_max
    }

    fn is_half_full(&self) -> bool {
        self.memory.load(Ordering::Relaxed) * 2 >= self.memory_max
            || self.count.load(Ordering::Relaxed) * 2 >= self.count_max
    }

    fn add(&self, chunk: &Chunk) {
        self.bytes.fetch_add(chunk.data.len() as u64, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn subtract(&self, chunk: &Chunk) {
        self.bytes.fetch_sub(chunk.data.len() as u64, Ordering::Relaxed);
        self.memory.fetch_sub(chunk.memory, Ordering::Relaxed);
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Room {
    /// Hands over as much, or what is left.
    fn take(&mut self, memory: u64) -> u64 {
        let taken = memory.min(self.memory);
        self.memory -= taken;
        taken
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.usage.memory.fetch_sub(self.memory, Ordering::Relaxed);
    }
}

impl Writes {
    /// At most `memory_max` bytes and `count_max` writes wait for COMMIT.
    pub fn new(memory_max: u64, count_max: u64) -> Writes {
        let (bytes, memory, count) = Default::default();
        Writes { usage: Arc::new(Usage { bytes, memory, memory_max, count, count_max }), files: Mutex::default() }
    }

    /// Bytes that wait for COMMIT.
    pub fn bytes(&self) -> u64 {
        self.usage.bytes.load(Ordering::Relaxed)
    }

    /// Memory for a write, if it fits.
    fn reserve(&self, memory: u64) -> Option<Room> {
        let more = |used: u64| Some(used + memory).filter(|sum| !self.usage.is_full(*sum));
        self.usage.memory.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Room { usage: self.usage.clone(), memory })
    }

    /// The file with the most uncommitted bytes.
    fn largest(&self) -> Option<u64> {
        let files = self.files.lock().expect("writes lock");
        let bytes = |file: &FileWrites| file.pending.lock().expect("pending lock").bytes();
        files.values().map(|file| (bytes(file), file.node)).filter(|(bytes, _)| *bytes > 0).max().map(|(_, node)| node)
    }

    fn known(&self, node: u64) -> Option<Arc<FileWrites>> {
        self.files.lock().expect("writes lock").get(&node).cloned()
    }

    fn of(&self, node: u64, handle: &FileHandle, unkept: Option<Verifier>) -> Arc<FileWrites> {
        let mut files = self.files.lock().expect("writes lock");
        let new = || {
            Arc::new(FileWrites {
                node,
                handle: *handle,
                order: tokio::sync::RwLock::new(()),
                committing: tokio::sync::Mutex::new(()),
                pending: Mutex::new(Pending { unkept, ..Pending::default() }),
            })
        };
        files.entry(node).or_insert_with(new).clone()
    }

    /// The kernel has forgotten the file: nobody can be told any more of what failed.
    pub fn forget(&self, node: u64) {
        if let Some(file) = self.known(node) {
            file.pending.lock().expect("pending lock").failed = None;
            self.drop_if_idle(file);
        }
    }

    /// Drops the entry of a file without uncommitted data, unless a write is using it.
    fn drop_if_idle(&self, file: Arc<FileWrites>) {
        let mut files = self.files.lock().expect("writes lock");
        let is_idle = file.pending.lock().expect("pending lock").is_empty();
        if is_idle && Arc::strong_count(&file) == 2 {
            files.remove(&file.node);
        }
    }
}

impl Pending {
    fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.data.len() as u64).sum()
    }

    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.unkept.is_none() && self.failed.is_none()
    }
}

impl Inner {
    /// Takes over what a predecessor had written and not committed.
    pub(super) fn restore_writes(&self) {
        let (mut count, mut bytes) = (0, 0);
        for (record, write) in self.state.take_saved_writes() {
            let Ok(handle) = self.handle_of(write.node) else {
                log::error!("inode {}: uncommitted data of a file that is not known any more is dropped", write.node);
                self.state.remove_write(record);
                continue;
            };
            let file = self.writes.of(write.node, &handle, self.state.unkept(write.node));
            let memory = payload_cost(write.data.len());
            self.writes.usage.memory.fetch_add(memory, Ordering::Relaxed);
            (count, bytes) = (count + 1, bytes + write.data.len());
            let chunk = Chunk {
                offset: write.offset,
                data: write.data,
                verifier: write.verifier,
                cred: Cred { uid: write.uid, gid: write.gid, groups: write.groups.into() },
                checksum: write.checksum,
                record: Some(record),
                memory,
            };
            self.writes.usage.add(&chunk);
            file.pending.lock().expect("pending lock").chunks.push(chunk);
        }
        if count > 0 {
            log::info!("{count} writes of a predecessor, {bytes} bytes, wait for COMMIT");
        }
    }

    pub(super) async fn write(
        self: &Arc<Self>,
        (unique, resent, progress): (u64, bool, &Progress),
        fh: u64,
        Place { offset, appends }: Place,
        data: Bytes,
    ) -> Answer {
        let file = self.file(fh)?;
        let length = data.len();
        let _change = self.whole_files.change(file.node);
        let outgoing = self.keep(data).await;
        let writes = self.writes.of(file.node, &file.handle, self.state.unkept(file.node));
        let shared = writes.order.read().await;
        let at = if appends { self.place_append(unique, resent, &file, &outgoing.data).await? } else { offset };
        progress.set_sent();
        let result = self.write_all(&file, &writes, at, outgoing).await;
        drop(shared);
        if at != offset {
            // What the kernel keeps is wrong where the data went, and where the kernel believes that it did.
            self.notifier.inval_inode(file.node, at.min(offset) as i64, 0);
        }
        self.writes.drop_if_idle(writes);
        let is_kept = result?;
        if is_kept || !self.state.keeps_payloads() {
            self.commit_in_background(file.node);
        } else {
            self.commit(file.node).await?;
        }
        Ok(Response::Written(length as u32))
    }

    /// Copies data to where it outlives this daemon, if there is room.
    async fn keep(self: &Arc<Self>, data: Bytes) -> Outgoing {
        let room = self.make_room(payload_cost(data.len())).await;
        let kept = room.as_ref().and_then(|_| self.state.keep(&data).ok());
        let data = kept.as_ref().map_or(data, |kept| kept.bytes().clone());
        Outgoing { data, kept, room }
    }

    /// The server's idea of a file's size: another node may have appended.
    pub(super) async fn end_of_file(&self, file: &OpenFile) -> Result<u64, Errno> {
        let sent = self.attrs.stamp();
        let attr = self.client.getattr(&file.cred, &file.handle).await.map_err(|error| errno(&error))?;
        if !self.attrs.is_plausible(file.node, &attr) {
            return Err(Errno(libc::EIO));
        }
        self.attrs.learn(file.node, &attr, sent);
        Ok(attr.size)
    }

    /// Sends all of it; answers whether all that waits for COMMIT now is kept.
    async fn write_all(
        &self,
        file: &OpenFile,
        writes: &FileWrites,
        mut offset: u64,
        mut outgoing: Outgoing,
    ) -> Result<bool, Errno> {
        let mut is_kept = true;
        while !outgoing.data.is_empty() {
            let part = outgoing.data.slice(..outgoing.data.len().min(self.info.write_max as usize));
            let sent = self.attrs.stamp();
            let written = self.client.write(&file.cred, &file.handle, offset, part.clone(), Stable::Unstable).await;
            let written = match written {
                Ok(written) if written.count > 0 => written,
                Ok(_) => return Err(Errno(libc::EIO)),
                Err(error) => {
                    self.attrs.expire(file.node);
                    return Err(errno(&error));
                }
            };
            self.attrs.learn_or_expire(file.node, written.wcc.after.as_ref(), sent);
            let taken = part.slice(..part.len().min(written.count as usize));
            outgoing.data = outgoing.data.slice(taken.len()..);
            let next = offset + taken.len() as u64;
            let chunk = Chunk {
                offset,
                checksum: payload_checksum(&taken),
                data: taken,
                verifier: written.verifier,
                cred: file.cred.clone(),
                record: None,
                memory: 0,
            };
            is_kept &= self.record(writes, chunk, written.stable, &mut outgoing);
            offset = next;
        }
        Ok(is_kept)
    }

    /// Notes what the server has only in memory, for a successor too, before the application hears of the write. Answers
    /// whether a successor can send it.
    fn record(&self, writes: &FileWrites, mut chunk: Chunk, stable: Stable, outgoing: &mut Outgoing) -> bool {
        let mut pending = writes.pending.lock().expect("pending lock");
        // An earlier write that waits may be sent again: this one must follow it then, stable or not.
        if stable != Stable::Unstable && pending.chunks.is_empty() {
            return true;
        }
        if let Some(room) = &mut outgoing.room {
            chunk.memory = room.take(if outgoing.data.is_empty() { u64::MAX } else { chunk.data.len() as u64 });
        }
        chunk.record = outgoing.kept.as_ref().and_then(|kept| self.save(writes.node, kept, &chunk));
        if pending.is_empty() {
            self.state.set_uncommitted(writes.node, Some(chunk.verifier));
        }
        let is_kept = chunk.record.is_some();
        self.writes.usage.add(&chunk);
        pending.chunks.push(chunk);
        is_kept
    }

    fn save(&self, node: u64, kept: &Kept, chunk: &Chunk) -> Option<u64> {
        let write = UncommittedWrite {
            node,
            offset: chunk.offset,
            data: chunk.data.clone(),
            checksum: chunk.checksum,
            verifier: chunk.verifier,
            uid: chunk.cred.uid,
            gid: chunk.cred.gid,
            groups: chunk.cred.groups.iter().copied().take(Cred::GROUPS_MAX).collect(),
        };
        self.state.save_write(kept, &write).ok()
    }

    /// Waits until as much more memory fits the budget; `None` if all that is in use belongs to writes on their way.
    async fn make_room(self: &Arc<Self>, memory: u64) -> Option<Room> {
        loop {
            if let Some(room) = self.writes.reserve(memory) {
                return Some(room);
            }
            let node = self.writes.largest()?;
            self.commit_for_nobody(node).await;
        }
    }

    fn commit_in_background(self: &Arc<Self>, node: u64) {
        if !self.writes.usage.is_half_full() {
            return;
        }
        let is_committing = |file: Arc<FileWrites>| file.committing.try_lock().is_err();
        if self.writes.known(node).is_none_or(is_committing) {
            return;
        }
        self.commit_detached(node);
    }

    /// Commits without anybody waiting; a failure is told to the next fsync or close.
    pub(super) fn commit_detached(self: &Arc<Self>, node: u64) {
        let inner = self.clone();
        crate::executor::spawn(async move { inner.commit_for_nobody(node).await });
    }

    /// Has the file data that waits for COMMIT?
    pub(super) fn has_uncommitted(&self, node: u64) -> bool {
        self.writes.known(node).is_some() || self.state.unkept(node).is_some()
    }

    /// Commits; what fails is told to the next fsync or close, by a successor if need be.
    pub(super) async fn commit_for_nobody(&self, node: u64) {
        let Ok(Some(file)) = self.uncommitted(node) else { return };
        if let Err(failed) = self.commit_file(&file).await {
            log::error!("inode {node}: written data is lost (errno {}), as the next fsync or close will say", failed.0);
            let mut pending = file.pending.lock().expect("pending lock");
            pending.failed = Some(failed);
            self.state.set_lost(node);
        }
        self.writes.drop_if_idle(file);
    }

    /// What waits for COMMIT, or is not kept.
    fn uncommitted(&self, node: u64) -> Result<Option<Arc<FileWrites>>, Errno> {
        match (self.writes.known(node), self.state.unkept(node)) {
            (None, None) => Ok(None),
            (None, unkept) => Ok(Some(self.writes.of(node, &self.handle_of(node)?, unkept))),
            (known, _) => Ok(known),
        }
    }

    /// Commits every file.
    pub(super) async fn commit_all(&self) {
        let nodes: Vec<u64> = self.writes.files.lock().expect("writes lock").keys().copied().collect();
        for node in nodes {
            if let Err(failed) = self.commit(node).await {
                log::error!("inode {node}: data is lost (errno {})", failed.0);
            }
        }
    }

    /// Returns when all data written so far is on the server's stable storage.
    pub(super) async fn commit(&self, node: u64) -> Result<(), Errno> {
        let Some(file) = self.uncommitted(node)? else { return Ok(()) };
        let result = self.commit_file(&file).await;
        let failed = file.pending.lock().expect("pending lock").failed.take();
        if failed.is_some() {
            self.unmark(&file);
        }
        self.writes.drop_if_idle(file);
        failed.map_or(result, Err)
    }

    async fn commit_file(&self, file: &FileWrites) -> Result<(), Errno> {
        let _one = file.committing.lock().await;
        let (count, cred, unkept) = {
            let pending = file.pending.lock().expect("pending lock");
            let cred = pending.chunks.last().map_or_else(Cred::root, |chunk| chunk.cred.clone());
            (pending.chunks.len(), cred, pending.unkept)
        };
        if count == 0 && unkept.is_none() {
            return Ok(());
        }
        let sent = self.attrs.stamp();
        let committed = match self.client.commit(&cred, &file.handle).await {
            Ok(committed) => committed,
            Err(error) => {
                // Stable writes may do what COMMIT cannot; what they cannot do either is lost, and said so once.
                // For data that is not kept COMMIT was the only way.
                let result = self.write_again(file).await;
                self.unmark(file);
                return if unkept.is_some() { Err(errno(&error)) } else { result };
            }
        };
        self.attrs.learn_or_expire(file.node, committed.wcc.after.as_ref(), sent);
        let resent = if self.settle(file, count, committed.verifier) { Ok(()) } else { self.write_again(file).await };
        let lost = unkept.is_some_and(|verifier| verifier != committed.verifier);
        if lost {
            log::error!("inode {}: data that was written under an earlier daemon is lost", file.node);
        }
        self.unmark(file);
        if lost { Err(Errno(libc::EIO)) } else { resent }
    }

    /// Drops the first `count` chunks if the server committed them all.
    fn settle(&self, file: &FileWrites, count: usize, verifier: Verifier) -> bool {
        let mut pending = file.pending.lock().expect("pending lock");
        if pending.chunks[..count].iter().any(|chunk| chunk.verifier != verifier) {
            return false;
        }
        self.forget_chunks(&mut pending, count);
        true
    }

    /// The first `count` chunks need not be sent again, ever; the oldest goes first, so that what a SIGKILL leaves covers nothing newer.
    fn forget_chunks(&self, pending: &mut Pending, count: usize) {
        for chunk in pending.chunks.drain(..count) {
            chunk.record.into_iter().for_each(|record| self.state.remove_write(record));
            self.writes.usage.subtract(&chunk);
        }
    }

    /// Sends everything again, this time to stable storage; nothing waits for COMMIT afterwards, failed or not.
    async fn write_again(&self, file: &FileWrites) -> Result<(), Errno> {
        let _no_new_writes = file.order.write().await;
        let _change = self.whole_files.change(file.node);
        // They stay recorded until the end: a caller that is killed meanwhile takes this task with it, not the data.
        let chunks = file.pending.lock().expect("pending lock").chunks.clone();
        log::warn!("inode {}: sending {} uncommitted writes again", file.node, chunks.len());
        let mut result = Ok(());
        for chunk in &chunks {
            if payload_checksum(&chunk.data) != chunk.checksum {
                log::error!("inode {}: uncommitted data is damaged: it is lost", file.node);
                result = Err(Errno(libc::EIO));
                continue;
            }
            if let Err(failed) = self.write_stable(file, chunk).await {
                result = Err(failed);
                break;
            }
        }
        self.attrs.expire(file.node);
        self.forget_chunks(&mut file.pending.lock().expect("pending lock"), chunks.len());
        result
    }

    async fn write_stable(&self, file: &FileWrites, chunk: &Chunk) -> Result<(), Errno> {
        let (mut offset, mut data) = (chunk.offset, chunk.data.clone());
        while !data.is_empty() {
            let written = self.client.write(&chunk.cred, &file.handle, offset, data.clone(), Stable::File).await;
            let count = written.map_err(|error| errno(&error))?.count as usize;
            if count == 0 {
                return Err(Errno(libc::EIO));
            }
            offset += count as u64;
            data = data.slice(count.min(data.len())..);
        }
        Ok(())
    }

    /// Takes the mark off a file whose data is all committed, or has a later write's verifier as its new mark.
    fn unmark(&self, file: &FileWrites) {
        let mut pending = file.pending.lock().expect("pending lock");
        pending.unkept = None;
        if pending.failed.is_some() {
            return; // not told yet
        }
        let mark = pending.chunks.first().map(|chunk| chunk.verifier);
        self.state.set_uncommitted(file.node, mark);
    }
}
