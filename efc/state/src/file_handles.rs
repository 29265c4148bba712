//! File handles as they lie in records: 64 bytes in eight words, and a 65th where the record keeps the length.
//!
//! Those of a NAS have 64 bytes at most, and records of the first release have room for as many. The byte more that a
//! session of several sources has for the source is only there in states that the first release does not open.

use std::sync::atomic::AtomicU64;

use super::mapping::WORD;
use super::record::{pack, unpack};
use super::regions::FILE_HANDLE_MAX;

/// Words of a handle in a record.
pub const HANDLE_WORDS: usize = 8;
/// Bytes that lie in them.
const WORDS_BYTES: usize = HANDLE_WORDS * WORD;

const _: () = assert!(FILE_HANDLE_MAX == WORDS_BYTES + 1);

/// What a record keeps of a handle beside its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Bytes of the handle.
    pub length: u8,
    /// The 65th of them; 0 if there are not as many.
    pub last: u8,
}

impl Rest {
    /// Length and last byte in 16 bits: those of a handle without a 65th byte are its length.
    pub fn word(self) -> u64 {
        u64::from(self.length) | u64::from(self.last) << 8
    }

    /// The inverse of [`Rest::word`], of the 16 lowest bits.
    pub fn of_word(word: u64) -> Rest {
        Rest { length: word as u8, last: (word >> 8) as u8 }
    }
}

/// Puts a handle into `words`; what is to be kept beside them. `None` if it is too long.
pub fn pack_handle(handle: &[u8], words: &mut [u64]) -> Option<Rest> {
    if handle.len() > FILE_HANDLE_MAX {
        return None;
    }
    pack(&handle[..handle.len().min(WORDS_BYTES)], words);
    Some(Rest { length: handle.len() as u8, last: handle.get(WORDS_BYTES).copied().unwrap_or(0) })
}

/// The handle of these words.
pub fn unpack_handle(words: &[AtomicU64], rest: Rest) -> Vec<u8> {
    let length = usize::from(rest.length).min(FILE_HANDLE_MAX);
    let mut handle = unpack(words, length.min(WORDS_BYTES));
    if length > WORDS_BYTES {
        handle.push(rest.last);
    }
    handle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_of_every_length_survive() {
        for length in 0..=FILE_HANDLE_MAX {
            let handle: Vec<u8> = (0..length).map(|byte| byte as u8 ^ 0xa5).collect();
            let mut words = [0; HANDLE_WORDS];
            let rest = pack_handle(&handle, &mut words).expect("short enough");
            assert_eq!(rest.word() as usize, if length == 65 { 65 | (64 ^ 0xa5) << 8 } else { length });
            assert_eq!(unpack_handle(&words.map(AtomicU64::new), Rest::of_word(rest.word())), handle);
        }
        assert_eq!(pack_handle(&[0; FILE_HANDLE_MAX + 1], &mut [0; HANDLE_WORDS]), None);
    }
}
