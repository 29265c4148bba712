//! The smallest daemon that a keeper can work with: one file, `hello`, by raw FUSE messages.
//!
//! It shows what the keeper asks of a daemon, and it is what the keeper's tests run. The host name of its "source" says
//! how it shall misbehave; any other name means that it serves:
//!
//! | host | |
//! |---|---|
//! | `refused` | answers Failed |
//! | `slow` | never connects |
//! | `hesitant` | takes 300 ms to connect |
//! | `rootless` | connects to a root that is no directory |
//! | `dies-connected`, `dies-mounted` | ends after that message |
//! | `crashes` | serves once; every successor dies at once |
//! | `spoilt` | serves once; every successor says that nobody can do anything with the state |
//! | `greedy` | takes 64 MiB after it has served for 400 ms |
//! | `regresses` | successors of another version die at once |
//! | `stubborn` | no program says that it can take the state over |
//! | `talkative` | logs a KiB for each request |
//! | `wedges` | the first one reads no more requests after a hundred, and reports all the same |
//! | `mute` | never reports |
//! | `rigid` | takes no options while it serves, as daemons of 0.1.0 |
//! | `headstrong` | says that it takes them, and refuses |
//! | `deaf` | says that it takes them, and never answers |
//! | `dies-configured` | ends when it is told of them |
//! | `nas-silent` | reports that the NAS does not answer |
//!
//! A successor that is to have 13 threads dies at once.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use efc_proto::error::Code;
use efc_proto::{
    Configured, Connected, DaemonConfig, DaemonStats, Error, FoundRoot, MountStatus, Ready, Start, ToDaemon, ToKeeper,
    to_daemon, to_keeper,
};
use rustix::net::accept;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

const CONTENT: &[u8] = b"hello, world\n";
const DIRECTORY_MODE: u32 = 0o40755;
const FILE_MODE: u32 = 0o100644;

const VERSION: &str = "smallest";

const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("--version") => return println!("{VERSION}"),
        Some("--check-state") => check_state(),
        _ => {}
    }
    // As a daemon is called: a keeper that takes it over looks at that.
    rustix::thread::set_name(c"efcd").expect("prctl(2)");
    // SAFETY: the keeper passes its socket as descriptor 3, which nothing else in this process knows.
    let control = Arc::new(unsafe { OwnedFd::from_raw_fd(3) });
    let Some((ToDaemon { message: Some(to_daemon::Message::Start(start)) }, descriptors)) = receive(&control) else {
        exit(2)
    };
    let [device, state, listener] = <[OwnedFd; 3]>::try_from(descriptors).expect("three descriptors");
    let (mut device, mut state) = (File::from(device), File::from(state));
    let Start { config, session, .. } = start;
    let mut session = session.unwrap_or_default();
    let config = config.unwrap_or_default();
    let threads = config.threads;
    let host = config.source.unwrap_or_default().host;
    env_logger::Builder::new().filter_level(log::LevelFilter::Info).init();
    let is_talkative = host == "talkative";
    let mut requests_max = if host == "wedges" { 100 } else { u64::MAX };
    let is_successor = state.metadata().expect("fstat of the state").len() > 0;
    if is_successor {
        if host == "crashes" || host == "regresses" && VERSION.ends_with('!') || threads == 13 {
            exit(7);
        }
        if host == "spoilt" {
            let message = "the state is spoilt".to_owned();
            send(&control, to_keeper::Message::Failed(Error { code: Code::Internal.into(), message }));
            exit(efc_proto::STATE_UNUSABLE.into());
        }
        requests_max = u64::MAX;
        resend(&mut device);
    } else {
        session.connection = connect(&control, &host);
        initialize(&mut device);
        let record: &[u8] = if host == "stubborn" { b"stubborn" } else { b"initialized" };
        state.write_all(record).expect("a record in the state");
    }
    session.live_fields = if host == "rigid" { Vec::new() } else { DaemonConfig::LIVE_FIELDS.to_vec() };
    let ready = Ready { version: VERSION.into(), beats: true, live_fields: session.live_fields.clone() };
    send(&control, to_keeper::Message::Ready(ready));
    if host == "greedy" {
        std::thread::spawn(take_memory);
    }
    let requests = Arc::new(AtomicU64::new(0));
    let counted = requests.clone();
    let held =
        Held { device: device.try_clone().expect("a copy"), state: state.try_clone().expect("a copy"), listener };
    std::thread::spawn(move || {
        let mut control = control;
        loop {
            converse(&control, &host, &counted, is_successor, &mut session);
            control = Arc::new(next_keeper(&held, &session));
        }
    });
    serve(&mut device, &state, &requests, requests_max, is_talkative);
}

