//! Attributes, asked for and changed, and statfs.

use std::sync::Arc;

use efc_backend::{Attr, Backend, Call, Cred, Seen};
use efc_cache::{Admission, Inode};
use efc_fuse::{Errno, Statfs};
use efc_state::Intent;

use super::answer::{Outcome, Response, Told, told_as_removed};
use super::{Caller, Inner, NAME_MAX, ROOT, STATFS_BLOCK, attributes};
use crate::errno::errno;
use crate::saved_server;

impl<B: Backend> Inner<B> {
    /// Attributes that may be given as they are known now.
    pub(super) fn granted(&self, inode: &Arc<Inode>) -> Option<Told> {
        match self.freshness.admit(inode) {
            // What is held back of a file is missing in what the server shows.
            Admission::Hit(grant) => inode.shows_all(grant.seen.asked).then(|| Told::from(grant)),
            Admission::Ask | Admission::Wait(_) => None,
        }
    }

    /// Attributes in the kernel's form.
    pub(super) fn for_kernel(&self, attr: &Attr) -> efc_fuse::Attr {
        attributes::for_kernel(attr, *self.root_fsid.get().unwrap_or(&attr.fsid))
    }

    /// Asks for the file system of the root, in a session that a release has begun which did not save it.
    pub(super) async fn learn_root_fsid(&self) -> Result<(), Errno> {
        if self.root_fsid.get().is_none() {
            let (root, cred) = (self.inode(ROOT)?, Cred::root());
            let attr = self.backend.getattr(Call::of(&cred), root.handle()).await.map_err(|error| errno(&error))?;
            let fsid = *self.root_fsid.get_or_init(|| attr.value.fsid);
            saved_server::save_root_fsid(&self.state, fsid);
        }
        Ok(())
    }

    /// An open-unlinked file still has its silly name at the server, but none for the application.
    pub(super) fn seen_by_kernel(&self, inode: &Inode, mut attr: Attr) -> Attr {
        if !self.orphans.is_empty() && self.orphans.contains(inode.handle()) {
            attr.nlink = attr.nlink.saturating_sub(1);
        }
        attr
    }

    /// Current attributes, as they are known if that will do.
    pub(super) async fn attributes(&self, cred: &Cred, inode: &Arc<Inode>) -> Result<Told, Errno> {
        self.sent(inode).await;
        loop {
            match self.freshness.admit(inode) {
                Admission::Hit(grant) => return Ok(Told::from(grant)),
                Admission::Ask => break,
                Admission::Wait(known) => known.await,
            }
        }
        let answer = self.backend.getattr(Call::of(cred), inode.handle()).await.map_err(|error| errno(&error))?;
        if !inode.is_plausible(&answer.value) {
            return Err(Errno(libc::EIO));
        }
        inode.learn(answer.part(|attr| attr));
        Ok(self.granted(inode).unwrap_or_else(|| Told::once(answer)))
    }

    pub(super) async fn getattr(self: &Arc<Self>, caller: &Caller, node: u64, fh: Option<u64>) -> Result<Told, Errno> {
        // An open file's attributes are read with the credential of its open: fstat needs no search permission now.
        let opened = fh.and_then(|fh| self.file_of(node, fh, libc::O_RDONLY as u32).ok());
        let cred = opened.as_ref().map_or(&caller.cred, |file| &file.cred);
        if opened.is_none() {
            self.check_path_or_open(caller, node).await?;
        }
        let inode = self.inode(node)?;
        if !self.orphans.is_empty() {
            self.settle_orphan(inode.handle()).await;
        }
        if opened.is_some()
            && let Some(told) = self.attributes_with_unsent(&inode)
        {
            return Ok(Told { attr: self.seen_by_kernel(&inode, told.attr), ..told });
        }
        let told = match self.attributes(cred, &inode).await {
            // Another node has removed the directory since it was opened.
            Err(Errno(libc::ESTALE)) if self.has_directory_open(cred.uid, node) => return told_as_removed(&inode),
            told => told?,
        };
        let is_told = self.grow(&inode, &told.attr).await;
        if is_told {
            inode.tell(&told.attr, told.asked);
        }
        Ok(Told { attr: self.seen_by_kernel(&inode, told.attr), ..told })
    }

