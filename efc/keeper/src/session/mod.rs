//! The life of one mount, on a thread of its own: how it begins, its daemons one after the other, its end.
//!
//! The thread holds the session, as others may too: its daemon, and clients that asked for it. A daemon that dies or
//! hangs is replaced on the same session at once; only after several that died as soon as they served, the next one is
//! delayed. Nobody waits for the death of a daemon that was sent SIGKILL. It executes nothing any more, even if the
//! kernel does not release it until its successor has answered something; when it is gone, the successor asks once more
//! for redelivery of what it had read.
//!
//! Whether a session has ended or is broken is found out by asking the kernel. If its connection has ended and its
//! mount is no longer listed, somebody else unmounted it, and the session ends. If the mount is still listed, the
//! connection was aborted; then the session stays, so that its applications get errors and do not see the empty
//! directory below.

mod backings;
mod beginning;
mod deaths;
mod heartbeat;
mod upgrade;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use efc_proto::mount_status::State;
use efc_proto::{Error, FindRoot, Ready, ReportRequest, Resend, Stop, to_daemon, to_keeper};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::backing::Backings;
use crate::daemon::{Daemon, Ending};
use crate::entry::{End, MountEntry};
use crate::held::Held;
use crate::isolation::Isolation;
use crate::kernel;
use crate::program::Program;
use crate::programs::Programs;
use crate::stores::{Store, User};
use crate::waiting::timespec;
pub use beginning::Origin;
use deaths::{Deaths, YOUNG_OF_MEMORY, dated};
use heartbeat::{Heartbeat, Pulse};
use upgrade::Upgrade;

/// A daemon that dies before it is ready, or within this time after, has died young.
const YOUNG: Duration = Duration::from_millis(300);
/// The number of daemons in a row that may die young before the next one is delayed.
const YOUNG_DEATHS_MAX: u32 = 4;
/// The first delay; it doubles with every further young death ...
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// ... up to this.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// Time limit for a successor to be ready; it need not ask anybody.
const RESUME_TIME_LIMIT: Duration = Duration::from_secs(10);
/// Time limit for a daemon to flush after an unmount.
const FLUSH_TIME_LIMIT: Duration = Duration::from_secs(5);
/// Time limit for a daemon to end when there is nothing to flush.
const END_TIME_LIMIT: Duration = Duration::from_millis(500);
/// The reason shown for a mount whose connection somebody else has ended.
const ABORTED: &str = "the FUSE connection was aborted; unmount and mount again";
/// How often to check whether somebody has unmounted an aborted mount.
const ABORTED_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A running session, with its descriptors.
struct SessionRun<'a> {
    entry: &'a MountEntry,
    programs: &'a Programs,
    isolation: Isolation<'a>,
    held: Arc<Held>,
    daemon: Option<Daemon>,
    /// Daemons that were killed and have not ended yet.
    predecessors: Vec<Daemon>,
    /// Since when the daemon serves.
    ready_at: Option<Instant>,
    report_pending: bool,
    heartbeat: Heartbeat,
    young_deaths: u32,
    deaths: Deaths,
    died_at: Option<Instant>,
    /// When the daemon must be ready, or when the next one is started.
    deadline: Option<Instant>,
    /// The program that the daemon runs.
    program: Arc<Program>,
    /// The daemons' local store.
    store: Option<Store>,
    /// Files of the store that the kernel reads by passthrough.
    backings: Backings,
    upgrade: Option<Upgrade>,
}

enum Event {
    /// A client wants something.
    Wake,
    /// With the descriptors beside it.
    Message(Box<to_keeper::Message>, Vec<OwnedFd>),
    Died(Ending),
    /// A predecessor has ended, given by its index in the list.
    Gone(usize),
    /// It is time for a beat.
    Beat,
    Deadline,
}

