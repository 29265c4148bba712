//! Directories of the node for daemons' local stores.
//!
//! A store is a directory below one of the keeper's `--cache-dir`, or, if the keeper has none, below the one that the
//! mount names. It belongs to one source, or to the several of one mount; the file `source` in it names them in full.
//! Its name begins with the source, for people, and ends with a number, since each of several mounts of one source has
//! a store of its own. A mount takes the unused one with the lowest number, so a dataset finds its store again after a
//! reboot. The daemon gets the directory's descriptor and opens no path. The directory belongs to the daemon's user,
//! which may be another one next time: its contents are accessible to everybody who can enter it, and only its owner
//! can. Files in a store are the daemon's business (`efc/store`); a lock of its own gives it exclusive use.
//!
//! Disks may hang, so each access to one is made by a thread that nobody waits for longer than a moment, and the number
//! of hanging threads is limited.
//!
//! What a taken-over daemon says of its store and its configuration is not believed: it gets a directory that already
//! belongs to its user, or a new one. Contents of a store are under a daemon's control, so names in it are opened only
//! as the type of file that they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use efc_proto::error::Code;
use efc_proto::{CacheConfig, DaemonConfig, Error, Source};
use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags, Uid, fchown, flock, fstat, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use crate::failure::{failure, path_code};
use crate::files;
use crate::waiting::{HANGS, do_in_time};

/// How long a disk is waited for.
const TIME_LIMIT: Duration = Duration::from_millis(500);
/// Looks at the disks of one directory that have not ended, at most.
const LOOKS_MAX: usize = 32;
/// Stores of one source in one directory.
const STORES_MAX: u32 = 64;
/// What a store's name has of its source, in bytes.
const NAME_BYTES_MAX: usize = 100;
/// What the store's `source` may have, in bytes.
const SOURCE_BYTES_MAX: u64 = 8192;
/// The daemon's lock (`efc/store`).
const LOCK: &str = "lock";
/// Whose store it is.
const SOURCE: &str = "source";
/// The user of daemons that have none of their own (`efc/daemon/src/privileges.rs`).
pub const UNPRIVILEGED: u32 = 65534;

/// Where stores may be, and which are in use by this keeper's mounts.
#[derive(Clone, Debug, Default)]
pub struct Stores {
    /// None: where mounts say.
    directories: Vec<PathBuf>,
    used: Arc<Mutex<BTreeSet<PathBuf>>>,
    /// Looks that have not ended, by the directory.
    looks: Arc<Mutex<BTreeMap<PathBuf, usize>>>,
}

/// A look that has not ended.
#[derive(Debug)]
struct Look {
    stores: Stores,
    directory: PathBuf,
}

/// One mount's store, given back on drop.
#[derive(Debug)]
pub struct Store {
    claim: Claim,
    opened: Opened,
}

/// A store's directory, which no other keeper gives to anybody.
#[derive(Debug)]
struct Opened {
    directory: OwnedFd,
    _lock: OwnedFd,
}

/// That a path is in use by one mount.
#[derive(Debug)]
struct Claim {
    stores: Stores,
    path: PathBuf,
}

/// For whom a store is wanted.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    /// Where the dataset is mounted.
    pub target: &'a Path,
    /// Its daemons' user; 0: nobody.
    pub uid: u32,
}

/// What a store is made for.
#[derive(Clone, Debug)]
struct Wanted {
    directory: PathBuf,
    source: String,
    uid: u32,
    /// The store that the mount's daemon has, if one has: no other directory becomes its user's.
    former: Option<String>,
}

impl Stores {
    /// Stores below these directories; with none, below whichever a mount names.
    pub fn new(directories: Vec<PathBuf>) -> Stores {
        Stores { directories, used: Arc::default(), looks: Arc::default() }
    }

    /// The store for daemons of this configuration; `None`: it wants none. If one of them says that it has one at `former`, that or a new
    /// one; empty: there is none, and any that is free is given.
    ///
    /// # Errors
    /// FAILED_PRECONDITION, NOT_FOUND or PERMISSION_DENIED for a directory that cannot be used; DEADLINE_EXCEEDED for a disk that hangs.
    pub fn take(&self, config: &DaemonConfig, user: User<'_>, former: &str) -> Result<Option<Store>, Error> {
        let Some(cache) = with_store(config) else { return Ok(None) };
        let source = source_name(config, user.target);
        let directory = self.directory(cache)?.to_owned();
        let former = (!former.is_empty()).then(|| former_name(former, &directory, &source));
        let wanted = Wanted { directory: directory.clone(), source, uid: user.uid, former };
        let stores = self.clone();
        let opened = self.look(&directory, move || stores.open(&wanted));
        opened.and_then(|opened| opened).map(Some).map_err(|error| unusable(&directory, &error))
    }

