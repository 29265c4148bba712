//! What names of directories lead to, as answers of the server have said lately: to an object, or to nothing.
//!
//! Nothing is answered from this. It tells without a call which object a removal or a rename is about, and which one
//! the kernel knows by a name that cannot be looked up now. Names are many and small, so they have a limit of their
//! own.

use efc_tasks::sync::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use efc_backend::FileHandle;
use smallvec::SmallVec;

/// The fewest names that are remembered per shard and generation.
const NAMES_PER_GENERATION_MIN: usize = 64;
const SHARDS: usize = 16;

/// A directory and a name in it.
type Key<'a> = (&'a FileHandle, &'a [u8]);

/// A name. A short one lies in its table: each in memory of its own, between inodes, they would keep the system from getting
/// the memory of inodes back.
type Name = SmallVec<[u8; 24]>;

/// Names by their directories.
struct Table<T> {
    by_directory: HashMap<FileHandle, HashMap<Name, T>>,
    count: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { by_directory: HashMap::new(), count: 0 }
    }
}

impl<T: Copy> Table<T> {
    fn get(&self, (directory, name): Key) -> Option<T> {
        self.by_directory.get(directory)?.get(name).copied()
    }

    fn insert(&mut self, (directory, name): Key, value: T) {
        let names = self.by_directory.entry(*directory).or_default();
        self.count += usize::from(names.insert(Name::from_slice(name), value).is_none());
    }

    fn remove(&mut self, (directory, name): Key) -> Option<T> {
        let names = self.by_directory.get_mut(directory)?;
        let value = names.remove(name)?;
        self.count -= 1;
        if names.is_empty() {
            self.by_directory.remove(directory);
        }
        Some(value)
    }
}

/// Names that were learned or asked for lately, and those that were before.
struct Generations<T> {
    young: Table<T>,
    old: Table<T>,
    /// Names that have made room for others; made for the first of them.
    dropped: Option<Filter>,
}

impl<T> Default for Generations<T> {
    fn default() -> Generations<T> {
        Generations { young: Table::default(), old: Table::default(), dropped: None }
    }
}

impl<T: Copy> Generations<T> {
    /// The older generation makes room when the younger has `names_max`.
    fn insert(&mut self, key: Key, value: T, names_max: usize) {
        if self.young.count >= names_max && self.young.get(key).is_none() {
            let dropped = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            for (directory, names) in &dropped.by_directory {
                let filter = self.dropped.get_or_insert_with(Filter::new);
                names.keys().for_each(|name| filter.insert((directory, name)));
            }
        }
        self.young.insert(key, value);
    }

    fn get(&mut self, key: Key, names_max: usize) -> Option<T> {
        if let Some(value) = self.young.get(key) {
            return Some(value);
        }
        let value = self.old.remove(key)?;
        self.insert(key, value, names_max);
        Some(value)
    }

    fn remove(&mut self, key: Key) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

/// A set that may hold a name which was never put into it: with 60,000 names that goes for one in eight others.
struct Filter(Box<[u64]>);

impl Filter {
    /// 32 KiB.
    const BITS: u64 = 1 << 18;

    fn new() -> Filter {
        Filter(vec![0; Filter::BITS as usize / 64].into())
    }

    fn bits(key: Key) -> [u64; 2] {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let hash = hasher.finish();
        [hash % Filter::BITS, (hash >> 32) % Filter::BITS]
    }

    fn insert(&mut self, key: Key) {
        for bit in Filter::bits(key) {
            self.0[bit as usize / 64] |= 1 << (bit % 64);
        }
    }

    fn may_hold(&self, key: Key) -> bool {
        Filter::bits(key).iter().all(|bit| self.0[*bit as usize / 64] >> (bit % 64) & 1 == 1)
    }
}

/// Names that lead somewhere, and those that do not: a flood of the latter drops none of the former.
#[derive(Default)]
struct Shard {
    objects: Generations<FileHandle>,
    absent: Generations<()>,
}

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// This object.
    Object(FileHandle),
    /// There is no such name.
    Absent,
    /// No answer has said it lately.
    Unknown,
}

/// What names of directories led to lately.
pub struct Names {
    per_generation_max: usize,
    shards: [Mutex<Shard>; SHARDS],
}

impl Names {
    /// Remembers `names_max` at most that lead somewhere, and as many that do not, if they are spread evenly.
    pub fn new(names_max: usize) -> Names {
        let per_generation_max = (names_max / SHARDS / 2).max(NAMES_PER_GENERATION_MIN);
        Names { shards: Default::default(), per_generation_max }
    }

