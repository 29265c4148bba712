//! The client against a server that misbehaves on cue: each test scripts one, call by call.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_io::Timer;
use bytes::Bytes;
use efc_backend::*;
use efc_buffer::{Buffer, Payload, Sink};
use efc_nfs::*;
use futures_lite::future::{self, block_on, poll_once};

const LAST: u32 = 0x8000_0000;
const GETATTR: u32 = 1;
const LOOKUP: u32 = 3;
const READ: u32 = 6;
const WRITE: u32 = 7;
const REMOVE: u32 = 12;
const FSINFO: u32 = 19;
const PATHCONF: u32 = 20;

/// One side of the script: accepts connections, reads calls, writes replies.
struct Server {
    listener: TcpListener,
}

struct Peer {
    stream: TcpStream,
    address: SocketAddr,
}

#[derive(Debug)]
struct Call {
    xid: u32,
    program: u32,
    procedure: u32,
    /// The whole record.
    record: Vec<u8>,
}

impl Server {
    fn start(script: impl FnOnce(Server) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (address, thread::spawn(move || script(Server { listener })))
    }

    fn accept(&self) -> Peer {
        let (stream, address) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_nodelay(true).unwrap();
        Peer { stream, address }
    }
}

impl Peer {
    fn call(&mut self) -> Call {
        let mut mark = [0; 4];
        self.stream.read_exact(&mut mark).expect("a call");
        let mut record = vec![0; (u32::from_be_bytes(mark) & !LAST) as usize];
        self.stream.read_exact(&mut record).unwrap();
        let word = |index: usize| u32::from_be_bytes(record[4 * index..][..4].try_into().unwrap());
        Call { xid: word(0), program: word(3), procedure: word(5), record }
    }

    /// A call of this procedure.
    fn expect(&mut self, procedure: u32) -> Call {
        let call = self.call();
        assert_eq!(call.procedure, procedure);
        call
    }

    fn reply(&mut self, xid: u32, results: &[u8]) {
        self.stream.write_all(&framed(&[&accepted(xid, results)])).unwrap();
    }

    /// Nothing arrives for a while.
    fn expect_silence(&mut self) {
        self.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let error = self.stream.read(&mut [0]).expect_err("silence");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        self.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }

