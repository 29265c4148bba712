//! The format of blocks at workers: sealed, so that only data is accepted that somebody with the data set's key has
//! stored under this very name.
//!
//! A value is a header (format, number of further copies of the block, two zeros, nonce), the block's bytes encrypted
//! by AES-256-GCM, and the tag, which also covers the header and everything that identifies the block.

use efc_cache::blocks::{BLOCK_BYTES, BlockKey};
use ring::aead;
use ring::rand::{SecureRandom, SystemRandom};

use crate::keys::{FORMAT, Identity, Keys};

/// Bytes of a value before the block's.
pub(crate) const HEADER: usize = 16;
/// Bytes of a value behind the block's.
const TAG: usize = 16;
/// What a seal adds to a block, in bytes.
pub(crate) const SEAL_BYTES: usize = HEADER + TAG;
/// The longest value.
pub(crate) const VALUE_MAX: usize = BLOCK_BYTES + SEAL_BYTES;

/// What precedes the block in a value.
pub(crate) type Header = [u8; HEADER];

const NONCE_AT: usize = HEADER - aead::NONCE_LEN;

const FURTHER_AT: usize = 1;

/// Seals the block in `value`, behind the room for the header, as one of so many copies: `value` is exactly as long as what
/// comes of it. `false` if the system has no random numbers.
pub(crate) fn seal(keys: &Keys, key: &BlockKey, copies: u8, value: &mut [u8]) -> bool {
    let mut header = [0; HEADER];
    header[0] = FORMAT;
    header[FURTHER_AT] = copies.saturating_sub(1);
    if SystemRandom::new().fill(&mut header[NONCE_AT..]).is_err() {
        return false;
    }
    let (secret, identity) = keys.seal(key);
    let (front, rest) = value.split_at_mut(HEADER);
    let (block, tag) = rest.split_at_mut(rest.len() - TAG);
    let sealed = secret.seal_in_place_separate_tag(nonce(&header), sealed_to(&header, &identity), block);
    front.copy_from_slice(&header);
    tag.copy_from_slice(sealed.expect("a block is not too long").as_ref());
    true
}

/// How many copies of the block there are, by the header of one that was opened.
pub(crate) fn copies(header: &Header) -> u8 {
    header[FURTHER_AT].saturating_add(1)
}

/// Bytes of a value of `length` bytes of a block behind the header.
pub(crate) fn sealed_length(length: usize) -> usize {
    length + TAG
}

/// Opens a value where it lies: `sealed` is what follows its header, [`sealed_length`] bytes. The block's bytes are the
/// first of it then. `false` if this was not sealed for `key`.
pub(crate) fn open(keys: &Keys, key: &BlockKey, header: &Header, sealed: &mut [u8]) -> bool {
    let (secret, identity) = keys.seal(key);
    header[0] == FORMAT && secret.open_in_place(nonce(header), sealed_to(header, &identity), sealed).is_ok()
}

fn nonce(header: &Header) -> aead::Nonce {
    aead::Nonce::try_assume_unique_for_key(&header[NONCE_AT..]).expect("as long as a nonce")
}

fn sealed_to(header: &Header, identity: &Identity) -> aead::Aad<Vec<u8>> {
    aead::Aad::from([header.as_slice(), identity.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{block_key, bytes, data_set_key};

    fn sealed(keys: &Keys, key: &BlockKey, block: &[u8]) -> Vec<u8> {
        let mut value = [&[0; HEADER], block, &[0; TAG]].concat();
        assert!(seal(keys, key, 3, &mut value));
        value
    }

    fn opened(keys: &Keys, key: &BlockKey, value: &[u8]) -> Option<Vec<u8>> {
        let (header, sealed) = value.split_at_checked(HEADER)?;
        let mut sealed = sealed.to_vec();
        let is_open = open(keys, key, header.try_into().expect("as long"), &mut sealed);
        is_open.then(|| sealed[..key.length()].to_vec())
    }

    #[test]
    fn what_was_sealed_opens_and_is_another_value_each_time() {
        let keys = Keys::new(&data_set_key(1));
        for length in [1, 15, 16, 17, 4096, 100_000, BLOCK_BYTES] {
            let (key, block) = (block_key(b"file", length as u64, 0), bytes(length as u64, length));
            let values = [sealed(&keys, &key, &block), sealed(&keys, &key, &block)];
            assert_ne!(values[0], values[1]);
            assert_eq!(values[0].len(), length + SEAL_BYTES);
            assert!(values.iter().all(|value| copies(value.first_chunk().expect("a header")) == 3));
            assert!(values.iter().all(|value| opened(&keys, &key, value).as_deref() == Some(&block)));
            assert!(length < 16 || !values[0].windows(16).any(|part| block.starts_with(part)), "no plain text");
        }
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_refused() {
        let keys = Keys::new(&data_set_key(1));
        let key = block_key(b"file", 300, 0);
        let value = sealed(&keys, &key, &bytes(1, 300));
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(opened(&keys, &key, &flipped).is_none(), "bit {bit}");
        }
        for length in (0..value.len()).chain([value.len() + 1]) {
            let mut other = value.clone();
            other.resize(length, 0);
            assert!(opened(&keys, &key, &other).is_none(), "{length} bytes");
        }
    }

    #[test]
    fn a_block_under_another_name_or_key_is_refused() {
        let keys = Keys::new(&data_set_key(1));
        let key = block_key(b"file", 3 << 20, 0);
        let value = sealed(&keys, &key, &bytes(1, BLOCK_BYTES));
        let mut other_version = key;
        other_version.version.ctime.nanos += 1;
        for other in [other_version, BlockKey { index: 1, ..key }, block_key(b"other", 3 << 20, 0)] {
            assert_eq!(other.length(), key.length());
            assert!(opened(&keys, &other, &value).is_none());
        }
        assert!(opened(&Keys::new(&data_set_key(2)), &key, &value).is_none());
        assert!(opened(&keys, &key, &value).is_some());
    }
}
