//! Write-behind, each of its rules as the shortest story that shows it.

use std::time::Duration;

use efc_backend::Status;
use efc_fuse::SetAttr;
use efc_model::{Fault, Nas, Options, Procedure};
use efc_tasks::simulation::Simulation;
use efc_tasks::spawn_local;

use super::common::{self, pause};
use super::kernel::{File, Kernel, Task, behind, settings};

const TTL: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(1);
const RW: i32 = libc::O_RDWR | libc::O_CREAT;
const APPEND: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;

fn world(seed: u64) -> (Simulation, Nas, Kernel) {
    common::world(seed, Options::default(), behind(LIMIT, settings(TTL)))
}

fn other_node(nas: &Nas) -> Kernel {
    Kernel::mount(nas, 2, behind(LIMIT, settings(TTL)), None)
}

async fn write(kernel: &Kernel, task: Task, file: File, offset: u64, data: &[u8]) {
    kernel.write(task, file, offset, data).await.unwrap();
}

async fn whole(kernel: &Kernel, task: Task, path: &str) -> Vec<u8> {
    common::head(kernel, task, path, 1 << 16).await.unwrap()
}

/// Runs a story with one file that is open for reading and writing, and closes it.
fn story(seed: u64, act: impl AsyncFnOnce(&Nas, &Kernel, Task, File)) {
    let (simulation, nas, kernel) = world(seed);
    let task = Task::root();
    simulation.run(async {
        let file = kernel.open(task, "file", RW).await.unwrap();
        act(&nas, &kernel, task, file).await;
        kernel.close(task, file).await.unwrap();
        kernel.settled().await;
    });
    kernel.assert_nothing_left();
}

