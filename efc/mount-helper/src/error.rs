//! Failures, in the one form in which callers read them: a line of JSON with the errno's name and a sentence.

use rustix::io::Errno;
use serde_json::json;

/// What could not be done, and why.
#[derive(Debug)]
pub struct Failure {
    errno: Errno,
    action: String,
}

impl Failure {
    /// `action` completes the sentence "cannot ...".
    pub fn new(action: impl Into<String>, errno: Errno) -> Failure {
        Failure { errno, action: action.into() }
    }

    /// From an error of the standard library; EIO if it did not come from the kernel.
    pub fn from_io(action: impl Into<String>, error: &std::io::Error) -> Failure {
        Failure::new(action, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }

    /// `{"errno":"ENOENT","message":"cannot open /x: No such file or directory"}`
    pub fn to_json(&self) -> String {
        let (errno, message) = self.parts();
        json!({ "errno": errno, "message": message }).to_string()
    }

    /// The errno's name and the sentence.
    pub fn parts(&self) -> (String, String) {
        let reason = std::io::Error::from(self.errno).to_string();
        let reason = reason.split(" (os error").next().unwrap_or_default();
        (name(self.errno), format!("cannot {}: {reason}", self.action))
    }
}

/// Adds to an errno what was tried.
pub trait Context<T> {
    /// `action` completes the sentence "cannot ...".
    fn context(self, action: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn context(self, action: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(action(), errno))
    }
}

/// The symbolic name, for the errors that these system calls are documented to give; the number otherwise.
fn name(errno: Errno) -> String {
    const NAMES: [(Errno, &str); 29] = [
        (Errno::PERM, "EPERM"),
        (Errno::NOENT, "ENOENT"),
        (Errno::INTR, "EINTR"),
        (Errno::IO, "EIO"),
        (Errno::NXIO, "ENXIO"),
        (Errno::BADF, "EBADF"),
        (Errno::AGAIN, "EAGAIN"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::BUSY, "EBUSY"),
        (Errno::EXIST, "EEXIST"),
        (Errno::XDEV, "EXDEV"),
        (Errno::NODEV, "ENODEV"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::ISDIR, "EISDIR"),
        (Errno::INVAL, "EINVAL"),
        (Errno::NFILE, "ENFILE"),
        (Errno::MFILE, "EMFILE"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::ROFS, "EROFS"),
        (Errno::NAMETOOLONG, "ENAMETOOLONG"),
        (Errno::NOSYS, "ENOSYS"),
        (Errno::NOTEMPTY, "ENOTEMPTY"),
        (Errno::LOOP, "ELOOP"),
        (Errno::OVERFLOW, "EOVERFLOW"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::CONNABORTED, "ECONNABORTED"),
        (Errno::NOTCONN, "ENOTCONN"),
        (Errno::STALE, "ESTALE"),
    ];
    NAMES
        .iter()
        .find(|(candidate, _)| *candidate == errno)
        .map_or_else(|| errno.raw_os_error().to_string(), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_of_json() {
        let failure = Failure::new("open /a\n\"b\"", Errno::NOENT);
        let line = failure.to_json();
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["errno"], "ENOENT");
        assert_eq!(value["message"], "cannot open /a\n\"b\": No such file or directory");
    }

    #[test]
    fn an_unlisted_errno_is_a_number() {
        assert_eq!(name(Errno::XFULL), "54");
    }
}
