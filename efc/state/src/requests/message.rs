//! One message: while it is read, and while it is kept.

use std::ops::Deref;
use std::sync::Arc;

use super::super::mapping::Area;
use super::slots::{Beside, Lease, SMALL_MAX, Slots};

/// A slot and an area to read into. Dropped, both stay as they are, for a successor to find.
pub struct Inbox {
    slots: Arc<Slots>,
    slot: u32,
    area: Area,
}

/// A message that has a slot.
pub struct KeptRequest {
    /// Names the message until it is answered.
    pub slot: u32,
    /// Where the message is, if that is an area.
    area: Option<Lease>,
    copy: Vec<u8>,
    length: usize,
}

impl Inbox {
    /// A slot and an area that nobody uses, armed; waits for them.
    pub fn arm(slots: &Arc<Slots>) -> Inbox {
        let (slot, mut area) = slots.take();
        slots.arm(slot, &mut area);
        Inbox { slots: Arc::clone(slots), slot, area }
    }

    /// Where to read to.
    pub fn room(&mut self) -> &mut [u8] {
        self.area.bytes_mut()
    }

    /// What was read.
    pub fn message(&self, length: usize) -> &[u8] {
        &self.area.bytes()[..length]
    }

    /// Forgets what was read, and makes ready to read again. `None`: a successor has it.
    pub fn again(mut self) -> Option<Inbox> {
        if !self.slots.disarm(self.slot) {
            return None;
        }
        self.slots.arm(self.slot, &mut self.area);
        Some(self)
    }

    /// Keeps a message of this length until it is answered, and what remains of the inbox: it is armed again, or taken.
    /// `beside` is held as long as the message is in its area. `None`: a successor has it.
    pub fn keep(self, length: usize, beside: Option<Beside>) -> Option<(KeptRequest, Option<Inbox>)> {
        if length <= SMALL_MAX
            && let Some(slot) = self.slots.copy(self.message(length))
        {
            let kept = KeptRequest { slot, area: None, copy: Vec::new(), length: 0 };
            return self.again().map(|inbox| (kept, Some(inbox)));
        }
        let lease = self.slots.hold(self.slot, self.area, beside)?;
        Some((KeptRequest { slot: self.slot, area: Some(lease), copy: Vec::new(), length }, None))
    }
}

impl KeptRequest {
    /// A message of a predecessor, copied out of its slot.
    pub fn copied(slot: u32, copy: Vec<u8>) -> KeptRequest {
        KeptRequest { slot, area: None, length: copy.len(), copy }
    }

    /// A message of a predecessor, where it lies.
    pub fn leased(slot: u32, area: Lease, length: usize) -> KeptRequest {
        KeptRequest { slot, area: Some(area), copy: Vec::new(), length }
    }

    /// The area of the message, for data that is not to be copied; `None` if there is none, or areas are short.
    pub fn lease(&self) -> Option<Lease> {
        self.area.clone().filter(|lease| !lease.is_short_of_areas())
    }
}

impl Deref for KeptRequest {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let bytes = self.area.as_ref().map_or(&self.copy[..], Lease::as_ref);
        &bytes[..self.length]
    }
}
