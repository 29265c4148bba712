//! The state that outlives a daemon, in a memfd that the keeper holds too.
//!
//! It holds what the kernel will hold the next daemon to: what node ids stand for and how often they were handed out, which files are open
//! under which credential, what INIT agreed on; and what the next daemon must finish: requests that must not be executed twice,
//! files removed while open, data written and not committed, the bytes of it included; and, for kernels that cannot deliver
//! them again, the requests themselves ([`requests`]). It is memory, not storage: it survives a SIGKILL of the daemon at any
//! instruction, but no reboot, which ends the mount too.
//!
//! Layout: a header page ([`layout`]) with a table of regions, then the regions, each a sparse array of equally large
//! records ([`record`]). Space is mapped once for more than will ever be used, and backed by memory in chunks before it is
//! touched, so a full machine shows as ENOMEM from the call that needed more, never as SIGBUS.
//!
//! One daemon writes at a time: the keeper kills the last before it starts the next, and one that it could not reach finds
//! out that it is superseded before it serves another request.

mod arena;
mod failures;
mod gate;
mod handles;
mod journal;
mod layout;
mod mapping;
mod nodes;
mod orphans;
mod pages;
mod pair;
#[cfg(test)]
mod payload_tests;
mod payloads;
mod record;
pub mod requests;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub use self::arena::BLOCK_MAX as PAYLOAD_MAX;
pub use self::failures::FailureOf;
pub use self::journal::Intent;
use self::layout::{Header, Plan};
use self::mapping::Mapping;
pub use self::pages::DataVersion;
use self::pages::PageVersions;
use self::pair::Pair;
pub use self::payloads::{Kept, SavedWrite, UncommittedWrite, payload_checksum, payload_cost};
use self::record::{Format, Region};

pub use self::layout::{BEAT_OFFSET, SUPERSEDED_OFFSET, WITNESS_OFFSET};

/// Handle bytes that a node record holds.
pub const FILE_HANDLE_MAX: usize = 64;
/// Supplementary groups that a handle record holds: as many as AUTH_SYS carries.
pub const GROUPS_MAX: usize = 16;
/// Noted in place of a verifier by [`State::set_lost`].
pub const LOST: [u8; 8] = *b"EFC lost";
/// Words that [`State::save_agreement`] takes.
pub const AGREEMENT_WORDS: usize = 3;
/// Bytes that [`State::save_blob`] takes.
pub const BLOB_MAX: usize = 4000;

const BLOB: Format = Format { tag: 4, version: 1, words: 512, mutable: 0, reserved: 0, chunk: 2 };
const AGREEMENT: Format = Format { tag: 5, version: 1, words: 16, mutable: 0, reserved: 0, chunk: 2 };
/// The source ports of the NAS's connections, four to a word.
const PORTS: Format = Format { tag: 7, version: 1, words: 24, mutable: 0, reserved: 0, chunk: 2 };
/// Connections whose ports are remembered.
const PORTS_MAX: usize = 64;

const _: () = assert!(PORTS.sealed() >= PORTS_MAX / 4);
const _: () = assert!((BLOB.sealed() - 1) * mapping::WORD >= BLOB_MAX);

/// What a node id stands for. Immutable while the node is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The NAS's name of the file, at most [`FILE_HANDLE_MAX`] bytes.
    pub handle: Vec<u8>,
    /// Its inode number.
    pub fileid: u64,
    /// `S_IFMT` bits
    pub kind: u32,
}

/// An open file or directory, with the credential captured at open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenHandle {
    /// The id of what is open.
    pub node: u64,
    /// of open(2)
    pub flags: u32,
    /// Of the opener.
    pub uid: u32,
    /// Of the opener.
    pub gid: u32,
    /// Supplementary groups of the opener, at most [`GROUPS_MAX`].
    pub groups: Vec<u32>,
    /// Whether it is a directory.
    pub directory: bool,
    /// What the NAS's directory cookies belong to.
    pub cookie_verifier: [u8; 8],
    /// The request that opened it.
    pub unique: u64,
}

