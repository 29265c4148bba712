//! Isolates one mount's daemons from the keeper, from the node's pods and from other mounts' daemons: a cgroup, a user
//! and a network of their own, each if configured. Successors get the same.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use efc_proto::error::Code;
use efc_proto::{DaemonConfig, Error, MountStatus};

use crate::cgroups::{Cgroup, Cgroups};
use crate::entry::MountEntry;
use crate::failure::failure;
use crate::identity::Identity;
use crate::network::Network;
use crate::programs::Programs;

/// The cgroup, user and network of one mount's daemons.
#[derive(Debug)]
pub struct Isolation<'a> {
    cgroup: Option<Cgroup<'a>>,
    identity: Option<Identity<'a>>,
    network: Option<Network<'a>>,
}

/// Of a memory limit, what the saved state may take when the limit comes into force under it: as much as a daemon of that limit
/// would let it have of inodes and of data (`efc/daemon/src/memory.rs`), in 32nds. More would be there for each daemon, to be killed for.
const SAVED_STATE_PART: u64 = 18;

/// What the mount wants its daemons to keep to.
fn memory_max_bytes(options: &DaemonConfig) -> Option<u64> {
    (options.memory_max_mib > 0).then(|| u64::from(options.memory_max_mib) << 20)
}

fn cannot_be_limited() -> Error {
    let message = "memory-max needs a keeper with --daemon-cgroup, and cgroups on the node that limit memory";
    failure(Code::FailedPrecondition, message)
}

impl<'a> Isolation<'a> {
    /// What the keeper's command line and the mount's configuration ask for.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED without a free user; FAILED_PRECONDITION for a network that is not there, and for a memory limit that
    /// cannot be kept.
    pub fn new(programs: &'a Programs, entry: &MountEntry) -> Result<Isolation<'a>, Error> {
        let network = entry.config().network.as_str();
        let network = (!network.is_empty()).then(|| programs.networks.find(network)).transpose()?;
        let memory_max = memory_max_bytes(&entry.options());
        if memory_max.is_some() && !programs.cgroups.as_ref().is_some_and(Cgroups::limits_memory) {
            return Err(cannot_be_limited());
        }
        let cgroup = programs.cgroups.as_ref().map(|cgroups| cgroups.cgroup(entry.target(), memory_max)).transpose();
        let cgroup = cgroup.map_err(|error| failure(Code::Internal, format!("cannot name a cgroup: {error}")))?;
        let identity = programs.identities.as_ref().map(|identities| identities.take()).transpose()?;
        Ok(Isolation { cgroup, identity, network })
    }

    /// What an earlier keeper gave to the mount, as far as this one's command line wants it, too. What cannot be had again is
    /// logged and done without: the mount must go on.
    pub fn former(programs: &'a Programs, entry: &MountEntry) -> Isolation<'a> {
        let status = entry.status();
        let target = entry.target().display();
        let missing = |what: &str, why: &dyn std::fmt::Display| log::error!("{target}: successors have {what}: {why}");
        let network = entry.config().network.as_str();
        let network = (!network.is_empty()).then(|| programs.networks.former(network, status.pid));
        let network = network.and_then(|found| found.inspect_err(|e| missing("the keeper's network", &e.message)).ok());
        let cgroup = programs.cgroups.as_ref().and_then(|cgroups| {
            let memory_max = memory_max_bytes(&entry.options());
            let former = cgroups.former(&status.cgroup, memory_max);
            let former = former.map_or_else(|| cgroups.cgroup(entry.target(), memory_max), Ok);
            former.inspect_err(|error| missing("the keeper's cgroup", error)).ok()
        });
        let identity = programs.identities.as_ref().and_then(|identities| {
            let former = identities.take_again(status.uid).map_or_else(|| identities.take(), Ok);
            former.inspect_err(|error| missing("no user of their own", &error.message)).ok()
        });
        Isolation { cgroup, identity, network }
    }

    /// Whether the next daemon can keep to the memory limit of these options, with a saved state of so many bytes.
    ///
    /// # Errors
    /// FAILED_PRECONDITION says why not, and what to do.
    pub fn check_memory(&self, options: &DaemonConfig, saved_bytes: u64) -> Result<(), Error> {
        let Some(wanted) = memory_max_bytes(options) else { return Ok(()) };
        let cgroup = self.cgroup.as_ref().filter(|cgroup| cgroup.limits_memory()).ok_or_else(cannot_be_limited)?;
        let is_less = cgroup.memory_max_bytes().is_none_or(|present| wanted < present);
        if !is_less || saved_bytes <= wanted / 32 * SAVED_STATE_PART {
            return Ok(());
        }
        let least_mib = (saved_bytes * 32 / SAVED_STATE_PART).div_ceil(1 << 20);
        let message = format!(
            "what is known of open and cached files needs a memory-max of {least_mib} MiB or more while it is mounted"
        );
        Err(failure(Code::FailedPrecondition, message))
    }

    /// The next daemons keep to the memory limit of these options.
    pub fn limit_memory(&mut self, options: &DaemonConfig) {
        if let Some(cgroup) = &mut self.cgroup {
            cgroup.limit_memory(memory_max_bytes(options));
        }
    }

    /// Notes what a later keeper must know.
    pub fn describe(&self, status: &mut MountStatus) {
        status.cgroup = self.cgroup.as_ref().map(Cgroup::place).unwrap_or_default();
        status.uid = self.uid();
    }

    /// The daemons' cgroup; none: the keeper's.
    pub fn cgroup(&self) -> Option<&Cgroup<'a>> {
        self.cgroup.as_ref()
    }

    /// The user and group that the daemon becomes, as in `Start`.
    pub fn uid(&self) -> u32 {
        self.identity.as_ref().map_or(0, Identity::id)
    }

    /// The network namespace of a daemon that is started now; none: the keeper's.
    ///
    /// # Errors
    /// Those of [`Network::namespace`].
    pub fn network(&self) -> io::Result<Option<Arc<OwnedFd>>> {
        self.network.as_ref().map(Network::namespace).transpose()
    }
}
