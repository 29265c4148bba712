//! Looks a block up at the workers that may have it: executes what [`Course`] decides, step by step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use efc_buffer::{Buffer, LARGE, Purpose};
use efc_cache::blocks::{Block, BlockKey, Fill, Lookup, Miss};
use efc_tasks::time::{in_time, now, since, sleep};
use tokio::sync::oneshot;

use crate::Current;
use crate::basics::lock;
use crate::context::Context;
use crate::figures::{add, count};
use crate::filling::Filling;
use crate::held::Held;
use crate::incoming::{Reply, Value};
use crate::keys::Name;
use crate::late::Late;
use crate::policy::course::{Course, FIRST, Found, Outcome, Step};
use crate::policy::health::{Advice, WAIT_MAX, weight};
use crate::policy::{ASK_MAX, TURN_MAX};
use crate::protocol::{Cas, Token};
use crate::seal;
use crate::spreading::Spreading;
use crate::worker::Worker;

/// A block that is looked up.
#[derive(Clone, Debug)]
pub(crate) struct LookUp {
    pub(crate) context: Arc<Context>,
    pub(crate) current: Arc<Current>,
    pub(crate) key: BlockKey,
    pub(crate) name: Name,
    /// Each answer is waited for so long, however slow the worker is; `None`: as long as it is worth it.
    pub(crate) patience: Option<Duration>,
}

/// What came of asking one worker once.
enum Asked {
    /// The block, how many copies it says that it has, whether the wait was long, and its number.
    Block(Block, u8, bool, Cas),
    Missing(Buffer, Option<Held>),
    /// Another node fetches it.
    Awaited(Buffer),
    /// The memory, if nothing may come there any more.
    Nothing(Option<Buffer>),
    /// The answer has not come in time, and will come into the memory.
    Late(oneshot::Receiver<Reply>),
}

impl Asked {
    fn outcome(&self) -> Outcome {
        match self {
            Asked::Block(_, copies, was_long, _) => Outcome::Found { copies: *copies, was_long: *was_long },
            Asked::Missing(..) => Outcome::Missing,
            Asked::Awaited(_) => Outcome::Awaited,
            Asked::Nothing(_) | Asked::Late(_) => Outcome::Unasked,
        }
    }

    fn room(self) -> Option<Buffer> {
        match self {
            Asked::Missing(room, _) | Asked::Awaited(room) => Some(room),
            Asked::Nothing(room) => room,
            Asked::Block(..) | Asked::Late(_) => None,
        }
    }
}

/// An answer, and whether the wait for it was long.
struct Answered {
    reply: Reply,
    was_long: bool,
}

impl Answered {
    fn lost(room: Option<Buffer>) -> Answered {
        Answered { reply: Reply::Lost(room), was_long: false }
    }
}

impl LookUp {
    /// Looks it up. No worker is waited for longer than a bounded time, and no other node longer than the backend.
    pub(crate) async fn run(self, mut room: Buffer) -> Lookup {
        let Some(first) = self.current.copy(self.name.hash, FIRST).cloned() else { return miss(Some(room), None) };
        let (mut course, mut limit) = (self.course(), self.limit());
        let mut step = Step::Ask(course.copy());
        loop {
            if let Step::Pause(pause) = step {
                sleep(pause).await;
                limit = self.limit();
            }
            let copy = if let Step::Ask(copy) = step { copy } else { FIRST };
            let asked = self.ask(&first, copy, room, limit).await;
            let mut markers = lock(&first.markers);
            step = course.next(now(), asked.outcome(), &mut markers, &mut lock(&self.context.backend));
            drop(markers);
            match (step, asked) {
                (Step::Take(found), Asked::Block(block, _, _, cas)) => return self.take(&first, found, block, cas),
                (Step::Fetch, Asked::Missing(room, marker)) => return self.fetch(first, room, marker),
                (Step::GiveUp { .. }, Asked::Late(answer)) if copy == FIRST => {
                    let (worker, LookUp { key, name, .. }) = (first, self);
                    return miss(None, Some(Box::new(Late { worker, key, name, answer })));
                }
                (Step::GiveUp { waited }, asked) => return give_up(&first, waited, asked),
                (_, asked) => match asked.room() {
                    Some(memory) => room = memory,
                    None => return miss(None, None),
                },
            }
        }
    }

