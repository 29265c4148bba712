//! Open files: opening, reading, closing.
//!
//! An open asks the server, unless the consistency mode accepts what is known: the attributes, and the caller's own
//! verdict. That question is the open half of close-to-open consistency, and lets the server refuse a caller whom the
//! mode bits alone would admit (root of a pod behind a root squash). For a small file opened for reading the question
//! is a READ of the whole file: its success grants the permission, its attributes validate the cache, and its data
//! answers the read that follows, so that the file costs one round trip instead of two.

use efc_tasks::sync::atomic::{AtomicBool, Ordering};
use efc_tasks::sync::{Mutex, OnceLock};
use std::ops::Range;
use std::sync::Arc;

use efc_backend::{Attr, Backend, Call, Cred, Error, FileType, Read, Seen, access};
use efc_buffer::{Buffer, PAYLOAD_MAX, Payload, Purpose, Room, SMALL, Sink};
use efc_cache::blocks::Absent;
use efc_cache::{BeforeRead, Grant, Inode, Permit, Rights, Version};
use efc_fuse::{Errno, OpenReply, maps_direct_io};
use efc_state::OpenHandle;

use super::ahead::places::Places;
use super::mutations::Objects;
use super::passthrough::{Entered, Offered, Want};
use super::saved::{saved_handle, saved_version};
use super::warming::request::is_warming;
use super::{Answer, Caller, Inner, Outcome, ReadRequest, Response};
use crate::errno::errno;

/// Largest file that is read when it is opened, in bytes.
const READ_AT_OPEN_MAX: u64 = SMALL as u64;

/// Smallest read whose data goes through a pipe, in bytes.
pub(super) const PIPED_MIN: u32 = 128 << 10;

/// What ACCESS is asked of a file, if the answer is remembered.
const ALL_OF_FILES: u32 = access::READ | access::EXECUTE | access::MODIFY | access::EXTEND;

const FOPEN_DIRECT_IO: u32 = 1 << 0;
const FOPEN_KEEP_CACHE: u32 = 1 << 1;
const FOPEN_NOFLUSH: u32 = 1 << 5;
const FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
const FOPEN_PASSTHROUGH: u32 = 1 << 7;

/// One open of a file. The credential is that of the open: later data calls may come from a kernel thread.
pub struct OpenFile {
    pub(super) node: u64,
    pub(super) inode: Arc<Inode>,
    pub(super) cred: Cred,
    pub(super) flags: u32,
    /// The open lets the kernel's pages go, and those that come later are of this version or a later one.
    dropped_for: OnceLock<Version>,
    /// That is noted.
    is_noted: AtomicBool,
    /// How long the server has shown the file to be when it was opened.
    size: OnceLock<u64>,
    /// The kernel may have pages of the file that were read through this open, or before it.
    has_pages: AtomicBool,
    /// Its place among all opens, if that is of interest to its first read ([`super::ahead`]).
    places: Mutex<Option<Places>>,
}

/// What the server has shown of a small file, and its data and size, if that is all of it.
pub(super) type AllOfFile = (Option<Seen<Attr>>, Option<(Buffer, usize)>);

/// An open that is being asked for: it counts as one, so that the file's last name stays, until this is dropped.
pub struct Opening<B: Backend> {
    inner: Arc<Inner<B>>,
    inode: Arc<Inode>,
    is_root: bool,
}

impl<B: Backend> Drop for Opening<B> {
    fn drop(&mut self) {
        if self.inode.give_up(self.is_root) {
            self.inner.remove_if_closed(&self.inode);
        }
    }
}

impl OpenFile {
    pub(super) fn new(node: u64, inode: Arc<Inode>, cred: Cred, flags: u32) -> OpenFile {
        let [is_noted, has_pages] = [false, true].map(AtomicBool::new);
        let (dropped_for, size, places) = (OnceLock::new(), OnceLock::new(), Mutex::default());
        OpenFile { node, inode, cred, flags, dropped_for, is_noted, size, has_pages, places }
    }

    /// Notes another place among all opens, or none; what that was.
    pub(super) fn replace_places(&self, places: Option<Places>) -> Option<Places> {
        std::mem::replace(&mut self.places.lock().expect("places lock"), places)
    }

    /// May it be written through?
    pub(super) fn is_writable(&self) -> bool {
        self.flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32
    }

