//! The sources of a root that has several, and where a call goes.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use efc_backend::*;
use efc_tasks::sync::RwLock;

use crate::handle::{self, Place};
use crate::table::{Source, Table, status};

/// Several sources under one root; clones are the same.
#[derive(Clone)]
pub struct Several<B>(Arc<Shared<B>>);

struct Shared<B> {
    table: RwLock<Arc<Table<B>>>,
    time_limit: Option<Duration>,
}

/// Where a call goes.
pub(crate) enum Target<B> {
    /// To a directory that is no source's.
    Own(Arc<Table<B>>, u64),
    /// To a source, about what has this handle there.
    At(Arc<Source<B>>, FileHandle),
}

impl<B> Several<B> {
    /// These sources, none of them at or inside another's path, since `changed`. Calls that are not patient wait for `time_limit`.
    pub fn new(sources: Vec<Source<B>>, changed: Time, time_limit: Option<Duration>) -> Several<B> {
        let table = RwLock::new(Arc::new(Table::new(sources, changed)));
        Several(Arc::new(Shared { table, time_limit }))
    }

    /// Has these sources from now on, in place of those before. Calls under way go on with what they have begun with.
    pub fn set(&self, sources: Vec<Source<B>>, changed: Time) {
        *self.0.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Table::new(sources, changed));
    }

    /// The sources as they are now.
    pub fn sources(&self) -> Vec<Arc<Source<B>>> {
        self.table().sources.clone()
    }

    pub(crate) fn time_limit(&self) -> Option<Duration> {
        self.0.time_limit
    }

    pub(crate) fn table(&self) -> Arc<Table<B>> {
        self.0.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where a call about `object` goes; STALE if its source has gone.
    pub(crate) fn target(&self, object: &FileHandle) -> Result<Target<B>> {
        let place = handle::place(object).ok_or_else(|| status(Status::Stale))?;
        let table = self.table();
        match place {
            Place::Own(directory) => Ok(Target::Own(table, directory)),
            Place::At(number, object) => {
                let source = table.source(number).cloned().ok_or_else(|| status(Status::Stale))?;
                Ok(Target::At(source, object))
            }
        }
    }

    /// The source of an object, and the object's handle there. A directory that is no source's gives `otherwise`.
    pub(crate) fn source(&self, object: &FileHandle, otherwise: Status) -> Result<(Arc<Source<B>>, FileHandle)> {
        match self.target(object)? {
            Target::Own(..) => Err(status(otherwise)),
            Target::At(source, object) => Ok((source, object)),
        }
    }

    /// The same for a call that changes something: ROFS where nobody may.
    pub(crate) fn source_to_change(&self, object: &FileHandle) -> Result<(Arc<Source<B>>, FileHandle)> {
        let (source, object) = self.source(object, Status::RoFs)?;
        if source.is_read_only { Err(status(Status::RoFs)) } else { Ok((source, object)) }
    }

    /// The same for a call that is about two objects: XDEV if they are not of one source.
    pub(crate) fn source_of_both(
        &self,
        one: &FileHandle,
        other: &FileHandle,
    ) -> Result<(Arc<Source<B>>, FileHandle, FileHandle)> {
        if !self.is_one_storage(one, other) {
            return Err(status(Status::XDev));
        }
        let (source, one) = self.source_to_change(one)?;
        let (_, other) = self.source_to_change(other)?;
        Ok((source, one, other))
    }

    pub(crate) fn is_one_storage(&self, one: &FileHandle, other: &FileHandle) -> bool {
        one.as_bytes().last() == other.as_bytes().last()
    }

    pub(crate) fn is_read_only(&self, object: &FileHandle) -> bool {
        match self.target(object) {
            Ok(Target::Own(..)) => true,
            Ok(Target::At(source, _)) => source.is_read_only,
            Err(_) => false, // whoever asks for it is told that it has gone
        }
    }

    pub(crate) fn properties(&self, object: &FileHandle) -> Option<Properties> {
        self.source(object, Status::IsDir).ok().map(|(source, _)| source.properties)
    }

    pub(crate) fn shared_name(&self, object: &FileHandle) -> (u64, FileHandle) {
        match self.source(object, Status::IsDir) {
            Ok((source, object)) => (source.storage, object),
            Err(_) => (0, *object),
        }
    }

    pub(crate) fn own_name(&self, dir: &FileHandle, name: &[u8]) -> Option<Result<(FileHandle, Attr)>> {
        match handle::place(dir)? {
            Place::Own(directory) => Some(self.table().look_up(directory, name)),
            Place::At(..) => None,
        }
    }
}

impl<B: Backend> Several<B> {
    pub(crate) fn ticket(&self, object: &FileHandle) -> Ticket {
        match self.source(object, Status::IsDir) {
            Ok((source, object)) => source.backend.ticket(&object),
            // No server gets the call.
            Err(_) => Ticket { number: 0, way: None, is_repeated: false },
        }
    }
}
