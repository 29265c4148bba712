//! The table of inodes, by handle and by the kernel's node ids, which point at them.
//!
//! An inode outlives the kernel's FORGET while somebody needs it: it is open, loses a name, has uncommitted data, or a
//! mutation in flight. As a mere cache entry it stays as long as anything known of it may be answered from, and there
//! is room: beyond a number of inodes, approximately the least recently used are evicted. A clock does that: it evicts
//! the first entry that was not used since its hand last came by. (The crate quick_cache has a better policy, but its
//! entries cannot declare atomically that they are needed, which is what keeps a file from ever having two inodes.)

use efc_tasks::sync::atomic::Ordering;
use efc_tasks::sync::{Mutex, MutexGuard};
use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use efc_backend::{FileHandle, FileType};
use foldhash::{HashMap, fast::RandomState};
use indexmap::IndexSet;

use crate::inode::kernel_view::KernelView;
use crate::inode::{Inode, Shared};
use crate::memory::Memory;

/// What an inode takes of memory while nothing is under way at it, with its places in the tables; in bytes. What else
/// is known of it is counted beside that.
pub const INODE_BYTES: u64 = 560;

const SHARDS: usize = 16;
/// Entries that one more entry looks at to make room: the hand goes on from there.
const STEPS_MAX: usize = 64;
/// Entries that go for one more, where others have stayed that were needed.
const EVICTED_MAX: usize = 2;
/// A shard whose table has room for this many times its entries gives memory back.
const SPARE_MAX: usize = 8;

// The locks of a schedule explorer, which tests put in place of the real ones, are larger.
const HAS_REAL_LOCKS: bool = size_of::<Mutex<()>>() <= size_of::<usize>();
const _: () = assert!(!HAS_REAL_LOCKS || size_of::<Inode>() + 16 + 3 * size_of::<[usize; 2]>() <= INODE_BYTES as usize);

/// An inode, found by its handle.
struct ByHandle(Arc<Inode>);

impl Borrow<FileHandle> for ByHandle {
    fn borrow(&self) -> &FileHandle {
        self.0.handle()
    }
}

impl Hash for ByHandle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.handle().hash(state);
    }
}

impl PartialEq for ByHandle {
    fn eq(&self, other: &ByHandle) -> bool {
        self.0.handle() == other.0.handle()
    }
}

impl Eq for ByHandle {}

/// Some of the inodes, with the hand of the clock.
#[derive(Default)]
struct Shard {
    inodes: IndexSet<ByHandle, RandomState>,
    hand: usize,
}

/// All inodes.
pub struct Inodes {
    by_handle: [Mutex<Shard>; SHARDS],
    /// Never without the same inode in `by_handle`. This lock is taken after that of `by_handle`.
    by_node: [Mutex<HashMap<u64, Arc<Inode>>>; SHARDS],
    pub(crate) shared: Arc<Shared>,
}

impl Inodes {
    /// An empty table. When there is no `memory` for more, those go that nobody needs and that were not used for
    /// longest.
    pub fn new(memory: Arc<Memory>) -> Inodes {
        Inodes { by_handle: Default::default(), by_node: Default::default(), shared: Arc::new(Shared::new(memory)) }
    }

