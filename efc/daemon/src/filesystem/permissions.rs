//! What the kernel's own permission check lets through.
//!
//! With `default_permissions` the kernel checks mode bits, which stop everybody but root: a local root walks through
//! any directory whose names the kernel knows. A server that squashes root would not have let it in. So when root
//! opens something, the directories on its path are searched by the server's rules, with an ACCESS verdict for each that is
//! remembered for as long as names are. Other users need no such question: their mode bits are checked.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use efc_fuse::Errno;
use efc_nfs::{Status, access};

use super::{Caller, Inner, ROOT};
use crate::errno::errno;

/// Directories remembered; beyond that the memory starts anew.
const DIRECTORIES_MAX: usize = 4096;
/// Longest path, in directories: a loop would be a bug, not a path.
const DEPTH_MAX: usize = 2048;

/// Directories that the server lets root search, and since when we know.
pub struct RootSearches {
    ttl: Duration,
    allowed: Mutex<HashMap<u64, Instant>>,
}

impl RootSearches {
    /// Verdicts hold for `ttl`.
    pub fn new(ttl: Duration) -> RootSearches {
        RootSearches { ttl, allowed: Mutex::default() }
    }

    fn is_known(&self, directory: u64) -> bool {
        let allowed = self.allowed.lock().expect("searches lock");
        allowed.get(&directory).is_some_and(|since| since.elapsed() < self.ttl)
    }

    fn remember(&self, directory: u64) {
        let mut allowed = self.allowed.lock().expect("searches lock");
        if allowed.len() >= DIRECTORIES_MAX {
            allowed.clear();
        }
        allowed.insert(directory, Instant::now());
    }
}

impl Inner {
    /// May the caller reach `node`, as the server sees it?
    pub(super) async fn check_path(&self, caller: &Caller, node: u64) -> Result<(), Errno> {
        if caller.cred.uid != 0 {
            return Ok(());
        }
        let mut directory = self.state.parent(node);
        for _ in 0..DEPTH_MAX {
            let Some(searched) = directory else { return Ok(()) };
            if !self.root_searches.is_known(searched) {
                self.ask_to_search(caller, searched).await?;
            }
            directory = if searched == ROOT { None } else { self.state.parent(searched) };
        }
        Err(Errno(libc::ELOOP))
    }

    async fn ask_to_search(&self, caller: &Caller, directory: u64) -> Result<(), Errno> {
        let Ok(handle) = self.handle_of(directory) else { return Ok(()) }; // forgotten: not what it was reached by
        let sent = self.attrs.stamp();
        let asked = self.client.access(&caller.cred, &handle, access::LOOKUP).await;
        let (granted, attr) = match asked {
            Ok(answer) => answer,
            Err(error) if error.is(Status::Stale) => return Ok(()), // gone: the file has moved since
            Err(error) => return Err(errno(&error)),
        };
        if let Some(attr) = &attr {
            self.attrs.learn(directory, attr, sent);
        }
        if granted & access::LOOKUP == 0 {
            return Err(Errno(libc::EACCES));
        }
        self.root_searches.remember(directory);
        Ok(())
    }
}
