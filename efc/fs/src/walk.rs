//! `walk`: how many regular files there are in a tree, and the sum of their sizes.
//!
//! [`tree`] knows what is counted and what is to be listed next; here are the calls, by threads of which each lists a
//! directory at a time, and the lines. A line tells the totals so far and a [`checkpoint`] from which another process
//! goes on: both are of one moment between two pages. What changes in the tree meanwhile is counted or not.
//!
//! Only listings are asked for, and look-ups where a listing says too little. No name is ever looked up but in the
//! directory that has it, so a walk follows no symbolic link and does not leave the tree; other file systems that the
//! server shows below it belong to it.

mod base64;
mod checkpoint;
mod links;
#[cfg(test)]
mod tests;
mod tree;

use std::io::Write as _;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use efc_backend::{Attr, DirEntry, Error, ErrorKind, FileHandle, FileType, Status};
use futures_lite::future;
use serde::Serialize;

use crate::error::Failure;
use crate::nas::{Nas, Object, PAGE};
use crate::path::Path;

use checkpoint::Walker;
use tree::{Entry, Next, Page, Place, Task, Totals, Tree};

/// Directories that are listed at a time.
const LISTINGS: usize = 32;
/// Look-ups at a time of entries that a listing says too little of.
const LOOKUPS: usize = 8;
/// Of a thread's stack, in bytes.
const STACK: usize = 512 << 10;

/// How a walk tells how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reports {
    /// Between two lines.
    pub interval: Duration,
    /// Checkpoint to go on from.
    pub resume: Option<String>,
}

/// A line.
#[derive(Serialize)]
struct Line<'a> {
    bytes: u64,
    files: u64,
    directories: u64,
    skipped: u64,
    unchecked: u64,
    done: bool,
    checkpoint: &'a str,
}

/// What became of a page.
enum Listed {
    Page(Page),
    Gone,
    /// It cannot be read.
    Skipped,
    /// The server does not know where it begins.
    BadCookie,
}

/// A walk.
struct Walk<'a> {
    nas: &'a Nas,
    path: &'a Path,
    walker: Walker,
    interval: Duration,
    progress: Mutex<Progress>,
    changed: Condvar,
}

struct Progress {
    tree: Tree,
    /// The last one that was not too long.
    checkpoint: String,
    reported: Instant,
    failure: Option<Failure>,
}

/// Why no checkpoint is gone on from. Whoever asks starts over.
fn refused(why: &str) -> Failure {
    Failure::new("INVALID_ARGUMENT", "EBADMSG", format!("the checkpoint {why}: walk without --resume"))
}

/// Refuses what is no checkpoint.
pub fn check(text: &str) -> Result<(), Failure> {
    checkpoint::decode(text).map(drop).ok_or_else(|| refused("is not of this program, or is damaged"))
}

/// Walks the tree below `path`.
pub async fn walk(nas: &Nas, path: &Path, reports: &Reports) -> Result<(), Failure> {
    let top = nas.find(path).await?;
    if top.attr.kind != FileType::Directory {
        return Err(Failure::new("FAILED_PRECONDITION", "ENOTDIR", format!("{path} is not a directory")));
    }
    let walker = Walker { uid: nas.cred.uid, gid: nas.cred.gid, top: top.handle };
    let tree = match &reports.resume {
        None => Tree::new(top.handle),
        Some(text) => {
            let (made_by, tree) = checkpoint::decode(text).ok_or_else(|| refused("is none"))?;
            if made_by != walker {
                return Err(refused("is of another directory, or of another user's walk"));
            }
            tree
        }
    };
    let checkpoint = checkpoint::encode(&walker, &tree).expect("one directory, or what was a checkpoint, is short");
    let progress = Progress { tree, checkpoint, reported: Instant::now(), failure: None };
    let (interval, progress, changed) = (reports.interval, Mutex::new(progress), Condvar::new());
    Walk { nas, path, walker, interval, progress, changed }.run()
}