    fn expect_end(&mut self) {
        let end = self.stream.read(&mut [0]);
        let reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(end.as_ref().map_or_else(reset, |count| *count == 0), "{end:?}");
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn accepted(xid: u32, results: &[u8]) -> Vec<u8> {
    [&words(&[xid, 1, 0, 0, 0, 0]), results].concat()
}

fn framed(fragments: &[&[u8]]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (index, fragment) in fragments.iter().enumerate() {
        let last = if index + 1 == fragments.len() { LAST } else { 0 };
        stream.extend((fragment.len() as u32 | last).to_be_bytes());
        stream.extend_from_slice(fragment);
    }
    stream
}

fn attr(kind: u32, fileid: u32) -> Vec<u8> {
    words(&[kind, 0o644, 1, 0, 0, 0, 7, 0, 7, 0, 0, 0, 1, 0, fileid, 1, 0, 2, 0, 3, 0])
}

fn getattr_results(fileid: u32) -> Vec<u8> {
    [words(&[0]), attr(1, fileid)].concat()
}

fn read_results(payload: &[u8]) -> Vec<u8> {
    let count = payload.len() as u32;
    let pad = vec![0; payload.len().wrapping_neg() & 3];
    [words(&[0, 1]), attr(1, 5), words(&[count, 1, count]), payload.to_vec(), pad].concat()
}

fn config(server: SocketAddr) -> Config {
    Config {
        host: server.ip().to_string(),
        port: Some(server.port()),
        mount_port: Some(server.port()),
        path: b"/export".to_vec(),
        connections: 1,
        time_limit: None,
        connect_time_limit: Duration::from_secs(5),
        privileged_port: false,
        identity: None,
    }
}

fn client(server: SocketAddr) -> Client {
    Client::resume(&config(server), server.port())
}

fn handle() -> FileHandle {
    FileHandle::new(b"file").unwrap()
}

/// Runs a future, but not for ever.
fn run<T>(work: impl Future<Output = T>) -> T {
    let too_late = async {
        Timer::after(Duration::from_secs(20)).await;
        panic!("no outcome within 20 s")
    };
    block_on(future::or(work, too_late))
}

async fn read(client: &Client, count: usize) -> (Vec<u8>, Result<Read>) {
    let buffer = Buffer::new(1 << 20).unwrap();
    let (payload, read) = client.read(&Cred::root(), &handle(), 0, Sink::Buffer(buffer, 100..100 + count)).await;
    let buffered = payload.and_then(Payload::into_buffer);
    (buffered.map_or(Vec::new(), |(buffer, range)| buffer[range].to_vec()), read)
}

#[test]
fn replies_cut_into_fragments_and_segments_anywhere_are_understood() {
    let payload: Vec<u8> = (0..301u32).map(|at| at as u8).collect();
    let results = read_results(&payload);
    let cuts = 24 + results.len();
    let (address, server) = Server::start(move |server| {
        let mut peer = server.accept();
        for cut in 0..cuts {
            let call = peer.expect(READ);
            let reply = accepted(call.xid, &results);
            let stream = framed(&[&reply[..cut], &[], &reply[cut..]]);
            for segment in [&stream[..cut + 2], &stream[cut + 2..]] {
                peer.stream.write_all(segment).unwrap();
                thread::yield_now();
            }
            let call = peer.expect(GETATTR);
            let reply = accepted(call.xid, &getattr_results(cut as u32));
            peer.stream.write_all(&framed(&[&reply[..cut % reply.len()], &reply[cut % reply.len()..]])).unwrap();
        }
    });
    let client = client(address);
    for cut in 0..cuts {
        let (bytes, read) = run(read(&client, 1000));
        let read = read.unwrap();
        assert!(bytes[..301] == payload && read.count == 301 && read.eof, "cut {cut}");
        assert_eq!(run(client.getattr(&Cred::root(), &handle())).unwrap().fileid, cut as u64);
    }
    server.join().unwrap();
}

#[test]
fn a_broken_reply_is_asked_for_again_with_its_xid_from_the_same_port() {
    let payload = vec![9; 600_000];
    let results = read_results(&payload);
    let (address, server) = Server::start(move |server| {
        let mut peer = server.accept();
        let calls = [peer.expect(READ), peer.expect(REMOVE), peer.expect(GETATTR)];
        let reply = framed(&[&accepted(calls[0].xid, &results)]);
        peer.stream.write_all(&reply[..300_000]).unwrap();
        peer.stream.shutdown(Shutdown::Both).unwrap();
        drop(peer.stream);
        let mut again = server.accept();
        assert_eq!(again.address.port(), peer.address.port());
        for call in &calls {
            let repeated = again.call();
            assert_eq!(repeated.record, call.record, "the same calls in the same order");
        }
        again.reply(calls[1].xid, &words(&[2, 0, 0]));
        again.reply(calls[0].xid, &results);
        again.reply(calls[2].xid, &getattr_results(1));
    });
    let client = client(address);
    let cred = Cred::root();
    let name = handle();
    let ((bytes, read), (removed, attr)) = run(future::zip(
        read(&client, 700_000),
        future::zip(client.remove(&cred, &name, b"x"), client.getattr(&cred, &name)),
    ));
    assert!(read.unwrap().count == 600_000 && bytes[..600_000] == vec![9; 600_000]);
    let error = removed.unwrap_err();
    assert!(error.is(Status::NoEnt) && error.replayed, "the caller must know that it may have been its own REMOVE");
    assert_eq!(attr.unwrap().fileid, 1);
    let counters = client.counters();
    assert_eq!((counters.calls, counters.retransmits, counters.reconnects), (3, 3, 1));
    server.join().unwrap();
}

/// As a duplicate-request cache drops the copy of a call that it still executes.
#[test]
fn what_may_have_met_its_earlier_copy_goes_out_again_until_it_is_answered() {
    let (address, server) = Server::start(|server| {
        let mut peer = server.accept();
        let (first, fresh) = (peer.expect(REMOVE), peer.expect(GETATTR));
        assert_eq!(first.xid, 77);
        let mut again = peer.expect(REMOVE);
        assert_eq!(again.record, first.record);
        again = peer.expect(REMOVE);
        assert_eq!(again.record, first.record);
        peer.reply(77, &words(&[2, 0, 0]));
        peer.reply(77, &words(&[2, 0, 0]));
        peer.reply(fresh.xid, &getattr_results(1));
        peer.expect_silence();
    });
    let client = client(address);
    let (cred, name) = (Cred::root(), handle());
    let repeated = efc_backend::Call::of(&cred).under(Ticket::again(77));
    let started = Instant::now();
    let (removed, attr) = run(future::zip(client.remove(repeated, &name, b"x"), client.getattr(&cred, &name)));
    assert!(removed.unwrap_err().is(Status::NoEnt));
    assert_eq!(attr.unwrap().fileid, 1);
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(2900), "{waited:?}: after 1 s and 2 s more");
    server.join().unwrap();
}

#[test]
fn a_call_that_is_asked_again_on_a_new_connection_is_asked_there_until_it_is_answered() {
    let (address, server) = Server::start(|server| {
        let mut peer = server.accept();
        let first = peer.expect(REMOVE);
        peer.stream.shutdown(Shutdown::Both).unwrap();
        drop(peer.stream);
        let mut peer = server.accept();
        assert_eq!(peer.expect(REMOVE).record, first.record);
        assert_eq!(peer.expect(REMOVE).record, first.record);
        peer.reply(first.xid, &words(&[2, 0, 0]));
    });
    let client = client(address);
    let error = run(client.remove(&Cred::root(), &handle(), b"x")).unwrap_err();
    assert!(error.is(Status::NoEnt) && error.replayed);
    server.join().unwrap();
}

#[test]
fn jukebox_is_asked_again_with_another_xid() {
    let (address, server) = Server::start(|server| {
        let mut peer = server.accept();
        let first = peer.expect(GETATTR);
        peer.reply(first.xid, &words(&[10008]));
        let second = peer.expect(GETATTR);
        assert_ne!(first.xid, second.xid);
        peer.reply(second.xid, &getattr_results(3));
        let third = peer.expect(READ);
        peer.reply(third.xid, &words(&[10008, 0]));
        let fourth = peer.expect(READ);
        peer.reply(fourth.xid, &read_results(b"data"));
    });
    let client = client(address);
    let start = Instant::now();
    assert_eq!(run(client.getattr(&Cred::root(), &handle())).unwrap().fileid, 3);
    assert!(start.elapsed() >= Duration::from_millis(100));
    let (bytes, read) = run(read(&client, 10));
    assert!(read.unwrap().count == 4 && &bytes[..4] == b"data");
    server.join().unwrap();
}

#[test]
fn a_soft_client_gives_up_and_skips_what_comes_late() {
    let (late, go) = mpsc::channel();
    let (address, server) = Server::start(move |server| {
        let mut peer = server.accept();
        let ignored = [peer.expect(GETATTR), peer.expect(READ)];
        go.recv().unwrap();
        peer.reply(ignored[0].xid, &getattr_results(1));
        peer.reply(ignored[1].xid, &read_results(&[7; 5000]));
        let next = peer.expect(GETATTR);
        peer.reply(next.xid, &getattr_results(2));
        let juke = peer.expect(GETATTR);
        peer.reply(juke.xid, &words(&[10008]));
    });
    let limited = Config { time_limit: Some(Duration::from_millis(150)), ..config(address) };
    let client = Client::resume(&limited, address.port());
    let start = Instant::now();
    assert_eq!(run(client.getattr(&Cred::root(), &handle())).unwrap_err().kind, ErrorKind::TimedOut);
    assert_eq!(run(read(&client, 6000)).1.unwrap_err().kind, ErrorKind::TimedOut);
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(client.counters().oldest_call, None);
    late.send(()).unwrap();
    assert_eq!(run(client.getattr(&Cred::root(), &handle())).unwrap().fileid, 2);
    let juke = run(client.getattr(&Cred::root(), &handle())).unwrap_err();
    assert_eq!(juke.kind, ErrorKind::TimedOut, "JUKEBOX to the end of the limit");
    server.join().unwrap();
}

#[test]
fn a_dropped_future_is_forgotten_also_while_its_payload_arrives() {
    let (half, halved) = mpsc::channel();
    let (dropped, go) = mpsc::channel();
    let (address, server) = Server::start(move |server| {
        let mut peer = server.accept();
        let call = peer.expect(READ);
        let reply = framed(&[&accepted(call.xid, &read_results(&vec![1; 500_000]))]);
        peer.stream.write_all(&reply[..200_000]).unwrap();
        half.send(()).unwrap();
        go.recv().unwrap();
        peer.stream.write_all(&reply[200_000..]).unwrap();
        let call = peer.expect(GETATTR);
        peer.reply(call.xid, &getattr_results(8));
    });
    let client = client(address);
    {
        let mut abandoned = pin!(read(&client, 500_000));
        assert!(block_on(poll_once(&mut abandoned)).is_none());
        halved.recv().unwrap();
        assert!(client.counters().oldest_call.is_some());
    }
    assert_eq!(client.counters().oldest_call, None);
    dropped.send(()).unwrap();
    assert_eq!(run(client.getattr(&Cred::root(), &handle())).unwrap().fileid, 8);
    assert_eq!(client.counters().reconnects, 0);
    server.join().unwrap();
}

#[test]
fn hostile_lengths_fail_the_call_and_harm_nobody_else() {
    let (address, server) = Server::start(|server| {
        let mut peer = server.accept();
        let call = peer.expect(READ);
        peer.reply(call.xid, &read_results(&[1; 101]));
        // The stream cannot be trusted any more: the next call comes on another connection.
        let mut peer = server.accept();
        let call = peer.expect(READ);
        let lie = [words(&[0, 1]), attr(1, 5), words(&[100, 0, 100])].concat();
        peer.reply(call.xid, &lie);
        let mut peer = server.accept();
        let call = peer.expect(GETATTR);
        peer.stream.write_all(&words(&[u32::MAX])).unwrap();
        let mut peer = server.accept();
        assert_eq!(peer.call().xid, call.xid, "nothing was said about this call, so it is asked again");
        peer.reply(call.xid, &getattr_results(4));
        let call = peer.expect(LOOKUP);
        peer.reply(call.xid, &words(&[0, 65, 1, 2, 3]));
        let call = peer.expect(LOOKUP);
        peer.reply(call.xid, &[]);
        let call = peer.expect(READ);
        peer.stream.write_all(&framed(&[&words(&[call.xid, 1, 1, 1, 1])])).unwrap();
        let call = peer.expect(READ);
        peer.reply(call.xid, &words(&[70, 0]));
    });
    let client = client(address);
    let garbled = |error: Error| assert!(matches!(error.kind, ErrorKind::Garbled(_)), "{error}");
    garbled(run(read(&client, 100)).1.unwrap_err());
    garbled(run(read(&client, 100)).1.unwrap_err());
    assert_eq!(run(client.getattr(&Cred::root(), &handle())).unwrap().fileid, 4);
    garbled(run(client.lookup(&Cred::root(), &handle(), b"x")).unwrap_err());
    garbled(run(client.lookup(&Cred::root(), &handle(), b"x")).unwrap_err());
    assert!(matches!(run(read(&client, 100)).1.unwrap_err().kind, ErrorKind::Denied(_)));
    assert!(run(read(&client, 100)).1.unwrap_err().is(Status::Stale));
    server.join().unwrap();
}

#[test]
fn replies_are_received_while_the_server_takes_no_calls() {
    const WRITES: usize = 24;
    let (address, server) = Server::start(|server| {
        let mut peer = server.accept();
        let call = peer.expect(GETATTR);
        // The socket is full of WRITEs by now; the reply must get through before one of them is read.
        thread::sleep(Duration::from_millis(200));
        peer.reply(call.xid, &getattr_results(1));
        for _ in 0..WRITES {
            let call = peer.expect(WRITE);
            assert!(call.record.ends_with(&[42; 1000]) && call.record.len() > 1 << 20);
            peer.reply(call.xid, &words(&[0, 0, 0, 1 << 20, 0, 1, 2]));
        }
    });
    let client = client(address);
    let (cred, file) = (Cred::root(), handle());
    run(async {
        let mut getattr = pin!(client.getattr(&cred, &file));
        assert!(poll_once(&mut getattr).await.is_none());
        let data = Bytes::from(vec![42; 1 << 20]);
        let mut writes: Vec<_> = (0..WRITES)
            .map(|index| Box::pin(client.write(&cred, &file, (index as u64) << 20, data.clone(), Stable::Unstable)))
            .collect();
        for write in &mut writes {
            assert!(poll_once(write).await.is_none());
        }
        assert_eq!(getattr.await.unwrap().fileid, 1);
        for write in writes {
            assert_eq!(write.await.unwrap().count, 1 << 20);
        }
    });
    server.join().unwrap();
}

#[test]
fn calls_beyond_the_limit_wait_for_their_turn() {
    const LIMIT: usize = 256;
    const MORE: usize = 10;
    let (address, server) = Server::start(|server| {
        let mut peer = server.accept();
        let mut calls: Vec<_> = (0..LIMIT).map(|_| peer.expect(GETATTR).xid).collect();
        peer.expect_silence();
        while let Some(xid) = calls.pop() {
            peer.reply(xid, &getattr_results(xid));
            if calls.len() >= LIMIT - MORE {
                let next = peer.expect(GETATTR).xid;
                peer.reply(next, &getattr_results(next));
            }
        }
    });
    let client = client(address);
    let (cred, file) = (Cred::root(), handle());
    run(async {
        let mut calls: Vec<_> = (0..LIMIT + 2 * MORE).map(|_| Box::pin(client.getattr(&cred, &file))).collect();
        for call in &mut calls {
            assert!(poll_once(call).await.is_none());
        }
        // Those that are dropped while they wait never leave.
        calls.truncate(LIMIT + MORE);
        for call in calls {
            call.await.unwrap();
        }
    });
    server.join().unwrap();
}

#[test]
fn a_hard_client_outlasts_a_server_that_is_down() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = client(address);
    let server = thread::spawn(move || {
        thread::sleep(Duration::from_millis(400));
        let mut peer = Server { listener: TcpListener::bind(address).unwrap() }.accept();
        let call = peer.expect(GETATTR);
        peer.reply(call.xid, &getattr_results(6));
    });
    assert_eq!(run(client.getattr(&Cred::root(), &handle())).unwrap().fileid, 6);
    server.join().unwrap();
}

