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
//! verifier of the first such write. As long as the server has that verifier nothing is lost; with another, it is (EIO). Who is
//! told of what is lost is in [`super::failures`].

use efc_tasks::sync::Mutex;
use efc_tasks::sync::atomic::{AtomicU64, Ordering};
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use efc_backend::{Backend, Call, Cred, FileHandle, Seen, Stable, Ticket, Verifier};
use efc_fuse::Errno;
use efc_state::{Kept, UNANSWERED, UncommittedWrite, payload_checksum, payload_cost};

use super::failures::Failure;
use super::files::OpenFile;
use super::interrupts::{Progress, Sending};
use super::{Answer, Inner, Response};
use crate::errno::errno;

/// Where a WRITE goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    offset: u64,
    /// To the end of the file, wherever the kernel believes that to be.
    appends: bool,
    /// From the page cache: it names whichever open is at hand, and its caller is none that could be told anything.
    is_cached: bool,
}

impl Place {
    /// `flags` are those that the file has now (fcntl(2) may have changed those of its open), `write_flags` those of FUSE. Pages
    /// of the page cache, which come from mappings, go where they belong.
    pub fn of(offset: u64, flags: u32, write_flags: u32) -> Place {
        let is_cached = write_flags & FUSE_WRITE_CACHE != 0;
        Place { offset, appends: flags & libc::O_APPEND as u32 != 0 && !is_cached, is_cached }
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
    committing: Arc<tokio::sync::Mutex<()>>,
    /// Of what is pending.
    bytes: AtomicU64,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    /// In the order of their replies.
    chunks: Vec<Chunk>,
    /// The mark of data that is not kept.
    unkept: Option<Verifier>,
}

#[derive(Clone)]
struct Chunk {
    offset: u64,
    data: Bytes,
    verifier: Verifier,
    cred: Cred,
    checksum: u32,
    /// The number of the call that the server has not answered, to a predecessor.
    unanswered: Option<u32>,
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
        let bytes = |file: &FileWrites| file.bytes.load(Ordering::Relaxed);
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
                committing: Arc::default(),
                bytes: AtomicU64::new(0),
                pending: Mutex::new(Pending { unkept, chunks: Vec::new() }),
            })
        };
        files.entry(node).or_insert_with(new).clone()
    }

    /// The kernel has forgotten the file.
    pub fn forget(&self, node: u64) {
        if let Some(file) = self.known(node) {
            self.drop_if_idle(file);
        }
    }

    /// Counts a chunk of the file, which waits from now on.
    fn add(&self, file: &FileWrites, chunk: &Chunk) {
        self.usage.add(chunk);
        file.bytes.fetch_add(chunk.data.len() as u64, Ordering::Relaxed);
    }

    /// It does not wait any more.
    fn subtract(&self, file: &FileWrites, chunk: &Chunk) {
        self.usage.subtract(chunk);
        file.bytes.fetch_sub(chunk.data.len() as u64, Ordering::Relaxed);
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
    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.unkept.is_none()
    }
}

impl<B: Backend> Inner<B> {
    /// Takes over what a predecessor had written and not committed. The files with writes that the server has not answered.
    pub(super) fn restore_writes(&self) -> HashMap<u64, FileHandle> {
        let (mut count, mut bytes, mut unanswered) = (0, 0, HashMap::new());
        for (record, write) in self.state.take_saved_writes() {
            let Ok(handle) = self.handle_of(write.node) else {
                log::error!("inode {}: uncommitted data of a file that is not known any more is dropped", write.node);
                self.state.remove_write(record);
                continue;
            };
            let file = self.writes.of(write.node, &handle, self.unkept(write.node));
            let memory = payload_cost(write.data.len());
            self.writes.usage.memory.fetch_add(memory, Ordering::Relaxed);
            (count, bytes) = (count + 1, bytes + write.data.len());
            let chunk = Chunk {
                offset: write.offset,
                data: write.data,
                verifier: write.verifier,
                cred: Cred { uid: write.uid, gid: write.gid, groups: write.groups.into() },
                checksum: write.checksum,
                unanswered: write.unanswered,
                record: Some(record),
                memory,
            };
            if write.unanswered.is_some() {
                unanswered.insert(write.node, handle);
            }
            self.writes.add(&file, &chunk);
            file.pending.lock().expect("pending lock").chunks.push(chunk);
        }
        if count > 0 {
            log::info!("{count} writes of a predecessor, {bytes} bytes, wait for COMMIT");
        }
        unanswered
    }

