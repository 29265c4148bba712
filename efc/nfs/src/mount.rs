//! From a [`Config`] to a connected client: ports from rpcbind, the export's handle from the MOUNT protocol, the root's
//! attributes and limits from NFS.
//!
//! The steps before the first NFS call (name resolution, rpcbind, MOUNT, connecting) happen once, one after another and
//! under one deadline: plain blocking code on a thread of its own, whose only product is a handle and a socket. Every
//! failure becomes one sentence for people. Some servers answer MNT only for an export itself, so a directory below one
//! is found by mounting its nearest parent that can be mounted, and looking the rest up; symbolic links are not
//! followed.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use efc_backend::{Cred, Error, ErrorKind, FileHandle, FileType, Status};
use efc_tasks::time::{now, sleep_until};
use futures_lite::future;
use tokio::sync::oneshot;

use crate::basics::random;
use crate::client::Client;
use crate::config::{Config, Mounted};
use crate::error::{ConnectError, ConnectErrorKind as Kind};
use crate::nfs3;
use crate::record::{RECORD_MAX, Records, Source};
use crate::rpc::{self, AUTH_SYS, Machine, Program};
use crate::shared::host_and_port;
use crate::socket::Dial;
use crate::xdr::{Decoded, Decoder, Encoder};

const RPCBIND_PORT: u16 = 111;
const NFS_PORT: u16 = 2049;
const GETPORT: u32 = 3;
const IPPROTO_TCP: u32 = 6;
const MNT: u32 = 1;
const EXPORT: u32 = 5;
/// Longest path of an export and longest name of a group of hosts (RFC 1813, section 5.1.1).
const MOUNT_PATH_MAX: usize = 1024;
const MOUNT_NAME_MAX: usize = 255;
/// Most authentication flavors of an export that are looked at.
const FLAVORS_MAX: u32 = 64;
/// Exports that an error message lists.
const EXPORTS_NAMED_MAX: usize = 8;
/// rpcbind answers at once or not at all: a firewall must not eat the whole time limit.
const RPCBIND_LIMIT: Duration = Duration::from_secs(3);
/// The finder keeps its deadline itself, but for name resolution; this much later, and an eighth of the whole time, it
/// is given up: the kernel's timers behind a socket's time limits may be an eighth late.
const FINDER_GRACE: Duration = Duration::from_millis(250);

type Result<T> = std::result::Result<T, ConnectError>;

impl Client {
    /// Finds the server and the directory, and connects.
    ///
    /// # Errors
    /// Why not, in one sentence for a person, within [`Config::connect_time_limit`].
    pub async fn connect(config: &Config) -> Result<(Client, Mounted)> {
        let deadline = now() + config.connect_time_limit;
        let found = find_in_thread(config, deadline, Finder::find).await?;
        let client = Client::resume(config, found.address.port());
        client.transport().adopt(&found.handle, found.address, found.socket);
        let too_late = async {
            sleep_until(deadline).await;
            let server = host_and_port(&config.host, found.address.port());
            let limit = seconds(config.connect_time_limit);
            let took = format!("{server} took the connection but answers no NFS call within {limit}");
            Err(failure(Kind::Unreachable, format!("{took}: is it a healthy NFSv3 server?")))
        };
        let mounted = future::or(open(config, &client, found.handle, &found.below), too_late).await?;
        Ok((client, mounted))
    }

    /// The handle of the directory that `config` names, as the server has it now: MNT anew, and look-ups over this
    /// client's connections.
    ///
    /// # Errors
    /// As those of [`Client::connect`].
    pub async fn find_root(&self, config: &Config) -> Result<FileHandle> {
        let deadline = now() + config.connect_time_limit;
        let (handle, below) = find_in_thread(config, deadline, Finder::find_export).await?;
        let too_late = async {
            sleep_until(deadline).await;
            let limit = seconds(config.connect_time_limit);
            Err(failure(Kind::Unreachable, format!("{} answers no NFS call within {limit}", config.host)))
        };
        future::or(descend(config, self, handle, &below), too_late).await
    }
}

