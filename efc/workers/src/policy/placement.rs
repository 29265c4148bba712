//! Which worker has a block: rendezvous hashing with weights, the same on all nodes.
//!
//! Each worker draws a score from its own id and the block's hash, and the highest has the block. A worker that joins
//! takes its part of the blocks from all others, one that leaves gives its part to all others, and nothing else moves.
//! The copies of a hot block lie at the workers of the next scores, so that one which leaves gives its place to the next.
//! Ids come from how the endpoint is written, so all nodes of a data set must write it alike.

use std::cmp::Ordering;

use ring::digest;

use crate::keys::first_word;

/// A worker, as its place among the workers is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    id: u64,
    weight: u32,
}

impl Seat {
    /// The seat of the endpoint that is written like this, which gets blocks by its weight (0: none).
    pub fn new(address: &str, weight: u32) -> Seat {
        Seat { id: first_word(digest::digest(&digest::SHA256, address.as_bytes()).as_ref()), weight }
    }

    /// The score for a block: larger for larger weights. With the same weight everywhere the draw itself is enough.
    fn score(&self, hash: u64, is_even: bool) -> f64 {
        let draw = mix(self.id ^ mix(hash)) >> 11;
        if is_even {
            return draw as f64;
        }
        // In (0, 1): an exponential variable with the weight as its rate, whose smallest wins.
        let uniform = (draw as f64 + 0.5) / (1u64 << 53) as f64;
        f64::from(self.weight) / -uniform.ln()
    }
}

/// The seats of all workers.
#[derive(Clone, Debug, Default)]
pub struct Seats {
    seats: Vec<Seat>,
    /// All have the same weight.
    is_even: bool,
}

impl Seats {
    /// Of these workers.
    pub fn new(seats: Vec<Seat>) -> Seats {
        let is_even = seats.windows(2).all(|two| two[0].weight == two[1].weight);
        Seats { seats, is_even }
    }

    /// The place of the worker that has the block of this hash; `None` if there is none.
    pub fn choose(&self, hash: u64) -> Option<usize> {
        self.scored(hash).max_by(order).map(|scored| scored.place)
    }

    /// The places of the workers that have the first copies of the block, `count` of them, the first one first; fewer if
    /// there are not so many workers.
    pub fn choose_all(&self, hash: u64, count: usize) -> Vec<usize> {
        let mut best: Vec<Scored> = Vec::with_capacity(count + 1);
        for scored in self.scored(hash) {
            let place = best.iter().position(|better| order(&scored, better).is_gt()).unwrap_or(best.len());
            if place < count {
                best.insert(place, scored);
                best.truncate(count);
            }
        }
        best.into_iter().map(|scored| scored.place).collect()
    }

    fn scored(&self, hash: u64) -> impl Iterator<Item = Scored> {
        let seats = self.seats.iter().enumerate().filter(|(_, seat)| seat.weight > 0);
        seats.map(move |(place, seat)| Scored { score: seat.score(hash, self.is_even), id: seat.id, place })
    }
}

/// A worker's score for a block.
struct Scored {
    score: f64,
    id: u64,
    place: usize,
}

fn order(one: &Scored, other: &Scored) -> Ordering {
    one.score.total_cmp(&other.score).then(one.id.cmp(&other.id))
}

/// Spreads each bit over all (the finalizer of splitmix64).
fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: u64 = 20_000;

    fn seats(weights: &[u32]) -> Vec<Seat> {
        weights.iter().enumerate().map(|(number, weight)| Seat::new(&format!("w{number}:11211"), *weight)).collect()
    }

    /// The id of the worker that has each block.
    fn places(seats: &[Seat]) -> Vec<u64> {
        let all = Seats::new(seats.to_vec());
        (0..BLOCKS).map(|block| seats[all.choose(mix(block)).expect("one")].id).collect()
    }

    #[test]
    fn blocks_go_by_weight() {
        for weights in [vec![1; 10], vec![1, 2, 3, 4], vec![5, 0, 5]] {
            let (seats, sum) = (seats(&weights), weights.iter().sum::<u32>());
            let places = places(&seats);
            for seat in &seats {
                let count = places.iter().filter(|place| **place == seat.id).count() as f64;
                let share = BLOCKS as f64 * f64::from(seat.weight) / f64::from(sum);
                assert!((count - share).abs() <= 5.0 * share.sqrt(), "{count} blocks for a share of {share}");
            }
        }
        assert_eq!(Seats::default().choose(1), None);
        assert_eq!(Seats::new(self::seats(&[0, 0])).choose(1), None);
    }

    #[test]
    fn a_worker_that_joins_takes_its_part_and_nothing_else_moves() {
        for weights in [vec![1; 11], vec![3, 1, 2, 4, 1, 1, 2]] {
            let all = seats(&weights);
            let (joined, before) = all.split_last().expect("some");
            let moved = places(before).into_iter().zip(places(&all)).filter(|(old, new)| old != new);
            let moved: Vec<u64> = moved.map(|(_, new)| new).collect();
            let share = BLOCKS as f64 * f64::from(joined.weight) / f64::from(weights.iter().sum::<u32>());
            assert!(moved.iter().all(|new| *new == joined.id));
            assert!((moved.len() as f64 - share).abs() <= 5.0 * share.sqrt(), "{} of {share}", moved.len());
        }
    }

    #[test]
    fn copies_lie_at_different_workers_and_when_one_leaves_the_next_takes_its_place() {
        for weights in [vec![1; 11], vec![3, 1, 0, 4, 1, 1, 2]] {
            let seats = seats(&weights);
            let all = Seats::new(seats.clone());
            for hash in (0..500).map(mix) {
                let order = all.choose_all(hash, 20);
                assert_eq!(order.len(), weights.iter().filter(|weight| **weight > 0).count());
                assert_eq!(order.iter().copied().collect::<std::collections::HashSet<_>>().len(), order.len());
                assert_eq!((order.first().copied(), &order[..3]), (all.choose(hash), &all.choose_all(hash, 3)[..]));
                let mut others = seats.clone();
                let gone = others.remove(order[1]);
                let left = Seats::new(others.clone()).choose_all(hash, 20);
                let ids = |seats: &[Seat], order: &[usize]| order.iter().map(|one| seats[*one].id).collect::<Vec<_>>();
                let expected: Vec<u64> = ids(&seats, &order).into_iter().filter(|id| *id != gone.id).collect();
                assert_eq!(ids(&others, &left), expected);
            }
        }
        assert!(Seats::default().choose_all(1, 3).is_empty());
    }

    #[test]
    fn the_order_in_which_a_node_lists_workers_does_not_matter() {
        let all = seats(&[1, 2, 1, 3, 1]);
        let reversed: Vec<Seat> = all.iter().rev().copied().collect();
        assert_eq!(places(&all), places(&reversed));
        assert_eq!(Seat::new("10.0.0.1:11211", 1).id, 0xb357_94b2_c78f_9dce, "on every node and in every release");
    }
}
