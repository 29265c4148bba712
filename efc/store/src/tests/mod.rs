//! The store as a whole, on the disk that is there and on one on which things go wrong.

mod damage;
mod disks;
mod lives;
mod memory;
mod model;
mod sharing;
mod sizes;
mod whole;
