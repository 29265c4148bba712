//! Where a thread reads requests to: a buffer of its own, or the saved state where the kernel has no RESEND.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use efc_buffer::{Buffer, LARGE, Room};
use efc_state::requests::{self, Requests};

/// WRITE payloads from this size on, in bytes, stay in the buffer that they were read into.
const HAND_OVER_MIN: usize = 32 << 10;

/// Where a thread reads to.
pub enum Inbox {
    Buffer(Buffer),
    /// In the saved state. `None` when what was read last keeps it.
    Saved(Arc<Requests>, Option<requests::Inbox>),
}

/// Payload of a WRITE, in its part of the budget.
struct Payload<T> {
    data: T,
    _room: Room,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Payload<T> {
    fn as_ref(&self) -> &[u8] {
        self.data.as_ref()
    }
}

/// There is no memory for a request's payload.
pub struct NoMemory;

/// Ends this process, whose place to read to another daemon has taken: that one has what was read, and the session. To end this
/// thread alone would look as if the session had ended.
fn superseded() -> ! {
    log::error!("another daemon has taken what this one was reading");
    std::process::exit(1);
}

impl Inbox {
    /// One in memory of this process.
    pub fn buffer() -> io::Result<Inbox> {
        Buffer::new(LARGE).map(Inbox::Buffer)
    }

    /// One in the saved state, a new area for each message that stays where it was read.
    pub fn saved(requests: Arc<Requests>) -> Inbox {
        Inbox::Saved(requests, None)
    }

    /// Where to read to, and what was read.
    pub fn room(&mut self) -> &mut [u8] {
        match self {
            Inbox::Buffer(buffer) => buffer,
            Inbox::Saved(requests, inbox) => inbox.get_or_insert_with(|| requests.arm()).room(),
        }
    }

    /// Forgets what was read. Ends this process if another daemon has taken it.
    pub fn again(&mut self) {
        if let Inbox::Saved(_, inbox) = self
            && let Some(read) = inbox.take()
        {
            *inbox = Some(read.again().unwrap_or_else(|| superseded()));
        }
    }

    /// Keeps a request of this length until it is answered: its payload, and its slot in the saved state if it has one. A payload in
    /// memory of this process takes `room`, and so does a large message in the saved state. Ends this process if another daemon has taken the request.
    pub fn keep(
        &mut self,
        length: usize,
        payload: Range<usize>,
        room: impl FnOnce(usize) -> Option<Room>,
    ) -> Result<(Bytes, Option<u32>), NoMemory> {
        match self {
            Inbox::Buffer(buffer) => {
                let data = take_payload(buffer, payload, room).ok_or(NoMemory)?;
                Ok((data, None))
            }
            Inbox::Saved(_, inbox) => {
                let beside = if length > requests::SMALL_MAX {
                    Some(Box::new(room(LARGE).ok_or(NoMemory)?) as requests::Beside)
                } else {
                    None
                };
                let read = inbox.take().expect("it was read into");
                let small = (payload.len() < HAND_OVER_MIN)
                    .then(|| Bytes::copy_from_slice(&read.message(length)[payload.clone()]));
                let (kept, rest) = read.keep(length, beside).unwrap_or_else(|| superseded());
                *inbox = rest;
                Ok((small.unwrap_or_else(|| payload_of(&kept, payload)), Some(kept.slot)))
            }
        }
    }
}

/// The payload of a WRITE that is kept: where it lies, if it may stay there.
pub fn payload_of(kept: &requests::KeptRequest, payload: Range<usize>) -> Bytes {
    match kept.lease() {
        Some(lease) => Bytes::from_owner(lease).slice(payload),
        None => Bytes::copy_from_slice(&kept[payload]),
    }
}

/// The payload of a WRITE: a copy if it is small, otherwise the whole buffer, which is replaced by a fresh one. `None`: there is
/// no memory for it.
fn take_payload(buffer: &mut Buffer, payload: Range<usize>, room: impl FnOnce(usize) -> Option<Room>) -> Option<Bytes> {
    if payload.is_empty() {
        return Some(Bytes::new());
    }
    if payload.len() < HAND_OVER_MIN {
        let _room = room(payload.len())?;
        return Some(Bytes::from_owner(Payload { data: Box::<[u8]>::from(&buffer[payload]), _room }));
    }
    let _room = room(LARGE)?;
    let data = std::mem::replace(buffer, Buffer::new(LARGE).ok()?);
    Some(Bytes::from_owner(Payload { data, _room }).slice(payload))
}

#[cfg(test)]
mod tests {
    use efc_buffer::{Budget, Purpose};

    use super::*;

    #[test]
    fn large_payloads_are_not_copied() {
        let mut buffer = Buffer::new(LARGE).unwrap();
        let room = |size| Budget::default().take(Purpose::Written, size);
        buffer[80..80 + HAND_OVER_MIN].fill(7);
        let place = buffer[80..].as_ptr();
        let small = take_payload(&mut buffer, 80..80 + HAND_OVER_MIN - 1, room).unwrap();
        assert_ne!(small.as_ptr(), place);
        assert_eq!(buffer[80..].as_ptr(), place, "the buffer is read into again");
        let large = take_payload(&mut buffer, 80..80 + HAND_OVER_MIN, room).unwrap();
        assert_eq!(large.as_ptr(), place);
        assert_ne!(buffer[80..].as_ptr(), place);
        assert!(small.iter().chain(large.iter()).all(|&byte| byte == 7));
    }

    #[test]
    fn a_payload_keeps_its_room_until_it_is_done_with() {
        let budget =
            Budget::new(efc_buffer::BudgetLimits { written_bytes: 2 * LARGE as u64, ..efc_buffer::BudgetLimits::NONE });
        let mut buffer = Buffer::new(LARGE).unwrap();
        let mut take = |size| take_payload(&mut buffer, 0..size, |size| budget.take(Purpose::Written, size));
        let (first, second) = (take(HAND_OVER_MIN).unwrap(), take(LARGE).unwrap());
        assert!(take(LARGE).is_none());
        assert!(take(1).is_none(), "small ones count too");
        assert!(take(0).is_some(), "what brings nothing needs none");
        let part = second.slice(5..6);
        drop((first, second));
        assert!(take(LARGE).is_some());
        assert!(take(1).is_some_and(|one| one == part[..]));
    }

    #[test]
    fn a_large_message_in_the_saved_state_has_room_until_it_is_answered() {
        let memfd = rustix::fs::memfd_create("efc-inbox-test", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        let state = efc_state::State::open(memfd).unwrap();
        let requests = state.requests().unwrap().clone();
        requests.take_over();
        let budget =
            Budget::new(efc_buffer::BudgetLimits { written_bytes: 2 * LARGE as u64, ..efc_buffer::BudgetLimits::NONE });
        let mut inbox = Inbox::saved(requests.clone());
        let mut keep = |length: usize| {
            inbox.room()[..4].copy_from_slice(&(length as u32).to_ne_bytes());
            let kept = inbox.keep(length, 80..length, |size| budget.take(Purpose::Written, size)).ok();
            if kept.is_none() {
                inbox.again();
            }
            kept
        };
        let (first, _second) = (keep(2 * requests::SMALL_MAX).unwrap(), keep(LARGE).unwrap());
        assert!(keep(2 * requests::SMALL_MAX).is_none());
        assert!(keep(requests::SMALL_MAX).is_some(), "it is copied");
        let (data, slot) = first;
        drop(data);
        assert!(keep(LARGE).is_none(), "its area is in use");
        requests.end(slot.unwrap());
        assert!(keep(LARGE).is_some());
    }
}
