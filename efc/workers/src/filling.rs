//! Blocks on their way to workers, sealed in memory of a budget.

use std::ops::Range;
use std::sync::Arc;

use efc_buffer::{Buffer, Purpose, Room};
use efc_cache::blocks::{Block, BlockKey, Fill, Turn};

use crate::basics::Then;
use crate::connection::Piece;
use crate::figures::count;
use crate::held::Held;
use crate::keys::Name;
use crate::protocol::{self, Cas, END_OF_LINE};
use crate::seal::{self, HEADER, SEAL_BYTES, VALUE_MAX};
use crate::worker::{OnTheWay, Worker};

/// Room for the command before a value.
const COMMAND_MAX: usize = 128;
const _: () = assert!(COMMAND_MAX + VALUE_MAX <= efc_buffer::LARGE, "a command fits a buffer");

/// A place at a worker for a block that it had not got.
#[derive(Debug)]
pub(crate) struct Filling {
    pub(crate) worker: Arc<Worker>,
    pub(crate) key: BlockKey,
    pub(crate) name: Name,
    /// How many copies of the block there are, as far as this node knows.
    pub(crate) copies: u8,
    /// The marker that this node has left there, which goes if no block comes.
    pub(crate) marker: Option<Held>,
    /// What it takes the place of, and of nothing else.
    pub(crate) replaces: Option<Cas>,
    /// What follows when it is there.
    pub(crate) then: Option<Then>,
    /// It may be on its way.
    pub(crate) way: Option<OnTheWay>,
}

impl Fill for Filling {
    fn turn(&mut self) -> Turn<'_> {
        Box::pin(async { self.way = self.worker.turn(self.key.length()).await })
    }

    fn unhurried_turn(&mut self) -> Turn<'_> {
        Box::pin(async { self.way = self.worker.unhurried_turn(self.key.length()).await })
    }

    fn fill(mut self: Box<Self>, block: &Arc<Block>) {
        let length = self.key.length();
        if block.len() != length {
            return; // the chain has something else than it asked for
        }
        let (tally, context) = (&self.worker.tally, &self.worker.context);
        let Some(way) = self.way.take().or_else(|| self.worker.take(length)) else { return count(&tally.fills_unsent) };
        let size = efc_buffer::buffer_size(COMMAND_MAX + length + SEAL_BYTES);
        let Some(room) = context.budget.take(Purpose::Ahead, size) else { return count(&tally.fills_without_budget) };
        let (context, block) = (context.clone(), block.clone());
        let work = Work { filling: *self, way, room, block };
        context.seals.add(move || work.finish());
    }
}

/// A block that is to be sealed and sent.
struct Work {
    filling: Filling,
    way: OnTheWay,
    room: Room,
    block: Arc<Block>,
}

impl Work {
    fn finish(self) {
        let Work { mut filling, way, room, block } = self;
        let (worker, then) = (filling.worker.clone(), filling.then.take());
        let cas = filling.marker.as_ref().map(|marker| marker.cas).or(filling.replaces);
        let Ok(mut memory) = room.buffer() else { return count(&worker.tally.fills_without_budget) };
        let value = COMMAND_MAX..COMMAND_MAX + block.len() + SEAL_BYTES;
        memory[value.start + HEADER..][..block.len()].copy_from_slice(&block);
        drop(block);
        let zeros = worker.slabs().padding(value.len());
        let is_sent = seal::seal(&worker.context.keys, &filling.key, filling.copies, &mut memory[value.clone()])
            && Worker::set(way, then, |opaque| {
                let line = protocol::set(&filling.name, opaque, value.len() + zeros, cas);
                command(line, memory, value, zeros)
            });
        if is_sent {
            filling.marker.into_iter().for_each(Held::filled); // the block is in its place, or will be
        } else {
            count(&worker.tally.fills_unsent);
        }
    }
}

/// A command with the value that lies in `memory`, and so many zeros behind it.
fn command(line: Vec<u8>, mut memory: Buffer, value: Range<usize>, zeros: usize) -> [Piece; 3] {
    let begin = value.start - line.len();
    memory[begin..value.start].copy_from_slice(&line);
    [Piece::Memory(memory, begin..value.end), Piece::Zeros(zeros), Piece::Line(END_OF_LINE.to_vec())]
}