    pub(super) async fn setattr(self: &Arc<Self>, caller: &Caller, node: u64, change: &efc_fuse::SetAttr) -> Outcome {
        let server_change = attributes::for_server(change);
        let inode = self.inode(node)?;
        if change.fh.is_none() {
            self.check_path_or_open(caller, node).await?;
        }
        self.sent(&inode).await;
        let writing = if change.size.is_some() { Some(self.modes.begin_writing(node).await?) } else { None };
        if change.size.is_some() {
            self.commit_before_truncation(&inode).await;
        }
        let opened = change.fh.and_then(|fh| self.file(fh).ok());
        let only_size = change.size.is_some() && change.mode.or(change.uid).or(change.gid).is_none();
        let cred = opened.as_ref().filter(|_| only_size).map_or(&caller.cred, |file| &file.cred);
        let call = Call { cred, ..self.begin(caller, &inode, Intent::default())? };
        let changed = self.change_attributes(call, &inode, &server_change).await?;
        drop(writing);
        let mut told = self.attributes_after(cred, &inode, changed).await?;
        if change.size.is_some() {
            self.note_growth(&inode, &told.attr);
        } else {
            self.grow(&inode, &told.attr).await;
        }
        // The kernel takes the size even if it has learned of another since it asked.
        told.attr.size = inode.tell(&told.attr, told.asked);
        Ok(Told { attr: self.seen_by_kernel(&inode, told.attr), ..told }.answer(Response::Attr))
    }

    /// Changes attributes; what they are like since, if the answer says so.
    pub(super) async fn change_attributes(
        &self,
        call: Call<'_>,
        inode: &Arc<Inode>,
        to: &efc_backend::SetAttr,
    ) -> Result<Option<Seen<Attr>>, Errno> {
        let mutation = inode.mutate();
        let mutation = if to.changes_permissions() { mutation.of_permissions() } else { mutation };
        let changed = self.backend.setattr(call, inode.handle(), to).await;
        if to.changes_permissions() {
            inode.void_searches();
        }
        match changed {
            Ok(wcc) => {
                self.count_change();
                mutation.answered(wcc.part(|wcc| wcc));
                let after = wcc.value.after.filter(|attr| inode.is_plausible(attr));
                Ok(after.map(|value| Seen { value, asked: wcc.asked }))
            }
            Err(error) => {
                mutation.failed(&error);
                Err(errno(&error))
            }
        }
    }

    /// The attributes after a change: asked for only if its answer did not show them, or others have overtaken it.
    pub(super) async fn attributes_after(
        &self,
        cred: &Cred,
        inode: &Arc<Inode>,
        shown: Option<Seen<Attr>>,
    ) -> Result<Told, Errno> {
        match shown.filter(|shown| inode.last_seen() == Some(shown.value)) {
            Some(shown) => Ok(self.granted(inode).unwrap_or_else(|| Told::once(shown))),
            None => self.attributes(cred, inode).await,
        }
    }

    /// Of the file system that the node is on, which may be another than the root's.
    pub(super) async fn statfs(&self, caller: &Caller, node: u64) -> Outcome {
        let inode = self.inode(node)?;
        let asked = self.backend.fsstat(Call::of(&caller.cred), inode.handle());
        let stat = asked.await.map_err(|error| errno(&error))?.value;
        let statfs = Statfs {
            blocks: stat.bytes_total / STATFS_BLOCK,
            blocks_free: stat.bytes_free / STATFS_BLOCK,
            blocks_available: stat.bytes_available / STATFS_BLOCK,
            files: stat.files_total,
            files_free: stat.files_free,
            block_size: STATFS_BLOCK as u32,
            name_max: NAME_MAX,
        };
        Ok(Response::Statfs(statfs).into())
    }
}
