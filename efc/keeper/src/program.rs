//! The program that daemons run: the one beside the keeper, or one that a client has handed over as sealed memory.
//!
//! The node plugin's image contains `efcd` too, so that its rollout changes what the next daemons run while the keeper
//! stays. The program comes as a memfd and is accepted only if nobody, its maker included, can change it any more; if
//! it is an ELF executable; and if it runs here and prints the version that it is said to have. So a program that needs
//! another C library than this keeper's image has fails at the hand-over, and not when the next daemon starts.
//!
//! Running daemons keep the program they have. A client that hands a program over is root already (`socket.rs`): the
//! checks are against mistakes and later changes, not against that client.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use efc_proto::Error;
use efc_proto::error::Code;
use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::failure::failure;
use crate::waiting::{leave_to_a_thread, wait_readable};

/// What the process is called, wherever its program lies.
pub const NAME: &str = "efcd";
/// Sizes of a program that somebody may have meant, in bytes: an ELF header at least, and a debug build at most.
const SIZE_MIN: i64 = 64;
const SIZE_MAX: i64 = 256 << 20;
/// Longest version, in bytes.
const VERSION_LENGTH_MAX: usize = 64;
/// How long a program may take to print its version.
const VERSION_TIME_LIMIT: Duration = Duration::from_secs(5);
/// Where a program that is asked about a saved state finds it.
const STATE_FD: i32 = 3;
/// Longest reason that it may give, in bytes.
const REASON_LENGTH_MAX: u64 = 4096;
/// `ET_EXEC` and `ET_DYN` of elf(5).
const EXECUTABLE_TYPES: [u16; 2] = [2, 3];

/// A program that can be started as a daemon.
#[derive(Debug)]
pub enum Program {
    /// A file: the keeper's own.
    Path(PathBuf),
    /// Memory that nobody can change.
    Sealed {
        /// A memfd with every seal.
        memory: OwnedFd,
        /// As it prints it.
        version: String,
    },
}

impl Program {
    /// Takes what a client has handed over.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for anything but one sealed ELF executable with that version; FAILED_PRECONDITION for one that does
    /// not run here.
    pub fn sealed(version: &str, descriptors: Vec<OwnedFd>) -> Result<Program, Error> {
        let invalid = |why: &str| failure(Code::InvalidArgument, format!("the daemon's program {version:?} {why}"));
        if version.is_empty() || version.len() > VERSION_LENGTH_MAX {
            return Err(invalid(&format!("has no version of 1 to {VERSION_LENGTH_MAX} bytes")));
        }
        let [memory] =
            <[OwnedFd; 1]>::try_from(descriptors).map_err(|_| invalid("did not come with exactly one descriptor"))?;
        let needed = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        if !fcntl_get_seals(&memory).is_ok_and(|seals| seals.contains(needed)) {
            return Err(invalid("is not a memfd with all of the seals SEAL, SHRINK, GROW and WRITE"));
        }
        if !is_executable(&memory).map_err(|error| invalid(&format!("cannot be read: {error}")))? {
            return Err(invalid("is not an ELF executable of a sensible size"));
        }
        let program = Program::Sealed { memory, version: version.to_owned() };
        let printed = program.printed_version().map_err(|error| {
            let message = format!("the daemon's program {version:?} does not run here: {error}");
            failure(Code::FailedPrecondition, message)
        })?;
        if printed != version {
            return Err(invalid(&format!("says that it is {printed:?}")));
        }
        Ok(program)
    }

    /// Its version, if it was handed over.
    pub fn installed_version(&self) -> Option<&str> {
        match self {
            Program::Path(_) => None,
            Program::Sealed { version, .. } => Some(version),
        }
    }

    /// Its version; the keeper's own program is of the keeper's release.
    pub fn version(&self) -> &str {
        self.installed_version().unwrap_or(env!("CARGO_PKG_VERSION"))
    }

    /// Starts it, with nothing but its name and an empty environment.
    pub fn command(&self) -> Command {
        let mut command = match self {
            Program::Path(path) => Command::new(path),
            // The child's descriptor of the same number; it is closed when the program has been loaded.
            Program::Sealed { memory, .. } => Command::new(format!("/proc/self/fd/{}", memory.as_raw_fd())),
        };
        command.arg0(NAME).env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Asks the program whether its daemons can go on with what another's has saved; and, of that, with data of which applications
    /// were told before the NAS has it.
    ///
    /// # Errors
    /// Its reason, or why it could not be asked.
    pub fn check_state(&self, state: &OwnedFd) -> io::Result<bool> {
        let mut command = self.command();
        let state = state.try_clone()?;
        command.fd_mappings(vec![FdMapping { parent_fd: state, child_fd: STATE_FD }]).map_err(io::Error::other)?;
        let mut child = command.arg("--check-state").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        if !wait_readable(&process, VERSION_TIME_LIMIT) {
            child.kill()?;
            leave_to_a_thread(child, || {})?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"));
        }
        let (mut reason, mut printed) = (String::new(), String::new());
        child.stdout.take().map(|stdout| stdout.take(REASON_LENGTH_MAX).read_to_string(&mut printed)).transpose()?;
        child.stderr.take().map(|stderr| stderr.take(REASON_LENGTH_MAX).read_to_string(&mut reason)).transpose()?;
        let takes_held_data = printed.trim_end() == efc_proto::TAKES_HELD_DATA;
        if child.wait()?.success() { Ok(takes_held_data) } else { Err(io::Error::other(reason.trim().to_owned())) }
    }

    fn printed_version(&self) -> io::Result<String> {
        let mut command = self.command();
        let mut child = command.arg("--version").stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        if !wait_readable(&process, VERSION_TIME_LIMIT) {
            child.kill()?;
            leave_to_a_thread(child, || {})?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not print its version"));
        }
        let mut printed = String::new();
        // One byte more than there may be, and the end of the line: what is longer differs from what was announced.
        let limit = VERSION_LENGTH_MAX as u64 + 2;
        child.stdout.take().map(|stdout| stdout.take(limit).read_to_string(&mut printed)).transpose()?;
        let status = child.wait()?;
        if !status.success() {
            return Err(io::Error::other(format!("{NAME} --version: {status}")));
        }
        Ok(printed.trim_end().to_owned())
    }
}

fn is_executable(memory: &OwnedFd) -> io::Result<bool> {
    let size = fstat(memory)?.st_size;
    let mut header = [0; 18];
    let read = rustix::io::pread(memory, &mut header, 0)?;
    let kind = u16::from_ne_bytes([header[16], header[17]]);
    Ok((SIZE_MIN..=SIZE_MAX).contains(&size)
        && read == header.len()
        && header.starts_with(b"\x7fELF")
        && EXECUTABLE_TYPES.contains(&kind))
}

/// The program that the next daemon runs.
#[derive(Debug)]
pub struct NextProgram(Mutex<Arc<Program>>);

impl NextProgram {
    /// The keeper's own, until another one is installed.
    pub fn new(own: PathBuf) -> NextProgram {
        NextProgram(Mutex::new(Arc::new(Program::Path(own))))
    }

    /// The one for a daemon that is started now.
    pub fn get(&self) -> Arc<Program> {
        self.lock().clone()
    }

    /// Every daemon from now on runs `program`.
    pub fn install(&self, program: Program) {
        log::info!("daemons run version {} from now on", program.version());
        *self.lock() = Arc::new(program);
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Program>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
