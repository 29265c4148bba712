//! A NAS in memory, as strict as a real one: code that builds on [`efc_backend`] is tested against it, without root,
//! without a server, under any schedule that a test wants.
//!
//! - [`Nas`] is the server and its disk. Its methods act from outside: other clients, an administrator, a power
//!   failure.
//! - [`Client`] is the network to it, a [`Backend`](efc_backend::Backend): calls take time there and back, overtake
//!   each other, and may be executed after their caller has given up, or twice.
//! - [`Fault`] makes the server return wrong answers.
//!
//! It lacks quotas, locks, NFSv4 attributes, and JUKEBOX (which no backend exposes).

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
