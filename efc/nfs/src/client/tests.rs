//! The client against servers on loopback that answer, or not, as a test tells them.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Mutex;
use std::thread;

use async_io::Timer;

use super::*;

const SILENCE: Duration = Duration::from_millis(200);

fn client(port: u16, connections: usize) -> Client {
    client_with_silence(port, connections, SILENCE)
}

fn client_with_silence(port: u16, connections: usize, silence: Duration) -> Client {
    let config = Config {
        host: "127.0.0.1".into(),
        port: None,
        mount_port: None,
        path: Vec::new(),
        connections,
        time_limit: Some(Duration::from_secs(10)),
        connect_time_limit: Duration::from_secs(1),
        privileged_port: false,
        identity: None,
    };
    Client::with_silence(&config, port, silence)
}

/// Answers calls of NULL, and of what answers with a status alone, as `answers` says for each (port, connection from that
/// port, procedure).
fn serve(answers: impl Fn(u16, usize, u32) -> bool + Send + Sync + 'static) -> (u16, Arc<Mutex<Vec<u16>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (answers, ports) = (Arc::new(answers), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&ports);
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let mut ports = seen.lock().unwrap();
            ports.push(peer.port());
            let number = ports.iter().filter(|port| **port == peer.port()).count();
            drop(ports);
            let answers = Arc::clone(&answers);
            thread::spawn(move || {
                let mut mark = [0; 4];
                while stream.read_exact(&mut mark).is_ok() {
                    let mut call = vec![0; (u32::from_be_bytes(mark) & 0x7fff_ffff) as usize];
                    stream.read_exact(&mut call).unwrap();
                    if answers(peer.port(), number, u32::from_be_bytes(call[20..24].try_into().unwrap())) {
                        let status = [0, 0, 0, 70]; // STALE; behind NULL's answer it is not read
                        let reply = [&[0x80, 0, 0, 28][..], &call[..4], &[0, 0, 0, 1], &[0; 16], &status].concat();
                        stream.write_all(&reply).unwrap();
                    }
                }
            });
        }
    });
    (port, ports)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    futures_lite::future::block_on(work)
}

#[test]
fn a_lost_reply_is_asked_for_again_while_others_come() {
    let asked = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&asked);
    let (port, ports) = serve(move |_, _, procedure| {
        let mut asked = counted.lock().unwrap();
        *asked += u32::from(procedure == procedure::REMOVE);
        procedure != procedure::REMOVE || *asked > 1
    });
    let client = client(port, 1);
    let (cred, dir) = (Cred::root(), FileHandle::new(b"dir").unwrap());
    let pings = async {
        loop {
            client.ping(&cred).await.unwrap();
            Timer::after(SILENCE / 10).await;
        }
    };
    let error = run(futures_lite::future::or(client.remove(&cred, &dir, b"x"), pings)).unwrap_err();
    assert!(error.is(Status::Stale) && error.replayed);
    assert_eq!((client.counters().reconnects, *asked.lock().unwrap(), ports.lock().unwrap().len()), (0, 2, 1));
}

#[test]
fn a_question_that_the_server_drops_is_asked_again_long_before_the_connection_is_silent() {
    let (asked, removals) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
    let (asked_there, removals_there) = (Arc::clone(&asked), Arc::clone(&removals));
    let (port, _) = serve(move |_, _, procedure| match procedure {
        procedure::GETATTR => {
            *asked_there.lock().unwrap() += 1;
            *asked_there.lock().unwrap() > 1
        }
        procedure::REMOVE => {
            *removals_there.lock().unwrap() += 1;
            false
        }
        _ => true,
    });
    let client = client_with_silence(port, 1, SILENCE * 15);
    let (cred, object) = (Cred::root(), FileHandle::new(b"object").unwrap());
    let others = async {
        let removal = client.remove(&cred, &object, b"x");
        let pings = async {
            loop {
                client.ping(&cred).await.unwrap();
                Timer::after(SILENCE / 10).await;
            }
        };
        futures_lite::future::or(removal, pings).await.map(|_| unreachable!("no removal is answered")).unwrap_err()
    };
    let question = async { client.getattr(&cred, &object).await.unwrap_err() };
    assert!(run(futures_lite::future::or(others, question)).is(Status::Stale));
    assert_eq!((*asked.lock().unwrap(), *removals.lock().unwrap()), (2, 1), "what changes something waits longer");
}

