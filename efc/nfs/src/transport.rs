//! The connections of one client, and which of them a call takes.
//!
//! Calls about one object share a connection, so that they keep their order there; READs and WRITEs spread over all,
//! by the bytes that are outstanding, because one TCP connection is rarely enough for one large file. A connection is
//! made when the first call takes it. While one cannot be made anew its calls take another, if one stands.

use std::fmt::Debug;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use efc_backend::{Cred, FileHandle, Ticket};

use crate::call::{Call, Destination, Reply};
use crate::connection::Connection;
use crate::random;
use crate::rpc::{self, Machine, Program};
use crate::xdr::{Encoder, padding};

/// Most connections of a client.
const CONNECTIONS_MAX: usize = 64;

/// By what a server's duplicate-request cache knows a client: the source port of each connection, and the bytes of a call, its
/// xid and the stamp of its credential among them. A process that goes on for another has the other's, and repeats a call of
/// the other's under its xid ([`Ticket::again`]): a server with such a cache executes it once.
pub trait Identity: Debug + Send + Sync {
    /// Of the AUTH_SYS credentials.
    fn stamp(&self) -> u32;
    /// The port that the connection of this number had last.
    fn source_port(&self, connection: usize) -> Option<u16>;
    /// The connection of this number has this port now; nothing was sent on it yet.
    fn connected(&self, connection: usize, source_port: u16);
    /// Asked before a call leaves and before an answer is used: does not return if this client must do nothing any more.
    fn fence(&self);
}

/// What all connections of a client share.
pub(crate) struct Shared {
    pub host: String,
    pub port: u16,
    pub privileged: bool,
    /// A connection that brings nothing for this long while calls are unanswered is made anew.
    pub silence_max: Duration,
    /// The address that answered last.
    pub address: Mutex<Option<SocketAddr>>,
    pub stats: Stats,
    pub splicing: Splicing,
    pub identity: Option<Arc<dyn Identity>>,
    connections: OnceLock<Vec<Weak<Connection>>>,
    machine: Machine,
    first_xid: u32,
    sequence: AtomicU64,
}

/// Counters behind [`crate::Counters`].
#[derive(Default)]
pub(crate) struct Stats {
    pub calls: AtomicU64,
    pub retransmits: AtomicU64,
    pub reconnects: AtomicU64,
    pub bytes_read: AtomicU64,
    pub bytes_spliced: AtomicU64,
    pub bytes_written: AtomicU64,
}

/// Whether it pays to try a pipe: whether payloads fit depends on the network's frames and the server's records, so
/// after a few misfits in a row it is tried only now and then.
#[derive(Default)]
pub(crate) struct Splicing {
    misfits_in_row: AtomicU32,
    pub misfits: AtomicU64,
}

impl Splicing {
    const MISFITS_MAX: u32 = 4;
    /// One in so many READs is tried after that.
    const TRIED_AGAIN: u32 = 256;

    pub(crate) fn is_worth_a_try(&self) -> bool {
        self.misfits_in_row.load(Ordering::Relaxed) < Self::MISFITS_MAX
            || self.misfits_in_row.fetch_add(1, Ordering::Relaxed).is_multiple_of(Self::TRIED_AGAIN)
    }

