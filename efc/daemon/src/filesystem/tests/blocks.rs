//! Stories of reads through the chain of caches.

use std::time::Duration;

use efc_backend::{SetAttr, Status};
use efc_buffer::{Budget, BudgetLimits};
use efc_model::{Fault, Nas, Options, Procedure};
use efc_tasks::simulation::Simulation;
use efc_tasks::spawn_local;

use super::common::{pass, pause};
use super::kernel::{Kernel, Task, bounded, settings};
use super::pool::Pool;
use crate::filesystem::Settings;

const SECOND: Duration = Duration::from_secs(1);
/// Larger than what is read when a file is opened.
const LARGE: usize = 3 << 20;
/// As much as the kernel's read-ahead asks for at once.
const AHEAD: usize = 1 << 17;

fn with_pool(pool: &Pool) -> Settings {
    Settings { levels: vec![pool.level()], ..settings(SECOND) }
}

/// Two nodes with a pool, and a NAS with a file.
fn world(seed: u64, pool: &Pool) -> (Simulation, Nas, [Kernel; 2]) {
    world_with(seed, with_pool(pool))
}

fn world_with(seed: u64, settings: Settings) -> (Simulation, Nas, [Kernel; 2]) {
    let simulation = Simulation::new(seed);
    let nas = Nas::new(Options::default(), seed);
    write(&nas, 1);
    let nodes = [1, 2].map(|number| Kernel::mount(&nas, number, settings.clone(), None));
    (simulation, nas, nodes)
}

/// Writes the whole file elsewhere.
fn write(nas: &Nas, value: u8) {
    for (index, block) in content(value).chunks(1 << 20).enumerate() {
        nas.write_outside("file", (index << 20) as u64, block);
    }
}

fn content(value: u8) -> Vec<u8> {
    (0..LARGE).map(|at| (at / 7) as u8 ^ value).collect()
}

/// Opens the file, reads all of it as the kernel's read-ahead does, and closes it.
async fn read(node: &Kernel, name: &str) -> Vec<u8> {
    let task = Task::root();
    let file = node.open(task, name, libc::O_RDONLY).await.unwrap();
    let mut data = Vec::new();
    loop {
        let part = node.ask_read(task, file, data.len() as u64, AHEAD).await.unwrap();
        data.extend_from_slice(&part);
        if part.len() < AHEAD {
            break;
        }
    }
    node.close(task, file).await.unwrap();
    data
}

/// Reads the file as it is known to be `value`; answers how many READs that cost the NAS.
async fn reads(nas: &Nas, node: &Kernel, value: u8) -> u64 {
    let before = nas.executed(Procedure::Read);
    assert!(read(node, "file").await == content(value), "other data");
    pause().await;
    nas.executed(Procedure::Read) - before
}

/// The node sees the file long before what follows: by then it knows that the version is settled.
async fn watch(nas: &Nas, node: &Kernel) {
    reads(nas, node, 1).await;
    pass(3 * SECOND).await;
}

/// READs of one pass over the file, and one to see its end.
const ALL: u64 = (LARGE / AHEAD) as u64 + 1;
/// READs of one block.
const BLOCK: u64 = ((1 << 20) / AHEAD) as u64;

#[test]
fn what_one_node_has_read_another_reads_without_the_server_until_it_changes() {
    let pool = Pool::reliable();
    let (simulation, nas, [first, second]) = world(1, &pool);
    simulation.run(async {
        assert_eq!((reads(&nas, &first, 1).await, pool.filled()), (ALL, 0), "its version is not settled");
        pass(3 * SECOND).await;
        assert_eq!((reads(&nas, &first, 1).await, pool.filled()), (ALL, 3));
        assert_eq!((reads(&nas, &second, 1).await, pool.hits()), (1, 3), "each block once");
        write(&nas, 2);
        assert_eq!(reads(&nas, &second, 2).await, ALL);
    });
}

