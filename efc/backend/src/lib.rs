//! The interface between the file system and the storage behind it: a [`Backend`] executes calls, and knows nothing of
//! caches, FUSE or Kubernetes. The NFSv3 client is one; another storage would be another.
//!
//! Handles identify objects for as long as these exist, whatever their names are. Methods have the names and the
//! meaning of NFSv3's procedures (RFC 1813, section 3.3). The error of a failed call says whether an earlier
//! transmission of it may have been executed ([`Error::replayed`]). A call that repeats one of a dead process carries
//! the [`Ticket`] of that.
//!
//! Dispatch is static: the futures of the hot path are not boxed.

mod error;
mod tick;
mod types;

use std::future::Future;

use bytes::Bytes;
use efc_buffer::{Payload, Sink};

pub use error::{Error, ErrorKind, Result, Status};
pub use tick::Tick;
pub use types::*;

/// The caller of a call, and how the call is made.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The credential.
    pub cred: &'a Cred,
    /// The ticket of the call, if it was reserved before.
    pub ticket: Option<Ticket>,
    /// The call waits for ever, even where others have a time limit: it changes something, and the caller must know
    /// whether it did.
    pub is_patient: bool,
}

impl<'a> Call<'a> {
    /// A call with the credential `cred`.
    pub fn of(cred: &'a Cred) -> Call<'a> {
        Call { cred, ticket: None, is_patient: false }
    }

    /// This call, without a time limit.
    pub fn patient(self) -> Call<'a> {
        Call { is_patient: true, ..self }
    }

    /// This call, with a reserved ticket.
    pub fn under(self, ticket: Ticket) -> Call<'a> {
        Call { ticket: Some(ticket), ..self }
    }
}

impl<'a> From<&'a Cred> for Call<'a> {
    fn from(cred: &'a Cred) -> Call<'a> {
        Call::of(cred)
    }
}

/// The identity of one call, by which a server's duplicate-request cache executes copies of the call once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The call's number (xid); saved by callers that may have to repeat the call.
    pub number: u32,
    /// The connection for a call that could use any: a server may recognise a repeated call only on the same one. Saved
    /// with the number.
    pub way: Option<u8>,
    /// A process before this one may have sent the call.
    pub is_repeated: bool,
}

impl Ticket {
    /// The ticket of a call that a process before this one may have sent, if the call has only one possible connection.
    pub fn again(number: u32) -> Ticket {
        Ticket { number, way: None, is_repeated: true }
    }

    /// The ticket of a call that a process before this one may have sent, with its connection.
    pub fn repeated(self) -> Ticket {
        Ticket { is_repeated: true, ..self }
    }
}

/// An answer, with the time when it was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Seen<T> {
    /// The answer.
    pub value: T,
    /// Taken before the call was sent: the answer shows a state of the object at that time or later.
    pub asked: Tick,
}

impl<T> Seen<T> {
    /// Makes `call`, and records its time.
    pub async fn of(call: impl Future<Output = Result<T>>) -> Reply<T> {
        Seen::beside(async { ((), call.await) }).await.1
    }

    /// Makes a `call` that returns something beside its result, and records its time.
    pub async fn beside<P>(call: impl Future<Output = (P, Result<T>)>) -> (P, Reply<T>) {
        let asked = Tick::now();
        let (beside, result) = call.await;
        let reply = match result {
            Ok(value) => Ok(Seen { value, asked }),
            Err(error) => Err(Error { asked: Some(asked), ..error }),
        };
        (beside, reply)
    }

    /// A part of the answer.
    pub fn part<U>(&self, part: impl FnOnce(&T) -> &U) -> Seen<&U> {
        Seen { value: part(&self.value), asked: self.asked }
    }
}

/// The outcome of a call.
pub type Reply<T> = Result<Seen<T>>;