    /// May it be read through?
    pub(super) fn is_readable(&self) -> bool {
        self.flags & libc::O_ACCMODE as u32 != libc::O_WRONLY as u32
    }

    /// Are there no pages, because nobody has read through it, and it let all go?
    fn is_without_pages(&self) -> bool {
        !self.is_writable() && !self.has_pages.load(Ordering::Acquire)
    }

    /// Was the file as long as that when it was opened, and are there no pages since?
    pub(super) fn is_unread_since(&self, size: u64) -> bool {
        self.is_without_pages() && self.size.get().is_some_and(|shown| *shown >= size)
    }

    /// What its mode depends on.
    pub(super) fn want(&self) -> Want {
        match self.flags as i32 {
            flags if flags & libc::O_ACCMODE != libc::O_RDONLY => Want::Write,
            flags if flags & libc::O_DIRECT != 0 => Want::ReadDirect,
            _ => Want::Read,
        }
    }

    /// What the server must let the caller do. A program that may be executed but not read is opened for reading to be
    /// executed.
    fn rights(&self) -> Rights {
        match self.flags as i32 & libc::O_ACCMODE {
            libc::O_RDONLY => Rights::OPEN,
            libc::O_WRONLY => Rights::WRITE,
            _ => Rights::READ.and(Rights::WRITE),
        }
    }

    /// Is asking for all of its data a way to ask whether it may be opened?
    fn is_read_at_open(&self, attr: &Attr) -> bool {
        !self.is_writable() && !self.is_warming() && fits_read_at_open(attr)
    }

    /// Is it opened to have one level of cache filled, and by no means others?
    pub(super) fn is_warming(&self) -> bool {
        is_warming(self.flags)
    }

    /// Is it opened to append?
    fn appends(&self) -> bool {
        self.flags & libc::O_APPEND as u32 != 0
    }

    /// Can it be mapped for others to see?
    fn is_mappable(&self) -> bool {
        self.flags & libc::O_ACCMODE as u32 == libc::O_RDWR as u32
    }
}

impl<B: Backend> Inner<B> {
    /// The open file of `fh`.
    pub(super) fn file(&self, fh: u64) -> Result<Arc<OpenFile>, Errno> {
        self.open.lock().expect("open files lock").files.get(&fh).cloned().ok_or(Errno(libc::EBADF))
    }

    /// Counts an open of the file from now on, while the server is asked.
    pub(super) async fn opening(self: &Arc<Self>, caller: &Caller, inode: &Arc<Inode>) -> Opening<B> {
        let is_root = caller.cred.uid == 0;
        inode.open(is_root).await;
        Opening { inner: Arc::clone(self), inode: inode.clone(), is_root }
    }

    /// One open less of the file.
    fn closed(self: &Arc<Self>, file: &OpenFile) {
        self.modes.leave(file.node);
        if file.inode.uncount(file.cred.uid == 0) {
            self.remove_if_closed(&file.inode);
        }
    }

    pub(super) async fn open(self: &Arc<Self>, caller: &Caller, node: u64, flags: u32) -> Outcome {
        if self.is_unopened() {
            return Err(Errno(libc::ENOSYS)); // for all to come
        }
        self.check_path(caller, node).await?;
        let inode = self.inode(node)?;
        let _opening = self.opening(caller, &inode).await;
        self.sent(&inode).await;
        let file = Arc::new(OpenFile::new(node, inode.clone(), caller.cred.clone(), flags));
        if file.is_writable() && self.backend.is_read_only(inode.handle()) {
            return Err(Errno(libc::EROFS));
        }
        if file.is_writable() {
            self.modes.closed(node).await;
        }
        let known = self.open_with_what_is_known(&file).await;
        let is_asked = known.is_none();
        let (seen, permit) = match known {
            Some(grant) => (Some(grant.seen), grant.permit),
            None => (self.ask_to_open(&file).await?, Permit::unconditional()),
        };
        if let Some(seen) = &seen {
            self.drop_before_growth(&inode, &seen.value).await;
            let _ = file.size.set(seen.value.size);
        }
        self.open_ahead(&file, is_asked);
        let shown = seen.as_ref().map(|seen| &seen.value);
        let name = self.backend.shared_name(inode.handle());
        let (backing, _turn) = self.modes.ask((node, file.want()), name, shown).await;
        let keeps_pages = self.keeps_pages(&file, seen);
        let asked = seen.map(|seen| Version::of(&seen.value));
        let is_current = || self.granted(&inode).map(|told| Version::of(&told.attr)) == asked;
        let offered = backing.map(|backing| Offered { backing, is_current: &is_current });
        let reply = self.remember_open(caller.unique, file, keeps_pages, offered)?;
        Ok(Answer { body: Response::Open(reply), permit })
    }

