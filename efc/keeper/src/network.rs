//! Networks other than the keeper's own, for daemons that are to reach the NAS from another address.
//!
//! The holder of a network namespace, for example a small pod, serves a socket `network/NAME.sock` in the run directory
//! and sends the namespace's descriptor to whoever connects (`bin/efc-network.rs`). A mount keeps the descriptor, so
//! its successors are in the same network even while that pod cannot be reached. If a pod hands out another namespace,
//! the former pod has been replaced and its network is gone; then the next daemon gets the new one, and running daemons
//! are moved to it (`moving.rs`).
//!
//! What comes over that socket is not trusted: it must be a network namespace, and not the keeper's own.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use efc_proto::error::Code;
use efc_proto::{Error, NetworkOffer};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::failure::failure;
use crate::program::NAME as DAEMON;

/// How long the holder of a namespace may take to hand it out; a successor waits that long before it goes without.
const TIME_LIMIT: Duration = Duration::from_millis(500);
/// Longest name, in bytes.
const NAME_LENGTH_MAX: usize = 32;

/// Where namespaces are handed out.
#[derive(Debug)]
pub struct Networks {
    folder: PathBuf,
}

/// The network of one mount's daemons.
#[derive(Debug)]
pub struct Network<'a> {
    networks: &'a Networks,
    name: String,
    /// None: whoever had it is gone, and nobody hands it out.
    namespace: Mutex<Option<Arc<OwnedFd>>>,
}

impl Networks {
    /// The networks that a keeper in `run_dir` can be handed.
    pub fn new(run_dir: &Path) -> Networks {
        Networks { folder: run_dir.join("network") }
    }

    /// The network of this name, which must be there now.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for what is no name; FAILED_PRECONDITION if nobody hands out such a network.
    pub fn find(&self, name: &str) -> Result<Network<'_>, Error> {
        check_name(name)?;
        let namespace = self.ask(name).map_err(|error| {
            let message = format!(
                "this node has no network {name:?} for daemons ({error}): let the chart install efc-network \
                 (network.enabled=true), or mount without the option network"
            );
            failure(Code::FailedPrecondition, message)
        })?;
        Ok(self.network(name, Some(namespace)))
    }

    /// The network of an earlier keeper's daemon `pid`, 0 if none runs: that which the process is in, else that which is handed out
    /// when the next daemon starts.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for what is no name.
    pub fn former(&self, name: &str, pid: i32) -> Result<Network<'_>, Error> {
        check_name(name)?;
        Ok(self.network(name, namespace_of_daemon(pid)))
    }

    /// Which namespace is handed out now, as [`of_process`] says it.
    ///
    /// # Errors
    /// Nobody answers, or with what is no network for daemons.
    pub fn offered(&self, name: &str) -> io::Result<String> {
        check_name(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.message))?;
        identity(&self.ask(name)?)
    }

    fn network(&self, name: &str, namespace: Option<OwnedFd>) -> Network<'_> {
        Network { networks: self, name: name.to_owned(), namespace: Mutex::new(namespace.map(Arc::new)) }
    }

    fn ask(&self, name: &str) -> io::Result<OwnedFd> {
        let path = self.folder.join(format!("{name}.sock"));
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for direction in [Timeout::Send, Timeout::Recv] {
            set_socket_timeout(&socket, direction, Some(TIME_LIMIT))?;
        }
        let at_path = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        connect(&socket, &SocketAddrUnix::new(&path)?).map_err(|errno| at_path(errno.into()))?;
        let received = efc_proto::receive::<NetworkOffer>(&socket).map_err(at_path)?;
        let invalid = |why: &str| at_path(io::Error::new(io::ErrorKind::InvalidData, why));
        let (_, descriptors) = received.ok_or_else(|| invalid("it hands nothing out"))?;
        let [namespace] = <[OwnedFd; 1]>::try_from(descriptors).map_err(|_| invalid("expected one descriptor"))?;
        let identity = identity(&namespace)?;
        if !identity.starts_with("net:[") {
            return Err(invalid("what it hands out is not a network namespace"));
        }
        if Path::new(&identity) == std::fs::read_link("/proc/self/ns/net")? {
            return Err(invalid("what it hands out is the keeper's own network"));
        }
        Ok(namespace)
    }
}

impl Network<'_> {
    /// The namespace for a daemon that is started now.
    ///
    /// # Errors
    /// Nobody hands it out, and there is none from before.
    pub fn namespace(&self) -> io::Result<Arc<OwnedFd>> {
        let mut held = self.namespace.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.networks.ask(&self.name), held.clone()) {
            (Ok(offered), former) => {
                if former.is_some_and(|former| identity(&former).ok() != identity(&offered).ok()) {
                    log::warn!("the network {:?} was replaced; the next daemon uses the new one", self.name);
                }
                let offered = Arc::new(offered);
                *held = Some(offered.clone());
                Ok(offered)
            }
            (Err(error), Some(former)) => {
                log::warn!("the network {:?} cannot be asked ({error}); it is kept", self.name);
                Ok(former)
            }
            (Err(error), None) => Err(error),
        }
    }
}

/// The network namespace that a process is in, as /proc names it; `None` if it has ended. No two that exist have the same name.
pub fn of_process(pid: i32) -> Option<String> {
    let target = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    Some(target.to_string_lossy().into_owned())
}

fn check_name(name: &str) -> Result<(), Error> {
    let is_plain = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    if name.is_empty() || name.len() > NAME_LENGTH_MAX || !name.bytes().all(is_plain) {
        return Err(failure(Code::InvalidArgument, format!("{name:?} is not the name of a network")));
    }
    Ok(())
}

/// The namespace of a process, if that is a daemon in another network than ours.
fn namespace_of_daemon(pid: i32) -> Option<OwnedFd> {
    let process = Path::new("/proc").join(pid.to_string());
    // First the namespace: should the process end and its id be given to another, that one's name is not a daemon's.
    let namespace = OwnedFd::from(std::fs::File::open(process.join("ns/net")).ok()?);
    let is_daemon = std::fs::read(process.join("comm")).ok()? == format!("{DAEMON}\n").into_bytes();
    let own = std::fs::read_link("/proc/self/ns/net").ok()?;
    (is_daemon && Path::new(&identity(&namespace).ok()?) != own).then_some(namespace)
}

/// What a descriptor refers to; for a namespace its type and number.
fn identity(descriptor: &OwnedFd) -> io::Result<String> {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))?;
    Ok(target.to_string_lossy().into_owned())
}
