//! `efc-fs`: file operations on a NAS without a mount, for the CSI controller, the operator, masters and people.
//!
//! One process executes one command and exits. It never follows symbolic links, never leaves the URL's directory, and
//! gives up at its time limit instead of waiting for ever. Results are JSON on stdout (`cat` prints the file). A
//! failure is exit status 1 and one line of JSON on stderr, a wrong command line exit status 2.

mod commands;
mod error;
mod nas;
mod path;
mod publish;
mod walk;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use async_io::Timer;
use efc_backend::{Cred, SetAttr};
use efc_nfs::{Client, Config, url};
use futures_lite::future;
use lexopt::{Arg, ValueExt};

use crate::commands::{Command, DIRECTORY_MODE, FILE_MODE};
use crate::error::Failure;
use crate::nas::Nas;
use crate::path::Path;
use crate::walk::Reports;

const USAGE: &str = "\
usage: efc-fs COMMAND [flags] URL PATH...

  stat URL PATH                     prints the attributes
  ls URL PATH                       prints names and attributes of a directory's entries
  mkdir [--parents] [--mode OCTAL] [--uid N] [--gid N] URL PATH
  mv URL FROM TO                    refuses if TO exists
  rm [--recursive] URL PATH
  cp URL FROM TO                    copies one regular file
  cat [--bytes-max N] URL PATH      prints a file; refuses one that is longer than N
  put [--exclusive] [--mode OCTAL] URL PATH      writes standard input to a file, all of it or nothing
  df URL [PATH]                     prints sizes of the file system
  walk [--uid N] [--gid N] [--interval-ms N] [--resume CHECKPOINT] URL [PATH]
                                    counts the regular files of a tree and their sizes, as that user; prints a line of JSON
                                    after each interval (default 500) and at the end; continues from the checkpoint of a line

URL is nfs://host[:port]/directory[?mountport=N]; PATH is relative to that directory.
Every command takes --timeout-ms N (default 15000; for walk it limits each call) and --unprivileged-port.";

const TIME_LIMIT_DEFAULT_MS: u64 = 15_000;
/// Between two lines of a walk.
const INTERVAL_DEFAULT_MS: u64 = 500;
/// Connections of a walk, which has many calls in flight.
const WALK_CONNECTIONS: usize = 4;
/// Longest time limit: a day.
const TIME_LIMIT_MAX_MS: u64 = 86_400_000;

/// Why nothing was tried.
enum Refusal {
    /// The command line is wrong.
    Usage(String),
    /// Its words are right, but not what they say.
    Invalid(Failure),
}

impl From<lexopt::Error> for Refusal {
    fn from(error: lexopt::Error) -> Refusal {
        Refusal::Usage(error.to_string())
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal::Invalid(failure)
    }
}

/// The command line, taken apart.
#[derive(Debug)]
struct Invocation {
    url: url::Url,
    command: Command,
    time_limit: Duration,
    unprivileged_port: bool,
}

/// Flags as they stand on the command line.
#[derive(Default)]
struct Flags {
    parents: bool,
    recursive: bool,
    exclusive: bool,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    bytes_max: Option<u64>,
    interval_ms: Option<u64>,
    resume: Option<String>,
    unprivileged_port: bool,
    time_limit_ms: Option<u64>,
}

