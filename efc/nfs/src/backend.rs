//! The client as a [`Backend`].

use std::time::Duration;

use bytes::Bytes;
use efc_backend::*;
use efc_buffer::{Payload, Sink};

use crate::client::Client;

impl Backend for Client {
    fn ticket(&self, _object: &FileHandle) -> Ticket {
        Client::ticket(self)
    }

    fn time_limit(&self) -> Option<Duration> {
        Client::time_limit(self)
    }

    async fn getattr(&self, call: Call<'_>, object: &FileHandle) -> Reply<Attr> {
        Seen::of(Client::getattr(self, call, object)).await
    }

    async fn setattr(&self, call: Call<'_>, object: &FileHandle, to: &SetAttr) -> Reply<Wcc> {
        Seen::of(Client::setattr(self, call, object, to, None)).await
    }

    async fn lookup(&self, call: Call<'_>, dir: &FileHandle, name: &[u8]) -> Reply<Lookup> {
        Seen::of(Client::lookup(self, call, dir, name)).await
    }

    async fn access(&self, call: Call<'_>, object: &FileHandle, asked: u32) -> Reply<(u32, Option<Attr>)> {
        Seen::of(Client::access(self, call, object, asked)).await
    }

    async fn readlink(&self, call: Call<'_>, link: &FileHandle) -> Reply<(Vec<u8>, Option<Attr>)> {
        Seen::of(Client::readlink(self, call, link)).await
    }

    async fn read(&self, call: Call<'_>, file: &FileHandle, offset: u64, into: Sink) -> (Option<Payload>, Reply<Read>) {
        Seen::beside(Client::read(self, call, file, offset, into)).await
    }

    async fn write(
        &self,
        call: Call<'_>,
        file: &FileHandle,
        offset: u64,
        data: Bytes,
        stable: Stable,
    ) -> Reply<Written> {
        Seen::of(Client::write(self, call, file, offset, data, stable)).await
    }

    async fn commit(&self, call: Call<'_>, file: &FileHandle) -> Reply<Committed> {
        Seen::of(Client::commit(self, call, file)).await
    }

    async fn create(&self, call: Call<'_>, dir: &FileHandle, name: &[u8], how: CreateHow) -> Reply<Created> {
        Seen::of(Client::create(self, call, dir, name, how)).await
    }

    async fn mkdir(&self, call: Call<'_>, dir: &FileHandle, name: &[u8], attr: &SetAttr) -> Reply<Created> {
        Seen::of(Client::mkdir(self, call, dir, name, attr)).await
    }

    async fn symlink(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        name: &[u8],
        target: &[u8],
        attr: &SetAttr,
    ) -> Reply<Created> {
        Seen::of(Client::symlink(self, call, dir, name, target, attr)).await
    }

    async fn mknod(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        name: &[u8],
        kind: NodeKind,
        attr: &SetAttr,
    ) -> Reply<Created> {
        Seen::of(Client::mknod(self, call, dir, name, kind, attr)).await
    }

    async fn remove(&self, call: Call<'_>, dir: &FileHandle, name: &[u8]) -> Reply<Wcc> {
        Seen::of(Client::remove(self, call, dir, name)).await
    }

    async fn rmdir(&self, call: Call<'_>, dir: &FileHandle, name: &[u8]) -> Reply<Wcc> {
        Seen::of(Client::rmdir(self, call, dir, name)).await
    }

    async fn rename(&self, call: Call<'_>, from: (&FileHandle, &[u8]), to: (&FileHandle, &[u8])) -> Reply<(Wcc, Wcc)> {
        Seen::of(Client::rename(self, call, from.0, from.1, to.0, to.1)).await
    }

    async fn link(
        &self,
        call: Call<'_>,
        file: &FileHandle,
        dir: &FileHandle,
        name: &[u8],
    ) -> Reply<(Option<Attr>, Wcc)> {
        Seen::of(Client::link(self, call, file, dir, name)).await
    }

    async fn list(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        cookie: u64,
        verifier: [u8; 8],
        bytes_max: u32,
    ) -> Reply<DirPage> {
        Seen::of(Client::list(self, call, dir, cookie, verifier, bytes_max)).await
    }

    async fn fsstat(&self, call: Call<'_>, object: &FileHandle) -> Reply<FsStat> {
        Seen::of(Client::fsstat(self, call, object)).await
    }
}
