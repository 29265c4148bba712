//! A pipelined NFSv3 client (RFC 1813) over ONC RPC (RFC 5531) on TCP.
//!
//! It covers everything between a procedure call and its answer: XDR, record marks, a few connections with many calls
//! in flight on each, reconnecting and retransmission, and finding a server and its export. It knows no paths (except
//! for the export's) and caches nothing. It does not retry a call that the server has answered, except after JUKEBOX,
//! and for a READ or a listing that returns nothing although there is more: what an answer means is up to the caller.
//!
//! There is no async runtime. Futures work under any executor; each connection has a thread that receives, and callers
//! send by themselves. The path of a READ is then one `sendmsg` by the caller, one wake-up of the connection's thread,
//! the payload received into the caller's buffer, and the caller's task continued on that thread.
//!
//! Guaranteed: a submitted call is executed at least once before it succeeds; on a server with a duplicate-request
//! cache exactly once, since it is retransmitted only with its old xid and, where possible, from its old source port.
//! With an [`Identity`] that also holds for a call that another process had sent. A failure tells
//! ([`efc_backend::Error::replayed`]) whether an earlier transmission may have been executed. Not guaranteed: any order
//! between two calls in flight. Where order matters, await one before sending the other.
//!
//! Layers, each importing only those before it: `basics`, `error`, `xdr`; `rpc`, `record`, `socket`, `nfs3`; `shared`;
//! `call`; `receiver`; `connection`; `reply`; `transport`; `config`, `client`; `mount`, `backend`. `url` and `circle`
//! import none of these.

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
