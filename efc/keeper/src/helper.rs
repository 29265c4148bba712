//! Unmounts through `efc-mount-helper`, because umount2(2) may hang and the keeper must not.
//!
//! A helper that passes its deadline is killed with its process group. If it hangs in the kernel even so, it is left
//! behind, and no second one is started for the same target until it has ended.

use std::collections::HashSet;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use efc_proto::Error;
use efc_proto::error::Code;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::failure::failure;
use crate::waiting::{leave_to_a_thread, wait_readable};

/// How long an unmount may take.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// How long a killed helper may take to end.
const KILL_TIME_LIMIT: Duration = Duration::from_secs(1);

/// The helper program, and where it hangs.
#[derive(Clone, Debug)]
pub struct Helper {
    program: PathBuf,
    stuck: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Helper {
    /// The program at `program`.
    pub fn new(program: PathBuf) -> Helper {
        Helper { program, stuck: Arc::default() }
    }

    /// Takes away every mount at exactly `target`.
    ///
    /// # Errors
    /// FAILED_PRECONDITION for a mount in use, DEADLINE_EXCEEDED for one that hangs, INTERNAL otherwise.
    pub fn unmount(&self, target: &Path, detach: bool) -> Result<(), Error> {
        if !detach && self.stuck().contains(target) {
            let message = format!("an earlier unmount of {} still hangs; force it", target.display());
            return Err(failure(Code::Unavailable, message));
        }
        let mut command = Command::new(&self.program);
        command.arg("unmount").arg("--target").arg(target).args(detach.then_some("--detach"));
        command.env_clear().current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let internal = |error: &dyn std::fmt::Display| {
            failure(Code::Internal, format!("cannot run {}: {error}", self.program.display()))
        };
        let mut child = command.spawn().map_err(|error| internal(&error))?;
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).map_err(|error| internal(&error))?;
        if !wait_readable(&process, TIME_LIMIT) {
            self.kill(child, &process, target);
            let message = format!("{} could not be unmounted within {TIME_LIMIT:?}; force it", target.display());
            return Err(failure(Code::DeadlineExceeded, message));
        }
        let mut complaint = String::new();
        // More than a pipe holds is never written, so this does not wait.
        let read = child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut complaint));
        let status = child.wait().map_err(|error| internal(&error))?;
        match read {
            _ if status.success() => Ok(()),
            Some(Err(error)) => Err(internal(&error)),
            _ => Err(explain(&complaint, target)),
        }
    }

    fn kill(&self, mut child: Child, process: &std::os::fd::OwnedFd, target: &Path) {
        if let Err(errno) = kill_process_group(Pid::from_child(&child), Signal::KILL) {
            log::error!("cannot kill the unmount of {}: {errno}", target.display());
        }
        if wait_readable(process, KILL_TIME_LIMIT) {
            // It was killed; how it ended is known.
            let _ = child.wait();
            return;
        }
        log::error!("the unmount of {} hangs in the kernel, killed", target.display());
        self.stuck().insert(target.to_owned());
        let (stuck, path) = (self.clone(), target.to_owned());
        let ended = move || {
            stuck.stuck().remove(&path);
        };
        if let Err(error) = leave_to_a_thread(child, ended) {
            log::error!("cannot start a thread: {error}");
            self.stuck().remove(target);
        }
    }

    fn stuck(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn explain(complaint: &str, target: &Path) -> Error {
    let report: serde_json::Value = serde_json::from_str(complaint).unwrap_or_default();
    let text = |key| report[key].as_str().map(str::to_owned);
    match (text("errno").as_deref(), text("message")) {
        (Some("EBUSY" | "ELOOP"), Some(message)) => failure(Code::FailedPrecondition, message),
        (_, Some(message)) => failure(Code::Internal, message),
        _ => failure(Code::Internal, format!("cannot unmount {}: {}", target.display(), complaint.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_become_codes() {
        let explained = |complaint| explain(complaint, Path::new("/t"));
        let busy = explained(r#"{"errno":"EBUSY","message":"cannot unmount /t, which is in use by sh (7)"}"#);
        assert_eq!(busy.code(), Code::FailedPrecondition);
        assert_eq!(busy.message, "cannot unmount /t, which is in use by sh (7)");
        assert_eq!(explained(r#"{"errno":"EPERM","message":"cannot"}"#).code(), Code::Internal);
        assert_eq!(explained("killed\n").message, "cannot unmount /t: killed");
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let helper = Helper::new("/none/helper".into());
        let error = helper.unmount(Path::new("/t"), false).unwrap_err();
        assert_eq!(error.code(), Code::Internal);
        assert!(error.message.contains("/none/helper"), "{}", error.message);
    }
}
