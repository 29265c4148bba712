//! Making names: files, directories, symbolic links, devices, hard links.

use std::sync::Arc;

use efc_backend::{
    Attr, Backend, Call, CreateHow, Created, Error, FileType, NodeKind, Seen, SetAttr, SetTime, Status, Time, Wcc,
};
use efc_cache::{Inode, Mutation};
use efc_fuse::{Entry, Errno};
use efc_state::Intent;

use super::Counted;
use crate::errno::errno;
use crate::filesystem::once::{noted, place_of, shows, with_mark, with_mode};
use crate::filesystem::{Caller, Inner, Outcome, attributes};

impl<B: Backend> Inner<B> {
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

    pub(in super::super) async fn mkdir(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32) -> Outcome {
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

    pub(in super::super) async fn symlink(&self, caller: &Caller, parent: u64, name: &[u8], target: &[u8]) -> Outcome {
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

    pub(in super::super) async fn mknod(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Outcome {
        self.check_path(caller, parent).await?;
        let (major, minor) = attributes::decode_device(rdev);
        let kind = match mode & libc::S_IFMT {
            libc::S_IFIFO => NodeKind::Fifo,
            libc::S_IFSOCK => NodeKind::Socket,
            libc::S_IFCHR => NodeKind::Character(major, minor),
            libc::S_IFBLK => NodeKind::Block(major, minor),
            libc::S_IFREG => {
                let (entry, _) = self.create_file(caller, parent, name, mode, libc::O_EXCL as u32).await?;
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

    /// Makes a regular file, by an open with these flags; or takes the one that another node has made since the name was looked up.
    ///
    /// ESTALE if another node has made something else there, a symbolic link for one: the kernel looks the name up once more, and opens that.
    pub(in super::super) async fn create_file(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        flags: u32,
    ) -> Result<(Counted<'_, B>, Attr), Errno> {
        let directory = self.inode(parent)?;
        let has = |flag: i32| flags & flag as u32 != 0;
        if has(libc::O_EXCL) {
            return self.create_exclusive(caller, &directory, name, mode).await;
        }
        self.check_room_for_node()?;
        // For the kernel the file is new: it does not truncate it (FMODE_CREATED).
        let how = CreateHow::Unchecked(SetAttr { size: has(libc::O_TRUNC).then_some(0), ..with_mode(mode) });
        let call = self.begin(caller, &directory, Intent::default())?;
        let change = directory.mutate();
        match self.backend.create(call, directory.handle(), name, how).await {
            Ok(created) => self.made(caller, &directory, name, (change, created)).await,
            Err(error) => {
                change.refused(&error);
                self.doubt_name(&directory, name, &error);
                let is_other = self.is_no_file(caller, &directory, name, &error).await;
                Err(if is_other { Errno(libc::ESTALE) } else { errno(&error) })
            }
        }
    }

    /// Did the server refuse to make a file because there is something else of that name? Servers say so in several ways.
    async fn is_no_file(&self, caller: &Caller, directory: &Inode, name: &[u8], refused: &Error) -> bool {
        use Status::{BadType, Exist, Inval, IsDir, NotSupp};
        if !refused.status().is_some_and(|status| matches!(status, BadType | Exist | Inval | IsDir | NotSupp)) {
            return false;
        }
        let found = self.backend.lookup(Call::of(&caller.cred), directory.handle(), name).await;
        let kind = found.ok().and_then(|found| found.value.attr).map(|attr| attr.kind);
        kind.is_some_and(|kind| kind != FileType::Regular)
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
        self.change_made(caller, entry, &change).await
    }

    /// A file that an open has truncated as it was made. Another node may have given that name to a file of which this
    /// one holds data back: that was written before, so it must not come after the truncation.
    pub(in super::super) async fn truncated<'a>(
        self: &'a Arc<Self>,
        caller: &Caller,
        (entry, attr): (Counted<'a, B>, Attr),
    ) -> Result<(Counted<'a, B>, Attr), Errno> {
        let inode = entry.inode().clone();
        if !self.has_uncommitted(&inode) {
            return Ok((entry, attr));
        }
        self.commit_before_truncation(&inode).await;
        self.change_made(caller, entry, &SetAttr { size: Some(0), ..SetAttr::default() }).await
    }

    /// Changes attributes of what was just made.
    async fn change_made<'a>(
        &'a self,
        caller: &Caller,
        entry: Counted<'a, B>,
        change: &SetAttr,
    ) -> Result<(Counted<'a, B>, Attr), Errno> {
        let call = Call::of(&caller.cred).patient();
        let changed = self.change_attributes(call, entry.inode(), change).await?;
        let told = self.attributes_after(&caller.cred, entry.inode(), changed).await?;
        let attr = told.attr;
        Ok((entry.with_attributes(told), attr))
    }

    pub(in super::super) async fn link(&self, caller: &Caller, file: u64, parent: u64, name: &[u8]) -> Outcome {
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
}
