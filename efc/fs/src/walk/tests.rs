//! Walks of random trees: pages come in any order, cookies die, walks end and others go on from their checkpoints.

use std::collections::BTreeSet;

use efc_backend::FileHandle;

use super::checkpoint::{self, TEXT_MAX, Walker};
use super::tree::{Entry, Next, Page, Place, Task, Totals, Tree};

/// Numbers that only a seed determines (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A tree of directories by number, which are their handles too.
struct World {
    directories: Vec<Vec<Entry>>,
    expected: Totals,
}

fn handle(number: usize) -> FileHandle {
    FileHandle::new(format!("a server's handles begin alike {number:x}").as_bytes()).expect("short")
}

impl World {
    fn new(dice: &mut Dice) -> World {
        let mut directories: Vec<Vec<Entry>> = vec![Vec::new()];
        let mut expected = Totals { directories: 1, ..Totals::default() };
        let (mut seen, mut links) = (BTreeSet::new(), Vec::new());
        let count = 1 + dice.below(60) as usize;
        while directories.len() < count {
            // Deep, or wide.
            let parent =
                if dice.below(3) == 0 { directories.len() - 1 } else { dice.below(directories.len() as u64) as usize };
            let entry = Entry::Directory(handle(directories.len()));
            directories[parent].push(entry);
            directories.push(Vec::new());
            expected.directories += 1;
        }
        for directory in &mut directories {
            for _ in 0..dice.below(20) {
                let id = (dice.below(2), dice.below(u64::MAX));
                match dice.below(8) {
                    0 => directory.push(Entry::Other),
                    1 | 2 => links.push((id, 2 + dice.below(3) as u32, dice.below(1000))),
                    _ => directory.push(Entry::File { id, nlink: 1, size: dice.below(1 << 40) }),
                }
            }
            if dice.below(10) == 0 {
                directory.extend([Entry::Denied, Entry::Denied]);
                expected.skipped += 1;
            }
        }
        for (id, nlink, size) in links {
            // One of the names may be elsewhere.
            for _ in 0..nlink - dice.below(2) as u32 {
                let parent = dice.below(directories.len() as u64) as usize;
                directories[parent].push(Entry::File { id, nlink, size });
            }
        }
        for entries in &mut directories {
            for place in (1..entries.len()).rev() {
                entries.swap(place, dice.below(place as u64 + 1) as usize);
            }
        }
        for entry in directories.iter().flatten() {
            if let Entry::File { id, size, .. } = entry
                && seen.insert(*id)
            {
                expected.files += 1;
                expected.bytes += size;
            }
        }
        World { directories, expected }
    }

    /// A page of some entries; cookies are not positions.
    fn page(&self, task: &Task, dice: &mut Dice) -> Page {
        let name = std::str::from_utf8(task.handle.as_bytes()).expect("a handle");
        let number =
            name.rsplit(' ').next().and_then(|digits| usize::from_str_radix(digits, 16).ok()).expect("a number");
        let entries = &self.directories[number];
        assert_eq!(task.place.cookie, task.place.index * 1_000_003);
        let begin = task.place.index as usize;
        let end = entries.len().min(begin + dice.below(7) as usize + 1);
        let index = end as u64;
        let next = Place { cookie: index * 1_000_003, verifier: [number as u8; 8], index };
        Page { entries: entries[begin..end].to_vec(), next, is_last: end == entries.len() }
    }
}

fn walker() -> Walker {
    Walker { uid: 1, gid: 2, top: handle(0) }
}

/// As another process goes on, by the text alone.
fn resumed(tree: &Tree) -> Tree {
    let text = checkpoint::encode(&walker(), tree).expect("small trees are short");
    let (found, tree) = checkpoint::decode(&text).expect("it was encoded");
    assert_eq!((found, text.len() <= TEXT_MAX), (walker(), true));
    assert_eq!(checkpoint::encode(&walker(), &tree), Some(text), "nothing is lost");
    tree
}

