//! What the saved state holds of the server, for later daemons, which need not ask it again.
//!
//! The dataset's root is stored twice, in its node record and here, and each is restored from the other.

use efc_backend::Properties;
use efc_nfs::Mounted;
use efc_proto::SavedServer;
use efc_state::{Node, State};
use prost::Message;

use crate::filesystem::format_bits;

/// The node of the dataset's root, as `connect` has found it.
pub fn root_of(mounted: &Mounted) -> Node {
    let kind = format_bits(mounted.attr.kind);
    Node { handle: mounted.root.as_bytes().to_vec(), fileid: mounted.attr.fileid, kind }
}

/// Saves what `connect` has found.
pub fn save(state: &State, mounted: &Mounted) {
    let server = SavedServer {
        port: mounted.port.into(),
        read_max: mounted.info.read_max,
        write_max: mounted.info.write_max,
        root_fsid: Some(mounted.attr.fsid),
        ignores_case: mounted.ignores_case,
        ..SavedServer::default()
    };
    save_with_root(state, server, &root_of(mounted));
}

/// Saves it with this root.
pub fn save_with_root(state: &State, server: SavedServer, root: &Node) {
    let server = SavedServer { root: root.handle.clone(), root_fileid: root.fileid, root_kind: root.kind, ..server };
    state.save_blob(&server.encode_to_vec());
}

/// What the server says of itself, as a predecessor has saved it.
pub fn properties(server: &SavedServer) -> Properties {
    Properties { read_max: server.read_max, write_max: server.write_max, ignores_case: server.ignores_case }
}

/// What a predecessor has saved; `None` if that was lost.
pub fn load(state: &State) -> Result<Option<SavedServer>, prost::DecodeError> {
    let saved = state.blob();
    if saved.is_empty() {
        return Ok(None);
    }
    SavedServer::decode(saved.as_slice()).map(Some)
}

/// The root in what a predecessor has saved; 0.1.0 did not save it.
pub fn saved_root(server: &SavedServer) -> Option<Node> {
    let SavedServer { root, root_fileid, root_kind, .. } = server;
    (!root.is_empty()).then(|| Node { handle: root.clone(), fileid: *root_fileid, kind: *root_kind })
}

/// The file system of the dataset's root; 0.1.0 did not save it.
pub fn root_fsid(state: &State) -> Option<u64> {
    load(state).ok()??.root_fsid
}

/// Adds the file system of the dataset's root to what is saved.
pub fn save_root_fsid(state: &State, fsid: u64) {
    if let Ok(Some(server)) = load(state) {
        state.save_blob(&SavedServer { root_fsid: Some(fsid), ..server }.encode_to_vec());
    }
}
