//! How far a walk has come: what was counted, and which directories are still to be listed. It makes no call.
//!
//! A directory is listed page by page; its next page comes when all sub-directories of the last have been handed out.
//! What was touched last goes on first. So the directories that are open at a time are about as many as are listed at a
//! time, on each level of the tree, whatever the tree's size.
//!
//! A position in a listing is the number of entries before it, beside the server's cookie. A listing that has to be
//! begun anew (the server takes its cookie no more, or only the position is left of a page whose sub-directories wait)
//! therefore neither counts nor hands out anything twice as long as the directory is the same.

use std::collections::{BTreeMap, VecDeque};

use efc_backend::FileHandle;
use efc_nfs::Circle;

use super::links::{FileId, Links};

/// Most directories that wait with their handles; beyond that the pages they came from are listed once more.
const WAITING_MAX: usize = if cfg!(test) { 8 } else { 1 << 18 };
/// Deepest level that is listed: a server that shows a directory below itself would have no end.
const DEPTH_MAX: u32 = if cfg!(test) { 1 << 10 } else { 1 << 16 };
/// How often a listing is begun anew.
const RESTARTS_MAX: u32 = 8;

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sum of the sizes of regular files.
    pub bytes: u64,
    /// Regular files.
    pub files: u64,
    /// Directories, with the one at the top and those that were skipped.
    pub directories: u64,
    /// Directories that could not be read, or not all of whose entries could be.
    pub skipped: u64,
    /// Files that were counted though they may have been counted under another name.
    pub unchecked: u64,
}

/// Where a page begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The server's.
    pub cookie: u64,
    /// The server's.
    pub verifier: [u8; 8],
    /// Entries before it.
    pub index: u64,
}

/// An entry of a directory.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    /// A regular file.
    File {
        /// Which.
        id: FileId,
        /// Its names.
        nlink: u32,
        /// Its size in bytes.
        size: u64,
    },
    /// A directory.
    Directory(FileHandle),
    /// Neither, or gone.
    Other,
    /// The server does not say what it is.
    Denied,
}

/// A page of a listing.
#[derive(Debug)]
pub struct Page {
    /// Its entries, `.` and `..` among them.
    pub entries: Vec<Entry>,
    /// Where the next one begins.
    pub next: Place,
    /// There is no next one.
    pub is_last: bool,
}

/// A page to be listed.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// The directory, by a number of this tree's.
    pub id: u64,
    /// Its handle.
    pub handle: FileHandle,
    /// Where the page begins.
    pub place: Place,
}

/// What to do next.
#[derive(Debug)]
pub enum Next {
    /// List a page.
    List(Task),
    /// Wait for pages that are being listed.
    Wait,
    /// Nothing: all is counted.
    Done,
}

/// A directory whose entries are not all counted, or whose sub-directories are not all handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Its handle.
    pub handle: FileHandle,
    /// Levels above it, below the top.
    pub depth: u32,
    /// Where its next page begins.
    pub place: Place,
    /// Entries before this were counted.
    pub counted: u64,
    /// Sub-directories before this were handed out.
    pub taken: u64,
    /// How often its listing was begun anew.
    pub restarts: u32,
    /// It was counted as skipped.
    pub is_skipped: bool,
}

impl Directory {
    fn new(handle: FileHandle, depth: u32) -> Directory {
        let place = Place::default();
        Directory { handle, depth, place, counted: 0, taken: 0, restarts: 0, is_skipped: false }
    }
}

/// A directory, and the page of it whose sub-directories wait.
struct Open {
    directory: Directory,
    /// Where that page begins.
    page: Place,
    /// Its sub-directories, each with its position.
    waiting: VecDeque<(u64, FileHandle)>,
    /// No page follows.
    is_listed: bool,
    circle: Circle,
}

impl From<Directory> for Open {
    fn from(directory: Directory) -> Open {
        let page = directory.place;
        Open { directory, page, waiting: VecDeque::new(), is_listed: false, circle: Circle::default() }
    }
}

impl Open {
    /// All that is left to do in this directory, without the handles that wait.
    fn position(&self) -> Directory {
        let mut directory = self.directory.clone();
        if !self.waiting.is_empty() {
            directory.place = self.page;
        }
        directory.taken = directory.taken.max(directory.place.index);
        directory
    }

    /// Gives up the handles that wait: their page is to be listed once more.
    fn forget_waiting(&mut self) {
        let directory = self.position();
        *self = Open::from(directory);
    }
}

/// How far a walk has come.
pub struct Tree {
    totals: Totals,
    links: Links,
    open: BTreeMap<u64, Open>,
    /// Open directories that are not being listed; the last is the next.
    ready: Vec<u64>,
    waiting: usize,
    next_id: u64,
}

impl Tree {
    /// A walk that begins at `top`.
    pub fn new(top: FileHandle) -> Tree {
        let totals = Totals { directories: 1, ..Totals::default() };
        Tree::resume(totals, Links::default(), [Directory::new(top, 0)])
    }