    /// Asks once more for what a predecessor had asked for killed callers, which the server has not answered: later changes of
    /// these files wait meanwhile.
    pub(super) fn answer_abandoned(self: &Arc<Self>, files: HashMap<u64, FileHandle>) {
        for (node, handle) in files {
            let inner = self.clone();
            efc_tasks::spawn(async move {
                let abandoned = inner.mutations.abandon(vec![handle]).await;
                if let Some(file) = inner.writes.known(node) {
                    inner.repeat_unanswered(&file).await;
                    inner.writes.drop_if_idle(file);
                }
                drop(abandoned);
                inner.commit(node).await;
                inner.notifier.inval_inode(node, 0, 0);
            });
        }
    }

    async fn repeat_unanswered(&self, file: &FileWrites) {
        let _shared = file.order.read().await;
        let chunks = file.pending.lock().expect("pending lock").chunks.clone();
        for chunk in chunks {
            let Some(number) = chunk.unanswered else { continue };
            log::info!("inode {}: a write that was sent for a killed caller is asked for again", file.node);
            let verifier = self.repeat(file, &chunk, number).await;
            let mut pending = file.pending.lock().expect("pending lock");
            let Some(index) = pending.chunks.iter().position(|other| other.record == chunk.record) else { continue };
            match verifier {
                Some(verifier) => {
                    pending.chunks[index].verifier = verifier;
                    pending.chunks[index].unanswered = None;
                }
                // It was not executed, and nobody waits for it. Damage of it is as good as a refusal.
                None => {
                    pending.chunks.remove(index);
                    chunk.record.into_iter().for_each(|record| self.state.remove_write(record));
                    self.writes.subtract(file, &chunk);
                }
            }
        }
    }

    /// Sends a write again, the first of it under its old number; the server's verifier, or `None` if it was refused.
    async fn repeat(&self, file: &FileWrites, chunk: &Chunk, number: u32) -> Option<Verifier> {
        if payload_checksum(&chunk.data) != chunk.checksum {
            return None;
        }
        let (mut offset, mut data, mut verifier) = (chunk.offset, chunk.data.clone(), None);
        let mut call = Call::of(&chunk.cred).patient().under(Ticket::again(number));
        while !data.is_empty() {
            let part = data.slice(..data.len().min(self.limits.write_max as usize));
            let written = self.backend.write(call, &file.handle, offset, part, Stable::Unstable).await;
            let written = written.inspect_err(|error| log::warn!("inode {}: {error}", file.node)).ok()?.value;
            let count = (written.count as usize).min(data.len());
            if count == 0 {
                return None;
            }
            // Of two server lifetimes the first counts: what it had may be lost.
            verifier = verifier.or(Some(written.verifier));
            offset += count as u64;
            data = data.slice(count..);
            call = Call::of(&chunk.cred).patient();
        }
        verifier
    }

    /// Saves a write whose caller is gone, until it is answered; its record, if it could be saved.
    pub(super) fn save_unanswered(&self, sending: &Sending) -> Option<u64> {
        let data = sending.kept.bytes().clone();
        let chunk = Chunk {
            offset: sending.offset,
            checksum: payload_checksum(&data),
            data,
            verifier: UNANSWERED,
            cred: sending.cred.clone(),
            unanswered: Some(sending.number),
            record: None,
            memory: 0,
        };
        self.save(sending.node, &sending.kept, &chunk)
    }