/// Runs a session until its mount is gone. Clients observe it through `entry`; `forget` is called when nothing is left,
/// before they are told.
pub fn supervise(entry: &Arc<MountEntry>, programs: &Programs, origin: Origin, forget: impl FnOnce()) {
    let error = match SessionRun::begin(entry, programs, origin) {
        Ok(mut session) => {
            log::info!("{}: mounted, connection {}", entry.target().display(), entry.status().connection);
            entry.mounted(session.held.clone());
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

impl<'a> SessionRun<'a> {
    fn new(entry: &'a MountEntry, programs: &'a Programs, isolation: Isolation<'a>, held: Arc<Held>) -> SessionRun<'a> {
        let deaths = Deaths::new(isolation.cgroup());
        SessionRun {
            entry,
            programs,
            isolation,
            held,
            daemon: None,
            predecessors: Vec::new(),
            ready_at: None,
            report_pending: false,
            heartbeat: Heartbeat::new(entry.options().hang_limit_ms),
            young_deaths: 0,
            deaths,
            died_at: None,
            deadline: None,
            program: programs.daemon.get(),
            store: None,
            backings: Backings::default(),
            upgrade: None,
        }
    }

    /// Runs until the session is to end or has ended, and returns why.
    fn serve(&mut self) -> &'static str {
        loop {
            self.begin_upgrades();
            match self.next_event() {
                Event::Wake if self.entry.end_wanted().is_some() => return "unmounted",
                Event::Wake => self.request_report(),
                Event::Message(message, descriptors) => self.handle(*message, &descriptors),
                Event::Died(ending) => {
                    if kernel::is_disconnected(&self.held.device) {
                        return self.disconnected(ABORTED.to_owned());
                    }
                    let reason = self.reason_of(ending);
                    if !self.go_on_with_upgrade(&reason) {
                        if let Some(reason) = self.given_up() {
                            return self.disconnected(reason);
                        }
                        self.died(reason);
                    }
                }
                Event::Gone(index) => self.predecessor_gone(index),
                Event::Beat => self.beat(),
                Event::Deadline if self.is_configuring() => self.configured(Some("it does not answer".to_owned())),
                Event::Deadline if self.daemon.is_some() => {
                    self.bury(Duration::ZERO);
                    self.replace("the daemon did not get ready in time".to_owned());
                }
                Event::Deadline => {
                    if let Err(error) = self.spawn() {
                        self.young_deaths += 1;
                        self.died(format!("no daemon can be started: {error}"));
                    }
                }
            }
        }
    }

    /// Handles a message of a serving or resuming daemon.
    fn handle(&mut self, message: to_keeper::Message, descriptors: &[OwnedFd]) {
        let target = self.entry.target().display();
        match message {
            to_keeper::Message::Ready(ready) if self.ready_at.is_none() => {
                let pause_ms = self.died_at.take().map_or(0, |died_at| died_at.elapsed().as_millis());
                log::info!("{target}: the next daemon serves after {pause_ms} ms");
                self.ready(ready);
            }
            to_keeper::Message::Stats(stats) => {
                self.report_pending = false;
                self.heartbeat.reported();
                self.daemon.iter().for_each(Daemon::watch_control_thread);
                self.entry.reported(stats);
            }
            to_keeper::Message::Root(root) => self.entry.root_found(root),
            to_keeper::Message::Configured(configured) => {
                self.configured(configured.error.map(|error| error.message));
            }
            to_keeper::Message::BackingOpen(asked) => self.open_backing(asked.token, descriptors),
            to_keeper::Message::BackingClose(closed) => self.close_backing(closed.id),
            to_keeper::Message::BackingsKept(kept) => self.backings.keep(&self.held.device, &kept.ids),
            to_keeper::Message::Failed(error) => {
                log::error!("{target}: the daemon cannot go on: {}", error.message);
                self.deaths.failed(&error);
                self.entry.update(|status| status.reason = error.message);
            }
            // A daemon is ready once, connects before it is mounted, and introduces itself when it is taken over.
            to_keeper::Message::Ready(_) | to_keeper::Message::Connected(_) | to_keeper::Message::Session(_) => {
                log::error!("{target}: the daemon sent an unexpected message, killing it");
                // Its death is noticed like any other.
                self.daemon.iter().for_each(Daemon::kill);
            }
        }
    }

    fn ready(&mut self, ready: Ready) {
        self.entry.update(|status| {
            status.version = ready.version;
            status.live_fields = ready.live_fields;
            status.set_state(State::Serving);
        });
        self.deaths.forget_refusals();
        self.serves(Instant::now(), ready.beats);
        self.end_upgrade();
    }

    fn serves(&mut self, now: Instant, beats: bool) {
        self.ready_at = Some(now);
        self.deadline = None;
        if beats {
            self.heartbeat.start(now);
        }
    }

    /// Checks whether the daemon still reads requests, and replaces it if not.
    fn beat(&mut self) {
        if self.heartbeat.has_lost_requests(&self.held).is_ok_and(|has| has) {
            log::info!("{}: a predecessor has found that it has a successor", self.entry.target().display());
            self.resend();
        }
        let pulse = match self.heartbeat.beat(&self.held, Instant::now()) {
            Ok(pulse) => pulse,
            Err(error) => return log::error!("{}: no heartbeat: {error}", self.entry.target().display()),
        };
        let hung = match pulse {
            Pulse::Missing(age) => Some(format!("the daemon hung for {} ms", age.as_millis())),
            _ if self.daemon.as_ref().is_some_and(Daemon::is_doomed) => None,
            Pulse::Ask => return self.ask_for_report(),
            Pulse::Wait => return,
        };
        if let Some(ending) = self.bury(Duration::ZERO) {
            self.replace(hung.unwrap_or_else(|| format!("the daemon {ending}")));
        }
    }

    /// The daemon is gone: an upgrade continues with another program; after any other death a successor is started.
    fn replace(&mut self, reason: String) {
        if !self.go_on_with_upgrade(&reason) {
            self.died(reason);
        }
    }

    /// Records a death, and when to start the next daemon.
    fn died(&mut self, reason: String) {
        let now = Instant::now();
        self.died_at = self.died_at.or(Some(now));
        let delay = back_off(self.young_deaths);
        log::error!("{}: {reason}; the next one starts in {} ms", self.entry.target().display(), delay.as_millis());
        let waits = if delay.is_zero() {
            String::new()
        } else {
            format!(", {} times in a row as soon as it served; the next starts in {delay:?}", self.young_deaths)
        };
        self.entry.update(|status| {
            status.pid = 0;
            status.reason = dated(&reason, SystemTime::now()) + &waits;
            status.set_state(State::Restarting);
        });
        self.deadline = Some(now + delay);
    }

    /// A predecessor has ended: the requests that it had read meanwhile are redelivered once more.
    fn predecessor_gone(&mut self, index: usize) {
        let mut gone = self.predecessors.swap_remove(index);
        log::info!("{}: the daemon {} has ended at last", self.entry.target().display(), gone.pid());
        gone.end(Duration::ZERO);
        self.resend();
    }

    /// Tells the daemon to ask for redelivery. One that is not ready yet reads this when it is.
    fn resend(&self) {
        let predecessor_remains = !self.predecessors.is_empty();
        self.send(to_daemon::Message::Resend(Resend { predecessor_remains }));
    }

    /// The connection has ended, by an unmount or only by an abort.
    fn disconnected(&mut self, reason: String) -> &'static str {
        let connection = self.entry.status().connection;
        // An unreadable list proves nothing: look again.
        let is_listed = || kernel::is_listed(connection).unwrap_or(true);
        if !is_listed() {
            return if self.entry.is_ending() { "unmounted" } else { "unmounted by somebody else" };
        }
        log::error!("{}: the FUSE connection was aborted", self.entry.target().display());
        self.entry.update(|status| {
            status.pid = 0;
            status.reason = reason;
            status.set_state(State::Aborted);
        });
        loop {
            self.begin_upgrades(); // which refuses them
            self.deadline = Some(Instant::now() + ABORTED_LOOK_INTERVAL);
            match self.next_event() {
                Event::Wake if self.entry.end_wanted().is_some() => return "unmounted after an abort",
                Event::Deadline if !is_listed() => return "unmounted by somebody else after an abort",
                _ => {}
            }
        }
    }

    /// Starts the next daemon.
    fn spawn(&mut self) -> io::Result<()> {
        self.spawn_program(self.next_program(), RESUME_TIME_LIMIT)
    }

    /// The program that is installed now; the former one as long as there is something that only that knows of, and where only that
    /// can read the state.
    fn next_program(&self) -> Arc<Program> {
        let next = self.programs.daemon.get();
        let can_take = self.can_go_on(&next) && self.can_take_layout(&next);
        if can_take { next } else { self.program.clone() }
    }

    /// Whether daemons of this program can continue with features that 0.1.0 does not know, if the state uses any: held
    /// data, and files that the kernel reads or opens by itself.
    pub(super) fn can_go_on(&self, program: &Arc<Program>) -> bool {
        if self.holdings() == 0 || Arc::ptr_eq(program, &self.program) {
            return true;
        }
        let can_take = program.check_state(&self.held.state).unwrap_or(true); // whatever else is wrong shows when it starts
        if !can_take {
            log::warn!(
                "{}: the installed program knows nothing of data that is held back, of passthrough and of small-files: the former one goes on",
                self.entry.target().display()
            );
        }
        can_take
    }

    /// Which of these features the state uses, as bits.
    pub(super) fn holdings(&self) -> u64 {
        kernel::read_note(&self.held.state, efc_proto::HOLDING_OFFSET).unwrap_or(0)
    }

    /// Whether daemons of this program can read the state, if its layout is not the one that every release reads.
    fn can_take_layout(&self, program: &Arc<Program>) -> bool {
        let layout = kernel::read_note(&self.held.state, efc_proto::LAYOUT_OFFSET).unwrap_or_default();
        if u64::from(layout as u32) <= efc_proto::LAYOUT_OF_ONE_SOURCE || Arc::ptr_eq(program, &self.program) {
            return true;
        }
        let checked = program.check_state(&self.held.state);
        if let Err(error) = &checked {
            let target = self.entry.target().display();
            log::warn!("{target}: the installed program cannot go on with the state ({error}): the former one goes on");
        }
        checked.is_ok()
    }

    fn spawn_program(&mut self, program: Arc<Program>, limit: Duration) -> io::Result<()> {
        let (is_successor, is_upgrade) = (self.died_at.is_some(), self.upgrade.is_some());
        self.entry.update(|status| {
            status.restarts += u32::from(is_successor);
            status.upgrades += u32::from(is_successor && is_upgrade);
            status.live_fields.clear();
        });
        assert!(self.daemon.is_none(), "a session has one daemon at a time");
        if let Err(error) = self.have_store() {
            log::error!("{}: no local store: {}", self.entry.target().display(), error.message);
        }
        let status = self.entry.status();
        let predecessor_remains = !self.predecessors.is_empty();
        let store = self.store.as_ref();
        let daemon = Daemon::start(&program, &self.isolation, &status, predecessor_remains, &self.held, store)?;
        self.program = program;
        self.report_pending = false;
        self.entry.update(|status| status.pid = daemon.pid());
        self.daemon = Some(daemon);
        self.deadline = Some(Instant::now() + limit);
        Ok(())
    }

    /// Acquires the store that the options ask for.
    ///
    /// # Errors
    /// The reason why there is none. A serving mount continues without one.
    fn have_store(&mut self) -> Result<(), Error> {
        let (options, stores) = (self.entry.options(), &self.programs.stores);
        if self.store.as_ref().is_some_and(|store| stores.serves(store, &options)) {
            return Ok(());
        }
        self.store = None;
        let taken = self.take_store();
        self.entry.update(|status| match &taken {
            Ok(store) => {
                status.store = store.as_ref().map_or_else(String::new, |store| store.path().to_string_lossy().into());
                status.store_missing.clear();
            }
            // It may be back when the next daemon starts.
            Err(error) => status.store_missing.clone_from(&error.message),
        });
        self.store = taken?;
        Ok(())
    }

    /// Finds the store that a daemon of an earlier keeper uses.
    fn find_store(&mut self) {
        let path = self.entry.status().store;
        if !path.is_empty() {
            self.store = self.take_store().ok().flatten().filter(|store| store.path() == Path::new(&path));
        }
    }

    /// The store that the options ask for, if possible the former one.
    fn take_store(&self) -> Result<Option<Store>, Error> {
        let user = User { target: self.entry.target(), uid: self.isolation.uid() };
        self.programs.stores.take(&self.entry.options(), user, &self.entry.status().store)
    }

    fn request_report(&mut self) {
        if self.entry.take_root_wanted() && self.ready_at.is_some() {
            self.send(to_daemon::Message::FindRoot(FindRoot {}));
        }
        if self.entry.take_report_wanted() && self.ready_at.is_some() {
            self.ask_for_report();
        }
    }

    fn ask_for_report(&mut self) {
        if !self.report_pending {
            self.report_pending = true;
            self.send(to_daemon::Message::Report(ReportRequest { opens_backing: self.store.is_some() }));
        }
    }

    /// Sends a message to the daemon. An error is only logged: the daemon has died, which is noticed, or hangs, which has a
    /// deadline.
    fn send(&self, message: to_daemon::Message) {
        if let Some(Err(error)) = self.daemon.as_ref().map(|daemon| daemon.send(message)) {
            log::warn!("{}: cannot tell the daemon: {error}", self.entry.target().display());
        }
    }

    /// Ends the daemon of a session whose mount is gone.
    fn finish(&mut self) {
        self.held.forget();
        self.predecessors.drain(..).for_each(Daemon::leave_to_a_thread);
        let Some(mut daemon) = self.daemon.take() else { return };
        let stopped = daemon.send(to_daemon::Message::Stop(Stop {}));
        let flush = stopped.is_ok() && self.entry.end_wanted() == Some(End::Flush);
        let ending = daemon.end(if flush { FLUSH_TIME_LIMIT } else { END_TIME_LIMIT });
        log::info!("{}: the daemon {ending}", self.entry.target().display());
        if ending == Ending::Hangs {
            daemon.leave_to_a_thread();
        }
    }

    /// Waits for the next event. A message comes before the death of the daemon that sent it.
    fn next_event(&mut self) -> Event {
        loop {
            let mut descriptors = vec![PollFd::new(self.entry.waker(), PollFlags::IN)];
            descriptors.extend(self.predecessors.iter().map(|gone| PollFd::new(gone.process(), PollFlags::IN)));
            if let Some(daemon) = &self.daemon {
                descriptors.push(PollFd::new(daemon.control(), PollFlags::IN));
                descriptors.push(PollFd::new(daemon.process(), PollFlags::IN));
                descriptors.extend(daemon.control_thread().map(|thread| PollFd::new(thread, PollFlags::IN)));
            }
            let until = self.deadline.into_iter().chain(self.heartbeat.due()).min();
            let limit = until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
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
                Ok(0) if self.deadline == until => return Event::Deadline,
                Ok(0) => return Event::Beat,
                Ok(_) => {}
            }
            if ready[0] {
                kernel::clear(self.entry.waker());
                return Event::Wake;
            }
            let (gone, daemon) = ready[1..].split_at(self.predecessors.len());
            if let Some(index) = gone.iter().position(|gone| *gone) {
                return Event::Gone(index);
            }
            if let Some(event) = self.daemon_event(daemon[0]) {
                return event;
            }
        }
    }

    fn daemon_event(&mut self, has_message: bool) -> Option<Event> {
        if has_message {
            match self.daemon.as_ref()?.receive() {
                Ok(Some((message, descriptors))) => return Some(Event::Message(Box::new(message), descriptors)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Ok(None) => {}
                Err(error) => log::error!("{}: from the daemon: {error}", self.entry.target().display()),
            }
        }
        // The process has ended, or is about to: without its socket or the thread behind that a daemon is of no use to us.
        let is_doomed = self.daemon.as_ref()?.is_doomed();
        self.bury(if is_doomed { Duration::ZERO } else { END_TIME_LIMIT }).map(Event::Died)
    }

    /// Waits for the daemon to end by itself for `time_limit`, kills it otherwise, and counts its death.
    fn bury(&mut self, time_limit: Duration) -> Option<Ending> {
        let mut daemon = self.daemon.take()?;
        self.heartbeat.stop();
        self.entry.daemon_ended();
        let is_upgrade = self.upgrade.is_some();
        let served_for = self.ready_at.take().map(|ready_at| ready_at.elapsed());
        let ending = daemon.end(time_limit);
        let youth = if self.deaths.count(ending, self.isolation.cgroup()) { YOUNG_OF_MEMORY } else { YOUNG };
        let is_young = served_for.is_none_or(|served_for| served_for < youth);
        self.young_deaths = if is_young && !is_upgrade { self.young_deaths + 1 } else { 0 };
        if ending == Ending::Hangs {
            self.predecessors.push(daemon);
        }
        Some(ending)
    }
}

/// The delay of the next daemon after so many young deaths in a row.
fn back_off(young_deaths: u32) -> Duration {
    match young_deaths.checked_sub(YOUNG_DEATHS_MAX + 1) {
        None => Duration::ZERO,
        Some(more) => BACK_OFF_MIN.saturating_mul(1 << more.min(16)).min(BACK_OFF_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_starts_with_the_fifth_young_death() {
        let waits_ms: Vec<u128> = (0..14).map(|deaths| back_off(deaths).as_millis()).collect();
        assert_eq!(waits_ms, [0, 0, 0, 0, 0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(back_off(u32::MAX), BACK_OFF_MAX);
    }
}
