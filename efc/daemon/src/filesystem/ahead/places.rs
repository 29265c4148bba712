//! The position of an open in the order of all opens of this daemon, from which visits of directories are derived.

/// An open of a file, by its place among all opens, and the one of that file before it.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    pub former: u64,
    pub place: u64,
}
