use std::time::{Duration, Instant};

use efc_backend::{Attr, FileType, Tick, Wcc, WccAttr};

use super::*;
use crate::Inodes;
use crate::testing::{attr, handle, inodes, seen, tick};
use crate::version::Version;

/// The directory at a time that this node's clock takes for long ago: its version is settled.
fn version(ctime: u32) -> Attr {
    Attr { kind: FileType::Directory, ..attr(1, ctime) }
}

struct World {
    names: Names,
    inodes: Inodes,
    directory: Arc<Inode>,
}

impl World {
    fn new() -> World {
        let inodes = inodes();
        let directory = inodes.of(&handle(b"directory"));
        directory.learn(seen(&version(1)));
        World { names: Names::new(Arc::new(Memory::new(1 << 20))), inodes, directory }
    }

    /// An answer of now, to a question of `asked`.
    fn answer_to(&self, asked: Tick, ctime: u32) -> Standing {
        self.directory.ask_names().answered(asked, Some(&version(ctime)))
    }

    fn answer(&self, ctime: u32) -> Standing {
        self.answer_to(tick(), ctime)
    }

    /// A change of ours.
    fn change(&self, from: u32, to: u32) -> Standing {
        let before = WccAttr { size: 1, mtime: version(from).mtime, ctime: version(from).ctime };
        self.directory.mutate().answered(seen(&Wcc { before: Some(before), after: Some(version(to)) }))
    }

    fn learn(&self, name: &[u8], object: Option<&[u8]>, standing: &Standing) {
        self.names.learn(&self.directory, name, object.map(handle).as_ref(), standing);
    }

    fn known(&self, name: &[u8]) -> (Named, bool) {
        let KnownName { named, proof } = self.names.known(&self.directory, name);
        (named, proof.is_some())
    }

    fn asked(&self, name: &[u8]) -> Instant {
        self.names.known(&self.directory, name).proof.expect("proven").asked
    }

    fn read(&self, names: &[&[u8]], ctime: u32) -> bool {
        let first = self.answer(ctime);
        let reading = self.names.begin_reading(&self.directory, &first);
        let objects: Vec<FileHandle> = names.iter().map(|name| handle(name)).collect();
        self.names.learn_page(&self.directory, names.iter().copied().zip(&objects), &first);
        let listing = Gathering::new(Version::of(&version(ctime)), 1000).finish([0; 8]);
        self.names.finish_reading(&self.directory, (&reading, &self.answer(ctime)), Some(listing))
    }
}

fn object(name: &[u8]) -> Named {
    Named::Object(handle(name))
}

#[test]
fn names_are_bounded_and_those_that_are_asked_for_stay() {
    let memory = Arc::new(Memory::new(1 << 20));
    let (names, inodes) = (Names::new(memory.clone()), inodes());
    let directory = |number: u64| {
        let directory = inodes.of(&handle(&(number % 10).to_le_bytes()));
        let standing = directory.ask_names().answered(tick(), None);
        (directory, standing)
    };
    let learn = |number: u64, leads: bool| {
        let (directory, standing) = directory(number);
        let name = (number | u64::from(!leads) << 32).to_le_bytes();
        names.learn(&directory, &name, leads.then_some(&handle(b"object")), &standing);
    };
    let (first, standing) = directory(1);
    names.learn(&first, b"mount point", Some(&handle(b"object")), &standing);
    for number in 0..50_000_u64 {
        learn(number, true);
        learn(number, false);
        if number % 100 == 0 {
            assert_eq!(names.get(first.handle(), b"mount point"), object(b"object"), "after {number} others");
        }
        assert!(memory.used().names <= (1 << 20) + 1000, "{:?}", memory.used());
    }
    let (last, name) = (directory(49_999).0, 49_999_u64.to_le_bytes());
    assert_eq!(names.get(last.handle(), &name), object(b"object"));
    let dropped = |numbers: std::ops::Range<u64>| {
        let is_dropped = |number: &u64| names.may_have_dropped(directory(*number).0.handle(), &number.to_le_bytes());
        numbers.filter(is_dropped).count()
    };
    assert_eq!(dropped(0..5000), 5000);
    let never_learned = dropped(100_000..110_000);
    assert!(never_learned < 5000, "{never_learned} of 10,000");
    names.forget(last.handle(), &name);
    assert_eq!(names.get(last.handle(), &name), Named::Unknown);
    (0..10).for_each(|number| names.forget_directory(directory(number).0.handle()));
    assert_eq!(memory.used().names, 0);
}

#[test]
fn the_last_answer_counts() {
    let world = World::new();
    let (earlier, later) = (tick(), tick());
    crate::testing::answer();
    world.learn(b"name", None, &world.answer_to(later, 1));
    assert_eq!(world.known(b"name"), (Named::Absent, true));
    assert_eq!(world.known(b"other"), (Named::Unknown, false));
    world.learn(b"name", Some(b"a"), &world.answer(1));
    assert_eq!(world.known(b"name"), (object(b"a"), true));
    world.learn(b"name", None, &world.answer_to(earlier, 1));
    assert_eq!(world.known(b"name"), (object(b"a"), true), "an overtaken answer");
}

