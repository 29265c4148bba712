//! The eviction policy: what the store keeps, and what is evicted for new data.
//!
//! A [`Unit`], a large file or a segment of small ones, is kept or evicted as a whole. It is in one of two queues.
//! *Again* is for units that were read again, up to nine tenths of the size; *once* has the rest, and new data passes
//! through it. So a scan can flush only *once*. Units that arrive while *again* is not full go there at once, since
//! nothing has to be evicted for them.
//!
//! A unit that is read again, from *once* or from among the [`Ghosts`], moves to *again* if the time since its last use
//! is much shorter than that of the oldest unit there, and if that one has not been read for longer than its usual
//! interval. All intervals are measured in bytes that were used meanwhile; by that measure, all files of a data set
//! that is read over and over are equally far from their next use. Then nothing changes its place, and each pass hits
//! all of *again*, where LRU would hit nothing. (The idea is that of LIRS.)
//!
//! One new file in [`LOT`] is admitted as if it had been read again soon. Without that, a data set so large that none
//! of its ghosts are left when it is read again could never replace another one that nobody reads any more; with it,
//! that takes some passes.

use std::collections::BTreeSet;

use foldhash::HashMap;

use super::ghosts::{Ghost, Ghosts};

/// What was read once may have this part of the size when it is needed: a tenth.
const ONCE_PART: u64 = 10;
/// What comes back must be so many times nearer to its last use as the oldest of *again* is to its own.
const NEARER: u64 = 3;
/// So many of the oldest are looked at for one that may go.
const LOOK_MAX: usize = 32;
/// One new file in so many is let in.
const LOT: u64 = 256;
/// When room is made, it is made down to this part of the size, in percent.
const LOW_MARK_PERCENT: u64 = 95;
/// What follows sooner than this belongs to the same read of a file, in seconds.
const SAME_READ_MAX: u32 = 2;
/// When the first is used, in bytes: what was loaded was used before that.
const BEGIN: u64 = 1 << 60;
/// Further from its last use than anything.
const NEVER: u64 = u64::MAX;

/// What is kept or goes as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// A large file, by the hash of its handle.
    File(u64),
    /// A segment of small files, by its number.
    Segment(u64),
}

/// Where a unit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Read once.
    Once,
    /// Read again, or there was room.
    Again,
}

/// What is decided about a file that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Where it comes.
    pub queue: Queue,
    /// How far it counts as from its last use, in bytes used since.
    pub distance: u64,
    /// How far it was, if that is known.
    pub usual: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    queue: Queue,
    bytes: u64,
    /// Its key in the order of its queue.
    place: u64,
    used: u64,
    used_s: u32,
    filled_s: u32,
    /// As it came.
    distance: u64,
    /// From one use to the next, in bytes used meanwhile, if there were two: one of the larger.
    usual: Option<u64>,
}

/// Units in order, the next to go first.
#[derive(Clone, Debug, Default)]
struct Line {
    order: BTreeSet<(u64, Unit)>,
    bytes: u64,
}

impl Line {
    /// The oldest few.
    fn oldest(&self) -> impl Iterator<Item = Unit> {
        self.order.iter().map(|(_, unit)| *unit).take(LOOK_MAX)
    }

    fn oldest_but(&self, unit: Option<Unit>) -> Option<Unit> {
        self.order.iter().map(|(_, oldest)| *oldest).find(|oldest| Some(*oldest) != unit)
    }
}

/// All units.
#[derive(Clone, Debug)]
pub struct Queues {
    size_max: u64,
    units: HashMap<Unit, Standing>,
    once: Line,
    again: Line,
    ghosts: Ghosts,
    /// Bytes used so far.
    clock: u64,
    /// New files so far.
    drawn: u64,
}

impl Queues {
    /// Nothing yet, `size_max` bytes at most, and so many ghosts.
    pub fn new(size_max: u64, ghosts_max: usize) -> Queues {
        let (units, once, again) = (HashMap::default(), Line::default(), Line::default());
        Queues { size_max, units, once, again, ghosts: Ghosts::new(ghosts_max), clock: BEGIN, drawn: 0 }
    }

    /// Changes what may be held, in bytes.
    pub fn set_size_max(&mut self, bytes: u64) {
        self.size_max = bytes;
    }

    /// What may be held, in bytes.
    pub fn size_max(&self) -> u64 {
        self.size_max
    }

    /// What the unit has, in bytes.
    pub fn bytes(&self, unit: Unit) -> u64 {
        self.units.get(&unit).map_or(0, |standing| standing.bytes)
    }

    /// What is held, in bytes.
    pub fn held(&self) -> u64 {
        self.once.bytes + self.again.bytes
    }

    /// How many ghosts there are.
    pub fn ghosts(&self) -> usize {
        self.ghosts.count()
    }

