//! Page versions, a fact about nodes: of which version of a file the pages are that the kernel holds.
//!
//! A version that is missing costs no more than a file's cached pages.

use super::regions::{Format, PAGES};
use super::side::{Fact, Side};

/// What tells two contents of a file apart. Times have seconds in the upper half and nanoseconds in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataVersion {
    /// Last modification of the data.
    pub mtime: u64,
    /// Last change of data or attributes.
    pub ctime: u64,
    /// In bytes.
    pub size: u64,
}

/// The version of each node's pages.
pub type PageVersions = Side<DataVersion, 3>;

impl Fact<3> for DataVersion {
    const FORMAT: Format = PAGES;

    fn to_words(self) -> [u64; 3] {
        [self.mtime, self.ctime, self.size]
    }

    fn from_words([mtime, ctime, size]: [u64; 3]) -> DataVersion {
        DataVersion { mtime, ctime, size }
    }
}
