//! The directory that the URL names, and the few steps that all commands are made of.
//!
//! Everything is done as root (but for `walk --uid`), by handles, one component at a time: a symbolic link is an object like others here, and a
//! path through one fails, since LOOKUP in it is NOTDIR.

use bytes::Bytes;
use efc_backend::{Attr, Cred, DirEntry, Error, ErrorKind, FileHandle, FileType, SetAttr, Stable, Status, Verifier};
use efc_buffer::{Buffer, PAYLOAD_MAX, Payload, Sink};
use efc_nfs::{Circle, Client, Mounted};

use crate::error::Failure;
use crate::path::Path;

/// Size of the READDIRPLUS replies that are asked for, in bytes.
pub const PAGE: u32 = 64 << 10;

/// A connected dataset.
pub struct Nas {
    /// Its client.
    pub client: Client,
    /// As whom: of root the export's squash option decides what it is worth.
    pub cred: Cred,
    mounted: Mounted,
}

/// An object that was found.
#[derive(Clone, Copy)]
pub struct Object {
    /// Its handle.
    pub handle: FileHandle,
    /// Its attributes.
    pub attr: Attr,
}

impl Nas {
    /// Around a connected client.
    pub fn new(client: Client, mounted: Mounted, cred: Cred) -> Nas {
        Nas { client, cred, mounted }
    }

    /// The object `name` in `dir`.
    pub async fn lookup(&self, dir: &FileHandle, name: &[u8]) -> Result<Object, Error> {
        let found = self.client.lookup(&self.cred, dir, name).await?;
        let attr = match found.attr {
            Some(attr) => attr,
            None => self.client.getattr(&self.cred, &found.handle).await?,
        };
        Ok(Object { handle: found.handle, attr })
    }

    /// The object at the end of `components`.
    pub async fn walk(&self, components: &[Vec<u8>]) -> Result<Object, Error> {
        let mut object = Object { handle: self.mounted.root, attr: self.mounted.attr };
        for name in components {
            object = self.lookup(&object.handle, name).await?;
        }
        Ok(object)
    }

    /// The object at `path`.
    pub async fn find(&self, path: &Path) -> Result<Object, Failure> {
        self.walk(path.components()).await.map_err(|error| Failure::from_call(&format!("find {path}"), &error))
    }

    /// The directory that `path` lies in, and its name there.
    pub async fn find_parent<'a>(&self, path: &'a Path) -> Result<(Object, &'a [u8]), Failure> {
        let (parent, name) = path.split()?;
        let what = format!("find the parent of {path}");
        let object = self.walk(parent).await.map_err(|error| Failure::from_call(&what, &error))?;
        if object.attr.kind != FileType::Directory {
            return Err(Failure::from_call(&what, &Error::new(ErrorKind::Status(Status::NotDir))));
        }
        Ok((object, name))
    }

    /// A page of at least one entry behind `cookie`, and whether more follow; no entry means the end.
    pub async fn list(&self, dir: &FileHandle, place: &mut ListPosition) -> Result<Vec<DirEntry>, Error> {
        while !place.end {
            let page = self.client.list(&self.cred, dir, place.cookie, place.verifier, PAGE).await?;
            if let Some(last) = page.entries.last() {
                if place.circle.closes(last.cookie) {
                    return Err(Error::new(ErrorKind::Garbled("a listing that goes in a circle")));
                }
                place.cookie = last.cookie;
            }
            (place.verifier, place.end) = (page.verifier, page.eof);
            let real = |entry: &DirEntry| entry.name != b"." && entry.name != b"..";
            let entries: Vec<_> = page.entries.into_iter().filter(real).collect();
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
        Ok(Vec::new())
    }

    /// What an entry stands for; asks for what the server left out of the listing.
    pub async fn object(&self, dir: &FileHandle, entry: &DirEntry) -> Result<Object, Error> {
        match (entry.handle, entry.attr) {
            (Some(handle), Some(attr)) => Ok(Object { handle, attr }),
            _ => self.lookup(dir, &entry.name).await,
        }
    }

    /// Sets what of `wanted` a new object did not get when it was made.
    pub async fn adjust(&self, handle: &FileHandle, attr: &Attr, wanted: &SetAttr) -> Result<(), Error> {
        let differs = |wanted: Option<u32>, is| wanted.is_some_and(|wanted| wanted != is);
        if differs(wanted.uid, attr.uid) || differs(wanted.gid, attr.gid) || differs(wanted.mode, attr.mode) {
            self.client.setattr(&self.cred, handle, wanted, None).await?;
        }
        Ok(())
    }

    /// READ of up to a payload into the beginning of `buffer`; how much came, and whether the file ends there.
    pub async fn read(&self, file: &FileHandle, offset: u64, buffer: Buffer) -> Result<(Buffer, usize, bool), Error> {
        let count = (self.mounted.info.read_max as usize).min(PAYLOAD_MAX);
        let (payload, read) = self.client.read(&self.cred, file, offset, Sink::Buffer(buffer, 0..count)).await;
        match (read?, payload.and_then(Payload::into_buffer)) {
            (read, Some((buffer, _))) if read.count > 0 || read.eof => Ok((buffer, read.count as usize, read.eof)),
            _ => Err(Error::new(ErrorKind::Garbled("READ brings nothing in the middle of a file"))),
        }
    }

    /// Bytes that one WRITE takes.
    pub fn write_max(&self) -> usize {
        self.mounted.info.write_max as usize
    }

    /// WRITE of all of `data`, not yet on stable storage; `verifier` must stay the same from the first to COMMIT.
    pub async fn write(
        &self,
        file: &FileHandle,
        mut offset: u64,
        mut data: Bytes,
        verifier: &mut Option<Verifier>,
    ) -> Result<(), Error> {
        while !data.is_empty() {
            let written = self.client.write(&self.cred, file, offset, data.clone(), Stable::Unstable).await?;
            if written.count == 0 {
                return Err(Error::new(ErrorKind::Garbled("WRITE takes nothing")));
            }
            check_verifier(verifier, written.verifier)?;
            offset += u64::from(written.count);
            data = data.slice(written.count as usize..);
        }
        Ok(())
    }

    /// COMMIT of what was written.
    pub async fn commit(&self, file: &FileHandle, verifier: &mut Option<Verifier>) -> Result<(), Error> {
        let committed = self.client.commit(&self.cred, file).await?;
        check_verifier(verifier, committed.verifier)
    }
}

/// A server with another verifier has restarted and may have lost what it had not committed. Its callers start over.
fn check_verifier(known: &mut Option<Verifier>, now: Verifier) -> Result<(), Error> {
    if *known.get_or_insert(now) == now { Ok(()) } else { Err(Error::new(ErrorKind::Status(Status::Jukebox))) }
}

/// Where a listing stands.
#[derive(Default)]
pub struct ListPosition {
    cookie: u64,
    verifier: [u8; 8],
    circle: Circle,
    end: bool,
}
