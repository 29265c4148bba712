//! What earlier daemons have read and not answered: found as far as it can be told yet, each request once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::message::KeptRequest;
use super::slots::{ARMED, Found, HELD, Slots};

/// How long a message must be in an area of a daemon that is still ending: its kernel has copied it by then ...
pub const SETTLED_AFTER: Duration = Duration::from_millis(100);
/// ... if we have had the processor this often meanwhile. Where processors are short, whoever copies waits for one like us.
pub const SETTLED_LOOKS: u32 = 10;

/// What earlier daemons have left.
pub struct Predecessors {
    /// Slots and areas from here on are ours.
    used: (u32, u32),
    /// Messages seen in armed areas, by their slots.
    seen: HashMap<u32, Seen>,
    /// Uniques that were taken over.
    taken: HashSet<u64>,
    /// Slots that were made ours. They go through our own hands since, and look free at moments while they do.
    seized: HashSet<u32>,
    is_settled: bool,
}

/// A message in an armed area.
struct Seen {
    first_word: u64,
    since: Instant,
    looks: u32,
}

impl Predecessors {
    /// Those that used all slots and areas that were ever used.
    pub fn new(slots: &Slots) -> Predecessors {
        let (seen, taken, seized) = Default::default();
        Predecessors { used: slots.used(), seen, taken, seized, is_settled: false }
    }

    /// Nothing is left to be found.
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Takes over what can be told yet; to be called again until [`Predecessors::is_settled`].
    pub fn take_over(&mut self, slots: &Arc<Slots>) -> Vec<KeptRequest> {
        if self.is_settled {
            return Vec::new();
        }
        // Asked first: what ends later is looked at once more.
        let is_alone = !slots.mapping.is_used_by_others();
        self.take_over_from(slots, is_alone)
    }

    /// The same; `is_alone`: they have all ended.
    pub(super) fn take_over_from(&mut self, slots: &Arc<Slots>, is_alone: bool) -> Vec<KeptRequest> {
        let mut found = Vec::new();
        // The copies first: an armed area may hold the message of one still, and only the copy can have an answer.
        for state in [HELD, ARMED] {
            for slot in 0..self.used.0 {
                found.extend(self.take_slot_over(slots, slot, state, is_alone));
            }
        }
        if is_alone {
            self.is_settled = true;
            slots.reuse(self.used, &self.seized);
            (self.seen, self.taken, self.seized) = Default::default();
        }
        found
    }

    fn take_slot_over(&mut self, slots: &Arc<Slots>, slot: u32, state: u32, is_alone: bool) -> Option<KeptRequest> {
        let found = slots.found(slot, state)?;
        let area = slots.area_of(found.place, self.used.1);
        let (first_word, unique) = area.map_or((0, 0), |area| slots.first_words(area));
        // Who has copied a message has read it whole. It goes before the copy is executed: with the copy answered and gone,
        // the next daemon would execute it again.
        let is_copied = state == ARMED && first_word != 0 && self.taken.contains(&unique);
        if state == ARMED && !is_alone && !is_copied && !self.has_settled(slot, first_word) {
            return None;
        }
        if !slots.seize(slot, &found) {
            return None;
        }
        self.seized.insert(slot);
        let kept = message(slots, slot, &found, area, first_word);
        match kept {
            Some(kept) if unique_of(&kept).is_some_and(|unique| self.taken.insert(unique)) => Some(kept),
            _ => {
                // Nothing was read, or it is damaged, or known already.
                slots.end(slot);
                None
            }
        }
    }

    /// Whether this message has been in the armed area for a while.
    fn has_settled(&mut self, slot: u32, first_word: u64) -> bool {
        if first_word == 0 {
            return false;
        }
        let new = || Seen { first_word, since: Instant::now(), looks: 0 };
        let seen = self.seen.entry(slot).or_insert_with(new);
        if seen.first_word != first_word {
            *seen = new();
        }
        seen.looks += 1;
        seen.looks > SETTLED_LOOKS && seen.since.elapsed() >= SETTLED_AFTER
    }
}

/// The message of a slot that was seized, if one was read whole.
fn message(slots: &Arc<Slots>, slot: u32, found: &Found, area: Option<u32>, first_word: u64) -> Option<KeptRequest> {
    match area {
        Some(_) if first_word == 0 => None,
        Some(area) => slots.message_in_area(slot, area).map(|(lease, length)| KeptRequest::leased(slot, lease, length)),
        None => slots.message(slot, found.place).map(|copy| KeptRequest::copied(slot, copy)),
    }
}

/// The unique of a message, its second word.
pub fn unique_of(message: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(*message.get(8..)?.first_chunk()?))
}
