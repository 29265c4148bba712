//! Reading directories.
//!
//! The offset that FUSE carries is the server's cookie, and the cookie verifier is part of the saved state, so that a
//! directory stream goes on after this daemon. Pages are fetched with READDIRPLUS and kept per open directory until
//! they are used up: the kernel asks for a few entries at a time, the server is asked for many.
//!
//! A listing is whole or it fails: a page that brings nothing and is not the last, a cookie that is void or that leads
//! in a circle is never the end. What is known of a stream for that is in [`super::listing`].

use std::sync::Arc;
use std::time::Duration;

use efc_backend::{Backend, Call, Cred, DirEntry, Error, Seen, Status, Tick};
use efc_cache::{Inode, Permit};
use efc_fuse::{Directory, Errno, OpenReply};
use efc_nfs::Circle;
use efc_tasks::Backoff;

use super::listing::{History, Resumption};
use super::{Answer, Caller, Inner, Outcome, Response, attributes};
use crate::errno::errno;

/// Bytes asked of the server per page.
const PAGE_BYTES: u32 = 256 << 10;
/// How often a listing is read anew without a name that is new.
const RESTARTS_MAX: u32 = 10;
/// Pauses before all of them but the first.
const RESTARTS: Backoff = Backoff::doubling(Duration::from_millis(10), Duration::from_secs(5));
/// How often a listing is read anew though it is not known what was given out, so that names may come twice.
const BLIND_RESTARTS_MAX: u32 = 16;

/// One open of a directory.
pub struct OpenDirectory {
    node: u64,
    inode: Arc<Inode>,
    cred: Cred,
    stream: tokio::sync::Mutex<Stream>,
}

/// The page that entries are taken from, and its place in the listing.
struct Stream {
    verifier: [u8; 8],
    /// The verifier in the saved state: that of the place that the kernel holds.
    saved_verifier: [u8; 8],
    entries: Vec<DirEntry>,
    /// The next entry to give out.
    next: usize,
    /// The place behind the last entry given out.
    position: u64,
    /// Where the next page begins.
    next_page: u64,
    /// No page follows this one.
    is_last: bool,
    /// When this page was asked for.
    asked: Option<Tick>,
    history: History,
    circle: Circle,
    /// Times that the listing was read anew since a name was given out.
    restarts: u32,
    blind_restarts: u32,
}

/// A page for the kernel that is being filled.
struct Page {
    entries: Directory,
    /// With attributes: READDIRPLUS.
    plus: bool,
    /// Of all its entries.
    permit: Permit,
}

impl OpenDirectory {
    /// A directory that was open when a predecessor died.
    pub fn resumed(node: u64, inode: Arc<Inode>, cred: Cred, verifier: [u8; 8]) -> OpenDirectory {
        let stream = Stream {
            verifier,
            saved_verifier: verifier,
            entries: Vec::new(),
            next: 0,
            position: 0,
            next_page: 0,
            is_last: false,
            asked: None,
            history: History::unknown(),
            circle: Circle::default(),
            restarts: 0,
            blind_restarts: 0,
        };
        OpenDirectory { node, inode, cred, stream: tokio::sync::Mutex::new(stream) }
    }
}

impl<B: Backend> Inner<B> {
    pub(super) async fn opendir(&self, caller: &Caller, node: u64, flags: u32) -> Outcome {
        self.check_path(caller, node).await?;
        let inode = self.inode(node)?;
        let saved = super::files::saved_handle(caller.unique, node, flags, &caller.cred, true);
        let fh = self.state.open_handle(&saved).map_err(|_| Errno(libc::ENOMEM))?;
        let directory = OpenDirectory::resumed(node, inode, caller.cred.clone(), [0; 8]);
        self.open.lock().expect("open files lock").directories.insert(fh, directory.into());
        Ok(Response::Open(OpenReply { fh, flags: 0 }).into())
    }

    /// Has a user this directory open?
    pub(super) fn has_directory_open(&self, uid: u32, node: u64) -> bool {
        let open = self.open.lock().expect("open files lock");
        open.directories.values().any(|directory| directory.node == node && directory.cred.uid == uid)
    }