    fn course(&self) -> Course {
        lock(&self.context.hedges).looked_up();
        let known = lock(&self.context.copies).known(&self.key.file, now());
        Course::new(self.name.hash, known.min(self.current.copies_max()), self.context.draw())
    }

    fn limit(&self) -> Instant {
        now() + self.patience.unwrap_or(self.context.wait_max) + (ASK_MAX - WAIT_MAX)
    }

    fn take(&self, first: &Arc<Worker>, found: Found, block: Block, cas: Cas) -> Lookup {
        lock(&self.context.copies).saw(&self.key.file, found.copies, now());
        if found.waited {
            count(&first.tally.waits);
        }
        let add = found.add.and_then(|number| {
            let worker = self.current.copy(self.name.hash, number)?.clone();
            let is_more = number > found.copies;
            let first = is_more.then(|| (first.clone(), cas));
            let copies = found.copies.max(number);
            Some(Box::new(Spreading { worker, key: self.key, name: self.name, copies, first }) as Box<dyn Fill>)
        });
        Lookup::Hit { block, fill: add }
    }

    fn fetch(&self, first: Arc<Worker>, room: Buffer, marker: Option<Held>) -> Lookup {
        let LookUp { key, name, .. } = *self;
        let fill = Filling { worker: first, key, name, copies: FIRST, marker, replaces: None, then: None, way: None };
        miss(Some(room), Some(Box::new(fill)))
    }

    /// Asks the worker of a copy once, and is through by `limit`.
    async fn ask(&self, first: &Arc<Worker>, copy: u8, room: Buffer, limit: Instant) -> Asked {
        let is_first = copy == FIRST;
        let worker = if is_first { Some(first) } else { self.current.copy(self.name.hash, copy) };
        let Some(worker) = worker else { return Asked::Nothing(Some(room)) };
        let (gate, length) = (&self.context.gate, self.key.length());
        let left = || limit.saturating_duration_since(now());
        let Some(_passage) = gate.pass(length, TURN_MAX.min(left())).await else { return skipped(worker, room) };
        match self.patience.map_or_else(|| worker.advise(length, gate.load_max()), Advice::Ask) {
            Advice::Ask(deadline) => {
                if deadline / 2 > left() {
                    return skipped(worker, room);
                }
                let marks = is_first && lock(&worker.markers).are_used(now());
                match self.answer(worker, room, marks, (deadline, left()), 0).await {
                    Ok(answered) => self.judge(worker, answered, is_first, marks),
                    Err(answer) => Asked::Late(answer),
                }
            }
            Advice::Probe(deadline) => {
                self.probe(worker, deadline);
                skipped(worker, room)
            }
            Advice::Skip => skipped(worker, room),
        }
    }

    /// Asks, and lets nobody wait: what comes of it, the worker remembers.
    fn probe(&self, worker: &Arc<Worker>, deadline: Duration) {
        let room = self.context.budget.take(Purpose::Ahead, LARGE);
        let Some(memory) = room.and_then(|room| room.buffer().ok()) else { return };
        let (probe, worker, beside) = (self.clone(), worker.clone(), weight(self.key.length()));
        efc_tasks::spawn(async move { drop(probe.answer(&worker, memory, false, (deadline, deadline), beside).await) });
    }