#[test]
fn a_question_that_the_server_drops_is_asked_again_also_if_all_others_wait_for_it() {
    let asked = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&asked);
    let (port, ports) = serve(move |_, _, _| {
        *counted.lock().unwrap() += 1;
        *counted.lock().unwrap() > 1
    });
    let client = client_with_silence(port, 1, SILENCE * 15);
    let object = FileHandle::new(b"object").unwrap();
    assert!(run(client.getattr(&Cred::root(), &object)).unwrap_err().is(Status::Stale));
    assert_eq!((client.counters().reconnects, *asked.lock().unwrap(), ports.lock().unwrap().len()), (0, 2, 1));
}

#[test]
fn a_port_whose_packets_are_lost_is_given_up() {
    let first = Mutex::new(None);
    let (port, ports) = serve(move |port, _, _| *first.lock().unwrap().get_or_insert(port) != port);
    let client = client(port, 1);
    let dir = FileHandle::new(b"dir").unwrap();
    let error = run(client.remove(&Cred::root(), &dir, b"x")).unwrap_err();
    assert!(error.is(Status::Stale) && error.replayed);
    let ports = ports.lock().unwrap();
    // On a busy machine the third may have been given up as well, before its answer was read.
    assert!(ports.len() >= 3 && ports[0] == ports[1] && ports[1] != ports[2], "{ports:?}");
}

#[test]
fn calls_of_a_connection_that_is_down_take_others_if_they_may() {
    let first = Mutex::new(None);
    // The first port is lost until it is tried for the second time.
    let (port, ports) = serve(move |port, number, procedure| {
        *first.lock().unwrap().get_or_insert(port) != port || number > 1 || procedure == procedure::NULL
    });
    let client = client(port, 2);
    let cred = Cred::root();
    let at_home = |home| {
        let mut handles = (0..=255).map(|byte| FileHandle::new(&[byte]).unwrap());
        handles.find(|handle| client.transport().home(handle) == home).unwrap()
    };
    let (here, there) = (at_home(0), at_home(1));
    run(client.ping(&cred)).unwrap(); // the first connection is that of an empty handle
    let nothing = FileHandle::new(&[]).unwrap();
    let (lost, other) = if client.transport().home(&nothing) == 0 { (here, there) } else { (there, here) };
    assert!(run(client.getattr(&cred, &other)).unwrap_err().is(Status::Stale));
    let removed = client.remove(&cred, &lost, b"x");
    let got = client.getattr(&cred, &lost);
    let (removed, got) = run(futures_lite::future::zip(removed, got));
    assert_eq!((got.unwrap_err().status(), removed.unwrap_err().status()), (Some(Status::Stale), Some(Status::Stale)));
    let ports = ports.lock().unwrap();
    assert!(ports.len() == 3 && ports[0] == ports[2], "REMOVE went out from its own port: {ports:?}");
}