    fn shard(&self, handle: &FileHandle) -> MutexGuard<'_, Shard> {
        let sum = handle.as_bytes().iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31) + usize::from(*byte));
        self.by_handle[sum % SHARDS].lock().expect("inodes lock")
    }

    fn nodes(&self, node: u64) -> MutexGuard<'_, HashMap<u64, Arc<Inode>>> {
        self.by_node[node as usize % SHARDS].lock().expect("nodes lock")
    }

    /// The inode of a handle, made if it is not there.
    pub fn of(&self, handle: &FileHandle) -> Arc<Inode> {
        let mut shard = self.shard(handle);
        if let Some(ByHandle(found)) = shard.inodes.get(handle) {
            found.is_used.store(true, Ordering::Relaxed);
            let found = found.clone();
            self.make_room(&mut shard); // for names: these need not come with inodes
            return found;
        }
        let inode = Arc::new(Inode::new(*handle, self.shared.clone()));
        shard.inodes.insert(ByHandle(inode.clone()));
        self.shared.memory.change_inodes(0, INODE_BYTES);
        self.make_room(&mut shard);
        inode
    }

    /// The inode of a handle, if it is there.
    pub fn get(&self, handle: &FileHandle) -> Option<Arc<Inode>> {
        let shard = self.shard(handle);
        let ByHandle(found) = shard.inodes.get(handle)?;
        found.is_used.store(true, Ordering::Relaxed);
        Some(found.clone())
    }

    /// The inode that a node of the kernel points at, if that is known here.
    pub fn by_node(&self, node: u64) -> Option<Arc<Inode>> {
        let found = self.nodes(node).get(&node).cloned()?;
        found.is_used.store(true, Ordering::Relaxed);
        Some(found)
    }

    /// The kernel knows the inode as `node`, and takes it for a `kind`.
    pub fn bind(&self, inode: &Arc<Inode>, node: u64, kind: Option<FileType>) {
        let former = {
            let kernel = &mut inode.facts().kernel;
            if kernel.node == node {
                return;
            }
            std::mem::replace(kernel, KernelView::new(node, kind)).node
        };
        self.nodes(former).remove(&former);
        self.nodes(node).insert(node, inode.clone());
    }

    /// The kernel has forgotten the node: what it was told is void. The inode stays while it is needed, and if it is worth
    /// keeping.
    pub fn forget(&self, node: u64, is_worth_keeping: impl FnOnce(&Arc<Inode>) -> bool) {
        let Some(inode) = self.nodes(node).remove(&node) else { return };
        {
            let mut facts = inode.facts();
            if facts.kernel.node == node {
                facts.kernel = KernelView::default();
            }
        }
        if !is_worth_keeping(&inode) {
            let mut shard = self.shard(inode.handle());
            if inode.node().is_none() && Arc::strong_count(&inode) == 2 && inode.is_idle() {
                shard.remove(inode.handle());
                self.shared.memory.change_inodes(INODE_BYTES, 0);
            }
        }
    }

    /// Takes out what nobody needs and nobody has used of late, if there is not room for all.
    fn make_room(&self, shard: &mut Shard) {
        let mut evicted = 0;
        for _ in 0..STEPS_MAX.min(2 * shard.inodes.len()) {
            if evicted == EVICTED_MAX || !self.shared.memory.has_too_many_inodes() {
                return;
            }
            if shard.hand >= shard.inodes.len() {
                shard.hand = 0;
            }
            let Some(ByHandle(inode)) = shard.inodes.get_index(shard.hand) else { return };
            if !inode.is_used.swap(false, Ordering::Relaxed) && self.unbind_if_unneeded(inode) {
                shard.inodes.swap_remove_index(shard.hand);
                self.shared.memory.change_inodes(INODE_BYTES, 0);
                evicted += 1;
            }
            shard.hand += 1; // past the newest entry, if that is in its place now
        }
    }

    /// Takes the inode out of the table of nodes if no one holds it but the tables, whose locks are held.
    fn unbind_if_unneeded(&self, inode: &Arc<Inode>) -> bool {
        let node = inode.node().unwrap_or_default();
        let mut nodes = self.nodes(node);
        let references = 1 + usize::from(nodes.contains_key(&node));
        let is_unneeded = Arc::strong_count(inode) == references && inode.is_idle();
        if is_unneeded {
            nodes.remove(&node);
        }
        is_unneeded
    }
}

