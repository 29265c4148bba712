//! The messages of `proto/efc.proto`, and their transport: one `SOCK_SEQPACKET` datagram per message, descriptors beside it.

mod transport;

/// Generated; the comments are in `proto/efc.proto`.
#[allow(missing_docs, clippy::large_enum_variant)]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/efc.v1.rs"));
}

pub use messages::*;
pub use transport::{DESCRIPTORS_MAX, MESSAGE_MAX, allow_large_messages, receive, send};
