//! Random names: processes on two nodes and writers elsewhere make, rename, remove, list and look up the same few names of shared
//! directories, while daemons are killed. What a process sees of a name must have been so at the NAS, and not too long ago.
//!
//! How long ago, is what close-to-open promises: that there is no such name, and a listing, within `attr-ttl`; where a name leads, for as long as
//! it had led there before, within `attr-ttl` and a minute. What the node itself has changed it sees at once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use efc_model::{Nas, Options};
use efc_tasks::simulation::Simulation;
use efc_tasks::spawn_local;

use super::common::draw;
use super::kernel::{Kernel, Task, settings};
use super::with_seeds;

const DIRECTORIES: [&str; 2] = ["ours", "theirs"];
const NAMES: usize = 4;
/// For how long a name is trusted at most.
const TRUST_MAX: Duration = Duration::from_secs(60);

fn any_path() -> String {
    format!("{}/{}", DIRECTORIES[draw(DIRECTORIES.len())], draw(NAMES))
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// No such name: by itself, or in a listing.
    Absent,
    /// Of a name that was looked up: the file.
    Leads(u64),
    /// Of a listing.
    Listed,
}

/// A change by a node.
struct OwnChange {
    /// When the NAS has executed it.
    at: Instant,
    returned: Instant,
}

struct World {
    nas: Nas,
    ttl: Duration,
    /// Answers take up to so long.
    slack: Duration,
    /// Versions of directories may be the same after a change.
    is_coarse: bool,
    /// Renames by node: what a name leads to then is what the node took the former name for.
    renames: RefCell<Vec<(usize, String, String)>>,
    /// By node and path.
    own: RefCell<HashMap<(usize, String), Vec<OwnChange>>>,
    operations: Cell<u64>,
}

impl World {
    /// Since when a sight may be the last that is known, if it ended at `end` and had begun at `begin`.
    fn trust(&self, sight: Sight, begin: Option<Instant>, end: Instant) -> Duration {
        let long = self.is_coarse && !self.ttl.is_zero();
        let trust = match sight {
            Sight::Absent | Sight::Listed if long => TRUST_MAX,
            Sight::Absent | Sight::Listed => self.ttl,
            Sight::Leads(_) if self.ttl.is_zero() => Duration::ZERO,
            Sight::Leads(_) => begin.map_or(TRUST_MAX, |begin| end - begin).clamp(self.ttl, TRUST_MAX),
        };
        trust + self.slack
    }

    /// A process on `node` has seen this of a name between `begun` and now.
    fn check(&self, node: usize, path: &str, begun: Instant, sight: Sight) {
        let own = self.own.borrow();
        let own = own.get(&(node, path.to_owned())).map_or(&[][..], Vec::as_slice).iter();
        let own = own.filter(|change| change.returned <= begun).map(|change| change.at).max();
        if self.was_so(path, begun, sight, own) {
            return;
        }
        let renames = self.renames.borrow();
        let mut from: Vec<&str> = vec![path];
        // A rename of a name that leads elsewhere by now moves something else than the node believes.
        for (_, old, _) in renames.iter().rev().filter(|(by, _, _)| *by == node) {
            from.push(old);
        }
        let may_be_moved = matches!(sight, Sight::Leads(_))
            && renames.iter().any(|(by, _, new)| *by == node && new == path)
            && from.iter().any(|old| self.was_so(old, begun, sight, None));
        let history = self.nas.history(path);
        assert!(may_be_moved, "node {node} sees {sight:?} of {path} at {begun:?}; own change {own:?}; {history:?}");
    }

    /// Was a name so since its own last change, and not too long ago?
    fn was_so(&self, path: &str, begun: Instant, sight: Sight, own: Option<Instant>) -> bool {
        let mut states = vec![(None, None)];
        states.extend(self.nas.history(path).into_iter().map(|(at, fileid)| (Some(at), fileid)));
        let fits = |fileid: Option<u64>| match sight {
            Sight::Absent => fileid.is_none(),
            Sight::Leads(seen) => fileid == Some(seen),
            Sight::Listed => fileid.is_some(),
        };
        let first = states.iter().find(|(_, fileid)| fits(*fileid)).and_then(|(at, _)| *at);
        states.iter().enumerate().filter(|(_, (_, fileid))| fits(*fileid)).any(|(index, _)| {
            let Some((Some(end), _)) = states.get(index + 1) else { return true };
            let is_young = begun.saturating_duration_since(*end) <= self.trust(sight, first, *end);
            is_young && own.is_none_or(|own| own < *end)
        })
    }

    /// A change by `node` of a name that was begun then has succeeded.
    fn changed(&self, node: usize, path: &str, begun: Instant) {
        let changes = self.nas.history(path);
        if let Some((at, _)) = changes.into_iter().find(|(at, _)| *at >= begun) {
            let change = OwnChange { at, returned: efc_tasks::time::now() };
            self.own.borrow_mut().entry((node, path.to_owned())).or_default().push(change);
        }
    }
}

struct Process {
    world: Rc<World>,
    kernel: Kernel,
    node: usize,
    task: Task,
}

impl Process {
    /// Of what others may change at any time, errors are as good as success.
    fn may_fail<T>(&self, what: &str, path: &str, done: Result<T, i32>) -> Option<T> {
        let is_fair = |errno: &i32| matches!(*errno, libc::ENOENT | libc::EEXIST | libc::EISDIR | libc::ENOTDIR);
        assert!(done.as_ref().err().is_none_or(is_fair), "{what} {path}: {:?}", done.err());
        done.ok()
    }

