//! Negative lookups: a directory with several of them is listed, after which further missing names are known.
//!
//! The kernel looks up each name that is to be created or renamed to, and programs look for files along search paths. A
//! page of a listing costs one call and shows a thousand names. If a listing came to nothing, because the directory is
//! large, changes all the time or may not be read by this caller, the next one is made after four times as many names.

use std::collections::hash_map::Entry;

use efc_backend::FileHandle;
use foldhash::HashMap;

/// Names that were asked for in vain before their directory is listed for the first time.
const MISSES_TO_LIST: u32 = 4;
/// How many times as many have to follow before it is listed again.
const MISSES_GROWTH: u32 = 4;
const MISSES_MAX: u32 = 1 << 20;
/// Directories that are known; of more, the counts begin anew.
const DIRECTORIES_MAX: usize = 4096;

/// What of a directory was asked for in vain.
struct Missed {
    /// Since it was listed last.
    count: u32,
    /// So many, and it is listed.
    due: u32,
}

/// Directories in which names were asked for in vain.
#[derive(Default)]
pub struct Misses(HashMap<FileHandle, Missed>);

impl Misses {
    /// A name was asked for that is not in the directory. `true`: now the directory is to be listed.
    pub fn add(&mut self, directory: &FileHandle) -> bool {
        if self.0.len() >= DIRECTORIES_MAX && !self.0.contains_key(directory) {
            self.0.clear();
        }
        let missed = match self.0.entry(*directory) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(Missed { count: 0, due: MISSES_TO_LIST }),
        };
        missed.count += 1;
        let is_due = missed.count >= missed.due;
        if is_due {
            *missed = Missed { count: 0, due: MISSES_MAX.min(missed.due * MISSES_GROWTH) };
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(number: u64) -> FileHandle {
        FileHandle::new(&number.to_le_bytes()).expect("a short handle")
    }

    #[test]
    fn a_directory_is_listed_after_more_and_more_names_that_are_not_there() {
        let mut misses = Misses::default();
        let listed: Vec<u32> = (1..=400).filter(|_| misses.add(&handle(1))).collect();
        assert_eq!(listed, [4, 4 + 16, 4 + 16 + 64, 4 + 16 + 64 + 256]);
        assert!((0..3).all(|_| !misses.add(&handle(2))) && misses.add(&handle(2)), "each by itself");
    }

    #[test]
    fn so_many_directories_are_known_and_no_more() {
        let mut misses = Misses::default();
        for number in 0..3 * DIRECTORIES_MAX as u64 {
            misses.add(&handle(number));
        }
        assert!(misses.0.len() <= DIRECTORIES_MAX);
    }
}