    /// What the open may rely on without asking. Where the data has to be read anew, and comes with the answer to the
    /// question, asking costs nothing.
    pub(super) fn open_unasked(&self, file: &OpenFile) -> Option<Grant> {
        let grant = self.freshness.on_open(&file.inode, &file.cred, file.rights())?;
        let is_read_anew = file.is_read_at_open(&grant.seen.value)
            && !file.inode.is_settled(grant.seen.part(|attr| attr))
            && !file.inode.has_whole()
            && !self.ahead.has_data(&file.inode, self.freshness.data_ttl());
        (!is_read_anew).then_some(grant)
    }

    /// Asks the server whether the caller may open the file, and of what version that is.
    pub(super) async fn ask_to_open(self: &Arc<Self>, file: &Arc<OpenFile>) -> Result<Option<Seen<Attr>>, Errno> {
        let before = file.inode.drop_whole();
        let known = file.inode.last_shown().filter(|known| file.is_read_at_open(&known.value));
        let Some(known) = known else { return self.ask_access(file).await };
        match self.have_block(file, known).await {
            Ok(shown) => self.note_block(file, shown).await,
            Err(_) => self.read_at_open(file, before).await,
        }
    }

    /// The block of a small file that is being opened is there. If the server has shown this with it, it allows the open; else it is asked.
    pub(super) async fn note_block(
        &self,
        file: &OpenFile,
        shown: Option<Seen<Attr>>,
    ) -> Result<Option<Seen<Attr>>, Errno> {
        let Some(read) = shown else { return self.ask_access(file).await };
        self.note_verdict(file, Rights::OPEN, Seen { value: Some(&read.value), asked: read.asked });
        Ok(Some(read))
    }

    /// May the kernel keep its pages of a file that is being opened, of which the server has shown what is in `seen`?
    ///
    /// It may if it is known that they are of that version. When it may not, it lets them go before open(2) returns, so from
    /// the first read through this open on ([`Inner::note_pages`]) they are known to be of this version or a later one: if the
    /// server shows this one again, it is this one. Unless a change of the same tick has the same version too, which is why
    /// only a settled one is noted.
    fn keeps_pages(&self, file: &OpenFile, seen: Option<Seen<Attr>>) -> bool {
        if !seen.is_some_and(|seen| file.inode.is_told(seen.part(|attr| attr))) {
            // The next read compares size and time with the server's.
            self.notifier.inval_attributes(file.node);
        }
        let Some(seen) = seen else { return false };
        let version = Version::of(&seen.value);
        if self.state.page_version(file.node) == Some(saved_version(&version)) {
            return true;
        }
        if file.inode.is_settled(seen.part(|attr| attr)) {
            let _ = file.dropped_for.set(version);
        }
        false
    }

    /// A read came through this open: open(2) has returned, and whatever pages there were are gone.
    fn note_pages(&self, file: &OpenFile) {
        if file.is_without_pages() {
            file.has_pages.store(true, Ordering::Release);
        }
        if let Some(version) = file.dropped_for.get()
            && !file.is_noted.load(Ordering::Relaxed)
            && !file.is_noted.swap(true, Ordering::Relaxed)
        {
            self.state.set_page_version(file.node, saved_version(version));
        }
    }

    /// The kernel gets data that was read with these attributes. Within a bound they must not stand for it later, if another
    /// change may have the same.
    fn note_read(&self, file: &OpenFile, Seen { value: attr, asked }: Seen<Option<&Attr>>) {
        self.reads_without_version.store(attr.is_none(), Ordering::Relaxed);
        let settled = attr.filter(|attr| file.inode.is_settled(Seen { value: *attr, asked }));
        if !self.note_unopened(file, settled.map(Version::of))
            && self.freshness.data_ttl().is_some()
            && settled.is_none()
        {
            file.inode.read_unsettled(asked);
        }
    }

