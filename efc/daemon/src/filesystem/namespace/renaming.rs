//! Renaming: a name moves, and may replace another, whose file may be open.

use std::sync::Arc;

use efc_backend::{Backend, Call, Reply, Status, Wcc};
use efc_cache::{Inode, Mutation, Named};
use efc_fuse::Errno;
use efc_state::Intent;

use super::Place;
use super::removal::Going;
use crate::errno::errno;
use crate::filesystem::once::{Moved, noted};
use crate::filesystem::{Caller, Inner, Outcome, Response};

/// What a rename replaces.
enum Replacement {
    /// There is no such name.
    OfNothing,
    /// Both names are of one file: nothing happens.
    OfItself,
    /// The name that is being removed.
    Of(Going),
}

impl<B: Backend> Inner<B> {
    pub(in super::super) async fn rename(
        self: &Arc<Self>,
        caller: &Caller,
        (from_parent, from): (u64, &[u8]),
        (to_parent, to): (u64, &[u8]),
        flags: u32,
    ) -> Outcome {
        if flags != 0 {
            return Err(Errno(libc::EINVAL)); // RENAME of NFSv3 has neither NOREPLACE nor EXCHANGE
        }
        self.check_path(caller, from_parent).await?;
        self.check_path(caller, to_parent).await?;
        let (from_dir, to_dir) = (self.inode(from_parent)?, self.inode(to_parent)?);
        self.check_one_storage(&from_dir, &to_dir)?;
        match self.was_moved(caller, (&from_dir, from), (&to_dir, to)).await? {
            Moved::Yes => {
                self.was_renamed_before(caller);
                return Ok(Response::Empty.into());
            }
            Moved::Lost => return Err(Errno(libc::ENOENT)),
            Moved::NotYet => {}
        }
        let named = self.names.known(&from_dir, from);
        let object = self.object_of(caller, &from_dir, from).await?;
        self.sent(&object).await;
        let replacement = self.begin_replacement(caller, (&to_dir, to), &object).await?;
        let is_same_file = matches!(replacement, Replacement::OfItself);
        let replaced = match replacement {
            Replacement::Of(going) => Some(going),
            Replacement::OfNothing | Replacement::OfItself => None,
        };
        let saved = replaced.as_ref().filter(|going| going.is_last_of_open).map(|going| going.object.clone());
        let other = saved.as_ref().map_or(Vec::new(), |file| file.handle().as_bytes().to_vec());
        if let Some(going) = &replaced {
            self.sent(&going.object).await;
            self.await_removals(going.object.handle()).await; // a directory is replaced only if it is empty
        }
        let intent = Intent { object: object.handle().as_bytes().to_vec(), other, ..Intent::default() };
        let call = self.begin(caller, &from_dir, intent)?;
        // The reply says nothing of the objects: their attributes expire when these are dropped.
        let _objects = (object.mutate(), replaced.as_ref().map(|going| going.object.mutate()));
        let changes = (from_dir.mutate(), (from_dir != to_dir).then(|| to_dir.mutate()));
        let renamed = self.backend.rename(call, (from_dir.handle(), from), (to_dir.handle(), to)).await;
        // Without the server's word the file may be replaced, and keeps its silly name until its last close.
        let has_failed = renamed.as_ref().is_err_and(|error| error.status().is_some());
        let result = self.renamed(caller, ((&from_dir, from), (&to_dir, to)), &object, changes, renamed).await;
        if result.is_err() || is_same_file {
            self.names.forget(from_dir.handle(), from);
            self.names.forget(to_dir.handle(), to);
        } else if let Some(going) = &replaced {
            self.names.forget_directory(going.object.handle());
        }
        if result.is_ok() && !is_same_file {
            // The answer does not say what it was that has moved.
            self.names.moved(&to_dir, to, named.proof.filter(|_| named.named == Named::Object(*object.handle())));
        }
        if let (Some(file), Some(going)) = (saved, replaced) {
            self.replaced(&file, has_failed && result.is_err(), going.removal).await;
        }
        result.map(|()| Response::Empty.into())
    }