#[test]
fn a_block_is_read_once_for_all_who_ask_meanwhile_and_the_death_of_the_first_is_none_of_theirs() {
    let pool = Pool::reliable();
    let (simulation, nas, [first, _]) = world(2, &pool);
    simulation.run(async {
        watch(&nas, &first).await;
        let dying = Task::root();
        let file = first.open(dying, "file", libc::O_RDONLY).await.unwrap();
        let (before, hold) = (nas.executed(Procedure::Read), nas.hold(Procedure::Read));
        let read = |task| {
            let kernel = first.clone();
            spawn_local(async move { kernel.ask_read(task, file, 0, AHEAD).await })
        };
        let (killed, others) = (read(dying), [(); 3].map(|()| read(Task::root())));
        pause().await;
        first.kill(dying);
        assert!(killed.await == Err(libc::EINTR));
        drop(hold);
        for other in others {
            assert!(other.await.unwrap() == content(1)[..AHEAD]);
        }
        assert_eq!(nas.executed(Procedure::Read) - before, BLOCK);
        first.close(Task::root(), file).await.unwrap();
        first.settled().await;
    });
    first.assert_nothing_leaked();
}

#[test]
fn a_few_bytes_come_from_a_level_that_can_give_them_alone() {
    for (pool, hits) in [(Pool::in_parts(), 2), (Pool::reliable(), 0)] {
        let (simulation, nas, [first, second]) = world(5, &pool);
        simulation.run(async {
            watch(&nas, &first).await;
            reads(&nas, &first, 1).await;
            watch(&nas, &second).await;
            let (before, given) = (nas.executed(Procedure::Read), pool.hits());
            let task = Task::root();
            let file = second.open(task, "file", libc::O_RDONLY).await.unwrap();
            // The second one ends with the file, the third spans two blocks.
            for (offset, end) in [(4096, 8192), (LARGE as u64 - 100, LARGE as u64), ((1 << 20) - 100, (1 << 20) + 100)]
            {
                let found = second.ask_read(task, file, offset, (end - offset) as usize).await.unwrap();
                assert!(found == content(1)[offset as usize..end as usize]);
            }
            assert_eq!((pool.hits() - given, nas.executed(Procedure::Read) - before), (hits, 3 - hits));
            second.close(task, file).await.unwrap();
        });
    }
}

#[test]
fn a_level_that_gives_too_little_or_too_much_is_not_believed() {
    let pool = Pool::reliable();
    let (simulation, nas, [first, second]) = world(3, &pool);
    simulation.run(async {
        watch(&nas, &first).await;
        reads(&nas, &first, 1).await;
        for length in [0, 7, (1 << 20) + 1] {
            pass(3 * SECOND).await;
            pool.spoil(length);
            assert_eq!((reads(&nas, &second, 1).await, pool.filled()), (ALL, 3));
        }
    });
}

#[test]
fn what_this_node_writes_is_read_and_not_what_was_cached_before() {
    let pool = Pool::reliable();
    let (simulation, nas, [first, second]) = world(4, &pool);
    simulation.run(async {
        for node in [&first, &first, &second] {
            watch(&nas, node).await;
        }
        let task = Task::root();
        let file = second.open(task, "file", libc::O_RDWR).await.unwrap();
        second.write(task, file, 5, b"new").await.unwrap();
        let head = async |node: &Kernel, file| node.ask_read(task, file, 0, AHEAD).await.unwrap()[..8].to_vec();
        let (mut old, mut new) = (content(1)[..8].to_vec(), content(1)[..8].to_vec());
        new[5..].copy_from_slice(b"new");
        assert_eq!(head(&second, file).await, new);
        second.close(task, file).await.unwrap();
        let file = first.open(task, "file", libc::O_RDWR).await.unwrap();
        assert_eq!(head(&first, file).await, new);
        first.write(task, file, 5, &old.split_off(5)).await.unwrap();
        first.close(task, file).await.unwrap();
        assert_eq!(reads(&nas, &second, 1).await, ALL, "of a version that is not settled");
    });
}