#[test]
fn a_write_that_has_left_takes_no_other_connection() {
    let writes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&writes);
    // The port of the first WRITE falls silent, and answers when it is tried for the second time.
    let (port, _) = serve(move |port, number, procedure| {
        let mut writes = seen.lock().unwrap();
        if procedure == procedure::WRITE {
            writes.push(port);
        }
        writes.first() != Some(&port) || number > 1
    });
    let client = client(port, 2);
    let cred = Cred::root();
    let handles = || (0..=255).map(|byte| FileHandle::new(&[byte]).unwrap());
    let at_home = |home| handles().find(|handle| client.transport().home(handle) == home).unwrap();
    for home in [0, 1] {
        assert!(run(client.getattr(&cred, &at_home(home))).unwrap_err().is(Status::Stale), "both stand");
    }
    let data = Bytes::from_static(b"data");
    let error = run(client.write(&cred, &at_home(0), 0, data, Stable::Unstable)).unwrap_err();
    assert!(error.is(Status::Stale) && error.replayed);
    let writes = writes.lock().unwrap();
    // On a busy machine the answer to the second may have come too late, as well.
    assert!(writes.len() >= 2 && writes[0] == writes[1], "a copy of it may be on its way: {writes:?}");
}

#[test]
fn a_connection_that_falls_silent_is_made_anew() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut silent, _) = listener.accept().unwrap();
        let mut first = [0; 512];
        let length = silent.read(&mut first).unwrap();
        let mut second = [0; 512];
        // On a busy machine the next one may have been given up as well before it is looked at.
        let mut next = || {
            let (mut stream, _) = listener.accept().unwrap();
            let length = stream.read(&mut second).unwrap_or(0);
            (length > 0).then_some((stream, length))
        };
        let (mut stream, again) = std::iter::repeat_with(&mut next).flatten().next().unwrap();
        assert_eq!((again, first), (length, second));
        let xid = &first[4..8];
        stream.write_all(&[&[0x80, 0, 0, 24], xid, &[0, 0, 0, 1], &[0; 16]].concat()).unwrap();
        // The question was asked again there meanwhile.
        while silent.read(&mut first).unwrap_or(0) > 0 {} // ends: the silent connection was closed
    });
    let client = client(address.port(), 1);
    futures_lite::future::block_on(client.ping(&Cred::root())).unwrap();
    assert!(client.counters().reconnects >= 1 && client.counters().retransmits >= 1);
    server.join().unwrap();
}

/// Notes from which port each connection goes out.
#[derive(Debug, Default)]
struct Ports(Mutex<std::collections::HashMap<usize, u16>>);

impl crate::shared::Identity for Ports {
    fn stamp(&self) -> u32 {
        1
    }

    fn source_port(&self, _: usize) -> Option<u16> {
        None
    }

    fn connected(&self, connection: usize, source_port: u16) {
        self.0.lock().unwrap().insert(connection, source_port);
    }

    fn fence(&self) {}
}

#[test]
fn a_write_takes_the_connection_of_its_ticket_and_so_does_its_repetition_by_another_process() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let asked_there = Arc::clone(&asked);
    let (port, _) = serve(move |from, _, procedure| {
        asked_there.lock().unwrap().extend((procedure == procedure::WRITE).then_some(from));
        true
    });
    let ports = Arc::new(Ports::default());
    let client = || {
        let shared = Shared::new(("127.0.0.1", port), false, SILENCE * 100, Some(ports.clone()));
        Client { inner: Arc::new(Inner { transport: Transport::new(shared, 4) }), time_limit: None }
    };
    let (first, cred, file) = (client(), Cred::root(), FileHandle::new(b"file").unwrap());
    let write = |client: &Client, ticket: Ticket| {
        let (call, data) = (Call::of(&cred).under(ticket), Bytes::from_static(b"data"));
        assert!(run(client.write(call, &file, 0, data, Stable::Unstable)).unwrap_err().is(Status::Stale));
        asked.lock().unwrap().pop().expect("it was asked for")
    };
    for way in [2, 1, 3] {
        let ticket = Ticket { way: Some(way), ..first.ticket() };
        assert_eq!(write(&first, ticket), ports.0.lock().unwrap()[&usize::from(way)]);
        let successor = client();
        assert_eq!(write(&successor, ticket.repeated()), ports.0.lock().unwrap()[&usize::from(way)]);
    }
    let elsewhere = Ticket { way: Some(200), ..first.ticket() }.repeated();
    write(&first, elsewhere); // its process had more connections
}
