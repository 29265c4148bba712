//! A cgroup of its own for each daemon, outside the container that the keeper runs in.
//!
//! Whoever deletes a pod kills what is in the cgroups of its containers, and a container's memory limit counts all that
//! is in it together. So a daemon that shall outlive its keeper's pod, and no other daemon's appetite, is moved to
//! NAME/ID directly under the root of every hierarchy that the node has: those of cgroup v1, named ones included, and
//! the unified one of v2. It is moved before it gets its first message, so it holds no descriptor of the session and has
//! started nothing by then. ID is the mount's: the next daemon comes to the same place.
//!
//! Owns the directories NAME/ID that it makes, and NAME. They go when the session is over; those that a killed keeper
//! has left go when the next one starts, except where a daemon lives on. Several keepers may share NAME: an ID is
//! unique, and a cgroup that was taken for a left-over between a daemon's death and its successor's start is made again.
//!
//! The roots must be the node's. In a container `/sys/fs/cgroup` may show the container's own cgroup as if it were one
//! (v1 binds it there), and a fresh mount shows the root of the cgroup namespace; only a bind mount of the node's
//! `/sys/fs/cgroup` is sure. A root is recognised by the files that the kernel gives to roots alone, and after each move
//! the kernel is asked where the daemon is.
//!
//! Not guaranteed: what a process touches between fork and its move, its program's pages included, stays charged to the
//! keeper's cgroup. A move waits for an RCU grace period, some 10 ms, which is a part of every daemon's start. Where cgroup v2 is
//! mounted with nsdelegate, a keeper in a cgroup namespace of its own can move nobody: every start of a daemon fails.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::statfs;
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const V1_MAGIC: i64 = 0x0027_e0eb;
const V2_MAGIC: i64 = 0x6367_7270;
/// Random hexadecimal digits at the end of an ID.
const ID_DIGITS: usize = 16;
/// Longest readable part of an ID, in bytes.
const LABEL_LENGTH_MAX: usize = 64;
/// How often a cgroup that somebody takes away while a daemon is moved there is made again.
const MOVES_MAX: u32 = 3;
/// How long a cgroup may be busy with a daemon that has just ended.
const REMOVAL_TIME_LIMIT: Duration = Duration::from_millis(500);
const REMOVAL_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A tree of cgroups with some controllers, seen from its root.
#[derive(Clone, Debug)]
struct Hierarchy {
    root: PathBuf,
    version: Version,
}

/// Where this keeper's daemons belong.
#[derive(Clone, Debug)]
pub struct Cgroups {
    name: String,
    hierarchies: Vec<Hierarchy>,
    /// Of each daemon, whatever its mount wants.
    memory_max_bytes: Option<u64>,
}

/// The cgroup of one mount's daemons, in every hierarchy. It is made with the first daemon, and removed on drop.
#[derive(Debug)]
pub struct Cgroup<'a> {
    cgroups: &'a Cgroups,
    id: String,
    memory_max_bytes: Option<u64>,
    /// It has had a limit, which has to be taken away where there is none any more.
    was_limited: bool,
}

impl Cgroups {
    /// Finds the node's hierarchies at or directly below `root`, makes `name` in each, and removes left-overs there.
    ///
    /// # Errors
    /// `InvalidInput` if `root` does not show the node's hierarchies, or none that can limit memory; those of making a
    /// cgroup.
    pub fn new(name: &str, root: &Path, memory_max_bytes: Option<u64>) -> io::Result<Cgroups> {
        let hierarchies = find(root)?;
        let cgroups = Cgroups { name: name.to_owned(), hierarchies, memory_max_bytes };
        if memory_max_bytes.is_some() && !cgroups.limits_memory() {
            let message = format!("no hierarchy below {} can limit a daemon's memory", root.display());
            return Err(io::Error::new(ErrorKind::InvalidInput, message));
        }
        for hierarchy in &cgroups.hierarchies {
            cgroups.make_parent(hierarchy, memory_max_bytes)?;
            cgroups.sweep(&hierarchy.root.join(name))?;
        }
        log::info!("daemons belong to cgroups below {name} in {} hierarchies", cgroups.hierarchies.len());
        Ok(cgroups)
    }

    /// Whether a daemon's memory can be limited.
    pub fn limits_memory(&self) -> bool {
        self.hierarchies.iter().any(Hierarchy::limits_memory)
    }

