//! `efc-mount-helper`: executes one operation on a mount, in a process of its own.
//!
//! Each of the operations may hang for as long as a file system does not answer. So a caller that must not hang starts
//! this program in a process group of its own, waits with a deadline, and kills the group when it passes. The program
//! keeps no state and takes no lock.
//!
//! Success is exit status 0. A failure is exit status 1 and one line of JSON on standard error, with the errno's name;
//! a wrong command line is exit status 2 and a sentence.

mod bind;
mod error;
mod holders;
mod namespaces;
mod repair;
mod statvfs;
mod survey;
mod syscall;
mod unmount;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use efc_privileges::CapabilitySet;
use lexopt::prelude::{Long, Value as Word, ValueExt};
use serde_json::Value;

use crate::bind::Bind;
use crate::error::Failure;
use crate::repair::{Lost, Repair};
use crate::statvfs::Statvfs;
use crate::survey::Survey;
use crate::unmount::Unmount;

const USAGE: &str = "\
usage: efc-mount-helper bind --root DIR --path REL --beneath DIR --target DIR [--read-only]
       efc-mount-helper unmount [--beneath DIR] --target DIR [--detach] [--remove]
       efc-mount-helper statvfs [--beneath DIR] --target DIR
       efc-mount-helper survey --device MAJOR:MINOR...
       efc-mount-helper repair --process PID --namespace INODE {--device MAJOR:MINOR --root DIR}...";

#[derive(Debug, PartialEq, Eq)]
enum Operation {
    Bind(Bind),
    Unmount(Unmount),
    Statvfs(Statvfs),
    Survey(Survey),
    Repair(Repair),
}

fn main() -> ExitCode {
    let operation = match parse(std::env::args_os().skip(1)) {
        Ok(operation) => operation,
        Err(error) => {
            // There is nobody left to tell if standard error is closed; the exit status says enough.
            let _ = writeln!(std::io::stderr(), "efc-mount-helper: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&operation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{}", failure.to_json());
            ExitCode::from(1)
        }
    }
}

fn run(operation: &Operation) -> Result<(), Failure> {
    efc_privileges::keep_only(needed_by(operation)).map_err(|error| Failure::from_io("drop privileges", &error))?;
    match operation {
        Operation::Bind(bind) => bind.run(),
        Operation::Unmount(unmount) => unmount.run(),
        Operation::Statvfs(statvfs) => print(&statvfs.run()?),
        Operation::Survey(survey) => print(&survey.run()),
        Operation::Repair(repair) => print(&repair.run()?),
    }
}

fn print(result: &Value) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{result}").map_err(|error| Failure::from_io("write the result", &error))
}

