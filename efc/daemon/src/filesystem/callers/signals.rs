//! Whether the caller of a request is about to end.

use std::fs;

/// SIGKILL is pending, or there is no such thread any more.
pub fn is_killed(tid: u32) -> bool {
    efc_process::has_pending_kill(tid).unwrap_or(tid != 0)
}

/// Did SIGKILL end the process of this thread? The signal stays pending for the process while it exits.
pub fn was_killed(tid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let pending = pending.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    pending.is_none_or(|bits| bits >> (libc::SIGKILL - 1) & 1 == 1)
}

/// Has the thread given up its memory already, as it does at exit before it closes its files?
///
/// `/proc/TID/status` takes no lock that a task may hold while it waits for us; `/proc/TID/stat` does.
pub fn is_exiting(tid: u32) -> bool {
    fs::read_to_string(format!("/proc/{tid}/status")).is_ok_and(|status| !status.contains("\nVmSize:"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_exiting_process_is_told_from_a_living_one() {
        assert!(!is_exiting(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().expect("true starts");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !is_exiting(child.id()) {
            assert!(
                std::time::Instant::now() < deadline,
                "a process that has ended, and is not waited for, has no memory"
            );
            std::thread::yield_now();
        }
        child.wait().expect("true ends");
    }
}
