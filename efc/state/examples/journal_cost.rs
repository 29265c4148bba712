//! What the journal costs a request, without kernel and server: prints nanoseconds per intent, published and freed
//! again.

use std::time::Instant;

use efc_state::{Intent, State};
use rustix::fs::MemfdFlags;

const COUNT: u32 = 1_000_000;

fn main() -> std::io::Result<()> {
    let state = State::open(rustix::fs::memfd_create("journal-cost", MemfdFlags::ALLOW_SEALING)?)?;
    let intent = Intent { object: vec![7; 32], ..Intent::default() };
    let start = Instant::now();
    for xid in 0..COUNT {
        state.begin(2, &Intent { xid, ..intent.clone() })?; // frees the last one
    }
    println!("{} ns", start.elapsed().as_nanos() / u128::from(COUNT));
    Ok(())
}
