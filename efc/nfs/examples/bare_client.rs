//! What a NAS gives without a mount: the reference of the benchmarks.
//!
//! ```text
//! bare_client read URL PATH [--connections N] [--depth D] [--size BYTES]   one file, sequential, D READs in flight
//! bare_client small URL DIR [--connections N]                              LOOKUP and READ of DIR/*/*, one at a time
//! bare_client write URL PATH [--connections N] [--depth D] --count N      N WRITEs of 1 MiB, D in flight, and COMMIT
//! bare_client getattr URL PATH [--connections N] [--depth D] --count N     GETATTR, D in flight
//! ```
//! The work runs where replies arrive, on the connections' own threads, as in the daemon.
//! Prints one line of JSON: seconds, bytes, files (calls of getattr), CPU seconds of this process, peak RSS in KiB.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use efc_backend::{Cred, FileHandle, FileType, Stable, Written};
use efc_buffer::{Buffer, PAYLOAD_MAX, Payload, Sink};
use efc_nfs::{Client, Config, url};
use futures_lite::future::block_on;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Running<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
type InFlight<'a, T> = VecDeque<Running<'a, T>>;

struct Options {
    command: String,
    url: String,
    path: String,
    connections: usize,
    depth: usize,
    size: usize,
    count: u64,
}

struct Done {
    elapsed: Duration,
    bytes: u64,
    files: u64,
}

fn options() -> Result<Options, Failure> {
    let mut words = Vec::new();
    let mut options = Options {
        command: String::new(),
        url: String::new(),
        path: String::new(),
        connections: 4,
        depth: 8,
        size: PAYLOAD_MAX,
        count: 10_000,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--connections" => options.connections = value()?.parse()?,
            "--depth" => options.depth = value()?.parse()?,
            "--size" => options.size = value()?.parse()?,
            "--count" => options.count = value()?.parse()?,
            _ => words.push(argument),
        }
    }
    let [command, url, path] =
        words.try_into().map_err(|_| "usage: bare_client read|small|write|getattr URL PATH [--...]")?;
    if !(1..=PAYLOAD_MAX).contains(&options.size) || options.depth == 0 {
        return Err(format!("--size is 1 to {PAYLOAD_MAX}, --depth at least 1").into());
    }
    Ok(Options { command, url, path, ..options })
}

async fn walk(client: &Client, root: FileHandle, path: &str) -> Result<FileHandle, Failure> {
    let mut handle = root;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        handle = client.lookup(&Cred::root(), &handle, name.as_bytes()).await?.handle;
    }
    Ok(handle)
}

async fn read(client: &Client, file: FileHandle, options: &Options) -> Result<Done, Failure> {
    let (cred, size) = (Cred::root(), options.size);
    let length = client.getattr(&cred, &file).await?.size;
    let start = Instant::now();
    let mut free = (0..options.depth).map(|_| Buffer::new(size)).collect::<Result<Vec<_>, _>>()?;
    let mut in_flight: InFlight<'_, _> = VecDeque::new();
    let (mut offset, mut bytes) = (0, 0);
    while offset < length || !in_flight.is_empty() {
        while offset < length
            && let Some(buffer) = free.pop()
        {
            let mut next: Running<'_, _> = Box::pin(client.read(&cred, &file, offset, Sink::Buffer(buffer, 0..size)));
            // A future is sent when it is first polled.
            if let Some(done) = futures_lite::future::poll_once(&mut next).await {
                in_flight.push_back(Box::pin(std::future::ready(done)));
            } else {
                in_flight.push_back(next);
            }
            offset += size as u64;
        }
        let oldest = in_flight.pop_front().expect("at least one is in flight");
        let (payload, result) = oldest.await;
        bytes += u64::from(result?.count);
        free.extend(payload.and_then(Payload::into_buffer).map(|(buffer, _)| buffer));
    }
    if bytes != length {
        return Err(format!("{bytes} bytes came of {length}").into());
    }
    Ok(Done { elapsed: start.elapsed(), bytes, files: 1 })
}

async fn list(client: &Client, dir: &FileHandle) -> Result<Vec<(Vec<u8>, FileHandle, FileType)>, Failure> {
    let (mut cookie, mut verifier, mut names) = (0, [0; 8], Vec::new());
    loop {
        let page = client.readdirplus(&Cred::root(), dir, cookie, verifier, 256 << 10).await?;
        (cookie, verifier) = (page.entries.last().map_or(cookie, |entry| entry.cookie), page.verifier);
        for entry in page.entries {
            if let (Some(handle), Some(attr)) = (entry.handle, entry.attr)
                && entry.name != b"."
                && entry.name != b".."
            {
                names.push((entry.name, handle, attr.kind));
            }
        }
        if page.eof {
            return Ok(names);
        }
    }
}

