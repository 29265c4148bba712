//! Detects listings whose cookies form a loop.

/// Notices a listing that goes in a circle (Brent's algorithm): places of pages are compared with one of them, which
/// is a later one after 1, 2, 4, 8... pages.
#[derive(Default)]
pub struct Circle {
    anchor: Option<u64>,
    pages: u64,
}

impl Circle {
    /// A page ends at `cookie`; true if one before it has ended there.
    pub fn closes(&mut self, cookie: u64) -> bool {
        if self.anchor == Some(cookie) {
            return true;
        }
        self.pages += 1;
        if self.pages.is_power_of_two() {
            self.anchor = Some(cookie);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_of_any_length_are_noticed_and_nothing_else() {
        for (tail, length) in [(0, 1), (0, 2), (3, 5), (100, 7), (1, 300)] {
            let mut circle = Circle::default();
            let pages = (0..).position(|page| {
                let place = if page < tail { page } else { tail + (page - tail) % length };
                circle.closes(place)
            });
            assert!(pages.expect("noticed") as u64 <= 3 * (tail + length) + 3, "{tail} and {length}: {pages:?}");
        }
        let mut circle = Circle::default();
        assert!(!(0..100_000).any(|page| circle.closes(page)));
    }
}
