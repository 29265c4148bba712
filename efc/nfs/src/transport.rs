//! The connections of one client, and which of them a call uses.
//!
//! Calls about one object share a connection, so that they keep their order there; READs and WRITEs are spread over
//! all, by the bytes in flight, because one TCP connection is rarely enough for one large file. A connection is made
//! when the first call uses it. While one cannot be re-established its calls use another, if one stands.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use efc_backend::{Cred, FileHandle, Ticket};

use crate::basics::lock;
use crate::call::{Call, Destination};
use crate::connection::{Connection, Peers};
use crate::reply::Reply;
use crate::rpc::{self, Program};
use crate::shared::Shared;
use crate::xdr::{Encoder, padding};

/// Most connections of a client: their numbers fit a [`Ticket`].
const CONNECTIONS_MAX: usize = 64;
const _: () = assert!(CONNECTIONS_MAX <= u8::MAX as usize);

/// Which connection a call takes.
#[derive(Clone, Copy, PartialEq, Eq)]
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
    peers: Arc<Peers>,
}

impl Transport {
    pub(crate) fn new(shared: Shared, connections: usize) -> Transport {
        let shared = Arc::new(shared);
        let connections = connections.clamp(1, CONNECTIONS_MAX);
        let (connections, peers) = Connection::peers(connections, &shared);
        Transport { shared, connections, peers }
    }

    /// Gives the connection of `object` a socket.
    pub(crate) fn adopt(&self, object: &FileHandle, address: SocketAddr, socket: TcpStream) {
        *lock(&self.shared.address) = Some(address);
        self.choose(object, Route::Home).adopt(socket);
    }

    /// When the oldest unanswered call was made.
    pub(crate) fn oldest_call(&self) -> Option<Instant> {
        self.connections.iter().filter_map(|connection| connection.oldest_call()).min()
    }

    /// The number of the connection that calls about `object` take.
    #[cfg(test)]
    pub(crate) fn home(&self, object: &FileHandle) -> usize {
        self.choose(object, Route::Home).index
    }

    /// A number that no other call has, and the connection that has the least to do now.
    pub(crate) fn ticket(&self) -> Ticket {
        let standing = self.connections.iter().filter(|connection| !connection.is_down());
        let way = standing.min_by_key(|connection| connection.outstanding()).map(|connection| connection.index as u8);
        Ticket { number: self.shared.next_call().1, way, is_repeated: false }
    }

    /// The connection that the call of a ticket takes. A repeated one waits for its own, by whose port it is known.
    fn chosen(&self, object: &FileHandle, route: Route, ticket: Option<Ticket>) -> &Arc<Connection> {
        let own = ticket.filter(|_| route == Route::LeastBusy).and_then(|ticket| {
            let connection = self.connections.get(usize::from(ticket.way?))?;
            (ticket.is_repeated || !connection.is_down()).then_some(connection)
        });
        own.unwrap_or_else(|| self.choose(object, route))
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
        let connection = self.chosen(request.object, request.route, request.ticket);
        self.shared.stats.calls.fetch_add(1, Ordering::Relaxed);
        connection.submit(&call);
        Reply::new(call, Arc::clone(&self.peers), request.limit)
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
}
