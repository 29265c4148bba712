//! Names: looking up, making, removing, renaming.
//!
//! A call that was sent twice (a lost connection, a restarted server, a request delivered again to a successor) may
//! have succeeded the first time and fail the second. Then its error is not believed before the objects were compared:
//! a directory that "exists" may be the one we made. How that is found out, and what is known from before, is in [`super::once`].

use std::sync::Arc;

use efc_fuse::state::Intent;
use efc_fuse::{Entry, Errno};
use efc_nfs::{
    Attr, Client, CreateHow, Created, Error, FileHandle, FileType, Lookup, NodeKind, SetAttr, SetTime, Status, Time,
    Wcc,
};

use super::once::{Moved, noted, place_of, shows, with_mark};
use super::{Answer, Caller, Inner, Response, attributes};
use crate::errno::errno;

impl Inner {
    pub(super) async fn lookup(&self, caller: &Caller, parent: u64, name: &[u8]) -> Answer {
        let (entry, _) = self.look_up(caller, parent, name).await?;
        Ok(Response::Entry(entry))
    }

    async fn look_up(&self, caller: &Caller, parent: u64, name: &[u8]) -> Result<(Entry, Attr), Errno> {
        let directory = self.handle_of(parent)?;
        let sent = self.attrs.stamp();
        let found = self.client.lookup(&caller.cred, &directory, name).await;
        let Lookup { handle, attr, dir_attr } = found.map_err(|error| errno(&error))?;
        dir_attr.iter().for_each(|dir_attr| self.attrs.observe_clock(dir_attr));
        let attr = match attr {
            Some(attr) => attr,
            None => self.client.getattr(&caller.cred, &handle).await.map_err(|error| errno(&error))?,
        };
        self.names.learn(parent, name, &handle);
        self.drop_before_look_up(&handle, &attr).await;
        self.entry(parent, &handle, &attr, sent).map(|entry| (entry, attr))
    }

    /// Nothing is made at the server that the kernel could not be told of.
    fn check_room_for_node(&self) -> Result<(), Errno> {
        if self.state.has_room_for_node() { Ok(()) } else { Err(Errno(libc::ENOMEM)) }
    }

    /// Publishes that an object is to be made; the client for that, and the mark by which it is known.
    fn begin_to_make(&self, caller: &Caller) -> Result<(Client, Time), Errno> {
        self.check_room_for_node()?;
        let mark = caller.mark(self.state.session_id());
        let client = self.begin(caller, Intent { place: place_of(mark), ..Intent::default() })?;
        Ok((client, mark))
    }

    /// The attributes of a directory after a change below it.
    fn learn_directory(&self, directory: u64, wcc: &Wcc) {
        self.attrs.learn_or_expire(directory, wcc.after.as_ref(), self.attrs.stamp());
    }

