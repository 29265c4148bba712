//! `efcd`, the Elastic File Client daemon: serves one dataset through one FUSE session.
//!
//! The keeper starts it, and holds the session: `/dev/fuse`, and a memfd with everything that must outlive a daemon.
//! The first daemon of a session connects to the NAS and answers the kernel's INIT. A later one finds the session in
//! the memfd and continues where its predecessor was killed, without having to ask the NAS or the kernel first.

mod configuration;
mod control;
mod descriptors;
mod errno;
mod failure;
mod filesystem;
mod keeper;
mod live;
mod memory;
mod passthrough;
mod privileges;
mod saved_server;
mod served;
mod sources;
mod store;
mod workers;

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use efc_buffer::Budget;
use efc_fuse::Session;
use efc_nfs::{Client, ConnectError, Mounted};
use efc_process::{LimitedLog, LogLimits};
use efc_proto::{DaemonConfig, Error, error::Code};
use efc_state::State;
use efc_store::Store;
use efc_workers::Workers;

use configuration::{client_config, session_config, settings, small_files};
use control::Control;
use failure::for_keeper;
use filesystem::id_maps::{self, IdMaps};
use filesystem::{Credentials, Efc, ROOT};
use live::{Live, is_debugged, log_level};
use memory::Parts;
use served::Served;
use sources::{Root, Storage};

/// What goes wrong at a NAS may go wrong thousands of times a second.
const LOG_LIMITS: LogLimits = LogLimits { burst: 10, pause: Duration::from_secs(10) };
/// How long uncommitted data may hold up the end of an unmounted session.
const FINISH_TIME_LIMIT: Duration = Duration::from_secs(4);

const _: () = assert!(efc_proto::BEAT_OFFSET == efc_state::BEAT_OFFSET);
const _: () = assert!(efc_proto::HOLDING_OFFSET == efc_state::HOLDING_OFFSET);
const _: () = assert!(efc_proto::HOLDS_DATA == efc_state::HOLDS_DATA);
const _: () = assert!(efc_proto::HOLDS_PASSTHROUGH == efc_state::HOLDS_PASSTHROUGH);
const _: () = assert!(efc_proto::HOLDS_UNOPENED == efc_state::HOLDS_UNOPENED);
const _: () = assert!(efc_proto::LAYOUT_OFFSET == efc_state::LAYOUT_OFFSET);
const _: () = assert!(efc_proto::LAYOUT_OF_ONE_SOURCE == efc_state::OF_ONE_SOURCE);
const _: () = assert!(efc_proto::WITNESS_OFFSET == efc_state::WITNESS_OFFSET);
const _: () = assert!(efc_proto::SUPERSEDED_OFFSET == efc_state::SUPERSEDED_OFFSET);

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

