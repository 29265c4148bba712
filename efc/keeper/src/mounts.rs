//! The table of mounts, and what clients do to it.
//!
//! One operation per target at a time: a second one waits for the first. Two identical mount requests share one daemon
//! and one result. The table's lock is held for looking and inserting only, never while anything waits.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use efc_mount_helper::target::Target;
use efc_proto::error::Code;
use efc_proto::mount_status::State;
use efc_proto::{
    Change, DaemonConfig, Error, FindRootRequest, FoundRoot, MESSAGE_MAX, Message, MountRequest, MountStatus, Source,
    StatusRequest, UnmountRequest,
};

use crate::entry::{Claim, End, MountEntry};
use crate::failure::failure;
use crate::held::Listeners;
use crate::programs::Programs;
use crate::session::{self, Origin};
use crate::stores::Stores;
use crate::waiting::start_thread;
use crate::{kernel, target};

/// Most mounts; their status in the form of 0.1.0 fits one message if options are not very long.
const MOUNTS_MAX: usize = 1_000;
/// Bytes of mounts' statuses in one message, which has a little beside them.
const PAGE_BYTES: usize = MESSAGE_MAX - 4096;
/// What each of them takes in a message beside its own bytes: its number and its length.
const STATUS_HEAD_BYTES: usize = 8;
const TIME_LIMIT_DEFAULT: Duration = Duration::from_secs(30);
/// A client that asks for more gets this.
const TIME_LIMIT_MAX: Duration = Duration::from_secs(600);
/// How long an unmount waits for another operation on its target, and for the daemon's end after it.
const UNMOUNT_TIME_LIMIT: Duration = Duration::from_secs(30);
/// How long a status waits for the daemons' reports, all of them together.
const REPORT_TIME_LIMIT: Duration = Duration::from_millis(200);

/// How long a daemon may look for its dataset's root.
const FIND_TIME_LIMIT: Duration = Duration::from_secs(2);

/// A daemon needs this much memory, in MiB.
const MEMORY_MAX_MIB_MIN: u32 = 64;

/// All mounts of this keeper.
#[derive(Debug)]
pub struct Mounts {
    programs: Programs,
    entries: Mutex<Vec<Arc<MountEntry>>>,
    is_draining: AtomicBool,
}

impl Mounts {
    /// A table without mounts.
    pub fn new(programs: Programs) -> Mounts {
        Mounts { programs, entries: Mutex::default(), is_draining: AtomicBool::new(false) }
    }

    /// The programs that the mounts' daemons run.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Refuses new mounts from now on.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// How many mounts there are, those that start or end included.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Mounts, or finds the same mount there already.
    ///
    /// # Errors
    /// As the protocol says; nothing is left then.
    pub fn mount(self: &Arc<Self>, request: MountRequest) -> Result<MountStatus, Error> {
        let limit = match request.time_limit_ms {
            0 => TIME_LIMIT_DEFAULT,
            limit_ms => Duration::from_millis(limit_ms.into()).min(TIME_LIMIT_MAX),
        };
        let deadline = Instant::now() + limit;
        let config = validated(request.config)?;
        loop {
            let target = target::resolve(&request.target)?;
            let path = target.path().to_owned();
            if self.listeners().lie_below(&path) {
                let message = format!(
                    "{} has this keeper's run directory in it, which nobody would reach any more; mount elsewhere",
                    path.display()
                );
                return Err(failure(Code::FailedPrecondition, message));
            }
            let (entry, is_new) = self.find_or_insert(target, &config, deadline)?;
            if !is_new && entry.is_ending() {
                entry.wait_settled(deadline);
                if entry.is_ending() && self.is_current(&entry) && Instant::now() >= deadline {
                    let message = format!("an unmount of {} does not finish", path.display());
                    return Err(failure(Code::DeadlineExceeded, message));
                }
                continue;
            }
            // The supervising thread keeps the deadline, and answers a little after it.
            let grace = if is_new { UNMOUNT_TIME_LIMIT } else { Duration::ZERO };
            let status = if *entry.config() == config {
                entry.wait_started(deadline + grace)?
            } else {
                return Err(mounted_otherwise(&path, entry.config(), &config));
            };
            if is_new || self.check_still_there(&entry, &status)? {
                return Ok(status);
            }
        }
    }

