//! The index at the end of a sealed segment: where its records lie, so that nobody reads the data to know that.

use crate::hash::Hasher;

/// Bytes of an entry.
pub(crate) const ENTRY_BYTES: usize = 16;
/// Bytes behind the entries.
pub(crate) const FOOTER_BYTES: usize = 32;
const MAGIC: [u8; 8] = *b"efc-idx\n";

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Of the file's handle.
    pub(crate) hash: u64,
    /// Of the record's header in the segment.
    pub(crate) offset: u32,
    /// Of its data.
    pub(crate) length: u32,
}

/// The index: entries, magic (8), their number (8), where they begin (8), checksum of all this (8).
pub(crate) fn encode(entries: &[Entry], offset: u64, hasher: Hasher) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY_BYTES + FOOTER_BYTES);
    for entry in entries {
        bytes.extend(entry.hash.to_le_bytes());
        bytes.extend(entry.offset.to_le_bytes());
        bytes.extend(entry.length.to_le_bytes());
    }
    bytes.extend(MAGIC);
    bytes.extend((entries.len() as u64).to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.extend(hasher.data(&bytes).to_le_bytes());
    bytes
}

/// Where the index begins, as its last bytes say; `None`: there is none.
pub(crate) fn begin(footer: &[u8; FOOTER_BYTES], size: u64) -> Option<u64> {
    let number = |at: usize| u64::from_le_bytes(footer[at..at + 8].try_into().expect("eight bytes"));
    let length = number(8).checked_mul(ENTRY_BYTES as u64)?.checked_add(FOOTER_BYTES as u64)?;
    let is_one = footer[..8] == MAGIC && number(16).checked_add(length) == Some(size);
    is_one.then(|| number(16))
}

/// The entries; `None`: they are damaged.
pub(crate) fn decode(bytes: &[u8], hasher: Hasher) -> Option<Vec<Entry>> {
    let (content, sum) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
    if hasher.data(content).to_le_bytes() != *sum {
        return None;
    }
    let entries = content.get(..content.len().checked_sub(FOOTER_BYTES - 8)?)?;
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let entry = |bytes: &[u8]| Entry {
        hash: u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")),
        offset: number(&bytes[8..12]),
        length: number(&bytes[12..]),
    };
    Some(entries.chunks_exact(ENTRY_BYTES).map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_found_from_its_end_and_damage_makes_it_none() {
        for count in [0, 1, 100] {
            let entries: Vec<Entry> =
                (0..count).map(|number| Entry { hash: number, offset: number as u32 * 300, length: 7 }).collect();
            let bytes = encode(&entries, 5000, Hasher(1));
            let footer = bytes[bytes.len() - FOOTER_BYTES..].try_into().expect("as many");
            assert_eq!(begin(footer, 5000 + bytes.len() as u64), Some(5000));
            assert_eq!(begin(footer, 5001 + bytes.len() as u64), None);
            assert_eq!(decode(&bytes, Hasher(1)), Some(entries));
            assert_eq!(decode(&bytes, Hasher(2)), None);
            for place in 0..bytes.len() {
                let mut other = bytes.clone();
                other[place] ^= 4;
                assert_eq!(decode(&other, Hasher(1)), None, "byte {place}");
            }
        }
        assert_eq!((decode(&[], Hasher(1)), begin(&[0xff; FOOTER_BYTES], 32)), (None, None));
    }
}
