//! Random histories: processes on one or two nodes and writers elsewhere share files, are killed, and so are daemons and the NAS. Each
//! read must be of a write that the consistency mode allows.
//!
//! A file has slots, and a write gives one slot a value that no other write has. A write is *known* to a reader that must see it,
//! or a later one: on its own node when it has returned; elsewhere by the [`Rule`] of the mode. What a reader sees
//! must not be older than what is known to it: it must not have returned before a write began that is known (nor, if it was another node's
//! that holds data back, have been closed before). After a NAS has lost its memory only what had been synced is known until it is written
//! again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use efc_backend::{Cred, SetAttr, SetTime};
use efc_model::{Nas, Options};
use efc_tasks::simulation::Simulation;
use efc_tasks::spawn_local;

use super::common::draw;
use super::kernel::{Done, File, Kernel, Task, behind, bounded, sealed, settings};
use super::pool::Pool;
use super::with_seeds;
use crate::filesystem::Settings;

const SLOT: usize = 8;
const SLOTS: usize = 3;
/// Slots lie so far apart: some share a page, or a block.
const DISTANCE: u64 = 3000;
const DISTANCE_BY_BLOCKS: u64 = 700_000;
/// As much as a read asks for that goes by blocks.
const READ_BY_BLOCKS: usize = 1 << 17;
const FILES: usize = 3;
/// How often a reader that finds an end of a file reads on.
const SHORT_READS_MAX: usize = 4;
/// The node of writers elsewhere.
const ELSEWHERE: usize = 99;

#[derive(Clone, Copy, Debug)]
struct Write {
    node: usize,
    file: usize,
    slot: usize,
    value: u64,
    /// Numbers of events, in their order.
    begun: u64,
    returned: Option<u64>,
    /// Since when it need not be on the disk only, but for all to see.
    closed: Option<u64>,
    closed_at: Option<Instant>,
    /// It failed, or its caller was killed: it may never have happened.
    is_uncertain: bool,
}

/// When a write elsewhere is known to a reader.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// It was closed before the reader's open began.
    CloseToOpen,
    /// It was closed so long before the read began.
    Bounded(Duration),
    /// Never.
    Sealed,
}

/// A reader, and what it has done.
#[derive(Clone, Copy)]
struct Reader {
    node: usize,
    /// When it began to open the file, and to read.
    opened: u64,
    began: u64,
    began_at: Instant,
}

struct History {
    rule: Cell<Rule>,
    /// Files are large, and read past the kernel's pages.
    by_blocks: bool,
    events: Cell<u64>,
    writes: RefCell<Vec<Write>>,
    /// When the NAS last lost its memory.
    crashed: Cell<Option<u64>>,
    /// Nodes hold written data back.
    holds_back: Cell<bool>,
    operations: Cell<u64>,
}

fn name(file: usize) -> String {
    format!("f{file}")
}

