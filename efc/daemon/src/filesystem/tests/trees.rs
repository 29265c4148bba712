//! Random trees: each process changes a directory of its own, and knows exactly what each of its calls must answer, and what
//! must be there, whatever happens to the daemon, to the answers of the NAS and to what other processes do meanwhile.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use efc_fuse::{SetAttr, SetTime};
use efc_model::{Nas, Options};
use efc_tasks::simulation::Simulation;
use efc_tasks::spawn_local;

use super::common::draw;
use super::kernel::{File, Kernel, Task, behind, settings};
use super::with_seeds;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Files that a process keeps open.
const OPEN_MAX: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Object {
    Directory,
    Link(Vec<u8>),
    Fifo,
    File,
}

#[derive(Default)]
struct Content {
    data: Vec<u8>,
    mtime: Option<u32>,
    links: u32,
}

/// What a process knows of its directory.
struct Process {
    kernel: Kernel,
    task: Task,
    base: String,
    /// By path: what there is, and which file.
    known: BTreeMap<String, (Object, usize)>,
    files: Vec<Content>,
    open: Vec<(File, usize)>,
    operations: Rc<Cell<u64>>,
    /// Whether the NAS tells how many names a file has: else any name may be the last.
    has_attributes: bool,
    /// Whether the directory is read in pages so small that it takes many.
    page: u32,
}

impl Process {
    fn path(&self, relative: &str) -> String {
        format!("{}/{relative}", self.base)
    }

    fn directories(&self) -> Vec<String> {
        let below = self.known.iter().filter(|(_, (object, _))| *object == Object::Directory).map(|(path, _)| path);
        std::iter::once(self.base.clone()).chain(below.cloned()).collect()
    }

    /// A path in one of the directories, not too deep.
    fn any_path(&self) -> String {
        let mut directories = self.directories();
        directories.retain(|path| path.matches('/').count() < 3);
        format!("{}/{}", directories[draw(directories.len())], NAMES[draw(NAMES.len())])
    }

    fn children(&self, path: &str) -> Vec<&str> {
        let child = |name: &&String| name.strip_prefix(path).and_then(|rest| rest.strip_prefix('/')).is_some();
        let direct = self.known.keys().filter(child).map(|name| &name[path.len() + 1..]);
        direct.filter(|rest| !rest.contains('/')).collect()
    }

    fn pick(&self, wanted: impl Fn(&Object) -> bool) -> Option<String> {
        let all: Vec<&String> =
            self.known.iter().filter(|(_, (object, _))| wanted(object)).map(|(path, _)| path).collect();
        if all.is_empty() { None } else { Some(all[draw(all.len())].clone()) }
    }

    /// What making something answers.
    fn expected_of_new(&self, path: &str) -> Result<(), i32> {
        if self.known.contains_key(path) { Err(libc::EEXIST) } else { Ok(()) }
    }

    fn add(&mut self, path: String, object: Object, file: usize) {
        self.known.insert(path, (object, file));
    }

    fn new_file(&mut self) -> usize {
        self.files.push(Content { links: 1, ..Content::default() });
        self.files.len() - 1
    }

    fn unlinked(&mut self, path: &str) {
        if let Some((Object::File, file)) = self.known.remove(path) {
            self.files[file].links -= 1;
        }
    }

