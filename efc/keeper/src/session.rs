//! The life of one mount, on a thread of its own: first daemon, mount(2), successors, end.
//!
//! The thread owns the session (`/dev/fuse` and the state memfd). A daemon that dies is replaced on the same session, at
//! once; only one that keeps dying young is given time. What is over is told from what is broken by asking the kernel:
//! a session whose connection is over and whose mount is no longer listed was unmounted by somebody else, and ends; one
//! that is still listed was aborted, and stays, so that its applications get errors and not the empty directory below.
//!
//! Not guaranteed: a daemon that lives and does not answer is not replaced, and one that hangs in the kernel after
//! SIGKILL is replaced only when the kernel lets go of it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use efc_mount_helper::target::Target;
use efc_proto::error::Code;
use efc_proto::mount_status::State;
use efc_proto::{Error, Mounted, ReportRequest, Stop, to_daemon, to_keeper};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::cgroups::Cgroups;
use crate::daemon::{Daemon, timespec};
use crate::entry::{End, Entry};
use crate::failure::{failure, path_code};
use crate::helper::Helper;
use crate::identity::Identities;
use crate::isolation::Isolation;
use crate::kernel;
use crate::network::Networks;
use crate::program::NextProgram;

/// A daemon that dies within this time of its start has died young.
const YOUNG: Duration = Duration::from_secs(10);
/// Daemons that may die young, one after the other, before the next has to wait.
const YOUNG_DEATHS_MAX: u32 = 2;
/// The first wait; it doubles with every further young death ...
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// ... up to this.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// How long a successor, which asks nobody anything, may take to be ready.
const RESUME_TIME_LIMIT: Duration = Duration::from_secs(10);
/// How long a daemon may take to flush what is left after an unmount.
const FLUSH_TIME_LIMIT: Duration = Duration::from_secs(5);
/// How long a daemon may take to end when there is nothing to flush.
const END_TIME_LIMIT: Duration = Duration::from_millis(500);
/// How often an aborted mount is looked at, to see whether somebody has unmounted it.
const ABORTED_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The programs that sessions run, and where.
#[derive(Debug)]
pub struct Programs {
    /// `efcd`.
    pub daemon: NextProgram,
    /// Its cgroups; none: the keeper's.
    pub cgroups: Option<Cgroups>,
    /// Its users; none: `nobody`.
    pub identities: Option<Identities>,
    /// Its networks, beside the keeper's own.
    pub networks: Networks,
    /// `efc-mount-helper`.
    pub helper: Helper,
}

/// A session that holds its descriptors.
struct Session<'a> {
    entry: &'a Entry,
    programs: &'a Programs,
    isolation: Isolation<'a>,
    device: OwnedFd,
    state: OwnedFd,
    daemon: Option<Daemon>,
    /// The daemon serves, and has answered all reports that were asked for.
    is_ready: bool,
    report_pending: bool,
    young_deaths: u32,
    died_at: Option<Instant>,
}

enum Event {
    /// A client wants something.
    Wake,
    Message(to_keeper::Message),
    Died(Option<ExitStatus>),
    Deadline,
}

/// Mounts, and serves until the mount is gone. Clients follow this through `entry`; `forget` is called when nothing is
/// left, before they are told.
pub fn supervise(entry: &Arc<Entry>, programs: &Programs, target: Target, deadline: Instant, forget: impl FnOnce()) {
    let result = Session::start(entry, programs, target, deadline);
    let error = match result {
        Ok(mut session) => {
            log::info!("{}: mounted, connection {}", entry.target().display(), entry.status().connection);
            entry.mounted();
            let reason = session.serve();
            session.finish();
            log::info!("{}: {reason}", entry.target().display());
            None
        }
        Err(error) => {
            log::error!("{}: not mounted: {}", entry.target().display(), error.message);
            Some(error)
        }
    };
    forget();
    entry.ended(error);
}

