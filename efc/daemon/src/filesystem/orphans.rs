//! Files that were unlinked while open.
//!
//! NFSv3 has no open files: removing a file's last name frees it, whoever reads it still. So the last name of an open
//! file is not removed but renamed to a *silly name* in the same directory, which readdir hides, and which goes when
//! the file's last close comes. The list is part of the saved state, so that a successor of this daemon removes what
//! this one could not. A directory that holds only such files looks empty, but the server will not remove it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use efc_fuse::Errno;
use efc_fuse::state::State;
use efc_nfs::{Client, Cred, FileHandle, FileType, Lookup, Status};

use super::Inner;
use crate::errno::errno;

/// What silly names begin with; the kernel's NFS client uses the same prefix, and administrators know it.
const SILLY_PREFIX: &str = ".nfs";

#[derive(Clone)]
struct Orphan {
    slot: u64,
    directory: FileHandle,
    name: Vec<u8>,
    /// Of the caller that unlinked it; a successor tries as root.
    cred: Cred,
}

/// Silly-renamed files by their handle.
pub struct Orphans {
    by_file: Mutex<HashMap<FileHandle, Orphan>>,
}

impl Orphans {
    /// Those that the saved state lists.
    pub fn load(state: &State) -> Orphans {
        let listed = state.orphans().into_iter().filter_map(|(slot, directory, name, file)| {
            let directory = FileHandle::new(&directory)?;
            Some((FileHandle::new(&file)?, Orphan { slot, directory, name, cred: Cred::root() }))
        });
        Orphans { by_file: Mutex::new(listed.collect()) }
    }

    /// No file is open and unlinked.
    pub fn is_empty(&self) -> bool {
        self.by_file.lock().expect("orphans lock").is_empty()
    }

    /// Is this file unlinked?
    pub fn contains(&self, file: &FileHandle) -> bool {
        self.by_file.lock().expect("orphans lock").contains_key(file)
    }

    /// Is this the silly name of one of them?
    pub fn hides(&self, directory: &FileHandle, name: &[u8]) -> bool {
        name.starts_with(SILLY_PREFIX.as_bytes())
            && self.by_file.lock().expect("orphans lock").values().any(|o| o.directory == *directory && o.name == name)
    }
}

impl Inner {
    /// The open file that `name` leads to, if unlinking it would take its last name.
    pub(super) async fn last_name_of_open_file(
        &self,
        cred: &Cred,
        directory: &FileHandle,
        name: &[u8],
    ) -> Result<Option<FileHandle>, Errno> {
        if self.open.lock().expect("open files lock").opens.is_empty() {
            return Ok(None);
        }
        let Lookup { handle, attr, .. } = match self.client.lookup(cred, directory, name).await {
            Ok(found) => found,
            Err(error) if error.is(Status::NoEnt) => return Ok(None),
            Err(error) => return Err(errno(&error)),
        };
        let is_last_name = attr.is_none_or(|attr| attr.kind == FileType::Regular && attr.nlink <= 1);
        Ok((is_last_name && self.is_open(&handle)).then_some(handle))
    }

    fn is_open(&self, file: &FileHandle) -> bool {
        self.open.lock().expect("open files lock").opens.contains_key(file)
    }

    /// Gives an open file a silly name in place of `name`, through `client`.
    pub(super) async fn unlink_open_file(
        self: &Arc<Self>,
        client: &Client,
        cred: &Cred,
        directory: &FileHandle,
        name: &[u8],
        file: &FileHandle,
    ) -> Result<(), Errno> {
        let silly = self.adopt_orphan(cred, directory, file)?;
        if let Err(error) = client.rename(cred, directory, name, directory, &silly).await {
            self.disown_orphan(file);
            return Err(errno(&error));
        }
        self.remove_if_closed(file);
        Ok(())
    }

    /// Gives an open file that is about to be replaced a second, silly name, so that it never lacks one.
    pub(super) async fn save_replaced_file(
        self: &Arc<Self>,
        cred: &Cred,
        directory: &FileHandle,
        file: &FileHandle,
    ) -> Result<(), Errno> {
        let is_adopted = self.orphans.contains(file);
        let silly = self.adopt_orphan(cred, directory, file)?;
        match self.client.link(cred, file, directory, &silly).await {
            Err(error) if is_adopted && error.is(Status::Exist) => Ok(()), // by a predecessor
            Err(error) => {
                self.disown_orphan(file);
                Err(errno(&error))
            }
            Ok(_) => Ok(()),
        }
    }

    /// A silly name for the file; the one that it has in this directory, if a predecessor came as far as that.
    fn adopt_orphan(&self, cred: &Cred, directory: &FileHandle, file: &FileHandle) -> Result<Vec<u8>, Errno> {
        if let Some(orphan) = self.orphans.by_file.lock().expect("orphans lock").get(file)
            && orphan.directory == *directory
        {
            return Ok(orphan.name.clone());
        }
        let name = format!("{SILLY_PREFIX}{:016x}{:016x}", self.state.session_id(), self.next_silly_number());
        let name = name.into_bytes();
        let slot = self.state.add_orphan(directory.as_bytes(), &name, file.as_bytes());
        let slot = slot.map_err(|_| Errno(libc::ENOMEM))?;
        let orphan = Orphan { slot, directory: *directory, name: name.clone(), cred: cred.clone() };
        self.orphans.by_file.lock().expect("orphans lock").insert(*file, orphan);
        if let Some(node) = self.state.find_node(file.as_bytes()) {
            self.attrs.expire(node);
        }
        Ok(name)
    }

    fn disown_orphan(&self, file: &FileHandle) -> Option<Orphan> {
        let orphan = self.orphans.by_file.lock().expect("orphans lock").remove(file)?;
        self.state.remove_orphan(orphan.slot);
        Some(orphan)
    }

    /// The rename that was to replace `file` failed: it keeps its name.
    pub(super) async fn forget_replaced_file(&self, file: &FileHandle) {
        let orphan = self.orphans.by_file.lock().expect("orphans lock").get(file).cloned();
        if let Some(orphan) = orphan {
            self.remove_silly_name(file, &orphan).await;
        }
    }

    /// Removes an unlinked file whose last close has come.
    pub(super) fn remove_if_closed(self: &Arc<Self>, file: &FileHandle) {
        let orphan = self.orphans.by_file.lock().expect("orphans lock").get(file).cloned();
        let Some(orphan) = orphan.filter(|_| !self.is_open(file)) else { return };
        let (inner, file) = (self.clone(), *file);
        crate::executor::spawn(async move { inner.remove_silly_name(&file, &orphan).await });
    }

    /// Removes those that nobody has open.
    pub(super) async fn reap_unopened_orphans(&self) {
        let orphans = self.orphans.by_file.lock().expect("orphans lock").clone();
        for (file, orphan) in orphans {
            if !self.is_open(&file) {
                self.remove_silly_name(&file, &orphan).await;
            }
        }
    }

    /// The entry goes only when the name has: until then a successor tries again.
    async fn remove_silly_name(&self, file: &FileHandle, orphan: &Orphan) {
        match self.client.remove(&orphan.cred, &orphan.directory, &orphan.name).await {
            Err(error) if !error.is(Status::NoEnt) && !error.is(Status::Stale) => {
                log::warn!("cannot remove {}: {error}", String::from_utf8_lossy(&orphan.name));
            }
            _ => drop(self.disown_orphan(file)),
        }
    }
}
