//! How a session is to run.

use efc_buffer::Budget;

use crate::abi::{self, init};

/// Features of the running kernel, masked for tests ("fuse-features"): no kernel seems to offer more than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    pub(crate) minor: u32,
    pub(crate) flags: u64,
}

impl Default for Features {
    /// All that the running kernel has.
    fn default() -> Features {
        Features { minor: abi::MINOR, flags: u64::MAX }
    }
}

impl Features {
    /// Names that [`Features::of_kernel`] knows.
    pub const KERNELS: [&str; 3] = ["5.10", "6.1", "6.18"];

    /// Behave as on this kernel: one of [`Features::KERNELS`].
    pub fn of_kernel(name: &str) -> Option<Features> {
        match name {
            "5.10" => Some(Features { minor: 32, flags: (1 << 28) - 1 }),
            "6.1" => Some(Features { minor: 37, flags: (1 << 34) - 1 }),
            "6.18" => Some(Features { minor: 45, flags: (1 << 43) - 1 }),
            _ => None,
        }
    }

    /// Unanswered requests may be delivered again when asked.
    pub(crate) fn may_resend(&self) -> bool {
        self.flags & init::HAS_RESEND != 0
    }
}

/// How a session is to run.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Threads that read `/dev/fuse`, at least 1.
    pub threads: usize,
    /// Refuse all that modifies, should a mount without MS_RDONLY let it through.
    pub read_only: bool,
    /// Requests that the kernel sends without a waiting caller, at most: read-ahead and the like. 0 means 64.
    pub max_background: u16,
    /// What the kernel may seem to have.
    pub features: Features,
    /// The mount may be id-mapped; [`Request::uid`] and `gid` are [`crate::UNTOLD`] then but for requests that make an inode.
    pub idmap: bool,
    /// Files may be answered with [`crate::OpenReply::backing`], where the kernel has that (Linux 6.9).
    pub passthrough: bool,
    /// Memory for what applications write ([`efc_buffer::Purpose::Written`]), until the file system has done with it.
    pub budget: Budget,
}

impl Default for SessionConfig {
    fn default() -> SessionConfig {
        SessionConfig {
            threads: 2,
            read_only: false,
            max_background: 64,
            features: Features::default(),
            idmap: false,
            passthrough: false,
            budget: Budget::default(),
        }
    }
}
