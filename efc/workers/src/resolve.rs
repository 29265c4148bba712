//! Resolves names of workers to addresses, on threads of their own, because the C library blocks.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::thread;

use tokio::sync::{Semaphore, oneshot};

use crate::endpoint::Endpoint;

/// Names that are looked up at once.
const AT_ONCE: usize = 4;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;
/// The C library needs some of it.
const STACK: usize = 1 << 20;

/// Looks names up.
#[derive(Debug)]
pub(crate) struct Resolver(Semaphore);

impl Resolver {
    pub(crate) fn new() -> Resolver {
        Resolver(Semaphore::const_new(AT_ONCE))
    }

    /// The addresses of an endpoint, best first: at least one.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) async fn addresses(&self, endpoint: &Endpoint) -> Result<Vec<SocketAddr>, String> {
        if let Ok(address) = endpoint.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, endpoint.port)]);
        }
        let _turn = self.0.acquire().await.expect("this semaphore is never closed");
        let (found, addresses) = oneshot::channel();
        let (host, port) = (endpoint.host.clone(), endpoint.port);
        let thread = thread::Builder::new().name("worker-names".into()).stack_size(STACK);
        let started = thread.spawn(move || drop(found.send(look_up(&host, port))));
        started.map_err(|error| format!("no thread can be started: {error}"))?;
        addresses.await.unwrap_or_else(|_| Err("the look-up has ended".into()))
    }
}

fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = (host, port).to_socket_addrs().map_err(|error| format!("{host} cannot be looked up: {error}"))?;
    let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
    if addresses.is_empty() { Err(format!("{host} has no address")) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use efc_tasks::block_on;

    use super::*;

    #[test]
    fn names_and_addresses() {
        let resolver = Resolver::new();
        let addresses = |text: &str| block_on(resolver.addresses(&text.parse().expect("an endpoint")));
        assert_eq!(addresses("[::1]:7"), Ok(vec!["[::1]:7".parse().expect("an address")]));
        assert!(addresses("localhost:7").expect("an address").iter().all(|address| address.ip().is_loopback()));
        assert!(addresses("no-such-host.invalid:7").is_err());
    }
}