    /// Where the unit stands; `None`: there is no such unit.
    pub fn queue(&self, unit: Unit) -> Option<Queue> {
        self.units.get(&unit).map(|standing| standing.queue)
    }

    /// All units.
    pub fn units(&self) -> impl Iterator<Item = Unit> {
        self.units.keys().copied()
    }

    /// Decides where a file comes that is not there.
    pub fn admit(&mut self, hash: u64, bytes: u64, at_s: u32) -> Admission {
        let (distance, usual) = match self.ghosts.of(hash) {
            Some(ghost) if is_another(ghost.used_s, at_s) => (self.clock - ghost.used, Some(self.clock - ghost.used)),
            Some(ghost) => (ghost.distance, None), // still the same read
            None => (self.draw(), None),
        };
        let queue = if self.make_again(bytes, distance) { Queue::Again } else { Queue::Once };
        Admission { queue, distance, usual }
    }

    /// Adds a unit that has nothing yet.
    pub fn add(&mut self, unit: Unit, admission: Admission, at_s: u32) {
        let Admission { queue, distance, usual } = admission;
        let (used, used_s, filled_s) = (self.clock, at_s, at_s);
        self.insert(unit, Standing { queue, bytes: 0, place: used, used, used_s, filled_s, distance, usual });
    }

    /// Adds a unit that was found in the directory, last used so long ago.
    pub fn load(&mut self, unit: Unit, queue: Queue, bytes: u64, age_s: u64) {
        let used = BEGIN - age_s.min(BEGIN);
        let (used_s, filled_s, distance, usual) = (0, 0, NEVER, None);
        self.insert(unit, Standing { queue, bytes, place: used, used, used_s, filled_s, distance, usual });
    }

    /// Does so much more fit?
    pub fn fits(&self, bytes: u64) -> bool {
        self.held().saturating_add(bytes) <= self.size_max
    }

    /// Would so much more fit with some room to spare? If it does not fit at all, room is made until it does.
    pub fn fits_below_mark(&self, bytes: u64) -> bool {
        self.held().saturating_add(bytes) <= self.size_max / 100 * LOW_MARK_PERCENT
    }

    /// What is to go for `bytes` more of `unit`, which came with `admission`; `None`: nothing is worth less.
    pub fn victim(&self, unit: Unit, admission: Admission, bytes: u64) -> Option<Unit> {
        let in_bounds = match admission.queue {
            Queue::Again => self.again.bytes.saturating_add(bytes) <= self.again_max(),
            Queue::Once => true,
        };
        let once = self.once.oldest_but(Some(unit)).filter(|_| in_bounds);
        let is_less = |oldest: &Unit| *oldest != unit && self.is_nearer(admission.distance, *oldest);
        once.or_else(|| self.again.oldest().find(is_less))
    }

    /// What is to go for nothing in particular: the size was changed, or the index is full.
    pub fn oldest(&self, but: Option<Unit>) -> Option<Unit> {
        self.once.oldest_but(but).or_else(|| self.again.oldest_but(but))
    }

    /// How a unit came that is there.
    pub fn admission(&self, unit: Unit) -> Option<Admission> {
        self.units.get(&unit).map(|&Standing { queue, distance, usual, .. }| Admission { queue, distance, usual })
    }

    /// So much was added to the unit.
    pub fn grew(&mut self, unit: Unit, bytes: u64, at_s: u32) {
        self.clock += bytes;
        let Some(standing) = self.units.get_mut(&unit) else { return };
        (standing.bytes, standing.filled_s) = (standing.bytes + bytes, at_s);
        let queue = standing.queue;
        self.line(queue).bytes += bytes;
        self.refresh(unit, at_s);
    }

    /// So much of the unit is not there any more.
    pub fn shrank(&mut self, unit: Unit, bytes: u64) {
        let Some(standing) = self.units.get_mut(&unit) else { return };
        let bytes = bytes.min(standing.bytes);
        standing.bytes -= bytes;
        let queue = standing.queue;
        self.line(queue).bytes -= bytes;
    }

    /// So much of a file was turned away that had come with this distance.
    pub fn refused(&mut self, hash: u64, bytes: u64, distance: u64, at_s: u32) {
        self.clock += bytes;
        self.ghosts.remember(hash, Ghost { used: self.clock, used_s: at_s, distance });
    }

    /// So much of the unit was read. `true`: it has moved to *again* by that.
    pub fn used(&mut self, unit: Unit, bytes: u64, at_s: u32) -> bool {
        self.clock += bytes;
        let Some(standing) = self.units.get(&unit).copied() else { return false };
        let is_file = matches!(unit, Unit::File(_)); // what is read again of a segment is copied when that goes
        let returns = is_file && standing.queue == Queue::Once && is_another(standing.filled_s, at_s);
        let moves = returns && self.rescue(unit);
        self.refresh(unit, at_s);
        moves
    }

