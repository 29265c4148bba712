//! Whether a daemon is alive in both ways that matter: it answers its keeper, and it reads requests.
//!
//! A *beat* checks both. The daemon's control thread is asked for a report, which a stopped process does not give. And
//! a no-op message (FUSE_NOTIFY_RETRIEVE of nothing) is put into the kernel's queue, between the requests of
//! applications; the thread that reads it notes its number in the state memfd, where the keeper looks. A daemon whose
//! threads are deadlocked, or no longer read, misses that one. Neither depends on the NAS, and neither enters the
//! mount. At most one beat is in flight at a time.
//!
//! The kernel sends such a message only about a regular file that it knows, so the daemon also notes one that was used
//! lately in the state. If the kernel has forgotten that file, nobody has a file open, and the report alone must do.

use std::io;
use std::time::{Duration, Instant};

use crate::held::Held;
use crate::kernel;

/// How long daemons may hang where the configuration does not say.
const HANG_LIMIT_DEFAULT: Duration = Duration::from_secs(10);
/// Beats in the time that a daemon may hang, and bounds of what lies between two.
const BEATS: u32 = 4;
const INTERVAL_MIN: Duration = Duration::from_millis(20);
const INTERVAL_MAX: Duration = Duration::from_secs(1);

/// The beats of one session. It stands still while no daemon serves.
#[derive(Debug)]
pub struct Heartbeat {
    limit: Duration,
    due: Option<Instant>,
    /// Number of the last message that was put into the queue.
    number: u64,
    queued_at: Option<Instant>,
    asked_at: Option<Instant>,
    /// How many daemons have noted in the state, by the last look, that they ended for a successor.
    superseded: u64,
}

/// What a beat has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Pulse {
    /// All is well; ask for a report now.
    Ask,
    /// A beat is on the way.
    Wait,
    /// A beat has been missing for so long.
    Missing(Duration),
}

impl Heartbeat {
    /// Beats for daemons that may hang for `limit_ms`; 0: 10 s.
    pub fn new(limit_ms: u32) -> Heartbeat {
        Heartbeat { limit: limit(limit_ms), due: None, number: 0, queued_at: None, asked_at: None, superseded: 0 }
    }

    /// Daemons may hang for `limit_ms` from now on; 0: 10 s.
    pub fn set_limit(&mut self, limit_ms: u32) {
        self.limit = limit(limit_ms);
    }

    /// Begins to beat: a daemon serves.
    pub fn start(&mut self, now: Instant) {
        (self.queued_at, self.asked_at) = (None, None);
        self.due = Some(now);
    }

    /// Stands still: no daemon serves.
    pub fn stop(&mut self) {
        self.due = None;
    }

    /// When [`Heartbeat::beat`] is wanted.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The daemon has reported.
    pub fn reported(&mut self) {
        self.asked_at = None;
    }

    /// Whether a daemon that nobody could reach has found since that it has a successor: what it had read by then is lost
    /// unless it is delivered again.
    ///
    /// # Errors
    /// Those of reading the state.
    pub fn has_lost_requests(&mut self, held: &Held) -> io::Result<bool> {
        let superseded = kernel::read_note(&held.state, efc_proto::SUPERSEDED_OFFSET)?;
        Ok(std::mem::replace(&mut self.superseded, superseded) != superseded)
    }

    /// Looks for what is on the way, and sends the next message if the last has come through.
    ///
    /// # Errors
    /// Those of reading the state.
    pub fn beat(&mut self, held: &Held, now: Instant) -> io::Result<Pulse> {
        self.due = Some(now + (self.limit / BEATS).clamp(INTERVAL_MIN, INTERVAL_MAX));
        let seen = kernel::read_note(&held.state, efc_proto::BEAT_OFFSET)?;
        self.queued_at = self.queued_at.filter(|_| seen < self.number);
        let since = self.queued_at.into_iter().chain(self.asked_at).min();
        if let Some(age) = since.map(|since| now.duration_since(since)).filter(|age| *age >= self.limit) {
            return Ok(Pulse::Missing(age));
        }
        if self.queued_at.is_none() {
            // An earlier keeper had at most one on the way. Past the largest number, which only damage leads to, it begins anew.
            self.number = seen.max(self.number).checked_add(2).unwrap_or(1);
            let witness = kernel::read_note(&held.state, efc_proto::WITNESS_OFFSET)?;
            self.queued_at = kernel::send_beat(&held.device, witness, self.number).is_ok().then_some(now);
        }
        if self.asked_at.is_some() {
            return Ok(Pulse::Wait);
        }
        self.asked_at = Some(now);
        Ok(Pulse::Ask)
    }
}

fn limit(limit_ms: u32) -> Duration {
    if limit_ms == 0 { HANG_LIMIT_DEFAULT } else { Duration::from_millis(limit_ms.into()) }
}
