//! `efc-keeper`: mounts, holds each mount's FUSE session, and keeps a daemon running on it.
//!
//! The session outlives its daemons because the keeper holds it too. So the keeper does as little as possible: it opens
//! no path below a mount of its own, has no working directory there, never waits for a daemon without a limit, and
//! leaves what may hang (umount2) to a child process. Each client and each mount has a thread of its own; one more
//! thread each watches files that options name, the networks that daemons are in, and the size of the log.
//!
//! At the first SIGTERM or SIGINT it accepts no new mounts and ends when the last one is gone; at the second it ends at
//! once. Its daemons keep serving without it, and the next keeper takes them over.

mod backing;
mod cgroups;
mod clients;
mod daemon;
mod entry;
mod failure;
mod files;
mod following;
mod held;
mod helper;
mod identity;
mod inheritance;
mod isolation;
mod kernel;
mod log_file;
mod mounts;
mod moving;
mod network;
mod privileges;
mod program;
mod programs;
mod session;
mod socket;
mod stores;
mod takeover;
mod target;
mod waiting;
mod wishes;

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use efc_process::{LimitedLog, LogLimits};
use efc_proto::NamedSocket;
use lexopt::prelude::*;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cgroups::Cgroups;
use crate::clients::Clients;
use crate::held::Listeners;
use crate::helper::Helper;
use crate::identity::Identities;
use crate::mounts::Mounts;
use crate::network::Networks;
use crate::program::NextProgram;
use crate::programs::Programs;
use crate::socket::RunDir;
use crate::stores::Stores;

/// A line of each mount at once, and nothing that repeats for ever.
const LOG_LIMITS: LogLimits = LogLimits { burst: 1_000, pause: Duration::from_secs(1) };
/// How often a keeper that is to end looks whether it may.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long nobody may have wanted anything before an idle keeper ends.
const IDLE_TIME_LIMIT: Duration = Duration::from_secs(1);
/// How long the first client may take to come.
const FIRST_CLIENT_TIME_LIMIT: Duration = Duration::from_secs(10);

/// How long daemons of an earlier keeper may take to introduce themselves before clients are let in.
const TAKE_OVER_TIME_LIMIT: Duration = Duration::from_millis(500);

/// Where a node shows its cgroups.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

const USAGE: &str = "usage: efc-keeper [--run-dir DIR] [--daemon PATH] [--exit-when-idle] [--daemon-uids FIRST-LAST]
                  [--daemon-cgroup NAME [--cgroup-root DIR] [--daemon-memory-max BYTES]] [--cache-dir DIR]...";

#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    run_dir: PathBuf,
    daemon: Option<PathBuf>,
    exit_when_idle: bool,
    daemon_cgroup: Option<String>,
    cgroup_root: Option<PathBuf>,
    daemon_memory_max_bytes: Option<u64>,
    daemon_uids: Option<(u32, u32)>,
    cache_dirs: Vec<PathBuf>,
}

fn main() -> ExitCode {
    // SAFETY: nothing has been opened yet.
    let closed = unsafe { inheritance::close_inherited_descriptors() };
    let arguments = match parse(std::env::args_os().skip(1), std::env::var_os("RUN_DIR")) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("efc-keeper: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    start_logging();
    if let Err(error) = inheritance::unblock_stderr() {
        log::warn!("standard error may block: {error}");
    }
    if let Err(error) = closed {
        log::warn!("descriptors that were inherited stay open: {error}");
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start_logging() {
    let logger = env_logger::Builder::new().filter_level(log::LevelFilter::Info).build();
    if log::set_boxed_logger(Box::new(LimitedLog::new(logger, LOG_LIMITS))).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}

fn parse(arguments: impl Iterator<Item = OsString>, run_dir: Option<OsString>) -> Result<Arguments, lexopt::Error> {
    let run_dir = run_dir.filter(|run_dir| !run_dir.is_empty()).unwrap_or_else(|| "/run/efc".into());
    let run_dir = PathBuf::from(run_dir);
    let mut parsed = Arguments { run_dir, ..Arguments::default() };
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("run-dir") => parsed.run_dir = parser.value()?.into(),
            Long("daemon") => parsed.daemon = Some(parser.value()?.into()),
            Long("exit-when-idle") => parsed.exit_when_idle = true,
            Long("daemon-cgroup") => parsed.daemon_cgroup = Some(parser.value()?.string()?),
            Long("cgroup-root") => parsed.cgroup_root = Some(parser.value()?.into()),
            Long("daemon-memory-max") => parsed.daemon_memory_max_bytes = Some(parser.value()?.parse()?),
            Long("cache-dir") => {
                let directory = PathBuf::from(parser.value()?);
                if !directory.is_absolute() {
                    return Err(format!("--cache-dir: {directory:?} is not an absolute path").into());
                }
                parsed.cache_dirs.push(directory);
            }
            Long("daemon-uids") => {
                let range = parser.value()?.string()?;
                parsed.daemon_uids = Some(Identities::parse_range(&range).ok_or_else(|| {
                    format!("--daemon-uids: {range:?} is not FIRST-LAST, two user ids above 0 in this order")
                })?);
            }
            other => return Err(other.unexpected()),
        }
    }
    if let Some(name) = &parsed.daemon_cgroup {
        let is_plain = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_plain) {
            return Err(
                format!("--daemon-cgroup: {name:?} is not one name of letters, digits, '-', '_' and '.'").into()
            );
        }
    } else if parsed.cgroup_root.is_some() || parsed.daemon_memory_max_bytes.is_some() {
        return Err("--cgroup-root and --daemon-memory-max need --daemon-cgroup".into());
    }
    Ok(parsed)
}

