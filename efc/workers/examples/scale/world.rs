//! What nodes share: networks, the NAS, and what lies at workers.
//!
//! A network card sends and receives at once, each way one block after another, as fast as it can; a switch in between is
//! never the limit. Questions and answers without a block take the round trip alone.

use efc_workers::policy::copies::COPIES_MAX;
use efc_workers::policy::placement::{Seat, Seats};

/// Bytes of a block.
pub const BLOCK: usize = 1 << 20;
/// In nanoseconds, as all times here.
pub const MILLISECOND: u64 = 1_000_000;
/// One way through the network.
pub const WAY: u64 = 25_000;
/// Load is compared in windows of this time.
pub const WINDOW: u64 = 100 * MILLISECOND;

/// What is played.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub seed: u64,
    pub nodes: usize,
    pub workers: usize,
    /// A worker runs on each of the first nodes; else all have machines of their own.
    pub beside: bool,
    pub blocks: usize,
    pub blocks_per_file: usize,
    /// Files that each node reads.
    pub files_per_node: usize,
    /// All nodes read the same files in the same order; else each draws its own.
    pub in_order: bool,
    /// Files that a node reads at once, ...
    pub streams: usize,
    /// ... and blocks of each that are wanted at once.
    pub ahead: usize,
    /// Bytes per second of each network card, and of the NAS's.
    pub network: f64,
    pub nas: f64,
}

/// One way of a network card, or the NAS.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    free_at: u64,
    block: u64,
}

impl Link {
    pub fn new(bytes_per_second: f64) -> Link {
        Link { free_at: 0, block: (BLOCK as f64 / bytes_per_second * 1e9) as u64 }
    }

    /// A block is to be sent from `at` on: when its last byte has left.
    pub fn send(&mut self, at: u64) -> u64 {
        self.free_at = self.free_at.max(at) + self.block;
        self.free_at
    }

    /// A block has come, its last byte at `at` if nothing else comes: when it has.
    pub fn receive(&mut self, at: u64) -> u64 {
        self.free_at = (self.free_at + self.block).max(at);
        self.free_at
    }
}

/// What lies at the workers of a block.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// Bit n: the copy n is there, the first being 1.
    present: u16,
    /// Bit n: a node has its marker there.
    marked: u16,
    /// What the first copy says.
    pub copies: u8,
}

impl Stored {
    pub fn has(&self, copy: u8) -> bool {
        self.present & 1 << copy != 0
    }

    pub fn is_marked(&self, copy: u8) -> bool {
        self.marked & 1 << copy != 0
    }

    pub fn mark(&mut self, copy: u8) {
        self.marked |= 1 << copy;
    }

    pub fn put(&mut self, copy: u8) {
        self.present |= 1 << copy;
        self.marked &= !(1 << copy);
    }
}

/// All that nodes share.
pub struct World {
    pub settings: Settings,
    pub stored: Vec<Stored>,
    /// Of each block, the workers of its copies.
    places: Vec<[u16; COPIES_MAX as usize]>,
    pub up: Vec<Link>,
    pub down: Vec<Link>,
    pub nas: Link,
    pub load: Load,
}

impl World {
    pub fn new(settings: Settings) -> World {
        let seats = (0..settings.workers).map(|number| Seat::new(&format!("worker-{number}:11211"), 1));
        let seats = Seats::new(seats.collect());
        let place = |block: usize| {
            let mut places = [0; COPIES_MAX as usize];
            let chosen = seats.choose_all(hash(settings.seed, block), places.len());
            places.iter_mut().zip(chosen).for_each(|(place, worker)| *place = worker as u16);
            places
        };
        let machines = settings.nodes + if settings.beside { 0 } else { settings.workers };
        World {
            settings,
            stored: vec![Stored { present: 0, marked: 0, copies: 1 }; settings.blocks],
            places: (0..settings.blocks).map(place).collect(),
            up: vec![Link::new(settings.network); machines],
            down: vec![Link::new(settings.network); machines],
            nas: Link::new(settings.nas),
            load: Load::new(settings.workers),
        }
    }

    /// The worker of a copy.
    pub fn worker(&self, block: usize, copy: u8) -> usize {
        usize::from(self.places[block][usize::from(copy) - 1])
    }

    /// The machine that a worker runs on.
    pub fn machine(&self, worker: usize) -> usize {
        if self.settings.beside { worker } else { self.settings.nodes + worker }
    }
}

/// What decides where a block lies.
pub fn hash(seed: u64, block: usize) -> u64 {
    Draws(seed ^ (block as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).next()
}

/// How many blocks workers have given.
pub struct Load {
    total: Vec<u32>,
    window: Vec<u32>,
    number: u64,
    /// Of each window: blocks, and what the busiest gave beside the mean.
    pub windows: Vec<(u64, f64)>,
}

impl Load {
    fn new(workers: usize) -> Load {
        Load { total: vec![0; workers], window: vec![0; workers], number: 0, windows: Vec::new() }
    }

    pub fn count(&mut self, worker: usize, at: u64) {
        while at / WINDOW > self.number {
            self.windows.push((sum(&self.window), busiest(&self.window)));
            self.window.fill(0);
            self.number += 1;
        }
        self.window[worker] += 1;
        self.total[worker] += 1;
    }

    pub fn busiest(&self) -> f64 {
        busiest(&self.total)
    }
}

fn sum(counts: &[u32]) -> u64 {
    counts.iter().map(|count| u64::from(*count)).sum()
}

/// The largest beside the mean.
fn busiest(counts: &[u32]) -> f64 {
    let mean = sum(counts) as f64 / counts.len() as f64;
    if mean == 0.0 { 0.0 } else { f64::from(counts.iter().copied().max().unwrap_or(0)) / mean }
}

/// Numbers that look random (splitmix64).
pub struct Draws(pub u64);

impl Draws {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }
}
