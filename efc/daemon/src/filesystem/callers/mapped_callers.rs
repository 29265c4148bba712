//! Who asks, where mounts may be id-mapped and the kernel does not say (see [`super::id_maps`]).
//!
//! A thread's user, group and groups are read from `/proc/TID/status` for each request, as they may change at any time and
//! nothing tells; docs/BENCHMARKS.md has what that costs, and it is why this is an option. The map of its mounts is asked for
//! when the thread is first seen, when its ids have changed, and every [`MAP_TTL`]: a container's first process is the
//! runtime's own until it becomes the container's user. The question takes the time of two process switches.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use efc_backend::Cred;
use efc_fuse::{Errno, UNTOLD};
use foldhash::HashMap;

use super::Unknown;
use super::id_map::IdMap;
use super::id_maps::IdMaps;

/// How long a living thread's mounts are believed.
const MAP_TTL: Duration = Duration::from_millis(500);
/// Of `/proc/TID/status`: as much as holds ids and the first groups; AUTH_SYS carries 16.
const STATUS_MAX: usize = 2048;
/// Who has no id on the file system.
const NOBODY: u32 = 65_534;

/// A thread's ids, as the kernel knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ids {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

struct Thread {
    status: File,
    asked: Mutex<Option<Asked>>,
}

/// With which ids a thread's map was asked for, when, and the answer.
struct Asked {
    ids: Ids,
    at: Instant,
    map: Option<Arc<IdMap>>,
}

/// The threads seen lately.
pub struct MappedCallers {
    id_maps: IdMaps,
    threads: Mutex<HashMap<u32, Arc<Thread>>>,
    /// Most threads remembered; each holds a descriptor.
    threads_max: usize,
}

impl MappedCallers {
    /// Maps come from `id_maps`; at most `threads_max` descriptors are held.
    pub fn new(id_maps: IdMaps, threads_max: usize) -> MappedCallers {
        MappedCallers { id_maps, threads: Mutex::default(), threads_max }
    }

    /// The credential of a request of a thread, of which the kernel told `uid` and `gid`, or [`UNTOLD`]. EIO if it cannot be
    /// found out.
    pub fn of(&self, tid: u32, uid: u32, gid: u32) -> Result<Cred, Errno> {
        let found = match self.ids(tid) {
            Ok((thread, ids)) => Some(mapped(&ids, self.map(tid, &thread, &ids)?.as_deref())),
            Err(Unknown::Caller) => None,
            Err(Unknown::NoDescriptor(error)) => {
                log::error!("cannot find out who thread {tid} is ({error}): its request fails");
                return Err(Errno(libc::EIO));
            }
        };
        Ok(told(found, uid, gid))
    }

    fn ids(&self, tid: u32) -> Result<(Arc<Thread>, Ids), Unknown> {
        let known = self.threads.lock().expect("threads lock").get(&tid).cloned();
        // procfs binds an open file to the thread, not to its number: reading one of a thread that has ended fails.
        if let Some(thread) = known
            && let Some(ids) = read_ids(&thread.status)
        {
            return Ok((thread, ids));
        }
        let path = format!("/proc/{tid}/status");
        let status = File::open(&path).or_else(|_| {
            self.threads.lock().expect("threads lock").clear(); // it may be their descriptors that are missing
            File::open(&path)
        })?;
        let ids = read_ids(&status).ok_or(Unknown::Caller)?;
        let thread = Arc::new(Thread { status, asked: Mutex::default() });
        let mut threads = self.threads.lock().expect("threads lock");
        if threads.len() >= self.threads_max {
            threads.clear();
        }
        threads.insert(tid, thread.clone());
        Ok((thread, ids))
    }

    fn map(&self, tid: u32, thread: &Thread, ids: &Ids) -> Result<Option<Arc<IdMap>>, Errno> {
        let mut asked = thread.asked.lock().expect("map lock");
        match &*asked {
            Some(asked) if asked.ids == *ids && asked.at.elapsed() < MAP_TTL => Ok(asked.map.clone()),
            _ => {
                let map = self.id_maps.of(tid).map_err(|_| Errno(libc::EIO))?.map(Arc::new);
                *asked = Some(Asked { ids: ids.clone(), at: Instant::now(), map: map.clone() });
                Ok(map)
            }
        }
    }
}

/// A thread's credential on the file system.
fn mapped(ids: &Ids, map: Option<&IdMap>) -> Cred {
    let Some(map) = map else { return Cred { uid: ids.uid, gid: ids.gid, groups: ids.groups.as_slice().into() } };
    let groups = ids.groups.iter().filter_map(|group| map.gid(*group)).collect();
    Cred { uid: map.uid(ids.uid).unwrap_or(NOBODY), gid: map.gid(ids.gid).unwrap_or(NOBODY), groups }
}

