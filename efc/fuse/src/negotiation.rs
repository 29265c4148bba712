//! What is asked of the kernel in INIT, and what was agreed on.
//!
//! | asked for | because |
//! |---|---|
//! | ASYNC_READ, ASYNC_DIO, PARALLEL_DIROPS | the NAS is far away: have many requests on the way |
//! | BIG_WRITES, MAX_PAGES | requests of 1 MiB |
//! | AUTO_INVAL_DATA | a changed mtime or size drops the page cache: remote changes become visible |
//! | DO_READDIRPLUS, READDIRPLUS_AUTO | listing and stat in one pass, when the caller does stat |
//! | HANDLE_KILLPRIV_V2 | the NFS server clears set-user-ID when it executes a WRITE or SETATTR; a SETATTR of the kernel's own would fail for a writer who is not the owner |
//! | HAS_RESEND | a successor gets the requests that its predecessor held |
//! | HAS_EXPIRE_ONLY, DIRECT_IO_ALLOW_MMAP | finer invalidation; mmap of files opened without the page cache |
//!
//! Not asked for, though offered: ATOMIC_O_TRUNC (without it the kernel sends its own SETATTR), WRITEBACK_CACHE (hides
//! remote growth), EXPLICIT_INVAL_DATA (excludes AUTO_INVAL_DATA), CACHE_SYMLINKS, POSIX_LOCKS and FLOCK_LOCKS (locks
//! hold on this node only), EXPORT_SUPPORT.
//!
//! ALLOW_IDMAP lets the mount be id-mapped, for pods with user namespaces. With it the kernel tells the caller's uid and gid only to
//! requests that make an inode ([`crate::UNTOLD`] to the others), though every call to the NAS is made with the caller's
//! credential. So it is asked for only where the configuration says so, and must be offered then.
//!
//! PASSTHROUGH lets the kernel read a file of the node in place of ours, without the daemon. It is asked for where the configuration says so,
//! and done without where it is not offered; WRITEBACK_CACHE would exclude it. With it our file systems count as stacked on others: of two
//! overlayfs, one on the other, ours cannot be the lowest any more.

use efc_state::State;

use crate::abi::{self, init};
use crate::config::SessionConfig;
use crate::request::Errno;

/// What we ask for where it is offered.
const WANTED: u64 = init::ASYNC_READ
    | init::BIG_WRITES
    | init::AUTO_INVAL_DATA
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::MAX_PAGES
    | init::HANDLE_KILLPRIV_V2
    | init::INIT_EXT
    | init::HAS_EXPIRE_ONLY
    | init::DIRECT_IO_ALLOW_MMAP
    | init::HAS_RESEND;

/// Largest WRITE, in bytes.
const WRITE_MAX: u32 = efc_buffer::PAYLOAD_MAX as u32;
/// Pages of the largest request.
const PAGES_MAX: u16 = 256;
/// Upper bound for the kernel's read-ahead, in bytes. What it uses is set in the bdi after mounting.
const READAHEAD_MAX: u32 = 64 << 20;
/// Resolution of times, in nanoseconds.
const TIME_GRANULARITY: u32 = 1;
/// How deep file systems may be stacked: ours, on one of a disk. Files of overlayfs, for example, cannot be passed through.
const STACK_DEPTH_MAX: u32 = 1;
/// The minor version that brought STATX.
const STATX_MINOR: u32 = 39;

const _: () = assert!(PAGES_MAX as usize * efc_buffer::PAGE == efc_buffer::PAYLOAD_MAX);

/// What was agreed with the kernel. Kept in the saved state, as a session is negotiated only once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// Minor version of the protocol.
    pub minor: u32,
    /// INIT flags in force.
    pub flags: u64,
    /// INIT flags that the kernel offered, before any mask.
    pub offered: u64,
}

impl Negotiated {
    /// What a daemon of this session has negotiated; `None` before INIT.
    pub fn of(state: &State) -> Option<Negotiated> {
        let [minor, flags, offered] = state.agreement()?;
        Some(Negotiated { minor: minor as u32, flags, offered })
    }

    pub(crate) fn save(&self, state: &State) {
        state.save_agreement([self.minor.into(), self.flags, self.offered]);
    }

    /// The kernel delivers unanswered requests again when asked.
    pub fn has_resend(&self) -> bool {
        self.flags & init::HAS_RESEND != 0
    }

    /// Files of the node may be read in place of ours.
    pub fn has_passthrough(&self) -> bool {
        self.flags & init::PASSTHROUGH != 0
    }

    /// The kernel could do that, as far as the session lets it seem.
    pub fn offers_passthrough(&self) -> bool {
        self.offered & init::PASSTHROUGH != 0 || self.has_passthrough()
    }

    pub(crate) fn has_statx(&self) -> bool {
        self.minor >= STATX_MINOR
    }
}

/// Whether the kernel of this session maps files that are opened without its page cache, for several processes to share (Linux 6.6).
pub fn maps_direct_io(state: &State) -> bool {
    Negotiated::of(state).is_some_and(|negotiated| negotiated.flags & init::DIRECT_IO_ALLOW_MMAP != 0)
}

/// Whether the kernel of this session reads files of the node by itself where an open is answered so (Linux 6.9).
pub fn passes_through(state: &State) -> bool {
    Negotiated::of(state).is_some_and(|negotiated| negotiated.has_passthrough())
}

