//! The program against a real server: `EFC_TEST_NAS` is the URL of a directory that root may write to.
//! Without it these tests fail, unless `EFC_TEST_NAS_SKIP=1` says that leaving them out is meant.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

struct Scratch {
    url: String,
    dir: String,
}

struct Done {
    status: i32,
    stdout: Vec<u8>,
    stderr: String,
}

impl Done {
    /// Succeeded; what it printed.
    fn output(self) -> Vec<u8> {
        assert_eq!(self.status, 0, "{}", self.stderr);
        self.stdout
    }

    fn json(self) -> Value {
        serde_json::from_slice(&self.output()).expect("JSON")
    }

    /// Failed; its code and errno.
    fn failure(self) -> (String, String) {
        assert_eq!(self.status, 1, "{}", self.stderr);
        let failure: Value = serde_json::from_str(&self.stderr).expect("one line of JSON");
        let word = |key: &str| failure[key].as_str().expect(key).to_owned();
        assert!(!word("message").is_empty());
        (word("code"), word("errno"))
    }
}

fn run(arguments: &[&str], stdin: &[u8]) -> Done {
    let mut child = Command::new(env!("CARGO_BIN_EXE_efc-fs"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // It may fail before it has read its input.
    let _ = input.write_all(stdin);
    drop(input);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Done { status: output.status.code().unwrap(), stdout: output.stdout, stderr }
}

impl Scratch {
    fn new(test: &str) -> Option<Scratch> {
        let url = match std::env::var("EFC_TEST_NAS") {
            Ok(url) => url,
            Err(_) if std::env::var("EFC_TEST_NAS_SKIP").is_ok_and(|skip| skip == "1") => return None,
            Err(_) => {
                panic!("EFC_TEST_NAS names no writable directory (nfs://...); EFC_TEST_NAS_SKIP=1 leaves this out")
            }
        };
        let scratch = Scratch { url, dir: format!("fs-{test}-{}", std::process::id()) };
        run(&["mkdir", &scratch.url, &scratch.dir], b"").output();
        Some(scratch)
    }

    /// Runs a command with paths below the scratch directory.
    fn run(&self, command: &[&str], paths: &[&str]) -> Done {
        self.run_with(command, paths, b"")
    }

    fn run_with(&self, command: &[&str], paths: &[&str], stdin: &[u8]) -> Done {
        let paths: Vec<String> = paths.iter().map(|path| format!("{}/{path}", self.dir)).collect();
        let mut arguments = command.to_vec();
        arguments.push(&self.url);
        arguments.extend(paths.iter().map(String::as_str));
        run(&arguments, stdin)
    }

    fn names(&self, path: Option<&str>) -> Vec<String> {
        let listed = match path {
            Some(path) => self.run(&["ls"], &[path]),
            None => run(&["ls", &self.url, &self.dir], b""),
        };
        let listed = listed.json();
        let mut names: Vec<_> =
            listed.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = run(&["rm", "--recursive", &self.url, &self.dir], b"");
        assert!(removed.status == 0 || std::thread::panicking(), "{}", removed.stderr);
    }
}

fn codes(code: &str, errno: &str) -> (String, String) {
    (code.to_owned(), errno.to_owned())
}

#[test]
fn directories() {
    let Some(scratch) = Scratch::new("directories") else { return };
    let owner = ["mkdir", "--mode", "2750", "--uid", "1000", "--gid", "2000"];
    scratch.run(&owner, &["a"]).output();
    let stat = scratch.run(&["stat"], &["a"]).json();
    assert_eq!((&stat["kind"], &stat["mode"]), (&"directory".into(), &0o2750.into()));
    assert_eq!((&stat["uid"], &stat["gid"], &stat["nlink"]), (&1000.into(), &2000.into(), &2.into()));
    assert_eq!(scratch.run(&["mkdir"], &["a"]).failure(), codes("ALREADY_EXISTS", "EEXIST"));
    assert_eq!(scratch.run(&["mkdir"], &["x/y"]).failure(), codes("NOT_FOUND", "ENOENT"));

    scratch.run(&["mkdir", "--parents", "--mode", "700"], &["a/b/c"]).output();
    scratch.run(&["mkdir", "--parents", "--mode", "777"], &["a/b/c"]).output();
    assert_eq!(scratch.run(&["stat"], &["a/b/c"]).json()["mode"], 0o700);
    assert_eq!(scratch.run(&["rm"], &["a/b"]).failure(), codes("FAILED_PRECONDITION", "ENOTEMPTY"));
    scratch.run(&["rm"], &["a/b/c"]).output();
    assert_eq!(scratch.run(&["rm"], &["a/b/c"]).failure(), codes("NOT_FOUND", "ENOENT"));

    scratch.run(&["mv"], &["a/b", "moved"]).output();
    scratch.run(&["mkdir"], &["other"]).output();
    assert_eq!(scratch.run(&["mv"], &["other", "moved"]).failure(), codes("ALREADY_EXISTS", "EEXIST"));
    assert_eq!(scratch.run(&["mv"], &["none", "x"]).failure(), codes("NOT_FOUND", "ENOENT"));
    assert_eq!(scratch.names(None), ["a", "moved", "other"]);
    let df = run(&["df", &scratch.url], b"").json();
    assert!(df["bytes_total"].as_u64().unwrap() >= df["bytes_available"].as_u64().unwrap());
}

#[test]
fn files_are_whole_or_not_there() {
    let Some(scratch) = Scratch::new("files") else { return };
    let large: Vec<u8> = (0..3_000_001u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    scratch.run_with(&["put", "--exclusive", "--mode", "640"], &["large"], &large).output();
    assert!(scratch.run(&["cat"], &["large"]).output() == large);
    assert_eq!(scratch.run(&["stat"], &["large"]).json()["mode"], 0o640);
    let again = scratch.run_with(&["put", "--exclusive"], &["large"], b"other");
    assert_eq!(again.failure(), codes("ALREADY_EXISTS", "EEXIST"));
    assert!(scratch.run(&["cat"], &["large"]).output() == large);

    scratch.run(&["cp"], &["large", "copy"]).output();
    assert!(scratch.run(&["cat"], &["copy"]).output() == large);
    scratch.run_with(&["put"], &["large"], b"").output();
    assert_eq!(scratch.run(&["cat"], &["large"]).output(), b"");
    assert_eq!(scratch.run(&["cat"], &["none"]).failure(), codes("NOT_FOUND", "ENOENT"));
    assert_eq!(scratch.run(&["put"], &["none/file"]).failure(), codes("NOT_FOUND", "ENOENT"));
    assert_eq!(scratch.names(None), ["copy", "large"], "no temporary file is left");
}

#[test]
fn trees_are_removed_whole_and_links_never_followed() {
    let Some(scratch) = Scratch::new("trees") else { return };
    scratch.run(&["mkdir", "--parents"], &["tree/a/b/c"]).output();
    for index in 0..40 {
        scratch.run_with(&["put"], &[&format!("tree/a/file-{index}")], b"x").output();
    }
    scratch.run_with(&["put"], &["tree/a/b/c/file"], b"x").output();
    scratch.run(&["mkdir"], &["kept"]).output();
    scratch.run_with(&["put"], &["kept/file"], b"kept").output();
    symlink(&scratch, "tree/link", "../kept");
    assert_eq!(scratch.run(&["stat"], &["tree/link"]).json()["kind"], "symlink");
    assert_eq!(scratch.run(&["cat"], &["tree/link/file"]).failure(), codes("FAILED_PRECONDITION", "ENOTDIR"));
    assert_eq!(scratch.run(&["cat"], &["tree/link"]).failure(), codes("FAILED_PRECONDITION", "ELOOP"));
    assert_eq!(scratch.run(&["cat"], &["kept"]).failure(), codes("FAILED_PRECONDITION", "EISDIR"));
    scratch.run(&["rm", "--recursive"], &["tree"]).output();
    assert_eq!(scratch.names(None), ["kept"]);
    assert_eq!(scratch.run(&["cat"], &["kept/file"]).output(), b"kept");
    assert_eq!(scratch.run(&["rm", "--recursive"], &["tree"]).failure(), codes("NOT_FOUND", "ENOENT"));
}

/// The program makes no links, so the library does.
fn symlink(scratch: &Scratch, path: &str, target: &str) {
    use efc_backend::*;
    use efc_nfs::*;
    let url = url::parse_url(&scratch.url).unwrap();
    let limit = std::time::Duration::from_secs(10);
    let (parent, name) = path.rsplit_once('/').unwrap();
    let config = Config {
        host: url.host,
        port: url.port,
        mount_port: url.mount_port,
        path: format!("{}/{}/{parent}", url.path, scratch.dir).into_bytes(),
        connections: 1,
        time_limit: Some(limit),
        connect_time_limit: limit,
        privileged_port: false,
        identity: None,
    };
    futures_lite::future::block_on(async {
        let (client, mounted) = Client::connect(&config).await.unwrap();
        let (root, cred) = (mounted.root, Cred::root());
        client.symlink(&cred, &root, name.as_bytes(), target.as_bytes(), &SetAttr::default()).await.unwrap();
    });
}

#[test]
fn an_absent_nas_or_export_is_not_mistaken_for_an_absent_path() {
    let Some(scratch) = Scratch::new("absent") else { return };
    let (server, query) = scratch.url.split_once('?').unwrap_or((&scratch.url, ""));
    let missing = format!("{server}/no-such-directory?{query}");
    let missing = missing.trim_end_matches('?');
    assert_eq!(run(&["rm", missing, "x"], b"").failure(), codes("NOT_FOUND", "ENXIO"));
    let closed = "nfs://127.0.0.1:1/export?mountport=1";
    assert_eq!(run(&["stat", closed, "x"], b"").failure(), codes("UNAVAILABLE", "EHOSTUNREACH"));
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let silent_url = format!("nfs://127.0.0.1:{port}/export?mountport={port}");
    let failure = run(&["stat", "--timeout-ms", "300", &silent_url, "x"], b"").failure();
    assert_eq!(failure, codes("UNAVAILABLE", "EHOSTUNREACH"));
}