impl Walk<'_> {
    fn run(&self) -> Result<(), Failure> {
        thread::scope(|scope| {
            for number in 0..LISTINGS {
                let builder = thread::Builder::new().name(format!("walk-{number}")).stack_size(STACK);
                if let Err(error) = builder.spawn_scoped(scope, || self.work()) {
                    let message = format!("cannot start a thread: {error}");
                    self.fail(Failure::new("RESOURCE_EXHAUSTED", "EAGAIN", message));
                }
            }
        });
        let mut progress = self.lock();
        let told = self.report(&mut progress);
        progress.failure.take().map_or(told, Err)
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("no panic under this lock")
    }

    /// Lists one page after the other until all is counted, or a call has failed.
    fn work(&self) {
        while let Some(task) = self.next() {
            match future::block_on(self.list(&task)) {
                Ok(listed) => self.add(task.id, listed),
                Err(error) => self.fail(Failure::from_call(&format!("walk {}", self.path), &error)),
            }
        }
    }

    fn next(&self) -> Option<Task> {
        let mut progress = self.lock();
        loop {
            if progress.failure.is_some() {
                return None;
            }
            match progress.tree.next() {
                Next::List(task) => return Some(task),
                Next::Done => return None,
                Next::Wait => progress = self.changed.wait(progress).expect("no panic under this lock"),
            }
        }
    }

    fn add(&self, id: u64, listed: Listed) {
        let mut progress = self.lock();
        let tree = &mut progress.tree;
        match listed {
            Listed::Page(page) => tree.listed(id, page),
            Listed::Gone => tree.gone(id),
            Listed::Skipped => tree.skip(id),
            Listed::BadCookie => tree.begin_anew(id),
        }
        let is_due = progress.reported.elapsed() >= self.interval && progress.tree.open() > 0;
        let told = if is_due { self.report(&mut progress) } else { Ok(()) };
        drop(progress);
        self.changed.notify_all();
        told.unwrap_or_else(|failure| self.fail(failure));
    }

    fn fail(&self, failure: Failure) {
        self.lock().failure.get_or_insert(failure);
        self.changed.notify_all();
    }

    /// Prints a line.
    fn report(&self, progress: &mut Progress) -> Result<(), Failure> {
        if let Some(checkpoint) = checkpoint::encode(&self.walker, &progress.tree) {
            progress.checkpoint = checkpoint;
        }
        progress.reported = Instant::now();
        let Totals { bytes, files, directories, skipped, unchecked } = progress.tree.totals();
        let (done, checkpoint) = (progress.tree.open() == 0, &progress.checkpoint);
        let line = Line { bytes, files, directories, skipped, unchecked, done, checkpoint };
        let mut line = serde_json::to_vec(&line).expect("plain structures");
        line.push(b'\n');
        Ok(std::io::stdout().lock().write_all(&line)?)
    }

    /// Lists a page. A server that answers, but not with a listing, has a directory that cannot be read; at the top
    /// there is nothing then to be counted, and that fails.
    async fn list(&self, task: &Task) -> Result<Listed, Error> {
        let error = match self.page(task).await {
            Ok(page) => return Ok(Listed::Page(page)),
            Err(error) => error,
        };
        let ErrorKind::Status(status) = error.kind else {
            let is_garbled = matches!(error.kind, ErrorKind::Garbled(_)) && task.handle != self.walker.top;
            return if is_garbled { Ok(Listed::Skipped) } else { Err(error) };
        };
        match status {
            Status::BadCookie | Status::NotSync => Ok(Listed::BadCookie),
            _ if task.handle == self.walker.top => Err(error),
            Status::NoEnt | Status::Stale | Status::BadHandle | Status::NotDir => Ok(Listed::Gone),
            _ => Ok(Listed::Skipped),
        }
    }

    async fn page(&self, task: &Task) -> Result<Page, Error> {
        let Place { cookie, verifier, index } = task.place;
        let page = self.nas.client.list(&self.nas.cred, &task.handle, cookie, verifier, PAGE).await?;
        let next = Place {
            cookie: page.entries.last().map_or(cookie, |last| last.cookie),
            verifier: page.verifier,
            index: index + page.entries.len() as u64,
        };
        Ok(Page { entries: self.entries(&task.handle, &page.entries)?, next, is_last: page.eof })
    }

    /// What the entries of a page stand for.
    fn entries(&self, dir: &FileHandle, names: &[DirEntry]) -> Result<Vec<Entry>, Error> {
        let mut entries: Vec<_> = names.iter().map(known).collect();
        let mut unknown: Vec<_> = names
            .iter()
            .zip(&mut entries)
            .filter_map(|(name, entry)| entry.is_none().then_some((&name.name[..], entry)))
            .collect();
        let share = unknown.len().div_ceil(LOOKUPS).max(1);
        thread::scope(|scope| {
            let looking_up: Vec<_> = unknown
                .chunks_mut(share)
                .map(|share| scope.spawn(|| future::block_on(self.look_up(dir, share))))
                .collect();
            looking_up.into_iter().try_for_each(|one| one.join().expect("look-ups do not panic"))
        })?;
        Ok(entries.into_iter().map(|entry| entry.unwrap_or(Entry::Denied)).collect())
    }

    /// Looks up what a listing says too little of. Whoever may not look up one name in a directory may none there.
    async fn look_up(&self, dir: &FileHandle, unknown: &mut [(&[u8], &mut Option<Entry>)]) -> Result<(), Error> {
        for (name, entry) in unknown {
            **entry = match self.nas.lookup(dir, name).await {
                Ok(object) => Some(of_object(&object)),
                Err(error) if error.is(Status::NoEnt) || error.is(Status::Stale) => Some(Entry::Other),
                Err(error) if error.is(Status::Acces) => return Ok(()),
                Err(Error { kind: ErrorKind::Status(_), .. }) => Some(Entry::Denied),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }
}

/// What an entry stands for, if the listing says it.
fn known(entry: &DirEntry) -> Option<Entry> {
    if entry.name == b"." || entry.name == b".." {
        return Some(Entry::Other);
    }
    let attr = entry.attr?;
    match attr.kind {
        FileType::Directory => entry.handle.map(Entry::Directory),
        _ => Some(of_attr(&attr)),
    }
}

fn of_object(object: &Object) -> Entry {
    match object.attr.kind {
        FileType::Directory => Entry::Directory(object.handle),
        _ => of_attr(&object.attr),
    }
}

/// What is no directory.
fn of_attr(attr: &Attr) -> Entry {
    match attr.kind {
        FileType::Regular => Entry::File { id: (attr.fsid, attr.fileid), nlink: attr.nlink, size: attr.size },
        _ => Entry::Other,
    }
}
