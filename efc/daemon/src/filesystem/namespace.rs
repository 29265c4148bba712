//! Names: looking up, making, removing, renaming.
//!
//! A call that was sent twice (a lost connection, a restarted server, a request delivered again to a successor) may
//! have succeeded the first time and fail the second. Then its error is not believed before the objects were compared:
//! a directory that "exists" may be the one we made. How that is found out, and what is known from before, is in [`super::once`].

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use efc_backend::{
    Attr, Backend, Call, CreateHow, Created, Cred, Error, FileHandle, FileType, Lookup, NodeKind, Reply, Seen, SetAttr,
    SetTime, Status, Tick, Time, Wcc,
};
use efc_fuse::{Entry, Errno};
use efc_state::Intent;

use super::in_use::Removal;
use super::once::{Moved, noted, place_of, shows, with_mark};
use super::walks::{Note, WALK_TIME_MAX};
use super::{Answer, Caller, Inner, Response, attributes};
use crate::errno::errno;

/// How often a name is looked up that leads elsewhere each time.
const SECOND_LOOKUPS_MAX: u32 = 16;

/// An entry whose lookup is counted: given back, unless it is [given](Counted::give) to the kernel.
pub struct Counted<'a, B: Backend> {
    inner: &'a Inner<B>,
    entry: Entry,
}

impl<'a, B: Backend> Counted<'a, B> {
    /// The lookup of `entry` has been counted.
    pub fn new(inner: &'a Inner<B>, entry: Entry) -> Counted<'a, B> {
        Counted { inner, entry }
    }

    /// The entry for an answer. The lookup is the kernel's from now on.
    pub fn give(self) -> Entry {
        let entry = self.entry;
        std::mem::forget(self);
        entry
    }

    fn answer(self) -> Response {
        Response::Entry(self.give())
    }
}

impl<B: Backend> Deref for Counted<'_, B> {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl<B: Backend> Drop for Counted<'_, B> {
    fn drop(&mut self) {
        self.inner.forget_lookups(self.entry.node, 1);
    }
}

impl<B: Backend> Inner<B> {
    pub(super) async fn lookup(self: &Arc<Self>, caller: &Caller, parent: u64, name: &[u8]) -> Answer {
        let mut found = self.look_up_by_path(caller, parent, name).await;
        if caller.is_second_walk {
            found = match found {
                Ok(entry) => self.hold(caller, parent, name, entry).await,
                Err(errno) => {
                    self.walks.note(caller.tid, Note::Again); // the kernel may look a second time before it gives up
                    Err(errno)
                }
            };
        }
        match found {
            Ok(entry) => Ok(entry.answer()),
            Err(errno) => self.answer_for_known_name(caller, parent, name, errno).await,
        }
    }

    async fn look_up_by_path(&self, caller: &Caller, parent: u64, name: &[u8]) -> Result<Counted<'_, B>, Errno> {
        let asked_at = efc_tasks::time::now();
        let found = self.look_up(caller, parent, name).await;
        if found.as_ref().err().is_none_or(|errno| *errno == Errno(libc::ENOENT)) {
            self.check_path(caller, parent).await?; // afterwards: whoever may not know gets the same error for both
        }
        match &found {
            Ok(_) => self.has_searched(caller, parent, asked_at),
            Err(Errno(libc::ENOENT)) => {
                self.has_searched(caller, parent, asked_at);
                self.names.forget(parent, name);
            }
            Err(_) => {}
        }
        found.map(|(entry, _)| entry)
    }

