//! A world in which tasks run in an order that a seed decides, and time is what the test makes it.
//!
//! A [`Simulation`] is installed on its thread. All tasks that are spawned there run there, one at a time: which of those that are
//! ready is next is drawn by lot. The clock stands still while any task is ready, and jumps to the next time for which a task
//! waits when none is. Each task belongs to a *process*, that of the task which spawned it: a process can be killed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

thread_local! {
    static CURRENT: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// Number of a process of the simulation.
pub type Process = u32;

/// The process of all that is not one of the test's processes: it cannot be killed.
pub const OUTSIDE: Process = 0;

/// Polls without an end in sight after which a run counts as hung.
const POLLS_MAX: u64 = 50_000_000;
/// Simulated time after which a run in which nothing else happens counts as hung.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// The time at which the world begins, since 1970.
pub const EPOCH: Duration = Duration::from_secs(1_800_000_000);

type Work = Pin<Box<dyn Future<Output = ()>>>;

/// What runs on a thread in place of the real executor and the real clock.
pub struct World {
    /// In the order in which they began: a process that is killed drops them so, and each seed has one story.
    tasks: RefCell<BTreeMap<u64, Task>>,
    #[cfg_attr(feature = "shuttle", allow(dead_code))] // there the explorer has the tasks
    tasks_begun: Cell<u64>,
    ready: Arc<Mutex<Vec<u64>>>,
    timers: RefCell<BTreeMap<(Duration, u64), Waker>>,
    timers_begun: Cell<u64>,
    passed: Cell<Duration>,
    begin: Instant,
    dice: Cell<u64>,
    process: Cell<Process>,
    dead: RefCell<HashSet<Process>>,
    polls: Cell<u64>,
}

struct Task {
    process: Process,
    /// `None` while it runs.
    work: Option<Work>,
    waker: Arc<TaskWaker>,
}

struct TaskWaker {
    task: u64,
    is_queued: AtomicBool,
    ready: Arc<Mutex<Vec<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            self.ready.lock().expect("ready lock").push(self.task);
        }
    }
}

/// The world of this thread, until this is dropped.
pub struct Simulation(Rc<World>);

impl std::ops::Deref for Simulation {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

impl Simulation {
    /// Installs a world on this thread in which `seed` decides the order of what is ready.
    ///
    /// # Panics
    /// If there is one.
    pub fn new(seed: u64) -> Simulation {
        let world = Rc::new(World {
            tasks: RefCell::default(),
            tasks_begun: Cell::new(0),
            ready: Arc::default(),
            timers: RefCell::default(),
            timers_begun: Cell::new(0),
            passed: Cell::new(Duration::ZERO),
            begin: Instant::now(),
            dice: Cell::new(seed),
            process: Cell::new(OUTSIDE),
            dead: RefCell::default(),
            polls: Cell::new(0),
        });
        let before = CURRENT.with_borrow_mut(|current| current.replace(world.clone()));
        assert!(before.is_none(), "this thread has a simulation");
        Simulation(world)
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        self.0.dead.borrow_mut().extend(tasks.values().map(|task| task.process));
        drop(tasks);
        CURRENT.with_borrow_mut(Option::take);
    }
}

/// The world of this thread, if it has one.
pub fn current() -> Option<Rc<World>> {
    CURRENT.with_borrow(Option::clone)
}

/// Runs `begin` as a part of `process`.
pub fn in_process<T>(process: Process, begin: impl FnOnce() -> T) -> T {
    let Some(world) = current() else { return begin() };
    let before = world.process.replace(process);
    let result = begin();
    world.process.set(before);
    result
}

/// Makes a future a task of this thread's world; gives it back if there is none.
#[cfg(not(feature = "shuttle"))]
pub(crate) fn take_over<F: Future<Output = ()> + Send + 'static>(future: F) -> Option<F> {
    let Some(world) = current() else { return Some(future) };
    world.add(Box::pin(future));
    None
}