    /// Takes in how a rename went, which has changed one directory or two.
    async fn renamed(
        &self,
        caller: &Caller,
        ((from_dir, from), (to_dir, to)): (Place<'_>, Place<'_>),
        object: &Arc<Inode>,
        (from_change, to_change): (Mutation, Option<Mutation>),
        renamed: Reply<(Wcc, Wcc)>,
    ) -> Result<(), Errno> {
        match renamed {
            Ok(wcc) => {
                // Of one directory both parts tell the same.
                let is_told_by_other = to_change.is_none() && wcc.value.0.after.is_none();
                let part = wcc.part(|(from, to)| if is_told_by_other { to } else { from });
                let left = self.has_changed(caller, from_dir, from_change, part);
                let entered = to_change.map(|change| self.has_changed(caller, to_dir, change, wcc.part(|(_, to)| to)));
                self.names.changed(from_dir, from, None, &left);
                self.names.changed(to_dir, to, Some(object.handle()), &entered.unwrap_or(left));
                Ok(())
            }
            Err(error) if error.is(Status::NoEnt) && caller.may_have_succeeded(&error) => {
                self.names.forget(from_dir.handle(), from);
                self.names.forget(to_dir.handle(), to);
                match self.backend.lookup(Call::of(&caller.cred), to_dir.handle(), to).await {
                    Ok(moved) if moved.value.handle == *object.handle() => Ok(()),
                    _ => Err(errno(&error)),
                }
            }
            Err(error) => {
                // What the answer shows is one of the two directories.
                let is_refused = error.status().is_some();
                from_change.unchanged_if(is_refused);
                to_change.into_iter().for_each(|change| change.unchanged_if(is_refused));
                Err(errno(&error))
            }
        }
    }

    /// An earlier copy of a rename has been executed: what it named has other attributes now.
    fn was_renamed_before(self: &Arc<Self>, caller: &Caller) {
        let Some(earlier) = &caller.earlier else { return };
        noted(&earlier.object).iter().for_each(|object| self.inodes.of(object).expire());
        if let Some(replaced) = noted(&earlier.other) {
            let replaced = self.inodes.of(&replaced);
            replaced.expire();
            self.was_unlinked_before(&replaced);
        }
    }

    /// Begins the removal of the name that a rename of `object` replaces, if there is one, and saves the file behind it if it is open and
    /// this is its last name.
    async fn begin_replacement(
        self: &Arc<Self>,
        caller: &Caller,
        (directory, name): (&Arc<Inode>, &[u8]),
        object: &Arc<Inode>,
    ) -> Result<Replacement, Errno> {
        let known = match self.certain_name(caller, directory, name) {
            // The kernel has looked the name up just now.
            Named::Unknown if !self.inodes.is_any_open() => self.names.get(directory.handle(), name),
            known => known,
        };
        match known {
            Named::Absent => return Ok(Replacement::OfNothing),
            Named::Object(known) => {
                let known = self.inodes.of(&known);
                if known == *object {
                    return Ok(Replacement::OfItself);
                }
                let removal = known.remove().await;
                if !removal.is_open() {
                    return Ok(Replacement::Of(Going { object: known, removal, is_last_of_open: false }));
                }
            }
            Named::Unknown => {} // a predecessor has, or it has made room for others
        }
        let Some(going) = self.begin_removal_of_found(caller, (directory.handle(), name)).await? else {
            return Ok(Replacement::OfNothing);
        };
        if going.object == *object {
            return Ok(Replacement::OfItself);
        }
        if going.is_last_of_open {
            caller.progress.set_sent();
            self.save_replaced_file(&caller.cred, directory, &going.object).await?;
        }
        Ok(Replacement::Of(going))
    }
}