    /// In a second walk: what was looked up counts as open until the thread's next request, and was there since it does.
    async fn hold<'a>(
        self: &'a Arc<Self>,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        mut entry: Counted<'a, B>,
    ) -> Result<Counted<'a, B>, Errno> {
        for _ in 0..SECOND_LOOKUPS_MAX {
            if entry.attr.mode & libc::S_IFMT != libc::S_IFREG {
                self.walks.note(caller.tid, Note::Again);
                return Ok(entry);
            }
            let opening = self.opening(caller, &self.handle_of(entry.node)?).await;
            let again = self.look_up_by_path(caller, parent, name).await?;
            if again.node == entry.node {
                self.keep_walking(caller.tid, Note::Held { _file: Box::new(opening) });
                return Ok(again);
            }
            entry = again;
        }
        Ok(entry)
    }

    /// Notes something for the next request of a thread, and for a while only: it need not come.
    pub(super) fn keep_walking(self: &Arc<Self>, tid: u32, note: Note) {
        let Some(number) = self.walks.note(tid, note) else { return };
        let inner = Arc::clone(self);
        efc_tasks::spawn(async move {
            efc_tasks::time::sleep(WALK_TIME_MAX).await;
            inner.walks.expire(tid, number);
        });
    }

    /// A LOOKUP failed. If that does not prove that the name has gone, and the kernel knows it, the kernel is told what it knows.
    ///
    /// It would take any other answer than this one, ENOMEM and EINTR for a lost name, and drop what is mounted on it or below it, in
    /// every mount namespace (`fuse_dentry_revalidate`). What it is told is void at once, so that nothing else follows from it: whoever
    /// only passes a mount point gets there, and whoever asks for the object itself gets the error then ([`super::walks`]).
    async fn answer_for_known_name(&self, caller: &Caller, parent: u64, name: &[u8], errno: Errno) -> Answer {
        let Some(handle) = self.known_object(caller, parent, name, errno).await else {
            return Err(self.error_for_unknown_name(parent, name, errno));
        };
        let Some(node) = self.state.find_node(handle.as_bytes()) else { return Err(errno) };
        let Some(attr) = self.attributes_if_any(caller, node).await else {
            return Err(Errno(libc::ENOMEM)); // the kernel keeps the name, and asks again
        };
        self.drop_before_look_up(&handle, &attr).await;
        let entry = self.entry(parent, &handle, &attr, Tick::now())?;
        if entry.node != node {
            return Err(errno); // forgotten meanwhile
        }
        self.walks.note(caller.tid, Note::Refused { node, errno });
        let attr = self.for_kernel(&self.seen_by_kernel(node, attr));
        Ok(Response::Entry(Entry { entry_ttl: Duration::ZERO, attr_ttl: Duration::ZERO, attr, ..entry.give() }))
    }

    /// What a LOOKUP is answered that failed with `errno`, of a name that is not among those learned.
    ///
    /// The kernel may know it all the same: a predecessor may have told it of the name, and where many names are in use some are not
    /// remembered. If the server has not said anything of the name either, the one failure that lets the kernel keep what is
    /// mounted there is ENOMEM.
    fn error_for_unknown_name(&self, parent: u64, name: &[u8], errno: Errno) -> Errno {
        let may_be_known = self.names.may_have_dropped(parent, name) || self.state.has_unseen_child(parent);
        if may_be_known && !is_verdict(errno) { Errno(libc::ENOMEM) } else { errno }
    }

    /// The object that the kernel knows by this name, if a failure leaves that open.
    async fn known_object(&self, caller: &Caller, parent: u64, name: &[u8], errno: Errno) -> Option<FileHandle> {
        let Errno(code) = errno;
        if matches!(code, libc::ENOENT | libc::ESTALE | libc::ENOTDIR | libc::ENAMETOOLONG | libc::ENOMEM) {
            return None;
        }
        if let Some(handle) = self.names.get(parent, name) {
            return Some(handle);
        }
        if !matches!(code, libc::EACCES | libc::EPERM) {
            return None;
        }
        // The name was not asked for lately, or only from a predecessor. The owner of the directory may look into it. The caller learns
        // nothing by that: only an object that the kernel knows to lie there is told, to the kernel.
        let owner = self.attributes_if_any(caller, parent).await?;
        let owner = Cred { uid: owner.uid, gid: owner.gid, groups: Arc::from([]) };
        let found = self.backend.lookup(Call::of(&owner), &self.handle_of(parent).ok()?, name).await.ok()?.value;
        let node = self.state.find_node(found.handle.as_bytes())?;
        (self.state.parent(node) == Some(parent)).then_some(found.handle)
    }

    /// Attributes from the cache or the server, or else the last ones known.
    async fn attributes_if_any(&self, caller: &Caller, node: u64) -> Option<Attr> {
        match self.attributes(&caller.cred, node).await {
            Ok((attr, _)) => Some(attr),
            Err(_) => self.attrs.last_seen(node),
        }
    }

    async fn look_up(&self, caller: &Caller, parent: u64, name: &[u8]) -> Result<(Counted<'_, B>, Attr), Errno> {
        let directory = self.handle_of(parent)?;
        let call = Call::of(&caller.cred);
        let found = self.backend.lookup(call, &directory, name).await.map_err(|error| errno(&error))?;
        let Lookup { handle, attr, dir_attr } = found.value;
        dir_attr.iter().for_each(|dir_attr| self.attrs.observe_clock(dir_attr));
        let attr = match attr {
            Some(attr) => attr,
            None => self.backend.getattr(call, &handle).await.map_err(|error| errno(&error))?.value,
        };
        self.names.learn(parent, name, &handle);
        self.drop_before_look_up(&handle, &attr).await;
        self.entry(parent, &handle, &attr, found.asked).map(|entry| (entry, attr))
    }

    /// Nothing is made at the server that the kernel could not be told of.
    fn check_room_for_node(&self) -> Result<(), Errno> {
        if self.state.has_room_for_node() { Ok(()) } else { Err(Errno(libc::ENOMEM)) }
    }

    /// Publishes that an object is to be made; the call for that, and the mark by which it is known.
    fn begin_to_make<'a>(&self, caller: &'a Caller) -> Result<(Call<'a>, Time), Errno> {
        self.check_room_for_node()?;
        let mark = caller.mark(self.state.session_id());
        let call = self.begin(caller, Intent { place: place_of(mark), ..Intent::default() })?;
        Ok((call, mark))
    }

    /// The attributes of a directory after a change below it, which was asked for then.
    fn learn_directory(&self, directory: u64, wcc: &Wcc, asked: Tick) {
        self.attrs.learn_or_expire(directory, wcc.after.as_ref(), asked);
    }

    /// The entry of an object just made; asks again for what the server left out.
    async fn made(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        Seen { value: created, asked }: Seen<Created>,
    ) -> Result<(Counted<'_, B>, Attr), Errno> {
        self.learn_directory(parent, &created.dir, asked);
        if let (Some(handle), Some(attr)) = (created.handle, created.attr) {
            self.names.learn(parent, name, &handle);
            let entry = self.entry(parent, &handle, &attr, asked)?;
            return Ok((entry, attr));
        }
        self.look_up(caller, parent, name).await
    }

    /// The object of that name, if it looks as if an earlier copy of the call had made it.
    async fn made_before(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        error: Error,
        is_ours: impl Fn(&Entry, &Attr) -> bool,
    ) -> Result<(Counted<'_, B>, Attr), Errno> {
        if error.is(Status::Exist) && caller.may_have_succeeded(&error) {
            let (entry, attr) = self.look_up(caller, parent, name).await.map_err(|_| errno(&error))?;
            if is_ours(&entry, &attr) {
                self.attrs.expire(parent);
                return Ok((entry, attr));
            }
        }
        Err(errno(&error))
    }

    pub(super) async fn mkdir(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32) -> Answer {
        self.check_path(caller, parent).await?;
        let directory = self.handle_of(parent)?;
        let (call, mark) = self.begin_to_make(caller)?;
        let made = match self.backend.mkdir(call, &directory, name, &with_mark(mode, mark)).await {
            Ok(created) => self.made(caller, parent, name, created).await,
            Err(error) => {
                let is_ours = |_: &Entry, attr: &Attr| attr.kind == FileType::Directory && shows(attr.atime, mark);
                self.made_before(caller, parent, name, error, is_ours).await
            }
        };
        made.map(|(entry, _)| entry.answer())
    }

    pub(super) async fn symlink(&self, caller: &Caller, parent: u64, name: &[u8], target: &[u8]) -> Answer {
        self.check_path(caller, parent).await?;
        let directory = self.handle_of(parent)?;
        let (call, mark) = self.begin_to_make(caller)?;
        let made = match self.backend.symlink(call, &directory, name, target, &with_mark(0o777, mark)).await {
            Ok(created) => self.made(caller, parent, name, created).await,
            Err(error) => {
                let is_ours = |_: &Entry, attr: &Attr| attr.kind == FileType::Symlink && shows(attr.atime, mark);
                self.made_before(caller, parent, name, error, is_ours).await
            }
        };
        made.map(|(entry, _)| entry.answer())
    }

    pub(super) async fn mknod(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32, rdev: u32) -> Answer {
        self.check_path(caller, parent).await?;
        let (major, minor) = attributes::decode_device(rdev);
        let kind = match mode & libc::S_IFMT {
            libc::S_IFIFO => NodeKind::Fifo,
            libc::S_IFSOCK => NodeKind::Socket,
            libc::S_IFCHR => NodeKind::Character(major, minor),
            libc::S_IFBLK => NodeKind::Block(major, minor),
            libc::S_IFREG => {
                let (entry, _) = self.create_file(caller, parent, name, mode, true).await?;
                return Ok(entry.answer());
            }
            _ => return Err(Errno(libc::EINVAL)),
        };
        let directory = self.handle_of(parent)?;
        let (call, mark) = self.begin_to_make(caller)?;
        let made = match self.backend.mknod(call, &directory, name, kind, &with_mark(mode, mark)).await {
            Ok(created) => self.made(caller, parent, name, created).await,
            Err(error) => {
                let same_kind = |attr: &Attr| attributes::format_bits(attr.kind) == mode & libc::S_IFMT;
                let is_ours = |_: &Entry, attr: &Attr| same_kind(attr) && shows(attr.atime, mark);
                self.made_before(caller, parent, name, error, is_ours).await
            }
        };
        made.map(|(entry, _)| entry.answer())
    }

    /// Makes a regular file; `exclusive` fails if the name is taken.
    pub(super) async fn create_file(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        exclusive: bool,
    ) -> Result<(Counted<'_, B>, Attr), Errno> {
        let directory = self.handle_of(parent)?;
        if exclusive {
            return self.create_exclusive(caller, parent, &directory, name, mode).await;
        }
        self.check_room_for_node()?;
        let how = CreateHow::Unchecked(with_mode(mode));
        let call = self.begin(caller, Intent::default())?;
        let created = self.backend.create(call, &directory, name, how).await.map_err(|error| errno(&error))?;
        self.made(caller, parent, name, created).await
    }

    async fn create_exclusive(
        &self,
        caller: &Caller,
        parent: u64,
        directory: &FileHandle,
        name: &[u8],
        mode: u32,
    ) -> Result<(Counted<'_, B>, Attr), Errno> {
        if let Some(made) = caller.earlier.as_ref().and_then(|earlier| noted(&earlier.made)) {
            let call = Call::of(&caller.cred);
            let attr = self.backend.getattr(call, &made).await.map_err(|error| errno(&error))?;
            let entry = self.entry(parent, &made, &attr.value, attr.asked)?;
            return self.finish_exclusive(caller, entry, mode).await;
        }
        let verifier = (self.state.session_id() ^ caller.unique.rotate_left(32)).to_be_bytes();
        let (call, mark) = self.begin_to_make(caller)?;
        match self.backend.create(call, directory, name, CreateHow::Exclusive(verifier)).await {
            Ok(created) => {
                let (entry, _) = self.made(caller, parent, name, created).await?;
                // The verifier lies in the file's times, and goes with the next call.
                self.state.note_made(caller.unique, self.handle_of(entry.node)?.as_bytes());
                self.finish_exclusive(caller, entry, mode).await
            }
            Err(error) if error.is(Status::NotSupp) => {
                let how = CreateHow::Guarded(with_mark(mode, mark));
                match self.backend.create(Call::of(&caller.cred).patient(), directory, name, how).await {
                    Ok(created) => self.made(caller, parent, name, created).await,
                    Err(error) => {
                        let is_ours =
                            |_: &Entry, attr: &Attr| attr.kind == FileType::Regular && shows(attr.atime, mark);
                        self.made_before(caller, parent, name, error, is_ours).await
                    }
                }
            }
            Err(error) => Err(errno(&error)),
        }
    }

    /// The server keeps the verifier in the file's times, and knows no mode yet: both are set now.
    async fn finish_exclusive<'a>(
        &'a self,
        caller: &Caller,
        mut entry: Counted<'a, B>,
        mode: u32,
    ) -> Result<(Counted<'a, B>, Attr), Errno> {
        let handle = self.handle_of(entry.node)?;
        let change = SetAttr { atime: SetTime::Now, mtime: SetTime::Now, ..with_mode(mode) };
        let call = Call::of(&caller.cred).patient();
        let wcc = self.backend.setattr(call, &handle, &change).await.map_err(|error| errno(&error))?;
        self.attrs.learn_or_expire(entry.node, wcc.value.after.as_ref(), wcc.asked);
        let (attr, attr_ttl) = self.attributes(&caller.cred, entry.node).await?;
        self.attrs.tell(entry.node, &attr);
        entry.entry = Entry { attr: self.for_kernel(&attr), attr_ttl, ..entry.entry };
        Ok((entry, attr))
    }

    pub(super) async fn readlink(&self, caller: &Caller, node: u64) -> Answer {
        self.check_path(caller, node).await?;
        let handle = self.handle_of(node)?;
        let read = self.backend.readlink(Call::of(&caller.cred), &handle).await.map_err(|error| errno(&error))?;
        Ok(Response::Bytes(read.value.0))
    }

    pub(super) async fn link(&self, caller: &Caller, file: u64, parent: u64, name: &[u8]) -> Answer {
        self.check_path(caller, file).await?;
        self.check_path(caller, parent).await?;
        let (handle, directory) = (self.handle_of(file)?, self.handle_of(parent)?);
        let call = self.begin(caller, Intent::default())?;
        match self.backend.link(call, &handle, &directory, name).await {
            Ok(Seen { value: (attr, dir), asked }) => {
                self.learn_directory(parent, &dir, asked);
                self.names.learn(parent, name, &handle);
                let attr = match attr {
                    Some(attr) => attr,
                    None => {
                        let call = Call::of(&caller.cred);
                        self.backend.getattr(call, &handle).await.map_err(|error| errno(&error))?.value
                    }
                };
                self.entry(parent, &handle, &attr, asked).map(Counted::answer)
            }
            Err(error) => {
                let is_ours = |entry: &Entry, _: &Attr| entry.node == file;
                let made = self.made_before(caller, parent, name, error, is_ours).await;
                made.map(|(entry, _)| entry.answer())
            }
        }
    }

    pub(super) async fn unlink(self: &Arc<Self>, caller: &Caller, parent: u64, name: &[u8]) -> Answer {
        let answer = self.unlink_name(caller, parent, name).await;
        self.names.forget(parent, name);
        self.attrs.expire_for_changed_name();
        answer
    }

    async fn unlink_name(self: &Arc<Self>, caller: &Caller, parent: u64, name: &[u8]) -> Answer {
        self.check_path(caller, parent).await?;
        let directory = self.handle_of(parent)?;
        if self.was_removed(caller, &directory, name).await? {
            self.attrs.expire(parent);
            if let Some(file) = caller.earlier.as_ref().and_then(|earlier| noted(&earlier.object)) {
                self.was_unlinked_before(&file); // it may have got a silly name
            }
            return Ok(Response::Empty);
        }
        let Going { object, removal, is_last_of_open } = self.begin_removal(caller, parent, (&directory, name)).await?;
        let call = self.begin_with(caller, &object)?;
        if is_last_of_open {
            self.unlink_open_file(call, (&directory, name), &object, removal).await?;
            self.attrs.expire(parent);
            return Ok(Response::Empty);
        }
        let removed = self.backend.remove(call, &directory, name).await;
        self.removed(caller, parent, removed)
    }

    /// Finds what `name` leads to, and begins the removal of that name.
    async fn begin_removal(
        &self,
        caller: &Caller,
        parent: u64,
        (directory, name): (&FileHandle, &[u8]),
    ) -> Result<Going, Errno> {
        if !self.in_use.is_any_open() {
            let object = self.object_of(caller, parent, directory, name).await?;
            let removal = self.in_use.remove(&object).await;
            if !removal.is_open() {
                return Ok(Going { object, removal, is_last_of_open: false });
            }
        }
        match self.begin_removal_of_found(caller, (directory, name)).await? {
            Some(going) => Ok(going),
            None => Err(Errno(libc::ENOENT)),
        }
    }

    /// The same for a name that is looked up anew, which files that are open call for; `None` if it leads to nothing.
    async fn begin_removal_of_found(
        &self,
        caller: &Caller,
        (directory, name): (&FileHandle, &[u8]),
    ) -> Result<Option<Going>, Errno> {
        let look = async || match self.backend.lookup(Call::of(&caller.cred), directory, name).await {
            Ok(Seen { value: Lookup { handle, attr, .. }, .. }) => {
                let is_only = attr.is_none_or(|attr| attr.kind == FileType::Regular && attr.nlink <= 1);
                // One that has its silly name has another: RENAME of one name of a file to another of it does nothing.
                let is_last = is_only && !self.orphans.contains(&handle);
                Ok(Some((handle, is_last)))
            }
            Err(error) if error.is(Status::NoEnt) => Ok(None),
            Err(error) => Err(errno(&error)),
        };
        for _ in 0..SECOND_LOOKUPS_MAX {
            let Some((object, is_last)) = look().await? else { return Ok(None) };
            let removal = self.in_use.remove(&object).await;
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
    fn begin_with<'a>(&self, caller: &'a Caller, object: &FileHandle) -> Result<Call<'a>, Errno> {
        self.begin(caller, Intent { object: object.as_bytes().to_vec(), ..Intent::default() })
    }

    pub(super) async fn rmdir(&self, caller: &Caller, parent: u64, name: &[u8]) -> Answer {
        self.check_path(caller, parent).await?;
        let directory = self.handle_of(parent)?;
        if self.was_removed(caller, &directory, name).await? {
            self.attrs.expire(parent);
            return Ok(Response::Empty);
        }
        let object = self.object_of(caller, parent, &directory, name).await?;
        self.await_removals(&object).await;
        let removed = self.backend.rmdir(self.begin_with(caller, &object)?, &directory, name).await;
        self.names.forget(parent, name);
        self.removed(caller, parent, removed)
    }

    fn removed(&self, caller: &Caller, parent: u64, removed: Reply<Wcc>) -> Answer {
        match removed {
            Ok(Seen { value: wcc, asked }) => {
                self.learn_directory(parent, &wcc, asked);
                Ok(Response::Empty)
            }
            Err(error) if error.is(Status::NoEnt) && caller.may_have_succeeded(&error) => {
                self.attrs.expire(parent);
                Ok(Response::Empty)
            }
            Err(error) => Err(errno(&error)),
        }
    }

    pub(super) async fn rename(
        self: &Arc<Self>,
        caller: &Caller,
        (from_parent, from): (u64, &[u8]),
        (to_parent, to): (u64, &[u8]),
        flags: u32,
    ) -> Answer {
        if flags != 0 {
            return Err(Errno(libc::EINVAL)); // RENAME of NFSv3 has neither NOREPLACE nor EXCHANGE
        }
        self.check_path(caller, from_parent).await?;
        self.check_path(caller, to_parent).await?;
        let (from_dir, to_dir) = (self.handle_of(from_parent)?, self.handle_of(to_parent)?);
        match self.was_moved(caller, (&from_dir, from), (&to_dir, to)).await? {
            Moved::Yes => {
                self.attrs.expire_for_changed_name();
                let replaced = caller.earlier.as_ref().and_then(|earlier| noted(&earlier.other));
                replaced.iter().for_each(|file| self.was_unlinked_before(file));
                return Ok(Response::Empty);
            }
            Moved::Lost => return Err(Errno(libc::ENOENT)),
            Moved::NotYet => {}
        }
        let object = self.object_of(caller, from_parent, &from_dir, from).await?;
        let replaced = self.begin_replacement(caller, to_parent, (&to_dir, to), &object).await?;
        self.names.forget(from_parent, from);
        let saved = replaced.as_ref().filter(|going| going.is_last_of_open).map(|going| going.object);
        let other = saved.map_or(Vec::new(), |file| file.as_bytes().to_vec());
        if let Some(going) = &replaced {
            self.await_removals(&going.object).await; // a directory is replaced only if it is empty
        }
        let intent = Intent { object: object.as_bytes().to_vec(), other, ..Intent::default() };
        let call = self.begin(caller, intent)?;
        let renamed = self.backend.rename(call, (&from_dir, from), (&to_dir, to)).await;
        // Without the server's word the file may be replaced, and keeps its silly name until its last close.
        let has_failed = renamed.as_ref().is_err_and(|error| error.status().is_some());
        self.names.forget(to_parent, to);
        let result = match renamed {
            Ok(Seen { value: (from_wcc, to_wcc), asked }) => {
                self.learn_directory(from_parent, &from_wcc, asked);
                self.learn_directory(to_parent, &to_wcc, asked);
                self.names.learn(to_parent, to, &object);
                Ok(Response::Empty)
            }
            Err(error) if error.is(Status::NoEnt) && caller.may_have_succeeded(&error) => {
                self.attrs.expire(from_parent);
                self.attrs.expire(to_parent);
                match self.backend.lookup(Call::of(&caller.cred), &to_dir, to).await {
                    Ok(moved) if moved.value.handle == object => Ok(Response::Empty),
                    _ => Err(errno(&error)),
                }
            }
            Err(error) => Err(errno(&error)),
        };
        self.attrs.expire_for_changed_name();
        if let (Some(file), Some(going)) = (saved, replaced) {
            self.replaced(&file, has_failed && result.is_err(), going.removal).await;
        }
        result
    }

    /// Begins the removal of the name that a rename of `object` replaces, if there is one, and saves the file behind it if it is open and
    /// this is its last name.
    async fn begin_replacement(
        self: &Arc<Self>,
        caller: &Caller,
        parent: u64,
        (directory, name): (&FileHandle, &[u8]),
        object: &FileHandle,
    ) -> Result<Option<Going>, Errno> {
        if !self.in_use.is_any_open() {
            // The kernel has looked the name up just now.
            let Some(known) = self.names.get(parent, name) else { return Ok(None) };
            let removal = self.in_use.remove(&known).await;
            if !removal.is_open() {
                return Ok(Some(Going { object: known, removal, is_last_of_open: false }));
            }
        }
        let found = self.begin_removal_of_found(caller, (directory, name)).await?;
        let Some(going) = found.filter(|going| going.object != *object) else {
            return Ok(None); // one file under both names: nothing is replaced
        };
        if going.is_last_of_open {
            caller.progress.set_sent();
            self.save_replaced_file(&caller.cred, directory, &going.object).await?;
        }
        Ok(Some(going))
    }
}

/// A name that is being removed, with what it leads to.
struct Going {
    object: FileHandle,
    removal: Removal,
    /// The file is open and has no other name: it gets one.
    is_last_of_open: bool,
}

pub(super) fn with_mode(mode: u32) -> SetAttr {
    SetAttr { mode: Some(mode & 0o7777), ..SetAttr::default() }
}

/// Does it say something of the name, rather than that the server could not be asked?
fn is_verdict(Errno(code): Errno) -> bool {
    let of_name = matches!(code, libc::ENOENT | libc::ESTALE | libc::ENOTDIR | libc::ENAMETOOLONG);
    of_name || matches!(code, libc::EACCES | libc::EPERM)
}
