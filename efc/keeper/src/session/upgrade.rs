//! Hot upgrade: another program for a session that serves, and the rollback.
//!
//! First the new program is asked whether it can take over what the daemon has saved; if not, the upgrade is refused
//! and nothing was touched. Then the daemon drains: it begins nothing more, answers what it has begun, and exits. The
//! new one continues like any successor, so applications wait only that long. If it is not ready in time, or dies
//! before, the former program gets the session back and keeps it until the next upgrade or death. The same happens if
//! the new program's release does not know write-behind, and the NAS has not accepted all held data when the daemon is
//! drained. Such a program is refused at once while files are open by passthrough, which ends when applications close
//! them, and if the kernel opens files without asking, which ends with the mount.
//!
//! Option changes take the same way: the next daemon is started with the new options, and the rollback restores the
//! former ones. If the client allows the daemon to stay, and the daemon can change all of these options live, they are
//! sent to it instead; a daemon that does not accept them is replaced after all. Concurrent upgrades of several clients
//! are done one after the other.
//!
//! A daemon whose network was replaced is moved to the new one (`moving.rs`) in the same way: the next daemon starts there. It
//! runs the program that the successor of a dead daemon would run, so a program that cannot take over does not prevent the
//! move. A daemon that cannot drain, because the NAS is silent in its old network, is killed when the time limit for that is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use efc_proto::error::Code;
use efc_proto::{Configure, DaemonConfig, Drain, Error, to_daemon};

use super::SessionRun;
use crate::failure::failure;
use crate::files;
use crate::kernel;
use crate::network;
use crate::program::Program;
use crate::wishes::Wish;

/// How long the old daemon may drain; a little more than it takes for that itself.
const DRAIN_TIME_LIMIT: Duration = Duration::from_millis(700);
/// How long a daemon may take to serve with other options.
const CONFIGURE_TIME_LIMIT: Duration = Duration::from_secs(2);
/// How long the new one may take to serve.
const READY_TIME_LIMIT: Duration = Duration::from_secs(3);

/// Why an upgrade is taken back that would lose data.
const DATA_IS_HELD: &str = "the NAS has not taken written data in time, or files are open by passthrough: the program's release knows of neither";

/// Why an upgrade is refused that would cost applications errors.
const PASSING_THROUGH: &str = "its release knows nothing of passthrough, by which files are open here";

/// Why an upgrade is refused after which every read would fail.
const UNOPENED: &str = "its release knows nothing of the option small-files, with which this is mounted; unmount first";

/// An upgrade under way.
#[derive(Debug)]
pub struct Upgrade {
    former: Arc<Program>,
    next: Arc<Program>,
    former_options: Option<DaemonConfig>,
    began_at: Instant,
    step: Step,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// The daemon is told of these options.
    Configuring(Box<DaemonConfig>),
    Draining,
    Starting,
    /// To the former program and options, for this reason.
    GoingBack(String),
}

