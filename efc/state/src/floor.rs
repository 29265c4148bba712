//! The floor of a region's generations, so that the memory of slots that nobody uses can be given back.
//!
//! A slot whose memory was given back and comes again holds 0: it has forgotten how often it was used. An id must not
//! come a second time, so before memory goes, its slots' highest generation is noted in the state as the *floor*, if it
//! is above that, and a slot that holds 0 goes on above the floor. A word of slot 0, which no record uses, holds it:
//! the floor, and its inverse in the upper half.
//!
//! Release 0.1.0 knows of no floor: it begins a slot that holds 0 at generation 1. So that it gives no id a second time
//! either, generations that are given here to slots that hold 0 begin at [`BASE`], and a group with a lower one, which
//! 0.1.0 may have given, keeps its memory. A group with a generation above [`FLOOR_MAX`] keeps it too, or the floor
//! would use generations up.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::mapping::Mapping;

/// The floor at first. A slot would have to be used so often under 0.1.0 for an id to come twice.
pub const BASE: u32 = 1 << 30;
/// The highest floor.
pub const FLOOR_MAX: u32 = 1 << 31;

/// The floor of a region.
pub struct Floor {
    mapping: Arc<Mapping>,
    word: usize,
    is_superseded: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Floor {
    /// The floor in this word. `is_superseded` says whether a later daemon has the state, to which this one's memory
    /// belongs.
    pub fn new(mapping: Arc<Mapping>, word: usize, is_superseded: Box<dyn Fn() -> bool + Send + Sync>) -> Floor {
        Floor { mapping, word, is_superseded }
    }

    /// The floor; `None` if no memory was ever given back. A damaged one counts as the highest.
    fn noted(&self) -> Option<u32> {
        let word = self.mapping.words(self.word, 1)[0].load(Ordering::Acquire);
        let (inverse, floor) = ((word >> 32) as u32, word as u32);
        let is_whole = inverse == !floor && (BASE..=FLOOR_MAX).contains(&floor);
        (word != 0).then_some(if is_whole { floor } else { FLOOR_MAX })
    }

    /// Whether memory may have been given back.
    pub fn is_noted(&self) -> bool {
        self.noted().is_some()
    }

    /// The generation in which a slot that holds 0 is used next.
    pub fn next(&self) -> u32 {
        self.noted().unwrap_or(BASE) + 1
    }

    /// Whether memory of slots with these generations may go; the floor is above them then. Calls must not run beside
    /// each other.
    pub fn admits(&self, generations: impl Iterator<Item = u32> + Clone) -> bool {
        let is_within = |generation: u32| generation == 0 || (BASE..=FLOOR_MAX).contains(&generation);
        if (self.is_superseded)() || !generations.clone().all(is_within) {
            return false;
        }
        let floor = generations.max().unwrap_or(0).max(self.noted().unwrap_or(BASE));
        let word = u64::from(!floor) << 32 | u64::from(floor);
        self.mapping.words(self.word, 1)[0].store(word, Ordering::Release);
        true
    }
}