    /// Refuses a directory that cannot be used for a store where that shall come from `current` to be elsewhere, or to be at all: who
    /// mounts so is refused, too. One that goes later costs the store, not the mount.
    ///
    /// # Errors
    /// Those of [`Stores::take`].
    pub fn check_move(&self, current: &DaemonConfig, wanted: &DaemonConfig) -> Result<(), Error> {
        let place = |config| with_store(config).map(|cache: &CacheConfig| cache.store_dir.clone());
        let Some(cache) = with_store(wanted).filter(|_| place(wanted) != place(current)) else { return Ok(()) };
        let directory = self.directory(cache)?.to_owned();
        let (stores, parent) = (self.clone(), directory.clone());
        let opened = self.look(&directory, move || stores.open_parent(&parent).map(drop));
        opened.and_then(|opened| opened).map_err(|error| unusable(&directory, &error))
    }

    /// Whether `store` is there, and one that this configuration would be given, too.
    pub fn serves(&self, store: &Store, config: &DaemonConfig) -> bool {
        with_store(config)
            .is_some_and(|cache| self.directory(cache).is_ok_and(|directory| store.path().parent() == Some(directory)))
            && !store.has_gone()
    }

    fn directory<'a>(&'a self, cache: &'a CacheConfig) -> Result<&'a Path, Error> {
        let named = (!cache.store_dir.is_empty()).then(|| Path::new(&cache.store_dir));
        match (named, self.directories.first()) {
            (None, None) => {
                let message =
                    "cache-size needs cache-dir: this node has no directory for caches (efc-keeper --cache-dir)";
                Err(failure(Code::FailedPrecondition, message))
            }
            (Some(named), Some(_)) if !self.directories.iter().any(|directory| directory == named) => {
                let known: Vec<_> = self.directories.iter().map(|known| known.display().to_string()).collect();
                let message =
                    format!("cache-dir {}: on this node caches lie in {}", named.display(), known.join(" or "));
                Err(failure(Code::PermissionDenied, message))
            }
            (Some(named), _) => Ok(named),
            (None, Some(first)) => Ok(first),
        }
    }

    /// Does what may hang with the disk of a directory.
    fn look<T: Send + 'static>(&self, directory: &Path, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let directory = directory.to_owned();
        let look = self.begin_look(directory).ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, HANGS))?;
        do_in_time("store", TIME_LIMIT, move || {
            let done = work();
            drop(look);
            done
        })
    }

    fn begin_look(&self, directory: PathBuf) -> Option<Look> {
        let mut looks = self.looks();
        let count = looks.entry(directory.clone()).or_default();
        if *count >= LOOKS_MAX {
            return None;
        }
        *count += 1;
        Some(Look { stores: self.clone(), directory })
    }

    fn looks(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, usize>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory that stores lie in, if it may be used for that.
    fn open_parent(&self, directory: &Path) -> io::Result<OwnedFd> {
        let parent = open_directory(rustix::fs::CWD, directory).map_err(|error| {
            let is_link = directory.symlink_metadata().is_ok_and(|found| found.is_symlink());
            if is_link { io::Error::other("it is a symbolic link: name the directory that it leads to") } else { error }
        })?;
        let found = fstat(&parent)?;
        // What the keeper's command line names may be a directory of its container, which only that gets into.
        let is_named_by_mount = self.directories.is_empty();
        if is_named_by_mount && (found.st_uid != rustix::process::geteuid().as_raw() || found.st_mode & 0o022 != 0) {
            let message = "it must belong to root, and nobody else may write to it (chown root, chmod go-w; a tmpfs: mount -o mode=755): whoever can write there can change what others read";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Ok(parent)
    }

    fn open(&self, wanted: &Wanted) -> io::Result<Store> {
        let parent = self.open_parent(&wanted.directory)?;
        let names = (0..STORES_MAX).map(|number| name_of(&wanted.source, number));
        let former = wanted.former.iter().filter(|name| !name.is_empty()).cloned();
        for name in former.chain(names) {
            let Some(claim) = self.claim(wanted.directory.join(&name)) else { continue };
            if let Some(opened) = open_store(&parent, &name, wanted)? {
                return Ok(Store { claim, opened });
            }
        }
        Err(io::Error::other(format!("all {STORES_MAX} stores of {} are in use", wanted.source)))
    }

    /// Nobody else of this keeper has the store of this path until it is dropped; `None`: somebody has.
    fn claim(&self, path: PathBuf) -> Option<Claim> {
        // Not made to be dropped at once, which would give back what another mount has.
        self.used().insert(path.clone()).then(|| Claim { stores: self.clone(), path })
    }

    fn used(&self) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// What the daemon gets.
    pub fn directory(&self) -> &OwnedFd {
        &self.opened.directory
    }

    /// Whether somebody has removed it. One whose disk does not answer is there.
    fn has_gone(&self) -> bool {
        let (Ok(directory), Some(parent)) = (self.opened.directory.try_clone(), self.path().parent()) else {
            return false;
        };
        let links = self.claim.stores.look(parent, move || fstat(&directory).map(|found| found.st_nlink));
        matches!(links, Ok(Ok(0)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.claim.path
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        let mut looks = self.stores.looks();
        if let Some(count) = looks.get_mut(&self.directory) {
            *count -= 1;
        }
        looks.retain(|_, count| *count > 0);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.stores.used().remove(&self.path);
    }
}

fn unusable(directory: &Path, error: &io::Error) -> Error {
    let is_hanging = error.kind() == io::ErrorKind::TimedOut;
    let code = if is_hanging { Code::DeadlineExceeded } else { path_code(error) };
    let shown = directory.display();
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => format!("; make it: mkdir -p {shown}"),
        _ => String::new(),
    };
    failure(code, format!("cache-dir {shown}: {error}{remedy}"))
}

/// How the configuration's caches are, if a local store is one of them.
fn with_store(config: &DaemonConfig) -> Option<&CacheConfig> {
    config.cache.as_ref().filter(|cache| cache.store_mib > 0)
}

fn open_directory(at: impl AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, path, flags, Mode::empty())?)
}

