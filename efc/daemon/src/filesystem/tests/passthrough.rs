//! Files that the kernel reads by itself: when they are, what others get meanwhile, and that no open ever ends with EIO.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use efc_fuse::SetAttr;
use efc_model::{Nas, Options, Procedure};
use efc_tasks::simulation::Simulation;
use efc_tasks::spawn_local;

use super::common::{draw, pass, pause};
use super::kernel::{Done, File, Kernel, Task, behind, sealed};
use super::passing::Registry;
use super::with_seeds;

const MINUTE: Duration = Duration::from_secs(60);
const READ: i32 = libc::O_RDONLY;
/// Larger than what is read at open.
const SIZE: usize = 70_000;
/// As of the daemon: how long an open may wait.
const OPEN_TIME_MAX: Duration = Duration::from_millis(50);

fn world(seed: u64) -> (Simulation, Nas, Kernel, Arc<Registry>) {
    let simulation = Simulation::new(seed);
    let nas = Nas::new(Options::default(), seed);
    for name in ["file", "other"] {
        nas.write_outside(name, 0, &content(0));
    }
    nas.write_outside("small", 0, b"small");
    let registry = Registry::new(&[(0, &nas)], &["file", "other", "small"]);
    let settings = behind(Duration::from_secs(1), sealed(MINUTE));
    let kernel = Kernel::mount_with(&nas, 1, settings, None, Some(registry.clone()));
    simulation.run(pass(Duration::from_secs(3))); // then no change can have their versions any more
    (simulation, nas, kernel, registry)
}

/// A value, and what follows from it.
fn content(value: u64) -> Vec<u8> {
    let mut content: Vec<u8> = (0..SIZE).map(|at| (at / 7) as u8).collect();
    content[..8].copy_from_slice(&value.to_le_bytes());
    content
}

async fn value(kernel: &Kernel, task: Task, file: File) -> Done<u64> {
    let read = kernel.read(task, file, 0, 8).await?;
    Ok(u64::from_le_bytes(read.try_into().expect("the beginning of the file")))
}

async fn close(kernel: &Kernel, files: &[File]) {
    for file in files {
        kernel.close(Task::root(), *file).await.unwrap();
    }
    kernel.released().await;
}

/// How many files are open by passthrough.
fn passing(kernel: &Kernel) -> u64 {
    kernel.efc().passed_through().1
}

#[test]
fn a_file_that_the_node_holds_is_read_without_the_daemon_and_its_number_goes_with_the_last_close() {
    let (simulation, nas, kernel, registry) = world(1);
    simulation.run(async {
        let task = Task::root();
        let first = kernel.open(task, "file", READ).await.unwrap();
        kernel.kill_daemon();
        let second = kernel.open(task, "file", READ).await.unwrap();
        assert!(kernel.read(task, second, 0, SIZE).await.unwrap() == content(0));
        assert_eq!((nas.executed(Procedure::Read), registry.left(), registry.asked()), (0, 1, 1));
        close(&kernel, &[first]).await;
        assert_eq!((passing(&kernel), registry.left()), (1, 1));
        close(&kernel, &[second]).await;
        assert_eq!((passing(&kernel), registry.left()), (0, 0));
        kernel.assert_nothing_left();
    });
}