/// Serves the session that the keeper gives, until it is unmounted or the next daemon's.
fn serve(control: Control) -> io::Result<()> {
    let started_at = Instant::now();
    let mut held = control.receive_start()?;
    let config = held.config.clone();
    start_logging(&config);
    descriptors::raise_limit();
    let store_memory_max = store::memory_max(held.store.as_ref(), held.memory_max_bytes);
    let store_size_max = store::size_max(&config, store_memory_max);
    // A store on a tmpfs takes its part before all others.
    let store_memory = store_memory_max.map(|_| store_size_max);
    let parts = configuration::parts(&config, held.memory_max_bytes - store_memory.unwrap_or(0));
    let buffers = Budget::new(parts.buffers);
    let fail = |code: Code, error: &io::Error| {
        control.send_failed(Error { code: code.into(), message: error.to_string() });
    };
    let refused = |error: &io::Error| fail(Code::InvalidArgument, error);
    memory::check_page_size(rustix::param::page_size()).inspect_err(|error| fail(Code::FailedPrecondition, error))?;
    let session_config = session_config(&config, &parts, &buffers).inspect_err(refused)?;
    let unopened = small_files(&config).inspect_err(refused)?;
    let id_maps = use_privileges(&control, &held, config.idmap && unopened.is_none())?;
    let credentials = unopened.clone().map_or_else(|| Credentials::new(id_maps), Credentials::fixed);
    let state = Arc::new(open_state(&control, held.memfd.try_clone()?, !config.sources.is_empty())?);
    if unopened.is_some() {
        state.set_unopened();
    }
    parts.nodes_max.inspect(|nodes_max| state.limit_nodes(*nodes_max));

    let is_successor = state.is_resumed();
    let workers = start_workers(&control, &held, &buffers, is_successor)?;
    let root = if is_successor { resume(&config, &state)? } else { connect(&control, &mut held, &state)? };
    let session = Session::new(held.device.try_clone()?, state.clone(), session_config);
    session.start()?;
    let store = open_store(&mut held, (store_size_max, &parts), &buffers);
    let live = Live::new(&config, workers, (store, store_memory), control.keeper());
    let settings = settings(&live, &parts, buffers, unopened);
    let (notifier, callers) = (Arc::new(session.notifier()), Arc::new(credentials));
    let watched = root.watched();
    let efc = Arc::new(Efc::new(root.storage, root.properties, state.clone(), notifier, callers, settings));
    control.send_ready()?;
    log::info!("{} session {:016x}", if is_successor { "resumed" } else { "serving" }, state.session_id());

    // What a predecessor holds is delivered again only when it has gone.
    let is_all_delivered = !held.predecessor_remains;
    let served = Served::new((watched, efc.clone()), (session.clone(), state.clone()), (config, live), started_at);
    start_control(control, held, served)?;
    if is_successor {
        efc.reap_orphans();
        if is_all_delivered {
            filesystem::drop_unclaimed(session.clone());
        }
    }
    serve_requests(&efc, &session, &state)
}

/// The workers, if there are any. A successor does without them if need be: nobody may notice that it is another.
fn start_workers(
    control: &Control,
    held: &control::Held,
    buffers: &Budget,
    is_successor: bool,
) -> io::Result<Option<Arc<Workers>>> {
    let started = workers::workers(&held.config, (&held.workers, &held.workers_file), buffers);
    match started {
        Err(error) if is_successor => {
            log::error!("{error}: serving without workers");
            Ok(None)
        }
        started => started.inspect_err(|error| {
            control.send_failed(Error { code: Code::InvalidArgument.into(), message: error.to_string() });
        }),
    }
}

/// The local store, if there is one. A dataset is served without if it has to be.
fn open_store(held: &mut control::Held, (size_max, parts): (u64, &Parts), buffers: &Budget) -> Option<Arc<Store>> {
    let opened = store::store(&held.config, held.store.take(), (size_max, parts), buffers);
    opened.unwrap_or_else(|error| {
        log::error!("serving without a local store: {error}");
        None
    })
}

/// Does what needs privileges, and drops them. The way to know callers behind id-mapped mounts, if these are wanted.
fn use_privileges(control: &Control, held: &control::Held, is_mapped: bool) -> io::Result<Option<IdMaps>> {
    let config = &held.config;
    if !config.no_splice {
        reserve_pipes(config);
    }
    let id_maps = if is_mapped { Some(start_id_maps(control)?) } else { None };
    privileges::drop_unneeded(held.uid, is_debugged(config))?;
    Ok(id_maps)
}

/// Talks with keepers on a thread of its own.
fn start_control(control: Control, mut held: control::Held, served: Served) -> io::Result<()> {
    let talk = move || {
        control.serve(&mut held, &served);
        // Were the memfd closed here, successors would take this process for gone (`State::open`).
        std::mem::forget(held);
    };
    std::thread::Builder::new().name("control".into()).spawn(talk).map(drop)
}

/// Serves until the session is over, or goes on with the next daemon.
fn serve_requests(efc: &Arc<Efc<Storage>>, session: &Session, state: &State) -> io::Result<()> {
    session.run(efc.clone())?;
    if !state.is_superseded() {
        efc.finish(FINISH_TIME_LIMIT);
        log::info!("unmounted");
    }
    Ok(())
}