    /// ACCESS: may the caller do what it opens the file for?
    pub(super) async fn ask_access(&self, file: &OpenFile) -> Result<Option<Seen<Attr>>, Errno> {
        let asked = match file.flags as i32 & libc::O_ACCMODE {
            _ if self.freshness.opens_unasked() => ALL_OF_FILES, // for later opens of other kinds, too
            libc::O_RDONLY => access::READ | access::EXECUTE,
            libc::O_WRONLY => access::MODIFY | access::EXTEND,
            _ => access::READ | access::MODIFY | access::EXTEND,
        };
        let answer = self.backend.access(Call::of(&file.cred), file.inode.handle(), asked).await;
        let Seen { value: (granted, attr), asked } = answer.map_err(|error| errno(&error))?;
        if let Some(attr) = &attr {
            file.inode.learn(Seen { value: attr, asked });
        }
        let rights = Rights::of_access(granted);
        self.note_verdict(file, rights, Seen { value: attr.as_ref(), asked });
        let is_granted = rights.contain(file.rights());
        if is_granted { Ok(attr.map(|value| Seen { value, asked })) } else { Err(Errno(libc::EACCES)) }
    }

    /// The server grants whoever opens a file these rights: later opens may rely on that.
    fn note_verdict(&self, file: &OpenFile, rights: Rights, shown: Seen<Option<&Attr>>) {
        if self.freshness.opens_unasked() {
            file.inode.judged(&file.cred, rights, shown, self.freshness.verdict_ttl());
        }
    }

    async fn read_at_open(&self, file: &OpenFile, before: BeforeRead) -> Result<Option<Seen<Attr>>, Errno> {
        let Some(buffer) = self.buffer_ahead(SMALL) else { return self.ask_access(file).await };
        let (shown, data) = self.read_all(file, buffer).await?;
        if let (Some(Seen { value: attr, asked }), Some((data, size))) = (&shown, data) {
            file.inode.keep_whole(before, data, size, Seen { value: Version::of(attr), asked: *asked });
        }
        Ok(shown)
    }

    /// Reads all of a small file, to ask whether the caller may open it: what the server shows of it, and its data if that is all of it.
    pub(super) async fn read_all(&self, file: &OpenFile, buffer: Buffer) -> Result<AllOfFile, Errno> {
        let sink = Sink::Buffer(buffer, 0..SMALL);
        let (payload, read) = self.backend.read(Call::of(&file.cred), file.inode.handle(), 0, sink).await;
        let (Ok(Seen { value: read, asked }), Some((data, _))) = (read, payload.and_then(Payload::into_buffer)) else {
            // May be executed but not read, or something else that ACCESS tells better.
            return Ok((self.ask_access(file).await?, None));
        };
        let Some(attr) = read.attr else { return Ok((self.ask_access(file).await?, None)) };
        file.inode.learn(Seen { value: &attr, asked });
        self.note_verdict(file, Rights::OPEN, Seen { value: Some(&attr), asked });
        // What is written meanwhile, and held back, the data lacks.
        let is_all = u64::from(read.count) == attr.size && file.inode.shows_all(asked);
        Ok((Some(Seen { value: attr, asked }), is_all.then_some((data, read.count as usize))))
    }

    /// Records an open in the saved state before the kernel hears of it. `offered` is what the kernel could read in place of the file.
    pub(super) fn remember_open(
        &self,
        unique: u64,
        file: Arc<OpenFile>,
        keep_cache: bool,
        offered: Option<Offered<'_>>,
    ) -> Result<OpenReply, Errno> {
        let entered = self.modes.enter(file.node, file.want(), offered)?;
        let (keep_cache, backing) = (keep_cache && entered.backing == 0, entered.backing);
        let saved = OpenHandle { backing, ..saved_handle(unique, file.node, file.flags, &file.cred, false) };
        let opened = self.state.open_handle(&saved).map_err(|_| Errno(libc::ENOMEM));
        let fh = opened.inspect_err(|_| self.modes.leave(file.node))?;
        let flags = self.open_flags(&file, keep_cache, entered);
        file.has_pages.store(keep_cache, Ordering::Release);
        self.failures.opened(fh, file.node);
        if !keep_cache && file.inode.granted() == 0 {
            file.inode.lets_pages_go();
        }
        file.inode.count(file.cred.uid == 0);
        self.open.lock().expect("open files lock").files.insert(fh, file);
        Ok(OpenReply { fh, flags, backing })
    }

