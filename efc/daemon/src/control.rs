//! The daemon's side of its conversation with the keeper, and with later keepers.
//!
//! A keeper's death is invisible to applications: this daemon holds the session, keeps serving, and waits at its
//! listener for the next keeper. It gives that one copies of everything that makes the session: `/dev/fuse`, the state
//! memfd, the listener itself, and a pidfd by which to watch and kill this process. There is only one keeper at a time:
//! the socket of the former must have closed first.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use efc_proto::{
    Configure, Configured, Connected, DaemonConfig, DaemonStats, Error, FoundRoot, MountStatus, Ready, Start, ToDaemon,
    ToKeeper, WorkersSecrets,
};
use efc_proto::{to_daemon, to_keeper};
use efc_state::State;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use crate::keeper::Keeper;

/// Where the keeper leaves the control socket.
const CONTROL_FD: i32 = 3;

/// The control socket of the first keeper.
pub struct Control {
    socket: OwnedFd,
    /// The one there is, for other threads.
    keeper: Arc<Keeper>,
}

/// What makes a session, for this daemon and for later keepers.
pub struct Held {
    /// How to serve.
    pub config: DaemonConfig,
    /// User to become; 0: nobody.
    pub uid: u32,
    /// A predecessor is still ending.
    pub predecessor_remains: bool,
    /// Memory that this process may use; 0: no limit.
    pub memory_max_bytes: u64,
    /// What using workers takes.
    pub workers: WorkersSecrets,
    /// What the file holds that says where they are.
    pub workers_file: Vec<u8>,
    /// The directory of the local store.
    pub store: Option<OwnedFd>,
    /// `/dev/fuse`.
    pub device: OwnedFd,
    /// The saved state.
    pub memfd: OwnedFd,
    /// Where later keepers connect.
    listener: OwnedFd,
    status: MountStatus,
}

/// What a keeper asks of a serving daemon.
pub trait Serving {
    /// Counters.
    fn report(&self) -> DaemonStats;
    /// See `Configure` of the protocol.
    ///
    /// # Errors
    /// Why nothing has changed.
    fn configure(&self, options: &DaemonConfig, workers_file: &[u8]) -> Result<(), Error>;
    /// See `Resend`.
    fn resend(&self, predecessor_remains: bool);
    /// See `Drain`: returns when nothing is left to answer here. No request is read any more.
    fn drain(&self);
    /// See `FindRoot`: what may wait for the NAS; `None` if that is under way already.
    fn find_root(&self) -> Option<Box<dyn FnOnce() -> FoundRoot + Send>>;
}

/// Of this program. It is kept whole in one place, where tests that need another release put another version.
pub fn version() -> &'static str {
    std::hint::black_box(env!("CARGO_PKG_VERSION"))
}

/// Whether a daemon of this program could go on with the state that another's has saved, which is descriptor 3 instead of
/// the control socket. Changes nothing.
pub fn check_state() -> ExitCode {
    // SAFETY: the keeper starts this program with a copy of the memfd as descriptor 3, and nothing else in this process
    // knows that number.
    let memfd = unsafe { OwnedFd::from_raw_fd(CONTROL_FD) };
    match State::check(memfd) {
        Ok(()) => {
            println!("{}", efc_proto::TAKES_HELD_DATA);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

impl Control {
    /// The socket that the keeper passed to this process. Call once.
    pub fn inherited() -> Control {
        // SAFETY: the keeper starts this program with its end of a socket pair as descriptor 3, and nothing else in
        // this process knows that number. Were it closed, the first receive would fail.
        Control { socket: unsafe { OwnedFd::from_raw_fd(CONTROL_FD) }, keeper: Arc::default() }
    }

    /// The keeper that there is at any time, to be asked from other threads.
    pub fn keeper(&self) -> Arc<Keeper> {
        self.keeper.clone()
    }

    /// Waits for Start: the configuration, and the session's descriptors.
    ///
    /// # Errors
    /// `InvalidData` if anything else comes.
    pub fn receive_start(&self) -> io::Result<Held> {
        let received = efc_proto::receive::<ToDaemon>(&self.socket)?;
        let Some((ToDaemon { message: Some(to_daemon::Message::Start(start)) }, descriptors)) = received else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "expected Start"));
        };
        let [device, memfd, listener] = <[OwnedFd; 3]>::try_from(descriptors)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "expected three descriptors"))?;
        let Start { config, uid, session, predecessor_remains, memory_max_bytes, workers, workers_file, has_store } =
            start;
        let store = if has_store { Some(rustix::stdio::stdin().try_clone_to_owned()?) } else { None };
        let workers = workers.unwrap_or_default();
        let status = session.unwrap_or_default();
        let config = config.unwrap_or_default();
        Ok(Held {
            config,
            uid,
            predecessor_remains,
            memory_max_bytes,
            workers,
            workers_file,
            store,
            device,
            memfd,
            listener,
            status,
        })
    }

    /// Waits until the keeper has called `mount(2)`.
    ///
    /// # Errors
    /// `InvalidData` if anything else comes: the keeper has given up.
    pub fn receive_mounted(&self, session: &mut Held) -> io::Result<()> {
        match efc_proto::receive::<ToDaemon>(&self.socket)? {
            Some((ToDaemon { message: Some(to_daemon::Message::Mounted(mounted)) }, _)) => {
                session.status.connection = mounted.connection;
                Ok(())
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "expected Mounted")),
        }
    }

    /// The dataset's root was found.
    ///
    /// # Errors
    /// Those of `sendmsg(2)`.
    pub fn send_connected(&self, root_mode: u32) -> io::Result<()> {
        send(&self.socket, to_keeper::Message::Connected(Connected { root_mode }), &[])
    }

    /// Requests are being served.
    ///
    /// # Errors
    /// Those of `sendmsg(2)`, but not that the keeper is gone meanwhile: the next one comes.
    pub fn send_ready(&self) -> io::Result<()> {
        let ready =
            Ready { version: version().to_owned(), beats: true, live_fields: DaemonConfig::LIVE_FIELDS.to_vec() };
        match send(&self.socket, to_keeper::Message::Ready(ready), &[]) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent,
        }
    }

    /// This daemon cannot serve; the keeper tells whoever asked.
    pub fn send_failed(&self, error: Error) {
        if let Err(send_error) = send(&self.socket, to_keeper::Message::Failed(error), &[]) {
            log::error!("cannot tell the keeper: {send_error}");
        }
    }

    /// Answers keepers, one after the other, until one says Stop.
    pub fn serve(self, session: &mut Held, serving: &dyn Serving) {
        let Control { mut socket, keeper } = self;
        loop {
            keeper.begin(&socket);
            let is_over = converse(&socket, &keeper, session, serving);
            keeper.end();
            if is_over {
                return;
            }
            log::warn!("the keeper is gone; serving on");
            match next_keeper(session) {
                Ok(next) => socket = next,
                Err(error) => {
                    log::error!("no later keeper can take this session: {error}");
                    return;
                }
            }
        }
    }
}

