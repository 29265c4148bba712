//! How a session begins: with a new mount, or with what an earlier keeper has left.
//!
//! A new mount is made between two messages of its first daemon: that the dataset's root was found, and that the first
//! request was served. After an error nothing is left of it. What an earlier keeper has left is taken over as it is: a
//! running daemon keeps serving, and if there is none the next one is started at once.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use efc_mount_helper::target::Target;
use efc_proto::error::Code;
use efc_proto::{Error, Mounted, to_daemon, to_keeper};
use rustix::io::Errno;

use super::{END_TIME_LIMIT, Event, SessionRun};
use crate::daemon::Daemon;
use crate::entry::MountEntry;
use crate::failure::{failure, path_code};
use crate::files;
use crate::held::{Held, TakenOver};
use crate::isolation::Isolation;
use crate::kernel;
use crate::programs::Programs;

/// What there is when a session begins.
pub enum Origin {
    /// There is nothing yet.
    New {
        /// Where to mount.
        target: Target,
        /// When to give up.
        deadline: Instant,
    },
    /// A daemon that serves; its keeper is gone.
    Serving(Arc<Held>, TakenOver),
    /// A mount whose daemon is gone, and its keeper too: somebody else has held it.
    Orphaned(Arc<Held>),
}

impl<'a> SessionRun<'a> {
    pub(super) fn begin(entry: &'a MountEntry, programs: &'a Programs, origin: Origin) -> Result<Self, Error> {
        match origin {
            Origin::New { target, deadline } => SessionRun::mount(entry, programs, &target, deadline),
            Origin::Serving(held, taken) => SessionRun::take_over(entry, programs, held, taken),
            Origin::Orphaned(held) => SessionRun::adopt(entry, programs, held),
        }
    }

