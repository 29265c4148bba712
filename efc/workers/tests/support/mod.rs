//! What the tests with workers share: real memcached servers, blocks, and a data set's workers.

#![allow(dead_code)] // each test uses a part of it

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use efc_backend::{FileHandle, Time};
use efc_buffer::{Budget, BudgetLimits, Buffer, LARGE};
use efc_cache::Version;
use efc_cache::blocks::{Block, BlockKey, Fill, Level, Lookup};
use efc_tasks::block_on;
use efc_workers::{Counts, DataSetKey, Endpoint, Settings, Tls, WorkerFigures, WorkerState, Workers};

/// Ends hangs only.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A memcached server, which ends with this.
pub struct Memcached {
    server: Server,
    pub port: u16,
    _folder: tempfile::TempDir,
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Memcached {
    /// With so many MiB for values of up to 2 MiB.
    pub fn start(mib: u32) -> Memcached {
        Memcached::with(&["-m", &mib.to_string(), "-I", "2m"])
    }

    /// With these arguments, on a port of its own choice.
    pub fn with(arguments: &[&str]) -> Memcached {
        Memcached::on("-1", arguments)
    }

    /// On this port, which another has left.
    pub fn again(port: u16, mib: u32) -> Memcached {
        Memcached::on(&port.to_string(), &["-m", &mib.to_string(), "-I", "2m"])
    }

    fn on(port: &str, arguments: &[&str]) -> Memcached {
        let folder = tempfile::tempdir().expect("a folder");
        let ports = folder.path().join("ports");
        let mut command = Command::new("memcached");
        command.args(["-l", "127.0.0.1", "-p", port, "-U", "0", "-u", "root"]).args(arguments);
        let command = command.env("MEMCACHED_PORT_FILENAME", &ports).stdin(Stdio::null()).stdout(Stdio::null());
        let server = Server(command.spawn().expect("memcached is installed"));
        let port = until("memcached listens", || listening(&ports));
        Memcached { server, port, _folder: folder }
    }

    pub fn endpoint(&self) -> Endpoint {
        endpoint(self.port)
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.server.0);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// A client that is none of ours.
    pub fn client(&self) -> Client {
        Client(TcpStream::connect(("127.0.0.1", self.port)).expect("it listens"))
    }
}

fn listening(ports: &Path) -> Option<u16> {
    let text = std::fs::read_to_string(ports).ok()?;
    let port = text.lines().find_map(|line| line.strip_prefix("TCP INET: "))?;
    port.parse().ok()
}

pub fn endpoint(port: u16) -> Endpoint {
    Endpoint { host: "127.0.0.1".into(), port, weight: 1 }
}

/// Somebody who speaks to a worker directly.
pub struct Client(TcpStream);

impl Client {
    /// Sends a command, and answers what comes until `end`.
    pub fn ask(&mut self, command: &[u8], end: &[u8]) -> Vec<u8> {
        self.0.set_read_timeout(Some(LIMIT)).expect("a socket");
        self.0.write_all(command).expect("sent");
        let (mut answer, mut piece) = (Vec::new(), [0; 65536]);
        while !answer.ends_with(end) {
            let count = self.0.read(&mut piece).expect("an answer");
            assert!(count > 0, "no whole answer to {}", String::from_utf8_lossy(command));
            answer.extend_from_slice(&piece[..count]);
        }
        answer
    }

    /// The keys of a worker, but for those that are in use just now.
    pub fn keys(&mut self) -> Vec<String> {
        let dump = self.ask(b"lru_crawler metadump all\r\n", b"END\r\n");
        let dump = String::from_utf8(dump).expect("text");
        dump.lines().filter_map(|line| line.strip_prefix("key=")?.split(' ').next()).map(str::to_owned).collect()
    }

    /// There is a value of this key.
    pub fn has(&mut self, key: &str) -> bool {
        self.ask(format!("mg {key} s\r\n").as_bytes(), b"\r\n").starts_with(b"HD")
    }

    /// The bytes of a value.
    pub fn value(&mut self, key: &str) -> Vec<u8> {
        let answer = self.ask(format!("get {key}\r\n").as_bytes(), b"END\r\n");
        let begin = answer.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
        answer[begin..answer.len() - b"\r\nEND\r\n".len()].to_vec()
    }

    /// One of the statistics.
    pub fn statistic(&mut self, name: &str) -> u64 {
        let text = String::from_utf8(self.ask(b"stats\r\n", b"END\r\n")).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
        line.expect("memcached tells it").parse().expect("a number")
    }

