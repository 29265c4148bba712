//! Write-behind: `write(2)` is answered when its data is in the saved state, and the server gets it later, in large
//! pieces, several of them in flight.
//!
//! Held data is sent when it makes up a piece, when it is older than the option `write-behind`, when half of the memory
//! for uncommitted data is used, at fsync and close, and *before* anything that must not overtake it: a change of the
//! file's attributes, a rename of it, a removal of a name of it, an open, a read that is not wholly of held data, and
//! every answer that tells the kernel the file's size or times ([`Inner::sent`], [`Inner::shown`]), because the kernel
//! would take a size without that data for a truncation. Only a read(2) or lseek(2), which ask for attributes through
//! their open file, are answered with the size that the file will have ([`Inner::attributes_with_unsent`]).
//!
//! Not held back are: pages of mappings, which nobody flushes; writes that ask for stable storage or no caching
//! (O_SYNC, O_DSYNC, O_DIRECT); those of a credential for whose data the server had no room lately; all on a soft
//! mount, where an application expects an answer in time; and all in a state that an older release has made. Writes of
//! a file are either held back or sent through: one that is sent through starts when all held data is answered, and
//! while it is in flight nothing is held back.
//!
//! Before a piece is sent it is published with the number of its call, so that a successor sends it again under that
//! number before anything newer of the same bytes. Data that the server refuses is dropped; [`super::failures`] reports
//! it.

use efc_tasks::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use efc_tasks::sync::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use efc_backend::{Attr, Backend, Call, Cred, FileHandle, Seen, Stable, Ticket, Verifier};
use efc_cache::{Chunk, Inode, Pending, Piece, Stage};
use efc_fuse::Errno;
use efc_state::{SavedCall, SentAs, SentCall, UNSENT, payload_checksum};

use super::files::OpenFile;
use super::writes::{Outgoing, WritePlace, ticket_of};
use super::{Inner, Told};
use crate::errno::errno;

/// A credential whose data the server had no room for writes through until a write succeeds after so long.
const FULL_TIME: Duration = Duration::from_secs(10);
/// Credentials of which that is remembered, at most.
const FULL_MAX: usize = 1024;
/// Files can be so large on each server: ext4's limit, in bytes. Whether a larger one can be is known when the server has said so.
const FILE_SIZE_SURE: u64 = (16 << 40) - 4096;
/// How often the server's free space is looked at while data is held back: after so many bytes, and so much time.
const SPACE_BYTES: u64 = 16 << 20;
const SPACE_TIME: Duration = Duration::from_secs(10);
/// How often the age of held data is looked at, at most, as a part of the longest age; and in time.
const LOOKS: u32 = 8;
const LOOK_MIN: Duration = Duration::from_millis(10);

/// For how long written data may be held back.
#[derive(Debug)]
pub struct WriteBehind {
    limit_ns: AtomicU64,
}

impl WriteBehind {
    /// Data may be held back for `limit`; 0: none is.
    pub fn new(limit: Duration) -> WriteBehind {
        let behind = WriteBehind { limit_ns: AtomicU64::new(0) };
        behind.set_limit(limit);
        behind
    }

