//! The smallest daemon as a program that is handed over, and another version of it.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// The version that the smallest daemon prints, and another of the same length.
pub const OWN: &str = "smallest";
pub const OTHER: &str = "smaller!";

pub fn smallest_daemon() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_BIN_EXE_efc-keeper")).with_file_name("examples").join("smallest_daemon")).unwrap()
}

/// The smallest daemon with another version, where its constants are.
pub fn other_daemon() -> Vec<u8> {
    let mut program = smallest_daemon();
    let places: Vec<usize> = program
        .windows(OWN.len())
        .enumerate()
        .filter(|(_, bytes)| *bytes == OWN.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty());
    for at in places {
        program[at..at + OTHER.len()].copy_from_slice(OTHER.as_bytes());
    }
    program
}

pub fn memory(content: &[u8], seals: SealFlags) -> OwnedFd {
    let memory = memfd_create("efcd", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = fs::File::from(memory);
    file.write_all(content).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file.into()
}

pub fn all_seals() -> SealFlags {
    SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
}
