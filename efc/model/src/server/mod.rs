//! The model's server: executes calls, one after the other, on the objects of its disk.

mod files;
mod names;

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use efc_backend::*;
use efc_tasks::simulation::EPOCH;

use crate::faults::{Fault, Procedure};
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

pub(crate) struct Server {
    pub options: Options,
    pub objects: HashMap<u64, Object>,
    pub free: VecDeque<u64>,
    pub next: u64,
    pub generations: u64,
    pub write_verifier: Verifier,
    /// Answers to calls with tickets, by client, way and number.
    pub replies: HashMap<(u32, u8, u32), Box<dyn Any + Send>>,
    pub faults: Vec<(Fault, u32)>,
    pub executed: HashMap<Procedure, u64>,
    /// All changes of names so far.
    pub names: Vec<NameChange>,
    pub begin: Instant,
    pub dice: u64,
}

/// A name leads elsewhere from now on.
pub(crate) struct NameChange {
    pub at: Instant,
    pub directory: u64,
    pub name: Vec<u8>,
    /// `None`: nowhere.
    pub fileid: Option<u64>,
}

pub(crate) const ROOT: u64 = 2;
const FSID: u64 = 77;
const NAME_MAX: usize = 255;
const NOBODY: u32 = 65534;
const BYTES_TOTAL: u64 = 1 << 40;

pub(crate) type Done<T> = std::result::Result<T, Status>;

impl Server {
    /// One with an empty root directory, which is everybody's.
    pub fn new(options: Options, seed: u64) -> Server {
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
        server
    }

    /// It is another process from now on.
    pub(crate) fn restart(&mut self) {
        let number = u32::from_be_bytes(*self.write_verifier.last_chunk().expect("8 bytes"));
        self.write_verifier[4..].copy_from_slice(&(number + 1).to_be_bytes());
        self.replies.clear();
    }

    pub(crate) fn now(&self) -> Time {
        let now = EPOCH + efc_tasks::time::since(self.begin);
        let time = Time { seconds: now.as_secs() as u32, nanos: now.subsec_nanos() };
        cut(time, self.options.granularity)
    }

    /// Whether this fault is due, which then is over.
    pub(crate) fn is_due(&mut self, fault: Fault) -> bool {
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

    pub(crate) fn walk(&self, path: &str) -> Option<u64> {
        let mut number = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            number = self.objects.get(&number)?.directory().ok()?.get(name.as_bytes())?;
        }
        Some(number)
    }

    pub(crate) fn handle_of(&self, number: u64) -> FileHandle {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(b"efcmodel");
        bytes[8..16].copy_from_slice(&number.to_be_bytes());
        bytes[16..].copy_from_slice(&self.objects[&number].generation.to_be_bytes());
        FileHandle::new(&bytes).expect("24 bytes fit")
    }

    pub(crate) fn number(&self, handle: &FileHandle) -> Done<u64> {
        let bytes = handle.as_bytes();
        let word = |from: usize| bytes.get(from..from + 8).map(|word| u64::from_be_bytes(word.try_into().expect("8")));
        let (Some(number), Some(generation)) = (word(8), word(16)) else { return Err(Status::BadHandle) };
        match self.objects.get(&number) {
            Some(object) if object.generation == generation => Ok(number),
            _ => Err(Status::Stale),
        }
    }

    pub(crate) fn object(&self, handle: &FileHandle) -> Done<&Object> {
        self.number(handle).map(|number| &self.objects[&number])
    }

    pub(crate) fn object_mut(&mut self, handle: &FileHandle) -> Done<&mut Object> {
        let number = self.number(handle)?;
        Ok(self.objects.get_mut(&number).expect("it was found"))
    }

    pub(crate) fn seen_as(&self, cred: &Cred) -> Cred {
        if cred.uid == 0 && self.options.squashes_root {
            return Cred { uid: NOBODY, gid: NOBODY, groups: Arc::from([]) };
        }
        cred.clone()
    }

    pub(crate) fn wcc(&self, before: WccAttr, object: u64) -> Wcc {
        if !self.options.has_wcc {
            return Wcc::default();
        }
        Wcc { before: Some(before), after: self.objects.get(&object).map(Object::attr) }
    }

    pub(crate) fn new_object(&mut self, kind: FileType, cred: &Cred, fsid: u64) -> u64 {
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
