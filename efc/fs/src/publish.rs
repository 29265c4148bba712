//! New contents of a file that are never half visible: a temporary name beside it, COMMIT, and then the real name.
//!
//! A process that is killed, or out of time, leaves its temporary file behind; a later run does not look for it, because it cannot know
//! whether its owner still lives.

use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::Bytes;
use efc_backend::{CreateHow, Error, FileHandle, SetAttr, Status, Verifier};

use crate::error::Failure;
use crate::nas::Nas;
use crate::path::Path;

/// A file in the making.
pub struct Draft<'a> {
    nas: &'a Nas,
    path: &'a Path,
    dir: FileHandle,
    temporary: Vec<u8>,
    file: FileHandle,
    offset: u64,
    verifier: Option<Verifier>,
}

impl<'a> Draft<'a> {
    /// Begins contents for `path`.
    pub async fn begin(nas: &'a Nas, path: &'a Path, mode: u32) -> Result<Draft<'a>, Failure> {
        let (dir, _) = nas.find_parent(path).await?;
        let temporary = format!(".efc-{:016x}.tmp", RandomState::new().build_hasher().finish()).into_bytes();
        let wanted = SetAttr { mode: Some(mode), ..SetAttr::default() };
        let failed = |error: Error| Failure::from_call(&format!("make a file beside {path}"), &error);
        // The name is ours alone: UNCHECKED makes a repetition of the call harmless.
        let how = CreateHow::Unchecked(wanted);
        let made = nas.client.create(&nas.cred, &dir.handle, &temporary, how).await.map_err(failed)?;
        let file = match made.handle {
            Some(handle) => handle,
            None => nas.lookup(&dir.handle, &temporary).await.map_err(failed)?.handle,
        };
        Ok(Draft { nas, path, dir: dir.handle, temporary, file, offset: 0, verifier: None })
    }

    /// Appends `data`.
    pub async fn append(&mut self, data: Bytes) -> Result<(), Failure> {
        let length = data.len() as u64;
        let written = self.nas.write(&self.file, self.offset, data, &mut self.verifier).await;
        self.offset += length;
        written.map_err(|error| self.failed(&error))
    }

    /// Gives the file its name: with `exclusive` only if that is free, else in place of what is there. Whatever comes
    /// of it, the temporary name is gone afterwards.
    pub async fn finish(mut self, exclusive: bool) -> Result<(), Failure> {
        match self.settle(exclusive).await {
            Ok(()) if exclusive => self.discard().await,
            Ok(()) => Ok(()),
            Err(error) => {
                let failure = self.failed(&error);
                // The first failure is what the caller must hear of.
                let _ = self.discard().await;
                Err(failure)
            }
        }
    }

    async fn settle(&mut self, exclusive: bool) -> Result<(), Error> {
        let name = self.path.components().last().map_or(&[][..], |name| name);
        self.nas.commit(&self.file, &mut self.verifier).await?;
        if exclusive {
            return self.link(name).await;
        }
        match self.nas.client.rename(&self.nas.cred, &self.dir, &self.temporary, &self.dir, name).await {
            Err(error) if !(error.replayed && error.is(Status::NoEnt) && self.is_ours(name).await) => Err(error),
            _ => Ok(()),
        }
    }

    async fn link(&self, name: &[u8]) -> Result<(), Error> {
        match self.nas.client.link(&self.nas.cred, &self.file, &self.dir, name).await {
            Err(error) if !(error.replayed && error.is(Status::Exist) && self.is_ours(name).await) => Err(error),
            _ => Ok(()),
        }
    }

    async fn is_ours(&self, name: &[u8]) -> bool {
        self.nas.lookup(&self.dir, name).await.is_ok_and(|object| object.handle == self.file)
    }

    /// Removes the temporary name.
    pub async fn discard(&self) -> Result<(), Failure> {
        match self.nas.client.remove(&self.nas.cred, &self.dir, &self.temporary).await {
            Err(error) if !error.is(Status::NoEnt) => Err(self.failed(&error)),
            _ => Ok(()),
        }
    }

    fn failed(&self, error: &Error) -> Failure {
        Failure::from_call(&format!("write {}", self.path), error)
    }
}