/// A file that has changed is read anew by whoever opens it with these flags, or has them when it is read.
fn read_past_caches(seed: u64, at_open: i32, at_read: i32) {
    let pool = Pool::reliable();
    let (simulation, nas, [first, _]) = world(seed, &pool);
    simulation.run(async {
        watch(&nas, &first).await;
        reads(&nas, &first, 1).await;
        let task = Task::root();
        let file = first.open(task, "file", at_open).await.unwrap();
        write(&nas, 2);
        let seen = first.ask_read(task, file.with_flags(at_read), 0, AHEAD).await.unwrap();
        assert!(seen == content(2)[..AHEAD]);
        first.close(task, file).await.unwrap();
    });
}

#[test]
fn who_reads_past_caches_asks_the_server() {
    read_past_caches(6, libc::O_RDONLY | libc::O_DIRECT, libc::O_RDONLY | libc::O_DIRECT);
}

#[test]
fn who_turns_caches_off_for_an_open_file_asks_the_server() {
    read_past_caches(8, libc::O_RDONLY, libc::O_RDONLY | libc::O_DIRECT);
}

#[test]
fn a_file_that_stays_open_is_seen_to_change_within_the_longest_time_by_readers_who_ask_for_no_attributes() {
    let pool = Pool::reliable();
    let (simulation, nas, [first, second]) = world(7, &pool);
    simulation.run(async {
        watch(&nas, &first).await;
        reads(&nas, &first, 1).await;
        let task = Task::root();
        let file = second.open(task, "file", libc::O_RDONLY).await.unwrap();
        write(&nas, 2);
        pass(61 * SECOND).await;
        let seen = second.ask_read(task, file, 0, AHEAD).await.unwrap();
        assert!(seen == content(2)[..AHEAD], "through a mapping, or without the kernel's cache");
        second.close(task, file).await.unwrap();
    });
}

#[test]
fn who_reads_from_a_server_that_has_gone_waits_for_one_limit_whoever_began_to_read() {
    let pool = Pool::reliable();
    let (simulation, nas, _) = world(9, &pool);
    let limited = Kernel::mount(&nas, 3, with_pool(&pool), Some(5 * SECOND));
    simulation.run(async {
        watch(&nas, &limited).await;
        let task = Task::root();
        let file = limited.open(task, "file", libc::O_RDONLY).await.unwrap();
        let hold = nas.hold(Procedure::Read);
        let read = |after| {
            let kernel = limited.clone();
            spawn_local(async move {
                pass(after).await;
                let begun = efc_tasks::time::now();
                let read = kernel.ask_read(Task::root(), file, 0, AHEAD).await;
                (read, efc_tasks::time::since(begun))
            })
        };
        for reader in [Duration::ZERO, SECOND, 2 * SECOND].map(read) {
            let (read, took) = reader.await;
            assert_eq!(read, Err(libc::EIO));
            assert!(took >= 5 * SECOND && took < 6 * SECOND, "{took:?}");
        }
        let [_, later] = [Duration::ZERO, SECOND].map(read);
        pass(11 * SECOND / 2).await;
        hold.pass();
        drop(hold);
        let (read, took) = later.await;
        assert!(read.is_err() || took < 6 * SECOND);
        limited.close(task, file).await.unwrap();
        limited.settled().await;
    });
    limited.assert_nothing_leaked();
}

#[test]
fn who_reads_when_the_daemon_is_killed_amid_a_fetch_is_answered_by_the_next() {
    let pool = Pool::reliable();
    let (simulation, nas, [first, _]) = world(10, &pool);
    simulation.run(async {
        watch(&nas, &first).await;
        let file = first.open(Task::root(), "file", libc::O_RDONLY).await.unwrap();
        let hold = nas.hold(Procedure::Read);
        let readers = [0, 0, 1, 2].map(|block: u64| {
            let kernel = first.clone();
            spawn_local(async move { (block, kernel.ask_read(Task::root(), file, block << 20, AHEAD).await) })
        });
        pause().await;
        first.kill_daemon();
        pause().await;
        first.kill_daemon();
        drop(hold);
        for reader in readers {
            let (block, data) = reader.await;
            let begin = (block << 20) as usize;
            assert!(data.unwrap() == content(1)[begin..begin + AHEAD]);
        }
        first.close(Task::root(), file).await.unwrap();
        first.settled().await;
    });
    first.assert_nothing_leaked();
}

