//! Files of the node whose contents are passed to daemons, which open none: the workers' key and certificates, and the
//! list of workers.
//!
//! Options contain their names instead of their contents, because options are recorded. A file is read by a thread of
//! its own, for which nobody waits longer than a moment, because its file system may hang.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use efc_proto::{CacheConfig, DaemonConfig, Error, WorkersSecrets};
use rustix::fs::{FileType, Mode, OFlags};

use crate::failure::{failure, path_code};
use crate::waiting::do_in_time;

/// More of a file is not read, in bytes.
const SIZE_MAX: u64 = 64 << 10;
/// How long files are waited for when a daemon is to be told of them.
const TIME_LIMIT: Duration = Duration::from_millis(500);

/// What a daemon needs to use the workers of a dataset.
#[derive(Debug, Default, PartialEq)]
pub struct OfWorkers {
    /// What the files of the key and of TLS hold; one that cannot be read is empty: the daemon says what that means.
    pub secrets: WorkersSecrets,
    /// What the file says of where they are.
    pub endpoints: Vec<u8>,
}

/// What a daemon of this configuration needs; `None`: it has no workers.
pub fn of_workers(config: &DaemonConfig) -> Option<OfWorkers> {
    let cache = config.cache.clone().filter(|cache| !cache.workers_key.is_empty())?;
    let name = cache.workers_key.clone();
    let read_all = move || {
        let endpoints = endpoints(&cache).unwrap_or_else(|error| unreadable(Path::new(&cache.workers), &error));
        OfWorkers { secrets: secrets(&cache), endpoints }
    };
    Some(do_in_time("files", TIME_LIMIT, read_all).unwrap_or_else(|error| {
        log::error!("{name}, or what else is needed for workers, is not read in time: {error}");
        OfWorkers::default()
    }))
}

fn secrets(cache: &CacheConfig) -> WorkersSecrets {
    let of_tls = |name: &str| match cache.workers_tls.as_str() {
        "" => Vec::new(),
        directory => secret(&Path::new(directory).join(name)),
    };
    WorkersSecrets {
        key: secret(Path::new(&cache.workers_key)),
        authority: of_tls("ca.crt"),
        certificate: of_tls("tls.crt"),
        private_key: of_tls("tls.key"),
        server_name: server_name(&cache.workers_tls),
    }
}

/// The name that all workers' certificates have, if a file says it.
fn server_name(directory: &str) -> Vec<u8> {
    if directory.is_empty() {
        return Vec::new();
    }
    let path = Path::new(directory).join("server-name");
    match contents(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        found => found.unwrap_or_else(|error| unreadable(&path, &error)),
    }
}

fn secret(path: &Path) -> Vec<u8> {
    contents(path).unwrap_or_else(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &io::Error) -> Vec<u8> {
    log::error!("{path:?} cannot be read: {error}");
    Vec::new()
}

/// What the file holds that says where workers are; nothing if no file does. It may hang with its file system.
///
/// # Errors
/// Those of reading it.
pub fn endpoints(cache: &CacheConfig) -> io::Result<Vec<u8>> {
    if cache.workers.starts_with('/') { contents(Path::new(&cache.workers)) } else { Ok(Vec::new()) }
}

/// Refuses a file of workers that is not there, or that nobody can read: a name that is misspelt would cost all of them, and nobody would
/// notice. One whose disk does not answer is not refused, nor is one that goes while the dataset is mounted: the daemon knows what was in it.
///
/// # Errors
/// NOT_FOUND, PERMISSION_DENIED or FAILED_PRECONDITION, with a sentence on what to do.
pub fn check_workers(config: &DaemonConfig) -> Result<(), Error> {
    let Some(cache) = config.cache.clone().filter(|cache| cache.workers.starts_with('/')) else { return Ok(()) };
    let path = cache.workers.clone();
    let Ok(Err(error)) = do_in_time("files", TIME_LIMIT, move || endpoints(&cache)) else { return Ok(()) };
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "; make it, with HOST:PORT of one worker in each line, or a line `# none` for now",
        _ => "",
    };
    Err(failure(path_code(&error), format!("workers: {path} cannot be read: {error}{remedy}")))
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    open_regular(rustix::fs::CWD, path, OFlags::empty())?.take(SIZE_MAX).read_to_end(&mut contents)?;
    Ok(contents)
}

