//! Two servers under one root: what one of them does is nothing to the other, nor is a daemon's death.

use std::time::Duration;

use efc_model::{Nas, Options, Procedure};
use efc_tasks::simulation::Simulation;
use efc_tasks::spawn_local;

use super::common::{head, pass, pause};
use super::kernel::{Kernel, Task, behind, bounded, sealed, settings};
use crate::filesystem::Settings;

const RW: i32 = libc::O_RDWR | libc::O_CREAT;
const TTL: Duration = Duration::from_secs(3);

fn world_with(seed: u64, settings: Settings) -> (Simulation, [Nas; 2], Kernel) {
    let simulation = Simulation::new(seed);
    // Of the same seed: what one has, the other has under the same handle.
    let nas = [Nas::new(Options::default(), seed), Nas::new(Options::default(), seed)];
    let kernel = Kernel::mount_several(&[("/one", &nas[0]), ("/deep/a name", &nas[1])], settings, None);
    (simulation, nas, kernel)
}

fn world(seed: u64) -> (Simulation, [Nas; 2], Kernel) {
    world_with(seed, settings(TTL))
}

/// The names in the root, which come in an order of their own.
async fn names(kernel: &Kernel, task: Task) -> Vec<String> {
    let mut names = kernel.list(task, "", 4096, true).await.unwrap();
    names.sort();
    names
}

#[test]
fn each_shows_at_its_path_in_every_mode_and_has_numbers_of_its_own() {
    for settings in [settings(TTL), bounded(TTL), sealed(TTL)] {
        let (simulation, nas, kernel) = world_with(1, settings);
        let task = Task::root();
        nas[0].write_outside("file", 0, b"first");
        nas[1].write_outside("file", 0, b"second");
        simulation.run(async {
            assert_eq!(names(&kernel, task).await, ["deep", "one"]);
            assert_eq!(kernel.list(task, "deep", 4096, false).await.unwrap(), ["a name"]);
            assert_eq!(head(&kernel, task, "one/file", 100).await.unwrap(), b"first");
            assert_eq!(head(&kernel, task, "deep/a name/file", 100).await.unwrap(), b"second");
            let [one, two] =
                [kernel.stat(task, "one/file").await, kernel.stat(task, "deep/a name/file").await].map(Result::unwrap);
            assert!(one.ino != two.ino && kernel.stat(task, "").await.unwrap().ino == 1);
            assert_eq!(kernel.stat(task, "none").await.err(), Some(libc::ENOENT));
            kernel.settled().await;
        });
        kernel.assert_nothing_leaked();
    }
}

