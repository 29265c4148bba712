//! The state that outlives a daemon, in a memfd that the keeper holds too.
//!
//! It holds what the kernel will hold the next daemon to: what node ids stand for and how often they were handed out,
//! which files are open under which credential, what the session's ends agreed on; and what the next daemon must
//! finish: requests that must not be executed twice, files removed while open, data written and not committed, the
//! bytes of it included; and, for kernels that cannot deliver them again, the requests themselves ([`requests`]). It is
//! memory, not storage: it survives a SIGKILL of the daemon at any instruction, but no reboot, which ends the mount
//! too.
//!
//! Layout: a header page ([`layout`]) with a table of regions, then the regions, each a sparse array of equally large
//! records ([`record`]). Space is mapped once for more than will ever be used, and backed by memory in chunks before it
//! is touched, so a full machine shows as ENOMEM from the call that needed more, never as SIGBUS.
//!
//! One daemon writes at a time: the keeper kills the last before it starts the next, and one that it could not reach
//! finds out that it is superseded before it serves another request.

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
