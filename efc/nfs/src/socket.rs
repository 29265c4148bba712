//! TCP sockets as a NAS wants them: reserved source port, no delay, dead peers noticed, sends that never block.

use std::io::{self, ErrorKind, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use efc_tasks::time::now;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{self as sys, AddressFamily, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sockopt};

use crate::basics::random;

/// Reserved source ports that are tried: below 665 lie ports of well-known services.
const RESERVED: std::ops::RangeInclusive<u16> = 665..=1023;
/// A peer that acknowledges nothing for this long is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(60);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How often a connection attempt looks whether it is still wanted.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// How to connect.
pub(crate) struct Dial<'a> {
    /// To try first: the server's duplicate-request cache knows us by it.
    pub source_port: Option<u16>,
    /// Use a source port below 1024 when permitted.
    pub privileged: bool,
    pub deadline: Instant,
    /// Asked now and then; false ends the attempt.
    pub wanted: &'a dyn Fn() -> bool,
}

impl Dial<'_> {
    /// Connects to `address`, from a reserved port if wanted and possible.
    pub(crate) fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        if let Some(port) = self.source_port {
            match self.connect_from(address, port) {
                Err(error) if port_is_unusable(&error) => {}
                result => return result,
            }
        }
        if self.privileged {
            let span = RESERVED.len() as u64;
            let start = random() % span;
            for step in 0..span {
                let port = RESERVED.end() - ((start + step) % span) as u16;
                match self.connect_from(address, port) {
                    Err(error) if error.kind() == ErrorKind::PermissionDenied => break,
                    Err(error) if port_is_unusable(&error) => {}
                    result => return result,
                }
            }
        }
        self.connect_from(address, 0)
    }

    fn connect_from(&self, address: SocketAddr, port: u16) -> io::Result<TcpStream> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = sys::socket_with(family, SocketType::STREAM, flags, None)?;
        if port != 0 {
            sockopt::set_socket_reuseaddr(&socket, true)?;
            let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            sys::bind(&socket, &SocketAddr::new(any, port))?;
        }
        match sys::connect(&socket, &address) {
            Ok(()) => {}
            Err(Errno::INPROGRESS) => self.wait_connected(&socket)?,
            Err(error) => return Err(error.into()),
        }
        configure(&socket)?;
        rustix::io::ioctl_fionbio(&socket, false)?;
        Ok(TcpStream::from(socket))
    }

    fn wait_connected(&self, socket: &OwnedFd) -> io::Result<()> {
        loop {
            let left = self.deadline.saturating_duration_since(now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            if !(self.wanted)() {
                return Err(ErrorKind::Interrupted.into());
            }
            if wait(socket, PollFlags::OUT, left.min(WATCH_INTERVAL))? {
                return Ok(sockopt::socket_error(socket)??);
            }
        }
    }
}

/// The port cannot be had, or not towards this server just now; another one may do.
fn port_is_unusable(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable | ErrorKind::PermissionDenied)
}

fn configure(socket: &OwnedFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_tcp_user_timeout(socket, USER_TIMEOUT.as_millis() as u32)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    // Closing sends a reset: no TIME_WAIT holds a reserved port, and a reconnect can have the same one at once. No
    // reply that anybody waits for can get lost by it.
    sockopt::set_socket_linger(socket, Some(Duration::ZERO))?;
    Ok(())
}

/// Ends a connection by a reset. `shutdown(2)` would leave its source port to TIME_WAIT if the server closes before we
/// do, and the next connection would have another port, by which no duplicate-request cache knows us.
pub(crate) fn abort(socket: &TcpStream) {
    if sys::connect_unspec(socket).is_err() {
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
}

fn wait(socket: impl AsFd, events: PollFlags, limit: Duration) -> io::Result<bool> {
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    let mut polled = [PollFd::new(&socket, events)];
    match poll(&mut polled, Some(&limit)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Waits until `socket` takes bytes, is shut down, or `limit` has passed.
pub(crate) fn wait_writable(socket: &TcpStream, limit: Duration) -> io::Result<()> {
    wait(socket, PollFlags::OUT, limit).map(drop)
}

/// Waits until `socket` has bytes or is at its end; false if `limit` has passed.
pub(crate) fn wait_readable(socket: &TcpStream, limit: Duration) -> io::Result<bool> {
    wait(socket, PollFlags::IN, limit)
}

/// Sends what fits of `parts` behind their first `skip` bytes, and never blocks. 0 means that nothing fits.
pub(crate) fn send(socket: &TcpStream, parts: &[&[u8]; 3], mut skip: usize) -> io::Result<usize> {
    let slices = parts.map(|part| {
        let skipped = skip.min(part.len());
        skip -= skipped;
        IoSlice::new(&part[skipped..])
    });
    loop {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sys::sendmsg(socket, &slices, &mut SendAncillaryBuffer::default(), flags) {
            Ok(sent) => return Ok(sent),
            Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
