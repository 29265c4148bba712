//! What the index takes of memory.

use crate::index::{Index, Record, file};
use crate::policy::queues::{Admission, Queue, Unit};
use crate::sums::Sums;
use crate::testing::{MIB, key};

/// Set in a process of its own, which runs one test.
const ALONE: &str = "EFC_TEST_ALONE";
const FILES: u64 = 100_000;

fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("there");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("told");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

fn large_files(index: &mut Index) {
    let admission = Admission { queue: Queue::Again, distance: 1, usual: None };
    for number in 0..FILES {
        index.queues.add(Unit::File(number), admission, 0);
        index.add_large(number, file(&key("file", MIB, 0)), Sums::default());
        index.set_block(number, 0, 7);
    }
}

fn small_files(index: &mut Index) {
    let record =
        |number| Record { segment: number / 1000, offset: 0, length: 9, filled_s: 0, was_read: false, was_kept: false };
    (0..FILES).for_each(|number| drop(index.add_record(number, record(number))));
}

#[test]
fn the_index_takes_about_as_much_as_it_counts() {
    let name = "tests::memory::the_index_takes_about_as_much_as_it_counts";
    if std::env::var_os(ALONE).is_none() {
        let program = std::env::current_exe().expect("a program");
        let output =
            std::process::Command::new(program).args(["--exact", name]).env(ALONE, "1").output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    for add in [large_files, small_files] {
        let before = anonymous_bytes();
        let mut index = Index::new(1 << 50, 1 << 30);
        add(&mut index);
        let (taken, counted) = (anonymous_bytes() - before, index.memory());
        assert!(taken <= counted / 4 * 5, "{} bytes for each file, and {} counted", taken / FILES, counted / FILES);
        std::mem::forget(index); // what is freed would be taken again
    }
}