fn failure(kind: Kind, message: String) -> ConnectError {
    ConnectError { kind, message }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// A path for a message: one printable line, whatever a server calls its exports.
fn text(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for character in String::from_utf8_lossy(path).chars() {
        match character {
            '\'' | '"' | '\\' => text.push(character),
            _ => text.extend(character.escape_debug()),
        }
    }
    text
}

// ---------------------------------------------------------------- NFS: the directory and its limits

/// Looks `below` up under the export's `handle` and asks for what [`Mounted`] holds.
async fn open(config: &Config, client: &Client, handle: FileHandle, below: &[Vec<u8>]) -> Result<Mounted> {
    let cred = Cred::root();
    let port = client.transport().shared.port;
    let refused = |error: Error| nfs_failure(config, port, &error);
    let root = descend(config, client, handle, below).await?;
    let attr = client.getattr(&cred, &root).await.map_err(refused)?;
    if attr.kind != FileType::Directory {
        return Err(not_a_directory(config));
    }
    let info = client.fsinfo(&cred, &root).await.map_err(refused)?;
    let ignores_case = match client.pathconf(&cred, &root).await {
        Ok(path) => path.ignores_case,
        // A server that knows no PATHCONF tells names apart as all do.
        Err(error) if matches!(error.kind, ErrorKind::Status(_) | ErrorKind::Rejected(_)) => false,
        Err(error) => return Err(refused(error)),
    };
    Ok(Mounted { root, attr, info, ignores_case, port })
}

/// Looks `below` up under the export's `handle`.
async fn descend(config: &Config, client: &Client, handle: FileHandle, below: &[Vec<u8>]) -> Result<FileHandle> {
    let mut root = handle;
    for name in below {
        root = match client.lookup(&Cred::root(), &root, name).await {
            Ok(found) => found.handle,
            Err(error) if error.is(Status::NotDir) => return Err(not_a_directory(config)),
            Err(error) => return Err(nfs_failure(config, client.transport().shared.port, &error)),
        };
    }
    Ok(root)
}

fn not_a_directory(config: &Config) -> ConnectError {
    let path = text(&config.path);
    failure(
        Kind::NotADirectory,
        format!("{path} on {} is not a directory (symbolic links are not followed)", config.host),
    )
}

fn nfs_failure(config: &Config, port: u16, error: &Error) -> ConnectError {
    let (server, path) = (host_and_port(&config.host, port), text(&config.path));
    match &error.kind {
        ErrorKind::Status(Status::NoEnt) => {
            failure(Kind::NotFound, format!("there is no directory {path} on {server}: make it, or correct the path"))
        }
        ErrorKind::Status(Status::Acces | Status::Perm) => failure(
            Kind::Refused,
            format!(
                "{server} refuses access to {path} ({error}): check the export's list of clients and its squash option"
            ),
        ),
        ErrorKind::Denied(why) | ErrorKind::Rejected(why) => {
            let is_denied = matches!(error.kind, ErrorKind::Denied(_));
            let kind = if is_denied { Kind::Refused } else { Kind::Protocol };
            failure(kind, format!("{server} rejected an NFSv3 call ({why}): is NFSv3 with AUTH_SYS enabled there?"))
        }
        ErrorKind::TimedOut => {
            failure(Kind::Unreachable, format!("{server} took the connection but did not answer in time"))
        }
        _ => failure(Kind::Protocol, format!("{server} answered {error} about {path}: is it a healthy NFSv3 server?")),
    }
}

// ---------------------------------------------------------------- before NFS

/// What the finder brings.
struct Found {
    handle: FileHandle,
    /// Components of the path below the export that was mounted.
    below: Vec<Vec<u8>>,
    address: SocketAddr,
    socket: TcpStream,
}

/// Runs the finder; its thread is left alone if it hangs in name resolution.
async fn find_in_thread<T: Send + 'static>(
    config: &Config,
    deadline: Instant,
    find: fn(&Finder) -> Result<T>,
) -> Result<T> {
    let (done, finished) = oneshot::channel();
    let finder = Finder { config: config.clone(), deadline, machine: Machine::local(random() as u32) };
    let find = move || drop(done.send(find(&finder)));
    let spawned = thread::Builder::new().name("nfs-find".into()).spawn(find);
    if let Err(error) = spawned {
        return Err(failure(
            Kind::Unreachable,
            format!("cannot start a thread to connect to {}: {error}", config.host),
        ));
    }
    let too_late = async {
        sleep_until(deadline + config.connect_time_limit / 8 + FINDER_GRACE).await;
        let limit = seconds(config.connect_time_limit);
        let message = format!("the name {} was not resolved within {limit}: check the DNS servers", config.host);
        Err(failure(Kind::Unreachable, message))
    };
    let found = async { finished.await.expect("the finder does not panic") };
    future::or(found, too_late).await
}