    fn open_flags(&self, file: &OpenFile, keep_cache: bool, entered: Entered) -> u32 {
        if entered.backing != 0 {
            let direct = if entered.is_direct { FOPEN_DIRECT_IO } else { 0 };
            return FOPEN_PASSTHROUGH | FOPEN_NOFLUSH | direct; // the kernel takes no others with it
        }
        let kept = if keep_cache { FOPEN_KEEP_CACHE } else { 0 };
        if !file.is_writable() {
            kept | FOPEN_NOFLUSH // nothing to write at close
        } else if file.appends() && (!file.is_mappable() || maps_direct_io(&self.state)) {
            // We place the data at the server's end of file, which the kernel may not know: its pages should not be
            // filled at the place that it believes in. (Where they must be, they are dropped again: `Inner::write`.)
            FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES
        } else {
            kept
        }
    }

    pub(super) async fn create(
        self: &Arc<Self>,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        flags: u32,
    ) -> Outcome {
        self.check_path(caller, parent).await?;
        let removals = self.inodes.removal_events();
        let (entry, attr) = match self.create_file(caller, parent, name, mode, flags).await? {
            made if flags & libc::O_TRUNC as u32 != 0 => self.truncated(caller, made).await?,
            made => made,
        };
        if attr.kind != FileType::Regular {
            return Err(Errno(libc::ESTALE)); // as in `create_file`
        }
        let inode = entry.inode().clone();
        let _opening = self.opening(caller, &inode).await;
        if removals != self.inodes.removal_events() {
            // The file may have been there, and have lost its last name before it counted as open.
            self.backend.getattr(Call::of(&caller.cred), inode.handle()).await.map_err(|error| errno(&error))?;
        }
        let file = Arc::new(OpenFile::new(entry.node, inode, caller.cred.clone(), flags));
        if file.is_writable() {
            self.modes.closed(entry.node).await;
        }
        let reply = self.remember_open(caller.unique, file, false, None)?;
        let (entry, permit) = entry.give();
        Ok(Answer { body: Response::Create(entry, reply), permit })
    }

    /// Room for data that a request waits for, when it is its turn. To be asked for once by each request.
    pub(super) async fn room_for_data(&self, size: usize) -> Result<Room, Errno> {
        let room = self.buffers.wait(Purpose::Demand, size);
        efc_tasks::time::in_time(room, self.backend.time_limit()).await.ok_or(Errno(libc::EIO))
    }

    /// A buffer for data that nobody waits for, if there is memory for such.
    fn buffer_ahead(&self, size: usize) -> Option<Buffer> {
        let take = || self.buffers.take(Purpose::Ahead, size);
        let room = take().or_else(|| {
            self.inodes.drop_oldest_whole();
            take()
        });
        room?.buffer().ok()
    }

    /// Where the data of a read goes: the one place that decides between memory of ours, where it can be kept, and a pipe, through
    /// which it passes without a copy.
    fn sink_for(&self, file: &OpenFile, read: &ReadRequest, room: Room) -> Result<Sink, Errno> {
        let one_call_max = self.properties_of(&file.inode).read_max.min(PAYLOAD_MAX as u32);
        if (PIPED_MIN..=one_call_max).contains(&read.size) {
            let (prefix, count) = (efc_fuse::data_head(read.name, read.size), read.size as usize);
            return Ok(Sink::Pipe { prefix, count, room });
        }
        let buffer = room.buffer().map_err(|_| Errno(libc::ENOMEM))?;
        Ok(Sink::Buffer(buffer, 0..read.size.min(one_call_max) as usize))
    }

    pub(super) async fn read(self: &Arc<Self>, file: Arc<OpenFile>, read: ReadRequest) -> Outcome {
        self.admit_read(&file, read.offset).await?;
        self.note_pages(&file);
        let size = (read.size as usize).min(PAYLOAD_MAX);
        if file.inode.has_unanswered() {
            if let Some(data) = self.read_held(&file, read.offset, size).await? {
                return Ok(data.into());
            }
            self.sent(&file.inode).await;
        }
        let begun = efc_tasks::time::now();
        let whole = match file.inode.read_whole(read.offset, size, self.freshness.data_ttl()) {
            None if !read.is_direct() => self.read_asked(&file, read.offset, size).await,
            whole => whole,
        };
        if let Some(whole) = whole {
            let Seen { value: (buffer, range), asked } = whole;
            self.note_read(&file, Seen { value: file.inode.last_seen().as_ref(), asked });
            self.latencies.memory.count(efc_tasks::time::since(begun));
            return Ok(Response::Data(buffer, range).into());
        }
        let outcome = self.read_what_nobody_has(&file, &read).await;
        self.read_ahead(&file);
        outcome
    }