#[test]
fn what_others_change_ends_what_is_known() {
    let world = World::new();
    world.learn(b"name", Some(b"a"), &world.answer(1));
    world.names.changed(&world.directory, b"made", Some(&handle(b"b")), &world.change(1, 2));
    assert_eq!((world.known(b"name"), world.known(b"made")), ((object(b"a"), true), (object(b"b"), true)));
    world.directory.learn(seen(&version(7)));
    assert_eq!((world.known(b"name"), world.known(b"made")), ((object(b"a"), false), (object(b"b"), false)));
    world.names.changed(&world.directory, b"made", None, &world.change(9, 10));
    assert_eq!(world.known(b"made"), (Named::Absent, true), "of the change itself we know");
    world.learn(b"name", Some(b"a"), &world.answer(10));
    assert_eq!(world.known(b"name"), (object(b"a"), true));
    drop(world.directory.mutate());
    assert_eq!(world.known(b"name"), (object(b"a"), false), "a change without an answer");
}

#[test]
fn a_version_that_is_shown_again_proves_its_names_anew() {
    let world = World::new();
    world.learn(b"name", Some(b"a"), &world.answer(1));
    world.learn(b"absent", None, &world.answer(1));
    let learned = world.asked(b"absent");
    std::thread::sleep(Duration::from_millis(1));
    world.directory.learn(seen(&version(1)));
    assert!(world.asked(b"absent") > learned && world.asked(b"name") > learned);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let unsettled = now as u32 + 3;
    world.directory.learn(seen(&version(unsettled)));
    world.learn(b"absent", None, &world.answer(unsettled));
    let learned = world.asked(b"absent");
    std::thread::sleep(Duration::from_millis(1));
    world.directory.learn(seen(&version(unsettled)));
    assert_eq!(world.asked(b"absent"), learned, "another change may have had that version");
}

#[test]
fn a_whole_listing_says_what_is_not_there() {
    let world = World::new();
    assert!(world.read(&[b"a", b"b"], 1));
    assert_eq!((world.known(b"a"), world.known(b"c")), ((object(b"a"), true), (Named::Absent, true)));
    assert!(world.names.listing(&world.directory).is_some());
    let read = world.asked(b"c");
    std::thread::sleep(Duration::from_millis(1));
    world.directory.learn(seen(&version(1)));
    assert!(world.asked(b"c") > read, "validated by the version");
    // Our own changes are followed, for a while.
    world.names.changed(&world.directory, b"c", Some(&handle(b"c")), &world.change(1, 2));
    assert!(world.names.listing(&world.directory).is_none(), "it has no place for the new name");
    world.names.changed(&world.directory, b"a", None, &world.change(2, 3));
    let states = [&b"a"[..], b"b", b"c", b"d"].map(|name| world.known(name));
    let absent = (Named::Absent, true);
    assert_eq!(states, [absent, (object(b"b"), true), (object(b"c"), true), absent]);
    let proof = world.names.known(&world.directory, b"d").proof.expect("proven");
    assert_eq!(proof.listed.expect("a hint"), proof.since);
    let asked = proof.asked;
    world.directory.learn(seen(&version(3)));
    assert_eq!(world.asked(b"d"), asked, "only another listing says more than the hint does");
    // A change that found another version than ours had left.
    world.names.changed(&world.directory, b"e", Some(&handle(b"e")), &world.change(8, 9));
    assert_eq!(world.known(b"d"), (Named::Unknown, false));
}

#[test]
fn a_listing_is_not_whole_if_anything_has_happened_meanwhile() {
    let world = World::new();
    let whole_after = |happens: &dyn Fn(), last: u32| {
        let first = world.answer(1);
        let reading = world.names.begin_reading(&world.directory, &first);
        happens();
        world.names.finish_reading(&world.directory, (&reading, &world.answer(last)), None)
    };
    assert!(whole_after(&|| (), 1));
    assert!(!whole_after(&|| (), 2), "another version");
    world.directory.learn(seen(&version(1)));
    assert!(!whole_after(&|| assert!(world.change(1, 1).is_proof), 1), "a change of ours");
    assert!(!whole_after(&|| world.names.forget(world.directory.handle(), b"x"), 1), "a name was lost");
    let first = world.directory.ask_names().answered(tick(), None);
    let reading = world.names.begin_reading(&world.directory, &first);
    assert!(!world.names.finish_reading(&world.directory, (&reading, &first), None), "no version was shown");
}

#[test]
fn what_contradicts_a_whole_listing_ends_it() {
    let world = World::new();
    assert!(world.read(&[b"a"], 1));
    world.learn(b"c", Some(b"c"), &world.answer(1));
    assert_eq!(world.known(b"d"), (Named::Unknown, false), "another name is there that it lacks");
    assert!(world.read(&[b"a", b"c"], 1));
    world.names.forget(world.directory.handle(), b"a");
    assert_eq!([b"a", b"d"].map(|name| world.known(name)), [(Named::Unknown, false); 2]);
}