    pub(super) async fn write(
        self: &Arc<Self>,
        (unique, resent, progress): (u64, bool, &Progress),
        fh: u64,
        place: Place,
        data: Bytes,
    ) -> Answer {
        let file = self.file(fh)?;
        if resent {
            self.tell_again(unique, fh, file.node)?;
        }
        if !place.is_cached {
            self.tell_failure(unique, fh, file.node)?;
        }
        let length = data.len();
        let _change = self.whole_files.change(file.node);
        let outgoing = self.keep(data).await;
        let writes = self.writes.of(file.node, &file.handle, self.unkept(file.node));
        let result = self.write_in_order((unique, resent, progress), &file, &writes, place, outgoing).await;
        self.writes.drop_if_idle(writes);
        let is_kept = result?;
        self.attrs.wrote(file.node, place.offset + length as u64); // where the kernel believes that it was
        if is_kept || !self.state.keeps_payloads() {
            self.commit_in_background(file.node);
        } else {
            self.commit(file.node).await;
            if !place.is_cached {
                self.tell_failure(unique, fh, file.node)?;
            }
        }
        Ok(Response::Written(length as u32))
    }

    /// Sends the data where it goes, while nothing is sent again; answers as [`Inner::write_all`].
    async fn write_in_order(
        &self,
        (unique, resent, progress): (u64, bool, &Progress),
        file: &OpenFile,
        writes: &FileWrites,
        Place { offset, appends, .. }: Place,
        outgoing: Outgoing,
    ) -> Result<bool, Errno> {
        let _shared = writes.order.read().await;
        let length = outgoing.data.len();
        let at = if appends { self.place_append(unique, resent, file, &outgoing.data).await? } else { offset };
        let ticket = self.backend.ticket();
        progress.set_sending(outgoing.kept.as_ref().map(|kept| Sending {
            kept: kept.clone(),
            node: file.node,
            offset: at,
            cred: file.cred.clone(),
            number: ticket.number,
        }));
        let result = self.write_all(file, writes, (at, ticket), outgoing).await;
        if at != offset {
            // What the kernel keeps is wrong where the data went, and where the kernel believes that it did.
            let end = at.max(offset) + length as u64;
            self.notifier.inval_inode(file.node, at.min(offset) as i64, (end - at.min(offset)) as i64);
        }
        result
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
        let asked = self.backend.getattr(Call::of(&file.cred), &file.handle).await;
        let Seen { value: attr, asked } = asked.map_err(|error| errno(&error))?;
        if !self.attrs.is_plausible(file.node, &attr) {
            return Err(Errno(libc::EIO));
        }
        self.attrs.learn(file.node, &attr, asked);
        Ok(attr.size)
    }

