//! Requests that were read and not answered, for kernels that do not deliver them again (no RESEND: before Linux 6.9).
//!
//! What a daemon has read is gone from the kernel's queue, and if the daemon dies, its callers wait for ever. So on such a kernel
//! requests live here from the moment they are read: a successor finds them, executes them under the names that they have, and
//! goes on.
//!
//! A *record* stands for one request. An *area* is memory that one message of any size fits in, resident (in memory, and locked there).
//! A thread *arms* a record with an area whose first word it has zeroed, and reads straight into that. The kernel writes a
//! message with its length in front, so wherever a SIGKILL hits, an armed area holds a message if its first word is not zero.
//! A small message is then copied into a record of its own and the area armed again; a large one stays where it is, and the
//! data of a WRITE is sent from there. Only then is it executed: what is armed has never been.
//!
//! | word | of a record |
//! |---|---|
//! | 0 | control: the daemon's generation in the upper half; `ARMED`, `HELD` or 0 (free) in the lower |
//! | 1 | place: length and checksum of the message in this record, or the number of its area |
//! | 2 | head of the answer: checksum in the upper half, length, errno; 0 is none |
//! | 3.. | the answer |
//! | 24.. | the message, if it is small |
//!
//! **Answers.** Between "the kernel has taken the answer" and "the record is freed" a SIGKILL leaves a request that nobody waits
//! for any more. To execute that again could cover what was written since. So every small answer, and all of requests that change
//! something are small, is recorded before it is given, and a successor gives that one. Only a READ, READLINK, READDIR or STATX
//! may be executed again for nobody; a READDIRPLUS of that kind leaves its nodes' counts too high. A record is freed before
//! the journal's entry ends, or a successor would have the request without its entry.
//!
//! **Generations.** Each daemon uses records and areas of its own, and later ones use them again when that one has ended with
//! all its threads ([`Mapping::is_used_by_others`]). A daemon that was sent SIGKILL may still be ending: its records that are held
//! are taken over at once, as nothing of it runs any more, but its threads in read(2) may just be filling their areas. So an armed
//! area with a message is left until that daemon has ended, or the message has been there for [`SETTLED_AFTER`].
//!
//! **Bounds.** When all records or areas are taken, reading threads wait until a request is answered, and requests wait in the
//! kernel's queue, where nothing is lost. Who answers never waits for one who reads.
//!
//! Not kept: INIT (a daemon that dies in it fails the mount), and FORGETs and INTERRUPTs of a dying daemon.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::arena::{BLOCK_MAX, PAGE};
use super::journal::ANSWER_MAX;
use super::mapping::{Area, Mapping, WORD};
use super::record::{Format, Region, pack, unpack};

/// Of the records.
pub const FORMAT: Format = Format { tag: 8, version: 1, words: 576, mutable: 0, reserved: 0, chunk: 16 };
/// Of the areas. They lie at the end of the state.
pub const AREAS: Format = Format { tag: 9, version: 1, words: MESSAGE_MAX / WORD, mutable: 0, reserved: 0, chunk: 1 };

/// Size of an area, in bytes: the largest message fits in it.
pub const MESSAGE_MAX: usize = BLOCK_MAX + PAGE;

/// How long a message must be in an area of a daemon that is still ending: its kernel has copied it by then.
pub const SETTLED_AFTER: Duration = Duration::from_millis(100);

/// Areas that stay when nobody uses them.
const KEPT_AREAS: usize = 4;
/// How long the others stay.
const IDLE_TIME_MAX: Duration = Duration::from_secs(1);
/// Areas that are given back at a time.
const TRIMMED_MAX: usize = 64;
/// How often a thread that has no memory for a request tries again.
const MEMORY_POLL: Duration = Duration::from_millis(100);

const CONTROL: usize = 0;
const PLACE: usize = 1;
const ANSWER_HEAD: usize = 2;
const ANSWER: usize = 3;
const MESSAGE: usize = 24;

/// Largest message that is copied into a record, in bytes: a WRITE of 4 KiB is.
pub const SMALL_MAX: usize = (FORMAT.words - MESSAGE) * WORD;