impl SessionRun<'_> {
    /// Begins the upgrade whose turn it is, and refuses those that cannot be, one after the other.
    pub(super) fn begin_upgrades(&mut self) {
        while self.upgrade.is_none()
            && let Some(wish) = self.entry.begin_next_upgrade()
        {
            if let Err(error) = self.begin_upgrade(wish) {
                self.entry.upgraded(Err(error));
            }
        }
    }

    fn begin_upgrade(&mut self, wish: Wish) -> Result<(), Error> {
        let target = self.entry.target().display();
        if self.ready_at.is_none() {
            let message = format!("{target} has no daemon that serves now; try again when it has one");
            return Err(failure(Code::Unavailable, message));
        }
        if let Some(network) = &wish.network {
            if network::of_process(self.entry.status().pid).as_ref() != Some(network) {
                return self.begin_replacing(None, self.next_program());
            }
            self.entry.upgraded(Ok(()));
            return Ok(());
        }
        let installed = self.programs.daemon.get();
        match wish.options_over(&self.entry.options()) {
            Some(options) if wish.in_place && self.can_take(&options) => {
                self.configure(options, wish.workers_file);
                Ok(())
            }
            options => self.begin_replacing(options, installed),
        }
    }

    /// Whether the daemon is of the program that the next one would run, and takes all that is not as it is now.
    fn can_take(&self, options: &DaemonConfig) -> bool {
        let status = self.entry.status();
        let differences = self.entry.options().differences(options);
        status.version == self.programs.daemon.get().version()
            && differences.iter().all(|(number, _)| status.live_fields.contains(number))
    }

    /// Tells the daemon of its options, and of what the file of workers holds, which is read if nobody has.
    fn configure(&mut self, options: DaemonConfig, workers_file: Option<Vec<u8>>) {
        self.note_upgrade(Step::Configuring(Box::new(options.clone())), self.programs.daemon.get());
        self.deadline = Some(Instant::now() + CONFIGURE_TIME_LIMIT);
        let read = || files::of_workers(&options).unwrap_or_default().endpoints;
        let workers_file = workers_file.unwrap_or_else(read);
        self.send(to_daemon::Message::Configure(Configure { options: Some(options), workers_file }));
    }

    /// Whether the daemon was told of other options and has not answered.
    pub(super) fn is_configuring(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| matches!(upgrade.step, Step::Configuring(_)))
    }

    /// The daemon serves with the options that it was told of, or does not, for this reason.
    pub(super) fn configured(&mut self, failure: Option<String>) {
        let Some(upgrade) = self.upgrade.take() else { return };
        let Step::Configuring(options) = upgrade.step else {
            // A late answer, of a daemon that is being replaced.
            self.upgrade = Some(upgrade);
            return;
        };
        self.deadline = None;
        let target = self.entry.target().display();
        if let Some(why) = failure {
            log::warn!("{target}: the daemon does not take other options ({why}) and is replaced");
            if let Err(error) = self.begin_replacing(Some(*options), self.programs.daemon.get()) {
                self.entry.upgraded(Err(error));
            }
            return;
        }
        log::info!("{target}: serves with other options");
        self.serve_with(Some(*options));
        self.entry.upgraded(Ok(()));
    }

    fn note_upgrade(&mut self, step: Step, next: Arc<Program>) {
        assert!(self.upgrade.is_none(), "upgrades are made one after the other");
        self.upgrade = Some(Upgrade {
            former: self.program.clone(),
            next,
            former_options: self.entry.status().options,
            began_at: Instant::now(),
            step,
        });
    }

    /// Has the daemon drain, and the next one, of this program, serve with these options, or as before.
    fn begin_replacing(&mut self, options: Option<DaemonConfig>, next: Arc<Program>) -> Result<(), Error> {
        let target = self.entry.target().display();
        let refused = |why: &dyn std::fmt::Display| {
            let message = format!("the program cannot take {target} over: {why}; the daemon goes on with its own");
            failure(Code::FailedPrecondition, message)
        };
        let knows_all = next.check_state(&self.held.state).map_err(|error| refused(&error))?;
        for (bit, why) in [(efc_proto::HOLDS_PASSTHROUGH, PASSING_THROUGH), (efc_proto::HOLDS_UNOPENED, UNOPENED)] {
            if !knows_all && self.holdings() & bit != 0 {
                return Err(refused(&why));
            }
        }
        if let Some(options) = &options {
            self.isolation.check_memory(options, self.held.saved_bytes())?;
        }
        log::info!("{target}: upgrading{}", if options.is_some() { ", with other options" } else { "" });
        self.note_upgrade(Step::Draining, next);
        if options.is_some() {
            self.serve_with(options);
        }
        self.heartbeat.stop();
        self.deadline = Some(Instant::now() + DRAIN_TIME_LIMIT);
        self.send(to_daemon::Message::Drain(Drain {}));
        Ok(())
    }

    /// The daemon has gone: starts the next one, if that is what the upgrade wants.
    pub(super) fn go_on_with_upgrade(&mut self, how: &str) -> bool {
        let is_drained = |upgrade: &Upgrade| upgrade.step == Step::Draining;
        let has_data =
            self.upgrade.as_ref().is_some_and(|upgrade| is_drained(upgrade) && !self.can_go_on(&upgrade.next));
        let Some(upgrade) = &mut self.upgrade else { return false };
        let next = upgrade.next.clone();
        let program = match &upgrade.step {
            // Killed while it was told: the next one is started with them.
            Step::Configuring(options) => {
                let options = options.clone();
                upgrade.step = Step::Starting;
                self.serve_with(Some(*options));
                next
            }
            Step::Draining if !has_data => {
                upgrade.step = Step::Starting;
                next
            }
            Step::Draining | Step::Starting => {
                upgrade.step = Step::GoingBack(if has_data { DATA_IS_HELD } else { how }.to_owned());
                let (program, options) = (upgrade.former.clone(), upgrade.former_options.take());
                self.serve_with(options);
                program
            }
            // The former program dies as well: from here on it is a death like any other.
            Step::GoingBack(_) => {
                self.end_upgrade();
                return false;
            }
        };
        self.died_at = self.died_at.or(Some(Instant::now()));
        if let Err(error) = self.spawn_program(program, READY_TIME_LIMIT) {
            return self.go_on_with_upgrade(&format!("cannot be started: {error}"));
        }
        true
    }

    /// The next daemons get these options; `None`: those that it was mounted with.
    fn serve_with(&mut self, options: Option<DaemonConfig>) {
        let options = options.filter(|options| options != self.entry.config());
        self.entry.update(|status| status.options = options);
        let options = self.entry.options();
        self.heartbeat.set_limit(options.hang_limit_ms);
        self.isolation.limit_memory(&options);
        self.set_read_ahead();
    }

    /// Read-ahead is the kernel's part.
    pub(super) fn set_read_ahead(&self) {
        let connection = self.entry.status().connection;
        if let Err(error) = kernel::set_read_ahead(connection, self.entry.options().read_ahead_kib) {
            log::warn!("{}: read-ahead stays as it is: {error}", self.entry.target().display());
        }
    }

    /// A daemon serves, whichever it is.
    pub(super) fn end_upgrade(&mut self) {
        let Some(Upgrade { began_at, step, .. }) = self.upgrade.take() else { return };
        let target = self.entry.target().display();
        let result = match step {
            Step::GoingBack(why) => {
                let message =
                    format!("the new daemon of {target} did not serve ({why}); the former program has it again");
                log::error!("{message}");
                Err(failure(Code::FailedPrecondition, message))
            }
            _ => {
                log::info!("{target}: upgraded in {} ms", began_at.elapsed().as_millis());
                Ok(())
            }
        };
        self.entry.upgraded(result);
    }
}