/// How a value lies in the file. 0 is what nobody has written.
fn value_of(bytes: &[u8]) -> u64 {
    let mut value = [0; SLOT];
    value[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(value)
}

impl History {
    /// Where a slot lies.
    fn place(&self, slot: usize) -> u64 {
        slot as u64 * if self.by_blocks { DISTANCE_BY_BLOCKS } else { DISTANCE }
    }

    fn event(&self) -> u64 {
        self.events.set(self.events.get() + 1);
        self.events.get()
    }

    fn begin(&self, node: usize, file: usize, slot: usize) -> (usize, u64) {
        let mut writes = self.writes.borrow_mut();
        let value = writes.len() as u64 + 1;
        let (begun, returned, closed, closed_at) = (self.event(), None, None, None);
        writes.push(Write { node, file, slot, value, begun, returned, closed, closed_at, is_uncertain: false });
        (writes.len() - 1, value)
    }

    fn end(&self, write: usize, is_certain: bool) {
        let now = self.event();
        let mut writes = self.writes.borrow_mut();
        writes[write].returned = Some(now);
        writes[write].is_uncertain = !is_certain;
    }

    fn close(&self, written: &[usize]) {
        let now = self.event();
        let mut writes = self.writes.borrow_mut();
        for write in written {
            (writes[*write].closed, writes[*write].closed_at) = (Some(now), Some(efc_tasks::time::now()));
        }
    }

    /// Is this write known to the reader?
    fn is_known(&self, write: &Write, reader: &Reader) -> bool {
        let is_before = |event: Option<u64>, other: u64| event.is_some_and(|event| event < other);
        let is_safe =
            self.crashed.get().is_none_or(|crashed| is_before(write.closed, crashed) || write.begun > crashed);
        let is_seen = match self.rule.get() {
            _ if write.node == reader.node => is_before(write.returned, reader.began),
            Rule::CloseToOpen => is_before(write.closed, reader.opened),
            Rule::Bounded(bound) => write.closed_at.is_some_and(|closed| closed + bound < reader.began_at),
            Rule::Sealed => false,
        };
        !write.is_uncertain && is_safe && is_seen
    }

    fn check(&self, reader: &Reader, (file, slot): (usize, usize), value: u64) {
        let writes = self.writes.borrow();
        let seen = value.checked_sub(1).map(|index| writes[index as usize]);
        assert!(seen.is_none_or(|seen| (seen.file, seen.slot) == (file, slot)), "{value} was never written there");
        // What one node has written before a crash of the NAS, and sends again, may end up over what another has written since.
        let is_sent_again = |seen: &Write, write: &Write| self.crashed.get().is_some() && seen.node != write.node;
        // What is held back gets to the NAS at any time until its close.
        let may_follow = |seen: &Write, write: &Write| self.holds_back.get() && seen.node != write.node;
        let seen_done = |write: &Write| match &seen {
            None => Some(0),
            Some(seen) if is_sent_again(seen, write) || may_follow(seen, write) => seen.closed,
            Some(seen) => seen.returned,
        };
        let of_slot = writes.iter().filter(|write| (write.file, write.slot) == (file, slot) && write.value != value);
        for write in of_slot.filter(|write| self.is_known(write, reader)) {
            let is_older = seen_done(write).is_some_and(|done| done < write.begun);
            let Reader { node, opened, began, .. } = reader;
            assert!(!is_older, "node {node} reads {seen:?}, older than {write:?}; open at {opened}, read at {began}");
        }
    }
}

struct Process {
    kernel: Kernel,
    node: usize,
    history: Rc<History>,
    task: Cell<Task>,
    may_be_killed: bool,
    may_write: bool,
}

impl Process {
    /// A killed process is followed by another one.
    fn survives<T>(&self, done: Done<T>) -> Option<T> {
        match done {
            Ok(result) => Some(result),
            Err(errno) => {
                assert!(self.may_be_killed && errno == libc::EINTR, "errno {errno}");
                self.task.set(Task::root());
                None
            }
        }
    }

    async fn session(&self) {
        let (file, task, opened) = (draw(FILES), self.task.get(), self.history.event());
        let writes = self.may_write && draw(2) == 0;
        let flags = if writes { libc::O_RDWR } else { libc::O_RDONLY };
        let Some(open) = self.survives(self.kernel.open(task, &name(file), flags).await) else { return };
        let mut written = Vec::new();
        for _ in 0..draw(5) + 1 {
            self.history.operations.set(self.history.operations.get() + 1);
            let slot = draw(SLOTS);
            let is_over = match draw(5) {
                0 | 1 if writes => self.write(open, (file, slot), &mut written).await,
                2 if writes => {
                    let synced = self.survives(self.kernel.fsync(self.task.get(), open).await);
                    synced.inspect(|()| self.history.close(&written)).is_none()
                }
                _ => self.read(open, (file, slot), opened).await,
            };
            if is_over {
                break;
            }
        }
        let closer = self.task.get();
        let closed = self.survives(self.kernel.close(closer, open).await);
        if self.kernel.is_killed(closer) {
            self.task.set(Task::root()); // its exit waits for nothing
        } else if closed.is_some() {
            self.history.close(&written);
        }
    }

    /// `true` if the process was killed.
    async fn write(&self, open: File, (file, slot): (usize, usize), written: &mut Vec<usize>) -> bool {
        let (write, value) = self.history.begin(self.node, file, slot);
        let data = value.to_le_bytes();
        let done = self.kernel.write(self.task.get(), open, self.history.place(slot), &data).await;
        self.history.end(write, done.is_ok());
        if done.is_ok() {
            written.push(write);
        }
        self.survives(done).is_none()
    }

    async fn read(&self, open: File, (file, slot): (usize, usize), opened: u64) -> bool {
        let reader = Reader { node: self.node, opened, began: self.history.event(), began_at: efc_tasks::time::now() };
        let mut data = Vec::new();
        // Where a write of this node has just ended, the kernel does not take the size that it had asked for before: it sees
        // what has grown elsewhere a read later.
        for _ in 0..SHORT_READS_MAX {
            let (task, place) = (self.task.get(), self.history.place(slot));
            let read = match self.history.by_blocks {
                false => self.kernel.read(task, open, place, SLOT).await,
                true => self.kernel.ask_read(task, open, place, READ_BY_BLOCKS).await,
            };
            let Some(read) = self.survives(read) else { return true };
            data = read;
            data.truncate(SLOT);
            if data.len() == SLOT {
                break;
            }
        }
        self.history.check(&reader, (file, slot), value_of(&data));
        false
    }

    async fn run(self: Rc<Self>, sessions: usize) {
        for _ in 0..sessions {
            self.session().await;
            efc_tasks::time::sleep(Duration::from_millis(draw(20) as u64)).await;
        }
    }
}

#[derive(Clone, Copy)]
enum Mode {
    CloseToOpen,
    Bounded,
    /// Bounded, and the kernel opens files without asking: nobody writes here.
    Unopened,
    Sealed,
}

/// What happens beside the processes.
struct Trouble {
    elsewhere: bool,
    /// Writers elsewhere put the modification time back: the time of change alone tells.
    hides: bool,
    crashes: bool,
    kills_callers: bool,
    kills_daemons: bool,
}

async fn make_trouble(trouble: Trouble, nas: Nas, processes: Vec<Rc<Process>>, is_over: Rc<Cell<bool>>) {
    let history = processes[0].history.clone();
    while !is_over.get() {
        efc_tasks::time::sleep(Duration::from_millis(draw(40) as u64)).await;
        let process = &processes[draw(processes.len())];
        match draw(8) {
            0 | 1 if trouble.elsewhere => {
                let (file, slot) = (draw(FILES), draw(SLOTS));
                let (write, value) = history.begin(ELSEWHERE, file, slot);
                let before = nas.attr(&name(file)).expect("a file").mtime;
                nas.write_outside(&name(file), history.place(slot), &value.to_le_bytes());
                if trouble.hides {
                    nas.set_outside(&name(file), &SetAttr { mtime: SetTime::To(before), ..SetAttr::default() });
                }
                history.end(write, true);
                history.close(&[write]);
                history.operations.set(history.operations.get() + 1);
            }
            2 if trouble.crashes => {
                nas.crash();
                history.crashed.set(Some(history.event()));
            }
            3 | 4 if trouble.kills_callers => process.kernel.kill(process.task.get()),
            5 if trouble.kills_daemons && draw(3) == 0 => process.kernel.kill_daemon(),
            _ => {}
        }
    }
}

fn run(seed: u64, mode: Mode, by_blocks: bool) -> u64 {
    let simulation = Simulation::new(seed);
    let granularities = [1, 1_000_000, 1_000_000_000];
    let options = Options {
        granularity: granularities[draw(granularities.len())],
        has_wcc: draw(4) != 0,
        has_attributes: draw(4) != 0,
        ..Options::default()
    };
    let nas = Nas::new(options, seed);
    let distance = if by_blocks { DISTANCE_BY_BLOCKS } else { DISTANCE };
    let length = [SLOT, (SLOTS as u64 * distance) as usize][draw(2)];
    (0..FILES).for_each(|file| nas.write_outside(&name(file), 0, &vec![0; length]));
    nas.network().set_delay(Duration::from_micros(draw(5000) as u64));
    nas.network().set_lost(draw(100) as u32);
    let ttls = [0, 5, 1000];
    let ttl = Duration::from_millis(ttls[draw(ttls.len())]);
    let write_behinds = [0, 10, 1000];
    let write_behind = Duration::from_millis(write_behinds[draw(write_behinds.len())]);
    // Of a sealed file nobody else sees changes.
    let (settings, rule, nodes) = match mode {
        Mode::CloseToOpen => (settings(ttl), Rule::CloseToOpen, draw(2) + 1),
        Mode::Bounded => (bounded(ttl), Rule::Bounded(ttl), draw(2) + 1),
        Mode::Unopened => (bounded(ttl), Rule::Bounded(ttl), draw(2) + 1),
        Mode::Sealed => (sealed(ttl), Rule::Sealed, 1),
    };
    let is_unopened = matches!(mode, Mode::Unopened);
    let settings = Settings { unopened: is_unopened.then(Cred::root), ..settings };
    let settings = behind(write_behind, settings);
    // The files are small: whatever is read of them goes through the chain.
    let pool = [None, Some(Pool::whimsical())][draw(2)].take().or_else(|| by_blocks.then(Pool::whimsical));
    let levels = pool.iter().map(Pool::level).collect();
    let settings = Settings { levels, ..settings };
    let nodes: Vec<Kernel> = (0..nodes).map(|node| Kernel::mount(&nas, node as u32, settings.clone(), None)).collect();
    let trouble = Trouble {
        elsewhere: is_unopened || !matches!(mode, Mode::Sealed) && draw(2) == 0,
        hides: is_unopened && draw(2) == 0,
        crashes: draw(4) == 0,
        kills_callers: draw(3) == 0,
        kills_daemons: draw(3) == 0,
    };
    let (events, writes, crashed, operations) = Default::default();
    let holds_back = Cell::new(!write_behind.is_zero());
    let history =
        Rc::new(History { rule: Cell::new(rule), by_blocks, events, writes, crashed, holds_back, operations });
    let processes: Vec<Rc<Process>> = (0..4)
        .map(|number| {
            let node = number % nodes.len();
            let (kernel, history, task) = (nodes[node].clone(), history.clone(), Cell::new(Task::root()));
            Rc::new(Process {
                kernel,
                node,
                history,
                task,
                may_be_killed: trouble.kills_callers,
                may_write: !is_unopened,
            })
        })
        .collect();
    let is_over = Rc::new(Cell::new(false));
    simulation.run(async {
        let running: Vec<_> = processes.iter().map(|process| spawn_local(process.clone().run(15))).collect();
        let troubled = spawn_local(make_trouble(trouble, nas.clone(), processes.clone(), is_over.clone()));
        for process in running {
            process.await;
        }
        is_over.set(true);
        troubled.await;
        for node in &nodes {
            node.settled().await;
        }
        efc_tasks::time::sleep(Duration::from_secs(120)).await;
        // All is closed: the NAS has what is known to everybody, and keeps it.
        nas.crash_hard();
        history.rule.set(Rule::CloseToOpen);
        let count = history.writes.borrow().len();
        history.close(&(0..count).collect::<Vec<_>>());
        for (file, slot) in (0..FILES).flat_map(|file| (0..SLOTS).map(move |slot| (file, slot))) {
            let content = nas.content(&name(file)).expect("a file");
            let begin = content.len().min(history.place(slot) as usize);
            let value = value_of(&content[begin..content.len().min(begin + SLOT)]);
            let now = history.event();
            let everybody = Reader { node: ELSEWHERE + 1, opened: now, began: now, began_at: efc_tasks::time::now() };
            history.check(&everybody, (file, slot), value);
        }
    });
    nodes.iter().for_each(Kernel::assert_nothing_left);
    history.operations.get()
}

#[test]
fn model_of_histories() {
    let begin = std::time::Instant::now();
    let operations = with_seeds(120, |seed| run(seed, Mode::CloseToOpen, false));
    eprintln!("histories: {operations} operations in {:?}", begin.elapsed());
}

#[test]
fn model_of_histories_within_a_bound() {
    let operations = with_seeds(120, |seed| run(seed, Mode::Bounded, false));
    assert!(operations > 0);
}

#[test]
fn model_of_histories_of_files_opened_without_asking() {
    let operations = with_seeds(120, |seed| run(seed, Mode::Unopened, seed % 4 == 3));
    assert!(operations > 0);
}

#[test]
fn model_of_histories_of_sealed_files() {
    let operations = with_seeds(60, |seed| run(seed, Mode::Sealed, false));
    assert!(operations > 0);
}

#[test]
fn model_of_histories_by_blocks() {
    let modes = [Mode::CloseToOpen, Mode::Bounded, Mode::Sealed];
    let operations = with_seeds(60, |seed| run(seed, modes[seed as usize % modes.len()], true));
    assert!(operations > 0);
}