    /// Sends all of it; answers whether all that waits for COMMIT now is kept.
    async fn write_all(
        &self,
        file: &OpenFile,
        writes: &FileWrites,
        (mut offset, ticket): (u64, Ticket),
        mut outgoing: Outgoing,
    ) -> Result<bool, Errno> {
        let mut is_kept = true;
        let mut call = Call::of(&file.cred).patient().under(ticket);
        while !outgoing.data.is_empty() {
            let part = outgoing.data.slice(..outgoing.data.len().min(self.limits.write_max as usize));
            let written = self.backend.write(call, &file.handle, offset, part.clone(), Stable::Unstable).await;
            let Seen { value: written, asked } = match written {
                Ok(written) if written.value.count > 0 => written,
                Ok(_) => return Err(Errno(libc::EIO)),
                Err(error) => {
                    self.attrs.expire(file.node);
                    return Err(errno(&error));
                }
            };
            self.attrs.learn_or_expire(file.node, written.wcc.after.as_ref(), asked);
            let taken = part.slice(..part.len().min(written.count as usize));
            outgoing.data = outgoing.data.slice(taken.len()..);
            let next = offset + taken.len() as u64;
            let chunk = Chunk {
                offset,
                checksum: payload_checksum(&taken),
                data: taken,
                verifier: written.verifier,
                cred: file.cred.clone(),
                unanswered: None,
                record: None,
                memory: 0,
            };
            is_kept &= self.record(writes, chunk, written.stable, &mut outgoing);
            offset = next;
            call = Call::of(&file.cred).patient();
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
        if pending.is_empty() && !self.failures.is_unheard(writes.node) {
            self.state.set_uncommitted(writes.node, Some(chunk.verifier));
        }
        let is_kept = chunk.record.is_some();
        self.writes.add(writes, &chunk);
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
            unanswered: chunk.unanswered,
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
            self.commit(node).await;
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

    /// Commits without anybody waiting.
    pub(super) fn commit_detached(self: &Arc<Self>, node: u64) {
        let inner = self.clone();
        efc_tasks::spawn(async move { inner.commit(node).await });
    }

    /// Has the file data that waits for COMMIT?
    pub(super) fn has_uncommitted(&self, node: u64) -> bool {
        self.writes.known(node).is_some() || self.unkept(node).is_some()
    }

    /// What waits for COMMIT, or is not kept.
    fn uncommitted(&self, node: u64) -> Result<Option<Arc<FileWrites>>, Errno> {
        match (self.writes.known(node), self.unkept(node)) {
            (None, None) => Ok(None),
            (None, unkept) => Ok(Some(self.writes.of(node, &self.handle_of(node)?, unkept))),
            (known, _) => Ok(known),
        }
    }

    /// Commits every file.
    pub(super) async fn commit_all(self: &Arc<Self>) {
        let nodes: Vec<u64> = self.writes.files.lock().expect("writes lock").keys().copied().collect();
        for node in nodes {
            self.commit(node).await;
        }
    }

    /// Returns when all data written so far is on the server's stable storage, or noted as lost.
    pub(super) async fn commit(self: &Arc<Self>, node: u64) {
        let Ok(Some(file)) = self.uncommitted(node) else { return };
        self.commit_file(&file).await;
        self.writes.drop_if_idle(file);
    }

    async fn commit_file(self: &Arc<Self>, file: &Arc<FileWrites>) {
        let one = file.committing.clone().lock_owned().await;
        let (count, cred, unkept) = {
            let pending = file.pending.lock().expect("pending lock");
            let cred = pending.chunks.last().map_or_else(Cred::root, |chunk| chunk.cred.clone());
            (pending.chunks.len(), cred, pending.unkept)
        };
        if count == 0 && unkept.is_none() {
            return;
        }
        let failure = match self.backend.commit(Call::of(&cred), &file.handle).await {
            Ok(Seen { value: committed, asked }) => {
                self.attrs.learn_or_expire(file.node, committed.wcc.after.as_ref(), asked);
                let is_settled = self.settle(file, count, committed.verifier);
                let is_lost = unkept.is_some_and(|verifier| verifier != committed.verifier);
                if is_settled && !is_lost {
                    return self.unmark(file);
                }
                is_lost.then_some(Errno(libc::EIO))
            }
            // Stable writes may do what COMMIT cannot. For data that is not kept COMMIT was the only way.
            Err(error) => unkept.map(|_| errno(&error)),
        };
        self.repair(file, one, failure).await;
    }

    /// Sends everything again, in a task of its own: its writes are as little to be lost sight of as any. `failure` is what is lost
    /// already.
    async fn repair(
        self: &Arc<Self>,
        file: &Arc<FileWrites>,
        one: tokio::sync::OwnedMutexGuard<()>,
        failure: Option<Errno>,
    ) {
        let (inner, file) = (self.clone(), file.clone());
        let repaired = efc_tasks::detached(async move {
            inner.write_again(&file, failure).await;
            inner.unmark(&file);
            inner.writes.drop_if_idle(file);
            drop(one);
        });
        repaired.end().await;
    }

    /// Drops the first `count` chunks if the server committed them all.
    fn settle(&self, file: &FileWrites, count: usize, verifier: Verifier) -> bool {
        let mut pending = file.pending.lock().expect("pending lock");
        if pending.chunks[..count].iter().any(|chunk| chunk.verifier != verifier) {
            return false;
        }
        self.forget_chunks(file, &mut pending, count);
        true
    }

    /// The first `count` chunks need not be sent again, ever; the oldest goes first, so that what a SIGKILL leaves covers nothing newer.
    fn forget_chunks(&self, file: &FileWrites, pending: &mut Pending, count: usize) {
        for chunk in pending.chunks.drain(..count) {
            chunk.record.into_iter().for_each(|record| self.state.remove_write(record));
            self.writes.subtract(file, &chunk);
        }
    }

    /// Sends everything again, this time to stable storage. Nothing waits for COMMIT afterwards; what cannot be written is noted as
    /// lost, as `failure` is.
    async fn write_again(&self, file: &FileWrites, failure: Option<Errno>) {
        let _no_new_writes = file.order.write().await;
        let _change = self.whole_files.change(file.node);
        // They stay recorded until the end, for a successor.
        let chunks = file.pending.lock().expect("pending lock").chunks.clone();
        if !chunks.is_empty() {
            log::warn!("inode {}: sending {} uncommitted writes again", file.node, chunks.len());
        }
        let failure = failure.or(self.write_all_again(file, &chunks).await.err());
        self.attrs.expire(file.node);
        if let Some(errno) = failure {
            self.note_lost(file.node, errno);
        }
        self.forget_chunks(file, &mut file.pending.lock().expect("pending lock"), chunks.len());
    }

    async fn write_all_again(&self, file: &FileWrites, chunks: &[Chunk]) -> Result<(), Errno> {
        let mut result = Ok(());
        for chunk in chunks {
            if payload_checksum(&chunk.data) != chunk.checksum {
                log::error!("inode {}: uncommitted data is damaged", file.node);
                result = Err(Errno(libc::EIO));
                continue;
            }
            self.write_stable(file, chunk).await?;
        }
        result
    }

    async fn write_stable(&self, file: &FileWrites, chunk: &Chunk) -> Result<(), Errno> {
        let (mut offset, mut data) = (chunk.offset, chunk.data.clone());
        while !data.is_empty() {
            let written =
                self.backend.write(Call::of(&chunk.cred), &file.handle, offset, data.clone(), Stable::File).await;
            let count = written.map_err(|error| errno(&error))?.value.count as usize;
            if count == 0 {
                return Err(Errno(libc::EIO));
            }
            offset += count as u64;
            data = data.slice(count.min(data.len())..);
        }
        Ok(())
    }

    /// Somebody hears that data of the file is lost: it need not be marked so any more.
    pub(super) fn unmark_lost(&self, node: u64, failure: Failure) {
        let Ok(handle) = self.handle_of(node) else { return };
        let file = self.writes.of(node, &handle, None);
        let pending = file.pending.lock().expect("pending lock");
        // In this order: nobody may take the mark for that of data which an earlier daemon has lost (`Inner::unkept`).
        self.mark_first(node, &pending);
        self.failures.set_heard(node, failure);
        drop(pending);
        self.writes.drop_if_idle(file);
    }

    /// Takes the mark off a file whose data is all committed, or has a later write's verifier as its new mark.
    fn unmark(&self, file: &FileWrites) {
        let mut pending = file.pending.lock().expect("pending lock");
        pending.unkept = None;
        if !self.failures.is_unheard(file.node) {
            self.mark_first(file.node, &pending);
        }
    }

    fn mark_first(&self, node: u64, pending: &Pending) {
        self.state.set_uncommitted(node, pending.chunks.first().map(|chunk| chunk.verifier));
    }
}