/// Answers one keeper; `true` when it says that the session is over.
fn converse(socket: &OwnedFd, keeper: &Keeper, session: &mut Held, serving: &dyn Serving) -> bool {
    loop {
        let message = match efc_proto::receive::<ToDaemon>(socket) {
            Ok(Some((ToDaemon { message }, _))) => message,
            Ok(None) => return false,
            Err(error) => {
                log::error!("control socket: {error}");
                return false;
            }
        };
        match message {
            Some(to_daemon::Message::Report(asked)) => {
                keeper.asks_for_report(asked.opens_backing);
                report(socket, serving);
            }
            Some(to_daemon::Message::BackingOpened(opened)) => keeper.opened(opened),
            Some(to_daemon::Message::Configure(message)) => {
                let error = configure(session, serving, message).err();
                if let Err(error) = send(socket, to_keeper::Message::Configured(Configured { error }), &[]) {
                    log::warn!("cannot tell the keeper of other options: {error}");
                }
            }
            Some(to_daemon::Message::Resend(resend)) => serving.resend(resend.predecessor_remains),
            Some(to_daemon::Message::Drain(_)) => {
                serving.drain();
                report(socket, serving);
                std::process::exit(0);
            }
            Some(to_daemon::Message::FindRoot(_)) => {
                if let Err(error) = answer_later(socket, serving) {
                    log::warn!("cannot look for the dataset's root: {error}");
                }
            }
            Some(to_daemon::Message::Stop(_)) => {
                log::info!("the keeper ends this session");
                return true; // reading /dev/fuse ends by itself: the session is unmounted
            }
            other => log::error!("unexpected message from the keeper: {other:?}"),
        }
    }
}

fn report(keeper: &OwnedFd, serving: &dyn Serving) {
    if let Err(error) = send(keeper, to_keeper::Message::Stats(serving.report()), &[]) {
        log::warn!("cannot report to the keeper: {error}");
    }
}

/// Serves with other options from now on, of which later keepers are told too.
fn configure(session: &mut Held, serving: &dyn Serving, message: Configure) -> Result<(), Error> {
    let Configure { options, workers_file } = message;
    let options = options.unwrap_or_default();
    serving.configure(&options, &workers_file)?;
    session.status.options = Some(options);
    Ok(())
}

/// On a thread of its own: reports to the keeper must not wait for the NAS.
fn answer_later(keeper: &OwnedFd, serving: &dyn Serving) -> io::Result<()> {
    let Some(find) = serving.find_root() else { return Ok(()) };
    let keeper = keeper.try_clone()?;
    let answer = move || {
        if let Err(error) = send(&keeper, to_keeper::Message::Root(find()), &[]) {
            log::warn!("cannot tell the keeper of the dataset's root: {error}");
        }
    };
    std::thread::Builder::new().name("root".into()).spawn(answer).map(drop)
}

/// Waits for a keeper that may have the session, and hands it over.
fn next_keeper(session: &Held) -> io::Result<OwnedFd> {
    loop {
        let keeper = rustix::io::retry_on_intr(|| accept_with(&session.listener, SocketFlags::CLOEXEC))?;
        if !efc_proto::is_allowed_peer(&keeper)? {
            log::warn!("somebody who is no keeper wants this session; refused");
            continue;
        }
        match hand_over(session, &keeper) {
            Ok(()) => {
                log::info!("another keeper has this session now");
                return Ok(keeper);
            }
            Err(error) => log::warn!("a keeper went away again: {error}"),
        }
    }
}

fn hand_over(session: &Held, keeper: &OwnedFd) -> io::Result<()> {
    let process = pidfd_open(getpid(), PidfdFlags::empty())?;
    let status = MountStatus {
        pid: getpid().as_raw_nonzero().get(),
        version: version().to_owned(),
        live_fields: DaemonConfig::LIVE_FIELDS.to_vec(),
        ..session.status.clone()
    };
    let descriptors = [session.device.as_fd(), session.memfd.as_fd(), session.listener.as_fd(), process.as_fd()];
    send(keeper, to_keeper::Message::Session(status), &descriptors)
}

fn send(socket: &OwnedFd, message: to_keeper::Message, descriptors: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
    efc_proto::send(socket, &ToKeeper { message: Some(message) }, descriptors)
}
