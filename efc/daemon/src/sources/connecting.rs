//! The connection to one of several sources: its identity, its name in messages, and what was found there.

use std::sync::Arc;

use efc_backend::Properties;
use efc_nfs::{Client, Config, Identity, Mounted};
use efc_proto::error::Code;
use efc_proto::{DaemonConfig, Error, MountedSource, Source};
use efc_sources::{Path, SOURCES_MAX};
use efc_state::{PORTS_OF_ONE, State};

use crate::configuration::client_config_of;
use crate::failure::for_keeper;
use crate::filesystem::SessionIdentity;

/// Of what is no source's. No call is made about that.
pub const PROPERTIES: Properties = Properties { read_max: 1 << 20, write_max: 1 << 20, ignores_case: false };
/// Most connections to one source.
const CONNECTIONS_MAX: usize = 16;

/// A source that was connected to.
pub struct Found {
    /// Which.
    pub wanted: MountedSource,
    /// Its number.
    pub number: u8,
    /// By which it is reached.
    pub client: Client,
    /// What is there.
    pub mounted: Mounted,
}

/// This daemon and its successors are one client to the server of each source: by the ports of its connections, which no other
/// source of the session has.
#[derive(Debug)]
struct SourceIdentity {
    session: SessionIdentity,
    first: usize,
}

impl SourceIdentity {
    fn place(&self, connection: usize) -> Option<usize> {
        (connection < CONNECTIONS_MAX).then_some(self.first + connection)
    }
}

impl Identity for SourceIdentity {
    fn stamp(&self) -> u32 {
        self.session.stamp()
    }

    fn source_port(&self, connection: usize) -> Option<u16> {
        self.session.source_port(self.place(connection)?)
    }

    fn connected(&self, connection: usize, source_port: u16) {
        match self.place(connection) {
            Some(place) => self.session.connected(place, source_port),
            None => self.session.fence(),
        }
    }

    fn fence(&self) {
        self.session.fence();
    }
}

/// Where the ports of a source's connections are saved. Numbers that share a place are never in use together.
pub fn place_of(number: u8) -> usize {
    usize::from(number) % SOURCES_MAX
}

/// How to reach a source.
pub fn config_of(config: &DaemonConfig, wanted: &MountedSource, (number, state): (u8, &Arc<State>)) -> Config {
    let first = PORTS_OF_ONE + place_of(number) * CONNECTIONS_MAX;
    let identity = SourceIdentity { session: SessionIdentity(state.clone()), first };
    let mut found = client_config_of(config, source_of(wanted), Arc::new(identity));
    found.connections = found.connections.min(CONNECTIONS_MAX);
    found
}

fn source_of(wanted: &MountedSource) -> Source {
    wanted.source.clone().unwrap_or_default()
}

/// The server that a source is of, as all nodes know it; not 0.
pub fn storage_of(wanted: &MountedSource) -> u64 {
    let Source { host, port, .. } = source_of(wanted);
    let name = format!("{host}:{port}");
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3) // FNV-1a
    });
    hash.max(1)
}

/// A source as a person knows it.
pub fn name_of(wanted: &MountedSource) -> String {
    let Source { host, path, .. } = source_of(wanted);
    format!("{} ({host}:{path})", wanted.path)
}

/// Can these be served together?
///
/// # Errors
/// Which cannot, and why.
pub fn check(wanted: &[MountedSource]) -> Result<(), Error> {
    let invalid = |message: String| Error { code: Code::InvalidArgument.into(), message };
    if wanted.len() > SOURCES_MAX {
        return Err(invalid(format!(
            "{} sources are more than the {SOURCES_MAX} that one root can have",
            wanted.len()
        )));
    }
    let mut paths: Vec<Path> = Vec::new();
    for source in wanted {
        let path = Path::new(source.path.as_bytes())
            .ok_or_else(|| invalid(format!("source {}: its path is not below the root", name_of(source))))?;
        if let Some(other) = paths.iter().find(|other| other.overlaps(&path)) {
            return Err(invalid(format!("source {} lies at or inside {other}, or around it", name_of(source))));
        }
        paths.push(path);
    }
    Ok(())
}

/// Connects to one source.
///
/// # Errors
/// Why not, without its name.
pub fn one(config: &DaemonConfig, wanted: &MountedSource, (number, state): (u8, &Arc<State>)) -> Result<Found, Error> {
    let connected = futures_lite::future::block_on(Client::connect(&config_of(config, wanted, (number, state))));
    let (client, mounted) = connected.map_err(|error| for_keeper(&error))?;
    Ok(Found { wanted: wanted.clone(), number, client, mounted })
}

/// Connects to all sources of a session that begins, side by side. They are numbered from 1.
///
/// # Errors
/// The first of them that cannot be had.
pub fn all(config: &DaemonConfig, state: &Arc<State>) -> Result<Vec<Found>, Error> {
    check(&config.sources)?;
    std::thread::scope(|scope| {
        let numbered = (1u8..).zip(&config.sources);
        let asked: Vec<_> =
            numbered.map(|(number, wanted)| scope.spawn(move || one(config, wanted, (number, state)))).collect();
        let found = asked.into_iter().map(|found| found.join().expect("connecting does not panic"));
        found.zip(&config.sources).map(|(found, wanted)| found.map_err(|error| named(wanted, error))).collect()
    })
}

/// An error of a source, with its name.
pub fn named(wanted: &MountedSource, error: Error) -> Error {
    Error { message: format!("source {}: {}", name_of(wanted), error.message), ..error }
}
