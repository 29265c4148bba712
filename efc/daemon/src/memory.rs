//! Divides the daemon's memory limit (`--daemon-memory-max` or `memory-max`), so that reaching it means ENOMEM for a
//! caller and not SIGKILL for the daemon. What filled its memory is in the saved state, so each successor would be
//! killed too.
//!
//! A local store on a tmpfs comes first, as such memory counts as the daemon's. The program itself has a fixed part. The
//! parts add up to at most 31/32 of what is left; the rest is for what is limited by number.
//! Buffers are counted one by one ([`efc_buffer::Budget`]).

use std::io;

use efc_buffer::{BudgetLimits, LARGE, PAGE, SMALL};

/// What the program takes by itself: its code and threads, pipes, sockets, and what the allocator holds.
const PROGRAM_BYTES: u64 = 6 << 20;
/// What a node takes: its record, its place in the index with room to grow, and the version of its pages.
pub const NODE_BYTES: u64 = 128 + 16 + 32;
/// What a name takes that an open directory has given out.
const LISTED_NAME_BYTES: u64 = 40;

/// Names that open directories remember to have given out, without a limit.
const LISTED_NAMES_MAX: u64 = 1 << 18;
/// What open directories have at hand of their listings, without a limit of memory, in bytes: of about a hundred of a thousand names each.
const AT_HAND_BYTES_MAX: u64 = 32 << 20;
/// How much of a listing is asked for at a time. What is made of an answer takes four times as much for a moment, at each connection.
const PAGE_BYTES_MAX: u64 = 256 << 10;
const PAGE_BYTES_MIN: u64 = 64 << 10;
/// Read-ahead and other requests that no application waits for, in the kernel's queue at once, without a limit.
const BACKGROUND_MAX: u64 = 64;
const BACKGROUND_MIN: u64 = 4;
/// Buffers for data that applications read, without a limit of memory, in bytes: what a link of 10 Gbit/s brings in 400 ms.
const DEMAND_BYTES_MAX: u64 = 512 << 20;
/// Buffers for data that is read before anybody asks for it, and for blocks of caches on their way, without a limit of memory, in bytes.
const AHEAD_BYTES_MAX: u64 = 128 << 20;

/// The index of the local store, without a limit of memory, in bytes: a million small files.
const STORE_INDEX_BYTES_MAX: u64 = 64 << 20;

/// Refuses a kernel with other pages, such as those of 64 KiB that some kernels for aarch64 have.
///
/// # Errors
/// `Unsupported`.
pub fn check_page_size(bytes: usize) -> io::Result<()> {
    if bytes == PAGE {
        return Ok(());
    }
    let message = format!("this kernel has pages of {bytes} bytes, and only pages of {PAGE} are supported");
    Err(io::Error::new(io::ErrorKind::Unsupported, message))
}

/// Gives the system what the allocator holds and nobody uses, page by page.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) changes nothing that is in use, and takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The parts of a memory limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Inodes that the kernel may know, with the files that are open, which count as some each; `None`: as many as the saved state can
    /// hold.
    pub nodes_max: Option<u64>,
    /// What is known of inodes, names and directories, in bytes.
    pub metadata_bytes_max: u64,
    /// Names that open directories remember to have given out.
    pub listed_names_max: usize,
    /// What open directories have at hand of their listings, in bytes.
    pub at_hand_bytes_max: u64,
    /// Bytes of a listing that are asked for at a time.
    pub page_bytes: u32,
    /// Written data that the server has not committed, in bytes.
    pub uncommitted_bytes_max: u64,
    /// The index of the local store, in bytes.
    pub store_index_bytes_max: u64,
    /// Requests that no application waits for.
    pub background_max: u16,
    /// Buffers: data on its way.
    pub buffers: BudgetLimits,
}

impl Parts {
    /// Of a limit in bytes, 0 if there is none, and of what was configured for uncommitted data and for metadata.
    pub fn of(memory_max_bytes: u64, uncommitted_bytes_max: u64, metadata_bytes_max: u64) -> Parts {
        if memory_max_bytes == 0 {
            return Parts {
                nodes_max: None,
                metadata_bytes_max,
                listed_names_max: LISTED_NAMES_MAX as usize,
                at_hand_bytes_max: AT_HAND_BYTES_MAX,
                page_bytes: PAGE_BYTES_MAX as u32,
                uncommitted_bytes_max,
                store_index_bytes_max: STORE_INDEX_BYTES_MAX,
                background_max: BACKGROUND_MAX as u16,
                buffers: BudgetLimits {
                    demand_bytes: DEMAND_BYTES_MAX,
                    ahead_bytes: AHEAD_BYTES_MAX,
                    // An application that writes, and a server that is away: it waits, however many it is.
                    written_bytes: u64::MAX,
                },
            };
        }
        let part = |thirty_seconds: u64| memory_max_bytes.saturating_sub(PROGRAM_BYTES) / 32 * thirty_seconds;
        let buffers = BudgetLimits {
            demand_bytes: part(3).clamp(LARGE as u64, DEMAND_BYTES_MAX),
            ahead_bytes: part(1).clamp(4 * SMALL as u64, AHEAD_BYTES_MAX),
            written_bytes: part(3),
        };
        Parts {
            nodes_max: Some(part(10) / NODE_BYTES),
            metadata_bytes_max: metadata_bytes_max.min(part(3)),
            listed_names_max: (part(1) / LISTED_NAME_BYTES).min(LISTED_NAMES_MAX) as usize,
            at_hand_bytes_max: part(1).min(AT_HAND_BYTES_MAX),
            page_bytes: (memory_max_bytes / 1024).clamp(PAGE_BYTES_MIN, PAGE_BYTES_MAX) as u32,
            uncommitted_bytes_max: uncommitted_bytes_max.min(part(6)),
            store_index_bytes_max: STORE_INDEX_BYTES_MAX.min(part(1)),
            // More than there are buffers for would only wait.
            background_max: (buffers.demand_bytes / LARGE as u64).clamp(BACKGROUND_MIN, BACKGROUND_MAX) as u16,
            buffers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_pages_are_refused() {
        assert!(check_page_size(rustix::param::page_size()).is_ok());
        assert_eq!(check_page_size(64 << 10).map_err(|error| error.kind()), Err(io::ErrorKind::Unsupported));
    }

    #[test]
    fn the_parts_fit_the_limit() {
        for limit in [64 << 20, 100 << 20, 1 << 30, 64 << 30] {
            let parts = Parts::of(limit, u64::MAX, u64::MAX);
            let nodes = parts.nodes_max.expect("a limit") * NODE_BYTES / 8 * 9; // with the part for opens and requests
            let metadata = parts.metadata_bytes_max + parts.listed_names_max as u64 * LISTED_NAME_BYTES;
            let listings = metadata + parts.at_hand_bytes_max;
            let sum = nodes + listings + parts.buffers.sum() + parts.uncommitted_bytes_max;
            assert!(sum <= (limit - PROGRAM_BYTES) / 32 * 30);
            assert!(parts.buffers.demand_bytes >= 4 * LARGE as u64);
        }
        let unlimited = Parts::of(0, 7, 8);
        assert_eq!((unlimited.uncommitted_bytes_max, unlimited.metadata_bytes_max, unlimited.nodes_max), (7, 8, None));
    }
}
