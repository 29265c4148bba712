//! How much a node has in flight at all workers together: as much as still lets answers arrive in acceptable time,
//! whatever the network's bandwidth.

use std::time::Duration;

/// Everything in flight should be answered within this time.
const TARGET: Duration = Duration::from_millis(50);
/// The weight of a large block.
pub const LARGE: u64 = (1 << 20) + (64 << 10);
/// The limit of the weight in flight: at least a few large blocks, ...
pub const LIMIT_MIN: u64 = 4 * LARGE;
/// ... at most what the fastest networks need.
pub const LIMIT_MAX: u64 = 64 * LARGE;

/// The weight in flight, and its limit.
#[derive(Clone, Debug)]
pub struct Limit {
    load: u64,
    limit: u64,
}

impl Default for Limit {
    fn default() -> Limit {
        Limit { load: 0, limit: LIMIT_MAX }
    }
}

impl Limit {
    /// Something of this weight may begin.
    pub fn has_room(&self, weight: u64) -> bool {
        self.load == 0 || self.load + weight <= self.limit
    }

    /// It begins.
    pub fn begin(&mut self, weight: u64) {
        self.load += weight;
    }

    /// It has ended.
    pub fn end(&mut self, weight: u64) {
        self.load -= weight;
    }

    /// Adapts the limit to the time that a large block takes alone.
    pub fn adjust(&mut self, alone: Duration) {
        let blocks = TARGET.as_nanos() / alone.as_nanos().max(1);
        self.limit = u64::try_from(blocks).unwrap_or(u64::MAX).saturating_mul(LARGE).clamp(LIMIT_MIN, LIMIT_MAX);
    }

    /// The weight in flight.
    pub fn load(&self) -> u64 {
        self.load
    }

    /// The weight of what is or may come to be under way before what begins now has ended.
    pub fn load_max(&self) -> u64 {
        self.load.max(self.limit)
    }
}