    /// Reads from levels of cache or from the server.
    async fn read_what_nobody_has(self: &Arc<Self>, file: &Arc<OpenFile>, read: &ReadRequest) -> Outcome {
        let begun = efc_tasks::time::now();
        match self.read_by_blocks(file, read).await {
            Ok(answer) => Ok(answer),
            Err(Absent::Unshared) => self.read_from_server(file, *read).await,
            // Who has waited for the server already waits for what is left of its time.
            Err(Absent::TimedOut) => {
                let limit = self.backend.time_limit().unwrap_or_default();
                let left = limit.saturating_sub(efc_tasks::time::since(begun));
                let late = Box::pin(self.read_from_server(file, *read)); // rare: it need not take room in each request
                efc_tasks::time::in_time(late, Some(left)).await.ok_or(Errno(libc::EIO))?
            }
        }
    }

    async fn read_from_server(self: &Arc<Self>, file: &OpenFile, read: ReadRequest) -> Outcome {
        let size = (read.size as usize).min(PAYLOAD_MAX);
        let sink = self.sink_for(file, &read, self.room_for_data(size).await?)?;
        let begun = efc_tasks::time::now();
        let asked = self.read_once(file, read.offset, sink).await;
        let (payload, Seen { value: done, .. }) = asked.map_err(|error| errno(&error))?;
        self.latencies.backend.count(efc_tasks::time::since(begun));
        let (buffer, filled) = match payload.ok_or(Errno(libc::EIO))? {
            Payload::Pipe(pipe) => return Ok(Response::Piped(pipe, read).into()),
            Payload::Buffer(buffer, _) => (buffer, done.count as usize),
        };
        if done.eof {
            return Ok(Response::Data(buffer, 0..filled).into());
        }
        let (buffer, range) = self.read_rest(file, read.offset, buffer, filled..size).await?;
        Ok(Response::Data(buffer, range).into())
    }

    /// Asks the server once for what the sink takes, and takes in what the answer says of the file.
    pub(super) async fn read_once(
        &self,
        file: &OpenFile,
        offset: u64,
        sink: Sink,
    ) -> Result<(Option<Payload>, Seen<Read>), Error> {
        let (payload, read) = self.backend.read(Call::of(&file.cred), file.inode.handle(), offset, sink).await;
        let Seen { value: read, asked } = read?;
        if let Some(attr) = &read.attr {
            file.inode.learn(Seen { value: attr, asked });
        }
        if read.eof {
            file.inode.read_to_end(offset + u64::from(read.count), asked);
        }
        self.note_read(file, Seen { value: read.attr.as_ref(), asked });
        Ok((payload, Seen { value: read, asked }))
    }

    /// Answers a read from data that the server has not got, if that is all of it.
    async fn read_held(&self, file: &OpenFile, offset: u64, size: usize) -> Result<Option<Response>, Errno> {
        let mut buffer = self.room_for_data(size).await?.buffer().map_err(|_| Errno(libc::ENOMEM))?;
        let is_held = file.inode.read_unanswered(offset, &mut buffer[..size]);
        Ok(is_held.then(|| Response::Data(buffer, 0..size)))
    }

    /// Reads into memory of ours what the kernel did not take from a pipe.
    pub(super) async fn read_to_buffer(&self, read: &ReadRequest) -> Result<(Buffer, Range<usize>), Errno> {
        let file = self.file_read(read)?;
        let size = (read.size as usize).min(PAYLOAD_MAX);
        let buffer = self.room_for_data(size).await?.buffer().map_err(|_| Errno(libc::ENOMEM))?;
        self.read_rest(&file, read.offset, buffer, 0..size).await
    }