fn run(arguments: &Arguments) -> io::Result<()> {
    privileges::drop_unneeded(arguments.daemon_cgroup.is_some())?;
    let place = RunDir::take(&arguments.run_dir)?;
    let programs = find_programs(arguments, &place)?;
    let cgroups = programs.cgroups.clone();
    std::env::set_current_dir("/")?;
    raise_descriptor_limit()?;
    let (mut signals, sender) = UnixStream::pair()?;
    signals.set_nonblocking(true)?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    let mounts = Arc::new(Mounts::new(programs));
    // Before any client can ask for what is there already.
    mounts.take_over(TAKE_OVER_TIME_LIMIT)?;
    let listener = place.listen()?;
    log::info!("serving {}", arguments.run_dir.display());
    let (followed, moved) = (Arc::downgrade(&mounts), Arc::downgrade(&mounts));
    waiting::start_thread("following", move || following::follow(&followed))?;
    waiting::start_thread("moving", move || moving::follow(&moved))?;
    let run_dir = place.run_dir().to_owned();
    waiting::start_thread("log", move || log_file::keep_short(&run_dir))?;
    let clients = Clients::new(mounts.clone());
    let keeper = Keeper { listener, mounts, clients, exit_when_idle: arguments.exit_when_idle };
    keeper.serve(&mut signals)?;
    cgroups.iter().for_each(Cgroups::leave);
    Ok(())
}

/// A thousand mounts need more descriptors than the usual soft limit; the hard limit is what the administrator meant.
fn raise_descriptor_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

fn find_programs(arguments: &Arguments, place: &RunDir) -> io::Result<Programs> {
    let own = std::env::current_exe()?;
    let beside = |name: &str| own.with_file_name(name);
    let daemon = match &arguments.daemon {
        Some(path) => path
            .canonicalize()
            .map_err(|error| io::Error::new(error.kind(), format!("the daemon {}: {error}", path.display())))?,
        None => beside("efcd"),
    };
    let cgroup_root = arguments.cgroup_root.as_deref().unwrap_or(Path::new(CGROUP_ROOT));
    let cgroups = arguments.daemon_cgroup.as_ref().map(|name| {
        Cgroups::new(name, cgroup_root, arguments.daemon_memory_max_bytes)
            .map_err(|error| io::Error::new(error.kind(), format!("no cgroups for daemons: {error}")))
    });
    let daemon = NextProgram::new(daemon);
    let identities = arguments.daemon_uids.map(|(first, last)| Identities::new(first, last));
    Ok(Programs {
        daemon,
        cgroups: cgroups.transpose()?,
        identities: identities.transpose()?,
        networks: Networks::new(place.run_dir()),
        stores: Stores::new(arguments.cache_dirs.clone()),
        helper: Helper::new(beside("efc-mount-helper")),
        listeners: Listeners::new(place.run_dir())?,
    })
}

struct Keeper {
    listener: NamedSocket,
    mounts: Arc<Mounts>,
    clients: Clients,
    exit_when_idle: bool,
}