impl<'a> Session<'a> {
    /// From nothing to Ready; on an error nothing is left.
    fn start(entry: &'a Entry, programs: &'a Programs, target: Target, deadline: Instant) -> Result<Self, Error> {
        let internal = |what: &str, error: io::Error| {
            failure(Code::Internal, format!("cannot {what} for {}: {error}", entry.target().display()))
        };
        refuse_mounted(&target)?;
        let directory = target.open().map_err(|errno| {
            let error = io::Error::from(errno);
            let message = match errno {
                Errno::NOENT => format!("target {} does not exist; create the directory", target.path().display()),
                Errno::NOTDIR => format!("target {} is not a directory", target.path().display()),
                _ => format!("cannot open the target {}: {error}", target.path().display()),
            };
            failure(path_code(&error), message)
        })?;
        let device = kernel::open_fuse().map_err(|error| internal("open /dev/fuse", error))?;
        let state = kernel::create_state().map_err(|error| internal("make the state memory", error))?;
        let mut session = Session {
            entry,
            programs,
            isolation: Isolation::new(programs, entry)?,
            device,
            state,
            daemon: None,
            is_ready: false,
            report_pending: false,
            young_deaths: 0,
            died_at: None,
        };
        session.spawn().map_err(|error| internal("start the daemon", error))?;
        let mut is_mounted = false;
        match session.first_daemon(&directory, deadline, &mut is_mounted) {
            Ok(()) => Ok(session),
            Err(error) => {
                session.undo(is_mounted);
                Err(error)
            }
        }
    }

