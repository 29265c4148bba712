//! The callers of requests, and what the server lets them reach.
//!
//! [`credentials`] determines the ids and groups that calls carry; [`mapped_callers`], [`id_maps`], [`id_map`] and
//! [`mount_namespace`] do so where mounts may be id-mapped. [`signals`] detects callers that are being killed.
//! [`permissions`] checks the paths of root, which the kernel does not check.

mod credentials;
mod id_map;
pub mod id_maps;
mod mapped_callers;
mod mount_namespace;
mod permissions;
pub mod signals;

use std::io;

pub use credentials::Credentials;

/// Why a caller's groups are not known.
enum Unknown {
    /// It is a kernel thread, lives in another pid namespace, or is dead by now.
    Caller,
    /// This process or the node has no descriptor or no memory left to look.
    NoDescriptor(io::Error),
}

impl From<io::Error> for Unknown {
    fn from(error: io::Error) -> Unknown {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Unknown::NoDescriptor(error),
            _ => Unknown::Caller,
        }
    }
}
