//! The server: executes one call after the other on what lies on its disk.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use efc_backend::*;
use efc_tasks::simulation::EPOCH;

use crate::dice::roll;
use crate::faults::{Fault, Procedure};
use crate::network::Network;
use crate::object::{Body, Change, Content, Directory, EXECUTE, Object, READ, WRITE, cut};

/// How the server is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Of its times, in nanoseconds.
    pub granularity: u32,
    /// Answers of changes come with attributes before and after.
    pub has_wcc: bool,
    /// So do those to MKDIR. (nfs-ganesha says only what the directory is like afterwards.)
    pub mkdir_has_before: bool,
    /// LOOKUP, READDIRPLUS and what makes objects answer with handles and attributes.
    pub has_attributes: bool,
    /// A listing goes on only while the directory has not changed.
    pub checks_cookie_verifiers: bool,
    /// Root is nobody.
    pub squashes_root: bool,
    /// Directories have `.snapshot`, which no listing shows.
    pub hides_snapshots: bool,
    /// Names that differ in case only are one name.
    pub ignores_case: bool,
    /// Entries of a page of a listing.
    pub page_entries_max: usize,
    /// Bytes of a READ or WRITE.
    pub transfer_max: u32,
    /// File number and generation: numbers are used again.
    pub reuses_numbers: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            granularity: 1,
            has_wcc: true,
            mkdir_has_before: true,
            has_attributes: true,
            checks_cookie_verifiers: false,
            squashes_root: false,
            hides_snapshots: false,
            ignores_case: false,
            page_entries_max: 64,
            transfer_max: 1 << 20,
            reuses_numbers: true,
        }
    }
}

/// The NAS. Clones are the same one.
#[derive(Clone)]
pub struct Nas(Arc<Shared>);

pub(crate) struct Shared {
    pub server: Mutex<Server>,
    pub network: Network,
}

pub(crate) struct Server {
    pub options: Options,
    objects: HashMap<u64, Object>,
    free: VecDeque<u64>,
    next: u64,
    generations: u64,
    write_verifier: Verifier,
    /// Answers to calls with tickets, by client, way and number.
    pub replies: HashMap<(u32, u8, u32), Box<dyn Any + Send>>,
    pub faults: Vec<(Fault, u32)>,
    pub executed: HashMap<Procedure, u64>,
    /// All changes of names so far.
    names: Vec<NameChange>,
    begin: Instant,
    dice: u64,
}

/// A name leads elsewhere from now on.
struct NameChange {
    at: Instant,
    directory: u64,
    name: Vec<u8>,
    /// `None`: nowhere.
    fileid: Option<u64>,
}

const ROOT: u64 = 2;
const FSID: u64 = 77;
const NAME_MAX: usize = 255;
const NOBODY: u32 = 65534;
const BYTES_TOTAL: u64 = 1 << 40;

type Done<T> = std::result::Result<T, Status>;

