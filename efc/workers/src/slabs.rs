//! How memcached divides its memory, and what is done so that it keeps small blocks beside large ones.
//!
//! memcached has a slab class for each size of values, and memory stays in its class: a worker that is full of blocks
//! of 1 MiB has next to none for others (of 2,500 files of 4 to 150 KiB it kept 421 in 512 MiB, without an error; with
//! slab_automove=2 from 747 to 1,284 in three rounds of reading). But large values are chains of chunks of
//! `slab_chunk_max` bytes (memcached's help says kilobytes, but they are bytes). With chunks of 16 KiB, and values
//! padded so that their last chunk is a whole one too, all values are of one class: 2,500 of 2,500 were kept. That
//! costs 2 % of the memory (503 values of 1 MiB instead of 510), at most 16 KiB for each small file, and no measurable
//! CPU time.
//!
//! The header of a value of several chunks is a small item of its own. A worker that was full of large values has
//! memory for only 6,900 more headers, and then refuses new values. So `efc worker` has memcached reserve half a
//! percent for headers before anything else is stored.

use std::collections::HashMap;

use crate::connection::ZEROS_MAX;
use crate::seal::VALUE_MAX;

/// What memcached keeps in the chunk of a value of one chunk beside it, in bytes: its header, a number, our key, ends.
const ITEM_OVERHEAD: usize = 96;
/// What it keeps in each chunk of a value of several; 40, and a little less is as good: a last chunk that is not quite
/// full is of the same class.
const CHUNK_OVERHEAD: usize = 64;
/// The chunks for which values are padded: others do not aim at one class.
const PADDED: std::ops::RangeInclusive<usize> = 4096..=ZEROS_MAX;

/// How a worker's memory is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slabs {
    /// Bytes of a chunk, if values are padded to whole ones.
    chunk: Option<usize>,
}

impl Slabs {
    /// What the settings of a worker say.
    ///
    /// # Errors
    /// It cannot keep blocks: why, for people.
    pub(crate) fn read(settings: &HashMap<String, String>) -> Result<Slabs, String> {
        let number = |name| settings.get(name).and_then(|text: &String| text.parse::<usize>().ok());
        let Some(largest) = number("item_size_max") else {
            return Err("it does not say how large values may be".into());
        };
        let slabs = Slabs { chunk: number("slab_chunk_max").filter(|chunk| PADDED.contains(chunk)) };
        if largest < VALUE_MAX + slabs.padding(VALUE_MAX) + ITEM_OVERHEAD {
            return Err(format!("it takes values of {largest} bytes at most: start memcached with -I 2m"));
        }
        Ok(slabs)
    }

    /// How many bytes follow a value of `length` bytes so that it fills whole chunks.
    pub(crate) fn padding(self, length: usize) -> usize {
        let Some(chunk) = self.chunk else { return 0 };
        if length + ITEM_OVERHEAD <= chunk {
            return chunk - ITEM_OVERHEAD - length;
        }
        (length + 2).next_multiple_of(chunk - CHUNK_OVERHEAD) - 2 - length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(item_size_max: &str, slab_chunk_max: &str) -> HashMap<String, String> {
        [("item_size_max", item_size_max), ("slab_chunk_max", slab_chunk_max)].map(|(n, v)| (n.into(), v.into())).into()
    }

    #[test]
    fn a_worker_that_cannot_keep_a_block_says_why() {
        for (settings, why) in [
            (settings("1048576", "524288"), "-I 2m"),
            (settings("1048700", "524288"), "-I 2m"),
            (settings("1060000", "16384"), "-I 2m"),
            (settings("x", "16384"), "does not say"),
            (HashMap::new(), "does not say"),
        ] {
            assert!(Slabs::read(&settings).expect_err("too small").contains(why));
        }
        for (chunk, padded) in [("524288", None), ("16384", Some(16384)), ("64", None), ("65536", Some(65536))] {
            assert_eq!(Slabs::read(&settings("2097152", chunk)), Ok(Slabs { chunk: padded }));
        }
    }

    #[test]
    fn values_fill_whole_chunks() {
        let slabs = Slabs { chunk: Some(16384) };
        for length in (1..70_000).step_by(7).chain([VALUE_MAX - 1, VALUE_MAX]) {
            let padded = length + slabs.padding(length);
            let is_one = padded == 16384 - ITEM_OVERHEAD;
            assert!(is_one || (padded + 2).is_multiple_of(16384 - CHUNK_OVERHEAD), "{length}");
            assert!(padded >= length && padded - length < 16384, "{length}");
        }
        assert_eq!(Slabs::default().padding(100), 0);
    }
}
