//! A NAS in memory, as strict as a real one: what stands on [`efc_backend`] is tested against it, without root, without a
//! server, under whatever schedule a test wants.
//!
//! - [`Nas`] is the server and its disk. Its methods are the outside: other clients, an administrator, a power failure.
//! - [`Client`] is the way to it, a [`Backend`](efc_backend::Backend): calls take time there and back, overtake each other, are
//!   executed though nobody waits for them any more, or twice.
//! - [`Fault`] makes the server lie.
//!
//! What it lacks: quotas, locks, NFS4 attributes, JUKEBOX (which no backend shows).

mod client;
mod dice;
mod faults;
mod nas;
mod network;
mod object;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Client, Hold};
pub use faults::{Fault, Procedure};
pub use nas::Nas;
pub use network::Network;
pub use server::Options;