impl Nas {
    /// An empty one, whose chances `seed` decides. Its root directory is everybody's.
    pub fn new(options: Options, seed: u64) -> Nas {
        let mut server = Server {
            options,
            objects: HashMap::new(),
            free: VecDeque::new(),
            next: ROOT,
            generations: 0,
            write_verifier: *b"boot0001",
            replies: HashMap::new(),
            faults: Vec::new(),
            executed: HashMap::new(),
            names: Vec::new(),
            begin: efc_tasks::time::now(),
            dice: seed,
        };
        let root = server.new_object(FileType::Directory, &Cred::root(), FSID);
        let object = server.objects.get_mut(&root).expect("made just now");
        (object.attr.mode, object.attr.nlink) = (0o777, 2);
        object.body = Body::Directory(Directory::new(root, options.ignores_case));
        Nas(Arc::new(Shared { server: Mutex::new(server), network: Network::new(seed) }))
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

impl Server {
    fn restart(&mut self) {
        let number = u32::from_be_bytes(*self.write_verifier.last_chunk().expect("8 bytes"));
        self.write_verifier[4..].copy_from_slice(&(number + 1).to_be_bytes());
        self.replies.clear();
    }

    fn now(&self) -> Time {
        let now = EPOCH + efc_tasks::time::since(self.begin);
        let time = Time { seconds: now.as_secs() as u32, nanos: now.subsec_nanos() };
        cut(time, self.options.granularity)
    }

    /// Whether this fault is due, which then is over.
    fn is_due(&mut self, fault: Fault) -> bool {
        let Some(index) = self.faults.iter().position(|(due, _)| *due == fault) else { return false };
        self.faults[index].1 -= 1;
        if self.faults[index].1 == 0 {
            self.faults.remove(index);
        }
        true
    }

    /// Whether the answer to a call makes no sense.
    pub fn garbles(&mut self, procedure: Procedure) -> bool {
        self.is_due(Fault::Garbled(procedure))
    }

    pub fn begin(&mut self, procedure: Procedure) -> Done<()> {
        *self.executed.entry(procedure).or_default() += 1;
        let failing = self.faults.iter().find_map(|(fault, _)| match fault {
            Fault::Status(of, status) if *of == procedure => Some(*status),
            _ => None,
        });
        match failing {
            Some(status) if self.is_due(Fault::Status(procedure, status)) => Err(status),
            _ => Ok(()),
        }
    }

    fn walk(&self, path: &str) -> Option<u64> {
        let mut number = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            number = self.objects.get(&number)?.directory().ok()?.get(name.as_bytes())?;
        }
        Some(number)
    }

    fn handle_of(&self, number: u64) -> FileHandle {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(b"efcmodel");
        bytes[8..16].copy_from_slice(&number.to_be_bytes());
        bytes[16..].copy_from_slice(&self.objects[&number].generation.to_be_bytes());
        FileHandle::new(&bytes).expect("24 bytes fit")
    }

    fn number(&self, handle: &FileHandle) -> Done<u64> {
        let bytes = handle.as_bytes();
        let word = |from: usize| bytes.get(from..from + 8).map(|word| u64::from_be_bytes(word.try_into().expect("8")));
        let (Some(number), Some(generation)) = (word(8), word(16)) else { return Err(Status::BadHandle) };
        match self.objects.get(&number) {
            Some(object) if object.generation == generation => Ok(number),
            _ => Err(Status::Stale),
        }
    }

    fn object(&self, handle: &FileHandle) -> Done<&Object> {
        self.number(handle).map(|number| &self.objects[&number])
    }

    fn object_mut(&mut self, handle: &FileHandle) -> Done<&mut Object> {
        let number = self.number(handle)?;
        Ok(self.objects.get_mut(&number).expect("it was found"))
    }

    fn seen_as(&self, cred: &Cred) -> Cred {
        if cred.uid == 0 && self.options.squashes_root {
            return Cred { uid: NOBODY, gid: NOBODY, groups: Arc::from([]) };
        }
        cred.clone()
    }

    fn wcc(&self, before: WccAttr, object: u64) -> Wcc {
        if !self.options.has_wcc {
            return Wcc::default();
        }
        Wcc { before: Some(before), after: self.objects.get(&object).map(Object::attr) }
    }

    fn new_object(&mut self, kind: FileType, cred: &Cred, fsid: u64) -> u64 {
        let reused = if self.options.reuses_numbers { self.free.pop_front() } else { None };
        let number = reused.unwrap_or(self.next);
        self.next = self.next.max(number + 1);
        self.generations += 1;
        let now = self.now();
        let attr = Attr {
            kind,
            mode: 0o600,
            nlink: 1,
            uid: cred.uid,
            gid: cred.gid,
            size: 0,
            used: 0,
            rdev: (0, 0),
            fsid,
            fileid: number,
            atime: now,
            mtime: now,
            ctime: now,
        };
        let body = match kind {
            FileType::Regular => Body::File(Content::default()),
            _ => Body::Special,
        };
        self.objects.insert(number, Object { generation: self.generations, attr, body, verifier: None });
        number
    }

    pub fn getattr(&mut self, handle: &FileHandle) -> Done<Attr> {
        let attr = self.object(handle)?.attr();
        if self.is_due(Fault::OtherType) {
            let kind = if attr.kind == FileType::Regular { FileType::Directory } else { FileType::Regular };
            return Ok(Attr { kind, ..attr });
        }
        Ok(attr)
    }

    pub fn setattr(&mut self, cred: &Cred, handle: &FileHandle, change: &SetAttr) -> Done<Wcc> {
        let (cred, now, granularity) = (self.seen_as(cred), self.now(), self.options.granularity);
        let number = self.number(handle)?;
        let object = self.object_mut(handle)?;
        let before = object.wcc();
        object.check_change(&cred, change)?;
        if let Some(size) = change.size {
            object.content()?.change(Change::Truncate(size as usize));
            object.data_changed(now);
        }
        object.set(change, now, granularity);
        Ok(self.wcc(before, number))
    }

    fn search(&self, cred: &Cred, dir: &FileHandle) -> Done<&Directory> {
        let object = self.object(dir)?;
        let directory = object.directory()?;
        object.check(cred, EXECUTE)?;
        Ok(directory)
    }

    pub fn lookup(&mut self, cred: &Cred, dir: &FileHandle, name: &[u8]) -> Done<Lookup> {
        let cred = self.seen_as(cred);
        let directory = self.search(&cred, dir)?;
        if name.len() > NAME_MAX {
            return Err(Status::NameTooLong);
        }
        let number = match name {
            b"." => self.number(dir)?,
            b".." => directory.parent,
            _ => directory.get(name).ok_or(Status::NoEnt)?,
        };
        let attr = self.options.has_attributes.then(|| self.objects[&number].attr());
        let dir_attr = self.options.has_attributes.then(|| self.object(dir).expect("searched").attr());
        Ok(Lookup { handle: self.handle_of(number), attr, dir_attr })
    }

    pub fn access(&mut self, cred: &Cred, handle: &FileHandle, asked: u32) -> Done<(u32, Option<Attr>)> {
        let cred = self.seen_as(cred);
        let object = self.object(handle)?;
        let is_directory = object.attr.kind == FileType::Directory;
        let may = |bit: u32| object.granted(&cred, bit) == bit;
        let mut granted = 0;
        if may(READ) {
            granted |= access::READ;
        }
        if may(WRITE) {
            granted |= access::MODIFY | access::EXTEND | if is_directory { access::DELETE } else { 0 };
        }
        if may(EXECUTE) {
            granted |= if is_directory { access::LOOKUP } else { access::EXECUTE };
        }
        Ok((granted & asked, Some(object.attr())))
    }

    pub fn readlink(&mut self, handle: &FileHandle) -> Done<(Vec<u8>, Option<Attr>)> {
        let object = self.object(handle)?;
        match &object.body {
            Body::Link(target) => Ok((target.clone(), Some(object.attr()))),
            _ => Err(Status::Inval),
        }
    }

    pub fn read(&mut self, cred: &Cred, handle: &FileHandle, offset: u64, count: usize) -> Done<(Vec<u8>, Read)> {
        let (cred, count) = (self.seen_as(cred), count.min(self.options.transfer_max as usize));
        let is_short = self.is_due(Fault::ShortRead);
        let has_attributes = self.options.has_attributes;
        let object = self.object_mut(handle)?;
        // A program that may be executed may be read for it.
        object.check_data(&cred, READ).or_else(|status| object.check(&cred, EXECUTE).map_err(|_| status))?;
        let attr = object.attr();
        let data = &object.content()?.data;
        let begin = (offset as usize).min(data.len());
        let mut bytes = data[begin..(begin + count).min(data.len())].to_vec();
        let mut eof = begin + bytes.len() == data.len();
        if is_short && bytes.len() > 1 {
            bytes.truncate(bytes.len().div_ceil(2));
            eof = false;
        }
        let read = Read { count: bytes.len() as u32, eof, attr: has_attributes.then_some(attr) };
        Ok((bytes, read))
    }

    pub fn write(
        &mut self,
        cred: &Cred,
        handle: &FileHandle,
        offset: u64,
        data: &[u8],
        stable: Stable,
    ) -> Done<Written> {
        let (cred, now, verifier) = (self.seen_as(cred), self.now(), self.write_verifier);
        let is_short = self.is_due(Fault::ShortWrite);
        let taken = data.len().min(self.options.transfer_max as usize);
        let taken = if is_short { taken.div_ceil(2) } else { taken };
        let number = self.number(handle)?;
        let object = self.object_mut(handle)?;
        let before = object.wcc();
        object.check_data(&cred, WRITE)?;
        let is_stable = stable != Stable::Unstable;
        let change = Change::Write { offset: offset as usize, data: data[..taken].to_vec(), is_stable };
        object.content()?.change(change);
        object.data_changed(now);
        Ok(Written { count: taken as u32, stable, verifier, wcc: self.wcc(before, number) })
    }

    pub fn commit(&mut self, handle: &FileHandle) -> Done<Committed> {
        let (number, verifier) = (self.number(handle)?, self.write_verifier);
        let object = self.object_mut(handle)?;
        let before = object.wcc();
        object.content()?.commit();
        Ok(Committed { verifier, wcc: self.wcc(before, number) })
    }

    /// A directory in which the caller may make and remove names, and its number.
    fn changeable(&self, cred: &Cred, dir: &FileHandle, name: &[u8]) -> Done<u64> {
        let object = self.object(dir)?;
        object.directory()?;
        object.check(cred, WRITE | EXECUTE)?;
        match name {
            b"" | b"." | b".." => Err(Status::Exist),
            _ if name.len() > NAME_MAX => Err(Status::NameTooLong),
            _ => self.number(dir),
        }
    }

    fn directory_mut(&mut self, number: u64) -> &mut Directory {
        match &mut self.objects.get_mut(&number).expect("a directory that is there").body {
            Body::Directory(directory) => directory,
            _ => unreachable!("it was checked"),
        }
    }

    fn insert_name(&mut self, directory: u64, name: &[u8], object: u64) {
        self.directory_mut(directory).insert(name, object);
        self.log_name(directory, name, Some(object));
    }

    fn remove_name(&mut self, directory: u64, name: &[u8]) {
        self.directory_mut(directory).remove(name);
        self.log_name(directory, name, None);
    }

    fn log_name(&mut self, directory: u64, name: &[u8], object: Option<u64>) {
        let fileid = object.map(|object| self.objects[&object].attr.fileid);
        self.names.push(NameChange { at: efc_tasks::time::now(), directory, name: name.to_vec(), fileid });
    }

    fn names_changed(&mut self, number: u64) {
        let now = self.now();
        self.objects.get_mut(&number).expect("a directory that is there").data_changed(now);
    }

    fn created(&self, number: u64, before: WccAttr, dir: u64) -> Created {
        let (handle, attr) = (self.handle_of(number), self.objects[&number].attr());
        let has_attributes = self.options.has_attributes;
        Created {
            handle: has_attributes.then_some(handle),
            attr: has_attributes.then_some(attr),
            dir: self.wcc(before, dir),
        }
    }

    /// Makes an object of this name, which is free.
    fn make(&mut self, cred: &Cred, dir: u64, name: &[u8], kind: FileType, attr: &SetAttr) -> u64 {
        let (now, granularity, fsid) = (self.now(), self.options.granularity, self.objects[&dir].attr.fsid);
        let number = self.new_object(kind, cred, fsid);
        let inherited = (self.objects[&dir].attr.mode & 0o2000 != 0).then_some(self.objects[&dir].attr.gid);
        let object = self.objects.get_mut(&number).expect("made just now");
        object.set(&SetAttr { size: None, ..*attr }, now, granularity);
        object.attr.gid = inherited.unwrap_or(object.attr.gid);
        if kind == FileType::Directory {
            object.attr.nlink = 2;
            object.body = Body::Directory(Directory::new(dir, self.options.ignores_case));
            self.objects.get_mut(&dir).expect("a directory that is there").attr.nlink += 1;
        }
        self.insert_name(dir, name, number);
        self.names_changed(dir);
        number
    }

    pub fn create(&mut self, cred: &Cred, dir: &FileHandle, name: &[u8], how: CreateHow) -> Done<Created> {
        let cred = self.seen_as(cred);
        let directory = self.object(dir)?.directory()?;
        let known = directory.get(name);
        let before = self.object(dir)?.wcc();
        if let Some(number) = known {
            self.search(&cred, dir)?;
            let parent = self.number(dir)?;
            let object = &self.objects[&number];
            return match how {
                CreateHow::Exclusive(verifier) if object.verifier == Some(verifier) => {
                    Ok(self.created(number, before, parent))
                }
                CreateHow::Unchecked(_) if object.attr.kind == FileType::Directory => Err(Status::IsDir),
                CreateHow::Unchecked(attr) if object.attr.kind == FileType::Regular => {
                    if attr.size == Some(0) {
                        let handle = self.handle_of(number);
                        self.setattr(&cred, &handle, &SetAttr { size: Some(0), ..SetAttr::default() })?;
                    }
                    Ok(self.created(number, before, parent))
                }
                _ => Err(Status::Exist),
            };
        }
        let parent = self.changeable(&cred, dir, name)?;
        let (attr, verifier) = match how {
            CreateHow::Unchecked(attr) | CreateHow::Guarded(attr) => (attr, None),
            CreateHow::Exclusive(verifier) => (SetAttr::default(), Some(verifier)),
        };
        let number = self.make(&cred, parent, name, FileType::Regular, &attr);
        self.objects.get_mut(&number).expect("made just now").verifier = verifier;
        Ok(self.created(number, before, parent))
    }

    /// Makes what is no file, if the name is free.
    fn make_other(
        &mut self,
        cred: &Cred,
        (dir, name): (&FileHandle, &[u8]),
        kind: FileType,
        attr: &SetAttr,
        finish: impl FnOnce(&mut Object),
    ) -> Done<Created> {
        let cred = self.seen_as(cred);
        if self.object(dir)?.directory()?.get(name).is_some() {
            self.search(&cred, dir)?;
            return Err(Status::Exist);
        }
        let (parent, before) = (self.changeable(&cred, dir, name)?, self.object(dir)?.wcc());
        let number = self.make(&cred, parent, name, kind, attr);
        finish(self.objects.get_mut(&number).expect("made just now"));
        Ok(self.created(number, before, parent))
    }

    pub fn mkdir(&mut self, cred: &Cred, dir: &FileHandle, name: &[u8], attr: &SetAttr) -> Done<Created> {
        let mut made = self.make_other(cred, (dir, name), FileType::Directory, attr, |_| {})?;
        made.dir.before = made.dir.before.filter(|_| self.options.mkdir_has_before);
        Ok(made)
    }

    pub fn symlink(
        &mut self,
        cred: &Cred,
        dir: &FileHandle,
        name: &[u8],
        target: &[u8],
        attr: &SetAttr,
    ) -> Done<Created> {
        let link = |object: &mut Object| object.body = Body::Link(target.to_vec());
        self.make_other(cred, (dir, name), FileType::Symlink, attr, link)
    }

    pub fn mknod(
        &mut self,
        cred: &Cred,
        dir: &FileHandle,
        name: &[u8],
        node: NodeKind,
        attr: &SetAttr,
    ) -> Done<Created> {
        let (kind, rdev) = match node {
            NodeKind::Character(major, minor) => (FileType::Character, (major, minor)),
            NodeKind::Block(major, minor) => (FileType::Block, (major, minor)),
            NodeKind::Socket => (FileType::Socket, (0, 0)),
            NodeKind::Fifo => (FileType::Fifo, (0, 0)),
        };
        self.make_other(cred, (dir, name), kind, attr, |object| object.attr.rdev = rdev)
    }

    /// What a name that is to go leads to, if the caller may remove it.
    fn going(&self, cred: &Cred, dir: &FileHandle, name: &[u8]) -> Done<(u64, u64)> {
        let number = self.search(cred, dir)?.get(name).ok_or(Status::NoEnt)?;
        let parent = self.changeable(cred, dir, name)?;
        let (directory, object) = (&self.objects[&parent].attr, &self.objects[&number].attr);
        if directory.mode & 0o1000 != 0 && cred.uid != 0 && ![directory.uid, object.uid].contains(&cred.uid) {
            return Err(Status::Perm);
        }
        Ok((parent, number))
    }

    /// One name of an object less.
    fn unlink(&mut self, parent: u64, name: &[u8], number: u64) {
        let now = self.now();
        self.remove_name(parent, name);
        self.names_changed(parent);
        let object = self.objects.get_mut(&number).expect("it had a name");
        object.attr.ctime = now;
        let is_directory = object.attr.kind == FileType::Directory;
        object.attr.nlink = if is_directory { 0 } else { object.attr.nlink - 1 };
        let is_gone = object.attr.nlink == 0;
        if is_directory {
            self.objects.get_mut(&parent).expect("a directory that is there").attr.nlink -= 1;
        }
        if is_gone {
            self.objects.remove(&number);
            self.free.push_back(number);
        }
    }

    pub fn remove(&mut self, cred: &Cred, dir: &FileHandle, name: &[u8]) -> Done<Wcc> {
        let cred = self.seen_as(cred);
        let before = self.object(dir)?.wcc();
        let (parent, number) = self.going(&cred, dir, name)?;
        if self.objects[&number].attr.kind == FileType::Directory {
            return Err(Status::IsDir);
        }
        self.unlink(parent, name, number);
        Ok(self.wcc(before, parent))
    }

    pub fn rmdir(&mut self, cred: &Cred, dir: &FileHandle, name: &[u8]) -> Done<Wcc> {
        let cred = self.seen_as(cred);
        let before = self.object(dir)?.wcc();
        let (parent, number) = self.going(&cred, dir, name)?;
        if !self.objects[&number].directory()?.entries.is_empty() {
            return Err(Status::NotEmpty);
        }
        self.unlink(parent, name, number);
        Ok(self.wcc(before, parent))
    }

    pub fn rename(
        &mut self,
        cred: &Cred,
        (from_dir, from): (&FileHandle, &[u8]),
        (to_dir, to): (&FileHandle, &[u8]),
    ) -> Done<(Wcc, Wcc)> {
        let cred = self.seen_as(cred);
        let (from_before, to_before) = (self.object(from_dir)?.wcc(), self.object(to_dir)?.wcc());
        let (from_parent, number) = self.going(&cred, from_dir, from)?;
        let to_parent = self.changeable(&cred, to_dir, to)?;
        let is_directory = self.objects[&number].attr.kind == FileType::Directory;
        if is_directory && self.is_below(to_parent, number) {
            return Err(Status::Inval);
        }
        let replaced = self.objects[&to_parent].directory()?.get(to);
        if replaced == Some(number) {
            return Ok((self.wcc(from_before, from_parent), self.wcc(to_before, to_parent)));
        }
        if let Some(replaced) = replaced {
            self.going(&cred, to_dir, to)?;
            match (is_directory, &self.objects[&replaced].body) {
                (true, Body::Directory(directory)) if !directory.entries.is_empty() => return Err(Status::NotEmpty),
                (true, Body::Directory(_)) => {}
                (true, _) => return Err(Status::NotDir),
                (false, Body::Directory(_)) => return Err(Status::IsDir),
                (false, _) => {}
            }
            self.unlink(to_parent, to, replaced);
        }
        self.remove_name(from_parent, from);
        self.insert_name(to_parent, to, number);
        self.names_changed(from_parent);
        self.names_changed(to_parent);
        if is_directory && from_parent != to_parent {
            self.directory_mut(number).parent = to_parent;
            self.objects.get_mut(&from_parent).expect("there").attr.nlink -= 1;
            self.objects.get_mut(&to_parent).expect("there").attr.nlink += 1;
        }
        let now = self.now();
        self.objects.get_mut(&number).expect("there").attr.ctime = now;
        Ok((self.wcc(from_before, from_parent), self.wcc(to_before, to_parent)))
    }

    /// Is this directory the other one, or somewhere below it?
    fn is_below(&self, mut directory: u64, above: u64) -> bool {
        loop {
            if directory == above {
                return true;
            }
            match self.objects[&directory].directory() {
                Ok(found) if found.parent != directory => directory = found.parent,
                _ => return false,
            }
        }
    }

    pub fn link(&mut self, cred: &Cred, file: &FileHandle, dir: &FileHandle, name: &[u8]) -> Done<(Option<Attr>, Wcc)> {
        let cred = self.seen_as(cred);
        let number = self.number(file)?;
        if self.objects[&number].attr.kind == FileType::Directory {
            return Err(Status::IsDir);
        }
        let before = self.object(dir)?.wcc();
        if self.object(dir)?.directory()?.get(name).is_some() {
            return Err(Status::Exist);
        }
        let (parent, now) = (self.changeable(&cred, dir, name)?, self.now());
        self.insert_name(parent, name, number);
        self.names_changed(parent);
        let object = self.objects.get_mut(&number).expect("there");
        object.attr.nlink += 1;
        object.attr.ctime = now;
        let attr = object.attr();
        Ok((self.options.has_wcc.then_some(attr), self.wcc(before, parent)))
    }

    pub fn list(
        &mut self,
        cred: &Cred,
        dir: &FileHandle,
        cookie: u64,
        verifier: [u8; 8],
        bytes_max: u32,
    ) -> Done<DirPage> {
        let cred = self.seen_as(cred);
        let is_circle = self.is_due(Fault::Circle);
        let number = self.number(dir)?;
        let object = &self.objects[&number];
        let directory = object.directory()?;
        object.check(&cred, READ)?;
        let Time { seconds, nanos } = object.attr.mtime;
        let current = (u64::from(seconds) << 32 | u64::from(nanos)).to_be_bytes();
        let current = if self.options.checks_cookie_verifiers { current } else { [0; 8] };
        if cookie != 0 && self.options.checks_cookie_verifiers && verifier != current {
            return Err(Status::BadCookie);
        }
        let mut page = DirPage { dir_attr: Some(object.attr()), verifier: current, entries: Vec::new(), eof: true };
        let itself = [(1, &b"."[..], number), (2, &b".."[..], directory.parent)];
        let others = directory.entries.iter().map(|(cookie, (name, number))| (*cookie, name.as_slice(), *number));
        let hides_snapshots = self.options.hides_snapshots;
        let others = others.filter(|(_, name, _)| !hides_snapshots || *name != b".snapshot");
        let from = if is_circle { 0 } else { cookie };
        let mut bytes = 200;
        for (cookie, name, number) in itself.into_iter().chain(others).filter(|entry| entry.0 > from) {
            bytes += 200 + name.len();
            if page.entries.len() >= self.options.page_entries_max || bytes > bytes_max as usize {
                page.eof = false;
                break;
            }
            let object = &self.objects[&number];
            let has_attributes = self.options.has_attributes;
            page.entries.push(DirEntry {
                fileid: object.attr.fileid,
                name: name.to_vec(),
                cookie,
                attr: has_attributes.then(|| object.attr()),
                handle: has_attributes.then(|| self.handle_of(number)),
            });
        }
        if page.entries.is_empty() && !page.eof {
            return Err(Status::TooSmall);
        }
        page.eof &= !is_circle;
        Ok(page)
    }

    /// Each file system says its number by its size.
    pub fn fsstat(&mut self, handle: &FileHandle) -> Done<FsStat> {
        let free = BYTES_TOTAL - self.object(handle)?.attr.fsid * 4096;
        Ok(FsStat {
            bytes_total: BYTES_TOTAL,
            bytes_free: free,
            bytes_available: free,
            files_total: 1 << 20,
            files_free: 1 << 19,
            files_available: 1 << 19,
        })
    }
}
