//! Writing, without losing acknowledged data.
//!
//! Unless a write is held back ([`super::behind`]), `write(2)` returns when the server has the data in its memory
//! (WRITE with UNSTABLE); `fsync(2)` and `close(2)` return when it is on stable storage (COMMIT). In between a server
//! that restarts may lose data, and reports that by another write verifier. Then everything since the last COMMIT is
//! sent again, in order, while no new write of that file is in flight, since an old write sent late must not overwrite
//! a newer one. For this, data is kept until it is committed, within a budget for the whole daemon: at half of it files
//! are committed in the background, at the whole of it writers wait.
//!
//! The data and everything needed to send it again are in the saved state, so they outlive this daemon. A successor
//! finds them ([`Inner::restore_writes`]) and continues as if it had written the data itself. Data is copied there
//! before it is sent, described there before the application is answered, and dropped, oldest write first, when the
//! server has committed it. Data that cannot be kept, for lack of memory, is committed before the application is
//! answered.
//!
//! Some data is not kept although the application was told that it is written: in a state that an older release has
//! made, after an older release has served for a while, and where a record was damaged. The saved state marks such
//! files with the verifier of the first such write. As long as the server has that verifier nothing is lost; otherwise
//! the data is lost (EIO). [`super::failures`] reports lost data.

use efc_tasks::sync::MutexGuard;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use efc_backend::{Backend, Call, Cred, Error, ErrorKind, Seen, Stable, Ticket, Verifier, Written};
use efc_cache::{Chunk, Covered, Inode, Pending, Room, Stage};
use efc_fuse::Errno;
use efc_state::{KeptData, SentAs, UNANSWERED, UNSENT, UncommittedWrite, payload_checksum, payload_cost};

use super::failures::Failure;
use super::files::OpenFile;
use super::interrupts::{Progress, Sending};
use super::{Inner, Outcome, Response};
use crate::errno::errno;

/// Where a WRITE goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WritePlace {
    offset: u64,
    /// To the end of the file, wherever the kernel believes that to be.
    appends: bool,
    /// From the page cache: it names whichever open is at hand, and its caller is none that could be told anything.
    is_cached: bool,
    /// Whoever writes waits for stable storage, or wants no cache.
    is_direct: bool,
}

impl WritePlace {
    /// `flags` are those that the file has now (fcntl(2) may have changed those of its open), `write_flags` those of FUSE. Pages
    /// of the page cache, which come from mappings, go where they belong.
    pub fn of(offset: u64, flags: u32, write_flags: u32) -> WritePlace {
        let is_cached = write_flags & FUSE_WRITE_CACHE != 0;
        let has = |flag: i32| flags & flag as u32 != 0;
        let is_direct = has(libc::O_DSYNC) || has(libc::O_DIRECT); // O_SYNC has the bit of O_DSYNC
        WritePlace { offset, appends: has(libc::O_APPEND) && !is_cached, is_cached, is_direct }
    }

    /// May the server get the data later? Pages of mappings have nobody who flushes them after munmap(2).
    pub fn may_wait(&self) -> bool {
        !self.is_cached && !self.is_direct
    }
}

/// In `write_flags`: the data comes from the page cache.
const FUSE_WRITE_CACHE: u32 = 1 << 0;

/// The ticket of a call that was saved.
pub(super) fn ticket_of(SentAs { number, connection }: SentAs) -> Ticket {
    Ticket { number, way: connection, is_repeated: false }
}

/// Data on its way to the server.
pub struct Outgoing {
    pub(super) data: Bytes,
    /// The copy that outlives this daemon, of which `data` is a part.
    pub(super) kept: Option<KeptData>,
    pub(super) room: Option<Room>,
}

/// The writes that a COMMIT covers: those that waited when it left.
#[derive(Clone, Copy)]
struct Committing {
    /// The chunks before this id; 0: none.
    before: u64,
    /// None of them was still asked for in the place of a predecessor: the server may execute such a one after the COMMIT.
    was_answered: bool,
}

