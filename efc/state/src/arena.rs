//! Memory for written data, in the memfd: blocks of 4 KiB to 1 MiB, by the buddy method.
//!
//! The arena is cut into *tops*, blocks of the largest size. A top gets memory when its first part is used, all of it
//! at once, so that no later store can meet a hole; a full machine is an error of [`Arena::copy`]. Within tops, free
//! blocks are kept by size, lowest address first, and two free halves become one whole again.
//!
//! Which blocks are taken is written nowhere but in this process: a successor learns it from the records that name them
//! ([`Arena::claim`]), so a SIGKILL cannot leave a block that is neither free nor described.
//!
//! Memory goes back to the system when it was not needed for a second, but for a few tops, so that a burst of writes
//! does not make a daemon large for ever and steady writing does not allocate. A successor does not know which tops had
//! memory; it gives back that of all that it has not claimed. A thread does both, and ends when nothing is left to do,
//! or when a successor has opened the state: what is free in the view of a daemon that hung meanwhile may be in use by
//! then.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::layout::Header;
use super::mapping::{Mapping, Span, WORD};
use super::region::Location;
use super::regions::{ARENA, PAGE, PAYLOAD_MAX};

/// Words of a page, the smallest block.
const PAGE_WORDS: usize = PAGE / WORD;
/// A block of order n has 2^n pages; this is the largest.
pub const ORDER_MAX: u8 = 8;
/// Pages of a top.
pub const TOP: u32 = 1 << ORDER_MAX;

/// Free tops that keep their memory.
const KEPT_TOPS: usize = 4;
/// How long memory beyond those is kept without use.
const IDLE_TIME_MAX: Duration = Duration::from_secs(1);

/// Tops that are swept at a time: they cannot be had meanwhile.
const SWEPT_MAX: u32 = 64;

const _: () = assert!(PAGE << ORDER_MAX == PAYLOAD_MAX && ARENA.words == PAGE_WORDS);

/// The order of the smallest block that holds `length` bytes.
pub fn order_of(length: usize) -> u8 {
    length.div_ceil(PAGE).next_power_of_two().trailing_zeros() as u8
}

/// Which blocks are free. Blocks are named by their first page.
pub struct Buddies {
    /// Free blocks with memory, by their order.
    free: [BTreeSet<u32>; ORDER_MAX as usize + 1],
    /// Free tops without memory.
    bare: BTreeSet<u32>,
}

impl Buddies {
    /// Whole tops within so many pages, all free and without memory.
    pub fn new(pages: u32) -> Buddies {
        Buddies { free: Default::default(), bare: (0..pages / TOP).map(|top| top * TOP).collect() }
    }

    /// Takes a block out of memory that is there.
    pub fn take(&mut self, order: u8) -> Option<u32> {
        let larger = (order..=ORDER_MAX).find(|order| !self.free[usize::from(*order)].is_empty())?;
        let page = self.free[usize::from(larger)].pop_first()?;
        self.split(page, larger, page, order);
        Some(page)
    }

    /// Frees all parts of a block but the one at `page`. The block is in no list of free ones.
    fn split(&mut self, block: u32, order: u8, page: u32, wanted: u8) {
        let mut kept = block;
        for half in (wanted..order).rev() {
            let upper = kept + (1 << half);
            let (keep, free) = if page < upper { (kept, upper) } else { (upper, kept) };
            self.free[usize::from(half)].insert(free);
            kept = keep;
        }
    }

    /// Frees a block, together with its neighbour if that is free.
    pub fn give(&mut self, mut page: u32, mut order: u8) {
        while order < ORDER_MAX && self.free[usize::from(order)].remove(&(page ^ 1 << order)) {
            page &= !(1 << order);
            order += 1;
        }
        self.free[usize::from(order)].insert(page);
    }