/// See [`crate::spawn_local`].
#[cfg(not(feature = "shuttle"))]
pub(crate) fn spawn_local<T: 'static>(future: impl Future<Output = T> + 'static) -> impl Future<Output = T> {
    let (result, waiter) = (Rc::new(Cell::new(None)), Rc::new(Cell::new(None::<Waker>)));
    let (given, woken) = (result.clone(), waiter.clone());
    current().expect("a simulation").add(Box::pin(async move {
        given.set(Some(future.await));
        woken.take().inspect(Waker::wake_by_ref);
    }));
    std::future::poll_fn(move |context| match result.take() {
        Some(value) => Poll::Ready(value),
        None => {
            waiter.set(Some(context.waker().clone()));
            Poll::Pending
        }
    })
}

impl World {
    /// Simulated time.
    pub fn now(&self) -> Instant {
        self.begin + self.passed.get()
    }

    /// The simulated time of the clock of the system, and of all other machines that are simulated.
    pub fn since_1970(&self) -> Duration {
        EPOCH + self.passed.get()
    }

    /// Simulated time since the beginning.
    pub fn passed(&self) -> Duration {
        self.passed.get()
    }

    /// How often tasks were polled: equal for equal runs.
    pub fn polls(&self) -> u64 {
        self.polls.get()
    }

    /// A number below `end`, by lot.
    pub fn draw(&self, end: u64) -> u64 {
        let state = self.dice.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.dice.set(state);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end.max(1)
    }

    /// Ends `duration` from now.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + use<> {
        let number = self.timers_begun.replace(self.timers_begun.get() + 1);
        Alarm(self.passed.get() + duration, number)
    }

    #[cfg_attr(feature = "shuttle", allow(dead_code))]
    fn add(&self, work: Work) {
        let process = self.process.get();
        if self.dead.borrow().contains(&process) {
            return;
        }
        let task = self.tasks_begun.replace(self.tasks_begun.get() + 1);
        let waker = Arc::new(TaskWaker { task, is_queued: AtomicBool::new(false), ready: self.ready.clone() });
        self.tasks.borrow_mut().insert(task, Task { process, work: Some(work), waker: waker.clone() });
        waker.wake();
    }

    /// Ends a process: its tasks go on no more, and it begins none any more.
    pub fn kill(&self, process: Process) {
        self.dead.borrow_mut().insert(process);
        let mut tasks = self.tasks.borrow_mut();
        let killed: Vec<u64> = tasks.iter().filter(|(_, task)| task.process == process).map(|(id, _)| *id).collect();
        let killed: Vec<Option<Task>> = killed.iter().map(|id| tasks.remove(id)).collect();
        drop(tasks);
        let before = self.ready.lock().expect("ready lock").len();
        in_process(process, || drop(killed));
        self.forget_order_of_wakes(before);
    }

    /// What a process had in tables of hashes was dropped in any order, and whoever waited for it was woken so: each seed has one story.
    fn forget_order_of_wakes(&self, before: usize) {
        let tasks = self.tasks.borrow();
        let mut ready = self.ready.lock().expect("ready lock");
        let mut woken = ready.split_off(before);
        woken.retain(|task| tasks.contains_key(task));
        woken.sort_unstable();
        ready.append(&mut woken);
    }

    /// How many tasks of a process have not ended.
    pub fn tasks_of(&self, process: Process) -> usize {
        self.tasks.borrow().values().filter(|task| task.process == process).count()
    }

    /// Runs one task that is ready; `false` if none is.
    fn step(&self) -> bool {
        let next = {
            let mut ready = self.ready.lock().expect("ready lock");
            if ready.is_empty() {
                return false;
            }
            let lot = self.draw(ready.len() as u64) as usize;
            ready.swap_remove(lot)
        };
        let Some((process, mut work, waker)) = self.tasks.borrow_mut().get_mut(&next).and_then(|task| {
            task.waker.is_queued.store(false, Ordering::Release);
            Some((task.process, task.work.take()?, task.waker.clone()))
        }) else {
            return true; // killed
        };
        self.polls.set(self.polls.get() + 1);
        let waker = Waker::from(waker);
        let polled = in_process(process, || work.as_mut().poll(&mut Context::from_waker(&waker)));
        match polled {
            Poll::Ready(()) => {
                self.tasks.borrow_mut().remove(&next);
                in_process(process, || drop(work));
            }
            Poll::Pending => match self.tasks.borrow_mut().get_mut(&next) {
                Some(task) => task.work = Some(work),
                None => drop(work), // it has killed its own process
            },
        }
        true
    }

    /// Lets time pass until a task can go on; `false` if none waits for a time.
    fn wait(&self) -> bool {
        let first = self.timers.borrow_mut().pop_first();
        let Some(((at, _), waker)) = first else { return false };
        self.passed.set(self.passed.get().max(at));
        waker.wake();
        true
    }

    /// Runs tasks until `future` has ended, and answers what it has ended with.
    ///
    /// # Panics
    /// If nothing can go on, or if it takes an hour of simulated time.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let (mut future, begun, polls) = (pin!(future), self.passed.get(), self.polls.get());
        let is_woken = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(is_woken.clone());
        loop {
            if is_woken.0.swap(false, Ordering::AcqRel)
                && let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return result;
            }
            if is_woken.0.load(Ordering::Acquire) || self.step() {
                assert!(self.polls.get() - polls < POLLS_MAX, "tasks run without an end");
                continue;
            }
            assert!(self.wait(), "nothing can go on: what is waited for never comes");
            assert!(self.passed.get() - begun < WAIT_MAX, "what is waited for has not come in {WAIT_MAX:?}");
        }
    }

    /// Runs all that is ready, and what that makes ready, without any time passing.
    pub fn run_ready(&self) {
        while self.step() {}
    }

    /// Runs tasks for as long.
    pub fn run_for(&self, duration: Duration) {
        self.run(self.sleep(duration));
        self.run_ready();
    }
}

