//! The one place where failures become errnos.

use efc_backend::{Error, ErrorKind, Status};
use efc_fuse::Errno;

/// The errno that an application sees for a failed call.
pub fn errno(error: &Error) -> Errno {
    Errno(match &error.kind {
        ErrorKind::Status(status) => of_status(*status),
        ErrorKind::TimedOut | ErrorKind::Garbled(_) | ErrorKind::Rejected(_) => libc::EIO,
        ErrorKind::NoMemory => libc::ENOMEM,
        ErrorKind::Denied(_) => libc::EACCES,
    })
}

fn of_status(status: Status) -> i32 {
    match status {
        Status::Perm => libc::EPERM,
        Status::NoEnt => libc::ENOENT,
        Status::Io | Status::ServerFault | Status::TooSmall | Status::NotSync | Status::BadCookie => libc::EIO,
        Status::Nxio => libc::ENXIO,
        Status::Acces => libc::EACCES,
        Status::Exist => libc::EEXIST,
        Status::XDev => libc::EXDEV,
        Status::NoDev => libc::ENODEV,
        Status::NotDir => libc::ENOTDIR,
        Status::IsDir => libc::EISDIR,
        Status::Inval => libc::EINVAL,
        Status::FBig => libc::EFBIG,
        Status::NoSpc => libc::ENOSPC,
        Status::RoFs => libc::EROFS,
        Status::MLink => libc::EMLINK,
        Status::NameTooLong => libc::ENAMETOOLONG,
        Status::NotEmpty => libc::ENOTEMPTY,
        Status::DQuot => libc::EDQUOT,
        Status::Stale | Status::BadHandle => libc::ESTALE,
        Status::Remote => libc::EREMOTE,
        Status::NotSupp | Status::BadType => libc::EOPNOTSUPP,
        Status::Jukebox => libc::EAGAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refused_credential_is_a_lack_of_permission() {
        let of = |kind| errno(&Error::new(kind)).0;
        assert_eq!(of(ErrorKind::Denied("the credential was refused")), libc::EACCES);
        assert_eq!(of(ErrorKind::Rejected("program unavailable")), libc::EIO);
        assert_eq!(of(ErrorKind::Garbled("not a reply")), libc::EIO);
    }
}
