//! One daemon process: started, or taken over from an earlier keeper; talked to, ended.
//!
//! It inherits standard error, its end of the control socket as descriptor 3, the directory of its local store as
//! standard input, and nothing else: everything that the keeper opens is close-on-exec, the environment is empty, the
//! working directory is `/`. It leads a Unix session of its own, has a cgroup of its own if configured, and outlives
//! the keeper; the FUSE session's descriptors come over the socket. A daemon that another keeper has started is known
//! by its pidfd only, so its exit status cannot be learnt.

use std::cell::OnceCell;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use efc_proto::{MountStatus, Start, ToDaemon, ToKeeper, to_daemon, to_keeper};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::cgroups::Cgroup;
use crate::files::{self, OfWorkers};
use crate::held::{Held, TakenOver};
use crate::inheritance;
use crate::isolation::Isolation;
use crate::program::Program;
use crate::stores::Store;
use crate::waiting::{leave_to_a_thread, wait_readable};

/// Where the daemon finds its control socket. The keeper's own descriptor of this number, its lock file, is open for
/// its whole life, so that no pipe of the standard library's is overwritten between fork and exec.
const CONTROL_FD: i32 = 3;
/// How long a process that was sent SIGKILL is waited for: its threads end at once but for those that hang in the kernel.
const KILL_TIME_LIMIT: Duration = Duration::from_millis(100);

/// What a daemon calls the thread that talks with us.
const CONTROL_THREAD: &str = "control";
/// PIDFD_THREAD of pidfd_open(2), which rustix lacks: a descriptor of a thread, not of a process. Linux 6.9.
const PIDFD_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(OFlags::EXCL.bits());

/// A running daemon, or one whose end has not been noticed yet.
#[derive(Debug)]
pub struct Daemon {
    /// The process as our child; none: it is an earlier keeper's.
    child: Option<Child>,
    pid: i32,
    process: OwnedFd,
    control: OwnedFd,
    /// Pidfd of the daemon's control thread, once that thread was looked for.
    control_thread: OnceCell<Option<OwnedFd>>,
}

/// How a daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The process has ended as wait(2) says.
    Exited(ExitStatus),
    /// The process has ended; it was no child of this keeper, so nobody knows how.
    Unknown,
    /// The process was sent SIGKILL and hangs in the kernel.
    Hangs,
}

impl std::fmt::Display for Ending {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Exited(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(formatter, "exited with status {code}"),
                (_, Some(signal)) => write!(formatter, "was killed by signal {signal}"),
                _ => write!(formatter, "ended"),
            },
            Ending::Unknown => write!(formatter, "ended"),
            Ending::Hangs => write!(formatter, "was killed and hangs in the kernel"),
        }
    }
}

impl Ending {
    /// Whether the daemon said that none can do anything with the saved state.
    pub fn is_of_unusable_state(&self) -> bool {
        matches!(self, Ending::Exited(status) if status.code() == Some(efc_proto::STATE_UNUSABLE.into()))
    }
}