/// A time for which a task waits, and its number.
struct Alarm(Duration, u64);

impl Future for Alarm {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(world) = current() else { return Poll::Pending };
        if world.passed.get() >= self.0 {
            return Poll::Ready(());
        }
        world.timers.borrow_mut().insert((self.0, self.1), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(world) = current() {
            world.timers.borrow_mut().remove(&(self.0, self.1));
        }
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::{spawn, spawn_outside, time};

    /// What five tasks wrote down, each three times, a second apart.
    fn written(seed: u64) -> Vec<usize> {
        let simulation = Simulation::new(seed);
        let written = Arc::new(Mutex::new(Vec::new()));
        for number in 0..5 {
            let written = written.clone();
            spawn(async move {
                for _ in 0..3 {
                    written.lock().unwrap().push(number);
                    time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
        simulation.run_for(Duration::from_secs(10));
        assert_eq!(simulation.passed(), Duration::from_secs(10));
        std::mem::take(&mut *written.lock().unwrap())
    }

    #[test]
    fn a_seed_decides_the_order() {
        assert_eq!(written(1), written(1));
        assert!((2..10).any(|seed| written(seed) != written(1)));
        let mut all = written(3);
        all[..5].sort_unstable();
        assert_eq!(all[..5], [0, 1, 2, 3, 4], "nobody waits for a second while others are ready");
    }

    #[test]
    fn a_killed_process_does_nothing_more_and_others_go_on() {
        let simulation = Simulation::new(7);
        let count = Arc::new(Mutex::new((0, 0)));
        let (dying, living) = (count.clone(), count.clone());
        in_process(1, || {
            spawn(async move {
                spawn_outside(async move {
                    time::sleep(Duration::from_secs(5)).await;
                    living.lock().unwrap().1 += 1;
                });
                time::sleep(Duration::from_secs(5)).await;
                dying.lock().unwrap().0 += 1;
            });
        });
        simulation.run_for(Duration::from_secs(1));
        assert_eq!((simulation.tasks_of(1), simulation.tasks_of(OUTSIDE)), (1, 1));
        simulation.kill(1);
        in_process(1, || spawn(async { panic!("a dead process began something") }));
        simulation.run_for(Duration::from_secs(10));
        assert_eq!(*count.lock().unwrap(), (0, 1));
    }

    #[test]
    #[should_panic(expected = "never comes")]
    fn a_deadlock_is_noticed() {
        Simulation::new(1).run(std::future::pending::<()>());
    }
}
