//! Programs that a client hands over, as the node plugin does, under a real keeper. Needs root and `/dev/fuse`.

mod support;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::thread::JoinHandle;

use efc_proto::error::Code;
use efc_proto::mount_status::State;
use efc_proto::{DaemonConfig, Error, MountStatus, MountedSource};
use rustix::fs::SealFlags;
use rustix::process::Signal;
use support::programs::{OTHER, OWN, all_seals, memory, other_daemon, smallest_daemon};
use support::{Ground, config, kill, read_ahead};

fn program_of(pid: i32) -> String {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap().to_string_lossy().into_owned()
}

#[test]
fn the_next_daemon_runs_what_was_installed_and_the_running_one_stays() {
    let ground = Ground::new();
    let client = ground.client();
    let first = client.mount(&ground.target(), config("nas")).unwrap();
    assert_eq!(first.version, OWN);
    assert_eq!(client.status().program_version, "");
    let program = memory(&other_daemon(), all_seals());
    client.install(OTHER, &[program.as_fd()]).unwrap();
    client.install(OTHER, &[program.as_fd()]).unwrap();
    // The keeper has its own descriptor of it.
    drop(program);
    let status = client.status();
    assert_eq!(status.program_version, OTHER);
    assert_eq!((status.mounts[0].pid, status.mounts[0].restarts), (first.pid, 0));
    let own = program_of(first.pid);
    assert!(own.ends_with("/smallest_daemon"), "{own}");

    let file = fs::File::open(ground.hello()).unwrap();
    kill(first.pid, Signal::KILL);
    let successor = client.serving_after(1);
    assert_eq!(successor.version, OTHER);
    assert_eq!(program_of(successor.pid), "/memfd:efcd (deleted)");
    let mut buffer = [0; 13];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"hello, world\n");
    assert_eq!(fs::read(format!("/proc/{}/cmdline", successor.pid)).unwrap(), b"efcd\0");
    drop(file);
    client.unmount_soon(&ground.target());

    let third = client.mount(&ground.target(), config("nas")).unwrap();
    assert_eq!((third.version.as_str(), program_of(third.pid).as_str()), (OTHER, "/memfd:efcd (deleted)"));
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn what_could_change_or_cannot_run_is_refused() {
    let ground = Ground::new();
    let client = ground.client();
    let program = smallest_daemon();
    let refused = |version: &str, memory: &OwnedFd, code: Code, reason: &str| {
        let error = client.install(version, &[memory.as_fd()]).unwrap_err();
        assert_eq!(error.code(), code, "{}", error.message);
        assert!(error.message.contains(reason), "{reason:?} in {}", error.message);
    };
    for missing in [SealFlags::SEAL, SealFlags::SHRINK, SealFlags::GROW, SealFlags::WRITE] {
        refused(OWN, &memory(&program, all_seals() - missing), Code::InvalidArgument, "seals");
    }
    refused(OWN, &fs::File::open("/bin/true").unwrap().into(), Code::InvalidArgument, "seals");
    for content in [&b""[..], b"#!/bin/sh\necho smallest\n", &program[..32], &[b'x'; 4096]] {
        refused(OWN, &memory(content, all_seals()), Code::InvalidArgument, "ELF");
    }
    // Half a program: it has the right head, and does not run.
    refused(OWN, &memory(&program[..4096], all_seals()), Code::FailedPrecondition, "does not run");
    refused(OTHER, &memory(&program, all_seals()), Code::InvalidArgument, "says that it is \"smallest\"");
    refused("", &memory(&program, all_seals()), Code::InvalidArgument, "version");
    let good = memory(&program, all_seals());
    for descriptors in [&[][..], &[good.as_fd(), good.as_fd()]] {
        assert_eq!(client.install(OWN, descriptors).unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(client.status().program_version, "");
    let status = client.mount(&ground.target(), config("nas")).unwrap();
    assert!(program_of(status.pid).ends_with("/smallest_daemon"));
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

fn install_other(client: &support::Client) {
    client.install(OTHER, &[memory(&other_daemon(), all_seals()).as_fd()]).unwrap();
}

#[test]
fn a_running_daemon_is_upgraded_and_back_again() {
    let ground = Ground::new();
    let client = ground.client();
    let first = client.mount(&ground.target(), config("nas")).unwrap();
    let file = fs::File::open(ground.hello()).unwrap();
    install_other(&client);
    let upgraded = client.upgrade(&ground.target()).unwrap();
    assert_eq!((upgraded.version.as_str(), upgraded.state()), (OTHER, State::Serving));
    assert_ne!(upgraded.pid, first.pid);
    let mut buffer = [0; 13];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"hello, world\n");
    client.install(OWN, &[memory(&smallest_daemon(), all_seals()).as_fd()]).unwrap();
    assert_eq!(client.upgrade(&ground.target()).unwrap().version, OWN);
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut buffer, 0).unwrap();
    drop(file);
    client.unmount_soon(&ground.target());
    assert_eq!(client.upgrade(&ground.target()).unwrap_err().code(), Code::NotFound);
    ground.assert_nothing_left();
}

#[test]
fn a_program_that_cannot_take_the_state_over_touches_nothing() {
    let ground = Ground::new();
    let client = ground.client();
    let first = client.mount(&ground.target(), config("stubborn")).unwrap();
    install_other(&client);
    let error = client.upgrade(&ground.target()).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message.contains("nobody understands this state"), "{}", error.message);
    assert_eq!((client.only().pid, client.only().restarts), (first.pid, 0));
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn a_program_of_a_release_without_passthrough_or_small_files_does_not_get_a_session_with_files_open_so() {
    let ground = Ground::new();
    let client = ground.client();
    let first = client.mount(&ground.target(), config("nas")).unwrap();
    install_other(&client);
    let (_, descriptors) = client.hold(&ground.target()).unwrap();
    let state = fs::File::from(descriptors.into_iter().nth(1).unwrap());
    let note = |bits: u64| state.write_all_at(&bits.to_ne_bytes(), efc_proto::HOLDING_OFFSET).unwrap();
    for (bit, why) in [
        (efc_proto::HOLDS_PASSTHROUGH, "knows nothing of passthrough"),
        (efc_proto::HOLDS_UNOPENED, "knows nothing of the option small-files"),
    ] {
        note(bit);
        let error = client.upgrade(&ground.target()).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(error.message.contains(why), "{}", error.message);
    }
    assert_eq!((client.only().pid, client.only().restarts), (first.pid, 0));
    kill(first.pid, Signal::KILL);
    assert_eq!(client.serving_after(1).version, OWN, "the former program's successor");
    note(0);
    assert_eq!(client.upgrade(&ground.target()).unwrap().version, OTHER);
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn after_a_death_the_former_program_goes_on_with_a_state_that_the_installed_one_cannot_read() {
    let ground = Ground::new();
    let client = ground.client();
    for (layout, version) in [(efc_proto::LAYOUT_OF_ONE_SOURCE, OTHER), (efc_proto::LAYOUT_OF_ONE_SOURCE + 1, OWN)] {
        let first = client.mount(&ground.target(), config("stubborn")).unwrap();
        assert_eq!(first.version, OWN);
        let (_, descriptors) = client.hold(&ground.target()).unwrap();
        // The other half of the word is none of the layout's.
        let word = layout | 7 << 32;
        rustix::io::pwrite(&descriptors[1], &word.to_ne_bytes(), efc_proto::LAYOUT_OFFSET).unwrap();
        drop(descriptors);
        install_other(&client);
        kill(first.pid, Signal::KILL);
        assert_eq!(client.serving_after(1).version, version, "layout {layout}");
        client.unmount_soon(&ground.target());
        client.install(OWN, &[memory(&smallest_daemon(), all_seals()).as_fd()]).unwrap();
    }
    ground.assert_nothing_left();
}

#[test]
fn sources_at_the_root_and_below_it_are_two_kinds_of_mount() {
    let ground = Ground::new();
    let client = ground.client();
    let first = client.mount(&ground.target(), config("nas")).unwrap();
    let mounted = MountedSource { source: config("nas").source, path: "/a".into(), read_only: false };
    let several = DaemonConfig { source: None, sources: vec![mounted], ..config("nas") };
    let error = client.upgrade_with(&ground.target(), Some(several)).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message.contains("one source at its root and several below it"), "{}", error.message);
    assert_eq!(client.only().pid, first.pid);
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn a_program_that_does_not_serve_gives_the_mount_back() {
    let ground = Ground::new();
    let client = ground.client();
    client.mount(&ground.target(), config("regresses")).unwrap();
    let file = fs::File::open(ground.hello()).unwrap();
    install_other(&client);
    let error = client.upgrade(&ground.target()).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message.contains("the former program has it again"), "{}", error.message);
    let status = client.only();
    assert_eq!((status.version.as_str(), status.state()), (OWN, State::Serving));
    let mut buffer = [0; 13];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut buffer, 0).unwrap();
    drop(file);
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn a_session_that_serves_gets_other_options_and_keeps_its_files() {
    let mut ground = Ground::new();
    let client = ground.client();
    let first = client.mount(&ground.target(), config("nas")).unwrap();
    let file = fs::File::open(ground.hello()).unwrap();
    let options = DaemonConfig { read_ahead_kib: 512, hang_limit_ms: 700, threads: 3, ..config("nas") };
    let status = client.upgrade_with(&ground.target(), Some(options.clone())).unwrap();
    assert_ne!(status.pid, first.pid);
    assert_eq!((status.config, status.options), (Some(config("nas")), Some(options.clone())));
    assert_eq!(read_ahead(status.connection), 512);
    let mut buffer = [0; 13];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut buffer, 0).unwrap();
    drop(file);
    // It is still the same mount to whoever asks for it, and it stays as it is at the next upgrade and with the next keeper.
    assert_eq!(client.mount(&ground.target(), config("nas")).unwrap().connection, first.connection);
    assert_eq!(client.upgrade(&ground.target()).unwrap().options, Some(options.clone()));
    ground.signal(Signal::KILL);
    ground.wait_for_end();
    ground.restart_keeper();
    let client = ground.client();
    let taken_over = client.serving_after(2);
    assert_eq!((taken_over.config, taken_over.options), (Some(config("nas")), Some(options)));
    // A daemon that hangs is replaced after the new limit, not the ten seconds that it was mounted with.
    kill(taken_over.pid, Signal::STOP);
    client.serving_after(3);
    // And back to the options that it was mounted with.
    let status = client.upgrade_with(&ground.target(), Some(config("nas"))).unwrap();
    assert_eq!((status.options, read_ahead(status.connection)), (None, 8192));
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

/// Asks for an upgrade on a connection and a thread of its own.
fn ask(
    ground: &Ground,
    options: Option<DaemonConfig>,
    base: Option<DaemonConfig>,
) -> JoinHandle<Result<MountStatus, Error>> {
    let (client, target) = (ground.client(), ground.target());
    std::thread::spawn(move || client.upgrade_from(&target, options, base))
}

#[test]
fn upgrades_that_are_asked_for_at_once_are_all_made() {
    const PAIRS: u32 = 12;
    let ground = Ground::new();
    let client = ground.client();
    client.mount(&ground.target(), config("nas")).unwrap();
    let with = |attr_ttl_ms| DaemonConfig { attr_ttl_ms, ..config("nas") };
    let asked: Vec<_> = (1..=PAIRS).map(|n| (n, ask(&ground, Some(with(n)), None), ask(&ground, None, None))).collect();
    for (number, with_options, plain) in asked {
        assert_eq!(with_options.join().unwrap().unwrap().options, Some(with(number)));
        assert_eq!(plain.join().unwrap().unwrap().state(), State::Serving);
    }
    assert!(client.only().restarts > PAIRS);
    // Whoever changes different options does not take back what the other has changed.
    let base = client.only().options.unwrap();
    let slower = DaemonConfig { hang_limit_ms: 7_000, ..base.clone() };
    let wider = DaemonConfig { read_ahead_kib: 512, ..base.clone() };
    let refused = DaemonConfig { threads: 13, ..base.clone() };
    let asked = [slower, refused, wider, base.clone()].map(|options| ask(&ground, Some(options), Some(base.clone())));
    let outcomes = asked.map(|asked| asked.join().unwrap().map_err(|error| error.code()));
    assert_eq!(outcomes[1], Err(Code::FailedPrecondition));
    for index in [0, 2, 3] {
        assert!(outcomes[index].is_ok(), "{:?}", outcomes[index]);
    }
    let expected = DaemonConfig { hang_limit_ms: 7_000, read_ahead_kib: 512, ..base };
    assert_eq!(client.only().options, Some(expected));
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn options_that_a_daemon_cannot_serve_with_are_taken_back() {
    let ground = Ground::new();
    let client = ground.client();
    let first = client.mount(&ground.target(), config("nas")).unwrap();
    let options = DaemonConfig { threads: 13, read_ahead_kib: 512, ..config("nas") };
    let error = client.upgrade_with(&ground.target(), Some(options)).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message.contains("exited with status 7"), "{}", error.message);
    let status = client.only();
    assert_eq!((status.options.clone(), status.state(), read_ahead(status.connection)), (None, State::Serving, 8192));
    assert_ne!(status.pid, first.pid);
    assert_eq!(fs::read(ground.hello()).unwrap(), b"hello, world\n");
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}

#[test]
fn what_makes_a_session_cannot_change() {
    let ground = Ground::new();
    let client = ground.client();
    let first = client.mount(&ground.target(), config("nas")).unwrap();
    let others = [
        config("other"),
        DaemonConfig { read_only: true, ..config("nas") },
        DaemonConfig { idmap: true, ..config("nas") },
        DaemonConfig { network: "pod".into(), ..config("nas") },
        DaemonConfig { fuse_features: "5.10".into(), ..config("nas") },
    ];
    for options in others {
        let error = client.upgrade_with(&ground.target(), Some(options)).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{}", error.message);
    }
    assert_eq!((client.only().pid, client.only().restarts), (first.pid, 0));
    client.unmount_soon(&ground.target());
    ground.assert_nothing_left();
}
