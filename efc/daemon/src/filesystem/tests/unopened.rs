//! Files that the kernel opens without asking: what that saves, whom it lets read, and that a bound holds all the same. Random histories of
//! such a mount are in [`super::histories`].

use std::time::Duration;

use efc_backend::{Cred, SetAttr, SetTime, Time};
use efc_model::{Nas, Options, Procedure};
use efc_tasks::simulation::Simulation;
use efc_tasks::spawn_local;

use super::common::{self, calls, pass};
use super::kernel::{Done, Kernel, Task, bounded, sealed};
use crate::filesystem::Settings;

const T: Duration = Duration::from_secs(3);
const READ: i32 = libc::O_RDONLY;
/// In whose name all is asked.
const OWNER: u32 = 1000;

fn cred() -> Cred {
    Cred { uid: OWNER, gid: OWNER, groups: [].into() }
}

fn world(settings: Settings) -> (Simulation, Nas, Kernel) {
    let settings = Settings { unopened: Some(cred()), ..settings };
    let (simulation, nas, kernel) = common::world(1, Options::default(), settings);
    nas.write_outside("small", 0, b"small");
    nas.write_outside("large", 0, &[7; 70_000]);
    simulation.run(pass(T)); // then no change can have their versions any more
    (simulation, nas, kernel)
}

/// All of a file, and not beyond: there the kernel would ask for its size.
async fn read(kernel: &Kernel, path: &str) -> Done<Vec<u8>> {
    let length = kernel.nas().attr(path).expect("a file").size as usize;
    common::head(kernel, Task::new(OWNER), path, length).await
}

/// Until versions are settled and noted.
async fn read_until_known(kernel: &Kernel, path: &str) {
    for _ in 0..3 {
        read(kernel, path).await.unwrap();
        pass(T).await;
    }
    read(kernel, path).await.unwrap();
}

/// Other bytes of the same number, under the modification time of before: the time of change alone says so.
fn change_unseen(nas: &Nas, path: &str, data: &[u8]) {
    let mtime = nas.attr(path).expect("a file").mtime;
    nas.write_outside(path, 0, data);
    nas.set_outside(path, &SetAttr { mtime: SetTime::To(Time { ..mtime }), ..SetAttr::default() });
}

#[test]
fn a_second_reading_asks_the_daemon_for_nothing_and_a_successor_neither() {
    let (simulation, _, kernel) = world(bounded(T));
    simulation.run(async {
        for path in ["small", "large"] {
            read_until_known(&kernel, path).await;
        }
        read(&kernel, "small").await.unwrap(); // whose time has passed meanwhile
        let requests = kernel.requests();
        for _ in 0..2 {
            assert_eq!(read(&kernel, "small").await.unwrap(), b"small");
            assert_eq!(read(&kernel, "large").await.unwrap(), [7; 70_000]);
            assert_eq!(kernel.requests(), requests);
            kernel.kill_daemon();
        }
        assert_eq!(kernel.efc().open_files(), 0);
        kernel.settled().await;
    });
    kernel.assert_nothing_left();
}

#[test]
fn all_is_asked_in_one_name_and_who_may_not_read_is_told_by_the_first_read() {
    let (simulation, nas, kernel) = world(bounded(T));
    let only_for = |uid| SetAttr { mode: Some(0o400), uid: Some(uid), ..SetAttr::default() };
    nas.set_outside("small", &only_for(OWNER + 1));
    nas.set_outside("large", &only_for(OWNER));
    simulation.run(async {
        let root = Task::root(); // whom the kernel lets open anything
        let file = kernel.open(root, "small", READ).await.unwrap();
        assert_eq!(kernel.read(root, file, 0, 5).await, Err(libc::EACCES));
        kernel.close(root, file).await.unwrap();
        assert_eq!(common::head(&kernel, root, "large", 5).await.unwrap(), [7; 5], "though the server squashes root");
        nas.set_outside("large", &only_for(OWNER + 1));
        pass(T).await;
        let file = kernel.open(root, "large", READ).await.unwrap();
        assert_eq!(kernel.ask_read(root, file, 0, 5).await, Err(libc::EACCES), "what has to be read anew");
        kernel.close(root, file).await.unwrap();
        kernel.settled().await;
    });
    kernel.assert_nothing_left();
}

#[test]
fn within_the_bound_it_is_what_was_read_and_after_it_what_is_there() {
    let (simulation, nas, kernel) = world(bounded(T));
    simulation.run(async {
        for (round, kills) in [(1, false), (2, false), (3, true), (4, true)] {
            read_until_known(&kernel, "small").await;
            let before = read(&kernel, "small").await.unwrap();
            let now = [round; 5];
            change_unseen(&nas, "small", &now);
            if kills {
                kernel.kill_daemon();
            }
            assert_eq!(read(&kernel, "small").await.unwrap(), before);
            pass(T).await;
            assert_eq!(read(&kernel, "small").await.unwrap(), now, "round {round}");
        }
        kernel.settled().await;
    });
}

#[test]
fn who_has_it_open_sees_what_is_there_after_the_bound_too() {
    let (simulation, nas, kernel) = world(bounded(T));
    simulation.run(async {
        let task = Task::new(OWNER);
        let file = kernel.open(task, "large", READ).await.unwrap();
        for round in 0..3 {
            change_unseen(&nas, "large", &[round; 70_000]);
            pass(T).await;
            for place in [0, 65_000] {
                // The first read after a drop is answered under the former attributes, with no page of before.
                assert_eq!(kernel.read(task, file, place, 100).await.unwrap(), [round; 100], "round {round}");
            }
        }
        kernel.close(task, file).await.unwrap();
        kernel.settled().await;
    });
}

#[test]
fn of_many_reads_that_come_at_once_one_asks() {
    let (simulation, nas, kernel) = world(sealed(T));
    simulation.run(async {
        let task = Task::new(OWNER);
        let file = kernel.open(task, "large", READ).await.unwrap();
        let reading = (0..8).map(|number| {
            let kernel = kernel.clone();
            spawn_local(async move { kernel.ask_read(task, file, number * 8192, 8192).await.unwrap() })
        });
        let (asked, ()) = calls(&nas, async {
            for read in reading.collect::<Vec<_>>() {
                assert_eq!(read.await, [7; 8192]);
            }
        })
        .await;
        assert_eq!((asked, nas.executed(Procedure::Access)), (9, 1));
        kernel.close(task, file).await.unwrap();
        kernel.settled().await;
    });
}

#[test]
fn a_listing_tells_nothing_new_of_a_file_of_which_nothing_but_its_pages_is_known() {
    let (simulation, nas, kernel) = world(Settings { metadata_bytes_max: 0, ..bounded(T) });
    (0..40).for_each(|number| nas.write_outside(&format!("other{number}"), 0, b"other"));
    simulation.run(async {
        read_until_known(&kernel, "small").await;
        change_unseen(&nas, "small", b"SMALL");
        pass(T).await;
        kernel.list(Task::new(OWNER), "", 4096, true).await.unwrap();
        assert_eq!(read(&kernel, "small").await.unwrap(), b"SMALL");
        kernel.settled().await;
    });
}