struct Finder {
    config: Config,
    deadline: Instant,
    machine: Machine,
}

/// A port of the server's, and from where it is known.
#[derive(Clone, Copy)]
struct Port {
    number: u16,
    origin: PortOrigin,
}

#[derive(Clone, Copy)]
enum PortOrigin {
    Given,
    Rpcbind,
    /// The usual one, as rpcbind names none.
    Unnamed,
    /// The usual one, as rpcbind cannot be reached.
    Unasked,
}

/// Why MNT brought no handle.
enum MountFailure {
    /// A `mountstat3`.
    Status(u32),
    Other(ConnectError),
}

impl Finder {
    fn find(&self) -> Result<Found> {
        let addresses = self.resolve()?;
        let (nfs_port, mount_port) = self.ports(&addresses);
        let (socket, _) = self.dial(&addresses, mount_port, "MOUNT")?;
        let (handle, below) = self.mount(&mut Exchange::new(socket, self.deadline))?;
        let (socket, address) = self.dial(&addresses, nfs_port, "NFS")?;
        Ok(Found { handle, below, address, socket })
    }

    /// Only what MNT says.
    fn find_export(&self) -> Result<(FileHandle, Vec<Vec<u8>>)> {
        let addresses = self.resolve()?;
        let (_, mount_port) = self.ports(&addresses);
        let (socket, _) = self.dial(&addresses, mount_port, "MOUNT")?;
        self.mount(&mut Exchange::new(socket, self.deadline))
    }

    fn resolve(&self) -> Result<Vec<SocketAddr>> {
        let host = &self.config.host;
        let resolved = (host.as_str(), 0).to_socket_addrs().map(|addresses| addresses.collect::<Vec<_>>());
        match resolved {
            Ok(addresses) if !addresses.is_empty() => Ok(addresses),
            Ok(_) => Err(failure(Kind::NotFound, format!("the host {host} has no address"))),
            Err(error) => {
                let temporary = error.to_string().contains("emporary failure");
                let kind = if temporary { Kind::Unreachable } else { Kind::NotFound };
                let message =
                    format!("the host {host} cannot be resolved ({error}): check its name, or give an address");
                Err(failure(kind, message))
            }
        }
    }

    /// The ports of NFS and MOUNT: as given, else from rpcbind, else the usual ones.
    fn ports(&self, addresses: &[SocketAddr]) -> (Port, Port) {
        let given = |number: Option<u16>| number.map(|number| Port { number, origin: PortOrigin::Given });
        let (nfs, mount) = (given(self.config.port), given(self.config.mount_port));
        let mut rpcbind = if nfs.is_some() && mount.is_some() { None } else { self.reach_rpcbind(addresses) };
        let usual = if rpcbind.is_some() { PortOrigin::Unnamed } else { PortOrigin::Unasked };
        let mut ask = |program| {
            let number = rpcbind.as_mut().and_then(|exchange| self.ask_rpcbind(exchange, program))?;
            Some(Port { number, origin: PortOrigin::Rpcbind })
        };
        let nfs = nfs.or_else(|| ask(rpc::NFS)).unwrap_or(Port { number: NFS_PORT, origin: usual });
        (nfs, mount.or_else(|| ask(rpc::MOUNT)).unwrap_or(Port { origin: usual, ..nfs }))
    }

