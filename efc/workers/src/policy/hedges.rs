//! How many look-ups may be given up in favour of the backend before the longest wait. Hedging makes an occasional late
//! answer cheaper; the limit keeps an overloaded pool of workers from shifting its load to the backend.

/// One of this many look-ups may be given up early: a few nodes could do more without harm to the backend, thousands could not.
const LOOK_UPS: u32 = 1000;
/// This many may be given up in a row. Further look-ups at a worker that has died need no hedge: it is marked down before
/// they have waited for the longest time (`health`).
const BURST: u32 = 2;

/// The remaining credit for hedges.
#[derive(Clone, Debug)]
pub struct Hedges {
    /// Counted in look-ups.
    credit: u32,
}

impl Default for Hedges {
    fn default() -> Hedges {
        Hedges { credit: LOOK_UPS * BURST }
    }
}

impl Hedges {
    /// A block is looked up.
    pub fn looked_up(&mut self) {
        self.credit = (self.credit + 1).min(LOOK_UPS * BURST);
    }

    /// Whether one that is late may be given up.
    pub fn take(&mut self) -> bool {
        let left = self.credit.checked_sub(LOOK_UPS);
        self.credit = left.unwrap_or(self.credit);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_thousand_is_given_up_and_a_few_at_once() {
        let mut hedges = Hedges::default();
        assert_eq!((0..1000).filter(|_| hedges.take()).count(), BURST as usize);
        let mut taken = 0;
        for _ in 0..1000 {
            hedges.looked_up();
            taken += u32::from(hedges.take());
        }
        assert_eq!(taken, 1);
        (0..100_000).for_each(|_| hedges.looked_up());
        assert_eq!((0..1000).filter(|_| hedges.take()).count(), BURST as usize, "it is not saved up");
    }
}
