//! The limit of open files: this process raises it to the maximum.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Below that a busy node runs short of them.
const ENOUGH: usize = 512;

/// Raises the limit of this process as far as it may be, and says so if that is not enough.
pub fn raise_limit() {
    let old = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: old.maximum, ..old }) {
        log::warn!("cannot raise the limit of open files: {error}");
    }
    let limit = limit();
    if limit < ENOUGH {
        log::error!(
            "the hard limit of open files (ulimit -Hn) is {limit}, less than {ENOUGH}: requests may fail with EIO for want of \
             descriptors; raise it where the keeper is started"
        );
    }
}

/// How many files this process may have open.
pub fn limit() -> usize {
    let current = getrlimit(Resource::Nofile).current;
    current.map_or(usize::MAX, |current| usize::try_from(current).unwrap_or(usize::MAX))
}