    fn shard(&self, directory: &FileHandle, name: &[u8]) -> MutexGuard<'_, Shard> {
        let sum = |bytes: &[u8]| bytes.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31) + usize::from(*byte));
        let place = sum(directory.as_bytes()) ^ usize::from(name.last().copied().unwrap_or_default());
        self.shards[place % SHARDS].lock().expect("names lock")
    }

    /// An answer said that the name leads to this object.
    pub fn learn(&self, directory: &FileHandle, name: &[u8], object: &FileHandle) {
        let mut shard = self.shard(directory, name);
        shard.absent.remove((directory, name));
        shard.objects.insert((directory, name), *object, self.per_generation_max);
    }

    /// An answer said that there is no such name.
    pub fn learn_absent(&self, directory: &FileHandle, name: &[u8]) {
        let mut shard = self.shard(directory, name);
        shard.objects.remove((directory, name));
        shard.absent.insert((directory, name), (), self.per_generation_max);
    }

    /// May this name have been learned, and have made room for others since? Nearly always false if it was never learned.
    pub fn may_have_dropped(&self, directory: &FileHandle, name: &[u8]) -> bool {
        let shard = self.shard(directory, name);
        shard.objects.dropped.as_ref().is_some_and(|dropped| dropped.may_hold((directory, name)))
    }

    /// It is not known any more what the name leads to.
    pub fn forget(&self, directory: &FileHandle, name: &[u8]) {
        let mut shard = self.shard(directory, name);
        shard.objects.remove((directory, name));
        shard.absent.remove((directory, name));
    }

    /// What the name led to when it was last learned.
    pub fn get(&self, directory: &FileHandle, name: &[u8]) -> Named {
        let mut shard = self.shard(directory, name);
        match shard.objects.get((directory, name), self.per_generation_max) {
            Some(object) => Named::Object(object),
            None if shard.absent.get((directory, name), self.per_generation_max).is_some() => Named::Absent,
            None => Named::Unknown,
        }
    }
}

impl Named {
    /// The object, if there is one.
    pub fn object(self) -> Option<FileHandle> {
        match self {
            Named::Object(object) => Some(object),
            Named::Absent | Named::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::handle;

    const NAMES_MAX: usize = 1 << 15;

    fn directory(number: u64) -> FileHandle {
        handle(&(number % 10).to_le_bytes())
    }

    #[test]
    fn names_are_forgotten_and_bounded() {
        let (names, object) = (Names::new(NAMES_MAX), handle(b"object"));
        for number in 0..100_000_u64 {
            names.learn(&directory(number), &number.to_le_bytes(), &object);
            names.learn_absent(&directory(number), &(1 << 32 | number).to_le_bytes());
        }
        let kept = |shard: &Mutex<Shard>| {
            let Shard { objects, absent } = &*shard.lock().expect("names lock");
            objects.young.count + objects.old.count + absent.young.count + absent.old.count
        };
        assert!(names.shards.iter().map(kept).sum::<usize>() <= 2 * NAMES_MAX);
        let (last, name) = (directory(99_999), 99_999_u64.to_le_bytes());
        assert_eq!(names.get(&last, &name), Named::Object(object));
        let may_be_dropped = |numbers: std::ops::Range<u64>| {
            numbers.filter(|number| names.may_have_dropped(&directory(*number), &number.to_le_bytes())).count()
        };
        assert_eq!(may_be_dropped(0..10_000), 10_000);
        let never_learned = may_be_dropped(100_000..110_000);
        assert!(never_learned < 500, "{never_learned} of 10,000");
        assert!(!Names::new(NAMES_MAX).may_have_dropped(&last, b"name"));
        names.forget(&last, &name);
        assert_eq!(names.get(&last, &name), Named::Unknown);
    }

    #[test]
    fn a_name_that_is_asked_for_again_and_again_is_not_forgotten() {
        let (names, object) = (Names::new(NAMES_MAX), handle(b"object"));
        names.learn(&directory(1), b"mount point", &object);
        for number in 0..100_000_u64 {
            names.learn(&directory(number), &number.to_le_bytes(), &object);
            names.learn_absent(&directory(number), &(1 << 32 | number).to_le_bytes());
            if number % 1000 == 0 {
                let found = names.get(&directory(1), b"mount point");
                assert_eq!(found, Named::Object(object), "after {number} others");
            }
        }
    }

    #[test]
    fn the_last_answer_counts() {
        let (names, object) = (Names::new(NAMES_MAX), handle(b"object"));
        names.learn_absent(&directory(1), b"name");
        assert_eq!(names.get(&directory(1), b"name"), Named::Absent);
        assert_eq!(names.get(&directory(2), b"name"), Named::Unknown);
        names.learn(&directory(1), b"name", &object);
        assert_eq!(names.get(&directory(1), b"name"), Named::Object(object));
        names.learn_absent(&directory(1), b"name");
        assert_eq!(names.get(&directory(1), b"name"), Named::Absent);
    }
}