impl Committing {
    fn of(chunks: &[Chunk]) -> Committing {
        Committing {
            before: chunks.last().map_or(0, |last| last.id + 1),
            was_answered: chunks.iter().all(|chunk| chunk.unanswered.is_none()),
        }
    }
}

/// Is the data what was written? In the saved state it may have been damaged since.
fn is_whole(chunk: &Chunk) -> bool {
    payload_checksum(&chunk.data) == chunk.checksum
}

impl<B: Backend> Inner<B> {
    /// Takes over what a predecessor had written and not committed. The files with writes that the server has not
    /// answered.
    pub(super) fn restore_writes(&self) -> Vec<Arc<Inode>> {
        let (mut count, mut bytes, mut unanswered) = (0, 0, Vec::<Arc<Inode>>::new());
        for (record, write) in self.state.take_saved_writes() {
            let Ok(inode) = self.inode(write.node) else {
                log::error!("inode {}: uncommitted data of a file that is not known any more is dropped", write.node);
                self.state.remove_write(record);
                continue;
            };
            let answered = if write.verifier == UNSENT { self.state.answered(record) } else { Some(write.verifier) };
            let memory = payload_cost(write.data.len());
            let cred = Cred { uid: write.uid, gid: write.gid, groups: write.groups.into() };
            let data = (write.data, write.checksum);
            let chunk = Chunk {
                stage: if answered.is_some() { Stage::Written } else { Stage::Unsent },
                unanswered: write.unanswered.map(|call| ticket_of(call).repeated()),
                record: Some(record),
                memory,
                ..Chunk::new(write.offset, data, cred, answered.unwrap_or(write.verifier))
            };
            let is_held_back = answered.is_none() && chunk.unanswered.is_none();
            if is_held_back && !is_whole(&chunk) {
                log::error!("{inode:?}: uncommitted data is damaged");
                self.state.remove_write(record);
                self.note_lost(&inode, Errno(libc::EIO));
                continue;
            }
            self.writes.inherit(memory);
            (count, bytes) = (count + 1, bytes + chunk.data.len());
            let mut pending = self.pending(&inode);
            if write.unanswered.is_some() && !unanswered.contains(&inode) {
                unanswered.push(inode.clone());
                pending.is_blocked = true;
            }
            self.writes.add(&inode, &mut pending, chunk);
        }
        if count > 0 {
            log::info!("{count} writes of a predecessor, {bytes} bytes, wait for COMMIT");
        }
        unanswered
    }

    /// Asks once more for what a predecessor had asked for killed callers, which the server has not answered: later
    /// changes of these files wait meanwhile.
    pub(super) fn answer_abandoned(self: &Arc<Self>, files: Vec<Arc<Inode>>) {
        for file in files {
            let inner = self.clone();
            efc_tasks::spawn(async move {
                let abandoned = inner.inodes.abandon(vec![file.clone()]).await;
                inner.repeat_unanswered(&file).await;
                file.writes().pending().is_blocked = false;
                inner.pump(&file);
                drop(abandoned);
                inner.commit(&file).await;
                if let Some(node) = file.node() {
                    inner.notifier.inval_inode(node, 0, 0);
                }
            });
        }
    }

    async fn repeat_unanswered(&self, inode: &Arc<Inode>) {
        let _shared = inode.writes().order.read().await;
        let chunks = inode.writes().pending().chunks().to_vec();
        for chunk in chunks {
            let (Some(ticket), Some(record)) = (chunk.unanswered, chunk.record) else { continue };
            log::info!("{inode:?}: a write that was sent for a killed caller is asked for again");
            let verifier = self.repeat(inode, &chunk, ticket).await;
            let mut pending = inode.writes().pending();
            if verifier.is_none() {
                // It was not executed, and nobody waits for it. Damage of it is as good as a refusal.
                self.state.remove_write(record);
            }
            self.writes.answered(inode, &mut pending, record, verifier);
        }
    }

