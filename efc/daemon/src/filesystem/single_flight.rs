//! Single flight: of several tasks that want the same done at the same time, one does it, and the others wait for its end.

use std::collections::hash_map::Entry;
use std::hash::Hash;

use efc_tasks::sync::{Mutex, MutexGuard};
use foldhash::HashMap;
use tokio::sync::oneshot;

/// What is being done, by key, and who waits for its end.
pub(super) struct SingleFlight<K>(Mutex<HashMap<K, Vec<oneshot::Sender<()>>>>);

impl<K> Default for SingleFlight<K> {
    fn default() -> SingleFlight<K> {
        SingleFlight(Mutex::default())
    }
}

/// It is being done until this is dropped, whether it succeeds or is given up.
pub(super) struct Flight<'a, K: Hash + Eq + Copy> {
    flights: &'a SingleFlight<K>,
    key: K,
}

impl<K: Hash + Eq + Copy> Drop for Flight<'_, K> {
    fn drop(&mut self) {
        let waiting = self.flights.lock().remove(&self.key);
        drop(waiting); // they go on
    }
}

impl<K: Hash + Eq + Copy> SingleFlight<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Vec<oneshot::Sender<()>>>> {
        self.0.lock().expect("flights lock")
    }

    /// `Some`: it is the caller's to do. `None`: another task was doing it, and has ended.
    pub async fn begin(&self, key: K) -> Option<Flight<'_, K>> {
        let end = match self.lock().entry(key) {
            Entry::Occupied(mut waiting) => {
                let (ends, end) = oneshot::channel();
                waiting.get_mut().push(ends);
                end
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Vec::new());
                return Some(Flight { flights: self, key });
            }
        };
        let _ = end.await; // dropped at the end
        None
    }
}
