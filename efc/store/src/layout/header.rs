//! The header that stands before everything in the store: what it is of, and a checksum of that.

use crate::hash::{FileKey, Hasher, KEY_BYTES};
use crate::policy::queues::Queue;

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 128;

const MAP: [u8; 8] = *b"efc-map\n";
const RECORD: [u8; 8] = *b"efc-rec\n";
const SEGMENT: [u8; 8] = *b"efc-seg\n";

/// What stands behind a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// The checksums of the blocks of this file.
    Map { key: FileKey, queue: Queue },
    /// So many bytes, all of this file, with this checksum.
    Record { key: FileKey, length: u32, sum: u64 },
    /// Records; those of the segment of this number.
    Segment { number: u64, queue: Queue },
}

impl Header {
    /// Magic (8), a number (8), another (4), key (100), checksum of these (8).
    pub(crate) fn encode(&self, hasher: Hasher) -> [u8; HEADER_BYTES] {
        let (magic, number, word, key) = match self {
            Header::Map { key, queue } => (MAP, 0, queue_word(*queue), key.encode()),
            Header::Record { key, length, sum } => (RECORD, *sum, *length, key.encode()),
            Header::Segment { number, queue } => (SEGMENT, *number, queue_word(*queue), [0; KEY_BYTES]),
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&magic);
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes[16..20].copy_from_slice(&word.to_le_bytes());
        bytes[20..20 + KEY_BYTES].copy_from_slice(&key);
        let sum = hasher.data(&bytes[..120]);
        bytes[120..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The header that was encoded so; `None`: none was, or it is damaged.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES], hasher: Hasher) -> Option<Header> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if number(120) != hasher.data(&bytes[..120]) {
            return None;
        }
        let word = u32::from_le_bytes(bytes[16..20].try_into().expect("four bytes"));
        let key = || FileKey::decode(bytes[20..20 + KEY_BYTES].try_into().expect("as many"));
        let magic: [u8; 8] = bytes[..8].try_into().expect("eight bytes");
        match magic {
            MAP => Some(Header::Map { key: key()?, queue: queue(word)? }),
            RECORD => Some(Header::Record { key: key()?, length: word, sum: number(8) }),
            SEGMENT => Some(Header::Segment { number: number(8), queue: queue(word)? }),
            _ => None,
        }
    }
}

fn queue_word(queue: Queue) -> u32 {
    match queue {
        Queue::Once => 1,
        Queue::Again => 2,
    }
}

fn queue(word: u32) -> Option<Queue> {
    match word {
        1 => Some(Queue::Once),
        2 => Some(Queue::Again),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use efc_backend::{FileHandle, Time};
    use efc_cache::Version;

    use super::*;

    #[test]
    fn a_header_is_what_it_was_and_any_flipped_bit_makes_it_none() {
        let time = Time { seconds: 1, nanos: 2 };
        let version = Version { mtime: time, ctime: time, size: 77 };
        let key = FileKey { storage: 3, file: FileHandle::new(b"file").expect("short"), version };
        for header in [
            Header::Map { key, queue: Queue::Once },
            Header::Record { key, length: 77, sum: 5 },
            Header::Segment { number: u64::MAX, queue: Queue::Again },
        ] {
            let bytes = header.encode(Hasher(3));
            assert_eq!(Header::decode(&bytes, Hasher(3)), Some(header));
            assert_eq!(Header::decode(&bytes, Hasher(4)), None, "of another store");
            for bit in 0..HEADER_BYTES * 8 {
                let mut other = bytes;
                other[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Header::decode(&other, Hasher(3)), None, "bit {bit}");
            }
        }
    }
}