    fn first_daemon(&mut self, directory: &OwnedFd, deadline: Instant, is_mounted: &mut bool) -> Result<(), Error> {
        let target = self.entry.target().display();
        let to_keeper::Message::Connected(connected) = self.next_message("connect to the NAS", deadline)? else {
            return Err(failure(Code::Internal, format!("the daemon for {target} spoke out of turn")));
        };
        kernel::mount(directory, &self.device, self.entry.config(), connected.root_mode)
            .map_err(|error| failure(Code::Internal, format!("cannot mount on {target}: {error}")))?;
        *is_mounted = true;
        self.send(to_daemon::Message::Mounted(Mounted {}));
        let to_keeper::Message::Ready(ready) = self.next_message("answer the kernel", deadline)? else {
            return Err(failure(Code::Internal, format!("the daemon for {target} spoke out of turn")));
        };
        let mount = kernel::mounted_at(self.entry.target()).ok().flatten();
        let mount = mount.filter(|mount| mount.filesystem == kernel::FILESYSTEM);
        let Some(mount) = mount else {
            return Err(failure(Code::Unavailable, format!("{target} was unmounted while it was being mounted")));
        };
        let connection = mount.device.1;
        if let Err(error) = kernel::set_read_ahead(connection, self.entry.config().read_ahead_kib) {
            log::warn!("{target}: read-ahead stays at the kernel's default: {error}");
        }
        self.entry.update(|status| {
            status.connection = connection;
            status.mounted_at_unix_ms =
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64);
            status.version = ready.version;
            status.set_state(State::Serving);
        });
        self.is_ready = true;
        Ok(())
    }

    /// The first daemon's next message; anything else that happens fails the start.
    fn next_message(&mut self, purpose: &str, deadline: Instant) -> Result<to_keeper::Message, Error> {
        loop {
            let target = self.entry.target().display();
            match self.next_event(Some(deadline)) {
                Event::Message(to_keeper::Message::Failed(error)) => return Err(error),
                Event::Message(message) => return Ok(message),
                Event::Wake if self.entry.end_wanted().is_some() => {
                    return Err(failure(
                        Code::Unavailable,
                        format!("the mount on {target} was given up: unmounted by force"),
                    ));
                }
                Event::Wake => {}
                Event::Died(status) => {
                    let how = describe_end(status);
                    return Err(failure(
                        Code::Internal,
                        format!("the daemon for {target} {how} before it could {purpose}"),
                    ));
                }
                Event::Deadline => {
                    let message = format!(
                        "the daemon for {target} could not {purpose} within the time limit; check that the NAS can be reached"
                    );
                    return Err(failure(Code::DeadlineExceeded, message));
                }
            }
        }
    }

    /// Serves until the session shall end or has ended; says why.
    fn serve(&mut self) -> &'static str {
        let mut deadline = None;
        loop {
            match self.next_event(deadline) {
                Event::Wake => {
                    if self.entry.end_wanted().is_some() {
                        return "unmounted";
                    }
                    self.request_report();
                }
                Event::Message(message) => {
                    if self.handle(message) {
                        deadline = None;
                    }
                }
                Event::Died(status) => {
                    self.is_ready = false;
                    if kernel::is_disconnected(&self.device) {
                        return self.disconnected();
                    }
                    let reason = format!("the daemon {}", describe_end(status));
                    deadline = Some(self.died(reason));
                }
                Event::Deadline if self.daemon.is_some() => {
                    self.bury(Duration::ZERO);
                    deadline = Some(self.died("the daemon did not get ready in time".to_owned()));
                }
                Event::Deadline => {
                    deadline = Some(match self.spawn() {
                        Ok(()) => Instant::now() + RESUME_TIME_LIMIT,
                        Err(error) => {
                            self.young_deaths += 1;
                            self.died(format!("no daemon can be started: {error}"))
                        }
                    });
                }
            }
        }
    }

    /// Takes a serving or resuming daemon's message; true if it got ready by it.
    fn handle(&mut self, message: to_keeper::Message) -> bool {
        let target = self.entry.target().display();
        match message {
            to_keeper::Message::Ready(ready) => {
                let pause_ms = self.died_at.take().map_or(0, |died_at| died_at.elapsed().as_millis());
                log::info!("{target}: the next daemon serves after {pause_ms} ms");
                self.is_ready = true;
                self.entry.update(|status| {
                    status.version = ready.version;
                    status.set_state(State::Serving);
                });
                return true;
            }
            to_keeper::Message::Stats(stats) => {
                self.report_pending = false;
                self.entry.reported(stats);
            }
            to_keeper::Message::Failed(error) => {
                log::error!("{target}: the daemon cannot go on: {}", error.message);
                self.entry.update(|status| status.reason = error.message);
            }
            to_keeper::Message::Connected(_) => {
                log::error!("{target}: the daemon found no session to resume, killing it");
                // Its death is noticed like any other.
                self.daemon.iter().for_each(Daemon::kill);
            }
        }
        false
    }

    /// Notes a death; when to start the next daemon.
    fn died(&mut self, reason: String) -> Instant {
        let now = Instant::now();
        self.died_at = self.died_at.or(Some(now));
        let delay = back_off(self.young_deaths);
        log::error!("{}: {reason}; the next one starts in {} ms", self.entry.target().display(), delay.as_millis());
        self.entry.update(|status| {
            status.pid = 0;
            status.reason = reason;
            status.set_state(State::Restarting);
        });
        now + delay
    }

    /// The connection is over: ended by an unmount, or only by an abort.
    fn disconnected(&mut self) -> &'static str {
        let connection = self.entry.status().connection;
        // An unreadable list proves nothing: look again.
        let is_listed = || kernel::is_listed(connection).unwrap_or(true);
        if !is_listed() {
            return if self.entry.is_ending() { "unmounted" } else { "unmounted by somebody else" };
        }
        log::error!("{}: the FUSE connection was aborted", self.entry.target().display());
        self.entry.update(|status| {
            status.pid = 0;
            status.reason = "the FUSE connection was aborted; unmount and mount again".to_owned();
            status.set_state(State::Aborted);
        });
        loop {
            match self.next_event(Some(Instant::now() + ABORTED_LOOK_INTERVAL)) {
                Event::Wake if self.entry.end_wanted().is_some() => return "unmounted after an abort",
                Event::Deadline if !is_listed() => return "unmounted by somebody else after an abort",
                _ => {}
            }
        }
    }

    fn spawn(&mut self) -> io::Result<()> {
        let program = self.programs.daemon.get();
        let daemon = Daemon::start(&program, &self.isolation, self.entry.config(), &self.device, &self.state)?;
        let is_successor = self.died_at.is_some();
        self.report_pending = false;
        self.entry.update(|status| {
            status.pid = daemon.pid();
            status.restarts += u32::from(is_successor);
        });
        self.daemon = Some(daemon);
        Ok(())
    }

    fn request_report(&mut self) {
        if self.entry.take_report_wanted() && self.is_ready && !self.report_pending {
            self.report_pending = true;
            self.send(to_daemon::Message::Report(ReportRequest {}));
        }
    }

    /// A daemon that cannot be told something has died, which is noticed by itself, or hangs, which has a deadline.
    fn send(&self, message: to_daemon::Message) {
        if let Some(Err(error)) = self.daemon.as_ref().map(|daemon| daemon.send(message)) {
            log::warn!("{}: cannot tell the daemon: {error}", self.entry.target().display());
        }
    }

    /// Ends the daemon of a session whose mount is gone.
    fn finish(&mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        let stopped = daemon.send(to_daemon::Message::Stop(Stop {}));
        let flush = stopped.is_ok() && self.entry.end_wanted() == Some(End::Flush);
        let status = daemon.end(if flush { FLUSH_TIME_LIMIT } else { END_TIME_LIMIT });
        log::info!("{}: the daemon {}", self.entry.target().display(), describe_end(status));
    }

    /// Takes back a start that failed: first the daemon and the session, so that nobody can hang on the mount.
    fn undo(self, is_mounted: bool) {
        let Session { entry, programs, device, state, daemon, .. } = self;
        if let Some(daemon) = daemon {
            daemon.kill();
            daemon.end(END_TIME_LIMIT);
        }
        drop((device, state));
        if is_mounted && let Err(error) = programs.helper.unmount(entry.target(), true) {
            log::error!("{}: {}", entry.target().display(), error.message);
        }
    }

    /// Waits for what happens next. A message comes before the death of the daemon that sent it.
    fn next_event(&mut self, deadline: Option<Instant>) -> Event {
        loop {
            let mut descriptors = vec![PollFd::new(self.entry.waker(), PollFlags::IN)];
            if let Some(daemon) = &self.daemon {
                descriptors.push(PollFd::new(daemon.control(), PollFlags::IN));
                descriptors.push(PollFd::new(daemon.process(), PollFlags::IN));
            }
            let limit = deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
            let polled = poll(&mut descriptors, limit.as_ref());
            let ready: Vec<bool> = descriptors.iter().map(|descriptor| !descriptor.revents().is_empty()).collect();
            drop(descriptors);
            match polled {
                Err(Errno::INTR) => continue,
                Err(errno) => {
                    // Out of memory: the mount must not end for it.
                    log::error!("{}: poll: {errno}", self.entry.target().display());
                    std::thread::sleep(BACK_OFF_MIN);
                    continue;
                }
                Ok(0) => return Event::Deadline,
                Ok(_) => {}
            }
            if ready[0] {
                kernel::clear(self.entry.waker());
                return Event::Wake;
            }
            if let Some(event) = self.daemon_event(ready[1]) {
                return event;
            }
        }
    }

    fn daemon_event(&mut self, has_message: bool) -> Option<Event> {
        if has_message {
            match self.daemon.as_ref()?.receive() {
                Ok(Some(message)) => return Some(Event::Message(message)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Ok(None) => {}
                Err(error) => log::error!("{}: from the daemon: {error}", self.entry.target().display()),
            }
        }
        // The process has ended, or is about to: without its socket a daemon is of no use to us.
        Some(Event::Died(self.bury(END_TIME_LIMIT)))
    }

    /// Takes the daemon away, which has `time_limit` to end by itself, and counts its death.
    fn bury(&mut self, time_limit: Duration) -> Option<ExitStatus> {
        let daemon = self.daemon.take()?;
        let is_young = daemon.started_at().elapsed() < YOUNG;
        self.young_deaths = if is_young { self.young_deaths + 1 } else { 0 };
        daemon.end(time_limit)
    }
}

