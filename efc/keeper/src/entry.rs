//! One mount, as its supervising thread and the clients' threads share it.
//!
//! Only the supervising thread (`session/`) changes what the mount is; clients' threads ask it to do something and
//! wait. Nothing blocks while the lock is held, so a status is always answered, whatever hangs.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use efc_proto::error::Code;
use efc_proto::mount_status::State;
use efc_proto::{DaemonConfig, DaemonStats, Error, FoundRoot, MountStatus};

use crate::failure::failure;
use crate::held::Held;
use crate::kernel;
use crate::wishes::{Wish, Wishes};

/// How the session shall end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The daemon flushes what is left.
    Flush,
    /// The daemon is ended at once.
    Now,
}

/// What a client that wants to unmount finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody else unmounts until [`MountEntry::release`].
    Claimed,
    /// The session has ended meanwhile, or has lost its target.
    Gone,
}

#[derive(Clone, Debug)]
enum Phase {
    /// The first daemon is on its way to Ready.
    Starting,
    Mounted,
    /// The mount is gone; with the error if its first daemon never got ready.
    Ended(Option<Error>),
}

#[derive(Debug)]
struct Shared {
    phase: Phase,
    status: MountStatus,
    /// The session's descriptors, while it is mounted.
    held: Option<Arc<Held>>,
    /// A client's thread runs the unmount helper.
    unmounting: bool,
    /// Whether the mount is still at its target, as far as we know.
    is_attached: bool,
    /// What the supervising thread shall do next.
    end: Option<End>,
    report_wanted: bool,
    upgrades: Wishes,
    /// Reports that the daemon has made.
    reports: u64,
    /// The last report of the daemon before this one: its counters are those of all before.
    former: DaemonStats,
    root_wanted: bool,
    /// The last answer to `root_wanted`, and how many there were.
    root: (u64, FoundRoot),
}

/// One mount.
#[derive(Debug)]
pub struct MountEntry {
    target: PathBuf,
    config: DaemonConfig,
    waker: OwnedFd,
    shared: Mutex<Shared>,
    changed: Condvar,
}

impl MountEntry {
    /// A mount whose supervising thread is about to start.
    ///
    /// # Errors
    /// Those of eventfd(2).
    pub fn new(target: PathBuf, config: DaemonConfig) -> std::io::Result<MountEntry> {
        let status = MountStatus {
            target: target.to_string_lossy().into_owned(),
            config: Some(config),
            state: State::Starting.into(),
            ..Default::default()
        };
        MountEntry::with(target, status, true)
    }

    /// A mount that an earlier keeper has made, whose supervising thread is about to start.
    ///
    /// # Errors
    /// Those of eventfd(2).
    pub fn inherited(mut status: MountStatus, is_attached: bool) -> std::io::Result<MountEntry> {
        status.set_state(if status.pid == 0 { State::Restarting } else { State::Serving });
        let former = status.stats.take().unwrap_or_default().by_subsystem();
        let entry = MountEntry::with(PathBuf::from(&status.target), status, is_attached)?;
        entry.lock().former = former;
        Ok(entry)
    }

    fn with(target: PathBuf, status: MountStatus, is_attached: bool) -> std::io::Result<MountEntry> {
        let config = status.config.clone().unwrap_or_default();
        let shared = Shared {
            phase: Phase::Starting,
            status,
            held: None,
            unmounting: false,
            is_attached,
            end: None,
            report_wanted: false,
            upgrades: Wishes::default(),
            reports: 0,
            former: DaemonStats::default(),
            root_wanted: false,
            root: (0, FoundRoot::default()),
        };
        let waker = kernel::create_waker()?;
        Ok(MountEntry { target, config, waker, shared: Mutex::new(shared), changed: Condvar::new() })
    }

    /// Absolute path without symbolic links.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The configuration that it was mounted with.
    pub fn config(&self) -> &DaemonConfig {
        &self.config
    }

    /// The configuration that it is served with now.
    pub fn options(&self) -> DaemonConfig {
        self.lock().status.options.as_ref().unwrap_or(&self.config).clone()
    }

    // ------------------------------------------------------------ for clients

    /// What is known now, without asking anybody. A report that says so turns SERVING into UNRESPONSIVE_NAS.
    pub fn status(&self) -> MountStatus {
        let mut status = self.lock().status.clone();
        let nfs = status.stats.as_ref().and_then(|stats| stats.nfs);
        if let Some(nfs) = nfs.filter(|nfs| !nfs.responding)
            && status.state() == State::Serving
        {
            status.reason = format!("the NAS has not answered the oldest call for {} ms", nfs.oldest_call_ms);
            status.set_state(State::UnresponsiveNas);
        }
        status
    }