    /// Changes for how long data may be held back.
    pub fn set_limit(&self, limit: Duration) {
        self.limit_ns.store(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// For how long data may be held back.
    pub fn limit(&self) -> Duration {
        Duration::from_nanos(self.limit_ns.load(Ordering::Relaxed))
    }
}

/// What is common to all files of which data is held back.
pub struct Behind {
    option: Arc<WriteBehind>,
    /// Nothing is held back any more.
    is_over: AtomicBool,
    /// A task looks at the age of what is held back.
    is_aging: AtomicBool,
    /// Lookups that the kernel has given back of nodes whose files have data that waits: the saved state must know the files.
    forgotten: Mutex<HashMap<u64, u64>>,
    forgotten_count: AtomicU64,
    /// Users for whose data the server had no room, and since when.
    full: Mutex<HashMap<u32, Instant>>,
    full_count: AtomicU64,
    /// Appends that another node's had come before.
    append_overlaps: AtomicU64,
    space: Mutex<Space>,
    /// The server has hardly any space left: nothing is held back.
    is_nearly_full: AtomicBool,
}

/// When the server's free space was looked at.
#[derive(Default)]
struct Space {
    looked_at: Option<Instant>,
    /// Written since.
    bytes: u64,
}

impl Behind {
    /// Holds back as the option says.
    pub fn new(option: Arc<WriteBehind>) -> Behind {
        Behind {
            option,
            is_over: AtomicBool::new(false),
            is_aging: AtomicBool::new(false),
            forgotten: Mutex::default(),
            forgotten_count: AtomicU64::new(0),
            full: Mutex::default(),
            full_count: AtomicU64::new(0),
            append_overlaps: AtomicU64::new(0),
            space: Mutex::default(),
            is_nearly_full: AtomicBool::new(false),
        }
    }

    /// Is the server's free space to be looked at, after `length` more bytes?
    fn is_space_due(&self, length: u64) -> bool {
        let mut space = self.space.lock().expect("space lock");
        space.bytes += length;
        let is_old = || space.looked_at.is_none_or(|at| efc_tasks::time::since(at) >= SPACE_TIME);
        if space.bytes < SPACE_BYTES && !self.is_nearly_full.load(Ordering::Relaxed) || !is_old() {
            return false;
        }
        *space = Space { looked_at: Some(efc_tasks::time::now()), bytes: 0 };
        true
    }

    /// For how long data may be held back.
    pub fn limit(&self) -> Duration {
        self.option.limit()
    }

    /// Appends that may have been written over another node's, or the other way round.
    pub fn append_overlaps(&self) -> u64 {
        self.append_overlaps.load(Ordering::Relaxed)
    }

    fn full(&self) -> MutexGuard<'_, HashMap<u32, Instant>> {
        self.full.lock().expect("full lock")
    }

    /// Has the server no room for this user's data, as far as is known?
    fn is_full_for(&self, cred: &Cred) -> bool {
        self.full_count.load(Ordering::Acquire) > 0 && self.full().contains_key(&cred.uid)
    }

    /// A write of this user has failed or succeeded.
    pub fn note_outcome(&self, cred: &Cred, failure: Option<Errno>) {
        let is_full = matches!(failure, Some(Errno(libc::ENOSPC | libc::EDQUOT)));
        if !is_full && self.full_count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut full = self.full();
        if is_full && (full.len() < FULL_MAX || full.contains_key(&cred.uid)) {
            full.insert(cred.uid, efc_tasks::time::now());
        } else if failure.is_none() && full.get(&cred.uid).is_some_and(|at| efc_tasks::time::since(*at) >= FULL_TIME) {
            full.remove(&cred.uid);
        }
        self.full_count.store(full.len() as u64, Ordering::Release);
    }

    /// Notes lookups that are to be given back later.
    pub fn defer_forget(&self, node: u64, lookups: u64) {
        let mut forgotten = self.forgotten.lock().expect("forgotten lock");
        *forgotten.entry(node).or_default() += lookups;
        self.forgotten_count.store(forgotten.len() as u64, Ordering::Release);
    }

    /// Takes the lookups of a node that were to be given back later.
    fn take_forgotten(&self, node: u64) -> Option<u64> {
        if self.forgotten_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut forgotten = self.forgotten.lock().expect("forgotten lock");
        let lookups = forgotten.remove(&node);
        self.forgotten_count.store(forgotten.len() as u64, Ordering::Release);
        lookups
    }
}

/// A write that is not held back is under way, until this is dropped.
pub struct Through(Arc<Inode>);

impl Drop for Through {
    fn drop(&mut self) {
        self.0.writes().pending().end_through();
    }
}

impl<B: Backend> Inner<B> {
    /// May a write through this open be held back?
    pub(super) fn holds_back(&self, file: &OpenFile, place: WritePlace) -> bool {
        place.may_wait()
            && !self.behind.limit().is_zero()
            && !self.behind.is_over.load(Ordering::Acquire)
            && self.state.may_hold_back()
            && self.backend.time_limit().is_none()
            && !self.behind.is_full_for(&file.cred)
            && !self.behind.is_nearly_full.load(Ordering::Relaxed)
    }

    /// Looks now and then whether the server has space for what is held back.
    pub(super) fn watch_space(&self, inode: &Arc<Inode>, cred: &Cred, length: u64) {
        if self.behind.limit().is_zero() || !self.behind.is_space_due(length) {
            return;
        }
        let (inner, inode, cred) = (self.arc(), inode.clone(), cred.clone());
        efc_tasks::spawn(async move {
            let Ok(stat) = inner.backend.fsstat(Call::of(&cred), inode.handle()).await else { return };
            let is_nearly_full = stat.value.bytes_available < 2 * inner.writes.memory_max();
            if inner.behind.is_nearly_full.swap(is_nearly_full, Ordering::Relaxed) != is_nearly_full {
                log::info!(
                    "the NAS {} space for data that is held back",
                    if is_nearly_full { "has no" } else { "has" }
                );
            }
        });
    }

