//! The slots and areas that requests lie in: which are free, what one holds, and how an answer is saved.
//!
//! See the module above for the words of a slot, and for what a SIGKILL leaves.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::super::journal::ANSWER_MAX;
use super::super::mapping::{Area, Mapping, WORD};
use super::super::record::{pack, unpack};
use super::super::region::{Location, Region};
use super::super::regions::{AREAS, MESSAGE_MAX, REQUESTS};

/// Areas that keep their memory when they are not needed.
pub const KEPT_AREAS: usize = 4;
/// How long the other areas keep theirs.
pub const IDLE_TIME_MAX: Duration = Duration::from_secs(1);
/// Areas whose memory is given back at a time.
const TRIMMED_MAX: usize = 64;
/// How often a thread that has no memory for a request tries again.
const MEMORY_POLL: Duration = Duration::from_millis(100);

const CONTROL: usize = 0;
const PLACE: usize = 1;
pub const ANSWER_HEAD: usize = 2;
const ANSWER: usize = 3;
const MESSAGE: usize = 24;

/// Largest message that is copied into a slot, in bytes: a WRITE of 4 KiB is.
pub const SMALL_MAX: usize = (REQUESTS.words - MESSAGE) * WORD;

const _: () = assert!(ANSWER + ANSWER_MAX.div_ceil(WORD) <= MESSAGE);
const _: () = assert!(SMALL_MAX >= 4096 + 80 && SMALL_MAX < MESSAGE_MAX);

pub const ARMED: u32 = u32::from_be_bytes(*b"ARMD");
pub const HELD: u32 = u32::from_be_bytes(*b"HELD");

/// A bit in the lower half of PLACE: the bits below it are the number of an area, not a length.
const IN_AREA: u32 = 1 << 31;
/// A bit in the head of an answer: there is an answer. Below this bit lies an errno, above it a length in bytes.
const PRESENT: u32 = 1 << 15;

/// The slots and areas of one daemon, and of its predecessors.
pub struct Slots {
    pub mapping: Arc<Mapping>,
    region: Region,
    areas: Region,
    /// Where the areas lie.
    areas_place: Location,
    /// The number of the daemon; daemons of one session are few.
    daemon: u32,
    free: Mutex<Free>,
    freed: Condvar,
    /// Messages in areas that are being executed, by their slots.
    large: Mutex<HashMap<u32, Lease>>,
    /// Areas that are leased.
    leased: AtomicUsize,
}

/// Slots and areas that nobody uses.
struct Free {
    slots: Vec<u32>,
    fresh_slot: u32,
    /// Areas with memory.
    areas: Vec<Area>,
    /// Numbers of areas without memory.
    hollow: Vec<u32>,
    fresh_area: u32,
    /// When an area was wanted and none was idle.
    exhausted_at: Instant,
    /// Threads that wait.
    waiting: u32,
    /// Nobody else uses the state, so that every area is known.
    is_alone: bool,
}

fn control(daemon: u32, state: u32) -> u64 {
    u64::from(daemon) << 32 | u64::from(state)
}

/// What a slot's control word says of a predecessor's request.
pub struct Found {
    /// The control word.
    pub word: u64,
    /// Where the message is.
    pub place: u64,
}

/// An area that goes back when nobody refers to its content any more. Clones share it.
#[derive(Clone)]
pub struct Lease(Arc<Leased>);

struct Leased {
    slots: Arc<Slots>,
    area: Option<Area>,
    /// Goes after the area.
    _beside: Option<Beside>,
}

/// What is held as long as an area is leased: its part of a budget.
pub type Beside = Box<dyn Any + Send + Sync>;

impl Lease {
    /// Whether so many areas are leased that data should be copied out of them: what refers to it may be kept for long.
    pub fn is_short_of_areas(&self) -> bool {
        let slots = &self.0.slots;
        slots.leased.load(Ordering::Relaxed) > slots.areas_place.capacity as usize / 2
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self.0.area.as_ref().expect("present until drop").bytes()
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(area) = self.area.take() {
            self.slots.leased.fetch_sub(1, Ordering::Relaxed);
            self.slots.give_back(area);
        }
    }
}

