//! Reading directories.
//!
//! The offset that FUSE carries is the server's cookie, and the cookie verifier is part of the saved state, so that a
//! directory stream goes on after this daemon. Pages are fetched with READDIRPLUS and kept per open directory until
//! they are used up: the kernel asks for a few entries at a time, the server is asked for many.

use efc_fuse::{Directory, Errno, OpenReply};
use efc_nfs::{Cred, DirEntry, DirPage, FileHandle, Status};

use super::attributes::Stamp;
use super::{Answer, Caller, Inner, Response, attributes};
use crate::errno::errno;

/// Bytes asked of the server per page.
const PAGE_BYTES: u32 = 256 << 10;
/// Pages read while looking for the place of a stream whose cookies the server has given up.
const RESUME_PAGES_MAX: u32 = 100_000;

/// One open of a directory.
pub struct OpenDirectory {
    node: u64,
    handle: FileHandle,
    cred: Cred,
    stream: tokio::sync::Mutex<Stream>,
}

/// The page that entries are taken from.
struct Stream {
    verifier: [u8; 8],
    entries: Vec<DirEntry>,
    /// The next entry to give out.
    next: usize,
    /// The cookie that leads to it.
    position: u64,
    /// No page follows this one.
    is_last: bool,
    /// When this page was asked for.
    sent: Option<Stamp>,
    /// The last name given out: where to go on when the cookies are void.
    last_name: Vec<u8>,
}

impl OpenDirectory {
    /// A directory that was open when a predecessor died.
    pub fn resumed(node: u64, handle: FileHandle, cred: Cred, verifier: [u8; 8]) -> OpenDirectory {
        let stream = Stream {
            verifier,
            entries: Vec::new(),
            next: 0,
            position: 0,
            is_last: false,
            sent: None,
            last_name: Vec::new(),
        };
        OpenDirectory { node, handle, cred, stream: tokio::sync::Mutex::new(stream) }
    }
}

impl Inner {
    pub(super) async fn opendir(&self, caller: &Caller, node: u64, flags: u32) -> Answer {
        self.check_path(caller, node).await?;
        let handle = self.handle_of(node)?;
        let saved = super::files::saved_handle(caller.unique, node, flags, &caller.cred, true);
        let fh = self.state.open_handle(&saved).map_err(|_| Errno(libc::ENOMEM))?;
        let directory = OpenDirectory::resumed(node, handle, caller.cred.clone(), [0; 8]);
        self.open.lock().expect("open files lock").directories.insert(fh, directory.into());
        Ok(Response::Open(OpenReply { fh, flags: 0 }))
    }

    pub(super) fn releasedir(&self, fh: u64) -> Answer {
        self.open.lock().expect("open files lock").directories.remove(&fh);
        self.state.close_handle(fh);
        Ok(Response::Empty)
    }

    pub(super) async fn readdir(&self, fh: u64, offset: u64, size: u32, plus: bool) -> Answer {
        let directory = self.open.lock().expect("open files lock").directories.get(&fh).cloned();
        let directory = directory.ok_or(Errno(libc::EBADF))?;
        let mut stream = directory.stream.lock().await;
        if offset == 0 || offset != stream.position {
            stream.go_to(offset);
        }
        let mut page = Directory::new(size, plus);
        loop {
            let is_full = self.fill(&directory, &mut stream, &mut page, plus)?;
            if is_full || stream.is_last || !page.is_empty() {
                return Ok(Response::Directory(page));
            }
            self.fetch(fh, &directory, &mut stream).await?;
        }
    }

    /// Gives out entries while they fit; `true` when the page is full.
    fn fill(
        &self,
        directory: &OpenDirectory,
        stream: &mut Stream,
        page: &mut Directory,
        plus: bool,
    ) -> Result<bool, Errno> {
        while let Some(entry) = stream.entries.get(stream.next) {
            let is_hidden = !self.orphans.is_empty() && self.orphans.hides(&directory.handle, &entry.name);
            if !is_hidden && !self.push(directory.node, page, entry, plus, stream.sent)? {
                return Ok(true);
            }
            stream.position = entry.cookie;
            stream.last_name.clone_from(&entry.name);
            stream.next += 1;
        }
        Ok(false)
    }

