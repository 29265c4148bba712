//! Files of the node's whose contents go to daemons and nowhere else: options name them, since options are written down.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::Path;

use efc_proto::{DaemonConfig, WorkersSecrets};
use rustix::fs::{FileType, Mode, OFlags};

/// More of a file is not read, in bytes.
const SIZE_MAX: u64 = 64 << 10;

/// What a daemon of this configuration needs to use workers; `None`: it has none. What cannot be read is empty: the daemon
/// says what that means.
pub fn of_workers(config: &DaemonConfig) -> Option<WorkersSecrets> {
    let cache = config.cache.as_ref().filter(|cache| !cache.workers_key.is_empty())?;
    let of_tls = |name: &str| match cache.workers_tls.as_str() {
        "" => Vec::new(),
        directory => contents(&Path::new(directory).join(name)),
    };
    Some(WorkersSecrets {
        key: contents(Path::new(&cache.workers_key)),
        authority: of_tls("ca.crt"),
        certificate: of_tls("tls.crt"),
        private_key: of_tls("tls.key"),
    })
}

fn contents(path: &Path) -> Vec<u8> {
    let read = || -> io::Result<Vec<u8>> {
        let mut contents = Vec::new();
        open_regular(path)?.take(SIZE_MAX).read_to_end(&mut contents)?;
        Ok(contents)
    };
    read().unwrap_or_else(|error| {
        log::error!("{path:?} cannot be read: {error}");
        Vec::new()
    })
}

/// Opens a regular file to read it. Nothing else is opened: a pipe would be waited for, and of a device that may do anything.
fn open_regular(path: &Path) -> io::Result<File> {
    let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if !FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use efc_proto::CacheConfig;

    use super::*;

    #[test]
    fn what_is_named_is_read_and_what_is_not_there_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), "digits").unwrap();
        std::fs::write(folder.path().join("tls.crt"), "certificate").unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let read = |workers_key: String, workers_tls: String| {
            let cache = Some(CacheConfig { workers_key, workers_tls, ..Default::default() });
            of_workers(&DaemonConfig { cache, ..Default::default() })
        };
        let key = b"digits".to_vec();
        assert_eq!(read(path("key"), String::new()), Some(WorkersSecrets { key: key.clone(), ..Default::default() }));
        let certificate = b"certificate".to_vec();
        let secrets = WorkersSecrets { key, certificate, ..Default::default() };
        assert_eq!(read(path("key"), path("")), Some(secrets));
        assert_eq!(read(path("none"), String::new()), Some(WorkersSecrets::default()));
        assert_eq!((read(String::new(), path("")), of_workers(&DaemonConfig::default())), (None, None));
    }
    #[test]
    fn only_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let [file, link, pipe] = ["file", "link", "pipe"].map(|name| directory.path().join(name));
        std::fs::write(&file, "key").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!([contents(&file), contents(&link)], [b"key", b"key"]);
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR).unwrap();
        assert_eq!([&pipe, directory.path(), Path::new("/dev/zero")].map(contents), [b"", b"", b""]);
    }
}
