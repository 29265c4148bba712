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

/// Who makes a call, and how.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// In whose name.
    pub cred: &'a Cred,
    /// The number of the call, if it was reserved before.
    pub ticket: Option<Ticket>,
    /// The call waits for ever, also where others have a time limit: it changes something, and the caller must know
    /// whether it did.
    pub is_patient: bool,
}

impl<'a> Call<'a> {
    /// A call in the name of `cred`.
    pub fn of(cred: &'a Cred) -> Call<'a> {
        Call { cred, ticket: None, is_patient: false }
    }

    /// This call, without a time limit.
    pub fn patient(self) -> Call<'a> {
        Call { is_patient: true, ..self }
    }

    /// This call, under a number of its own.
    pub fn under(self, ticket: Ticket) -> Call<'a> {
        Call { ticket: Some(ticket), ..self }
    }
}

impl<'a> From<&'a Cred> for Call<'a> {
    fn from(cred: &'a Cred) -> Call<'a> {
        Call::of(cred)
    }
}

/// The number of one call: a server that remembers its replies by it executes copies of the call once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Of the call; saved by those who may have to repeat it.
    pub number: u32,
    /// Which of the ways to the server a call takes that may take any: a server may know a call again on its way only.
    /// Saved with the number.
    pub way: Option<u8>,
    /// A process before this one may have sent the call.
    pub is_repeated: bool,
}

impl Ticket {
    /// The ticket of a call that a process before this one may have sent, if it has but one way to take.
    pub fn again(number: u32) -> Ticket {
        Ticket { number, way: None, is_repeated: true }
    }

    /// The ticket of a call that a process before this one may have sent, its way with it.
    pub fn repeated(self) -> Ticket {
        Ticket { is_repeated: true, ..self }
    }
}

/// An answer, with when it was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Seen<T> {
    /// The answer.
    pub value: T,
    /// Taken before the call left: the answer shows a state of the object at that time or later.
    pub asked: Tick,
}

impl<T> Seen<T> {
    /// Makes `call`, and notes when.
    pub async fn of(call: impl Future<Output = Result<T>>) -> Reply<T> {
        Seen::beside(async { ((), call.await) }).await.1
    }

    /// Makes a `call` that gives something back beside its result, and notes when.
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

/// What a call ends with.
pub type Reply<T> = Result<Seen<T>>;

/// A storage of files. Futures may be dropped at any point; whether the call is executed then is not known.
pub trait Backend: Send + Sync + 'static {
    /// A number that no other call has about this object, or about others of its storage.
    fn ticket(&self, object: &FileHandle) -> Ticket;

    /// The properties of the storage of this object; `None`: those that all objects have.
    fn properties(&self, _object: &FileHandle) -> Option<Properties> {
        None
    }

    /// May one call be about both objects, as RENAME and LINK are?
    fn is_one_storage(&self, _one: &FileHandle, _other: &FileHandle) -> bool {
        true
    }

    /// Does everybody find that this object cannot be changed, whatever its server would say?
    fn is_read_only(&self, _object: &FileHandle) -> bool {
        false
    }

    /// What names the object for all who use its storage: which of several that is, 0 for the only one; and its handle there.
    fn shared_name(&self, object: &FileHandle) -> (u64, FileHandle) {
        (0, *object)
    }

    /// Where a name leads of a directory that is no storage's but this backend's own; `None`: it is a storage's. This is known at once,
    /// and the attributes are the last ones that were.
    fn own_name(&self, _dir: &FileHandle, _name: &[u8]) -> Option<Result<(FileHandle, Attr)>> {
        None
    }

    /// How long a call waits that is not [patient](Call::patient); `None`: for ever.
    fn time_limit(&self) -> Option<std::time::Duration>;

    /// The attributes of an object.
    fn getattr(&self, call: Call<'_>, object: &FileHandle) -> impl Future<Output = Reply<Attr>> + Send;

    /// Changes attributes.
    fn setattr(&self, call: Call<'_>, object: &FileHandle, to: &SetAttr) -> impl Future<Output = Reply<Wcc>> + Send;

    /// What a name of a directory leads to.
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

    /// Brings what was written to the file to stable storage.
    fn commit(&self, call: Call<'_>, file: &FileHandle) -> impl Future<Output = Reply<Committed>> + Send;

    /// Makes a regular file.
    fn create(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        name: &[u8],
        how: CreateHow,
    ) -> impl Future<Output = Reply<Created>> + Send;

    /// Makes a directory.
    fn mkdir(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        name: &[u8],
        attr: &SetAttr,
    ) -> impl Future<Output = Reply<Created>> + Send;

    /// Makes a symbolic link.
    fn symlink(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        name: &[u8],
        target: &[u8],
        attr: &SetAttr,
    ) -> impl Future<Output = Reply<Created>> + Send;

    /// Makes a device, a socket or a named pipe.
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

    /// Renames; answers the two directories around the change.
    fn rename(
        &self,
        call: Call<'_>,
        from: (&FileHandle, &[u8]),
        to: (&FileHandle, &[u8]),
    ) -> impl Future<Output = Reply<(Wcc, Wcc)>> + Send;

    /// Gives a file another name; answers the file's attributes and the directory around the change.
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