/// How long the next daemon waits after so many young deaths in a row.
fn back_off(young_deaths: u32) -> Duration {
    match young_deaths.checked_sub(YOUNG_DEATHS_MAX + 1) {
        None => Duration::ZERO,
        Some(more) => BACK_OFF_MIN.saturating_mul(1 << more.min(16)).min(BACK_OFF_MAX),
    }
}

/// Refuses a target on which something is mounted, whatever it is.
fn refuse_mounted(target: &Target) -> Result<(), Error> {
    let mounted = kernel::mounted_at(target.path())
        .map_err(|error| failure(Code::Internal, format!("cannot read the list of mounts: {error}")))?;
    let Some(mount) = mounted else { return Ok(()) };
    let path = target.path().display();
    let message = if mount.filesystem == kernel::FILESYSTEM {
        format!("{path} is an EFC mount that this keeper did not make; unmount it first")
    } else {
        format!("something else ({}) is mounted on {path}", mount.filesystem)
    };
    Err(failure(Code::AlreadyExists, message))
}

fn describe_end(status: Option<ExitStatus>) -> String {
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => format!("exited with status {code}"),
        Some((_, Some(signal))) => format!("was killed by signal {signal}"),
        _ => "was killed and hangs in the kernel".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_starts_with_the_third_young_death() {
        let waits_ms: Vec<u128> = (0..12).map(|deaths| back_off(deaths).as_millis()).collect();
        assert_eq!(waits_ms, [0, 0, 0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(back_off(u32::MAX), BACK_OFF_MAX);
    }

    #[test]
    fn ends_are_described() {
        assert_eq!(describe_end(Some(ExitStatus::from_raw(7 << 8))), "exited with status 7");
        assert_eq!(describe_end(Some(ExitStatus::from_raw(9))), "was killed by signal 9");
    }
}
