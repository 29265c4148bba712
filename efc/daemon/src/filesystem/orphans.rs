//! Orphans: files that were unlinked while open.
//!
//! NFSv3 has no open files: removing a file's last name frees it even while it is being read. So the last name of an
//! open file is not removed but renamed to a *silly name* in the same directory, which readdir hides, and which is
//! removed at the file's last close. The list of orphans is part of the saved state, so that a successor of this daemon
//! removes what this one could not. A directory that holds only such files looks empty, but the server will not remove
//! it.
//!
//! An entry is saved before the server is asked for the rename, so that no silly name is ever without an entry. Whether
//! the file *has* the name is known only with the answer, and nothing is half done before that: a last close that comes
//! meanwhile leaves the removal to the renamer. A successor does not know whether an entry's name was given, and asks
//! the server.

use efc_tasks::sync::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use efc_backend::{Backend, Call, Cred, Error, FileHandle, Status};
use efc_cache::{Inode, Mutation, Removal};
use efc_fuse::Errno;
use efc_state::State;

use super::Inner;
use crate::errno::errno;

/// What silly names begin with; the kernel's NFS client uses the same prefix, and administrators know it.
const SILLY_PREFIX: &str = ".nfs";
/// How long who depends on it waits for a close that may be on its way: a directory's removal for those of files in it. The kernel sends
/// them before, but without waiting.
pub(super) const CLOSE_ON_ITS_WAY_MAX: Duration = Duration::from_millis(500);
/// How long a directory's removal waits for removals in it that have begun.
const REMOVALS_TIME_MAX: Duration = Duration::from_secs(30);

/// Does the file have its silly name?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Naming {
    Yes,
    No,
    /// A predecessor has asked for it, or the answer was lost.
    Unknown,
}

#[derive(Clone)]
struct Orphan {
    slot: u64,
    directory: FileHandle,
    name: Vec<u8>,
    /// Of the caller that unlinked it; a successor tries as root.
    cred: Cred,
    naming: Naming,
    /// The server refused to remove it; tried again by a successor or when the session ends.
    has_failed: bool,
}

/// Silly-renamed files by their handle.
pub struct Orphans {
    by_file: Mutex<HashMap<FileHandle, Orphan>>,
}

