use super::*;

const SIZE: u64 = 1000;

/// A store of nothing but numbers.
struct Played {
    queues: Queues,
    size_max: u64,
    files: HashMap<u64, u64>,
    now_s: u32,
    dice: u64,
    hits: u64,
    reads: u64,
}

impl Played {
    fn new(size_max: u64) -> Played {
        let queues = Queues::new(size_max, 1 << 16);
        Played { queues, size_max, files: HashMap::default(), now_s: 0, dice: 1, hits: 0, reads: 0 }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % below
    }

    /// Reads block `index` of the file, of one byte; they are there from the first on.
    fn read(&mut self, file: u64, index: u64) {
        let unit = Unit::File(file);
        self.reads += 1;
        if self.files.get(&file).is_some_and(|held| index < *held) {
            self.hits += 1;
            self.queues.used(unit, 1, self.now_s);
        } else {
            self.fill(file, unit);
        }
        assert!(self.queues.held() <= self.size_max, "{} bytes", self.queues.held());
        assert_eq!(self.queues.held(), self.files.values().sum::<u64>());
    }

    fn fill(&mut self, file: u64, unit: Unit) {
        let admission = self.queues.admission(unit).unwrap_or_else(|| self.queues.admit(file, 1, self.now_s));
        if self.queues.admission(unit).is_none() {
            self.queues.add(unit, admission, self.now_s);
            self.files.insert(file, 0);
        }
        let has_room = self.queues.fits(1);
        while !has_room && !self.queues.fits_below_mark(1) {
            let Some(victim) = self.queues.victim(unit, admission, 1) else { break };
            let Unit::File(hash) = victim else { panic!("there are no segments") };
            assert_ne!(hash, file, "nothing goes for itself");
            self.queues.remember(hash, victim);
            assert_eq!(self.queues.remove(victim), self.files.remove(&hash).expect("it is there"));
        }
        if self.queues.fits(1) {
            self.queues.grew(unit, 1, self.now_s);
            *self.files.get_mut(&file).expect("just added") += 1;
            return;
        }
        self.queues.refused(file, 1, admission.distance, self.now_s);
        if self.files[&file] == 0 {
            self.queues.remove(unit);
            self.files.remove(&file);
        }
    }

    /// Reads files of so many blocks one after the other; the part of the reads that were hits, in percent.
    fn pass(&mut self, files: impl Iterator<Item = u64>, blocks: u64) -> u64 {
        (self.hits, self.reads) = (0, 0);
        for file in files {
            (0..blocks).for_each(|index| self.read(file, index));
            self.now_s += 1;
        }
        self.now_s += 10;
        self.hits * 100 / self.reads
    }
}

#[test]
fn whatever_is_read_the_store_is_never_above_its_size() {
    for seed in 0..20 {
        let mut played = Played::new(200);
        played.dice = seed;
        for _ in 0..5_000 {
            let (file, index) = (played.draw(60), played.draw(12));
            let held = played.files.get(&file).copied().unwrap_or(0);
            played.read(file, index.min(held));
            played.now_s += played.draw(3) as u32;
        }
        assert!(played.hits > 0);
    }
}

#[test]
fn a_data_set_that_fits_is_found_whole() {
    for blocks in [1, 7, 95, 950] {
        let mut played = Played::new(SIZE);
        played.pass(0..950 / blocks, blocks);
        assert_eq!(played.pass(0..950 / blocks, blocks), 100, "files of {blocks}");
    }
}

#[test]
fn a_scan_over_three_times_the_size_finds_what_fits_in_each_pass() {
    for blocks in [1, 3, 30, 300, 1000, 3000] {
        let mut played = Played::new(SIZE);
        played.pass(0..3000 / blocks, blocks);
        for pass in 0..5 {
            let hits = played.pass(0..3000 / blocks, blocks);
            assert!(hits >= 25, "{hits} % of files of {blocks} in pass {pass}");
        }
    }
}

