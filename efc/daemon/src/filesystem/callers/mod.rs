//! Who asks, and what the server lets them reach.
//!
//! [`credentials`] says in whose name calls go out; [`mapped_callers`], [`id_maps`] and [`mount_namespace`] find that out where mounts may
//! be id-mapped; [`signals`] sees callers that end; [`permissions`] checks the paths of root, whom the kernel does not stop.

mod credentials;
pub mod id_maps;
mod mapped_callers;
mod mount_namespace;
mod permissions;
pub mod signals;

pub use credentials::Credentials;
