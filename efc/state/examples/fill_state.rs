//! Makes a saved state (stdin) know many nodes, as if the kernel had looked them up: for tests of how long a successor
//! needs.
//!
//! ```text
//! fill_state COUNT < memfd
//! ```
//! No daemon may be at work on it meanwhile. Prints the seconds that opening it again takes: until a file handle can be
//! had, and until everything is found.

use std::os::fd::AsFd;
use std::time::Instant;

use efc_state::{Node, State};

fn main() -> std::io::Result<()> {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok()).expect("fill_state COUNT");
    let memfd = || std::io::stdin().as_fd().try_clone_to_owned();
    let state = State::open(memfd()?)?;
    for number in 0..count {
        // As long as the handles of common servers, and none that a server has given out.
        let handle = [u64::MAX, number, number, number].map(u64::to_le_bytes).concat();
        state.lookup_node(&Node { handle, fileid: number, kind: 0o100_000 })?;
    }
    drop(state);
    let start = Instant::now();
    let state = State::open(memfd()?)?;
    let opened = start.elapsed();
    let known = state.node_count();
    println!(
        "{known} nodes: opened in {:.4} s, all found after {:.4} s",
        opened.as_secs_f64(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}
