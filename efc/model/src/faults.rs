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
    /// READ answers no bytes, and not that the file ends.
    EmptyRead,
    /// READ answers half of the bytes.
    ShortRead,
    /// WRITE takes half of the bytes.
    ShortWrite,
    /// READDIRPLUS answers no entries, and not that the directory ends.
    EmptyPage,
    /// READDIRPLUS answers the first page whatever the cookie is.
    Circle,
    /// GETATTR answers another type.
    OtherType,
}
