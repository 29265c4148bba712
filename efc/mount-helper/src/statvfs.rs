//! `statvfs`: the sizes of a volume. Asks its file system, so this may hang: that is why it is a program.

use std::path::PathBuf;

use efc_mount_helper::target::Target;
use rustix::fs::fstatvfs;
use serde_json::{Value, json};

use crate::error::{Context, Failure};

/// The operation's arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Statvfs {
    /// A directory of the volume.
    pub target: PathBuf,
    /// Directory beneath which the target lies, if symbolic links between the two are to be refused.
    pub beneath: Option<PathBuf>,
}

impl Statvfs {
    /// What the file system says; `bytes_available` is for users other than root.
    pub fn run(&self) -> Result<Value, Failure> {
        let context = || format!("ask the file system of {}", self.target.display());
        let target = match &self.beneath {
            Some(base) => Target::beneath(base, &self.target),
            None => Target::resolve(&self.target),
        };
        let directory = target.and_then(|target| target.open()).context(context)?;
        let sizes = fstatvfs(&directory).context(context)?;
        Ok(json!({
            "bytes_total": sizes.f_blocks.saturating_mul(sizes.f_frsize),
            "bytes_free": sizes.f_bfree.saturating_mul(sizes.f_frsize),
            "bytes_available": sizes.f_bavail.saturating_mul(sizes.f_frsize),
            "files_total": sizes.f_files,
            "files_free": sizes.f_ffree,
        }))
    }
}
