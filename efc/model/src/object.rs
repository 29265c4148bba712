//! What lies on the disk: objects, their attributes, and who may do what with them.

use std::collections::BTreeMap;

use efc_backend::{Attr, Cred, FileType, SetAttr, SetTime, Status, Time, WccAttr};

/// A change of a file's content since the last COMMIT.
#[derive(Clone, Debug)]
pub enum Change {
    Write { offset: usize, data: Vec<u8>, is_stable: bool },
    Truncate(usize),
}

impl Change {
    pub fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Change::Write { offset, data: bytes, .. } => {
                let end = offset + bytes.len();
                if data.len() < end {
                    data.resize(end, 0);
                }
                data[*offset..end].copy_from_slice(bytes);
            }
            Change::Truncate(size) => data.resize(*size, 0),
        }
    }
}

/// The content of a file: as it is, and as it is on the disk.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub data: Vec<u8>,
    /// As it was at the last COMMIT; `None` if nothing has changed since.
    durable: Option<Vec<u8>>,
    /// What has happened since.
    changes: Vec<Change>,
}

impl Content {
    pub fn change(&mut self, change: Change) {
        let is_stable = !matches!(change, Change::Write { is_stable: false, .. });
        if !is_stable && self.durable.is_none() {
            self.durable = Some(self.data.clone());
        }
        change.apply(&mut self.data);
        if self.durable.is_some() {
            self.changes.push(change);
        }
    }

    pub fn commit(&mut self) {
        self.durable = None;
        self.changes.clear();
    }

    /// A power failure: of what is not stable only that is left for which `survives` says so.
    pub fn crash(&mut self, mut survives: impl FnMut() -> bool) {
        let Some(mut data) = self.durable.take() else { return };
        for change in self.changes.drain(..) {
            if !matches!(change, Change::Write { is_stable: false, .. }) || survives() {
                change.apply(&mut data);
            }
        }
        self.data = data;
    }
}

/// The last cookie before those of names: what `.` and `..` have.
const FIRST_COOKIE: u64 = 2;

/// A directory: names by their cookies.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    pub entries: BTreeMap<u64, (Vec<u8>, u64)>,
    pub cookies: BTreeMap<Vec<u8>, u64>,
    pub ignores_case: bool,
    pub last_cookie: u64,
    pub parent: u64,
}

impl Directory {
    /// An empty one.
    pub fn new(parent: u64, ignores_case: bool) -> Directory {
        Directory { parent, ignores_case, last_cookie: FIRST_COOKIE, ..Directory::default() }
    }

    /// What a name is told from others by.
    fn key(&self, name: &[u8]) -> Vec<u8> {
        if self.ignores_case { name.to_ascii_lowercase() } else { name.to_vec() }
    }

    pub fn get(&self, name: &[u8]) -> Option<u64> {
        self.cookies.get(&self.key(name)).map(|cookie| self.entries[cookie].1)
    }

    pub fn insert(&mut self, name: &[u8], object: u64) {
        self.last_cookie += 1;
        self.cookies.insert(self.key(name), self.last_cookie);
        self.entries.insert(self.last_cookie, (name.to_vec(), object));
    }

    pub fn remove(&mut self, name: &[u8]) {
        if let Some(cookie) = self.cookies.remove(&self.key(name)) {
            self.entries.remove(&cookie);
        }
    }
}

#[derive(Clone, Debug)]
pub enum Body {
    File(Content),
    Directory(Directory),
    Link(Vec<u8>),
    Special,
}

#[derive(Clone, Debug)]
pub struct Object {
    /// Of the handle: a number that is used again has another.
    pub generation: u64,
    /// Without what follows from the body.
    pub attr: Attr,
    pub body: Body,
    /// Of the EXCLUSIVE CREATE that made it.
    pub verifier: Option<[u8; 8]>,
}

/// Read, write and execute, as bits of a mode.
pub const READ: u32 = 4;
pub const WRITE: u32 = 2;
pub const EXECUTE: u32 = 1;

