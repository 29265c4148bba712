//! One FUSE session: negotiation, the threads that read `/dev/fuse`, notifications.
#![allow(missing_docs, unused_variables)]
use std::{io, os::fd::OwnedFd, sync::Arc};
use crate::{Filesystem, state::State};

/// Features of the running kernel, masked for tests ("fuse-features").
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {}

#[derive(Clone, Copy, Debug)]
pub struct SessionConfig { pub threads: usize, pub read_only: bool, pub max_background: u16 }

#[derive(Clone)]
pub struct Session {}

impl Session {
    /// A session on `device`. With an initialised `state` it is resumed, without INIT.
    pub fn new(device: OwnedFd, state: Arc<State>, config: SessionConfig) -> Session { todo!() }
    /// New session: answers INIT (blocks until mount(2) is done and the kernel sends it). Resumed: asks the kernel for RESEND.
    pub fn start(&self) -> io::Result<()> { todo!() }
    /// Serves until the session is unmounted or aborted, on `config.threads` threads; returns when all have ended.
    pub fn run(&self, filesystem: Arc<dyn Filesystem>) -> io::Result<()> { todo!() }
    pub fn notifier(&self) -> Notifier { todo!() }
    /// Requests taken from the kernel so far.
    pub fn requests(&self) -> u64 { todo!() }
}

/// Writes notifications, on a thread of its own: a caller never blocks on the kernel's locks.
#[derive(Clone)]
pub struct Notifier {}
impl Notifier {
    /// FUSE_NOTIFY_INVAL_INODE; `offset < 0`: attributes only; `length <= 0`: to the end.
    pub fn inval_inode(&self, node: u64, offset: i64, length: i64) { todo!() }
    /// FUSE_NOTIFY_INVAL_ENTRY.
    pub fn inval_entry(&self, parent: u64, name: &[u8]) { todo!() }
}
