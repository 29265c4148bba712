//! One file under all kinds of schedules: it is opened, written, committed, renamed over, unlinked and released at once, and callers are
//! killed, while a schedule explorer switches between tasks wherever they take a lock, touch an atomic or wait.
//!
//! `EFC_SCHEDULES=N` runs N schedules of each kind. A failure prints the schedule, which `shuttle::replay` runs again.

use std::time::Duration;

use efc_model::{Nas, Options};
use efc_tasks::spawn_local;
use shuttle::scheduler::{PctScheduler, RandomScheduler};

use super::kernel::{Done, Kernel, Task, settings};

const SCHEDULES: usize = 300;
/// Switches against the priorities of tasks in a schedule of the PCT kind.
const SWITCHES: usize = 3;

/// Bytes of stack that a task has: futures are large without optimization.
const STACK: usize = 1 << 20;

fn schedules() -> usize {
    std::env::var("EFC_SCHEDULES").ok().and_then(|number| number.parse().ok()).unwrap_or(SCHEDULES)
}

fn explore(story: fn()) {
    let count = schedules();
    let mut config = shuttle::Config::new();
    (config.stack_size, config.silence_warnings) = (STACK, true);
    shuttle::Runner::new(RandomScheduler::new(count), config.clone()).run(story);
    shuttle::Runner::new(PctScheduler::new(SWITCHES, count), config).run(story);
}

fn world() -> (Nas, Kernel) {
    let nas = Nas::new(Options::default(), 1);
    nas.write_outside("file", 0, b"old content");
    nas.write_outside("other", 0, b"other content");
    let kernel = Kernel::mount(&nas, 1, settings(Duration::from_secs(1)), None);
    (nas, kernel)
}

/// Opens, writes and reads: whoever has a descriptor can use it. `false`: there was no such file, or its caller was killed.
async fn use_file(kernel: Kernel, task: Task, may_be_killed: bool) -> bool {
    let is_killed = |errno: i32| may_be_killed && errno == libc::EINTR;
    let file = match kernel.open(task, "file", libc::O_RDWR).await {
        Ok(file) => file,
        Err(errno) => {
            assert!(errno == libc::ENOENT || is_killed(errno), "open: errno {errno}");
            return false;
        }
    };
    let used: Done<()> = async {
        kernel.write(task, file, 0, b"new").await?;
        let data = kernel.read(task, file, 0, 20).await?;
        assert!(data.starts_with(b"new"), "{:?}", String::from_utf8_lossy(&data));
        kernel.fsync(task, file).await
    }
    .await;
    assert!(used.is_ok() || used.is_err_and(is_killed), "a descriptor that open(2) has given out: {used:?}");
    let closed = kernel.close(task, file).await;
    assert!(closed.is_ok() || closed.is_err_and(is_killed), "close: {closed:?}");
    used.is_ok()
}

/// Waits until all is done that is left to be done, and looks whether anything is left.
async fn assert_all_settled(kernel: &Kernel) {
    kernel.settled().await;
    for _ in 0..100 {
        if kernel.state().orphans().is_empty() && !kernel.efc().0.inodes.is_any_open() {
            break;
        }
        efc_tasks::time::sleep(Duration::from_millis(100)).await;
    }
    kernel.settled().await;
    kernel.assert_nothing_leaked();
}

#[test]
fn schedules_of_open_write_and_unlink() {
    explore(|| {
        let (nas, kernel) = world();
        efc_tasks::block_on(async {
            let first = spawn_local(use_file(kernel.clone(), Task::root(), false));
            let second = spawn_local(use_file(kernel.clone(), Task::root(), false));
            let removing = kernel.clone();
            let removed = spawn_local(async move { removing.unlink(Task::root(), "file").await });
            (first.await, second.await);
            removed.await.expect("unlink");
            assert_all_settled(&kernel).await;
        });
        assert_eq!(nas.names(""), ["other"]);
        assert_eq!(nas.objects(), 2, "the file is gone");
    });
}

#[test]
fn schedules_of_open_write_and_rename() {
    explore(|| {
        let (nas, kernel) = world();
        efc_tasks::block_on(async {
            let first = spawn_local(use_file(kernel.clone(), Task::root(), false));
            let second = spawn_local(use_file(kernel.clone(), Task::root(), false));
            let renaming = kernel.clone();
            let renamed = spawn_local(async move { renaming.rename(Task::root(), "other", "file").await });
            assert!(first.await && second.await, "the name is there all the time");
            renamed.await.expect("rename");
            assert_all_settled(&kernel).await;
        });
        assert_eq!(nas.names(""), ["file"]);
        assert_eq!(nas.objects(), 2, "what was replaced is gone");
    });
}

#[test]
fn schedules_of_killed_callers() {
    explore(|| {
        let (nas, kernel) = world();
        efc_tasks::block_on(async {
            let (dying, unlinking) = (Task::root(), Task::root());
            let killed = spawn_local(use_file(kernel.clone(), dying, true));
            let (removing, killing) = (kernel.clone(), kernel.clone());
            let removed = spawn_local(async move { removing.unlink(unlinking, "file").await });
            let killer = spawn_local(async move {
                efc_tasks::time::sleep(Duration::from_millis(50)).await;
                killing.kill(dying);
                killing.kill(unlinking);
            });
            (killed.await, killer.await);
            let removed = removed.await;
            assert!(removed.is_ok() || removed == Err(libc::EINTR), "unlink: {removed:?}");
            assert_all_settled(&kernel).await;
        });
        let is_there = nas.find("file").is_some();
        assert_eq!(nas.objects(), if is_there { 3 } else { 2 });
        if let Some(content) = nas.content("file") {
            assert_eq!(nas.durable("file"), Some(content), "what a killed caller has written is committed");
        }
    });
}

#[test]
fn schedules_of_write_and_commit() {
    explore(|| {
        let (nas, kernel) = world();
        efc_tasks::block_on(async {
            let writers: Vec<_> = (0..3_u8)
                .map(|number| {
                    let kernel = kernel.clone();
                    spawn_local(async move {
                        let task = Task::root();
                        let file = kernel.open(task, "file", libc::O_RDWR).await.expect("open");
                        kernel.write(task, file, u64::from(number) * 4, &[number + 1; 4]).await.expect("write");
                        kernel.fsync(task, file).await.expect("fsync");
                        let durable = kernel.nas().durable("file").expect("it is there");
                        let place = usize::from(number) * 4;
                        assert_eq!(durable[place..place + 4], [number + 1; 4], "fsync has returned");
                        kernel.close(task, file).await.expect("close");
                    })
                })
                .collect();
            let crashing = kernel.nas().clone();
            let crash = spawn_local(async move {
                efc_tasks::time::sleep(Duration::from_millis(40)).await;
                crashing.crash_hard();
            });
            for writer in writers {
                writer.await;
            }
            crash.await;
            assert_all_settled(&kernel).await;
        });
        assert_eq!(nas.content("file").expect("a file")[..12], [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
    });
}
