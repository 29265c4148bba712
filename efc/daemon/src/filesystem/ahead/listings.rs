//! Limits the directory listings that are made ahead, for each storage: so that a slow one does not accumulate work,
//! and one that does not respond does not block the listings of others.

use std::sync::Arc;

use efc_tasks::sync::Mutex;

/// Directories of a storage that are listed at a time.
const LISTINGS_MAX: usize = 16;

/// The storage of each listing under way.
#[derive(Default)]
pub struct Listings(Mutex<Vec<u64>>);

/// A listing is under way until this is dropped.
pub struct Turn {
    listings: Arc<Listings>,
    storage: u64,
}

impl Listings {
    /// A directory of this storage is to be listed; `None`: so many are already.
    pub fn begin(self: &Arc<Self>, storage: u64) -> Option<Turn> {
        let mut under_way = self.0.lock().expect("listings lock");
        if under_way.iter().filter(|other| **other == storage).count() >= LISTINGS_MAX {
            return None;
        }
        under_way.push(storage);
        Some(Turn { listings: Arc::clone(self), storage })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut under_way = self.listings.0.lock().expect("listings lock");
        let place = under_way.iter().position(|storage| *storage == self.storage);
        place.map(|place| under_way.swap_remove(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_storage_has_its_own_limit_and_what_has_ended_makes_room() {
        let listings = Arc::new(Listings::default());
        let mut turns: Vec<Turn> = (0..LISTINGS_MAX).filter_map(|_| listings.begin(7)).collect();
        assert!(turns.len() == LISTINGS_MAX && listings.begin(7).is_none());
        assert!(listings.begin(8).is_some());
        turns.pop();
        assert!(listings.begin(7).is_some() && listings.begin(7).is_some());
        drop(turns);
        assert_eq!(listings.0.lock().unwrap().len(), 0);
    }
}