fn take_memory() {
    std::thread::sleep(std::time::Duration::from_millis(400));
    let taken: Vec<Vec<u8>> = (0..64).map(|_| vec![1; 1 << 20]).collect();
    std::hint::black_box(&taken);
    std::thread::park();
}

/// Whether this program can go on with the state that is descriptor 3.
fn check_state() -> ! {
    // SAFETY: the keeper passes the state as descriptor 3, which nothing else in this process knows.
    let state = File::from(unsafe { OwnedFd::from_raw_fd(3) });
    let mut word = [0; 8];
    state.read_exact_at(&mut word, 0).expect("what a daemon has saved");
    if &word == b"stubborn" {
        eprintln!("nobody understands this state");
        exit(1);
    }
    exit(0);
}

/// What a later keeper gets.
struct Held {
    device: File,
    state: File,
    listener: OwnedFd,
}

fn next_keeper(held: &Held, session: &MountStatus) -> OwnedFd {
    let keeper = accept(&held.listener).expect("another keeper");
    let process = pidfd_open(getpid(), PidfdFlags::empty()).expect("a pidfd of ourselves");
    let status = MountStatus { pid: getpid().as_raw_nonzero().get(), version: VERSION.into(), ..session.clone() };
    let message = ToKeeper { message: Some(to_keeper::Message::Session(status)) };
    let descriptors = [held.device.as_fd(), held.state.as_fd(), held.listener.as_fd(), process.as_fd()];
    efc_proto::send(&keeper, &message, &descriptors).expect("a keeper that listens");
    keeper
}

/// Returns the number of the mount's connection.
fn connect(control: &OwnedFd, host: &str) -> u32 {
    match host {
        "refused" => {
            let message = "the NAS refuses this client".to_owned();
            send(control, to_keeper::Message::Failed(Error { code: Code::PermissionDenied.into(), message }));
            exit(1);
        }
        "slow" => std::thread::park(),
        "hesitant" => std::thread::sleep(std::time::Duration::from_millis(300)),
        _ => {}
    }
    let root_mode = if host == "rootless" { 0 } else { DIRECTORY_MODE };
    send(control, to_keeper::Message::Connected(Connected { root_mode }));
    if host == "dies-connected" {
        exit(3);
    }
    let Some((ToDaemon { message: Some(to_daemon::Message::Mounted(mounted)) }, _)) = receive(control) else { exit(4) };
    if host == "dies-mounted" {
        exit(5);
    }
    mounted.connection
}

fn converse(control: &OwnedFd, host: &str, requests: &AtomicU64, resumed: bool, session: &mut MountStatus) {
    while let Some((ToDaemon { message: Some(message) }, _)) = receive(control) {
        match message {
            to_daemon::Message::Report(_) if host == "mute" => {}
            to_daemon::Message::Report(_) => {
                let stats = DaemonStats {
                    fuse_requests: requests.load(Ordering::Relaxed),
                    nas_responding: host != "nas-silent",
                    oldest_call_ms: 4_321,
                    resumed,
                    ..Default::default()
                };
                send(control, to_keeper::Message::Stats(stats));
            }
            to_daemon::Message::FindRoot(_) if host == "wordless" => {}
            to_daemon::Message::FindRoot(_) => {
                let root = FoundRoot { served: b"old".to_vec(), found: b"new".to_vec(), error: None };
                send(control, to_keeper::Message::Root(root));
            }
            to_daemon::Message::Configure(_) if host == "deaf" => {}
            to_daemon::Message::Configure(_) if host == "dies-configured" => exit(8),
            to_daemon::Message::Configure(configure) => {
                let message = "it will not".to_owned();
                let error = (host == "headstrong").then(|| Error { code: Code::Internal.into(), message });
                if error.is_none() {
                    session.options = configure.options;
                }
                send(control, to_keeper::Message::Configured(Configured { error }));
            }
            to_daemon::Message::Stop(_) => exit(0),
            to_daemon::Message::Resend(_) => {}
            to_daemon::Message::Drain(_) => exit(0),
            _ => exit(6),
        }
    }
}

fn send(control: &OwnedFd, message: to_keeper::Message) {
    // A keeper that is gone is no reason to end.
    let _ = efc_proto::send(control, &ToKeeper { message: Some(message) }, &[]);
}

