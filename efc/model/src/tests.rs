//! The model by itself.
use std::time::Duration;

use bytes::Bytes;
use efc_backend::*;
use efc_buffer::{Buffer, Sink};
use efc_tasks::simulation::Simulation;

use crate::{Client, Fault, Nas, Options, Procedure};

fn nas() -> (Simulation, Nas, Client) {
    let simulation = Simulation::new(1);
    let nas = Nas::new(Options::default(), 1);
    let client = nas.client(1, None);
    (simulation, nas, client)
}

fn user(uid: u32) -> Cred {
    Cred { uid, gid: uid, groups: [].into() }
}

fn status<T>(reply: Reply<T>) -> Option<Status> {
    reply.err().and_then(|error| error.status())
}

async fn write(client: &Client, file: &FileHandle, data: &'static [u8], stable: Stable) -> Written {
    let root = Cred::root();
    client.write(Call::of(&root), file, 0, Bytes::from_static(data), stable).await.unwrap().value
}

#[test]
fn what_is_not_committed_is_lost_in_a_power_failure_and_another_verifier_says_so() {
    let (simulation, nas, client) = nas();
    nas.write_outside("file", 0, b"old");
    let file = nas.find("file").unwrap();
    simulation.run(async {
        let first = write(&client, &file, b"new", Stable::Unstable).await;
        assert_eq!((nas.content("file").unwrap(), nas.durable("file").unwrap()), (b"new".into(), b"old".into()));
        nas.crash_hard();
        assert_eq!(nas.content("file").unwrap(), b"old");
        let again = write(&client, &file, b"new", Stable::Unstable).await;
        assert_ne!(first.verifier, again.verifier);
        let committed = client.commit(Call::of(&Cred::root()), &file).await.unwrap().value;
        assert_eq!(committed.verifier, again.verifier);
        nas.crash_hard();
        assert_eq!(nas.content("file").unwrap(), b"new");
    });
}

#[test]
fn handles_outlive_names_and_end_with_the_last_one() {
    let (simulation, nas, client) = nas();
    let (root, dir) = (Cred::root(), nas.root());
    nas.write_outside("a", 0, b"data");
    let file = nas.find("a").unwrap();
    simulation.run(async {
        client.link(Call::of(&root), &file, &dir, b"b").await.unwrap();
        client.rename(Call::of(&root), (&dir, b"a"), (&dir, b"c")).await.unwrap();
        client.remove(Call::of(&root), &dir, b"b").await.unwrap();
        assert_eq!(client.getattr(Call::of(&root), &file).await.unwrap().value.nlink, 1);
        client.remove(Call::of(&root), &dir, b"c").await.unwrap();
        nas.write_outside("new", 0, b"");
        assert_eq!(nas.attr("new").unwrap().fileid, 3, "the number is used again");
        assert_eq!(status(client.getattr(Call::of(&root), &file).await), Some(Status::Stale));
    });
}

#[test]
fn modes_are_kept() {
    let (simulation, nas, client) = nas();
    nas.write_outside("file", 0, b"data");
    nas.set_outside("file", &SetAttr { mode: Some(0o640), uid: Some(5), gid: Some(6), ..SetAttr::default() });
    let (file, dir) = (nas.find("file").unwrap(), nas.root());
    nas.set_outside("", &SetAttr { mode: Some(0o1777), ..SetAttr::default() });
    simulation.run(async {
        let access = async |uid| client.access(Call::of(&user(uid)), &file, 0x3f).await.unwrap().value.0;
        assert_eq!([access(5).await, access(6).await, access(7).await], [0xd, 1, 0]);
        let change = SetAttr { mode: Some(0o777), ..SetAttr::default() };
        assert_eq!(status(client.setattr(Call::of(&user(7)), &file, &change).await), Some(Status::Perm));
        assert_eq!(status(client.remove(Call::of(&user(7)), &dir, b"file").await), Some(Status::Perm));
        nas.configure(|options| options.squashes_root = true);
        assert_eq!(access(0).await, 0);
    });
}