    /// Waits until the first request can be served.
    ///
    /// # Errors
    /// What the start failed of; DEADLINE_EXCEEDED at `deadline`, while the start goes on.
    pub fn wait_started(&self, deadline: Instant) -> Result<MountStatus, Error> {
        let shared = self.wait_until(deadline, |shared| !matches!(shared.phase, Phase::Starting));
        match &shared.phase {
            Phase::Mounted => Ok(shared.status.clone()),
            Phase::Ended(Some(error)) => Err(error.clone()),
            Phase::Ended(None) => Err(failure(Code::Unavailable, "the mount ended as soon as it was made")),
            Phase::Starting => Err(failure(
                Code::DeadlineExceeded,
                format!("{} is still being mounted for an earlier request", self.target.display()),
            )),
        }
    }

    /// Whether an unmount is under way or done: whoever wants to mount waits for its outcome.
    pub fn is_ending(&self) -> bool {
        let shared = self.lock();
        shared.unmounting || shared.end.is_some() || matches!(shared.phase, Phase::Ended(_))
    }

    /// Whether it is at its target, as far as we know.
    pub fn is_attached(&self) -> bool {
        self.lock().is_attached
    }

    /// Its target is free for another mount: somebody has unmounted it, and bind mounts elsewhere keep it alive. Not
    /// while one of our own clients unmounts, which looks the same.
    pub fn detach(&self) {
        let mut shared = self.lock();
        shared.is_attached = shared.unmounting || shared.end.is_some();
        drop(shared);
        self.changed.notify_all();
    }

    /// Waits until an unmount that is under way has ended the session or has given up.
    pub fn wait_settled(&self, deadline: Instant) {
        let is_settled =
            |shared: &Shared| matches!(shared.phase, Phase::Ended(_)) || (!shared.unmounting && shared.end.is_none());
        drop(self.wait_until(deadline, is_settled));
    }

    /// Becomes the one client that unmounts, after the start has come to its end and no other client unmounts.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED.
    pub fn claim(&self, deadline: Instant) -> Result<Claim, Error> {
        let mut shared = self.wait_until(deadline, |shared| match shared.phase {
            Phase::Starting => false,
            Phase::Mounted => !shared.unmounting || !shared.is_attached,
            Phase::Ended(_) => true,
        });
        match shared.phase {
            Phase::Ended(_) => Ok(Claim::Gone),
            Phase::Mounted if !shared.is_attached => Ok(Claim::Gone),
            Phase::Mounted if !shared.unmounting => {
                shared.unmounting = true;
                Ok(Claim::Claimed)
            }
            _ => Err(failure(
                Code::DeadlineExceeded,
                format!("another operation on {} does not finish; force it", self.target.display()),
            )),
        }
    }

    /// Gives up a claim: the mount stays.
    pub fn release(&self) {
        self.lock().unmounting = false;
        self.changed.notify_all();
    }

    /// Ends the session, or gives up its start; returns when nothing of it is left, or at `deadline`.
    pub fn end(&self, how: End, deadline: Instant) {
        let mut shared = self.lock();
        if shared.end != Some(End::Now) {
            shared.end = Some(how);
        }
        drop(shared);
        kernel::wake(&self.waker);
        drop(self.wait_until(deadline, |shared| matches!(shared.phase, Phase::Ended(_))));
    }

    /// Has the daemon replaced by one of the installed program, with other options if there are some, after the upgrades that
    /// others have asked for before; returns when that one serves, or the former again.
    ///
    /// # Errors
    /// FAILED_PRECONDITION for a program that cannot take over, or that did not, UNAVAILABLE for a mount without a daemon
    /// that serves, or that ends, RESOURCE_EXHAUSTED if too many wait already, DEADLINE_EXCEEDED at `deadline`: an upgrade
    /// that was begun goes on.
    pub fn upgrade(&self, wish: Wish, deadline: Instant) -> Result<MountStatus, Error> {
        self.wait_upgraded(self.ask_upgrade(wish)?, deadline)
    }

    /// The number of an upgrade to be waited for by [`MountEntry::wait_upgraded`].
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if too many wait already.
    pub fn ask_upgrade(&self, wish: Wish) -> Result<u64, Error> {
        let number = self.lock().upgrades.add(wish)?;
        kernel::wake(&self.waker);
        Ok(number)
    }

    /// Waits for an upgrade's turn and its end.
    ///
    /// # Errors
    /// Those of [`MountEntry::upgrade`].
    pub fn wait_upgraded(&self, number: u64, deadline: Instant) -> Result<MountStatus, Error> {
        let is_over = |shared: &Shared| {
            shared.upgrades.is_answered(number) || !matches!(shared.phase, Phase::Starting | Phase::Mounted)
        };
        let mut shared = self.wait_until(deadline, is_over);
        if let Some(answer) = shared.upgrades.take_answer(number) {
            return answer;
        }
        let never_began = shared.upgrades.give_up(number);
        let target = self.target.display();
        if matches!(shared.phase, Phase::Ended(_)) {
            return Err(failure(Code::Unavailable, format!("{target} was unmounted before it was upgraded")));
        }
        let what = if never_began { "waited too long for earlier ones" } else { "does not finish" };
        Err(failure(Code::DeadlineExceeded, format!("the upgrade of {target} {what}")))
    }

