//! Files with several names, of which one has been seen: each counts once.

use std::collections::HashMap;

/// Most files that are kept in mind. What has several names beyond them counts once for each name.
const FILES_MAX: usize = 1 << 20;

/// A file: its file system, and its inode number there.
pub type FileId = (u64, u64);

/// Files with several names, and how many of these have not been seen yet. A file is forgotten with its last name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    names_left: HashMap<FileId, u32>,
}

impl Links {
    /// A name was seen of a file that has `nlink` names. `Some(true)`: it is the first; `None`: that cannot be said, too
    /// many files are kept in mind already.
    pub fn see(&mut self, file: FileId, nlink: u32) -> Option<bool> {
        if let Some(left) = self.names_left.get_mut(&file) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.names_left.remove(&file);
            }
            return Some(false);
        }
        if self.names_left.len() >= FILES_MAX {
            return None;
        }
        self.names_left.insert(file, nlink.saturating_sub(1));
        Some(true)
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.names_left.len()
    }

    /// All files, sorted, each with the number of its names that have not been seen.
    pub fn sorted(&self) -> Vec<(FileId, u32)> {
        let mut all: Vec<_> = self.names_left.iter().map(|(file, left)| (*file, *left)).collect();
        all.sort_unstable();
        all
    }
}

impl FromIterator<(FileId, u32)> for Links {
    fn from_iter<T: IntoIterator<Item = (FileId, u32)>>(files: T) -> Links {
        Links { names_left: files.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_with_its_first_name_and_is_forgotten_with_its_last() {
        let mut links = Links::default();
        assert_eq!(
            [links.see((1, 5), 3), links.see((1, 5), 3), links.see((2, 5), 2)],
            [Some(true), Some(false), Some(true)]
        );
        assert_eq!((links.len(), links.see((1, 5), 3), links.len()), (2, Some(false), 1));
        assert_eq!(links.sorted(), [((2, 5), 1)]);
    }

    #[test]
    fn there_is_a_most() {
        let mut links: Links = (0..FILES_MAX as u64).map(|fileid| ((1, fileid), 1)).collect();
        assert_eq!(links.see((2, 0), 2), None);
        assert_eq!(links.see((1, 0), 2), Some(false));
        assert_eq!(links.see((2, 0), 2), Some(true));
    }
}