const _: () = assert!(ANSWER + ANSWER_MAX.div_ceil(WORD) <= MESSAGE);
const _: () = assert!(SMALL_MAX >= 4096 + 80 && SMALL_MAX < MESSAGE_MAX);

const ARMED: u32 = u32::from_be_bytes(*b"ARMD");
const HELD: u32 = u32::from_be_bytes(*b"HELD");

/// In the lower half of a place: the number below it is that of an area, not a length.
const IN_AREA: u32 = 1 << 31;
/// In the head of an answer: there is one. Below it an errno, above it a length in bytes.
const PRESENT: u32 = 1 << 15;

/// See the module.
pub struct Requests {
    mapping: Arc<Mapping>,
    records: Region,
    areas: Region,
    /// Word of the first area.
    areas_base: usize,
    areas_max: u32,
    generation: u32,
    free: Mutex<Free>,
    freed: Condvar,
    /// Messages in areas that are being executed, by their records.
    large: Mutex<HashMap<u32, Lease>>,
    /// Areas that are leased.
    leased: AtomicUsize,
    predecessors: Mutex<Predecessors>,
}

/// What nobody uses.
struct Free {
    records: Vec<u32>,
    fresh_record: u32,
    /// With memory.
    areas: Vec<Area>,
    /// Without.
    hollow: Vec<u32>,
    fresh_area: u32,
    /// When an area was wanted and none was idle.
    exhausted_at: Instant,
    /// Threads that wait.
    waiting: u32,
    /// Nobody else uses the state, so that every area is known.
    is_alone: bool,
}

/// What earlier daemons have left.
struct Predecessors {
    /// Records from here on are ours.
    records: u32,
    /// Areas likewise.
    areas: u32,
    /// Messages seen in armed areas, and since when.
    seen: HashMap<u32, (u64, Instant)>,
    /// Uniques that were taken over.
    taken: HashSet<u64>,
    is_settled: bool,
}

fn control(generation: u32, state: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(state)
}

/// A record and an area to read into. Dropped, both stay as they are, for a successor to find.
pub struct Inbox {
    requests: Arc<Requests>,
    record: u32,
    area: Area,
}

/// A message that has a record.
pub struct Kept {
    /// Names it until it is answered.
    pub record: u32,
    /// Where it is, if that is an area.
    area: Option<Lease>,
    copy: Vec<u8>,
    length: usize,
}

/// An area that goes back when nobody refers to its content any more. Clones share it.
#[derive(Clone)]
pub struct Lease(Arc<Leased>);

struct Leased {
    requests: Arc<Requests>,
    area: Option<Area>,
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self.0.area.as_ref().expect("present until drop").bytes()
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(area) = self.area.take() {
            self.requests.leased.fetch_sub(1, Ordering::Relaxed);
            self.requests.give_back(area);
        }
    }
}

impl Deref for Kept {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let bytes = self.area.as_ref().map_or(&self.copy[..], Lease::as_ref);
        &bytes[..self.length]
    }
}

impl Requests {
    /// The requests of the daemon of this generation. Touches nothing yet.
    pub fn open(
        mapping: &Arc<Mapping>,
        records: Region,
        areas: Region,
        (areas_base, areas_max): (usize, u32),
        generation: u64,
    ) -> Requests {
        mapping.set_apart(areas_base);
        let predecessors = Predecessors {
            records: records.allocated(),
            areas: areas.allocated(),
            seen: HashMap::new(),
            taken: HashSet::new(),
            is_settled: false,
        };
        let free = Free {
            records: Vec::new(),
            fresh_record: predecessors.records,
            areas: Vec::new(),
            hollow: Vec::new(),
            fresh_area: predecessors.areas,
            exhausted_at: Instant::now(),
            waiting: 0,
            is_alone: false,
        };
        Requests {
            mapping: Arc::clone(mapping),
            records,
            areas,
            areas_base,
            areas_max,
            generation: generation as u32, // daemons of one session are few
            free: Mutex::new(free),
            freed: Condvar::new(),
            large: Mutex::default(),
            leased: AtomicUsize::new(0),
            predecessors: Mutex::new(predecessors),
        }
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().expect("free records lock")
    }

    fn words(&self, record: u32) -> &[AtomicU64] {
        self.records.words(record)
    }

    fn area_word(&self, area: u32) -> usize {
        self.areas_base + area as usize * AREAS.words
    }