/// The name of the store that a daemon says it has; empty if that is none of its source's.
fn former_name(former: &str, directory: &Path, source: &str) -> String {
    let name = Path::new(former).strip_prefix(directory).ok().and_then(Path::to_str).unwrap_or_default();
    let is_one = (0..STORES_MAX).any(|number| name_of(source, number) == name);
    if is_one { name.to_owned() } else { String::new() }
}

/// The store of this name, made if it is not there; `None` if it is of another source, in use by others, or no store.
fn open_store(parent: &OwnedFd, name: &str, wanted: &Wanted) -> io::Result<Option<Opened>> {
    match open_or_make(parent, name, wanted) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
        opened => opened,
    }
}

/// The same; `InvalidData`: it is no store.
fn open_or_make(parent: &OwnedFd, name: &str, wanted: &Wanted) -> io::Result<Option<Opened>> {
    let is_new = match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(errno.into()),
    };
    let directory = match open_directory(parent, name) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => return Ok(None),
        opened => opened?,
    };
    let owner = if wanted.uid == 0 { UNPRIVILEGED } else { wanted.uid };
    let is_its_users = fstat(&directory)?.st_uid == owner || !rustix::process::geteuid().is_root();
    if wanted.former.is_some() && !is_new && !is_its_users {
        return Ok(None);
    }
    let Some(lock) = lock_for_keeper(parent, name)? else { return Ok(None) };
    match source_of(&directory)? {
        Some(source) if source != wanted.source => return Ok(None),
        Some(_) => {}
        None => write_source(&directory, &wanted.source)?,
    }
    // Whoever has the former one still is of the same mount, and about to end.
    let is_own = is_its_users && wanted.former.as_deref() == Some(name);
    if is_in_use(&directory)? && !is_own {
        return Ok(None);
    }
    // Of a read-only file system not even its owner can be set to what it is.
    if !is_its_users {
        fchown(&directory, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
    }
    Ok(Some(Opened { directory, _lock: lock }))
}

/// No other keeper takes the store as long as this is there, whether its daemon has locked it already or not; `None`: one has.
fn lock_for_keeper(parent: &OwnedFd, name: &str) -> io::Result<Option<OwnedFd>> {
    let lock = open_directory(parent, name)?; // not what daemons get, who would keep it locked
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(None),
        locked => Ok(locked.map(|()| Some(lock))?),
    }
}

fn source_of(directory: &OwnedFd) -> io::Result<Option<String>> {
    let Some(opened) = open_regular(directory, SOURCE)? else { return Ok(None) };
    let mut source = String::new();
    opened.take(SOURCE_BYTES_MAX).read_to_string(&mut source)?;
    // One that was being written when the node lost power says nothing.
    Ok(source.strip_suffix('\n').map(str::to_owned))
}