#[test]
fn an_idle_connection_that_the_server_closes_is_made_again_when_needed() {
    let (address, server) = Server::start(|server| {
        for fileid in 1..=2 {
            let mut peer = server.accept();
            let call = peer.expect(GETATTR);
            peer.reply(call.xid, &getattr_results(fileid));
        }
    });
    let client = client(address);
    for fileid in 1..=2 {
        assert_eq!(run(client.getattr(&Cred::root(), &handle())).unwrap().fileid, fileid);
        thread::sleep(Duration::from_millis(50));
    }
    server.join().unwrap();
}

#[test]
fn reserved_source_ports_are_used_where_permitted() {
    let (address, server) = Server::start(|server| {
        let mut ports = Vec::new();
        for _ in 0..3 {
            let mut peer = server.accept();
            let call = peer.expect(GETATTR);
            peer.reply(call.xid, &getattr_results(1));
            ports.push(peer.address.port());
        }
        let bound = TcpListener::bind(("127.0.0.1", 664));
        let permitted = !bound.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
        assert!(ports.iter().all(|port| (665..=1023).contains(port) == permitted), "{ports:?}");
    });
    let config = Config { privileged_port: true, ..config(address) };
    for _ in 0..3 {
        run(Client::resume(&config, address.port()).getattr(&Cred::root(), &handle())).unwrap();
    }
    server.join().unwrap();
}