    /// Sends a write again, the first of it under its old ticket; the server's verifier, or `None` if it was refused.
    async fn repeat(&self, inode: &Arc<Inode>, chunk: &Chunk, ticket: Ticket) -> Option<Verifier> {
        if !is_whole(chunk) {
            return None;
        }
        let (mut offset, mut data, mut verifier) = (chunk.offset, chunk.data.clone(), None);
        let mut call = Call::of(&chunk.cred).patient().under(ticket);
        while !data.is_empty() {
            let written = self.write_once(call, inode, (offset, &data), Stable::Unstable).await;
            let written = written.inspect_err(|error| log::warn!("{inode:?}: {error}")).ok()?;
            // Of two server lifetimes the first counts: what it had may be lost.
            verifier = verifier.or(Some(written.verifier));
            offset += u64::from(written.count);
            data = data.slice(written.count as usize..);
            call = Call::of(&chunk.cred).patient();
        }
        verifier
    }

    /// Saves a write whose caller is gone, until it is answered; its record, if it could be saved.
    pub(super) fn save_unanswered(&self, sending: &Sending) -> Option<u64> {
        let data = sending.kept.bytes().clone();
        let checksum = payload_checksum(&data);
        let chunk = Chunk {
            unanswered: Some(sending.ticket),
            ..Chunk::new(sending.offset, (data, checksum), sending.cred.clone(), UNANSWERED)
        };
        self.save(sending.node, &sending.kept, &chunk)
    }