    /// Unmounts, and ends the daemon. What is not mounted is success.
    ///
    /// # Errors
    /// FAILED_PRECONDITION for a mount in use or one that is not ours; the mount stays.
    pub fn unmount(&self, request: &UnmountRequest) -> Result<(), Error> {
        let target = match target::resolve(&request.target) {
            Err(error) if error.code() == Code::NotFound => return Ok(()),
            resolved => resolved?,
        };
        let deadline = Instant::now() + UNMOUNT_TIME_LIMIT;
        while let Some(entry) = self.find(target.path()) {
            if self.unmount_entry(&entry, request.force, deadline)? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let message = format!("the start of the mount on {} does not finish", target.path().display());
                return Err(failure(Code::DeadlineExceeded, message));
            }
        }
        self.unmount_foreign(&target, request.force)
    }

    /// Unmounts what this keeper has mounted; false if that went away meanwhile.
    fn unmount_entry(&self, entry: &MountEntry, force: bool, deadline: Instant) -> Result<bool, Error> {
        if force {
            // Whatever another operation waits for fails now, so this cannot wait long.
            let connection = entry.status().connection;
            if connection == 0 {
                // Not mounted yet, or just now: whoever calls looks again.
                entry.end(End::Now, deadline);
                return Ok(false);
            }
            self.abort(connection)?;
        }
        if entry.claim(deadline)? == Claim::Gone {
            return Ok(false);
        }
        if let Err(error) = self.programs.helper.unmount(entry.target(), force) {
            entry.release();
            return Err(error);
        }
        entry.end(if force { End::Now } else { End::Flush }, deadline);
        Ok(true)
    }

    /// What is known of one mount, or of as many as one message holds, with reports of the daemons that answer in time; and the target of
    /// the last one, if there are more.
    ///
    /// # Errors
    /// INVALID_ARGUMENT and the like for a path that cannot be a target.
    pub fn status(&self, request: &StatusRequest) -> Result<(Vec<MountStatus>, String), Error> {
        let mut entries = if request.target.is_empty() {
            self.lock().clone()
        } else {
            match target::resolve(&request.target) {
                Err(error) if error.code() == Code::NotFound => Vec::new(),
                resolved => self.find(resolved?.path()).into_iter().collect(),
            }
        };
        entries.retain(|entry| request.after.is_empty() || entry.target() > Path::new(&request.after));
        entries.sort_by(|one, other| one.target().cmp(other.target()));
        let deadline = Instant::now() + REPORT_TIME_LIMIT;
        let asked: Vec<u64> = entries.iter().map(|entry| entry.request_report()).collect();
        let status = |(entry, reports): (&Arc<MountEntry>, u64)| {
            let has_reported = entry.wait_report(reports, deadline);
            let mut status = entry.status();
            status.stats = status.stats.map(|stats| stats.for_one_release(request.by_subsystem));
            if !has_reported && status.state() == State::Serving {
                status.reason = format!("the daemon has not reported within {} ms", REPORT_TIME_LIMIT.as_millis());
            }
            status
        };
        let statuses = entries.iter().zip(asked).map(status);
        // Who asks for the form of 0.1.0 knows no second page.
        Ok(if request.by_subsystem { first_page(statuses) } else { (statuses.collect(), String::new()) })
    }

    /// Where the path of the dataset at a target leads now.
    ///
    /// # Errors
    /// NOT_FOUND for what is not mounted here, and as the protocol says.
    pub fn find_root(&self, request: &FindRootRequest) -> Result<FoundRoot, Error> {
        let path = target::resolve(&request.target)?;
        let not_mounted = || failure(Code::NotFound, format!("{} is not mounted", path.path().display()));
        let entry = self.find(path.path()).ok_or_else(not_mounted)?;
        let limit = match request.time_limit_ms {
            0 => FIND_TIME_LIMIT,
            limit_ms => Duration::from_millis(limit_ms.into()).min(TIME_LIMIT_MAX),
        };
        entry.find_root(Instant::now() + limit)
    }

    fn find_or_insert(
        self: &Arc<Self>,
        target: Target,
        config: &DaemonConfig,
        deadline: Instant,
    ) -> Result<(Arc<MountEntry>, bool), Error> {
        let mut entries = self.lock();
        if let Some(entry) = entries.iter().find(|entry| entry.target() == target.path() && entry.is_attached()) {
            return Ok((entry.clone(), false));
        }
        if self.is_draining.load(Ordering::Relaxed) {
            return Err(failure(Code::Unavailable, "this keeper is ending and takes no new mounts"));
        }
        refuse_too_many(&entries)?;
        let exhausted = |error: std::io::Error| {
            failure(Code::ResourceExhausted, format!("no resources for one more mount: {error}"))
        };
        let entry = Arc::new(MountEntry::new(target.path().to_owned(), config.clone()).map_err(exhausted)?);
        let (mounts, supervised) = (self.clone(), entry.clone());
        let supervise = move || mounts.supervise(&supervised, Origin::New { target, deadline });
        // Under the lock, so that the thread finds its entry in the table when it is done.
        start_thread("session", supervise).map_err(exhausted)?;
        entries.push(entry.clone());
        Ok((entry, true))
    }

    /// Adds a session that this keeper did not begin; the one that is there already, and `false`, if there is one.
    pub(crate) fn insert(&self, entry: Arc<MountEntry>) -> Result<(Arc<MountEntry>, bool), Error> {
        let connection = entry.status().connection;
        let mut entries = self.lock();
        if let Some(present) = entries.iter().find(|present| present.status().connection == connection) {
            return Ok((present.clone(), false));
        }
        refuse_too_many(&entries)?;
        entries.push(entry.clone());
        Ok((entry, true))
    }

    /// Serves the session of an entry of the table, on this thread, until it is over.
    pub(crate) fn supervise(&self, entry: &Arc<MountEntry>, origin: Origin) {
        session::supervise(entry, &self.programs, origin, || self.forget(entry));
    }

    pub(crate) fn listeners(&self) -> &Listeners {
        &self.programs.listeners
    }

    pub(crate) fn stores(&self) -> &Stores {
        &self.programs.stores
    }

    /// Whether a mount that was found in the table is really at its target. It is not after an abort, and after somebody
    /// else's unmount if bind mounts elsewhere keep the session alive; such a session goes on without its target.
    fn check_still_there(&self, entry: &MountEntry, status: &MountStatus) -> Result<bool, Error> {
        let internal =
            |error: std::io::Error| failure(Code::Internal, format!("cannot read the list of mounts: {error}"));
        let mounted = kernel::mounted_at(entry.target()).map_err(internal)?;
        let is_there = mounted.is_some_and(|mount| mount.device == (0, status.connection));
        if !is_there {
            entry.detach();
        } else if entry.status().state() == State::Aborted {
            let message = format!("the FUSE connection of {} was aborted; unmount it first", entry.target().display());
            return Err(failure(Code::FailedPrecondition, message));
        }
        Ok(is_there)
    }

    /// Unmounts what an earlier keeper has left, whose daemon notices by itself.
    fn unmount_foreign(&self, target: &Target, force: bool) -> Result<(), Error> {
        let internal =
            |error: std::io::Error| failure(Code::Internal, format!("cannot read the list of mounts: {error}"));
        let Some(mount) = kernel::mounted_at(target.path()).map_err(internal)? else { return Ok(()) };
        if mount.filesystem != kernel::FILESYSTEM {
            let message = format!("{} is mounted by somebody else ({})", target.path().display(), mount.filesystem);
            return Err(failure(Code::FailedPrecondition, message));
        }
        if force {
            self.abort(mount.device.1)?;
        }
        self.programs.helper.unmount(target.path(), force)
    }

    fn abort(&self, connection: u32) -> Result<(), Error> {
        log::warn!("connection {connection} is aborted on a client's demand");
        kernel::abort(connection)
            .map_err(|error| failure(Code::Internal, format!("cannot abort FUSE connection {connection}: {error}")))
    }

    /// Those of now.
    pub(crate) fn all(&self) -> Vec<Arc<MountEntry>> {
        self.lock().clone()
    }

    pub(crate) fn find(&self, path: &Path) -> Option<Arc<MountEntry>> {
        self.lock().iter().find(|entry| entry.target() == path && entry.is_attached()).cloned()
    }

    fn is_current(&self, entry: &Arc<MountEntry>) -> bool {
        self.lock().iter().any(|candidate| Arc::ptr_eq(candidate, entry))
    }

    pub(crate) fn forget(&self, entry: &Arc<MountEntry>) {
        self.lock().retain(|candidate| !Arc::ptr_eq(candidate, entry));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<MountEntry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As many as one message holds, and the target of the last one if there are more.
fn first_page(statuses: impl Iterator<Item = MountStatus>) -> (Vec<MountStatus>, String) {
    let (mut page, mut bytes) = (Vec::new(), 0);
    let mut statuses = statuses.peekable();
    // One that is too large for any message comes alone, and is refused as such.
    let fits = |bytes: usize, is_first: bool| is_first || bytes <= PAGE_BYTES;
    while let Some(status) = statuses.peek()
        && fits(bytes + STATUS_HEAD_BYTES + status.encoded_len(), page.is_empty())
    {
        bytes += STATUS_HEAD_BYTES + status.encoded_len();
        page.extend(statuses.next());
    }
    let last = page.last().filter(|_| statuses.peek().is_some()).map(|last: &MountStatus| last.target.clone());
    (page, last.unwrap_or_default())
}

/// Why a dataset is not mounted `wanted` where it is mounted as `found`. What the options are set to is not said: some are paths of secrets.
fn mounted_otherwise(path: &Path, found: &DaemonConfig, wanted: &DaemonConfig) -> Error {
    let way = match found.change_to(wanted) {
        Some(Change::NewMount) => "unmount it first",
        _ => "change its options by `efc upgrade -o`, or unmount it first",
    };
    let differing = found.differing_options(wanted).join(", ");
    let message = format!("{} is mounted with another value of: {differing}; {way}", path.display());
    failure(Code::AlreadyExists, message)
}

fn refuse_too_many(entries: &[Arc<MountEntry>]) -> Result<(), Error> {
    if entries.len() < MOUNTS_MAX {
        return Ok(());
    }
    Err(failure(Code::ResourceExhausted, format!("this keeper has {MOUNTS_MAX} mounts already")))
}

/// Checks what every daemon needs. The rest is checked by the client, which knows the options' names, and by the daemon.
pub(crate) fn validated(config: Option<DaemonConfig>) -> Result<DaemonConfig, Error> {
    let invalid = |message: &str| failure(Code::InvalidArgument, message);
    let config = config.ok_or_else(|| invalid("the request has no configuration"))?;
    if config.sources.is_empty() {
        check_source(config.source.as_ref())?;
    } else if config.source.is_some() {
        return Err(invalid("the request has one source and several"));
    }
    config.sources.iter().try_for_each(|mounted| check_source(mounted.source.as_ref()))?;
    if (1..MEMORY_MAX_MIB_MIN).contains(&config.memory_max_mib) {
        let message = format!("memory_max_mib is {}: {MEMORY_MAX_MIB_MIN} or more", config.memory_max_mib);
        return Err(invalid(&message));
    }
    Ok(config)
}

fn check_source(source: Option<&Source>) -> Result<(), Error> {
    let invalid = |message: &str| failure(Code::InvalidArgument, message);
    let source = source.ok_or_else(|| invalid("the request has no source"))?;
    if source.host.is_empty() || source.host.contains(['\0', '/', ' ', '\n']) {
        return Err(invalid(&format!("source host {:?} is not a host name or address", source.host)));
    }
    if !source.path.starts_with('/') || source.path.contains('\0') {
        return Err(invalid(&format!("source path {:?} is not an absolute path", source.path)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use efc_proto::{MountedSource, StatusReply};

    #[test]
    fn statuses_that_one_message_does_not_hold_come_in_several() {
        let reason = "r".repeat(3_000);
        let all = (0..1_000).map(|number| MountStatus {
            target: format!("/mounts/{number:04}"),
            reason: reason.clone(),
            ..Default::default()
        });
        let (page, last) = first_page(all.clone());
        let reply = StatusReply { mounts: page.clone(), last: last.clone(), ..Default::default() };
        assert!((MESSAGE_MAX - 8192..MESSAGE_MAX).contains(&reply.encoded_len()), "{}", reply.encoded_len());
        assert_eq!(last, page.last().unwrap().target);
        let (rest, end) = first_page(all.skip(page.len()).take(10));
        assert_eq!((rest.len(), end.as_str()), (10, ""));
        assert_eq!(first_page(std::iter::empty()), (Vec::new(), String::new()));
    }

    #[test]
    fn who_mounts_otherwise_is_told_which_options_differ() {
        let found = DaemonConfig { attr_ttl_ms: 7, ..Default::default() };
        let other = |config: DaemonConfig| mounted_otherwise(Path::new("/mnt"), &found, &config).message;
        assert_eq!(
            other(DaemonConfig::default()),
            "/mnt is mounted with another value of: attr-ttl; change its options by `efc upgrade -o`, or unmount it first"
        );
        let message = other(DaemonConfig { read_only: true, ..found.clone() });
        assert_eq!(message, "/mnt is mounted with another value of: ro; unmount it first");
    }

    #[test]
    fn a_source_has_a_host_and_an_absolute_path() {
        let config = |host: &str, path: &str| {
            let source = Source { host: host.into(), path: path.into(), ..Default::default() };
            Some(DaemonConfig { source: Some(source), ..Default::default() })
        };
        assert!(validated(config("nas", "/export")).is_ok());
        for bad in [None, Some(DaemonConfig::default()), config("", "/x"), config("a/b", "/x"), config("nas", "x")] {
            assert_eq!(validated(bad).unwrap_err().code(), Code::InvalidArgument);
        }
        let several = |host: &str| {
            let source = Some(Source { host: host.into(), path: "/x".into(), ..Default::default() });
            vec![MountedSource { source, path: "/a".into(), read_only: false }]
        };
        assert!(validated(Some(DaemonConfig { sources: several("nas"), ..Default::default() })).is_ok());
        assert!(validated(Some(DaemonConfig { sources: several(""), ..Default::default() })).is_err());
        let both = DaemonConfig { sources: several("nas"), ..config("nas", "/x").unwrap() };
        assert!(validated(Some(both)).is_err());
    }
}