    /// The entry of an object just made; asks again for what the server left out.
    async fn made(&self, caller: &Caller, parent: u64, name: &[u8], created: Created) -> Result<(Entry, Attr), Errno> {
        self.learn_directory(parent, &created.dir);
        if let (Some(handle), Some(attr)) = (created.handle, created.attr) {
            self.names.learn(parent, name, &handle);
            let entry = self.entry(parent, &handle, &attr, self.attrs.stamp())?;
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
    ) -> Result<(Entry, Attr), Errno> {
        if error.is(Status::Exist) && caller.may_have_succeeded(&error) {
            let (entry, attr) = self.look_up(caller, parent, name).await.map_err(|_| errno(&error))?;
            if is_ours(&entry, &attr) {
                self.attrs.expire(parent);
                return Ok((entry, attr));
            }
            self.state.forget_node(entry.node, 1);
        }
        Err(errno(&error))
    }

    pub(super) async fn mkdir(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32) -> Answer {
        let directory = self.handle_of(parent)?;
        let (client, mark) = self.begin_to_make(caller)?;
        let made = match client.mkdir(&caller.cred, &directory, name, &with_mark(mode, mark)).await {
            Ok(created) => self.made(caller, parent, name, created).await,
            Err(error) => {
                let is_ours = |_: &Entry, attr: &Attr| attr.kind == FileType::Directory && shows(attr.atime, mark);
                self.made_before(caller, parent, name, error, is_ours).await
            }
        };
        made.map(|(entry, _)| Response::Entry(entry))
    }

    pub(super) async fn symlink(&self, caller: &Caller, parent: u64, name: &[u8], target: &[u8]) -> Answer {
        let directory = self.handle_of(parent)?;
        let (client, mark) = self.begin_to_make(caller)?;
        let made = match client.symlink(&caller.cred, &directory, name, target, &with_mark(0o777, mark)).await {
            Ok(created) => self.made(caller, parent, name, created).await,
            Err(error) => {
                let is_ours = |_: &Entry, attr: &Attr| attr.kind == FileType::Symlink && shows(attr.atime, mark);
                self.made_before(caller, parent, name, error, is_ours).await
            }
        };
        made.map(|(entry, _)| Response::Entry(entry))
    }

    pub(super) async fn mknod(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32, rdev: u32) -> Answer {
        let (major, minor) = attributes::decode_device(rdev);
        let kind = match mode & libc::S_IFMT {
            libc::S_IFIFO => NodeKind::Fifo,
            libc::S_IFSOCK => NodeKind::Socket,
            libc::S_IFCHR => NodeKind::Character(major, minor),
            libc::S_IFBLK => NodeKind::Block(major, minor),
            libc::S_IFREG => {
                let (entry, _) = self.create_file(caller, parent, name, mode, true).await?;
                return Ok(Response::Entry(entry));
            }
            _ => return Err(Errno(libc::EINVAL)),
        };
        let directory = self.handle_of(parent)?;
        let (client, mark) = self.begin_to_make(caller)?;
        let made = match client.mknod(&caller.cred, &directory, name, kind, &with_mark(mode, mark)).await {
            Ok(created) => self.made(caller, parent, name, created).await,
            Err(error) => {
                let same_kind = |attr: &Attr| attributes::format_bits(attr.kind) == mode & libc::S_IFMT;
                let is_ours = |_: &Entry, attr: &Attr| same_kind(attr) && shows(attr.atime, mark);
                self.made_before(caller, parent, name, error, is_ours).await
            }
        };
        made.map(|(entry, _)| Response::Entry(entry))
    }

    /// Makes a regular file; `exclusive` fails if the name is taken.
    pub(super) async fn create_file(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        exclusive: bool,
    ) -> Result<(Entry, Attr), Errno> {
        let directory = self.handle_of(parent)?;
        if exclusive {
            return self.create_exclusive(caller, parent, &directory, name, mode).await;
        }
        self.check_room_for_node()?;
        let how = CreateHow::Unchecked(with_mode(mode));
        let client = self.begin(caller, Intent::default())?;
        let created = client.create(&caller.cred, &directory, name, how).await.map_err(|error| errno(&error))?;
        self.made(caller, parent, name, created).await
    }

    async fn create_exclusive(
        &self,
        caller: &Caller,
        parent: u64,
        directory: &FileHandle,
        name: &[u8],
        mode: u32,
    ) -> Result<(Entry, Attr), Errno> {
        if let Some(made) = caller.earlier.as_ref().and_then(|earlier| noted(&earlier.made)) {
            let sent = self.attrs.stamp();
            let attr = self.client.getattr(&caller.cred, &made).await.map_err(|error| errno(&error))?;
            let entry = self.entry(parent, &made, &attr, sent)?;
            return self.finish_exclusive(caller, entry, mode).await;
        }
        let verifier = (self.state.session_id() ^ caller.unique.rotate_left(32)).to_be_bytes();
        let (client, mark) = self.begin_to_make(caller)?;
        match client.create(&caller.cred, directory, name, CreateHow::Exclusive(verifier)).await {
            Ok(created) => {
                let (entry, _) = self.made(caller, parent, name, created).await?;
                // The verifier lies in the file's times, and goes with the next call.
                self.state.note_made(caller.unique, self.handle_of(entry.node)?.as_bytes());
                self.finish_exclusive(caller, entry, mode).await
            }
            Err(error) if error.is(Status::NotSupp) => {
                let how = CreateHow::Guarded(with_mark(mode, mark));
                match self.client.patient().create(&caller.cred, directory, name, how).await {
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
    async fn finish_exclusive(&self, caller: &Caller, entry: Entry, mode: u32) -> Result<(Entry, Attr), Errno> {
        let handle = self.handle_of(entry.node)?;
        let change = SetAttr { atime: SetTime::Now, mtime: SetTime::Now, ..with_mode(mode) };
        let sent = self.attrs.stamp();
        let client = self.client.patient();
        let wcc = client.setattr(&caller.cred, &handle, &change, None).await.map_err(|error| errno(&error))?;
        self.attrs.learn_or_expire(entry.node, wcc.after.as_ref(), sent);
        let (attr, attr_ttl) = self.attributes(&caller.cred, entry.node).await?;
        self.attrs.tell(entry.node, &attr);
        Ok((Entry { attr: self.for_kernel(&attr), attr_ttl, ..entry }, attr))
    }

    pub(super) async fn readlink(&self, caller: &Caller, node: u64) -> Answer {
        let handle = self.handle_of(node)?;
        let (target, _) = self.client.readlink(&caller.cred, &handle).await.map_err(|error| errno(&error))?;
        Ok(Response::Bytes(target))
    }

    pub(super) async fn link(&self, caller: &Caller, file: u64, parent: u64, name: &[u8]) -> Answer {
        let (handle, directory) = (self.handle_of(file)?, self.handle_of(parent)?);
        let sent = self.attrs.stamp();
        let client = self.begin(caller, Intent::default())?;
        match client.link(&caller.cred, &handle, &directory, name).await {
            Ok((attr, dir)) => {
                self.learn_directory(parent, &dir);
                self.names.learn(parent, name, &handle);
                let attr = match attr {
                    Some(attr) => attr,
                    None => self.client.getattr(&caller.cred, &handle).await.map_err(|error| errno(&error))?,
                };
                self.entry(parent, &handle, &attr, sent).map(Response::Entry)
            }
            Err(error) => {
                let is_ours = |entry: &Entry, _: &Attr| entry.node == file;
                let made = self.made_before(caller, parent, name, error, is_ours).await;
                made.map(|(entry, _)| Response::Entry(entry))
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
        let directory = self.handle_of(parent)?;
        if self.was_removed(caller, &directory, name).await? {
            self.attrs.expire(parent);
            if let Some(file) = caller.earlier.as_ref().and_then(|earlier| noted(&earlier.object)) {
                self.remove_if_closed(&file); // it may have got a silly name
            }
            return Ok(Response::Empty);
        }
        if let Some(file) = self.last_name_of_open_file(&caller.cred, &directory, name).await? {
            let client = self.begin_with(caller, &file)?;
            self.unlink_open_file(&client, &caller.cred, &directory, name, &file).await?;
            self.attrs.expire(parent);
            return Ok(Response::Empty);
        }
        let object = self.object_of(caller, parent, &directory, name).await?;
        let removed = self.begin_with(caller, &object)?.remove(&caller.cred, &directory, name).await;
        self.removed(caller, parent, removed)
    }

    /// Publishes that `object` is to be removed.
    fn begin_with(&self, caller: &Caller, object: &FileHandle) -> Result<Client, Errno> {
        self.begin(caller, Intent { object: object.as_bytes().to_vec(), ..Intent::default() })
    }

    pub(super) async fn rmdir(&self, caller: &Caller, parent: u64, name: &[u8]) -> Answer {
        let directory = self.handle_of(parent)?;
        if self.was_removed(caller, &directory, name).await? {
            self.attrs.expire(parent);
            return Ok(Response::Empty);
        }
        let object = self.object_of(caller, parent, &directory, name).await?;
        let removed = self.begin_with(caller, &object)?.rmdir(&caller.cred, &directory, name).await;
        self.names.forget(parent, name);
        self.removed(caller, parent, removed)
    }

    fn removed(&self, caller: &Caller, parent: u64, removed: efc_nfs::Result<Wcc>) -> Answer {
        match removed {
            Ok(wcc) => {
                self.learn_directory(parent, &wcc);
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
        let (from_dir, to_dir) = (self.handle_of(from_parent)?, self.handle_of(to_parent)?);
        match self.was_moved(caller, (&from_dir, from), (&to_dir, to)).await? {
            Moved::Yes => {
                self.attrs.expire_for_changed_name();
                let replaced = caller.earlier.as_ref().and_then(|earlier| noted(&earlier.other));
                replaced.iter().for_each(|file| self.remove_if_closed(file));
                return Ok(Response::Empty);
            }
            Moved::Lost => return Err(Errno(libc::ENOENT)),
            Moved::NotYet => {}
        }
        let replaced = self.replaced_open_file(caller, (&from_dir, from), (&to_dir, to)).await?;
        let object = self.object_of(caller, from_parent, &from_dir, from).await?;
        self.names.forget(from_parent, from);
        let other = replaced.map_or(Vec::new(), |file| file.as_bytes().to_vec());
        let intent = Intent { object: object.as_bytes().to_vec(), other, ..Intent::default() };
        let renamed = self.begin(caller, intent)?.rename(&caller.cred, &from_dir, from, &to_dir, to).await;
        self.names.forget(to_parent, to);
        let result = match renamed {
            Ok((from_wcc, to_wcc)) => {
                self.learn_directory(from_parent, &from_wcc);
                self.learn_directory(to_parent, &to_wcc);
                self.names.learn(to_parent, to, &object);
                Ok(Response::Empty)
            }
            Err(error) if error.is(Status::NoEnt) && caller.may_have_succeeded(&error) => {
                self.attrs.expire(from_parent);
                self.attrs.expire(to_parent);
                match self.client.lookup(&caller.cred, &to_dir, to).await {
                    Ok(moved) if moved.handle == object => Ok(Response::Empty),
                    _ => Err(errno(&error)),
                }
            }
            Err(error) => Err(errno(&error)),
        };
        self.attrs.expire_for_changed_name();
        if let Some(file) = replaced {
            match result {
                Ok(_) => self.remove_if_closed(&file),
                Err(_) => self.forget_replaced_file(&file).await,
            }
        }
        result
    }

    /// Saves the file that a rename replaces, if it is open and this is its last name.
    async fn replaced_open_file(
        self: &Arc<Self>,
        caller: &Caller,
        (from_dir, from): (&FileHandle, &[u8]),
        (to_dir, to): (&FileHandle, &[u8]),
    ) -> Result<Option<FileHandle>, Errno> {
        let Some(file) = self.last_name_of_open_file(&caller.cred, to_dir, to).await? else { return Ok(None) };
        let source = self.client.lookup(&caller.cred, from_dir, from).await.map_err(|error| errno(&error))?;
        if source.handle == file {
            return Ok(None); // one file under both names: nothing is replaced
        }
        caller.progress.set_sent();
        self.save_replaced_file(&caller.cred, to_dir, &file).await?;
        Ok(Some(file))
    }
}

pub(super) fn with_mode(mode: u32) -> SetAttr {
    SetAttr { mode: Some(mode & 0o7777), ..SetAttr::default() }
}