    /// What waits for COMMIT of a file, with the mark of what is not kept, if there is one and nothing else waits.
    pub(super) fn pending<'a>(&self, inode: &'a Inode) -> MutexGuard<'a, Pending> {
        let mut pending = inode.writes().pending();
        if pending.is_empty() {
            pending.unkept = inode.node().and_then(|node| self.unkept(node));
        }
        pending
    }

    pub(super) async fn write(
        self: &Arc<Self>,
        (unique, resent, progress): (u64, bool, &Progress),
        fh: u64,
        place: WritePlace,
        data: Bytes,
    ) -> Outcome {
        let file = self.file(fh)?;
        if resent {
            self.tell_again(unique, fh, file.node)?;
        }
        if !place.is_cached {
            self.tell_failure(unique, fh, file.node)?;
        }
        let length = data.len();
        let mut outgoing = self.keep(&file, data).await;
        self.watch_space(&file.inode, &file.cred, length as u64);
        drop(self.pending(&file.inode)); // what an earlier daemon has not kept is known before it is marked otherwise
        if self.holds_back(&file, place) {
            match self.hold_in_place((unique, resent), &file, place, outgoing).await? {
                None => return Ok(Response::Written(length as u32).into()),
                Some(refused) => outgoing = refused,
            }
        }
        let _through = self.begin_through(&file.inode).await;
        let is_kept = self.write_in_order((unique, resent, progress), &file, place, outgoing).await?;
        file.inode.lengthened(place.offset + length as u64); // where the kernel believes that it was
        if is_kept || !self.state.keeps_payloads() {
            self.commit_in_background(&file.inode);
        } else {
            self.commit(&file.inode).await;
            if !place.is_cached {
                self.tell_failure(unique, fh, file.node)?;
            }
        }
        Ok(Response::Written(length as u32).into())
    }

    /// Holds the data back, for where it goes. `Some`: it cannot be held back.
    async fn hold_in_place(
        self: &Arc<Self>,
        (unique, resent): (u64, bool),
        file: &OpenFile,
        WritePlace { offset, appends, .. }: WritePlace,
        outgoing: Outgoing,
    ) -> Result<Option<Outgoing>, Errno> {
        let length = outgoing.data.len() as u64;
        let at = if appends { self.place_append(unique, resent, file, &outgoing.data).await? } else { offset };
        if let Some(refused) = self.hold_back(file, (at, appends), outgoing) {
            return Ok(Some(refused));
        }
        file.inode.lengthened(offset + length); // where the kernel believes that it was
        self.drop_appended(file, (offset, at), length, appends);
        self.commit_in_background(&file.inode);
        Ok(None)
    }

    /// What the kernel keeps is wrong where appended data went, and where the kernel believes that it did. The pages of a mapping of
    /// another open lack it, where the kernel writes past them.
    fn drop_appended(&self, file: &OpenFile, (offset, at): (u64, u64), length: u64, appends: bool) {
        if at != offset || (appends && file.inode.granted() > 1) {
            let end = at.max(offset) + length;
            self.notifier.inval_inode(file.node, at.min(offset) as i64, (end - at.min(offset)) as i64);
        }
    }

    /// Sends the data where it goes, while nothing is sent again; answers as [`Inner::write_all`].
    async fn write_in_order(
        &self,
        (unique, resent, progress): (u64, bool, &Progress),
        file: &OpenFile,
        WritePlace { offset, appends, .. }: WritePlace,
        outgoing: Outgoing,
    ) -> Result<bool, Errno> {
        let _shared = file.inode.writes().order.read().await;
        let length = outgoing.data.len() as u64;
        let at = if appends { self.place_append(unique, resent, file, &outgoing.data).await? } else { offset };
        let ticket = self.backend.ticket(file.inode.handle());
        progress.set_sending(outgoing.kept.as_ref().map(|kept| Sending {
            kept: kept.clone(),
            node: file.node,
            offset: at,
            cred: file.cred.clone(),
            ticket,
        }));
        let result = self.write_all(file, (at, ticket), outgoing).await;
        self.behind.note_outcome(&file.cred, result.as_ref().err().copied());
        match result {
            Ok(_) => file.inode.writes().pending().wrote(at + length, appends),
            Err(_) => file.inode.writes().pending().forget_end(),
        }
        self.drop_appended(file, (offset, at), length, appends);
        result
    }

    /// Copies data to where it outlives this daemon, if there is room. Neither one file nor one user takes all of that.
    async fn keep(self: &Arc<Self>, file: &OpenFile, data: Bytes) -> Outgoing {
        let is_alike = |other: &Inode| self.backend.is_one_storage(other.handle(), file.inode.handle());
        while let Some(large) = self.writes.too_large(&file.inode, file.cred.uid, is_alike) {
            let is_being_committed = large.writes().committing.try_lock().is_err();
            if is_being_committed {
                drop(large.writes().committing.lock().await); // that may do
            } else {
                self.commit(&large).await;
            }
        }
        let room = self.make_room(&file.inode, payload_cost(data.len())).await;
        let kept = room.as_ref().and_then(|_| self.state.keep(&data).ok());
        let data = kept.as_ref().map_or(data, |kept| kept.bytes().clone());
        Outgoing { data, kept, room }
    }

    /// The server's idea of a file's size: another node may have appended.
    pub(super) async fn end_of_file(&self, file: &OpenFile) -> Result<u64, Errno> {
        let asked = self.backend.getattr(Call::of(&file.cred), file.inode.handle()).await;
        let seen = asked.map_err(|error| errno(&error))?;
        if !file.inode.is_plausible(&seen.value) {
            return Err(Errno(libc::EIO));
        }
        file.inode.learn(seen.part(|attr| attr));
        Ok(seen.value.size)
    }

    /// Sends as much of the data as one call carries, and takes in what the answer says of the file. A server that takes none
    /// of it has failed.
    pub(super) async fn write_once(
        &self,
        call: Call<'_>,
        inode: &Arc<Inode>,
        (offset, data): (u64, &Bytes),
        stable: Stable,
    ) -> Result<Written, Error> {
        let part = data.slice(..data.len().min(self.properties_of(inode).write_max as usize));
        let (length, mutation) = (part.len() as u32, inode.mutate());
        match self.backend.write(call, inode.handle(), offset, part, stable).await {
            Ok(written) if written.value.count > 0 => {
                self.count_change();
                mutation.answered(written.part(|written| &written.wcc));
                Ok(Written { count: written.value.count.min(length), ..written.value })
            }
            Ok(_) => Err(Error::new(ErrorKind::Garbled("WRITE of nothing"))),
            Err(error) => {
                mutation.failed(&error);
                Err(error)
            }
        }
    }

    /// Sends all of it; answers whether all that waits for COMMIT now is kept.
    async fn write_all(
        &self,
        file: &OpenFile,
        (mut offset, ticket): (u64, Ticket),
        mut outgoing: Outgoing,
    ) -> Result<bool, Errno> {
        let mut is_kept = true;
        let mut call = Call::of(&file.cred).patient().under(ticket);
        while !outgoing.data.is_empty() {
            let written = self.write_once(call, &file.inode, (offset, &outgoing.data), Stable::Unstable).await;
            let written = written.map_err(|error| errno(&error))?;
            let taken = outgoing.data.split_to(written.count as usize);
            let next = offset + taken.len() as u64;
            let checksum = payload_checksum(&taken);
            let chunk = Chunk::new(offset, (taken, checksum), file.cred.clone(), written.verifier);
            is_kept &= self.record(file, chunk, written.stable, &mut outgoing);
            offset = next;
            call = Call::of(&file.cred).patient();
        }
        Ok(is_kept)
    }

    /// Notes what the server has only in memory, for a successor too, before the application hears of the write. Answers
    /// whether a successor can send it.
    fn record(&self, file: &OpenFile, mut chunk: Chunk, stable: Stable, outgoing: &mut Outgoing) -> bool {
        let mut pending = file.inode.writes().pending();
        // An earlier write that waits may be sent again: this one must follow it then, stable or not.
        if stable != Stable::Unstable && pending.chunks().is_empty() {
            return true;
        }
        if let Some(room) = &mut outgoing.room {
            chunk.memory = room.take(if outgoing.data.is_empty() { u64::MAX } else { chunk.data.len() as u64 });
        }
        chunk.record = outgoing.kept.as_ref().and_then(|kept| self.save(file.node, kept, &chunk));
        if pending.is_empty() && !self.failures.is_unheard(file.node) {
            self.state.set_uncommitted(file.node, Some(chunk.verifier));
        }
        let is_kept = chunk.record.is_some();
        self.writes.add(&file.inode, &mut pending, chunk);
        is_kept
    }

    pub(super) fn save(&self, node: u64, kept: &KeptData, chunk: &Chunk) -> Option<u64> {
        let write = UncommittedWrite {
            node,
            offset: chunk.offset,
            data: chunk.data.clone(),
            checksum: chunk.checksum,
            verifier: chunk.verifier,
            uid: chunk.cred.uid,
            gid: chunk.cred.gid,
            groups: chunk.cred.groups.iter().copied().take(Cred::GROUPS_MAX).collect(),
            unanswered: chunk.unanswered.map(|ticket| SentAs { number: ticket.number, connection: ticket.way }),
        };
        self.state.save_write(kept, &write).ok()
    }

    /// Waits until as much more memory fits the budget; `None` if all that is in use belongs to writes on their way, or to files of
    /// other storages, which nobody waits for who writes to this one.
    async fn make_room(self: &Arc<Self>, inode: &Inode, memory: u64) -> Option<Room> {
        loop {
            if let Some(room) = self.writes.reserve(memory) {
                return Some(room);
            }
            let is_alike = |other: &Inode| self.backend.is_one_storage(other.handle(), inode.handle());
            let file = self.writes.largest(is_alike)?;
            self.commit(&file).await;
        }
    }

    fn commit_in_background(self: &Arc<Self>, inode: &Arc<Inode>) {
        if self.writes.is_half_full() && inode.writes().committing.try_lock().is_ok() {
            self.commit_detached(inode.clone());
        }
    }

    /// Commits without anybody waiting.
    pub(super) fn commit_detached(self: &Arc<Self>, inode: Arc<Inode>) {
        let inner = self.clone();
        efc_tasks::spawn(async move { inner.commit(&inode).await });
    }

    /// Has the file data that waits for COMMIT?
    pub(super) fn has_uncommitted(&self, inode: &Inode) -> bool {
        inode.has_uncommitted() || inode.node().is_some_and(|node| self.unkept(node).is_some())
    }

    /// Commits every file.
    pub(super) async fn commit_all(self: &Arc<Self>) {
        for file in self.writes.files() {
            self.commit(&file).await;
        }
    }

    /// Returns when all data written so far is on the server's stable storage, or noted as lost.
    pub(super) async fn commit(self: &Arc<Self>, inode: &Arc<Inode>) {
        if !self.has_uncommitted(inode) {
            return;
        }
        let one = inode.writes().committing.clone().lock_owned().await;
        self.sent_last(inode).await;
        let (covered, cred, unkept) = {
            let pending = self.pending(inode);
            let covered = &pending.chunks()[..pending.answered_first()];
            let cred = covered.last().map_or_else(Cred::root, |chunk| chunk.cred.clone());
            (Committing::of(covered), cred, pending.unkept)
        };
        if covered.before == 0 && unkept.is_none() {
            return;
        }
        let failure = match self.backend.commit(Call::of(&cred), inode.handle()).await {
            Ok(committed) => {
                let Seen { value: committed, asked } = committed;
                match &committed.wcc.after {
                    Some(after) if inode.is_plausible(after) => inode.learn(Seen { value: after, asked }),
                    _ => inode.expire(),
                }
                let verifier = committed.verifier;
                if self.settle(inode, covered, verifier) {
                    self.give_back_forgotten(inode);
                    return;
                }
                unkept.is_some_and(|unkept| unkept != verifier).then_some(Errno(libc::EIO))
            }
            // Stable writes may do what COMMIT cannot. For data that is not kept COMMIT was the only way.
            Err(error) => unkept.map(|_| errno(&error)),
        };
        self.repair(inode, one, failure).await;
    }

    /// The same before the file is truncated: what is kept for a resend must not make it long again, nor is its end known any more.
    pub(super) async fn commit_before_truncation(self: &Arc<Self>, inode: &Arc<Inode>) {
        self.commit(inode).await;
        inode.writes().pending().forget_end();
    }

    /// Sends everything again, in a task of its own: its writes are as little to be lost sight of as any. `failure` is what is lost
    /// already.
    async fn repair(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        one: tokio::sync::OwnedMutexGuard<()>,
        failure: Option<Errno>,
    ) {
        let (inner, inode) = (self.clone(), inode.clone());
        let repaired = efc_tasks::detached(async move {
            inner.write_again(&inode, failure).await;
            inner.note_holding();
            inode.writes().answered.notify_waiters();
            inner.give_back_forgotten(&inode);
            drop(one);
        });
        repaired.end().await;
    }

    /// Drops what the COMMIT has covered if the server committed all of it; `true` if nothing that waited before is lost.
    fn settle(&self, inode: &Inode, covered: Committing, verifier: Verifier) -> bool {
        let mut pending = inode.writes().pending();
        let count = pending.chunks().partition_point(|chunk| chunk.id < covered.before);
        let is_committed = |chunk: &Chunk| chunk.verifier == verifier;
        if !covered.was_answered || !pending.chunks()[..count].iter().all(is_committed) {
            return false;
        }
        self.forget_chunks(inode, &mut pending, count);
        let is_settled = pending.unkept.is_none_or(|unkept| unkept == verifier);
        if is_settled {
            self.unmark(inode, &mut pending);
        }
        is_settled
    }

    /// The first `count` chunks need not be sent again, ever; the oldest goes first, so that what a SIGKILL leaves covers nothing newer.
    fn forget_chunks(&self, inode: &Inode, pending: &mut Pending, count: usize) {
        let retire = |chunk: &Chunk| chunk.record.into_iter().for_each(|record| self.state.remove_write(record));
        self.writes.remove(inode, pending, count, retire);
    }

    /// Sends everything again, this time to stable storage. Nothing waits for COMMIT afterwards; what cannot be written is noted as
    /// lost, as `failure` is.
    async fn write_again(&self, inode: &Arc<Inode>, failure: Option<Errno>) {
        let _no_new_writes = inode.writes().order.write().await;
        // They stay recorded until the end, for a successor.
        let chunks = inode.writes().pending().chunks().to_vec();
        if !chunks.is_empty() {
            log::warn!("{inode:?}: sending {} uncommitted writes again", chunks.len());
        }
        let failure = failure.or(self.write_all_again(inode, &chunks).await.err());
        inode.expire();
        if let Some(errno) = failure {
            self.note_lost(inode, errno);
            if let Some(node) = inode.node() {
                self.notifier.inval_inode(node, 0, 0); // it has what nobody else will read
            }
        }
        let mut pending = inode.writes().pending();
        self.forget_chunks(inode, &mut pending, chunks.len());
        self.unmark(inode, &mut pending);
    }

    /// Of bytes that were written more than once only the last are sent: the server may have those already, and a reader
    /// must not see the file go back.
    async fn write_all_again(&self, inode: &Arc<Inode>, chunks: &[Chunk]) -> Result<(), Errno> {
        let whole: Vec<&Chunk> = chunks.iter().filter(|chunk| is_whole(chunk)).collect(); // damaged data is not sent, and covers nothing
        let mut covered = Covered::default();
        let range = |chunk: &Chunk| chunk.offset..chunk.offset + chunk.data.len() as u64;
        let newest_first: Vec<_> = whole.iter().rev().map(|chunk| covered.cover(range(chunk))).collect();
        for (chunk, parts) in whole.iter().zip(newest_first.into_iter().rev()) {
            for part in parts {
                self.write_stable(inode, chunk, part).await?;
            }
        }
        if whole.len() == chunks.len() {
            return Ok(());
        }
        log::error!("{inode:?}: uncommitted data is damaged");
        Err(Errno(libc::EIO))
    }

    /// Sends this part of the file's bytes, which is one of the chunk.
    async fn write_stable(&self, inode: &Arc<Inode>, chunk: &Chunk, part: Range<u64>) -> Result<(), Errno> {
        let within = (part.start - chunk.offset) as usize..(part.end - chunk.offset) as usize;
        let (mut offset, mut data) = (part.start, chunk.data.slice(within));
        while !data.is_empty() {
            let written = self.write_once(Call::of(&chunk.cred), inode, (offset, &data), Stable::File).await;
            let count = written.map_err(|error| errno(&error))?.count;
            offset += u64::from(count);
            data = data.slice(count as usize..);
        }
        Ok(())
    }

    /// Somebody hears that data of the file is lost: it need not be marked so any more.
    pub(super) fn unmark_lost(&self, node: u64, failure: Failure) {
        let Ok(inode) = self.inode(node) else { return };
        let pending = inode.writes().pending();
        // In this order: nobody may take the mark for that of data which an earlier daemon has lost (`Inner::unkept`).
        self.mark_first(node, &pending);
        self.failures.set_heard(node, failure);
    }

    /// Takes the mark off a file whose data is all committed, or has a later write's verifier as its new mark.
    pub(super) fn unmark(&self, inode: &Inode, pending: &mut Pending) {
        pending.unkept = None;
        if let Some(node) = inode.node().filter(|node| !self.failures.is_unheard(*node)) {
            self.mark_first(node, pending);
        }
    }

    fn mark_first(&self, node: u64, pending: &Pending) {
        self.state.set_uncommitted(node, pending.chunks().first().map(|chunk| chunk.verifier));
    }
}
