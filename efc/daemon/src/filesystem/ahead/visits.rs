//! Detects programs that open the files of a directory in no known order, and prefetches all its small files.
//!
//! Each open in a directory earns a credit for one prefetch there, and each prefetch in vain costs four. So on the
//! first visit of a directory as many files are prefetched as were opened; on later visits all of them are, after a few
//! opens, doubling with each.
//!
//! A *visit* ends when a file that was opened in it is opened once more. Files that were opened in this visit are not
//! prefetched. The directory is listed once per visit if its names are not known for certain, but not again after a
//! visit in which the listing brought nothing to prefetch.

use std::sync::{Arc, Weak};

use efc_backend::{Cred, FileHandle};
use efc_cache::Inode;
use foldhash::{HashMap, HashMapExt};

/// Files of a directory that are asked for and were not opened, at most.
const WINDOW_MAX: usize = 1024;
/// What a file costs that was asked for in vain.
const WASTE: i64 = 4;
/// Who opens a file again after fewer opens of others is the same that has just opened it.
const SAME_OPENS_MAX: u64 = 16;
/// After so many opens it is worth while to list a directory whose files are not known.
const OPENS_TO_LIST: i64 = 8;
/// Files that are looked at after an open, to find those that are to be asked for.
const STEPS_MAX: usize = 1024;
/// Directories, by caller, that are known, if there is memory: of more, those that were used most lately.
const VISITS_MAX: usize = 4096;

/// A directory, and who visits it.
pub type Visitor = (FileHandle, Cred);

/// Where the listing goes on.
enum Place {
    /// At its first file.
    Begin,
    /// Behind this one.
    Behind(Weak<Inode>),
    /// Nowhere.
    End,
}

/// What others know.
pub struct Questions<'a> {
    /// Is a file small?
    pub is_small: fn(&Inode) -> bool,
    /// Are the names of the directory known for certain?
    pub knows_names: &'a dyn Fn() -> bool,
}

/// What is to be asked for.
#[derive(Default)]
pub struct Next {
    pub files: Vec<Arc<Inode>>,
    /// The directory is to be listed: what files it has is not known, or not for certain any more.
    pub lists: bool,
}

/// What is known of a visitor.
struct Visit {
    /// Opens that may be paid with; negative: more was asked for in vain.
    credit: i64,
    window: usize,
    /// Asked for, and not opened.
    ahead: usize,
    /// The place of its first open among all opens.
    began: u64,
    opened: u64,
    /// Since this place all opens were of files that were opened in this visit: another one has begun, or somebody opens some twice.
    again_since: Option<u64>,
    place: Place,
    /// It was to be listed, in this visit or in one before in which there was nothing to ask for.
    is_listed: bool,
    /// There was, in this visit.
    has_found: bool,
    /// There was since the listing was begun, or it is another by now: it is worth while to look through it once more.
    has_found_since_begin: bool,
    is_used: bool,
}

impl Visit {
    fn new(began: u64) -> Visit {
        Visit {
            credit: 0,
            window: 0,
            ahead: 0,
            began,
            opened: 0,
            again_since: None,
            place: Place::Begin,
            is_listed: false,
            has_found: false,
            has_found_since_begin: false,
            is_used: true,
        }
    }

    /// A file is opened, as the open of this place among all, and was opened before at the place `former`.
    fn count(&mut self, former: u64, place: u64) {
        let is_again = former != 0 && former >= self.began;
        let since = self.again_since.filter(|_| is_again).unwrap_or(place);
        self.again_since = is_again.then_some(since);
        if is_again && place.saturating_sub(former) >= SAME_OPENS_MAX.min(self.opened) {
            (self.began, self.opened, self.window) = (since, 0, 0);
            (self.again_since, self.place) = (None, Place::Begin);
            self.is_listed &= !std::mem::take(&mut self.has_found);
        }
        self.opened += 1;
        self.credit += 1;
        self.is_used = true;
    }

    /// What is to be asked for after an open that was in no order.
    fn advance(&mut self, directory: &Inode, questions: &Questions<'_>) -> Next {
        self.window = if self.opened < 2 { 0 } else { WINDOW_MAX.min((self.window * 2).max(1)) };
        let most = self.window.min(usize::try_from(self.credit).unwrap_or(0));
        if matches!(self.place, Place::End) && self.ahead == 0 && std::mem::take(&mut self.has_found_since_begin) {
            self.place = Place::Begin;
        }
        let is_unknown = matches!(self.place, Place::Begin) && directory.next_listed().is_none();
        let lists = self.window > 0
            && self.credit >= OPENS_TO_LIST
            && !self.is_listed
            && (is_unknown || !(questions.knows_names)());
        self.is_listed |= lists;
        self.has_found_since_begin |= lists;
        if is_unknown {
            return Next { files: Vec::new(), lists };
        }
        let mut files = Vec::new();
        for _ in 0..STEPS_MAX {
            if self.ahead >= most {
                break;
            }
            let next = match &self.place {
                Place::Begin => directory.next_listed(),
                Place::Behind(last) => last.upgrade().and_then(|last| last.next_listed()),
                Place::End => break,
            };
            self.place = next.as_ref().map_or(Place::End, |next| Place::Behind(Arc::downgrade(next)));
            if let Some(file) = next.filter(|file| file.last_open() < self.began && (questions.is_small)(file)) {
                self.ahead += 1;
                files.push(file);
            }
        }
        self.has_found |= !files.is_empty();
        self.has_found_since_begin |= !files.is_empty();
        Next { files, lists }
    }
}

