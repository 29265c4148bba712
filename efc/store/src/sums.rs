//! The checksums of those blocks of a large file that are present, in little memory if they are few.

/// Blocks of a chunk.
const CHUNK: u64 = 64;
/// Bytes of memory that a chunk takes beside its checksums, about.
const CHUNK_BYTES: u64 = 96;

/// The checksums of up to 64 blocks that follow each other.
#[derive(Clone, Debug)]
struct Chunk {
    /// Its place among the chunks of the file.
    number: u64,
    /// A bit for each block that is there.
    there: u64,
    /// A bit for each that was compared with its checksum when it had come to the disk.
    verified: u64,
    /// Of those that are there.
    sums: Vec<u64>,
}

impl Chunk {
    fn place(&self, bit: u64) -> usize {
        (self.there & (bit - 1)).count_ones() as usize
    }
}

/// All checksums of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sums {
    /// By their numbers. Most files have one chunk, and a node of a B-tree would take that of eleven.
    chunks: Vec<Chunk>,
    count: u64,
}

impl Sums {
    /// Where the chunk of this number is, or belongs.
    fn find(&self, number: u64) -> Result<usize, usize> {
        self.chunks.binary_search_by_key(&number, |chunk| chunk.number)
    }

    fn chunk_mut(&mut self, number: u64) -> Option<&mut Chunk> {
        let place = self.find(number).ok()?;
        Some(&mut self.chunks[place])
    }

    /// The chunk of this number, made if it is not there.
    fn chunk_or_new(&mut self, number: u64) -> &mut Chunk {
        let place = self.find(number).unwrap_or_else(|place| {
            if self.chunks.is_empty() {
                self.chunks.reserve_exact(1);
            }
            self.chunks.insert(place, Chunk { number, there: 0, verified: 0, sums: Vec::new() });
            place
        });
        &mut self.chunks[place]
    }

    /// The checksum of a block that is there, and whether it was verified.
    pub(crate) fn get(&self, index: u64) -> Option<(u64, bool)> {
        let (chunk, bit) = (&self.chunks[self.find(index / CHUNK).ok()?], 1 << (index % CHUNK));
        let sum = (chunk.there & bit != 0).then(|| chunk.sums[chunk.place(bit)])?;
        Some((sum, chunk.verified & bit != 0))
    }

    /// A block is there, and not verified yet. `true`: it was not there before.
    pub(crate) fn set(&mut self, index: u64, sum: u64) -> bool {
        let (chunk, bit) = (self.chunk_or_new(index / CHUNK), 1 << (index % CHUNK));
        let place = chunk.place(bit);
        chunk.verified &= !bit;
        if chunk.there & bit != 0 {
            chunk.sums[place] = sum;
            return false;
        }
        chunk.there |= bit;
        chunk.sums.insert(place, sum);
        self.count += 1;
        true
    }

    /// The block is not there any more. `true`: it was.
    pub(crate) fn clear(&mut self, index: u64) -> bool {
        let bit = 1 << (index % CHUNK);
        let Some(chunk) = self.chunk_mut(index / CHUNK).filter(|chunk| chunk.there & bit != 0) else { return false };
        chunk.sums.remove(chunk.place(bit));
        chunk.there &= !bit;
        self.count -= 1;
        true
    }

    /// The block was found to have this checksum.
    pub(crate) fn verify(&mut self, index: u64, sum: u64) {
        let bit = 1 << (index % CHUNK);
        if let Some(chunk) = self.chunk_mut(index / CHUNK).filter(|chunk| chunk.there & bit != 0)
            && chunk.sums[chunk.place(bit)] == sum
        {
            chunk.verified |= bit;
        }
    }

    /// The first block that is there and was not compared with its checksum, and that.
    pub(crate) fn first_unverified(&self) -> Option<(u64, u64)> {
        let chunk = self.chunks.iter().find(|chunk| chunk.there != chunk.verified)?;
        let bit = 1 << (chunk.there & !chunk.verified).trailing_zeros();
        Some((chunk.number * CHUNK + u64::from(u64::trailing_zeros(bit)), chunk.sums[chunk.place(bit)]))
    }

    /// How many blocks are there.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The numbers of the blocks that are there.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = u64> {
        let of = |chunk: &Chunk| {
            let (first, there) = (chunk.number * CHUNK, chunk.there);
            (0..CHUNK).filter(move |bit| there & 1 << bit != 0).map(move |bit| first + bit)
        };
        self.chunks.iter().flat_map(of)
    }

    /// Bytes of memory, about.
    pub(crate) fn memory(&self) -> u64 {
        self.chunks.len() as u64 * CHUNK_BYTES + self.count * 8
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn sums_are_those_of_a_table() {
        let (mut sums, mut table, mut dice) = (Sums::default(), HashMap::new(), 1_u64);
        let mut draw = |below: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (dice >> 33) % below
        };
        for _ in 0..20_000 {
            let (index, sum) = (draw(300), draw(5) + 1);
            match draw(4) {
                0 => assert_eq!(sums.clear(index), table.remove(&index).is_some()),
                1 => {
                    sums.verify(index, sum);
                    table.entry(index).and_modify(|(known, is_verified)| *is_verified |= *known == sum);
                }
                _ => assert_eq!(sums.set(index, sum), table.insert(index, (sum, false)).is_none()),
            }
            assert_eq!((sums.get(index), sums.count()), (table.get(&index).copied(), table.len() as u64));
            let unverified = table.iter().filter(|(_, (_, is_verified))| !is_verified);
            assert_eq!(sums.first_unverified(), unverified.map(|(index, (sum, _))| (*index, *sum)).min());
        }
        let mut indexes: Vec<u64> = table.keys().copied().collect();
        indexes.sort_unstable();
        assert_eq!(sums.indexes().collect::<Vec<_>>(), indexes);
    }
}