    /// Takes this very block, whose top has memory; `false` if a part of it is taken already, or if there is no such
    /// block.
    pub fn claim(&mut self, page: u32, order: u8) -> bool {
        if order > ORDER_MAX || page & ((1 << order) - 1) != 0 {
            return false;
        }
        let top = page & !(TOP - 1);
        if self.bare.remove(&top) {
            self.free[usize::from(ORDER_MAX)].insert(top);
        }
        let within = |larger: u8| (page & !((1 << larger) - 1), larger);
        let holds = |(block, larger): &(u32, u8)| self.free[usize::from(*larger)].contains(block);
        let Some((block, larger)) = (order..=ORDER_MAX).map(within).find(holds) else { return false };
        self.free[usize::from(larger)].remove(&block);
        self.split(block, larger, page, order);
        true
    }

    fn whole_tops(&self) -> usize {
        self.free[usize::from(ORDER_MAX)].len()
    }
}

struct Space {
    buddies: Buddies,
    /// The fewest whole tops that were free since the last trim: so many were not needed.
    unused: usize,
    /// What a predecessor may have used is still to be given back.
    is_unswept: bool,
    is_trimming: bool,
}

/// Blocks of a mapping.
pub struct Arena {
    header: Header,
    /// The number of the daemon that this is for.
    daemon: u64,
    mapping: Arc<Mapping>,
    /// Word of page 0.
    base: usize,
    space: Mutex<Space>,
}

/// A block in use; free again when it is dropped.
pub struct Block {
    arena: Arc<Arena>,
    span: Span,
    page: u32,
    order: u8,
}

impl Arena {
    /// The pages of `place`, all free. For the daemon that opens the state next.
    pub fn new(header: &Header, place: &Location) -> Arc<Arena> {
        let space = Space { buddies: Buddies::new(place.capacity), unused: 0, is_unswept: false, is_trimming: false };
        let (header, daemon) = (header.clone(), header.last_daemon() + 1);
        let (mapping, base) = (header.mapping(), place.base);
        Arc::new(Arena { header, daemon, mapping, base, space: Mutex::new(space) })
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().expect("arena lock")
    }

    fn first_word(&self, page: u32) -> usize {
        self.base + page as usize * PAGE_WORDS
    }

    /// A block with a copy of `bytes`.
    ///
    /// # Errors
    /// EINVAL if they are too many for a block, ENOSPC if all blocks are taken, ENOMEM if there is no memory.
    pub fn copy(self: &Arc<Arena>, bytes: &[u8]) -> io::Result<Block> {
        let order = order_of(bytes.len());
        if order > ORDER_MAX {
            return Err(rustix::io::Errno::INVAL.into());
        }
        let page = self.take(order)?;
        let span = Span::filled(Arc::clone(&self.mapping), self.first_word(page), bytes);
        Ok(Block { arena: Arc::clone(self), span, page, order })
    }

    /// The block that a record of a predecessor names, with what is in it; `None` if it is taken, or there is none.
    pub fn claim(self: &Arc<Arena>, page: u32, order: u8) -> Option<Block> {
        if !self.space().buddies.claim(page, order) {
            return None;
        }
        let span = Span::found(Arc::clone(&self.mapping), self.first_word(page), PAGE << order);
        Some(Block { arena: Arc::clone(self), span, page, order })
    }

    fn take(&self, order: u8) -> io::Result<u32> {
        loop {
            let top = {
                let mut space = self.space();
                let taken = space.buddies.take(order);
                space.unused = space.unused.min(space.buddies.whole_tops());
                match taken {
                    Some(page) => return Ok(page),
                    None => space.buddies.bare.pop_first().ok_or(rustix::io::Errno::NOSPC)?,
                }
            };
            // Without the lock: a megabyte takes a while.
            let provided = self.mapping.allocate(self.first_word(top), TOP as usize * PAGE_WORDS);
            let mut space = self.space();
            if let Err(error) = provided {
                space.buddies.bare.insert(top);
                return Err(error);
            }
            space.buddies.give(top, ORDER_MAX);
        }
    }