fn walk(world: &World, dice: &mut Dice, ends_in: u64, cookies_die_in: u64) -> Totals {
    let (mut tree, mut under_way) = (Tree::new(handle(0)), Vec::new());
    let at_a_time = 1 + dice.below(5) as usize;
    for step in 0.. {
        assert!(step < 50_000, "it comes to no end: {:?}, {:?}", tree.totals(), tree.positions());
        while under_way.len() < at_a_time
            && let Next::List(task) = tree.next()
        {
            under_way.push(task);
        }
        if under_way.is_empty() {
            assert!(matches!(tree.next(), Next::Done));
            return resumed(&tree).totals();
        }
        let task = under_way.swap_remove(dice.below(under_way.len() as u64) as usize);
        if task.place.index > 0 && dice.below(cookies_die_in) == 0 {
            tree.begin_anew(task.id);
        } else {
            tree.listed(task.id, world.page(&task, dice));
        }
        if dice.below(ends_in) == 0 {
            tree = resumed(&tree);
            under_way.clear();
        }
    }
    unreachable!("steps are counted");
}

#[test]
fn all_is_counted_once_whatever_happens_to_the_walk() {
    for seed in 1..100 {
        let mut dice = Dice(seed << 32 | 0x9e37_79b9);
        let world = World::new(&mut dice);
        assert_eq!(walk(&world, &mut dice, u64::MAX, u64::MAX), world.expected, "seed {seed}");
        assert_eq!(walk(&world, &mut dice, 2 + seed % 20, u64::MAX), world.expected, "seed {seed}, with ends");
        assert_eq!(walk(&world, &mut dice, 30, 40), world.expected, "seed {seed}, with ends and dead cookies");
    }
}

#[test]
fn a_directory_whose_cookies_always_die_is_skipped_and_one_below_itself_has_an_end() {
    let entries = vec![Entry::File { id: (1, 1), nlink: 1, size: 5 }; 8];
    let world = World { directories: vec![entries], expected: Totals::default() };
    let totals = walk(&world, &mut Dice(7), u64::MAX, 1);
    assert_eq!((totals.skipped, totals.directories), (1, 1));
    assert!(totals.files <= 8);
    let world = World { directories: vec![vec![Entry::Directory(handle(0))]], expected: Totals::default() };
    let totals = walk(&world, &mut Dice(7), u64::MAX, u64::MAX);
    assert_eq!((totals.skipped, totals.files), (1, 0));
}

#[test]
fn a_state_that_is_too_large_has_no_checkpoint() {
    let files = (0..50_000).map(|number| Entry::File { id: (1, number), nlink: 2, size: 1 });
    let page = Page { entries: files.collect(), next: Place { index: 50_000, ..Place::default() }, is_last: false };
    let mut tree = Tree::new(handle(0));
    let Next::List(task) = tree.next() else { panic!("the top") };
    tree.listed(task.id, page);
    assert_eq!(checkpoint::encode(&walker(), &tree), None);
    let Next::List(task) = tree.next() else { panic!("the next page") };
    tree.listed(task.id, Page { entries: Vec::new(), next: task.place, is_last: true });
    assert_eq!(resumed(&tree).totals().files, 50_000, "nobody needs the names any more");
}

#[test]
fn texts_that_are_none_are_refused() {
    let good = checkpoint::encode(&walker(), &Tree::new(handle(0))).expect("short");
    for at in 0..good.len() {
        let mut bad = good.clone().into_bytes();
        bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
        assert!(checkpoint::decode(std::str::from_utf8(&bad).expect("ASCII")).is_none(), "{at}");
        assert!(checkpoint::decode(&good[..at]).is_none(), "{at}");
    }
}

#[test]
fn what_has_a_right_checksum_and_no_sense_is_refused_too() {
    let mut dice = Dice(1);
    for _ in 0..20_000 {
        let mut bytes = b"efcwalk1".to_vec();
        bytes.extend((0..dice.below(60)).map(|_| dice.below(if dice.0 & 1 == 0 { 256 } else { 4 }) as u8));
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend(checksum.to_be_bytes());
        // Whatever it is taken for: it neither panics nor takes memory without end.
        let _ = checkpoint::decode(&super::base64::encode(&bytes));
    }
}
