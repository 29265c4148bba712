//! The commands, each a few calls. What they print is JSON of the shapes below.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use efc_backend::{Attr, Cred, Error, ErrorKind, FileHandle, FileType, SetAttr, Status, Time};
use efc_buffer::{Buffer, PAYLOAD_MAX};
use serde::Serialize;

use crate::error::Failure;
use crate::nas::{ListPosition, Nas, Object};
use crate::path::Path;
use crate::publish::Draft;
use crate::walk::{self, Reports};

/// Permissions of directories that nobody named permissions for.
pub const DIRECTORY_MODE: u32 = 0o755;
/// Permissions of files that nobody named permissions for.
pub const FILE_MODE: u32 = 0o644;
/// How many directories of a tree may wait for their removal.
const WAITING_MAX: usize = 1 << 20;

/// A command with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Attributes of one object.
    Stat(Path),
    /// Names and attributes in a directory.
    List(Path),
    /// Makes a directory.
    MakeDirectory {
        /// Where.
        path: Path,
        /// Make its parents too; one that is there is success.
        parents: bool,
        /// Permissions and owner of a new one.
        attr: SetAttr,
    },
    /// Renames; replaces nothing.
    Move(Path, Path),
    /// Removes an object.
    Remove {
        /// Which.
        path: Path,
        /// A directory with all that is in it.
        recursive: bool,
    },
    /// Copies a regular file.
    Copy(Path, Path),
    /// A file to standard output.
    Show { path: Path, bytes_max: u64 },
    /// Standard input to a file.
    Put {
        /// Where.
        path: Path,
        /// Replace nothing.
        exclusive: bool,
        /// Permissions.
        mode: u32,
    },
    /// Size of the file system.
    Sizes(Path),
    /// Number and sizes of the files of a tree.
    Walk {
        /// Its top.
        path: Path,
        /// As whom.
        cred: Cred,
        /// What it tells meanwhile.
        reports: Reports,
    },
}

#[derive(Serialize)]
struct Stat {
    kind: &'static str,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    fileid: u64,
    nlink: u32,
    mtime_ns: u64,
}

#[derive(Serialize)]
struct Listed {
    name: String,
    kind: &'static str,
    size: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    fileid: u64,
    mtime_ns: u64,
}

#[derive(Serialize)]
struct Sizes {
    bytes_total: u64,
    bytes_free: u64,
    bytes_available: u64,
    files_total: u64,
    files_free: u64,
}

impl Command {
    /// Does it.
    pub async fn run(&self, nas: &Nas) -> Result<(), Failure> {
        match self {
            Command::Stat(path) => print(&stat(&nas.find(path).await?.attr)),
            Command::List(path) => list(nas, path).await,
            Command::MakeDirectory { path, parents: false, attr } => make_directory(nas, path, attr).await,
            Command::MakeDirectory { path, parents: true, attr } => make_directories(nas, path, attr).await,
            Command::Move(from, to) => rename(nas, from, to).await,
            Command::Remove { path, recursive } => remove(nas, path, *recursive).await,
            Command::Copy(from, to) => copy(nas, from, to).await,
            Command::Show { path, bytes_max } => show(nas, path, *bytes_max).await,
            Command::Put { path, exclusive, mode } => put(nas, path, *exclusive, *mode).await,
            Command::Sizes(path) => sizes(nas, path).await,
            Command::Walk { path, reports, .. } => walk::walk(nas, path, reports).await,
        }
    }

    /// As whom it is done.
    pub fn cred(&self) -> Cred {
        if let Command::Walk { cred, .. } = self { cred.clone() } else { Cred::root() }
    }

    /// It goes on for as long as every single call is answered in time.
    pub fn is_endless(&self) -> bool {
        matches!(self, Command::Walk { .. })
    }
}

fn print(value: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(value).expect("plain structures");
    line.push(b'\n');
    Ok(std::io::stdout().write_all(&line)?)
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Block => "block",
        FileType::Character => "character",
        FileType::Socket => "socket",
        FileType::Fifo => "fifo",
    }
}

