//! Registers passthrough files for the daemon. That is asked for at an open, which must not be delayed for long.

use std::os::fd::OwnedFd;

use efc_proto::{BackingOpened, to_daemon};

use super::SessionRun;
use crate::identity::Identities;
use crate::stores::UNPRIVILEGED;

impl SessionRun<'_> {
    /// Registers a file with the kernel, and tells the daemon.
    pub(super) fn open_backing(&mut self, token: u64, files: &[OwnedFd]) {
        let identities = self.programs.identities.as_ref();
        // Files of the store may be those of an earlier mount's daemon, of another user.
        let own = rustix::process::geteuid();
        let is_daemons = |uid: u32| {
            uid == UNPRIVILEGED
                || identities.is_some_and(|identities: &Identities| identities.contains(uid))
                || !own.is_root() && uid == own.as_raw()
        };
        let opened = match &self.store {
            Some(store) => self.backings.open(&self.held.device, store.directory(), files, is_daemons),
            None => Err(std::io::Error::other("the session has no store here")),
        };
        let (id, error) = opened.map_or_else(|error| (0, error.to_string()), |id| (id, String::new()));
        let answer = to_daemon::Message::BackingOpened(BackingOpened { token, id, error });
        let is_told = self.daemon.as_ref().is_some_and(|daemon| daemon.send(answer).is_ok());
        if !is_told && id != 0 {
            self.close_backing(id);
        }
    }

    /// Gives a number back.
    pub(super) fn close_backing(&mut self, id: u32) {
        if let Err(error) = self.backings.close(&self.held.device, id) {
            log::warn!("{}: the kernel does not take back the backing {id}: {error}", self.entry.target().display());
        }
    }
}
