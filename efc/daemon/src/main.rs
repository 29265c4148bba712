//! `efcd`, the Elastic File Client daemon: serves one dataset through one FUSE session.
//!
//! It is started by the keeper, which holds the session: `/dev/fuse`, and a memfd with everything that must outlive a
//! daemon. The first daemon of a session connects to the NAS and answers the kernel's INIT; a later one finds the
//! session in the memfd and goes on where its predecessor was killed, without asking the NAS or the kernel anything.

mod control;
mod descriptors;
mod errno;
mod filesystem;
mod id_maps;
mod limited_log;
mod memory;
mod mount_namespace;
mod privileges;
mod saved_server;

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use efc_backend::FsInfo;
use efc_fuse::state::{self, State};
use efc_fuse::{Features, Session, SessionConfig};
use efc_nfs::{Client, Config, ConnectError, ConnectErrorKind, Mounted};
use efc_proto::{DaemonConfig, DaemonStats, Error, FoundRoot, error::Code};

use control::{Control, Serving};
use filesystem::{Credentials, Efc, ROOT, SessionIdentity, Settings};
use id_maps::IdMaps;
use limited_log::LimitedLog;
use memory::Budget;

const CONNECTIONS_DEFAULT: usize = 4;
const THREADS_DEFAULT: usize = 2;
/// 40 KiB of kernel memory each.
const PIPES_MAX: usize = 16;
const UNCOMMITTED_MIB_DEFAULT: u64 = 64;
const SOFT_TIME_LIMIT_DEFAULT: Duration = Duration::from_secs(30);
/// How long the first connection to the NAS may take; the keeper has a limit of its own.
const CONNECT_TIME_LIMIT: Duration = Duration::from_secs(25);
/// How long looking for the dataset's root once more may take: somebody waits for it who wants to start a pod.
const FIND_TIME_LIMIT: Duration = Duration::from_millis(1500);
/// FUSE_ROOT_ID.
const ROOT_NODE: u64 = 1;
/// A NAS that lets a call wait longer than this is reported as not responding.
const RESPONDING_MAX: Duration = Duration::from_secs(5);
/// How long uncommitted data may hold up the end of an unmounted session.
const FINISH_TIME_LIMIT: Duration = Duration::from_secs(4);
/// How long a drained daemon's successor waits for the answers that are still due; then it executes the rest itself.
const DRAIN_TIME_LIMIT: Duration = Duration::from_millis(500);

