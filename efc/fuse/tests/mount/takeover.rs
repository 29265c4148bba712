//! Daemons that are killed, and what their successors answer.

use std::fs;
use std::io::BufRead;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use crate::daemons::{Daemon, Reader};
use crate::mounts::{Mount, memfd};
use crate::ramfs::{DATA, DATA_SIZE, eventually, pattern};

pub fn a_successor_answers_what_a_killed_daemon_held() {
    let (mount, state) = (Mount::new(), memfd());
    let mut daemon = Daemon::start("daemon", &mount, &state, "");
    daemon.expect("serving, daemon 1, resumed false");
    let mut reader = Reader::open(&mount.join(DATA));
    daemon.kill();
    let mut daemon = Daemon::start("daemon", &mount, &state, "read");
    daemon.expect("serving, daemon 2, resumed true");
    reader.go();
    daemon.expect("holding");
    daemon.kill();
    assert!(reader.child.try_wait().unwrap().is_none(), "nobody answered the read");
    let mut daemon = Daemon::start("daemon", &mount, &state, "");
    daemon.expect("serving, daemon 3, resumed true");
    assert_eq!(reader.content(), pattern(), "through a file opened under the first daemon");
    fs::write(mount.join("new"), b"content").unwrap();
    assert_eq!(fs::read(mount.join("new")).unwrap(), b"content");
    drop(mount);
    eventually("the daemon ends with the mount", || daemon.child.try_wait().unwrap().is_some());
    assert!(daemon.child.wait().unwrap().success());
}

/// Writes `length` bytes of `source` to the beginning of a file, at once.
fn write(source: &Path, file: &Path, length: usize) -> Child {
    let operand = |name: &str, path: &Path| format!("{name}={}", path.display());
    let mut command = Command::new("dd");
    command.args([operand("if", source), operand("of", file), format!("bs={length}")]);
    command.args(["count=1", "conv=notrunc", "status=none"]).spawn().unwrap()
}

/// What a daemon has of a file, past the kernel's cache.
fn read_behind(file: &Path) -> Vec<u8> {
    let operands = [format!("if={}", file.display()), format!("bs={DATA_SIZE}"), "iflag=direct".into()];
    let output = Command::new("dd").args(operands).arg("status=none").output().unwrap();
    assert!(output.status.success());
    output.stdout
}

pub fn older_kernels_have_their_requests_replayed() {
    for kernel in ["5.10", "6.1"] {
        let (mount, state) = (Mount::new(), memfd());
        let data = mount.join(DATA);
        let mut daemon = Daemon::on(kernel, "daemon", &mount, &state, "read");
        daemon.expect("serving, daemon 1, resumed false");
        let mut reader = Reader::open(&data);
        reader.go();
        daemon.expect("holding");
        daemon.kill();
        // Twice: the second one gets it from the first one's successor.
        let mut daemon = Daemon::on(kernel, "daemon", &mount, &state, "read");
        daemon.expect("serving, daemon 2, resumed true");
        daemon.expect("holding");
        daemon.kill();
        let mut daemon = Daemon::on(kernel, "daemon", &mount, &state, "");
        daemon.expect("serving, daemon 3, resumed true");
        assert_eq!(reader.content(), pattern(), "on {kernel}");

        let source = std::env::temp_dir().join(format!("efc-fuse-source-{}", std::process::id()));
        fs::write(&source, vec![7; DATA_SIZE]).unwrap();
        for length in [100, 20_000, DATA_SIZE] {
            daemon.kill();
            let mut holding = Daemon::on(kernel, "daemon", &mount, &state, "write");
            holding.lines.read_line(&mut String::new()).unwrap();
            let mut writer = write(&source, &data, length);
            holding.expect("holding");
            holding.kill();
            daemon = Daemon::on(kernel, "daemon", &mount, &state, "");
            daemon.lines.read_line(&mut String::new()).unwrap();
            assert!(writer.wait().unwrap().success());
            let expected = [&vec![7; length], &pattern()[length..]].concat();
            assert!(read_behind(&data) == expected, "{length} bytes written on {kernel} are not there");
        }
        fs::remove_file(source).unwrap();
    }
}

/// A thread that reads while its daemon ends takes a request, and nobody works on it.
pub fn what_an_ending_daemon_still_took_is_replayed() {
    for is_killed in [true, false] {
        let (mount, state) = (Mount::new(), memfd());
        let trigger = std::env::temp_dir().join(format!("efc-fuse-drain-{}", std::process::id()));
        let _ = fs::remove_file(&trigger); // of a run that was killed
        let mut daemon = Daemon::on("6.1", "daemon", &mount, &state, trigger.to_str().unwrap());
        daemon.expect("serving, daemon 1, resumed false");
        let mut reader = Reader::open(&mount.join(DATA));
        fs::write(&trigger, b"").unwrap();
        daemon.expect("drained");
        reader.go();
        std::thread::sleep(Duration::from_millis(50)); // it takes the read, and leaves it
        assert!(reader.child.try_wait().unwrap().is_none(), "nobody answers the read");
        if is_killed {
            daemon.kill();
        }
        let mut successor = Daemon::on("6.1", "daemon", &mount, &state, "");
        successor.expect("serving, daemon 2, resumed true");
        // If it is not killed: with the other that its second thread takes.
        assert_eq!(reader.content(), pattern());
        fs::write(mount.join("new"), b"content").unwrap();
        daemon.kill();
        assert_eq!(fs::read(mount.join("new")).unwrap(), b"content");
        fs::remove_file(trigger).unwrap();
    }
}

pub fn a_successor_answers_init() {
    let (mount, state) = (Mount::new(), memfd());
    Daemon::start("mute daemon", &mount, &state, "").expect("holding");
    let mut daemon = Daemon::start("daemon", &mount, &state, "");
    daemon.expect("serving, daemon 2, resumed false");
    assert_eq!(fs::read(mount.join(DATA)).unwrap(), pattern());
}
