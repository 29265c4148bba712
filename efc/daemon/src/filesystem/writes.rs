//! Writing, and what it takes to lose nothing.
//!
//! `write(2)` returns when the server has the data, in its memory (WRITE with UNSTABLE); `fsync(2)` and `close(2)`
//! return when it is on stable storage (COMMIT). In between a server that restarts may lose it, and says so by another
//! write verifier: then everything since the last COMMIT is sent again, in order, while no new write of that file is
//! under way, since an old write sent late must not cover a newer one. For this, data is kept until it is committed,
//! within a budget for the whole daemon: at half of it files are committed in the background, at the whole of it
//! writers wait.
//!
//! The saved state marks files that have uncommitted data with the verifier of the first such write. If this daemon
//! dies, its copies die with it, but the server still has the data; only if the server restarts as well is it lost,
//! and then the mark's verifier tells the successor, which fails the next `fsync(2)` or `close(2)` with EIO.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use efc_fuse::Errno;
use efc_nfs::{Cred, FileHandle, Stable, Verifier, Written};

use super::files::OpenFile;
use super::{Answer, Inner, Response};
use crate::errno::errno;

/// Files with uncommitted data.
pub struct Writes {
    bytes: AtomicU64,
    bytes_max: u64,
    files: Mutex<HashMap<u64, Arc<FileWrites>>>,
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
    /// The mark of a predecessor.
    inherited: Option<Verifier>,
    /// Of a background commit, for the next fsync or close.
    failed: Option<Errno>,
}

#[derive(Clone)]
struct Chunk {
    offset: u64,
    data: Bytes,
    verifier: Verifier,
    cred: Cred,
}

impl Writes {
    /// At most `bytes_max` wait for COMMIT.
    pub fn new(bytes_max: u64) -> Writes {
        Writes { bytes: AtomicU64::new(0), bytes_max, files: Mutex::default() }
    }

    /// Bytes that wait for COMMIT.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
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

    fn of(&self, node: u64, handle: &FileHandle, inherited: Option<Verifier>) -> Arc<FileWrites> {
        let mut files = self.files.lock().expect("writes lock");
        let new = || {
            Arc::new(FileWrites {
                node,
                handle: *handle,
                order: tokio::sync::RwLock::new(()),
                committing: tokio::sync::Mutex::new(()),
                pending: Mutex::new(Pending { inherited, ..Pending::default() }),
            })
        };
        files.entry(node).or_insert_with(new).clone()
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
        self.chunks.is_empty() && self.inherited.is_none() && self.failed.is_none()
    }
}

impl Inner {
    pub(super) async fn write(
        self: &Arc<Self>,
        (unique, resent): (u64, bool),
        fh: u64,
        offset: u64,
        data: Bytes,
    ) -> Answer {
        let file = self.file(fh)?;
        let length = data.len();
        self.make_room(length as u64).await?;
        let writes = self.writes.of(file.node, &file.handle, self.state.uncommitted(file.node));
        let shared = writes.order.read().await;
        let at = if file.appends() { self.place_append(unique, resent, &file, &data).await? } else { offset };
        let result = self.write_all(&file, &writes, at, data).await;
        drop(shared);
        if at != offset {
            self.notifier.inval_inode(file.node, at as i64, length as i64);
        }
        self.writes.drop_if_idle(writes);
        self.commit_in_background(file.node);
        result.map(|()| Response::Written(length as u32))
    }

    /// The server's idea of a file's size: another node may have appended.
    pub(super) async fn end_of_file(&self, file: &OpenFile) -> Result<u64, Errno> {
        let sent = self.attrs.stamp();
        let attr = self.client.getattr(&file.cred, &file.handle).await.map_err(|error| errno(&error))?;
        self.attrs.learn(file.node, &attr, sent);
        Ok(attr.size)
    }

    async fn write_all(
        &self,
        file: &OpenFile,
        writes: &FileWrites,
        mut offset: u64,
        mut data: Bytes,
    ) -> Result<(), Errno> {
        while !data.is_empty() {
            let part = data.slice(..data.len().min(self.info.write_max as usize));
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
            self.record(
                writes,
                Chunk { offset, data: taken.clone(), verifier: written.verifier, cred: file.cred.clone() },
                &written,
            );
            offset += taken.len() as u64;
            data = data.slice(taken.len()..);
        }
        Ok(())
    }