#[test]
fn files_of_two_servers_with_one_handle_are_passed_through_each_with_its_own_content() {
    let simulation = Simulation::new(5);
    let nas = [Nas::new(Options::default(), 5), Nas::new(Options::default(), 5)];
    for (nas, value) in nas.iter().zip(1..) {
        nas.write_outside("file", 0, &content(value));
    }
    assert_eq!(nas[0].find("file"), nas[1].find("file"));
    let registry = Registry::new(&[(1, &nas[0]), (2, &nas[1])], &["file"]);
    let several = [("/one", &nas[0]), ("/two", &nas[1])];
    let kernel = Kernel::mount_several(&several, sealed(MINUTE), Some(registry.clone()));
    simulation.run(async {
        pass(Duration::from_secs(3)).await;
        let task = Task::root();
        let one = kernel.open(task, "one/file", READ).await.unwrap();
        kernel.kill_daemon();
        let two = kernel.open(task, "two/file", READ).await.unwrap();
        assert_eq!((passing(&kernel), registry.left()), (2, 2));
        assert_eq!((value(&kernel, task, one).await, value(&kernel, task, two).await), (Ok(1), Ok(2)));
        assert_eq!(kernel.open(task, "one/file", libc::O_WRONLY).await.err(), Some(libc::ETXTBSY));
        close(&kernel, &[one, two]).await;
        assert_eq!((passing(&kernel), registry.left()), (0, 0));
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn who_would_change_it_is_told_that_it_is_busy_until_the_last_close() {
    let (simulation, _nas, kernel, _) = world(2);
    simulation.run(async {
        let task = Task::root();
        let file = kernel.open(task, "file", READ).await.unwrap();
        let shorter = SetAttr { size: Some(5), ..SetAttr::default() };
        for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR | libc::O_APPEND, libc::O_WRONLY | libc::O_TRUNC] {
            assert_eq!(kernel.open(task, "file", flags).await.err(), Some(libc::ETXTBSY));
        }
        assert_eq!(kernel.setattr(task, "file", shorter).await.err(), Some(libc::ETXTBSY));
        kernel.setattr(task, "file", SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.unwrap();
        close(&kernel, &[file]).await;
        let writer = kernel.open(task, "file", libc::O_RDWR).await.unwrap();
        let reader = kernel.open(task, "file", READ).await.unwrap();
        assert_eq!(passing(&kernel), 0, "somebody writes to it");
        kernel.write(task, writer, 0, &7_u64.to_le_bytes()).await.unwrap();
        assert_eq!(value(&kernel, task, reader).await, Ok(7));
        close(&kernel, &[writer, reader]).await;
        kernel.setattr(task, "file", shorter).await.unwrap();
        kernel.assert_nothing_left();
    });
}

#[test]
fn who_changes_it_right_after_the_last_close_is_not_told_that_it_is_busy() {
    with_seeds(40, |seed| {
        let (simulation, _nas, kernel, registry) = world(seed);
        simulation.run(async {
            let task = Task::root();
            let shorter = SetAttr { size: Some(SIZE as u64 - 1), ..SetAttr::default() };
            let read = async |path: &str| {
                let file = kernel.open(task, path, READ).await.unwrap();
                assert_eq!(passing(&kernel), 1);
                kernel.close(task, file).await.unwrap(); // the daemon hears of it at some time
            };
            read("file").await;
            let writer = kernel.open(task, "file", libc::O_WRONLY).await.unwrap();
            read("other").await;
            kernel.setattr(task, "other", shorter).await.unwrap();
            close(&kernel, &[writer]).await;
            assert_eq!(registry.left(), 0);
        });
        kernel.assert_nothing_left();
        1
    });
}

#[test]
fn who_opens_it_for_the_next_daemon_does_not_keep_a_truncation_of_before_from_its_end() {
    with_seeds(40, |seed| {
        let (simulation, nas, kernel, _) = world(seed);
        simulation.run(async {
            let (task, other) = (Task::root(), Task::root());
            kernel.stat(other, "file").await.unwrap();
            nas.network().set_delay(Duration::from_millis(5));
            let hold = nas.hold(Procedure::Setattr);
            let truncating = kernel.clone();
            let shorter = SetAttr { size: Some(SIZE as u64 - 1), ..SetAttr::default() };
            let truncated = spawn_local(async move { truncating.setattr(task, "file", shorter).await.map(drop) });
            pass(Duration::from_millis(50)).await;
            kernel.kill_daemon();
            let file = kernel.open(other, "file", READ).await.unwrap();
            drop(hold);
            truncated.await.unwrap();
            close(&kernel, &[file]).await;
        });
        kernel.assert_nothing_left();
        1
    });
}

#[test]
fn what_is_not_passed_through_is_read_as_ever() {
    let (simulation, nas, kernel, registry) = world(3);
    simulation.run(async {
        let task = Task::root();
        let small = kernel.open(task, "small", READ).await.unwrap();
        let direct = kernel.open(task, "other", READ | libc::O_DIRECT).await.unwrap();
        assert_eq!((registry.asked(), passing(&kernel)), (0, 0));
        assert_eq!(kernel.read(task, small, 0, 8).await.unwrap(), b"small");
        assert_eq!(value(&kernel, task, direct).await, Ok(0));
        let read = nas.executed(Procedure::Read);
        let file = kernel.open(task, "file", READ).await.unwrap();
        let beside = kernel.open(task, "file", READ | libc::O_DIRECT).await.unwrap();
        assert_eq!(value(&kernel, task, beside).await, Ok(0));
        assert_eq!((nas.executed(Procedure::Read), passing(&kernel)), (read + 1, 1), "past all caches");
        close(&kernel, &[small, direct, file, beside]).await;
        kernel.assert_nothing_left();
    });
}

#[test]
fn whoever_is_to_give_numbers_is_waited_for_a_moment_and_all_who_open_at_once_get_the_same() {
    let (simulation, _nas, kernel, registry) = world(4);
    simulation.run(async {
        registry.is_mute.store(true, Ordering::Relaxed);
        let before = efc_tasks::time::now();
        let slow = open_all(&kernel, 3).await;
        assert!(efc_tasks::time::since(before) < 2 * OPEN_TIME_MAX, "all of them waited for the same");
        assert_eq!(passing(&kernel), 0);
        close(&kernel, &slow).await;
        registry.is_mute.store(false, Ordering::Relaxed);
        let asked = registry.asked();
        let files = open_all(&kernel, 20).await;
        assert_eq!((registry.asked() - asked, passing(&kernel)), (1, 1));
        close(&kernel, &files).await;
        assert_eq!(registry.left(), 0);
        kernel.assert_nothing_left();
    });
}

async fn open_all(kernel: &Kernel, count: usize) -> Vec<File> {
    let open = |_| {
        let kernel = kernel.clone();
        spawn_local(async move { kernel.open(Task::root(), "file", READ).await.unwrap() })
    };
    let mut files = Vec::new();
    for opening in (0..count).map(open).collect::<Vec<_>>() {
        files.push(opening.await);
    }
    files
}

#[test]
fn numbers_that_a_killed_daemon_had_no_time_to_give_back_its_successor_gives_back() {
    let (simulation, _nas, kernel, registry) = world(6);
    simulation.run(async {
        let task = Task::root();
        let files = [kernel.open(task, "file", READ).await.unwrap(), kernel.open(task, "other", READ).await.unwrap()];
        registry.is_deaf.store(true, Ordering::Relaxed);
        close(&kernel, &files[..1]).await;
        kernel.kill_daemon();
        registry.is_deaf.store(false, Ordering::Relaxed);
        assert_eq!((passing(&kernel), registry.left()), (1, 1));
        assert_eq!(value(&kernel, task, files[1]).await, Ok(0));
        close(&kernel, &files[1..]).await;
        assert_eq!(registry.left(), 0);
        kernel.assert_nothing_left();
    });
}

/// What has been written to a file: values that have come back, and the last that was begun.
#[derive(Default)]
struct Written {
    known: Cell<u64>,
    begun: Cell<u64>,
    /// One after the other, or which is the last is anybody's guess.
    is_written: Cell<bool>,
}

/// A process opens files in all ways, reads, writes, and is killed now and then.
async fn process(kernel: Kernel, files: Rc<[(&'static str, Written)]>, passed: Rc<Cell<u64>>) {
    for _ in 0..12 {
        pass(Duration::from_millis(draw(40) as u64)).await;
        let (path, written) = &files[draw(files.len())];
        let task = Task::root();
        if draw(4) == 0 {
            write(&kernel, task, path, written).await;
            continue;
        }
        let flags = READ | if draw(5) == 0 { libc::O_DIRECT } else { 0 };
        let known = written.known.get();
        if draw(6) == 0 {
            let dying = kernel.clone();
            drop(spawn_local(async move {
                pass(Duration::from_millis(draw(30) as u64)).await;
                dying.kill(task);
            }));
        }
        let file = match kernel.open(task, path, flags).await {
            Ok(file) => file,
            Err(errno) => {
                assert!(errno == libc::EINTR && kernel.is_killed(task), "errno {errno}");
                continue;
            }
        };
        passed.set(passed.get().max(kernel.efc().passed_through().0));
        for _ in 0..draw(3) {
            if let Ok(read) = value(&kernel, task, file).await {
                assert!((known..=written.begun.get()).contains(&read), "{path}: {read}, and {known} was there");
            }
            pass(Duration::from_millis(draw(30) as u64)).await;
        }
        kernel.close(task, file).await.unwrap();
    }
}

async fn write(kernel: &Kernel, task: Task, path: &str, written: &Written) {
    if written.is_written.replace(true) {
        return;
    }
    let file = match kernel.open(task, path, libc::O_WRONLY).await {
        Err(libc::ETXTBSY) => return written.is_written.set(false),
        opened => opened.unwrap(),
    };
    let value = written.begun.get() + 1;
    written.begun.set(value);
    kernel.write(task, file, 0, &value.to_le_bytes()).await.unwrap();
    kernel.close(task, file).await.unwrap();
    written.known.set(value);
    written.is_written.set(false);
}

/// Answers how many opens were passed through at most under one daemon.
fn history(seed: u64, kills: usize) -> u64 {
    let (simulation, _nas, kernel, registry) = world(seed);
    let passed = Rc::new(Cell::new(0));
    simulation.run(async {
        registry.is_whimsical.store(true, Ordering::Relaxed);
        let files: Rc<[(&str, Written)]> = Rc::new([("file", Written::default()), ("other", Written::default())]);
        let processes: Vec<_> =
            (0..6).map(|_| spawn_local(process(kernel.clone(), files.clone(), passed.clone()))).collect();
        for _ in 0..kills {
            pass(Duration::from_millis(draw(300) as u64)).await;
            kernel.kill_daemon();
        }
        for process in processes {
            process.await;
        }
        kernel.settled().await;
        pass(MINUTE).await;
        pause().await;
        assert_eq!(passing(&kernel), 0, "files that count as open");
        assert_eq!(registry.left(), 0, "numbers that nobody has given back");
        kernel.assert_nothing_left();
    });
    passed.get()
}

#[test]
fn no_open_ends_with_eio_and_no_number_is_left_whoever_opens_writes_and_dies() {
    assert!(with_seeds(60, |seed| history(seed, 0)) > 60, "files were passed through");
}

#[test]
fn nor_does_one_whenever_daemons_are_killed() {
    assert!(with_seeds(60, |seed| history(1000 + seed, 4)) > 60, "files were passed through");
}
