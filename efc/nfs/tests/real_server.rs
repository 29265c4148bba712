//! Every procedure against a real server: `EFC_TEST_NAS` is the URL of a directory that root may write to.
//! Without it these tests fail, unless `EFC_TEST_NAS_SKIP=1` says that leaving them out is meant.

use std::time::Duration;

use bytes::Bytes;
use efc_backend::*;
use efc_buffer::{Buffer, PAYLOAD_MAX, Payload, Sink};
use efc_nfs::*;
use futures_lite::future::block_on;

fn config() -> Option<Config> {
    let url = match std::env::var("EFC_TEST_NAS") {
        Ok(url) => url::parse_url(&url).expect("EFC_TEST_NAS"),
        Err(_) if std::env::var("EFC_TEST_NAS_SKIP").is_ok_and(|skip| skip == "1") => return None,
        Err(_) => panic!("EFC_TEST_NAS names no writable directory (nfs://...); EFC_TEST_NAS_SKIP=1 leaves this out"),
    };
    Some(Config {
        host: url.host,
        port: url.port,
        mount_port: url.mount_port,
        path: url.path.into_bytes(),
        connections: 4,
        time_limit: Some(Duration::from_secs(20)),
        connect_time_limit: Duration::from_secs(5),
        privileged_port: true,
        identity: None,
    })
}

/// A directory of its own for one test, removed at the end, also by a panic.
struct Scratch {
    client: Client,
    mounted: Mounted,
    name: Vec<u8>,
    dir: FileHandle,
}

const ALL: SetAttr =
    SetAttr { mode: Some(0o777), uid: None, gid: None, size: None, atime: SetTime::Keep, mtime: SetTime::Keep };

impl Scratch {
    fn new(test: &str) -> Option<Scratch> {
        let (client, mounted) = block_on(Client::connect(&config()?)).expect("the NAS of EFC_TEST_NAS");
        let name = format!("nfs-{test}-{}", std::process::id()).into_bytes();
        let made = block_on(client.mkdir(&Cred::root(), &mounted.root, &name, &ALL)).expect("MKDIR");
        let dir = made.handle.expect("a handle");
        // The server's umask, if it has one, must not matter.
        block_on(client.setattr(&Cred::root(), &dir, &ALL, None)).expect("SETATTR");
        Some(Scratch { client, mounted, name, dir })
    }

    fn file(&self, name: &[u8]) -> FileHandle {
        let how = CreateHow::Guarded(SetAttr { mode: Some(0o644), ..SetAttr::default() });
        let made = block_on(self.client.create(&Cred::root(), &self.dir, name, how)).expect("CREATE");
        made.handle.expect("a handle")
    }