impl Slots {
    /// The slots and areas of the daemon with this number. Touches nothing yet.
    pub fn new(mapping: Arc<Mapping>, region: Region, areas: Region, areas_place: Location, daemon: u64) -> Slots {
        mapping.set_apart(areas_place.base);
        let free = Free {
            slots: Vec::new(),
            fresh_slot: region.allocated(),
            areas: Vec::new(),
            hollow: Vec::new(),
            fresh_area: areas.allocated(),
            exhausted_at: Instant::now(),
            waiting: 0,
            is_alone: false,
        };
        Slots {
            mapping,
            region,
            areas,
            areas_place,
            daemon: daemon as u32,
            free: Mutex::new(free),
            freed: Condvar::new(),
            large: Mutex::default(),
            leased: AtomicUsize::new(0),
        }
    }

    /// How many slots and areas there are that have been used.
    pub fn used(&self) -> (u32, u32) {
        (self.region.allocated(), self.areas.allocated())
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().expect("free slots lock")
    }

    fn words(&self, slot: u32) -> &[AtomicU64] {
        self.region.words(slot)
    }

    fn area_word(&self, area: u32) -> usize {
        self.areas_place.base + area as usize * AREAS.words
    }

    fn area_number(&self, area: &Area) -> u32 {
        ((area.first() - self.areas_place.base) / AREAS.words) as u32
    }

    /// A slot and an area that nobody uses; waits for them.
    pub fn take(&self) -> (u32, Area) {
        let mut free = self.free();
        loop {
            if let Some(slot) = free.take_slot(&self.region) {
                let area = match free.take_area(&self.areas) {
                    Some(Ok(area)) => Some(area),
                    Some(Err(number)) => {
                        drop(free); // making it resident takes a while
                        let made = self.area(number);
                        free = self.free();
                        let keep_number = |error: &std::io::Error| {
                            log::warn!("no memory for a request to be read into: {error}");
                            free.hollow.push(number);
                        };
                        made.inspect_err(keep_number).ok()
                    }
                    None => None,
                };
                if let Some(area) = area {
                    return (slot, area);
                }
                free.slots.push(slot);
            }
            // Until something is given back, or there is memory again.
            free.waiting += 1;
            free = self.freed.wait_timeout(free, MEMORY_POLL).expect("free slots lock").0;
            free.waiting -= 1;
        }
    }

    /// Publishes that an area is being read into. It is empty: a successor finds what is there from now on.
    pub fn arm(&self, slot: u32, area: &mut Area) {
        area.bytes_mut()[..2 * WORD].fill(0);
        let words = self.words(slot);
        words[PLACE].store(u64::from(self.area_number(area) | IN_AREA), Ordering::Relaxed);
        words[ANSWER_HEAD].store(0, Ordering::Relaxed);
        words[CONTROL].store(control(self.daemon, ARMED), Ordering::Release);
    }

    /// Frees an armed slot; `false` if a successor has it.
    pub fn disarm(&self, slot: u32) -> bool {
        self.leave(slot, 0)
    }

    /// Holds the message in the area of an armed slot; `None` if a successor has it.
    pub fn hold(self: &Arc<Self>, slot: u32, area: Area, beside: Option<Beside>) -> Option<Lease> {
        self.leave(slot, control(self.daemon, HELD)).then(|| self.lease(slot, area, beside))
    }

