//! Removing names. A file that is open and loses its last name gets another, which is hidden ([`super::super::orphans`]).

use std::sync::Arc;

use efc_backend::{Backend, Call, FileHandle, FileType, Lookup, Reply, Seen, Status, Wcc};
use efc_cache::{Inode, Mutation, Named, Removal};
use efc_fuse::Errno;
use efc_state::Intent;

use super::SECOND_LOOKUPS_MAX;
use crate::errno::errno;
use crate::filesystem::once::noted;
use crate::filesystem::{Answer, Caller, Inner, Outcome, Response};

/// A name that is being removed, with what it leads to.
pub(super) struct Going {
    pub(super) object: Arc<Inode>,
    pub(super) removal: Removal,
    /// The file is open and has no other name: it gets one.
    pub(super) is_last_of_open: bool,
}

impl<B: Backend> Inner<B> {
    pub(in super::super) async fn unlink(self: &Arc<Self>, caller: &Caller, parent: u64, name: &[u8]) -> Outcome {
        let outcome = self.unlink_name(caller, parent, name).await;
        if let (Err(_), Ok(directory)) = (&outcome, self.inode(parent)) {
            self.names.forget(directory.handle(), name);
        }
        outcome
    }

    async fn unlink_name(self: &Arc<Self>, caller: &Caller, parent: u64, name: &[u8]) -> Outcome {
        self.check_path(caller, parent).await?;
        let directory = self.inode(parent)?;
        if self.was_removed(caller, &directory, name).await? {
            return Ok(self.removed_before(caller, &directory));
        }
        let going = match self.begin_removal(caller, (&directory, name)).await {
            // A predecessor's call has been executed since.
            Err(Errno(libc::ENOENT)) if caller.earlier.is_some() => return Ok(self.removed_before(caller, &directory)),
            going => going?,
        };
        let Going { object, removal, is_last_of_open } = going;
        self.sent(&object).await;
        let call = self.begin_with(caller, &object)?;
        // The reply says nothing of the object: its attributes expire when these are dropped.
        let (_object, change) = (object.mutate(), directory.mutate());
        if is_last_of_open {
            self.unlink_open_file(call, (&directory, name, change), &object, removal).await?;
            return Ok(Response::Empty.into());
        }
        let removed = self.backend.remove(call, directory.handle(), name).await;
        self.removed(caller, (&directory, name, change), removed)
    }

    /// The answer to an unlink that a predecessor's call has done.
    fn removed_before(self: &Arc<Self>, caller: &Caller, directory: &Inode) -> Answer {
        directory.expire();
        if let Some(file) = caller.earlier.as_ref().and_then(|earlier| noted(&earlier.object)) {
            let file = self.inodes.of(&file);
            file.expire();
            self.was_unlinked_before(&file); // it may have got a silly name
        }
        Response::Empty.into()
    }

    /// Finds what `name` leads to, and begins the removal of that name.
    async fn begin_removal(&self, caller: &Caller, (directory, name): (&Arc<Inode>, &[u8])) -> Result<Going, Errno> {
        // Where nothing is open no file can lose its last name under its reader. Else it must be certain which file it is.
        let object = match self.certain_name(caller, directory, name) {
            Named::Object(object) => Some(self.inodes.of(&object)),
            _ if !self.inodes.is_any_open() => Some(self.object_of(caller, directory, name).await?),
            _ => None,
        };
        if let Some(object) = object {
            let removal = object.remove().await;
            if !removal.is_open() {
                return Ok(Going { object, removal, is_last_of_open: false });
            }
        }
        match self.begin_removal_of_found(caller, (directory.handle(), name)).await? {
            Some(going) => Ok(going),
            None => Err(Errno(libc::ENOENT)),
        }
    }

    /// The same for a name that is looked up anew, which files that are open call for; `None` if it leads to nothing.
    pub(super) async fn begin_removal_of_found(
        &self,
        caller: &Caller,
        (directory, name): (&FileHandle, &[u8]),
    ) -> Result<Option<Going>, Errno> {
        let look = async || match self.backend.lookup(Call::of(&caller.cred), directory, name).await {
            Ok(Seen { value: Lookup { handle, attr, .. }, .. }) => {
                let is_open = || self.inodes.get(&handle).is_some_and(|inode| inode.is_open());
                let attr = match attr {
                    // A silly name beside another name would stay in its directory for as long as the file is open.
                    None if is_open() => {
                        let asked = self.backend.getattr(Call::of(&caller.cred), &handle).await;
                        asked.ok().map(|seen| seen.value)
                    }
                    attr => attr,
                };
                let is_only = attr.is_none_or(|attr| attr.kind == FileType::Regular && attr.nlink <= 1);
                // One that has its silly name has another: RENAME of one name of a file to another of it does nothing.
                let is_last = is_only && !self.orphans.contains(&handle);
                Ok(Some((self.inodes.of(&handle), is_last)))
            }
            Err(error) if error.is(Status::NoEnt) => Ok(None),
            Err(error) => Err(errno(&error)),
        };
        for _ in 0..SECOND_LOOKUPS_MAX {
            let Some((object, is_last)) = look().await? else { return Ok(None) };
            let removal = object.remove().await;
            if !removal.is_open() || is_last {
                let is_last_of_open = removal.is_open();
                return Ok(Some(Going { object, removal, is_last_of_open }));
            }
            // It is open, and had other names: are they still there, now that no other removal of them is under way?
            match look().await? {
                Some((again, is_last_of_open)) if again == object => {
                    return Ok(Some(Going { object, removal, is_last_of_open }));
                }
                _ => drop(removal),
            }
        }
        Err(Errno(libc::EBUSY))
    }

    /// Publishes that `object` is to be removed.
    fn begin_with<'a>(&self, caller: &'a Caller, object: &Inode) -> Result<Call<'a>, Errno> {
        self.begin(caller, object, Intent { object: object.handle().as_bytes().to_vec(), ..Intent::default() })
    }

    pub(in super::super) async fn rmdir(&self, caller: &Caller, parent: u64, name: &[u8]) -> Outcome {
        self.check_path(caller, parent).await?;
        let directory = self.inode(parent)?;
        if self.was_removed(caller, &directory, name).await? {
            directory.expire();
            return Ok(Response::Empty.into());
        }
        let object = self.object_of(caller, &directory, name).await?;
        self.await_removals(object.handle()).await;
        let call = self.begin_with(caller, &object)?;
        let (_object, change) = (object.mutate(), directory.mutate());
        let removed = self.backend.rmdir(call, directory.handle(), name).await;
        if removed.is_ok() {
            self.names.forget_directory(object.handle());
        }
        self.removed(caller, (&directory, name, change), removed)
    }

    fn removed(
        &self,
        caller: &Caller,
        (directory, name, change): (&Arc<Inode>, &[u8], Mutation),
        removed: Reply<Wcc>,
    ) -> Outcome {
        match removed {
            Ok(wcc) => {
                let standing = self.has_changed(caller, directory, change, wcc.part(|wcc| wcc));
                self.names.changed(directory, name, None, &standing);
                Ok(Response::Empty.into())
            }
            Err(error) if error.is(Status::NoEnt) && caller.may_have_succeeded(&error) => {
                self.names.forget(directory.handle(), name);
                Ok(Response::Empty.into())
            }
            Err(error) => {
                change.refused(&error);
                self.doubt_name(directory, name, &error);
                Err(errno(&error))
            }
        }
    }
}
