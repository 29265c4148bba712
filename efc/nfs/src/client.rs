//! The 22 procedures as async functions. SKELETON: signatures are fixed, bodies to come.
#![allow(unused_variables)]
use std::ops::Range;
use std::time::Duration;
use bytes::Bytes;
use efc_buffer::Buffer;
use crate::{error::*, types::*};

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
    /// The ports that were found.
    pub port: u16,
}

/// Counters since the client was made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Calls sent, without repetitions.
    pub calls: u64,
    /// Calls sent again.
    pub retransmits: u64,
    /// Connections made again.
    pub reconnects: u64,
    /// READ payload bytes.
    pub bytes_read: u64,
    /// WRITE payload bytes.
    pub bytes_written: u64,
    /// Age of the oldest unanswered call.
    pub oldest_call: Option<Duration>,
}

/// A client of one dataset's server; cheap to clone.
#[derive(Clone)]
pub struct Client {}

impl Client {
    /// Finds the server and the directory, and connects.
    pub async fn connect(config: &Config) -> std::result::Result<(Client, Mounted), ConnectError> { todo!() }
    /// A client without a word to the server: connections are made when they are needed.
    pub fn resume(config: &Config, port: u16) -> Client { todo!() }
    /// Counters.
    pub fn counters(&self) -> Counters { todo!() }

    /// GETATTR.
    pub async fn getattr(&self, cred: &Cred, object: &FileHandle) -> Result<Attr> { todo!() }
    /// SETATTR; with `guard`, only if the object's ctime is this.
    pub async fn setattr(&self, cred: &Cred, object: &FileHandle, attr: &SetAttr, guard: Option<Time>) -> Result<Wcc> { todo!() }
    /// LOOKUP.
    pub async fn lookup(&self, cred: &Cred, dir: &FileHandle, name: &[u8]) -> Result<Lookup> { todo!() }
    /// ACCESS: which of `bits` are granted, and the object's attributes.
    pub async fn access(&self, cred: &Cred, object: &FileHandle, bits: u32) -> Result<(u32, Option<Attr>)> { todo!() }
    /// READLINK.
    pub async fn readlink(&self, cred: &Cred, link: &FileHandle) -> Result<(Vec<u8>, Option<Attr>)> { todo!() }
    /// READ of `range.len()` bytes at `offset` into `buffer[range]`. The buffer comes back also after a failure.
    pub async fn read(&self, cred: &Cred, file: &FileHandle, offset: u64, buffer: Buffer, range: Range<usize>) -> (Buffer, Result<Read>) { todo!() }
    /// WRITE of `data` at `offset`. Keep a clone of `data` until it is committed.
    pub async fn write(&self, cred: &Cred, file: &FileHandle, offset: u64, data: Bytes, stable: Stable) -> Result<Written> { todo!() }
    /// COMMIT of the whole file.
    pub async fn commit(&self, cred: &Cred, file: &FileHandle) -> Result<Committed> { todo!() }
    /// CREATE.
    pub async fn create(&self, cred: &Cred, dir: &FileHandle, name: &[u8], how: CreateHow) -> Result<Created> { todo!() }
    /// MKDIR.
    pub async fn mkdir(&self, cred: &Cred, dir: &FileHandle, name: &[u8], attr: &SetAttr) -> Result<Created> { todo!() }
    /// SYMLINK.
    pub async fn symlink(&self, cred: &Cred, dir: &FileHandle, name: &[u8], target: &[u8], attr: &SetAttr) -> Result<Created> { todo!() }
    /// MKNOD.
    pub async fn mknod(&self, cred: &Cred, dir: &FileHandle, name: &[u8], kind: NodeKind, attr: &SetAttr) -> Result<Created> { todo!() }
    /// REMOVE.
    pub async fn remove(&self, cred: &Cred, dir: &FileHandle, name: &[u8]) -> Result<Wcc> { todo!() }
    /// RMDIR.
    pub async fn rmdir(&self, cred: &Cred, dir: &FileHandle, name: &[u8]) -> Result<Wcc> { todo!() }
    /// RENAME: the two directories around the change.
    pub async fn rename(&self, cred: &Cred, from_dir: &FileHandle, from: &[u8], to_dir: &FileHandle, to: &[u8]) -> Result<(Wcc, Wcc)> { todo!() }
    /// LINK: the file's attributes and the directory around the change.
    pub async fn link(&self, cred: &Cred, file: &FileHandle, dir: &FileHandle, name: &[u8]) -> Result<(Option<Attr>, Wcc)> { todo!() }
    /// READDIR: names and inode numbers only.
    pub async fn readdir(&self, cred: &Cred, dir: &FileHandle, cookie: u64, verifier: [u8; 8], bytes_max: u32) -> Result<DirPage> { todo!() }
    /// READDIRPLUS.
    pub async fn readdirplus(&self, cred: &Cred, dir: &FileHandle, cookie: u64, verifier: [u8; 8], bytes_max: u32) -> Result<DirPage> { todo!() }
    /// FSSTAT.
    pub async fn fsstat(&self, cred: &Cred, root: &FileHandle) -> Result<FsStat> { todo!() }
    /// FSINFO.
    pub async fn fsinfo(&self, cred: &Cred, root: &FileHandle) -> Result<FsInfo> { todo!() }
    /// PATHCONF.
    pub async fn pathconf(&self, cred: &Cred, object: &FileHandle) -> Result<PathConf> { todo!() }
}