#[test]
fn an_exclusive_create_knows_its_own_file_and_a_ticket_its_answer() {
    let (simulation, nas, client) = nas();
    let (root, dir) = (Cred::root(), nas.root());
    simulation.run(async {
        let create = async |verifier| client.create(Call::of(&root), &dir, b"a", CreateHow::Exclusive(verifier)).await;
        let first = create([1; 8]).await.unwrap().value.handle;
        assert_eq!(create([1; 8]).await.unwrap().value.handle, first);
        assert_eq!(status(create([2; 8]).await), Some(Status::Exist));
        let call = Call::of(&root).under(client.ticket(&dir));
        client.remove(call, &dir, b"a").await.unwrap();
        let again = Ticket::again(call.ticket.unwrap().number);
        client.remove(Call::of(&root).under(again), &dir, b"a").await.unwrap();
        assert_eq!(nas.executed(Procedure::Remove), 1);
        nas.crash_hard();
        let error = client.remove(Call::of(&root).under(again), &dir, b"a").await.unwrap_err();
        assert!(error.replayed && error.is(Status::NoEnt));
    });
}

#[test]
fn a_call_whose_caller_is_gone_is_executed_when_it_comes() {
    let (simulation, nas, client) = nas();
    nas.write_outside("file", 0, b"old");
    let file = nas.find("file").unwrap();
    let hold = nas.hold(Procedure::Write);
    simulation.run(async {
        let late = std::pin::pin!(write(&client, &file, b"bad", Stable::File));
        assert!(futures_lite::future::poll_once(late).await.is_none());
        assert_eq!(hold.held(), 1);
        hold.pass();
        write(&client, &file, b"new", Stable::File).await;
    });
    assert_eq!(nas.content("file").unwrap(), b"new");
    drop(hold);
    simulation.run_for(Duration::from_secs(1));
    assert_eq!(nas.content("file").unwrap(), b"bad");
}

#[test]
fn answers_take_time_and_overtake_each_other() {
    let (simulation, nas, client) = nas();
    nas.network().set_delay(Duration::from_millis(10));
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    for number in 0..20 {
        let (client, order, root) = (client.clone(), order.clone(), nas.root());
        efc_tasks::spawn(async move {
            client.getattr(Call::of(&Cred::root()), &root).await.unwrap();
            order.lock().unwrap().push(number);
        });
    }
    simulation.run_for(Duration::from_millis(20));
    let order = order.lock().unwrap();
    assert_eq!(order.len(), 20);
    assert!(!order.is_sorted());
}

#[test]
fn a_listing_has_all_names_and_faults_come_as_often_as_told() {
    let (simulation, nas, client) = nas();
    (0..200).for_each(|number| nas.write_outside(&format!("f{number}"), 0, b""));
    let (root, dir) = (Cred::root(), nas.root());
    simulation.run(async {
        let (mut cookie, mut names) = (0, Vec::new());
        loop {
            let page = client.list(Call::of(&root), &dir, cookie, [0; 8], 1 << 16).await.unwrap().value;
            cookie = page.entries.last().map_or(0, |entry| entry.cookie);
            names.extend(page.entries.into_iter().map(|entry| entry.name));
            if page.eof {
                break;
            }
        }
        assert_eq!(names.len(), 202);
        nas.fault(Fault::Garbled(Procedure::Readdirplus), 1);
        let garbled = client.list(Call::of(&root), &dir, 0, [0; 8], 1 << 16).await;
        assert!(matches!(garbled.unwrap_err().kind, ErrorKind::Garbled(_)));
        let page = client.list(Call::of(&root), &dir, 0, [0; 8], 1 << 16).await.unwrap().value;
        assert!(!page.entries.is_empty());
        nas.configure(|options| options.checks_cookie_verifiers = true);
        let listed = client.list(Call::of(&root), &dir, 5, page.verifier, 1 << 16).await;
        assert_eq!(status(listed), Some(Status::BadCookie));
        let read = async || {
            let sink = Sink::Buffer(Buffer::new(4096).expect("memory for a buffer"), 0..10);
            let read = client.read(Call::of(&root), &nas.find("f1").unwrap(), 0, sink).await.1.unwrap().value;
            (read.count, read.eof)
        };
        nas.write_outside("f1", 0, b"12345");
        nas.fault(Fault::ShortRead, 1);
        assert_eq!([read().await, read().await], [(3, false), (5, true)]);
    });
}
