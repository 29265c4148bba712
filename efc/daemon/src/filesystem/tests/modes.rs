//! What each consistency mode promises, and what it saves: the shortest stories, with changes made at the NAS itself.

use std::time::Duration;

use efc_backend::SetAttr as ServerSetAttr;
use efc_fuse::SetAttr;
use efc_model::{Nas, Options};
use efc_tasks::simulation::Simulation;

use super::common::{self, pass};
use super::kernel::{Done, Kernel, Task, bounded, sealed, settings};
use crate::filesystem::Settings;

/// The T of `bounded`, and the least time of the others.
const T: Duration = Duration::from_secs(3);
const MINUTE: Duration = Duration::from_secs(60);
const READ: i32 = libc::O_RDONLY;

fn world(settings: Settings, options: Options) -> (Simulation, Nas, Kernel) {
    let (simulation, nas, kernel) = common::world(1, options, settings);
    simulation.run(pass(Duration::from_micros(1500))); // its times show that they are no whole seconds
    (simulation, nas, kernel)
}

/// The calls that something takes.
async fn calls<T>(nas: &Nas, of: impl Future<Output = T>) -> u64 {
    common::calls(nas, of).await.0
}

async fn read(kernel: &Kernel, task: Task, path: &str) -> Done<Vec<u8>> {
    common::head(kernel, task, path, 1 << 17).await
}

async fn open(kernel: &Kernel, task: Task, path: &str, flags: i32) -> Done<()> {
    let file = kernel.open(task, path, flags).await?;
    kernel.close(task, file).await
}

/// A small file and a large one, of everybody.
fn make_files(nas: &Nas) {
    nas.mkdir_outside("dir");
    nas.write_outside("dir/small", 0, b"small");
    nas.write_outside("dir/large", 0, &[7; 70_000]);
}

/// All that is done with what lies in a directory.
async fn use_all(kernel: &Kernel, task: Task) {
    for path in ["dir/small", "dir/large"] {
        kernel.stat(task, path).await.unwrap();
        read(kernel, task, path).await.unwrap();
    }
    assert_eq!(kernel.list(task, "dir", 4096, true).await.unwrap().len(), 2);
    assert_eq!(kernel.stat(task, "dir/nothing").await.err(), Some(libc::ENOENT));
}

/// Until versions are settled and noted.
async fn use_until_known(kernel: &Kernel, task: Task) {
    for _ in 0..3 {
        use_all(kernel, task).await;
        pass(Duration::from_millis(100)).await;
    }
}

fn chmod_outside(nas: &Nas, path: &str, mode: u32) {
    nas.set_outside(path, &ServerSetAttr { mode: Some(mode), ..ServerSetAttr::default() });
}

#[test]
fn what_was_validated_within_the_bound_costs_no_call() {
    let (simulation, nas, kernel) = world(bounded(T), Options::default());
    make_files(&nas);
    let task = Task::new(7);
    simulation.run(async {
        use_until_known(&kernel, task).await;
        use_all(&kernel, task).await;
        assert_eq!(calls(&nas, use_all(&kernel, task)).await, 0);
        pass(T).await;
        let again = calls(&nas, use_all(&kernel, task)).await;
        assert!((1..=8).contains(&again), "{again}: that the same is there still, and not what is in it");
        assert_eq!(calls(&nas, use_all(&kernel, task)).await, 0);
    });
}

#[test]
fn a_scan_of_a_directory_validates_all_that_is_in_it() {
    let (simulation, nas, kernel) = world(bounded(T), Options::default());
    nas.mkdir_outside("dir");
    (0..50).for_each(|number| nas.write_outside(&format!("dir/{number}"), 0, b"data"));
    let task = Task::new(7);
    simulation.run(async {
        let scan = async || {
            assert_eq!(kernel.list(task, "dir", 4096, true).await.unwrap().len(), 50);
            for number in 0..50 {
                kernel.stat(task, &format!("dir/{number}")).await.unwrap();
            }
        };
        scan().await;
        for _ in 0..3 {
            pass(T).await;
            let calls = calls(&nas, scan()).await;
            assert!(calls <= 6, "{calls}: by pages, not by files");
        }
    });
}

