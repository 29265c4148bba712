//! Why a dataset cannot be reached: errors before there is a client.

use std::fmt;

/// Why a dataset cannot be reached, before there is a client. The message is for a person.
#[derive(Clone, Debug)]
pub struct ConnectError {
    /// The class of failure.
    pub kind: ConnectErrorKind,
    /// One sentence: what was tried, what came back, how to fix it.
    pub message: String,
}

/// Classes of [`ConnectError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectErrorKind {
    /// No such host, export or directory.
    NotFound,
    /// The server refuses this client.
    Refused,
    /// Nothing answers.
    Unreachable,
    /// The path is no directory.
    NotADirectory,
    /// The server speaks no NFSv3 or its answers make no sense.
    Protocol,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConnectError {}