#[test]
fn what_is_held_back_of_a_file_does_not_come_after_an_open_that_truncates_it_by_a_name_of_another_nodes() {
    let (simulation, nas, kernel) = world(31);
    let task = Task::root();
    simulation.run(async {
        let file = kernel.open(task, "file", RW).await.unwrap();
        assert_eq!(kernel.stat(task, "other").await.err(), Some(libc::ENOENT));
        write(&kernel, task, file, 0, b"held back, and long").await;
        assert!(nas.rename_outside("file", "other"));
        let other = kernel.open(task, "other", RW | libc::O_TRUNC).await.unwrap();
        write(&kernel, task, other, 0, b"new").await;
        kernel.close(task, other).await.unwrap();
        kernel.close(task, file).await.unwrap();
        assert_eq!(nas.content("other").unwrap(), b"new");
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_write_is_answered_before_the_server_has_it_and_sent_when_it_is_old() {
    story(1, async |nas, kernel, task, file| {
        write(kernel, task, file, 0, b"hello").await;
        assert_eq!((nas.content("file").unwrap(), nas.executed(Procedure::Write)), (vec![], 0));
        efc_tasks::time::sleep(LIMIT + LIMIT / 4).await;
        assert_eq!(nas.content("file").unwrap(), b"hello");
        assert_eq!(nas.executed(Procedure::Commit), 0);
    });
}

#[test]
fn what_changes_at_the_server_is_counted_when_it_does() {
    story(21, async |_, kernel, task, file| {
        let mut before = kernel.efc().changes();
        let mut since = || kernel.efc().changes() - std::mem::replace(&mut before, kernel.efc().changes());
        write(kernel, task, file, 0, b"hello").await;
        assert_eq!(since(), 0);
        kernel.fsync(task, file).await.unwrap();
        assert_eq!(since(), 1);
        kernel.setattr(task, "file", SetAttr { size: Some(2), ..SetAttr::default() }).await.unwrap();
        assert_eq!(since(), 1);
        kernel.mkdir(task, "directory").await.unwrap();
        kernel.link(task, "file", "directory/link").await.unwrap();
        kernel.rename(task, "directory/link", "other").await.unwrap();
        assert_eq!(since(), 3);
        kernel.unlink(task, "other").await.unwrap();
        kernel.rmdir(task, "directory").await.unwrap();
        assert_eq!(since(), 2);
        assert!(kernel.rmdir(task, "directory").await.is_err() && kernel.mkdir(task, "file").await.is_err());
        kernel.stat(task, "file").await.unwrap();
        kernel.list(task, "", 4096, true).await.unwrap();
        whole(kernel, task, "file").await;
        assert_eq!(since(), 0);
    });
}

#[test]
fn small_writes_leave_together() {
    story(2, async |nas, kernel, task, file| {
        let whole: Vec<u8> = (0..64 * 1024_u32).map(|number| number as u8).collect();
        for (index, block) in whole.chunks(4096).enumerate() {
            write(kernel, task, file, index as u64 * 4096, block).await;
        }
        kernel.fsync(task, file).await.unwrap();
        assert_eq!(nas.durable("file").unwrap(), whole);
        assert_eq!((nas.executed(Procedure::Write), nas.executed(Procedure::Commit)), (1, 0), "one stable write");
    });
}

#[test]
fn a_large_file_leaves_in_whole_pieces_before_anybody_asks() {
    story(3, async |nas, kernel, task, file| {
        let whole: Vec<u8> = (0..400 * 1024_u32).map(|number| (number / 3) as u8).collect();
        for (index, block) in whole.chunks(8192).enumerate() {
            write(kernel, task, file, index as u64 * 8192, block).await;
        }
        pause().await;
        assert_eq!(nas.executed(Procedure::Write), 3, "128 KiB each, and the rest waits");
        kernel.fsync(task, file).await.unwrap();
        assert_eq!(nas.durable("file").unwrap(), whole);
        assert_eq!((nas.executed(Procedure::Write), nas.executed(Procedure::Commit)), (4, 1));
    });
}

#[test]
fn whoever_asks_for_size_or_times_sees_what_is_held_back() {
    story(4, async |nas, kernel, task, file| {
        write(kernel, task, file, 0, &[7; 5000]).await;
        assert_eq!(kernel.stat(task, "file").await.unwrap().size, 5000);
        write(kernel, task, file, 5000, &[7; 100]).await;
        assert_eq!(kernel.walk_name(task, 1, "file", false).await.unwrap(), file.node);
        assert_eq!(kernel.attributes(task, file.node, None).await.unwrap().size, 5100);
        write(kernel, task, file, 5100, &[7; 100]).await;
        kernel.link(task, "file", "other").await.unwrap();
        assert_eq!(kernel.attributes(task, file.node, None).await.unwrap().size, 5200);
        write(kernel, task, file, 5200, &[7; 50]).await;
        let other = kernel.open(task, "file", libc::O_RDONLY).await.unwrap();
        assert_eq!(nas.content("file").unwrap().len(), 5250);
        kernel.close(task, other).await.unwrap();
        write(kernel, task, file, 5250, &[7; 50]).await;
        let before = nas.executed(Procedure::Write);
        kernel.list(task, "", 4096, true).await.unwrap();
        assert_eq!(nas.executed(Procedure::Write), before, "a listing waits for nobody");
        assert_eq!(kernel.attributes(task, file.node, Some(file)).await.unwrap().size, 5300);
    });
}

/// A LOOKUP whose answer is on its way while the data is sent that it lacks.
#[test]
fn an_answer_from_before_the_data_was_sent_is_not_given() {
    story(5, async |nas, kernel, task, file| {
        write(kernel, task, file, 0, &[7; 5000]).await;
        nas.network().set_delay(Duration::from_millis(200));
        let walker = kernel.clone();
        efc_tasks::time::sleep(LIMIT - Duration::from_millis(100)).await;
        let looked = spawn_local(async move {
            walker.walk_name(Task::root(), 1, "file", false).await.unwrap();
            walker.attributes(Task::root(), file.node, None).await.unwrap().size
        });
        assert_eq!(looked.await, 5000);
        nas.network().set_delay(Duration::ZERO);
    });
}

#[test]
fn reads_and_writes_in_turn_cost_no_calls() {
    story(6, async |nas, kernel, task, file| {
        let calls = || [Procedure::Write, Procedure::Read, Procedure::Getattr].map(|of| nas.executed(of));
        kernel.stat(task, "file").await.unwrap();
        let before = calls();
        for number in 0..20 {
            write(kernel, task, file, number * 4096, &[number as u8; 4096]).await;
            assert_eq!(kernel.read(task, file, number * 4096, 4096).await.unwrap(), [number as u8; 4096]);
        }
        assert_eq!(calls(), before);
    });
}

#[test]
fn a_read_that_needs_more_than_what_is_held_back_sees_both() {
    story(7, async |nas, kernel, task, file| {
        nas.write_outside("file", 0, &[1; 9000]);
        write(kernel, task, file, 100, &[2; 50]).await;
        write(kernel, task, file, 20_000, &[3; 10]).await;
        let mut expected = vec![1; 9000];
        expected[100..150].fill(2);
        expected.resize(20_000, 0);
        expected.extend([3; 10]);
        let other = kernel.open(task, "file", libc::O_RDONLY).await.unwrap();
        assert_eq!(kernel.ask_read(task, other, 0, 1 << 16).await.unwrap(), expected);
        write(kernel, task, file, 130, &[4; 10]).await;
        write(kernel, task, file, 125, &[5; 7]).await;
        assert_eq!(kernel.ask_read(task, other, 126, 12).await.unwrap(), [&[5; 6][..], &[4; 6]].concat());
        kernel.close(task, other).await.unwrap();
    });
}

#[test]
fn the_newest_of_overlapping_data_counts_wherever_it_is() {
    story(8, async |nas, kernel, task, file| {
        let other = Task::new(1000);
        let open = kernel.open(task, "file", RW).await.unwrap();
        kernel.setattr(task, "file", SetAttr { mode: Some(0o666), ..SetAttr::default() }).await.unwrap();
        let theirs = kernel.open(other, "file", libc::O_RDWR).await.unwrap();
        write(kernel, task, file, 0, b"aaaaaaaaaa").await;
        write(kernel, other, theirs, 2, b"bbbb").await;
        write(kernel, task, open, 4, b"cc").await;
        write(kernel, other, theirs, 5, b"ddd").await;
        write(kernel, task, file, 9, b"eeee").await;
        kernel.fsync(task, file).await.unwrap();
        assert_eq!(nas.durable("file").unwrap(), b"aabbcdddaeeee");
        kernel.close(other, theirs).await.unwrap();
        kernel.close(task, open).await.unwrap();
    });
}

#[test]
fn what_is_in_flight_is_answered_before_newer_data_of_its_bytes_leaves() {
    story(9, async |nas, kernel, task, file| {
        let hold = nas.hold(Procedure::Write);
        write(kernel, task, file, 0, b"older").await;
        efc_tasks::time::sleep(LIMIT + LIMIT / 4).await;
        assert_eq!(hold.held(), 1);
        hold.pass();
        write(kernel, task, file, 2, b"newer").await;
        write(kernel, task, file, 50_000, b"apart").await;
        efc_tasks::time::sleep(LIMIT + LIMIT / 4).await;
        assert_eq!((hold.held(), nas.executed(Procedure::Write)), (1, 1), "only what lies apart");
        drop(hold);
        kernel.fsync(task, file).await.unwrap();
        assert_eq!(nas.durable("file").unwrap()[..7], *b"olnewer");
    });
}

#[test]
fn a_killed_daemon_loses_nothing_that_was_held_back() {
    story(10, async |nas, kernel, task, file| {
        write(kernel, task, file, 0, &[1; 4096]).await;
        write(kernel, task, file, 4096, &[2; 4096]).await;
        write(kernel, task, file, 0, &[3; 10]).await;
        kernel.kill_daemon();
        assert_eq!(kernel.attributes(task, file.node, Some(file)).await.unwrap().size, 8192);
        let other = kernel.open(task, "file", libc::O_RDONLY).await.unwrap();
        assert_eq!(kernel.ask_read(task, other, 5, 10).await.unwrap(), [[3; 5], [1; 5]].concat());
        kernel.close(task, other).await.unwrap();
        kernel.fsync(task, file).await.unwrap();
        assert_eq!(nas.durable("file").unwrap()[..10], [3; 10]);
    });
}

#[test]
fn what_a_dead_daemon_had_in_flight_is_sent_under_its_number_before_newer_data() {
    story(11, async |nas, kernel, task, file| {
        let hold = nas.hold(Procedure::Write);
        for (offset, data) in [(0, b"AAAA"), (4, b"BBBB"), (2, b"CCCC")] {
            write(kernel, task, file, offset, data).await;
        }
        efc_tasks::time::sleep(LIMIT + LIMIT / 4).await;
        assert_eq!(hold.held(), 1);
        write(kernel, task, file, 3, b"new").await;
        kernel.kill_daemon();
        hold.pass();
        pause().await;
        assert_eq!(nas.executed(Procedure::Write), 2, "the second copy, and what is newer");
        drop(hold);
        pause().await;
        assert_eq!(nas.executed(Procedure::Write), 2, "the first copy is the same call");
        kernel.fsync(task, file).await.unwrap();
        assert_eq!(nas.durable("file").unwrap(), b"AACnewBB");
    });
}

#[test]
fn what_was_answered_is_not_sent_again_by_a_successor() {
    story(12, async |nas, kernel, task, file| {
        write(kernel, task, file, 0, b"AAAA").await;
        kernel.stat(task, "file").await.unwrap();
        nas.write_outside("file", 0, b"BB");
        kernel.kill_daemon();
        efc_tasks::time::sleep(2 * LIMIT).await;
        assert_eq!(nas.content("file").unwrap(), b"BBAA");
        kernel.fsync(task, file).await.unwrap();
        assert_eq!(nas.durable("file").unwrap(), b"BBAA");
    });
}

#[test]
fn a_server_that_restarts_gets_all_again_in_order() {
    story(13, async |nas, kernel, task, file| {
        write(kernel, task, file, 0, b"AAAA").await;
        kernel.stat(task, "file").await.unwrap();
        nas.crash_hard();
        write(kernel, task, file, 2, b"BB").await;
        kernel.fsync(task, file).await.unwrap();
        assert_eq!(nas.durable("file").unwrap(), b"AABB");
    });
}

#[test]
fn a_change_of_attributes_comes_after_the_data() {
    story(14, async |nas, kernel, task, file| {
        write(kernel, task, file, 0, b"data").await;
        let past = efc_fuse::SetTime::To { seconds: 1_000_000, nanos: 0 };
        let change = SetAttr { mtime: Some(past), mode: Some(0o444), ..SetAttr::default() };
        let attr = kernel.setattr(task, "file", change).await.unwrap();
        assert_eq!((attr.mtime.0, attr.size), (1_000_000, 4));
        kernel.close(task, kernel.open(task, "file", libc::O_RDONLY).await.unwrap()).await.unwrap();
        assert_eq!(nas.attr("file").unwrap().mtime.seconds, 1_000_000);
        let change = SetAttr { size: Some(2), ..SetAttr::default() };
        write(kernel, task, file, 4, b"more").await;
        assert_eq!(kernel.setattr(task, "file", change).await.unwrap().size, 2);
        assert_eq!(nas.content("file").unwrap(), b"da");
    });
}

#[test]
fn close_is_seen_by_the_other_node_and_so_is_the_end_of_a_process() {
    let (simulation, nas, kernel) = world(15);
    let other = other_node(&nas);
    simulation.run(async {
        let task = Task::root();
        for (number, exits) in [false, true].into_iter().enumerate() {
            let file = kernel.open(task, "file", RW).await.unwrap();
            let data = format!("version {number}");
            write(&kernel, task, file, 0, data.as_bytes()).await;
            if exits {
                kernel.set_exiting(task);
            }
            kernel.close(task, file).await.unwrap();
            assert_eq!(whole(&other, Task::root(), "file").await, data.as_bytes());
        }
        kernel.settled().await;
        other.settled().await;
    });
    kernel.assert_nothing_left();
}

#[test]
fn the_end_of_a_killed_process_waits_for_nobody_and_its_data_follows() {
    let (simulation, nas, kernel) = world(16);
    simulation.run(async {
        let task = Task::root();
        let file = kernel.open(task, "file", RW).await.unwrap();
        write(&kernel, task, file, 0, b"data").await;
        let hold = nas.hold(Procedure::Write);
        kernel.kill(task);
        kernel.close(task, file).await.unwrap();
        pause().await;
        kernel.forget_unused();
        kernel.kill_daemon();
        drop(hold);
        efc_tasks::time::sleep(2 * LIMIT).await;
        kernel.settled().await;
        assert_eq!(nas.durable("file").unwrap(), b"data");
    });
}

#[test]
fn pages_of_mappings_and_writes_that_want_stable_storage_are_not_held_back() {
    story(17, async |nas, kernel, task, file| {
        write(kernel, task, file, 0, b"AAAA").await;
        kernel.write_back(task, file, 2, b"BB").await.unwrap();
        assert_eq!(nas.content("file").unwrap(), b"AABB", "after what is older");
        for flag in [libc::O_DSYNC, libc::O_SYNC, libc::O_DIRECT] {
            let calls = nas.executed(Procedure::Write);
            write(kernel, task, file.with_flags(libc::O_RDWR | flag), 0, b"C").await;
            assert_eq!(nas.executed(Procedure::Write), calls + 1);
        }
    });
}

#[test]
fn appends_go_behind_each_other_without_a_question() {
    let (simulation, nas, kernel) = world(18);
    simulation.run(async {
        let task = Task::root();
        nas.write_outside("log", 0, b"begin ");
        let file = kernel.open(task, "log", APPEND).await.unwrap();
        write(&kernel, task, file, 0, b"one ").await;
        let calls = nas.executed(Procedure::Getattr);
        for _ in 0..50 {
            write(&kernel, task, file, 0, b"more ").await;
        }
        assert_eq!(nas.executed(Procedure::Getattr), calls);
        kernel.fsync(task, file).await.unwrap();
        let expected = format!("begin one {}", "more ".repeat(50));
        assert_eq!(nas.durable("log").unwrap(), expected.as_bytes());
        efc_tasks::time::sleep(2 * LIMIT).await;
        nas.write_outside("log", expected.len() as u64, b"elsewhere ");
        write(&kernel, task, file, 0, b"end").await;
        kernel.close(task, file).await.unwrap();
        assert_eq!(nas.durable("log").unwrap(), format!("{expected}elsewhere end").as_bytes());
        kernel.settled().await;
    });
    kernel.assert_nothing_left();
}

#[test]
fn appends_are_not_repeated_nor_lost_by_killed_daemons() {
    let (simulation, nas, kernel) = world(19);
    simulation.run(async {
        let task = Task::root();
        let file = kernel.open(task, "log", APPEND).await.unwrap();
        let mut expected = String::new();
        for number in 0..30 {
            let text = format!("{number} ");
            write(&kernel, task, file, 0, text.as_bytes()).await;
            expected += &text;
            if number % 4 == 0 {
                kernel.kill_daemon();
            }
        }
        kernel.close(task, file).await.unwrap();
        assert_eq!(String::from_utf8(nas.durable("log").unwrap()).unwrap(), expected);
        kernel.settled().await;
    });
    kernel.assert_nothing_left();
}

#[test]
fn appends_of_another_node_are_noticed_and_asked_for_from_then_on() {
    let (simulation, nas, kernel) = world(20);
    simulation.run(async {
        let task = Task::root();
        let file = kernel.open(task, "log", APPEND).await.unwrap();
        write(&kernel, task, file, 0, b"ours").await;
        nas.write_outside("log", 0, b"theirs are long");
        kernel.fsync(task, file).await.unwrap();
        assert_eq!(kernel.efc().append_overlaps(), 1);
        for number in 0..3 {
            let end = nas.content("log").unwrap().len();
            nas.write_outside("log", end as u64, format!(" theirs{number}").as_bytes());
            write(&kernel, task, file, 0, b" ours").await;
        }
        kernel.close(task, file).await.unwrap();
        let log = String::from_utf8(nas.durable("log").unwrap()).unwrap();
        assert!(log.ends_with(" theirs0 ours theirs1 ours theirs2 ours"), "{log}");
        kernel.settled().await;
    });
    kernel.assert_nothing_left();
}

#[test]
fn data_that_is_refused_is_told_to_each_open_and_consumed_by_write_and_fsync() {
    story(21, async |nas, kernel, task, file| {
        let [written, child] =
            [kernel.open(task, "file", RW).await, kernel.open(task, "file", RW).await].map(Result::unwrap);
        write(kernel, task, written, 0, b"lost").await;
        nas.fault(Fault::Status(Procedure::Write, Status::NoSpc), 1);
        efc_tasks::time::sleep(LIMIT + LIMIT / 4).await;
        for _ in 0..2 {
            assert_eq!(kernel.flush(task, child).await, Err(libc::ENOSPC), "a close takes nothing away");
        }
        kernel.kill_daemon();
        assert_eq!(kernel.fsync(task, child).await, Err(libc::ENOSPC));
        assert_eq!(kernel.fsync(task, child).await, Ok(()));
        assert_eq!(kernel.flush(task, child).await, Ok(()));
        assert_eq!(kernel.write(task, written, 0, b"more").await, Err(libc::ENOSPC));
        assert_eq!(kernel.write(task, written, 0, b"more").await, Ok(0));
        assert_eq!(kernel.fsync(task, file).await, Err(libc::ENOSPC), "it was open, too");
        assert_eq!(nas.content("file").unwrap(), b"more");
        kernel.close(task, written).await.unwrap();
        kernel.close(task, child).await.unwrap();
    });
}

#[test]
fn a_write_that_makes_a_file_too_large_is_refused_itself() {
    story(23, async |nas, kernel, task, file| {
        let largest = (16 << 40) - 4096;
        nas.fault(Fault::Status(Procedure::Write, Status::FBig), 1);
        assert_eq!(kernel.write(task, file, largest - 1, b"ab").await, Err(libc::EFBIG), "told at once");
        assert_eq!(kernel.write(task, file, 0, b"more").await, Ok(0));
        kernel.fsync(task, file).await.unwrap();
        assert_eq!(nas.content("file").unwrap(), b"more");
    });
}

#[test]
fn a_user_for_whom_there_was_no_room_writes_through_for_a_while() {
    story(22, async |nas, kernel, task, file| {
        write(kernel, task, file, 0, b"lost").await;
        nas.fault(Fault::Status(Procedure::Write, Status::DQuot), 1);
        assert_eq!(kernel.fsync(task, file).await, Err(libc::EDQUOT));
        nas.fault(Fault::Status(Procedure::Write, Status::DQuot), 1);
        assert_eq!(kernel.write(task, file, 0, b"lost").await, Err(libc::EDQUOT), "told at once");
        efc_tasks::time::sleep(Duration::from_secs(11)).await;
        let calls = nas.executed(Procedure::Write);
        write(kernel, task, file, 0, b"through").await;
        assert_eq!(nas.executed(Procedure::Write), calls + 1);
        write(kernel, task, file, 0, b"behind ").await;
        assert_eq!(nas.executed(Procedure::Write), calls + 1);
    });
}

#[test]
fn a_name_that_goes_waits_for_the_data() {
    let (simulation, nas, kernel) = world(23);
    simulation.run(async {
        let task = Task::root();
        let file = kernel.open(task, "file", RW).await.unwrap();
        write(&kernel, task, file, 0, b"data").await;
        kernel.rename(task, "file", "renamed").await.unwrap();
        assert_eq!(nas.content("renamed").unwrap(), b"data");
        write(&kernel, task, file, 4, b" more").await;
        kernel.unlink(task, "renamed").await.unwrap();
        assert_eq!(kernel.ask_read(task, file, 0, 100).await.unwrap(), b"data more");
        write(&kernel, task, file, 0, b"DATA").await;
        assert_eq!(kernel.ask_read(task, file, 0, 100).await.unwrap(), b"DATA more");
        kernel.close(task, file).await.unwrap();
        kernel.settled().await;
        pause().await;
    });
    kernel.assert_nothing_left();
}

#[test]
fn a_daemon_that_is_to_be_replaced_sends_all() {
    story(24, async |nas, kernel, task, file| {
        write(kernel, task, file, 0, b"data").await;
        let efc = kernel.efc();
        let stopping = spawn_local(async move { efc.0.stop_holding_back().await });
        stopping.await;
        assert_eq!(nas.content("file").unwrap(), b"data");
        write(kernel, task, file, 4, b" more").await;
        assert_eq!(nas.content("file").unwrap(), b"data more");
    });
}

#[test]
fn what_was_refused_is_not_read_any_more() {
    story(25, async |nas, kernel, task, file| {
        nas.write_outside("file", 0, &[1; 4096]);
        let reader = kernel.open(task, "file", libc::O_RDWR).await.unwrap();
        assert_eq!(kernel.read(task, reader, 0, 4096).await.unwrap(), [1; 4096]);
        write(kernel, task, reader, 0, &[2; 100]).await;
        assert_eq!(kernel.read(task, reader, 0, 100).await.unwrap(), [2; 100]);
        nas.fault(Fault::Status(Procedure::Write, Status::Acces), 1);
        assert_eq!(kernel.fsync(task, reader).await, Err(libc::EACCES));
        assert_eq!(kernel.read(task, reader, 0, 4096).await.unwrap(), [1; 4096]);
        kernel.close(task, reader).await.unwrap();
        assert_eq!(kernel.fsync(task, file).await, Err(libc::EACCES));
    });
}

#[test]
fn a_file_that_the_kernel_forgets_is_known_until_its_data_is_sent() {
    let (simulation, nas, kernel) = world(26);
    simulation.run(async {
        let task = Task::root();
        let file = kernel.open(task, "file", RW).await.unwrap();
        write(&kernel, task, file, 0, b"data").await;
        kernel.efc().0.forget_lookups(file.node, 1);
        assert!(kernel.state().node(file.node).is_some());
        kernel.kill_daemon();
        efc_tasks::time::sleep(2 * LIMIT).await;
        assert_eq!(nas.content("file").unwrap(), b"data");
        write(&kernel, task, file, 0, b"DATA").await;
        kernel.efc().0.forget_lookups(file.node, 1);
        kernel.fsync(task, file).await.unwrap();
        assert!(kernel.state().node(file.node).is_none(), "it is forgotten when nothing waits");
        kernel.settled().await;
    });
}

/// A piece waits while all is sent again, what is newer with it: it must not follow.
#[test]
fn what_was_sent_again_is_not_sent_once_more() {
    story(27, async |nas, kernel, task, file| {
        let stat = || {
            let kernel = kernel.clone();
            spawn_local(async move { kernel.attributes(Task::root(), file.node, None).await.map(drop) })
        };
        write(kernel, task, file, 0, b"AAAA").await;
        stat().await.unwrap();
        nas.crash_hard();
        let commits = nas.hold(Procedure::Commit);
        let syncing = kernel.clone();
        let synced = spawn_local(async move { syncing.fsync(task, file).await });
        pause().await;
        let writes = nas.hold(Procedure::Write);
        write(kernel, task, file, 50_000, b"apart").await;
        let apart = stat();
        pause().await;
        drop(commits);
        pause().await;
        write(kernel, task, file, 0, b"CCCC").await;
        let waiting = stat();
        pause().await;
        write(kernel, task, file, 1, b"D").await;
        drop(writes);
        for stated in [apart, waiting, stat()] {
            stated.await.unwrap();
        }
        synced.await.unwrap();
        kernel.fsync(task, file).await.unwrap();
        pause().await;
        assert_eq!(
            (&nas.content("file").unwrap()[..4], &nas.durable("file").unwrap()[..4]),
            (&b"CDCC"[..], &b"CDCC"[..])
        );
    });
}
