//! Time passes: what happens, in its order, and what nodes do about it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use efc_workers::policy::copies::COPIES_MAX;
use efc_workers::policy::course::{Course, FIRST, Found, Outcome, Step};
use efc_workers::policy::health::{Advice, WAIT_MAX, weight};
use efc_workers::policy::{ASK_MAX, TURN_MAX};

use crate::figures::Figures;
use crate::node::{LookUp, Node, file_of};
use crate::world::{BLOCK, Settings, WAY, World, hash};

/// What happens. Numbers are of look-ups, with the attempt that they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The block has left a worker: it is received from now on.
    Sent(u32, u32, u32),
    /// It is here.
    Received(u32, u32),
    /// An answer without a block is here.
    Answered(u32, u32, Small),
    /// There is none yet: whether it may be given up, or must be.
    Late(u32, u32, bool),
    /// It has waited long enough for its turn.
    TurnPassed(u32, u32),
    /// A pause is over.
    Look(u32),
    /// A block has left the NAS, or is here, for which the NAS was asked at this time.
    NasSent(u32, u64),
    NasReceived(u32, u64),
    /// A copy is to be put at its worker, has left the node, or is there; how many there are then, if that is to be told.
    Put(u32, u32, u8, u8),
    PutSent(u32, u8, u8),
    PutDone(u32, u8, u8),
    /// The first copy is told how many there are: that has left the node, or is there.
    Told(u32, u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Small {
    Missing,
    Awaited,
}

/// All nodes and their world, in time.
pub struct Play {
    pub world: World,
    pub nodes: Vec<Node>,
    look_ups: Vec<LookUp>,
    free: Vec<u32>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    begin: Instant,
    pub now: u64,
    pub figures: Figures,
}

impl Play {
    pub fn new(settings: Settings) -> Play {
        Play {
            nodes: (0..settings.nodes).map(|number| Node::new(&settings, number)).collect(),
            world: World::new(settings),
            look_ups: Vec::new(),
            free: Vec::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            begin: Instant::now(),
            now: 0,
            figures: Figures::default(),
        }
    }

    /// Until all nodes have all that they want.
    pub fn run(&mut self) {
        let Settings { nodes, streams, ahead, .. } = self.world.settings;
        for stream in (0..ahead).flat_map(|_| 0..streams) {
            (0..nodes).for_each(|node| self.read_on(node, stream));
        }
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            self.figures.events += 1;
            self.happen(event);
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }

    /// The time, as the policy knows it.
    fn instant(&self, at: u64) -> Instant {
        self.begin + Duration::from_nanos(at)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Sent(id, attempt, node) => self.sent(id, attempt, node as usize),
            Event::Received(id, attempt) => self.received(id, attempt),
            Event::Answered(id, attempt, small) if self.is_current(id, attempt) => self.answered(id, small),
            Event::Late(id, attempt, is_last) if self.is_current(id, attempt) => self.late(id, is_last),
            Event::TurnPassed(id, attempt) if self.is_current(id, attempt) => self.turn_passed(id),
            Event::Answered(..) | Event::Late(..) | Event::TurnPassed(..) => {}
            Event::Look(id) => self.enter(id, FIRST),
            Event::NasSent(id, asked) => {
                let node = self.look_ups[id as usize].node as usize;
                let here = self.world.down[node].receive(self.now);
                self.at(here, Event::NasReceived(id, asked));
            }
            Event::NasReceived(id, asked) => self.fetched(id, asked),
            Event::Put(node, block, copy, tell) => {
                let left = self.world.up[node as usize].send(self.now);
                self.at(left + WAY, Event::PutSent(block, copy, tell));
                if tell > 0 && copy > FIRST {
                    // The first copy is put anew behind it, with the number.
                    let left = self.world.up[node as usize].send(self.now + 2 * WAY);
                    self.at(left + WAY, Event::Told(block, tell));
                }
            }
            Event::PutSent(block, copy, tell) => {
                let machine = self.world.machine(self.world.worker(block as usize, copy));
                let there = self.world.down[machine].receive(self.now);
                self.at(there, Event::PutDone(block, copy, tell));
            }
            Event::PutDone(block, copy, _) => {
                self.world.stored[block as usize].put(copy);
                self.figures.copies += u64::from(copy > FIRST);
                if copy == FIRST {
                    (self.figures.full_at, self.figures.full_delivered) = (self.now, self.figures.delivered);
                }
            }
            Event::Told(block, copies) => {
                let machine = self.world.machine(self.world.worker(block as usize, FIRST));
                self.world.down[machine].receive(self.now);
                let stored = &mut self.world.stored[block as usize];
                stored.copies = stored.copies.max(copies); // of those that were told the same, one was the first
            }
        }
    }

    // --- a node reads -----------------------------------------------------------------------------------------------

    fn read_on(&mut self, node: usize, stream: usize) {
        let Settings { blocks_per_file, seed, workers, .. } = self.world.settings;
        let at = self.instant(self.now);
        let this = &mut self.nodes[node];
        let Some(block) = this.next_block(stream, blocks_per_file) else { return };
        this.hedges.looked_up();
        let known = this.copies.known(&file_of(block, blocks_per_file), at);
        let known = known.min(workers.min(usize::from(COPIES_MAX)) as u8);
        let course = Course::new(hash(seed, block), known, this.draws.next());
        let copy = course.copy();
        let id = self.add(node, stream, block, course);
        self.enter(id, copy);
    }

    fn add(&mut self, node: usize, stream: usize, block: usize, course: Course) -> u32 {
        let id = self.free.pop().unwrap_or(self.look_ups.len() as u32);
        let attempt = self.look_ups.get(id as usize).map_or(0, |last| last.attempt + 1);
        let look_up = LookUp {
            node: node as u32,
            stream: stream as u16,
            is_probe: false,
            fills: false,
            is_under_way: false,
            block,
            copy: FIRST,
            attempt,
            course,
            asked: 0,
            deadline: 0,
            last: 0,
            load_at_begin: 0,
        };
        match self.look_ups.get_mut(id as usize) {
            Some(place) => *place = look_up,
            None => self.look_ups.push(look_up),
        }
        id
    }

    fn is_current(&self, id: u32, attempt: u32) -> bool {
        self.look_ups[id as usize].attempt == attempt
    }

    /// Asks for this copy when it is its turn.
    fn enter(&mut self, id: u32, copy: u8) {
        let look_up = &mut self.look_ups[id as usize];
        (look_up.copy, look_up.last) = (copy, self.now + nanos(ASK_MAX));
        let (node, attempt) = (look_up.node as usize, look_up.attempt);
        let this = &mut self.nodes[node];
        if this.waiting.is_empty() && this.limit.has_room(weight(BLOCK)) {
            return self.ask(id);
        }
        this.waiting.push_back(id);
        self.at(self.now + nanos(TURN_MAX), Event::TurnPassed(id, attempt));
    }

    fn turn_passed(&mut self, id: u32) {
        let node = self.look_ups[id as usize].node as usize;
        let waiting = &mut self.nodes[node].waiting;
        if let Some(place) = waiting.iter().position(|other| *other == id) {
            waiting.remove(place);
            self.figures.skipped += 1;
            self.proceed(id, Outcome::Unasked);
        }
    }

    fn ask(&mut self, id: u32) {
        let look_up = &mut self.look_ups[id as usize];
        look_up.attempt += 1;
        look_up.is_under_way = true;
        let (node, block, copy, last) = (look_up.node as usize, look_up.block, look_up.copy, look_up.last);
        let (at, worker) = (self.instant(self.now), self.world.worker(block, copy));
        let this = &mut self.nodes[node];
        this.limit.begin(weight(BLOCK));
        let load = this.limit.load_max();
        let (health, backend) = this.health_and_backend(worker);
        match health.advise(at, BLOCK, load, backend) {
            Advice::Ask(deadline) if nanos(deadline) / 2 <= last.saturating_sub(self.now) => {
                self.send(id, nanos(deadline));
            }
            advice => {
                if let Advice::Probe(deadline) = advice {
                    let probe = self.add(node, 0, block, Course::new(0, FIRST, 0));
                    (self.look_ups[probe as usize].is_probe, self.look_ups[probe as usize].copy) = (true, copy);
                    self.look_ups[probe as usize].last = self.now + nanos(deadline);
                    self.send(probe, nanos(deadline));
                }
                self.figures.skipped += 1;
                self.proceed(id, Outcome::Unasked);
            }
        }
    }

    fn send(&mut self, id: u32, deadline: u64) {
        let (now, look_up) = (self.now, &mut self.look_ups[id as usize]);
        let (block, copy, attempt, is_probe) = (look_up.block, look_up.copy, look_up.attempt, look_up.is_probe);
        look_up.asked = now;
        look_up.load_at_begin = self.nodes[look_up.node as usize].limit.load();
        look_up.last = look_up.last.min(now + nanos(WAIT_MAX));
        look_up.deadline = (now + deadline).min(look_up.last);
        let (node, due) = (look_up.node as usize, look_up.deadline);
        let worker = self.world.worker(block, copy);
        let stored = &mut self.world.stored[block];
        if stored.has(copy) {
            let machine = self.world.machine(worker);
            let left = self.world.up[machine].send(now + WAY);
            self.world.load.count(worker, now);
            self.at(left + WAY, Event::Sent(id, attempt, node as u32));
            if left + WAY > due {
                self.at(due, Event::Late(id, attempt, false));
            }
            return;
        }
        let is_ours =
            copy == FIRST && !is_probe && self.nodes[node].uses_markers(worker, self.begin + Duration::from_nanos(now));
        let small = match (stored.is_marked(copy), copy == FIRST) {
            (true, true) if is_ours => Small::Awaited,
            (true, false) => Small::Awaited,
            _ => Small::Missing,
        };
        if is_ours {
            stored.mark(copy);
        }
        self.at(now + 2 * WAY, Event::Answered(id, attempt, small));
    }

    // --- answers ----------------------------------------------------------------------------------------------------

    fn sent(&mut self, id: u32, attempt: u32, node: usize) {
        let due = self.look_ups[id as usize].deadline;
        let here = self.world.down[node].receive(self.now); // also if nobody waits for it any more
        self.at(here, Event::Received(id, attempt));
        if self.is_current(id, attempt) && self.now <= due && here > due {
            self.at(due, Event::Late(id, attempt, false));
        }
    }

    fn received(&mut self, id: u32, attempt: u32) {
        if !self.is_current(id, attempt) {
            return;
        }
        let was_long = self.learn(id, BLOCK);
        let copies = self.world.stored[self.look_ups[id as usize].block].copies;
        self.proceed(id, Outcome::Found { copies, was_long });
    }

    fn answered(&mut self, id: u32, small: Small) {
        self.learn(id, 0);
        self.proceed(id, if small == Small::Missing { Outcome::Missing } else { Outcome::Awaited });
    }

    /// An answer has come in time.
    fn learn(&mut self, id: u32, length: usize) -> bool {
        let look_up = &self.look_ups[id as usize];
        let took = Duration::from_nanos(self.now - look_up.asked);
        let worker = self.world.worker(look_up.block, look_up.copy);
        let beside = if look_up.is_probe { weight(BLOCK) } else { 0 };
        let this = &mut self.nodes[look_up.node as usize];
        let load = (look_up.load_at_begin + this.limit.load()) / 2 + beside;
        let load = load.saturating_sub(weight(BLOCK)) + weight(length);
        this.health(worker).answered(length, took, load);
        let usual = this.usual.clone();
        let wait = this.health(worker).wait(length, took, load, &usual);
        let was_long = wait.is_some_and(|wait| this.copies.is_wanted(&wait));
        this.usual.add(length, took, load);
        if let Some(alone) = this.usual.large_alone() {
            this.limit.adjust(alone);
        }
        was_long
    }

    fn late(&mut self, id: u32, is_last: bool) {
        let look_up = &self.look_ups[id as usize];
        let (asked, due, last, attempt) = (look_up.asked, look_up.deadline, look_up.last, look_up.attempt);
        let (worker, is_probe) = (self.world.worker(look_up.block, look_up.copy), look_up.is_probe);
        let (node, asked_at) = (look_up.node as usize, self.instant(asked));
        if !is_last {
            let load = (look_up.load_at_begin + self.nodes[node].limit.load()) / 2;
            self.nodes[node].health(worker).late(BLOCK, asked_at, Duration::from_nanos(due - asked), load);
            self.figures.late += 1;
            if last > due && !self.nodes[node].hedges.take() {
                return self.at(last, Event::Late(id, attempt, true));
            }
            self.figures.hedged += u64::from(last > due);
        }
        self.end(id);
        if is_probe { self.free.push(id) } else { self.fetch(id, false) }
    }

    /// What is under way for the look-up is not any more.
    fn end(&mut self, id: u32) {
        let look_up = &mut self.look_ups[id as usize];
        look_up.attempt += 1;
        if !std::mem::take(&mut look_up.is_under_way) {
            return;
        }
        let node = look_up.node as usize;
        self.nodes[node].limit.end(weight(BLOCK));
        while self.nodes[node].limit.has_room(weight(BLOCK))
            && let Some(next) = self.nodes[node].waiting.pop_front()
        {
            self.ask(next);
        }
    }

    fn proceed(&mut self, id: u32, outcome: Outcome) {
        self.end(id);
        let look_up = &mut self.look_ups[id as usize];
        if look_up.is_probe {
            return self.free.push(id);
        }
        let (block, at) = (look_up.block, self.begin + Duration::from_nanos(self.now));
        let first = self.world.worker(block, FIRST);
        let (markers, backend) = self.nodes[look_up.node as usize].markers_and_backend(first);
        let step = look_up.course.next(at, outcome, markers, backend);
        match step {
            Step::Ask(copy) => self.enter(id, copy),
            Step::Pause(pause) => self.at(self.now + nanos(pause), Event::Look(id)),
            Step::Take(found) => self.take(id, found),
            Step::Fetch => self.fetch(id, true),
            Step::GiveUp { waited } => {
                self.figures.vain_waits += u64::from(waited);
                self.fetch(id, false);
            }
        }
    }

    // --- blocks -----------------------------------------------------------------------------------------------------

    fn take(&mut self, id: u32, found: Found) {
        let LookUp { node, block, .. } = self.look_ups[id as usize];
        let (file, at) = (file_of(block, self.world.settings.blocks_per_file), self.instant(self.now));
        self.nodes[node as usize].copies.saw(&file, found.copies, at);
        if let Some(copy) = found.add.filter(|copy| usize::from(*copy) <= self.world.settings.workers) {
            let stored = &mut self.world.stored[block];
            if !stored.has(copy) && !stored.is_marked(copy) {
                stored.mark(copy);
                let tell = if copy > found.copies { copy } else { 0 };
                self.at(self.now + 2 * WAY, Event::Put(node, block as u32, copy, tell));
            }
        }
        self.deliver(id);
    }

    fn fetch(&mut self, id: u32, fills: bool) {
        self.look_ups[id as usize].fills = fills;
        let left = self.world.nas.send(self.now + WAY);
        self.figures.from_nas += 1;
        self.at(left + WAY, Event::NasSent(id, self.now));
    }

    fn fetched(&mut self, id: u32, asked: u64) {
        let LookUp { node, block, fills, .. } = self.look_ups[id as usize];
        let took = Duration::from_nanos(self.now - asked);
        let at = self.instant(self.now);
        self.nodes[node as usize].backend.answered(at, BLOCK, took);
        if fills {
            self.at(self.now, Event::Put(node, block as u32, FIRST, 0));
        }
        self.deliver(id);
    }

    fn deliver(&mut self, id: u32) {
        let LookUp { node, stream, .. } = self.look_ups[id as usize];
        self.free.push(id);
        let Settings { nodes, files_per_node, blocks_per_file, .. } = self.world.settings;
        let this = &mut self.nodes[node as usize];
        this.left -= 1;
        let all = (nodes * files_per_node * blocks_per_file) as u64;
        self.figures.deliver(self.now, all, this.left == 0);
        self.read_on(node as usize, usize::from(stream));
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}