const _: () = assert!(efc_proto::BEAT_OFFSET == state::BEAT_OFFSET);
const _: () = assert!(efc_proto::WITNESS_OFFSET == state::WITNESS_OFFSET);
const _: () = assert!(efc_proto::SUPERSEDED_OFFSET == state::SUPERSEDED_OFFSET);

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(argument) if argument == "--version" => {
            println!("{}", control::version());
            return ExitCode::SUCCESS;
        }
        Some(argument) if argument == "--check-state" => return control::check_state(),
        Some(argument) if argument == id_maps::COMMAND => return id_maps::serve(),
        _ => {}
    }
    // The program may be memory of the keeper's, which has no name.
    if let Err(error) = rustix::thread::set_name(c"efcd") {
        eprintln!("efcd: cannot name the process: {error}");
    }
    match serve(Control::inherited()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(control: Control) -> io::Result<()> {
    let started_at = Instant::now();
    let mut held = control.receive_start()?;
    let config = held.config.clone();
    start_logging(&config);
    descriptors::raise_limit();
    let uncommitted_bytes_max = or_default(u64::from(config.uncommitted_mib), UNCOMMITTED_MIB_DEFAULT) << 20;
    let budget = Budget::of(held.memory_max_bytes, uncommitted_bytes_max);
    let session_config = session_config(&config, &budget).inspect_err(|error| {
        control.send_failed(Error { code: Code::InvalidArgument.into(), message: error.to_string() });
    })?;
    if !config.no_splice {
        reserve_pipes(&config);
    }
    let id_maps = if config.idmap { Some(start_id_maps(&control)?) } else { None };
    privileges::drop_unneeded(held.uid, config.log_level == "debug")?;
    let state = Arc::new(open_state(&control, held.memfd.try_clone()?)?);
    budget.nodes_max.inspect(|nodes_max| state.limit_nodes(*nodes_max));

    let is_successor = state.is_resumed();
    let (client, info) = if is_successor { resume(&config, &state)? } else { connect(&control, &mut held, &state)? };
    let session = Session::new(held.device.try_clone()?, state.clone(), session_config);
    session.start()?;
    let credentials = Credentials::new(id_maps);
    let efc = Arc::new(Efc::new(
        client.clone(),
        info,
        state.clone(),
        Arc::new(session.notifier()),
        Arc::new(credentials),
        settings(&config, &budget),
    ));
    control.send_ready()?;
    log::info!("{} session {:016x}", if is_successor { "resumed" } else { "serving" }, state.session_id());

    let served = Served {
        client,
        efc: efc.clone(),
        session: session.clone(),
        state: state.clone(),
        config,
        is_finding: Arc::default(),
        started_at,
        is_successor,
    };
    // What it holds is delivered again only when it has gone.
    let is_all_delivered = !held.predecessor_remains;
    std::thread::Builder::new().name("control".into()).spawn(move || {
        control.serve(&held, &served);
        // Were the memfd closed here, successors would take this process for gone (`State::open`).
        std::mem::forget(held);
    })?;
    if is_successor {
        efc.reap_orphans();
        if is_all_delivered {
            filesystem::drop_unclaimed(session.clone());
        }
    }
    session.run(efc.clone())?;
    while session.is_draining() {
        std::thread::park(); // the session goes on with the next daemon; the control thread ends this one
    }
    if !state.is_superseded() {
        efc.finish(FINISH_TIME_LIMIT);
        log::info!("unmounted");
    }
    Ok(())
}

/// What the control thread speaks for.
struct Served {
    client: Client,
    efc: Arc<Efc<Client>>,
    session: Session,
    state: Arc<State>,
    config: DaemonConfig,
    /// Somebody looks for the dataset's root.
    is_finding: Arc<AtomicBool>,
    started_at: Instant,
    is_successor: bool,
}

impl Serving for Served {
    fn report(&self) -> DaemonStats {
        stats((&self.client, &self.efc), &self.session, &self.state, self.started_at, self.is_successor)
    }

    fn resend(&self, predecessor_remains: bool) {
        if let Err(error) = self.session.resend() {
            log::warn!("the kernel does not deliver again what a predecessor held: {error}");
        }
        if !predecessor_remains {
            filesystem::drop_unclaimed(self.session.clone());
        }
    }

    fn drain(&self) -> ! {
        let begin = Instant::now();
        let all = self.session.drain(DRAIN_TIME_LIMIT);
        self.efc.settle(DRAIN_TIME_LIMIT.saturating_sub(begin.elapsed()));
        log::info!("drained{}", if all { "" } else { "; some requests are left to the next daemon" });
        std::process::exit(0);
    }

    fn find_root(&self) -> Option<Box<dyn FnOnce() -> FoundRoot + Send>> {
        if self.is_finding.swap(true, Ordering::AcqRel) {
            return None;
        }
        let (client, state, is_finding) = (self.client.clone(), self.state.clone(), self.is_finding.clone());
        let config = Config { connect_time_limit: FIND_TIME_LIMIT, ..client_config(&self.config, &state) };
        Some(Box::new(move || {
            let served = state.node(ROOT_NODE).map(|root| root.handle).unwrap_or_default();
            let found = futures_lite::future::block_on(client.find_root(&config));
            is_finding.store(false, Ordering::Release);
            match found {
                Ok(root) => FoundRoot { served, found: root.as_bytes().to_vec(), error: None },
                Err(error) => FoundRoot { served, found: Vec::new(), error: Some(for_keeper(&error)) },
            }
        }))
    }
}

fn start_logging(config: &DaemonConfig) {
    let level = config.log_level.parse().unwrap_or(log::LevelFilter::Info);
    let logger = env_logger::Builder::new().filter_level(level).build();
    if log::set_boxed_logger(Box::new(LimitedLog::new(logger))).is_ok() {
        log::set_max_level(level);
    }
}

/// Pipes can be made large only with privileges. Each thread that receives uses one at a time.
fn reserve_pipes(config: &DaemonConfig) {
    let threads = or_default(config.connections as usize, CONNECTIONS_DEFAULT);
    if let Err(error) = efc_buffer::pipe::reserve(threads.min(PIPES_MAX)) {
        log::info!("no pipes for large reads ({error}): their data is copied once more");
    }
}

/// The way to know callers behind id-mapped mounts, or an error that says what is missing for it.
fn start_id_maps(control: &Control) -> io::Result<IdMaps> {
    IdMaps::start().inspect_err(|error| {
        let message = match error.kind() {
            io::ErrorKind::Unsupported => {
                "the option idmap needs Linux 6.15 or newer, whose statmount(2) tells a mount's \
                map of ids (efc doctor says what this kernel has): mount without it, or upgrade the kernel"
                    .to_owned()
            }
            _ => format!("the process that the option idmap needs cannot be started: {error}"),
        };
        control.send_failed(Error { code: Code::FailedPrecondition.into(), message });
    })
}

/// Opens the saved state. Ends this process, with a status of its own, if that is damaged so that no daemon can serve with it.
fn open_state(control: &Control, memfd: OwnedFd) -> io::Result<State> {
    let unusable = |why: String| -> ! {
        log::error!("{why}");
        control.send_failed(Error { code: Code::Internal.into(), message: why });
        std::process::exit(efc_proto::STATE_UNUSABLE.into());
    };
    match State::open(memfd) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => unusable(error.to_string()),
        // The first daemon of a session is the only one that agrees with the kernel on anything, or its mount fails.
        Ok(state) if state.generation() > 1 && !state.is_resumed() => {
            unusable("the saved state has lost what was agreed with the kernel".to_owned())
        }
        opened => opened,
    }
}

