//! The messages of `proto/efc.proto`, and their transport: one `SOCK_SEQPACKET` datagram per message, descriptors beside it.
#![allow(missing_docs)] // the generated part; its comments are in the .proto file

include!(concat!(env!("OUT_DIR"), "/efc.v1.rs"));

mod transport;
pub use transport::{receive, send};