/// A storage of files. Futures may be dropped at any point; then it is unknown whether the call is executed.
pub trait Backend: Send + Sync + 'static {
    /// Reserves a ticket that is unique among the calls about this object and others of its storage.
    fn ticket(&self, object: &FileHandle) -> Ticket;

    /// The properties of the storage of this object; `None`: those common to all objects.
    fn properties(&self, _object: &FileHandle) -> Option<Properties> {
        None
    }

    /// Whether one call can concern both objects, as RENAME and LINK do.
    fn is_one_storage(&self, _one: &FileHandle, _other: &FileHandle) -> bool {
        true
    }

    /// Whether the object is read-only for everybody, whatever its server would say.
    fn is_read_only(&self, _object: &FileHandle) -> bool {
        false
    }

    /// The name of the object that all users of its storage share: the number of the storage, 0 if it is the only one, and the object's handle there.
    fn shared_name(&self, object: &FileHandle) -> (u64, FileHandle) {
        (0, *object)
    }

    /// Looks a name up in a directory of this backend's own, above its storages, without a call; `None`: the directory is
    /// a storage's. The attributes are the last known ones.
    fn own_name(&self, _dir: &FileHandle, _name: &[u8]) -> Option<Result<(FileHandle, Attr)>> {
        None
    }

    /// How long a call waits that is not [patient](Call::patient); `None`: for ever.
    fn time_limit(&self) -> Option<std::time::Duration>;

    /// The attributes of an object.
    fn getattr(&self, call: Call<'_>, object: &FileHandle) -> impl Future<Output = Reply<Attr>> + Send;

    /// Changes attributes.
    fn setattr(&self, call: Call<'_>, object: &FileHandle, to: &SetAttr) -> impl Future<Output = Reply<Wcc>> + Send;

    /// Looks up a name in a directory.
    fn lookup(&self, call: Call<'_>, dir: &FileHandle, name: &[u8]) -> impl Future<Output = Reply<Lookup>> + Send;

    /// Which of the [rights](access) in `asked` are granted, and the object's attributes.
    fn access(
        &self,
        call: Call<'_>,
        object: &FileHandle,
        asked: u32,
    ) -> impl Future<Output = Reply<(u32, Option<Attr>)>> + Send;

    /// The target of a symbolic link.
    fn readlink(
        &self,
        call: Call<'_>,
        link: &FileHandle,
    ) -> impl Future<Output = Reply<(Vec<u8>, Option<Attr>)>> + Send;

    /// Reads [`Sink::len`] bytes at `offset`. The payload comes back also after a failure, with unspecified contents;
    /// there is none if the time limit passed while it was being filled.
    fn read(
        &self,
        call: Call<'_>,
        file: &FileHandle,
        offset: u64,
        into: Sink,
    ) -> impl Future<Output = (Option<Payload>, Reply<Read>)> + Send;

    /// Writes `data` at `offset`. Whoever asks for less than [`Stable::File`] keeps it until it is committed.
    fn write(
        &self,
        call: Call<'_>,
        file: &FileHandle,
        offset: u64,
        data: Bytes,
        stable: Stable,
    ) -> impl Future<Output = Reply<Written>> + Send;

    /// Commits what was written to the file to stable storage.
    fn commit(&self, call: Call<'_>, file: &FileHandle) -> impl Future<Output = Reply<Committed>> + Send;

    /// Creates a regular file.
    fn create(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        name: &[u8],
        how: CreateHow,
    ) -> impl Future<Output = Reply<Created>> + Send;

    /// Creates a directory.
    fn mkdir(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        name: &[u8],
        attr: &SetAttr,
    ) -> impl Future<Output = Reply<Created>> + Send;

    /// Creates a symbolic link.
    fn symlink(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        name: &[u8],
        target: &[u8],
        attr: &SetAttr,
    ) -> impl Future<Output = Reply<Created>> + Send;

    /// Creates a device, a socket or a named pipe.
    fn mknod(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        name: &[u8],
        kind: NodeKind,
        attr: &SetAttr,
    ) -> impl Future<Output = Reply<Created>> + Send;

    /// Removes a name of anything but a directory.
    fn remove(&self, call: Call<'_>, dir: &FileHandle, name: &[u8]) -> impl Future<Output = Reply<Wcc>> + Send;

    /// Removes an empty directory.
    fn rmdir(&self, call: Call<'_>, dir: &FileHandle, name: &[u8]) -> impl Future<Output = Reply<Wcc>> + Send;

    /// Renames; returns the two directories' attributes around the change.
    fn rename(
        &self,
        call: Call<'_>,
        from: (&FileHandle, &[u8]),
        to: (&FileHandle, &[u8]),
    ) -> impl Future<Output = Reply<(Wcc, Wcc)>> + Send;

    /// Adds a name to a file (hard link); returns the file's attributes and the directory's around the change.
    fn link(
        &self,
        call: Call<'_>,
        file: &FileHandle,
        dir: &FileHandle,
        name: &[u8],
    ) -> impl Future<Output = Reply<(Option<Attr>, Wcc)>> + Send;

    /// A page of a listing, of at most `bytes_max` bytes on the wire: with entries, or the last one.
    fn list(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        cookie: u64,
        verifier: [u8; 8],
        bytes_max: u32,
    ) -> impl Future<Output = Reply<DirPage>> + Send;

    /// Sizes of the file system that the object is on.
    fn fsstat(&self, call: Call<'_>, object: &FileHandle) -> impl Future<Output = Reply<FsStat>> + Send;
}
