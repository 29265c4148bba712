//! READs for a pipe against a server that scripts how their payloads arrive.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_io::Timer;
use efc_backend::*;
use efc_buffer::{Payload, Prefix, Room, Sink};
use efc_nfs::*;
use futures_lite::future::{self, block_on, poll_once};

const LAST: u32 = 0x8000_0000;
const PREFIX: Prefix = *b"0123456789abcdef";
const COUNT: usize = 500_000;

fn payload() -> Vec<u8> {
    (0..COUNT as u32).map(|at| (at % 251) as u8).collect()
}

fn serve(script: impl FnOnce(TcpListener) + Send + 'static) -> (Client, JoinHandle<()>) {
    // One more for each test: none takes two at a time, and they run side by side.
    efc_buffer::pipe::reserve(1).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (client(address, None), thread::spawn(move || script(listener)))
}

fn client(server: SocketAddr, time_limit: Option<Duration>) -> Client {
    let config = Config {
        host: server.ip().to_string(),
        port: None,
        mount_port: None,
        path: Vec::new(),
        connections: 1,
        time_limit,
        connect_time_limit: Duration::from_secs(5),
        privileged_port: false,
        identity: None,
    };
    Client::resume(&config, server.port())
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// The xid of the next call.
fn call(stream: &mut TcpStream) -> u32 {
    let mut mark = [0; 4];
    stream.read_exact(&mut mark).unwrap();
    let mut record = vec![0; (u32::from_be_bytes(mark) & !LAST) as usize];
    stream.read_exact(&mut record).unwrap();
    u32::from_be_bytes(record[..4].try_into().unwrap())
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// A reply to a READ in fragments cut at these places.
fn reply(xid: u32, payload: &[u8], cuts: &[usize]) -> Vec<u8> {
    let count = payload.len() as u32;
    let head = words(&[xid, 1, 0, 0, 0, 0, 0, 0, count, u32::from(payload.len() < COUNT), count]);
    let padding = vec![0; payload.len().wrapping_neg() & 3];
    let record = [head, payload.to_vec(), padding].concat();
    let mut stream = Vec::new();
    let mut from = 0;
    for &cut in cuts.iter().chain([&record.len()]) {
        let last = if cut == record.len() { LAST } else { 0 };
        stream.extend(((cut - from) as u32 | last).to_be_bytes());
        stream.extend_from_slice(&record[from..cut]);
        from = cut;
    }
    stream
}

async fn read(client: &Client, count: usize) -> Result<(Payload, Read)> {
    let file = FileHandle::new(b"file").unwrap();
    let (payload, read) =
        client.read(&Cred::root(), &file, 0, Sink::Pipe { prefix: PREFIX, count, room: Room::uncounted(count) }).await;
    read.map(|read| (payload.expect("a payload"), read))
}

fn run<T>(work: impl Future<Output = T>) -> T {
    block_on(future::or(work, async {
        Timer::after(Duration::from_secs(20)).await;
        panic!("no outcome within 20 s")
    }))
}

fn assert_piped(read: Result<(Payload, Read)>) {
    let (Payload::Pipe(mut pipe), read) = read.unwrap() else { panic!("it came in a buffer") };
    let mut message = vec![0; PREFIX.len() + COUNT];
    pipe.read_exact(&mut message).unwrap();
    assert!(message[..16] == PREFIX && message[16..] == payload() && read.count as usize == COUNT);
    assert!(pipe.read_exact(&mut [0]).is_err(), "nothing behind it");
}

fn assert_buffered(read: Result<(Payload, Read)>, expected: &[u8]) {
    let (Payload::Buffer(buffer, _), read) = read.unwrap() else { panic!("it came in a pipe") };
    assert!(read.count as usize == expected.len() && buffer[..expected.len()] == *expected);
}

#[test]
fn a_payload_fills_a_pipe_behind_its_prefix_and_the_stream_goes_on() {
    let (client, server) = serve(|listener| {
        let mut stream = accept(&listener);
        for step in [1 << 20, 65_536, 10_001] {
            let reply = reply(call(&mut stream), &payload(), &[]);
            for segment in reply.chunks(step) {
                stream.write_all(segment).unwrap();
            }
        }
        let xid = call(&mut stream);
        stream.write_all(&reply(xid, b"short", &[])).unwrap();
    });
    for _ in 0..3 {
        assert_piped(run(read(&client, COUNT)));
    }
    assert_buffered(run(read(&client, COUNT)), b"short");
    let counters = client.counters();
    assert_eq!((counters.bytes_spliced, counters.bytes_read), (3 * COUNT as u64, 3 * COUNT as u64 + 5));
    assert_eq!((counters.pipe_misfits, counters.reconnects), (0, 0));
    server.join().unwrap();
}

#[test]
fn what_does_not_fit_a_pipe_ends_in_a_buffer() {
    let (client, server) = serve(|listener| {
        let mut stream = accept(&listener);
        // More segments than any pipe has slots; the pauses keep the kernel from merging them.
        for (index, segment) in reply(call(&mut stream), &payload(), &[]).chunks(150).enumerate() {
            stream.write_all(segment).unwrap();
            if index % 4 == 0 {
                thread::sleep(Duration::from_micros(100));
            }
        }
        for cut in [30, 44, 45, 300_000] {
            let reply = reply(call(&mut stream), &payload(), &[cut]);
            stream.write_all(&reply).unwrap();
        }
    });
    assert_buffered(run(read(&client, COUNT)), &payload());
    assert_eq!(client.counters().pipe_misfits, 1);
    for cut in [30, 44, 45, 300_000] {
        let read = run(read(&client, COUNT));
        match cut {
            // The whole payload lies in the second fragment.
            30 | 44 => assert_piped(read),
            _ => assert_buffered(read, &payload()),
        }
    }
    assert_eq!(client.counters().pipe_misfits, 3);
    server.join().unwrap();
}

#[test]
fn a_connection_that_breaks_in_a_payload_leaves_no_byte_in_the_next_pipe() {
    let (client, server) = serve(|listener| {
        let mut stream = accept(&listener);
        let xid = call(&mut stream);
        stream.write_all(&reply(xid, &[9; COUNT], &[])[..300_000]).unwrap();
        drop(stream);
        let mut stream = accept(&listener);
        assert_eq!(call(&mut stream), xid, "the same call");
        stream.write_all(&reply(xid, &payload(), &[])).unwrap();
    });
    assert_piped(run(read(&client, COUNT)));
    assert_eq!(client.counters().reconnects, 1);
    server.join().unwrap();
}

#[test]
fn a_read_dropped_while_its_pipe_fills_harms_nobody() {
    let (half, halved) = mpsc::channel();
    let (dropped, go) = mpsc::channel();
    let (client, server) = serve(move |listener| {
        let mut stream = accept(&listener);
        let reply_9 = reply(call(&mut stream), &[9; COUNT], &[]);
        stream.write_all(&reply_9[..200_000]).unwrap();
        half.send(()).unwrap();
        go.recv().unwrap();
        stream.write_all(&reply_9[200_000..]).unwrap();
        let xid = call(&mut stream);
        stream.write_all(&reply(xid, &payload(), &[])).unwrap();
    });
    {
        let mut abandoned = pin!(read(&client, COUNT));
        assert!(block_on(poll_once(&mut abandoned)).is_none());
        halved.recv().unwrap();
    }
    dropped.send(()).unwrap();
    assert_piped(run(read(&client, COUNT)));
    assert_eq!(client.counters().reconnects, 0);
    server.join().unwrap();
}

#[test]
fn a_soft_client_gives_up_on_half_a_payload() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = client(listener.local_addr().unwrap(), Some(Duration::from_secs(1)));
    efc_buffer::pipe::reserve(1).unwrap();
    let (given_up, go) = mpsc::channel();
    let server = thread::spawn(move || {
        let mut stream = accept(&listener);
        let reply_9 = reply(call(&mut stream), &[9; COUNT], &[]);
        stream.write_all(&reply_9[..200_000]).unwrap();
        go.recv().unwrap();
        stream.write_all(&reply_9[200_000..]).unwrap();
        let xid = call(&mut stream);
        stream.write_all(&reply(xid, &payload(), &[])).unwrap();
    });
    assert_eq!(run(read(&client, COUNT)).map(drop).unwrap_err().kind, ErrorKind::TimedOut);
    given_up.send(()).unwrap();
    assert_piped(run(read(&client, COUNT)));
    server.join().unwrap();
}

/// Set in a process of its own, which runs one test.
const ALONE: &str = "EFC_TEST_ALONE";

#[test]
fn without_memory_for_a_buffer_one_read_fails_and_the_stream_goes_on() {
    if std::env::var_os(ALONE).is_none() {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let name = "without_memory_for_a_buffer_one_read_fails_and_the_stream_goes_on";
        let output = alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        return assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    }
    const LARGE: usize = 100_000;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = client(listener.local_addr().unwrap(), None);
    let server = thread::spawn(move || {
        let mut stream = accept(&listener);
        for size in [LARGE, LARGE, 1000] {
            let xid = call(&mut stream);
            stream.write_all(&reply(xid, &vec![7; size], &[])).unwrap();
        }
    });
    let first = run(read(&client, LARGE)); // it keeps its buffer
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = status.split(' ').next().unwrap().parse().unwrap();
    let limit = Some(pages * 4096 + (600 << 10)); // less than another such buffer, and enough for all else
    let limits = rustix::process::Rlimit { current: limit, maximum: limit };
    rustix::process::setrlimit(rustix::process::Resource::As, limits).unwrap();
    let failure = run(read(&client, LARGE)).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::NoMemory);
    assert_buffered(run(read(&client, 1000)), &[7; 1000]);
    assert_buffered(first, &[7; LARGE]);
    assert_eq!(client.counters().reconnects, 0);
    server.join().unwrap();
}