/// Record, directory handle, name, file handle.
pub type Orphan = (u64, Vec<u8>, Vec<u8>, Vec<u8>);

/// The saved state. Its methods may be called from any thread.
pub struct State {
    header: Header,
    generation: u64,
    resumed: bool,
    /// Among the records that are read when the state is opened.
    damaged: u64,
    nodes: Arc<nodes::Nodes>,
    handles: handles::Handles,
    orphans: orphans::Orphans,
    failures: failures::Failures,
    blob: Pair,
    agreement: Pair,
    journal: journal::Journal,
    ports: Pair,
    saving_ports: Mutex<()>,
    /// `None`: the state was made by a release without such records.
    payloads: Option<payloads::Payloads>,
    /// What a predecessor left of them.
    saved_writes: Mutex<Vec<SavedWrite>>,
    /// `None`: the state was made by a release without them.
    requests: Option<Arc<requests::Requests>>,
    page_versions: PageVersions,
}

/// Slots that are looked at before the state is open; with more, it is faster to go on meanwhile.
const INDEXED_AT_ONCE: u32 = 8192;

/// Makes the nodes' index, here or on a thread of its own.
fn index(nodes: &Arc<nodes::Nodes>) -> io::Result<()> {
    let make = |nodes: &nodes::Nodes| {
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

/// Written data that is kept, and what a predecessor left of it; `None` in a state without.
fn open_payloads(
    header: &Header,
    mapping: &Arc<Mapping>,
    nodes: &nodes::Nodes,
) -> io::Result<Option<(payloads::Payloads, Vec<SavedWrite>, u64)>> {
    let places = (header.region_if_any(&payloads::INDEX)?, header.region_if_any(&payloads::ARENA)?);
    let (Some(index), Some(arena), false) = (places.0, places.1, cfg!(feature = "no-payloads")) else {
        return Ok(None);
    };
    let is_of_predecessor = header.last_column(&arena) == header.generation();
    let region = Region::new(Arc::clone(mapping), payloads::INDEX, index.base, index.capacity, index.allocated_word)?;
    let blocks = arena::Arena::new(header, &arena);
    let opened = payloads::Payloads::open(region, blocks, is_of_predecessor, |node| nodes.distrust(node));
    // The generation that is about to begin. Before it does, or a SIGKILL in between would cost what is kept.
    header.set_last_column(&arena, header.generation() + 1);
    Ok(Some(opened))
}

fn log_damage(records: u64) {
    if records > 0 {
        log::error!("{records} records of the saved state are damaged: what they described is forgotten");
    }
}

/// The requests of this generation, if the state has a place for them.
fn open_requests(
    header: &Header,
    mapping: &Arc<mapping::Mapping>,
    generation: u64,
) -> io::Result<Option<Arc<requests::Requests>>> {
    let places = (header.region_if_any(&requests::FORMAT)?, header.region_if_any(&requests::AREAS)?);
    let (Some(records), Some(areas)) = places else { return Ok(None) };
    if cfg!(feature = "no-replay") {
        return Ok(None);
    }
    let place = (areas.base, areas.capacity);
    let region = |format, place: layout::Place| {
        Region::new(Arc::clone(mapping), format, place.base, place.capacity, place.allocated_word)
    };
    let (records, areas) = (region(requests::FORMAT, records)?, region(requests::AREAS, areas)?);
    Ok(Some(Arc::new(requests::Requests::open(mapping, records, areas, place, generation))))
}

impl State {
    /// Maps the memfd; formats it if it is empty. Errors: a damaged or incompatible state, no memory.
    ///
    /// As long as a process has a state open it is known to use it, unless it closes another descriptor of the same memfd.
    ///
    /// Many nodes are found on a thread of their own: until then what needs their index waits ([`State::indexed`]).
    pub fn open(memfd: OwnedFd) -> io::Result<State> {
        State::open_planned(memfd, &Plan::default())
    }

    fn open_planned(memfd: OwnedFd, plan: &Plan) -> io::Result<State> {
        let (header, mapping) = Header::open(memfd, plan)?;
        let region = |format: Format| -> io::Result<Region> {
            let place = header.region(&format)?;
            Region::new(Arc::clone(&mapping), format, place.base, place.capacity, place.allocated_word)
        };
        let nodes = Arc::new(nodes::Nodes::open(region(nodes::FORMAT)?)?);
        let (handles, damaged_handles) = handles::Handles::open(region(handles::FORMAT)?);
        let (orphans, damaged_orphans) = orphans::Orphans::open(region(orphans::FORMAT)?);
        let (blob, damaged_blobs) = Pair::open_twofold(region(BLOB)?)?;
        let (agreement, damaged_agreements) = Pair::open_twofold(region(AGREEMENT)?)?;
        let (ports, damaged_ports) = Pair::open(region(PORTS)?)?;
        let journal = header.region_if_any(&journal::FORMAT)?.map(|_| region(journal::FORMAT)).transpose()?;
        let (journal, damaged_intents) = journal::Journal::open(journal);
        let failures = header.region_if_any(&failures::FORMAT)?.map(|_| region(failures::FORMAT)).transpose()?;
        let (failures, damaged_failures) = failures::Failures::open(failures);
        let opened = open_payloads(&header, &mapping, &nodes)?;
        let (payloads, saved_writes, damaged_payloads) =
            opened.map_or((None, Vec::new(), 0), |(payloads, saved, damaged)| (Some(payloads), saved, damaged));
        let damaged = damaged_handles
            + damaged_orphans
            + damaged_blobs
            + damaged_agreements
            + damaged_ports
            + damaged_intents
            + damaged_failures
            + damaged_payloads;
        let page_versions = PageVersions::open(&mapping, header.region_if_any(&pages::FORMAT)?)?;
        log_damage(damaged);
        index(&nodes)?;
        let saving_ports = Mutex::default();
        mapping.mark_used()?; // before anybody learns of this generation
        let generation = header.begin_generation();
        let requests = open_requests(&header, &mapping, generation)?;
        let mut state = State {
            header,
            generation,
            resumed: false,
            damaged,
            nodes,
            handles,
            orphans,
            failures,
            blob,
            agreement,
            journal,
            ports,
            saving_ports,
            payloads,
            saved_writes: Mutex::new(saved_writes),
            requests,
            page_versions,
        };
        state.resumed = state.agreement().is_some();
        Ok(state)
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
        self.resumed
    }

    /// Increases with each daemon of the session, 1 for the first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// A later daemon has opened the state: this one must not touch anything any more.
    pub fn is_superseded(&self) -> bool {
        !cfg!(feature = "two-daemons") && self.header.generation() != self.generation
    }

    /// Ends this process if a later daemon has opened the state. What it was about to do, the later one does; what it has
    /// read from the kernel is delivered to that one again, as the keeper sees to.
    ///
    /// Between this look and what follows lie microseconds; a process may be stopped there. What it does then is what the
    /// kernel's one answer per request and the server's cache of replies are for.
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

    /// Ends when the nodes' index is whole: [`State::lookup_node`], [`State::find_node`] and [`State::node_count`] do not
    /// block any more.
    pub fn indexed(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(|context| self.nodes.poll_indexed(context))
    }

    /// Saves what the session's ends have agreed on, which makes the state one to resume. What the words mean is the caller's to say.
    pub fn save_agreement(&self, words: [u64; AGREEMENT_WORDS]) {
        self.agreement.set_twofold(&words);
    }

    /// What [`State::save_agreement`] saved; `None` before that.
    pub fn agreement(&self) -> Option<[u64; AGREEMENT_WORDS]> {
        self.agreement.get(|sealed| std::array::from_fn(|index| sealed[index].load(Ordering::Relaxed)))
    }

    /// Small blob that the daemon keeps for its successor (root handle, server limits); at most 4,000 bytes.
    ///
    /// # Panics
    /// If there are more.
    pub fn save_blob(&self, blob: &[u8]) {
        assert!(blob.len() <= BLOB_MAX, "a blob of {} bytes", blob.len());
        let mut sealed = [0; BLOB.sealed()];
        sealed[0] = blob.len() as u64;
        record::pack(blob, &mut sealed[1..]);
        self.blob.set_twofold(&sealed);
    }

    /// The blob; empty if none was saved.
    pub fn blob(&self) -> Vec<u8> {
        let decode = |sealed: &[AtomicU64]| {
            record::unpack(&sealed[1..], (sealed[0].load(Ordering::Relaxed) as usize).min(BLOB_MAX))
        };
        self.blob.get(decode).unwrap_or_default()
    }

    /// Sets what node 1 is; before the first request is served.
    ///
    /// # Panics
    /// If the handle is longer than [`FILE_HANDLE_MAX`].
    pub fn set_root(&self, node: &Node) {
        self.nodes.set_root(node).expect("a root handle that fits");
    }

    /// The node of this handle, with its lookup count raised by one before this returns; new if unknown. Its id has its generation
    /// in the upper half, so it names no other file, ever.
    ///
    /// # Errors
    /// EINVAL for a handle that is too long, ENOSPC for too many nodes, ENOMEM for no memory or at the limit.
    pub fn lookup_node(&self, node: &Node) -> io::Result<u64> {
        self.nodes.lookup(node)
    }

    /// The id of this handle if known, without counting.
    pub fn find_node(&self, handle: &[u8]) -> Option<u64> {
        self.nodes.find_id(handle)
    }

    /// What the id stands for; `None` once it is forgotten.
    pub fn node(&self, id: u64) -> Option<Node> {
        self.nodes.get(id)
    }

    /// The `S_IFMT` bits of what the id stands for; `None` once it is forgotten.
    pub fn node_kind(&self, id: u64) -> Option<u32> {
        self.nodes.kind(id)
    }

    /// Lowers the count; `true` if the node is gone now, and what was noted beside it.
    pub fn forget_node(&self, id: u64, lookups: u64) -> bool {
        let is_gone = self.nodes.forget(id, lookups);
        if is_gone {
            self.page_versions.forget(id);
        }
        is_gone
    }

    /// The version that [`State::set_page_version`] noted.
    pub fn page_version(&self, id: u64) -> Option<DataVersion> {
        self.page_versions.get(id)
    }

    /// Notes of which version of the file its pages are that the kernel holds: none of them is older. Only when that is
    /// so, for a successor believes it.
    pub fn set_page_version(&self, id: u64, version: DataVersion) {
        self.page_versions.set(id, version);
    }

    /// Limits the nodes: beyond that [`State::lookup_node`] fails with ENOMEM for those that are not known.
    pub fn limit_nodes(&self, count_max: u64) {
        self.nodes.limit(count_max);
    }

    /// What [`State::limit_nodes`] set.
    pub fn nodes_max(&self) -> Option<u64> {
        self.nodes.limited_to()
    }

    /// Whether there may be one more node.
    pub fn has_room_for_node(&self) -> bool {
        self.nodes.has_room()
    }

    /// Nodes that are known, the root among them.
    pub fn node_count(&self) -> u64 {
        self.nodes.count()
    }

    /// Written data that is not committed: the first verifier since the last commit. Noted beside the node, after the data is kept.
    pub fn set_uncommitted(&self, id: u64, verifier: Option<[u8; 8]>) {
        self.nodes.set_uncommitted(id, verifier, self.keeps_payloads());
    }

    /// Written data is lost, and nobody was told: no server has the verifier that is noted ([`LOST`]). The next
    /// [`State::set_uncommitted`] takes that back.
    pub fn set_lost(&self, id: u64) {
        self.nodes.set_uncommitted(id, Some(LOST), false);
    }

    /// Saves a number about a failure, in place of an earlier one about the same.
    ///
    /// # Errors
    /// ENOSPC for too many, ENOMEM for no memory. A state that an older release has made has no place for them, and saves nothing.
    pub fn set_failure(&self, of: FailureOf, number: u64) -> io::Result<()> {
        self.failures.set(of, number)
    }

    /// Drops it.
    pub fn remove_failure(&self, of: FailureOf) {
        self.failures.remove(of);
    }

    /// All of them, for a successor.
    pub fn failures(&self) -> Vec<(FailureOf, u64)> {
        self.failures.list()
    }

    /// The verifier of uncommitted data that is not kept, or not all of it: if the server's is another now, it is lost.
    pub fn unkept(&self, id: u64) -> Option<[u8; 8]> {
        let (verifier, is_kept) = self.nodes.uncommitted(id)?;
        (!is_kept || !self.keeps_payloads()).then_some(verifier)
    }

    /// Whether written data is kept for a successor: not in a state that an older release has made.
    pub fn keeps_payloads(&self) -> bool {
        self.payloads.is_some()
    }

    /// Writes that can be kept at once.
    pub fn kept_writes_max(&self) -> u64 {
        self.payloads.as_ref().map_or(u64::MAX, |payloads| payloads.capacity().into())
    }

    /// Copies data that is about to be written, at most 1 MiB.
    ///
    /// # Errors
    /// EINVAL for more, ENOSPC for too much at once, ENOMEM for no memory, ENOSYS if none is kept.
    pub fn keep(&self, data: &[u8]) -> io::Result<Kept> {
        self.payloads.as_ref().ok_or(rustix::io::Errno::NOSYS)?.keep(data)
    }

    /// Publishes a write whose data is a part of `kept`, before the application is answered. For each file in the order of writing.
    ///
    /// # Errors
    /// EINVAL for other data or too many groups, ENOSPC for too many, ENOMEM for no memory, ENOSYS if none is kept.
    pub fn save_write(&self, kept: &Kept, write: &UncommittedWrite) -> io::Result<u64> {
        self.payloads.as_ref().ok_or(rustix::io::Errno::NOSYS)?.publish(kept, write)
    }

    /// The write of this record is committed, or given up. The oldest of a file first, and before its data is dropped.
    pub fn remove_write(&self, record: u64) {
        self.payloads.iter().for_each(|payloads| payloads.remove(record));
    }

    /// Writes that a predecessor saved, in order of writing. They are the caller's from now on.
    pub fn take_saved_writes(&self) -> Vec<SavedWrite> {
        std::mem::take(&mut *self.saved_writes.lock().expect("saved writes lock"))
    }

    /// Notes the directory in which the node was seen last.
    pub fn set_parent(&self, id: u64, parent: u64) {
        self.nodes.set_parent(id, parent);
    }

    /// What [`State::set_parent`] noted; `None` for the root.
    pub fn parent(&self, id: u64) -> Option<u64> {
        self.nodes.parent(id)
    }

    /// Is any node known that was seen last in this directory? Looks at all of them.
    pub fn has_child(&self, parent: u64) -> bool {
        self.nodes.has_child(parent)
    }

    /// Returns the fh, never 0.
    ///
    /// # Errors
    /// EINVAL for too many groups, ENOSPC for too many handles, ENOMEM for no memory.
    pub fn open_handle(&self, handle: &OpenHandle) -> io::Result<u64> {
        self.handles.add(handle)
    }

    /// The open file of this fh; `None` once it is closed.
    pub fn handle(&self, fh: u64) -> Option<OpenHandle> {
        self.handles.get(fh)
    }

    /// Notes the verifier of an open directory's cookies. Not to be called beside its close.
    pub fn set_cookie_verifier(&self, fh: u64, verifier: [u8; 8]) {
        self.handles.set_cookie_verifier(fh, verifier);
    }

    /// The file is closed.
    pub fn close_handle(&self, fh: u64) {
        self.handles.remove(fh);
    }

    /// Before a redelivered request opens something: closes what it had opened when its daemon died, as nobody was told of
    /// that. Names it.
    pub fn close_opened_by(&self, unique: u64) -> Option<u64> {
        self.handles.remove_opened_by(unique)
    }

    /// No request of a predecessor is delivered again from now on: [`State::close_opened_by`] finds nothing more.
    pub fn forget_openers(&self) {
        self.handles.forget_openers();
    }

    /// All open handles, for a successor.
    pub fn handles(&self) -> Vec<(u64, OpenHandle)> {
        self.handles.list()
    }

    /// Silly-renamed files: (directory handle, name, file handle), removed on last close or by a successor.
    ///
    /// # Errors
    /// EINVAL for a handle or name that is too long, ENOSPC for too many orphans, ENOMEM for no memory.
    pub fn add_orphan(&self, dir: &[u8], name: &[u8], file: &[u8]) -> io::Result<u64> {
        self.orphans.add(dir, name, file)
    }

    /// The orphan was removed.
    pub fn remove_orphan(&self, slot: u64) {
        self.orphans.remove(slot);
    }

    /// All orphans.
    pub fn orphans(&self) -> Vec<Orphan> {
        self.orphans.list()
    }

    /// Whether requests are journalled: not in a state that an older release has made.
    pub fn has_journal(&self) -> bool {
        self.journal.is_kept()
    }

    /// Publishes what is intended for a request, before a call leaves that must not be executed twice.
    ///
    /// # Errors
    /// EINVAL for a handle that is too long, ENOSPC for too many, ENOMEM for no memory.
    pub fn begin(&self, unique: u64, intent: &Intent) -> io::Result<()> {
        self.journal.begin(unique, intent)
    }

    /// What this daemon or a predecessor intended for the request; `None` if nothing has left for it.
    pub fn intent(&self, unique: u64) -> Option<Intent> {
        self.journal.intent(unique)
    }

    /// Notes the handle of what the call of a request has made, before another call changes it.
    pub fn note_made(&self, unique: u64, handle: &[u8]) {
        self.journal.note_made(unique, handle);
    }

    /// Ends what [`State::begin`] began for a request that is answered already.
    pub fn end(&self, unique: u64) {
        self.journal.end(unique);
    }

    /// Requests in the journal.
    pub fn intents(&self) -> usize {
        self.journal.count()
    }

    /// The requests that are kept for kernels without RESEND; `None` in a state that an older release has made.
    pub fn requests(&self) -> Option<&Arc<requests::Requests>> {
        self.requests.as_ref()
    }

    /// What was begun and answered: for whoever gives the answers.
    pub fn journal(&self) -> &journal::Journal {
        &self.journal
    }

    /// Remembers the source port of a connection to the NAS.
    pub fn save_source_port(&self, connection: usize, port: u16) {
        if connection >= PORTS_MAX || self.source_port(connection) == Some(port) {
            return;
        }
        let _one = self.saving_ports.lock().expect("ports lock");
        let mut words = self.ports.get(ports).unwrap_or([0; PORTS_MAX / 4]);
        let shift = 16 * (connection % 4);
        words[connection / 4] = words[connection / 4] & !(0xffff << shift) | u64::from(port) << shift;
        self.ports.set(&words);
    }

    /// The source port that a connection to the NAS had last.
    pub fn source_port(&self, connection: usize) -> Option<u16> {
        let words = self.ports.get(ports)?;
        let port = (words.get(connection / 4)? >> (16 * (connection % 4))) as u16;
        (port != 0).then_some(port)
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State({:016x}, generation {})", self.session_id(), self.generation())
    }
}

fn ports(sealed: &[AtomicU64]) -> [u64; PORTS_MAX / 4] {
    std::array::from_fn(|index| sealed[index].load(Ordering::Relaxed))
}