#[test]
fn the_last_clone_takes_the_connections_along() {
    let (address, server) = Server::start(|server| {
        let mut peer = server.accept();
        let call = peer.expect(GETATTR);
        peer.reply(call.xid, &getattr_results(1));
        peer.expect_silence();
        peer.expect_end();
    });
    let first = client(address);
    let second = first.clone();
    run(first.getattr(&Cred::root(), &handle())).unwrap();
    drop(first);
    thread::sleep(Duration::from_millis(300));
    drop(second);
    server.join().unwrap();
}

const MNT: u32 = 1;
const EXPORT: u32 = 5;

/// What connecting asks of the directory, up to PATHCONF.
fn answer_about_root(peer: &mut Peer) {
    let call = peer.expect(GETATTR);
    peer.reply(call.xid, &[words(&[0]), attr(2, 50)].concat());
    let call = peer.expect(FSINFO);
    peer.reply(call.xid, &words(&[0, 0, 4 << 20, 1, 1, 65536, 1, 1, 0, 1, 0, 0, 1, 0]));
}

#[test]
fn connect_mounts_a_parent_and_looks_the_rest_up() {
    let (address, server) = Server::start(|server| {
        let mut peer = server.accept();
        let call = peer.expect(MNT);
        assert!(call.program == 100_005 && call.record.ends_with(b"/export/sub\0"));
        peer.reply(call.xid, &words(&[13]));
        let call = peer.expect(MNT);
        assert!(call.record.ends_with(b"/export\0"));
        peer.reply(call.xid, &[&words(&[0, 4])[..], b"root", &words(&[2, 390_003, 1])].concat());
        peer.expect_end();
        let mut peer = server.accept();
        let call = peer.expect(LOOKUP);
        assert!(call.record.ends_with(b"\0\0\0\x04root\0\0\0\x03sub\0"));
        peer.reply(call.xid, &[&words(&[0, 4])[..], b"dir!", &words(&[0, 0])].concat());
        answer_about_root(&mut peer);
        let call = peer.expect(PATHCONF);
        peer.reply(call.xid, &words(&[0, 0, 32000, 255, 1, 1, 1, 1]));
    });
    let config = Config { path: b"/export/sub".to_vec(), ..config(address) };
    let (_client, mounted) = run(Client::connect(&config)).unwrap();
    assert_eq!((mounted.root.as_bytes(), mounted.attr.fileid, mounted.port), (&b"dir!"[..], 50, address.port()));
    assert_eq!((mounted.info.read_max, mounted.info.write_max, mounted.ignores_case), (1 << 20, 65536, true));
    server.join().unwrap();
}