#[test]
fn many_read_at_once_with_memory_for_one_block() {
    let pool = Pool::reliable();
    let (simulation, nas, [first, second]) = world(11, &pool);
    let limits = BudgetLimits { demand_bytes: 0, ahead_bytes: 0, ..BudgetLimits::NONE };
    let settings = || Settings { buffers: Budget::new(limits), ..with_pool(&pool) };
    let small = [3, 4].map(|number| Kernel::mount(&nas, number, settings(), None));
    simulation.run(async {
        for node in [&first, &small[0], &second] {
            watch(&nas, node).await;
        }
        let readers: Vec<_> = (0..64)
            .map(|number| {
                let kernel = small[number % 2].clone();
                spawn_local(async move { read(&kernel, "file").await == content(1) })
            })
            .collect();
        for reader in readers {
            assert!(reader.await);
        }
    });
}

#[test]
fn a_file_that_shrinks_and_grows_while_a_block_of_it_is_fetched_is_read_as_it_is() {
    let pool = Pool::reliable();
    let (simulation, nas, [first, second]) = world(12, &pool);
    simulation.run(async {
        for size in [0, 5, AHEAD as u64 + 5, (1 << 20) - 1, LARGE as u64 * 2] {
            write(&nas, 1);
            let set = |size| nas.set_outside("file", &SetAttr { size: Some(size), ..SetAttr::default() });
            set(LARGE as u64);
            for _ in 0..2 {
                read(&first, "file").await;
                pass(3 * SECOND).await;
            }
            let file = second.open(Task::root(), "file", libc::O_RDONLY).await.unwrap();
            pass(3 * SECOND).await;
            second.stat(Task::root(), "file").await.unwrap();
            let hold = nas.hold(Procedure::Read);
            pool.forget();
            let reader = {
                let kernel = second.clone();
                spawn_local(async move { kernel.ask_read(Task::root(), file, 0, AHEAD).await })
            };
            pause().await;
            set(size);
            drop(hold);
            let seen = reader.await.unwrap();
            assert!(seen == content(1)[..AHEAD.min(size as usize)], "{size}: {}", seen.len());
            second.close(Task::root(), file).await.unwrap();
            let whole = nas.content("file").unwrap();
            assert!(read(&second, "file").await == whole && read(&first, "file").await == whole);
        }
    });
}

#[test]
fn who_may_not_read_a_file_gets_none_of_its_blocks() {
    let pool = Pool::reliable();
    let (simulation, nas, [first, _]) = world(13, &pool);
    let bounded = Kernel::mount(&nas, 3, Settings { levels: vec![pool.level()], ..bounded(SECOND) }, None);
    simulation.run(async {
        nas.set_outside("file", &SetAttr { mode: Some(0o600), ..SetAttr::default() });
        for node in [&first, &bounded] {
            watch(&nas, node).await;
            reads(&nas, node, 1).await;
            let other = node.open(Task::new(1000), "file", libc::O_RDONLY).await;
            assert_eq!(other.err(), Some(libc::EACCES));
        }
    });
}

#[test]
fn a_server_whose_answers_show_no_attributes_is_read_once_for_what_is_asked() {
    let pool = Pool::reliable();
    let (simulation, nas, [first, second]) = world(14, &pool);
    simulation.run(async {
        nas.configure(|options| options.has_attributes = false);
        for node in [&first, &first, &first, &second] {
            assert!(reads(&nas, node, 1).await <= ALL + BLOCK);
            pass(3 * SECOND).await;
        }
    });
}

#[test]
fn a_server_that_refuses_is_heard_through_the_chain() {
    let pool = Pool::reliable();
    let (simulation, nas, [first, _]) = world(5, &pool);
    simulation.run(async {
        watch(&nas, &first).await;
        let task = Task::root();
        let file = first.open(task, "file", libc::O_RDONLY).await.unwrap();
        nas.fault(Fault::Status(Procedure::Read, Status::Io), 2);
        assert_eq!(first.ask_read(task, file, 0, AHEAD).await, Err(libc::EIO));
        first.close(task, file).await.unwrap();
    });
}