impl Object {
    pub fn attr(&self) -> Attr {
        let size = match &self.body {
            Body::File(content) => content.data.len() as u64,
            Body::Directory(directory) => 4096 + directory.entries.len() as u64 * 32,
            Body::Link(target) => target.len() as u64,
            Body::Special => 0,
        };
        Attr { size, used: size.next_multiple_of(512), ..self.attr }
    }

    pub fn wcc(&self) -> WccAttr {
        let Attr { size, mtime, ctime, .. } = self.attr();
        WccAttr { size, mtime, ctime }
    }

    pub fn directory(&self) -> Result<&Directory, Status> {
        match &self.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Status::NotDir),
        }
    }

    pub fn content(&mut self) -> Result<&mut Content, Status> {
        match &mut self.body {
            Body::File(content) => Ok(content),
            Body::Directory(_) => Err(Status::IsDir),
            _ => Err(Status::Inval),
        }
    }

    /// The bits of `wanted` that the mode grants.
    pub fn granted(&self, cred: &Cred, wanted: u32) -> u32 {
        let Attr { mode, uid, gid, kind, .. } = self.attr;
        if cred.uid == 0 {
            let may_execute = kind == FileType::Directory || mode & 0o111 != 0;
            return if may_execute { wanted } else { wanted & !EXECUTE };
        }
        let bits = if cred.uid == uid {
            mode >> 6
        } else if cred.gid == gid || cred.groups.contains(&gid) {
            mode >> 3
        } else {
            mode
        };
        wanted & bits
    }

    pub fn check(&self, cred: &Cred, wanted: u32) -> Result<(), Status> {
        if self.granted(cred, wanted) == wanted { Ok(()) } else { Err(Status::Acces) }
    }

    /// Of the data of a file: its owner may read and write it whatever its mode is, as it may have been open before a chmod.
    pub fn check_data(&self, cred: &Cred, wanted: u32) -> Result<(), Status> {
        if cred.uid == self.attr.uid { Ok(()) } else { self.check(cred, wanted) }
    }

    /// May the caller make this change? (What chmod, chown, utimes and truncate ask.)
    pub fn check_change(&self, cred: &Cred, change: &SetAttr) -> Result<(), Status> {
        let is_owner = cred.uid == 0 || cred.uid == self.attr.uid;
        let is_member = |gid: u32| cred.uid == 0 || cred.gid == gid || cred.groups.contains(&gid);
        let takes_time = |time: SetTime| matches!(time, SetTime::To(_));
        if change.uid.is_some_and(|uid| cred.uid != 0 && uid != self.attr.uid)
            || change.gid.is_some_and(|gid| gid != self.attr.gid && !(is_owner && is_member(gid)))
            || (change.mode.is_some() || takes_time(change.atime) || takes_time(change.mtime)) && !is_owner
        {
            return Err(Status::Perm);
        }
        let touches = change.atime == SetTime::Now || change.mtime == SetTime::Now;
        if change.size.is_some() || touches && !is_owner {
            self.check_data(cred, WRITE)?;
        }
        Ok(())
    }

    /// Sets all but the size.
    pub fn set(&mut self, change: &SetAttr, now: Time, granularity: u32) {
        let Attr { mode, uid, gid, atime, mtime, ctime, .. } = &mut self.attr;
        *mode = change.mode.map_or(*mode, |mode| mode & 0o7777);
        *uid = change.uid.unwrap_or(*uid);
        *gid = change.gid.unwrap_or(*gid);
        for (time, to) in [(atime, change.atime), (mtime, change.mtime)] {
            *time = match to {
                SetTime::Keep => *time,
                SetTime::Now => now,
                SetTime::To(time) => cut(time, granularity),
            };
        }
        *ctime = now;
    }

    pub fn data_changed(&mut self, now: Time) {
        (self.attr.mtime, self.attr.ctime) = (now, now);
    }
}

/// A time as a server keeps it that has times of so many nanoseconds.
pub fn cut(time: Time, granularity: u32) -> Time {
    Time { nanos: time.nanos - time.nanos % granularity.max(1), ..time }
}
