//! Shared by our long-lived processes: a rate-limited log, and what `/proc` says of a thread.

mod limited_log;

use std::io;

pub use limited_log::{LimitedLog, LogLimits};

/// SIGKILL in a mask of signals.
const KILL: u64 = 1 << (9 - 1);

/// Whether SIGKILL is pending for a thread, or for the process that it belongs to: it executes nothing of its program any more.
///
/// `/proc/ID/status` takes no lock that a task may hold while it waits for somebody; `/proc/ID/stat` does.
///
/// # Errors
/// Those of reading `/proc/ID/status`: NotFound for a thread that has ended.
pub fn has_pending_kill(id: u32) -> io::Result<bool> {
    Ok(pending_signals(&std::fs::read_to_string(format!("/proc/{id}/status"))?) & KILL != 0)
}

/// The signals that are pending for a thread or its process, by its `status` in `/proc`.
fn pending_signals(status: &str) -> u64 {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    mask("SigPnd:") | mask("ShdPnd:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_kill_is_found_whoever_it_was_sent_to() {
        assert_eq!(pending_signals("SigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n") & KILL, KILL);
        assert_eq!(pending_signals("SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n") & KILL, KILL);
        assert_eq!(pending_signals("Name:\tx\nSigPnd:\t0000000000000200\nShdPnd:\t0000000000004000\n"), 0x4200);
        assert_eq!(pending_signals(""), 0);
    }

    #[test]
    fn a_thread_that_runs_has_none() {
        assert!(!has_pending_kill(std::process::id()).unwrap());
        assert_eq!(has_pending_kill(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
