//! Reading directories.
//!
//! The offset that FUSE carries is the server's cookie, and the cookie verifier is part of the saved state, so that a
//! directory stream goes on after this daemon. Pages are fetched with READDIRPLUS and kept per open directory until
//! they are used up: the kernel asks for a few entries at a time, the server is asked for many.
//!
//! A listing is whole or it fails: a page that brings nothing and is not the last, a cookie that is void or that leads
//! in a circle is never the end. What is known of a stream for that is in [`super::listing`].
//!
//! What was read from begin to end while nothing changed is kept ([`efc_cache::Names`]), and given again without asking for as long as
//! the directory's version may be trusted, to callers whom the server has let list the directory. A listing with attributes is given so only
//! if these are known as well: one page of the server brings many. So as not to give out what is old in
//! a new form, what has changed here since is read anew.
//!
//! opendir(3) reads the first page if the listing is not kept: a directory that another node has replaced is found out there,
//! where the kernel walks the path again. The kernel itself keeps no listing (FOPEN_CACHE_DIR): it could not be told in
//! time that another caller may not have it.

use std::sync::Arc;
use std::time::Duration;

use efc_backend::{
    Attr, Backend, Call, Cred, DirEntry, DirPage, Error, FileHandle, FileType, Seen, Status, Tick, access,
};
use efc_cache::{Gathering, Inode, ListedName, Listing, Named, Permit, Reading, Standing, Version};
use efc_fuse::{Directory, Errno, OpenReply};
use efc_nfs::Circle;
use efc_tasks::Backoff;

use super::at_hand::{AtHand, Part};
use super::listing::{History, Resumption};
use super::namespace::Counted;
use super::saved::saved_handle;
use super::{Answer, Caller, Inner, Outcome, Response, attributes};
use crate::errno::errno;

/// Pages that are read of a directory that nobody lists.
const PAGES_AHEAD_MAX: usize = 16;
/// What the allocator adds to a small piece of memory, about.
const HEAP_BYTES: usize = 16;
/// How often a listing is read anew without a name that is new.
const RESTARTS_MAX: u32 = 10;
/// Pauses before all of them but the first.
const RESTARTS: Backoff = Backoff::doubling(Duration::from_millis(10), Duration::from_secs(5));
/// How long the page that opendir(3) has read is as good as one that is read now.
const FIRST_PAGE_AGE_MAX: Duration = Duration::from_millis(100);
/// How often a listing is read anew though it is not known what was given out, so that names may come twice.
const BLIND_RESTARTS_MAX: u32 = 16;

/// One open of a directory.
pub struct OpenDirectory {
    node: u64,
    inode: Arc<Inode>,
    cred: Cred,
    /// What the stream has at hand. Changed with the lock of it held.
    part: Part,
    stream: tokio::sync::Mutex<Stream>,
}

/// The page that entries are taken from, and its place in the listing.
struct Stream {
    verifier: [u8; 8],
    /// The verifier in the saved state: that of the place that the kernel holds.
    saved_verifier: [u8; 8],
    entries: Vec<Listed>,
    /// What they take of memory.
    entries_bytes: u64,
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
    /// The page was read by opendir(3), and nothing was given out yet.
    is_first: bool,
    /// The listing that pages are taken from.
    kept: Option<Arc<Listing>>,
    /// The listing that opendir(3) has relied on, until the first page was read.
    opened_with: Option<Arc<Listing>>,
    /// The directory is gone: this listing of it is the last.
    is_gone: bool,
    /// What is kept of a listing that is being read.
    reading: Option<(Reading, Option<Gathering>)>,
    history: History,
    /// The last file of the page before; of the first page, the directory.
    last_file: Option<Arc<Inode>>,
    circle: Circle,
    /// Times that the listing was read anew since a name was given out.
    restarts: u32,
    blind_restarts: u32,
}

/// An entry of a page.
struct Listed {
    entry: ListedName,
    found: Found,
}

/// What is known of the object of an entry.
enum Found {
    /// What came with the page.
    Shown(Box<(FileHandle, Attr)>),
    /// What is known by now.
    Known,
    /// Nothing.
    Nothing,
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
    /// Nothing of it was read through this open; `verifier` is what its cookies come with if a predecessor has read some.
    pub fn new(node: u64, inode: Arc<Inode>, cred: Cred, verifier: [u8; 8], at_hand: &Arc<AtHand>) -> OpenDirectory {
        let stream = Stream {
            verifier,
            saved_verifier: verifier,
            entries: Vec::new(),
            entries_bytes: 0,
            next: 0,
            position: 0,
            next_page: 0,
            is_last: false,
            asked: None,
            is_first: false,
            kept: None,
            opened_with: None,
            is_gone: false,
            reading: None,
            history: History::unknown(),
            last_file: None,
            circle: Circle::default(),
            restarts: 0,
            blind_restarts: 0,
        };
        OpenDirectory { node, inode, cred, part: Part::new(at_hand), stream: tokio::sync::Mutex::new(stream) }
    }
}

