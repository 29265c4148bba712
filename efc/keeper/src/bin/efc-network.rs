//! `efc-network`: holds the network namespace that it runs in, and hands it out to the keeper.
//!
//! It is the one process of a small pod per node, whose network the daemons of mounts with `network=pod` use. It does
//! nothing else, needs no privilege, and reads nothing from who connects; its socket is open to root only.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use efc_privileges::CapabilitySet;
use efc_proto::{NamedSocket, NetworkOffer};
use lexopt::prelude::*;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use signal_hook::consts::{SIGINT, SIGTERM};

const USAGE: &str = "usage: efc-network --socket PATH";
/// Connections that may wait.
const BACKLOG: i32 = 16;

fn main() -> ExitCode {
    env_logger::Builder::new().filter_level(log::LevelFilter::Info).init();
    let socket = match parse() {
        Ok(socket) => socket,
        Err(error) => {
            eprintln!("efc-network: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match serve(&socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}: {error}", socket.display());
            ExitCode::FAILURE
        }
    }
}

fn parse() -> Result<PathBuf, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    let mut socket = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("socket") => socket = Some(PathBuf::from(parser.value()?)),
            other => return Err(other.unexpected()),
        }
    }
    socket.ok_or_else(|| "--socket is missing".into())
}

/// Serves until SIGTERM or SIGINT.
fn serve(path: &Path) -> io::Result<()> {
    efc_privileges::keep_only(CapabilitySet::empty())?;
    let namespace = File::open("/proc/self/ns/net")?;
    // The first process of a pid namespace gets no signal that it does not handle.
    let (mut signals, sender) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    let listener = NamedSocket::listen(path, BACKLOG)?;
    log::info!("handing out this network at {}", path.display());
    loop {
        let mut descriptors = [PollFd::new(&listener, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut descriptors, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !descriptors[1].revents().is_empty() {
            // What came says nothing more.
            let _ = signals.read(&mut [0; 1]);
            // Unless the next pod's process listens there already: a pod that is deleted by force may outlive that.
            return listener.remove();
        }
        if let Ok(client) = accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            let offer = NetworkOffer { version: env!("CARGO_PKG_VERSION").to_owned() };
            if let Err(error) = efc_proto::send(&client, &offer, &[namespace.as_fd()]) {
                log::warn!("a client went away: {error}");
            }
        }
    }
}
