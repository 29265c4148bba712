//! Stories of programs that open the files of a directory one after the other.

use std::sync::Arc;
use std::time::Duration;

use efc_backend::SetAttr;
use efc_buffer::{Budget, BudgetLimits, Purpose};
use efc_model::{Nas, Options, Procedure};
use efc_tasks::simulation::Simulation;

use super::common::{self, pass};
use super::kernel::{Kernel, Task, bounded, sealed, settings};
use super::pool::Pool;
use crate::filesystem::{AheadFigures, AheadSwitch, Settings};

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
    let took = simulation.run(async {
        kernel.list(task, "dir", 4096, false).await.unwrap();
        let lookups = nas.executed(Procedure::Lookup);
        let (asked, took) = cost(&nas, read(&kernel, task, 0..FILES)).await;
        // One question for a small file, and two for a larger one.
        assert_eq!(asked, FILES as u64 * 3 / 2);
        assert!(nas.executed(Procedure::Lookup) <= lookups + 1, "the listing has shown them");
        let order = kernel.efc().asked_ahead().order;
        assert_eq!((order.asked, order.used, order.wasted), (FILES as u64 - 2, FILES as u64 - 2, 0));
        took
    });
    drop((simulation, nas, kernel));
    let off = Settings { ahead: Arc::new(AheadSwitch::new(false)), ..bounded(T) };
    let (simulation, nas, kernel) = world(off);
    simulation.run(async {
        kernel.list(task, "dir", 4096, false).await.unwrap();
        let (asked, took_without) = cost(&nas, read(&kernel, task, 0..FILES)).await;
        assert_eq!(asked, FILES as u64 * 3 / 2);
        assert!(took * 2 < took_without, "{took:?} against {took_without:?}");
        assert_eq!(kernel.efc().asked_ahead(), AheadFigures::default());
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

/// The small files, in an order that is drawn by `seed`.
fn shuffled(seed: usize) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..FILES).filter(|number| number.is_multiple_of(2)).collect();
    numbers.sort_by_key(|number| (number * 7919 + seed * 104_729) % 997);
    numbers
}

/// Opens and reads these, and answers how long that takes.
async fn visit(kernel: &Kernel, task: Task, numbers: Vec<usize>) -> Duration {
    let begun = efc_tasks::time::now();
    read(kernel, task, numbers).await;
    efc_tasks::time::since(begun)
}

/// How long each of four visits takes, each in another order, with such pauses between them.
fn visits(settings: Settings, pause: Duration) -> Vec<Duration> {
    let (simulation, nas, kernel) = world(settings);
    let task = Task::new(7);
    simulation.run(async {
        let mut took = Vec::new();
        for seed in 1..5 {
            let calls = nas.calls();
            took.push(visit(&kernel, task, shuffled(seed)).await);
            pass(pause).await;
            let calls = nas.calls() - calls;
            assert!(calls <= if seed == 1 { 2 } else { 1 } * FILES as u64 + 30, "{calls} calls in visit {seed}");
        }
        pass(T).await;
        let AheadFigures { directory: all, held_bytes, .. } = kernel.efc().asked_ahead();
        assert!(all.used + all.wasted == all.asked && all.wasted * 10 <= all.asked && held_bytes == 0, "{all:?}");
        took
    })
}

#[test]
fn who_opens_files_at_random_waits_for_few_of_them_from_the_second_visit_on() {
    for (settings, pause) in [(bounded(T), T), (bounded(T * 100), T), (sealed(T), T)] {
        let off = Settings { ahead: Arc::new(AheadSwitch::new(false)), ..settings.clone() };
        let (with, without) = (visits(settings, pause), visits(off, pause));
        for (with, without) in with.iter().zip(&without).skip(1) {
            assert!(*with * 2 < *without, "{with:?} and not {without:?}");
        }
    }
}

#[test]
fn who_opens_a_few_files_again_and_again_has_few_others_asked_for() {
    let (simulation, nas, kernel) = world(sealed(T));
    let task = Task::new(7);
    simulation.run(async {
        kernel.list(task, "dir", 4096, true).await.unwrap();
        let (asked_at_once, _) = cost(&nas, read(&kernel, task, [0, 50, 24, 98, 10])).await;
        assert!(asked_at_once <= SEARCH + 10, "{asked_at_once}");
        for _ in 0..40 {
            pass(Duration::from_secs(70)).await;
            read(&kernel, task, [50, 24, 0, 98, 10]).await;
        }
        let asked = kernel.efc().asked_ahead().directory.asked;
        assert!(asked < 100, "{asked} for 200 opens");
    });
}

