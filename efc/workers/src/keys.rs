//! What is derived from a data set's key: names that reveal nothing, and a separate key for the seal of each block.
//!
//! Two keys are derived from the data set's by HKDF-SHA256, one for names and one for seals. memcached's key of a block
//! is an HMAC of everything that identifies the block, so neither handles nor sizes can be read from it. A block is
//! sealed under a key that is an HMAC of the same data: everything ever sealed under that key is the same block, so its random nonces may collide.

use std::fmt;

use efc_cache::blocks::BlockKey;
use ring::{aead, hkdf, hmac};

/// The secret of one data set: whoever has it reads its blocks, and can make others believe in blocks of his own.
#[derive(Clone)]
pub struct DataSetKey([u8; DataSetKey::BYTES]);

impl DataSetKey {
    /// Length in bytes.
    pub const BYTES: usize = 32;

    /// The key of these bytes, which should be random.
    pub fn new(bytes: [u8; DataSetKey::BYTES]) -> DataSetKey {
        DataSetKey(bytes)
    }

    /// The key for the files of one server: handles of two may be the same.
    #[must_use]
    pub fn of_server(&self, server: &str) -> DataSetKey {
        let digest = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), server.as_bytes());
        DataSetKey(digest.as_ref().try_into().expect("a hash is as long as a key"))
    }

    /// The key that a key file holds: 64 hexadecimal digits, with blanks and line ends around them; `None` if it holds
    /// anything else.
    pub fn parse(text: &str) -> Option<DataSetKey> {
        let digits = text.trim().as_bytes();
        if digits.len() != 2 * DataSetKey::BYTES {
            return None;
        }
        let mut bytes = [0; DataSetKey::BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = [pair[0], pair[1]].map(|digit| (digit as char).to_digit(16));
            *byte = (high? << 4 | low?) as u8;
        }
        Some(DataSetKey(bytes))
    }
}

impl fmt::Debug for DataSetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataSetKey(secret)")
    }
}

/// Of what names are made and how blocks are sealed. Another format has other names, so that releases never meet.
pub(crate) const FORMAT: u8 = 1;
/// Longest [`Identity`]: format, the handle's length, the handle, two times, size, index; and a storage that is one of several.
const IDENTITY_MAX: usize = 2 + efc_backend::FileHandle::MAX + 2 * 8 + 2 * 8 + 8;
/// Bytes of the hash in a [`Name`]: nobody finds two blocks of one name.
const NAME_BYTES: usize = 24;
const SALT: &[u8] = b"efc-workers";

/// All that names a block, as bytes that no other block has.
#[derive(Clone, Copy)]
pub(crate) struct Identity {
    bytes: [u8; IDENTITY_MAX],
    length: usize,
}

impl Identity {
    fn of(key: &BlockKey) -> Identity {
        let mut identity = Identity { bytes: [0; IDENTITY_MAX], length: 0 };
        let (handle, version) = (key.file.as_bytes(), &key.version);
        identity.push(&[FORMAT, handle.len() as u8]);
        identity.push(handle);
        for time in [version.mtime, version.ctime] {
            identity.push(&time.seconds.to_be_bytes());
            identity.push(&time.nanos.to_be_bytes());
        }
        identity.push(&version.size.to_be_bytes());
        identity.push(&key.index.to_be_bytes());
        if key.storage != 0 {
            identity.push(&key.storage.to_be_bytes());
        }
        identity
    }

    fn push(&mut self, part: &[u8]) {
        self.bytes[self.length..self.length + part.len()].copy_from_slice(part);
        self.length += part.len();
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// memcached's key of one copy of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    text: [u8; NAME_BYTES / 3 * 4],
    /// Decides which worker has it.
    pub(crate) hash: u64,
}

impl Name {
    fn new(digest: &[u8]) -> Name {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = [0; NAME_BYTES / 3 * 4];
        for (four, three) in text.chunks_exact_mut(4).zip(digest[..NAME_BYTES].chunks_exact(3)) {
            let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
            for (place, digit) in four.iter_mut().enumerate() {
                *digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            }
        }
        Name { text, hash: first_word(digest) }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.text
    }
}

/// The first eight bytes of a hash, as a number.
pub(crate) fn first_word(digest: &[u8]) -> u64 {
    u64::from_be_bytes(digest[..8].try_into().expect("eight bytes"))
}

/// The keys of one data set.
pub(crate) struct Keys {
    names: hmac::Key,
    seals: hmac::Key,
}

/// A length that HKDF is asked for.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Keys {
    pub(crate) fn new(key: &DataSetKey) -> Keys {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(&key.0);
        let derive = |purpose: &[u8]| {
            let mut bytes = [0; DataSetKey::BYTES];
            let info = [purpose];
            let expanded = secret.expand(&info, Length(bytes.len())).expect("HKDF gives so many bytes");
            expanded.fill(&mut bytes).expect("as many as it was asked for");
            hmac::Key::new(hmac::HMAC_SHA256, &bytes)
        };
        Keys { names: derive(b"names"), seals: derive(b"seals") }
    }

    /// The name of the first copy of a block.
    pub(crate) fn name(&self, key: &BlockKey) -> Name {
        Name::new(hmac::sign(&self.names, Identity::of(key).as_bytes()).as_ref())
    }

    /// What the block is sealed with, and what it is sealed to.
    pub(crate) fn seal(&self, key: &BlockKey) -> (aead::LessSafeKey, Identity) {
        let identity = Identity::of(key);
        let secret = hmac::sign(&self.seals, identity.as_bytes());
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, secret.as_ref()).expect("a hash is as long as a key");
        (aead::LessSafeKey::new(key), identity)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(secret)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::testing::{block_key, data_set_key};

    #[test]
    fn every_part_of_what_names_a_block_and_the_data_set_makes_another_name() {
        let keys = Keys::new(&data_set_key(1));
        let first = block_key(b"file", 1 << 30, 7);
        let mut others = vec![first; 7];
        others[1].file = efc_backend::FileHandle::new(b"file\0").expect("short");
        others[2].version.mtime.nanos += 1;
        others[3].version.ctime.seconds += 1;
        others[4].version.size += 1;
        others[5].index += 1;
        others[6].version.mtime.seconds += 1;
        let mut names: HashSet<Vec<u8>> = others.iter().map(|key| keys.name(key).as_bytes().to_vec()).collect();
        assert_eq!(names.len(), others.len());
        names.insert(Keys::new(&data_set_key(2)).name(&first).as_bytes().to_vec());
        assert_eq!(names.len(), others.len() + 1);
        assert!(names.iter().flatten().all(|byte| byte.is_ascii_graphic()), "memcached's keys have no blanks");
        assert_eq!(keys.name(&first), Keys::new(&data_set_key(1)).name(&first), "all nodes find the same");
    }

    #[test]
    fn a_key_file_has_64_hexadecimal_digits() {
        let text = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF\n";
        let key = DataSetKey::parse(text).expect("a key");
        assert_eq!((key.0[1], key.0[31]), (0x11, 0xff));
        for wrong in ["", "0", &text[1..], &text.replace('0', "g"), &text.replace('0', "+"), &format!("{text}00")] {
            assert!(DataSetKey::parse(wrong).is_none(), "{wrong}");
        }
        assert!(!format!("{key:?}").contains("11"), "logs do not tell it");
    }
}