    fn push(
        &self,
        parent: u64,
        page: &mut Directory,
        entry: &DirEntry,
        plus: bool,
        sent: Option<Stamp>,
    ) -> Result<bool, Errno> {
        let kind = entry.attr.map_or(0, |attr| (attributes::format_bits(attr.kind) >> 12) as u8);
        let is_dots = entry.name == b"." || entry.name == b"..";
        let (Some(handle), Some(attr), Some(sent), true, false) = (entry.handle, entry.attr, sent, plus, is_dots)
        else {
            return Ok(page.push(entry.fileid, entry.cookie, kind, &entry.name, None));
        };
        if self.has_grown_unseen(&handle, &attr) {
            // Its size must not be told yet: a name alone tells the kernel nothing.
            return Ok(page.push(entry.fileid, entry.cookie, kind, &entry.name, None));
        }
        let Ok(looked_up) = self.entry(parent, &handle, &attr, sent) else {
            // No memory for the node: who wants more of it than the name hears so.
            return Ok(page.push(entry.fileid, entry.cookie, kind, &entry.name, None));
        };
        let fits = page.push(entry.fileid, entry.cookie, kind, &entry.name, Some(&looked_up));
        if fits {
            self.names.learn(parent, &entry.name, &handle);
        } else {
            self.state.forget_node(looked_up.node, 1);
        }
        Ok(fits)
    }

    /// Fetches the page behind the stream's position.
    async fn fetch(&self, fh: u64, directory: &OpenDirectory, stream: &mut Stream) -> Result<(), Errno> {
        let sent = self.attrs.stamp();
        let asked =
            self.client.readdirplus(&directory.cred, &directory.handle, stream.position, stream.verifier, PAGE_BYTES);
        let page = match asked.await {
            Ok(page) => page,
            Err(error) if error.is(Status::BadCookie) || error.is(Status::NotSync) => {
                self.find_again(directory, &stream.last_name).await?
            }
            Err(error) if error.is(Status::NotSupp) => self.fetch_names(directory, stream).await?,
            Err(error) => return Err(errno(&error)),
        };
        if page.verifier != stream.verifier {
            self.state.set_cookie_verifier(fh, page.verifier);
        }
        stream.verifier = page.verifier;
        // An empty page that is not the last would never end.
        stream.is_last = page.eof || page.entries.is_empty();
        stream.entries = page.entries;
        stream.next = 0;
        stream.sent = Some(sent);
        Ok(())
    }

    /// READDIR, for servers without READDIRPLUS.
    async fn fetch_names(&self, directory: &OpenDirectory, stream: &Stream) -> Result<DirPage, Errno> {
        let (position, verifier) = (stream.position, stream.verifier);
        let asked = self.client.readdir(&directory.cred, &directory.handle, position, verifier, PAGE_BYTES);
        asked.await.map_err(|error| errno(&error))
    }

    /// Reads from the beginning until behind the last name given out.
    async fn find_again(&self, directory: &OpenDirectory, last_name: &[u8]) -> Result<DirPage, Errno> {
        let (mut cookie, mut verifier) = (0, [0; 8]);
        for _ in 0..RESUME_PAGES_MAX {
            let asked = self.client.readdirplus(&directory.cred, &directory.handle, cookie, verifier, PAGE_BYTES);
            let mut page = asked.await.map_err(|error| errno(&error))?;
            if let Some(index) = page.entries.iter().position(|entry| entry.name == last_name) {
                page.entries.drain(..=index);
                return Ok(page);
            }
            let Some(last) = page.entries.last() else { break };
            if page.eof {
                break;
            }
            (cookie, verifier) = (last.cookie, page.verifier);
        }
        Err(Errno(libc::EIO)) // the name is gone as well: there is no telling what was given out already
    }
}

impl Stream {
    /// Continues at `offset`, which may lie in the page at hand.
    fn go_to(&mut self, offset: u64) {
        let index = self.entries.iter().position(|entry| entry.cookie == offset);
        match index {
            Some(index) if offset != 0 => self.next = index + 1,
            _ => {
                self.entries.clear();
                self.next = 0;
                self.is_last = false;
            }
        }
        if offset == 0 {
            self.verifier = [0; 8];
            self.last_name.clear();
        }
        self.position = offset;
    }
}