    fn reach_rpcbind(&self, addresses: &[SocketAddr]) -> Option<Exchange> {
        let deadline = self.deadline.min(now() + RPCBIND_LIMIT);
        let (socket, _) = connect_any(addresses, RPCBIND_PORT, false, deadline).ok()?;
        Some(Exchange::new(socket, deadline))
    }

    fn ask_rpcbind(&self, exchange: &mut Exchange, program: Program) -> Option<u16> {
        let encode = |encoder: &mut Encoder| {
            encoder.u32(program.number).u32(program.version).u32(IPPROTO_TCP).u32(0);
        };
        let reply = exchange.call(&self.machine, rpc::RPCBIND, GETPORT, encode).ok()?;
        let port = accepted(&reply).ok()?.u32().ok()?;
        u16::try_from(port).ok().filter(|port| *port != 0)
    }

    fn dial(&self, addresses: &[SocketAddr], port: Port, service: &str) -> Result<(TcpStream, SocketAddr)> {
        let Port { number, origin } = port;
        connect_any(addresses, number, self.config.privileged_port, self.deadline).map_err(|error| {
            let server = host_and_port(&self.config.host, number);
            let message = match error.kind() {
                io::ErrorKind::ConnectionRefused => refused(&server, service, origin),
                io::ErrorKind::TimedOut => format!(
                    "{server} ({service}) does not answer within {}: check address, route and firewall",
                    seconds(self.config.connect_time_limit)
                ),
                _ => format!("cannot connect to {server} ({service}): {error}"),
            };
            failure(Kind::Unreachable, message)
        })
    }

    /// MNT of the path, or of its nearest parent that can be mounted and the names below that.
    fn mount(&self, exchange: &mut Exchange) -> Result<(FileHandle, Vec<Vec<u8>>)> {
        let names: Vec<&[u8]> = self.config.path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let mut first = None;
        for depth in (0..=names.len()).rev() {
            let mut path = names[..depth].iter().flat_map(|name| [b"/", *name].concat()).collect::<Vec<u8>>();
            if path.is_empty() {
                path.push(b'/');
            }
            match self.mount_one(exchange, &path) {
                Ok(handle) => return Ok((handle, names[depth..].iter().map(|name| name.to_vec()).collect())),
                Err(MountFailure::Other(error)) => return Err(error),
                Err(MountFailure::Status(status)) => {
                    first.get_or_insert(status);
                    if !parent_may_do(status) {
                        break;
                    }
                }
            }
        }
        Err(self.mount_refused(first.unwrap_or_default(), exchange))
    }

    fn mount_one(&self, exchange: &mut Exchange, path: &[u8]) -> std::result::Result<FileHandle, MountFailure> {
        let encode = |encoder: &mut Encoder| {
            encoder.opaque(path);
        };
        let reply = exchange.call(&self.machine, rpc::MOUNT, MNT, encode).map_err(|error| self.broken(&error))?;
        let mut decoder = accepted(&reply).map_err(|kind| self.rejected(&kind))?;
        let garbled = |_| self.rejected(&ErrorKind::Garbled("MNT reply"));
        match decoder.u32().map_err(garbled)? {
            0 => {}
            status => return Err(MountFailure::Status(status)),
        }
        let handle = nfs3::handle(&mut decoder).map_err(garbled)?;
        if allows_auth_sys(&mut decoder).map_err(garbled)? {
            return Ok(handle);
        }
        let message = format!(
            "{} exports {} without AUTH_SYS (Kerberos only): allow sec=sys for this client",
            self.config.host,
            text(path)
        );
        Err(MountFailure::Other(failure(Kind::Refused, message)))
    }

    fn broken(&self, error: &io::Error) -> MountFailure {
        let host = &self.config.host;
        let (kind, message) = match error.kind() {
            io::ErrorKind::TimedOut => (
                Kind::Unreachable,
                format!(
                    "the MOUNT service of {host} took the connection but did not answer in time: is it overloaded?"
                ),
            ),
            io::ErrorKind::InvalidData => (
                Kind::Protocol,
                format!(
                    "what answers as MOUNT service on {host} does not speak ONC RPC ({error}): is mountport right?"
                ),
            ),
            _ => (Kind::Unreachable, format!("the MOUNT service of {host} closed the connection ({error}): try again")),
        };
        MountFailure::Other(failure(kind, message))
    }