    /// What keeps the mount alive, while there is one.
    pub fn held(&self) -> Option<Arc<Held>> {
        self.lock().held.clone()
    }

    /// Asks the daemon for its statistics; the number of those it has given so far.
    pub fn request_report(&self) -> u64 {
        let mut shared = self.lock();
        shared.report_wanted = true;
        kernel::wake(&self.waker);
        shared.reports
    }

    /// Waits for a report after `reports`; false on time-out, and then the last one stays.
    pub fn wait_report(&self, reports: u64, deadline: Instant) -> bool {
        let done = |shared: &Shared| {
            shared.reports != reports || shared.status.pid == 0 || !matches!(shared.phase, Phase::Mounted)
        };
        done(&self.wait_until(deadline, done))
    }

    /// Has the daemon look where its dataset's path leads now.
    ///
    /// # Errors
    /// UNAVAILABLE without a daemon that serves, DEADLINE_EXCEEDED.
    pub fn find_root(&self, deadline: Instant) -> Result<FoundRoot, Error> {
        let mut shared = self.lock();
        shared.root_wanted = true;
        let (before, _) = shared.root;
        drop(shared);
        kernel::wake(&self.waker);
        let is_over = |shared: &Shared| shared.root.0 != before || !matches!(shared.phase, Phase::Mounted);
        let shared = self.wait_until(deadline, is_over);
        let target = self.target.display();
        match &shared.root {
            (number, root) if *number != before => Ok(root.clone()),
            _ if !matches!(shared.phase, Phase::Mounted) => {
                Err(failure(Code::Unavailable, format!("no daemon serves {target}")))
            }
            _ => Err(failure(Code::DeadlineExceeded, format!("the daemon of {target} does not say where its root is"))),
        }
    }

    // ------------------------------------------------------------ for the supervising thread

    /// Readable when a client wants something.
    pub fn waker(&self) -> &OwnedFd {
        &self.waker
    }

    /// How a client wants the session to end, if one does.
    pub fn end_wanted(&self) -> Option<End> {
        self.lock().end
    }

    /// Whether somebody wants to know where the root is; asking takes the wish away.
    pub fn take_root_wanted(&self) -> bool {
        std::mem::take(&mut self.lock().root_wanted)
    }

    /// Where the daemon has found the root.
    pub fn root_found(&self, root: FoundRoot) {
        let mut shared = self.lock();
        shared.root = (shared.root.0 + 1, root);
        drop(shared);
        self.changed.notify_all();
    }

    /// Whether a report is wanted; asking takes the wish away.
    pub fn take_report_wanted(&self) -> bool {
        std::mem::take(&mut self.lock().report_wanted)
    }

    /// The upgrade whose turn it is, if none is under way: one that [`MountEntry::upgraded`] must follow.
    pub fn begin_next_upgrade(&self) -> Option<Wish> {
        self.lock().upgrades.begin_next()
    }

    /// How the upgrade that was under way has ended.
    pub fn upgraded(&self, result: Result<(), Error>) {
        let mut shared = self.lock();
        let answer = result.map(|()| shared.status.clone());
        shared.upgrades.finish(&answer);
        drop(shared);
        self.changed.notify_all();
    }

    /// Changes what clients see.
    pub fn update(&self, change: impl FnOnce(&mut MountStatus)) {
        change(&mut self.lock().status);
        self.changed.notify_all();
    }

    /// The daemon has reported.
    pub fn reported(&self, stats: DaemonStats) {
        let mut shared = self.lock();
        shared.status.stats = Some(stats.by_subsystem().on_top_of(&shared.former).for_all_releases());
        shared.reports += 1;
        drop(shared);
        self.changed.notify_all();
    }

    /// The daemon has ended: the next one's counters go on from its last report.
    pub fn daemon_ended(&self) {
        let mut shared = self.lock();
        if let Some(stats) = shared.status.stats.clone() {
            shared.former = stats;
        }
    }

    /// The session is there, and a daemon of it was ready at least once.
    pub fn mounted(&self, held: Arc<Held>) {
        let mut shared = self.lock();
        shared.phase = Phase::Mounted;
        shared.held = Some(held);
        drop(shared);
        self.changed.notify_all();
    }

    /// Nothing is left of the mount.
    pub fn ended(&self, error: Option<Error>) {
        let mut shared = self.lock();
        shared.phase = Phase::Ended(error);
        shared.held = None;
        drop(shared);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(&self, deadline: Instant, done: impl Fn(&Shared) -> bool) -> MutexGuard<'_, Shared> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(self.lock(), limit, |shared| !done(shared));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
