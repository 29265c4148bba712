//! Sessions that this keeper did not begin: found at its start, or given to it; and those that it shares with clients.
//!
//! A keeper that dies takes no mount with it. Its daemons keep serving and wait at their listeners, and its successor
//! connects to them before it listens to any client. A thread of its own waits for one that hangs, as long as it takes.
//! A session whose daemon has died as well lives on in whoever holds it, for example the node plugin, which gives it
//! back.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use efc_proto::error::Code;
use efc_proto::{Change, DaemonConfig, Error, MountStatus, UpgradeRequest};

use crate::entry::MountEntry;
use crate::failure::failure;
use crate::files;
use crate::held::Held;
use crate::mounts::{Mounts, validated};
use crate::session::Origin;
use crate::waiting::start_thread;
use crate::wishes::Wish;
use crate::{kernel, target};

/// More than an upgrade and the way back may take, and some that wait for their turn before.
pub(crate) const UPGRADE_TIME_LIMIT: Duration = Duration::from_secs(15);

impl Mounts {
    /// Takes over from an earlier keeper; returns when all its daemons have answered, or after `limit`.
    ///
    /// # Errors
    /// Those of looking for them.
    pub fn take_over(self: &Arc<Self>, limit: Duration) -> std::io::Result<()> {
        let (met, meetings) = channel();
        for name in self.listeners().names()? {
            let (mounts, met) = (self.clone(), met.clone());
            start_thread("session", move || mounts.meet(&name, met))?;
        }
        drop(met);
        let deadline = Instant::now() + limit;
        let ready = || meetings.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok();
        let count = std::iter::from_fn(|| ready().then_some(())).count();
        log::info!("taken over {count} sessions");
        Ok(())
    }

    /// Meets the daemon of that name, and serves its session from then on.
    fn meet(&self, name: &OsString, met: Sender<()>) {
        let session = self.listeners().describe(name);
        let (status, held, taken) = match self.listeners().meet(name) {
            Ok(Some(met)) => met,
            Ok(None) => {
                return log::warn!(
                    "{session}: its daemon has died with its keeper: it is lost, unless a client gives it back"
                );
            }
            Err(error) => return log::error!("{session}: {error}"),
        };
        let target = status.target.clone();
        match self.inherit(status) {
            Ok((entry, true)) => {
                // Nobody waits any more after the limit.
                let _ = met.send(());
                drop(met);
                self.supervise(&entry, Origin::Serving(Arc::new(held), taken));
            }
            Ok((_, false)) => log::warn!("{target}: this daemon's session has another one already"),
            Err(error) => log::error!("{target}: {}", error.message),
        }
    }

    /// What a client needs to keep a mount alive as long as itself.
    ///
    /// # Errors
    /// NOT_FOUND if nothing is mounted there, UNAVAILABLE while it is being mounted.
    pub fn hold(&self, path: &str) -> Result<(MountStatus, Arc<Held>), Error> {
        let entry = self.mounted(path)?;
        let held = entry.held().ok_or_else(|| failure(Code::Unavailable, format!("{path} is being mounted")))?;
        Ok((entry.status(), held))
    }

    /// Replaces the daemon of a mount by one of the installed program.
    ///
    /// # Errors
    /// NOT_FOUND if nothing is mounted there, INVALID_ARGUMENT for options that only a new mount can have, and those of
    /// [`MountEntry::upgrade`].
    pub fn upgrade(&self, request: UpgradeRequest) -> Result<MountStatus, Error> {
        let UpgradeRequest { target, options, base, in_place } = request;
        let entry = self.mounted(&target)?;
        let change = options.as_ref().and_then(|options| entry.config().change_to(options));
        let is_of_several = |config: &DaemonConfig| !config.sources.is_empty();
        let is_other = |options: &DaemonConfig| is_of_several(options) != is_of_several(entry.config());
        if options.as_ref().is_some_and(is_other) {
            let message = format!(
                "{target} cannot change between one source at its root and several below it while it is mounted"
            );
            return Err(failure(Code::InvalidArgument, message));
        }
        if change == Some(Change::NewMount) {
            let message =
                format!("source, ro, idmap, network and fuse-features of {target} cannot change while it is mounted");
            return Err(failure(Code::InvalidArgument, message));
        }
        let workers = |config: &DaemonConfig| config.cache.as_ref().map(|cache| cache.workers.clone());
        if let Some(options) = options.as_ref().filter(|options| workers(options) != workers(&entry.options())) {
            files::check_workers(options)?;
        }
        if let Some(options) = &options {
            self.stores().check_move(base.as_ref().unwrap_or(&entry.options()), options)?;
        }
        entry.upgrade(Wish { options, base, in_place, ..Wish::default() }, Instant::now() + UPGRADE_TIME_LIMIT)
    }

    fn mounted(&self, path: &str) -> Result<Arc<MountEntry>, Error> {
        self.find(target::resolve(path)?.path())
            .ok_or_else(|| failure(Code::NotFound, format!("nothing is mounted on {path} by this keeper")))
    }

    /// Takes a session that a client has held; the next daemon starts at once. One that is here already is success.
    ///
    /// # Errors
    /// NOT_FOUND if its mount is gone, INVALID_ARGUMENT for what is no session.
    pub fn adopt(
        self: &Arc<Self>,
        status: Option<MountStatus>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<MountStatus, Error> {
        let invalid = |message: &str| failure(Code::InvalidArgument, message);
        let mut status = status.ok_or_else(|| invalid("the request has no status"))?;
        let [device, state] = <[OwnedFd; 2]>::try_from(descriptors)
            .map_err(|_| invalid("the request does not come with /dev/fuse and a state memfd"))?;
        validated(status.config.clone())?;
        let path = status.target.clone();
        let internal = |error: std::io::Error| failure(Code::Internal, format!("cannot take {path} over: {error}"));
        if !kernel::is_listed(status.connection).map_err(internal)? || kernel::is_disconnected(&device) {
            return Err(failure(Code::NotFound, format!("the mount on {path} is gone; mount it again")));
        }
        status.pid = 0;
        let (entry, is_new) = self.inherit(status)?;
        if is_new {
            log::info!("{path}: given back by a client that held it");
            let held = Arc::new(self.listeners().hold(device, state, entry.target()).map_err(internal)?);
            let (mounts, supervised) = (self.clone(), entry.clone());
            let supervise = move || mounts.supervise(&supervised, Origin::Orphaned(held));
            if let Err(error) = start_thread("session", supervise) {
                self.forget(&entry);
                return Err(internal(error));
            }
        }
        Ok(entry.status())
    }

    /// Enters a session into the table; `false` if it is there already.
    fn inherit(&self, status: MountStatus) -> Result<(Arc<MountEntry>, bool), Error> {
        let connection = status.connection;
        let is_attached = kernel::mounted_at(Path::new(&status.target))
            .is_ok_and(|mount| mount.is_some_and(|mount| mount.device == (0, connection)));
        let entry = MountEntry::inherited(status, is_attached)
            .map_err(|error| failure(Code::ResourceExhausted, format!("no resources for one more mount: {error}")))?;
        self.insert(Arc::new(entry))
    }
}
