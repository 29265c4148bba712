//! The byte ranges of a file that newer data covers already.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges of bytes, none of which touches another: where each begins, and where it ends.
#[derive(Default)]
pub struct Covered(BTreeMap<u64, u64>);

impl Covered {
    /// Covers `range`. Answers the parts of it that were not covered, in order.
    pub fn cover(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        let Range { start, end } = range;
        if start >= end {
            return Vec::new();
        }
        let mut met = Vec::new();
        let (mut merged_start, mut merged_end) = (start, end);
        while let Some((&from, &to)) = self.0.range(..=end).next_back().filter(|(_, to)| **to >= start) {
            self.0.remove(&from);
            merged_start = merged_start.min(from);
            merged_end = merged_end.max(to);
            met.push((from, to));
        }
        let (mut uncovered, mut at) = (Vec::new(), start);
        for (from, to) in met.into_iter().rev() {
            if at < from.min(end) {
                uncovered.push(at..from.min(end));
            }
            at = at.max(to);
        }
        if at < end {
            uncovered.push(at..end);
        }
        self.0.insert(merged_start, merged_end);
        uncovered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_uncovered_once() {
        let mut dice = 7_u64;
        let mut draw = |end: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % end
        };
        for _ in 0..200 {
            let (mut covered, mut bytes) = (Covered::default(), [false; 100]);
            for _ in 0..20 {
                let start = draw(90);
                let range = start..start + draw(11);
                let uncovered: Vec<u64> = covered.cover(range.clone()).into_iter().flatten().collect();
                let expected: Vec<u64> = range.clone().filter(|byte| !bytes[*byte as usize]).collect();
                assert_eq!(uncovered, expected, "{range:?}");
                range.for_each(|byte| bytes[byte as usize] = true);
            }
            let ranges: Vec<(u64, u64)> = covered.0.into_iter().collect();
            assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{ranges:?}");
        }
    }
}
