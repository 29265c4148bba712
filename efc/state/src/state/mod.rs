//! The saved state as a whole: everything that is kept, as one value.

mod files;
mod work;

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use super::calls::{Answered, Calls, SavedCall};
use super::failures::Failures;
use super::handles::Handles;
use super::journal::Journal;
use super::layout::{Header, OF_ONE_SOURCE, OF_SEVERAL_SOURCES};
use super::nodes::Nodes;
use super::orphans::Orphans;
use super::pages::PageVersions;
use super::payloads::{Payloads, SavedWrite};
use super::regions::{CALLS, FAILURES, Format, HANDLES, JOURNAL, ORPHANS, REGIONS};
use super::requests::Requests;
use super::side::Side;
use super::values::{AGREEMENT_WORDS, Values};

/// Noted in place of a verifier by [`State::set_lost`].
pub const LOST: [u8; 8] = *b"EFC lost";

/// Slots of nodes that are looked at before the state is open; with more, it is faster to go on meanwhile.
const INDEXED_AT_ONCE: u32 = 8192;

/// The saved state. Its methods may be called from any thread.
pub struct State {
    pub(crate) header: Header,
    /// The number of this daemon.
    daemon: u64,
    is_resumed: bool,
    /// Among the records that are read when the state is opened.
    damaged: u64,
    pub(crate) nodes: Arc<Nodes>,
    handles: Handles,
    orphans: Orphans,
    failures: Failures,
    page_versions: PageVersions,
    values: Values,
    journal: Journal,
    /// `None`: the state was made by a release without such records.
    pub(crate) payloads: Option<Payloads>,
    /// Writes that a predecessor has left.
    saved_writes: Mutex<Vec<SavedWrite>>,
    /// `None`: the state was made by a release without such records.
    calls: Option<Calls>,
    /// Of the records of writes.
    answered: Side<Answered, 1>,
    /// Calls that a predecessor has left.
    saved_calls: Mutex<Vec<SavedCall>>,
    /// `None`: the state was made by a release without them.
    requests: Option<Arc<Requests>>,
}

/// Makes the nodes' index, here or on a thread of its own.
fn index(nodes: &Arc<Nodes>) -> io::Result<()> {
    let make = |nodes: &Nodes| {
        nodes.index();
        log_damage(nodes.damaged());
    };
    if nodes.slots() <= INDEXED_AT_ONCE {
        make(nodes);
        return Ok(());
    }
    let nodes = Arc::clone(nodes);
    std::thread::Builder::new().name("node-index".into()).spawn(move || make(&nodes)).map(drop)
}

fn log_damage(records: u64) {
    if records > 0 {
        log::error!("{records} records of the saved state are damaged: what they described is forgotten");
    }
}

impl State {
    /// Maps the memfd; formats it if it is empty. Errors: a damaged or incompatible state, no memory.
    ///
    /// As long as a process has a state open it is known to use it, unless it closes another descriptor of the same
    /// memfd.
    ///
    /// Many nodes are found on a thread of their own: until then what needs their index waits ([`State::indexed`]).
    pub fn open(memfd: OwnedFd) -> io::Result<State> {
        State::open_in_version(memfd, REGIONS, OF_ONE_SOURCE)
    }

    /// Opens the state as [`State::open`] does; one that is empty becomes that of a session of several sources, which no daemon opens of
    /// a release that knows of one only.
    pub fn open_of_several(memfd: OwnedFd) -> io::Result<State> {
        State::open_in_version(memfd, REGIONS, OF_SEVERAL_SOURCES)
    }

    /// Opens the state as [`State::open`] does; an empty one is formatted with these regions.
    #[cfg(test)]
    pub(crate) fn open_with(memfd: OwnedFd, regions: &[Format]) -> io::Result<State> {
        State::open_in_version(memfd, regions, OF_ONE_SOURCE)
    }

    fn open_in_version(memfd: OwnedFd, regions: &[Format], version: u64) -> io::Result<State> {
        let header = Header::open_in_version(memfd, regions, version)?;
        let nodes = Arc::new(Nodes::open(&header)?);
        let (handles, damaged_handles) = Handles::open(header.region(&HANDLES)?);
        nodes.inherit_opens(handles.found());
        let (orphans, damaged_orphans) = Orphans::open(header.region(&ORPHANS)?);
        let (values, damaged_values) = Values::open(&header)?;
        let (journal, damaged_intents) = Journal::open(header.region_if_any(&JOURNAL)?);
        let (failures, damaged_failures) = Failures::open(header.region_if_any(&FAILURES)?);
        let page_versions = Side::open(&header)?;
        let opened = Payloads::open(&header, |node| nodes.distrust(node))?;
        let (payloads, saved_writes, damaged_writes) =
            opened.map_or((None, Vec::new(), 0), |(payloads, saved, damaged)| (Some(payloads), saved, damaged));
        let opened_calls = header.region_if_any(&CALLS)?.map(Calls::open);
        let (calls, saved_calls, damaged_calls) =
            opened_calls.map_or((None, Vec::new(), 0), |(calls, saved, damaged)| (Some(calls), saved, damaged));
        let damaged_files = damaged_handles + damaged_orphans + damaged_failures;
        let damaged = damaged_files + damaged_values + damaged_intents + damaged_writes + damaged_calls;
        log_damage(damaged);
        index(&nodes)?;
        header.mapping().mark_used()?; // before anybody learns of this daemon
        let daemon = header.count_daemon();
        let requests = Requests::open(&header, daemon)?.map(Arc::new);
        let is_resumed = values.agreement().is_some();
        Ok(State {
            daemon,
            is_resumed,
            damaged,
            nodes,
            handles,
            orphans,
            failures,
            page_versions,
            values,
            journal,
            payloads,
            saved_writes: Mutex::new(saved_writes),
            calls,
            answered: Side::open(&header)?,
            saved_calls: Mutex::new(saved_calls),
            header,
            requests,
        })
    }

