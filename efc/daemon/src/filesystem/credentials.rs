//! Who asks: the caller's user, group and supplementary groups.
//!
//! A FUSE request carries uid, gid and thread id, but no supplementary groups; they are in `/proc/TID/status`, which
//! takes a process in our pid namespace. Reading it for every request would cost more than the request, so the
//! groups are kept per (thread, uid, gid) beside an open `/proc/TID/comm`: reading that file tells at the price of one
//! system call whether the same thread still lives, since procfs binds an open file to the thread and not to its
//! number. A thread that calls `setgroups(2)` and keeps uid and gid is seen within [`GROUPS_TTL`].
//!
//! Where mounts may be id-mapped a request carries neither uid nor gid: [`super::mapped_callers`].

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use efc_nfs::Cred;

use super::mapped_callers::MappedCallers;
use crate::id_maps::IdMaps;

/// How long a living thread's groups are believed.
const GROUPS_TTL: Duration = Duration::from_millis(500);
/// Most callers remembered; each holds a descriptor.
const CALLERS_MAX: usize = 256;

#[derive(PartialEq, Eq, Hash, Clone, Copy)]
struct Caller {
    tid: u32,
    uid: u32,
    gid: u32,
}

struct Known {
    comm: File,
    groups: Arc<[u32]>,
    read_at: Instant,
}

/// The callers seen lately.
#[derive(Default)]
pub struct Credentials {
    callers: Mutex<HashMap<Caller, Known>>,
    mapped: Option<MappedCallers>,
}

impl Credentials {
    /// With `id_maps`, of callers behind mounts that may be id-mapped.
    pub fn new(id_maps: Option<IdMaps>) -> Credentials {
        Credentials { callers: Mutex::default(), mapped: id_maps.map(MappedCallers::new) }
    }

    /// The credential of a request. A caller that cannot be looked up (a kernel thread, another pid namespace, dead
    /// by now) has no supplementary groups.
    pub fn of(&self, tid: u32, uid: u32, gid: u32) -> Cred {
        if let Some(mapped) = &self.mapped {
            return mapped.of(tid, uid, gid);
        }
        let groups = if tid == 0 { Arc::from([]) } else { self.groups(Caller { tid, uid, gid }) };
        Cred { uid, gid, groups }
    }

    fn groups(&self, caller: Caller) -> Arc<[u32]> {
        let mut callers = self.callers.lock().expect("callers lock");
        if let Some(known) = callers.get(&caller)
            && known.read_at.elapsed() < GROUPS_TTL
            && known.comm.read_at(&mut [0; 1], 0).is_ok()
        {
            return known.groups.clone();
        }
        let Some(known) = look_up(caller.tid) else {
            callers.remove(&caller);
            return Arc::from([]);
        };
        if callers.len() >= CALLERS_MAX {
            callers.clear();
        }
        let groups = known.groups.clone();
        callers.insert(caller, known);
        groups
    }
}

fn look_up(tid: u32) -> Option<Known> {
    // Opened first: if the thread ends in between, a later read of `comm` tells, and the groups are read again.
    let comm = File::open(format!("/proc/{tid}/comm")).ok()?;
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"))?;
    let groups = groups.split_ascii_whitespace().filter_map(|group| group.parse().ok()).collect();
    Some(Known { comm, groups, read_at: Instant::now() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_groups_and_unknown_callers() {
        let credentials = Credentials::default();
        let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let expected: Vec<u32> = rustix::process::getgroups().expect("groups").iter().map(|g| g.as_raw()).collect();
        for _ in 0..2 {
            let mut groups = credentials.of(tid, 0, 0).groups.to_vec();
            groups.sort_unstable();
            assert_eq!(groups, expected);
        }
        assert!(credentials.of(0, 1, 2).groups.is_empty());
        assert!(credentials.of(u32::MAX >> 1, 1, 2).groups.is_empty());
    }

    #[test]
    fn a_dead_thread_is_noticed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let known = look_up(child.id()).expect("a living process");
        child.kill().and_then(|()| child.wait()).expect("sleep ends");
        assert!(known.comm.read_at(&mut [0; 1], 0).is_err());
    }
}