    pub(super) fn releasedir(&self, fh: u64) -> Outcome {
        self.open.lock().expect("open files lock").directories.remove(&fh);
        self.state.close_handle(fh);
        Ok(Response::Empty.into())
    }

    pub(super) async fn readdir(&self, fh: u64, offset: u64, size: u32, plus: bool) -> Outcome {
        let directory = self.open.lock().expect("open files lock").directories.get(&fh).cloned();
        let directory = directory.ok_or(Errno(libc::EBADF))?;
        let mut stream = directory.stream.lock().await;
        if offset == 0 || offset != stream.position {
            stream.go_to(offset);
        }
        if stream.verifier != stream.saved_verifier && stream.history.is_valid() {
            self.state.set_cookie_verifier(fh, stream.verifier);
            stream.saved_verifier = stream.verifier;
        }
        let room = self.room_for_data(size as usize).await?;
        let entries = Directory::new(room.buffer().map_err(|_| Errno(libc::ENOMEM))?, size, plus);
        let mut page = Page { entries, plus, permit: Permit::unconditional() };
        loop {
            let is_full = self.fill(&directory, &mut stream, &mut page)?;
            if is_full || stream.is_last || !page.entries.is_empty() {
                return Ok(Answer { body: Response::Directory(page.entries), permit: page.permit });
            }
            self.fetch(&directory, &mut stream).await?;
        }
    }

    /// Gives out entries while they fit; `true` when the page is full.
    fn fill(&self, directory: &OpenDirectory, stream: &mut Stream, page: &mut Page) -> Result<bool, Errno> {
        while let Some(entry) = stream.entries.get(stream.next) {
            if !self.is_silly_name(&entry.name) {
                match self.push(directory, page, entry, stream.asked) {
                    Ok(true) => {}
                    Ok(false) => return Ok(true),
                    // What the page holds is counted already: it goes out, and the error with the next one.
                    Err(_) if !page.entries.is_empty() => return Ok(true),
                    Err(errno) => return Err(errno),
                }
            }
            stream.give_out();
        }
        Ok(false)
    }

    fn push(
        &self,
        directory: &OpenDirectory,
        page: &mut Page,
        entry: &DirEntry,
        asked: Option<Tick>,
    ) -> Result<bool, Errno> {
        let is_dots = entry.name == b"." || entry.name == b"..";
        let mut looked_up = None;
        // A size that has grown must not be told yet: a name alone tells the kernel nothing.
        if let (Some(handle), Some(attr), Some(asked), true, false) =
            (entry.handle, entry.attr, asked, page.plus, is_dots)
            && !self.has_grown_unseen(&handle, &attr)
            && !self.is_shown_without_data(&handle, asked)
        {
            match self.entry(&directory.inode, &handle, Seen { value: &attr, asked }) {
                Ok(found) => looked_up = Some((found, handle)),
                // Attributes that cannot be, or no memory for a node: the name is told alone, and who wants to know
                // more asks for more.
                Err(Errno(libc::EIO | libc::ENOMEM)) => {}
                Err(errno) => return Err(errno),
            }
        }
        let (ino, kind) = self.number_and_kind(directory, entry);
        let found = looked_up.as_ref().map(|(found, _)| &**found);
        let fits = page.entries.push(ino, entry.cookie, kind, &entry.name, found);
        if let Some((found, handle)) = looked_up
            && fits
        {
            self.names.learn(directory.inode.handle(), &entry.name, &handle);
            let (_, permit) = found.give();
            page.permit = std::mem::take(&mut page.permit).and(permit);
        }
        Ok(fits)
    }

