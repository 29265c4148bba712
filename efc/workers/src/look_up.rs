//! Looking a block up at the worker that has it, if any has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use efc_buffer::{Buffer, LARGE, Purpose};
use efc_cache::blocks::{Block, BlockKey, Lookup, Miss};
use efc_tasks::time::{in_time, now, since, sleep};

use crate::basics::lock;
use crate::figures::{add, count};
use crate::filling::Filling;
use crate::health::{Advice, weight};
use crate::incoming::{Reply, Value};
use crate::keys::Name;
use crate::markers::WAIT_MAX;
use crate::protocol::Token;
use crate::seal;
use crate::worker::Worker;

/// Longest wait for the turn to ask: on a slow network reads in flight wait for each other, whomever they ask.
const TURN_MAX: Duration = Duration::from_millis(150);
/// Pauses between looks at a block that another node fetches.
const LOOKS: [Duration; 5] = {
    let millis = Duration::from_millis;
    [millis(4), millis(8), millis(16), millis(32), millis(40)]
};

/// A block that is looked up at its worker.
#[derive(Clone, Debug)]
pub(crate) struct LookUp {
    pub(crate) worker: Arc<Worker>,
    pub(crate) key: BlockKey,
    pub(crate) name: Name,
}

/// What came of asking once.
enum Found {
    Block(Block),
    Nothing(Miss),
    /// Another node fetches it.
    Awaited(Buffer),
}

fn miss(room: Option<Buffer>) -> Miss {
    Miss { room, fill: None }
}

impl LookUp {
    /// Looks it up, and waits a little if another node fetches it; all of that in a bounded time.
    pub(crate) async fn run(self, room: Buffer) -> Lookup {
        let limit = now() + self.worker.context.wait_max + WAIT_MAX;
        let mut found = self.ask(room, limit).await;
        if let Found::Awaited(room) = found {
            found = self.wait(room, limit).await;
        }
        match found {
            Found::Block(block) => Lookup::Hit(block),
            Found::Nothing(miss) => Lookup::Miss(miss),
            Found::Awaited(room) => {
                count(&self.worker.tally.misses);
                Lookup::Miss(miss(Some(room)))
            }
        }
    }

    async fn wait(&self, mut room: Buffer, limit: Instant) -> Found {
        let (tally, begin) = (&self.worker.tally, now());
        if !lock(&self.worker.markers).is_waited_for(begin, self.name.hash) {
            return Found::Awaited(room);
        }
        for pause in LOOKS {
            sleep(pause.min(WAIT_MAX.saturating_sub(since(begin)))).await;
            match self.ask(room, limit).await {
                Found::Awaited(memory) if since(begin) < WAIT_MAX => room = memory,
                Found::Awaited(memory) => return self.waited_in_vain(memory),
                found => {
                    if let Found::Block(_) = &found {
                        lock(&self.worker.markers).came();
                        count(&tally.waits);
                    }
                    return found;
                }
            }
        }
        self.waited_in_vain(room)
    }

    fn waited_in_vain(&self, room: Buffer) -> Found {
        count(&self.worker.tally.vain_waits);
        lock(&self.worker.markers).waited_in_vain(now(), self.name.hash);
        Found::Awaited(room)
    }

    /// Asks once, and is through by `limit`.
    async fn ask(&self, room: Buffer, limit: Instant) -> Found {
        let (worker, length) = (&self.worker, self.key.length());
        let left = || limit.saturating_duration_since(now());
        let gate = &worker.context.gate;
        let Some(_passage) = gate.pass(length, TURN_MAX.min(left())).await else { return self.skipped(room) };
        match worker.advise(length, gate.load_max()) {
            Advice::Ask(deadline) => {
                if deadline / 2 > left() {
                    return self.skipped(room);
                }
                let deadline = deadline.min(left());
                let marks = lock(&worker.markers).are_used(now());
                match self.answer(room, marks, deadline, 0).await {
                    Some(reply) => self.judge(reply, marks),
                    None => Found::Nothing(miss(None)),
                }
            }
            Advice::Probe(deadline) => {
                self.probe(deadline);
                self.skipped(room)
            }
            Advice::Skip => self.skipped(room),
        }
    }

    fn skipped(&self, room: Buffer) -> Found {
        count(&self.worker.tally.skipped);
        Found::Nothing(miss(Some(room)))
    }

    /// Asks, and lets nobody wait: what comes of it, the worker remembers.
    fn probe(&self, deadline: Duration) {
        let room = self.worker.context.budget.take(Purpose::Ahead, LARGE);
        let Some(memory) = room.and_then(|room| room.buffer().ok()) else { return };
        let (probe, beside) = (self.clone(), weight(self.key.length()));
        efc_tasks::spawn(async move { drop(probe.answer(memory, false, deadline, beside).await) });
    }

    /// The answer; `None` if it comes too late. Something of the weight `beside` is under way that the gate does not count.
    async fn answer(&self, room: Buffer, marks: bool, deadline: Duration, beside: u64) -> Option<Reply> {
        let (worker, length, asked) = (&self.worker, self.key.length(), now());
        let load_at_begin = worker.context.gate.load();
        let load = || (load_at_begin + worker.context.gate.load()) / 2 + beside;
        let answer = match worker.get(&self.name, marks, weight(length), room) {
            Ok(answer) => answer,
            Err(room) => return Some(Reply::Lost(Some(room))),
        };
        let Some(reply) = in_time(answer, Some(deadline)).await else {
            worker.late(length, deadline, load(), asked);
            return None;
        };
        let reply = reply.unwrap_or(Reply::Lost(None));
        let came = match &reply {
            Reply::Value(value) => value.length,
            Reply::Missing(_) => 0,
            _ => return Some(reply),
        };
        let (length, load) = (came, load().saturating_sub(weight(length)) + weight(came));
        worker.answered(length, since(asked), load);
        worker.context.answered(length, since(asked), load);
        Some(reply)
    }

    fn judge(&self, reply: Reply, marks: bool) -> Found {
        let tally = &self.worker.tally;
        match reply {
            Reply::Value(value) if value.length == 0 && value.flags.is_marker() => match value.flags.token {
                Token::Won => self.missing(value.memory, Some(value.flags.cas)),
                _ if marks => Found::Awaited(value.memory),
                _ => self.missing(value.memory, None),
            },
            Reply::Value(value) => self.open(value),
            Reply::Missing(Some(room)) => self.missing(room, None),
            Reply::Lost(room) => {
                count(&tally.lost);
                Found::Nothing(miss(room))
            }
            _ => Found::Nothing(miss(None)),
        }
    }

    fn missing(&self, room: Buffer, marker: Option<u64>) -> Found {
        count(&self.worker.tally.misses);
        Found::Nothing(Miss { room: Some(room), fill: Some(Box::new(self.filling(marker))) })
    }

    fn filling(&self, marker: Option<u64>) -> Filling {
        Filling { worker: self.worker.clone(), key: self.key, name: self.name, marker }
    }

    fn open(&self, mut value: Value) -> Found {
        let (tally, keys) = (&self.worker.tally, &self.worker.context.keys);
        let sealed = value.sealed(seal::sealed_length(self.key.length()));
        if !sealed.is_some_and(|(header, sealed)| seal::open(keys, &self.key, header, sealed)) {
            count(&tally.refused_blocks);
            self.worker.delete(&self.name, value.flags.cas);
            return self.missing(value.memory, None);
        }
        count(&tally.hits);
        add(&tally.hit_bytes, self.key.length() as u64);
        Found::Block(Block::new(value.memory, self.key.length()))
    }
}
