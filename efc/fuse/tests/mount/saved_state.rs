//! SIGKILL in the middle of changes to the saved state: no record is torn, and nothing acknowledged is lost.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use efc_state::{Node, State, UncommittedWrite, payload_checksum};

use crate::ROLE;
use crate::mounts::{memfd, own};

/// Makes, forgets, opens, closes and saves until it is killed.
pub fn churn() -> ExitCode {
    let state = State::open(own(std::io::stdout())).unwrap();
    std::io::stderr().write_all(b"churning\n").unwrap();
    for turn in 0_u64.. {
        let handle = (turn % 5000).to_le_bytes().repeat(1 + (turn % 8) as usize);
        let id = state.lookup_node(&Node { handle, fileid: turn, kind: 0o100000 }).unwrap();
        if turn % 3 != 0 {
            state.forget_node(id, 1);
        }
        let orphan = state.add_orphan(&turn.to_le_bytes(), b"name", &turn.to_be_bytes()).unwrap();
        state.remove_orphan(orphan);
        state.save_blob(&vec![turn as u8; turn as usize % 4000]);
    }
    ExitCode::SUCCESS
}

/// Starts a child on the state and kills it in the middle of its work.
fn kill_at_work(role: &str, memory: &OwnedFd, after: Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(ROLE, role)
        .stdout(own(memory))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 9];
    child.stderr.take().unwrap().read_exact(&mut line).unwrap();
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
}

pub fn sigkill_tears_no_record() {
    let memory = memfd();
    for round in 0..30 {
        kill_at_work("churn", &memory, Duration::from_micros(500 + 777 * round));
        let state = State::open(own(&memory)).unwrap();
        assert_eq!(state.damaged_records(), 0);
        assert_eq!(state.daemon_number(), 2 * (round + 1));
        assert!(state.node_count() <= 5000);
        let blob = state.blob();
        assert!(blob.windows(2).all(|pair| pair[0] == pair[1]), "a mix of two blobs");
        assert!(state.orphans().iter().all(|(_, dir, name, _)| dir.len() == 8 && name == b"name"));
    }
}

/// Writes that are not committed at once, at most.
const UNCOMMITTED_MAX: usize = 20;

fn written(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(1 + (number * 7919 % 20_000) as usize)
}

/// Writes, acknowledges by the blob, and commits the oldest, until it is killed.
pub fn writer() -> ExitCode {
    let state = State::open(own(std::io::stdout())).unwrap();
    let mut waiting: VecDeque<(u64, UncommittedWrite)> = state.take_saved_writes().into();
    let first = waiting.back().map_or(0, |(_, last)| last.offset + 1);
    std::io::stderr().write_all(b"churning\n").unwrap();
    for number in first.. {
        let kept = state.keep(&written(number)).unwrap();
        let write = UncommittedWrite {
            node: number % 3,
            offset: number,
            data: kept.bytes().clone(),
            checksum: payload_checksum(kept.bytes()),
            verifier: [1; 8],
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            unanswered: None,
        };
        waiting.push_back((state.save_write(&kept, &write).unwrap(), write));
        state.save_blob(&number.to_le_bytes());
        while waiting.len() > UNCOMMITTED_MAX {
            let (record, data) = waiting.pop_front().unwrap();
            state.remove_write(record);
            drop(data);
        }
    }
    ExitCode::SUCCESS
}

pub fn sigkill_costs_no_acknowledged_write() {
    let memory = memfd();
    for round in 0..30 {
        kill_at_work("writer", &memory, Duration::from_micros(500 + 1777 * round));
        let state = State::open(own(&memory)).unwrap();
        assert_eq!(state.damaged_records(), 0);
        let found: Vec<UncommittedWrite> = state.take_saved_writes().into_iter().map(|(_, write)| write).collect();
        assert!(found.windows(2).all(|pair| pair[0].offset + 1 == pair[1].offset), "not one after the other");
        assert!(found.iter().all(|write| write.data == written(write.offset)), "others' bytes");
        let Ok(acknowledged) = state.blob().try_into().map(u64::from_le_bytes) else { continue };
        let (first, last) = (found[0].offset, found[found.len() - 1].offset);
        assert!(
            last >= acknowledged && last <= acknowledged + 1,
            "{acknowledged} was acknowledged, {last} is the last"
        );
        assert!(first == 0 || first + UNCOMMITTED_MAX as u64 <= last + 1, "{first} to {last}");
    }
}