    /// The answer.
    ///
    /// # Errors
    /// It comes too late: not by the first of these times, if the look-up may be given up then, nor by the second. Something of the
    /// weight `beside` is under way that the gate does not count.
    async fn answer(
        &self,
        worker: &Arc<Worker>,
        room: Buffer,
        marks: bool,
        (deadline, last): (Duration, Duration),
        beside: u64,
    ) -> Result<Answered, oneshot::Receiver<Reply>> {
        let (context, length, asked) = (&self.context, self.key.length(), now());
        let load_at_begin = context.gate.load();
        let load = || (load_at_begin + context.gate.load()) / 2 + beside;
        let mut answer = match worker.get(&self.name, marks, weight(length), room) {
            Ok(answer) => answer,
            Err(room) => return Ok(Answered::lost(Some(room))),
        };
        let deadline = deadline.min(last);
        let mut reply = in_time(&mut answer, Some(deadline)).await;
        if reply.is_none() {
            worker.late(length, deadline, load(), asked);
            let last = last.min(context.wait_max).saturating_sub(deadline);
            if !last.is_zero() && lock(&context.hedges).take() {
                count(&worker.tally.hedged);
                return Err(answer);
            }
            reply = in_time(&mut answer, Some(last)).await;
        }
        let Some(reply) = reply else { return Err(answer) };
        let reply = reply.unwrap_or(Reply::Lost(None));
        let came = match &reply {
            Reply::Value(value) => value.length,
            Reply::Missing(_) => 0,
            _ => return Ok(Answered { reply, was_long: false }),
        };
        let (length, load) = (came, load().saturating_sub(weight(length)) + weight(came));
        let wait = worker.answered(length, since(asked), load);
        let was_long = wait.is_some_and(|wait| lock(&context.copies).is_wanted(&wait));
        context.answered(length, since(asked), load);
        Ok(Answered { reply, was_long })
    }

    fn judge(&self, worker: &Arc<Worker>, answered: Answered, is_first: bool, marks: bool) -> Asked {
        match answered.reply {
            Reply::Value(value) if value.length == 0 && value.flags.is_marker() => match value.flags.token {
                Token::Won => self.missing(worker, value.memory, Some(value.flags.cas)),
                _ if marks || !is_first => Asked::Awaited(value.memory),
                _ => self.missing(worker, value.memory, None),
            },
            Reply::Value(value) => self.open(worker, value, answered.was_long),
            Reply::Missing(Some(room)) => self.missing(worker, room, None),
            Reply::Lost(room) => {
                count(&worker.tally.lost);
                Asked::Nothing(room)
            }
            _ => Asked::Nothing(None),
        }
    }

    fn missing(&self, worker: &Arc<Worker>, room: Buffer, marker: Option<Cas>) -> Asked {
        count(&worker.tally.misses);
        Asked::Missing(room, marker.map(|cas| Held::new(worker, &self.name, cas)))
    }

    fn open(&self, worker: &Arc<Worker>, mut value: Value, was_long: bool) -> Asked {
        let sealed = value.sealed(seal::sealed_length(self.key.length()));
        let copies = sealed.and_then(|(header, sealed)| {
            seal::open(&self.context.keys, &self.key, header, sealed).then(|| seal::copies(header))
        });
        let Some(copies) = copies else {
            count(&worker.tally.refused_blocks);
            worker.delete(&self.name, value.flags.cas);
            return self.missing(worker, value.memory, None);
        };
        count(&worker.tally.hits);
        add(&worker.tally.hit_bytes, self.key.length() as u64);
        Asked::Block(Block::new(value.memory, self.key.length()), copies, was_long, value.flags.cas)
    }
}

fn miss(room: Option<Buffer>, fill: Option<Box<dyn Fill>>) -> Lookup {
    Lookup::Miss(Miss { room, fill })
}

fn give_up(first: &Worker, waited: bool, asked: Asked) -> Lookup {
    if waited {
        count(&first.tally.vain_waits);
    }
    if let Asked::Awaited(_) = &asked {
        count(&first.tally.misses);
    }
    miss(asked.room(), None)
}

fn skipped(worker: &Worker, room: Buffer) -> Asked {
    count(&worker.tally.skipped);
    Asked::Nothing(Some(room))
}
