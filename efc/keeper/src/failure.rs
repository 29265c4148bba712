//! Failures in the terms of the protocol: a gRPC code and a sentence for people.

use efc_proto::Error;
use efc_proto::error::Code;

/// Makes the protocol's error.
pub fn failure(code: Code, message: impl Into<String>) -> Error {
    Error { code: code.into(), message: message.into() }
}

/// The code under which an error of a path's system call is reported.
pub fn path_code(error: &std::io::Error) -> Code {
    match error.kind() {
        std::io::ErrorKind::NotFound => Code::NotFound,
        std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidFilename => Code::InvalidArgument,
        std::io::ErrorKind::PermissionDenied => Code::PermissionDenied,
        _ => Code::FailedPrecondition,
    }
}
