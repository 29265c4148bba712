//! The calls of a root with several sources: each goes to the source of its handle, and comes back as it is under the root.

use std::sync::PoisonError;

use bytes::Bytes;
use efc_backend::*;
use efc_buffer::{Payload, Sink};

use crate::placed::reply;
use crate::several::{Several, Target};
use crate::statfs;
use crate::table::status;

/// What nobody may do with what cannot be changed.
const CHANGES: u32 = access::MODIFY | access::EXTEND | access::DELETE;

/// An answer that no server has given.
async fn own<T>(answer: Result<T>) -> Reply<T> {
    Seen::of(async { answer }).await
}

impl<B: Backend> Several<B> {
    pub(crate) async fn getattr(&self, call: Call<'_>, object: &FileHandle) -> Reply<Attr> {
        match self.target(object)? {
            Target::Own(table, directory) => own(table.attr(directory).ok_or_else(|| status(Status::Stale))).await,
            Target::At(source, object) => {
                let answer = source.backend.getattr(call, &object).await;
                if let Ok(Seen { value, .. }) = &answer
                    && object == source.root
                {
                    source.known.lock().unwrap_or_else(PoisonError::into_inner).attr = *value;
                }
                reply(&source, answer)
            }
        }
    }

    pub(crate) async fn setattr(&self, call: Call<'_>, object: &FileHandle, to: &SetAttr) -> Reply<Wcc> {
        let (source, object) = self.source_to_change(object)?;
        reply(&source, source.backend.setattr(call, &object, to).await)
    }

    pub(crate) async fn lookup(&self, call: Call<'_>, dir: &FileHandle, name: &[u8]) -> Reply<Lookup> {
        match self.target(dir)? {
            Target::Own(table, directory) => {
                let found = table.look_up(directory, name).map(|(handle, attr)| Lookup {
                    handle,
                    attr: Some(attr),
                    dir_attr: table.attr(directory),
                });
                own(found).await
            }
            Target::At(source, dir) => reply(&source, source.backend.lookup(call, &dir, name).await),
        }
    }

    pub(crate) async fn access(&self, call: Call<'_>, object: &FileHandle, asked: u32) -> Reply<(u32, Option<Attr>)> {
        match self.target(object)? {
            Target::Own(table, directory) => {
                let attr = table.attr(directory).ok_or_else(|| status(Status::Stale));
                own(attr.map(|attr| (asked & (access::READ | access::LOOKUP), Some(attr)))).await
            }
            Target::At(source, object) => {
                let answer = reply(&source, source.backend.access(call, &object, asked).await);
                let refused = if source.is_read_only { CHANGES } else { 0 };
                answer.map(|Seen { value: (granted, attr), asked }| Seen { value: (granted & !refused, attr), asked })
            }
        }
    }

    pub(crate) async fn readlink(&self, call: Call<'_>, link: &FileHandle) -> Reply<(Vec<u8>, Option<Attr>)> {
        let (source, link) = self.source(link, Status::Inval)?;
        reply(&source, source.backend.readlink(call, &link).await)
    }

    pub(crate) async fn read(
        &self,
        call: Call<'_>,
        file: &FileHandle,
        offset: u64,
        into: Sink,
    ) -> (Option<Payload>, Reply<Read>) {
        match self.source(file, Status::IsDir) {
            Ok((source, file)) => {
                let (payload, read) = source.backend.read(call, &file, offset, into).await;
                (payload, reply(&source, read))
            }
            Err(error) => (None, Err(error)),
        }
    }

    pub(crate) async fn write(
        &self,
        call: Call<'_>,
        file: &FileHandle,
        offset: u64,
        data: Bytes,
        stable: Stable,
    ) -> Reply<Written> {
        let (source, file) = self.source(file, Status::IsDir)?;
        reply(&source, source.backend.write(call, &file, offset, data, stable).await)
    }

    pub(crate) async fn commit(&self, call: Call<'_>, file: &FileHandle) -> Reply<Committed> {
        let (source, file) = self.source(file, Status::IsDir)?;
        reply(&source, source.backend.commit(call, &file).await)
    }

    pub(crate) async fn create(&self, call: Call<'_>, dir: &FileHandle, name: &[u8], how: CreateHow) -> Reply<Created> {
        let (source, dir) = self.source_to_change(dir)?;
        reply(&source, source.backend.create(call, &dir, name, how).await)
    }

    pub(crate) async fn mkdir(&self, call: Call<'_>, dir: &FileHandle, name: &[u8], attr: &SetAttr) -> Reply<Created> {
        let (source, dir) = self.source_to_change(dir)?;
        reply(&source, source.backend.mkdir(call, &dir, name, attr).await)
    }

    pub(crate) async fn symlink(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        name: &[u8],
        target: &[u8],
        attr: &SetAttr,
    ) -> Reply<Created> {
        let (source, dir) = self.source_to_change(dir)?;
        reply(&source, source.backend.symlink(call, &dir, name, target, attr).await)
    }

    pub(crate) async fn mknod(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        name: &[u8],
        kind: NodeKind,
        attr: &SetAttr,
    ) -> Reply<Created> {
        let (source, dir) = self.source_to_change(dir)?;
        reply(&source, source.backend.mknod(call, &dir, name, kind, attr).await)
    }

    pub(crate) async fn remove(&self, call: Call<'_>, dir: &FileHandle, name: &[u8]) -> Reply<Wcc> {
        let (source, dir) = self.source_to_change(dir)?;
        reply(&source, source.backend.remove(call, &dir, name).await)
    }

    pub(crate) async fn rmdir(&self, call: Call<'_>, dir: &FileHandle, name: &[u8]) -> Reply<Wcc> {
        let (source, dir) = self.source_to_change(dir)?;
        reply(&source, source.backend.rmdir(call, &dir, name).await)
    }

    pub(crate) async fn rename(
        &self,
        call: Call<'_>,
        from: (&FileHandle, &[u8]),
        to: (&FileHandle, &[u8]),
    ) -> Reply<(Wcc, Wcc)> {
        let (source, from_dir, to_dir) = self.source_of_both(from.0, to.0)?;
        reply(&source, source.backend.rename(call, (&from_dir, from.1), (&to_dir, to.1)).await)
    }

    pub(crate) async fn link(
        &self,
        call: Call<'_>,
        file: &FileHandle,
        dir: &FileHandle,
        name: &[u8],
    ) -> Reply<(Option<Attr>, Wcc)> {
        let (source, file, dir) = self.source_of_both(file, dir)?;
        reply(&source, source.backend.link(call, &file, &dir, name).await)
    }

    pub(crate) async fn list(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        cookie: u64,
        verifier: [u8; 8],
        bytes_max: u32,
    ) -> Reply<DirPage> {
        match self.target(dir)? {
            Target::Own(table, directory) => own(table.list(directory, cookie)).await,
            Target::At(source, dir) => {
                reply(&source, source.backend.list(call, &dir, cookie, verifier, bytes_max).await)
            }
        }
    }

    pub(crate) async fn fsstat(&self, call: Call<'_>, object: &FileHandle) -> Reply<FsStat> {
        match self.target(object)? {
            Target::Own(table, _) => Seen::of(async { Ok(statfs::sum(call, &table.sources).await) }).await,
            Target::At(source, object) => reply(&source, source.backend.fsstat(call, &object).await),
        }
    }
}
