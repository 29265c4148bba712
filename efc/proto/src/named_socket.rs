//! A listening socket at a name that is its own for as long as nobody takes the name away.
//!
//! The socket is bound under a temporary name and renamed, so that a client finds either one that listens, or none. The
//! directory around it may be removed while its owner runs, and the owner's successor then listens under the same name: so the
//! owner touches the name only while it leads to this very socket. Between that look and the next step lies a moment; who
//! needs more than that has a lock.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::transport::listen_at;

/// Ending of the name under which a socket is made, and hidden.
const HIDDEN: &str = "new";

/// A listening socket and its name.
#[derive(Debug)]
pub struct NamedSocket {
    /// While it is open, no other file has its number.
    listener: OwnedFd,
    path: PathBuf,
    file: FileNumber,
}

/// Device and inode.
type FileNumber = (u64, u64);

impl NamedSocket {
    /// A socket of mode 0600 at `path`, in the place of one that is there; accept(2) does not wait. `backlog` connections may wait.
    ///
    /// # Errors
    /// Those of socket(2) to listen(2), and of rename(2); ENAMETOOLONG for a path of more than about 100 bytes.
    pub fn listen(path: &Path, backlog: i32) -> io::Result<NamedSocket> {
        let new = path.with_extension(HIDDEN);
        remove_if_there(&new)?;
        let listener = listen_at(&new, backlog)?;
        rustix::io::ioctl_fionbio(&listener, true)?;
        let file = file_at(&new)?;
        std::fs::rename(&new, path)?;
        Ok(NamedSocket { listener, path: path.to_owned(), file })
    }

    /// Takes the name away, so that no further client finds the socket. One that has lost its name already is success.
    ///
    /// # Errors
    /// Those of rename(2).
    pub fn hide(&self) -> io::Result<()> {
        self.rename_own(&self.path, &self.hidden_path())
    }

    /// Gives a hidden socket its name back, if it is still there.
    ///
    /// # Errors
    /// Those of rename(2).
    pub fn show(&self) -> io::Result<()> {
        self.rename_own(&self.hidden_path(), &self.path)
    }

    /// Removes the socket, hidden or not. One that has lost its name already is success.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub fn remove(&self) -> io::Result<()> {
        let names = [self.path.clone(), self.hidden_path()];
        names.iter().filter(|name| self.is_at(name)).try_for_each(|name| remove_if_there(name))
    }

    fn rename_own(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.is_at(from) { std::fs::rename(from, to) } else { Ok(()) }
    }

    fn is_at(&self, path: &Path) -> bool {
        file_at(path).is_ok_and(|found| found == self.file)
    }

    fn hidden_path(&self) -> PathBuf {
        self.path.with_extension(HIDDEN)
    }
}

impl AsFd for NamedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Removes a name; that there is none is success.
///
/// # Errors
/// Those of unlink(2).
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn file_at(path: &Path) -> io::Result<FileNumber> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_hidden_shown_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keeper.sock");
        std::fs::write(directory.path().join("keeper.new"), "").unwrap();
        let socket = NamedSocket::listen(&path, 1).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        socket.hide().unwrap();
        assert!(!path.exists());
        socket.show().unwrap();
        assert!(path.exists());
        socket.remove().unwrap();
        assert!(!path.exists());
        let socket = NamedSocket::listen(&path, 1).unwrap();
        socket.hide().unwrap();
        socket.remove().unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_name_that_is_anothers_by_now_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/keeper.sock");
        let listen = || {
            std::fs::create_dir(path.parent().unwrap()).unwrap();
            NamedSocket::listen(&path, 1).unwrap()
        };
        let former = listen();
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        for change in [NamedSocket::hide, NamedSocket::show, NamedSocket::remove] {
            change(&former).unwrap();
        }
        let next = listen();
        for change in [NamedSocket::hide, NamedSocket::show, NamedSocket::remove] {
            change(&former).unwrap();
            assert!(next.is_at(&path));
        }
        next.hide().unwrap();
        for change in [NamedSocket::hide, NamedSocket::show, NamedSocket::remove] {
            change(&former).unwrap();
            assert!(next.is_at(&next.hidden_path()));
        }
    }
}