    /// Keeps what the server has only in memory, and marks the file before the application hears of the write.
    fn record(&self, writes: &FileWrites, chunk: Chunk, written: &Written) {
        if written.stable != Stable::Unstable {
            return;
        }
        let mut pending = writes.pending.lock().expect("pending lock");
        if pending.chunks.is_empty() && pending.inherited.is_none() {
            self.state.set_uncommitted(writes.node, Some(chunk.verifier));
        }
        self.writes.bytes.fetch_add(chunk.data.len() as u64, Ordering::Relaxed);
        pending.chunks.push(chunk);
    }

    /// Waits until `length` more bytes fit the budget.
    async fn make_room(self: &Arc<Self>, length: u64) -> Result<(), Errno> {
        while self.writes.bytes() + length > self.writes.bytes_max {
            let Some(node) = self.writes.largest() else { return Ok(()) };
            if let Err(failed) = self.commit(node).await {
                self.report_later(node, failed);
            }
        }
        Ok(())
    }

    fn commit_in_background(self: &Arc<Self>, node: u64) {
        if self.writes.bytes() * 2 < self.writes.bytes_max {
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
        crate::executor::spawn(async move {
            if let Err(failed) = inner.commit(node).await {
                inner.report_later(node, failed);
            }
        });
    }

    /// Has the file data that waits for COMMIT?
    pub(super) fn has_uncommitted(&self, node: u64) -> bool {
        self.writes.known(node).is_some() || self.state.uncommitted(node).is_some()
    }

    fn report_later(&self, node: u64, failed: Errno) {
        if let Ok(handle) = self.handle_of(node) {
            let file = self.writes.of(node, &handle, None);
            file.pending.lock().expect("pending lock").failed = Some(failed);
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
        let file = match (self.writes.known(node), self.state.uncommitted(node)) {
            (Some(file), _) => file,
            (None, None) => return Ok(()),
            (None, inherited) => self.writes.of(node, &self.handle_of(node)?, inherited),
        };
        let result = self.commit_file(&file).await;
        self.writes.drop_if_idle(file);
        result
    }

    async fn commit_file(&self, file: &FileWrites) -> Result<(), Errno> {
        let _one = file.committing.lock().await;
        let (count, cred, inherited) = {
            let mut pending = file.pending.lock().expect("pending lock");
            if let Some(failed) = pending.failed.take() {
                return Err(failed);
            }
            let cred = pending.chunks.last().map_or_else(Cred::root, |chunk| chunk.cred.clone());
            (pending.chunks.len(), cred, pending.inherited)
        };
        if count == 0 && inherited.is_none() {
            return Ok(());
        }
        let sent = self.attrs.stamp();
        let committed = match self.client.commit(&cred, &file.handle).await {
            Ok(committed) => committed,
            Err(error) => {
                // Stable writes may do what COMMIT cannot; what they cannot do either is lost, and said so once.
                // A predecessor's writes cannot be sent again: for them COMMIT was the only way.
                let result = self.write_again(file).await;
                self.unmark(file);
                return if inherited.is_some() { Err(errno(&error)) } else { result };
            }
        };
        self.attrs.learn_or_expire(file.node, committed.wcc.after.as_ref(), sent);
        let resent = if self.settle(file, count, committed.verifier) { Ok(()) } else { self.write_again(file).await };
        let lost = inherited.is_some_and(|verifier| verifier != committed.verifier);
        if lost {
            log::error!("inode {}: the server restarted before a dead daemon's writes were committed", file.node);
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
        let bytes: u64 = pending.chunks.drain(..count).map(|chunk| chunk.data.len() as u64).sum();
        self.writes.bytes.fetch_sub(bytes, Ordering::Relaxed);
        true
    }

    /// Sends everything again, this time to stable storage; nothing waits for COMMIT afterwards, failed or not.
    async fn write_again(&self, file: &FileWrites) -> Result<(), Errno> {
        let _no_new_writes = file.order.write().await;
        // They stay recorded until the end: a caller that is killed meanwhile takes this task with it, not the data.
        let chunks = file.pending.lock().expect("pending lock").chunks.clone();
        log::warn!("inode {}: sending {} uncommitted writes again", file.node, chunks.len());
        let bytes: u64 = chunks.iter().map(|chunk| chunk.data.len() as u64).sum();
        let mut result = Ok(());
        for chunk in &chunks {
            result = self.write_stable(file, chunk).await;
            if result.is_err() {
                break;
            }
        }
        self.attrs.expire(file.node);
        file.pending.lock().expect("pending lock").chunks.drain(..chunks.len());
        self.writes.bytes.fetch_sub(bytes, Ordering::Relaxed);
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
        pending.inherited = None;
        let mark = pending.chunks.first().map(|chunk| chunk.verifier);
        self.state.set_uncommitted(file.node, mark);
    }
}
