//! What keeps one mount's daemons apart from the keeper, from the node's pods and from other mounts' daemons: a cgroup, a
//! user and a network of their own, each where it is wanted. Successors get the same.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use efc_proto::Error;
use efc_proto::error::Code;

use crate::cgroups::Cgroup;
use crate::entry::Entry;
use crate::failure::failure;
use crate::identity::Identity;
use crate::network::Network;
use crate::session::Programs;

/// Of one mount.
#[derive(Debug)]
pub struct Isolation<'a> {
    cgroup: Option<Cgroup<'a>>,
    identity: Option<Identity<'a>>,
    network: Option<Network<'a>>,
}

impl<'a> Isolation<'a> {
    /// What the keeper's command line and the mount's configuration ask for.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED without a free user; FAILED_PRECONDITION for a network that is not there.
    pub fn new(programs: &'a Programs, entry: &Entry) -> Result<Isolation<'a>, Error> {
        let network = entry.config().network.as_str();
        let network = (!network.is_empty()).then(|| programs.networks.find(network)).transpose()?;
        let cgroup = programs.cgroups.as_ref().map(|cgroups| cgroups.cgroup(entry.target())).transpose();
        let cgroup = cgroup.map_err(|error| failure(Code::Internal, format!("cannot name a cgroup: {error}")))?;
        let identity = programs.identities.as_ref().map(|identities| identities.take()).transpose()?;
        Ok(Isolation { cgroup, identity, network })
    }

    /// Where the daemon belongs; none: the keeper's.
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