    async fn make(&mut self) {
        let (path, task) = (self.any_path(), self.task);
        let expected = self.expected_of_new(&path);
        match draw(5) {
            0 => {
                let made = self.kernel.mkdir(task, &path).await.map(drop);
                assert_eq!(made, expected, "mkdir {path}");
                made.is_ok().then(|| self.add(path, Object::Directory, 0));
            }
            1 => {
                let made = self.kernel.symlink(task, "to/nowhere", &path).await.map(drop);
                assert_eq!(made, expected, "symlink {path}");
                made.is_ok().then(|| self.add(path, Object::Link(b"to/nowhere".to_vec()), 0));
            }
            2 => {
                let made = self.kernel.mknod(task, &path, libc::S_IFIFO | 0o644).await.map(drop);
                assert_eq!(made, expected, "mknod {path}");
                made.is_ok().then(|| self.add(path, Object::Fifo, 0));
            }
            3 => {
                let Some(from) = self.pick(|object| *object == Object::File) else { return };
                let made = self.kernel.link(task, &from, &path).await.map(drop);
                assert_eq!(made, expected, "link {from} {path}");
                if made.is_ok() {
                    let file = self.known[&from].1;
                    self.files[file].links += 1;
                    self.add(path, Object::File, file);
                }
            }
            _ => {
                let made = self.kernel.open(task, &path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL).await;
                assert_eq!(made.map(drop), expected, "create {path}");
                if let Ok(made) = made {
                    let file = self.new_file();
                    self.add(path, Object::File, file);
                    self.open.push((made, file));
                }
            }
        }
    }

    async fn remove(&mut self) {
        let task = self.task;
        let path = if draw(8) == 0 { Some(self.any_path()) } else { self.pick(|_| true) };
        let Some(path) = path else { return };
        match self.known.get(&path).map(|(object, _)| object) {
            None => assert_eq!(self.kernel.unlink(task, &path).await, Err(libc::ENOENT), "unlink {path}"),
            Some(Object::Directory) => {
                let is_empty = self.children(&path).is_empty();
                let expected = if is_empty { Ok(()) } else { Err(libc::ENOTEMPTY) };
                let prefix = format!("{path}/");
                let may_be_unlinked = |(_, file): &(File, usize)| !self.has_attributes || self.files[*file].links == 0;
                if is_empty && self.open.iter().any(may_be_unlinked) {
                    // What is open and unlinked may have its silly name in there.
                    while let Some((file, _)) = self.open.pop() {
                        self.kernel.close(task, file).await.expect("close");
                    }
                }
                assert_eq!(self.kernel.rmdir(task, &path).await, expected, "rmdir {path}");
                is_empty.then(|| self.known.remove(&path));
                assert!(is_empty || self.known.keys().any(|known| known.starts_with(&prefix)));
            }
            Some(_) => {
                self.kernel.unlink(task, &path).await.unwrap_or_else(|errno| panic!("unlink {path}: {errno}"));
                self.unlinked(&path);
            }
        }
    }

    async fn rename(&mut self) {
        let (Some(from), to) = (self.pick(|_| true), self.any_path()) else { return };
        let (object, replaced) = (self.known[&from].clone(), self.known.get(&to).cloned());
        let is_directory = object.0 == Object::Directory;
        if to.starts_with(&format!("{from}/")) || from.starts_with(&format!("{to}/")) || from == to {
            return; // the kernel refuses that by itself
        }
        if is_directory && to.matches('/').count() > 1 {
            return; // not too deep
        }
        let expected = match &replaced {
            Some((Object::Directory, _)) if is_directory && !self.children(&to).is_empty() => Err(libc::ENOTEMPTY),
            Some((Object::Directory, _)) => {
                if is_directory {
                    Ok(())
                } else {
                    return;
                }
            }
            Some(_) if is_directory => return,
            _ => Ok(()),
        };
        if is_directory && replaced.is_some() {
            return; // silly names of open files may lie in there
        }
        assert_eq!(self.kernel.rename(self.task, &from, &to).await, expected, "rename {from} {to}");
        let is_same = replaced.as_ref().is_some_and(|replaced| object.0 == Object::File && replaced.1 == object.1)
            && replaced.as_ref().is_some_and(|replaced| replaced.0 == Object::File);
        if expected.is_err() || is_same {
            return; // two names of one file: nothing happens
        }
        self.unlinked(&to);
        let prefix = format!("{from}/");
        let below: Vec<String> = self.known.keys().filter(|path| path.starts_with(&prefix)).cloned().collect();
        for path in below {
            let moved = self.known.remove(&path).expect("listed");
            self.known.insert(format!("{to}/{}", &path[prefix.len()..]), moved);
        }
        let moved = self.known.remove(&from).expect("it was picked");
        self.known.insert(to, moved);
    }

