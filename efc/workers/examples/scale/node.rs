//! A node: what it reads, and what it knows of workers. All that it decides the daemon's own policy decides.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use efc_backend::FileHandle;
use efc_workers::policy::copies::Copies;
use efc_workers::policy::course::Course;
use efc_workers::policy::health::{Health, Usual, WAIT_MAX};
use efc_workers::policy::hedges::Hedges;
use efc_workers::policy::limit::Limit;
use efc_workers::policy::markers::{Backend, Markers};

use crate::world::{Draws, Settings};

/// A file that is being read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stream {
    /// The next block, and the end of the file.
    pub next: usize,
    pub end: usize,
}

/// One node.
pub struct Node {
    pub limit: Limit,
    pub hedges: Hedges,
    pub copies: Copies,
    /// What the backend takes, and what any worker does.
    pub backend: Backend,
    pub usual: Usual,
    pub waiting: VecDeque<u32>,
    pub draws: Draws,
    health: Vec<Option<Box<Health>>>,
    markers: HashMap<usize, Markers>,
    streams: Vec<Stream>,
    /// Files that are still to be read, the next one last.
    files: Vec<u32>,
    /// Blocks that are still to come.
    pub left: usize,
}

impl Node {
    pub fn new(settings: &Settings, number: usize) -> Node {
        let mut draws = Draws(settings.seed.wrapping_add(number as u64).wrapping_mul(0xd134_2543_de82_ef95));
        let count = settings.blocks / settings.blocks_per_file;
        let mut files: Vec<u32> = (0..count as u32).rev().collect();
        if !settings.in_order {
            (1..files.len()).rev().for_each(|place| files.swap(place, draws.next() as usize % (place + 1)));
        }
        let files = files.split_off(count - settings.files_per_node);
        Node {
            limit: Limit::default(),
            hedges: Hedges::default(),
            copies: Copies::default(),
            backend: Backend::default(),
            usual: Usual::default(),
            waiting: VecDeque::new(),
            draws,
            health: vec![None; settings.workers],
            markers: HashMap::new(),
            streams: vec![Stream::default(); settings.streams],
            left: files.len() * settings.blocks_per_file,
            files,
        }
    }

    /// The next block that this stream wants, if there is one.
    pub fn next_block(&mut self, stream: usize, blocks_per_file: usize) -> Option<usize> {
        let stream = &mut self.streams[stream];
        if stream.next == stream.end {
            let file = self.files.pop()? as usize;
            *stream = Stream { next: file * blocks_per_file, end: (file + 1) * blocks_per_file };
        }
        stream.next += 1;
        Some(stream.next - 1)
    }

    pub fn health(&mut self, worker: usize) -> &mut Health {
        self.health[worker].get_or_insert_with(|| Box::new(Health::new(WAIT_MAX)))
    }

    /// What is decided about a worker, beside what the backend takes.
    pub fn health_and_backend(&mut self, worker: usize) -> (&mut Health, &Usual) {
        let health = self.health[worker].get_or_insert_with(|| Box::new(Health::new(WAIT_MAX)));
        (health, &self.backend.usual)
    }

    /// The markers at a worker, beside what the backend takes.
    pub fn markers_and_backend(&mut self, worker: usize) -> (&mut Markers, &mut Backend) {
        (self.markers.entry(worker).or_default(), &mut self.backend)
    }

    /// Markers are made and looked at there now.
    pub fn uses_markers(&self, worker: usize, at: Instant) -> bool {
        self.markers.get(&worker).is_none_or(|markers| markers.are_used(at))
    }
}

/// A block that a node looks up.
#[derive(Clone, Debug)]
pub struct LookUp {
    pub node: u32,
    pub stream: u16,
    /// It is a question that nobody waits for.
    pub is_probe: bool,
    /// The first copy's worker is given the block that is fetched.
    pub fills: bool,
    /// The passage of what is under way has been given.
    pub is_under_way: bool,
    pub block: usize,
    pub copy: u8,
    /// What comes to an earlier one comes too late.
    pub attempt: u32,
    pub course: Course,
    pub asked: u64,
    pub deadline: u64,
    pub last: u64,
    pub load_at_begin: u64,
}

pub fn file_of(block: usize, blocks_per_file: usize) -> FileHandle {
    FileHandle::new(&(block / blocks_per_file).to_be_bytes()).expect("short")
}