impl<B: Backend> Inner<B> {
    pub(super) async fn opendir(&self, caller: &Caller, node: u64, flags: u32) -> Outcome {
        self.check_path(caller, node).await?;
        let inode = self.inode(node)?;
        let directory = OpenDirectory::new(node, inode, caller.cred.clone(), [0; 8], &self.at_hand);
        if let Err(Errno(libc::ESTALE)) = self.fetch_first(&directory).await {
            return Err(Errno(libc::ESTALE));
        }
        let saved = saved_handle(caller.unique, node, flags, &caller.cred, true);
        let fh = self.state.open_handle(&saved).map_err(|_| Errno(libc::ENOMEM))?;
        self.open.lock().expect("open files lock").directories.insert(fh, directory.into());
        Ok(Response::Open(OpenReply { fh, ..OpenReply::default() }).into())
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
        directory.part.touch();
        let is_first = std::mem::take(&mut stream.is_first) && offset == 0;
        let is_new = is_first && stream.asked.is_none_or(|asked| is_new(&directory.inode, asked));
        if !is_new && (offset == 0 || offset != stream.position) {
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
            self.fetch(&directory, &mut stream, plus).await?;
        }
    }

    /// Gives out entries while they fit; `true` when the page is full.
    fn fill(&self, directory: &OpenDirectory, stream: &mut Stream, page: &mut Page) -> Result<bool, Errno> {
        while let Some(entry) = stream.entries.get(stream.next) {
            if !self.is_silly_name(&entry.entry.name) {
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
        listed: &Listed,
        asked: Option<Tick>,
    ) -> Result<bool, Errno> {
        let ListedName { name, cookie, ino, kind } = &listed.entry;
        let looked_up = match (&listed.found, asked, page.plus) {
            (Found::Shown(shown), Some(asked), true) => {
                let (handle, attr) = &**shown;
                // A name alone tells the kernel nothing.
                let known = self.maybe_open(handle);
                let is_hidden = known.is_some_and(|inode| self.is_hidden(&inode, Seen { value: attr, asked }));
                (!is_hidden).then(|| self.entry(&directory.inode, handle, Seen { value: attr, asked }))
            }
            (Found::Known, _, true) => self.look_up_listed(directory, name),
            _ => None,
        };
        let looked_up = match looked_up.transpose() {
            Ok(found) => found,
            // Attributes that cannot be, or no memory for a node: the name is told alone, and who wants to know
            // more asks for more.
            Err(Errno(libc::EIO | libc::ENOMEM)) => None,
            Err(errno) => return Err(errno),
        };
        let fits = page.entries.push(*ino, *cookie, *kind, name, looked_up.as_deref());
        if let Some(found) = looked_up
            && fits
        {
            let (_, permit) = found.give();
            page.permit = std::mem::take(&mut page.permit).and(permit);
        }
        Ok(fits)
    }

    /// An entry for a name of a kept listing, of what is known of its object.
    fn look_up_listed(&self, directory: &OpenDirectory, name: &[u8]) -> Option<Result<Counted<'_, B>, Errno>> {
        let known = self.names.known(&directory.inode, name);
        let (entry_ttl, permit) = self.freshness.admit_name(&directory.inode, &known.proof?)?;
        let inode = self.inodes.get(&known.named.object()?)?;
        let told = self.granted(&inode)?;
        if self.has_grown_unseen(&inode, &told.attr) {
            return None;
        }
        let counted = self.count_lookup(&directory.inode, &inode, &told.attr);
        Some(counted.map(|counted| counted.described(told, entry_ttl, permit)))
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

    /// opendir(3) reads the first page, if that is not kept; the kernel asks for that with attributes. What else than ESTALE is
    /// wrong with it the first readdir(3) tells.
    async fn fetch_first(&self, directory: &OpenDirectory) -> Result<(), Errno> {
        let mut stream = directory.stream.lock().await;
        stream.go_to(0);
        stream.opened_with = self.kept_listing(directory, true).await;
        if stream.opened_with.is_some() {
            return Ok(());
        }
        self.fetch_from_server(directory, &mut stream).await.inspect_err(|_| stream.go_to(0))?;
        stream.is_first = true;
        Ok(())
    }

    /// Lists a directory for nobody, as this caller may: to learn what files there are. Of a large one it is the beginning.
    pub(super) async fn list_ahead(&self, inode: &Arc<Inode>, cred: Cred) {
        let directory = OpenDirectory::new(inode.node().unwrap_or(0), inode.clone(), cred, [0; 8], &self.at_hand);
        let mut stream = directory.stream.lock().await;
        stream.go_to(0);
        for _ in 0..PAGES_AHEAD_MAX {
            // Whatever is wrong, who lists it hears it again.
            if self.fetch_from_server(&directory, &mut stream).await.is_err() || stream.is_last {
                return;
            }
        }
    }

    /// Fetches the page behind the last one. It may be empty, of names that were given out already.
    async fn fetch(&self, directory: &OpenDirectory, stream: &mut Stream, plus: bool) -> Result<(), Errno> {
        if stream.next_page == 0 {
            stream.kept = self.kept_listing(directory, plus).await;
        } else if !plus && stream.kept.is_none() {
            stream.kept = self.granted_listing(directory); // pages of the server have validated it
        }
        if let Some(kept) = stream.kept.clone() {
            if self.fetch_from_kept(directory, stream, &kept, plus) {
                return Ok(());
            }
            stream.kept = None; // the server goes on
        }
        match (self.fetch_from_server(directory, stream).await, stream.opened_with.take()) {
            // Another node has removed the directory since it was opened: it is what it was then.
            (Err(Errno(libc::ESTALE)), Some(kept)) if stream.next_page == 0 => {
                stream.is_gone = self.fetch_from_kept(directory, stream, &kept, false);
                stream.kept = Some(kept);
                if stream.is_gone { Ok(()) } else { Err(Errno(libc::ESTALE)) }
            }
            (fetched, _) => fetched,
        }
    }

    /// Takes the page behind the last one from a kept listing; `false` if that cannot be.
    fn fetch_from_kept(&self, directory: &OpenDirectory, stream: &mut Stream, kept: &Listing, plus: bool) -> bool {
        let Some((page, is_last)) = kept.page(stream.next_page) else { return false };
        let Some(page) = self.page_to_give(directory, page, plus && !stream.is_gone) else { return false };
        stream.verifier = kept.verifier();
        stream.reading = None;
        stream.take(page, is_last);
        self.count_at_hand(directory, stream);
        true
    }

    /// The kept listing of a directory, if it may be given to this caller. One call validates it, whatever its size: that pays if it
    /// has more than one page.
    async fn kept_listing(&self, directory: &OpenDirectory, plus: bool) -> Option<Arc<Listing>> {
        let listing = self.names.listing(&directory.inode)?.0;
        if let Some(listing) = self.granted_listing(directory) {
            return Some(listing);
        }
        let (first, is_all) = listing.page(0)?;
        if is_all || self.page_to_give(directory, first, plus).is_none() {
            return None;
        }
        self.ask_to_list(directory).await.ok()?;
        self.granted_listing(directory)
    }

    /// The kept listing, if what is known lets it be given to this caller.
    fn granted_listing(&self, directory: &OpenDirectory) -> Option<Arc<Listing>> {
        let (inode, cred) = (&directory.inode, &directory.cred);
        let (listing, proof) = self.names.listing(inode)?;
        let is_allowed = inode.lists(cred, self.freshness.verdict_ttl());
        let is_granted = is_allowed && self.freshness.admit_name(inode, &proof).is_some();
        is_granted.then_some(listing)
    }

    /// Asks whether the caller may list the directory, and of what version that is.
    async fn ask_to_list(&self, directory: &OpenDirectory) -> Result<(), Error> {
        let (inode, cred, question) = (&directory.inode, &directory.cred, directory.inode.ask_names());
        let asked = access::READ | access::LOOKUP;
        let Seen { value: (granted, attr), asked } = self.backend.access(Call::of(cred), inode.handle(), asked).await?;
        let standing = question.answered(asked, attr.as_ref());
        if granted & access::READ != 0 {
            inode.listed(cred, &standing);
        }
        if granted & access::LOOKUP != 0 {
            inode.searched(cred, &standing);
        }
        Ok(())
    }

    /// Entries of a kept listing; with attributes only if most of these are known.
    fn page_to_give(
        &self,
        directory: &OpenDirectory,
        page: impl Iterator<Item = ListedName>,
        plus: bool,
    ) -> Option<Vec<Listed>> {
        let page: Vec<Listed> = page.map(|entry| Listed { entry, found: Found::Known }).map(Listed::checked).collect();
        let is_known =
            |listed: &&Listed| match (&listed.found, self.names.get(directory.inode.handle(), &listed.entry.name)) {
                (Found::Nothing, _) => true,
                (_, Named::Object(handle)) => {
                    self.inodes.get(&handle).is_some_and(|inode| self.granted(&inode).is_some())
                }
                _ => false,
            };
        let known = if plus { page.iter().filter(is_known).count() } else { page.len() };
        (known >= page.len() - page.len() / 16).then_some(page)
    }

    async fn fetch_from_server(&self, directory: &OpenDirectory, stream: &mut Stream) -> Result<(), Errno> {
        stream.drop_entries(); // all are given out
        let (inode, cookie, verifier) = (&directory.inode, stream.next_page, stream.verifier);
        let (call, question) = (Call::of(&directory.cred), inode.ask_names());
        let Seen { value: page, asked } =
            match self.backend.list(call, inode.handle(), cookie, verifier, self.page_bytes).await {
                Ok(page) => page,
                Err(error) if is_void(&error) => return stream.begin_anew().await,
                Err(error) => return Err(errno(&error)),
            };
        let standing = question.answered(asked, page.dir_attr.as_ref());
        inode.listed(&directory.cred, &standing);
        if let Some(last) = page.entries.last() {
            if stream.circle.closes(last.cookie) {
                log::warn!("a listing of the server goes in a circle: it ends with an error");
                return Err(Errno(libc::EIO));
            }
            stream.next_page = last.cookie;
        }
        stream.asked = Some(asked);
        let (verifier, is_last) = (page.verifier, page.eof);
        let entries = self.learn_page(directory, stream, (cookie, page), &standing);
        stream.verifier = verifier;
        stream.take(entries, is_last);
        self.count_at_hand(directory, stream);
        Ok(())
    }

    /// The stream has something else at hand than before. If it is too much with that of others, those let go of theirs that were read
    /// from least lately.
    fn count_at_hand(&self, directory: &OpenDirectory, stream: &Stream) {
        directory.part.touch();
        directory.part.set(stream.bytes());
        if !self.at_hand.is_too_much() {
            return;
        }
        let mut holders: Vec<(u64, Arc<OpenDirectory>)> = {
            let open = self.open.lock().expect("open files lock");
            let holders = open.directories.values().filter(|other| other.part.bytes() > 0);
            holders.map(|other| (other.part.last_use(), other.clone())).collect()
        };
        holders.sort_unstable_by_key(|(used, _)| *used);
        for (_, other) in holders.into_iter().take_while(|_| self.at_hand.has_to_shrink()) {
            // Who is being read from, as this one is, has its lock.
            if let Ok(mut stream) = other.stream.try_lock() {
                stream.let_go();
                other.part.set(stream.bytes());
            }
        }
    }

    /// Takes in what a page says, which begins behind the place `cookie`, and what it is good for later.
    fn learn_page(
        &self,
        directory: &OpenDirectory,
        stream: &mut Stream,
        (cookie, page): (u64, DirPage),
        standing: &Standing,
    ) -> Vec<Listed> {
        let inode = &directory.inode;
        let DirPage { dir_attr, verifier, entries, eof } = page;
        if cookie == 0 {
            let gathering = dir_attr.map(|attr| Gathering::new(Version::of(&attr), self.names.listing_bytes_max()));
            stream.reading = Some((self.names.begin_reading(inode, standing), gathering));
            stream.last_file = Some(inode.clone());
        }
        let named = entries.iter().filter(|entry| !is_dots(&entry.name));
        if named.clone().any(|entry| entry.handle.is_none()) {
            stream.reading = None; // names that lead nobody knows where
        }
        let leading = named.filter_map(|entry| Some((&entry.name[..], entry.handle.as_ref()?)));
        self.names.learn_page(inode, leading, standing);
        self.learn_objects(stream, &entries);
        let listed: Vec<Listed> = entries.into_iter().map(|entry| self.listed(directory, entry)).collect();
        if let Some((_, gathering)) = &mut stream.reading {
            let add = |gathering: &mut Gathering| gathering.add(cookie, listed.iter().map(|listed| &listed.entry));
            *gathering = gathering.take().and_then(|mut gathering| add(&mut gathering).then_some(gathering));
        }
        if eof && let Some((reading, gathering)) = stream.reading.take() {
            let listing = gathering.map(|gathering| gathering.finish(verifier));
            self.names.finish_reading(inode, (&reading, standing), listing);
        }
        listed
    }

    /// Takes in what a page shows of the objects, which the kernel need not have asked for: it looks them up later, one by one.
    fn learn_objects(&self, stream: &mut Stream, entries: &[DirEntry]) {
        let Some(asked) = stream.asked else { return };
        let shown = entries.iter().filter(|entry| !is_dots(&entry.name));
        for (handle, attr) in shown.filter_map(|entry| entry.handle.as_ref().zip(entry.attr.as_ref())) {
            let (inode, shown) = (self.inodes.of(handle), Seen { value: attr, asked });
            if self.is_hidden(&inode, shown) {
                stream.last_file = None;
                continue;
            }
            inode.learn(shown);
            if attr.kind == FileType::Regular
                && let Some(former) = stream.last_file.replace(inode.clone())
            {
                inode.is_listed_behind(&former);
            }
        }
    }

    /// Must nobody be told what a listing shows of an object: a size that has grown unseen, or one without data that is held back?
    fn is_hidden(&self, inode: &Inode, shown: Seen<&Attr>) -> bool {
        self.has_grown_unseen(inode, shown.value) || !inode.shows_all(shown.asked)
    }

    fn listed(&self, directory: &OpenDirectory, entry: DirEntry) -> Listed {
        let (ino, kind) = self.number_and_kind(directory, &entry);
        let found = match (entry.handle, entry.attr) {
            (Some(handle), Some(attr)) => Found::Shown(Box::new((handle, attr))),
            _ => Found::Nothing,
        };
        Listed { entry: ListedName { name: entry.name, cookie: entry.cookie, ino, kind }, found }.checked()
    }
}

impl Listed {
    /// What it takes of memory, in bytes.
    fn bytes(&self) -> usize {
        let found = if let Found::Shown(_) = &self.found { size_of::<(FileHandle, Attr)>() + HEAP_BYTES } else { 0 };
        size_of::<Listed>() + self.entry.name.capacity() + HEAP_BYTES + found
    }

    /// `.` and `..` are told as names alone.
    fn checked(self) -> Listed {
        let found = if is_dots(&self.entry.name) { Found::Nothing } else { self.found };
        Listed { found, ..self }
    }
}

fn is_dots(name: &[u8]) -> bool {
    name == b"." || name == b".."
}

/// Is the page that opendir(3) has read as good as one of now?
fn is_new(directory: &Inode, asked: Tick) -> bool {
    efc_tasks::time::since(asked.at) < FIRST_PAGE_AGE_MAX && directory.is_quiet_since(asked.order)
}

/// Does the server not know the cookie any more?
fn is_void(error: &Error) -> bool {
    error.is(Status::BadCookie) || error.is(Status::NotSync)
}

impl Stream {
    /// These are the entries of the next page.
    fn take(&mut self, mut entries: Vec<Listed>, is_last: bool) {
        if let Some(last) = entries.last() {
            self.next_page = last.entry.cookie;
        }
        entries.retain(|listed| !self.history.skips(&listed.entry.name));
        self.entries_bytes = entries.iter().map(Listed::bytes).sum::<usize>() as u64;
        (self.entries, self.next, self.is_last) = (entries, 0, is_last);
    }

    fn drop_entries(&mut self) {
        (self.entries, self.next, self.entries_bytes) = (Vec::new(), 0, 0);
    }

    /// What is at hand, in bytes.
    fn bytes(&self) -> u64 {
        let gathering = self.reading.as_ref().and_then(|(_, gathering)| gathering.as_ref());
        self.entries_bytes + gathering.map_or(0, Gathering::bytes)
    }

    /// Lets go of what is at hand: when the kernel wants more, that is asked for again. The listing of a directory that is gone stays.
    fn let_go(&mut self) {
        if self.is_gone {
            return;
        }
        let is_at_end = self.is_last && self.next == self.entries.len();
        self.drop_entries();
        (self.reading, self.last_file) = (None, None);
        if !is_at_end {
            (self.kept, self.is_first, self.is_last) = (None, false, false);
            self.circle = Circle::default(); // what is asked for again ends where it did
            // A place whose cookie is void is found by what was given out before it.
            (self.next_page, self.verifier) =
                if self.history.is_valid() { (self.position, self.verifier) } else { (0, [0; 8]) };
        }
    }

    /// The next entry is given out, or is one that nobody sees.
    fn give_out(&mut self) {
        let Listed { entry, .. } = &self.entries[self.next];
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
        if let Some(index) = self.entries.iter().position(|listed| listed.entry.cookie == offset) {
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
        self.drop_entries();
        self.is_last = false;
        self.circle = Circle::default();
        self.position = position;
        self.next_page = cookie;
        self.verifier = verifier;
        (self.kept, self.reading, self.is_first, self.is_gone, self.last_file) = (None, None, false, false, None);
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