impl Orphans {
    /// Those that the saved state lists.
    pub fn load(state: &State) -> Orphans {
        let listed = state.orphans().into_iter().filter_map(|(slot, directory, name, file)| {
            let orphan = Orphan {
                slot,
                directory: FileHandle::new(&directory)?,
                name,
                cred: Cred::root(),
                naming: Naming::Unknown,
                has_failed: false,
            };
            Some((FileHandle::new(&file)?, orphan))
        });
        Orphans { by_file: Mutex::new(listed.collect()) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FileHandle, Orphan>> {
        self.by_file.lock().expect("orphans lock")
    }

    fn get(&self, file: &FileHandle) -> Option<Orphan> {
        self.lock().get(file).cloned()
    }

    fn change(&self, file: &FileHandle, change: impl FnOnce(&mut Orphan)) {
        if let Some(orphan) = self.lock().get_mut(file) {
            change(orphan);
        }
    }

    /// No file is open and unlinked.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Does this file have a silly name, which the application must not count?
    pub fn contains(&self, file: &FileHandle) -> bool {
        self.lock().get(file).is_some_and(|orphan| orphan.naming == Naming::Yes)
    }

    /// The files with silly names in this directory that will go.
    fn going(&self, directory: &FileHandle) -> Vec<FileHandle> {
        let is_going = |orphan: &Orphan| orphan.directory == *directory && !orphan.has_failed;
        self.lock().iter().filter(|(_, orphan)| is_going(orphan)).map(|(file, _)| *file).collect()
    }
}

impl<B: Backend> Inner<B> {
    /// Is this a silly name of this session? Listings leave those out: also one that was asked for before the file went.
    pub(super) fn is_silly_name(&self, name: &[u8]) -> bool {
        let number = |digits: &[u8]| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let digits = name.strip_prefix(SILLY_PREFIX.as_bytes()).and_then(|digits| digits.split_at_checked(16));
        digits.is_some_and(|(session, rest)| rest.len() == 16 && number(session) == Some(self.state.session_id()))
    }

    /// Gives an open file a silly name in place of `name` by `call`. The caller has begun the `removal`, which ends here.
    pub(super) async fn unlink_open_file(
        self: &Arc<Self>,
        call: Call<'_>,
        (directory, name, change): (&Arc<Inode>, &[u8], Mutation),
        file: &Arc<Inode>,
        removal: Removal,
    ) -> Result<(), Errno> {
        let handle = directory.handle();
        let silly = self.adopt_orphan(call.cred, handle, file.handle())?;
        let is_copy = call.ticket.is_some_and(|ticket| ticket.is_repeated);
        let renamed = self.backend.rename(call, (handle, name), (handle, &silly)).await.map(|wcc| {
            let is_told_by_other = wcc.value.0.after.is_none();
            let wcc = wcc.part(|(from, to)| if is_told_by_other { to } else { from });
            let standing = change.answered(wcc).doubted_if(is_copy);
            self.names.changed(directory, name, None, &standing);
            self.names.changed(directory, &silly, Some(file.handle()), &standing);
        });
        let outcome = self.named(file, renamed, Status::NoEnt).await;
        drop(removal);
        self.remove_if_closed(file);
        outcome
    }

    /// Gives an open file that is about to be replaced a second, silly name, so that it never lacks one. Then the caller
    /// replaces it, and says how that went ([`Inner::replaced`]).
    pub(super) async fn save_replaced_file(
        self: &Arc<Self>,
        cred: &Cred,
        directory: &Arc<Inode>,
        file: &Arc<Inode>,
    ) -> Result<(), Errno> {
        let silly = self.adopt_orphan(cred, directory.handle(), file.handle())?;
        let change = directory.mutate();
        let linked = self.backend.link(Call::of(cred), file.handle(), directory.handle(), &silly).await.map(|linked| {
            let standing = change.answered(linked.part(|(_, wcc)| wcc));
            self.names.changed(directory, &silly, Some(file.handle()), &standing);
        });
        self.named(file, linked, Status::Exist).await
    }

    /// Notes how the call went that was to give the file its silly name. `given_before` is its error if an earlier copy, or a
    /// predecessor, has given it already.
    async fn named(&self, file: &Inode, result: efc_backend::Result<()>, given_before: Status) -> Result<(), Errno> {
        let Err(error) = result else {
            self.note_naming(file, Naming::Yes);
            return Ok(());
        };
        if error.is(given_before) || !is_certain(&error) {
            self.note_naming(file, Naming::Unknown);
            self.settle_orphan(file.handle()).await;
        }
        let Some(orphan) = self.orphans.get(file.handle()) else { return Err(errno(&error)) };
        match orphan.naming {
            Naming::Yes => return Ok(()),
            Naming::No => drop(self.disown_orphan(file.handle())),
            Naming::Unknown => {} // its last close will try to remove it
        }
        Err(errno(&error))
    }

    fn note_naming(&self, file: &Inode, naming: Naming) {
        self.orphans.change(file.handle(), |orphan| orphan.naming = naming);
        file.expire();
    }

    /// Finds out whether a file has the silly name that a predecessor, or a call without an answer, was to give it.
    pub(super) async fn settle_orphan(&self, file: &FileHandle) {
        let unsettled = self.orphans.get(file).filter(|orphan| orphan.naming == Naming::Unknown);
        let Some(orphan) = unsettled else { return };
        let naming = match self.backend.lookup(Call::of(&orphan.cred), &orphan.directory, &orphan.name).await {
            Ok(found) if found.value.handle == *file => Naming::Yes,
            Ok(_) => Naming::No,
            Err(error) if error.is(Status::NoEnt) || error.is(Status::Stale) => Naming::No,
            Err(_) => return,
        };
        self.orphans.change(file, |found| {
            if found.naming == Naming::Unknown && found.slot == orphan.slot {
                found.naming = naming;
            }
        });
    }

    /// A silly name for the file; the one that it has in this directory, if a predecessor came as far as that.
    fn adopt_orphan(&self, cred: &Cred, directory: &FileHandle, file: &FileHandle) -> Result<Vec<u8>, Errno> {
        let mut orphans = self.orphans.lock();
        if let Some(orphan) = orphans.get(file)
            && orphan.directory == *directory
        {
            return Ok(orphan.name.clone());
        }
        let name = format!("{SILLY_PREFIX}{:016x}{:016x}", self.state.session_id(), self.next_silly_number());
        let name = name.into_bytes();
        let slot = self.state.add_orphan(directory.as_bytes(), &name, file.as_bytes());
        let slot = slot.map_err(|_| Errno(libc::ENOMEM))?;
        let orphan = Orphan {
            slot,
            directory: *directory,
            name: name.clone(),
            cred: cred.clone(),
            naming: Naming::No,
            has_failed: false,
        };
        if let Some(never_named) = orphans.insert(*file, orphan) {
            self.state.remove_orphan(never_named.slot); // else the file had another name than its last
        }
        Ok(name)
    }

    fn disown_orphan(&self, file: &FileHandle) -> Option<Orphan> {
        let orphan = self.orphans.lock().remove(file)?;
        self.state.remove_orphan(orphan.slot);
        self.inodes.announce();
        Some(orphan)
    }

    /// How the rename went that was to replace `file`, which has a silly name: if it failed, the file keeps its name. The caller has
    /// begun the `removal`, which ends here.
    pub(super) async fn replaced(self: &Arc<Self>, file: &Arc<Inode>, has_failed: bool, removal: Removal) {
        if has_failed {
            self.remove_silly_name(file.handle()).await;
        }
        drop(removal);
        self.remove_if_closed(file);
    }

    /// An earlier copy of an unlink or rename has given the file its silly name, if it gave it one.
    pub(super) fn was_unlinked_before(self: &Arc<Self>, file: &Arc<Inode>) {
        self.orphans.change(file.handle(), |orphan| {
            if orphan.naming == Naming::No {
                orphan.naming = Naming::Unknown;
            }
        });
        self.remove_if_closed(file);
    }

    /// Removes an unlinked file whose last close has come.
    pub(super) fn remove_if_closed(self: &Arc<Self>, file: &Arc<Inode>) {
        if !self.orphans.lock().contains_key(file.handle()) || file.is_open() {
            return;
        }
        let (inner, file) = (self.clone(), file.clone());
        efc_tasks::spawn(async move { inner.remove_if_unused(&file).await });
    }

    async fn remove_if_unused(&self, file: &Arc<Inode>) {
        let removal = file.remove().await;
        if !removal.is_open() {
            self.remove_silly_name(file.handle()).await;
        }
    }

    /// Removes those that nobody has open, and finds out which of the others have their names.
    pub(super) async fn reap_unopened_orphans(&self) {
        let files: Vec<FileHandle> = self.orphans.lock().keys().copied().collect();
        for file in files {
            self.remove_if_unused(&self.inodes.of(&file)).await;
            self.settle_orphan(&file).await;
        }
    }

    /// Removes all: the session has ended, and with it whatever was open. Its last closes need not have been delivered.
    pub(super) async fn reap_all_orphans(&self) {
        let files: Vec<FileHandle> = self.orphans.lock().keys().copied().collect();
        for file in files {
            let _removal = self.inodes.of(&file).remove().await;
            self.remove_silly_name(&file).await;
        }
    }

    /// The entry goes only when the name has: until then a successor tries again. The caller has begun the removal.
    async fn remove_silly_name(&self, file: &FileHandle) {
        let Some(orphan) = self.orphans.get(file) else { return };
        let directory = self.inodes.of(&orphan.directory);
        let change = directory.mutate();
        let removed = self.backend.remove(Call::of(&orphan.cred), &orphan.directory, &orphan.name).await;
        if let Ok(wcc) = &removed {
            self.count_change();
            let standing = change.answered(wcc.part(|wcc| wcc));
            self.names.changed(&directory, &orphan.name, None, &standing);
        }
        match removed {
            Err(error) if !error.is(Status::NoEnt) && !error.is(Status::Stale) => {
                log::warn!("cannot remove {}: {error}", String::from_utf8_lossy(&orphan.name));
                self.orphans.change(file, |orphan| orphan.has_failed = true);
                self.inodes.announce();
            }
            _ => {
                self.inodes.of(file).expire(); // it may have other names, one less by now
                drop(self.disown_orphan(file));
            }
        }
    }

    /// Before `directory` is removed: waits until the files in it are gone that were unlinked while open and are closed now, or are being
    /// closed, also those whose close is on its way.
    pub(super) async fn await_removals(&self, directory: &FileHandle) {
        let begun = efc_tasks::time::now();
        loop {
            let going = self.orphans.going(directory);
            if going.is_empty() {
                return;
            }
            let is_closed = |file: &FileHandle| !self.inodes.get(file).is_some_and(|file| file.stays_open());
            let closed = going.iter().filter(|file| is_closed(file)).count();
            let limit = if closed > 0 { REMOVALS_TIME_MAX } else { CLOSE_ON_ITS_WAY_MAX };
            let left = limit.checked_sub(efc_tasks::time::since(begun)).filter(|left| !left.is_zero());
            let Some(left) = left else { return };
            let has_changed = || {
                let now = self.orphans.going(directory);
                now.len() != going.len() || now.iter().filter(|file| is_closed(file)).count() != closed
            };
            efc_tasks::time::in_time(self.inodes.changed_unless(has_changed), Some(left)).await;
        }
    }
}

/// Did the server answer, so that it is known what it did?
fn is_certain(error: &Error) -> bool {
    error.status().is_some()
}