    /// Fills the part `missing` of a buffer that begins with the file's byte `offset`. Answers what is filled then.
    pub(super) async fn read_rest(
        &self,
        file: &OpenFile,
        offset: u64,
        mut buffer: Buffer,
        missing: Range<usize>,
    ) -> Result<(Buffer, Range<usize>), Errno> {
        let Range { start: mut filled, end: size } = missing;
        // A short answer would be the end of the file for the kernel: ask until the server says that it is.
        while filled < size {
            let end = size.min(filled + self.properties_of(&file.inode).read_max as usize);
            let at = offset + filled as u64;
            let sink = Sink::Buffer(buffer, filled..end);
            let asked = self.read_once(file, at, sink).await;
            let (payload, Seen { value: read, .. }) = asked.map_err(|error| errno(&error))?;
            (buffer, _) = payload.and_then(Payload::into_buffer).ok_or(Errno(libc::EIO))?;
            filled += read.count as usize;
            if read.eof {
                break;
            }
        }
        Ok((buffer, 0..filled))
    }

    /// FLUSH: one descriptor of this open is closed.
    ///
    /// The files of a process that ends are closed by its exit, which no signal interrupts and whose result nobody
    /// reads: there only the writes are waited for, so that what a program has written is seen by whoever runs after it, on
    /// any node; and by an exit after SIGKILL nothing is, so that a killed process does not wait for an absent server. The commit goes
    /// on in the background.
    pub(super) async fn flush(self: &Arc<Self>, fh: u64, tid: u32) -> Outcome {
        if self.is_unopened() {
            return Err(Errno(libc::ENOSYS)); // for all to come
        }
        let file = self.file(fh)?;
        let (has_uncommitted, is_untold) =
            (self.has_uncommitted(&file.inode), self.failures.unheard(fh, file.node).is_some());
        if !has_uncommitted && !is_untold {
            return Ok(Response::Empty.into());
        }
        if self.callers.is_exiting(tid) {
            if has_uncommitted {
                if !self.callers.was_killed(tid) {
                    self.sent(&file.inode).await; // or others would open the file, and miss it
                }
                self.commit_detached(file.inode.clone());
            }
            return Ok(Response::Empty.into()); // and what it would be told, others with this open description still hear
        }
        self.commit(&file.inode).await;
        self.report_failure(fh, file.node)?;
        Ok(Response::Empty.into())
    }

    /// FSYNC: what was written through this file is on stable storage.
    pub(super) async fn sync(self: &Arc<Self>, (unique, resent): (u64, bool), fh: u64) -> Outcome {
        if self.is_unopened() {
            return Ok(Response::Empty.into()); // nothing is written
        }
        let file = self.file(fh)?;
        if resent {
            self.tell_again(unique, fh, file.node)?;
        }
        self.after_abandoned(Objects::file(file.node)).await;
        self.commit(&file.inode).await;
        self.tell_failure(unique, fh, file.node)?;
        Ok(Response::Empty.into())
    }

    /// A redelivered request opens anew what it had opened when a predecessor died: the kernel has not heard of the first.
    pub(super) fn forget_open_of(self: &Arc<Self>, unique: u64) {
        if let Some(fh) = self.state.close_opened_by(unique) {
            if let Some(file) = self.take_open(fh) {
                self.closed(&file);
            }
            self.open.lock().expect("open files lock").directories.remove(&fh);
        }
    }

    /// Takes an open file out of the table. It counts as open until [`Inner::closed`].
    fn take_open(&self, fh: u64) -> Option<Arc<OpenFile>> {
        let file = self.open.lock().expect("open files lock").files.remove(&fh)?;
        self.failures.closed(fh);
        Some(file)
    }

    /// Closes an open that the kernel was not told of.
    pub(super) fn close(self: &Arc<Self>, fh: u64) {
        if let Some(file) = self.take_open(fh) {
            self.state.close_handle(fh);
            self.closed(&file);
        }
    }

    pub(super) async fn release(self: &Arc<Self>, fh: u64) -> Outcome {
        let Some(file) = self.take_open(fh) else { return Ok(Response::Empty.into()) };
        self.state.close_handle(fh);
        // Pages of a shared mapping may be written after the last FLUSH.
        if file.is_writable() {
            file.inode.begin_close();
            self.commit(&file.inode).await;
            file.inode.end_close();
        }
        self.closed(&file);
        Ok(Response::Empty.into())
    }
}

pub(super) fn fits_read_at_open(attr: &Attr) -> bool {
    attr.kind == FileType::Regular && (1..=READ_AT_OPEN_MAX).contains(&attr.size)
}