    /// Takes a write in that is sent later. `Some`: it cannot be held back.
    pub(super) fn hold_back(
        &self,
        file: &OpenFile,
        (at, appends): (u64, bool),
        mut outgoing: Outgoing,
    ) -> Option<Outgoing> {
        let (Some(kept), Some(room)) = (&outgoing.kept, &mut outgoing.room) else { return Some(outgoing) };
        let data = (outgoing.data.clone(), payload_checksum(&outgoing.data));
        let mut chunk = Chunk { stage: Stage::Unsent, appends, ..Chunk::new(at, data, file.cred.clone(), UNSENT) };
        let end = chunk.range().end;
        self.state.fence(); // the records of a session with a later daemon are that daemon's
        let is_whole = {
            let mut pending = self.pending(&file.inode);
            if !pending.may_hold_back() || (appends && pending.is_shared) || end > FILE_SIZE_SURE {
                return Some(outgoing);
            }
            chunk.record = self.save(file.node, kept, &chunk);
            if chunk.record.is_none() {
                return Some(outgoing);
            }
            chunk.memory = room.take(u64::MAX);
            if pending.is_empty() && !self.failures.is_unheard(file.node) {
                self.state.set_uncommitted(file.node, Some(chunk.verifier));
            }
            if self.writes.unanswered_bytes() == 0 {
                self.state.set_holding(true);
            }
            self.writes.add(&file.inode, &mut pending, chunk);
            pending.wrote(end, appends);
            let is_whole = pending.unsent_bytes() >= u64::from(self.properties_of(&file.inode).write_max);
            if is_whole {
                pending.want_all();
            }
            is_whole
        };
        file.inode.drop_whole(); // what was read before the write
        if is_whole {
            self.pump(&file.inode);
        }
        self.watch_age();
        None
    }

    /// Sends what is to be sent now, as far as there is room for calls of this file.
    pub(super) fn pump(&self, inode: &Arc<Inode>) {
        loop {
            let piece = inode.writes().pending().take_piece(self.properties_of(inode).write_max.into());
            let Some(piece) = piece else { return };
            self.start_piece(inode, piece, Stable::Unstable, None);
        }
    }

    /// Returns when the server has answered all data of the file that was written so far.
    pub(super) async fn sent(&self, inode: &Arc<Inode>) {
        self.send(inode, false).await;
    }

    /// The same for the end of all writing, as far as is known: what fits one call goes to stable storage with it if nothing else
    /// of the file waits for that.
    pub(super) async fn sent_last(&self, inode: &Arc<Inode>) {
        self.send(inode, true).await;
    }

    async fn send(&self, inode: &Arc<Inode>, is_last: bool) {
        if !inode.has_unanswered() {
            return;
        }
        let (until, only) = {
            let mut pending = inode.writes().pending();
            let is_only = is_last && pending.is_all_unsent();
            let until = pending.want_all();
            let first = if is_only { pending.take_piece(self.properties_of(inode).write_max.into()) } else { None };
            let stable = if pending.unsent_bytes() == 0 { Stable::File } else { Stable::Unstable };
            (until, first.map(|piece| (piece, stable)))
        };
        only.into_iter().for_each(|(piece, stable)| self.start_piece(inode, piece, stable, None));
        self.pump(inode);
        loop {
            let mut answered = pin!(inode.writes().answered.notified());
            answered.as_mut().enable();
            if !inode.writes().pending().has_unanswered_before(until) {
                return;
            }
            answered.await;
        }
    }

    /// Begins a write that is not held back, when all that was is answered.
    pub(super) async fn begin_through(&self, inode: &Arc<Inode>) -> Through {
        inode.writes().pending().begin_through();
        let through = Through(inode.clone());
        self.sent(inode).await;
        through
    }

    /// What the kernel may be told of an object: what `seen` shows, or, if written data is missing in that, what the server shows
    /// when it has all of it.
    pub(super) async fn shown(&self, cred: &Cred, handle: &FileHandle, seen: Seen<Attr>) -> Result<Seen<Attr>, Errno> {
        let Some(inode) = self.inodes.get(handle).filter(|inode| !inode.shows_all(seen.asked)) else { return Ok(seen) };
        self.sent(&inode).await;
        self.backend.getattr(Call::of(cred), handle).await.map_err(|error| errno(&error))
    }