impl Flags {
    /// Takes a flag if `command` knows it.
    fn take(&mut self, command: &str, flag: &str, parser: &mut lexopt::Parser) -> Result<bool, Refusal> {
        match (command, flag) {
            ("mkdir", "parents") => self.parents = true,
            ("rm", "recursive") => self.recursive = true,
            ("put", "exclusive") => self.exclusive = true,
            ("mkdir" | "put", "mode") => self.mode = Some(parser.value()?.parse_with(parse_mode)?),
            ("mkdir" | "walk", "uid") => self.uid = Some(parser.value()?.parse()?),
            ("mkdir" | "walk", "gid") => self.gid = Some(parser.value()?.parse()?),
            ("cat", "bytes-max") => self.bytes_max = Some(parser.value()?.parse()?),
            ("walk", "interval-ms") => self.interval_ms = Some(parser.value()?.parse()?),
            ("walk", "resume") => self.resume = Some(parser.value()?.to_string_lossy().into_owned()),
            (_, "unprivileged-port") => self.unprivileged_port = true,
            (_, "timeout-ms") => self.time_limit_ms = Some(parser.value()?.parse_with(parse_time_limit)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn parse_mode(octal: &str) -> Result<u32, String> {
    let digits = !octal.is_empty() && octal.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(octal, 8).ok().filter(|mode| digits && *mode <= 0o7777);
    mode.ok_or_else(|| "permissions are octal, 0 to 7777".to_owned())
}

fn parse_time_limit(text: &str) -> Result<u64, String> {
    let limit = text.parse().ok().filter(|limit| (1..=TIME_LIMIT_MAX_MS).contains(limit));
    limit.ok_or_else(|| format!("a time limit is 1 to {TIME_LIMIT_MAX_MS} milliseconds"))
}

fn parse(mut parser: lexopt::Parser) -> Result<Invocation, Refusal> {
    let (mut flags, mut words) = (Flags::default(), Vec::<OsString>::new());
    let Some(Arg::Value(name)) = parser.next()? else { return Err(Refusal::Usage("a command is missing".into())) };
    let name = name.to_string_lossy().into_owned();
    while let Some(argument) = parser.next()? {
        let flag = match argument {
            Arg::Value(word) => {
                words.push(word);
                continue;
            }
            Arg::Long(flag) => flag.to_owned(),
            Arg::Short(letter) => return Err(Refusal::Usage(format!("{name} takes no -{letter}"))),
        };
        if !flags.take(&name, &flag, &mut parser)? {
            return Err(Refusal::Usage(format!("{name} takes no --{flag}")));
        }
    }
    let mut words = words.into_iter();
    let url = words.next().ok_or_else(|| Refusal::Usage("the URL is missing".into()))?;
    let url = url.into_string().map_err(|_| Failure::invalid("the URL is not UTF-8"))?;
    let url = url::parse_url(&url).map_err(Failure::invalid)?;
    let time_limit = Duration::from_millis(flags.time_limit_ms.unwrap_or(TIME_LIMIT_DEFAULT_MS));
    let command = command(&name, &flags, words.map(OsString::into_vec).collect())?;
    Ok(Invocation { url, command, time_limit, unprivileged_port: flags.unprivileged_port })
}

fn command(name: &str, flags: &Flags, paths: Vec<Vec<u8>>) -> Result<Command, Refusal> {
    let wanted = match name {
        "mv" | "cp" => 2..=2,
        "df" | "walk" => 0..=1,
        "stat" | "ls" | "mkdir" | "rm" | "cat" | "put" => 1..=1,
        _ => return Err(Refusal::Usage(format!("{name:?} is not a command"))),
    };
    if !wanted.contains(&paths.len()) {
        return Err(Refusal::Usage(format!("{name} does not take {} paths", paths.len())));
    }
    let mut paths = paths.iter().map(|path| Path::parse(path));
    let mut next = || paths.next().unwrap_or_else(|| Path::parse(b""));
    let path = next()?;
    if matches!(name, "mv" | "cp" | "rm" | "put") {
        path.split()?;
    }
    Ok(match name {
        "stat" => Command::Stat(path),
        "ls" => Command::List(path),
        "mkdir" => {
            let mode = Some(flags.mode.unwrap_or(DIRECTORY_MODE));
            let attr = SetAttr { mode, uid: flags.uid, gid: flags.gid, ..SetAttr::default() };
            Command::MakeDirectory { path, parents: flags.parents, attr }
        }
        "mv" => Command::Move(path, next()?),
        "rm" => Command::Remove { path, recursive: flags.recursive },
        "cp" => Command::Copy(path, next()?),
        "cat" => Command::Show { path, bytes_max: flags.bytes_max.unwrap_or(u64::MAX) },
        "put" => Command::Put { path, exclusive: flags.exclusive, mode: flags.mode.unwrap_or(FILE_MODE) },
        "walk" => Command::Walk { path, cred: cred(flags), reports: reports(flags)? },
        _ => Command::Sizes(path),
    })
}

fn cred(flags: &Flags) -> Cred {
    Cred { uid: flags.uid.unwrap_or(0), gid: flags.gid.unwrap_or(0), ..Cred::root() }
}

fn reports(flags: &Flags) -> Result<Reports, Failure> {
    flags.resume.iter().try_for_each(|text| walk::check(text))?;
    let interval = Duration::from_millis(flags.interval_ms.unwrap_or(INTERVAL_DEFAULT_MS));
    Ok(Reports { interval, resume: flags.resume.clone() })
}

async fn perform(invocation: &Invocation) -> Result<(), Failure> {
    let Invocation { url, command, time_limit, unprivileged_port } = invocation;
    let deadline = Instant::now() + *time_limit;
    let config = Config {
        host: url.host.clone(),
        port: url.port,
        mount_port: url.mount_port,
        path: url.path.clone().into_bytes(),
        connections: if command.is_endless() { WALK_CONNECTIONS } else { 1 },
        time_limit: Some(*time_limit),
        connect_time_limit: *time_limit,
        privileged_port: !unprivileged_port,
        identity: None,
    };
    let (client, mounted) = Client::connect(&config).await.map_err(Failure::from_connect)?;
    let nas = Nas::new(client, mounted, command.cred());
    if command.is_endless() {
        return command.run(&nas).await;
    }
    let too_late = async {
        Timer::at(deadline).await;
        Err(give_up(&nas, url, *time_limit))
    };
    future::or(command.run(&nas), too_late).await
}

/// The time is over: either the NAS is silent, or there was too much to do.
fn give_up(nas: &Nas, url: &url::Url, limit: Duration) -> Failure {
    let seconds = limit.as_secs_f64();
    match nas.client.counters().oldest_call {
        Some(age) if age > limit / 2 => {
            let message = format!("{} has not answered for {:.1} s: is the NAS up?", url.host, age.as_secs_f64());
            Failure::new("UNAVAILABLE", "ETIMEDOUT", message)
        }
        _ => Failure::new("DEADLINE_EXCEEDED", "ETIMEDOUT", format!("not done within {seconds} s: raise --timeout-ms")),
    }
}

fn main() -> ExitCode {
    let invocation = match parse(lexopt::Parser::from_env()) {
        Ok(invocation) => invocation,
        Err(Refusal::Usage(why)) => {
            eprintln!("efc-fs: {why}\n{USAGE}");
            return ExitCode::from(2);
        }
        Err(Refusal::Invalid(failure)) => return report(&failure),
    };
    match future::block_on(perform(&invocation)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

fn report(failure: &Failure) -> ExitCode {
    eprintln!("{}", serde_json::to_string(failure).expect("a plain structure"));
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Invocation, Refusal> {
        parse(lexopt::Parser::from_args(words))
    }

    #[test]
    fn command_lines_are_taken_apart() {
        let parsed = parse_words(&[
            "mkdir",
            "--parents",
            "--mode",
            "2770",
            "--uid=5",
            "--timeout-ms",
            "100",
            "--",
            "nfs://nas/x",
            "-a/b",
        ]);
        let Ok(parsed) = parsed else { panic!("refused") };
        assert_eq!((parsed.url.host.as_str(), parsed.time_limit), ("nas", Duration::from_millis(100)));
        let attr = SetAttr { mode: Some(0o2770), uid: Some(5), ..SetAttr::default() };
        let path = Path::parse(b"-a/b").unwrap();
        assert_eq!(parsed.command, Command::MakeDirectory { path, parents: true, attr });
        assert!(matches!(parse_words(&["df", "nfs://nas/x"]), Ok(Invocation { command: Command::Sizes(_), .. })));
    }

    #[test]
    fn wrong_command_lines_are_usage_errors() {
        for words in [
            &[][..],
            &["stat"],
            &["stat", "nfs://nas/x"],
            &["stat", "nfs://nas/x", "a", "b"],
            &["mv", "nfs://nas/x", "a"],
            &["frob", "nfs://nas/x", "a"],
            &["stat", "--recursive", "nfs://nas/x", "a"],
            &["rm", "-r", "nfs://nas/x", "a"],
            &["mkdir", "--mode", "8", "nfs://nas/x", "a"],
            &["walk", "nfs://nas/x", "a", "b"],
            &["stat", "--resume", "AAAA", "nfs://nas/x", "a"],
            &["walk", "--interval-ms", "-1", "nfs://nas/x"],
            &["mkdir", "--mode", "+7", "nfs://nas/x", "a"],
            &["stat", "--timeout-ms", "0", "nfs://nas/x", "a"],
        ] {
            assert!(matches!(parse_words(words), Err(Refusal::Usage(_))), "{words:?}");
        }
    }

    #[test]
    fn bad_urls_and_paths_are_invalid_arguments() {
        for words in [
            &["stat", "http://nas/x", "a"][..],
            &["stat", "nfs://nas/x?ro", "a"],
            &["stat", "nfs://nas/x", "/etc"],
            &["stat", "nfs://nas/x", "../a"],
            &["rm", "--recursive", "nfs://nas/x", ""],
            &["mv", "nfs://nas/x", "a", "b/.."],
        ] {
            let Err(Refusal::Invalid(failure)) = parse_words(words) else { panic!("{words:?}") };
            assert_eq!(failure.code, "INVALID_ARGUMENT", "{words:?}");
        }
    }
}
