//! Real mounts over the real `/dev/fuse`: files through std::fs, redelivery, and daemons that are killed.
//!
//! Needs root, and fails without `/dev/fuse`. The program starts itself again in three roles. The *guard* has a mount namespace of its
//! own. It starts the *keeper*, which runs the tests in a pid namespace, and watches the time. In the end it kills the keeper and
//! aborts every connection that is still mounted: a process that holds both `/dev/fuse` and a file inside that mount cannot
//! die otherwise, because its last close waits for an answer that nobody gives. The keeper starts the *daemons* (stdin is
//! the device and stdout the state, so that no descriptor has to be conjured up).

mod daemons;
mod mounts;
mod passthrough;
mod ramfs;
mod saved_state;
mod serving;
mod takeover;

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use mounts::PREFIX;
use rustix::mount::{MountFlags, UnmountFlags};

const ROLE: &str = "EFC_FUSE_TEST_ROLE";
const TIME_LIMIT: Duration = Duration::from_secs(90);

const TESTS: &[(&str, fn())] = &[
    ("files_and_directories", serving::files_and_directories),
    ("requests_of_a_mebibyte", serving::requests_of_a_mebibyte),
    ("statx_and_masked_features", serving::statx_and_masked_features),
    ("a_lost_reply_is_an_error", serving::a_lost_reply_is_an_error),
    ("an_interrupt_names_its_request", serving::an_interrupt_names_its_request),
    ("invalidation_shows_what_changed_behind", serving::invalidation_shows_what_changed_behind),
    ("a_lone_caller_is_served_by_one_thread", serving::a_lone_caller_is_served_by_one_thread),
    ("what_may_take_long_holds_up_nobody", serving::what_may_take_long_holds_up_nobody),
    ("read_only_refuses", serving::read_only_refuses),
    ("a_redelivered_request_is_executed_once", serving::a_redelivered_request_is_executed_once),
    ("a_successor_answers_what_a_killed_daemon_held", takeover::a_successor_answers_what_a_killed_daemon_held),
    ("older_kernels_have_their_requests_replayed", takeover::older_kernels_have_their_requests_replayed),
    ("what_an_ending_daemon_still_took_is_replayed", takeover::what_an_ending_daemon_still_took_is_replayed),
    ("a_successor_answers_init", takeover::a_successor_answers_init),
    ("the_kernel_reads_a_file_of_the_node_by_itself", passthrough::the_kernel_reads_a_file_of_the_node_by_itself),
    (
        "a_file_that_is_passed_through_is_opened_in_no_other_way",
        passthrough::a_file_that_is_passed_through_is_opened_in_no_other_way,
    ),
    (
        "a_mapping_outlives_the_last_close_and_the_backing",
        passthrough::a_mapping_outlives_the_last_close_and_the_backing,
    ),
    (
        "reads_go_on_without_a_daemon_and_the_next_one_has_the_same_backing",
        passthrough::reads_go_on_without_a_daemon_and_the_next_one_has_the_same_backing,
    ),
    ("an_older_kernel_is_not_asked_for_it", passthrough::an_older_kernel_is_not_asked_for_it),
    ("sigkill_tears_no_record", saved_state::sigkill_tears_no_record),
    ("sigkill_costs_no_acknowledged_write", saved_state::sigkill_costs_no_acknowledged_write),
];

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("guard") => guard(),
        Ok("keeper") => run_tests(),
        Ok("daemon") => daemons::daemon(),
        Ok("mute daemon") => daemons::mute_daemon(),
        Ok("churn") => saved_state::churn(),
        Ok("writer") => saved_state::writer(),
        _ if std::env::args().any(|argument| argument == "--list") => {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
            ExitCode::SUCCESS
        }
        _ => run_as("guard", &["--mount", "--propagation", "private"]).wait().map_or(ExitCode::FAILURE, exit_code),
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// This program in another role and in namespaces of its own. It is not in our process group, so that an interrupt from the terminal
/// does not keep the guard from tidying up.
fn run_as(role: &str, namespaces: &[&str]) -> Child {
    let mut command = Command::new("unshare");
    command.args(namespaces).arg(std::env::current_exe().unwrap()).args(std::env::args().skip(1));
    command.env(ROLE, role).process_group(0).spawn().expect("unshare(1)")
}

fn guard() -> ExitCode {
    let mut keeper = run_as("keeper", &["--pid", "--fork", "--kill-child"]);
    let start = Instant::now();
    let status = loop {
        match keeper.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if start.elapsed() > TIME_LIMIT => break None,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if status.is_none() {
        eprintln!("the tests did not end within {TIME_LIMIT:?}: killed");
        keeper.kill().unwrap();
    }
    let left = abort_connections();
    keeper.wait().unwrap();
    if left > 0 {
        eprintln!("{left} mounts were left behind");
    }
    status.filter(|_| left == 0).map_or(ExitCode::FAILURE, exit_code)
}

/// Aborts all connections that the tests have mounted in our namespace, unmounts them, and says how many there were.
fn abort_connections() -> usize {
    let control = std::env::temp_dir().join(format!("{PREFIX}control-{}", std::process::id()));
    fs::create_dir(&control).unwrap();
    rustix::mount::mount(c"none", &control, c"fusectl", MountFlags::empty(), None).unwrap();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut left = 0;
    for line in table.lines().filter(|line| line.contains(PREFIX) && line.contains(" fuse.efc ")) {
        let fields: Vec<&str> = line.split(' ').collect();
        let number = fields[2].split_once(':').unwrap().1;
        fs::write(control.join(number).join("abort"), "1").unwrap();
        rustix::mount::unmount(fields[4], UnmountFlags::DETACH).unwrap();
        fs::remove_dir(fields[4]).unwrap();
        left += 1;
    }
    rustix::mount::unmount(&control, UnmountFlags::DETACH).unwrap();
    fs::remove_dir(&control).unwrap();
    left
}

fn run_tests() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut failed = 0;
    for (name, test) in TESTS {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        print!("test {name} ... ");
        std::io::stdout().flush().unwrap();
        let outcome = std::panic::catch_unwind(test);
        println!("{}", if outcome.is_ok() { "ok" } else { "FAILED" });
        failed += usize::from(outcome.is_err());
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
