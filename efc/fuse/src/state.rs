//! The state that outlives a daemon, in a memfd that the keeper holds too.
#![allow(missing_docs, unused_variables)]
use std::{io, os::fd::OwnedFd};

/// Handle bytes that a node record holds.
pub const FILE_HANDLE_MAX: usize = 64;
pub const GROUPS_MAX: usize = 16;

/// What a node id stands for. Immutable while the node is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node { pub handle: Vec<u8>, pub fileid: u64, /// `S_IFMT` bits
    pub kind: u32 }

/// An open file or directory, with the credential captured at open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenHandle { pub node: u64, /// of open(2)
    pub flags: u32, pub uid: u32, pub gid: u32, pub groups: Vec<u32>, pub directory: bool, pub cookie_verifier: [u8; 8] }

pub struct State {}

impl State {
    /// Maps the memfd; formats it if it is empty. Errors: a damaged or incompatible state, no memory.
    pub fn open(memfd: OwnedFd) -> io::Result<State> { todo!() }
    /// A session was negotiated by a predecessor.
    pub fn is_resumed(&self) -> bool { todo!() }
    /// Increases with each daemon of the session, 1 for the first.
    pub fn generation(&self) -> u64 { todo!() }
    /// A random number made with the state.
    pub fn session_id(&self) -> u64 { todo!() }

    /// Small blob that the daemon keeps for its successor (root handle, server limits); at most 4,000 bytes.
    pub fn save_blob(&self, blob: &[u8]) { todo!() }
    pub fn blob(&self) -> Vec<u8> { todo!() }

    /// Sets what node 1 is.
    pub fn set_root(&self, node: &Node) { todo!() }
    /// The node of this handle, with its lookup count raised by one before this returns; new if unknown. (id, generation)
    pub fn lookup_node(&self, node: &Node) -> io::Result<u64> { todo!() }
    /// The id of this handle if known, without counting.
    pub fn find_node(&self, handle: &[u8]) -> Option<u64> { todo!() }
    pub fn node(&self, id: u64) -> Option<Node> { todo!() }
    /// Lowers the count; `true` if the node is gone now.
    pub fn forget_node(&self, id: u64, lookups: u64) -> bool { todo!() }
    pub fn node_count(&self) -> u64 { todo!() }
    /// Written data that is not committed: the first verifier since the last commit. Kept beside the node.
    pub fn set_uncommitted(&self, id: u64, verifier: Option<[u8; 8]>) { todo!() }
    pub fn uncommitted(&self, id: u64) -> Option<[u8; 8]> { todo!() }

    /// Returns the fh.
    pub fn open_handle(&self, handle: &OpenHandle) -> io::Result<u64> { todo!() }
    pub fn handle(&self, fh: u64) -> Option<OpenHandle> { todo!() }
    pub fn set_cookie_verifier(&self, fh: u64, verifier: [u8; 8]) { todo!() }
    pub fn close_handle(&self, fh: u64) { todo!() }
    /// All open handles, for a successor.
    pub fn handles(&self) -> Vec<(u64, OpenHandle)> { todo!() }

    /// Silly-renamed files: (directory handle, name, file handle), removed on last close or by a successor.
    pub fn add_orphan(&self, dir: &[u8], name: &[u8], file: &[u8]) -> io::Result<u64> { todo!() }
    pub fn remove_orphan(&self, slot: u64) { todo!() }
    pub fn orphans(&self) -> Vec<(u64, Vec<u8>, Vec<u8>, Vec<u8>)> { todo!() }
}