/// Finds the dataset, records what a successor needs, and waits for the mount.
fn connect(control: &Control, held: &mut control::Session, state: &Arc<State>) -> io::Result<(Client, FsInfo)> {
    let (client, mounted) = find_dataset(&held.config, state).map_err(|error| {
        control.send_failed(for_keeper(&error));
        io::Error::other(error)
    })?;
    let root = saved_server::root_of(&mounted);
    state.set_root(&root);
    saved_server::save(state, &mounted);
    control.send_connected(root.kind | mounted.attr.mode)?;
    control.receive_mounted(held)?;
    Ok((client, mounted.info))
}

fn find_dataset(config: &DaemonConfig, state: &Arc<State>) -> Result<(Client, Mounted), ConnectError> {
    futures_lite::future::block_on(Client::connect(&client_config(config, state)))
}

/// Goes on with what a predecessor found. What of that is damaged is found anew: from its copy, or from the NAS.
fn resume(config: &DaemonConfig, state: &Arc<State>) -> io::Result<(Client, FsInfo)> {
    let server = saved_server::load(state).map_err(io::Error::other)?;
    let copy = server.as_ref().and_then(saved_server::saved_root);
    let (Some(server), Some(root)) = (server, state.node(ROOT).or_else(|| copy.clone())) else {
        log::error!("the saved state has lost the dataset's root, or its server: asking the NAS again");
        let (client, mounted) = find_dataset(config, state).map_err(io::Error::other)?;
        state.set_root(&saved_server::root_of(&mounted));
        saved_server::save(state, &mounted);
        return Ok((client, mounted.info));
    };
    if state.node(ROOT).is_none() {
        log::error!("the saved state has lost the dataset's root: it is made from its copy");
        state.set_root(&root);
    }
    let info = FsInfo { read_max: server.read_max, write_max: server.write_max, ..FsInfo::default() };
    let port = u16::try_from(server.port).map_err(io::Error::other)?;
    if copy.as_ref() != Some(&root) {
        saved_server::save_with_root(state, server, &root);
    }
    Ok((Client::resume(&client_config(config, state), port), info))
}

