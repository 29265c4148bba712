//! Where an open stands among all opens of this daemon, from which follow visits of directories.

/// An open of a file, by its place among all opens, and the one of that file before it.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    pub former: u64,
    pub place: u64,
}