    async fn open(&mut self) {
        let Some(path) = self.pick(|object| *object == Object::File) else { return };
        let file = self.known[&path].1;
        let flags = [libc::O_RDONLY, libc::O_RDWR, libc::O_RDWR | libc::O_APPEND, libc::O_RDWR | libc::O_TRUNC];
        let flags = flags[draw(flags.len())];
        let opened = self.kernel.open(self.task, &path, flags).await;
        let opened = opened.unwrap_or_else(|errno| panic!("open {path}: {errno}"));
        if flags & libc::O_TRUNC != 0 {
            (self.files[file].data, self.files[file].mtime) = (Vec::new(), None);
        }
        self.open.push((opened, file));
        if self.open.len() > OPEN_MAX {
            let (oldest, _) = self.open.remove(0);
            self.kernel.close(self.task, oldest).await.expect("close");
        }
    }

    /// Reads and writes through what is open, also if it has no name any more.
    async fn transfer(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let ((opened, file), task) = (self.open[draw(self.open.len())], self.task);
        let offset = draw(10_000) as u64;
        if draw(2) == 0 || !opened.is_writable() {
            let length = draw(9000);
            let data = self.kernel.read(task, opened, offset, length).await.expect("read");
            let known = &self.files[file].data;
            let begin = known.len().min(offset as usize);
            let expected = &known[begin..known.len().min(begin + length)];
            assert!(data == expected, "read {} bytes at {offset}, not {}", data.len(), expected.len());
            return;
        }
        let data = vec![draw(255) as u8 + 1; draw(6000) + 1];
        self.kernel.write(task, opened, offset, &data).await.expect("write");
        let known = &mut self.files[file].data;
        let at = if opened.appends() { known.len() } else { offset as usize };
        if known.len() < at + data.len() {
            known.resize(at + data.len(), 0);
        }
        known[at..at + data.len()].copy_from_slice(&data);
        self.files[file].mtime = None;
        if draw(4) == 0 {
            self.kernel.fsync(task, opened).await.expect("fsync");
        }
    }

    async fn change(&mut self) {
        let Some(path) = self.pick(|object| *object == Object::File) else { return };
        let (file, seconds) = (self.known[&path].1, draw(1 << 30) as i64 + 1);
        let change = match draw(2) {
            0 => SetAttr { size: Some(draw(12_000) as u64), ..SetAttr::default() },
            _ => SetAttr { mtime: Some(SetTime::To { seconds, nanos: 0 }), ..SetAttr::default() },
        };
        self.kernel.setattr(self.task, &path, change).await.unwrap_or_else(|errno| panic!("setattr {path}: {errno}"));
        if let Some(size) = change.size {
            self.files[file].data.resize(size as usize, 0);
        }
        self.files[file].mtime = change.mtime.map(|_| seconds as u32);
    }

    async fn look(&mut self) {
        if draw(2) == 0 {
            let directories = self.directories();
            let path = &directories[draw(directories.len())];
            let listed = self.kernel.list(self.task, path, self.page, draw(2) == 0).await;
            let mut listed = listed.unwrap_or_else(|errno| panic!("list {path}: {errno}"));
            listed.sort_unstable();
            assert_eq!(listed, self.children(path), "list {path}");
            return;
        }
        let path = self.any_path();
        let found = self.kernel.stat(self.task, &path).await;
        let Some((object, file)) = self.known.get(&path) else {
            assert_eq!(found, Err(libc::ENOENT), "stat {path}");
            return;
        };
        let attr = found.unwrap_or_else(|errno| panic!("stat {path}: {errno}"));
        match object {
            Object::Directory => assert_eq!(attr.mode & libc::S_IFMT, libc::S_IFDIR),
            Object::Fifo => assert_eq!(attr.mode & libc::S_IFMT, libc::S_IFIFO),
            Object::Link(target) => assert_eq!(self.kernel.readlink(self.task, &path).await.as_ref(), Ok(target)),
            Object::File => {
                let known = &self.files[*file];
                assert_eq!((attr.size, attr.nlink), (known.data.len() as u64, known.links), "stat {path}");
                assert!(known.mtime.is_none_or(|mtime| u64::from(mtime) == attr.mtime.0), "time of {path}");
            }
        }
    }

