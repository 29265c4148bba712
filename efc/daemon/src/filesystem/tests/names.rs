//! What is known of names and listings: how many calls it saves, and what ends it. Each story is the shortest that shows its rule.

use std::sync::Arc;
use std::time::Duration;

use efc_backend::{SetAttr as ServerSetAttr, Status};
use efc_fuse::SetAttr;
use efc_model::{Fault, Nas, Options, Procedure};
use efc_tasks::simulation::Simulation;
use efc_tasks::spawn_local;

use super::common::{self, calls, pass};
use super::kernel::{Kernel, Task, settings};
use crate::filesystem::{AheadSwitch, Settings};

const TTL: Duration = Duration::from_secs(3);
/// A listing that is kept over our own changes is read again by then.
const TRUST_MAX: Duration = Duration::from_secs(60);
const EXCLUSIVE: i32 = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;

fn world_with(options: Options, seed: u64) -> (Simulation, Nas, Kernel) {
    common::world(seed, options, settings(TTL))
}

fn world(seed: u64) -> (Simulation, Nas, Kernel) {
    world_with(Options::default(), seed)
}

/// Lets all go on that can, and versions be settled.
async fn pause() {
    pass(Duration::from_millis(100)).await;
}

async fn is_there(kernel: &Kernel, path: &str) -> bool {
    match kernel.stat(Task::root(), path).await {
        Ok(_) => true,
        Err(errno) => {
            assert_eq!(errno, libc::ENOENT);
            false
        }
    }
}

/// Another node puts one name in place of another, within the tick of the directory's last change if that is long: then the
/// directory has the version that it had.
fn replace_outside(nas: &Nas, old: &str, new: &str) {
    assert!(nas.remove_outside(old));
    nas.write_outside(new, 0, b"");
}

async fn create(kernel: &Kernel, path: &str) {
    let task = Task::root();
    let file = kernel.open(task, path, EXCLUSIVE).await.unwrap_or_else(|errno| panic!("{path}: {errno}"));
    kernel.close(task, file).await.unwrap();
}

#[test]
fn in_a_directory_of_our_own_no_name_is_asked_for() {
    for mkdir_has_before in [true, false] {
        names_of_our_own(Options { mkdir_has_before, ..Options::default() });
    }
}