    fn rejected(&self, kind: &ErrorKind) -> MountFailure {
        let host = &self.config.host;
        let error = Error::new(kind.clone());
        let (kind, hint) = match kind {
            ErrorKind::Denied(_) => (Kind::Refused, "is this client allowed there?"),
            _ => (Kind::Protocol, "does it serve NFSv3, and is mountport right?"),
        };
        MountFailure::Other(failure(kind, format!("the MOUNT service of {host} did not serve MNT ({error}): {hint}")))
    }

    fn mount_refused(&self, status: u32, exchange: &mut Exchange) -> ConnectError {
        let (host, path) = (&self.config.host, text(&self.config.path));
        let exports = self.exports(exchange);
        let exported = |export: &String| export == "/" || path == *export || path.starts_with(&format!("{export}/"));
        let unknown = exports.as_ref().is_some_and(|exports| !exports.is_empty() && !exports.iter().any(exported));
        let list = match exports {
            Some(exports) if exports.is_empty() => "; the server exports nothing to this client".to_owned(),
            Some(exports) if exports.len() > EXPORTS_NAMED_MAX => {
                format!("; the server exports {}, ...", exports[..EXPORTS_NAMED_MAX].join(", "))
            }
            Some(exports) => format!("; the server exports {}", exports.join(", ")),
            None => String::new(),
        };
        let (kind, why) = match status {
            // Some servers hide an export from those whom they refuse, and refuse what they do not export.
            1 | 13 if unknown => (
                Kind::Refused,
                "does not export this to this client (MNT3ERR_ACCES): check the path and the export's list of clients",
            ),
            1 | 13 => (Kind::Refused, "refuses this client (MNT3ERR_ACCES): add it to the export's list of clients"),
            2 => (Kind::NotFound, "knows no such export or directory (MNT3ERR_NOENT)"),
            20 => (Kind::NotADirectory, "says that this is not a directory (MNT3ERR_NOTDIR)"),
            22 => (Kind::NotFound, "does not accept this path (MNT3ERR_INVAL)"),
            63 => (Kind::NotFound, "says that the path is too long (MNT3ERR_NAMETOOLONG)"),
            10004 => (Kind::Protocol, "does not support this (MNT3ERR_NOTSUPP)"),
            10006 => (Kind::Protocol, "has failed (MNT3ERR_SERVERFAULT)"),
            _ => (Kind::Protocol, "answered with an I/O or unknown error"),
        };
        failure(kind, format!("cannot mount {path}: {host} {why}{list}"))
    }

    /// The directories that the server exports, if it tells.
    fn exports(&self, exchange: &mut Exchange) -> Option<Vec<String>> {
        let reply = exchange.call(&self.machine, rpc::MOUNT, EXPORT, |_| {}).ok()?;
        let mut decoder = accepted(&reply).ok()?;
        let mut exports = Vec::new();
        while decoder.bool().ok()? {
            exports.push(text(decoder.opaque(MOUNT_PATH_MAX).ok()?));
            while decoder.bool().ok()? {
                decoder.opaque(MOUNT_NAME_MAX).ok()?;
            }
        }
        Some(exports)
    }
}

/// A `mountstat3` that may concern only the path's end: ACCES, NOENT, NOTDIR, INVAL, SERVERFAULT.
fn parent_may_do(status: u32) -> bool {
    matches!(status, 2 | 13 | 20 | 22 | 10006)
}

/// Is AUTH_SYS among the flavors of an MNT reply? Some servers list none and mean all.
fn allows_auth_sys(decoder: &mut Decoder<'_>) -> Decoded<bool> {
    let count = decoder.u32()?;
    let mut allowed = count == 0;
    for _ in 0..count.min(FLAVORS_MAX) {
        allowed |= decoder.u32()? == AUTH_SYS;
    }
    Ok(allowed)
}

