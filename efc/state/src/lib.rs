//! The saved state: what outlives a daemon, in a memfd that the keeper holds too.
//!
//! It contains what the kernel expects of the next daemon: the objects behind node ids, and their lookup counts; open
//! files with their credentials; what kernel and daemon negotiated. It also contains the work that the next daemon must
//! finish: requests that must not be executed twice, files removed while open, written and uncommitted data with its
//! bytes, and, for kernels that cannot redeliver them, the requests themselves ([`requests`]). It is memory, not
//! storage: it survives a SIGKILL of the daemon at any instruction, but no reboot, which ends the mount too.
//!
//! Layout: a header page ([`layout`]) with a table of regions, then the regions, each a sparse array of records of
//! equal size ([`record`]). Address space is mapped once, for more than will ever be used, and backed by memory in
//! chunks before it is touched, so that a full machine returns ENOMEM from the call that needed more, and never sends
//! SIGBUS.
//!
//! One daemon writes at a time: the keeper kills the last one before it starts the next, and a daemon that the keeper
//! could not reach finds out that it is superseded before it serves another request.

mod arena;
mod calls;
mod failures;
mod file_handles;
mod floor;
mod free;
mod gate;
mod handles;
mod journal;
mod layout;
mod mapping;
mod nodes;
mod orphans;
mod pages;
mod pair;
mod payloads;
mod record;
mod region;
mod regions;
pub mod requests;
mod side;
mod state;
#[cfg(test)]
mod tests;
mod values;

pub use self::calls::{SavedCall, SentCall};
pub use self::failures::FailureOf;
pub use self::handles::OpenHandle;
pub use self::journal::{Intent, Journal};
pub use self::layout::{
    BEAT_OFFSET, HOLDING_OFFSET, HOLDS_DATA, HOLDS_PASSTHROUGH, HOLDS_UNOPENED, LAYOUT_OFFSET, OF_ONE_SOURCE,
    SUPERSEDED_OFFSET, WITNESS_OFFSET,
};
pub use self::nodes::Node;
pub use self::orphans::Orphan;
pub use self::pages::DataVersion;
pub use self::payloads::{
    KeptData, SavedWrite, SentAs, UNANSWERED, UNSENT, UncommittedWrite, payload_checksum, payload_cost,
};
pub use self::regions::{FILE_HANDLE_MAX, GROUPS_MAX, PAYLOAD_MAX};
pub use self::state::{LOST, State};
pub use self::values::{AGREEMENT_WORDS, BLOB_MAX, PORTS_OF_ONE, SOURCES_BYTES_MAX};
