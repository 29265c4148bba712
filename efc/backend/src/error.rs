//! Why a call failed, typed, so that one place at the edge can turn it into an errno.

use std::fmt;

use crate::types::{Attr, Wcc};

/// A failed call.
#[derive(Clone, Debug)]
pub struct Error {
    /// Why.
    pub kind: ErrorKind,
    /// The call was sent more than once, so an earlier copy may have been executed: an EXIST after MKDIR or a NOENT
    /// after REMOVE may be the caller's own doing, and must be checked by handle before it is believed.
    pub replayed: bool,
    /// Attributes that came with the failure: of the object, or of the directory of a change.
    pub attr: Option<Attr>,
    /// The directory or file around the change that failed.
    pub wcc: Wcc,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The server's answer, an `nfsstat3`.
    Status(Status),
    /// No answer within the time limit of a soft client.
    TimedOut,
    /// The server refused the credential (RFC 5531, `auth_stat`).
    Denied(&'static str),
    /// The server did not execute the call for another reason: it lacks the program or the procedure, does not
    /// understand the arguments, or has no memory (RFC 5531, `reject_stat` and `accept_stat`).
    Rejected(&'static str),
    /// This process has no memory for what the server answered.
    NoMemory,
    /// The server's reply makes no sense.
    Garbled(&'static str),
}

/// Result of a call.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure that was answered once and carries nothing else.
    pub fn new(kind: ErrorKind) -> Error {
        Error { kind, replayed: false, attr: None, wcc: Wcc::default() }
    }

    /// The server's status, if that is what failed the call.
    pub fn status(&self) -> Option<Status> {
        match self.kind {
            ErrorKind::Status(status) => Some(status),
            _ => None,
        }
    }

    /// Is it this status?
    pub fn is(&self, status: Status) -> bool {
        self.status() == Some(status)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ErrorKind::Status(status) => write!(f, "{status:?}"),
            ErrorKind::TimedOut => f.write_str("no answer from the server within the time limit"),
            ErrorKind::Denied(why) | ErrorKind::Rejected(why) => write!(f, "the server rejected the call: {why}"),
            ErrorKind::NoMemory => f.write_str("no memory for the answer"),
            ErrorKind::Garbled(what) => write!(f, "garbled reply: {what}"),
        }
    }
}

impl std::error::Error for Error {}

/// `nfsstat3` (RFC 1813, section 2.6) without NFS3_OK. JUKEBOX is retried below this interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs)] // the RFC's names say it
pub enum Status {
    Perm = 1,
    NoEnt = 2,
    Io = 5,
    Nxio = 6,
    Acces = 13,
    Exist = 17,
    XDev = 18,
    NoDev = 19,
    NotDir = 20,
    IsDir = 21,
    Inval = 22,
    FBig = 27,
    NoSpc = 28,
    RoFs = 30,
    MLink = 31,
    NameTooLong = 63,
    NotEmpty = 66,
    DQuot = 69,
    Stale = 70,
    Remote = 71,
    BadHandle = 10001,
    NotSync = 10002,
    BadCookie = 10003,
    NotSupp = 10004,
    TooSmall = 10005,
    ServerFault = 10006,
    BadType = 10007,
    Jukebox = 10008,
}