fn start_logging(config: &DaemonConfig) {
    // What is logged is the process's level, which may change.
    let logger = env_logger::Builder::new().filter_level(log::LevelFilter::Trace).build();
    if log::set_boxed_logger(Box::new(LimitedLog::new(logger, LOG_LIMITS))).is_ok() {
        log::set_max_level(log_level(config));
    }
}

/// Pipes can be made large only with privileges.
fn reserve_pipes(config: &DaemonConfig) {
    if let Err(error) = efc_buffer::pipe::reserve(configuration::pipes(config)) {
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
fn open_state(control: &Control, memfd: OwnedFd, is_of_several: bool) -> io::Result<State> {
    let unusable = |why: String| -> ! {
        log::error!("{why}");
        control.send_failed(Error { code: Code::Internal.into(), message: why });
        std::process::exit(efc_proto::STATE_UNUSABLE.into());
    };
    let opened = if is_of_several { State::open_of_several(memfd) } else { State::open(memfd) };
    match opened {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => unusable(error.to_string()),
        // The first daemon of a session is the only one that agrees with the kernel on anything, or its mount fails.
        Ok(state) if state.daemon_number() > 1 && !state.is_resumed() => {
            unusable("the saved state has lost what was agreed with the kernel".to_owned())
        }
        opened => opened,
    }
}

/// Finds the dataset, records what a successor needs, and waits for the mount.
fn connect(control: &Control, held: &mut control::Held, state: &Arc<State>) -> io::Result<Root> {
    if state.is_of_several() {
        return connect_several(control, held, state);
    }
    let (client, mounted) = find_dataset(&held.config, state).map_err(|error| {
        control.send_failed(for_keeper(&error));
        io::Error::other(error)
    })?;
    let root = saved_server::root_of(&mounted);
    state.set_root(&root);
    saved_server::save(state, &mounted);
    control.send_connected(root.kind | mounted.attr.mode)?;
    control.receive_mounted(held)?;
    Ok(Root::of_one(client, mounted.properties()))
}

/// The same for several sources, all of which must be there.
fn connect_several(control: &Control, held: &mut control::Held, state: &Arc<State>) -> io::Result<Root> {
    let root = Root::connect_several(&held.config, state).map_err(|error| {
        control.send_failed(error.clone());
        io::Error::other(error.message)
    })?;
    control.send_connected(sources::ROOT_MODE)?;
    control.receive_mounted(held)?;
    Ok(root)
}

fn find_dataset(config: &DaemonConfig, state: &Arc<State>) -> Result<(Client, Mounted), ConnectError> {
    futures_lite::future::block_on(Client::connect(&client_config(config, state)))
}

/// Goes on with what a predecessor found. What of that is damaged is found anew: from its copy, or from the NAS.
fn resume(config: &DaemonConfig, state: &Arc<State>) -> io::Result<Root> {
    if state.is_of_several() {
        return Root::resume_several(config, state);
    }
    let server = saved_server::load(state).map_err(io::Error::other)?;
    let copy = server.as_ref().and_then(saved_server::saved_root);
    let (Some(server), Some(root)) = (server, state.node(ROOT).or_else(|| copy.clone())) else {
        log::error!("the saved state has lost the dataset's root, or its server: asking the NAS again");
        let (client, mounted) = find_dataset(config, state).map_err(io::Error::other)?;
        state.set_root(&saved_server::root_of(&mounted));
        saved_server::save(state, &mounted);
        return Ok(Root::of_one(client, mounted.properties()));
    };
    if state.node(ROOT).is_none() {
        log::error!("the saved state has lost the dataset's root: it is made from its copy");
        state.set_root(&root);
    }
    let properties = saved_server::properties(&server);
    let port = u16::try_from(server.port).map_err(io::Error::other)?;
    if copy.as_ref() != Some(&root) {
        saved_server::save_with_root(state, server, &root);
    }
    Ok(Root::of_one(Client::resume(&client_config(config, state), port), properties))
}
