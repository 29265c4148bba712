//! A file that grows elsewhere, read here by several at once: they see what was written, and see it soon.

use std::rc::Rc;
use std::time::Duration;

use efc_model::Options;
use efc_tasks::spawn_local;

use super::common::{self, draw, pass};
use super::kernel::{Kernel, Task, bounded, settings};
use crate::filesystem::Settings;

const LINE: &[u8] = b"a line of some length\n";
const LINES: usize = 400;
const READERS: usize = 4;
const TTL: Duration = Duration::from_millis(1);

/// One reader's count of reads; each has seen a beginning of the lines, and nothing else.
async fn follow(kernel: Kernel, lines: Rc<Vec<u8>>) -> usize {
    let file = kernel.open(Task::root(), "log", libc::O_RDONLY).await.unwrap();
    let (mut at, mut reads) = (0, 0);
    while at < lines.len() {
        let task = Task::root();
        let read = kernel.read(task, file, at as u64, 1 << 16).await.unwrap();
        assert_eq!(read, lines[at..at + read.len()], "at {at}");
        at += read.len();
        reads += 1;
        pass(Duration::from_micros(draw(300) as u64)).await;
    }
    kernel.close(Task::root(), file).await.unwrap();
    reads
}

fn grows(seed: u64, settings: Settings) {
    let (simulation, nas, kernel) = common::world(seed, Options::default(), settings);
    let lines = Rc::new(LINE.repeat(LINES));
    nas.write_outside("log", 0, b"");
    simulation.run(async {
        let readers: Vec<_> = (0..READERS).map(|_| spawn_local(follow(kernel.clone(), Rc::clone(&lines)))).collect();
        pass(Duration::from_millis(50)).await;
        for line in 0..LINES {
            nas.write_outside("log", (line * LINE.len()) as u64, LINE);
            pass(Duration::from_micros(draw(600) as u64)).await;
        }
        for reader in readers {
            assert!(reader.await > 10);
        }
        kernel.settled().await;
    });
    kernel.assert_nothing_left();
}

#[test]
fn readers_of_a_growing_file_see_what_was_written_and_nothing_else() {
    for seed in 0..20 {
        grows(seed, settings(Duration::ZERO));
    }
}

#[test]
fn so_do_they_within_a_bound() {
    for seed in 0..20 {
        grows(seed, bounded(TTL));
    }
}
