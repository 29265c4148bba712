//! Files that go and come again while they are read, and that are found while they are filled.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use efc_cache::blocks::{Block, BlockKey, Level, Lookup, Miss};

use crate::Store;
use crate::index::{Index, Record, file};
use crate::policy::queues::{Admission, Queue, Unit};
use crate::sums::Sums;
use crate::testing::{
    Faults, MIB, ask, block_of, bytes_of, close, ended, hits, hits_part, key, loaded, read, read_each, settings, until,
};

/// All threads that read are busy with others when the file goes and another part of it comes in its place.
#[test]
fn a_part_is_never_read_from_a_file_that_has_come_since() {
    let directory = tempfile::tempdir().expect("a directory");
    let faults = Arc::new(Faults::default());
    let store = loaded(settings(directory.path(), 100 * MIB), faults.clone());
    [1, MIB as usize].into_iter().for_each(|length| store.backend_took(length, Duration::from_secs(10)));
    let others: Vec<_> = (0..4).map(|number| key(&format!("other {number}"), MIB, 0)).collect();
    let [first, second] = [0, 1].map(|index| key("file", 2 * MIB, index));
    read_each(&*store, &others);
    read_each(&*store, &[first]);
    assert!(hits(&*store, &first), "it was compared with its checksum");
    faults.read_ms.store(300, Ordering::Relaxed);
    std::thread::scope(|scope| {
        others.iter().for_each(|other| drop(scope.spawn(|| ask(&store, other))));
        std::thread::sleep(Duration::from_millis(50));
        scope.spawn(|| hits_part(&*store, &first, 4096..8192)); // never a wrong one
        std::thread::sleep(Duration::from_millis(50));
        store.set_size_max(0);
        until("all has gone", || store.figures().held_bytes == 0);
        store.set_size_max(100 * MIB);
        until("there is room", || !read(&*store, &second));
    });
}

/// Has the block put there if it is to be.
fn fill(store: &Store<Arc<Faults>>, key: &BlockKey) -> bool {
    let Lookup::Miss(Miss { fill: Some(fill), .. }) = ask(store, key) else { return false };
    fill.fill(&Arc::new(block_of(&bytes_of(key))));
    true
}

/// The thread that loads and the one that writes find the same files at the same time, again and again.
#[test]
fn what_is_filled_while_it_is_loaded_counts_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let keys: Vec<_> = (0..12).map(|number| key(&format!("file {number}"), 70_000, 0)).collect();
    let (faults, settings) = (Arc::new(Faults::default()), || settings(directory.path(), 100 * MIB));
    let store = loaded(settings(), faults.clone());
    read_each(&*store, &keys);
    let held = store.figures().held_bytes;
    close(store);
    for _ in 0..8 {
        faults.read_ms.store(2, Ordering::Relaxed);
        let store = Store::on(settings(), faults.clone()).expect("threads");
        until("it serves", || store.serves());
        let filled = keys.iter().filter(|key| fill(&store, key)).count() as u64;
        until("it has loaded, and written all", || !store.engine.is_loading() && ended(&store.figures()) == filled);
        faults.read_ms.store(0, Ordering::Relaxed);
        let of_units: u64 = {
            let index = store.engine.index.lock().expect("no panic");
            index.queues.units().map(|unit| index.queues.bytes(unit)).sum()
        };
        assert_eq!((store.figures().held_bytes, of_units), (held, held));
        close(store);
    }
}

#[test]
fn a_small_file_takes_the_place_of_a_large_one_with_all_that_stands_for_it() {
    let mut index = Index::new(100 * MIB, MIB);
    let large = file(&key("file", MIB, 0));
    index.queues.add(Unit::File(7), Admission { queue: Queue::Once, distance: 1, usual: None }, 0);
    index.add_large(7, large, Sums::default());
    let record = Record { segment: 1, offset: 0, length: 9, filled_s: 0, was_read: false, was_kept: false };
    let replaced = index.add_record(7, record);
    assert_eq!((replaced.map(|large| large.key), index.queues.units().count()), (Some(large), 0));
    assert!(index.add_record(7, record).is_none());
}

#[test]
fn a_slow_disk_of_which_a_file_has_gone_is_in_time_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let faults = Arc::new(Faults::default());
    let store = loaded(settings(directory.path(), 100 * MIB), faults.clone());
    let key = key("file", MIB, 0);
    assert!(!read(&*store, &key));
    for length in [1, MIB as usize] {
        store.backend_took(length, Duration::from_millis(10));
    }
    faults.read_ms.store(1500, Ordering::Relaxed);
    until("it is slow", || {
        ask(&store, &key);
        !store.serves()
    });
    let (name, _) = crate::testing::snapshot(directory.path())
        .into_iter()
        .find(|(name, _)| name.extension().is_some_and(|kind| kind == "data"))
        .expect("a file");
    std::fs::remove_file(name).expect("removed");
    faults.read_ms.store(0, Ordering::Relaxed);
    until("it is in time again", || store.serves());
}

/// What the chain gives a store.
#[test]
fn fills_take_a_part_of_the_memory_for_what_is_read_ahead() {
    use crate::work::{Job, Work};
    use efc_buffer::{Budget, BudgetLimits};
    let budget = Budget::new(BudgetLimits { ahead_bytes: 16 * MIB, ..BudgetLimits::NONE });
    let (work, block): (Work, Arc<Block>) = (Work::new(&budget), Arc::new(block_of(&[1; 1_000_000])));
    let fill = || Job::Fill { key: key("file", 1_000_000, 0), block: block.clone() };
    assert_eq!((0..100).take_while(|_| work.add(fill())).count(), 4 * MIB as usize / block.room());
}
