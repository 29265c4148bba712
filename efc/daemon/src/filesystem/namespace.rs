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
use efc_cache::{Inode, Mutation, NameProof, Named, Permit, Removal, Standing};
use efc_fuse::{Entry, Errno};
use efc_state::Intent;

use super::once::{Moved, noted, place_of, shows, with_mark};
use super::walks::{Note, WALK_TIME_MAX};
use super::{Answer, Caller, Inner, NAME_MAX, Outcome, Response, Told, attributes};
use crate::errno::errno;

/// How often a name is looked up that leads elsewhere each time.
const SECOND_LOOKUPS_MAX: u32 = 16;

/// How long the kernel keeps a name of a directory of the backend's own: what is added or taken away shows so soon.
const OWN_NAME_TTL: Duration = Duration::from_secs(1);

/// A name in a directory.
type Place<'a> = (&'a Arc<Inode>, &'a [u8]);

/// An entry whose lookup is counted: given back, unless it is [given](Counted::give) to the kernel.
pub struct Counted<'a, B: Backend> {
    inner: &'a Inner<B>,
    node: u64,
    inode: Arc<Inode>,
    entry: Entry,
    permit: Permit,
    is_given: bool,
}

impl<'a, B: Backend> Counted<'a, B> {
    /// The lookup of `node`, which stands for `inode`, has been counted.
    pub fn new(inner: &'a Inner<B>, node: u64, inode: Arc<Inode>) -> Counted<'a, B> {
        Counted { inner, node, inode, entry: Entry::default(), permit: Permit::unconditional(), is_given: false }
    }

    /// This entry, as the kernel is told of it: its name holds for `entry_ttl`, which `permit` allows.
    pub fn described(mut self, told: Told, entry_ttl: Duration, permit: Permit) -> Counted<'a, B> {
        self.entry = Entry { node: self.node, generation: self.node >> 32, entry_ttl, ..self.entry };
        self.permit = permit;
        self.with_attributes(told)
    }

    /// This entry, with these attributes.
    fn with_attributes(mut self, told: Told) -> Counted<'a, B> {
        self.inode.tell(&told.attr, told.asked);
        let attr = self.inner.for_kernel(&self.inner.seen_by_kernel(&self.inode, told.attr));
        self.entry = Entry { attr, attr_ttl: told.ttl, ..self.entry };
        self.permit = std::mem::take(&mut self.permit).and(told.permit);
        self
    }

    /// The object.
    pub fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    /// The entry for an answer, and what it follows from. The lookup is the kernel's from now on.
    pub fn give(mut self) -> (Entry, Permit) {
        self.is_given = true;
        (self.entry, std::mem::take(&mut self.permit))
    }

    fn answer(self) -> Answer {
        let (entry, permit) = self.give();
        Answer { body: Response::Entry(entry), permit }
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
        if !self.is_given {
            self.inner.forget_lookups(self.node, 1);
        }
    }
}

impl<B: Backend> Inner<B> {
    pub(super) async fn lookup(self: &Arc<Self>, caller: &Caller, parent: u64, name: &[u8]) -> Outcome {
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

    async fn look_up_by_path(
        self: &Arc<Self>,
        caller: &Caller,
        parent: u64,
        name: &[u8],
    ) -> Result<Counted<'_, B>, Errno> {
        let directory = self.inode(parent)?;
        if let Some(found) = self.backend.own_name(directory.handle(), name) {
            return self.own_entry(&directory, found.map_err(|error| errno(&error))?);
        }
        let found = match self.look_up_without_asking(caller, &directory, name).await {
            Some(known) => known,
            None => {
                let asked = self.look_up(caller, &directory, name).await.map(|(entry, _)| entry);
                if asked.as_ref().is_err_and(|errno| *errno == Errno(libc::ENOENT)) {
                    self.missed(&directory, &caller.cred).await;
                }
                asked
            }
        };
        if found.as_ref().err().is_none_or(|errno| *errno == Errno(libc::ENOENT)) {
            self.check_path(caller, parent).await?; // afterwards: whoever may not know gets the same error for both
        }
        found
    }

