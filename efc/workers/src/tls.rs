//! The wire to a worker: bare TCP, or TLS by rustls with a certificate of this node's and an authority of the user's own.
//!
//! Blocks are sealed with or without it. TLS says who may ask and fill at all; without it anybody who reaches a worker
//! may, and can delete and displace what is there.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::basics::lock;
use crate::socket;

/// What is received at once, before it is decrypted: some records.
const CIPHERED: usize = 64 << 10;

/// Whom this node trusts, and how it shows who it is.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    /// All workers' certificates have this name, in place of each worker's host.
    server_name: Option<ServerName<'static>>,
}

impl Tls {
    /// From PEM files' contents: the authority that signs workers' certificates, this node's certificate (with what leads
    /// to the authority that workers trust), and its private key.
    ///
    /// # Errors
    /// One sentence: what is wrong with which of them.
    pub fn new(authority: &[u8], certificate: &[u8], private_key: &[u8]) -> Result<Tls, String> {
        let mut authorities = RootCertStore::empty();
        for one in certificates(authority, "authority")? {
            authorities.add(one).map_err(|error| format!("the authority's certificate is of no use: {error}"))?;
        }
        let chain = certificates(certificate, "node's")?;
        let key = PrivateKeyDer::from_pem_slice(private_key)
            .map_err(|error| format!("the private key cannot be read: {error}"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| format!("TLS 1.3 is not to be had: {error}"))?
            .with_root_certificates(authorities)
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("the node's certificate and private key are of no use: {error}"))?;
        Ok(Tls { config: Arc::new(config), server_name: None })
    }

    /// Workers' certificates must have this name, wherever a worker is: the addresses of containers change.
    ///
    /// # Errors
    /// One sentence: it is neither a DNS name nor an address.
    pub fn with_server_name(self, name: &str) -> Result<Tls, String> {
        let server_name = ServerName::try_from(name.to_owned()).map_err(|_| {
            format!("{name:?} is no name that a certificate can have: one DNS name, worker.efc for example")
        })?;
        Ok(Tls { server_name: Some(server_name), ..self })
    }

    /// A wire to the worker at this host, whose certificate must have that name, or the one of all workers.
    pub(crate) fn wire(&self, host: &str) -> io::Result<Wire> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
        };
        let session = ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        let ciphered = vec![0; CIPHERED].into_boxed_slice();
        Ok(Wire::Tls(Box::new(Mutex::new(Session { session, ciphered, begin: 0, end: 0 }))))
    }
}

fn certificates(pem: &[u8], whose: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| format!("the {whose} certificate cannot be read: {error}"))?;
    if all.is_empty() { Err(format!("there is no {whose} certificate in the file")) } else { Ok(all) }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// How bytes become those of a socket.
pub(crate) enum Wire {
    Plain,
    Tls(Box<Mutex<Session>>),
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if let Wire::Plain = self { "Plain" } else { "Tls" })
    }
}

/// One TLS connection.
pub(crate) struct Session {
    session: ClientConnection,
    /// What was received and is not decrypted yet: its bytes from `begin` to `end`.
    ciphered: Box<[u8]>,
    begin: usize,
    end: usize,
}

impl Wire {
    /// Sends what is left of earlier bytes, as far as it fits now.
    pub(crate) fn flush(&self, socket: &TcpStream) -> io::Result<()> {
        match self {
            Wire::Plain => Ok(()),
            Wire::Tls(session) => lock(session).flush(socket).map(drop),
        }
    }

    /// Takes what fits of `parts` to be sent; 0: nothing fits now.
    pub(crate) fn send(&self, socket: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Wire::Plain => socket::send(socket, parts),
            Wire::Tls(session) => lock(session).send(socket, parts),
        }
    }

    /// Receives what is there into `first` and behind that into `second`; `None`: nothing is there now, 0: this is the end.
    pub(crate) fn receive(&self, socket: &TcpStream, first: &mut [u8], second: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Wire::Plain => socket::receive(socket, first, second),
            Wire::Tls(session) => lock(session).receive(socket, if first.is_empty() { second } else { first }),
        }
    }
}

impl Session {
    /// `true` if nothing is left.
    fn flush(&mut self, socket: &TcpStream) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Sending(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn send(&mut self, socket: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.flush(socket)? {
            return Ok(0);
        }
        let taken = self.session.writer().write_vectored(parts)?;
        self.flush(socket)?;
        Ok(taken)
    }

    fn receive(&mut self, socket: &TcpStream, into: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.session.reader().read(into) {
                Ok(received) => return Ok(Some(received)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.begin == self.end {
                match socket::receive(socket, &mut self.ciphered, &mut [])? {
                    Some(received) => (self.begin, self.end) = (0, received),
                    None => return Ok(None),
                }
                if self.end == 0 {
                    return Ok(Some(0));
                }
            }
            self.begin += self.session.read_tls(&mut &self.ciphered[self.begin..self.end])?;
            self.session.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
    }
}

/// A socket that is written to without waiting.
struct Sending<'a>(&'a TcpStream);

impl Write for Sending<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let has_bytes = parts.iter().any(|part| !part.is_empty());
        match socket::send(self.0, parts)? {
            0 if has_bytes => Err(ErrorKind::WouldBlock.into()),
            sent => Ok(sent),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