impl Keeper {
    /// Accepts clients until it is time to end.
    fn serve(&self, signals: &mut UnixStream) -> io::Result<()> {
        let mut is_draining = false;
        let mut idle_at = Instant::now() + FIRST_CLIENT_TIME_LIMIT;
        loop {
            let limit = (is_draining || self.exit_when_idle).then(|| waiting::timespec(LOOK_INTERVAL));
            let mut descriptors = [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&*signals, PollFlags::IN)];
            match poll(&mut descriptors, limit.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if self.accept() {
                idle_at = Instant::now() + IDLE_TIME_LIMIT;
            }
            for _ in 0..signals_received(signals)? {
                if is_draining {
                    log::warn!("ending with {} mounts, their daemons serve on", self.mounts.count());
                    return self.listener.remove();
                }
                log::info!("taking no new mounts; {} left", self.mounts.count());
                self.mounts.drain();
                is_draining = true;
            }
            if self.mounts.count() > 0 || self.clients.count() > 0 {
                idle_at = idle_at.max(Instant::now() + IDLE_TIME_LIMIT);
            }
            let is_idle = self.exit_when_idle && Instant::now() >= idle_at;
            let is_drained = is_draining && self.mounts.count() == 0 && self.clients.waiting() == 0;
            if (is_idle || is_drained) && self.close()? {
                return Ok(());
            }
        }
    }

    /// Accepts those who wait; true if there were any.
    fn accept(&self) -> bool {
        let mut accepted = false;
        loop {
            match socket::accept(&self.listener) {
                Ok(Some(client)) => self.clients.serve(client),
                Ok(None) => return accepted,
                Err(error) => {
                    log::error!("cannot accept a client: {error}");
                    // Out of descriptors or memory: the client waits, and so do we, rather than spin.
                    std::thread::sleep(LOOK_INTERVAL);
                    return accepted;
                }
            }
            accepted = true;
        }
    }

    /// Takes the socket away; false, and back again, if a client came at the last moment.
    fn close(&self) -> io::Result<bool> {
        self.listener.hide()?;
        if self.accept() {
            self.listener.show()?;
            return Ok(false);
        }
        self.listener.remove()?;
        Ok(true)
    }
}

/// How many signals have come since the last look.
fn signals_received(signals: &mut UnixStream) -> io::Result<usize> {
    let mut received = [0; 16];
    match signals.read(&mut received) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        read => read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str, run_dir: Option<&str>) -> Result<Arguments, String> {
        parse(line.split_whitespace().map(OsString::from), run_dir.map(OsString::from))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn command_lines() {
        let defaults = Arguments { run_dir: "/run/efc".into(), ..Arguments::default() };
        assert_eq!(parse_line("", None), Ok(defaults));
        assert_eq!(parse_line("", Some("/r")).unwrap().run_dir, Path::new("/r"));
        assert_eq!(parse_line("", Some("")).unwrap().run_dir, Path::new("/run/efc"));
        let all = Arguments {
            run_dir: "/a".into(),
            daemon: Some("d".into()),
            exit_when_idle: true,
            daemon_cgroup: Some("efc".into()),
            cgroup_root: Some("/c".into()),
            daemon_memory_max_bytes: Some(1 << 30),
            daemon_uids: Some((5, 6)),
            cache_dirs: vec!["/d".into(), "/e".into()],
        };
        let caches = "--cache-dir /d --cache-dir=/e";
        let line = "--run-dir /a --daemon=d --exit-when-idle --daemon-uids 5-6 --daemon-cgroup efc --cgroup-root /c";
        assert_eq!(parse_line(&format!("{line} --daemon-memory-max 1073741824 {caches}"), Some("/r")), Ok(all));
        for bad in [
            "--run-dir",
            "--what",
            "word",
            "--exit-when-idle=yes",
            "--cgroup-root /c",
            "--daemon-memory-max 1",
            "--daemon-uids 0-6",
            "--cache-dir relative",
        ] {
            assert!(parse_line(bad, None).is_err(), "{bad}");
        }
        for bad in ["", "..", "a/b", "--daemon-memory-max=1M", "--daemon-memory-max=-1"] {
            assert!(parse_line(&format!("--daemon-cgroup efc --daemon-cgroup={bad}"), None).is_err(), "{bad}");
        }
    }
}