    /// A place for the daemons of the mount on `target`, which may use so much memory, or less if no daemon may.
    ///
    /// # Errors
    /// Those of getrandom(2).
    pub fn cgroup(&self, target: &Path, memory_max_bytes: Option<u64>) -> io::Result<Cgroup<'_>> {
        let mut random = [0; ID_DIGITS / 2];
        getrandom(&mut random, GetRandomFlags::empty())?;
        Ok(self.place_of(identifier(target, u64::from_ne_bytes(random)), memory_max_bytes))
    }

    /// The place that an earlier keeper of the same options had, by [`Cgroup::place`].
    pub fn former(&self, place: &str, memory_max_bytes: Option<u64>) -> Option<Cgroup<'_>> {
        let id = place.strip_prefix(&self.name)?.strip_prefix('/')?;
        is_identifier(id).then(|| self.place_of(id.to_owned(), memory_max_bytes))
    }

    fn place_of(&self, id: String, memory_max_bytes: Option<u64>) -> Cgroup<'_> {
        let memory_max_bytes = memory_max_bytes.into_iter().chain(self.memory_max_bytes).min();
        Cgroup { cgroups: self, id, memory_max_bytes, was_limited: false }
    }

    /// Takes away the common parent, if no other keeper's daemons and none of ours are there.
    pub fn leave(&self) {
        for hierarchy in &self.hierarchies {
            // Busy is the usual answer of a parent that is needed.
            let _ = fs::remove_dir(hierarchy.root.join(&self.name));
        }
    }

    fn make_parent(&self, hierarchy: &Hierarchy, memory_max_bytes: Option<u64>) -> io::Result<()> {
        hierarchy.make(&hierarchy.root, &self.name)?;
        if memory_max_bytes.is_some() && hierarchy.version == Version::V2 && hierarchy.limits_memory() {
            for directory in [hierarchy.root.clone(), hierarchy.root.join(&self.name)] {
                write(&directory.join("cgroup.subtree_control"), "+memory")?;
            }
        }
        Ok(())
    }

    /// Removes what bears one of our names and has no process.
    fn sweep(&self, parent: &Path) -> io::Result<()> {
        for entry in fs::read_dir(parent).map_err(|error| at_path(parent, error))? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(is_identifier) {
                continue;
            }
            match fs::remove_dir(entry.path()) {
                Ok(()) => log::info!("removed the left-over cgroup {}", entry.path().display()),
                // Another keeper's daemon, or one that lives on without its keeper.
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => log::warn!("cannot remove the cgroup {}: {error}", entry.path().display()),
            }
        }
        Ok(())
    }
}

impl Cgroup<'_> {
    /// Moves the process there, from wherever it is, in every hierarchy.
    ///
    /// # Errors
    /// Those of making a cgroup and of moving to it, and `InvalidInput` for a hierarchy in which the process is
    /// elsewhere even so.
    pub fn take_in(&self, pid: i32) -> io::Result<()> {
        let mut moves = 1;
        loop {
            match self.make().and_then(|()| self.move_in(pid)) {
                Err(error) if error.kind() == ErrorKind::NotFound && moves < MOVES_MAX => moves += 1,
                moved => break moved?,
            }
        }
        let listing = read(Path::new(&format!("/proc/{pid}/cgroup")))?;
        let place = self.place();
        match elsewhere(&listing, &place) {
            None => Ok(()),
            Some(line) => {
                let message = format!("the daemon {pid} should be in the cgroup {place} and is in {line}");
                Err(io::Error::new(ErrorKind::InvalidInput, message))
            }
        }
    }

    /// Whether its processes' memory can be limited.
    pub fn limits_memory(&self) -> bool {
        self.cgroups.limits_memory()
    }

    /// The next process that comes to it brings this limit, or less if no daemon may use so much.
    pub fn limit_memory(&mut self, memory_max_bytes: Option<u64>) {
        self.was_limited |= self.memory_max_bytes.is_some();
        self.memory_max_bytes = memory_max_bytes.into_iter().chain(self.cgroups.memory_max_bytes).min();
    }

    /// What the processes in it may use together; `None`: there is no limit.
    pub fn memory_max_bytes(&self) -> Option<u64> {
        self.memory_max_bytes
    }

    /// Below the root of each hierarchy.
    pub fn place(&self) -> String {
        format!("{}/{}", self.cgroups.name, self.id)
    }

    /// How many processes there were killed for want of memory. 0 if the kernel does not count them.
    pub fn memory_kills(&self) -> u64 {
        let count = |hierarchy: &Hierarchy| {
            let file = match hierarchy.version {
                Version::V1 => "memory.oom_control",
                Version::V2 => "memory.events",
            };
            let events = fs::read_to_string(self.directory(hierarchy).join(file)).ok()?;
            events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        };
        self.cgroups.hierarchies.iter().find_map(count).unwrap_or(0)
    }

    fn make(&self) -> io::Result<()> {
        for hierarchy in &self.cgroups.hierarchies {
            self.cgroups.make_parent(hierarchy, self.memory_max_bytes)?;
            hierarchy.make(&hierarchy.root.join(&self.cgroups.name), &self.id)?;
            if (self.memory_max_bytes.is_some() || self.was_limited) && hierarchy.limits_memory() {
                let (file, none) = match hierarchy.version {
                    Version::V1 => ("memory.limit_in_bytes", "-1"),
                    Version::V2 => ("memory.max", "max"),
                };
                let limit = self.memory_max_bytes.map_or_else(|| none.to_owned(), |bytes| bytes.to_string());
                write(&self.directory(hierarchy).join(file), &limit)?;
            }
        }
        Ok(())
    }

    fn move_in(&self, pid: i32) -> io::Result<()> {
        let processes = |hierarchy| self.directory(hierarchy).join("cgroup.procs");
        self.cgroups.hierarchies.iter().try_for_each(|hierarchy| write(&processes(hierarchy), &pid.to_string()))
    }

    fn directory(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.root.join(&self.cgroups.name).join(&self.id)
    }
}

