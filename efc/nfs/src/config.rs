//! The address of a dataset, and what was found there.

use std::sync::Arc;
use std::time::Duration;

use efc_backend::{Attr, FileHandle, FsInfo, Properties};

use crate::shared::Identity;

/// Where a dataset is and how to talk to its server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name, IPv4 or IPv6 address.
    pub host: String,
    /// NFS port; `None`: ask rpcbind, else 2049.
    pub port: Option<u16>,
    /// MOUNT port; `None`: ask rpcbind, else the NFS port.
    pub mount_port: Option<u16>,
    /// Absolute path of an export or of a directory below one.
    pub path: Vec<u8>,
    /// TCP connections.
    pub connections: usize,
    /// Soft: calls fail with [`ErrorKind::TimedOut`] after this long. Hard (`None`): they wait for ever.
    pub time_limit: Option<Duration>,
    /// How long `connect` may take in all.
    pub connect_time_limit: Duration,
    /// Bind a source port below 1024 when permitted.
    pub privileged_port: bool,
    /// Who the server takes us for, if that shall outlive this process.
    pub identity: Option<Arc<dyn Identity>>,
}

/// What `connect` found; enough to make a [`Client`] again without asking the server.
#[derive(Clone, Copy, Debug)]
pub struct Mounted {
    /// The dataset's root.
    pub root: FileHandle,
    /// Its attributes.
    pub attr: Attr,
    /// Limits of the server, already cut to what this client supports.
    pub info: FsInfo,
    /// Names that differ in case only are one name there.
    pub ignores_case: bool,
    /// The ports that were found.
    pub port: u16,
}

impl Mounted {
    /// What the server says of itself.
    pub fn properties(&self) -> Properties {
        Properties { read_max: self.info.read_max, write_max: self.info.write_max, ignores_case: self.ignores_case }
    }
}
