//! Connections of clients: a thread for each, and a limit on their number.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use efc_proto::error::Code;
use efc_proto::{
    AdoptReply, Error, FindRootReply, HoldReply, InstallReply, KeeperReply, KeeperRequest, MountReply, MountStatus,
    StatusReply, UnmountReply, UpgradeReply, keeper_reply::Reply, keeper_request::Request,
};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::failure::failure;
use crate::held::Held;
use crate::mounts::Mounts;
use crate::program::Program;
use crate::waiting::start_thread;

/// Most connections at once.
const CLIENTS_MAX: usize = 256;
/// A client that does not take its reply for so long is let go.
const SEND_TIME_LIMIT: Duration = Duration::from_secs(5);

/// The clients that are connected.
#[derive(Clone, Debug)]
pub struct Clients {
    mounts: Arc<Mounts>,
    count: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
}

/// Counts a connection, or a request, for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Counted {
        count.fetch_add(1, Ordering::AcqRel);
        Counted(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Clients {
    /// Clients of `mounts`.
    pub fn new(mounts: Arc<Mounts>) -> Clients {
        Clients { mounts, count: Arc::default(), waiting: Arc::default() }
    }

    /// How many clients are connected.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// How many clients wait for a reply.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Serves one connection on a thread of its own; one that may not be served gets an error and is closed.
    pub fn serve(&self, client: OwnedFd) {
        let counted = Counted::new(&self.count);
        if let Err(error) = self.admit(&client) {
            log::warn!("a client is refused: {}", error.message);
            // Whether the client still listens changes nothing.
            let _ = reply(&client, Reply::Error(error));
            return;
        }
        let clients = self.clone();
        let serve = move || {
            let _counted = counted;
            if let Err(error) = clients.converse(&client) {
                log::warn!("a client's connection: {error}");
            }
        };
        if let Err(error) = start_thread("client", serve) {
            log::error!("a client is refused, no thread: {error}");
        }
    }

    fn admit(&self, client: &OwnedFd) -> Result<(), Error> {
        let internal = |error: io::Error| failure(Code::Internal, format!("cannot set up a connection: {error}"));
        set_socket_timeout(client, Timeout::Send, Some(SEND_TIME_LIMIT)).map_err(|errno| internal(errno.into()))?;
        efc_proto::allow_large_messages(client).map_err(internal)?;
        if !efc_proto::is_allowed_peer(client).map_err(internal)? {
            let message = "only root and the keeper's own user may give orders";
            return Err(failure(Code::PermissionDenied, message));
        }
        if self.count() > CLIENTS_MAX {
            return Err(failure(Code::ResourceExhausted, format!("{CLIENTS_MAX} clients are connected already")));
        }
        Ok(())
    }

    fn converse(&self, client: &OwnedFd) -> io::Result<()> {
        while let Some((KeeperRequest { request }, descriptors)) = efc_proto::receive(client)? {
            let _waiting = Counted::new(&self.waiting);
            match request {
                Some(Request::Hold(request)) => match self.mounts.hold(&request.target) {
                    Ok((status, held)) => reply_with_session(client, status, &held)?,
                    Err(error) => reply(client, Reply::Error(error))?,
                },
                request => reply(client, answer(request, descriptors, &self.mounts).unwrap_or_else(Reply::Error))?,
            }
        }
        Ok(())
    }
}

fn answer(request: Option<Request>, descriptors: Vec<OwnedFd>, mounts: &Arc<Mounts>) -> Result<Reply, Error> {
    match request {
        Some(Request::Mount(request)) => Ok(Reply::Mount(MountReply { status: Some(mounts.mount(request)?) })),
        Some(Request::Unmount(request)) => {
            mounts.unmount(&request)?;
            Ok(Reply::Unmount(UnmountReply {}))
        }
        Some(Request::Status(request)) => {
            let (statuses, last) = mounts.status(&request)?;
            Ok(Reply::Status(StatusReply {
                mounts: statuses,
                keeper_pid: rustix::process::getpid().as_raw_nonzero().get(),
                keeper_version: env!("CARGO_PKG_VERSION").to_owned(),
                program_version: mounts.programs().daemon.get().installed_version().unwrap_or_default().to_owned(),
                last,
            }))
        }
        Some(Request::Adopt(request)) => {
            Ok(Reply::Adopt(AdoptReply { status: Some(mounts.adopt(request.status, descriptors)?) }))
        }
        Some(Request::Install(request)) => {
            mounts.programs().daemon.install(Program::sealed(&request.version, descriptors)?);
            Ok(Reply::Install(InstallReply {}))
        }
        Some(Request::Upgrade(request)) => Ok(Reply::Upgrade(UpgradeReply { status: Some(mounts.upgrade(request)?) })),
        Some(Request::FindRoot(request)) => {
            Ok(Reply::FindRoot(FindRootReply { root: Some(mounts.find_root(&request)?) }))
        }
        _ => Err(failure(Code::InvalidArgument, "this keeper does not know the request")),
    }
}

fn reply_with_session(client: &OwnedFd, status: MountStatus, held: &Held) -> io::Result<()> {
    let reply = KeeperReply { reply: Some(Reply::Hold(HoldReply { status: Some(status) })) };
    efc_proto::send(client, &reply, &[held.device.as_fd(), held.state.as_fd()])
}

/// Sends a reply; one that is too large becomes an error.
fn reply(client: &OwnedFd, answer: Reply) -> io::Result<()> {
    let sent = efc_proto::send(client, &KeeperReply { reply: Some(answer) }, &[]);
    match &sent {
        Err(error) if rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::MSGSIZE) => {
            let error = failure(Code::ResourceExhausted, "the reply is too large; ask for one target");
            efc_proto::send(client, &KeeperReply { reply: Some(Reply::Error(error)) }, &[])
        }
        _ => sent,
    }
}