#[test]
fn a_prefetcher_that_is_wrong_stops_and_tries_again_later() {
    let (simulation, nas, kernel) = world(bounded(T));
    simulation.run(async {
        for number in 0..200 {
            nas.mkdir_outside(&format!("many{number}"));
            (0..20).for_each(|file| nas.write_outside(&format!("many{number}/{file:02}"), 0, b"small"));
        }
        pass(Duration::from_secs(10)).await;
        let task = Task::new(7);
        let mut asked = Vec::new();
        for number in 0..200 {
            kernel.list(task, &format!("many{number}"), 4096, true).await.unwrap();
            for file in [3, 17, 9, 5] {
                whole(&kernel, task, &format!("many{number}/{file:02}")).await;
            }
            pass(Duration::from_secs(1)).await;
            asked.push(kernel.efc().asked_ahead().directory.asked);
        }
        let all = kernel.efc().asked_ahead().directory;
        assert!(all.asked > 20 && all.used * 2 < all.asked, "{all:?}: of no use");
        let most = (1..asked.len()).map(|number| asked[number] - asked[number - 1]).max().unwrap();
        let in_vain = asked.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert!(most <= 4 && in_vain > 20, "{asked:?}");
    });
}

#[test]
fn data_that_was_asked_for_ahead_takes_no_more_memory_than_it_may() {
    let buffers = Budget::new(BudgetLimits { ahead_bytes: 2 << 20, ..BudgetLimits::NONE });
    let (simulation, nas, kernel) = world(Settings { buffers, ..sealed(T) });
    let task = Task::new(7);
    simulation.run(async {
        nas.mkdir_outside("much");
        (0..200).for_each(|file| nas.write_outside(&format!("much/{file:03}"), 0, &vec![file as u8; 50_000]));
        pass(Duration::from_secs(10)).await;
        for round in 0..2 {
            for file in 0..200 {
                let file = (file * 37 + round) % 200;
                let data = whole(&kernel, task, &format!("much/{file:03}")).await;
                assert!(data.len() == 50_000 && data.iter().all(|byte| *byte == file as u8));
                assert!(kernel.efc().asked_ahead().held_bytes <= 1 << 20);
            }
        }
        assert!(kernel.efc().asked_ahead().directory.used > 20);
    });
}

#[test]
fn what_was_asked_for_ahead_is_not_given_after_a_change_of_this_node() {
    let (simulation, nas, kernel) = world(bounded(T));
    let task = Task::root();
    simulation.run(async {
        for seed in 1..4 {
            visit(&kernel, task, shuffled(1)).await;
            pass(T).await;
            let order = shuffled(seed + 1);
            read(&kernel, task, order[..20].iter().copied()).await;
            for number in &order[20..] {
                let file = kernel.open(task, &path(*number), libc::O_WRONLY).await.unwrap();
                kernel.write(task, file, 0, &[0xee; 5_000]).await.unwrap();
                kernel.close(task, file).await.unwrap();
                let data = whole(&kernel, task, &path(*number)).await;
                assert!(data.iter().all(|byte| *byte == 0xee), "file {number}");
                nas.write_outside(&path(*number), 0, &content(*number));
            }
            pass(T).await;
        }
    });
}

#[test]
fn who_reads_past_all_caches_is_given_nothing_that_was_asked_for_ahead() {
    let (simulation, nas, kernel) = world(sealed(T));
    let task = Task::new(7);
    simulation.run(async {
        visit(&kernel, task, shuffled(1)).await;
        let order = shuffled(2);
        read(&kernel, task, order[..20].iter().copied()).await;
        pass(Duration::from_secs(1)).await;
        assert!(kernel.efc().asked_ahead().held_bytes > 0);
        for number in &order[20..] {
            let reads = nas.executed(Procedure::Read);
            let file = kernel.open(task, &path(*number), libc::O_RDONLY | libc::O_DIRECT).await.unwrap();
            assert!(kernel.ask_read(task, file, 0, 1 << 17).await.unwrap() == content(*number));
            kernel.close(task, file).await.unwrap();
            assert!(nas.executed(Procedure::Read) > reads, "file {number}");
        }
    });
}

#[test]
fn a_daemon_that_is_killed_while_files_are_asked_for_costs_no_error() {
    let (simulation, _, kernel) = world(bounded(T));
    let task = Task::new(7);
    simulation.run(async {
        visit(&kernel, task, shuffled(1)).await;
        pass(T).await;
        for (count, number) in shuffled(2).into_iter().enumerate() {
            if count % 7 == 5 {
                kernel.kill_daemon();
            }
            read(&kernel, task, [number]).await;
        }
    });
    assert!(kernel.kills() > 5);
}

#[test]
fn data_of_a_tick_in_which_the_file_may_still_change_does_not_stand_for_what_is_seen_after_it() {
    let coarse = Options { granularity: 1_000_000_000, ..Options::default() };
    let (simulation, nas, kernel) = common::world(1, coarse, bounded(T));
    let task = Task::new(7);
    simulation.run(async {
        (0..4).for_each(|number| nas.write_outside(&format!("{number}"), 0, &[1; 5]));
        kernel.list(task, "", 4096, true).await.unwrap();
        for path in ["0", "1"] {
            whole(&kernel, task, path).await;
        }
        pass(Duration::from_millis(1)).await;
        assert!(kernel.efc().asked_ahead().held_bytes > 0);
        let before = nas.attr("2").unwrap();
        nas.write_outside("2", 0, &[2; 5]);
        assert_eq!(nas.attr("2").unwrap(), before, "within the same tick");
        pass(T / 2).await;
        kernel.list(Task::new(8), "", 4096, true).await.unwrap(); // shows the version again, after its tick
        common::head(&kernel, task, "2", 5).await.unwrap();
        pass(T).await;
        assert_eq!(common::head(&kernel, task, "2", 5).await.unwrap(), [2; 5]);
    });
}