impl Drop for Cgroup<'_> {
    /// Removes it. One that stays busy, with a daemon that hangs in the kernel, is left to the next keeper.
    fn drop(&mut self) {
        let deadline = Instant::now() + REMOVAL_TIME_LIMIT;
        for hierarchy in &self.cgroups.hierarchies {
            let directory = self.directory(hierarchy);
            if let Err(error) = remove(&directory, deadline) {
                log::warn!("cannot remove the cgroup {}: {error}", directory.display());
            }
        }
    }
}

impl Hierarchy {
    /// What is mounted at `path`, if it is a cgroup file system.
    fn at(path: &Path) -> io::Result<Option<Hierarchy>> {
        let kind = statfs(path).map_err(|errno| at_path(path, errno.into()))?.f_type;
        let version = match kind {
            V1_MAGIC => Version::V1,
            V2_MAGIC => Version::V2,
            _ => return Ok(None),
        };
        Ok(Some(Hierarchy { root: path.to_owned(), version }))
    }

    fn is_whole(&self) -> bool {
        let machine = match self.version {
            // CFTYPE_ONLY_ON_ROOT, and CFTYPE_NOT_ON_ROOT.
            Version::V1 => self.root.join("release_agent").exists(),
            Version::V2 => !self.root.join("cgroup.events").exists(),
        };
        machine || self.holds_this_process_below()
    }

    /// Whether our own cgroup is found below the root by its name: a node that is a container itself (kind) has a root that is
    /// not the machine's, while a container that sees its own part only finds nothing under that name.
    fn holds_this_process_below(&self) -> bool {
        fs::read_to_string("/proc/self/cgroup").is_ok_and(|lines| {
            let own = lines.lines().filter_map(|line| line.splitn(3, ':').nth(2)?.strip_prefix('/'));
            own.filter(|path| !path.is_empty() && !path.starts_with(".."))
                .any(|path| self.root.join(path).join("cgroup.procs").exists())
        })
    }

    fn limits_memory(&self) -> bool {
        match self.version {
            Version::V1 => self.root.join("memory.limit_in_bytes").exists(),
            Version::V2 => fs::read_to_string(self.root.join("cgroup.controllers"))
                .is_ok_and(|controllers| controllers.split_whitespace().any(|controller| controller == "memory")),
        }
    }

    /// Makes a cgroup that processes may be moved to. One that is there already is success.
    fn make(&self, parent: &Path, name: &str) -> io::Result<()> {
        let directory = parent.join(name);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(at_path(&directory, error)),
            _ => {}
        }
        if self.version == Version::V1 && directory.join("cpuset.cpus").exists() {
            // A new cpuset of v1 has neither, and takes no process then.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if read(&directory.join(file))?.trim().is_empty() {
                    write(&directory.join(file), read(&parent.join(file))?.trim())?;
                }
            }
        }
        Ok(())
    }
}

