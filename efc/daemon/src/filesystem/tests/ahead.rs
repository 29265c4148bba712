//! Stories of programs that open the files of a directory one after the other.

use std::time::Duration;

use efc_backend::SetAttr;
use efc_model::{Nas, Options, Procedure};
use efc_tasks::simulation::Simulation;

use super::common::{self, pass};
use super::kernel::{Kernel, Task, bounded, settings};
use super::pool::Pool;
use crate::filesystem::Settings;

/// The T of `bounded`.
const T: Duration = Duration::from_secs(60);
const FILES: usize = 100;
/// The question whether a caller may look into the directory.
const SEARCH: u64 = 1;

/// A directory with files, which has not changed for a while.
fn world(settings: Settings) -> (Simulation, Nas, Kernel) {
    let (simulation, nas, kernel) = common::world(1, Options::default(), settings);
    nas.mkdir_outside("dir");
    (0..FILES).for_each(|number| nas.write_outside(&path(number), 0, &content(number)));
    nas.network().set_delay(Duration::from_millis(1));
    simulation.run(pass(Duration::from_secs(10)));
    (simulation, nas, kernel)
}

fn path(number: usize) -> String {
    format!("dir/{number:04}")
}

/// Some are read when they are opened, and some are larger.
fn content(number: usize) -> Vec<u8> {
    vec![number as u8; if number.is_multiple_of(2) { 5_000 } else { 70_000 }]
}

/// Opens a file, reads it as the kernel's read-ahead does, and closes it.
async fn whole(kernel: &Kernel, task: Task, path: &str) -> Vec<u8> {
    let file = kernel.open(task, path, libc::O_RDONLY).await.unwrap();
    let data = kernel.ask_read(task, file, 0, 1 << 17).await.unwrap();
    kernel.close(task, file).await.unwrap();
    data
}

async fn read(kernel: &Kernel, task: Task, numbers: impl IntoIterator<Item = usize>) {
    for number in numbers {
        assert!(whole(kernel, task, &path(number)).await == content(number), "file {number}");
    }
}

/// Answers of the NAS to questions for permission and for data, and the time that something takes.
async fn cost(nas: &Nas, of: impl Future<Output = ()>) -> (u64, Duration) {
    let executed = || nas.executed(Procedure::Access) + nas.executed(Procedure::Read);
    let (before, begun) = (executed(), efc_tasks::time::now());
    of.await;
    let took = efc_tasks::time::since(begun);
    pass(Duration::from_secs(1)).await; // what was asked ahead is answered
    (executed() - before, took)
}

#[test]
fn who_opens_files_in_the_order_of_their_listing_waits_for_few_of_them() {
    let (simulation, nas, kernel) = world(bounded(T));
    let task = Task::new(7);
    simulation.run(async {
        kernel.list(task, "dir", 4096, false).await.unwrap();
        let lookups = nas.executed(Procedure::Lookup);
        let (asked, took) = cost(&nas, read(&kernel, task, 0..FILES)).await;
        // One question for a small file, and two for a larger one.
        assert_eq!(asked, FILES as u64 * 3 / 2);
        assert!(nas.executed(Procedure::Lookup) <= lookups + 1, "the listing has shown them");
        let stranger = Task::new(8);
        kernel.list(stranger, "dir", 4096, false).await.unwrap();
        let out_of_order = (0..FILES).map(|number| number * 37 % FILES);
        let (asked, took_out_of_order) = cost(&nas, read(&kernel, stranger, out_of_order)).await;
        assert!(asked <= SEARCH + FILES as u64 * 3 / 2, "{asked}: nothing in vain");
        assert!(took * 2 < took_out_of_order, "{took:?} against {took_out_of_order:?}");
    });
}

#[test]
fn who_stops_has_had_no_more_asked_for_than_was_opened() {
    for (opened, files_max) in [(1, 1), (2, 3), (3, 5), (6, 11)] {
        let (simulation, nas, kernel) = world(bounded(T));
        let task = Task::new(7);
        simulation.run(async {
            kernel.list(task, "dir", 4096, true).await.unwrap();
            let (asked, _) = cost(&nas, read(&kernel, task, 0..opened)).await;
            assert!(asked <= SEARCH + files_max * 3 / 2, "{asked} for {opened}");
        });
    }
}

#[test]
fn what_was_asked_ahead_for_one_caller_is_not_given_to_another() {
    let (simulation, nas, kernel) = world(bounded(T));
    for number in 0..FILES {
        let owned = SetAttr { uid: Some(7), mode: Some(0o600), ..SetAttr::default() };
        nas.set_outside(&path(number), &owned);
    }
    simulation.run(async {
        pass(Duration::from_secs(3)).await;
        let (owner, stranger) = (Task::new(7), Task::new(8));
        kernel.list(owner, "dir", 4096, true).await.unwrap();
        for number in 0..FILES {
            read(&kernel, owner, [number]).await;
            let refused = kernel.open(stranger, &path(number), libc::O_RDONLY).await;
            assert_eq!(refused.err(), Some(libc::EACCES));
        }
    });
}

#[test]
fn what_changes_after_it_was_asked_for_ahead_is_seen_within_the_bound() {
    let (simulation, nas, kernel) = world(bounded(Duration::from_secs(3)));
    let task = Task::new(7);
    simulation.run(async {
        kernel.list(task, "dir", 4096, true).await.unwrap();
        read(&kernel, task, 0..20).await;
        (20..FILES).for_each(|number| nas.write_outside(&path(number), 0, &vec![0xff; content(number).len()]));
        pass(Duration::from_secs(3)).await;
        for number in 20..FILES {
            assert!(whole(&kernel, task, &path(number)).await.iter().all(|byte| *byte == 0xff));
        }
    });
}

#[test]
fn in_close_to_open_each_open_asks_for_itself() {
    let (simulation, nas, kernel) = world(settings(T));
    let task = Task::new(7);
    simulation.run(async {
        kernel.list(task, "dir", 4096, true).await.unwrap();
        read(&kernel, task, 0..10).await;
        let (asked, _) = cost(&nas, read(&kernel, task, 10..11)).await;
        assert_eq!(asked, 1);
    });
}

#[test]
fn who_reads_in_order_from_a_pool_asks_the_nas_for_permission_alone_and_does_not_wait() {
    let pool = Pool::reliable();
    let with_pool = || Settings { levels: vec![pool.level()], ..bounded(T) };
    let (simulation, nas, kernel) = world(with_pool());
    let second = Kernel::mount(&nas, 2, with_pool(), None);
    let task = Task::new(7);
    simulation.run(async {
        nas.write_outside("clock", 0, b"later");
        for (node, asked) in [(&kernel, FILES * 3 / 2), (&second, FILES)] {
            node.stat(task, "clock").await.unwrap();
            node.list(task, "dir", 4096, true).await.unwrap();
            let reads = nas.executed(Procedure::Read);
            let (all, _) = cost(&nas, read(node, task, 0..FILES)).await;
            assert!(
                (asked as u64..=asked as u64 + 2 * SEARCH).contains(&all),
                "{all} and not {asked}, {}",
                pool.filled()
            );
            assert!(asked > FILES || nas.executed(Procedure::Read) == reads);
        }
    });
}