    pub fn set(&mut self, key: &str, value: &[u8]) {
        let command = [format!("set {key} 0 0 {}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
        assert_eq!(self.ask(&command, b"\r\n"), b"STORED\r\n");
    }
}

/// Asks until there is an answer.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < LIMIT, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The workers of a data set, as one node has them.
pub struct Node {
    pub workers: Workers,
    pub budget: Budget,
}

impl Node {
    /// The node knows the key made of this seed, and uses these workers; it has all the time of the world for them.
    pub fn new(seed: u8, endpoints: &[Endpoint]) -> Node {
        Node::with(seed, endpoints, LIMIT / 2, None)
    }

    /// The same, by TLS.
    pub fn by_tls(seed: u8, endpoints: &[Endpoint], tls: Tls) -> Node {
        Node::with(seed, endpoints, LIMIT / 2, Some(tls))
    }

    /// The same, but it waits no longer for answers than other nodes do.
    pub fn in_a_hurry(seed: u8, endpoints: &[Endpoint]) -> Node {
        Node::with(seed, endpoints, efc_workers::health::WAIT_MAX, None)
    }

    fn with(seed: u8, endpoints: &[Endpoint], wait_max: Duration, tls: Option<Tls>) -> Node {
        let budget = Budget::new(BudgetLimits { ahead_bytes: 64 << 20, ..BudgetLimits::NONE });
        let key = DataSetKey::new([seed; DataSetKey::BYTES]);
        let workers = Workers::new(Settings { key, budget: budget.clone(), tls, wait_max }).expect("threads");
        workers.follow(endpoints.to_vec());
        Node { workers, budget }
    }

    /// Waits until all workers serve.
    pub fn serving(self) -> Node {
        until("all workers serve", || {
            let is_serving = |one: &WorkerFigures| one.state == WorkerState::Serving;
            (self.figures().iter().all(is_serving) && self.workers.serves()).then_some(())
        });
        self
    }

    pub fn figures(&self) -> Vec<WorkerFigures> {
        self.workers.figures()
    }

    /// Of the only worker.
    pub fn counts(&self) -> Counts {
        self.figures()[0].counts
    }

    pub fn get(&self, key: BlockKey) -> Lookup {
        block_on(self.workers.get(key, Buffer::new(key.length() + 4096).expect("memory")))
    }

    /// The bytes of a block, if a worker has it; a place for it is given up.
    pub fn bytes(&self, key: BlockKey) -> Option<Vec<u8>> {
        match self.get(key) {
            Lookup::Hit { block, .. } => Some(block.to_vec()),
            Lookup::Miss(_) => None,
        }
    }

    /// The same for who has no reader waiting.
    pub fn unhurried_bytes(&self, key: BlockKey) -> Option<Vec<u8>> {
        match block_on(self.workers.get_unhurried(key, Buffer::new(key.length() + 4096).expect("memory"))) {
            Lookup::Hit { block, .. } => Some(block.to_vec()),
            Lookup::Miss(_) => None,
        }
    }

    /// The place that a worker offers for a block that it has not got.
    pub fn place(&self, key: BlockKey) -> Box<dyn Fill> {
        match self.get(key) {
            Lookup::Hit { .. } => panic!("nobody has put this block there"),
            Lookup::Miss(miss) => miss.fill.unwrap_or_else(|| panic!("no worker takes it: {:?}", self.figures())),
        }
    }

    /// Puts a block where a worker wants it, and waits until it is there.
    pub fn put(&self, key: BlockKey, bytes: &[u8]) {
        let done = |node: &Node| node.figures().iter().map(|one| one.counts.fills_done).sum::<u64>();
        let before = done(self);
        self.place(key).fill(&Arc::new(block(bytes)));
        until("the block is put there", || (done(self) > before).then_some(()));
    }
}

pub fn room() -> Buffer {
    Buffer::new(LARGE).expect("memory")
}

pub fn block(bytes: &[u8]) -> Block {
    let mut room = room();
    room[..bytes.len()].copy_from_slice(bytes);
    Block::new(room, bytes.len())
}

/// Names a block of a file of this size.
pub fn block_key(file: &str, size: u64, index: u64) -> BlockKey {
    let time = Time { seconds: 1_700_000_000, nanos: 5 };
    let version = Version { mtime: time, ctime: time, size };
    BlockKey { storage: 0, file: FileHandle::new(file.as_bytes()).expect("short"), version, index }
}

/// So many bytes that look random.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}