fn client_config(config: &DaemonConfig, state: &Arc<State>) -> Config {
    let source = config.source.clone().unwrap_or_default();
    let port = |port: u32| u16::try_from(port).ok().filter(|port| *port != 0);
    let soft_time_limit = match config.timeout_ms {
        0 => SOFT_TIME_LIMIT_DEFAULT,
        limit_ms => Duration::from_millis(limit_ms.into()),
    };
    Config {
        host: source.host,
        port: port(source.port),
        mount_port: port(source.mount_port),
        path: source.path.into_bytes(),
        connections: or_default(config.connections as usize, CONNECTIONS_DEFAULT),
        time_limit: config.soft.then_some(soft_time_limit),
        connect_time_limit: CONNECT_TIME_LIMIT,
        privileged_port: !config.unprivileged_port,
        identity: Some(Arc::new(SessionIdentity(state.clone()))),
    }
}

fn session_config(config: &DaemonConfig, budget: &Budget) -> io::Result<SessionConfig> {
    let features = match config.fuse_features.as_str() {
        "" => Features::default(),
        name => Features::of_kernel(name)
            .ok_or_else(|| io::Error::other(format!("the features of Linux {name} are not known")))?,
    };
    Ok(SessionConfig {
        threads: or_default(config.threads as usize, THREADS_DEFAULT),
        read_only: config.read_only,
        max_background: budget.background_max,
        features,
        idmap: config.idmap,
    })
}

fn settings(config: &DaemonConfig, budget: &Budget) -> Settings {
    Settings {
        attr_ttl: Duration::from_millis(config.attr_ttl_ms.into()),
        entry_ttl: Duration::from_millis(config.entry_ttl_ms.into()),
        uncommitted_bytes_max: budget.uncommitted_bytes_max,
        attributes_max: budget.attributes_max,
    }
}

fn or_default<T: Default + PartialEq>(value: T, default: T) -> T {
    if value == T::default() { default } else { value }
}

fn for_keeper(error: &ConnectError) -> Error {
    let code = match error.kind {
        ConnectErrorKind::NotFound => Code::NotFound,
        ConnectErrorKind::Refused => Code::PermissionDenied,
        ConnectErrorKind::Unreachable => Code::Unavailable,
        ConnectErrorKind::NotADirectory | ConnectErrorKind::Protocol => Code::FailedPrecondition,
    };
    Error { code: code.into(), message: error.message.clone() }
}

fn stats(
    (client, efc): (&Client, &Efc<Client>),
    session: &Session,
    state: &State,
    started_at: Instant,
    resumed: bool,
) -> DaemonStats {
    let counters = client.counters();
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    DaemonStats {
        uptime_ms: milliseconds(started_at.elapsed()),
        fuse_requests: session.requests(),
        nfs_calls: counters.calls,
        nfs_retransmits: counters.retransmits,
        nfs_reconnects: counters.reconnects,
        bytes_read: counters.bytes_read,
        bytes_written: counters.bytes_written,
        nodes: state.node_count(),
        open_files: efc.open_files(),
        uncommitted_bytes: efc.uncommitted_bytes(),
        nas_responding: counters.oldest_call.is_none_or(|age| age < RESPONDING_MAX),
        oldest_call_ms: counters.oldest_call.map_or(0, milliseconds),
        resumed,
        bytes_spliced: counters.bytes_spliced,
        pipe_misfits: counters.pipe_misfits,
        nodes_max: state.nodes_max().unwrap_or(0),
    }
}