    /// Moves a unit of *once* to *again*, if what was used of it last is near enough.
    pub fn rescue(&mut self, unit: Unit) -> bool {
        let Some(standing) = self.units.get(&unit).copied() else { return false };
        let distance = (self.clock - standing.used).max(standing.bytes);
        // It is not among those that would have to go for it.
        self.detach(unit);
        let moves = self.make_again(standing.bytes, distance);
        let queue = if moves { Queue::Again } else { standing.queue };
        self.insert(unit, Standing { queue, distance, usual: Some(distance), ..standing });
        moves
    }

    /// Would something that was used when the unit was last be taken to *again*?
    pub fn is_worth_keeping(&self, unit: Unit) -> bool {
        let Some(standing) = self.units.get(&unit) else { return false };
        let distance = self.clock - standing.used;
        let mut older = self.again.oldest().filter(|oldest| *oldest != unit && self.is_nearer(distance, *oldest));
        self.again.bytes < self.again_max() || older.next().is_some()
    }

    /// The unit is not there any more; its bytes.
    pub fn remove(&mut self, unit: Unit) -> u64 {
        let Some(standing) = self.detach(unit) else { return 0 };
        standing.bytes
    }

    /// A file of the unit goes with it, and is remembered.
    pub fn remember(&mut self, hash: u64, unit: Unit) {
        let Some(&Standing { used, used_s, distance, .. }) = self.units.get(&unit) else { return };
        self.ghosts.remember(hash, Ghost { used, used_s, distance });
    }

    /// How far a new file counts as from its last use.
    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        if self.drawn.is_multiple_of(LOT) { self.size_max.saturating_mul(NEARER) } else { NEVER }
    }

    fn again_max(&self) -> u64 {
        self.size_max - self.size_max / ONCE_PART
    }

    fn is_nearer(&self, distance: u64, oldest: Unit) -> bool {
        let Standing { used, usual, .. } = self.units[&oldest];
        self.clock - used > distance.max(usual.unwrap_or(0)).saturating_mul(NEARER)
    }

    /// Makes room in *again*: what is much older goes to *once*, as the next to go. `false`: too little is.
    fn make_again(&mut self, bytes: u64, distance: u64) -> bool {
        let mut left = self.again.bytes;
        let mut older = Vec::new();
        for oldest in self.again.oldest().filter(|oldest| self.is_nearer(distance, *oldest)) {
            if left.saturating_add(bytes) <= self.again_max() {
                break;
            }
            left -= self.units[&oldest].bytes;
            older.push(oldest);
        }
        let makes = left.saturating_add(bytes) <= self.again_max();
        for unit in older.into_iter().filter(|_| makes) {
            if let Some(standing) = self.detach(unit) {
                let place = standing.used.saturating_sub(BEGIN); // before all that has been there
                self.insert(unit, Standing { queue: Queue::Once, place, ..standing });
            }
        }
        makes
    }

    fn line(&mut self, queue: Queue) -> &mut Line {
        match queue {
            Queue::Once => &mut self.once,
            Queue::Again => &mut self.again,
        }
    }

    fn insert(&mut self, unit: Unit, standing: Standing) {
        debug_assert!(!self.units.contains_key(&unit), "a unit stands once");
        self.detach(unit);
        let line = self.line(standing.queue);
        line.order.insert((standing.place, unit));
        line.bytes += standing.bytes;
        self.units.insert(unit, standing);
    }

    fn detach(&mut self, unit: Unit) -> Option<Standing> {
        let standing = self.units.remove(&unit)?;
        let line = self.line(standing.queue);
        line.order.remove(&(standing.place, unit));
        line.bytes -= standing.bytes;
        Some(standing)
    }

    /// Notes that the unit is used now. *Again* is in the order of use, but for what makes no difference.
    fn refresh(&mut self, unit: Unit, at_s: u32) {
        let (clock, step) = (self.clock, self.size_max / 1024);
        let Some(standing) = self.units.get_mut(&unit) else { return };
        let is_known = standing.used >= BEGIN; // how far it was from a use in another life is not
        if is_known && is_another(standing.used_s, at_s) && standing.queue == Queue::Again {
            let distance = (clock - standing.used).max(standing.bytes);
            standing.usual = Some(distance.max(standing.usual.map_or(0, |before| before / 4 * 3)));
        }
        (standing.used, standing.used_s) = (clock, at_s);
        if standing.queue == Queue::Again && clock - standing.place > step {
            let before = std::mem::replace(&mut standing.place, clock);
            self.again.order.remove(&(before, unit));
            self.again.order.insert((clock, unit));
        }
    }
}

/// Is a use at this time another reader's than the one before?
fn is_another(before_s: u32, at_s: u32) -> bool {
    at_s.saturating_sub(before_s) >= SAME_READ_MAX
}

#[cfg(test)]
mod tests;
