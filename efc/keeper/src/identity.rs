//! A user and group of its own for each mount's daemons, so that those of two tenants can neither signal, trace nor
//! read each other.
//!
//! The ids come from a range that the administrator reserves for this keeper. They are assigned in sequence from a
//! random start in the range, so that an id is not reused soon. Daemons that outlive their keeper keep theirs: a new
//! keeper looks once, when it starts, which ids of the range processes run under, and does not assign these until those
//! processes have ended. Only the range identifies such processes, so it must not overlap with that of another keeper
//! on the node.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use efc_proto::Error;
use efc_proto::error::Code;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::failure::failure;
use crate::waiting::wait_readable;

/// Highest id that setresuid(2) takes: the one above means "no change".
const ID_MAX: u32 = u32::MAX - 1;

/// The ids of this keeper's daemons.
#[derive(Debug)]
pub struct Identities {
    first: u32,
    last: u32,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    next: u32,
    taken: BTreeSet<u32>,
    /// Processes of an earlier keeper, by pidfd.
    survivors: Vec<(u32, OwnedFd)>,
}

/// One mount's id, given back on drop.
#[derive(Debug)]
pub struct Identity<'a> {
    identities: &'a Identities,
    id: u32,
}

impl Identities {
    /// Parses `FIRST-LAST`; `None` if that is no range of ids above 0.
    pub fn parse_range(text: &str) -> Option<(u32, u32)> {
        let (first, last) = text.split_once('-')?;
        let range = (first.parse().ok()?, last.parse().ok()?);
        (1 <= range.0 && range.0 <= range.1 && range.1 <= ID_MAX).then_some(range)
    }

    /// Ids from `first` to `last`, both included.
    ///
    /// # Errors
    /// Those of reading `/proc`, and of getrandom(2).
    pub fn new(first: u32, last: u32) -> io::Result<Identities> {
        let mut random = [0; 4];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let next = first + (u64::from(u32::from_ne_bytes(random)) % (u64::from(last - first) + 1)) as u32;
        let table = Table { next, taken: BTreeSet::new(), survivors: survivors(first, last)? };
        log::info!("daemons get users {first} to {last}, {} of them in use", table.survivors.len());
        Ok(Identities { first, last, table: Mutex::new(table) })
    }

    /// An id that nobody else has.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED.
    pub fn take(&self) -> Result<Identity<'_>, Error> {
        let mut table = self.lock();
        table.survivors.retain(|(_, process)| !wait_readable(process, Duration::ZERO));
        let start = table.next;
        loop {
            let id = table.next;
            table.next = if id == self.last { self.first } else { id + 1 };
            if !table.survivors.iter().any(|(taken, _)| *taken == id) && table.taken.insert(id) {
                return Ok(Identity { identities: self, id });
            }
            if table.next == start {
                let message = format!("all user ids for daemons are in use, {} to {}", self.first, self.last);
                return Err(failure(Code::ResourceExhausted, message));
            }
        }
    }

    /// The id that an earlier keeper gave to a mount, if it is of the range and no mount of ours has it: whoever runs under it
    /// is that mount's daemon.
    pub fn take_again(&self, id: u32) -> Option<Identity<'_>> {
        let is_ours = self.contains(id) && self.lock().taken.insert(id);
        // Not made to be dropped at once, which would give back what another mount has.
        is_ours.then(|| Identity { identities: self, id })
    }

    /// Whether it is a user of daemons, of whichever mount.
    pub fn contains(&self, id: u32) -> bool {
        (self.first..=self.last).contains(&id)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Identity<'_> {
    /// User and group id.
    pub fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Identity<'_> {
    fn drop(&mut self) {
        self.identities.lock().taken.remove(&self.id);
    }
}

/// The processes that run under an id of the range.
///
/// Only `status` is read, which waits for no lock of the process's memory: nothing here hangs with a process that does.
fn survivors(first: u32, last: u32) -> io::Result<Vec<(u32, OwnedFd)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else { continue };
        // First the descriptor, so that the process that it names is the one whose status is read. A process that has
        // ended meanwhile is none of these.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())) else { continue };
        if let Some(id) = user_of(&status).filter(|id| (first..=last).contains(id)) {
            found.push((id, process));
        }
    }
    Ok(found)
}

/// The effective user id in `/proc/PID/status`.
fn user_of(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(Identities::parse_range("2147400000-2147483646"), Some((2_147_400_000, 2_147_483_646)));
        assert_eq!(Identities::parse_range("7-7"), Some((7, 7)));
        for bad in ["", "7", "-7", "0-7", "8-7", "1-4294967295", "1-2-3", "a-b", "1 -2"] {
            assert_eq!(Identities::parse_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_are_given_once_and_again_when_they_are_free() {
        let identities = Identities::new(4_000_000_000, 4_000_000_002).unwrap();
        let mut held: Vec<Identity<'_>> = (0..3).map(|_| identities.take().unwrap()).collect();
        let mut ids: Vec<u32> = held.iter().map(Identity::id).collect();
        ids.sort_unstable();
        assert_eq!(ids, [4_000_000_000, 4_000_000_001, 4_000_000_002]);
        assert_eq!(identities.take().unwrap_err().code(), Code::ResourceExhausted);
        let freed = held.remove(1).id();
        assert_eq!(identities.take().unwrap().id(), freed);
        let again = identities.take_again(freed).expect("it is free");
        assert!(identities.take_again(again.id()).is_none() && identities.take_again(7).is_none());
    }

    #[test]
    fn an_id_of_an_earlier_keeper_is_given_to_one_mount_only() {
        let identities = Identities::new(4_000_000_010, 4_000_000_011).unwrap();
        let former = identities.take_again(4_000_000_010).unwrap();
        assert!(identities.take_again(4_000_000_010).is_none());
        assert!(identities.take_again(4_000_000_012).is_none());
        assert_eq!(identities.take().unwrap().id(), 4_000_000_011);
        drop(former);
        assert!(identities.take_again(4_000_000_010).is_some());
    }

    #[test]
    fn ids_of_living_processes_are_left_alone() {
        let own = rustix::process::geteuid().as_raw();
        assert!(!survivors(own, own).unwrap().is_empty());
        assert_eq!(user_of("Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t5\t5\t5\n"), Some(2));
    }
}