#[test]
fn who_turns_it_off_has_nothing_asked_for_any_more() {
    let ahead = Arc::new(AheadSwitch::new(true));
    let (simulation, nas, kernel) = world(Settings { ahead: ahead.clone(), ..bounded(T) });
    let task = Task::new(7);
    simulation.run(async {
        nas.mkdir_outside("many");
        let paths: Vec<String> = (0..1000).map(|file| format!("many/{:03}", file * 37 % 1000)).collect();
        paths.iter().for_each(|path| nas.write_outside(path, 0, b"small"));
        let asked = || kernel.efc().asked_ahead().directory.asked;
        for path in &paths {
            whole(&kernel, task, path).await;
        }
        pass(T).await;
        let before = asked();
        for path in paths.iter().rev() {
            whole(&kernel, task, path).await;
            if asked() > before + 200 {
                break;
            }
        }
        ahead.set(false);
        let before = asked();
        pass(Duration::from_secs(1)).await;
        assert_eq!(asked(), before);
    });
}

#[test]
fn what_is_being_asked_for_leaves_memory_to_those_who_wait() {
    const AHEAD_BYTES: u64 = 2 << 20;
    let buffers = Budget::new(BudgetLimits { ahead_bytes: AHEAD_BYTES, ..BudgetLimits::NONE });
    let (simulation, nas, kernel) = world(Settings { buffers: buffers.clone(), ..bounded(T) });
    let task = Task::new(7);
    simulation.run(async {
        nas.mkdir_outside("much");
        (0..300).for_each(|file| nas.write_outside(&format!("much/{file:03}"), 0, b"small"));
        pass(Duration::from_secs(10)).await;
        kernel.list(task, "much", 4096, true).await.unwrap();
        for file in 0..100 {
            whole(&kernel, task, &format!("much/{file:03}")).await;
        }
        pass(Duration::from_secs(1)).await;
        let hold = nas.hold(Procedure::Read);
        for file in 100..150 {
            whole(&kernel, task, &format!("much/{file:03}")).await;
        }
        assert!(hold.held() > 10, "{} files are being asked for", hold.held());
        assert!(buffers.take(Purpose::Ahead, AHEAD_BYTES as usize / 2).is_some());
        drop(hold);
        pass(Duration::from_secs(1)).await;
    });
}

#[test]
fn a_directory_in_which_there_is_nothing_to_ask_for_is_not_listed_again_and_again() {
    let (simulation, nas, kernel) = world(bounded(Duration::from_secs(3)));
    let task = Task::new(7);
    simulation.run(async {
        nas.mkdir_outside("large");
        (0..40).for_each(|file| nas.write_outside(&format!("large/{file:02}"), 0, &[7; 70_000]));
        pass(Duration::from_secs(10)).await;
        for round in 0..20 {
            nas.write_outside(&format!("large/new{round}"), 0, &[7; 70_000]);
            for file in 0..20 {
                whole(&kernel, task, &format!("large/{:02}", file * 7 % 40)).await;
            }
            pass(Duration::from_secs(3)).await;
        }
        let listings = nas.executed(Procedure::Readdirplus);
        assert!((1..=2).contains(&listings), "{listings} listings");
    });
}

#[test]
fn a_source_that_is_silent_keeps_nobody_from_having_files_of_another_asked_for() {
    let simulation = Simulation::new(1);
    let nas = [1, 2].map(|seed| Nas::new(Options::default(), seed));
    for (nas, delay_ms) in nas.iter().zip([50, 1]) {
        nas.mkdir_outside("dir");
        (0..3 * FILES).for_each(|number| nas.write_outside(&path(number), 0, b"small"));
        nas.network().set_delay(Duration::from_millis(delay_ms)); // of some answers: so few are asked for at once
    }
    let kernel = Kernel::mount_several(&[("/one", &nas[0]), ("/two", &nas[1])], bounded(T), None);
    let task = Task::new(7);
    simulation.run(async {
        pass(Duration::from_secs(10)).await;
        let scan = async |source: &str, numbers: std::ops::Range<usize>| {
            for number in numbers {
                assert_eq!(whole(&kernel, task, &format!("{source}/{}", path(number))).await, b"small");
            }
        };
        kernel.list(task, "one/dir", 4096, true).await.unwrap();
        scan("one", 0..FILES).await;
        pass(Duration::from_secs(1)).await;
        let hold = nas[0].hold(Procedure::Read);
        scan("one", FILES..FILES + 20).await;
        assert!(hold.held() > 3, "{} files are being asked for", hold.held());
        let used = || kernel.efc().asked_ahead().order.used;
        let before = used();
        kernel.list(task, "two/dir", 4096, true).await.unwrap();
        scan("two", 0..FILES).await;
        assert!(used() > before + FILES as u64 / 2, "{} files were of use", used() - before);
        drop(hold);
        pass(Duration::from_secs(1)).await;
    });
}