    /// A record and an area that nobody uses; waits for them.
    pub fn arm(self: &Arc<Self>) -> Inbox {
        let mut free = self.free();
        loop {
            if let Some(record) = free.take_record(&self.records) {
                let area = match free.take_area(&self.areas) {
                    Some(Ok(area)) => Some(area),
                    Some(Err(number)) => {
                        drop(free); // it takes a while
                        let made = self.mapping.area(self.area_word(number), AREAS.words);
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
                    drop(free);
                    let mut inbox = Inbox { requests: Arc::clone(self), record, area };
                    inbox.arm();
                    return inbox;
                }
                free.records.push(record);
            }
            // Until something is given back; or there is memory again.
            free.waiting += 1;
            free = self.freed.wait_timeout(free, MEMORY_POLL).expect("free records lock").0;
            free.waiting -= 1;
        }
    }

    /// Copies a small message into a record of its own; `None` if there is none.
    fn copy(&self, message: &[u8]) -> Option<u32> {
        let record = self.free().take_record(&self.records)?;
        let words = self.words(record);
        for (word, chunk) in words[MESSAGE..].iter().zip(message.chunks(WORD)) {
            let mut padded = [0; WORD];
            padded[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        let place = message.len() as u64 | u64::from(crc32c::crc32c(message)) << 32;
        words[PLACE].store(place, Ordering::Relaxed);
        words[ANSWER_HEAD].store(0, Ordering::Relaxed);
        words[CONTROL].store(control(self.generation, HELD), Ordering::Release);
        Some(record)
    }

    /// Records the answer of a request, an errno or 0 and its content, if it fits. Before it is given.
    pub fn record_answer(&self, record: u32, unique: u64, errno: i32, content: &[u8]) {
        if content.len() > ANSWER_MAX {
            return;
        }
        let words = self.words(record);
        let mut packed = [0; MESSAGE - ANSWER];
        pack(content, &mut packed);
        let length = content.len().div_ceil(WORD);
        words[ANSWER..].iter().zip(&packed[..length]).for_each(|(word, value)| word.store(*value, Ordering::Relaxed));
        let low = errno as u32 & (PRESENT - 1) | PRESENT | (content.len() as u32) << 16;
        let head = u64::from(low) | u64::from(checksum(unique, low, content)) << 32;
        words[ANSWER_HEAD].store(head, Ordering::Release);
    }

    /// The recorded answer of a request, if it is whole.
    pub fn answer(&self, record: u32, unique: u64) -> Option<(i32, Vec<u8>)> {
        let words = self.words(record);
        let head = words[ANSWER_HEAD].load(Ordering::Acquire);
        let low = head as u32;
        if low & PRESENT == 0 {
            return None;
        }
        let content = unpack(&words[ANSWER..MESSAGE], (low >> 16) as usize);
        let is_whole = checksum(unique, low, &content) == (head >> 32) as u32;
        is_whole.then_some(((low & (PRESENT - 1)) as i32, content))
    }

    /// The kernel has taken the answer, or wants none.
    pub fn end(&self, record: u32) {
        let words = self.words(record);
        let held = control(self.generation, HELD);
        // A successor may have it by now: then it is the successor's to free.
        if words[CONTROL].compare_exchange(held, 0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        // With no place left, a control word alone brings no old message back.
        if words[PLACE].swap(0, Ordering::Relaxed) as u32 & IN_AREA != 0 {
            let lease = self.large.lock().expect("large messages lock").remove(&record);
            drop(lease); // without the lock
        }
        let mut free = self.free();
        free.records.push(record);
        self.wake(&free);
    }

    /// Whether a successor would find this request of ours.
    pub fn is_held(&self, record: u32) -> bool {
        self.words(record)[CONTROL].load(Ordering::Acquire) == control(self.generation, HELD)
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

    /// Gives the memory of areas back that were not needed lately; to be called now and then.
    pub fn trim(&self) {
        let surplus = self.free().surplus();
        for area in surplus {
            let number = ((area.first() - self.areas_base) / AREAS.words) as u32;
            area.discard();
            self.free().hollow.push(number);
        }
    }

    fn lease(self: &Arc<Self>, record: u32, area: Area) -> Lease {
        self.leased.fetch_add(1, Ordering::Relaxed);
        let lease = Lease(Arc::new(Leased { requests: Arc::clone(self), area: Some(area) }));
        self.large.lock().expect("large messages lock").insert(record, lease.clone());
        lease
    }

    /// Whether so many areas are leased that data should be copied out of them: what refers to it may be kept for long.
    fn is_short_of_areas(&self) -> bool {
        self.leased.load(Ordering::Relaxed) > self.areas_max as usize / 2
    }

    /// Nothing of earlier daemons is left to be found.
    pub fn is_settled(&self) -> bool {
        self.predecessors.lock().expect("predecessors lock").is_settled
    }

    /// What earlier daemons had read and not answered, as far as it can be told yet; to be called again until
    /// [`Requests::is_settled`]. Each request is found once.
    pub fn take_over(self: &Arc<Self>) -> Vec<Kept> {
        let mut predecessors = self.predecessors.lock().expect("predecessors lock");
        if predecessors.is_settled {
            return Vec::new();
        }
        // Asked first: what ends later is looked at once more.
        let is_alone = !self.mapping.is_used_by_others();
        let mut found = Vec::new();
        // The copies first: an armed area may hold the message of one still, and only the copy can have an answer.
        for state in [HELD, ARMED] {
            for record in 0..predecessors.records {
                found.extend(self.take_record_over(&mut predecessors, record, state, is_alone));
            }
        }
        if is_alone {
            predecessors.is_settled = true;
            (predecessors.seen, predecessors.taken) = Default::default();
            self.reuse(&predecessors);
        }
        found
    }

    fn take_record_over(
        self: &Arc<Self>,
        predecessors: &mut Predecessors,
        record: u32,
        state: u32,
        is_alone: bool,
    ) -> Option<Kept> {
        let words = self.words(record);
        let found = words[CONTROL].load(Ordering::Acquire);
        if found as u32 != state || (found >> 32) as u32 == self.generation {
            return None;
        }
        let place = words[PLACE].load(Ordering::Relaxed);
        let area = self.area_of(place, predecessors.areas).filter(|area| !self.is_owned(*area));
        let first_word = area.map_or(0, |area| self.mapping.first_word(self.area_word(area)));
        if state == ARMED && !is_alone && !predecessors.has_settled(record, first_word) {
            return None;
        }
        let ours = control(self.generation, HELD);
        if words[CONTROL].compare_exchange(found, ours, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return None; // answered by a predecessor at the last moment
        }
        let kept = match area {
            Some(_) if first_word == 0 => None,
            Some(area) => self.message_in_area(record, area),
            None => self.message_in_record(record, place),
        };
        match kept {
            Some(kept) if unique_of(&kept).is_some_and(|unique| predecessors.taken.insert(unique)) => Some(kept),
            _ => {
                // Nothing was read, or it is damaged, or known already.
                self.end(record);
                None
            }
        }
    }

    fn area_of(&self, place: u64, areas: u32) -> Option<u32> {
        let low = place as u32;
        (low & IN_AREA != 0).then_some(low & !IN_AREA).filter(|area| *area < areas)
    }

    fn message_in_area(self: &Arc<Self>, record: u32, area: u32) -> Option<Kept> {
        let area = self.mapping.area(self.area_word(area), AREAS.words);
        let area = area.inspect_err(|error| log::error!("a request is lost: {error}")).ok()?;
        let length = u32::from_le_bytes(*area.bytes().first_chunk()?) as usize;
        let is_sound = length <= area.bytes().len();
        let lease = self.lease(record, area);
        is_sound.then_some(Kept { record, area: Some(lease), copy: Vec::new(), length })
    }

    fn message_in_record(&self, record: u32, place: u64) -> Option<Kept> {
        let length = place as u32 as usize;
        let copy = unpack(&self.words(record)[MESSAGE..], length);
        let is_whole = copy.len() == length && crc32c::crc32c(&copy) == (place >> 32) as u32;
        if !is_whole {
            log::error!("a saved request is damaged, and lost");
        }
        is_whole.then_some(Kept { record, area: None, copy, length })
    }

    /// Earlier daemons are gone: makes available what they used.
    fn reuse(&self, predecessors: &Predecessors) {
        let mut used = HashSet::new();
        let mut free = self.free();
        let known: HashSet<u32> = free.records.iter().copied().collect();
        for record in 0..predecessors.records {
            let words = self.words(record);
            match words[CONTROL].load(Ordering::Acquire) {
                0 if !known.contains(&record) => free.records.push(record),
                0 => {}
                _ => used.extend(self.area_of(words[PLACE].load(Ordering::Relaxed), predecessors.areas)),
            }
        }
        used.extend(free.hollow.iter().copied());
        let unused = (0..predecessors.areas).filter(|area| !used.contains(area) && !self.is_owned(*area));
        let unused: Vec<u32> = unused.collect();
        free.hollow.extend(unused);
        free.is_alone = true;
        self.wake(&free);
    }

    fn is_owned(&self, area: u32) -> bool {
        self.mapping.is_owned(self.area_word(area))
    }
}

impl Free {
    fn take_record(&mut self, records: &Region) -> Option<u32> {
        self.records.pop().or_else(|| {
            records.provide(self.fresh_record).ok()?;
            self.fresh_record += 1;
            Some(self.fresh_record - 1)
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

impl Predecessors {
    /// Has this message been in the armed area for a while?
    fn has_settled(&mut self, record: u32, first_word: u64) -> bool {
        if first_word == 0 {
            return false;
        }
        let (word, since) = *self.seen.entry(record).or_insert((first_word, Instant::now()));
        if word != first_word {
            self.seen.insert(record, (first_word, Instant::now()));
            return false;
        }
        since.elapsed() >= SETTLED_AFTER
    }
}

impl Inbox {
    /// Publishes that the area is being read into. It is empty: a successor finds what is there from now on.
    fn arm(&mut self) {
        self.area.bytes_mut()[..WORD].fill(0);
        let number = (self.area.first() - self.requests.areas_base) / AREAS.words;
        let words = self.requests.words(self.record);
        words[PLACE].store(u64::from(number as u32 | IN_AREA), Ordering::Relaxed);
        words[ANSWER_HEAD].store(0, Ordering::Relaxed);
        words[CONTROL].store(control(self.requests.generation, ARMED), Ordering::Release);
    }

    /// Where to read to.
    pub fn room(&mut self) -> &mut [u8] {
        self.area.bytes_mut()
    }

    /// What was read.
    pub fn message(&self, length: usize) -> &[u8] {
        &self.area.bytes()[..length]
    }

    /// Leaves the record in this state, unless a successor has it.
    fn leave(&self, state: u64) -> bool {
        let armed = control(self.requests.generation, ARMED);
        let control = &self.requests.words(self.record)[CONTROL];
        control.compare_exchange(armed, state, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Forgets what was read, and makes ready to read again. `None`: a successor has it.
    pub fn again(mut self) -> Option<Inbox> {
        if !self.leave(0) {
            return None;
        }
        self.arm();
        Some(self)
    }

    /// Keeps a message of this length until it is answered, and what remains of the inbox: it is armed again, or taken.
    /// `None`: a successor has it.
    pub fn keep(self, length: usize) -> Option<(Kept, Option<Inbox>)> {
        if length <= SMALL_MAX
            && let Some(record) = self.requests.copy(self.message(length))
        {
            let kept = Kept { record, area: None, copy: Vec::new(), length: 0 };
            return self.again().map(|inbox| (kept, Some(inbox)));
        }
        if !self.leave(control(self.requests.generation, HELD)) {
            return None;
        }
        let lease = self.requests.lease(self.record, self.area);
        Some((Kept { record: self.record, area: Some(lease), copy: Vec::new(), length }, None))
    }
}

impl Kept {
    /// Its area, for data that is not to be copied; `None` if there is none, or areas are short.
    pub fn lease(&self) -> Option<Lease> {
        self.area.clone().filter(|lease| !lease.0.requests.is_short_of_areas())
    }
}

/// The unique of a message.
fn unique_of(message: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(*message.get(8..)?.first_chunk()?))
}

fn checksum(unique: u64, low: u32, content: &[u8]) -> u32 {
    let seed = crc32c::crc32c(&unique.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &low.to_le_bytes()), content)
}

#[cfg(test)]
mod tests;