#[test]
fn blocks_of_a_file_that_has_changed_lately_are_for_nobody_else() {
    let pool = Pool::reliable();
    let (simulation, nas, [first, _]) = world_with(7, Settings { rest: 10 * SECOND, ..with_pool(&pool) });
    simulation.run(async {
        for _ in 0..3 {
            assert_eq!((reads(&nas, &first, 1).await, pool.filled()), (ALL, 0), "its last write may go on");
            assert_eq!(pool.questions(), 0, "nobody can have put it there");
            pass(3 * SECOND).await;
        }
        pass(10 * SECOND).await;
        assert_eq!((reads(&nas, &first, 1).await, pool.filled()), (ALL, 3));
    });
}

/// Reads a file, known to have `content`; answers how many calls of these procedures that costs the NAS.
async fn asks(nas: &Nas, node: &Kernel, (name, content): (&str, &[u8]), procedures: [Procedure; 2]) -> [u64; 2] {
    let executed = || procedures.map(|procedure| nas.executed(procedure));
    let before = executed();
    assert!(read(node, name).await == content, "other data");
    pause().await;
    let after = executed();
    [after[0] - before[0], after[1] - before[1]]
}

#[test]
fn a_small_file_costs_another_node_the_question_for_permission_alone() {
    let pool = Pool::reliable();
    let (simulation, nas, [first, second]) = world(15, &pool);
    let procedures = [Procedure::Access, Procedure::Read];
    let (small, other) = (vec![7; 5000], vec![8; 5000]);
    nas.write_outside("small", 0, &small);
    simulation.run(async {
        assert_eq!(asks(&nas, &first, ("small", &small), procedures).await, [0, 1]);
        assert_eq!(pool.filled(), 0, "its version is not settled");
        pass(3 * SECOND).await;
        assert_eq!(asks(&nas, &first, ("small", &small), procedures).await, [0, 1]);
        assert_eq!(pool.filled(), 1);
        pass(3 * SECOND).await;
        for node in [&first, &second] {
            assert_eq!(asks(&nas, node, ("small", &small), procedures).await, [1, 0]);
        }
        nas.write_outside("small", 0, &other);
        for node in [&second, &first] {
            assert!(read(node, "small").await == other, "what the node knew when it was opened");
        }
    });
}

#[test]
fn a_file_of_less_than_a_read_ahead_comes_from_its_block() {
    let pool = Pool::reliable();
    let (simulation, nas, [first, second]) = world(16, &pool);
    let data = vec![7; 100_000];
    nas.write_outside("middle", 0, &data);
    let procedures = [Procedure::Access, Procedure::Read];
    simulation.run(async {
        asks(&nas, &first, ("middle", &data), procedures).await;
        pass(3 * SECOND).await;
        assert_eq!(asks(&nas, &first, ("middle", &data), procedures).await, [1, 1]);
        assert_eq!(asks(&nas, &second, ("middle", &data), procedures).await, [1, 0]);
        let task = Task::root();
        let file = second.open(task, "middle", libc::O_RDONLY).await.unwrap();
        pass(3 * SECOND).await; // what was just read is gone
        let hits = pool.hits();
        assert!(second.ask_read(task, file, 4096, 4096).await.unwrap() == data[4096..8192]);
        assert_eq!(pool.hits(), hits, "the block for so little of it");
        second.close(task, file).await.unwrap();
    });
}

#[test]
fn who_may_not_read_a_small_file_gets_nothing_of_it() {
    let pool = Pool::reliable();
    let (simulation, nas, [first, second]) = world(17, &pool);
    let small = vec![7; 5000];
    nas.write_outside("small", 0, &small);
    nas.set_outside("small", &SetAttr { mode: Some(0o600), ..SetAttr::default() });
    simulation.run(async {
        read(&first, "small").await;
        pass(3 * SECOND).await;
        assert!(read(&first, "small").await == small && pool.filled() == 1);
        for node in [&first, &second] {
            let other = node.open(Task::new(1000), "small", libc::O_RDONLY).await;
            assert_eq!(other.err(), Some(libc::EACCES));
            assert!(read(node, "small").await == small);
        }
    });
}
