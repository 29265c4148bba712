//! Several storages under one root: a [`Backend`] over backends.
//!
//! [`Sources::One`] is a single source: its handles, calls and answers are that source's, unchanged.
//! [`Sources::Several`] has a root of its own, and directories down to the path of each source, which everybody can
//! read and nobody can change ([`Table`]). Everything below is the source's. A handle is the source's own with the
//! source's number appended ([`handle`]), so that a call is routed by its handle, without any table of names.
//! Operations that concern two sources (RENAME, LINK) fail with XDEV, as between two mounts.
//!
//! Sources may be added and removed while others serve ([`Several::set`]). A number is never used for another source,
//! so a handle of a removed source never means anything else. The root and the directories above sources are answered
//! at once, without asking a server: a server that does not respond delays only those who access it. Not guaranteed:
//! that two callers see a change of the sources at the same instant.

mod backend;
mod handle;
mod placed;
mod several;
mod statfs;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use efc_backend::*;
use efc_buffer::{Payload, Sink};

pub use several::Several;
pub use table::{OWN_FSID, Path, Source, own_root};

/// Most sources of one root, those included that have been taken away and are still in use.
pub const SOURCES_MAX: usize = 64;

/// One source, or several under one root.
pub enum Sources<B> {
    /// The only one, at the root.
    One(B),
    /// Each at a path.
    Several(Several<B>),
}

/// The call of the one source, or of several. The future of several lies in memory of its own: calls of one take no room for it.
macro_rules! either {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match $self {
            Sources::One(one) => one.$method($($argument),*).await,
            Sources::Several(several) => Box::pin(several.$method($($argument),*)).await,
        }
    };
}

impl<B: Backend + Clone> Backend for Sources<B> {
    fn ticket(&self, object: &FileHandle) -> Ticket {
        match self {
            Sources::One(one) => one.ticket(object),
            Sources::Several(several) => several.ticket(object),
        }
    }

    fn properties(&self, object: &FileHandle) -> Option<Properties> {
        match self {
            Sources::One(one) => one.properties(object),
            Sources::Several(several) => several.properties(object),
        }
    }

    fn is_one_storage(&self, one: &FileHandle, other: &FileHandle) -> bool {
        match self {
            Sources::One(backend) => backend.is_one_storage(one, other),
            Sources::Several(several) => several.is_one_storage(one, other),
        }
    }

    fn is_read_only(&self, object: &FileHandle) -> bool {
        match self {
            Sources::One(one) => one.is_read_only(object),
            Sources::Several(several) => several.is_read_only(object),
        }
    }

    fn shared_name(&self, object: &FileHandle) -> (u64, FileHandle) {
        match self {
            Sources::One(one) => one.shared_name(object),
            Sources::Several(several) => several.shared_name(object),
        }
    }

    fn own_name(&self, dir: &FileHandle, name: &[u8]) -> Option<Result<(FileHandle, Attr)>> {
        match self {
            Sources::One(one) => one.own_name(dir, name),
            Sources::Several(several) => several.own_name(dir, name),
        }
    }

    fn time_limit(&self) -> Option<Duration> {
        match self {
            Sources::One(one) => one.time_limit(),
            Sources::Several(several) => several.time_limit(),
        }
    }

    async fn getattr(&self, call: Call<'_>, object: &FileHandle) -> Reply<Attr> {
        either!(self.getattr(call, object))
    }

    async fn setattr(&self, call: Call<'_>, object: &FileHandle, to: &SetAttr) -> Reply<Wcc> {
        either!(self.setattr(call, object, to))
    }

    async fn lookup(&self, call: Call<'_>, dir: &FileHandle, name: &[u8]) -> Reply<Lookup> {
        either!(self.lookup(call, dir, name))
    }

    async fn access(&self, call: Call<'_>, object: &FileHandle, asked: u32) -> Reply<(u32, Option<Attr>)> {
        either!(self.access(call, object, asked))
    }

    async fn readlink(&self, call: Call<'_>, link: &FileHandle) -> Reply<(Vec<u8>, Option<Attr>)> {
        either!(self.readlink(call, link))
    }

    async fn read(&self, call: Call<'_>, file: &FileHandle, offset: u64, into: Sink) -> (Option<Payload>, Reply<Read>) {
        either!(self.read(call, file, offset, into))
    }

    async fn write(
        &self,
        call: Call<'_>,
        file: &FileHandle,
        offset: u64,
        data: Bytes,
        stable: Stable,
    ) -> Reply<Written> {
        either!(self.write(call, file, offset, data, stable))
    }

    async fn commit(&self, call: Call<'_>, file: &FileHandle) -> Reply<Committed> {
        either!(self.commit(call, file))
    }

    async fn create(&self, call: Call<'_>, dir: &FileHandle, name: &[u8], how: CreateHow) -> Reply<Created> {
        either!(self.create(call, dir, name, how))
    }

    async fn mkdir(&self, call: Call<'_>, dir: &FileHandle, name: &[u8], attr: &SetAttr) -> Reply<Created> {
        either!(self.mkdir(call, dir, name, attr))
    }

    async fn symlink(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        name: &[u8],
        target: &[u8],
        attr: &SetAttr,
    ) -> Reply<Created> {
        either!(self.symlink(call, dir, name, target, attr))
    }

    async fn mknod(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        name: &[u8],
        kind: NodeKind,
        attr: &SetAttr,
    ) -> Reply<Created> {
        either!(self.mknod(call, dir, name, kind, attr))
    }

    async fn remove(&self, call: Call<'_>, dir: &FileHandle, name: &[u8]) -> Reply<Wcc> {
        either!(self.remove(call, dir, name))
    }

    async fn rmdir(&self, call: Call<'_>, dir: &FileHandle, name: &[u8]) -> Reply<Wcc> {
        either!(self.rmdir(call, dir, name))
    }

    async fn rename(&self, call: Call<'_>, from: (&FileHandle, &[u8]), to: (&FileHandle, &[u8])) -> Reply<(Wcc, Wcc)> {
        either!(self.rename(call, from, to))
    }

    async fn link(
        &self,
        call: Call<'_>,
        file: &FileHandle,
        dir: &FileHandle,
        name: &[u8],
    ) -> Reply<(Option<Attr>, Wcc)> {
        either!(self.link(call, file, dir, name))
    }

    async fn list(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        cookie: u64,
        verifier: [u8; 8],
        bytes_max: u32,
    ) -> Reply<DirPage> {
        either!(self.list(call, dir, cookie, verifier, bytes_max))
    }

    async fn fsstat(&self, call: Call<'_>, object: &FileHandle) -> Reply<FsStat> {
        either!(self.fsstat(call, object))
    }
}