#[test]
fn a_server_that_knows_no_pathconf_tells_names_apart() {
    let (address, server) = Server::start(|server| {
        let mut peer = server.accept();
        let call = peer.expect(MNT);
        peer.reply(call.xid, &[&words(&[0, 4])[..], b"root", &words(&[1, 1])].concat());
        peer.expect_end();
        let mut peer = server.accept();
        answer_about_root(&mut peer);
        let call = peer.expect(PATHCONF);
        let no_such_procedure = words(&[call.xid, 1, 0, 0, 0, 3]);
        peer.stream.write_all(&framed(&[&no_such_procedure])).unwrap();
    });
    let config = Config { path: b"/export".to_vec(), ..config(address) };
    let (_client, mounted) = run(Client::connect(&config)).unwrap();
    assert!(!mounted.ignores_case);
    server.join().unwrap();
}

#[test]
fn connect_says_how_another_port_is_given() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = run(Client::connect(&config(closed))).map(drop).unwrap_err().to_string();
    let expected = format!("{closed} refuses TCP connections, so no MOUNT service listens there: start it, or give");
    assert!(error.starts_with(&expected) && error.ends_with("nfs://HOST:PORT/DIR?mountport=PORT"), "{error}");
}

#[test]
fn connect_names_the_exports_there_are() {
    let (address, server) = Server::start(|server| {
        let mut peer = server.accept();
        for _ in ["/export", "/"] {
            let call = peer.expect(MNT);
            peer.reply(call.xid, &words(&[2]));
        }
        let call = peer.expect(EXPORT);
        let exports = [&words(&[1, 2])[..], b"/a\0\0", &words(&[1, 1]), b"*\0\0\0", &words(&[0, 1, 2]), b"/b\0\0"];
        peer.reply(call.xid, &[&exports.concat()[..], &words(&[0, 0])].concat());
    });
    let error = run(Client::connect(&config(address))).map(drop).unwrap_err();
    assert_eq!(error.kind, ConnectErrorKind::NotFound);
    assert!(error.message.contains("/export") && error.message.contains("exports /a, /b"), "{error}");
    server.join().unwrap();
}

