//! What the tests of this crate are made of.

use efc_backend::{FileHandle, Time};
use efc_cache::Version;
use efc_cache::blocks::BlockKey;

use crate::DataSetKey;

pub fn data_set_key(seed: u8) -> DataSetKey {
    DataSetKey::new([seed; DataSetKey::BYTES])
}

pub fn block_key(file: &[u8], size: u64, index: u64) -> BlockKey {
    let time = Time { seconds: 1_700_000_000, nanos: 5 };
    let version = Version { mtime: time, ctime: time, size };
    BlockKey { storage: 0, file: FileHandle::new(file).expect("short"), version, index }
}

/// So many bytes that look random.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}
