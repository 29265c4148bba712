//! Where a thread reads requests to: a buffer of its own, or the saved state where the kernel has no RESEND.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use efc_buffer::{Buffer, LARGE};
use efc_state::requests::{self, Requests};

/// WRITE payloads from this size on, in bytes, stay in the buffer that they were read into.
const HAND_OVER_MIN: usize = 32 << 10;

/// Where a thread reads to.
pub enum Inbox {
    Buffer(Buffer),
    /// In the saved state. `None` when what was read last keeps it.
    Saved(Arc<Requests>, Option<requests::Inbox>),
}

/// Payload of a WRITE that keeps its buffer.
struct Payload(Buffer);

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn superseded() {
    log::error!("another daemon has taken this session over");
}

impl Inbox {
    /// One in memory of this process.
    pub fn buffer() -> Inbox {
        Inbox::Buffer(Buffer::with_capacity(LARGE))
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

    /// Forgets what was read; `false` if another daemon has taken it.
    pub fn again(&mut self) -> bool {
        match self {
            Inbox::Buffer(_) => true,
            Inbox::Saved(_, inbox) => {
                let Some(read) = inbox.take() else { return true };
                *inbox = read.again();
                if inbox.is_none() {
                    superseded();
                }
                inbox.is_some()
            }
        }
    }

    /// Keeps a request of this length until it is answered: its payload, and its slot in the saved state if it has one. `None`:
    /// another daemon has taken it.
    pub fn keep(&mut self, length: usize, payload: Range<usize>) -> Option<(Bytes, Option<u32>)> {
        match self {
            Inbox::Buffer(buffer) => Some((take_payload(buffer, payload), None)),
            Inbox::Saved(_, inbox) => {
                let read = inbox.take()?;
                let small = (payload.len() < HAND_OVER_MIN)
                    .then(|| Bytes::copy_from_slice(&read.message(length)[payload.clone()]));
                let Some((kept, rest)) = read.keep(length) else {
                    superseded();
                    return None;
                };
                *inbox = rest;
                Some((small.unwrap_or_else(|| payload_of(&kept, payload)), Some(kept.slot)))
            }
        }
    }
}

/// The payload of a WRITE that is kept: where it lies, if it may stay there.
pub fn payload_of(kept: &requests::Kept, payload: Range<usize>) -> Bytes {
    match kept.lease() {
        Some(lease) => Bytes::from_owner(lease).slice(payload),
        None => Bytes::copy_from_slice(&kept[payload]),
    }
}

/// The payload of a WRITE: a copy if it is small, otherwise the whole buffer, which is replaced by a fresh one.
fn take_payload(buffer: &mut Buffer, payload: Range<usize>) -> Bytes {
    if payload.len() < HAND_OVER_MIN {
        return Bytes::copy_from_slice(&buffer[payload]);
    }
    let full = std::mem::replace(buffer, Buffer::with_capacity(LARGE));
    Bytes::from_owner(Payload(full)).slice(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_payloads_are_not_copied() {
        let mut buffer = Buffer::with_capacity(LARGE);
        buffer[80..80 + HAND_OVER_MIN].fill(7);
        let place = buffer[80..].as_ptr();
        let small = take_payload(&mut buffer, 80..80 + HAND_OVER_MIN - 1);
        assert_ne!(small.as_ptr(), place);
        assert_eq!(buffer[80..].as_ptr(), place, "the buffer is read into again");
        let large = take_payload(&mut buffer, 80..80 + HAND_OVER_MIN);
        assert_eq!(large.as_ptr(), place);
        assert_ne!(buffer[80..].as_ptr(), place);
        assert!(small.iter().chain(large.iter()).all(|&byte| byte == 7));
    }
}
