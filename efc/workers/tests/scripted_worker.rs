//! Workers that lie, stall and break off: what a real memcached will not do on demand.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use efc_cache::blocks::{BlockKey, Fill, Lookup};
use efc_workers::{Endpoint, WorkerState};
use support::{Memcached, Node, block_key, bytes, endpoint, until};

const SETTINGS: &[u8] = b"STAT item_size_max 2097152\r\nSTAT slab_chunk_max 524288\r\nEND\r\n";

/// What a server does with a command: the command's line, and where to answer.
type Script = dyn Fn(&str, &mut TcpStream) -> std::io::Result<()> + Send + Sync;

/// What a server answers to a command that asks for a block.
type Lie = Box<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// A server that does what it is told. It ends with this.
struct Scripted {
    port: u16,
    is_ended: Arc<AtomicBool>,
}

impl Scripted {
    /// Does `script` with each command, once it has told its settings.
    fn start(script: impl Fn(&str, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Scripted {
        Scripted::bare(move |line, stream| match line {
            "stats settings" => stream.write_all(SETTINGS),
            "stats" => stream.write_all(b"STAT limit_maxbytes 1000\r\nEND\r\n"),
            line => script(line, stream),
        })
    }

    fn bare(script: impl Fn(&str, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (port, script) = (listener.local_addr().expect("bound").port(), Arc::<Box<Script>>::new(Box::new(script)));
        let is_ended = Arc::new(AtomicBool::new(false));
        let ends = is_ended.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ends.load(Ordering::Acquire) {
                    return;
                }
                let script = script.clone();
                std::thread::spawn(move || serve(stream, &**script));
            }
        });
        Scripted { port, is_ended }
    }

