//! A pipelined NFSv3 client (RFC 1813) over ONC RPC (RFC 5531) on TCP.

mod client;
mod error;
mod types;

pub use client::{Client, Config, Counters, Mounted};
pub use error::{ConnectError, ConnectErrorKind, Error, ErrorKind, Result, Status};
pub use types::*;
