//! The NAS as a test handles it: its disk, its network, its faults, and what others do there.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use efc_backend::*;

use crate::dice::roll;
use crate::faults::{Fault, Procedure};
use crate::network::Network;
use crate::object::{Body, Object};
use crate::server::{Done, NameChange, Options, ROOT, Server};

/// The NAS. Clones are the same one.
#[derive(Clone)]
pub struct Nas(Arc<Shared>);

pub(crate) struct Shared {
    pub server: Mutex<Server>,
    pub network: Network,
}

impl Nas {
    /// An empty one, whose chances `seed` decides. Its root directory is everybody's.
    pub fn new(options: Options, seed: u64) -> Nas {
        Nas(Arc::new(Shared { server: Mutex::new(Server::new(options, seed)), network: Network::new(seed) }))
    }

    pub(crate) fn server(&self) -> MutexGuard<'_, Server> {
        self.0.server.lock().expect("server lock")
    }

    /// The way to it.
    pub fn network(&self) -> &Network {
        &self.0.network
    }

    /// Changes how the server is.
    pub fn configure(&self, change: impl FnOnce(&mut Options)) {
        change(&mut self.server().options);
    }

    /// The handle of the root directory.
    pub fn root(&self) -> FileHandle {
        self.server().handle_of(ROOT)
    }

    /// `times` calls go wrong so.
    pub fn fault(&self, fault: Fault, times: u32) {
        self.server().faults.push((fault, times));
    }

    /// As it was made.
    pub fn options(&self) -> Options {
        self.server().options
    }

    /// No more faults.
    pub fn mend(&self) {
        self.server().faults.clear();
    }

    /// The server's machine loses power and is there again: of what was not committed some may be lost, and so are the answers that
    /// it remembered.
    pub fn crash(&self) {
        let mut server = self.server();
        server.restart();
        let mut numbers: Vec<u64> = server.objects.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let mut dice = server.dice;
            let mut survives = || roll(&mut dice).is_multiple_of(2);
            if let Some(Object { body: Body::File(content), .. }) = server.objects.get_mut(&number) {
                content.crash(&mut survives);
            }
            server.dice = dice;
        }
    }

    /// The same, and nothing that was not committed survives.
    pub fn crash_hard(&self) {
        let mut server = self.server();
        server.restart();
        for object in server.objects.values_mut() {
            if let Body::File(content) = &mut object.body {
                content.crash(|| false);
            }
        }
    }

    /// How often a procedure was executed.
    pub fn executed(&self, procedure: Procedure) -> u64 {
        self.server().executed.get(&procedure).copied().unwrap_or(0)
    }

    /// How many calls were executed.
    pub fn calls(&self) -> u64 {
        self.server().executed.values().sum()
    }

    /// Objects on the disk, the root directory with them.
    pub fn objects(&self) -> usize {
        self.server().objects.len()
    }

    /// What a path leads to, without anybody's permission. Links are not followed.
    pub fn find(&self, path: &str) -> Option<FileHandle> {
        let server = self.server();
        server.walk(path).map(|number| server.handle_of(number))
    }

    /// The content of a file.
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let server = self.server();
        match &server.objects[&server.walk(path)?].body {
            Body::File(content) => Some(content.data.clone()),
            _ => None,
        }
    }

    /// The content that a file would have after a power failure now, if nothing survives that need not.
    pub fn durable(&self, path: &str) -> Option<Vec<u8>> {
        let server = self.server();
        match &server.objects[&server.walk(path)?].body {
            Body::File(content) => {
                let mut content = content.clone();
                content.crash(|| false);
                Some(content.data)
            }
            _ => None,
        }
    }

    /// The attributes of what a path leads to.
    pub fn attr(&self, path: &str) -> Option<Attr> {
        let server = self.server();
        Some(server.objects[&server.walk(path)?].attr())
    }

    /// Where a name has led, and since when: to which file number, or nowhere. It begins as nothing.
    pub fn history(&self, path: &str) -> Vec<(Instant, Option<u64>)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let server = self.server();
        let directory = server.walk(dir);
        let is_meant = |change: &&NameChange| Some(change.directory) == directory && change.name == name.as_bytes();
        server.names.iter().filter(is_meant).map(|change| (change.at, change.fileid)).collect()
    }

    /// Names in a directory, in order.
    pub fn names(&self, path: &str) -> Vec<String> {
        let server = self.server();
        let directory = server.walk(path).and_then(|number| server.objects[&number].directory().ok());
        let name = |name: &Vec<u8>| String::from_utf8_lossy(name).into_owned();
        directory.map(|directory| directory.cookies.keys().map(name).collect()).unwrap_or_default()
    }

    /// Another client, as root: executes a call at once.
    pub(crate) fn outside<T>(&self, execute: impl FnOnce(&mut Server, &Cred) -> Done<T>) -> Done<T> {
        let mut server = self.server();
        let squashes_root = std::mem::replace(&mut server.options.squashes_root, false);
        let result = execute(&mut server, &Cred::root());
        server.options.squashes_root = squashes_root;
        result
    }

    /// Another client writes to a file, which it makes if there is none.
    ///
    /// # Panics
    /// If it cannot.
    pub fn write_outside(&self, path: &str, offset: u64, data: &[u8]) {
        let (dir, name) = self.split(path);
        self.outside(|server, root| {
            let how = CreateHow::Unchecked(SetAttr { mode: Some(0o666), ..SetAttr::default() });
            let made = server.create(root, &dir, name.as_bytes(), how)?;
            let file = made.handle.unwrap_or_else(|| server.handle_of(server.walk(path).expect("made")));
            server.write(root, &file, offset, data, Stable::File)
        })
        .expect("an outside writer writes");
    }

    /// Another client changes attributes.
    ///
    /// # Panics
    /// If there is no such object.
    pub fn set_outside(&self, path: &str, change: &SetAttr) {
        let object = self.find(path).expect("an object");
        self.outside(|server, root| server.setattr(root, &object, change))
            .expect("an outside writer changes attributes");
    }

    /// Another client makes a directory.
    ///
    /// # Panics
    /// If it cannot.
    pub fn mkdir_outside(&self, path: &str) {
        let (dir, name) = self.split(path);
        let attr = SetAttr { mode: Some(0o777), ..SetAttr::default() };
        self.outside(|server, root| server.mkdir(root, &dir, name.as_bytes(), &attr)).expect("a directory is made");
    }

    /// Another client removes a file; `false` if there is none.
    pub fn remove_outside(&self, path: &str) -> bool {
        let (dir, name) = self.split(path);
        self.outside(|server, root| server.remove(root, &dir, name.as_bytes())).is_ok()
    }

    /// Another client removes a directory; `false` if there is none, or it is not empty.
    pub fn rmdir_outside(&self, path: &str) -> bool {
        let (dir, name) = self.split(path);
        self.outside(|server, root| server.rmdir(root, &dir, name.as_bytes())).is_ok()
    }

    /// Another client renames; `false` if it cannot.
    pub fn rename_outside(&self, from: &str, to: &str) -> bool {
        let ((from_dir, from), (to_dir, to)) = (self.split(from), self.split(to));
        self.outside(|server, root| server.rename(root, (&from_dir, from.as_bytes()), (&to_dir, to.as_bytes()))).is_ok()
    }

    /// An object belongs to another file system from now on, whose numbers begin anew.
    ///
    /// # Panics
    /// If there is no such object.
    pub fn move_to_file_system(&self, path: &str, fsid: u64, fileid: u64) {
        let mut server = self.server();
        let number = server.walk(path).expect("an object");
        let attr = &mut server.objects.get_mut(&number).expect("it is there").attr;
        (attr.fsid, attr.fileid) = (fsid, fileid);
    }

    fn split<'a>(&self, path: &'a str) -> (FileHandle, &'a str) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.find(dir).expect("a directory"), name)
    }
}
