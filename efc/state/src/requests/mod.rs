//! Requests that were read and not yet answered, for kernels that do not redeliver them (no RESEND: before Linux 6.9).
//!
//! A request that a daemon has read is gone from the kernel's queue; if the daemon dies, its caller waits for ever. So
//! on such a kernel requests live here from the moment they are read: a successor finds them, executes them under their
//! original numbers, and goes on.
//!
//! A *slot* stands for one request. An *area* is resident (populated and locked) memory with room for a message of any
//! size. A thread *arms* a slot with an area whose first word it has zeroed, and reads straight into that. The kernel
//! writes a message with its length in front, so at whatever moment a SIGKILL hits, an armed area holds a message if
//! its first word is not zero. A small message is then copied into a slot of its own and the area armed again; a large
//! one stays where it is, and the data of a WRITE is sent from there. Only after that is the request executed: a
//! message in an armed area has never been executed.
//!
//! | word | of a slot |
//! |---|---|
//! | 0 | control: the daemon's number in the upper half; `ARMED`, `HELD` or 0 (free) in the lower |
//! | 1 | place: length and checksum of the message in this slot, or the number of its area |
//! | 2 | head of the answer: checksum in the upper half, length, errno; 0 is none |
//! | 3.. | the answer |
//! | 24.. | the message, if it is small |
//!
//! **Answers.** A SIGKILL between "the kernel has taken the answer" and "the slot is freed" leaves a request that
//! nobody waits for any more. Executing it again could overwrite what was written since. So every small answer is saved
//! before it is given, and a successor repeats that; all answers to requests that change something are small. Only a
//! READ, READLINK, READDIR or STATX may be executed again in vain; a READDIRPLUS of that kind leaves the lookup counts
//! of its nodes too high. A slot is freed before the journal's entry ends, because otherwise a successor could find the
//! request without its entry.
//!
//! **Daemons.** Each daemon uses slots and areas of its own; later ones reuse them when all threads of that daemon have
//! ended ([`Mapping::is_used_by_others`]). A daemon that was sent SIGKILL may still be ending. Its held slots are taken
//! over at once, since it executes nothing any more, but its threads in read(2) may just be filling their areas. So an
//! armed area with a message is left alone until that daemon has ended, or the message has been there for 100 ms in which this
//! daemon's threads ran now and then: where processors are short, the copying may take that long. What is copied
//! already is thrown away at once, before the copy is executed. A slot that was taken over is the new daemon's from then on: when the former has ended, it is not one of those to be reused, even if it looks free.
//!
//! **Bounds.** Whoever keeps a large message decides before whether there is memory for its area. When all slots or areas are taken, reading threads wait until a request is answered, and requests wait
//! in the kernel's queue, where nothing is lost. Threads that answer never wait for threads that read.
//!
//! Not saved: INIT (a daemon that dies during it fails the mount), and FORGETs and INTERRUPTs of a dying daemon.

mod message;
mod predecessors;
mod slots;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex};

pub use self::message::{Inbox, KeptRequest};
use self::predecessors::Predecessors;
use self::slots::Slots;
pub use self::slots::{Beside, Lease, SMALL_MAX};
use super::layout::Header;
pub use super::regions::MESSAGE_MAX;
use super::regions::{AREAS, REQUESTS};

/// The requests that this daemon has read, and those that its predecessors have left.
pub struct Requests {
    slots: Arc<Slots>,
    predecessors: Mutex<Predecessors>,
}

impl Requests {
    /// The requests of the daemon with this number; `None` if the state has no place for them. Changes nothing in the
    /// state.
    pub(crate) fn open(header: &Header, daemon: u64) -> io::Result<Option<Requests>> {
        let regions = (header.region_if_any(&REQUESTS)?, header.region_if_any(&AREAS)?);
        let (Some(region), Some(areas), false) = (regions.0, regions.1, cfg!(feature = "no-replay")) else {
            return Ok(None);
        };
        let slots = Slots::new(header.mapping(), region, areas, header.place(&AREAS)?, daemon);
        let predecessors = Mutex::new(Predecessors::new(&slots));
        Ok(Some(Requests { slots: Arc::new(slots), predecessors }))
    }

    /// A slot and an area that nobody uses; waits for them.
    pub fn arm(&self) -> Inbox {
        Inbox::arm(&self.slots)
    }

    /// Saves the answer of a request, an errno or 0 and its content, if it fits. Before it is given.
    pub fn save_answer(&self, slot: u32, unique: u64, errno: i32, content: &[u8]) {
        self.slots.save_answer(slot, unique, errno, content);
    }

    /// The saved answer of a request, if it is whole.
    pub fn answer(&self, slot: u32, unique: u64) -> Option<(i32, Vec<u8>)> {
        self.slots.answer(slot, unique)
    }

    /// The kernel has taken the answer, or wants none.
    pub fn end(&self, slot: u32) {
        self.slots.end(slot);
    }

    /// Whether a successor would find this request of ours.
    pub fn is_held(&self, slot: u32) -> bool {
        self.slots.is_held(slot)
    }

    /// Gives the memory of areas back that were not needed lately; to be called now and then.
    pub fn trim(&self) {
        self.slots.trim();
    }

    /// Nothing of earlier daemons is left to be found.
    pub fn is_settled(&self) -> bool {
        self.predecessors.lock().expect("predecessors lock").is_settled()
    }

    /// What earlier daemons had read and not answered, as far as it can be told yet; to be called again until
    /// [`Requests::is_settled`]. Each request is found once.
    pub fn take_over(&self) -> Vec<KeptRequest> {
        self.predecessors.lock().expect("predecessors lock").take_over(&self.slots)
    }
}