#[test]
fn connect_tells_a_refused_export_from_one_that_is_hidden_or_none() {
    for (export, why) in [("/export", "refuses this client"), ("/exporter", "does not export this to this client")] {
        let (address, server) = Server::start(move |server| {
            let mut peer = server.accept();
            for _ in ["/export", "/"] {
                let call = peer.expect(MNT);
                peer.reply(call.xid, &words(&[13]));
            }
            let call = peer.expect(EXPORT);
            let mut padded = export.as_bytes().to_vec();
            padded.resize(export.len().next_multiple_of(4), 0);
            peer.reply(call.xid, &[words(&[1, export.len() as u32]), padded, words(&[0, 0])].concat());
        });
        let error = run(Client::connect(&config(address))).map(drop).unwrap_err();
        assert_eq!(error.kind, ConnectErrorKind::Refused);
        assert!(error.message.contains(why), "{error}");
        server.join().unwrap();
    }
}

#[test]
fn ipv6_addresses_are_connected_to() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        eprintln!("SKIPPED: this machine has no IPv6 loopback");
        return;
    };
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let mut peer = Server { listener }.accept();
        let call = peer.expect(GETATTR);
        peer.reply(call.xid, &getattr_results(11));
    });
    let config = Config { privileged_port: true, ..config(address) };
    let client = Client::resume(&config, address.port());
    assert_eq!(run(client.getattr(&Cred::root(), &handle())).unwrap().fileid, 11);
    server.join().unwrap();
}

#[test]
fn connect_refuses_an_export_without_auth_sys() {
    let (address, server) = Server::start(|server| {
        let mut peer = server.accept();
        let call = peer.expect(MNT);
        peer.reply(call.xid, &[&words(&[0, 4])[..], b"root", &words(&[1, 390_003])].concat());
    });
    let error = run(Client::connect(&config(address))).map(drop).unwrap_err();
    assert!(error.kind == ConnectErrorKind::Refused && error.message.contains("sec=sys"), "{error}");
    server.join().unwrap();
}