#[test]
fn a_change_that_does_not_say_what_it_found_proves_nothing_anew() {
    let world = World::new();
    assert!(world.read(&[b"a"], 1));
    let unsaid = |to| world.directory.mutate().answered(seen(&Wcc { before: None, after: Some(version(to)) }));
    let read = world.asked(b"x");
    std::thread::sleep(Duration::from_millis(1));
    world.names.changed(&world.directory, b"b", Some(&handle(b"b")), &unsaid(2));
    world.names.changed(&world.directory, b"c", Some(&handle(b"c")), &world.change(2, 3));
    assert!(world.asked(b"x") <= read && world.known(b"a").1, "as good as before, and no better");
    world.names.changed(&world.directory, b"d", Some(&handle(b"d")), &world.change(7, 8));
    assert_eq!(world.known(b"x"), (Named::Unknown, false));
    assert!(world.read(&[b"a", b"b", b"c", b"d"], 8));
    let error = efc_backend::Error {
        wcc: Wcc { before: None, after: Some(version(9)) },
        asked: Some(tick()),
        ..efc_backend::Error::new(efc_backend::ErrorKind::Status(efc_backend::Status::NoSpc))
    };
    world.directory.mutate().refused(&error);
    assert_eq!(world.known(b"x"), (Named::Unknown, false), "what has failed has not changed it, so others have");
}

#[test]
fn a_directory_of_our_own_making_is_empty_until_we_change_it() {
    let world = World::new();
    let made = world.inodes.of(&handle(b"made"));
    made.learn(seen(&version(5)));
    world.names.made_directory(&made, &world.change(1, 2));
    let known = |name| world.names.known(&made, name);
    assert!(known(b"x").named == Named::Absent && known(b"x").proof.is_some_and(|proof| proof.listed.is_some()));
    made.learn(seen(&version(6)));
    assert!(known(b"x").proof.is_none(), "others can, too");
    let copy = world.change(2, 3).doubted_if(true);
    world.names.made_directory(&made, &copy);
    assert!(known(b"x").proof.is_none(), "the server may have answered that long ago");
}

#[test]
fn what_has_moved_is_known_as_long_as_what_its_former_name_led_to() {
    let world = World::new();
    world.learn(b"from", Some(b"a"), &world.answer(1));
    let before = world.names.known(&world.directory, b"from").proof.expect("proven");
    std::thread::sleep(Duration::from_millis(1));
    for (name, proof) in [(&b"to"[..], Some(before)), (b"other", None)] {
        let standing = world.change(1, 1);
        world.names.changed(&world.directory, name, Some(&handle(b"a")), &standing);
        world.names.moved(&world.directory, name, proof);
    }
    assert_eq!((world.asked(b"to"), world.known(b"other")), (before.asked, (object(b"a"), false)));
}

#[test]
fn hints_do_not_replace_what_is_proven() {
    let world = World::new();
    let asked = tick();
    crate::testing::answer();
    world.names.changed(&world.directory, b"name", Some(&handle(b"new")), &world.change(1, 2));
    world.learn(b"name", Some(b"old"), &world.answer_to(asked, 1));
    assert_eq!(world.known(b"name"), (object(b"new"), true));
    let hint = world.answer(2).doubted_if(true);
    world.learn(b"name", Some(b"new"), &hint);
    assert_eq!(world.known(b"name"), (object(b"new"), true), "it says the same");
    world.learn(b"name", Some(b"other"), &hint);
    assert_eq!(world.known(b"name"), (object(b"new"), false), "it says something else");
}

#[test]
fn names_that_are_forgotten_while_a_listing_is_large_give_memory_back() {
    let world = World::new();
    let names: Vec<Vec<u8>> = (0..500_u32).map(|number| format!("a name of more than {number} bytes").into()).collect();
    let listed: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    assert!(world.read(&listed, 1));
    let used = world.names.memory.used();
    assert!(used.names > 500 * directory::NAME_BYTES && used.listings > 0, "{used:?}");
    world.names.forget_directory(world.directory.handle());
    let used = world.names.memory.used();
    assert_eq!((used.names, used.listings), (0, 0));
}

#[test]
fn a_listing_with_more_names_than_there_is_room_for_makes_room_for_each_page() {
    let world = World::new();
    let standing = world.answer(1);
    for page in 0..20_u32 {
        let names: Vec<[u8; 4]> = (0..4000).map(|number| (page * 4000 + number).to_le_bytes()).collect();
        let objects: Vec<FileHandle> = names.iter().map(|name| handle(name)).collect();
        world.names.learn_page(&world.directory, names.iter().map(|name| &name[..]).zip(&objects), &standing);
        let used = world.names.memory.used();
        assert!(used.names <= used.max, "after page {page}: {used:?}");
        for name in &names {
            world.known(name);
        }
    }
}