/// The hierarchies that are mounted at `root`, or directly below it.
fn find(root: &Path) -> io::Result<Vec<Hierarchy>> {
    let invalid = |message: String| io::Error::new(ErrorKind::InvalidInput, message);
    let mut hierarchies: Vec<Hierarchy> = Hierarchy::at(root)?.into_iter().collect();
    if hierarchies.is_empty() {
        for entry in fs::read_dir(root).map_err(|error| at_path(root, error))? {
            let entry = entry?;
            // Symbolic links name a hierarchy of several controllers after each of them.
            if entry.file_type()?.is_dir() {
                hierarchies.extend(Hierarchy::at(&entry.path())?);
            }
        }
    }
    if hierarchies.is_empty() {
        return Err(invalid(format!("no cgroup hierarchy is mounted at {} or directly below it", root.display())));
    }
    match hierarchies.iter().find(|hierarchy| !hierarchy.is_whole()) {
        None => Ok(hierarchies),
        Some(partial) => Err(invalid(format!(
            "{} shows a part of the node's cgroups only; bind the node's /sys/fs/cgroup into this container and name it with --cgroup-root",
            partial.root.display()
        ))),
    }
}

/// A name for a mount's cgroup: readable, and unlike any other and any file of a cgroup.
fn identifier(target: &Path, random: u64) -> String {
    let leaf = target.file_name().unwrap_or_default().to_string_lossy();
    let allowed = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
    let mut identifier: String = leaf.chars().map(allowed).take(LABEL_LENGTH_MAX).collect();
    // Writing to a string cannot fail.
    let _ = write!(identifier, "-{random:0ID_DIGITS$x}");
    identifier
}

fn is_identifier(name: &str) -> bool {
    let digits = name.rsplit_once('-').map(|(_, digits)| digits);
    digits.is_some_and(|digits| digits.len() == ID_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// The first line of `/proc/PID/cgroup` that is not `place` below the node's root. Where a process is in the root
/// itself nobody else's limit or end can reach it: so it is in hierarchies that are mounted nowhere.
fn elsewhere<'a>(listing: &'a str, place: &str) -> Option<&'a str> {
    listing.lines().find(|line| {
        let mut path = line.splitn(3, ':').nth(2).unwrap_or_default();
        // From inside a cgroup namespace the node's root is that far up.
        while let Some(below) = path.strip_prefix("/..") {
            path = below;
        }
        path != "/" && path.strip_prefix('/') != Some(place)
    })
}

/// Removes a cgroup, which the kernel keeps busy for a moment after its last process.
fn remove(directory: &Path, deadline: Instant) -> io::Result<()> {
    loop {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) && Instant::now() < deadline => {
                std::thread::sleep(REMOVAL_INTERVAL);
            }
            removed => return removed,
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map_err(|error| at_path(path, error))
}

/// Writes to a file of a cgroup, which must be there.
fn write(path: &Path, value: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path).map_err(|error| at_path(path, error))?;
    io::Write::write_all(&mut file, value.as_bytes())
        .map_err(|error| at_path(path, io::Error::new(error.kind(), format!("writing {value}: {error}"))))
}

fn at_path(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_recognised() {
        let made = identifier(Path::new("/run/efc/mnt/a.b c"), 0x1f);
        assert_eq!(made, "a_b_c-000000000000001f");
        assert!(is_identifier(&made));
        assert!(is_identifier(&identifier(Path::new(&format!("/{}", "ü".repeat(300))), u64::MAX)));
        for others in ["cgroup.procs", "besteffort", "pod-1", "a-000000000000001g", "000000000000001f"] {
            assert!(!is_identifier(others), "{others}");
        }
    }

    #[test]
    fn a_process_that_was_left_behind_is_noticed() {
        let good = "4:memory:/efc/a-1\n3:cpu,cpuacct:/../../efc/a-1\n2:name=systemd:/efc/a-1\n0::/\n";
        assert_eq!(elsewhere(good, "efc/a-1"), None);
        for bad in
            ["4:memory:/kubepods/x", "4:memory:/kubepods/efc/a-1", "0::/..", "0::/efc/a-2", "0::/efc/a-1 (deleted)"]
        {
            assert_eq!(elsewhere(&format!("{good}{bad}\n"), "efc/a-1"), Some(bad), "{bad}");
        }
    }

    #[test]
    fn a_directory_without_hierarchies_is_refused() {
        let error = Cgroups::new("efc", Path::new("/proc/self/fd"), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("/proc/self/fd"), "{error}");
    }
}