fn nanoseconds(time: Time) -> u64 {
    u64::from(time.seconds) * 1_000_000_000 + u64::from(time.nanos)
}

fn stat(attr: &Attr) -> Stat {
    let Attr { mode, uid, gid, size, fileid, nlink, .. } = *attr;
    Stat { kind: kind(attr.kind), mode, uid, gid, size, fileid, nlink, mtime_ns: nanoseconds(attr.mtime) }
}

/// Names that are no UTF-8 are printed with replacement characters: JSON has no other way.
async fn list(nas: &Nas, path: &Path) -> Result<(), Failure> {
    let failed = |error: Error| Failure::from_call(&format!("list {path}"), &error);
    let dir = nas.find(path).await?.handle;
    let (mut place, mut all) = (ListPosition::default(), Vec::new());
    loop {
        let entries = nas.list(&dir, &mut place).await.map_err(failed)?;
        if entries.is_empty() {
            return print(&all);
        }
        for entry in entries {
            let Attr { size, mode, uid, gid, fileid, mtime, kind: file_type, .. } = match nas.object(&dir, &entry).await
            {
                Ok(object) => object.attr,
                Err(error) if error.is(Status::NoEnt) => continue,
                Err(error) => return Err(failed(error)),
            };
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            all.push(Listed {
                name,
                kind: kind(file_type),
                size,
                mode,
                uid,
                gid,
                fileid,
                mtime_ns: nanoseconds(mtime),
            });
        }
    }
}

async fn make_directory(nas: &Nas, path: &Path, attr: &SetAttr) -> Result<(), Failure> {
    let (dir, name) = nas.find_parent(path).await?;
    let made = make_one(nas, &dir.handle, name, attr).await;
    made.map(drop).map_err(|error| Failure::from_call(&format!("make the directory {path}"), &error))
}

async fn make_directories(nas: &Nas, path: &Path, attr: &SetAttr) -> Result<(), Failure> {
    let failed = |error: Error| Failure::from_call(&format!("make the directory {path}"), &error);
    let mut dir = nas.walk(&[]).await.map_err(failed)?;
    let plain = SetAttr { mode: Some(DIRECTORY_MODE), ..SetAttr::default() };
    for (index, name) in path.components().iter().enumerate() {
        let is_leaf = index + 1 == path.components().len();
        let next = match nas.lookup(&dir.handle, name).await {
            Err(error) if error.is(Status::NoEnt) => {
                match make_one(nas, &dir.handle, name, if is_leaf { attr } else { &plain }).await {
                    // Somebody else was faster.
                    Err(error) if error.is(Status::Exist) => nas.lookup(&dir.handle, name).await,
                    made => made,
                }
            }
            found => found,
        };
        dir = next.map_err(failed)?;
        if dir.attr.kind != FileType::Directory {
            return Err(failed(Error::new(ErrorKind::Status(Status::NotDir))));
        }
    }
    Ok(())
}

async fn make_one(nas: &Nas, dir: &FileHandle, name: &[u8], attr: &SetAttr) -> Result<Object, Error> {
    let made = nas.client.mkdir(&nas.cred, dir, name, attr).await?;
    let object = match (made.handle, made.attr) {
        (Some(handle), Some(attr)) => Object { handle, attr },
        _ => nas.lookup(dir, name).await?,
    };
    nas.adjust(&object.handle, &object.attr, attr).await?;
    Ok(object)
}

/// NFSv3 has no rename that refuses to replace, so `to` is looked up first: who makes it at that very moment loses it
/// if it is a file or an empty directory.
async fn rename(nas: &Nas, from: &Path, to: &Path) -> Result<(), Failure> {
    let failed = |error: Error| Failure::from_call(&format!("move {from} to {to}"), &error);
    let (from_dir, from_name) = nas.find_parent(from).await?;
    let moved = nas.lookup(&from_dir.handle, from_name).await.map_err(failed)?;
    let (to_dir, to_name) = nas.find_parent(to).await?;
    match nas.lookup(&to_dir.handle, to_name).await {
        Ok(_) => return Err(failed(Error::new(ErrorKind::Status(Status::Exist)))),
        Err(error) if error.is(Status::NoEnt) => {}
        Err(error) => return Err(failed(error)),
    }
    match nas.client.rename(&nas.cred, &from_dir.handle, from_name, &to_dir.handle, to_name).await {
        Ok(_) => Ok(()),
        Err(error) if error.replayed && error.is(Status::NoEnt) => {
            let there = nas.lookup(&to_dir.handle, to_name).await.map_err(failed)?;
            if there.handle == moved.handle { Ok(()) } else { Err(failed(error)) }
        }
        Err(error) => Err(failed(error)),
    }
}