/// What an operation may do. Everything lies below directories of other users.
fn needed_by(operation: &Operation) -> CapabilitySet {
    match operation {
        Operation::Bind(_) => CapabilitySet::DAC_READ_SEARCH | CapabilitySet::SYS_ADMIN,
        // Whose files keep a mount busy is in /proc, for those only who might trace them.
        Operation::Unmount(_) => CapabilitySet::DAC_READ_SEARCH | CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE,
        Operation::Statvfs(_) => CapabilitySet::DAC_READ_SEARCH,
        Operation::Survey(_) => CapabilitySet::DAC_READ_SEARCH | CapabilitySet::SYS_PTRACE,
        // To enter another mount namespace takes SYS_CHROOT, too.
        Operation::Repair(_) => {
            CapabilitySet::DAC_READ_SEARCH
                | CapabilitySet::SYS_ADMIN
                | CapabilitySet::SYS_PTRACE
                | CapabilitySet::SYS_CHROOT
        }
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Operation, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let command = match parser.next()? {
        Some(Word(command)) => command.string()?,
        Some(other) => return Err(other.unexpected()),
        None => return Err("an operation is missing".into()),
    };
    let allowed: &[&str] = match command.as_str() {
        "bind" => &["root", "path", "beneath", "target", "read-only"],
        "unmount" => &["beneath", "target", "detach", "remove"],
        "statvfs" => &["beneath", "target"],
        "survey" => &["device"],
        "repair" => &["process", "namespace", "device", "root"],
        _ => return Err(format!("unknown operation {command:?}").into()),
    };
    let (mut path, mut beneath, mut target, mut process, mut namespace) = (None, None, None, None, None);
    let (mut devices, mut roots) = (Vec::new(), Vec::new());
    let (mut read_only, mut detach, mut remove) = (false, false, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long(name) if !allowed.contains(&name) => return Err(argument.unexpected()),
            Long("root") => roots.push(PathBuf::from(parser.value()?)),
            Long("path") => path = Some(PathBuf::from(parser.value()?)),
            Long("beneath") => beneath = Some(PathBuf::from(parser.value()?)),
            Long("target") => target = Some(PathBuf::from(parser.value()?)),
            Long("process") => process = Some(parser.value()?.parse()?),
            Long("namespace") => namespace = Some(parser.value()?.parse()?),
            Long("device") => devices.push(parser.value()?.parse_with(device)?),
            Long("read-only") => read_only = true,
            Long("detach") => detach = true,
            Long("remove") => remove = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(match command.as_str() {
        "bind" => Operation::Bind(Bind {
            target: target.ok_or("--target is missing")?,
            root: roots.pop().ok_or("--root is missing")?,
            path: path.ok_or("--path is missing")?,
            beneath: beneath.ok_or("--beneath is missing")?,
            read_only,
        }),
        "unmount" => {
            Operation::Unmount(Unmount { target: target.ok_or("--target is missing")?, beneath, detach, remove })
        }
        "statvfs" => Operation::Statvfs(Statvfs { target: target.ok_or("--target is missing")?, beneath }),
        _ if devices.is_empty() => return Err("--device is missing".into()),
        "survey" => Operation::Survey(Survey { devices }),
        _ if devices.len() != roots.len() => return Err("each --device has a --root".into()),
        _ => Operation::Repair(Repair {
            process: process.ok_or("--process is missing")?,
            namespace: namespace.ok_or("--namespace is missing")?,
            lost: devices.into_iter().zip(roots).map(|(device, root)| Lost { device, root }).collect(),
        }),
    })
}

/// MAJOR:MINOR, as in mountinfo.
fn device(text: &str) -> Result<(u32, u32), &'static str> {
    let parse = |number: &str| number.parse().map_err(|_| "not MAJOR:MINOR");
    let (major, minor) = text.split_once(':').ok_or("not MAJOR:MINOR")?;
    Ok((parse(major)?, parse(minor)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Operation, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
    }

    fn bind(path: &str, read_only: bool) -> Bind {
        Bind { root: "/r".into(), path: path.into(), beneath: "/".into(), target: "/t".into(), read_only }
    }

    #[test]
    fn command_lines() {
        let bind = bind("a/b", true);
        let line = "bind --read-only --root /r --path a/b --beneath / --target=/t";
        assert_eq!(parse_line(line), Ok(Operation::Bind(bind)));
        let unmount = Unmount { target: "/t".into(), beneath: None, detach: true, remove: false };
        assert_eq!(parse_line("unmount --target /t --detach"), Ok(Operation::Unmount(unmount)));
        let remove = Unmount { target: "/k/t".into(), beneath: Some("/k".into()), detach: false, remove: true };
        assert_eq!(parse_line("unmount --beneath /k --target /k/t --remove"), Ok(Operation::Unmount(remove)));
        let statvfs = Statvfs { target: "/t".into(), beneath: None };
        assert_eq!(parse_line("statvfs --target /t"), Ok(Operation::Statvfs(statvfs)));
        let survey = Survey { devices: vec![(0, 57), (8, 1)] };
        assert_eq!(parse_line("survey --device 0:57 --device 8:1"), Ok(Operation::Survey(survey)));
        let lost = |minor, root: &str| Lost { device: (0, minor), root: root.into() };
        let repair = Repair { process: 12, namespace: 4026531841, lost: vec![lost(57, "/r"), lost(58, "/s")] };
        let line = "repair --process 12 --namespace 4026531841 --device 0:57 --root /r --device 0:58 --root /s";
        assert_eq!(parse_line(line), Ok(Operation::Repair(repair)));
    }

    #[test]
    fn an_empty_path_is_the_root_itself() {
        let arguments = ["bind", "--root", "/r", "--path", "", "--beneath", "/", "--target", "/t"];
        let operation = parse(arguments.iter().map(OsString::from)).unwrap();
        assert_eq!(operation, Operation::Bind(bind("", false)));
    }

    #[test]
    fn wrong_command_lines_name_what_is_wrong() {
        for (line, expected) in [
            ("", "operation is missing"),
            ("mount", "mount"),
            ("unmount", "--target is missing"),
            ("unmount --target", "target"),
            ("unmount --target /t --read-only", "--read-only"),
            ("bind --root /r --target /t", "--path is missing"),
            ("bind --root /r --path p --target /t", "--beneath is missing"),
            ("statvfs --target /t extra", "extra"),
            ("survey", "--device is missing"),
            ("survey --device 57", "MAJOR:MINOR"),
            ("repair --process 1 --namespace 2 --device 0:57", "--root"),
            ("repair --namespace 2 --device 0:57 --root /r", "--process is missing"),
            ("repair --process x --namespace 2 --device 0:57 --root /r", "x"),
        ] {
            let error = parse_line(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
