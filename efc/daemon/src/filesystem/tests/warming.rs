//! Stories of one level of cache that is filled, and no other.

use std::time::Duration;

use efc_backend::{Cred, SetAttr, Status};
use efc_model::{Fault, Nas, Options, Procedure};
use efc_tasks::simulation::Simulation;
use efc_tasks::spawn_local;

use super::common::{pass, pause};
use super::kernel::{Done, File, Kernel, Task, bounded, settings};
use super::pool::Pool;
use crate::filesystem::Settings;
use crate::filesystem::warming::request::{COMMAND, Request, WARMING};

const SECOND: Duration = Duration::from_secs(1);
/// Two blocks, and a bit.
const LARGE: usize = (2 << 20) + 5;
const BLOCK: u64 = 1 << 20;
const STORE: u32 = 1;
const WORKERS: u32 = 2;
const WAS_THERE: u32 = 1;
const GIVEN: u32 = 2;
const UNRESTED: u32 = 4;

/// A NAS with a large file and a small one, and the levels of a node that has seen both long before.
struct World {
    nas: Nas,
    node: Kernel,
    store: Pool,
    workers: Pool,
}

impl World {
    fn new(seed: u64, with: Settings) -> (Simulation, World) {
        let simulation = Simulation::new(seed);
        let nas = Nas::new(Options::default(), seed);
        for (index, block) in vec![7; LARGE].chunks(BLOCK as usize).enumerate() {
            nas.write_outside("large", index as u64 * BLOCK, block);
        }
        nas.write_outside("small", 0, &[8; 5000]);
        let (store, workers) = (Pool::named("store"), Pool::named("workers"));
        let settings = Settings { levels: vec![store.level(), workers.level()], ..with };
        let node = Kernel::mount(&nas, 1, settings, None);
        let world = World { nas, node, store, workers };
        simulation.run(world.watch());
        (simulation, world)
    }

    /// By then the node knows that versions are settled.
    async fn watch(&self) {
        for name in ["large", "small"] {
            self.node.stat(Task::root(), name).await.unwrap();
        }
        pass(3 * SECOND).await;
    }

    /// Fills a level with a file: what was answered of each block.
    async fn warm(&self, name: &str, level: u32) -> Done<Vec<u32>> {
        let task = Task::root();
        let file = self.node.open(task, name, libc::O_RDONLY | WARMING).await?;
        let mut outcomes = Vec::new();
        let end = loop {
            match ask(&self.node, task, file, outcomes.len() as u64 * BLOCK, level).await {
                Ok(Request { length: 0, .. }) => break Ok(()),
                Ok(answer) => outcomes.push(answer.outcome),
                Err(errno) => break Err(errno),
            }
        };
        self.node.close(task, file).await.unwrap();
        pause().await;
        end.map(|()| outcomes)
    }

    /// READs that the NAS has answered, and how many blocks the levels have.
    fn figures(&self) -> (u64, [usize; 2]) {
        (self.nas.executed(Procedure::Read), [self.store.filled(), self.workers.filled()])
    }
}

async fn ask(node: &Kernel, task: Task, file: File, offset: u64, level: u32) -> Done<Request> {
    let request = Request { offset, level, outcome: 0, length: 0 };
    let answer = node.ioctl(task, file, COMMAND, &request.bytes()).await?;
    Ok(Request::parse(&answer).expect("an answer like the question"))
}

#[test]
fn one_level_is_filled_from_wherever_a_block_is_and_the_others_are_not() {
    for (level, other, has) in [(STORE, WORKERS, [4, 0]), (WORKERS, STORE, [0, 4])] {
        let (simulation, world) = World::new(1, settings(SECOND));
        simulation.run(async {
            assert_eq!(world.warm("large", level).await, Ok(vec![GIVEN; 3]));
            assert_eq!(world.warm("small", level).await, Ok(vec![GIVEN]));
            let (reads, filled) = world.figures();
            assert_eq!((reads > 0, filled), (true, has));
            pass(3 * SECOND).await; // what was just read is gone
            assert_eq!(world.warm("large", level).await, Ok(vec![WAS_THERE; 3]));
            assert_eq!(world.warm("small", level).await, Ok(vec![WAS_THERE]));
            assert_eq!(world.figures(), (reads, has), "the level has it");
            pass(3 * SECOND).await;
            assert_eq!(world.warm("large", other).await, Ok(vec![GIVEN; 3]));
            assert_eq!(world.warm("small", other).await, Ok(vec![GIVEN]));
            assert_eq!(world.figures(), (reads, [4, 4]), "from the other level");
            assert_eq!(world.warm("large", other).await, Ok(vec![WAS_THERE; 3]), "though it was just read");
        });
    }
}