#[test]
fn a_data_set_in_another_order_each_time_finds_nearly_as_much() {
    let mut played = Played::new(SIZE);
    let mut files: Vec<u64> = (0..1000).collect();
    played.pass(files.iter().copied(), 3);
    for pass in 0..8 {
        for place in (1..files.len()).rev() {
            files.swap(place, played.draw(place as u64 + 1) as usize);
        }
        let hits = played.pass(files.iter().copied(), 3);
        assert!(hits >= 20, "{hits} % in pass {pass}");
    }
}

#[test]
fn a_scan_flushes_nothing_that_is_read_again() {
    let mut played = Played::new(SIZE);
    played.pass(0..800, 1);
    assert_eq!(played.pass(0..800, 1), 100);
    played.pass(10_000..20_000, 1);
    assert!(played.pass(0..800, 1) >= 90, "but for the lot");
}

#[test]
fn another_data_set_takes_the_place_of_one_that_nobody_reads() {
    for (files, blocks) in [(80, 10), (2, 400), (800, 1)] {
        let mut played = Played::new(SIZE);
        played.pass(0..1000, 1);
        let hits: Vec<u64> = (0..6).map(|_| played.pass(10_001..10_001 + files, blocks)).collect();
        assert!(hits[5] >= 90, "{hits:?} % of {files} files of {blocks}");
    }
}

#[test]
fn a_large_data_set_whose_ghosts_are_gone_gets_in_after_all() {
    let mut played = Played::new(SIZE);
    played.queues.ghosts = Ghosts::new(100);
    played.pass(0..1000, 1);
    let hits: Vec<u64> = (0..40).map(|_| played.pass(10_000..15_000, 1)).collect();
    assert!(hits[39] >= 10, "{hits:?} % of 20 %");
}

#[test]
fn a_file_larger_than_the_store_keeps_its_first_part() {
    let mut played = Played::new(SIZE);
    played.pass(1..2, 5 * SIZE);
    assert_eq!((played.files[&1], played.pass(1..2, 5 * SIZE)), (SIZE, 20));
    played.pass(2..3, 5 * SIZE);
    assert!(played.pass(1..2, 5 * SIZE) >= 18, "another one of the kind does not replace it");
}

#[test]
fn the_next_block_of_the_same_read_is_no_other_read() {
    let mut played = Played::new(SIZE);
    played.pass(0..900, 1);
    (0..3).for_each(|_| (0..50).for_each(|index| played.read(1001, index)));
    assert_eq!(played.queues.queue(Unit::File(1001)), Some(Queue::Once));
}

#[test]
fn what_is_read_again_soon_moves_and_what_has_not_been_used_for_long_goes_first() {
    let mut played = Played::new(SIZE);
    played.pass(0..90, 10);
    played.pass((0..90).filter(|file| *file != 7), 10);
    played.pass(1001..1003, 10);
    assert_eq!(played.queues.queue(Unit::File(1001)), Some(Queue::Once));
    played.pass(1001..1003, 10);
    assert_eq!(played.queues.queue(Unit::File(1001)), Some(Queue::Again));
    assert_eq!(played.queues.oldest(None), Some(Unit::File(7)));
}

#[test]
fn what_was_loaded_is_in_the_order_of_its_last_use() {
    let mut queues = Queues::new(SIZE, 10);
    for (file, age_s) in [(1, 50), (2, 500), (3, 5)] {
        queues.load(Unit::File(file), Queue::Again, 100, age_s);
    }
    queues.load(Unit::Segment(1), Queue::Once, 100, 1);
    let mut order = Vec::new();
    while let Some(oldest) = queues.oldest(None) {
        order.push(oldest);
        queues.remove(oldest);
    }
    assert_eq!(order, [Unit::Segment(1), Unit::File(2), Unit::File(1), Unit::File(3)]);
    assert_eq!(queues.held(), 0);
}