/// Writes it into a new file: one of that name may be another's by a second name.
fn write_source(directory: &OwnedFd, source: &str) -> io::Result<()> {
    match unlinkat(directory, SOURCE, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(directory, SOURCE, flags, Mode::from_raw_mode(0o644))?;
    File::from(file).write_all(format!("{source}\n").as_bytes())
}

/// A regular file of a store, open for reading; `None`: it is not there. What lies there is a daemon's: see [`files::open_regular`].
fn open_regular(directory: &OwnedFd, name: &str) -> io::Result<Option<File>> {
    match files::open_regular(directory, Path::new(name), OFlags::NOFOLLOW) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Does a daemon have it? One of another keeper, that is, or of one that has died.
fn is_in_use(directory: &OwnedFd) -> io::Result<bool> {
    let Some(lock) = open_regular(directory, LOCK)? else { return Ok(false) };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false), // and it is free again when `lock` is closed
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// A source in full. Of several, which come and go, all that stays the same is where they are mounted.
fn source_name(config: &DaemonConfig, target: &Path) -> String {
    if !config.sources.is_empty() {
        return format!("several {}", target.display());
    }
    let Source { host, port, mount_port, path } = config.source.clone().unwrap_or_default();
    format!("nfs {host} {port} {mount_port} {path}")
}

/// What a store is called.
fn name_of(source: &str, number: u32) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' };
    let name: String = source.chars().map(plain).take(NAME_BYTES_MAX).collect();
    format!("{name}-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use efc_proto::MountedSource;
    use rustix::fs::FileType;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn user() -> User<'static> {
        User { target: Path::new("/mnt"), uid: 0 }
    }

    fn config(directory: &Path, path: &str) -> DaemonConfig {
        let store_dir = directory.to_str().unwrap().to_owned();
        let cache = CacheConfig { store_dir, store_mib: 64, ..Default::default() };
        let source = Source { host: "nas".into(), path: path.into(), ..Default::default() };
        DaemonConfig { cache: Some(cache), source: Some(source), ..Default::default() }
    }

    #[test]
    fn a_source_finds_its_store_again_and_shares_it_with_nobody_as_root() {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new(Vec::new());
        let take =
            |path: &str, former: &str| stores.take(&config(folder.path(), path), user(), former).unwrap().unwrap();
        let (first, second) = (take("/data", ""), take("/data", ""));
        let [first_path, second_path] = [&first, &second].map(|store| store.path().to_owned());
        assert_ne!(first_path, second_path);
        // "/data" and "-data" are called alike.
        assert!(!["-0", "-1"].iter().any(|end| take("-data", "").path().to_str().unwrap().ends_with(end)));
        drop((first, second));
        assert_eq!(take("/data", "").path(), first_path);
        assert_eq!(take("/data", second_path.to_str().unwrap()).path(), second_path);
        assert_eq!(take("/data", "/elsewhere/store-0").path(), first_path);
        let several = DaemonConfig { sources: vec![MountedSource::default()], ..config(folder.path(), "/data") };
        let at = |target| stores.take(&several, User { target: Path::new(target), uid: 0 }, "").unwrap().unwrap();
        let (here, there) = (at("/mnt/here"), at("/mnt/there"));
        assert!(here.path() != there.path() && ![first_path, second_path].contains(&here.path().to_owned()));
    }

    #[test]
    fn a_store_that_a_daemon_has_is_left_to_it_as_root() {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new(Vec::new());
        let take = || stores.take(&config(folder.path(), "/data"), user(), "").unwrap().unwrap();
        let path = take().path().to_owned();
        let lock = std::fs::File::create(path.join(LOCK)).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_ne!(take().path(), path);
        drop(lock);
        assert_eq!(take().path(), path);
    }

    #[test]
    fn what_a_daemon_says_of_its_store_leads_to_no_other_as_root() {
        let (folder, above) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let stores = Stores::new(Vec::new());
        let directory = folder.path().to_str().unwrap();
        let owner = |path: &Path| std::fs::metadata(path).unwrap().uid();
        let outside = format!("{directory}/../{}", above.path().file_name().unwrap().to_str().unwrap());
        for former in [outside.as_str(), &format!("{directory}/a/b"), &format!("{directory}/x"), directory] {
            let store = stores.take(&config(folder.path(), "/data"), user(), former).unwrap().unwrap();
            assert_eq!(store.path().parent(), Some(folder.path()));
            assert!(store.path().file_name().unwrap().to_str().unwrap().starts_with("nfs-nas-0-0--data-"));
        }
        assert_eq!((owner(above.path()), std::fs::read_dir(above.path()).unwrap().count()), (0, 0));
        assert!(!folder.path().join("x").exists());
        // Another user's store of the same source stays that user's.
        let user = |uid| User { target: Path::new("/mnt"), uid };
        let take = |uid, former: &str| {
            let store = stores.take(&config(folder.path(), "/data"), user(uid), former).unwrap().unwrap();
            store.path().to_owned()
        };
        let of_one = take(4_000_001, "");
        let of_other = take(4_000_002, of_one.to_str().unwrap());
        assert_ne!(of_other, of_one);
        assert_eq!((owner(&of_one), owner(&of_other)), (4_000_001, 4_000_002));
        assert_eq!(take(4_000_002, of_other.to_str().unwrap()), of_other);
        assert_eq!(take(4_000_003, ""), of_one, "whoever is mounted anew has what is there");
    }

    #[test]
    fn what_is_no_store_is_left_alone_as_root() {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new(Vec::new());
        let take = || stores.take(&config(folder.path(), "/data"), user(), "").unwrap().unwrap().path().to_owned();
        for name in [SOURCE, LOCK] {
            let path = take();
            let _ = std::fs::remove_file(path.join(name));
            let fifo = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, path.join(name), FileType::Fifo, fifo, 0).unwrap();
            assert_ne!(take(), path);
        }
        let path = take();
        std::fs::write(folder.path().join("other"), "mine").unwrap();
        std::fs::remove_file(path.join(SOURCE)).unwrap();
        std::fs::hard_link(folder.path().join("other"), path.join(SOURCE)).unwrap();
        assert_eq!(take(), path);
        assert_eq!(std::fs::read(folder.path().join("other")).unwrap(), b"mine");
    }

    #[test]
    fn few_looks_at_a_disk_that_hangs_are_under_way() {
        let stores = Stores::new(Vec::new());
        let (directory, (end, wait)) = (Path::new("/cache"), std::sync::mpsc::channel::<()>());
        let wait = Arc::new(Mutex::new(wait));
        for _ in 0..LOOKS_MAX {
            let wait = wait.clone();
            let look = stores.begin_look(directory.to_owned()).unwrap();
            std::thread::spawn(move || {
                let _ = wait.lock().unwrap().recv();
                drop(look);
            });
        }
        let looked = stores.look(directory, || ());
        assert_eq!(looked.unwrap_err().kind(), io::ErrorKind::TimedOut);
        stores.look(Path::new("/other"), || ()).unwrap();
        drop(end);
        while !stores.looks().is_empty() {
            std::thread::yield_now();
        }
        stores.look(directory, || ()).unwrap();
    }

    #[test]
    fn keepers_that_take_a_store_at_the_same_time_have_one_each_as_root() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = [(); 2].map(|()| Stores::new(Vec::new()));
        let take =
            |stores: &Stores, former: &str| stores.take(&config(folder.path(), "/d"), user(), former).unwrap().unwrap();
        let (first, second) = (take(&one, ""), take(&other, ""));
        let path = first.path().to_owned();
        assert_ne!(path, second.path());
        assert_ne!(take(&other, path.to_str().unwrap()).path(), path, "nor by the name of a former one");
        drop(first);
        assert_eq!(take(&other, path.to_str().unwrap()).path(), path);
    }

    #[test]
    fn only_directories_that_may_be_used_are_as_root() {
        let folder = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let code = |stores: &Stores, config: &DaemonConfig| stores.take(config, user(), "").unwrap_err().code();
        let anywhere = Stores::new(Vec::new());
        assert!(anywhere.take(&DaemonConfig::default(), user(), "").unwrap().is_none());
        assert_eq!(code(&anywhere, &config(Path::new(""), "/d")), Code::FailedPrecondition);
        assert_eq!(code(&anywhere, &config(Path::new("/no/such"), "/d")), Code::NotFound);
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(code(&anywhere, &config(folder.path(), "/d")), Code::PermissionDenied);
        let link = other.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(anywhere.take(&config(&link, "/d"), user(), "").unwrap_err().message.contains("symbolic link"));
        let given = Stores::new(vec![other.path().to_owned()]);
        assert_eq!(code(&given, &config(folder.path(), "/d")), Code::PermissionDenied);
        let store = given.take(&config(Path::new(""), "/d"), user(), "").unwrap().unwrap();
        assert_eq!(store.path().parent(), Some(other.path()));
        assert!(given.serves(&store, &config(other.path(), "/d")) && !given.serves(&store, &DaemonConfig::default()));
        std::fs::remove_dir_all(store.path()).unwrap();
        assert!(!given.serves(&store, &config(other.path(), "/d")), "it has gone");
    }
}
