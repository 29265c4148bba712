//! Deaths that the next daemon would repeat: because of a damaged state, or of the memory limit.
//!
//! A daemon that cannot use the saved state says so by its exit status. Another daemon could not either, so after a
//! second one has confirmed it the session is given up: its connection is aborted, so that applications get errors
//! instead of waiting for ever, and whoever made the mount makes it again (for published volumes, the node plugin).
//!
//! The kernel counts the out-of-memory kills in a cgroup. A daemon killed that way is replaced like any other, but for
//! a longer time it counts as one that died young, so that kill does not follow kill.

use std::time::{Duration, SystemTime};

use efc_proto::Error;

use super::SessionRun;
use crate::cgroups::Cgroup;
use crate::daemon::Ending;
use crate::kernel;

/// Daemons in a row that could do nothing with the saved state, until it is believed.
const REFUSALS_MAX: u32 = 2;
/// A daemon that lacks memory within this time of being ready has died young.
pub(super) const YOUNG_OF_MEMORY: Duration = Duration::from_secs(60);

/// How the daemons of a session died.
#[derive(Debug)]
pub(super) struct Deaths {
    /// Daemons in a row that could do nothing with the saved state.
    refusals: u32,
    /// What the last daemon said before it died.
    failure: Option<String>,
    /// Daemons that the kernel killed for want of memory, as it counts them.
    memory_kills: u64,
    /// The last daemon was killed for want of memory.
    of_memory: bool,
}

impl Deaths {
    /// No deaths yet, of daemons in this cgroup.
    pub fn new(cgroup: Option<&Cgroup<'_>>) -> Deaths {
        let memory_kills = cgroup.map_or(0, Cgroup::memory_kills);
        Deaths { refusals: 0, failure: None, memory_kills, of_memory: false }
    }

    /// Notes why a daemon says that it ends.
    pub fn failed(&mut self, error: &Error) {
        self.failure = Some(error.message.clone());
    }

    /// Forgets refusals: a daemon serves.
    pub fn forget_refusals(&mut self) {
        (self.refusals, self.failure) = (0, None);
    }

    /// Counts a death; whether the daemon was killed for want of memory.
    pub fn count(&mut self, ending: Ending, cgroup: Option<&Cgroup<'_>>) -> bool {
        self.refusals = if ending.is_of_unusable_state() { self.refusals + 1 } else { 0 };
        let memory_kills = cgroup.map_or(0, Cgroup::memory_kills);
        self.of_memory = memory_kills > self.memory_kills;
        self.memory_kills = memory_kills;
        self.of_memory
    }
}

/// The reason of a death with its time, in UTC: it is shown until the mount ends, which may be months.
pub(super) fn dated(reason: &str, time: SystemTime) -> String {
    // A clock beyond the year 9999 has no time that can be written.
    jiff::Timestamp::try_from(time).map_or_else(|_| reason.to_owned(), |time| format!("{reason} at {time:.0}"))
}

impl SessionRun<'_> {
    /// A sentence on how the daemon ended.
    pub(super) fn reason_of(&self, ending: Ending) -> String {
        let limit = self.isolation.cgroup().and_then(Cgroup::memory_max_bytes);
        match (self.deaths.of_memory, limit) {
            (true, Some(bytes)) => format!("the daemon was killed by its memory limit of {} MiB", bytes >> 20),
            (true, None) => "the daemon was killed because the node has no memory left".to_owned(),
            (false, _) => format!("the daemon {ending}"),
        }
    }

    /// Ends a session whose saved state is of no use to anybody; why, if it is one.
    pub(super) fn given_up(&mut self) -> Option<String> {
        if self.deaths.refusals < REFUSALS_MAX {
            return None;
        }
        let (target, connection) = (self.entry.target().display(), self.entry.status().connection);
        let failure = self.deaths.failure.take().unwrap_or_else(|| "it says no more".to_owned());
        log::error!("{target}: no daemon can go on with the saved state ({failure}): the session is given up");
        if let Err(error) = kernel::abort(connection) {
            log::error!("{target}: cannot abort connection {connection}: {error}");
            return None;
        }
        Some(format!(
            "no daemon could go on with the saved state ({failure}), so the session was given up; unmount and mount again"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_has_its_time() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_796_008_327_999);
        assert_eq!(
            dated("the daemon was killed by signal 9", time),
            "the daemon was killed by signal 9 at 2026-11-30T03:12:07Z"
        );
        let beyond = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 50);
        assert_eq!(dated("it died", beyond), "it died");
    }
}