    /// Makes a mount, from nothing to Ready; on an error nothing is left.
    fn mount(
        entry: &'a MountEntry,
        programs: &'a Programs,
        target: &Target,
        deadline: Instant,
    ) -> Result<SessionRun<'a>, Error> {
        let internal = |what: &str, error: io::Error| {
            failure(Code::Internal, format!("cannot {what} for {}: {error}", entry.target().display()))
        };
        refuse_mounted(target)?;
        let directory = target.open().map_err(|errno| {
            let error = io::Error::from(errno);
            let message = match errno {
                Errno::NOENT => format!("target {} does not exist; create the directory", target.path().display()),
                Errno::NOTDIR => format!("target {} is not a directory", target.path().display()),
                _ => format!("cannot open the target {}: {error}", target.path().display()),
            };
            failure(path_code(&error), message)
        })?;
        files::check_workers(entry.config())?;
        let held = programs.listeners.create(entry.target()).map_err(|error| internal("make a session", error))?;
        let isolation = Isolation::new(programs, entry)?;
        entry.update(|status| {
            isolation.describe(status);
            status.mounted_at_unix_ms =
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64);
        });
        let mut session = SessionRun::new(entry, programs, isolation, Arc::new(held));
        session.have_store()?;
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

    fn take_over(
        entry: &'a MountEntry,
        programs: &'a Programs,
        held: Arc<Held>,
        taken: TakenOver,
    ) -> Result<SessionRun<'a>, Error> {
        let mut session = SessionRun::inherited(entry, programs, held);
        let daemon = Daemon::taken_over(taken).map_err(|error| failure(Code::Internal, error.to_string()))?;
        log::info!("{}: taken over, with its daemon {}", entry.target().display(), daemon.pid());
        session.daemon = Some(daemon);
        session.find_store();
        session.serves(Instant::now(), true);
        Ok(session)
    }

    fn adopt(entry: &'a MountEntry, programs: &'a Programs, held: Arc<Held>) -> Result<SessionRun<'a>, Error> {
        let mut session = SessionRun::inherited(entry, programs, held);
        session.died("the last keeper and its daemon are gone".to_owned());
        Ok(session)
    }

    fn inherited(entry: &'a MountEntry, programs: &'a Programs, held: Arc<Held>) -> SessionRun<'a> {
        let isolation = Isolation::former(programs, entry);
        entry.update(|status| isolation.describe(status));
        SessionRun::new(entry, programs, isolation, held)
    }

    fn first_daemon(&mut self, directory: &OwnedFd, deadline: Instant, is_mounted: &mut bool) -> Result<(), Error> {
        let target = self.entry.target().display();
        let out_of_turn = || failure(Code::Internal, format!("the daemon for {target} sent an unexpected message"));
        let to_keeper::Message::Connected(connected) = self.next_message("connect to the NAS", deadline)? else {
            return Err(out_of_turn());
        };
        kernel::mount(directory, &self.held.device, self.entry.config(), connected.root_mode)
            .map_err(|error| failure(Code::Internal, format!("cannot mount on {target}: {error}")))?;
        *is_mounted = true;
        let gone = || failure(Code::Unavailable, format!("{target} was unmounted while it was being mounted"));
        let connection = self.mounted_connection().ok_or_else(gone)?;
        self.entry.update(|status| status.connection = connection);
        self.send(to_daemon::Message::Mounted(Mounted { connection }));
        let to_keeper::Message::Ready(ready) = self.next_message("answer the kernel", deadline)? else {
            return Err(out_of_turn());
        };
        if self.mounted_connection() != Some(connection) {
            return Err(gone());
        }
        self.set_read_ahead();
        self.ready(ready);
        Ok(())
    }

    fn mounted_connection(&self) -> Option<u32> {
        let mount = kernel::mounted_at(self.entry.target()).ok().flatten()?;
        (mount.filesystem == kernel::FILESYSTEM).then_some(mount.device.1)
    }

    /// The first daemon's next message; anything else that happens fails the start.
    fn next_message(&mut self, purpose: &str, deadline: Instant) -> Result<to_keeper::Message, Error> {
        self.deadline = Some(deadline);
        let message = loop {
            let target = self.entry.target().display();
            match self.next_event() {
                Event::Message(message, _) => match *message {
                    to_keeper::Message::Failed(error) => return Err(error),
                    message => break message,
                },
                Event::Wake if self.entry.end_wanted().is_some() => {
                    let message = format!("the mount on {target} was given up: unmounted by force");
                    return Err(failure(Code::Unavailable, message));
                }
                Event::Wake | Event::Beat | Event::Gone(_) => {}
                Event::Died(ending) => {
                    let message = format!("the daemon for {target} {ending} before it could {purpose}");
                    return Err(failure(Code::Internal, message));
                }
                Event::Deadline => {
                    let message = format!(
                        "the daemon for {target} could not {purpose} within the time limit; check that the NAS can be reached"
                    );
                    return Err(failure(Code::DeadlineExceeded, message));
                }
            }
        };
        self.deadline = None;
        Ok(message)
    }

    /// Takes back a start that failed: first the daemon and the session, so that nobody can hang on the mount.
    fn undo(mut self, is_mounted: bool) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill();
            daemon.end(END_TIME_LIMIT);
        }
        let SessionRun { entry, programs, held, .. } = self;
        held.forget();
        drop(held);
        if is_mounted && let Err(error) = programs.helper.unmount(entry.target(), true) {
            log::error!("{}: {}", entry.target().display(), error.message);
        }
    }
}

/// Refuses a target on which something is mounted, whatever it is.
fn refuse_mounted(target: &Target) -> Result<(), Error> {
    let mounted = kernel::mounted_at(target.path())
        .map_err(|error| failure(Code::Internal, format!("cannot read the list of mounts: {error}")))?;
    let Some(mount) = mounted else { return Ok(()) };
    let path = target.path().display();
    let message = if mount.filesystem == kernel::FILESYSTEM {
        format!("{path} is an EFC mount of another keeper, or one whose session nobody has any more; unmount it first")
    } else {
        format!("something else ({}) is mounted on {path}", mount.filesystem)
    };
    Err(failure(Code::AlreadyExists, message))
}
