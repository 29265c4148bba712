//! Hashes of what names files and of their data: XXH3 with a seed that each store draws when it is begun.
//!
//! They find damage, not malice: whoever may write to the directory may change what lies there. The seed keeps others
//! from choosing names that collide, and a file of a former store in the same directory from being taken for one of
//! this.

use efc_backend::FileHandle;
use efc_cache::Version;
use twox_hash::XxHash3_64;

const _: () = assert!(FileHandle::MAX < 68, "a handle stands before the storage");

/// Bytes of an encoded [`FileKey`]: length of the handle, handle, zeros; from 68 on storage, times, size.
pub(crate) const KEY_BYTES: usize = 100;

/// A file under one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileKey {
    pub(crate) storage: u64,
    pub(crate) file: FileHandle,
    pub(crate) version: Version,
}

impl FileKey {
    /// Bytes that two keys share only if they are the same.
    pub(crate) fn encode(&self) -> [u8; KEY_BYTES] {
        let mut bytes = [0; KEY_BYTES];
        let handle = self.file.as_bytes();
        bytes[0] = handle.len() as u8;
        bytes[1..1 + handle.len()].copy_from_slice(handle);
        bytes[68..76].copy_from_slice(&self.storage.to_le_bytes());
        let Version { mtime, ctime, size } = self.version;
        let words = [mtime.seconds, mtime.nanos, ctime.seconds, ctime.nanos];
        for (place, word) in bytes[76..92].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes[92..].copy_from_slice(&size.to_le_bytes());
        bytes
    }

    /// The key that was encoded so; `None`: none was.
    pub(crate) fn decode(bytes: &[u8; KEY_BYTES]) -> Option<FileKey> {
        let file = FileHandle::new(bytes[1..1 + FileHandle::MAX].get(..usize::from(bytes[0]))?)?;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let time = |at| efc_backend::Time { seconds: word(at), nanos: word(at + 4) };
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let version = Version { mtime: time(76), ctime: time(84), size: long(92) };
        let key = FileKey { storage: long(68), file, version };
        (key.encode() == *bytes).then_some(key)
    }
}

/// The hashes of one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hasher(pub(crate) u64);

impl Hasher {
    /// Of a file, whatever its version.
    pub(crate) fn file(self, key: &FileKey) -> u64 {
        XxHash3_64::oneshot_with_seed(self.0 ^ key.storage, key.file.as_bytes())
    }

    /// Of a file under one version.
    pub(crate) fn key(self, key: &FileKey) -> u64 {
        XxHash3_64::oneshot_with_seed(self.0, &key.encode())
    }

    /// The checksum of data; never 0, which stands for none.
    pub(crate) fn data(self, bytes: &[u8]) -> u64 {
        XxHash3_64::oneshot_with_seed(self.0, bytes).max(1)
    }

    /// The name of a large file in the directory.
    pub(crate) fn name(self, key: &FileKey) -> String {
        format!("{:016x}{:016x}", self.file(key), self.key(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_it_was_before_it_was_encoded_and_nothing_else_is_one() {
        let time = |seconds| efc_backend::Time { seconds, nanos: seconds + 1 };
        for length in [0, 1, 64, FileHandle::MAX] {
            let file = FileHandle::new(&vec![7; length]).expect("short");
            let version = Version { mtime: time(1), ctime: time(5), size: 1 << 40 };
            let key = FileKey { storage: 1 << 63 | 9, file, version };
            let bytes = key.encode();
            assert_eq!(FileKey::decode(&bytes), Some(key));
            for place in 1..KEY_BYTES {
                let mut other = bytes;
                other[place] ^= 1;
                assert!(FileKey::decode(&other) != Some(key));
            }
        }
        assert_eq!(FileKey::decode(&[0xff; KEY_BYTES]), None);
    }
}
