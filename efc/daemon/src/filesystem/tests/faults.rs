//! Faults that were seen in use, each as the shortest story that shows it.

use std::time::Duration;

use efc_backend::{SetAttr as ServerSetAttr, SetTime as ServerSetTime, Status};
use efc_fuse::SetAttr;
use efc_model::{Fault, Nas, Options, Procedure};
use efc_tasks::simulation::Simulation;
use efc_tasks::spawn_local;

use super::common::{self, pause};
use super::kernel::{Done, File, Kernel, Task, settings};
use super::with_seeds;

const TTL: Duration = Duration::from_secs(1);
const RW: i32 = libc::O_RDWR | libc::O_CREAT;

fn world_with(options: Options, seed: u64) -> (Simulation, Nas, Kernel) {
    common::world(seed, options, settings(TTL))
}

async fn whole(kernel: &Kernel, task: Task, path: &str) -> Done<Vec<u8>> {
    common::head(kernel, task, path, 1 << 16).await
}

fn world(seed: u64) -> (Simulation, Nas, Kernel) {
    world_with(Options::default(), seed)
}

#[test]
fn what_is_written_is_read_and_durable_after_close() {
    let (simulation, nas, kernel) = world(1);
    let task = Task::root();
    simulation.run(async {
        let file = kernel.open(task, "file", RW).await.unwrap();
        kernel.write(task, file, 0, b"hello").await.unwrap();
        assert_eq!(kernel.read(task, file, 0, 100).await.unwrap(), b"hello");
        assert_eq!(nas.durable("file").unwrap(), b"");
        kernel.close(task, file).await.unwrap();
        assert_eq!(nas.durable("file").unwrap(), b"hello");
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn what_is_written_is_read_at_once_whatever_older_answer_comes_later() {
    let mut overtaken = 0;
    for seed in 0..100 {
        let simulation = Simulation::new(seed);
        let nas = Nas::new(Options::default(), seed);
        let kernel = Kernel::mount(&nas, 1, settings(Duration::ZERO), None);
        let (writer, reader, other) = (Task::root(), Task::root(), Task::root());
        nas.write_outside("file", 0, b"head");
        nas.network().set_delay(Duration::from_millis(5));
        simulation.run(async {
            let written = kernel.open(writer, "file", libc::O_RDWR).await.unwrap();
            let read = kernel.open(reader, "file", libc::O_RDONLY).await.unwrap();
            assert_eq!(kernel.read(reader, read, 0, 100).await.unwrap(), b"head");
            let looking = kernel.clone();
            let asked = async move { looking.attributes(other, written.node, None).await.unwrap().size };
            let looked = spawn_local(asked);
            kernel.write(writer, written, 4, b" and tail").await.unwrap();
            overtaken += u32::from(looked.await == 4);
            assert_eq!(kernel.read(reader, read, 0, 100).await.unwrap(), b"head and tail", "seed {seed}");
            kernel.close(writer, written).await.unwrap();
            kernel.close(reader, read).await.unwrap();
            kernel.settled().await;
        });
    }
    assert!((5..95).contains(&overtaken), "{overtaken} of 100 saw the file as it was before");
}

#[test]
fn what_a_predecessor_had_begun_is_done_once() {
    let (simulation, nas, kernel) = world(2);
    let task = Task::root();
    simulation.run(async {
        let file = kernel.open(task, "log", RW | libc::O_APPEND).await.unwrap();
        kernel.write(task, file, 0, b"one ").await.unwrap();
        let hold = nas.hold(Procedure::Write);
        let (writer, other) = (kernel.clone(), kernel.clone());
        let written = spawn_local(async move { writer.write(task, file, 0, b"two ").await });
        let made = spawn_local(async move { other.mkdir(task, "dir").await });
        pause().await;
        kernel.kill_daemon();
        drop(hold);
        written.await.unwrap();
        made.await.unwrap();
        kernel.write(task, file, 0, b"three").await.unwrap();
        assert_eq!(nas.content("log").unwrap(), b"one two three");
        kernel.kill_daemon();
        nas.crash_hard();
        kernel.close(task, file).await.unwrap();
        assert_eq!(nas.durable("log").unwrap(), b"one two three");
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_write_of_a_killed_caller_is_executed_before_what_is_written_later() {
    let (simulation, nas, kernel) = world(3);
    let (dying, living) = (Task::root(), Task::root());
    simulation.run(async {
        let file = kernel.open(living, "file", RW).await.unwrap();
        let hold = nas.hold(Procedure::Write);
        let (writer, other) = (kernel.clone(), kernel.clone());
        let killed = spawn_local(async move { writer.write(dying, file, 0, b"AAAA").await });
        pause().await;
        kernel.kill(dying);
        assert_eq!(killed.await, Err(libc::EINTR), "whoever is killed does not wait for the NAS");
        hold.pass();
        let later = spawn_local(async move {
            other.write(living, file, 0, b"BBBB").await.unwrap();
            other.fsync(living, file).await.unwrap();
        });
        pause().await;
        drop(hold);
        later.await;
        pause().await;
        assert_eq!(nas.durable("file").unwrap(), b"BBBB");
        kernel.close(living, file).await.unwrap();
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_write_of_a_killed_caller_of_a_killed_daemon_is_known_to_the_server_again() {
    let (simulation, nas, kernel) = world(8);
    let (dying, living) = (Task::root(), Task::root());
    simulation.run(async {
        let file = kernel.open(living, "file", RW).await.unwrap();
        nas.network().set_delay(Duration::from_millis(20));
        let writer = kernel.clone();
        let killed = spawn_local(async move { writer.write(dying, file, 0, b"AAAA").await });
        while nas.executed(Procedure::Write) == 0 {
            efc_tasks::time::sleep(Duration::from_micros(10)).await;
        }
        kernel.kill(dying);
        assert_eq!(killed.await, Err(libc::EINTR), "not answered yet");
        kernel.kill_daemon();
        kernel.fsync(living, file).await.unwrap();
        assert_eq!((nas.executed(Procedure::Write), nas.durable("file").unwrap()), (1, b"AAAA".to_vec()));
        kernel.close(living, file).await.unwrap();
        kernel.settled().await;
    });
}

#[test]
fn a_commit_that_overtakes_a_write_which_is_asked_for_again_does_not_count_for_it() {
    with_seeds(60, |seed| {
        let (simulation, nas, kernel) = world(seed);
        let (dying, living) = (Task::root(), Task::root());
        simulation.run(async {
            let file = kernel.open(living, "file", RW).await.unwrap();
            let hold = nas.hold(Procedure::Write);
            let (writer, closer) = (kernel.clone(), kernel.clone());
            let killed = spawn_local(async move { writer.write(dying, file, 0, b"AAAA").await });
            pause().await;
            kernel.kill(dying);
            assert_eq!(killed.await, Err(libc::EINTR), "whoever is killed does not wait for the NAS");
            kernel.kill_daemon();
            nas.network().set_delay(Duration::from_millis(20));
            let closed = spawn_local(async move { closer.close(living, file).await });
            common::pass(Duration::from_millis(10)).await;
            drop(hold);
            closed.await.unwrap();
            kernel.settled().await;
            common::pass(TTL).await;
            assert_eq!(nas.durable("file").unwrap(), nas.content("file").unwrap());
        });
        kernel.assert_nothing_leaked();
        1
    });
}

#[test]
fn what_is_lost_is_not_read_any_more_from_the_kernels_pages() {
    let (simulation, nas, kernel) = world(14);
    let task = Task::root();
    nas.write_outside("file", 0, b"as it was");
    simulation.run(async {
        let file = kernel.open(task, "file", RW).await.unwrap();
        kernel.write(task, file, 0, b"as it got").await.unwrap();
        assert_eq!(kernel.read(task, file, 0, 9).await.unwrap(), b"as it got");
        nas.crash_hard();
        nas.fault(Fault::Status(Procedure::Write, Status::NoSpc), 1);
        assert_eq!(kernel.fsync(task, file).await, Err(libc::ENOSPC));
        pause().await;
        assert_eq!(kernel.read(task, file, 0, 9).await.unwrap(), b"as it was");
        kernel.close(task, file).await.unwrap();
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_truncation_of_a_killed_daemon_is_not_done_again_over_what_others_have_written_since() {
    let (simulation, nas, kernel) = world(12);
    nas.write_outside("file", 0, b"former");
    simulation.run(async {
        nas.network().set_delay(Duration::from_millis(20));
        let truncating = kernel.clone();
        let change = SetAttr { size: Some(0), ..SetAttr::default() };
        let truncated = spawn_local(async move { truncating.setattr(Task::root(), "file", change).await.map(drop) });
        while nas.executed(Procedure::Setattr) == 0 {
            efc_tasks::time::sleep(Duration::from_micros(10)).await;
        }
        nas.write_outside("file", 0, b"of another node");
        kernel.kill_daemon();
        truncated.await.unwrap();
        assert_eq!((nas.executed(Procedure::Setattr), nas.content("file").unwrap()), (1, b"of another node".to_vec()));
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_file_that_another_node_has_made_since_it_was_missed_is_truncated_by_an_open_that_says_so() {
    let (simulation, nas, kernel) = world(13);
    let task = Task::root();
    simulation.run(async {
        for (flags, expected) in [(RW | libc::O_TRUNC, &b"mine"[..]), (RW, b"mine of another node")] {
            assert_eq!(kernel.stat(task, "file").await.err(), Some(libc::ENOENT));
            nas.write_outside("file", 0, b"made of another node");
            let file = kernel.open(task, "file", flags).await.unwrap();
            kernel.write(task, file, 0, b"mine").await.unwrap();
            kernel.close(task, file).await.unwrap();
            kernel.released().await;
            assert_eq!(nas.content("file").unwrap(), expected);
            kernel.unlink(task, "file").await.unwrap();
        }
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn what_was_written_to_a_file_whose_close_its_daemon_has_not_survived_is_committed() {
    let (simulation, nas, kernel) = world(9);
    let dying = Task::root();
    simulation.run(async {
        let file = kernel.open(dying, "file", RW).await.unwrap();
        kernel.write(dying, file, 0, b"data").await.unwrap();
        let hold = nas.hold(Procedure::Commit);
        let closer = kernel.clone();
        let closing = spawn_local(async move { closer.close(dying, file).await });
        pause().await;
        kernel.kill(dying);
        assert_eq!(closing.await, Err(libc::EINTR), "whoever is killed does not wait for the NAS");
        pause().await;
        kernel.kill_daemon();
        drop(hold);
        kernel.settled().await;
        pause().await;
        assert_eq!(nas.durable("file").unwrap(), b"data");
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_truncation_of_a_killed_caller_is_executed_before_what_is_written_later() {
    let (simulation, nas, kernel) = world(4);
    let (dying, living) = (Task::root(), Task::root());
    simulation.run(async {
        let file = kernel.open(living, "file", RW).await.unwrap();
        let hold = nas.hold(Procedure::Setattr);
        let (truncating, other) = (kernel.clone(), kernel.clone());
        let change = SetAttr { size: Some(0), ..SetAttr::default() };
        let killed = spawn_local(async move { truncating.setattr(dying, "file", change).await.map(drop) });
        pause().await;
        kernel.kill(dying);
        assert_eq!(killed.await, Err(libc::EINTR));
        hold.pass();
        let later = spawn_local(async move { other.write(living, file, 0, b"BBBB").await });
        pause().await;
        drop(hold);
        later.await.unwrap();
        pause().await;
        assert_eq!(nas.content("file").unwrap(), b"BBBB");
        kernel.close(living, file).await.unwrap();
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_page_of_a_mapping_of_an_appending_file_is_written_where_it_belongs() {
    let (simulation, nas, kernel) = world(5);
    let task = Task::root();
    simulation.run(async {
        nas.write_outside("counts", 0, &[0; 8192]);
        let file = kernel.open(task, "counts", libc::O_RDWR | libc::O_APPEND).await.unwrap();
        kernel.write_back(task, file, 0, b"1234").await.unwrap();
        kernel.fsync(task, file).await.unwrap();
        assert_eq!(
            (nas.content("counts").unwrap().len(), &nas.content("counts").unwrap()[..5]),
            (8192, &b"1234\0"[..])
        );
        // fcntl(F_SETFL) takes O_APPEND off: the flags of the WRITE count, not those of the open.
        kernel.write(task, file.with_flags(libc::O_RDWR), 4, b"56").await.unwrap();
        assert_eq!(
            (nas.content("counts").unwrap().len(), &nas.content("counts").unwrap()[..7]),
            (8192, &b"123456\0"[..])
        );
        kernel.close(task, file).await.unwrap();
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn another_content_of_the_same_size_and_time_is_seen_by_a_new_open() {
    let (simulation, nas, kernel) = world(6);
    let task = Task::root();
    simulation.run(async {
        // Longer than what is read at open: the kernel's pages are what may be old.
        let (old, new) = ([b'o'; 100_000], [b'n'; 100_000]);
        nas.write_outside("file", 0, &old);
        let mtime = nas.attr("file").unwrap().mtime;
        for _ in 0..2 {
            efc_tasks::time::sleep(TTL * 2).await;
            assert_eq!(whole(&kernel, task, "file").await.unwrap(), old[..1 << 16]);
        }
        nas.write_outside("file", 0, &new);
        nas.set_outside("file", &ServerSetAttr { mtime: ServerSetTime::To(mtime), ..ServerSetAttr::default() });
        assert_eq!(nas.attr("file").unwrap().mtime, mtime);
        efc_tasks::time::sleep(TTL * 2).await;
        assert_eq!(whole(&kernel, task, "file").await.unwrap(), new[..1 << 16]);
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn pages_of_an_unchanged_file_are_kept() {
    let (simulation, nas, kernel) = world(7);
    let task = Task::root();
    simulation.run(async {
        nas.write_outside("file", 0, &[b'x'; 100_000]);
        for _ in 0..2 {
            efc_tasks::time::sleep(TTL * 2).await;
            whole(&kernel, task, "file").await.unwrap();
        }
        let reads = nas.executed(Procedure::Read);
        whole(&kernel, task, "file").await.unwrap();
        kernel.settled().await;
        kernel.kill_daemon();
        whole(&kernel, task, "file").await.unwrap();
        assert_eq!(nas.executed(Procedure::Read), reads, "pages are kept over an open, and over a daemon");
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn two_changes_in_a_tick_of_the_server_are_told_from_one() {
    let (simulation, nas, kernel) = world_with(Options { granularity: 1_000_000_000, ..Options::default() }, 8);
    let (a, b) = (Task::root(), Task::root());
    simulation.run(async {
        // On one node: what was read at open dies with the daemon's own writes.
        nas.write_outside("small", 0, b"old");
        kernel.stat(a, "small").await.unwrap();
        let other = kernel.open(b, "small", libc::O_WRONLY).await.unwrap();
        let file = kernel.open(a, "small", libc::O_RDONLY).await.unwrap();
        kernel.write(b, other, 0, b"new").await.unwrap();
        kernel.close(b, other).await.unwrap();
        assert_eq!(kernel.read(a, file, 0, 10).await.unwrap(), b"new");
        kernel.close(a, file).await.unwrap();
        // From another node: a version may have had a second content when it was read.
        let contents = [[b'1'; 100_000], [b'2'; 100_000], [b'3'; 100_000]];
        nas.write_outside("large", 0, &contents[0]);
        efc_tasks::time::sleep(TTL * 3).await;
        whole(&kernel, a, "large").await.unwrap();
        nas.write_outside("large", 0, &contents[1]);
        assert_eq!(whole(&kernel, a, "large").await.unwrap(), contents[1][..1 << 16]);
        nas.write_outside("large", 0, &contents[2]);
        for _ in 0..3 {
            efc_tasks::time::sleep(TTL * 2).await;
            assert_eq!(whole(&kernel, a, "large").await.unwrap(), contents[2][..1 << 16]);
        }
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_read_that_brings_less_is_no_end_of_the_file() {
    let (simulation, nas, kernel) = world(9);
    let task = Task::root();
    simulation.run(async {
        let data: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        nas.write_outside("file", 0, &data);
        let file = kernel.open(task, "file", libc::O_RDONLY).await.unwrap();
        for size in [4096, 1 << 17] {
            nas.fault(Fault::ShortRead, 3);
            let read = kernel.ask_read(task, file, 0, size).await.unwrap();
            assert!(read == data[..size], "{} of {size} bytes", read.len());
            nas.mend();
        }
        nas.fault(Fault::Garbled(Procedure::Read), 1);
        assert_eq!(kernel.ask_read(task, file, 0, 4096).await, Err(libc::EIO));
        kernel.close(task, file).await.unwrap();
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_listing_is_whole_or_an_error() {
    let (simulation, nas, kernel) = world(10);
    let task = Task::root();
    let count = 300;
    (0..count).for_each(|number| nas.write_outside(&format!("file-{number}"), 0, b""));
    simulation.run(async {
        for plus in [false, true] {
            nas.write_outside("file-0", 0, b""); // what was listed before is void
            efc_tasks::time::sleep(TTL * 2).await;
            nas.fault(Fault::Garbled(Procedure::Readdirplus), 2); // opendir(3) has a try of its own
            assert_eq!(kernel.list(task, "", 4096, plus).await, Err(libc::EIO));
            nas.fault(Fault::Circle, 1000);
            assert_eq!(kernel.list(task, "", 4096, plus).await, Err(libc::EIO));
            nas.mend();
            assert_eq!(kernel.list(task, "", 4096, plus).await.unwrap().len(), count);
        }
        // A reader that removes what it lists, of a server whose cookies are void after each change.
        nas.configure(|options| options.checks_cookie_verifiers = true);
        let dir = kernel.opendir(task, "").await.unwrap();
        let (mut removed, mut offset, mut third) = (0, 0, None);
        loop {
            let page = kernel.page(task, dir, offset, 2048, true).await.unwrap();
            let Some(last) = page.last() else { break };
            offset = last.offset;
            for listed in page.iter().filter(|listed| listed.name.starts_with(b"file")) {
                kernel.unlink(task, std::str::from_utf8(&listed.name).unwrap()).await.unwrap();
                removed += 1;
            }
            third = third.or((removed > 20).then_some(offset));
            efc_tasks::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!((removed, nas.names("").len()), (count, 0));
        // seekdir(3) to where it was: an end, or what has come since, but no error.
        nas.write_outside("new", 0, b"");
        let page = kernel.page(task, dir, third.unwrap(), 4096, false).await.unwrap();
        assert!(page.iter().any(|listed| listed.name == b"new"));
        kernel.closedir(task, dir).await;
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn each_description_hears_once_that_data_is_lost() {
    let (simulation, nas, kernel) = world(11);
    let task = Task::root();
    simulation.run(async {
        let mut files: Vec<File> = Vec::new();
        for _ in 0..4 {
            files.push(kernel.open(task, "file", RW).await.unwrap());
        }
        kernel.write(task, files[0], 0, b"data").await.unwrap();
        nas.crash_hard();
        nas.fault(Fault::Status(Procedure::Write, Status::Io), 1);
        assert_eq!(kernel.fsync(task, files[0]).await, Err(libc::EIO));
        assert_eq!(kernel.fsync(task, files[0]).await, Ok(()), "once");
        let cut = SetAttr { size: Some(0), ..SetAttr::default() };
        kernel.setattr(task, "file", cut).await.unwrap();
        assert_eq!(kernel.fsync(task, files[1]).await, Err(libc::EIO), "a truncation takes nothing away");
        kernel.kill_daemon();
        assert_eq!(kernel.write(task, files[2], 0, b"x").await, Err(libc::EIO), "also from the next daemon");
        assert_eq!(kernel.fsync(task, files[1]).await, Ok(()));
        assert_eq!(kernel.close(task, files[3]).await, Err(libc::EIO));
        for file in &files[..3] {
            assert_eq!(kernel.close(task, *file).await, Ok(()));
        }
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_file_that_is_being_opened_is_not_removed() {
    let (simulation, nas, kernel) = world(12);
    let (opener, remover) = (Task::root(), Task::root());
    simulation.run(async {
        for renames in [false, true] {
            nas.write_outside("file", 0, &[b'x'; 100_000]);
            nas.write_outside("other", 0, b"other");
            kernel.stat(opener, "file").await.unwrap();
            let hold = nas.hold(Procedure::Access);
            let (opening, removing) = (kernel.clone(), kernel.clone());
            let opened = spawn_local(async move { opening.open(opener, "file", libc::O_RDWR).await });
            pause().await;
            assert_eq!(hold.held(), 1);
            hold.pass();
            let removed = spawn_local(async move {
                match renames {
                    true => removing.rename(remover, "other", "file").await,
                    false => removing.unlink(remover, "file").await,
                }
            });
            pause().await;
            drop(hold);
            let file = opened.await.unwrap();
            removed.await.unwrap();
            assert_eq!(kernel.read(opener, file, 0, 10).await.unwrap(), [b'x'; 10]);
            assert_eq!(kernel.stat(opener, "file").await.is_ok(), renames);
            kernel.close(opener, file).await.unwrap();
            kernel.settled().await;
            pause().await;
            efc_tasks::time::sleep(TTL * 2).await;
        }
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_last_close_while_a_file_gets_its_silly_name_leaves_nothing() {
    let (simulation, nas, kernel) = world(13);
    let task = Task::root();
    simulation.run(async {
        let file = kernel.open(task, "file", RW).await.unwrap();
        let hold = nas.hold(Procedure::Rename);
        let removing = kernel.clone();
        let removed = spawn_local(async move { removing.unlink(task, "file").await });
        pause().await;
        assert_eq!(hold.held(), 1, "it gets a silly name");
        kernel.close(task, file).await.unwrap();
        kernel.released().await;
        drop(hold);
        removed.await.unwrap();
        efc_tasks::time::sleep(TTL).await;
        assert_eq!(nas.objects(), 1);
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_directory_can_be_removed_right_after_the_last_close_of_an_unlinked_file() {
    let (simulation, nas, kernel) = world(14);
    let task = Task::root();
    simulation.run(async {
        nas.network().set_delay(Duration::from_millis(5));
        for _ in 0..20 {
            kernel.mkdir(task, "dir").await.unwrap();
            let file = kernel.open(task, "dir/file", RW).await.unwrap();
            kernel.unlink(task, "dir/file").await.unwrap();
            kernel.close(task, file).await.unwrap();
            kernel.rmdir(task, "dir").await.unwrap();
        }
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_killed_unlink_of_an_open_file_leaves_a_count_of_links_that_is_right() {
    let (simulation, nas, kernel) = world(15);
    let (dying, living) = (Task::root(), Task::root());
    simulation.run(async {
        let file = kernel.open(living, "file", RW).await.unwrap();
        let hold = nas.hold(Procedure::Rename);
        nas.fault(Fault::Status(Procedure::Rename, Status::Acces), 1);
        let removing = kernel.clone();
        let removed = spawn_local(async move { removing.unlink(dying, "file").await });
        pause().await;
        kernel.kill(dying);
        assert_eq!(removed.await, Err(libc::EINTR));
        drop(hold);
        efc_tasks::time::sleep(TTL * 2).await;
        assert_eq!(kernel.stat(living, "file").await.unwrap().nlink, 1);
        kernel.close(living, file).await.unwrap();
        kernel.settled().await;
        assert!(nas.find("file").is_some(), "the NAS has not removed it, and so nobody does");
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn files_of_two_file_systems_are_two_files() {
    let (simulation, nas, kernel) = world(16);
    let task = Task::root();
    simulation.run(async {
        nas.mkdir_outside("child");
        nas.write_outside("file", 0, b"file of the root");
        nas.write_outside("child/file", 0, b"file of the child");
        let fileid = nas.attr("file").unwrap().fileid;
        nas.move_to_file_system("child", 1000, nas.attr("").unwrap().fileid);
        nas.move_to_file_system("child/file", 1000, fileid);
        let number = async |path| kernel.stat(task, path).await.unwrap().ino;
        assert_ne!(number("file").await, number("child/file").await);
        assert_ne!(number("").await, number("child").await);
        assert_eq!(number("file").await, fileid, "the root's own file system keeps its numbers");
        assert_ne!(kernel.blocks_free(task, "").await, kernel.blocks_free(task, "child").await);
        let dir = kernel.opendir(task, "").await.unwrap();
        for listed in kernel.page(task, dir, 0, 4096, false).await.unwrap() {
            if listed.name == b"child" {
                assert_eq!(listed.ino, number("child").await, "a listing and stat(2) agree");
            }
        }
        kernel.closedir(task, dir).await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_look_up_that_fails_does_not_take_a_known_name_away() {
    let (simulation, nas, kernel) = world(17);
    let task = Task::root();
    simulation.run(async {
        nas.mkdir_outside("mounted");
        let node = kernel.walk_name(task, 1, "mounted", true).await.unwrap();
        for status in [Status::Acces, Status::Io, Status::Perm, Status::ServerFault] {
            efc_tasks::time::sleep(TTL * 2).await;
            nas.fault(Fault::Status(Procedure::Lookup, status), 1);
            // A walk that only passes the name gets there, and stays where it was.
            assert_eq!(kernel.walk_name(task, 1, "mounted", false).await, Ok(node), "{status:?}");
            nas.mend();
        }
        nas.fault(Fault::Status(Procedure::Lookup, Status::Acces), 1);
        let other = Task::new(7);
        assert_eq!(kernel.walk_name(other, 1, "mounted", false).await, Ok(node));
        nas.mend();
        efc_tasks::time::sleep(TTL * 2).await;
        nas.fault(Fault::Status(Procedure::Lookup, Status::NoEnt), 1);
        assert_eq!(kernel.walk_name(task, 1, "mounted", false).await, Err(libc::ENOENT), "that is proof");
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn all_names_of_an_open_file_can_be_removed_at_a_server_that_does_not_count_them() {
    let (simulation, nas, kernel) = world_with(Options { has_attributes: false, ..Options::default() }, 18);
    let task = Task::root();
    simulation.run(async {
        let file = kernel.open(task, "a", RW).await.unwrap();
        kernel.link(task, "a", "b").await.unwrap();
        kernel.unlink(task, "a").await.unwrap();
        kernel.unlink(task, "b").await.unwrap();
        assert_eq!(kernel.stat(task, "b").await, Err(libc::ENOENT));
        kernel.close(task, file).await.unwrap();
        kernel.settled().await;
        pause().await;
        assert_eq!(nas.objects(), 1);
    });
    kernel.assert_nothing_leaked();
}