/// Opens a regular file to read it. Nothing else is opened: a pipe would be waited for, and of a device that may do anything. With
/// `NOFOLLOW` in `links` a link is no regular file.
///
/// # Errors
/// Those of openat(2); `InvalidData`: it is something else.
pub fn open_regular(at: impl AsFd, path: &Path, links: OFlags) -> io::Result<File> {
    let found = rustix::fs::openat(at, path, OFlags::PATH | OFlags::CLOEXEC | links, Mode::empty())?;
    if !FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"));
    }
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use efc_proto::error::Code;

    use super::*;

    fn read(cache: CacheConfig) -> Option<OfWorkers> {
        of_workers(&DaemonConfig { cache: Some(cache), ..Default::default() })
    }

    #[test]
    fn what_is_named_is_read_and_what_is_not_there_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let files = [("key", "digits"), ("tls.crt", "certificate"), ("server-name", "worker"), ("workers", "a:1\n")];
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let with = |workers: String, workers_key: String, workers_tls: String| {
            read(CacheConfig { workers, workers_key, workers_tls, ..Default::default() })
        };
        let key = b"digits".to_vec();
        let of_key = || WorkersSecrets { key: key.clone(), ..Default::default() };
        let found = with("a:1".into(), path("key"), String::new());
        assert_eq!(found, Some(OfWorkers { secrets: of_key(), endpoints: Vec::new() }));
        let secrets =
            WorkersSecrets { certificate: b"certificate".to_vec(), server_name: b"worker".to_vec(), ..of_key() };
        assert_eq!(
            with(path("workers"), path("key"), path("")),
            Some(OfWorkers { secrets, endpoints: b"a:1\n".to_vec() })
        );
        assert_eq!(with(path("none"), path("none"), String::new()), Some(OfWorkers::default()));
        assert_eq!((with("a:1".into(), String::new(), path("")), of_workers(&DaemonConfig::default())), (None, None));
    }

    #[test]
    fn a_file_of_workers_has_to_be_there_at_first() {
        let folder = tempfile::tempdir().unwrap();
        let [there, empty, none] = ["there", "empty", "none"].map(|name| folder.path().join(name));
        std::fs::write(&there, "a:1\n").unwrap();
        std::fs::write(&empty, "").unwrap();
        let check = |workers: &Path| {
            let cache = CacheConfig { workers: workers.to_str().unwrap().into(), ..Default::default() };
            check_workers(&DaemonConfig { cache: Some(cache), ..Default::default() })
        };
        assert!([&there, &empty, Path::new("a:1")].iter().all(|workers| check(workers).is_ok()));
        assert!(check_workers(&DaemonConfig::default()).is_ok());
        let missing = check(&none).unwrap_err();
        assert_eq!(missing.code(), Code::NotFound);
        assert!(missing.message.contains(none.to_str().unwrap()) && missing.message.contains("make it"), "{missing:?}");
        assert_eq!(check(folder.path()).unwrap_err().code(), Code::FailedPrecondition);
    }

    #[test]
    fn only_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let [file, link, pipe] = ["file", "link", "pipe"].map(|name| directory.path().join(name));
        std::fs::write(&file, "key").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!([&file, &link].map(|path| contents(path).unwrap()), [b"key", b"key"]);
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR).unwrap();
        assert!([&pipe, directory.path(), Path::new("/dev/zero")].iter().all(|path| contents(path).is_err()));
        assert!(open_regular(rustix::fs::CWD, &link, OFlags::NOFOLLOW).is_err());
    }
}
