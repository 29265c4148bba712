//! The messages of `proto/efc.proto`, and their transport: one `SOCK_SEQPACKET` datagram per message, descriptors beside it.

mod changes;
mod named_socket;
mod stats;
mod transport;

/// Generated; the comments are in `proto/efc.proto`.
#[allow(missing_docs, clippy::large_enum_variant)]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/efc.v1.rs"));
}

pub use messages::*;
pub use prost::Message;

impl std::fmt::Debug for WorkersSecrets {
    /// Says nothing of what they are: messages come into logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WorkersSecrets")
    }
}

pub use named_socket::{NamedSocket, remove_if_there};
pub use transport::{
    DESCRIPTORS_MAX, MESSAGE_MAX, allow_large_messages, is_allowed_peer, listen_at, receive, send, send_at_once,
};

/// Where a daemon notes, in the state memfd, the number of the last beat that came through its queue of requests: a u64
/// at this byte.
pub const BEAT_OFFSET: u64 = 40;
/// Where it notes a node that the kernel knew lately as a regular file, which a beat can be about.
pub const WITNESS_OFFSET: u64 = 48;
/// Where a daemon notes in the state, as a number that is not 0, that its successor must be of a release that knows of
/// what 0.1.0 did not ([`TAKES_HELD_DATA`]): bits, [`HOLDS_DATA`], [`HOLDS_PASSTHROUGH`] and [`HOLDS_UNOPENED`].
pub const HOLDING_OFFSET: u64 = 4088;
/// The daemon has told applications of writes that the NAS has not answered.
pub const HOLDS_DATA: u64 = 1 << 0;
/// The kernel reads files by itself that are open: whoever opened them otherwise would get EIO.
pub const HOLDS_PASSTHROUGH: u64 = 1 << 1;
/// The kernel opens files without asking, and reads them through no handle, for as long as the session lives.
pub const HOLDS_UNOPENED: u64 = 1 << 2;
/// What `efcd --check-state` prints if its release knows of all of them.
pub const TAKES_HELD_DATA: &str = "takes held data";
/// Where the state has the version of its layout, in the lower half of a u64; a larger one than [`LAYOUT_OF_ONE_SOURCE`] is for daemons
/// of releases only that can say so (`efcd --check-state`).
pub const LAYOUT_OFFSET: u64 = 8;
/// The layout that daemons of every release know.
pub const LAYOUT_OF_ONE_SOURCE: u64 = 2;
/// Where daemons are counted that found that they had a successor. What they had read must be delivered again.
pub const SUPERSEDED_OFFSET: u64 = 56;

/// Exit status of a daemon that can do nothing with the saved state: no other can either, so there is no use in a next one.
pub const STATE_UNUSABLE: u8 = 65;
