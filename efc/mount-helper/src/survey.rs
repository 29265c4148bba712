//! `survey`: who sees mounts of file systems that nobody serves any more, and what that costs them.
//!
//! Mounts are found in the lists of all mount namespaces on the node, one process of each asked, and told by the number of
//! their device; descriptors by the mount that they were opened on, which `/proc/PID/fdinfo` names. Neither asks
//! the file system. A daemon that has the session open still, hung perhaps, is named: then the mount is not lost.
//!
//! Descriptors are counted for a limited time, so that a node with very many does not wait for its mounts.

use std::collections::{BTreeMap, HashMap};
use std::fs::read_link;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use efc_mount_helper::mountinfo::Mount;
use serde_json::{Value, json};

use crate::namespaces::{self, FILESYSTEM};
use crate::repair::is_covered;

/// How long descriptors are counted.
const COUNT_TIME_LIMIT: Duration = Duration::from_millis(500);
/// Most processes that are named.
const LOSSES_MAX: usize = 1_000;
/// How a daemon calls itself.
const DAEMON: &str = "efcd";

/// The operation's arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Survey {
    /// Numbers of the file systems' devices.
    pub devices: Vec<(u32, u32)>,
}

/// A mount namespace that has such mounts.
struct Found {
    process: u32,
    processes: Vec<u32>,
    mounts: Vec<Mount>,
}

impl Survey {
    /// Looks at all processes. `mounts` are those that are visible: one beneath another mount is nobody's loss.
    pub fn run(&self) -> Value {
        let found = self.namespaces();
        let mounts = |found: &Found| -> Vec<Value> {
            let mount = |mount: &Mount| json!({ "device": device_name(mount), "mount_point": mount.mount_point.to_string_lossy() });
            found.mounts.iter().map(mount).collect()
        };
        let namespaces: Vec<Value> = found
            .iter()
            .map(|(id, found)| json!({ "namespace": id, "process": found.process, "mounts": mounts(found) }))
            .collect();
        let (losses, is_complete) = losses(&found);
        json!({ "namespaces": namespaces, "holders": self.holders(), "losses": losses, "is_complete": is_complete })
    }

    fn namespaces(&self) -> BTreeMap<u64, Found> {
        let mut members: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for process in namespaces::processes() {
            if let Some(id) = namespaces::mount_namespace_of(process) {
                members.entry(id).or_default().push(process);
            }
        }
        members.into_iter().filter_map(|(id, processes)| Some((id, self.look_at(processes)?))).collect()
    }

    /// What one of these processes sees; a second one is asked only if its root directory is another.
    fn look_at(&self, processes: Vec<u32>) -> Option<Found> {
        let mut asked: Vec<PathBuf> = Vec::new();
        for process in &processes {
            let root = read_link(format!("/proc/{process}/root")).ok();
            if root.is_none_or(|root| asked.contains(&root)) {
                continue;
            }
            let Some((root, all)) = namespaces::mounts_seen_by(*process) else { continue };
            asked.push(root);
            let is_wanted = |mount: &&Mount| {
                mount.filesystem == FILESYSTEM && self.devices.contains(&mount.device) && !is_covered(mount, &all)
            };
            let mounts: Vec<Mount> = all.iter().filter(is_wanted).cloned().collect();
            if !mounts.is_empty() {
                return Some(Found { process: *process, processes, mounts });
            }
        }
        None
    }

    /// Daemons that have a session open, as far as the kernel tells (Linux 6.16).
    fn holders(&self) -> Vec<Value> {
        let daemons = namespaces::processes().filter(|process| namespaces::command_of(*process) == DAEMON);
        let held = |process: u32| {
            let connections = namespaces::descriptor_fields(process, "fuse_connection:");
            let devices = connections.filter_map(|connection| Some((0, u32::try_from(connection).ok()?)));
            let ours: Vec<(u32, u32)> = devices.filter(|device| self.devices.contains(device)).collect();
            ours.into_iter()
                .map(move |(major, minor)| json!({ "device": format!("{major}:{minor}"), "process": process }))
        };
        daemons.flat_map(held).collect()
    }
}

/// Per process and device, what it has open or stands in; and whether all processes were looked at.
fn losses(found: &BTreeMap<u64, Found>) -> (Vec<Value>, bool) {
    let deadline = Instant::now() + COUNT_TIME_LIMIT;
    let mut losses = Vec::new();
    for found in found.values() {
        let devices: HashMap<u64, String> = found.mounts.iter().map(|mount| (mount.id, device_name(mount))).collect();
        for process in &found.processes {
            if Instant::now() > deadline || losses.len() >= LOSSES_MAX {
                return (losses, false);
            }
            let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
            for id in namespaces::descriptor_fields(*process, "mnt_id:") {
                if let Some(device) = devices.get(&id) {
                    *counts.entry(device).or_default() += 1;
                }
            }
            if let Some(mount) = stands_in(*process, &found.mounts) {
                counts.entry(&devices[&mount.id]).or_default();
            }
            let command = || namespaces::command_of(*process);
            losses.extend(counts.into_iter().map(|(device, descriptors)| {
                json!({ "device": device, "process": process, "command": command(), "descriptors": descriptors })
            }));
        }
    }
    (losses, true)
}

/// The mount in which a process has its working directory, by its name.
fn stands_in(process: u32, mounts: &[Mount]) -> Option<&Mount> {
    let directory = read_link(format!("/proc/{process}/cwd")).ok()?;
    let is_beneath = |mount: &&Mount| directory.starts_with(&mount.mount_point) && mount.mount_point != Path::new("/");
    mounts.iter().find(is_beneath)
}

fn device_name(mount: &Mount) -> String {
    format!("{}:{}", mount.device.0, mount.device.1)
}