    /// The entry of an object that lies in a directory of the backend's own. What is there may change at any time, so the kernel asks
    /// for the name again and again, and for the attributes if no answer of the object's own server lets them be given.
    fn own_entry(&self, directory: &Arc<Inode>, (handle, attr): (FileHandle, Attr)) -> Result<Counted<'_, B>, Errno> {
        let inode = self.inodes.of(&handle);
        let counted = self.count_lookup(directory, &inode, &attr)?;
        let seen = Seen { value: attr, asked: Tick::of_answer() };
        let told = self.granted(&inode).unwrap_or_else(|| Told::once(seen));
        Ok(counted.described(told, OWN_NAME_TTL, Permit::unconditional()))
    }

    /// Nothing is begun of a call that no server could execute.
    fn check_one_storage(&self, one: &Inode, other: &Inode) -> Result<(), Errno> {
        let is_one = self.backend.is_one_storage(one.handle(), other.handle());
        if is_one { Ok(()) } else { Err(Errno(libc::EXDEV)) }
    }

    /// What is known of a name, if that may be given to this caller without asking the server: the consistency mode lets it be
    /// given, and the server has let the caller look into the directory as it is.
    ///
    /// In a second walk of a path nothing is: what was known has led to something that is gone.
    async fn look_up_without_asking(
        &self,
        caller: &Caller,
        directory: &Arc<Inode>,
        name: &[u8],
    ) -> Option<Result<Counted<'_, B>, Errno>> {
        // What is wrong with a name that is too long, the server says: not that there is none.
        if caller.is_second_walk || name.len() > NAME_MAX as usize {
            return None;
        }
        directory.search(&caller.cred, self.freshness.verdict_ttl())?;
        let known = self.names.known(directory, name);
        let granted = self.freshness.admit_name(directory, &known.proof?)?;
        match known.named {
            Named::Unknown => None,
            // The kernel may have a name of a predecessor that this daemon has not heard of.
            Named::Absent if directory.node().is_some_and(|node| self.state.has_unseen_child(node)) => None,
            Named::Absent => Some(Err(Errno(libc::ENOENT))),
            Named::Object(handle) => {
                let inode = self.inodes.get(&handle)?;
                self.drop_before_look_up(&handle, &self.granted(&inode)?.attr).await;
                let told = self.granted(&inode)?;
                Some(self.count_lookup(directory, &inode, &told.attr).map(|counted| {
                    let (entry_ttl, permit) = granted;
                    counted.described(told, entry_ttl, permit)
                }))
            }
        }
    }

    /// The object that a name leads to for certain, as of not longer ago than attributes are trusted: what nobody on this node can
    /// have learned to be otherwise.
    fn certain_name(&self, caller: &Caller, directory: &Arc<Inode>, name: &[u8]) -> Named {
        let known = self.names.known(directory, name);
        let proof = known.proof.filter(|_| caller.earlier.is_none());
        let proof = proof.map(|proof| NameProof { since: proof.asked, ..proof });
        match proof.and_then(|proof| self.freshness.admit_name(directory, &proof)) {
            Some(_) => known.named,
            None => Named::Unknown,
        }
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
            let opening = self.opening(caller, entry.inode()).await;
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
    async fn answer_for_known_name(&self, caller: &Caller, parent: u64, name: &[u8], errno: Errno) -> Outcome {
        let directory = self.inode(parent)?;
        let Some(handle) = self.known_object(caller, &directory, name, errno).await else {
            return Err(self.error_for_unknown_name(&directory, name, errno));
        };
        let Some(node) = self.state.find_node(handle.as_bytes()) else { return Err(errno) };
        let inode = self.inode(node)?;
        let Some(attr) = self.attributes_if_any(caller, &inode).await else {
            return Err(Errno(libc::ENOMEM)); // the kernel keeps the name, and asks again
        };
        self.drop_before_growth(&inode, &attr).await;
        let entry = self.known_entry(&directory, &inode, attr)?;
        if entry.node != node {
            return Err(errno); // forgotten meanwhile
        }
        self.walks.note(caller.tid, Note::Refused { node, errno });
        Ok(entry.answer())
    }

    /// Counts a lookup of an object that the kernel knows, and describes it for this once: nothing is learned, and the kernel keeps nothing.
    fn known_entry(&self, directory: &Inode, inode: &Arc<Inode>, attr: Attr) -> Result<Counted<'_, B>, Errno> {
        let counted = self.count_lookup(directory, inode, &attr)?;
        let seen = Seen { value: attr, asked: Tick::of_answer() }; // the kernel is told what is known now
        Ok(counted.described(Told::once(seen), Duration::ZERO, Permit::unconditional()))
    }

    /// What a LOOKUP is answered that failed with `errno`, of a name that is not among those learned.
    ///
    /// The kernel may know it all the same: a predecessor may have told it of the name, and where many names are in use
    /// some are not remembered. If the server has not said anything of the name either, the one failure that lets the
    /// kernel keep what is mounted there is ENOMEM.
    fn error_for_unknown_name(&self, directory: &Inode, name: &[u8], errno: Errno) -> Errno {
        let has_unseen_child = || directory.node().is_some_and(|node| self.state.has_unseen_child(node));
        let may_be_known = self.names.may_have_dropped(directory.handle(), name) || has_unseen_child();
        if may_be_known && !is_verdict(errno) { Errno(libc::ENOMEM) } else { errno }
    }

    /// The object that the kernel knows by this name, if a failure leaves that open.
    async fn known_object(
        &self,
        caller: &Caller,
        directory: &Arc<Inode>,
        name: &[u8],
        errno: Errno,
    ) -> Option<FileHandle> {
        let Errno(code) = errno;
        if matches!(code, libc::ENOENT | libc::ESTALE | libc::ENOTDIR | libc::ENAMETOOLONG | libc::ENOMEM) {
            return None;
        }
        if let Named::Object(handle) = self.names.get(directory.handle(), name) {
            return Some(handle);
        }
        if !matches!(code, libc::EACCES | libc::EPERM) {
            return None;
        }
        // The name was not asked for lately, or only from a predecessor. The owner of the directory may look into it. The caller learns
        // nothing by that: only an object that the kernel knows to lie there is told, to the kernel.
        let owner = self.attributes_if_any(caller, directory).await?;
        let owner = Cred { uid: owner.uid, gid: owner.gid, groups: Arc::from([]) };
        let found = self.backend.lookup(Call::of(&owner), directory.handle(), name).await.ok()?.value;
        let node = self.state.find_node(found.handle.as_bytes())?;
        (self.state.parent(node) == directory.node()).then_some(found.handle)
    }

    /// Attributes from the cache or the server, or else the last ones known.
    async fn attributes_if_any(&self, caller: &Caller, inode: &Arc<Inode>) -> Option<Attr> {
        match self.attributes(&caller.cred, inode).await {
            Ok(told) => Some(told.attr),
            Err(_) => inode.last_seen(),
        }
    }

    async fn look_up(
        &self,
        caller: &Caller,
        directory: &Arc<Inode>,
        name: &[u8],
    ) -> Result<(Counted<'_, B>, Attr), Errno> {
        let (call, question) = (Call::of(&caller.cred), directory.ask_names());
        let found = match self.backend.lookup(call, directory.handle(), name).await {
            Ok(found) => found,
            Err(error) => {
                if let (true, Some(asked)) = (error.is(Status::NoEnt), error.asked) {
                    let standing = question.answered(asked, error.attr.as_ref());
                    directory.searched(&caller.cred, &standing);
                    self.names.learn(directory, name, None, &standing);
                }
                return Err(errno(&error));
            }
        };
        let Lookup { handle, attr, dir_attr } = found.value;
        let standing = question.answered(found.asked, dir_attr.as_ref());
        directory.searched(&caller.cred, &standing);
        self.names.learn(directory, name, Some(&handle), &standing);
        let attr = match attr {
            Some(attr) => Seen { value: attr, asked: found.asked },
            None => self.backend.getattr(call, &handle).await.map_err(|error| errno(&error))?,
        };
        let attr = self.shown(&caller.cred, &handle, attr).await?;
        self.drop_before_look_up(&handle, &attr.value).await;
        self.entry(directory, &handle, attr.part(|attr| attr)).map(|entry| (entry, attr.value))
    }

    /// Nothing is made at the server that the kernel could not be told of.
    fn check_room_for_node(&self) -> Result<(), Errno> {
        if self.state.has_room_for_node() { Ok(()) } else { Err(Errno(libc::ENOMEM)) }
    }

    /// Publishes that an object is to be made; the call for that, and the mark by which it is known.
    fn begin_to_make<'a>(&self, caller: &'a Caller, directory: &Inode) -> Result<(Call<'a>, Time), Errno> {
        self.check_room_for_node()?;
        let mark = caller.mark(self.state.session_id());
        let call = self.begin(caller, directory, Intent { place: place_of(mark), ..Intent::default() })?;
        Ok((call, mark))
    }

    /// The entry of an object just made by a change of `directory`; asks again for what the server left out.
    async fn made(
        &self,
        caller: &Caller,
        directory: &Arc<Inode>,
        name: &[u8],
        (change, created): (Mutation, Seen<Created>),
    ) -> Result<(Counted<'_, B>, Attr), Errno> {
        let standing = self.has_changed(caller, directory, change, created.part(|created| &created.dir));
        if let (Some(handle), Some(attr)) = (created.value.handle, created.value.attr) {
            self.names.changed(directory, name, Some(&handle), &standing);
            let seen = self.shown(&caller.cred, &handle, Seen { value: attr, asked: created.asked }).await?;
            let entry = self.entry(directory, &handle, seen.part(|attr| attr))?;
            if seen.value.kind == FileType::Directory {
                self.names.made_directory(entry.inode(), &standing);
            }
            return Ok((entry, seen.value));
        }
        self.names.forget(directory.handle(), name);
        self.look_up(caller, directory, name).await
    }

    /// A change of a directory's names was answered: what is known of them stands on that. The caller may search the directory.
    fn has_changed(&self, caller: &Caller, directory: &Arc<Inode>, change: Mutation, wcc: Seen<&Wcc>) -> Standing {
        // The answer to a predecessor's call may be from then.
        let standing = change.answered(wcc).doubted_if(caller.earlier.is_some());
        directory.searched(&caller.cred, &standing);
        standing
    }

    /// The object of that name, if it looks as if an earlier copy of the call, which failed now, had made it.
    async fn made_before(
        &self,
        caller: &Caller,
        directory: &Arc<Inode>,
        name: &[u8],
        (change, error): (Mutation, Error),
        is_ours: impl Fn(&Entry, &Attr) -> bool,
    ) -> Result<(Counted<'_, B>, Attr), Errno> {
        if error.is(Status::Exist) && caller.may_have_succeeded(&error) {
            let (entry, attr) = self.look_up(caller, directory, name).await.map_err(|_| errno(&error))?;
            if is_ours(&entry, &attr) {
                drop(change);
                return Ok((entry, attr));
            }
        }
        change.refused(&error);
        self.doubt_name(directory, name, &error);
        Err(errno(&error))
    }

    /// A change of a name has failed: was it not what it was known to be?
    fn doubt_name(&self, directory: &Inode, name: &[u8], error: &Error) {
        use Status::{Exist, IsDir, NoEnt, NotDir, Stale};
        if error.status().is_none_or(|status| matches!(status, Exist | IsDir | NoEnt | NotDir | Stale)) {
            self.names.forget(directory.handle(), name);
        }
    }

    pub(super) async fn mkdir(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32) -> Outcome {
        self.check_path(caller, parent).await?;
        let directory = self.inode(parent)?;
        let (call, mark) = self.begin_to_make(caller, &directory)?;
        let change = directory.mutate();
        let made = match self.backend.mkdir(call, directory.handle(), name, &with_mark(mode, mark)).await {
            Ok(created) => self.made(caller, &directory, name, (change, created)).await,
            Err(error) => {
                let is_ours = |_: &Entry, attr: &Attr| attr.kind == FileType::Directory && shows(attr.atime, mark);
                self.made_before(caller, &directory, name, (change, error), is_ours).await
            }
        };
        made.map(|(entry, _)| entry.answer())
    }

    pub(super) async fn symlink(&self, caller: &Caller, parent: u64, name: &[u8], target: &[u8]) -> Outcome {
        self.check_path(caller, parent).await?;
        let directory = self.inode(parent)?;
        let (call, mark) = self.begin_to_make(caller, &directory)?;
        let change = directory.mutate();
        let made = match self.backend.symlink(call, directory.handle(), name, target, &with_mark(0o777, mark)).await {
            Ok(created) => self.made(caller, &directory, name, (change, created)).await,
            Err(error) => {
                let is_ours = |_: &Entry, attr: &Attr| attr.kind == FileType::Symlink && shows(attr.atime, mark);
                self.made_before(caller, &directory, name, (change, error), is_ours).await
            }
        };
        made.map(|(entry, _)| entry.answer())
    }

    pub(super) async fn mknod(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32, rdev: u32) -> Outcome {
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
        let directory = self.inode(parent)?;
        let (call, mark) = self.begin_to_make(caller, &directory)?;
        let change = directory.mutate();
        let made = match self.backend.mknod(call, directory.handle(), name, kind, &with_mark(mode, mark)).await {
            Ok(created) => self.made(caller, &directory, name, (change, created)).await,
            Err(error) => {
                let same_kind = |attr: &Attr| attributes::format_bits(attr.kind) == mode & libc::S_IFMT;
                let is_ours = |_: &Entry, attr: &Attr| same_kind(attr) && shows(attr.atime, mark);
                self.made_before(caller, &directory, name, (change, error), is_ours).await
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
        let directory = self.inode(parent)?;
        if exclusive {
            return self.create_exclusive(caller, &directory, name, mode).await;
        }
        self.check_room_for_node()?;
        let how = CreateHow::Unchecked(with_mode(mode));
        let call = self.begin(caller, &directory, Intent::default())?;
        let change = directory.mutate();
        match self.backend.create(call, directory.handle(), name, how).await {
            Ok(created) => self.made(caller, &directory, name, (change, created)).await,
            Err(error) => {
                change.refused(&error);
                self.doubt_name(&directory, name, &error);
                Err(errno(&error))
            }
        }
    }

    async fn create_exclusive(
        &self,
        caller: &Caller,
        directory: &Arc<Inode>,
        name: &[u8],
        mode: u32,
    ) -> Result<(Counted<'_, B>, Attr), Errno> {
        if let Some(made) = caller.earlier.as_ref().and_then(|earlier| noted(&earlier.made)) {
            let call = Call::of(&caller.cred);
            let attr = self.backend.getattr(call, &made).await.map_err(|error| errno(&error))?;
            let entry = self.entry(directory, &made, attr.part(|attr| attr))?;
            return self.finish_exclusive(caller, entry, mode).await;
        }
        let verifier = (self.state.session_id() ^ caller.unique.rotate_left(32)).to_be_bytes();
        let (call, mark) = self.begin_to_make(caller, directory)?;
        let change = directory.mutate();
        match self.backend.create(call, directory.handle(), name, CreateHow::Exclusive(verifier)).await {
            Ok(created) => {
                let (entry, _) = self.made(caller, directory, name, (change, created)).await?;
                // The verifier lies in the file's times, and goes with the next call.
                self.state.note_made(caller.unique, entry.inode().handle().as_bytes());
                self.finish_exclusive(caller, entry, mode).await
            }
            Err(error) if error.is(Status::NotSupp) => {
                let how = CreateHow::Guarded(with_mark(mode, mark));
                match self.backend.create(Call::of(&caller.cred).patient(), directory.handle(), name, how).await {
                    Ok(created) => self.made(caller, directory, name, (change, created)).await,
                    Err(error) => {
                        let is_ours =
                            |_: &Entry, attr: &Attr| attr.kind == FileType::Regular && shows(attr.atime, mark);
                        self.made_before(caller, directory, name, (change, error), is_ours).await
                    }
                }
            }
            Err(error) => {
                change.refused(&error);
                self.doubt_name(directory, name, &error);
                Err(errno(&error))
            }
        }
    }

    /// The server keeps the verifier in the file's times, and knows no mode yet: both are set now.
    async fn finish_exclusive<'a>(
        &'a self,
        caller: &Caller,
        entry: Counted<'a, B>,
        mode: u32,
    ) -> Result<(Counted<'a, B>, Attr), Errno> {
        let change = SetAttr { atime: SetTime::Now, mtime: SetTime::Now, ..with_mode(mode) };
        let changed = self.change_attributes(&caller.cred, entry.inode(), &change).await?;
        let told = self.attributes_after(&caller.cred, entry.inode(), changed).await?;
        let attr = told.attr;
        Ok((entry.with_attributes(told), attr))
    }

    pub(super) async fn readlink(&self, caller: &Caller, node: u64) -> Outcome {
        self.check_path(caller, node).await?;
        let inode = self.inode(node)?;
        let asked = self.backend.readlink(Call::of(&caller.cred), inode.handle());
        Ok(Response::Bytes(asked.await.map_err(|error| errno(&error))?.value.0).into())
    }

    pub(super) async fn link(&self, caller: &Caller, file: u64, parent: u64, name: &[u8]) -> Outcome {
        self.check_path(caller, file).await?;
        self.check_path(caller, parent).await?;
        let (file, directory) = (self.inode(file)?, self.inode(parent)?);
        self.check_one_storage(&file, &directory)?;
        self.sent(&file).await;
        let call = self.begin(caller, &directory, Intent::default())?;
        let (linked, change) = (file.mutate(), directory.mutate());
        match self.backend.link(call, file.handle(), directory.handle(), name).await {
            Ok(Seen { value: (attr, dir), asked }) => {
                linked.answered(Seen { value: &Wcc { before: None, after: attr }, asked });
                let standing = self.has_changed(caller, &directory, change, Seen { value: &dir, asked });
                self.names.changed(&directory, name, Some(file.handle()), &standing);
                let attr = match attr {
                    Some(attr) => Seen { value: attr, asked },
                    None => {
                        let call = Call::of(&caller.cred);
                        self.backend.getattr(call, file.handle()).await.map_err(|error| errno(&error))?
                    }
                };
                self.entry(&directory, file.handle(), attr.part(|attr| attr)).map(Counted::answer)
            }
            Err(error) => {
                linked.unchanged_if(error.status().is_some()); // what the answer shows is the directory
                let is_ours = |entry: &Entry, _: &Attr| Some(entry.node) == file.node();
                let made = self.made_before(caller, &directory, name, (change, error), is_ours).await;
                made.map(|(entry, _)| entry.answer())
            }
        }
    }

    pub(super) async fn unlink(self: &Arc<Self>, caller: &Caller, parent: u64, name: &[u8]) -> Outcome {
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
    async fn begin_removal_of_found(
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

    pub(super) async fn rmdir(&self, caller: &Caller, parent: u64, name: &[u8]) -> Outcome {
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

    pub(super) async fn rename(
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

/// What a rename replaces.
enum Replacement {
    /// There is no such name.
    OfNothing,
    /// Both names are of one file: nothing happens.
    OfItself,
    /// The name that is being removed.
    Of(Going),
}

/// A name that is being removed, with what it leads to.
struct Going {
    object: Arc<Inode>,
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