#[test]
fn opening_for_this_asks_for_permission_alone_and_for_nothing_ahead() {
    let (simulation, world) = World::new(2, bounded(60 * SECOND));
    world.nas.mkdir_outside("dir");
    let names: Vec<String> = (0..20).map(|number| format!("dir/{number:02}")).collect();
    names.iter().for_each(|name| world.nas.write_outside(name, 0, &[9; 5000]));
    simulation.run(async {
        pass(10 * SECOND).await;
        world.node.list(Task::root(), "dir", 4096, true).await.unwrap();
        for name in &names {
            let file = world.node.open(Task::root(), name, libc::O_RDONLY | WARMING).await.unwrap();
            world.node.close(Task::root(), file).await.unwrap();
        }
        pause().await;
        assert_eq!(world.figures(), (0, [0, 0]));
        assert_eq!(world.node.efc().asked_ahead(), Default::default());
    });
}

#[test]
fn whoever_may_read_the_file_may_do_this_and_nobody_else() {
    let (simulation, world) = World::new(3, settings(SECOND));
    world.nas.set_outside("large", &SetAttr { mode: Some(0o600), uid: Some(1), ..SetAttr::default() });
    simulation.run(async {
        let (node, owner) = (&world.node, Task::new(1));
        let refused = node.open(Task::new(2), "large", libc::O_RDONLY | WARMING).await;
        assert_eq!(refused.err(), Some(libc::EACCES));
        let writer = node.open(owner, "large", libc::O_WRONLY).await.unwrap();
        assert_eq!(ask(node, owner, writer, 0, STORE).await, Err(libc::EBADF));
        node.close(owner, writer).await.unwrap();
        world.watch().await;
        let reader = node.open(owner, "large", libc::O_RDONLY).await.unwrap();
        assert_eq!(ask(node, owner, reader, BLOCK, STORE).await.unwrap().outcome, GIVEN, "through any open to read");
        for (command, level, outcome, errno) in [
            (COMMAND + 1, STORE, 0, libc::ENOSYS),
            (COMMAND, 0, 0, libc::EINVAL),
            (COMMAND, 3, 0, libc::EINVAL),
            (COMMAND, STORE, 1, libc::EINVAL),
        ] {
            let request = Request { offset: 0, level, outcome, length: 0 };
            assert_eq!(node.ioctl(owner, reader, command, &request.bytes()).await, Err(errno));
        }
        assert_eq!(node.ioctl(owner, reader, COMMAND, b"short").await, Err(libc::EINVAL));
        node.close(owner, reader).await.unwrap();
    });
}

#[test]
fn a_level_that_there_is_not_is_refused() {
    let (simulation, world) = World::new(4, settings(SECOND));
    let store = || Settings { levels: vec![world.store.level()], ..settings(SECOND) };
    let others = [store(), settings(SECOND)].map(|settings| Kernel::mount(&world.nas, 2, settings, None));
    simulation.run(async {
        for node in others {
            let file = node.open(Task::root(), "large", libc::O_RDONLY | WARMING).await.unwrap();
            assert_eq!(ask(&node, Task::root(), file, 0, WORKERS).await, Err(libc::EOPNOTSUPP));
            node.close(Task::root(), file).await.unwrap();
        }
    });
}

