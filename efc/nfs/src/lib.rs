//! A pipelined NFSv3 client (RFC 1813) over ONC RPC (RFC 5531) on TCP.
//!
//! It owns the way from a procedure call to its answer: XDR, record marks, a few connections with many calls in flight
//! on each, reconnecting and replaying, finding a server and its export. It knows no paths (but for the export's),
//! caches nothing, and retries nothing that a server has answered, but for JUKEBOX and for a READ or a listing that
//! brings nothing though it goes on: what an answer means is the caller's.
//!
//! There is no async runtime. Futures work under any executor; each connection has a thread that receives, and callers
//! send for themselves. The path of a READ is then: one `sendmsg` by the caller, one wake-up of the connection's
//! thread, the payload received into the caller's buffer, and the caller's task continued right there.
//!
//! What is guaranteed: a call that was submitted is executed at least once before it succeeds; on a server with a
//! duplicate-request cache exactly once, since it is sent again only with its old xid and, where possible, from its old
//! source port. With an [`Identity`] that holds for a call that another process had sent. A failure tells
//! ([`efc_backend::Error::replayed`]) when an earlier copy may have been executed. What is not: order between two calls
//! in flight. Wait for one before the other where it matters.
//!
//! Layers, each importing only those before it: `basics`, `error`, `xdr`; `rpc`, `record`, `socket`, `nfs3`; `shared`;
//! `call`; `receiver`; `connection`; `reply`; `transport`; `config`, `client`; `mount`, `backend`. `url` and `circle`
//! stand alone.

mod backend;
mod basics;
mod call;
mod circle;
mod client;
mod config;
mod connection;
mod error;
mod mount;
mod nfs3;
mod receiver;
mod record;
mod reply;
mod rpc;
mod shared;
mod socket;
mod transport;
pub mod url;
mod xdr;

pub use circle::Circle;
pub use client::{Client, Counters};
pub use config::{Config, Mounted};
pub use error::{ConnectError, ConnectErrorKind};
pub use shared::Identity;
