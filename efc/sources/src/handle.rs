//! Handles of a root with several sources: the source's own, and its number in a byte behind it. Number 0 has the directories that are
//! no source's: their handle is the directory's number.

use efc_backend::FileHandle;

/// The number of what is no source.
pub(crate) const OWN: u8 = 0;

/// A handle, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The directory of this number, which is no source's.
    Own(u64),
    /// What has this handle at the source of this number.
    At(u8, FileHandle),
}

/// The handle of what a source has under `handle`; `None` if that is longer than those of any NAS.
pub(crate) fn at(number: u8, handle: &FileHandle) -> Option<FileHandle> {
    let length = handle.as_bytes().len();
    let mut bytes = [0; FileHandle::MAX];
    bytes.get_mut(length).map(|last| *last = number)?;
    bytes[..length].copy_from_slice(handle.as_bytes());
    FileHandle::new(&bytes[..=length])
}

/// The handle of a directory that is no source's.
pub(crate) fn own(directory: u64) -> FileHandle {
    let mut bytes = [OWN; 9];
    bytes[..8].copy_from_slice(&directory.to_be_bytes());
    FileHandle::new(&bytes).expect("nine bytes are short enough")
}

/// What a handle stands for; `None` if no root like this has made it.
pub(crate) fn place(handle: &FileHandle) -> Option<Place> {
    let (number, bytes) = handle.as_bytes().split_last()?;
    match *number {
        OWN => Some(Place::Own(u64::from_be_bytes(bytes.try_into().ok()?))),
        number => Some(Place::At(number, FileHandle::new(bytes)?)),
    }
}
