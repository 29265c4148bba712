//! Who holds a mount, for the message that says it is in use.
//!
//! Only links in `/proc` are read: the kernel makes them from what it has in memory, so this works on a mount whose
//! daemon is dead. But a process that is being started from, or ended in, such a mount can make even these wait, so
//! what has been found within a short time is what is told. It is a hint, not a proof: memory mappings and processes
//! that come and go are missed.

use std::fs::{read_dir, read_link, read_to_string};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Most processes named.
const HOLDERS_MAX: usize = 5;
/// How long the search may take.
const TIME_LIMIT: Duration = Duration::from_millis(300);

/// Names processes with a working directory, root or open file below `target`: `bash (812), python3 (977)`. A search that
/// hangs is left behind; it ends with this program.
pub fn describe(target: &Path) -> String {
    let (sender, receiver) = mpsc::channel();
    let target = target.to_owned();
    std::thread::spawn(move || search(&target, &sender));
    let deadline = Instant::now() + TIME_LIMIT;
    let next = || receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok();
    std::iter::from_fn(next).take(HOLDERS_MAX).collect::<Vec<String>>().join(", ")
}

fn search(target: &Path, found: &mpsc::Sender<String>) {
    let is_process = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit());
    let entries = read_dir("/proc").into_iter().flatten().flatten();
    for process in entries.map(|entry| entry.path()).filter(is_process) {
        if !holds(&process, target) {
            continue;
        }
        let command = read_to_string(process.join("comm")).unwrap_or_default();
        let pid = process.file_name().unwrap_or_default().to_string_lossy();
        if found.send(format!("{} ({pid})", command.trim_end())).is_err() {
            return;
        }
    }
}

fn holds(process: &Path, target: &Path) -> bool {
    let below = |link: &Path| read_link(link).is_ok_and(|path| path.starts_with(target));
    let mut descriptors = read_dir(process.join("fd")).into_iter().flatten().flatten();
    ["cwd", "root", "exe"].iter().any(|name| below(&process.join(name))) || descriptors.any(|fd| below(&fd.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_the_target_counts() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        let own = Path::new("/proc/self");
        assert!(!holds(own, &base));
        let _open = std::fs::File::create(base.join("file")).unwrap();
        assert!(holds(own, &base));
        assert!(!holds(own, &base.join("fi")));
    }
}
