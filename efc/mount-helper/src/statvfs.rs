//! `statvfs`: the sizes of a volume. Asks its file system, so this may hang: that is why it is a program.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstatvfs, open};
use serde_json::{Value, json};

use crate::error::{Context, Failure};

/// The operation's arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Statvfs {
    /// A directory of the volume.
    pub target: PathBuf,
}

impl Statvfs {
    /// What the file system says; `bytes_available` is for users other than root.
    pub fn run(&self) -> Result<Value, Failure> {
        let context = |path: &Path| format!("ask the file system of {}", path.display());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = open(&self.target, flags, Mode::empty()).context(|| context(&self.target))?;
        let sizes = fstatvfs(&directory).context(|| context(&self.target))?;
        Ok(json!({
            "bytes_total": sizes.f_blocks.saturating_mul(sizes.f_frsize),
            "bytes_free": sizes.f_bfree.saturating_mul(sizes.f_frsize),
            "bytes_available": sizes.f_bavail.saturating_mul(sizes.f_frsize),
            "files_total": sizes.f_files,
            "files_free": sizes.f_ffree,
        }))
    }
}