    fn give(self: &Arc<Arena>, page: u32, order: u8) {
        let mut space = self.space();
        space.buddies.give(page, order);
        if space.buddies.whole_tops() > KEPT_TOPS {
            self.start_trimming(space);
        }
    }

    /// Gives back what a predecessor may have used and nobody has claimed.
    pub fn sweep(self: &Arc<Arena>) {
        let mut space = self.space();
        space.is_unswept = true;
        self.start_trimming(space);
    }

    fn start_trimming(self: &Arc<Arena>, mut space: MutexGuard<'_, Space>) {
        if space.is_trimming {
            return;
        }
        space.is_trimming = true;
        drop(space);
        let arena = Arc::clone(self);
        let thread = std::thread::Builder::new().name("payload-trim".into()).stack_size(64 << 10);
        if thread.spawn(move || arena.trim()).is_err() {
            self.space().is_trimming = false; // the next block that is given back tries again
        }
    }

    /// Takes memory off tops that are not needed, until only the few are left that are always kept.
    fn trim(&self) {
        loop {
            std::thread::sleep(IDLE_TIME_MAX); // first of all: a daemon that begins has other things to do
            if self.is_superseded() {
                return;
            }
            if std::mem::take(&mut self.space().is_unswept) {
                self.release_bare();
            }
            let Some(surplus) = self.take_surplus() else { return };
            surplus.into_iter().for_each(|top| self.release(top, 1));
        }
    }

    /// Takes the tops that were not needed lately out of reach; `None` if there is nothing left to do.
    fn take_surplus(&self) -> Option<Vec<u32>> {
        let mut space = self.space();
        let count = space.unused.saturating_sub(KEPT_TOPS);
        let free = &mut space.buddies.free[usize::from(ORDER_MAX)];
        let surplus: Vec<u32> = (0..count).filter_map(|_| free.pop_last()).collect();
        space.unused = space.buddies.whole_tops();
        space.is_trimming = space.unused > KEPT_TOPS || !surplus.is_empty() || space.is_unswept;
        space.is_trimming.then_some(surplus)
    }

    fn release_bare(&self) {
        let mut from = 0;
        while let Some((first, count)) = self.take_bare(from) {
            self.release(first, count);
            from = first + count * TOP;
        }
    }

    /// Takes adjacent tops without memory out of reach: the first at or behind `from`, and how many.
    fn take_bare(&self, from: u32) -> Option<(u32, u32)> {
        let bare = &mut self.space().buddies.bare;
        let first = bare.range(from..).next().copied()?;
        let count = (0..SWEPT_MAX).take_while(|index| bare.remove(&(first + index * TOP))).count();
        Some((first, count as u32))
    }

    fn is_superseded(&self) -> bool {
        self.header.last_daemon() != self.daemon
    }

    /// Gives the memory of adjacent tops back to the system, and lists them as bare. They are in no list before.
    fn release(&self, first: u32, count: u32) {
        if self.is_superseded() {
            return;
        }
        let words = (count * TOP) as usize * PAGE_WORDS;
        if let Err(error) = self.mapping.release(self.first_word(first), words) {
            log::warn!("memory of written data cannot be given back: {error}");
        }
        self.space().buddies.bare.extend((0..count).map(|index| first + index * TOP));
    }

    /// Tops that have memory, in use or free.
    #[cfg(test)]
    pub fn tops_with_memory(&self, pages: u32) -> usize {
        (pages / TOP) as usize - self.space().buddies.bare.len()
    }
}

impl Block {
    /// The first page of the block.
    pub fn page(&self) -> u32 {
        self.page
    }

    /// The order of the block, which says its size: see [`order_of`].
    pub fn order(&self) -> u8 {
        self.order
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.span.as_ref()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.arena.give(self.page, self.order);
    }
}