    /// The inode number of an entry, and its DT_* type if that is known. A listing without attributes has the number that
    /// the entry has in the directory's own file system.
    fn number_and_kind(&self, directory: &OpenDirectory, entry: &DirEntry) -> (u64, u8) {
        let of_directory = || directory.inode.last_seen().map(|attr| attr.fsid);
        let root_fsid = self.root_fsid.get().copied();
        match entry.attr {
            Some(attr) => {
                let ino = attributes::inode_number(root_fsid.unwrap_or(attr.fsid), attr.fsid, attr.fileid);
                (ino, (attributes::format_bits(attr.kind) >> 12) as u8)
            }
            None => match (root_fsid, of_directory()) {
                (Some(root), Some(fsid)) => (attributes::inode_number(root, fsid, entry.fileid), 0),
                _ => (entry.fileid, 0),
            },
        }
    }

    /// Fetches the page behind the last one. It may be empty, of names that were given out already.
    async fn fetch(&self, directory: &OpenDirectory, stream: &mut Stream) -> Result<(), Errno> {
        let (cookie, verifier) = (stream.next_page, stream.verifier);
        let call = Call::of(&directory.cred);
        let page = match self.backend.list(call, directory.inode.handle(), cookie, verifier, PAGE_BYTES).await {
            Ok(Seen { value: page, asked }) => {
                stream.asked = Some(asked);
                page
            }
            Err(error) if is_void(&error) => return stream.begin_anew().await,
            Err(error) => return Err(errno(&error)),
        };
        if let Some(last) = page.entries.last() {
            if stream.circle.closes(last.cookie) {
                log::warn!("a listing of the server goes in a circle: it ends with an error");
                return Err(Errno(libc::EIO));
            }
            stream.next_page = last.cookie;
        }
        stream.verifier = page.verifier;
        stream.is_last = page.eof;
        stream.entries = page.entries;
        stream.entries.retain(|entry| !stream.history.skips(&entry.name));
        stream.next = 0;
        Ok(())
    }
}

/// Does the server not know the cookie any more?
fn is_void(error: &Error) -> bool {
    error.is(Status::BadCookie) || error.is(Status::NotSync)
}

impl Stream {
    /// The next entry is given out, or is one that nobody sees.
    fn give_out(&mut self) {
        let entry = &self.entries[self.next];
        self.position = entry.cookie;
        self.history.add(&entry.name, entry.cookie);
        self.next += 1;
        self.restarts = 0;
    }

    /// Continues at `offset`, which may lie in the page at hand.
    fn go_to(&mut self, offset: u64) {
        if offset == 0 {
            self.history.begin();
            self.blind_restarts = 0;
            self.restarts = 0;
            return self.turn_to(0, 0, [0; 8]);
        }
        if let Some(index) = self.entries.iter().position(|entry| entry.cookie == offset) {
            while self.next <= index {
                self.give_out();
            }
            self.history.go_back(offset);
            self.next = index + 1;
            self.position = offset;
            return;
        }
        match self.history.go_back(offset) {
            Resumption::Valid => self.turn_to(offset, offset, self.verifier),
            Resumption::Void => self.turn_to(offset, 0, [0; 8]),
            Resumption::Unknown => {
                self.history.forget();
                self.turn_to(offset, offset, self.verifier);
            }
        }
    }

    /// The next page is that behind `cookie`.
    fn turn_to(&mut self, position: u64, cookie: u64, verifier: [u8; 8]) {
        self.entries.clear();
        self.next = 0;
        self.is_last = false;
        self.circle = Circle::default();
        self.position = position;
        self.next_page = cookie;
        self.verifier = verifier;
    }

    /// The cookies are void: the listing is read from its beginning, without the names that were given out.
    async fn begin_anew(&mut self) -> Result<(), Errno> {
        if self.restarts >= RESTARTS_MAX || self.blind_restarts >= BLIND_RESTARTS_MAX {
            log::warn!("a directory changes so fast that the server cannot list it: the listing ends with an error");
            return Err(Errno(libc::EIO));
        }
        if self.restarts > 0 {
            RESTARTS.wait(self.restarts - 1).await;
        }
        self.restarts += 1;
        if self.history.is_known() {
            self.history.void_cookies();
        } else {
            self.blind_restarts += 1;
            self.history.begin_anew(self.position);
        }
        self.turn_to(self.position, 0, [0; 8]);
        Ok(())
    }
}
