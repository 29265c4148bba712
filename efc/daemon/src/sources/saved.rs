//! What the saved state holds of several sources.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use efc_backend::{Attr, FileHandle, FileType, Properties, Time};
use efc_nfs::Client;
use efc_proto::{DaemonConfig, MountedSource, SavedServer, SavedSource, SavedSources};
use efc_sources::{OWN_FSID, Path, Source, own_root};
use efc_state::{Node, SOURCES_BYTES_MAX, State};
use prost::Message;

use super::connecting::{PROPERTIES, config_of, storage_of};
use crate::filesystem::{ROOT, format_bits};
use crate::saved_server;

/// A source, and what of it was configured.
#[derive(Clone)]
pub struct Attached {
    /// As configured, or as it was when it was taken away.
    pub wanted: MountedSource,
    /// The port of its server's NFS.
    pub port: u16,
    /// As it is served.
    pub source: Source<Client>,
    /// When it was taken away, since 1970; zero: it shows, or nobody knows.
    pub taken_away_at: Duration,
}

/// All sources of a session.
#[derive(Clone, Default)]
pub struct AllAttached {
    /// In the order of their numbers.
    pub sources: Vec<Attached>,
    /// The last number that was given.
    pub last_number: u8,
    /// Since when they are these.
    pub changed_at: Duration,
}

impl AllAttached {
    /// When they became these, as a file's time.
    pub fn changed(&self) -> Time {
        let seconds = u32::try_from(self.changed_at.as_secs()).unwrap_or(u32::MAX);
        Time { seconds, nanos: self.changed_at.subsec_nanos() }
    }

    /// Saves all of it.
    ///
    /// # Errors
    /// There is no room: names and paths are too long, all together.
    pub fn save(&self, state: &State) -> io::Result<()> {
        let saved = SavedSources {
            sources: self.sources.iter().map(saved).collect(),
            last_number: self.last_number.into(),
            changed_at_unix_ns: u64::try_from(self.changed_at.as_nanos()).unwrap_or(u64::MAX),
        };
        let bytes = saved.encode_to_vec();
        if bytes.len() > SOURCES_BYTES_MAX {
            return Err(io::Error::other("the names and paths of all sources are too long to be saved"));
        }
        state.save_sources(&bytes);
        Ok(())
    }

    /// What a predecessor has saved, its clients made anew.
    ///
    /// # Errors
    /// It is lost or damaged.
    pub fn load(config: &DaemonConfig, state: &Arc<State>) -> io::Result<AllAttached> {
        let bytes = state.sources();
        if bytes.is_empty() {
            return Err(io::Error::other("the saved state has lost its sources"));
        }
        let SavedSources { sources, last_number, changed_at_unix_ns } =
            SavedSources::decode(bytes.as_slice()).map_err(io::Error::other)?;
        let resumed = sources.iter().map(|saved| resumed(config, saved, state));
        Ok(AllAttached {
            sources: resumed.collect::<Option<_>>().ok_or_else(|| io::Error::other("a saved source is damaged"))?,
            last_number: u8::try_from(last_number).map_err(io::Error::other)?,
            changed_at: Duration::from_nanos(changed_at_unix_ns),
        })
    }
}

/// Saves the root of all, and the file system of what is no source's, as those of a single source are.
pub fn save_root(state: &State) {
    let root = Node { handle: own_root().as_bytes().to_vec(), fileid: ROOT, kind: libc::S_IFDIR };
    state.set_root(&root);
    let Properties { read_max, write_max, ignores_case } = PROPERTIES;
    let server = SavedServer { read_max, write_max, ignores_case, root_fsid: Some(OWN_FSID), ..SavedServer::default() };
    saved_server::save_with_root(state, server, &root);
}

fn saved(attached: &Attached) -> SavedSource {
    let Attached { wanted, port, source, taken_away_at } = attached;
    let attr = source.root_attr();
    SavedSource {
        number: source.number.into(),
        mounted: Some(wanted.clone()),
        taken_away: source.path.is_none(),
        server: Some(SavedServer {
            port: (*port).into(),
            read_max: source.properties.read_max,
            write_max: source.properties.write_max,
            root_fsid: Some(attr.fsid),
            root: source.root.as_bytes().to_vec(),
            root_fileid: attr.fileid,
            root_kind: format_bits(attr.kind),
            ignores_case: source.properties.ignores_case,
        }),
        root_mode: attr.mode,
        root_uid: attr.uid,
        root_gid: attr.gid,
        taken_away_unix_ns: u64::try_from(taken_away_at.as_nanos()).unwrap_or(u64::MAX),
    }
}

/// The source that was saved; `None` if it cannot be one.
fn resumed(config: &DaemonConfig, saved: &SavedSource, state: &Arc<State>) -> Option<Attached> {
    let number = u8::try_from(saved.number).ok().filter(|number| *number != 0)?;
    let (wanted, server) = (saved.mounted.clone()?, saved.server.as_ref()?);
    let (path, root) = (Path::new(wanted.path.as_bytes())?, FileHandle::new(&server.root)?);
    let port = u16::try_from(server.port).ok()?;
    let client = Client::resume(&config_of(config, &wanted, (number, state)), port);
    let properties = saved_server::properties(server);
    let attr = Attr {
        kind: FileType::Directory,
        mode: saved.root_mode,
        nlink: 2,
        uid: saved.root_uid,
        gid: saved.root_gid,
        size: 4096,
        used: 0,
        rdev: (0, 0),
        fsid: server.root_fsid?,
        fileid: server.root_fileid,
        atime: Time::default(),
        mtime: Time::default(),
        ctime: Time::default(),
    };
    let about = (properties, wanted.read_only);
    let source = Source::new((number, path.clone()), (root, attr), about, (storage_of(&wanted), client));
    let source = source.shown_at((!saved.taken_away).then_some(path));
    Some(Attached { wanted, port, source, taken_away_at: Duration::from_nanos(saved.taken_away_unix_ns) })
}
