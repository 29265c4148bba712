//! What goes wrong, and the one place where it gets its code and errno.
//!
//! The codes are those of `Error.Code` in proto/efc.proto. NOT_FOUND with ENOENT says that the *path* is missing;
//! a missing host, export or directory of the URL is NOT_FOUND with ENXIO, so that "already gone" is never believed
//! of a tree because its NAS cannot be found.

use efc_backend::{Error, ErrorKind, Status};
use efc_nfs::{ConnectError, ConnectErrorKind};
use serde::Serialize;

/// One line of JSON on stderr.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// A name of `Error.Code`.
    pub code: &'static str,
    /// An errno by name.
    pub errno: &'static str,
    /// One sentence for a person.
    pub message: String,
}

impl Failure {
    /// A failure that is no server's doing.
    pub fn new(code: &'static str, errno: &'static str, message: impl Into<String>) -> Failure {
        Failure { code, errno, message: message.into() }
    }

    /// A wrong argument.
    pub fn invalid(message: impl Into<String>) -> Failure {
        Failure::new("INVALID_ARGUMENT", "EINVAL", message)
    }

    /// A failed call, in the middle of `what` ("make a/b").
    pub fn from_call(what: &str, error: &Error) -> Failure {
        let (code, errno) = match &error.kind {
            ErrorKind::Status(status) => of_status(*status),
            ErrorKind::TimedOut => ("UNAVAILABLE", "ETIMEDOUT"),
            ErrorKind::NoMemory => ("RESOURCE_EXHAUSTED", "ENOMEM"),
            ErrorKind::Denied(_) => ("PERMISSION_DENIED", "EACCES"),
            ErrorKind::Rejected(_) | ErrorKind::Garbled(_) => ("INTERNAL", "EPROTO"),
        };
        let doubt =
            if error.replayed { " (the call was repeated; an earlier copy may have been executed)" } else { "" };
        Failure::new(code, errno, format!("cannot {what}: {}{doubt}", explain(error)))
    }

    /// A dataset that cannot be reached.
    pub fn from_connect(error: ConnectError) -> Failure {
        let (code, errno) = match error.kind {
            ConnectErrorKind::NotFound => ("NOT_FOUND", "ENXIO"),
            ConnectErrorKind::Refused => ("PERMISSION_DENIED", "EACCES"),
            ConnectErrorKind::Unreachable => ("UNAVAILABLE", "EHOSTUNREACH"),
            ConnectErrorKind::NotADirectory => ("FAILED_PRECONDITION", "ENOTDIR"),
            ConnectErrorKind::Protocol => ("FAILED_PRECONDITION", "EPROTO"),
        };
        Failure::new(code, errno, error.message)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::new("INTERNAL", "EIO", format!("standard input or output failed: {error}"))
    }
}

fn explain(error: &Error) -> String {
    let known = match error.status() {
        Some(Status::NoEnt) => "there is no such file or directory",
        Some(Status::Exist) => "there is something of this name already",
        Some(Status::Acces | Status::Perm) => "the NAS denies permission: check its squash option and the owner",
        Some(Status::RoFs) => "the export is read-only",
        Some(Status::NotDir) => "a component is not a directory (symbolic links are not followed)",
        Some(Status::IsDir) => "it is a directory",
        Some(Status::NotEmpty) => "the directory is not empty",
        Some(Status::NoSpc) => {
            "the NAS is full (no free space, or no free inodes): remove data there or enlarge its file system"
        }
        Some(Status::DQuot) => "a quota on the NAS is used up: remove data there or raise it",
        Some(Status::NameTooLong) => "a name is too long for the NAS",
        Some(Status::XDev) => "it lies on another file system of the NAS",
        Some(Status::Stale) => "it was removed or its file system unmounted meanwhile",
        Some(Status::Jukebox) => "the NAS restarted in the middle of it: try again",
        Some(_) | None => return error.to_string(),
    };
    known.to_owned()
}

fn of_status(status: Status) -> (&'static str, &'static str) {
    match status {
        Status::NoEnt => ("NOT_FOUND", "ENOENT"),
        Status::Exist => ("ALREADY_EXISTS", "EEXIST"),
        Status::Perm => ("PERMISSION_DENIED", "EPERM"),
        Status::Acces => ("PERMISSION_DENIED", "EACCES"),
        Status::RoFs => ("PERMISSION_DENIED", "EROFS"),
        Status::NotDir => ("FAILED_PRECONDITION", "ENOTDIR"),
        Status::IsDir => ("FAILED_PRECONDITION", "EISDIR"),
        Status::NotEmpty => ("FAILED_PRECONDITION", "ENOTEMPTY"),
        Status::XDev => ("FAILED_PRECONDITION", "EXDEV"),
        Status::Remote => ("FAILED_PRECONDITION", "EREMOTE"),
        Status::NotSupp | Status::BadType => ("FAILED_PRECONDITION", "EOPNOTSUPP"),
        Status::Inval => ("INVALID_ARGUMENT", "EINVAL"),
        Status::NameTooLong => ("INVALID_ARGUMENT", "ENAMETOOLONG"),
        Status::NoSpc => ("RESOURCE_EXHAUSTED", "ENOSPC"),
        Status::DQuot => ("RESOURCE_EXHAUSTED", "EDQUOT"),
        Status::FBig => ("RESOURCE_EXHAUSTED", "EFBIG"),
        Status::MLink => ("RESOURCE_EXHAUSTED", "EMLINK"),
        // Not NOT_FOUND: what a stale handle stood for may still be there under its name.
        Status::Stale | Status::BadHandle => ("UNAVAILABLE", "ESTALE"),
        Status::Jukebox => ("UNAVAILABLE", "EAGAIN"),
        Status::NoDev => ("INTERNAL", "ENODEV"),
        Status::Nxio => ("INTERNAL", "ENXIO"),
        Status::Io | Status::ServerFault | Status::TooSmall | Status::NotSync | Status::BadCookie => {
            ("INTERNAL", "EIO")
        }
    }
}