    /// A walk that goes on where another one was.
    pub fn resume(totals: Totals, links: Links, directories: impl IntoIterator<Item = Directory>) -> Tree {
        let open: BTreeMap<u64, Open> = (0..).zip(directories.into_iter().map(Open::from)).collect();
        let (ready, next_id) = (open.keys().copied().collect(), open.len() as u64);
        Tree { totals, links, open, ready, waiting: 0, next_id }
    }

    /// What was counted.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Files with several names.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// How many directories are open.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// What is left to do, the deepest directory last.
    pub fn positions(&self) -> Vec<Directory> {
        let mut all: Vec<_> = self.open.values().map(Open::position).collect();
        all.sort_by_key(|directory| directory.depth);
        all
    }

    /// What to do next. A page is handed out once; [`Tree::listed`], [`Tree::gone`], [`Tree::skip`] or
    /// [`Tree::begin_anew`] must follow.
    pub fn next(&mut self) -> Next {
        let Some(id) = self.ready.pop() else {
            return if self.open.is_empty() { Next::Done } else { Next::Wait };
        };
        let open = self.open.get_mut(&id).expect("what is ready is open");
        let Some((index, handle)) = open.waiting.pop_front() else {
            let Directory { handle, place, .. } = open.directory;
            return Next::List(Task { id, handle, place });
        };
        self.waiting -= 1;
        open.directory.taken = index + 1;
        let child = Directory::new(handle, open.directory.depth + 1);
        self.settle(id);
        let id = self.next_id;
        self.next_id += 1;
        let task = Task { id, handle, place: child.place };
        self.open.insert(id, Open::from(child));
        Next::List(task)
    }

    /// Closes a directory that is not being listed if it is done, otherwise it is ready.
    fn settle(&mut self, id: u64) {
        let open = &self.open[&id];
        if open.waiting.is_empty() && open.is_listed {
            self.open.remove(&id);
        } else {
            self.ready.push(id);
        }
    }

    /// A page has come. If it leads in a circle, the directory is skipped from here on.
    pub fn listed(&mut self, id: u64, page: Page) {
        let Tree { totals, links, waiting, .. } = self;
        let open = self.open.get_mut(&id).expect("what is being listed is open");
        let Open { directory, .. } = open;
        let is_circle = !page.is_last && open.circle.closes(page.next.cookie);
        for (index, entry) in (directory.place.index..).zip(&page.entries) {
            let is_new = index >= directory.counted;
            match entry {
                Entry::File { id, nlink, size } if is_new => totals.add_file(links, *id, *nlink, *size),
                Entry::Directory(_) if directory.depth >= DEPTH_MAX => {
                    totals.directories += u64::from(is_new);
                    totals.skipped += u64::from(is_new);
                }
                Entry::Directory(handle) => {
                    totals.directories += u64::from(is_new);
                    if index >= directory.taken {
                        open.waiting.push_back((index, *handle));
                        *waiting += 1;
                    }
                }
                Entry::Denied if !directory.is_skipped => {
                    directory.is_skipped = true;
                    totals.skipped += 1;
                }
                Entry::File { .. } | Entry::Other | Entry::Denied => {}
            }
        }
        open.page = directory.place;
        directory.place = page.next;
        directory.counted = directory.counted.max(page.next.index);
        open.is_listed = page.is_last || is_circle;
        if is_circle && !directory.is_skipped {
            directory.is_skipped = true;
            totals.skipped += 1;
        }
        self.settle(id);
        if self.waiting > WAITING_MAX {
            self.forget_waiting();
        }
    }

    /// A directory is not there any more.
    pub fn gone(&mut self, id: u64) {
        self.open.remove(&id);
    }

    /// A directory, or the rest of it, cannot be read.
    pub fn skip(&mut self, id: u64) {
        let open = self.open.remove(&id).expect("what is being listed is open");
        self.totals.skipped += u64::from(!open.directory.is_skipped);
    }

    /// The server does not know any more where a page begins.
    pub fn begin_anew(&mut self, id: u64) {
        let open = self.open.get_mut(&id).expect("what is being listed is open");
        let mut directory = open.position();
        directory.restarts += 1;
        if directory.place == Place::default() || directory.restarts > RESTARTS_MAX {
            return self.skip(id);
        }
        directory.place = Place::default();
        *open = Open::from(directory);
        self.ready.push(id);
    }

    /// Gives up half of the handles that wait, those first whose turn comes last; not those of the page that has just come, or
    /// all might be listed again and again.
    fn forget_waiting(&mut self) {
        for id in self.ready.iter().rev().skip(1).rev() {
            let open = self.open.get_mut(id).expect("what is ready is open");
            self.waiting -= open.waiting.len();
            open.forget_waiting();
            if self.waiting <= WAITING_MAX / 2 {
                break;
            }
        }
    }
}

impl Totals {
    fn add_file(&mut self, links: &mut Links, id: FileId, nlink: u32, size: u64) {
        let is_first = if nlink > 1 { links.see(id, nlink) } else { Some(true) };
        self.unchecked += u64::from(is_first.is_none());
        if is_first != Some(false) {
            self.files += 1;
            self.bytes = self.bytes.saturating_add(size);
        }
    }
}