#[test]
fn within_the_bound_an_open_sees_what_was_seen_and_after_it_what_is_there() {
    let (simulation, nas, kernel) = world(bounded(T), Options::default());
    make_files(&nas);
    let task = Task::new(7);
    simulation.run(async {
        use_until_known(&kernel, task).await;
        nas.write_outside("dir/small", 0, b"SMALL");
        assert_eq!(read(&kernel, task, "dir/small").await.unwrap(), b"small");
        pass(T).await;
        assert_eq!(read(&kernel, task, "dir/small").await.unwrap(), b"SMALL");
    });
}

#[test]
fn in_close_to_open_an_open_sees_what_was_closed_before() {
    let (simulation, nas, kernel) = world(settings(T), Options::default());
    make_files(&nas);
    let task = Task::new(7);
    simulation.run(async {
        use_until_known(&kernel, task).await;
        for number in 0..5_u8 {
            nas.write_outside("dir/small", 0, &[number; 5]);
            assert_eq!(read(&kernel, task, "dir/small").await.unwrap(), [number; 5]);
        }
    });
}

#[test]
fn what_is_sealed_costs_no_call_until_the_daemon_is_replaced() {
    let (simulation, nas, kernel) = world(sealed(MINUTE), Options::default());
    make_files(&nas);
    let task = Task::new(7);
    simulation.run(async {
        use_until_known(&kernel, task).await;
        for _ in 0..3 {
            pass(MINUTE * 10).await;
            assert_eq!(calls(&nas, use_all(&kernel, task)).await, 0);
        }
        nas.write_outside("dir/small", 0, b"SMALL");
        assert_eq!(read(&kernel, task, "dir/small").await.unwrap(), b"small", "nobody said that it would change");
        kernel.kill_daemon();
        assert_eq!(read(&kernel, task, "dir/small").await.unwrap(), b"SMALL", "the next one asks once");
        pass(MINUTE).await;
        use_until_known(&kernel, task).await;
        assert_eq!(calls(&nas, use_all(&kernel, task)).await, 0);
    });
}

#[test]
fn a_right_that_is_taken_away_at_the_server_ends_within_the_bound_and_in_close_to_open_at_once() {
    for (settings, is_late) in [(bounded(T), true), (settings(T), false)] {
        let (simulation, nas, kernel) = world(settings, Options::default());
        make_files(&nas);
        let (task, other) = (Task::new(7), Task::new(8));
        simulation.run(async {
            use_until_known(&kernel, task).await;
            chmod_outside(&nas, "dir/small", 0o600);
            chmod_outside(&nas, "dir/large", 0o600);
            assert_eq!(open(&kernel, other, "dir/small", READ).await, Err(libc::EACCES), "each asks for itself");
            assert_eq!(open(&kernel, task, "dir/small", READ).await, Err(libc::EACCES), "and its answer is known");
            assert_eq!(open(&kernel, task, "dir/large", READ).await.is_ok(), is_late);
            pass(T).await;
            assert_eq!(open(&kernel, task, "dir/large", READ).await, Err(libc::EACCES));
        });
    }
}

#[test]
fn a_right_that_is_taken_away_on_the_node_ends_at_once() {
    let modes =
        [bounded(T), sealed(MINUTE), settings(T)].map(|settings| [(settings.clone(), 1), (settings, 1_000_000_000)]);
    for (settings, granularity) in modes.into_iter().flatten() {
        let (simulation, nas, kernel) = world(settings, Options { granularity, ..Options::default() });
        make_files(&nas);
        let task = Task::new(7);
        simulation.run(async {
            use_until_known(&kernel, task).await;
            let change = SetAttr { mode: Some(0o600), ..SetAttr::default() };
            for path in ["dir/small", "dir/large"] {
                kernel.setattr(Task::root(), path, change).await.unwrap();
                assert_eq!(open(&kernel, task, path, READ).await, Err(libc::EACCES), "{path}");
            }
        });
    }
}