fn receive(control: &OwnedFd) -> Option<(ToDaemon, Vec<OwnedFd>)> {
    efc_proto::receive(control).ok().flatten()
}

/// A request's header, as in `struct fuse_in_header`.
struct Request<'a> {
    opcode: u32,
    unique: u64,
    node: u64,
    body: &'a [u8],
}

fn parse(bytes: &[u8]) -> Request<'_> {
    let u32_at = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let u64_at = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    Request { opcode: u32_at(4), unique: u64_at(8), node: u64_at(16), body: &bytes[40..] }
}

fn reply(device: &mut File, unique: u64, error: i32, body: &[u8]) {
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend((16 + body.len() as u32).to_ne_bytes());
    message.extend((-error).to_ne_bytes());
    message.extend(unique.to_ne_bytes());
    message.extend(body);
    // ENOENT: the caller was interrupted meanwhile.
    let _ = device.write(&message);
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn initialize(device: &mut File) {
    let mut buffer = vec![0; 1 << 17];
    let size = device.read(&mut buffer).expect("INIT");
    let request = parse(&buffer[..size]);
    assert_eq!(request.opcode, 26, "INIT comes first");
    // Protocol 7.31, no flags, one page of data in a write: 64 bytes as in `struct fuse_init_out`.
    let mut answer = vec![7, 31, 0, 0, 0, 4096, 1];
    answer.resize(16, 0);
    reply(device, request.unique, 0, &words(&answer));
}

/// Asks for what the predecessor had taken and not answered: `FUSE_NOTIFY_RESEND`, of Linux 6.9.
fn resend(device: &mut File) {
    let notification = [&16u32.to_ne_bytes()[..], &7u32.to_ne_bytes(), &0u64.to_ne_bytes()].concat();
    // An older kernel knows no such thing; what was taken is lost there.
    let _ = device.write(&notification);
}

/// Serves until the session is over.
fn serve(device: &mut File, state: &File, requests: &AtomicU64, requests_max: u64, is_talkative: bool) {
    let mut buffer = vec![0; 1 << 17];
    loop {
        let size = match device.read(&mut buffer) {
            Ok(size) => size,
            Err(error) if error.raw_os_error() == Some(ENOENT) => continue,
            // ENODEV: unmounted or aborted.
            Err(_) => return,
        };
        if requests.fetch_add(1, Ordering::Relaxed) >= requests_max {
            loop {
                std::thread::park();
            }
        }
        if is_talkative {
            log::info!("{}", "word ".repeat(205));
        }
        let request = parse(&buffer[..size]);
        let attributes = |node: u64| {
            let (size, mode) = if node == 1 { (0, DIRECTORY_MODE) } else { (CONTENT.len() as u32, FILE_MODE) };
            // As in `struct fuse_attr`: ino, size, blocks, three times, their nanoseconds, mode, nlink, uid, gid, ...
            words(&[node as u32, 0, size, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0])
        };
        let answer = match request.opcode {
            // FORGET, INTERRUPT and BATCH_FORGET have no answer.
            2 | 36 | 42 => continue,
            // NOTIFY_REPLY: the keeper's beat.
            41 => {
                state.write_all_at(&request.unique.to_ne_bytes(), efc_proto::BEAT_OFFSET).expect("a note in the state");
                continue;
            }
            1 if request.body == b"hello\0" => Ok([words(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0]), attributes(2)].concat()),
            1 => Err(ENOENT),
            3 => Ok([words(&[0, 0, 0, 0]), attributes(request.node)].concat()),
            // OPEN and OPENDIR, with direct I/O, so that every read comes here.
            14 | 27 => Ok(words(&[0, 0, 1, 0])),
            15 => {
                state
                    .write_all_at(&request.node.to_ne_bytes(), efc_proto::WITNESS_OFFSET)
                    .expect("a note in the state");
                Ok(read(request.body).to_vec())
            }
            // READDIR of a directory that shows nothing.
            28 => Ok(Vec::new()),
            // RELEASE, FLUSH, RELEASEDIR
            18 | 25 | 29 => Ok(Vec::new()),
            _ => Err(ENOSYS),
        };
        match answer {
            Ok(body) => reply(device, request.unique, 0, &body),
            Err(error) => reply(device, request.unique, error, &[]),
        }
    }
}

fn read(body: &[u8]) -> &'static [u8] {
    let offset = u64::from_ne_bytes(body[8..16].try_into().expect("8 bytes")) as usize;
    &CONTENT[offset.min(CONTENT.len())..]
}