async fn remove(nas: &Nas, path: &Path, recursive: bool) -> Result<(), Failure> {
    let failed = |error: Error| Failure::from_call(&format!("remove {path}"), &error);
    let (dir, name) = nas.find_parent(path).await?;
    let object = nas.lookup(&dir.handle, name).await.map_err(failed)?;
    if object.attr.kind == FileType::Directory && recursive {
        return remove_tree(nas, path, &dir, name, &object).await;
    }
    remove_one(nas, &dir.handle, name, object.attr.kind).await.map_err(failed)
}

/// Removes a file or an empty directory. That it is gone after a repeated call is our own doing.
async fn remove_one(nas: &Nas, dir: &FileHandle, name: &[u8], kind: FileType) -> Result<(), Error> {
    let removed = match kind {
        FileType::Directory => nas.client.rmdir(&nas.cred, dir, name).await,
        _ => nas.client.remove(&nas.cred, dir, name).await,
    };
    match removed {
        Err(error) if !(error.replayed && error.is(Status::NoEnt)) => Err(error),
        _ => Ok(()),
    }
}

/// A directory of a tree that is being removed: where it hangs, and its handle.
struct Doomed {
    dir: FileHandle,
    name: Vec<u8>,
    handle: FileHandle,
}

/// Removes from the leaves on. What others remove meanwhile is no failure; what they add keeps its directory alive.
async fn remove_tree(nas: &Nas, path: &Path, dir: &Object, name: &[u8], top: &Object) -> Result<(), Failure> {
    let fsid = dir.attr.fsid;
    let failed = |error: Error| Failure::from_call(&format!("remove all of {path}"), &error);
    let elsewhere = || failed(Error::new(ErrorKind::Status(Status::XDev)));
    if top.attr.fsid != fsid {
        return Err(elsewhere());
    }
    let mut waiting = vec![Doomed { dir: dir.handle, name: name.to_vec(), handle: top.handle }];
    while let Some(doomed) = waiting.last() {
        // Always from the start: cookies need not outlive the removal of entries.
        let entries = match nas.list(&doomed.handle, &mut ListPosition::default()).await {
            Err(error) if error.is(Status::Stale) || error.is(Status::NoEnt) => Vec::new(),
            listed => listed.map_err(failed)?,
        };
        if entries.is_empty() {
            let Doomed { dir, name, .. } = waiting.pop().expect("there is a last one");
            unless_gone(remove_one(nas, &dir, &name, FileType::Directory).await).map_err(failed)?;
            continue;
        }
        let parent = doomed.handle;
        for entry in entries {
            let object = match nas.object(&parent, &entry).await {
                Err(error) if error.is(Status::NoEnt) => continue,
                found => found.map_err(failed)?,
            };
            if object.attr.kind != FileType::Directory {
                unless_gone(remove_one(nas, &parent, &entry.name, object.attr.kind).await).map_err(failed)?;
            } else if object.attr.fsid != fsid {
                return Err(elsewhere());
            } else if waiting.len() < WAITING_MAX {
                waiting.push(Doomed { dir: parent, name: entry.name, handle: object.handle });
            }
        }
    }
    Ok(())
}

fn unless_gone(removed: Result<(), Error>) -> Result<(), Error> {
    match removed {
        Err(error) if error.is(Status::NoEnt) || error.is(Status::Stale) => Ok(()),
        removed => removed,
    }
}