    fn endpoint(&self) -> Endpoint {
        endpoint(self.port)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::Release);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(mut stream: TcpStream, script: &Script) {
    let mut lines = BufReader::new(stream.try_clone().expect("a descriptor"));
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
        if line.starts_with("ms ") {
            let length = line.split(' ').nth(2).and_then(|text| text.parse::<u64>().ok()).expect("a length");
            let _ = std::io::copy(&mut (&mut lines).take(length + 2), &mut std::io::sink());
        }
        if script(line.trim_end(), &mut stream).is_err() {
            break;
        }
        line.clear();
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// The opaque number of a command.
fn opaque(line: &str) -> &str {
    // Behind the command and a key, which may begin with anything.
    line.split(' ').skip(2).find_map(|token| token.strip_prefix('O')).expect("every command has one")
}

fn end() -> std::io::Result<()> {
    Err(std::io::ErrorKind::ConnectionAborted.into())
}

const LENGTH: usize = 5_000;

fn key(index: u64) -> BlockKey {
    block_key(&format!("file {index}"), LENGTH as u64, 0)
}

/// A sealed value as it lies on a real worker, of the block of `key(0)`.
fn sealed_value() -> Vec<u8> {
    let server = Memcached::start(64);
    let node = Node::new(1, &[server.endpoint()]).serving();
    node.put(key(0), &bytes(0, LENGTH));
    let mut client = server.client();
    let name = until("the block is there", || client.keys().pop());
    client.value(&name)
}

fn answer(line: &str, value: &[u8]) -> Vec<u8> {
    let head = format!("VA {} c1 O{}\r\n", value.len(), opaque(line));
    [head.as_bytes(), value, b"\r\n"].concat()
}

#[test]
fn whatever_a_server_answers_reads_go_on_without_it() {
    let value = sealed_value();
    let lies: Vec<Lie> = vec![
        Box::new(|_| b"ERROR\r\n".to_vec()),
        Box::new(|_| b"\0\xff\x80garbage".repeat(1_000)),
        Box::new(|_| b"EN O4294967295\r\n".to_vec()),
        Box::new(|line| format!("HD O{}\r\n", opaque(line)).into_bytes()),
        Box::new(|line| format!("VA 99999999999 c1 O{}\r\n", opaque(line)).into_bytes()),
        Box::new(|line| format!("VA 18446744073709551616 c1 O{}\r\n", opaque(line)).into_bytes()),
        Box::new(|line| format!("VA -5 c1 O{}\r\n", opaque(line)).into_bytes()),
        Box::new(|_| b"SERVER_ERROR out of memory writing get response\r\n".to_vec()),
        Box::new(|line| format!("EN O{}\r\nEN O{}\r\n", opaque(line), opaque(line)).into_bytes()),
        Box::new({
            let value = value.clone();
            move |line| [&answer(line, &value)[..LENGTH - 5], b"\r\nEN O3\r\n"].concat().repeat(3)
        }),
        Box::new({
            let value = value.clone();
            move |line| answer(line, &value).replace_opaque()
        }),
        Box::new(|_| b"STAT a b\r\n".repeat(10_000)),
        Box::new(|_| vec![b'x'; 100_000]),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let lies = Arc::new(AtomicBool::new(true));
        let lying = lies.clone();
        let honest = value.clone();
        let server = Scripted::start(move |line, stream| {
            if !line.starts_with("mg ") {
                return stream.write_all(format!("NF O{}\r\n", opaque(line)).as_bytes());
            }
            let is_lie = lying.load(Ordering::Relaxed);
            stream.write_all(&if is_lie { lie(line) } else { answer(line, &honest) })
        });
        let node = Node::new(1, &[server.endpoint()]).serving();
        for _ in 0..5 {
            assert_eq!(node.bytes(key(0)), None, "lie {number}");
        }
        until("the connection is given up", || (node.counts().broken_connections > 0).then_some(()));
        lies.store(false, Ordering::Relaxed);
        let found = until("it is asked again", || node.bytes(key(0)));
        assert!(found == bytes(0, LENGTH), "lie {number}");
    }
}

trait ReplaceOpaque {
    fn replace_opaque(self) -> Vec<u8>;
}

impl ReplaceOpaque for Vec<u8> {
    /// The answer to another question.
    fn replace_opaque(mut self) -> Vec<u8> {
        let place = self.iter().position(|byte| *byte == b'\r').expect("a line");
        self.insert(place, b'7');
        self
    }
}

#[test]
fn a_connection_may_end_at_any_byte() {
    let value = sealed_value();
    let cut = Arc::new(Mutex::new(0));
    let (at, whole) = (cut.clone(), value.clone());
    let server = Scripted::start(move |line, stream| {
        let answer = answer(line, &whole);
        let cut = (*at.lock().expect("a number")).min(answer.len());
        stream.write_all(&answer[..cut])?;
        if cut < answer.len() { end() } else { Ok(()) }
    });
    let node = Node::new(1, &[server.endpoint()]).serving();
    let whole = value.len() + 30;
    for length in (0..60).chain((60..value.len()).step_by(700)).chain(whole - 40..whole + 10) {
        *cut.lock().expect("a number") = length;
        let found = node.bytes(key(0));
        assert!(found.is_none() || found == Some(bytes(0, LENGTH)), "{length} bytes");
    }
    *cut.lock().expect("a number") = usize::MAX;
    until("a whole answer", || node.bytes(key(0)));
    assert_eq!(node.counts().refused_blocks, 0);
}

#[test]
fn one_connection_that_breaks_takes_no_other_with_it() {
    let real = Memcached::start(64);
    let broken = Scripted::start(|_, _| end());
    let node = Node::new(1, &[real.endpoint(), broken.endpoint()]).serving();
    let mut kept = Vec::new();
    for index in 0..40 {
        if let Lookup::Miss(miss) = node.get(key(index))
            && let Some(fill) = miss.fill
        {
            fill.fill(&Arc::new(support::block(&bytes(index, LENGTH))));
            kept.push(index);
        }
    }
    assert!((8..=32).contains(&kept.len()), "half of them: {}", kept.len());
    for index in kept {
        assert!(until("it is there", || node.bytes(key(index))) == bytes(index, LENGTH));
    }
}

#[test]
fn a_server_that_says_nothing_or_little_costs_few_waits() {
    let silent = |_: &str, _: &mut TcpStream| Ok(());
    let trickles = |_: &str, stream: &mut TcpStream| {
        for byte in b"VA 5000 c1 O1\r\n".iter().cycle() {
            stream.write_all(&[*byte])?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    };
    let late = |line: &str, stream: &mut TcpStream| {
        std::thread::sleep(Duration::from_millis(400));
        stream.write_all(format!("EN O{}\r\n", opaque(line)).as_bytes())
    };
    for server in [Scripted::start(silent), Scripted::start(trickles), Scripted::start(late)] {
        let node = Node::in_a_hurry(1, &[server.endpoint()]).serving();
        (0..300).for_each(|index| assert_eq!(node.bytes(key(index)), None));
        let counts = node.counts();
        assert!(counts.timeouts + counts.lost <= 4 && counts.skipped >= 290, "{counts:?}");
    }
}

#[test]
fn a_block_that_is_not_there_is_put_there_though_the_answer_came_late() {
    let (is_late, put) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (late, puts) = (is_late.clone(), put.clone());
    let server = Scripted::start(move |line, stream| {
        let is_put = line.starts_with("ms ");
        if !is_put && late.swap(false, Ordering::AcqRel) {
            std::thread::sleep(2 * efc_workers::health::WAIT_MAX);
        }
        puts.fetch_add(usize::from(is_put), Ordering::Release);
        stream.write_all(format!("{} O{}\r\n", if is_put { "HD" } else { "EN" }, opaque(line)).as_bytes())
    });
    let node = Node::in_a_hurry(1, &[server.endpoint()]).serving();
    let block = |index| Arc::new(support::block(&bytes(index, LENGTH)));
    let mut places: Vec<_> = (1..60).map(|index| (node.place(key(index)), block(index))).collect();
    let fill_one = |places: &mut Vec<(Box<dyn Fill>, Arc<_>)>| {
        let (place, block) = places.pop().expect("another place");
        place.fill(&block);
        std::thread::sleep(Duration::from_millis(20));
    };
    // Blocks have a connection of their own by then, on which the worker goes on speaking.
    (0..20).for_each(|_| fill_one(&mut places));
    is_late.store(true, Ordering::Release);
    let miss = std::thread::scope(|scope| {
        scope.spawn(|| (0..20).for_each(|_| fill_one(&mut places)));
        let Lookup::Miss(miss) = node.get(key(0)) else { panic!("it has nothing") };
        miss
    });
    assert_eq!((node.counts().timeouts, node.counts().broken_connections), (1, 0));
    let before = put.load(Ordering::Acquire);
    miss.fill.expect("a place").fill(&block(0));
    until("it is put there", || (put.load(Ordering::Acquire) > before).then_some(()));
}

#[test]
fn a_server_whose_greeting_is_no_good_is_not_used() {
    for (greeting, is_unfit) in [
        (&b"END\r\n"[..], true),
        (b"STAT item_size_max 1048576\r\nEND\r\n", true),
        (b"ERROR\r\n", false),
        (b"STAT item_size_max", false),
        (b"SSH-2.0-OpenSSH_9.2\r\n", false),
    ] {
        let server = Scripted::bare(move |_, stream| {
            stream.write_all(greeting)?;
            if is_unfit { Ok(()) } else { end() }
        });
        let node = Node::new(1, &[server.endpoint()]);
        let state = until("it is looked at", || {
            let state = node.figures().remove(0).state;
            (state != WorkerState::Connecting).then_some(state)
        });
        assert_eq!(matches!(state, WorkerState::Unfit(_)), is_unfit, "{state:?}");
        assert!(is_unfit || matches!(state, WorkerState::Down(_)), "{state:?}");
        assert_eq!(node.bytes(key(0)), None);
    }
    let node = Node::new(1, &[endpoint(1), "no-such-host.invalid:11211".parse().expect("an endpoint")]);
    until("none can be reached", || {
        node.figures().iter().all(|one| matches!(one.state, WorkerState::Down(_))).then_some(())
    });
}

#[test]
fn a_server_that_takes_no_block_says_why_and_is_still_asked() {
    let server = Scripted::start(|line, stream| match &line[..2] {
        "ms" => stream.write_all(b"SERVER_ERROR out of memory storing object\r\n"),
        _ => stream.write_all(format!("EN O{}\r\n", opaque(line)).as_bytes()),
    });
    let node = Node::new(1, &[server.endpoint()]).serving();
    node.place(key(0)).fill(&Arc::new(support::block(&bytes(0, LENGTH))));
    until("it has refused the block", || (node.counts().fills_failed == 1).then_some(()));
    assert_eq!(node.figures()[0].fill_trouble.as_deref(), Some("out of memory storing object"));
    node.place(key(1));
    assert_eq!(node.counts().broken_connections, 0);
}
