//! How the server goes wrong.

use efc_backend::Status;

/// The procedures of NFSv3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names say it
pub enum Procedure {
    Getattr,
    Setattr,
    Lookup,
    Access,
    Readlink,
    Read,
    Write,
    Commit,
    Create,
    Mkdir,
    Symlink,
    Mknod,
    Remove,
    Rmdir,
    Rename,
    Link,
    Readdirplus,
    Fsstat,
}

/// One wrong answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The procedure fails so, and does nothing.
    Status(Procedure, Status),
    /// The procedure is executed, and its answer makes no sense. (What a backend makes of a READ without bytes that is not the
    /// end, or of such a page of a listing.)
    Garbled(Procedure),
    /// READ answers half of the bytes.
    ShortRead,
    /// WRITE takes half of the bytes.
    ShortWrite,
    /// READDIRPLUS answers the first page whatever the cookie is.
    Circle,
    /// GETATTR answers another type.
    OtherType,
}
