//! State that all connections of a client share: the export they serve, the client's identity to its server, the
//! numbers of calls, counters.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::basics::random;
use crate::rpc::Machine;

/// By what a server's duplicate-request cache knows a client: the source port of each connection, and the bytes of a
/// call, its xid and the stamp of its credential among them. A process that goes on for another has the other's, and
/// repeats a call of the other's under its xid ([`Ticket::again`]): a server with such a cache executes it once.
pub trait Identity: Debug + Send + Sync {
    /// Of the AUTH_SYS credentials.
    fn stamp(&self) -> u32;
    /// The port that the connection of this number had last.
    fn source_port(&self, connection: usize) -> Option<u16>;
    /// The connection of this number has this port now; nothing was sent on it yet.
    fn connected(&self, connection: usize, source_port: u16);
    /// Asked before a call leaves and before an answer is used: does not return if this client must do nothing any
    /// more.
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
    pub machine: Machine,
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
            machine: Machine::local(stamp),
            first_xid: (random >> 32) as u32,
            sequence: AtomicU64::new(0),
        }
    }

    /// Whoever has a successor goes no further.
    pub(crate) fn fence(&self) {
        self.identity.iter().for_each(|identity| identity.fence());
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

#[cfg(test)]
mod tests {
    use super::*;

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
