//! Failures to reach a NAS in the terms of the keeper's protocol: a code, and a sentence for a person.

use efc_nfs::{ConnectError, ConnectErrorKind};
use efc_proto::{Error, error::Code};

/// Why there is no connection, in the protocol's terms.
pub fn for_keeper(error: &ConnectError) -> Error {
    let code = match error.kind {
        ConnectErrorKind::NotFound => Code::NotFound,
        ConnectErrorKind::Refused => Code::PermissionDenied,
        ConnectErrorKind::Unreachable => Code::Unavailable,
        ConnectErrorKind::NotADirectory | ConnectErrorKind::Protocol => Code::FailedPrecondition,
    };
    Error { code: code.into(), message: error.message.clone() }
}
