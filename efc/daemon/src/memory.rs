//! What a daemon may use of a memory limit (`--daemon-memory-max`), so that it ends with ENOMEM for a caller and not with a
//! SIGKILL for itself: what filled its memory is in the saved state, and would be there for each successor, to be killed too.
//!
//! The parts add up to 13/16 of the limit at most; the rest is for the program, its buffers and what is bounded by number.

/// What a node takes: its record, its place in the index with room to grow, and the version of its pages.
const NODE_BYTES: u64 = 128 + 16 + 32;
/// What the attributes of an inode take.
const ATTRIBUTES_BYTES: u64 = 320;
/// What a name takes that is remembered with what it led to.
const NAME_BYTES: u64 = 176;
/// What a name takes that an open directory has given out.
const LISTED_NAME_BYTES: u64 = 40;
/// A request that the kernel sends for nobody in particular: a large read or write.
const BACKGROUND_BYTES: u64 = 1 << 20;

/// Attributes that are kept without a limit.
const ATTRIBUTES_MAX: u64 = 1 << 17;
/// Names that are remembered without a limit, and those of listings.
const NAMES_MAX: u64 = 1 << 15;
const LISTED_NAMES_MAX: u64 = 1 << 18;
/// Read-ahead and other requests that no application waits for, in the kernel's queue at once, without a limit.
const BACKGROUND_MAX: u64 = 64;
const BACKGROUND_MIN: u64 = 4;

/// The parts of a memory limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Inodes that the kernel may know; `None`: as many as the saved state can hold.
    pub nodes_max: Option<u64>,
    /// Inodes whose attributes are kept.
    pub attributes_max: usize,
    /// Names that are remembered with what they led to.
    pub names_max: usize,
    /// Names that open directories remember to have given out.
    pub listed_names_max: usize,
    /// Written data that the server has not committed, in bytes.
    pub uncommitted_bytes_max: u64,
    /// Requests that no application waits for.
    pub background_max: u16,
}

impl Budget {
    /// Of a limit in bytes, 0 if there is none, and of what was configured for uncommitted data.
    pub fn of(memory_max_bytes: u64, uncommitted_bytes_max: u64) -> Budget {
        if memory_max_bytes == 0 {
            return Budget {
                nodes_max: None,
                attributes_max: ATTRIBUTES_MAX as usize,
                names_max: NAMES_MAX as usize,
                listed_names_max: LISTED_NAMES_MAX as usize,
                uncommitted_bytes_max,
                background_max: BACKGROUND_MAX as u16,
            };
        }
        let part = |sixteenths: u64| memory_max_bytes / 16 * sixteenths;
        Budget {
            nodes_max: Some(part(6) / NODE_BYTES),
            attributes_max: (part(1) / ATTRIBUTES_BYTES).min(ATTRIBUTES_MAX) as usize,
            names_max: (part(1) / 2 / NAME_BYTES).min(NAMES_MAX) as usize,
            listed_names_max: (part(1) / 2 / LISTED_NAME_BYTES).min(LISTED_NAMES_MAX) as usize,
            uncommitted_bytes_max: uncommitted_bytes_max.min(part(3)),
            background_max: (part(2) / BACKGROUND_BYTES).clamp(BACKGROUND_MIN, BACKGROUND_MAX) as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_fit_the_limit() {
        for limit in [64 << 20, 100 << 20, 1 << 30, 64 << 30] {
            let budget = Budget::of(limit, u64::MAX);
            let nodes = budget.nodes_max.expect("a limit") * NODE_BYTES;
            let attributes = budget.attributes_max as u64 * ATTRIBUTES_BYTES;
            let background = u64::from(budget.background_max) * BACKGROUND_BYTES;
            let names = budget.names_max as u64 * NAME_BYTES + budget.listed_names_max as u64 * LISTED_NAME_BYTES;
            assert!(nodes + attributes + names + background + budget.uncommitted_bytes_max <= limit / 16 * 13);
        }
        assert_eq!(Budget::of(0, 7).uncommitted_bytes_max, 7);
        assert_eq!(Budget::of(0, 7).nodes_max, None);
    }
}