impl Shard {
    fn remove(&mut self, handle: &FileHandle) {
        self.inodes.swap_remove(handle);
        let wanted = self.inodes.len() * 2;
        if self.inodes.capacity() > 64.max(self.inodes.len() * SPARE_MAX) {
            self.inodes.shrink_to(wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::writes::FILE_WRITES_BYTES;
    use crate::testing::{attr, handle, seen, tick};
    use efc_backend::Cred;

    const INODES_MAX: usize = 1 << 10;

    fn room_for(inodes: usize) -> Inodes {
        Inodes::new(Arc::new(Memory::new(inodes as u64 * INODE_BYTES)))
    }

    fn numbered(inodes: &Inodes, number: u64) -> Arc<Inode> {
        let inode = inodes.of(&handle(&number.to_le_bytes()));
        inodes.bind(&inode, number + 2, Some(FileType::Regular));
        inode.learn(seen(&attr(number, 1)));
        inode
    }

    fn count(inodes: &Inodes) -> (usize, usize) {
        let by_handle = inodes.by_handle.iter().map(|shard| shard.lock().expect("inodes lock").inodes.len()).sum();
        (by_handle, inodes.by_node.iter().map(|nodes| nodes.lock().expect("nodes lock").len()).sum())
    }

    #[test]
    fn those_that_are_used_or_needed_stay() {
        let inodes = room_for(INODES_MAX);
        let held = numbered(&inodes, 1);
        numbered(&inodes, 2).count(false);
        for number in 3..INODES_MAX as u64 * 8 {
            numbered(&inodes, number);
            assert!(inodes.by_node(5).is_some(), "used, after {number} others");
        }
        assert!(Arc::ptr_eq(&held, &inodes.of(held.handle())), "held");
        assert!(inodes.by_node(4).is_some_and(|inode| inode.is_open()), "open");
        let (by_handle, by_node) = count(&inodes);
        assert!(by_handle == by_node && by_handle <= INODES_MAX * 9 / 8, "{by_handle}, {by_node}");
    }

    #[test]
    fn what_inodes_take_is_counted_and_given_back() {
        let memory = Arc::new(Memory::new(1 << 20));
        let inodes = Inodes::new(memory.clone());
        let inode = numbered(&inodes, 1);
        assert_eq!(memory.used().inodes, INODE_BYTES);
        (0..50).for_each(|gid| inode.searched_path(&Cred { gid, ..Cred::root() }, std::time::Instant::now()));
        assert!(memory.used().inodes > INODE_BYTES + 50 * 64, "{:?}", memory.used());
        let before = memory.used().inodes;
        inode.writes();
        assert_eq!(memory.used().inodes, before + FILE_WRITES_BYTES);
        drop(inode);
        inodes.forget(3, |_| false);
        assert_eq!(memory.used().inodes, 0);
    }

    #[test]
    fn a_table_of_inodes_that_are_all_needed_grows() {
        let inodes = room_for(SHARDS);
        let all: Vec<Arc<Inode>> = (0..1000).map(|number| numbered(&inodes, number)).collect();
        assert!(all.iter().all(|inode| Arc::ptr_eq(inode, &inodes.of(inode.handle()))));
        drop(all);
        (0..10_000).for_each(|number| drop(numbered(&inodes, 1000 + number)));
        assert!(count(&inodes).0 <= 4 * SHARDS, "{:?}", count(&inodes));
    }

    #[test]
    fn an_inode_outlives_its_node_while_it_is_needed_or_worth_keeping() {
        let inodes = room_for(1 << 16);
        for number in 0..4000 {
            numbered(&inodes, number).expire();
        }
        let (held, open) = (inodes.by_node(2).expect("there"), inodes.by_node(3).expect("there"));
        open.count(false);
        drop(open);
        inodes.by_node(4).expect("there").learn(seen(&attr(2, 1)));
        (0..4000).for_each(|number| inodes.forget(number + 2, |inode| inode.observed().is_some()));
        assert_eq!(count(&inodes), (3, 0));
        assert!(inodes.by_handle.iter().all(|shard| shard.lock().expect("inodes lock").inodes.capacity() <= 64));
        assert!(held.node().is_none() && held.last_seen().is_some());
        inodes.bind(&held, 7777, Some(FileType::Regular));
        assert_eq!(inodes.by_node(7777).and_then(|inode| inode.node()), Some(7777));
    }

    #[test]
    fn a_node_that_is_known_anew_is_not_forgotten_with_the_old_one() {
        let inodes = room_for(INODES_MAX);
        let inode = numbered(&inodes, 1);
        inode.tell(&attr(1, 1), tick());
        inodes.bind(&inode, 99, Some(FileType::Directory));
        assert!(inode.sizes().is_none(), "the kernel knows nothing of a new node");
        inodes.forget(3, |_| true);
        assert!(inodes.by_node(3).is_none() && inodes.by_node(99).is_some());
        assert!(!inode.is_plausible(&attr(1, 1)), "it is a directory now");
    }
}