/// What the kernel told holds. Groups that were found for other ids belong to another mount than the one that is used.
fn told(found: Option<Cred>, uid: u32, gid: u32) -> Cred {
    let or_nobody = |id| if id == UNTOLD { NOBODY } else { id };
    match found {
        Some(cred) if (uid, gid) == (UNTOLD, UNTOLD) || (uid, gid) == (cred.uid, cred.gid) => cred,
        _ => Cred { uid: or_nobody(uid), gid: or_nobody(gid), groups: Arc::from([]) },
    }
}

fn read_ids(status: &File) -> Option<Ids> {
    let mut buffer = [0; STATUS_MAX];
    let length = status.read_at(&mut buffer, 0).ok()?;
    // A name may hold any bytes; the numbers are ASCII.
    parse_ids(&String::from_utf8_lossy(&buffer[..length]))
}

/// The ids that file system accesses are made with: the fourth of `Uid:` and `Gid:` (proc_pid_status(5)).
fn parse_ids(status: &str) -> Option<Ids> {
    // The last line may have been cut off in the middle of a number.
    let whole = &status[..status.rfind([' ', '\n'])?];
    let line = |name: &str| whole.lines().find_map(|line| line.strip_prefix(name));
    let fourth = |name: &str| line(name)?.split_ascii_whitespace().nth(3)?.parse().ok();
    let groups = line("Groups:")?.split_ascii_whitespace().take(Cred::GROUPS_MAX);
    Some(Ids {
        uid: fourth("Uid:")?,
        gid: fourth("Gid:")?,
        groups: groups.filter_map(|group| group.parse().ok()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::id_map::Extent;
    use super::*;

    fn ids() -> Ids {
        Ids { uid: 100_000, gid: 101_000, groups: vec![101_000, 5, 100_007] }
    }

    fn pod() -> IdMap {
        let extents = vec![Extent { inside: 0, kernel: 100_000, count: 65_536 }];
        IdMap { uids: extents.clone(), gids: extents }
    }

    #[test]
    fn ids_are_mapped_by_the_mount_or_not_at_all() {
        assert_eq!(mapped(&ids(), Some(&pod())), Cred { uid: 0, gid: 1000, groups: Arc::from([1000, 7]) });
        assert_eq!(mapped(&ids(), None), Cred { uid: 100_000, gid: 101_000, groups: Arc::from([101_000, 5, 100_007]) });
        let stranger = Ids { uid: 1000, gid: 0, groups: vec![0] };
        assert_eq!(mapped(&stranger, Some(&pod())), Cred { uid: NOBODY, gid: NOBODY, groups: Arc::from([]) });
    }

    #[test]
    fn what_the_kernel_tells_holds() {
        let found = || Some(mapped(&ids(), Some(&pod())));
        assert_eq!(told(found(), UNTOLD, UNTOLD), found().unwrap());
        assert_eq!(told(found(), 0, 1000), found().unwrap());
        assert_eq!(told(found(), 5, 1000), Cred { uid: 5, gid: 1000, groups: Arc::from([]) });
        assert_eq!(told(None, 5, 6), Cred { uid: 5, gid: 6, groups: Arc::from([]) });
        assert_eq!(told(None, UNTOLD, UNTOLD), Cred { uid: NOBODY, gid: NOBODY, groups: Arc::from([]) });
    }

    #[test]
    fn status_of_a_thread() {
        let status = "Name:\tx Uid: \nUmask:\t0022\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t10 11 \nNStgid:\t1\n";
        assert_eq!(parse_ids(status), Some(Ids { uid: 4, gid: 8, groups: vec![10, 11] }));
        let cut = &status[..status.find("11").unwrap() + 1];
        assert_eq!(parse_ids(cut).unwrap().groups, [10], "half a number is none");
        assert_eq!(parse_ids("Name:\tx\n"), None);
        assert_eq!(parse_ids(""), None);
        let many = format!("Uid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\nGroups:\t{}\n", "7 ".repeat(100));
        assert_eq!(parse_ids(&many).unwrap().groups.len(), Cred::GROUPS_MAX);
    }

    #[test]
    fn a_living_and_a_dead_thread() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let status = File::open(format!("/proc/{}/status", child.id())).expect("a living process");
        assert_eq!(read_ids(&status).expect("ids").uid, rustix::process::geteuid().as_raw());
        child.kill().and_then(|()| child.wait()).expect("sleep ends");
        assert_eq!(read_ids(&status), None);
    }
}
