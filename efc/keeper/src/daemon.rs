//! One daemon process: started, talked to, ended.
//!
//! It inherits standard error, its end of the control socket as descriptor 3, and nothing else: everything that the
//! keeper opens is close-on-exec, the environment is empty, the working directory is `/`. It has a session of its
//! own and a cgroup of its own where that is wanted, and outlives the keeper; the session's descriptors come over the
//! socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use efc_proto::{DaemonConfig, Start, ToDaemon, ToKeeper, to_daemon, to_keeper};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::inheritance;
use crate::isolation::Isolation;
use crate::program::Program;

/// Where the daemon finds its control socket. The keeper's own descriptor of this number, its lock file, is open for
/// its whole life, so that no pipe of the standard library's is overwritten between fork and exec.
const CONTROL_FD: i32 = 3;
/// How long a process that was sent SIGKILL is waited for; one that hangs in the kernel is left to a thread.
const KILL_TIME_LIMIT: Duration = Duration::from_secs(2);

/// A running daemon, or one whose end has not been noticed yet.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    process: OwnedFd,
    control: OwnedFd,
    started_at: Instant,
}

impl Daemon {
    /// Starts `program`, apart from others as `isolation` says, and sends it `config` with the session's two descriptors.
    ///
    /// # Errors
    /// Those of starting a process, of moving it, and of the first message. No process is left then.
    pub fn start(
        program: &Program,
        isolation: &Isolation<'_>,
        config: &DaemonConfig,
        session: &OwnedFd,
        state: &OwnedFd,
    ) -> io::Result<Daemon> {
        let started_at = Instant::now();
        let (control, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mapping = FdMapping { parent_fd: theirs, child_fd: CONTROL_FD };
        let mut command = program.command();
        command.fd_mappings(vec![mapping]).map_err(io::Error::other)?;
        inheritance::start_session(&mut command, isolation.network());
        rustix::io::ioctl_fionbio(&control, true)?;
        let mut child = command.spawn()?;
        let set_up = || {
            let pid = Pid::from_child(&child);
            isolation.cgroup().map_or(Ok(()), |cgroup| cgroup.take_in(pid.as_raw_nonzero().get()))?;
            let start = Start { config: Some(config.clone()), uid: isolation.uid() };
            let message = ToDaemon { message: Some(to_daemon::Message::Start(start)) };
            efc_proto::send(&control, &message, &[session.as_fd(), state.as_fd()])?;
            Ok(pidfd_open(pid, PidfdFlags::empty())?)
        };
        match set_up() {
            Ok(process) => Ok(Daemon { child, process, control, started_at }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Process id.
    pub fn pid(&self) -> i32 {
        Pid::from_child(&self.child).as_raw_nonzero().get()
    }

    /// Since when it runs.
    pub fn started_at(&self) -> Instant {
        self.started_at
    }

    /// Readable when a message, or the socket's end, is there.
    pub fn control(&self) -> &OwnedFd {
        &self.control
    }

    /// Readable when the process has ended.
    pub fn process(&self) -> &OwnedFd {
        &self.process
    }

    /// Sends a message without ever waiting.
    ///
    /// # Errors
    /// `WouldBlock` for a daemon that does not read its messages; `BrokenPipe` for one that has gone.
    pub fn send(&self, message: to_daemon::Message) -> io::Result<()> {
        efc_proto::send(&self.control, &ToDaemon { message: Some(message) }, &[])
    }

    /// Takes a message without ever waiting; `None` when the daemon has closed the socket.
    ///
    /// # Errors
    /// `WouldBlock` if there is none; `InvalidData` for one of a different protocol.
    pub fn receive(&self) -> io::Result<Option<to_keeper::Message>> {
        let Some((ToKeeper { message }, _)) = efc_proto::receive(&self.control)? else { return Ok(None) };
        message.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an unknown message"))
    }

    /// Sends SIGKILL.
    pub fn kill(&self) {
        if let Err(errno) = pidfd_send_signal(&self.process, Signal::KILL)
            && errno != Errno::SRCH
        {
            log::error!("cannot kill the daemon {}: {errno}", self.pid());
        }
    }

    /// Waits for the end for at most `time_limit`, then forces it. `None`: the process hangs in the kernel, killed.
    pub fn end(mut self, time_limit: Duration) -> Option<ExitStatus> {
        if !wait_readable(&self.process, time_limit) {
            log::warn!("the daemon {} does not end by itself, killing it", self.pid());
            self.kill();
            if !wait_readable(&self.process, KILL_TIME_LIMIT) {
                log::error!("the daemon {} hangs in the kernel, killed", self.pid());
                leave_to_a_thread(self.child);
                return None;
            }
        }
        self.child.wait().ok()
    }
}

/// Waits for a child that may take for ever, so that it is no zombie when it does end.
pub fn leave_to_a_thread(mut child: Child) {
    let waiting = std::thread::Builder::new().name("reaper".into()).stack_size(crate::STACK_BYTES).spawn(move || {
        // Nobody is left who wants to know how it ended.
        let _ = child.wait();
    });
    if let Err(error) = waiting {
        log::error!("cannot start a thread: {error}");
    }
}

/// Whether `descriptor` becomes readable within `time_limit`.
pub fn wait_readable(descriptor: impl AsFd, time_limit: Duration) -> bool {
    let deadline = Instant::now() + time_limit;
    loop {
        let mut descriptors = [PollFd::new(&descriptor, PollFlags::IN)];
        match poll(&mut descriptors, Some(&timespec(deadline.saturating_duration_since(Instant::now())))) {
            Err(Errno::INTR) => {}
            Err(errno) => {
                log::error!("poll: {errno}");
                return false;
            }
            Ok(count) => return count > 0,
        }
    }
}

/// For poll(2).
pub fn timespec(duration: Duration) -> Timespec {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: duration.subsec_nanos().into() }
}