    fn leave(&self, slot: u32, next: u64) -> bool {
        let armed = control(self.daemon, ARMED);
        self.words(slot)[CONTROL].compare_exchange(armed, next, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Copies a small message into a slot of its own; `None` if there is none.
    pub fn copy(&self, message: &[u8]) -> Option<u32> {
        let slot = self.free().take_slot(&self.region)?;
        let words = self.words(slot);
        for (word, chunk) in words[MESSAGE..].iter().zip(message.chunks(WORD)) {
            let mut padded = [0; WORD];
            padded[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        let place = message.len() as u64 | u64::from(crc32c::crc32c(message)) << 32;
        words[PLACE].store(place, Ordering::Relaxed);
        words[ANSWER_HEAD].store(0, Ordering::Relaxed);
        words[CONTROL].store(control(self.daemon, HELD), Ordering::Release);
        Some(slot)
    }

    /// Saves the answer of a request, an errno or 0 and its content, if it fits.
    pub fn save_answer(&self, slot: u32, unique: u64, errno: i32, content: &[u8]) {
        if content.len() > ANSWER_MAX {
            return;
        }
        let words = self.words(slot);
        let mut packed = [0; MESSAGE - ANSWER];
        pack(content, &mut packed);
        let length = content.len().div_ceil(WORD);
        words[ANSWER..].iter().zip(&packed[..length]).for_each(|(word, value)| word.store(*value, Ordering::Relaxed));
        let low = errno as u32 & (PRESENT - 1) | PRESENT | (content.len() as u32) << 16;
        let head = u64::from(low) | u64::from(checksum(unique, low, content)) << 32;
        words[ANSWER_HEAD].store(head, Ordering::Release);
    }

    /// The saved answer of a request, if it is whole.
    pub fn answer(&self, slot: u32, unique: u64) -> Option<(i32, Vec<u8>)> {
        let words = self.words(slot);
        let head = words[ANSWER_HEAD].load(Ordering::Acquire);
        let low = head as u32;
        if low & PRESENT == 0 {
            return None;
        }
        let content = unpack(&words[ANSWER..MESSAGE], (low >> 16) as usize);
        let is_whole = checksum(unique, low, &content) == (head >> 32) as u32;
        is_whole.then_some(((low & (PRESENT - 1)) as i32, content))
    }

    /// Frees a slot that is held.
    pub fn end(&self, slot: u32) {
        let words = self.words(slot);
        let held = control(self.daemon, HELD);
        // A successor may have it by now: then it is the successor's to free.
        if words[CONTROL].compare_exchange(held, 0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        // With no place left, a control word alone brings no old message back.
        if words[PLACE].swap(0, Ordering::Relaxed) as u32 & IN_AREA != 0 {
            let lease = self.large.lock().expect("large messages lock").remove(&slot);
            drop(lease); // without the lock
        }
        let mut free = self.free();
        free.slots.push(slot);
        self.wake(&free);
    }

    /// Whether a successor would find the request in this slot of ours.
    pub fn is_held(&self, slot: u32) -> bool {
        self.words(slot)[CONTROL].load(Ordering::Acquire) == control(self.daemon, HELD)
    }

    fn wake(&self, free: &Free) {
        if free.waiting > 0 {
            self.freed.notify_all();
        }
    }

    fn give_back(&self, area: Area) {
        let mut free = self.free();
        free.areas.push(area);
        self.wake(&free);
    }

    /// Gives the memory of areas back that were not needed lately.
    pub fn trim(&self) {
        let surplus = self.free().surplus();
        for area in surplus {
            let number = self.area_number(&area);
            area.discard();
            self.free().hollow.push(number);
        }
    }

    fn lease(self: &Arc<Self>, slot: u32, area: Area, beside: Option<Beside>) -> Lease {
        self.leased.fetch_add(1, Ordering::Relaxed);
        let lease = Lease(Arc::new(Leased { slots: Arc::clone(self), area: Some(area), _beside: beside }));
        self.large.lock().expect("large messages lock").insert(slot, lease.clone());
        lease
    }

    fn area(&self, number: u32) -> std::io::Result<Area> {
        self.mapping.area(self.area_word(number), AREAS.words)
    }

    /// What is in a slot of another daemon, if it is in this state.
    pub fn found(&self, slot: u32, state: u32) -> Option<Found> {
        let words = self.words(slot);
        let word = words[CONTROL].load(Ordering::Acquire);
        let is_other_s = word as u32 == state && (word >> 32) as u32 != self.daemon;
        is_other_s.then(|| Found { word, place: words[PLACE].load(Ordering::Relaxed) })
    }

    /// Makes a predecessor's slot ours; `false` if the predecessor has answered at the last moment.
    pub fn seize(&self, slot: u32, found: &Found) -> bool {
        let ours = control(self.daemon, HELD);
        self.words(slot)[CONTROL].compare_exchange(found.word, ours, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The area of a place: below `areas`, and nobody's in this process.
    pub fn area_of(&self, place: u64, areas: u32) -> Option<u32> {
        area_number(place, areas).filter(|area| !self.is_owned(*area))
    }

    /// The first word of an area that is not owned, as it is now, and the second, the message's unique.
    pub fn first_words(&self, area: u32) -> (u64, u64) {
        self.mapping.first_words(self.area_word(area))
    }

    /// Leases the area of a slot that was seized, and tells the length of its message; `None` if it is damaged.
    pub fn message_in_area(self: &Arc<Self>, slot: u32, area: u32) -> Option<(Lease, usize)> {
        let area = self.area(area).inspect_err(|error| log::error!("a request is lost: {error}")).ok()?;
        let length = u32::from_le_bytes(*area.bytes().first_chunk()?) as usize;
        let is_sound = length <= area.bytes().len();
        let lease = self.lease(slot, area, None);
        is_sound.then_some((lease, length))
    }

    /// The message in a slot that was seized; `None` if it is damaged.
    pub fn message(&self, slot: u32, place: u64) -> Option<Vec<u8>> {
        let length = place as u32 as usize;
        let copy = unpack(&self.words(slot)[MESSAGE..], length);
        let is_whole = copy.len() == length && crc32c::crc32c(&copy) == (place >> 32) as u32;
        if !is_whole {
            log::error!("a saved request is damaged, and lost");
        }
        is_whole.then_some(copy)
    }

    /// Makes available what predecessors used, of so many slots and areas. They are gone. Slots that were `seized` are
    /// ours already, whatever their words say at this moment.
    pub fn reuse(&self, (slots, areas): (u32, u32), seized: &HashSet<u32>) {
        let mut used = HashSet::new();
        let mut free = self.free();
        for slot in 0..slots {
            let words = self.words(slot);
            match words[CONTROL].load(Ordering::Acquire) {
                0 if !seized.contains(&slot) => free.slots.push(slot),
                0 => {}
                _ => used.extend(area_number(words[PLACE].load(Ordering::Relaxed), areas)),
            }
        }
        used.extend(free.hollow.iter().copied());
        let unused: Vec<u32> = (0..areas).filter(|area| !used.contains(area) && !self.is_owned(*area)).collect();
        free.hollow.extend(unused);
        free.is_alone = true;
        self.wake(&free);
    }

    fn is_owned(&self, area: u32) -> bool {
        self.mapping.is_owned(self.area_word(area))
    }
}

fn area_number(place: u64, areas: u32) -> Option<u32> {
    let low = place as u32;
    (low & IN_AREA != 0).then_some(low & !IN_AREA).filter(|area| *area < areas)
}

impl Free {
    fn take_slot(&mut self, region: &Region) -> Option<u32> {
        self.slots.pop().or_else(|| {
            region.provide(self.fresh_slot).ok()?;
            self.fresh_slot += 1;
            Some(self.fresh_slot - 1)
        })
    }

    /// An area, or the number of one without memory.
    fn take_area(&mut self, areas: &Region) -> Option<Result<Area, u32>> {
        if let Some(area) = self.areas.pop() {
            return Some(Ok(area));
        }
        self.exhausted_at = Instant::now();
        let number = self.hollow.pop().or_else(|| {
            areas.provide(self.fresh_area).ok()?;
            self.fresh_area += 1;
            Some(self.fresh_area - 1)
        });
        number.map(Err)
    }

    /// Takes out areas that were not needed lately: not all at once, for others wait meanwhile.
    fn surplus(&mut self) -> Vec<Area> {
        if !self.is_alone || self.exhausted_at.elapsed() < IDLE_TIME_MAX {
            return Vec::new();
        }
        let count = self.areas.len().saturating_sub(KEPT_AREAS).min(TRIMMED_MAX);
        self.areas.drain(..count).collect() // the oldest: the last in is the first out
    }
}

fn checksum(unique: u64, low: u32, content: &[u8]) -> u32 {
    let seed = crc32c::crc32c(&unique.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &low.to_le_bytes()), content)
}