    async fn step(&self) {
        let (world, kernel, node, task) = (&self.world, &self.kernel, self.node, self.task);
        let (path, other, begun) = (any_path(), any_path(), efc_tasks::time::now());
        world.operations.set(world.operations.get() + 1);
        match draw(10) {
            0 => {
                let created = kernel.open(task, &path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL).await;
                if let Some(file) = self.may_fail("create", &path, created) {
                    world.changed(node, &path, begun);
                    kernel.close(task, file).await.expect("close");
                }
            }
            1 => {
                let done = kernel.unlink(task, &path).await;
                self.may_fail("unlink", &path, done).inspect(|()| world.changed(node, &path, begun));
            }
            2 if path != other => {
                let done = kernel.rename(task, &path, &other).await;
                if self.may_fail("rename", &path, done).is_some() {
                    world.changed(node, &path, begun);
                    world.changed(node, &other, begun);
                    world.renames.borrow_mut().push((node, path, other));
                }
            }
            3 | 4 => self.list(DIRECTORIES[draw(DIRECTORIES.len())], draw(2) == 0).await,
            5 => {
                let opened = kernel.open(task, &path, libc::O_RDONLY).await;
                if let Some(file) = self.may_fail("open", &path, opened) {
                    kernel.close(task, file).await.expect("close");
                }
            }
            _ => {
                let found = kernel.stat(task, &path).await;
                let sight = self.may_fail("stat", &path, found).map_or(Sight::Absent, |attr| Sight::Leads(attr.ino));
                world.check(node, &path, begun, sight);
            }
        }
    }

    async fn list(&self, directory: &str, plus: bool) {
        let begun = efc_tasks::time::now();
        let listed = self.kernel.list(self.task, directory, 400, plus).await;
        let listed = listed.unwrap_or_else(|errno| panic!("list {directory}: {errno}"));
        for number in 0..NAMES {
            let is_listed = listed.contains(&number.to_string());
            let sight = if is_listed { Sight::Listed } else { Sight::Absent };
            self.world.check(self.node, &format!("{directory}/{number}"), begun, sight);
        }
    }

    async fn run(self) {
        for _ in 0..60 {
            self.step().await;
            let pauses = [0, 1, 20, 300, 2000];
            efc_tasks::time::sleep(Duration::from_millis(draw(pauses[draw(pauses.len())] + 1) as u64)).await;
        }
    }
}

/// Another client: of the NAS itself, or of a node without EFC.
fn change_outside(nas: &Nas) {
    let (path, other) = (any_path(), any_path());
    match draw(4) {
        0 => drop(nas.remove_outside(&path)),
        1 if path != other => drop(nas.rename_outside(&path, &other)),
        _ => nas.write_outside(&path, 0, b"outside"),
    }
}

fn run(seed: u64) -> u64 {
    let simulation = Simulation::new(seed);
    let granularity = [1, 1, 1_000_000, 1_000_000_000][draw(4)];
    let options = Options {
        granularity,
        has_wcc: draw(4) != 0,
        mkdir_has_before: draw(2) == 0,
        has_attributes: draw(4) != 0,
        checks_cookie_verifiers: draw(4) == 0,
        reuses_numbers: false,
        page_entries_max: [3, 64][draw(2)],
        ..Options::default()
    };
    let nas = Nas::new(options, seed);
    let delay = Duration::from_micros(draw(3000) as u64);
    nas.network().set_delay(delay);
    let ttl = Duration::from_millis([0, 20, 1000, 3000][draw(4)]);
    let world = Rc::new(World {
        nas: nas.clone(),
        ttl,
        slack: delay * 4 + Duration::from_millis(1),
        is_coarse: granularity > 1,
        own: RefCell::default(),
        renames: RefCell::default(),
        operations: Cell::new(0),
    });
    let nodes: Vec<Kernel> = (0..2).map(|node| Kernel::mount(&nas, node, settings(ttl), None)).collect();
    let (kills, outside) = (draw(3), draw(3) != 0);
    let is_over = Rc::new(Cell::new(false));
    simulation.run(async {
        nodes[0].mkdir(Task::root(), DIRECTORIES[0]).await.expect("a directory of its own");
        nas.mkdir_outside(DIRECTORIES[1]);
        let running: Vec<_> = (0..4)
            .map(|number| {
                let (node, world) = (number % nodes.len(), world.clone());
                let process = Process { world, kernel: nodes[node].clone(), node, task: Task::root() };
                spawn_local(process.run())
            })
            .collect();
        let (over, killed, changed) = (is_over.clone(), nodes.clone(), nas.clone());
        let troubled = spawn_local(async move {
            let mut kills = kills;
            while !over.get() {
                efc_tasks::time::sleep(Duration::from_millis(draw(400) as u64)).await;
                match draw(12) {
                    0 if kills > 0 => {
                        kills -= 1;
                        killed[draw(killed.len())].kill_daemon();
                    }
                    1..8 if outside => change_outside(&changed),
                    _ => {}
                }
            }
        });
        for process in running {
            process.await;
        }
        is_over.set(true);
        troubled.await;
        // What is there in the end is what everybody sees when nothing is trusted any more.
        efc_tasks::time::sleep(TRUST_MAX * 2).await;
        for node in &nodes {
            node.settled().await;
            for directory in DIRECTORIES {
                let mut listed = node.list(Task::root(), directory, 400, true).await.expect("list");
                listed.sort_unstable();
                assert_eq!(listed, nas.names(directory));
            }
        }
    });
    nodes.iter().for_each(Kernel::assert_nothing_left);
    world.operations.get()
}

#[test]
fn model_of_names() {
    let begin = Instant::now();
    let operations = with_seeds(60, run);
    eprintln!("names: {operations} operations in {:?}", begin.elapsed());
}