async fn find_file(nas: &Nas, path: &Path) -> Result<Object, Failure> {
    let object = nas.find(path).await?;
    match object.attr.kind {
        FileType::Regular => Ok(object),
        FileType::Directory => Err(Failure::new("FAILED_PRECONDITION", "EISDIR", format!("{path} is a directory"))),
        FileType::Symlink => {
            let message = format!("{path} is a symbolic link, and those are not followed");
            Err(Failure::new("FAILED_PRECONDITION", "ELOOP", message))
        }
        other => {
            let message = format!("{path} is not a regular file but a {}", kind(other));
            Err(Failure::new("FAILED_PRECONDITION", "EINVAL", message))
        }
    }
}

async fn copy(nas: &Nas, from: &Path, to: &Path) -> Result<(), Failure> {
    let source = find_file(nas, from).await?;
    let mut draft = Draft::begin(nas, to, source.attr.mode).await?;
    let copied = copy_data(nas, from, &source.handle, &mut draft).await;
    finish(draft, copied, false).await
}

async fn copy_data(nas: &Nas, from: &Path, source: &FileHandle, draft: &mut Draft<'_>) -> Result<(), Failure> {
    let mut buffer = Buffer::new(PAYLOAD_MAX)?;
    let (mut offset, mut end) = (0, false);
    while !end {
        let read = nas.read(source, offset, buffer).await;
        let (back, count, is_end) = read.map_err(|error| Failure::from_call(&format!("read {from}"), &error))?;
        for piece in back[..count].chunks(nas.write_max()) {
            draft.append(Bytes::copy_from_slice(piece)).await?;
        }
        (buffer, offset, end) = (back, offset + count as u64, is_end);
    }
    Ok(())
}

async fn show(nas: &Nas, path: &Path, bytes_max: u64) -> Result<(), Failure> {
    let file = find_file(nas, path).await?;
    let mut buffer = Buffer::new(PAYLOAD_MAX)?;
    let (mut offset, mut end) = (0, false);
    while !end {
        let read = nas.read(&file.handle, offset, buffer).await;
        let (back, count, is_end) = read.map_err(|error| Failure::from_call(&format!("read {path}"), &error))?;
        if file.attr.size.max(offset + count as u64) > bytes_max {
            let message = format!("{path} is longer than {bytes_max} bytes");
            return Err(Failure::new("FAILED_PRECONDITION", "EFBIG", message));
        }
        std::io::stdout().write_all(&back[..count])?;
        (buffer, offset, end) = (back, offset + count as u64, is_end);
    }
    Ok(std::io::stdout().flush()?)
}

async fn put(nas: &Nas, path: &Path, exclusive: bool, mode: u32) -> Result<(), Failure> {
    let mut draft = Draft::begin(nas, path, mode).await?;
    let copied = put_data(nas, &mut draft).await;
    finish(draft, copied, exclusive).await
}

async fn put_data(nas: &Nas, draft: &mut Draft<'_>) -> Result<(), Failure> {
    let mut stdin = std::io::stdin().lock();
    loop {
        let mut piece = Vec::new();
        stdin.by_ref().take(nas.write_max() as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return Ok(());
        }
        draft.append(Bytes::from(piece)).await?;
    }
}

async fn finish(draft: Draft<'_>, copied: Result<(), Failure>, exclusive: bool) -> Result<(), Failure> {
    match copied {
        Ok(()) => draft.finish(exclusive).await,
        Err(failure) => {
            // The first failure is what the caller must hear of.
            let _ = draft.discard().await;
            Err(failure)
        }
    }
}

async fn sizes(nas: &Nas, path: &Path) -> Result<(), Failure> {
    let object = nas.find(path).await?;
    let stat = nas.client.fsstat(&nas.cred, &object.handle).await;
    let stat = stat.map_err(|error| Failure::from_call(&format!("ask for the size of {path}"), &error))?;
    print(&Sizes {
        bytes_total: stat.bytes_total,
        bytes_free: stat.bytes_free,
        bytes_available: stat.bytes_available,
        files_total: stat.files_total,
        files_free: stat.files_free,
    })
}