    /// For read(2) and lseek(2): the attributes of a file with data that the server has not got, without sending it. The times are those
    /// that the kernel was told last, so that it keeps its pages. Where data is good for a while only, they are not said to be
    /// of that version for longer.
    pub(super) fn attributes_with_unsent(&self, inode: &Inode) -> Option<Told> {
        let end = inode.writes().pending().unanswered_end()?;
        let (mut seen, told) = (inode.observed()?.seen, inode.told());
        if let Some(bound) = self.freshness.data_ttl()
            && told.is_none_or(|told| efc_tasks::time::since(told.asked.at) >= bound)
        {
            return None;
        }
        let attr = &mut seen.value;
        if let Some(Seen { value: told, .. }) = told {
            (attr.mtime, attr.ctime) = (told.mtime, told.ctime);
        }
        attr.size = attr.size.max(end);
        Some(Told::once(seen))
    }

    /// The end of the file for an append through `file`: our own, or the server's.
    pub(super) async fn end_for_append(&self, file: &OpenFile, is_resent: bool) -> Result<u64, Errno> {
        let limit = self.behind.limit();
        let since = efc_tasks::time::now().checked_sub(limit).filter(|_| !limit.is_zero() && !is_resent);
        if let Some(end) = since.and_then(|since| file.inode.writes().pending().own_end(since)) {
            return Ok(end);
        }
        self.sent(&file.inode).await;
        self.end_of_file(file).await
    }

    fn start_piece(&self, inode: &Arc<Inode>, piece: Piece, stable: Stable, earlier: Option<SavedCall>) {
        let (inner, inode) = (self.arc(), inode.clone());
        efc_tasks::spawn(async move { inner.send_piece(&inode, &piece, stable, earlier).await });
    }

    async fn send_piece(&self, inode: &Arc<Inode>, piece: &Piece, stable: Stable, earlier: Option<SavedCall>) {
        let shared = inode.writes().order.read().await;
        if inode.writes().pending().is_in_flight(piece) {
            let ticket = earlier
                .map_or_else(|| self.backend.ticket(inode.handle()), |(_, call)| ticket_of(call.sent).repeated());
            let record = earlier.map(|(record, _)| record).or_else(|| self.save_call(inode, piece, ticket));
            let written = self.write_piece(inode, piece, ticket, stable).await;
            self.note_answer(inode, piece, written);
            record.into_iter().for_each(|record| self.state.end_call(record));
        } else {
            inode.writes().pending().land(piece); // all was sent again meanwhile
            earlier.into_iter().for_each(|(record, _)| self.state.end_call(record));
        }
        drop(shared);
        self.note_holding();
        inode.writes().answered.notify_waiters();
        self.give_back_forgotten(inode);
        self.pump(inode);
    }

    /// Notes for the keeper when nothing is held back any more.
    pub(super) fn note_holding(&self) {
        if self.writes.unanswered_bytes() == 0 {
            self.state.set_holding(false);
            if self.writes.unanswered_bytes() > 0 {
                self.state.set_holding(true); // written meanwhile
            }
        }
    }

    /// Publishes the call that carries a piece, for a successor.
    fn save_call(&self, inode: &Inode, piece: &Piece, ticket: Ticket) -> Option<u64> {
        let (offset, length) = (piece.range.start, piece.range.end - piece.range.start);
        let sent = SentAs { number: ticket.number, connection: ticket.way };
        let call = SentCall { node: inode.node()?, offset, length, write: piece.record?, sent };
        self.state.begin_call(&call)
    }

    /// Sends all of a piece; the server's verifier, and whether the data is on stable storage.
    async fn write_piece(
        &self,
        inode: &Arc<Inode>,
        piece: &Piece,
        ticket: Ticket,
        stable: Stable,
    ) -> Result<(Verifier, bool), Errno> {
        let (mut offset, mut data) = (piece.range.start, piece.data.clone());
        let (mut verifier, mut is_stable) = (None, true);
        let mut call = Call::of(&piece.cred).patient().under(ticket);
        while !data.is_empty() {
            let written = self.write_once(call, inode, (offset, &data), stable).await;
            let written = written.map_err(|error| errno(&error))?;
            let before = written.wcc.before.filter(|_| verifier.is_none());
            if inode.writes().pending().sized(piece, before, written.wcc.after.map(|after| after.size)) {
                self.behind.append_overlaps.fetch_add(1, Ordering::Relaxed);
                log::warn!("{inode:?}: another node appends to this file at the same time: appends may overlap");
            }
            let count = written.count as usize;
            // Of two server lifetimes the first counts: what it had may be lost.
            verifier = verifier.or(Some(written.verifier));
            is_stable &= written.stable != Stable::Unstable;
            offset += count as u64;
            data = data.slice(count..);
            call = Call::of(&piece.cred).patient();
        }
        Ok((verifier.unwrap_or_default(), is_stable))
    }

