//! The programs that sessions run, and where: settings of the keeper's command line, the same for all mounts.

use crate::cgroups::Cgroups;
use crate::held::Listeners;
use crate::helper::Helper;
use crate::identity::Identities;
use crate::network::Networks;
use crate::program::NextProgram;
use crate::stores::Stores;

/// The programs that sessions run, and where.
#[derive(Debug)]
pub struct Programs {
    /// `efcd`.
    pub daemon: NextProgram,
    /// The daemons' cgroups; none: the keeper's.
    pub cgroups: Option<Cgroups>,
    /// The daemons' users; none: `nobody`.
    pub identities: Option<Identities>,
    /// The daemons' networks, beside the keeper's own.
    pub networks: Networks,
    /// Where the daemons keep what they have read.
    pub stores: Stores,
    /// `efc-mount-helper`.
    pub helper: Helper,
    /// Where later keepers find daemons.
    pub listeners: Listeners,
}
