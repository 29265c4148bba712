//! The daemon's side of its conversation with the keeper.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use efc_proto::{Connected, DaemonStats, Error, Ready, Start, ToDaemon, ToKeeper, to_daemon, to_keeper};

/// Where the keeper leaves the control socket.
const CONTROL_FD: i32 = 3;

/// The control socket.
pub struct Control {
    socket: OwnedFd,
}

impl Control {
    /// The socket that the keeper passed to this process. Call once.
    pub fn inherited() -> Control {
        // SAFETY: the keeper starts this program with its end of a socket pair as descriptor 3, and nothing else in
        // this process knows that number. Were it closed, the first receive would fail.
        Control { socket: unsafe { OwnedFd::from_raw_fd(CONTROL_FD) } }
    }

    /// Waits for Start: the configuration, `/dev/fuse` and the state memfd.
    ///
    /// # Errors
    /// `InvalidData` if anything else comes.
    pub fn receive_start(&self) -> io::Result<(Start, OwnedFd, OwnedFd)> {
        let received = efc_proto::receive::<ToDaemon>(&self.socket)?;
        let Some((ToDaemon { message: Some(to_daemon::Message::Start(start)) }, descriptors)) = received else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "expected Start"));
        };
        let [device, memfd] = <[OwnedFd; 2]>::try_from(descriptors)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "expected two descriptors"))?;
        Ok((start, device, memfd))
    }

    /// Waits until the keeper has called `mount(2)`.
    ///
    /// # Errors
    /// `InvalidData` if anything else comes: the keeper has given up.
    pub fn receive_mounted(&self) -> io::Result<()> {
        match efc_proto::receive::<ToDaemon>(&self.socket)? {
            Some((ToDaemon { message: Some(to_daemon::Message::Mounted(_)) }, _)) => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "expected Mounted")),
        }
    }

    /// The dataset's root was found.
    ///
    /// # Errors
    /// Those of `sendmsg(2)`.
    pub fn send_connected(&self, root_mode: u32) -> io::Result<()> {
        self.send(to_keeper::Message::Connected(Connected { root_mode }))
    }

    /// Requests are being served.
    ///
    /// # Errors
    /// Those of `sendmsg(2)`.
    pub fn send_ready(&self) -> io::Result<()> {
        self.send(to_keeper::Message::Ready(Ready { version: env!("CARGO_PKG_VERSION").to_owned() }))
    }

    /// This daemon cannot serve; the keeper tells whoever asked.
    pub fn send_failed(&self, error: Error) {
        if let Err(send_error) = self.send(to_keeper::Message::Failed(error)) {
            log::error!("cannot tell the keeper: {send_error}");
        }
    }

    fn send(&self, message: to_keeper::Message) -> io::Result<()> {
        efc_proto::send(&self.socket, &ToKeeper { message: Some(message) }, &[])
    }

    /// Answers the keeper's questions until it says Stop. A keeper that goes away changes nothing: this daemon holds
    /// the session, and the next keeper finds it.
    pub fn serve(&self, report: impl Fn() -> DaemonStats) {
        loop {
            let message = match efc_proto::receive::<ToDaemon>(&self.socket) {
                Ok(Some((ToDaemon { message }, _))) => message,
                Ok(None) => {
                    log::warn!("the keeper is gone; serving on");
                    return;
                }
                Err(error) => {
                    log::error!("control socket: {error}");
                    return;
                }
            };
            match message {
                Some(to_daemon::Message::Report(_)) => {
                    if let Err(error) = self.send(to_keeper::Message::Stats(report())) {
                        log::warn!("cannot report to the keeper: {error}");
                    }
                }
                Some(to_daemon::Message::Stop(_)) => {
                    log::info!("the keeper ends this session");
                    return; // reading /dev/fuse ends by itself: the session is unmounted
                }
                other => log::error!("unexpected message from the keeper: {other:?}"),
            }
        }
    }
}