fn connect_any(
    addresses: &[SocketAddr],
    port: u16,
    privileged: bool,
    deadline: Instant,
) -> io::Result<(TcpStream, SocketAddr)> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for (index, address) in addresses.iter().enumerate() {
        let mut address = *address;
        address.set_port(port);
        // A dead address must leave the others their share of the time.
        let left = deadline.saturating_duration_since(now());
        let share = now() + left / (addresses.len() - index) as u32;
        let dial = Dial { source_port: None, privileged, deadline: share, wanted: &|| true };
        match dial.connect(address) {
            Ok(socket) => return Ok((socket, address)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn accepted(reply: &[u8]) -> std::result::Result<Decoder<'_>, ErrorKind> {
    let mut decoder = Decoder::new(reply);
    rpc::accept(&mut decoder)?;
    Ok(decoder)
}

/// One call after another on a socket of its own.
struct Exchange {
    records: Records<Until>,
    xid: u32,
}

/// A socket with a deadline.
struct Until {
    socket: TcpStream,
    deadline: Instant,
}

impl Source for Until {
    fn receive(&mut self, first: &mut [u8], _second: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        let received = io::Read::read(&mut self.socket, first);
        received.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })
    }
}

impl Exchange {
    fn new(socket: TcpStream, deadline: Instant) -> Exchange {
        Exchange { records: Records::new(Until { socket, deadline }), xid: random() as u32 }
    }

    /// Makes a call as the superuser and waits for its reply.
    fn call(
        &mut self,
        machine: &Machine,
        program: Program,
        procedure: u32,
        encode: impl Fn(&mut Encoder),
    ) -> io::Result<Vec<u8>> {
        self.xid = self.xid.wrapping_add(1);
        let mut encoder = rpc::call(machine, self.xid, program, procedure, &Cred::root());
        encode(&mut encoder);
        io::Write::write_all(&mut self.records.source().socket, &rpc::finish(encoder, 0))?;
        loop {
            self.records.next()?;
            let mut reply = Vec::new();
            self.records.append(&mut reply, RECORD_MAX)?;
            if reply.starts_with(&self.xid.to_be_bytes()) {
                return Ok(reply);
            }
        }
    }
}

/// That nobody listens at a port, why it was this one, and how another is given.
fn refused(server: &str, service: &str, origin: PortOrigin) -> String {
    let why = match origin {
        PortOrigin::Given => "",
        PortOrigin::Rpcbind => " (rpcbind, port 111 of the server, names this port)",
        PortOrigin::Unnamed => " (rpcbind, port 111 of the server, names no other port)",
        PortOrigin::Unasked => " (rpcbind, port 111 of the server, which would name another port, cannot be reached)",
    };
    let remedy = "start it, or give the ports: nfs://HOST:PORT/DIR?mountport=PORT";
    format!("{server} refuses TCP connections, so no {service} service listens there{why}: {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_export_is_one_printable_line() {
        assert_eq!(text("/größe/it's \"a\\b\"".as_bytes()), "/größe/it's \"a\\b\"");
        assert_eq!(text(b"/a\x1b[2J\n\xe2\x80\xa8\x7f"), "/a\\u{1b}[2J\\n\\u{2028}\\u{7f}");
        assert!(!text(b"\x00\x1b\r\n\xff").chars().any(char::is_control));
    }

    #[test]
    fn who_is_refused_is_told_of_rpcbind_and_how_ports_are_given() {
        let message = refused("nas:2049", "MOUNT", PortOrigin::Unasked);
        let said = "(rpcbind, port 111 of the server, which would name another port, cannot be reached): start it";
        assert!(
            message.starts_with("nas:2049 refuses TCP connections, so no MOUNT service listens there"),
            "{message}"
        );
        assert!(message.contains(said) && message.ends_with("nfs://HOST:PORT/DIR?mountport=PORT"), "{message}");
        assert!(!refused("nas:2049", "NFS", PortOrigin::Given).contains("rpcbind"));
    }
}
