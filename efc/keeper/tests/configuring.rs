//! Options that a running daemon takes, and counters that go on from daemon to daemon, under a real keeper. Needs root and
//! `/dev/fuse`.

mod support;

use std::fs;
use std::os::fd::AsFd;

use efc_proto::mount_status::State;
use efc_proto::{DaemonConfig, MountStatus};
use rustix::process::Signal;
use support::programs::{OTHER, OWN, all_seals, memory, other_daemon, smallest_daemon};
use support::{Client, Ground, config, kill, read_ahead, wait_until};

/// A mount whose daemon is of the program that is installed.
fn mount(ground: &Ground, host: &str) -> (Client, MountStatus) {
    let client = ground.client();
    client.install(OWN, &[memory(&smallest_daemon(), all_seals()).as_fd()]).unwrap();
    let first = client.mount(&ground.target(), config(host)).unwrap();
    (client, first)
}

fn end(ground: &Ground, client: &Client) {
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn a_running_daemon_takes_live_options_and_every_later_one_has_them() {
    let mut ground = Ground::new();
    let (client, first) = mount(&ground, "nas");
    let options = DaemonConfig { attr_ttl_ms: 5, read_ahead_kib: 512, hang_limit_ms: 700, ..config("nas") };
    let status = client.configure(&ground.target(), options.clone()).unwrap();
    assert_eq!((status.pid, status.restarts, status.state()), (first.pid, 0, State::Serving));
    assert_eq!((status.config, status.options), (Some(config("nas")), Some(options.clone())));
    assert_eq!(read_ahead(status.connection), 512);
    // What is as it is takes nothing.
    assert_eq!(client.configure(&ground.target(), options.clone()).unwrap().pid, first.pid);
    // The daemon tells the next keeper.
    ground.signal(Signal::KILL);
    ground.wait_for_end();
    ground.restart_keeper();
    let client = ground.client();
    let taken_over = client.serving_after(0);
    assert_eq!((taken_over.pid, taken_over.options), (first.pid, Some(options.clone())));
    // Which knows what this daemon takes, too.
    client.install(OWN, &[memory(&smallest_daemon(), all_seals()).as_fd()]).unwrap();
    let longer = DaemonConfig { attr_ttl_ms: 6, ..options };
    assert_eq!(client.configure(&ground.target(), longer.clone()).unwrap().pid, first.pid);
    // Replaced after the new limit, not the ten seconds that it was mounted with.
    kill(first.pid, Signal::STOP);
    assert_eq!(client.serving_after(1).options, Some(longer));
    // And back to the options that it was mounted with.
    let status = client.configure(&ground.target(), config("nas")).unwrap();
    assert_eq!((status.options, status.restarts, read_ahead(status.connection)), (None, 1, 8192));
    assert_eq!(status.upgrades, 0, "the hung one was replaced");
    end(&ground, &client);
}

#[test]
fn where_one_option_is_not_live_the_daemon_is_replaced() {
    let ground = Ground::new();
    let (client, first) = mount(&ground, "nas");
    let options = DaemonConfig { attr_ttl_ms: 5, threads: 3, ..config("nas") };
    let status = client.configure(&ground.target(), options.clone()).unwrap();
    assert_eq!((status.options, status.restarts), (Some(options.clone()), 1));
    assert_ne!(status.pid, first.pid);
    // Another program is installed: it shall serve.
    client.install(OTHER, &[memory(&other_daemon(), all_seals()).as_fd()]).unwrap();
    let longer = DaemonConfig { attr_ttl_ms: 6, ..options };
    let status = client.configure(&ground.target(), longer.clone()).unwrap();
    assert_eq!((status.options, status.restarts, status.version.as_str()), (Some(longer.clone()), 2, OTHER));
    // And nothing but another daemon was asked for.
    let status = client.upgrade_with(&ground.target(), Some(longer)).unwrap();
    assert_eq!((status.restarts, status.upgrades), (3, 3));
    kill(status.pid, Signal::KILL);
    assert_eq!(client.serving_after(4).upgrades, 3);
    end(&ground, &client);
}

#[test]
fn daemons_that_do_not_take_options_are_replaced_and_the_next_ones_have_them() {
    for host in ["rigid", "headstrong", "deaf", "dies-configured"] {
        let ground = Ground::new();
        let (client, first) = mount(&ground, host);
        let options = DaemonConfig { attr_ttl_ms: 5, ..config(host) };
        let status = client.configure(&ground.target(), options.clone()).unwrap();
        assert_eq!((status.options, status.restarts), (Some(options), 1), "{host}");
        assert_ne!(status.pid, first.pid, "{host}");
        assert_eq!(fs::read(ground.hello()).unwrap(), b"hello, world\n", "{host}");
        end(&ground, &client);
    }
}

fn is_stopped(pid: i32) -> bool {
    let mut threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.all(|thread| {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        status.lines().any(|line| line.starts_with("State:\tT"))
    })
}

#[test]
fn a_daemon_that_hangs_while_it_is_told_is_replaced_by_one_with_the_options() {
    let ground = Ground::new();
    let (client, first) = mount(&ground, "nas");
    kill(first.pid, Signal::STOP);
    wait_until("all threads of the daemon to be stopped", || is_stopped(first.pid));
    let options = DaemonConfig { attr_ttl_ms: 5, ..config("nas") };
    let status = client.configure(&ground.target(), options.clone()).unwrap();
    assert_eq!((status.options, status.restarts), (Some(options), 1));
    end(&ground, &client);
}

#[test]
fn counters_of_a_session_never_go_down() {
    let mut ground = Ground::new();
    let (client, first) = mount(&ground, "nas");
    let (mut last, hello) = (0, ground.hello());
    let mut grow = |client: &Client| {
        (0..20).for_each(|_| assert_eq!(fs::read(&hello).unwrap(), b"hello, world\n"));
        // Each read is an OPEN and a READ at least. A daemon that has no time to report leaves its last report.
        let mut requests = last;
        wait_until("the counters grow", || {
            let seen = client.stats().expect("a report").fuse.expect("its subsystem").requests;
            assert!(seen >= requests, "{seen} after {requests}");
            requests = seen;
            requests >= last + 40
        });
        let flat = client.only().stats.expect("a report");
        assert_eq!(flat.fuse, None, "who does not ask for subsystems gets the form of 0.1.0");
        assert!(flat.fuse_requests >= requests, "{flat:?}");
        last = flat.fuse_requests;
    };
    grow(&client);
    kill(first.pid, Signal::KILL);
    client.serving_after(1);
    grow(&client);
    client.upgrade(&ground.target()).unwrap();
    grow(&client);
    ground.signal(Signal::KILL);
    ground.wait_for_end();
    ground.restart_keeper();
    let client = ground.client();
    let status = client.serving_after(2);
    grow(&client);
    kill(status.pid, Signal::KILL);
    client.serving_after(3);
    grow(&client);
    assert!(last >= 200, "{last}");
    end(&ground, &client);
}