impl Daemon {
    /// Starts `program`, apart from others as `isolation` says, and sends it the session: what it is, and its descriptors.
    ///
    /// # Errors
    /// Those of starting a process, of moving it, and of the first message. No process is left then.
    pub fn start(
        program: &Program,
        isolation: &Isolation<'_>,
        session: &MountStatus,
        predecessor_remains: bool,
        held: &Held,
        store: Option<&Store>,
    ) -> io::Result<Daemon> {
        let (control, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mapping = FdMapping { parent_fd: theirs, child_fd: CONTROL_FD };
        let mut command = program.command();
        command.fd_mappings(vec![mapping]).map_err(io::Error::other)?;
        inheritance::start_session(&mut command, isolation.network()?);
        if let Some(store) = store {
            command.stdin(store.directory().try_clone()?); // where releases that know of none take no notice
        }
        rustix::io::ioctl_fionbio(&control, true)?;
        let mut child = command.spawn()?;
        let set_up = || {
            let pid = Pid::from_child(&child);
            isolation.cgroup().map_or(Ok(()), |cgroup| cgroup.take_in(pid.as_raw_nonzero().get()))?;
            let config = session.options.clone().or_else(|| session.config.clone());
            let memory_max_bytes = isolation.cgroup().and_then(Cgroup::memory_max_bytes).unwrap_or(0);
            let OfWorkers { secrets, endpoints } = config.as_ref().and_then(files::of_workers).unwrap_or_default();
            let start = Start {
                workers: Some(secrets),
                workers_file: endpoints,
                config,
                uid: session.uid,
                session: Some(session.clone()),
                predecessor_remains,
                memory_max_bytes,
                has_store: store.is_some(),
            };
            let message = ToDaemon { message: Some(to_daemon::Message::Start(start)) };
            efc_proto::send(&control, &message, &held.descriptors())?;
            Ok(pidfd_open(pid, PidfdFlags::empty())?)
        };
        match set_up() {
            Ok(process) => {
                let pid = Pid::from_child(&child).as_raw_nonzero().get();
                Ok(Daemon { child: Some(child), pid, process, control, control_thread: OnceCell::new() })
            }
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// A daemon of an earlier keeper that has introduced itself to this one.
    ///
    /// # Errors
    /// Those of making its socket one that never blocks.
    pub fn taken_over(taken: TakenOver) -> io::Result<Daemon> {
        let TakenOver { control, process, pid } = taken;
        rustix::io::ioctl_fionbio(&control, true)?;
        Ok(Daemon { child: None, pid, process, control, control_thread: OnceCell::new() })
    }

    /// Process id, as the daemon itself sees it if it was taken over.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Readable when a message, or the socket's end, is there.
    pub fn control(&self) -> &OwnedFd {
        &self.control
    }

    /// Readable when the process has ended.
    pub fn process(&self) -> &OwnedFd {
        &self.process
    }

    /// Readable when its control thread has ended, once [`Daemon::watch_control_thread`] has found that.
    pub fn control_thread(&self) -> Option<&OwnedFd> {
        self.control_thread.get()?.as_ref()
    }

    /// Watches the thread that answers us, to be called when it has. A process that was sent SIGKILL ends only when its last thread
    /// does, and closes nothing before; one that hangs in the kernel holds that up. This thread never does.
    pub fn watch_control_thread(&self) {
        self.control_thread.get_or_init(|| open_thread(self.pid, find_thread(self.pid, CONTROL_THREAD)?));
    }

    /// Sends a message without ever waiting.
    ///
    /// # Errors
    /// `WouldBlock` for a daemon that does not read its messages; `BrokenPipe` for one that has gone.
    pub fn send(&self, message: to_daemon::Message) -> io::Result<()> {
        efc_proto::send(&self.control, &ToDaemon { message: Some(message) }, &[])
    }

    /// Takes a message, and the descriptors beside it, without ever waiting; `None` when the daemon has closed the socket.
    ///
    /// # Errors
    /// `WouldBlock` if there is none; `InvalidData` for one of a different protocol.
    pub fn receive(&self) -> io::Result<Option<(to_keeper::Message, Vec<OwnedFd>)>> {
        let Some((ToKeeper { message }, descriptors)) = efc_proto::receive(&self.control)? else { return Ok(None) };
        message
            .map(|message| Some((message, descriptors)))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an unknown message"))
    }

    /// Sends SIGKILL.
    pub fn kill(&self) {
        if cfg!(feature = "two-daemons") {
            return;
        }
        if let Err(errno) = pidfd_send_signal(&self.process, Signal::KILL)
            && errno != Errno::SRCH
        {
            log::error!("cannot kill the daemon {}: {errno}", self.pid());
        }
    }

    /// Whether it was sent SIGKILL and a thread of it hangs in the kernel: it will never do anything again, but its end
    /// may take for ever.
    pub fn is_doomed(&self) -> bool {
        // What cannot be read proves nothing.
        u32::try_from(self.pid).is_ok_and(|pid| efc_process::has_pending_kill(pid).unwrap_or(false))
    }

    /// Waits for the end for at most `time_limit`, then forces it; how it ended, or itself, killed, if it hangs in the
    /// kernel.
    pub fn end(&mut self, time_limit: Duration) -> Ending {
        if !wait_readable(&self.process, time_limit) {
            if !time_limit.is_zero() {
                log::warn!("the daemon {} does not end by itself, killing it", self.pid);
            }
            self.kill();
            if !wait_readable(&self.process, KILL_TIME_LIMIT) {
                log::error!("the daemon {} hangs in the kernel, killed", self.pid);
                return Ending::Hangs;
            }
        }
        let waited = self.child.as_mut().map(Child::wait);
        waited.and_then(Result::ok).map_or(Ending::Unknown, Ending::Exited)
    }

    /// Leaves a killed daemon, whose end may take for ever, to a thread that waits for it.
    pub fn leave_to_a_thread(self) {
        if let Some(child) = self.child
            && let Err(error) = leave_to_a_thread(child, || {})
        {
            log::error!("cannot start a thread: {error}");
        }
    }
}

fn find_thread(pid: i32, name: &str) -> Option<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut tids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    let is_it = |tid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    tids.find(is_it)
}

/// `None` also before Linux 6.9.
fn open_thread(pid: i32, tid: i32) -> Option<OwnedFd> {
    let thread = pidfd_open(Pid::from_raw(tid)?, PIDFD_THREAD).ok()?;
    // The number may have been another's by then.
    Path::new(&format!("/proc/{pid}/task/{tid}")).exists().then_some(thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_described() {
        let exited = |status| Ending::Exited(ExitStatus::from_raw(status)).to_string();
        assert_eq!(exited(7 << 8), "exited with status 7");
        assert_eq!(exited(9), "was killed by signal 9");
    }
}