    fn list(&self, dir: &FileHandle) -> Vec<DirEntry> {
        let (mut cookie, mut verifier, mut all) = (0, [0; 8], Vec::new());
        loop {
            let page = block_on(self.client.readdirplus(&Cred::root(), dir, cookie, verifier, 32 << 10));
            let page = page.expect("READDIRPLUS");
            (cookie, verifier) = (page.entries.last().map_or(cookie, |entry| entry.cookie), page.verifier);
            all.extend(page.entries.into_iter().filter(|entry| entry.name != b"." && entry.name != b".."));
            if page.eof {
                return all;
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let cred = Cred::root();
        for entry in self.list(&self.dir) {
            if block_on(self.client.remove(&cred, &self.dir, &entry.name)).is_err() {
                let _ = block_on(self.client.rmdir(&cred, &self.dir, &entry.name));
            }
        }
        let removed = block_on(self.client.rmdir(&cred, &self.mounted.root, &self.name));
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

fn read(scratch: &Scratch, file: &FileHandle, offset: u64, count: usize) -> (Vec<u8>, Read) {
    let buffer = Buffer::new(count + 8).unwrap();
    let sink = Sink::Buffer(buffer, 8..8 + count);
    let (payload, read) = block_on(scratch.client.read(&Cred::root(), file, offset, sink));
    let read = read.expect("READ");
    let (buffer, range) = payload.and_then(Payload::into_buffer).expect("in the buffer");
    (buffer[range][..read.count as usize].to_vec(), read)
}

#[test]
fn connect_tells_root_and_limits() {
    let Some(config) = config() else { return };
    let (client, mounted) = block_on(Client::connect(&config)).unwrap();
    assert_eq!(mounted.attr.kind, FileType::Directory);
    assert!((4096..=PAYLOAD_MAX as u32).contains(&mounted.info.read_max));
    assert!((4096..=PAYLOAD_MAX as u32).contains(&mounted.info.write_max));
    block_on(client.ping(&Cred::root())).unwrap();
    drop(client);
    let client = Client::resume(&config, mounted.port);
    assert_eq!(block_on(client.getattr(&Cred::root(), &mounted.root)).unwrap().fileid, mounted.attr.fileid);
    assert_eq!(client.counters().calls, 1);
}

#[test]
fn connect_finds_directories_below_an_export_and_says_what_is_wrong() {
    let Some(scratch) = Scratch::new("connect") else { return };
    scratch.file(b"file");
    let mut config = config().unwrap();
    let base = config.path.clone();
    let mut connect = |below: &[u8]| {
        config.path = [&base[..], b"/", &scratch.name, below].concat();
        block_on(Client::connect(&config)).map(|(_, mounted)| mounted.root)
    };
    assert_eq!(connect(b"").unwrap(), scratch.dir);
    let missing = connect(b"/missing/dir").unwrap_err();
    assert_eq!(missing.kind, ConnectErrorKind::NotFound, "{missing}");
    let file = connect(b"/file").unwrap_err();
    assert_eq!(file.kind, ConnectErrorKind::NotADirectory, "{file}");

    let cred = Cred::root();
    block_on(scratch.client.symlink(&cred, &scratch.dir, b"link", b".", &SetAttr::default())).unwrap();
    let link = connect(b"/link").unwrap_err();
    assert_eq!(link.kind, ConnectErrorKind::NotADirectory, "{link}");
}

#[test]
fn connect_fails_clearly_and_in_time() {
    let Some(mut config) = config() else { return };
    config.host = "no-such-host.invalid".into();
    let error = block_on(Client::connect(&config)).map(drop).unwrap_err();
    assert!(matches!(error.kind, ConnectErrorKind::NotFound | ConnectErrorKind::Unreachable), "{error}");
    assert!(error.message.contains("no-such-host.invalid"), "{error}");

    config.host = "127.0.0.1".into();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    config.mount_port = Some(silent.local_addr().unwrap().port());
    config.connect_time_limit = Duration::from_millis(300);
    let start = std::time::Instant::now();
    let error = block_on(Client::connect(&config)).map(drop).unwrap_err();
    assert_eq!(error.kind, ConnectErrorKind::Unreachable, "{error}");
    assert!(start.elapsed() < Duration::from_secs(20), "it hangs");
    drop(silent);
    let error = block_on(Client::connect(&config)).map(drop).unwrap_err();
    assert!(error.kind == ConnectErrorKind::Unreachable && error.message.contains("MOUNT"), "{error}");
}

#[test]
fn attributes_and_guard() {
    let Some(scratch) = Scratch::new("attributes") else { return };
    let (client, cred) = (&scratch.client, Cred::root());
    let file = scratch.file(b"file");
    let when = Time { seconds: 1_000_000_000, nanos: 0 };
    let wanted = SetAttr {
        mode: Some(0o4711),
        uid: Some(1000),
        gid: Some(2000),
        size: Some(10_000),
        atime: SetTime::To(when),
        mtime: SetTime::To(when),
    };
    // In two steps: changing owner or size clears the set-id bits.
    block_on(client.setattr(&cred, &file, &SetAttr { mode: None, ..wanted }, None)).unwrap();
    block_on(client.setattr(&cred, &file, &SetAttr { mode: wanted.mode, ..SetAttr::default() }, None)).unwrap();
    let attr = block_on(client.getattr(&cred, &file)).unwrap();
    assert_eq!((attr.mode, attr.uid, attr.gid, attr.size), (0o4711, 1000, 2000, 10_000));
    assert_eq!((attr.kind, attr.atime, attr.mtime, attr.nlink), (FileType::Regular, when, when, 1));

    let touch = SetAttr { mtime: SetTime::Now, ..SetAttr::default() };
    let error = block_on(client.setattr(&cred, &file, &touch, Some(when))).unwrap_err();
    assert!(error.is(Status::NotSync), "{error}");
    block_on(client.setattr(&cred, &file, &touch, Some(attr.ctime))).unwrap();
    assert!(block_on(client.getattr(&cred, &file)).unwrap().mtime > when);
    assert!(block_on(client.getattr(&cred, &FileHandle::new(b"no handle").unwrap())).is_err());
}

#[test]
fn names_links_and_nodes() {
    let Some(scratch) = Scratch::new("names") else { return };
    let (client, cred, dir) = (&scratch.client, Cred::root(), &scratch.dir);
    let file = scratch.file(b"a");
    let found = block_on(client.lookup(&cred, dir, b"a")).unwrap();
    assert_eq!(found.handle, file);
    assert!(found.attr.is_some());
    assert!(block_on(client.lookup(&cred, dir, b"none")).unwrap_err().is(Status::NoEnt));
    assert!(block_on(client.lookup(&cred, dir, &[b'x'; 300])).unwrap_err().is(Status::NameTooLong));

    block_on(client.link(&cred, &file, dir, b"b")).unwrap();
    assert_eq!(block_on(client.getattr(&cred, &file)).unwrap().nlink, 2);
    assert!(block_on(client.link(&cred, &file, dir, b"b")).unwrap_err().is(Status::Exist));
    block_on(client.rename(&cred, dir, b"b", dir, b"c")).unwrap();
    assert_eq!(block_on(client.lookup(&cred, dir, b"c")).unwrap().handle, file);

    let link = block_on(client.symlink(&cred, dir, b"s", b"over/there", &SetAttr::default())).unwrap();
    let (target, attr) = block_on(client.readlink(&cred, &link.handle.unwrap())).unwrap();
    assert_eq!((&target[..], attr.map(|attr| attr.kind)), (&b"over/there"[..], Some(FileType::Symlink)));
    assert!(block_on(client.readlink(&cred, &file)).is_err());

    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    for (name, kind) in [(b"f", NodeKind::Fifo), (b"k", NodeKind::Socket), (b"d", NodeKind::Character(1, 3))] {
        let made = block_on(client.mknod(&cred, dir, name, kind, &mode)).unwrap();
        let attr = block_on(client.getattr(&cred, &made.handle.unwrap())).unwrap();
        match kind {
            NodeKind::Fifo => assert_eq!(attr.kind, FileType::Fifo),
            NodeKind::Socket => assert_eq!(attr.kind, FileType::Socket),
            _ => assert_eq!((attr.kind, attr.rdev), (FileType::Character, (1, 3))),
        }
    }
    block_on(client.mkdir(&cred, dir, b"sub", &ALL)).unwrap();
    assert!(block_on(client.mkdir(&cred, dir, b"sub", &ALL)).unwrap_err().is(Status::Exist));
    assert!(block_on(client.remove(&cred, dir, b"sub")).is_err());
    block_on(client.rmdir(&cred, dir, b"sub")).unwrap();
    let gone = block_on(client.remove(&cred, dir, b"c")).unwrap();
    assert!(gone.after.is_some());
    let error = block_on(client.remove(&cred, dir, b"c")).unwrap_err();
    assert!(error.is(Status::NoEnt) && !error.replayed);
}

#[test]
fn an_exclusive_create_succeeds_again_only_with_its_verifier() {
    let Some(scratch) = Scratch::new("exclusive") else { return };
    let (client, cred, dir) = (&scratch.client, Cred::root(), &scratch.dir);
    let create = |verifier| block_on(client.create(&cred, dir, b"file", CreateHow::Exclusive(verifier)));
    let first = create(*b"verifier").unwrap().handle.unwrap();
    assert_eq!(create(*b"verifier").unwrap().handle, Some(first));
    assert!(create(*b"another!").unwrap_err().is(Status::Exist));
    let guarded = CreateHow::Guarded(SetAttr::default());
    assert!(block_on(client.create(&cred, dir, b"file", guarded)).unwrap_err().is(Status::Exist));
    let unchecked = CreateHow::Unchecked(SetAttr::default());
    assert_eq!(block_on(client.create(&cred, dir, b"file", unchecked)).unwrap().handle, Some(first));
}

#[test]
fn data_of_any_length_comes_back_and_verifiers_agree() {
    let Some(scratch) = Scratch::new("data") else { return };
    let (client, cred) = (&scratch.client, Cred::root());
    let file = scratch.file(b"file");
    let data: Vec<u8> = (0..PAYLOAD_MAX as u32 + 4099).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let data = Bytes::from(data);
    let mut verifiers = Vec::new();
    let mut at = 0;
    for length in [1, 2, 3, 4, 4096, 65_537, data.len()] {
        let end = (at + length.min(scratch.mounted.info.write_max as usize)).min(data.len());
        let piece = data.slice(at..end);
        let written = block_on(client.write(&cred, &file, at as u64, piece, Stable::Unstable)).unwrap();
        at += written.count as usize;
        verifiers.push(written.verifier);
    }
    verifiers.push(block_on(client.commit(&cred, &file)).unwrap().verifier);
    assert!(verifiers.iter().all(|verifier| *verifier == verifiers[0]), "{verifiers:?}");
    let size = block_on(client.getattr(&cred, &file)).unwrap().size;
    assert_eq!(size, at as u64);

    for (offset, count) in [(0, 1), (1, 3), (0, 4096), (5, 70_001), (0, PAYLOAD_MAX), (at - 3, 100), (at, 10)] {
        let (bytes, read) = read(&scratch, &file, offset as u64, count);
        let expected = &data[offset..(offset + count).min(at)];
        assert!(bytes[..] == expected[..bytes.len()], "{count} at {offset}");
        assert_eq!(read.eof, offset + bytes.len() == at, "{count} at {offset}");
        assert!(read.eof || bytes.len() == count.min(scratch.mounted.info.read_max as usize));
    }
    let stable = block_on(client.write(&cred, &file, 0, Bytes::from_static(b"x"), Stable::File)).unwrap();
    assert_eq!(stable.stable, Stable::File);
    let counters = client.counters();
    assert!(counters.bytes_read > PAYLOAD_MAX as u64 && counters.bytes_written == at as u64 + 1);
    assert_eq!((counters.retransmits, counters.reconnects, counters.oldest_call), (0, 0, None));
}

#[test]
fn many_calls_in_flight_are_all_answered() {
    let Some(scratch) = Scratch::new("pipeline") else { return };
    let (client, cred) = (&scratch.client, &Cred::root());
    let file = scratch.file(b"file");
    let block = |index: u64| Bytes::from(vec![index as u8; 256 << 10]);
    block_on(async {
        let writes =
            (0..32).map(|index| client.write(cred, &file, index * (256 << 10), block(index), Stable::Unstable));
        for write in futures(writes).await {
            assert_eq!(write.unwrap().count, 256 << 10);
        }
        client.commit(cred, &file).await.unwrap();
        let reads = (0..32).map(|index| {
            let sink = Sink::Buffer(Buffer::new(256 << 10).unwrap(), 0..256 << 10);
            client.read(cred, &file, index * (256 << 10), sink)
        });
        for (index, (payload, read)) in futures(reads).await.into_iter().enumerate() {
            assert_eq!(read.unwrap().count, 256 << 10);
            let (buffer, range) = payload.and_then(Payload::into_buffer).expect("in the buffer");
            assert!(buffer[range].iter().all(|byte| *byte == index as u8), "block {index}");
        }
        let many = futures((0..1500).map(|_| client.getattr(cred, &file))).await;
        assert!(many.into_iter().all(|attr| attr.unwrap().size == 32 * (256 << 10)));
    });
}

/// All outputs, with all futures in flight at once.
async fn futures<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(|future| (Some(Box::pin(future)), None)).collect();
    futures_lite::future::poll_fn(|context| {
        let mut pending = false;
        for (future, output) in &mut waiting {
            if let Some(running) = future {
                match running.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => (*future, *output) = (None, Some(value)),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    waiting.into_iter().map(|(_, output)| output.expect("all are ready")).collect()
}

#[test]
fn directories_are_listed_whole_in_both_ways() {
    let Some(scratch) = Scratch::new("list") else { return };
    let mut names: Vec<Vec<u8>> = (0..600).map(|index| format!("a-rather-long-name-{index:04}").into_bytes()).collect();
    for name in &names {
        scratch.file(name);
    }
    let entries = scratch.list(&scratch.dir);
    let mut listed: Vec<_> = entries.iter().map(|entry| entry.name.clone()).collect();
    listed.sort();
    names.sort();
    assert_eq!(listed, names);
    assert!(entries.iter().all(|entry| entry.attr.is_some() && entry.handle.is_some()));

    let (mut cookie, mut verifier, mut plain) = (0, [0; 8], Vec::new());
    loop {
        let page = block_on(scratch.client.readdir(&Cred::root(), &scratch.dir, cookie, verifier, 8192)).unwrap();
        (cookie, verifier) = (page.entries.last().map_or(cookie, |entry| entry.cookie), page.verifier);
        plain.extend(page.entries.into_iter().map(|entry| entry.name).filter(|name| name.starts_with(b"a-")));
        if page.eof {
            break;
        }
    }
    plain.sort();
    assert_eq!(plain, names);
}

#[test]
fn the_callers_user_and_groups_decide() {
    let Some(scratch) = Scratch::new("groups") else { return };
    let client = &scratch.client;
    let file = scratch.file(b"file");
    let owned = SetAttr { mode: Some(0o640), uid: Some(4000), gid: Some(5000), ..SetAttr::default() };
    block_on(client.setattr(&Cred::root(), &file, &owned, None)).unwrap();
    let user = |uid, gid, groups: &[u32]| Cred { uid, gid, groups: groups.into() };
    let both = access::READ | access::MODIFY;
    let granted = |cred: Cred| block_on(client.access(&cred, &file, both)).unwrap().0;
    assert_eq!(granted(user(4000, 1, &[])), both, "the owner");
    assert_eq!(granted(user(4001, 5000, &[])), access::READ, "the group");
    assert_eq!(granted(user(4001, 1, &[2, 3, 5000])), access::READ, "a supplementary group");
    let sixteen: Vec<u32> = (5000 - 15..=5000).collect();
    assert_eq!(granted(user(4001, 1, &sixteen)), access::READ, "the sixteenth group");
    assert_eq!(granted(user(4001, 1, &[2, 3])), 0, "others");
    let stranger = user(4001, 1, &[2, 3]);
    let (_, read) = block_on(client.read(&stranger, &file, 0, Sink::Buffer(Buffer::new(10).unwrap(), 0..10)));
    assert!(read.unwrap_err().is(Status::Acces));
    let made = block_on(client.create(&user(4001, 5001, &[]), &scratch.dir, b"own", CreateHow::Guarded(owned_mode())));
    let attr = block_on(client.getattr(&Cred::root(), &made.unwrap().handle.unwrap())).unwrap();
    assert_eq!((attr.uid, attr.gid), (4001, 5001));
}

fn owned_mode() -> SetAttr {
    SetAttr { mode: Some(0o600), ..SetAttr::default() }
}

#[test]
fn the_file_system_tells_its_size_and_limits() {
    let Some(scratch) = Scratch::new("limits") else { return };
    let (client, cred) = (&scratch.client, Cred::root());
    let stat = block_on(client.fsstat(&cred, &scratch.dir)).unwrap();
    assert!(stat.bytes_total >= stat.bytes_free && stat.bytes_free >= stat.bytes_available && stat.bytes_total > 0);
    assert!(block_on(client.fsinfo(&cred, &scratch.dir)).unwrap().file_size_max > 1 << 32);
    let path = block_on(client.pathconf(&cred, &scratch.dir)).unwrap();
    assert!(path.name_max >= 255 && path.link_max > 1 && !path.ignores_case);
}
