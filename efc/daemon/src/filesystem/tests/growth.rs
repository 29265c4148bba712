//! A file that grows elsewhere, read here by several at once: they see what was written, and see it soon.

use std::rc::Rc;
use std::time::Duration;

use efc_model::Options;
use efc_tasks::spawn_local;

use super::common::{self, calls, draw, pass};
use super::kernel::{File, Kernel, Task, bounded, settings};
use crate::filesystem::Settings;

const LINE: &[u8] = b"a line of some length\n";
const LINES: usize = 400;
const READERS: usize = 4;
const TTL: Duration = Duration::from_millis(1);

/// One reader's count of reads; each has seen a beginning of the lines, and nothing else. With `shared`, all have that one open.
async fn follow(kernel: Kernel, lines: Rc<Vec<u8>>, shared: Option<File>) -> usize {
    let file = match shared {
        Some(file) => file,
        None => kernel.open(Task::root(), "log", libc::O_RDONLY).await.unwrap(),
    };
    let (mut at, mut reads) = (0, 0);
    while at < lines.len() {
        let task = Task::root();
        let read = kernel.read(task, file, at as u64, 1 << 16).await.unwrap();
        assert_eq!(read, lines[at..at + read.len()], "at {at}");
        at += read.len();
        reads += 1;
        pass(Duration::from_micros(draw(300) as u64)).await;
    }
    if shared.is_none() {
        kernel.close(Task::root(), file).await.unwrap();
    }
    reads
}

/// What happens while a file grows.
#[derive(Clone, Copy, Default)]
struct Story {
    /// The readers have one open between them.
    is_shared: bool,
    /// So often the daemon is killed.
    kills: usize,
}

fn grows(seed: u64, settings: Settings, Story { is_shared, kills }: Story) {
    let (simulation, nas, kernel) = common::world(seed, Options::default(), settings);
    let lines = Rc::new(LINE.repeat(LINES));
    nas.write_outside("log", 0, b"");
    simulation.run(async {
        let shared = match is_shared {
            true => Some(kernel.open(Task::root(), "log", libc::O_RDONLY).await.unwrap()),
            false => None,
        };
        let follow = |_| spawn_local(follow(kernel.clone(), Rc::clone(&lines), shared));
        let readers: Vec<_> = (0..READERS).map(follow).collect();
        pass(Duration::from_millis(50)).await;
        for line in 0..LINES {
            nas.write_outside("log", (line * LINE.len()) as u64, LINE);
            pass(Duration::from_micros(draw(600) as u64)).await;
            if kills > 0 && line % (LINES / (kills + 1)) == LINES / (kills + 1) - 1 {
                kernel.kill_daemon();
            }
        }
        for reader in readers {
            assert!(reader.await > 10);
        }
        if let Some(file) = shared {
            kernel.close(Task::root(), file).await.unwrap();
        }
        kernel.settled().await;
    });
    kernel.assert_nothing_left();
}

#[test]
fn readers_of_a_growing_file_see_what_was_written_and_nothing_else() {
    for seed in 0..20 {
        grows(seed, settings(Duration::ZERO), Story::default());
    }
}

#[test]
fn so_do_they_within_a_bound() {
    for seed in 0..20 {
        grows(seed, bounded(TTL), Story::default());
    }
}

#[test]
fn so_do_threads_that_share_one_open() {
    for seed in 0..20 {
        grows(seed, settings(Duration::ZERO), Story { is_shared: true, ..Story::default() });
    }
}

#[test]
fn so_do_they_when_daemons_die() {
    for seed in 0..20 {
        grows(seed, settings(Duration::ZERO), Story { kills: 3, ..Story::default() });
    }
}

/// It knows of the size of the pages, and of nothing else; a file that ends with a page has nothing to be dropped.
#[test]
fn a_successor_lengthens_a_file_that_has_ended_with_a_page() {
    let (simulation, nas, kernel) = common::world(1, Options::default(), settings(Duration::ZERO));
    nas.write_outside("log", 0, &[1; 8192]);
    simulation.run(async {
        pass(Duration::from_secs(1)).await;
        let open = async || kernel.open(Task::root(), "log", libc::O_RDONLY).await.unwrap();
        for _ in 0..2 {
            common::head(&kernel, Task::root(), "log", 8192).await.unwrap(); // the second time its version is settled
            pass(Duration::from_secs(1)).await;
        }
        let files = [open().await, open().await];
        kernel.read(Task::root(), files[0], 0, 8192).await.unwrap();
        kernel.kill_daemon();
        nas.write_outside("log", 8192, LINE);
        for file in files {
            assert_eq!(kernel.read(Task::root(), file, 8192, 100).await.unwrap(), LINE);
            kernel.close(Task::root(), file).await.unwrap();
        }
        kernel.settled().await;
    });
    kernel.assert_nothing_left();
}

/// Maps of a file end where the kernel takes it to end, and ask nobody.
#[test]
fn who_is_shown_a_size_by_stat_finds_the_file_as_long() {
    let (simulation, nas, kernel) = common::world(1, Options::default(), settings(Duration::ZERO));
    nas.write_outside("log", 0, LINE);
    simulation.run(async {
        let file = kernel.open(Task::root(), "log", libc::O_RDONLY).await.unwrap();
        kernel.read(Task::root(), file, 0, 100).await.unwrap();
        nas.write_outside("log", LINE.len() as u64, LINE);
        let shown = kernel.stat(Task::root(), "log").await.unwrap().size;
        assert_eq!(shown, 2 * LINE.len() as u64);
        assert_eq!(kernel.size_in_kernel(file), shown);
        kernel.close(Task::root(), file).await.unwrap();
        kernel.settled().await;
    });
    kernel.assert_nothing_left();
}

#[test]
fn a_file_that_has_grown_before_it_is_opened_costs_no_more_than_another() {
    let (simulation, nas, kernel) = common::world(1, Options::default(), settings(Duration::from_secs(60)));
    simulation.run(async {
        let mut costs = Vec::new();
        for length in [5000, 5000, 6000, 7001] {
            nas.write_outside("log", 0, &vec![b'x'; length]);
            pass(Duration::from_secs(3)).await;
            let (cost, read) = calls(&nas, common::head(&kernel, Task::root(), "log", 1 << 16)).await;
            assert_eq!(read.unwrap().len(), length);
            costs.push(cost);
        }
        assert_eq!(costs[1..], [costs[1]; 3]);
        kernel.settled().await;
    });
    kernel.assert_nothing_left();
}
