//! The sources that the dataset is served from: one, or several under one root, which may be added and removed.
//!
//! Each of several sources has its own server, its own connections, and a number of its own for as long as the session
//! lives ([`attachments`]). What a successor must know of a source is saved before anybody can see it ([`saved`]), so
//! that the successor serves all sources without asking a server anything.

mod attachments;
mod connecting;
mod saved;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use efc_backend::Properties;
use efc_nfs::{Client, Config, Counters};
use efc_proto::{DaemonConfig, Error, SourceStats};
use efc_sources::Sources;
use efc_state::State;

use crate::failure::for_keeper;
pub use attachments::Attachments;
pub use connecting::check;

/// Type and permissions of a root with several sources, as the kernel is told of it at first.
pub const ROOT_MODE: u32 = libc::S_IFDIR | 0o555;

/// What the file system stands on.
pub type Storage = Sources<Client>;

/// The root of the dataset.
pub struct Root {
    /// From which it is served.
    pub storage: Storage,
    /// What one call can carry that says nothing of its own.
    pub properties: Properties,
    /// Several sources, which come and go.
    pub attachments: Option<Arc<Attachments>>,
}

impl Root {
    /// The only source.
    pub fn of_one(client: Client, properties: Properties) -> Root {
        Root { storage: Sources::One(client), properties, attachments: None }
    }

    fn of_several(attachments: Arc<Attachments>) -> Root {
        let storage = Sources::Several(attachments.several().clone());
        Root { storage, properties: connecting::PROPERTIES, attachments: Some(attachments) }
    }

    /// The root for whoever tells the keeper of it, or looks for it once more.
    pub fn watched(&self) -> Watched {
        match (&self.storage, &self.attachments) {
            (Sources::One(client), _) => Watched::One(client.clone()),
            (Sources::Several(_), Some(attachments)) => Watched::Several(attachments.clone()),
            (Sources::Several(_), None) => unreachable!("several sources have somebody who attaches them"),
        }
    }

    /// Connects to all of several sources, for a session that begins, and saves what a successor needs.
    ///
    /// # Errors
    /// Why not to one of them, with its name.
    pub fn connect_several(config: &DaemonConfig, state: &Arc<State>) -> Result<Root, Error> {
        let found = connecting::all(config, state)?;
        Ok(Root::of_several(Attachments::begin(config.clone(), state.clone(), found)))
    }

    /// Goes on with several sources as a predecessor has left them, and with those that are configured since.
    ///
    /// # Errors
    /// What was saved of them is lost.
    pub fn resume_several(config: &DaemonConfig, state: &Arc<State>) -> io::Result<Root> {
        Attachments::resume(config.clone(), state.clone()).map(Root::of_several)
    }
}

/// The root, for whoever tells the keeper of it.
#[derive(Clone)]
pub enum Watched {
    /// The only source.
    One(Client),
    /// Several of them.
    Several(Arc<Attachments>),
}

impl Watched {
    /// Counters of all connections together, also of those to sources that have gone.
    pub fn counters(&self) -> Counters {
        match self {
            Watched::One(client) => client.counters(),
            Watched::Several(attachments) => attachments.counters(),
        }
    }

    /// What is to be told of each of several sources.
    pub fn stats(&self) -> Vec<SourceStats> {
        match self {
            Watched::One(_) => Vec::new(),
            Watched::Several(attachments) => attachments.stats(),
        }
    }

    /// Serves with other options from now on, which may have other sources.
    pub fn follow(&self, options: &DaemonConfig) {
        if let Watched::Several(attachments) = self {
            attachments.follow(options);
        }
    }

    /// The handle of the root that is found by asking once more, where `served` is the one that is served. Of several sources, those that
    /// have another root by now show it from now on, and the root of all is the same for ever.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(&self, config: &Config, served: &[u8]) -> Result<Vec<u8>, Error> {
        match self {
            Watched::One(client) => {
                let found = futures_lite::future::block_on(client.find_root(config));
                found.map(|root| root.as_bytes().to_vec()).map_err(|error| for_keeper(&error))
            }
            Watched::Several(attachments) => {
                attachments.find_roots(config.connect_time_limit).map(|()| served.to_vec())
            }
        }
    }
}

/// Both together; the oldest call is the oldest of all.
fn added(one: Counters, other: Counters) -> Counters {
    Counters {
        calls: one.calls + other.calls,
        retransmits: one.retransmits + other.retransmits,
        reconnects: one.reconnects + other.reconnects,
        bytes_read: one.bytes_read + other.bytes_read,
        bytes_spliced: one.bytes_spliced + other.bytes_spliced,
        pipe_misfits: one.pipe_misfits + other.pipe_misfits,
        bytes_written: one.bytes_written + other.bytes_written,
        oldest_call: older(one.oldest_call, other.oldest_call),
    }
}

fn older(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).max()
}