#[test]
fn what_one_user_may_another_must_ask_for_and_who_may_read_must_ask_to_write() {
    for settings in [bounded(T), sealed(MINUTE)] {
        let (simulation, nas, kernel) = world(settings, Options { squashes_root: true, ..Options::default() });
        make_files(&nas);
        let owner = ServerSetAttr { uid: Some(7), mode: Some(0o600), ..ServerSetAttr::default() };
        nas.set_outside("dir/small", &owner);
        chmod_outside(&nas, "dir/large", 0o444);
        let task = Task::new(7);
        simulation.run(async {
            use_until_known(&kernel, task).await;
            assert_eq!(calls(&nas, async { open(&kernel, task, "dir/small", READ).await.unwrap() }).await, 0);
            for other in [Task::root(), Task::new(8)] {
                assert_eq!(open(&kernel, other, "dir/small", READ).await, Err(libc::EACCES));
                assert_eq!(open(&kernel, other, "dir/large", libc::O_WRONLY).await, Err(libc::EACCES));
                open(&kernel, other, "dir/large", READ).await.unwrap();
            }
            assert_eq!(open(&kernel, task, "dir/large", libc::O_RDWR).await, Err(libc::EACCES));
            open(&kernel, task, "dir/small", libc::O_RDWR).await.unwrap();
            let again = async { open(&kernel, task, "dir/small", libc::O_WRONLY).await.unwrap() };
            assert_eq!(calls(&nas, again).await, 0);
        });
    }
}

#[test]
fn an_entry_of_a_listing_lets_nobody_in() {
    let (simulation, nas, kernel) = world(bounded(T), Options::default());
    make_files(&nas);
    chmod_outside(&nas, "dir/small", 0o600);
    let task = Task::new(7);
    simulation.run(async {
        kernel.list(task, "dir", 4096, true).await.unwrap();
        kernel.stat(task, "dir/small").await.unwrap();
        assert_eq!(open(&kernel, task, "dir/small", READ).await, Err(libc::EACCES));
        assert_eq!(calls(&nas, async { open(&kernel, task, "dir/large", READ).await.unwrap() }).await, 1);
    });
}

#[test]
fn changes_of_the_node_itself_are_known_at_once() {
    for settings in [bounded(T), sealed(MINUTE)] {
        let (simulation, nas, kernel) = world(settings, Options::default());
        make_files(&nas);
        let task = Task::new(7);
        simulation.run(async {
            use_until_known(&kernel, task).await;
            chmod_outside(&nas, "dir/small", 0o666);
            pass(T).await;
            kernel.kill_daemon();
            let file = kernel.open(task, "dir/small", libc::O_RDWR).await.unwrap();
            for number in 0..5_u8 {
                kernel.write(task, file, 0, &[number; 5]).await.unwrap();
                assert_eq!(read(&kernel, task, "dir/small").await.unwrap(), [number; 5]);
                let looked = async { assert_eq!(kernel.stat(task, "dir/small").await.unwrap().size, 5) };
                assert_eq!(calls(&nas, looked).await, 0);
            }
            kernel.close(task, file).await.unwrap();
        });
    }
}

#[test]
fn attributes_of_a_file_are_asked_for_less_often_the_longer_it_has_not_changed() {
    let (simulation, nas, kernel) = world(settings(T), Options::default());
    make_files(&nas);
    let task = Task::new(7);
    simulation.run(async {
        kernel.stat(task, "dir/small").await.unwrap();
        let file = kernel.open(task, "dir/small", READ).await.unwrap();
        let stat_for = async |seconds: u64| {
            for _ in 0..seconds {
                kernel.attributes(task, file.node, None).await.unwrap();
                pass(Duration::from_secs(1)).await;
            }
        };
        let first = calls(&nas, stat_for(600)).await;
        assert!((10..=18).contains(&first), "{first}: after 3, 6, 12, 24, 48 s, and then each minute");
        nas.write_outside("dir/small", 0, b"longer than before");
        let mut waited = 0;
        while kernel.attributes(task, file.node, None).await.unwrap().size == 5 {
            waited += 1;
            pass(Duration::from_secs(1)).await;
        }
        assert!(waited <= 64, "a minute, and what the kernel keeps: {waited} s");
        let fresh = calls(&nas, stat_for(12)).await;
        assert!((2..=4).contains(&fresh), "{fresh}: it begins anew");
        kernel.close(task, file).await.unwrap();
    });
}
