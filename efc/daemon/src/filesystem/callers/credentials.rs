//! Who asks: the caller's user, group and supplementary groups.
//!
//! A FUSE request carries uid, gid and thread id, but no supplementary groups; they are in `/proc/TID/status`, which
//! takes a process in our pid namespace. Reading it for every request would cost more than the request, so the
//! groups are kept per (thread, uid, gid) beside an open `/proc/TID/comm`: reading that file tells at the price of one
//! system call whether the same thread still lives, since procfs binds an open file to the thread and not to its
//! number. A thread that calls `setgroups(2)` and keeps uid and gid is seen within [`GROUPS_TTL`].
//!
//! Each caller that is remembered costs a descriptor. They are given up before others are short of them; where there is
//! none even so, the request fails: without its groups it would be refused what its caller may do.
//!
//! Where mounts may be id-mapped a request carries neither uid nor gid: [`super::mapped_callers`]. With the option `small-files` all of this is
//! left out: one credential stands for whoever asks.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use efc_backend::Cred;
use efc_fuse::Errno;
use foldhash::HashMap;

use super::Unknown;
use super::id_maps::IdMaps;
use super::mapped_callers::MappedCallers;
use crate::descriptors;

/// How long a living thread's groups are believed.
const GROUPS_TTL: Duration = Duration::from_millis(500);
/// Most callers remembered, if there are descriptors enough.
const CALLERS_MAX: usize = 1024;

#[derive(PartialEq, Eq, Hash, Clone, Copy)]
struct Thread {
    tid: u32,
    uid: u32,
    gid: u32,
}

struct KnownCaller {
    comm: File,
    groups: Arc<[u32]>,
    read_at: Instant,
}

/// The callers seen lately.
pub struct Credentials {
    callers: Mutex<HashMap<Thread, KnownCaller>>,
    callers_max: usize,
    mapped: Option<MappedCallers>,
    /// Of all callers alike.
    fixed: Option<Cred>,
}

impl Credentials {
    /// With `id_maps`, of callers behind mounts that may be id-mapped.
    pub fn new(id_maps: Option<IdMaps>) -> Credentials {
        // At most half of all descriptors: connections, pipes and the kernel's device need some too.
        let callers_max = CALLERS_MAX.min(descriptors::limit() / 2);
        let mapped = id_maps.map(|id_maps| MappedCallers::new(id_maps, callers_max));
        Credentials { callers: Mutex::default(), callers_max, mapped, fixed: None }
    }

    /// Whoever asks, it is in this name.
    pub fn fixed(cred: Cred) -> Credentials {
        Credentials { fixed: Some(cred), ..Credentials::new(None) }
    }

    /// The credential of a request. A caller that cannot be looked up (a kernel thread, another pid namespace, dead
    /// by now) has no supplementary groups. EIO if this process has no descriptor left to look.
    pub fn of(&self, tid: u32, uid: u32, gid: u32) -> Result<Cred, Errno> {
        if let Some(cred) = &self.fixed {
            return Ok(cred.clone());
        }
        if let Some(mapped) = &self.mapped {
            return mapped.of(tid, uid, gid);
        }
        let groups = if tid == 0 { Arc::from([]) } else { self.groups(Thread { tid, uid, gid })? };
        Ok(Cred { uid, gid, groups })
    }

    fn groups(&self, caller: Thread) -> Result<Arc<[u32]>, Errno> {
        let mut callers = self.callers.lock().expect("callers lock");
        if let Some(known) = callers.get(&caller)
            && known.read_at.elapsed() < GROUPS_TTL
            && known.comm.read_at(&mut [0; 1], 0).is_ok()
        {
            return Ok(known.groups.clone());
        }
        callers.remove(&caller);
        if callers.len() >= self.callers_max {
            make_room(&mut callers, self.callers_max);
        }
        let looked_up = look_up(caller.tid).or_else(|unknown| match unknown {
            Unknown::Caller => Err(unknown),
            Unknown::NoDescriptor(_) => {
                callers.clear();
                look_up(caller.tid)
            }
        });
        let known = match looked_up {
            Ok(known) => known,
            Err(Unknown::Caller) => return Ok(Arc::from([])),
            Err(Unknown::NoDescriptor(error)) => {
                log::error!("cannot find the groups of thread {} out ({error}): its request fails", caller.tid);
                return Err(Errno(libc::EIO));
            }
        };
        let groups = known.groups.clone();
        callers.insert(caller, known);
        Ok(groups)
    }
}

/// Forgets callers, so that there are fewer than `callers_max`: those whose groups have to be read again in any case, or all.
fn make_room(callers: &mut HashMap<Thread, KnownCaller>, callers_max: usize) {
    callers.retain(|_, known| known.read_at.elapsed() < GROUPS_TTL);
    if callers.len() >= callers_max {
        callers.clear();
    }
}

fn look_up(tid: u32) -> Result<KnownCaller, Unknown> {
    // Opened first: if the thread ends in between, a later read of `comm` tells, and the groups are read again.
    let comm = File::open(format!("/proc/{tid}/comm"))?;
    let status = fs::read_to_string(format!("/proc/{tid}/status"))?;
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).ok_or(Unknown::Caller)?;
    // More the server is not told; there may be 65,536 of them, which would be kept with each open and each verdict.
    let groups = groups.split_ascii_whitespace().take(Cred::GROUPS_MAX);
    let groups = groups.filter_map(|group| group.parse().ok()).collect();
    Ok(KnownCaller { comm, groups, read_at: Instant::now() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_groups_and_unknown_callers() {
        let credentials = Credentials::new(None);
        let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let mut expected: Vec<u32> = rustix::process::getgroups().expect("groups").iter().map(|g| g.as_raw()).collect();
        expected.truncate(Cred::GROUPS_MAX);
        for _ in 0..2 {
            let mut groups = credentials.of(tid, 0, 0).expect("a living thread").groups.to_vec();
            groups.sort_unstable();
            assert_eq!(groups, expected);
        }
        for unknown in [0, u32::MAX >> 1] {
            assert!(credentials.of(unknown, 1, 2).expect("nobody's").groups.is_empty());
        }
    }

    #[test]
    fn those_whose_groups_are_old_make_room_for_others() {
        let own = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let known = |age| KnownCaller {
            read_at: Instant::now().checked_sub(age).expect("up for so long"),
            ..look_up(own).ok().expect("alive")
        };
        let mut callers = HashMap::default();
        for tid in 0..10 {
            let age = if tid < 4 { GROUPS_TTL } else { Duration::ZERO };
            callers.insert(Thread { tid, uid: 0, gid: 0 }, known(age));
        }
        make_room(&mut callers, 10);
        assert!(callers.len() == 6 && callers.keys().all(|thread| thread.tid >= 4));
        make_room(&mut callers, 6);
        assert!(callers.is_empty(), "all are young: there is no room otherwise");
    }

    #[test]
    fn one_credential_may_stand_for_all() {
        let cred = Cred { uid: 7, gid: 8, groups: Arc::from([]) };
        let credentials = Credentials::fixed(cred.clone());
        assert!(
            [0, 1, u32::MAX].map(|uid| credentials.of(uid, uid, uid)).iter().all(|found| *found == Ok(cred.clone()))
        );
    }

    #[test]
    fn a_dead_thread_is_noticed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let known = look_up(child.id()).ok().expect("a living process");
        child.kill().and_then(|()| child.wait()).expect("sleep ends");
        assert!(known.comm.read_at(&mut [0; 1], 0).is_err());
    }
}