async fn small(client: &Client, dir: FileHandle) -> Result<Done, Failure> {
    let cred = Cred::root();
    let mut work = Vec::new();
    for (_, subdir, kind) in list(client, &dir).await? {
        if kind == FileType::Directory {
            let files = list(client, &subdir).await?;
            work.extend(files.into_iter().filter(|file| file.2 == FileType::Regular).map(|(name, ..)| (subdir, name)));
        }
    }
    let start = Instant::now();
    let mut buffer = Buffer::new(PAYLOAD_MAX)?;
    let mut bytes = 0;
    for (subdir, name) in &work {
        let file = client.lookup(&cred, subdir, name).await?;
        let size = file.attr.map_or(PAYLOAD_MAX as u64, |attr| attr.size) as usize;
        let sink = Sink::Buffer(buffer, 0..size.min(PAYLOAD_MAX));
        let (payload, read) = client.read(&cred, &file.handle, 0, sink).await;
        bytes += u64::from(read?.count);
        let back = payload.and_then(Payload::into_buffer).ok_or("a READ lost its buffer")?;
        buffer = back.0;
    }
    Ok(Done { elapsed: start.elapsed(), bytes, files: work.len() as u64 })
}

/// Begins `count` calls, `depth` of them in flight, and takes in what each of them came to.
async fn pipeline<'a, T: Send + 'a>(
    options: &Options,
    begin: impl Fn(u64) -> Running<'a, T>,
    finish: impl Fn(T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut in_flight: InFlight<'a, T> = VecDeque::new();
    for number in 0..options.count + options.depth as u64 {
        if number >= options.depth as u64
            && let Some(oldest) = in_flight.pop_front()
        {
            finish(oldest.await)?;
        }
        if number < options.count {
            let mut next = begin(number);
            // A future is sent when it is first polled.
            match futures_lite::future::poll_once(&mut next).await {
                Some(done) => in_flight.push_back(Box::pin(std::future::ready(done))),
                None => in_flight.push_back(next),
            }
        }
    }
    Ok(())
}

async fn write(client: &Client, file: FileHandle, options: &Options) -> Result<Done, Failure> {
    let (cred, size) = (Cred::root(), options.size);
    let data = Bytes::from(vec![0x5a; size]);
    let start = Instant::now();
    let begin = |number| -> Running<'_, _> {
        Box::pin(client.write(&cred, &file, number * size as u64, data.clone(), Stable::Unstable))
    };
    let finish = |written: efc_backend::Result<Written>| match written?.count as usize {
        count if count == size => Ok(()),
        count => Err(format!("{count} bytes of {size} were written").into()),
    };
    pipeline(options, begin, finish).await?;
    client.commit(&cred, &file).await?;
    Ok(Done { elapsed: start.elapsed(), bytes: options.count * size as u64, files: 1 })
}

async fn getattr(client: &Client, object: FileHandle, options: &Options) -> Result<Done, Failure> {
    let cred = Cred::root();
    let start = Instant::now();
    pipeline(options, |_| Box::pin(client.getattr(&cred, &object)), |answer| Ok(answer.map(drop)?)).await?;
    Ok(Done { elapsed: start.elapsed(), bytes: 0, files: options.count })
}

async fn perform(config: Config, options: Options) -> Result<Done, Failure> {
    let (client, mounted) = Client::connect(&config).await?;
    let object = walk(&client, mounted.root, &options.path).await?;
    match options.command.as_str() {
        "read" => read(&client, object, &options).await,
        "small" => small(&client, object).await,
        "write" => write(&client, object, &options).await,
        "getattr" => getattr(&client, object, &options).await,
        other => Err(format!("{other:?} is none of read, small, write, getattr").into()),
    }
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let behind_name = stat.rsplit(')').next().expect("a name in parentheses");
    let ticks = behind_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("a number"));
    ticks.sum::<f64>() / rustix::param::clock_ticks_per_second() as f64
}

fn peak_rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    let url = url::parse_url(&options.url)?;
    let config = Config {
        host: url.host,
        port: url.port,
        mount_port: url.mount_port,
        path: url.path.into_bytes(),
        connections: options.connections,
        time_limit: None,
        connect_time_limit: Duration::from_secs(10),
        privileged_port: true,
        identity: None,
    };
    let (runnable, task) = async_task::spawn(perform(config, options), |runnable: async_task::Runnable| {
        runnable.run();
    });
    runnable.schedule();
    let done = block_on(task)?;
    let line = serde_json::json!({
        "seconds": done.elapsed.as_secs_f64(), "bytes": done.bytes, "files": done.files,
        "cpu_seconds": cpu_seconds(), "rss_kib": peak_rss_kib(),
    });
    println!("{line}");
    Ok(())
}