    pub(crate) fn tried(&self, fitted: bool) {
        if fitted {
            if self.misfits_in_row.load(Ordering::Relaxed) != 0 {
                self.misfits_in_row.store(0, Ordering::Relaxed);
            }
        } else {
            self.misfits_in_row.fetch_add(1, Ordering::Relaxed);
            self.misfits.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    pub(crate) fn new(
        (host, port): (&str, u16),
        privileged: bool,
        silence_max: Duration,
        identity: Option<Arc<dyn Identity>>,
    ) -> Shared {
        let random = random();
        let stamp = identity.as_ref().map_or(random as u32, |identity| identity.stamp());
        Shared {
            host: host.to_owned(),
            port,
            privileged,
            silence_max,
            address: Mutex::new(None),
            stats: Stats::default(),
            splicing: Splicing::default(),
            identity,
            connections: OnceLock::new(),
            machine: Machine::local(stamp),
            first_xid: (random >> 32) as u32,
            sequence: AtomicU64::new(0),
        }
    }

    /// Whoever has a successor goes no further.
    pub(crate) fn fence(&self) {
        self.identity.iter().for_each(|identity| identity.fence());
    }

    /// The connection with the least to do among those that stand, as far as is known, without `index`.
    pub(crate) fn standing(&self, index: usize) -> Option<Arc<Connection>> {
        let others = self.connections.get().into_iter().flatten().filter_map(Weak::upgrade);
        let standing = others.filter(|connection| connection.index() != index && !connection.is_down());
        standing.min_by_key(|connection| connection.outstanding())
    }

    /// A connection stands again: those that nobody waits for may be made anew beside it.
    pub(crate) fn wake_others(&self, index: usize) {
        let others = self.connections.get().into_iter().flatten().filter_map(Weak::upgrade);
        others.filter(|connection| connection.index() != index).for_each(|connection| connection.wake());
    }

    /// The server as a person writes it.
    pub(crate) fn name(&self) -> String {
        host_and_port(&self.host, self.port)
    }

    /// A place in the order of calls, and the xid that belongs to it.
    pub(crate) fn next_call(&self) -> (u64, u32) {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        (sequence, self.first_xid.wrapping_add(sequence as u32))
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Which connection a call takes.
#[derive(Clone, Copy)]
pub(crate) enum Route {
    /// The one of its object.
    Home,
    /// The one with the least to do.
    LeastBusy,
}

/// The connections of one client; their threads end when it is dropped.
pub(crate) struct Transport {
    pub shared: Arc<Shared>,
    connections: Vec<Arc<Connection>>,
}

impl Transport {
    pub(crate) fn new(shared: Shared, connections: usize) -> Transport {
        let shared = Arc::new(shared);
        let connections = connections.clamp(1, CONNECTIONS_MAX);
        let connections: Vec<_> = (0..connections).map(|index| Connection::new(index, Arc::clone(&shared))).collect();
        shared.connections.get_or_init(|| connections.iter().map(Arc::downgrade).collect());
        Transport { shared, connections }
    }

    /// Gives the connection of `object` a socket.
    pub(crate) fn adopt(&self, object: &FileHandle, address: SocketAddr, socket: TcpStream) {
        *crate::lock(&self.shared.address) = Some(address);
        self.choose(object, Route::Home).adopt(socket);
    }

    /// When the oldest unanswered call was made.
    pub(crate) fn oldest_call(&self) -> Option<Instant> {
        self.connections.iter().filter_map(|connection| connection.oldest_call()).min()
    }

    /// The number of the connection that calls about `object` take.
    #[cfg(test)]
    pub(crate) fn home(&self, object: &FileHandle) -> usize {
        self.choose(object, Route::Home).index()
    }

    fn choose(&self, object: &FileHandle, route: Route) -> &Arc<Connection> {
        let count = self.connections.len();
        let home = (hash(object.as_bytes()) % count as u64) as usize;
        let mut standing =
            (0..count).map(|step| &self.connections[(home + step) % count]).filter(|connection| !connection.is_down());
        let chosen = match route {
            Route::Home => standing.next(),
            Route::LeastBusy => standing.min_by_key(|connection| connection.outstanding()),
        };
        chosen.unwrap_or(&self.connections[home])
    }

    /// Makes a call and submits it.
    pub(crate) fn submit(&self, request: Submission<'_>) -> Reply {
        let (sequence, own) = self.shared.next_call();
        let xid = request.ticket.map_or(own, |ticket| ticket.number);
        let mut encoder = rpc::call(&self.shared.machine, xid, request.program, request.procedure, request.cred);
        (request.encode)(&mut encoder);
        let payload = request.payload.len();
        let message = rpc::finish(encoder, payload + padding(payload));
        let call = Call::new((sequence, xid), message, request.payload, request.destination, request.procedure);
        let call = Arc::new(call);
        if request.ticket.is_some_and(|ticket| ticket.is_repeated) {
            call.set_repeated();
        }
        let connection = self.choose(request.object, request.route);
        self.shared.stats.calls.fetch_add(1, Ordering::Relaxed);
        call.submit_to(connection);
        Reply::new(call, request.limit)
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.connections.iter().for_each(|connection| connection.stop());
    }
}

/// One call to be made.
pub(crate) struct Submission<'a> {
    /// Of the call, which has the next xid if there is none.
    pub ticket: Option<Ticket>,
    pub program: Program,
    pub procedure: u32,
    pub cred: &'a Cred,
    pub object: &'a FileHandle,
    pub route: Route,
    pub encode: &'a (dyn Fn(&mut Encoder) + Sync),
    /// Opaque data behind the arguments, which end with its length.
    pub payload: Bytes,
    pub destination: Option<Destination>,
    pub limit: Option<Duration>,
}

/// FNV-1a, folded because its low bits alone are weak.
fn hash(bytes: &[u8]) -> u64 {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_that_differ_in_one_byte_spread_over_the_connections() {
        let mut counts = [0; 4];
        for byte in 0..=255u8 {
            counts[(hash(&[1, 2, 3, byte, 0, 0, 0, 0]) % 4) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (32..=96).contains(count)), "{counts:?}");
    }

    #[test]
    fn pipes_that_never_fit_are_tried_now_and_then_and_again_when_one_fits() {
        let splicing = Splicing::default();
        let tries = |count| (0..count).filter(|_| splicing.is_worth_a_try()).count();
        for _ in 0..Splicing::MISFITS_MAX {
            assert_eq!(tries(10), 10);
            splicing.tried(false);
        }
        assert!((3..=5).contains(&tries(4 * Splicing::TRIED_AGAIN)));
        splicing.tried(true);
        assert_eq!(tries(10), 10);
    }

    #[test]
    fn xids_are_unique_and_in_order() {
        let shared = Shared::new(("nas", 2049), false, Duration::from_secs(1), None);
        let (first, second) = (shared.next_call(), shared.next_call());
        assert_eq!(second, (first.0 + 1, first.1.wrapping_add(1)));
    }
}