    /// Whether [`State::open`] could read what another daemon has saved. Changes nothing.
    ///
    /// # Errors
    /// Those that it would have.
    pub fn check(memfd: OwnedFd) -> io::Result<()> {
        Header::check_only(memfd)
    }

    /// A predecessor has saved an agreement.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// Which of the session's daemons this is: 1 is the first.
    pub fn daemon_number(&self) -> u64 {
        self.daemon
    }

    /// A later daemon has opened the state: this one must not touch anything any more.
    pub fn is_superseded(&self) -> bool {
        !cfg!(feature = "two-daemons") && self.header.last_daemon() != self.daemon
    }

    /// Ends this process if a later daemon has opened the state. What it was about to do, the later one does; what it
    /// has read from the kernel is delivered to that one again, as the keeper sees to.
    ///
    /// Between this look and what follows lie microseconds; a process may be stopped there. What it does then is what
    /// the kernel's one answer per request and the server's cache of replies are for.
    pub fn fence(&self) {
        if self.is_superseded() {
            self.header.count_superseded();
            log::error!("another daemon has taken this session over");
            std::process::exit(1);
        }
    }

    /// Notes a regular file that the kernel knows, for the keeper's beats ([`WITNESS_OFFSET`]).
    pub fn set_witness(&self, node: u64) {
        self.header.set_witness(node);
    }

    /// Notes a beat of the keeper that came through the queue of requests, for the keeper to see ([`BEAT_OFFSET`]).
    pub fn set_beat(&self, number: u64) {
        self.header.set_beat(number);
    }

    /// A random number made with the state.
    pub fn session_id(&self) -> u64 {
        self.header.session_id()
    }

    /// Records that were found damaged when the state was opened, and skipped. Waits for the index.
    pub fn damaged_records(&self) -> u64 {
        self.damaged + self.nodes.damaged()
    }

    /// Ends when the nodes' index is whole: [`State::lookup_node`], [`State::find_node`] and [`State::node_count`] do
    /// not block any more.
    pub fn indexed(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(|context| self.nodes.poll_indexed(context))
    }

    /// Saves what the session's ends have agreed on, which makes the state one to resume. What the words mean is the
    /// caller's to say.
    pub fn save_agreement(&self, words: [u64; AGREEMENT_WORDS]) {
        self.values.save_agreement(words);
    }

    /// What [`State::save_agreement`] saved; `None` before that.
    pub fn agreement(&self) -> Option<[u64; AGREEMENT_WORDS]> {
        self.values.agreement()
    }

    /// Small blob that the daemon keeps for its successor (root handle, server limits); at most [`crate::BLOB_MAX`]
    /// bytes.
    ///
    /// # Panics
    /// If there are more.
    pub fn save_blob(&self, blob: &[u8]) {
        self.values.save_blob(blob);
    }

    /// The blob; empty if none was saved.
    pub fn blob(&self) -> Vec<u8> {
        self.values.blob()
    }

    /// Is this the session of several sources?
    pub fn is_of_several(&self) -> bool {
        self.values.is_of_several()
    }

    /// What the daemon knows of several sources, for its successor; at most [`crate::SOURCES_BYTES_MAX`] bytes.
    ///
    /// # Panics
    /// If there are more, or the session is that of one source.
    pub fn save_sources(&self, sources: &[u8]) {
        self.values.save_sources(sources);
    }

    /// What was saved so; empty if nothing was.
    pub fn sources(&self) -> Vec<u8> {
        self.values.sources()
    }

    /// Remembers the source port of a connection to the server.
    pub fn save_source_port(&self, connection: usize, port: u16) {
        self.values.save_source_port(connection, port);
    }

    /// The source port that a connection to the server had last.
    pub fn source_port(&self, connection: usize) -> Option<u16> {
        self.values.source_port(connection)
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State({:016x}, daemon {})", self.session_id(), self.daemon)
    }
}
