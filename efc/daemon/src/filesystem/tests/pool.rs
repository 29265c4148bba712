//! A cache that nodes share, as a level of their chains: it forgets, is slow, and takes what it is given late or not at all.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use efc_buffer::Buffer;
use efc_cache::blocks::{Answer, Block, BlockKey, Fill, Level, Lookup, Miss};
use efc_tasks::simulation::current;

use super::common::draw;

#[derive(Debug, Default)]
struct Memory {
    blocks: HashMap<BlockKey, Vec<u8>>,
    hits: u64,
    questions: u64,
}

/// The nodes' common memory. Clones share it.
#[derive(Clone, Debug)]
pub struct Pool {
    name: &'static str,
    memory: Arc<Mutex<Memory>>,
    is_reliable: bool,
    gives_parts: bool,
}

impl Pool {
    /// One that keeps all and answers at once.
    pub fn reliable() -> Pool {
        Pool { name: "pool", memory: Arc::default(), is_reliable: true, gives_parts: false }
    }

    /// The same, of this name.
    pub fn named(name: &'static str) -> Pool {
        Pool { name, ..Pool::reliable() }
    }

    /// One that gives parts of blocks, too.
    pub fn in_parts() -> Pool {
        Pool { gives_parts: true, ..Pool::reliable() }
    }

    /// One that does what it likes, but does not lie.
    pub fn whimsical() -> Pool {
        Pool { is_reliable: false, ..Pool::in_parts() }
    }

    /// A level of a node.
    pub fn level(&self) -> Arc<dyn Level> {
        Arc::new(self.clone())
    }

    /// How often it has given a block.
    pub fn hits(&self) -> u64 {
        self.memory.lock().unwrap().hits
    }

    /// How often it was asked for a block.
    pub fn questions(&self) -> u64 {
        self.memory.lock().unwrap().questions
    }

    /// How many blocks it has.
    pub fn filled(&self) -> usize {
        self.memory.lock().unwrap().blocks.len()
    }

    /// Loses all that it has.
    pub fn forget(&self) {
        self.memory.lock().unwrap().blocks.clear();
    }

    /// Makes each block that it has another one, of this many bytes.
    pub fn spoil(&self, length: usize) {
        self.memory.lock().unwrap().blocks.values_mut().for_each(|block| *block = vec![0; length]);
    }

    async fn idle(&self) {
        if !self.is_reliable {
            efc_tasks::time::sleep(Duration::from_micros(draw(8000) as u64)).await;
        }
    }

    fn is_willing(&self) -> bool {
        self.is_reliable || draw(4) != 0
    }

    fn give(&self, key: &BlockKey, mut room: Buffer) -> Lookup {
        let mut memory = self.memory.lock().unwrap();
        memory.questions += 1;
        let Some(block) = memory.blocks.get(key).filter(|_| self.is_willing()) else {
            let place = self.is_willing().then(|| Box::new(Place { pool: self.clone(), key: *key }) as Box<dyn Fill>);
            return Lookup::Miss(Miss { room: self.is_willing().then_some(room), fill: place });
        };
        room[..block.len()].copy_from_slice(block);
        let block = Block::new(room, block.len());
        memory.hits += 1;
        Lookup::Hit { block, fill: None }
    }
}

impl Level for Pool {
    fn name(&self) -> &'static str {
        self.name
    }

    fn get(&self, key: BlockKey, room: Buffer) -> Answer<'_> {
        Box::pin(async move {
            self.idle().await;
            self.give(&key, room)
        })
    }

    fn gives_parts(&self) -> bool {
        self.gives_parts
    }

    fn get_part(&self, key: BlockKey, part: Range<usize>, mut room: Buffer) -> Answer<'_> {
        Box::pin(async move {
            self.idle().await;
            let mut memory = self.memory.lock().unwrap();
            memory.questions += 1;
            match memory.blocks.get(&key).and_then(|block| block.get(part)).filter(|_| self.is_willing()) {
                None => Lookup::Miss(Miss { room: Some(room), fill: None }),
                Some(bytes) => {
                    let length = bytes.len();
                    room[..length].copy_from_slice(bytes);
                    memory.hits += 1;
                    Lookup::Hit { block: Block::new(room, length), fill: None }
                }
            }
        })
    }
}

#[derive(Debug)]
struct Place {
    pool: Pool,
    key: BlockKey,
}

impl Fill for Place {
    fn fill(self: Box<Self>, block: &Arc<Block>) {
        let block = block.clone();
        let keep = async move {
            self.pool.idle().await;
            self.pool.memory.lock().unwrap().blocks.insert(self.key, block.to_vec());
        };
        assert!(current().is_some(), "filled by a task of the simulation");
        efc_tasks::spawn_outside(keep);
    }
}