#[test]
fn nothing_is_begun_of_what_would_be_about_both() {
    let (simulation, nas, kernel) = world(2);
    let task = Task::root();
    nas.iter().for_each(|nas| nas.write_outside("file", 0, b"x"));
    simulation.run(async {
        // The target is open: a RENAME that could be would give it another name first.
        let opened = kernel.open(task, "deep/a name/file", RW).await.unwrap();
        assert_eq!(kernel.rename(task, "one/file", "deep/a name/file").await, Err(libc::EXDEV));
        assert_eq!(kernel.link(task, "one/file", "deep/a name/link").await.err(), Some(libc::EXDEV));
        assert_eq!(nas.each_ref().map(|nas| nas.names("")), [["file"], ["file"]]);
        for refused in [
            kernel.mkdir(task, "new").await.err(),
            kernel.rmdir(task, "one").await.err(),
            kernel.rename(task, "one", "other").await.err(),
            kernel.open(task, "file", RW).await.err(),
        ] {
            assert_eq!(refused, Some(libc::EROFS));
        }
        kernel.close(task, opened).await.unwrap();
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn what_a_predecessor_had_begun_at_both_is_done_once_at_each() {
    let (simulation, nas, kernel) = world(3);
    let task = Task::root();
    simulation.run(async {
        let paths = ["one/log", "deep/a name/log"];
        let mut files = Vec::new();
        for path in paths {
            files.push(kernel.open(task, path, RW | libc::O_APPEND).await.unwrap());
        }
        for file in &files {
            kernel.write(task, *file, 0, b"one ").await.unwrap();
        }
        let holds = nas.each_ref().map(|nas| nas.hold(Procedure::Write));
        let asked: Vec<_> = files
            .iter()
            .map(|file| {
                let (writer, file) = (kernel.clone(), *file);
                spawn_local(async move { writer.write(task, file, 0, b"two ").await })
            })
            .collect();
        let dirs = paths.map(|path| {
            let (maker, path) = (kernel.clone(), path.replace("log", "dir"));
            spawn_local(async move { maker.mkdir(task, &path).await })
        });
        pause().await;
        kernel.kill_daemon();
        drop(holds);
        for written in asked {
            written.await.unwrap();
        }
        for made in dirs {
            made.await.unwrap();
        }
        kernel.kill_daemon();
        for (file, nas) in files.iter().zip(&nas) {
            kernel.write(task, *file, 0, b"three").await.unwrap();
            kernel.close(task, *file).await.unwrap();
            assert_eq!(nas.durable("log").unwrap(), b"one two three");
            assert_eq!(nas.names(""), ["dir", "log"]);
        }
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn one_that_is_silent_holds_up_nobody_else() {
    let write_behind = behind(Duration::from_secs(1), settings(TTL));
    let (simulation, nas, kernel) = world_with(4, write_behind);
    let task = Task::root();
    nas.iter().for_each(|nas| nas.write_outside("file", 0, b"x"));
    simulation.run(async {
        kernel.stat(task, "one/file").await.unwrap();
        pass(2 * TTL).await;
        let all = [Procedure::Getattr, Procedure::Lookup, Procedure::Access, Procedure::Read, Procedure::Fsstat];
        let holds = all.map(|procedure| nas[0].hold(procedure));
        let looker = kernel.clone();
        let looked = spawn_local(async move { looker.stat(Task::root(), "one/file").await });
        pause().await;
        // Through the root, whose names are asked for once more by now.
        for _ in 0..3 {
            let file = kernel.open(task, "deep/a name/file", libc::O_RDWR).await.unwrap();
            kernel.write(task, file, 0, b"written").await.unwrap();
            kernel.close(task, file).await.unwrap();
            assert_eq!(head(&kernel, task, "deep/a name/file", 100).await.unwrap(), b"written");
            assert_eq!(names(&kernel, task).await, ["deep", "one"]);
            pass(2 * TTL).await;
        }
        kernel.kill_daemon();
        assert_eq!(kernel.stat(task, "deep/a name/file").await.unwrap().size, 7);
        kernel.blocks_free(task, "").await.unwrap();
        assert_eq!(nas[1].durable("file").unwrap(), b"written");
        drop(holds);
        looked.await.unwrap();
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn data_that_a_silent_one_does_not_take_leaves_room_for_the_others() {
    let (simulation, nas, kernel) = world_with(6, behind(Duration::from_secs(1), settings(TTL)));
    let task = Task::root();
    simulation.run(async {
        let hold = nas[0].hold(Procedure::Write);
        let mut writers = Vec::new();
        // More than there is memory for, in several files, by the user who writes to the other one, too.
        for number in 0..8 {
            let file = kernel.open(task, &format!("one/{number}"), RW).await.unwrap();
            let writer = kernel.clone();
            writers.push(spawn_local(async move {
                let task = Task::root();
                for part in 0..4 {
                    writer.write(task, file, part << 16, &[number; 1 << 16]).await.unwrap();
                }
                writer.close(task, file).await.unwrap();
            }));
        }
        pass(Duration::from_secs(5)).await;
        for name in ["deep/a name/first", "deep/a name/second"] {
            let file = kernel.open(task, name, RW).await.unwrap();
            for part in 0..4 {
                kernel.write(task, file, part << 16, &[7; 1 << 16]).await.unwrap();
            }
            kernel.close(task, file).await.unwrap();
        }
        assert_eq!(nas[1].durable("second").unwrap(), [7; 4 << 16]);
        drop(hold);
        for writer in writers {
            writer.await;
        }
        assert_eq!(nas[0].durable("7").unwrap(), [7; 4 << 16]);
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_directory_that_others_replace_is_found_anew_at_its_own_server() {
    let (simulation, nas, kernel) = world(5);
    let task = Task::root();
    nas.iter().for_each(|nas| {
        nas.mkdir_outside("dir");
        nas.write_outside("dir/file", 0, b"old");
    });
    simulation.run(async {
        kernel.stat(task, "deep/a name/dir/file").await.unwrap();
        assert!(nas[1].remove_outside("dir/file") && nas[1].rmdir_outside("dir"));
        nas[1].mkdir_outside("dir");
        nas[1].write_outside("dir/file", 0, b"new one");
        // Known names lead to what is gone: the kernel walks the path again.
        assert_eq!(head(&kernel, task, "deep/a name/dir/file", 100).await.unwrap(), b"new one");
        assert_eq!(head(&kernel, task, "one/dir/file", 100).await.unwrap(), b"old");
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}