    /// Takes in how a piece was answered, for a successor too.
    fn note_answer(&self, inode: &Arc<Inode>, piece: &Piece, written: Result<(Verifier, bool), Errno>) {
        self.behind.note_outcome(&piece.cred, written.err());
        let retire = |chunk: &Chunk| chunk.record.into_iter().for_each(|record| self.state.remove_write(record));
        match written {
            Ok((verifier, is_stable)) => {
                let mut pending = inode.writes().pending();
                for record in pending.records_of(piece) {
                    self.state.set_answered(record, verifier);
                }
                self.writes.written(inode, &mut pending, piece, (verifier, is_stable), retire);
                if pending.is_empty() {
                    self.unmark(inode, &mut pending);
                }
            }
            Err(errno) => {
                self.note_lost(inode, errno);
                let mut pending = inode.writes().pending();
                self.writes.refused(inode, &mut pending, piece, retire);
                drop(pending);
                inode.expire();
                if let Some(node) = inode.node() {
                    let length = piece.range.end - piece.range.start;
                    self.notifier.inval_inode(node, piece.range.start as i64, length as i64);
                }
            }
        }
    }

    /// Gives lookups back that the kernel had given back while data of the file waited.
    pub(super) fn give_back_forgotten(&self, inode: &Inode) {
        let Some(node) = inode.node().filter(|_| !inode.has_uncommitted()) else { return };
        if let Some(lookups) = self.behind.take_forgotten(node) {
            self.forget_lookups(node, lookups);
        }
    }

    /// Sees to it that what is held back is sent when it is old.
    pub(super) fn watch_age(&self) {
        if self.behind.is_aging.load(Ordering::Acquire) || self.behind.is_aging.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = self.arc();
        efc_tasks::spawn(async move {
            loop {
                let (now, limit) = (efc_tasks::time::now(), inner.behind.limit());
                if let Some(next) = inner.send_old(now, limit) {
                    let soonest = now + (limit / LOOKS).max(LOOK_MIN);
                    efc_tasks::time::sleep_until(next.max(soonest)).await;
                    continue;
                }
                inner.behind.is_aging.store(false, Ordering::Release);
                if inner.writes.unsent_since().is_none() || inner.behind.is_aging.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
        });
    }

    /// Sends what is as old as `limit`; when the next will be, if any is held back.
    fn send_old(&self, now: Instant, limit: Duration) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for file in self.writes.files() {
            let due = |pending: &Pending| pending.unsent_since().map(|since| since + limit);
            let is_due = {
                let mut pending = file.writes().pending();
                let is_due = due(&pending).is_some_and(|due| due <= now);
                if is_due {
                    pending.want_all();
                }
                is_due
            };
            if is_due {
                self.pump(&file);
            }
            let file_next = due(&file.writes().pending());
            next = [next, file_next].into_iter().flatten().min();
        }
        next
    }

    /// Holds nothing back any more, and sends what is; returns when all of it is answered.
    pub(super) async fn stop_holding_back(&self) {
        self.behind.is_over.store(true, Ordering::Release);
        let files = self.writes.files();
        for file in &files {
            file.writes().pending().want_all();
            self.pump(file);
        }
        for file in &files {
            self.sent(file).await;
        }
    }

    /// Sends what a predecessor had held back or in flight: what was in flight under its old number.
    pub(super) fn resume_sending(&self) {
        for saved in self.state.take_saved_calls() {
            let (record, SentCall { node, offset, length, write, .. }) = saved;
            let inode = self.inode(node).ok().filter(|inode| inode.has_unanswered());
            let piece =
                inode.as_ref().and_then(|inode| inode.writes().pending().take_sent(offset..offset + length, write));
            match inode.zip(piece) {
                Some((inode, piece)) => self.start_piece(&inode, piece, Stable::Unstable, Some(saved)),
                None => self.state.end_call(record), // it was answered
            }
        }
        for file in self.writes.files() {
            file.writes().pending().want_all();
            self.pump(&file);
            if !file.is_open() {
                self.arc().commit_detached(file); // its last close was under way: nobody will ask for that again
            }
        }
        self.watch_age();
    }
}
