//! Daemons in processes of their own, and a process that reads from their mounts.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use efc_fuse::{Features, Session, SessionConfig};
use efc_state::State;

use crate::ROLE;
use crate::mounts::{LONG, Mount, own};
use crate::passthrough::{FOPEN_NOFLUSH, FOPEN_PASSTHROUGH};
use crate::ramfs::{Lever, RamFs, eventually};

/// A daemon in a process of its own.
pub struct Daemon {
    pub child: Child,
    pub lines: BufReader<std::process::ChildStderr>,
}

impl Daemon {
    pub fn start(role: &str, mount: &Mount, state: &OwnedFd, hold: &str) -> Daemon {
        Daemon::on("", role, mount, state, hold)
    }

    /// As on this kernel.
    pub fn on(kernel: &str, role: &str, mount: &Mount, state: &OwnedFd, hold: &str) -> Daemon {
        Daemon::with(&[(ROLE, role), ("HOLD", hold), ("KERNEL", kernel)], mount, state)
    }

    /// That answers opens with this backing.
    pub fn with_backing(backing: u32, mount: &Mount, state: &OwnedFd) -> Daemon {
        let environment = [(ROLE, "daemon"), ("HOLD", ""), ("KERNEL", ""), ("BACKING", &backing.to_string())];
        Daemon::with(&environment, mount, state)
    }

    fn with(environment: &[(&str, &str)], mount: &Mount, state: &OwnedFd) -> Daemon {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .envs(environment.iter().copied())
            .stdin(own(&mount.device))
            .stdout(own(state))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Daemon { child, lines }
    }

    pub fn expect(&mut self, expected: &str) {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), expected, "of the daemon");
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn inherited() -> (OwnedFd, Arc<State>) {
    (own(std::io::stdin()), Arc::new(State::open(own(std::io::stdout())).unwrap()))
}

/// Serves the device, holding back one kind of requests if it is told so, until it is killed or the mount is gone.
pub fn daemon() -> ExitCode {
    let (device, state) = inherited();
    let filesystem = RamFs::new(Arc::clone(&state), LONG);
    let features = Features::of_kernel(&std::env::var("KERNEL").unwrap()).unwrap_or_default();
    let backing = std::env::var("BACKING").map_or(0, |id| id.parse().unwrap());
    if backing != 0 {
        filesystem.open_with(FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, backing); // close(2) asks nobody
    }
    let config = SessionConfig { features, passthrough: backing != 0, ..SessionConfig::default() };
    let session = Session::new(device, Arc::clone(&state), config);
    let hold: &'static str = std::env::var("HOLD").unwrap().leak();
    filesystem.pull((!hold.is_empty()).then_some(Lever::Hold(hold)));
    session.start().unwrap();
    eprintln!("serving, daemon {}, resumed {}", state.daemon_number(), state.is_resumed());
    if hold.starts_with('/') {
        let session = session.clone();
        std::thread::spawn(move || {
            eventually("it shall drain", || Path::new(hold).exists());
            assert!(session.drain(Duration::from_secs(20)));
            eprintln!("drained");
        });
    } else if !hold.is_empty() {
        let filesystem = Arc::clone(&filesystem);
        std::thread::spawn(move || {
            filesystem.wait_held();
            eprintln!("holding");
        });
    }
    session.run(filesystem).unwrap();
    ExitCode::SUCCESS
}

fn park() -> ! {
    loop {
        std::thread::park();
    }
}

/// Reads INIT, and is killed before it answers.
pub fn mute_daemon() -> ExitCode {
    let (device, _state) = inherited();
    let mut request = vec![0; 2 << 20];
    rustix::io::read(&device, &mut request).unwrap();
    eprintln!("holding");
    park()
}

/// Opens a file, says so, and reads it when told to. A process of its own, because ours holds the device: each daemon that we
/// start would inherit the open file and close it when it is executed, which waits for an answer from that very daemon.
pub struct Reader {
    pub child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Reader {
    pub fn open(path: &Path) -> Reader {
        let script = "exec 3<\"$0\"; echo open; read go; exec cat <&3";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "open\n");
        Reader { child, output }
    }

    pub fn go(&mut self) {
        self.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }

    pub fn content(mut self) -> Vec<u8> {
        let mut content = Vec::new();
        self.output.read_to_end(&mut content).unwrap();
        assert!(self.child.wait().unwrap().success());
        content
    }
}