/// All visitors.
pub struct Visits {
    all: HashMap<Visitor, Visit>,
    max: usize,
}

impl Default for Visits {
    fn default() -> Visits {
        Visits::new(VISITS_MAX)
    }
}

impl Visits {
    /// None yet, and no more than `max`.
    pub fn new(max: usize) -> Visits {
        Visits { all: HashMap::new(), max: max.clamp(1, VISITS_MAX) }
    }

    /// A file of a directory is opened, in no order if there are `questions`. What is to be asked for now, and the place of the first open
    /// of this visit among all opens.
    pub fn opened(
        &mut self,
        (directory, visitor): (&Inode, &Visitor),
        (former, place): (u64, u64),
        questions: Option<&Questions<'_>>,
    ) -> (Next, u64) {
        if self.all.len() >= self.max && !self.all.contains_key(visitor) {
            self.make_room();
        }
        let visit = self.all.entry(visitor.clone()).or_insert_with(|| Visit::new(place));
        visit.count(former, place);
        let next = questions.map_or_else(Next::default, |questions| visit.advance(directory, questions));
        (next, visit.began)
    }

    /// A file is not asked for any more: it was opened, or it need not be asked for.
    pub fn settled(&mut self, visitor: &Visitor) {
        if let Some(visit) = self.all.get_mut(visitor) {
            visit.ahead = visit.ahead.saturating_sub(1);
        }
    }

    /// A file was asked for in vain.
    pub fn wasted(&mut self, visitor: &Visitor) {
        if let Some(visit) = self.all.get_mut(visitor) {
            visit.ahead = visit.ahead.saturating_sub(1);
            visit.credit -= WASTE;
            visit.window = 0;
        }
    }

    fn make_room(&mut self) {
        self.all.retain(|_, visit| std::mem::take(&mut visit.is_used));
        if self.all.len() >= self.max {
            self.all = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use efc_cache::{Inodes, Memory};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Somebody visits a directory, whose files are opened in a certain order.
    struct World {
        files: Vec<Arc<Inode>>,
        directory: Arc<Inode>,
        visitor: Visitor,
        visits: Visits,
        waiting: Vec<FileHandle>,
        place: u64,
    }

    impl World {
        fn new(files: u64, place: u64) -> World {
            let inodes = Inodes::new(Arc::new(Memory::new(1 << 30)));
            let inode = |number: u64| inodes.of(&FileHandle::new(&number.to_le_bytes()).expect("short"));
            let (directory, files) = (inode(0), (1..=files).map(inode).collect::<Vec<_>>());
            let formers = std::iter::once(&directory).chain(&files);
            formers.zip(&files).for_each(|(former, file)| file.is_listed_behind(former));
            let visitor = (*directory.handle(), Cred::root());
            World { files, directory, visitor, visits: Visits::default(), waiting: Vec::new(), place }
        }

        /// Opens a file; how many others are to be asked for then.
        fn open(&mut self, number: usize, is_small: fn(&Inode) -> bool) -> usize {
            let file = &self.files[number % self.files.len()];
            self.place += 1;
            let places = (file.note_open(self.place), self.place);
            if self.waiting.contains(file.handle()) {
                self.visits.settled(&self.visitor);
            }
            let questions = Questions { is_small, knows_names: &|| true };
            let (next, _) = self.visits.opened((&self.directory, &self.visitor), places, Some(&questions));
            self.waiting.extend(next.files.iter().map(|file| *file.handle()));
            next.files.len()
        }
    }

    #[test]
    fn more_opens_than_32_bits_count_are_no_end_of_visits() {
        let mut world = World::new(50, u64::from(u32::MAX) - 70);
        for visit in 0..4 {
            world.waiting.clear();
            let asked: usize = (0..50).map(|number| world.open(number * 7 + visit, |_| true)).sum();
            assert!(visit == 0 || (20..=50).contains(&asked), "{asked} in visit {visit}");
        }
    }

    #[test]
    fn a_listing_in_which_there_is_nothing_to_ask_for_is_looked_through_once_in_a_visit() {
        static LOOKED_AT: AtomicUsize = AtomicUsize::new(0);
        let is_small = |_: &Inode| {
            LOOKED_AT.fetch_add(1, Ordering::Relaxed);
            false
        };
        let mut world = World::new(3000, 0);
        (0..500).for_each(|number| assert_eq!(world.open(number * 7, is_small), 0));
        assert!(LOOKED_AT.load(Ordering::Relaxed) <= 3000, "{LOOKED_AT:?} files");
    }
}