    async fn run(mut self, steps: u32) {
        self.kernel.mkdir(self.task, &self.base.clone()).await.expect("a directory of its own");
        for _ in 0..steps {
            self.operations.set(self.operations.get() + 1);
            match draw(16) {
                0..4 => self.make().await,
                4..6 => self.remove().await,
                6..8 => self.rename().await,
                8 | 9 => self.open().await,
                10..13 => self.transfer().await,
                13 => self.change().await,
                14 => self.look().await,
                _ => self.kernel.forget_unused(),
            }
        }
        for (file, _) in std::mem::take(&mut self.open) {
            self.kernel.close(self.task, file).await.expect("close");
        }
        self.look().await;
        self.kernel.settled().await;
        efc_tasks::time::sleep(Duration::from_secs(1)).await; // what was unlinked while open goes behind the last close
        for (path, (object, file)) in &self.known {
            if *object == Object::File {
                let data = self.kernel.nas().durable(path);
                assert!(data.as_deref() == Some(&self.files[*file].data), "{path} at the NAS");
            }
        }
        assert_eq!(self.kernel.nas().names(&self.base), self.children(&self.base), "{} at the NAS", self.path(""));
    }
}

/// One run; answers how many operations it had, and how often tasks were polled.
fn run(seed: u64) -> (u64, u64) {
    let simulation = Simulation::new(seed);
    let times = [1, 100, 1_000_000, 1_000_000_000];
    let options = Options {
        granularity: times[draw(times.len())],
        has_wcc: draw(4) != 0,
        mkdir_has_before: draw(2) == 0,
        has_attributes: draw(4) != 0,
        checks_cookie_verifiers: draw(2) == 0,
        page_entries_max: draw(5) + 1,
        ..Options::default()
    };
    let nas = Nas::new(options, seed);
    nas.network().set_delay(Duration::from_micros(draw(2000) as u64));
    if options.granularity <= 1000 && draw(2) == 0 {
        nas.network().set_twice(draw(20) as u32);
    }
    let ttls = [0, 1, 1000];
    let [ttl, write_behind] = [ttls[draw(ttls.len())], ttls[draw(ttls.len())]].map(Duration::from_millis);
    let kernel = Kernel::mount(&nas, 1, behind(write_behind, settings(ttl)), None);
    let operations = Rc::new(Cell::new(0));
    let processes: Vec<_> = (0..3)
        .map(|number| {
            let process = Process {
                kernel: kernel.clone(),
                task: Task::root(),
                base: format!("p{number}"),
                known: BTreeMap::new(),
                files: Vec::new(),
                open: Vec::new(),
                operations: operations.clone(),
                has_attributes: options.has_attributes,
                page: 700,
            };
            spawn_local(process.run(60))
        })
        .collect();
    let (is_over, killer) = (Rc::new(Cell::new(false)), kernel.clone());
    let (over, kills) = (is_over.clone(), draw(3));
    let killed = spawn_local(async move {
        for _ in 0..kills {
            efc_tasks::time::sleep(Duration::from_millis(draw(100) as u64)).await;
            if over.get() {
                return;
            }
            killer.kill_daemon();
        }
    });
    simulation.run(async {
        for process in processes {
            process.await;
        }
        is_over.set(true);
        killed.await;
        kernel.settled().await;
    });
    simulation.run_for(Duration::from_secs(120)); // whatever is left to be done is done by then
    match kernel.kills() {
        0 => kernel.assert_nothing_leaked(),
        _ => kernel.assert_nothing_left(),
    }
    (operations.get(), simulation.polls())
}

#[test]
fn model_of_trees() {
    let begin = std::time::Instant::now();
    let operations = with_seeds(60, |seed| run(seed).0);
    eprintln!("trees: {operations} operations in {:?}", begin.elapsed());
}

#[test]
fn a_seed_decides_a_run() {
    assert_eq!(run(5).1, run(5).1);
}
