//! When blocks are accepted again after the file system has refused some.

use std::time::{Duration, Instant};

/// A full file system is tried again after so long; ...
const FULL_PAUSE: Duration = Duration::from_secs(10);
/// ... one that fails after as long, ...
const FAILED_PAUSE: Duration = Duration::from_secs(10);
/// ... and a read-only one after so long.
const READ_ONLY_PAUSE: Duration = Duration::from_secs(60);

/// Why blocks are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// There is no room, nor could any be made.
    Full,
    /// The file system is read-only.
    ReadOnly,
    /// The disk fails, or the directory has gone.
    Failed,
}

impl Trouble {
    fn pause(self) -> Duration {
        match self {
            Trouble::Full => FULL_PAUSE,
            Trouble::ReadOnly => READ_ONLY_PAUSE,
            Trouble::Failed => FAILED_PAUSE,
        }
    }
}

/// Whether blocks are taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taking {
    trouble: Option<(Trouble, Instant)>,
}

impl Taking {
    /// A block was refused. `true`: of this trouble nothing was known.
    pub fn refused(&mut self, why: Trouble, at: Instant) -> bool {
        let is_new = self.trouble() != Some(why);
        self.trouble = Some((why, at));
        is_new
    }

    /// A block was written.
    pub fn written(&mut self) {
        self.trouble = None;
    }

    /// Is one to be tried? While there is trouble, one in each pause.
    pub fn tries(&mut self, at: Instant) -> bool {
        let Some((trouble, since)) = &mut self.trouble else { return true };
        let is_due = at.saturating_duration_since(*since) >= trouble.pause();
        if is_due {
            *since = at;
        }
        is_due
    }

    /// Is there any?
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble.map(|(trouble, _)| trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_block_is_tried_in_each_pause_and_one_that_is_written_ends_the_trouble() {
        let (mut taking, begin) = (Taking::default(), Instant::now());
        assert!(taking.tries(begin) && taking.tries(begin));
        for trouble in [Trouble::Full, Trouble::ReadOnly, Trouble::Failed] {
            taking.refused(trouble, begin);
            let before = begin + trouble.pause() - Duration::from_millis(1);
            assert_eq!((taking.tries(before), taking.trouble()), (false, Some(trouble)));
            assert!(taking.tries(begin + trouble.pause()));
            assert!(!taking.tries(begin + trouble.pause()), "another one waits");
        }
        taking.written();
        assert_eq!((taking.tries(begin), taking.trouble()), (true, None));
    }
}
