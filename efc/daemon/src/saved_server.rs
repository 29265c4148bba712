//! What the saved state holds of the server, for the daemons that come after the one that has asked it.

use efc_fuse::state::State;
use efc_nfs::Mounted;
use efc_proto::SavedServer;
use prost::Message;

/// Saves what `connect` has found.
pub fn save(state: &State, mounted: &Mounted) {
    let Mounted { attr, info, port, .. } = *mounted;
    let server = SavedServer {
        port: port.into(),
        read_max: info.read_max,
        write_max: info.write_max,
        root_fsid: Some(attr.fsid),
    };
    state.save_blob(&server.encode_to_vec());
}

/// What a predecessor has saved.
pub fn load(state: &State) -> Result<SavedServer, prost::DecodeError> {
    SavedServer::decode(state.blob().as_slice())
}

/// The file system of the dataset's root; 0.1.0 did not save it.
pub fn root_fsid(state: &State) -> Option<u64> {
    load(state).ok()?.root_fsid
}

/// Adds the file system of the dataset's root to what is saved.
pub fn save_root_fsid(state: &State, fsid: u64) {
    if let Ok(server) = load(state) {
        state.save_blob(&SavedServer { root_fsid: Some(fsid), ..server }.encode_to_vec());
    }
}