/// Chooses what to answer to INIT.
pub(crate) fn negotiate(
    offered: &abi::InitIn,
    flags: u64,
    config: &SessionConfig,
) -> Result<(abi::InitOut, Negotiated), Errno> {
    let minor = offered.minor.min(abi::MINOR).min(config.features.minor);
    if offered.major != abi::MAJOR || minor < abi::MINOR_MIN {
        log::error!("the kernel speaks FUSE {}.{}, but this daemon needs 7.31 or later", offered.major, offered.minor);
        return Err(Errno(libc::EPROTO));
    }
    let on_demand = [(config.idmap, init::ALLOW_IDMAP), (config.passthrough, init::PASSTHROUGH)];
    let wanted = on_demand.iter().filter(|(is_wanted, _)| *is_wanted).fold(WANTED, |all, (_, flag)| all | flag);
    let mut agreed = flags & wanted & config.features.flags;
    if agreed & init::INIT_EXT == 0 {
        agreed &= u64::from(u32::MAX);
    }
    if config.idmap && agreed & init::ALLOW_IDMAP == 0 {
        log::error!("the kernel's FUSE has no id-mapped mounts (Linux 6.12)");
        return Err(Errno(libc::EOPNOTSUPP));
    }
    let out = abi::InitOut {
        major: abi::MAJOR,
        minor,
        max_readahead: offered.max_readahead.max(READAHEAD_MAX),
        flags: agreed as u32, // the low half; flags2 has the other
        flags2: (agreed >> 32) as u32,
        max_background: config.max_background,
        congestion_threshold: config.max_background - config.max_background / 4,
        max_write: WRITE_MAX,
        time_granularity: TIME_GRANULARITY,
        max_pages: PAGES_MAX,
        stack_depth_max: if agreed & init::PASSTHROUGH == 0 { 0 } else { STACK_DEPTH_MAX },
        ..abi::InitOut::default()
    };
    Ok((out, Negotiated { minor, flags: agreed, offered: flags }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Features;

    fn config(features: Features) -> SessionConfig {
        SessionConfig { threads: 1, features, ..SessionConfig::default() }
    }

    fn agreed(minor: u32, features: Features) -> Negotiated {
        let offered = abi::InitIn { major: 7, minor, max_readahead: 131_072, flags: u32::MAX };
        negotiate(&offered, u64::MAX >> 1, &config(features)).unwrap().1
    }

    #[test]
    fn only_what_is_wanted_and_offered_is_taken() {
        assert_eq!(agreed(45, Features::default()).flags, WANTED);
        assert_eq!(agreed(45, Features::default()).minor, 45);
        assert_eq!(agreed(99, Features::default()).minor, 45);
        let offered = abi::InitIn { major: 7, minor: 45, max_readahead: 131_072, flags: 1 };
        let (out, negotiated) = negotiate(&offered, 1, &config(Features::default())).unwrap();
        assert_eq!((out.flags, out.flags2, negotiated.flags), (1, 0, 1));
        assert_eq!((out.max_background, out.congestion_threshold), (64, 48));
    }

    #[test]
    fn a_mask_hides_what_came_later() {
        let old = agreed(45, Features::of_kernel("5.10").unwrap());
        assert_eq!((old.minor, old.has_resend(), old.has_statx()), (32, false, false));
        assert_eq!(old.flags & init::INIT_EXT, 0);
        assert_eq!(old.flags & init::DIRECT_IO_ALLOW_MMAP, 0);
        let newer = agreed(45, Features::of_kernel("6.1").unwrap());
        assert_eq!((newer.minor, newer.has_resend(), newer.flags & init::INIT_EXT), (37, false, init::INIT_EXT));
        assert!(agreed(45, Features::of_kernel("6.18").unwrap()).has_resend());
        assert!(Features::KERNELS.iter().all(|name| Features::of_kernel(name).is_some()));
        assert_eq!(Features::of_kernel("2.6"), None);
    }

    #[test]
    fn id_mapped_mounts_are_had_or_refused() {
        let offered = abi::InitIn { major: 7, minor: 45, max_readahead: 0, flags: u32::MAX };
        let agreed = |kernel| {
            let config = SessionConfig { idmap: true, ..config(Features::of_kernel(kernel).unwrap()) };
            negotiate(&offered, u64::MAX >> 1, &config).map(|(out, agreed)| (out.flags2, agreed.flags))
        };
        let (high, flags) = agreed("6.18").unwrap();
        assert_eq!((flags, u64::from(high)), (WANTED | init::ALLOW_IDMAP, flags >> 32));
        assert_eq!(agreed("6.1").unwrap_err(), Errno(libc::EOPNOTSUPP));
    }

    #[test]
    fn passthrough_is_had_where_it_is_wanted_and_offered() {
        let offered = abi::InitIn { major: 7, minor: 45, max_readahead: 0, flags: u32::MAX };
        let agreed = |kernel, passthrough| {
            let config = SessionConfig { passthrough, ..config(Features::of_kernel(kernel).unwrap()) };
            let (out, agreed) = negotiate(&offered, u64::MAX >> 1, &config).unwrap();
            (agreed.has_passthrough(), out.stack_depth_max)
        };
        assert_eq!(
            [agreed("6.18", true), agreed("6.18", false), agreed("6.1", true)],
            [(true, 1), (false, 0), (false, 0)]
        );
    }

    #[test]
    fn an_alien_kernel_is_refused() {
        for (major, minor) in [(7, 30), (6, 45), (8, 0)] {
            let offered = abi::InitIn { major, minor, max_readahead: 0, flags: 0 };
            assert_eq!(negotiate(&offered, 0, &config(Features::default())).unwrap_err(), Errno(libc::EPROTO));
        }
    }
}
