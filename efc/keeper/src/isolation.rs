//! What keeps one mount's daemons apart from the keeper, from the node's pods and from other mounts' daemons: a cgroup, a
//! user and a network of their own, each where it is wanted. Successors get the same.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use efc_proto::error::Code;
use efc_proto::{Error, MountStatus};

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

/// What the mount wants its daemons to keep to.
fn memory_max_bytes(entry: &MountEntry) -> Option<u64> {
    let memory_max_mib = entry.config().memory_max_mib;
    (memory_max_mib > 0).then(|| u64::from(memory_max_mib) << 20)
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
        let memory_max = memory_max_bytes(entry);
        if memory_max.is_some() && !programs.cgroups.as_ref().is_some_and(Cgroups::limits_memory) {
            let message = "memory-max needs a keeper with --daemon-cgroup, and cgroups on the node that limit memory";
            return Err(failure(Code::FailedPrecondition, message));
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
            let memory_max = memory_max_bytes(entry);
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
    pub fn network(&self) -> Option<Arc<OwnedFd>> {
        self.network.as_ref().map(Network::namespace)
    }
}