#[test]
fn a_file_that_has_changed_lately_and_a_nas_that_refuses_are_told_and_fill_nothing() {
    let (simulation, world) = World::new(5, settings(SECOND));
    simulation.run(async {
        world.nas.write_outside("large", 0, b"new");
        assert_eq!(world.warm("large", STORE).await, Ok(vec![UNRESTED; 3]));
        assert_eq!(world.figures(), (0, [0, 0]), "it would be read in vain");
        world.watch().await;
        world.nas.fault(Fault::Status(Procedure::Read, Status::Acces), 1);
        assert_eq!(world.warm("large", STORE).await, Err(libc::EACCES));
        assert_eq!(world.warm("large", STORE).await, Ok(vec![GIVEN; 3]));
    });
}

#[test]
fn a_daemon_that_is_killed_meanwhile_and_a_caller_who_is_harm_nobody() {
    let (simulation, world) = World::new(6, settings(SECOND));
    let node = &world.node;
    simulation.run(async {
        let (task, dying) = (Task::root(), Task::root());
        let file = node.open(task, "large", libc::O_RDONLY | WARMING).await.unwrap();
        let hold = world.nas.hold(Procedure::Read);
        let begin = |task, block: u64| {
            let node = node.clone();
            spawn_local(async move { ask(&node, task, file, block * BLOCK, WORKERS).await })
        };
        let (questions, killed) = ([0, 1, 1].map(|block| begin(task, block)), begin(dying, 2));
        pause().await;
        node.kill(dying);
        assert_eq!(killed.await, Err(libc::EINTR));
        for _ in 0..2 {
            node.kill_daemon();
            pause().await;
        }
        drop(hold);
        for question in questions {
            assert_eq!(question.await.unwrap().outcome, UNRESTED, "the next daemon was asked, and does not know that");
        }
        assert_eq!(ask(node, task, file, 0, WORKERS).await.unwrap().outcome, UNRESTED, "nor does the one after it");
        pass(3 * SECOND).await;
        for block in 0..3 {
            assert_eq!(ask(node, task, file, block * BLOCK, WORKERS).await.unwrap().outcome, GIVEN);
        }
        node.close(task, file).await.unwrap();
        node.settled().await;
        assert_eq!(world.figures().1, [0, 3], "which level is meant is known to it");
    });
    node.assert_nothing_leaked();
}

#[test]
fn a_reader_beside_it_has_all_levels_filled() {
    let (simulation, world) = World::new(7, settings(SECOND));
    let node = &world.node;
    simulation.run(async {
        let task = Task::root();
        let warming = node.open(task, "large", libc::O_RDONLY | WARMING).await.unwrap();
        let reading = node.open(task, "large", libc::O_RDONLY).await.unwrap();
        let (before, hold) = (world.nas.executed(Procedure::Read), world.nas.hold(Procedure::Read));
        let warmer = node.clone();
        let warmer = spawn_local(async move { ask(&warmer, task, warming, 0, WORKERS).await });
        pause().await;
        let reader = node.clone();
        let reader = spawn_local(async move { reader.ask_read(task, reading, 0, 1 << 17).await });
        pause().await;
        drop(hold);
        assert_eq!(warmer.await.unwrap().outcome, GIVEN);
        assert!(reader.await.unwrap() == vec![7; 1 << 17]);
        pause().await;
        let reads_of_a_block = BLOCK / (1 << 17);
        assert_eq!(world.figures(), (before + reads_of_a_block, [1, 1]));
        for file in [warming, reading] {
            node.close(task, file).await.unwrap();
        }
    });
}

#[test]
fn where_the_kernel_opens_files_by_itself_it_is_asked_in_the_name_of_the_mount() {
    let cred = Cred { uid: 0, gid: 0, groups: [].into() };
    let (simulation, world) = World::new(8, Settings { unopened: Some(cred), ..bounded(3 * SECOND) });
    simulation.run(async {
        for (name, blocks) in [("large", 3), ("small", 1)] {
            assert_eq!(world.warm(name, WORKERS).await, Ok(vec![GIVEN; blocks]));
        }
        assert_eq!(world.figures().1, [0, 4]);
        world.nas.set_outside("large", &SetAttr { mode: Some(0), uid: Some(1), ..SetAttr::default() });
        world.nas.configure(|options| options.squashes_root = true);
        pass(4 * SECOND).await;
        assert_eq!(world.warm("large", STORE).await, Err(libc::EACCES), "as a read would be");
    });
}
