//! A log whose rate and whose lines are limited: what goes wrong may go wrong thousands of times a second.
//!
//! Each line of source that logs has some lines at once, and one per pause from then on, which says how many were left
//! out. So nothing that is new drowns in what repeats. Lines for debugging are not limited.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use log::{Level, Log, Metadata, Record};

/// How much each place in the source may write.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// Lines at once.
    pub burst: u32,
    /// How long one more line takes to be allowed after that.
    pub pause: Duration,
}

/// Longest line, in bytes: names that a NAS chooses may be longer.
const LINE_MAX: usize = 1000;

/// A logger in front of another.
pub struct LimitedLog<L> {
    inner: L,
    limits: LogLimits,
    places: Mutex<HashMap<SourceLine, Lines>>,
}

/// A place in the source.
type SourceLine = (Option<&'static str>, Option<u32>);

/// What a place has written.
struct Lines {
    left: u32,
    refilled_at: Instant,
    left_out: u64,
}

impl Lines {
    /// The number of lines left out since the last, if this one may be written.
    fn take(&mut self, limits: &LogLimits, now: Instant) -> Option<u64> {
        let pauses = now.duration_since(self.refilled_at).as_nanos() / limits.pause.as_nanos().max(1);
        if pauses > 0 {
            self.left = (u128::from(self.left) + pauses).min(limits.burst.into()) as u32;
            self.refilled_at = now;
        }
        if self.left == 0 {
            self.left_out += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl<L: Log> LimitedLog<L> {
    /// What is not left out goes to `inner`.
    pub fn new(inner: L, limits: LogLimits) -> LimitedLog<L> {
        LimitedLog { inner, limits, places: Mutex::default() }
    }

    fn take(&self, record: &Record<'_>, now: Instant) -> Option<u64> {
        if record.level() > Level::Info {
            return Some(0);
        }
        // A panic of another thread under this lock would be no reason to end this one.
        let mut places = self.places.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let lines = places.entry((record.file_static(), record.line())).or_insert(Lines {
            left: self.limits.burst,
            refilled_at: now,
            left_out: 0,
        });
        lines.take(&self.limits, now)
    }
}

impl<L: Log> Log for LimitedLog<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let Some(left_out) = self.take(record, Instant::now()) else { return };
        let mut line = printable(&record.args().to_string());
        if left_out > 0 {
            let _ = write!(line, " ({left_out} lines like this were left out)");
        }
        self.inner.log(
            &Record::builder()
                .metadata(record.metadata().clone())
                .args(format_args!("{line}"))
                .module_path(record.module_path())
                .file(record.file())
                .line(record.line())
                .build(),
        );
    }

    fn flush(&self) {
        self.inner.flush();
    }
}

/// One line of limited length: what a terminal or a reader of logs would take for something else is escaped.
fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        if line.len() >= LINE_MAX {
            line.push_str("...");
            break;
        }
        if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const LIMITS: LogLimits = LogLimits { burst: 10, pause: Duration::from_secs(10) };

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl Log for Kept {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            self.0.lock().expect("kept lines").push(record.args().to_string());
        }

        fn flush(&self) {}
    }

    fn line(log: &LimitedLog<Kept>, level: Level, number: u32, text: &str) {
        let record = Record::builder().level(level).file_static(Some("x.rs")).line(Some(number)).build();
        log.log(
            &Record::builder()
                .metadata(record.metadata().clone())
                .file_static(Some("x.rs"))
                .line(Some(number))
                .args(format_args!("{text}"))
                .build(),
        );
    }

    #[test]
    fn what_repeats_leaves_room_for_what_is_new() {
        let kept = Kept::default();
        let log = LimitedLog::new(kept.clone(), LIMITS);
        (0..1000).for_each(|_| line(&log, Level::Warn, 1, "again"));
        line(&log, Level::Error, 2, "new");
        (0..100).for_each(|_| line(&log, Level::Debug, 3, "debug"));
        let kept = kept.0.lock().expect("kept lines");
        let count = |text: &str| kept.iter().filter(|line| *line == text).count();
        assert_eq!([count("again"), count("new"), count("debug")], [10, 1, 100]);
    }

    #[test]
    fn lines_left_out_are_counted_and_come_back_one_by_one() {
        let start = Instant::now();
        let mut lines = Lines { left: 10, refilled_at: start, left_out: 0 };
        assert_eq!((0..100).filter_map(|_| lines.take(&LIMITS, start)).count(), 10);
        assert_eq!(lines.take(&LIMITS, start + LIMITS.pause), Some(90));
        assert_eq!(lines.take(&LIMITS, start + LIMITS.pause), None);
        assert_eq!((0..100).filter_map(|_| lines.take(&LIMITS, start + LIMITS.pause * 1000)).count(), 10);
    }

    #[test]
    fn lines_are_one_line_and_not_too_long() {
        assert_eq!(printable("a\nb\u{1b}[31m\u{2028}ü"), "a\\nb\\u{1b}[31m\\u{2028}ü");
        assert!(printable(&"x".repeat(1 << 20)).len() <= LINE_MAX + 3);
    }
}
