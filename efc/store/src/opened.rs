//! The files of the store that are open for reading; opening one may have to wait for the disk.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use foldhash::HashMap;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::files::data_path;
use crate::index::Source;
use crate::layout::{Folder, open};
use crate::segments;

/// What a file is known by: never two by the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Name {
    Life(u64),
    Segment(u64),
}

fn name(source: &Source) -> Name {
    match source {
        Source::Data { life, .. } => Name::Life(*life),
        Source::Segment(number) => Name::Segment(*number),
    }
}

/// Opens a file of the store for reading.
pub(crate) fn open_source(folder: &Folder, source: &Source) -> Result<OwnedFd, Errno> {
    match source {
        Source::Data { key, .. } => open(&folder.files, &data_path(&folder.hasher.name(key)), OFlags::RDONLY),
        Source::Segment(number) => open(&folder.segments, &segments::path(*number), OFlags::RDONLY),
    }
}

/// Open files, the last used.
#[derive(Debug)]
pub(crate) struct Opened {
    files_max: usize,
    files: HashMap<Name, (Arc<OwnedFd>, u64)>,
    uses: u64,
}

impl Opened {
    /// None yet; so many are kept.
    pub(crate) fn new(files_max: usize) -> Opened {
        Opened { files_max, files: HashMap::default(), uses: 0 }
    }

    /// The file, if it is open.
    pub(crate) fn get(&mut self, source: &Source) -> Option<Arc<OwnedFd>> {
        self.uses += 1;
        let (file, used) = self.files.get_mut(&name(source))?;
        *used = self.uses;
        Some(file.clone())
    }

    /// The file is open. What is to be closed for it, without the lock.
    #[must_use]
    pub(crate) fn add(&mut self, source: &Source, file: &Arc<OwnedFd>) -> Option<Arc<OwnedFd>> {
        self.uses += 1;
        self.files.insert(name(source), (file.clone(), self.uses));
        if self.files.len() <= self.files_max {
            return None;
        }
        let oldest = self.files.iter().min_by_key(|(_, (_, used))| *used).map(|(name, _)| *name)?;
        self.files.remove(&oldest).map(|(file, _)| file)
    }

    /// The file is not there any more: its room on the disk comes free when what this gives is closed, without the
    /// lock.
    #[must_use]
    pub(crate) fn close(&mut self, source: &Source) -> Option<Arc<OwnedFd>> {
        self.files.remove(&name(source)).map(|(file, _)| file)
    }
}