fn names_of_our_own(options: Options) {
    let (simulation, nas, kernel) = world_with(options, 1);
    let task = Task::root();
    simulation.run(async {
        kernel.mkdir(task, "dir").await.unwrap();
        create(&kernel, "dir/first").await; // who looks into it for the first time asks
        for number in 0..20 {
            let path = |kind| format!("dir/{kind}-{number}");
            let per_operation = [
                calls(&nas, create(&kernel, &path("file"))).await.0,
                calls(&nas, async { kernel.mkdir(task, &path("dir")).await.unwrap() }).await.0,
                calls(&nas, async { kernel.symlink(task, "to", &path("symlink")).await.unwrap() }).await.0,
                calls(&nas, async { kernel.link(task, &path("file"), &path("link")).await.unwrap() }).await.0,
                calls(&nas, async { kernel.rename(task, &path("file"), &path("renamed")).await.unwrap() }).await.0,
                calls(&nas, async { kernel.rename(task, &path("symlink"), &path("renamed")).await.unwrap() }).await.0,
                calls(&nas, async { kernel.unlink(task, &path("renamed")).await.unwrap() }).await.0,
                calls(&nas, async { kernel.rmdir(task, &path("dir")).await.unwrap() }).await.0,
                calls(&nas, async { assert!(!is_there(&kernel, &path("dir")).await) }).await.0,
            ];
            assert_eq!(per_operation, [2, 1, 1, 1, 1, 1, 1, 1, 0], "{number}");
        }
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn an_open_file_elsewhere_makes_no_removal_ask() {
    let (simulation, nas, kernel) = world(2);
    let task = Task::root();
    simulation.run(async {
        let open = kernel.open(task, "open", EXCLUSIVE).await.unwrap();
        for name in ["a", "b", "c"] {
            create(&kernel, name).await;
        }
        kernel.released().await;
        let renamed = calls(&nas, async { kernel.rename(task, "a", "b").await.unwrap() }).await.0;
        let unlinked = calls(&nas, async { kernel.unlink(task, "b").await.unwrap() }).await.0;
        assert_eq!([renamed, unlinked], [1, 1]);
        // One that is open keeps its data, whatever is known of names.
        kernel.write(task, open, 0, b"data").await.unwrap();
        kernel.rename(task, "c", "open").await.unwrap();
        assert_eq!(kernel.read(task, open, 0, 10).await.unwrap(), b"data");
        kernel.close(task, open).await.unwrap();
        let open = kernel.open(task, "open", libc::O_RDWR).await.unwrap();
        kernel.write(task, open, 0, b"other").await.unwrap();
        kernel.unlink(task, "open").await.unwrap();
        assert_eq!(kernel.read(task, open, 0, 10).await.unwrap(), b"other");
        assert!(!is_there(&kernel, "open").await);
        kernel.close(task, open).await.unwrap();
        kernel.settled().await;
        pass(TTL).await;
        assert_eq!(nas.objects(), 1);
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_file_that_another_node_has_put_under_a_known_name_is_not_lost_when_it_is_open() {
    let (simulation, nas, kernel) = world(3);
    let task = Task::root();
    simulation.run(async {
        nas.write_outside("known", 0, b"known");
        nas.write_outside("other", 0, b"other");
        for _ in 0..10 {
            assert!(is_there(&kernel, "known").await); // it is trusted for long
            pass(TTL - Duration::from_millis(500)).await;
        }
        let open = kernel.open(task, "other", libc::O_RDONLY).await.unwrap();
        assert!(nas.rename_outside("other", "known"));
        pass(TTL * 2).await;
        kernel.unlink(task, "known").await.unwrap();
        assert_eq!(kernel.ask_read(task, open, 0, 10).await.unwrap(), b"other");
        kernel.close(task, open).await.unwrap();
        kernel.settled().await;
        pause().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn in_a_directory_of_others_one_look_up_is_all_that_is_asked() {
    let (simulation, nas, kernel) = world(4);
    let task = Task::root();
    for directory in ["dir", "other"] {
        nas.mkdir_outside(directory);
        (0..20).for_each(|number| nas.write_outside(&format!("{directory}/file-{number}"), 0, b""));
    }
    simulation.run(async {
        kernel.stat(task, "dir").await.unwrap();
        kernel.stat(task, "other").await.unwrap();
        let made = calls(&nas, create(&kernel, "dir/new")).await.0;
        let mkdir = calls(&nas, async { kernel.mkdir(task, "dir/sub").await.unwrap() }).await.0;
        let symlink = calls(&nas, async { kernel.symlink(task, "to", "dir/symlink").await.unwrap() }).await.0;
        let link = calls(&nas, async { kernel.link(task, "dir/new", "other/link").await.unwrap() }).await.0;
        let rename = calls(&nas, async { kernel.rename(task, "other/file-1", "other/renamed").await.unwrap() }).await.0;
        let unlink = calls(&nas, async { kernel.unlink(task, "other/file-2").await.unwrap() }).await.0;
        // The names of what is renamed and removed are looked up by the kernel's walk.
        assert_eq!([made, mkdir, symlink, link, rename, unlink], [3, 2, 2, 2, 3, 2]);
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

/// Look-ups and pages of listings, while so many names are looked up that are not there.
async fn missed(nas: &Nas, kernel: &Kernel, names: std::ops::Range<usize>) -> [u64; 2] {
    let executed = || [nas.executed(Procedure::Lookup), nas.executed(Procedure::Readdirplus)];
    let before = executed();
    for number in names {
        assert!(!is_there(kernel, &format!("dir/absent-{number}")).await);
    }
    std::array::from_fn(|of| executed()[of] - before[of])
}

#[test]
fn a_directory_in_which_names_are_missed_is_listed_and_then_says_so_itself() {
    let (simulation, nas, kernel) = world(6);
    nas.mkdir_outside("dir");
    (0..20).for_each(|number| nas.write_outside(&format!("dir/file-{number}"), 0, b""));
    simulation.run(async {
        kernel.stat(Task::root(), "dir").await.unwrap();
        assert_eq!(missed(&nas, &kernel, 0..20).await, [4, 1]);
        // Known for as long as it may be trusted, not longer.
        nas.write_outside("dir/absent-7", 0, b"");
        pass(TTL).await;
        assert!(is_there(&kernel, "dir/absent-7").await);
        // Others change it all the time: no listing lasts, and the next but one is asked for after 64 names. The directory's own is asked for too.
        let mut sum = [0, 0];
        for round in 0..60 {
            nas.write_outside(&format!("dir/other-{round}"), 0, b"");
            pass(TTL).await;
            let [lookups, pages] = missed(&nas, &kernel, 100 + round..101 + round).await;
            sum = [sum[0] + lookups, sum[1] + pages];
        }
        assert_eq!(sum, [2 * 60, 1]);
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn who_makes_files_in_a_large_directory_of_others_has_it_listed_between_two_of_them() {
    let (simulation, nas, kernel) = world(8);
    nas.mkdir_outside("dir");
    (0..300).for_each(|number| nas.write_outside(&format!("dir/file-{number}"), 0, b""));
    simulation.run(async {
        kernel.stat(Task::root(), "dir").await.unwrap();
        let (lookups, pages) = (nas.executed(Procedure::Lookup), nas.executed(Procedure::Readdirplus));
        for number in 0..20 {
            create(&kernel, &format!("dir/new-{number}")).await;
        }
        assert!(nas.executed(Procedure::Readdirplus) > pages + 1, "the model's pages are small");
        assert_eq!(nas.executed(Procedure::Lookup) - lookups, 4);
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_name_that_no_listing_shows_is_found_in_a_directory_whose_listing_is_known() {
    let (simulation, nas, kernel) = world_with(Options { hides_snapshots: true, ..Options::default() }, 9);
    for directory in ["dir", "dir/.snapshot"] {
        nas.mkdir_outside(directory);
        nas.write_outside(&format!("{directory}/file"), 0, b"");
    }
    simulation.run(async {
        kernel.stat(Task::root(), "dir").await.unwrap();
        assert_eq!(missed(&nas, &kernel, 0..20).await, [4, 1]);
        assert!(is_there(&kernel, "dir/.snapshot/file").await);
        assert_eq!(missed(&nas, &kernel, 20..40).await, [0, 0], "what else is known of it stays so");
        assert_eq!(kernel.list(Task::root(), "dir", 4096, true).await.unwrap(), ["file"]);
        pass(TTL).await;
        assert!(is_there(&kernel, "dir/.snapshot").await);
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_server_that_lists_nothing_has_few_directories_to_list_and_soon_nobody_waits_for_it() {
    let (simulation, nas, kernel) = world(10);
    (0..100).for_each(|number| nas.mkdir_outside(&format!("{number}")));
    simulation.run(async {
        let hold = nas.hold(Procedure::Readdirplus);
        for directory in 0..100 {
            for name in 0..4 {
                assert!(!is_there(&kernel, &format!("{directory}/{name}")).await);
            }
        }
        assert!((4..=16).contains(&hold.held()), "{} listings", hold.held());
        let begun = efc_tasks::time::now();
        for name in 4..100 {
            assert!(!is_there(&kernel, &format!("99/{name}")).await);
        }
        assert!(efc_tasks::time::since(begun) < Duration::from_secs(1));
        drop(hold);
        pass(TTL).await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_directory_that_is_not_to_be_listed_ahead_is_not() {
    let off = Settings { ahead: Arc::new(AheadSwitch::new(false)), ..settings(TTL) };
    let (simulation, nas, kernel) = common::world(7, Options::default(), off);
    nas.mkdir_outside("dir");
    simulation.run(async {
        kernel.stat(Task::root(), "dir").await.unwrap();
        assert_eq!(missed(&nas, &kernel, 0..20).await, [20, 0]);
    });
}

#[test]
fn a_listing_is_read_once_and_validated_by_the_directorys_version() {
    let (simulation, nas, kernel) = world(5);
    let task = Task::root();
    nas.mkdir_outside("dir");
    (0..300).for_each(|number| nas.write_outside(&format!("dir/file-{number}"), 0, b""));
    simulation.run(async {
        kernel.stat(task, "dir").await.unwrap();
        pass(TTL).await;
        let cold = calls(&nas, kernel.list(task, "dir", 4096, true)).await;
        let again = calls(&nas, kernel.list(task, "dir", 4096, true)).await;
        let names_only = calls(&nas, kernel.list(task, "dir", 4096, false)).await;
        assert_eq!(cold.1.as_ref().map(Vec::len), Ok(300));
        assert_eq!((&cold.1, &cold.1), (&again.1, &names_only.1));
        assert!(cold.0 >= 5, "pages of 64 names: {}", cold.0);
        assert_eq!([again.0, names_only.0], [0, 0]);
        assert!(!is_there(&kernel, "dir/first").await, "who looks into it for the first time asks");
        let missing = calls(&nas, is_there(&kernel, "dir/none")).await;
        let present = calls(&nas, is_there(&kernel, "dir/file-7")).await;
        assert_eq!([missing, present], [(0, false), (0, true)]);
        // Later one question will do for all names.
        pass(TTL).await;
        kernel.walk_name(task, 1, "dir", true).await.unwrap();
        let names_only = calls(&nas, kernel.list(task, "dir", 4096, false)).await;
        assert_eq!((names_only.0, names_only.1), (1, again.1));
        assert!(!is_there(&kernel, "dir/none").await, "whether we may still look into it is asked, too");
        assert_eq!(calls(&nas, is_there(&kernel, "dir/nothing")).await, (0, false));
        // With attributes a page brings many.
        let later = calls(&nas, kernel.list(task, "dir", 4096, true)).await.0;
        assert!(later < cold.0, "{later}");
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn what_another_node_does_in_a_listed_directory_is_seen_in_time() {
    let (simulation, nas, kernel) = world(6);
    let task = Task::root();
    nas.mkdir_outside("dir");
    (0..100).for_each(|number| nas.write_outside(&format!("dir/file-{number}"), 0, b""));
    simulation.run(async {
        for kind in 0..4 {
            pass(TTL).await;
            let listed = kernel.list(task, "dir", 4096, kind % 2 == 0).await.unwrap();
            let new = format!("new-{kind}");
            assert!(!listed.contains(&new) && !is_there(&kernel, &format!("dir/{new}")).await);
            nas.write_outside(&format!("dir/{new}"), 0, b"");
            assert!(nas.remove_outside(&format!("dir/file-{kind}")));
            if kind < 2 {
                pass(TTL).await;
            } else {
                // A change of ours finds another version than was known.
                create(&kernel, &format!("dir/ours-{kind}")).await;
                assert!(is_there(&kernel, &format!("dir/{new}")).await);
            }
            let listed = kernel.list(task, "dir", 4096, kind % 2 == 1).await.unwrap();
            assert!(listed.contains(&new) && !listed.contains(&format!("file-{kind}")), "{kind}: {listed:?}");
            assert!(is_there(&kernel, &format!("dir/{new}")).await);
        }
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_file_that_another_node_makes_is_seen_by_who_waits_for_it() {
    for granularity in [1, 1_000_000_000] {
        let (simulation, nas, kernel) = world_with(Options { granularity, ..Options::default() }, 7);
        let task = Task::root();
        simulation.run(async {
            kernel.mkdir(task, "ours").await.unwrap();
            nas.mkdir_outside("theirs");
            for dir in ["ours", "theirs"] {
                create(&kernel, &format!("{dir}/first")).await;
                kernel.list(task, dir, 4096, true).await.unwrap();
                // In the same tick as our change, where there are ticks.
                create(&kernel, &format!("{dir}/second")).await;
                let done = format!("{dir}/done");
                assert!(!is_there(&kernel, &done).await);
                replace_outside(&nas, &format!("{dir}/first"), &done);
                let begin = efc_tasks::time::now();
                let mut asked = 0;
                while !is_there(&kernel, &done).await {
                    pass(Duration::from_millis(10)).await;
                    asked += 1;
                    assert!(efc_tasks::time::since(begin) < TTL + Duration::from_millis(20), "{dir} {granularity}");
                }
                assert!(asked > 10, "it was answered from what is known");
            }
            kernel.settled().await;
        });
        kernel.assert_nothing_leaked();
    }
}

#[test]
fn a_listing_that_is_kept_over_our_changes_ends_after_a_minute() {
    let (simulation, nas, kernel) = world_with(Options { granularity: 1_000_000_000, ..Options::default() }, 8);
    let task = Task::root();
    simulation.run(async {
        kernel.mkdir(task, "dir").await.unwrap();
        create(&kernel, "dir/first").await;
        let second = |number: u64| async move { pass(Duration::from_micros(1_000_000 - number)).await };
        // Our changes find the version that ours have left, though another node has made something in that second.
        create(&kernel, "dir/0").await;
        replace_outside(&nas, "dir/first", "dir/theirs");
        let begin = efc_tasks::time::now();
        let mut number = 1;
        while !is_there(&kernel, "dir/theirs").await {
            second(number).await;
            create(&kernel, &format!("dir/{number}")).await;
            number += 1;
            assert!(efc_tasks::time::since(begin) < TRUST_MAX + TTL, "it is asked for at last");
        }
        assert!(number > 10, "{number}: the hint was followed");
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn what_was_listed_while_the_directory_had_just_changed_is_asked_for_again() {
    let (simulation, nas, kernel) = world_with(Options { granularity: 1_000_000_000, ..Options::default() }, 9);
    let task = Task::root();
    nas.mkdir_outside("dir");
    simulation.run(async {
        pass(Duration::from_millis(1_100)).await;
        nas.write_outside("dir/a", 0, b"");
        let listed = kernel.list(task, "dir", 4096, true).await.unwrap();
        assert!(!is_there(&kernel, "dir/b").await && listed == ["a"]);
        replace_outside(&nas, "dir/a", "dir/b");
        for _ in 0..5 {
            pass(TTL / 2).await;
            kernel.stat(task, "dir").await.unwrap();
        }
        assert!(is_there(&kernel, "dir/b").await);
        assert_eq!(kernel.list(task, "dir", 4096, false).await.unwrap(), ["b"]);
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn each_caller_asks_for_himself_first() {
    let (simulation, nas, kernel) = world(10);
    let (owner, other) = (Task::new(7), Task::new(8));
    nas.mkdir_outside("dir");
    (0..10).for_each(|number| nas.write_outside(&format!("dir/file-{number}"), 0, b""));
    nas.set_outside("dir", &ServerSetAttr { mode: Some(0o700), uid: Some(7), ..ServerSetAttr::default() });
    simulation.run(async {
        pass(TTL).await;
        kernel.list(owner, "dir", 4096, true).await.unwrap();
        kernel.stat(owner, "dir/none").await.unwrap_err();
        assert_eq!(calls(&nas, kernel.stat(owner, "dir/none")).await, (0, Err(libc::ENOENT)));
        let node = kernel.walk_name(owner, 1, "dir", true).await.unwrap();
        for name in ["none", "file-1"] {
            let (asked, found) = calls(&nas, kernel.walk_name(other, node, name, false)).await;
            assert!(asked > 0, "{name}");
            assert!(found.is_err() || name == "file-1", "{found:?}: the kernel knows that name already");
        }
        assert_eq!(kernel.list(other, "dir", 4096, false).await, Err(libc::EACCES));
        // A change of rights is seen at once where it is made, and elsewhere when what was said has ended.
        let change = SetAttr { mode: Some(0o000), ..SetAttr::default() };
        kernel.setattr(owner, "dir", change).await.unwrap();
        assert_eq!(kernel.walk_name(owner, node, "none", false).await, Err(libc::EACCES));
        nas.set_outside("dir", &ServerSetAttr { mode: Some(0o700), ..ServerSetAttr::default() });
        kernel.walk_name(owner, node, "none", false).await.unwrap_err();
        assert_eq!(kernel.walk_name(owner, node, "none", false).await, Err(libc::ENOENT));
        nas.set_outside("dir", &ServerSetAttr { mode: Some(0o000), ..ServerSetAttr::default() });
        pass(TTL).await;
        assert_eq!(kernel.walk_name(owner, node, "none", false).await, Err(libc::EACCES));
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_name_whose_object_is_gone_is_asked_for() {
    let (simulation, nas, kernel) = world(11);
    let task = Task::root();
    simulation.run(async {
        nas.write_outside("file", 0, b"first");
        for number in 0..5 {
            assert!(is_there(&kernel, "file").await);
            // Another node puts another file in its place.
            nas.write_outside("other", 0, format!("content {number}").as_bytes());
            assert!(nas.rename_outside("other", "file"));
            let open = kernel.open(task, "file", libc::O_RDONLY).await.unwrap();
            assert_eq!(kernel.read(task, open, 0, 100).await.unwrap(), format!("content {number}").as_bytes());
            kernel.close(task, open).await.unwrap();
        }
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_directory_that_another_node_has_replaced_is_listed() {
    let (simulation, nas, kernel) = world(12);
    let task = Task::root();
    simulation.run(async {
        for plus in [true, false] {
            nas.mkdir_outside("dir");
            nas.write_outside("dir/old", 0, b"");
            kernel.stat(task, "dir").await.unwrap();
            assert!(nas.remove_outside("dir/old") && nas.rmdir_outside("dir"));
            nas.mkdir_outside("dir");
            nas.write_outside("dir/new", 0, b"");
            assert_eq!(kernel.list(task, "dir", 4096, plus).await.unwrap(), ["new"]);
            // One that is opened while its listing is trusted is what it was then, and the next one the new one.
            let dir = kernel.opendir(task, "dir").await.unwrap();
            assert!(nas.remove_outside("dir/new") && nas.rmdir_outside("dir"));
            pass(TTL * 2).await;
            // opendir(3) asks what it has opened.
            assert_eq!(kernel.attributes(task, dir.node, None).await.map(|attr| attr.nlink), Ok(0));
            assert_eq!(kernel.attributes(Task::new(7), dir.node, None).await.map(drop), Err(libc::ESTALE));
            let listed = kernel.page(task, dir, 0, 4096, plus).await.unwrap();
            assert!(listed.iter().any(|listed| listed.name == b"new"));
            assert_eq!(kernel.page(task, dir, 0, 4096, plus).await.map(drop), Err(libc::ESTALE), "once");
            kernel.closedir(task, dir).await;
        }
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn what_is_made_after_opendir_is_in_the_listing() {
    let (simulation, _, kernel) = world(13);
    let task = Task::root();
    simulation.run(async {
        kernel.mkdir(task, "dir").await.unwrap();
        for name in ["first", "second"] {
            let dir = kernel.opendir(task, "dir").await.unwrap();
            create(&kernel, &format!("dir/{name}")).await;
            let listed = kernel.page(task, dir, 0, 4096, false).await.unwrap();
            assert!(listed.iter().any(|listed| listed.name == name.as_bytes()));
            kernel.closedir(task, dir).await;
        }
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_change_that_fails_or_is_not_answered_ends_what_is_known() {
    let (simulation, nas, kernel) = world(14);
    let task = Task::root();
    simulation.run(async {
        kernel.mkdir(task, "dir").await.unwrap();
        create(&kernel, "dir/first").await;
        // The name is taken, though it is known not to be there.
        assert!(!is_there(&kernel, "dir/a").await);
        nas.write_outside("dir/a", 0, b"");
        assert_eq!(kernel.mkdir(task, "dir/a").await, Err(libc::EEXIST));
        assert!(is_there(&kernel, "dir/a").await);
        // Nobody knows whether it was made.
        kernel.list(task, "dir", 4096, true).await.unwrap();
        pause().await;
        kernel.list(task, "dir", 4096, true).await.unwrap();
        nas.fault(Fault::Garbled(Procedure::Mkdir), 1);
        assert_eq!(kernel.mkdir(task, "dir/b").await.map(drop), Err(libc::EIO));
        assert!(is_there(&kernel, "dir/b").await);
        nas.fault(Fault::Garbled(Procedure::Rename), 1);
        assert_eq!(kernel.rename(task, "dir/b", "dir/c").await, Err(libc::EIO));
        assert!(is_there(&kernel, "dir/c").await);
        nas.fault(Fault::Garbled(Procedure::Rmdir), 1);
        assert_eq!(kernel.rmdir(task, "dir/c").await, Err(libc::EIO));
        assert!(!is_there(&kernel, "dir/c").await);
        nas.fault(Fault::Status(Procedure::Remove, Status::Acces), 1);
        assert_eq!(kernel.unlink(task, "dir/first").await, Err(libc::EACCES));
        assert!(is_there(&kernel, "dir/first").await);
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn a_successor_knows_nothing_that_it_was_not_told() {
    let (simulation, nas, kernel) = world(15);
    let task = Task::root();
    simulation.run(async {
        kernel.mkdir(task, "dir").await.unwrap();
        for procedure in [Procedure::Mkdir, Procedure::Rmdir] {
            let hold = nas.hold(procedure);
            let acting = kernel.clone();
            let done = spawn_local(async move {
                match procedure {
                    Procedure::Mkdir => acting.mkdir(task, "dir/sub").await.map(drop),
                    _ => acting.rmdir(task, "dir/sub").await,
                }
            });
            pause().await;
            kernel.kill_daemon();
            drop(hold);
            done.await.unwrap();
            if procedure == Procedure::Mkdir {
                // What another node has done since is in no answer to a predecessor's call.
                nas.write_outside("dir/sub/theirs", 0, b"");
                assert!(is_there(&kernel, "dir/sub/theirs").await);
                assert!(nas.remove_outside("dir/sub/theirs"));
                pass(TTL).await;
            }
            assert_eq!(is_there(&kernel, "dir/sub").await, procedure == Procedure::Mkdir);
        }
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}

/// In a directory of others that has been listed, and in one that we have just made.
#[test]
fn where_names_in_another_case_are_one_name_none_is_missing_since_it_is_in_no_listing() {
    let (simulation, nas, kernel) = world_with(Options { ignores_case: true, ..Options::default() }, 11);
    nas.mkdir_outside("dir");
    (0..20).for_each(|number| nas.write_outside(&format!("dir/File-{number}"), 0, b""));
    simulation.run(async {
        kernel.stat(Task::root(), "dir").await.unwrap();
        let pages = nas.executed(Procedure::Readdirplus);
        missed(&nas, &kernel, 0..10).await;
        assert_eq!(nas.executed(Procedure::Readdirplus), pages, "a listing would tell nothing");
        assert_eq!(kernel.list(Task::root(), "dir", 4096, true).await.unwrap().len(), 20);
        assert!(is_there(&kernel, "dir/file-3").await);
        kernel.mkdir(Task::root(), "ours").await.unwrap();
        assert!(!is_there(&kernel, "ours/NEW").await);
        create(&kernel, "ours/new").await;
        assert!(is_there(&kernel, "ours/NEW").await);
        assert!(is_there(&kernel, "Ours/new").await);
    });
    kernel.assert_nothing_leaked();
}

#[test]
fn where_names_in_another_case_are_one_name_it_is_removed_and_renamed_with_them() {
    let (simulation, nas, kernel) = world_with(Options { ignores_case: true, ..Options::default() }, 12);
    simulation.run(async {
        let task = Task::root();
        kernel.mkdir(task, "dir").await.unwrap();
        for name in ["gone", "moved", "kept"] {
            create(&kernel, &format!("dir/{name}")).await;
            assert!(is_there(&kernel, &format!("dir/{}", name.to_uppercase())).await);
        }
        kernel.unlink(task, "dir/gone").await.unwrap();
        kernel.rename(task, "dir/moved", "dir/other").await.unwrap();
        pass(TTL).await; // the kernel keeps a name for so long
        for (name, is_left) in [("GONE", false), ("MOVED", false), ("OTHER", true), ("KEPT", true)] {
            assert_eq!(is_there(&kernel, &format!("dir/{name}")).await, is_left, "{name}");
        }
        // What a rename replaces is found by the name that it has in another case: who has it open keeps it.
        let open = kernel.open(task, "dir/kept", libc::O_RDWR).await.unwrap();
        kernel.rename(task, "dir/other", "dir/KEPT").await.unwrap();
        kernel.write(task, open, 0, b"still there").await.unwrap();
        kernel.fsync(task, open).await.unwrap();
        kernel.close(task, open).await.unwrap();
        pass(TTL).await;
        assert_eq!(nas.names("dir").len(), 1);
    });
    kernel.assert_nothing_leaked();
}

/// Each has read a page of the NAS, and given out a part of it.
#[test]
fn directories_that_are_open_in_the_middle_of_their_listings_share_a_limit_and_lack_no_name() {
    const DIRECTORIES: usize = 10;
    const FILES: usize = 100;
    for checks_verifiers in [false, true] {
        let limited = Settings { at_hand_bytes_max: 64 << 10, ..settings(TTL) };
        let options = Options { checks_cookie_verifiers: checks_verifiers, ..Options::default() };
        let (simulation, nas, kernel) = common::world(13, options, limited);
        let paths: Vec<String> = (0..DIRECTORIES).map(|number| format!("dir-{number}")).collect();
        for path in &paths {
            nas.mkdir_outside(path);
            (0..FILES).for_each(|number| nas.write_outside(&format!("{path}/file-{number}"), 0, b""));
        }
        simulation.run(async {
            let task = Task::root();
            let mut open = Vec::new();
            for path in &paths {
                open.push((kernel.opendir(task, path).await.unwrap(), 0, Vec::new()));
            }
            let mut most = 0;
            let (mut is_over, mut voided) = (false, std::collections::HashSet::new());
            while !is_over {
                is_over = true;
                for (path, (dir, offset, names)) in paths.iter().zip(&mut open) {
                    let page = kernel.page(task, *dir, *offset, 1024, names.len() % 2 == 0).await.unwrap();
                    is_over &= page.is_empty();
                    if checks_verifiers && names.len() >= 30 && voided.insert(path) {
                        nas.write_outside(&format!("{path}/other"), 0, b""); // cookies are void from now on
                        assert!(nas.remove_outside(&format!("{path}/other")));
                    }
                    page.last().into_iter().for_each(|last| *offset = last.offset);
                    names.extend(page.into_iter().map(|listed| listed.name));
                    most = most.max(kernel.efc().bytes_at_hand());
                }
            }
            for (dir, _, mut names) in open {
                kernel.closedir(task, dir).await;
                names.retain(|name| name.starts_with(b"file-"));
                names.sort();
                let count = names.len();
                names.dedup();
                assert_eq!((count, names.len()), (FILES, FILES), "each name once");
            }
            assert!(most > 32 << 10 && most < 96 << 10, "{most} bytes");
            assert_eq!(kernel.efc().bytes_at_hand(), 0);
        });
        kernel.assert_nothing_leaked();
    }
}
