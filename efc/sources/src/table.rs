//! The sources of one root at one time, and the directories above them, which are no source's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use efc_backend::*;

use crate::handle;

/// File system of the directories that are no source's.
pub const OWN_FSID: u64 = u64::from_be_bytes(*b"efc root");
/// Number of the root.
const ROOT: u64 = 1;
/// Bits of other directories' numbers: those above it are for inode numbers of other file systems.
const NUMBER_BITS: u64 = (1 << 61) - 1;
/// Place in a listing behind "." and "..": names come after them.
const DOTS: u64 = 2;
/// "." and "..", and what everybody may do with these directories.
const LINKS_MIN: u32 = 2;
const MODE: u32 = 0o555;

/// The handle of a root with several sources.
pub fn own_root() -> FileHandle {
    handle::own(ROOT)
}

/// Where a source shows, as the names down to it from the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Vec<Vec<u8>>);

impl Path {
    /// The path of these bytes, whose names are divided by slashes. `None` for the root itself, and for what no directory is called.
    pub fn new(text: &[u8]) -> Option<Path> {
        let names: Vec<Vec<u8>> = text.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
        let names: Vec<Vec<u8>> = names.into_iter().filter(|name| !name.is_empty()).collect();
        let is_name = |name: &Vec<u8>| name != b"." && name != b".." && name.len() <= 255 && !name.contains(&0);
        (!names.is_empty() && names.iter().all(is_name)).then_some(Path(names))
    }

    /// Does one lie at the other, or inside it?
    pub fn overlaps(&self, other: &Path) -> bool {
        self.0.starts_with(&other.0) || other.0.starts_with(&self.0)
    }

    /// The same on every node.
    fn hash(&self) -> u64 {
        self.0.iter().fold(0, |hash, name| number_of(hash, name))
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|name| write!(f, "/{}", String::from_utf8_lossy(name)))
    }
}

/// A source, and what is known of it.
#[derive(Clone)]
pub struct Source<B> {
    /// Stands for this source for as long as the root is served: 1 to 255.
    pub number: u8,
    /// Where it shows; `None`: it was taken away, and goes on for those who use it.
    pub path: Option<Path>,
    /// Nobody changes anything of it.
    pub is_read_only: bool,
    /// Its root, by the handle that its server has for it.
    pub root: FileHandle,
    /// What it says of itself.
    pub properties: Properties,
    /// Which server it is of, as all nodes know it; not 0.
    pub storage: u64,
    /// By which it is reached.
    pub backend: B,
    /// Its root's attributes as last seen, and the sizes of its file system.
    pub(crate) known: Arc<Mutex<Known>>,
    /// In which its file systems are told from those of others.
    space: u64,
}

/// What is known of a source's root.
pub(crate) struct Known {
    pub attr: Attr,
    pub sizes: Option<FsStat>,
}

impl<B> Source<B> {
    /// The source `number` that shows at `path`, whose root has these attributes.
    pub fn new(
        (number, path): (u8, Path),
        (root, attr): (FileHandle, Attr),
        (properties, is_read_only): (Properties, bool),
        (storage, backend): (u64, B),
    ) -> Source<B> {
        let known = Arc::new(Mutex::new(Known { attr, sizes: None }));
        let space = path.hash();
        Source { number, path: Some(path), is_read_only, root, properties, storage, backend, known, space }
    }

    /// The source at this path, or taken away.
    #[must_use]
    pub fn shown_at(self, path: Option<Path>) -> Source<B> {
        Source { path, ..self }
    }

    /// The source, of which somebody or nobody changes anything.
    #[must_use]
    pub fn with_read_only(self, is_read_only: bool) -> Source<B> {
        Source { is_read_only, ..self }
    }

    /// The source, whose root is another directory of its server by now.
    #[must_use]
    pub fn with_root(self, root: FileHandle, attr: Attr) -> Source<B> {
        Source { root, known: Arc::new(Mutex::new(Known { attr, sizes: None })), ..self }
    }

    /// The attributes of its root as its server has shown them last.
    pub fn root_attr(&self) -> Attr {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).attr
    }

    /// Attributes as they are under this root: its file systems are other ones than those of other sources.
    pub(crate) fn placed(&self, attr: Attr) -> Attr {
        Attr { fsid: mix(mix(self.space) ^ attr.fsid), ..attr }
    }
}

/// A directory that is no source's.
#[derive(Default)]
struct Directory {
    parent: u64,
    names: BTreeMap<Vec<u8>, Child>,
}

/// What a name of it leads to.
#[derive(Clone, Copy)]
enum Child {
    Own(u64),
    /// The source in this place of the list.
    Source(usize),
}

/// All sources, and the directories above them.
pub(crate) struct Table<B> {
    pub sources: Vec<Arc<Source<B>>>,
    directories: BTreeMap<u64, Directory>,
    changed: Time,
}

impl<B> Table<B> {
    /// These sources, none of them at or inside another's path; they are so since `changed`.
    pub fn new(sources: Vec<Source<B>>, changed: Time) -> Table<B> {
        let mut table = Table { sources: Vec::new(), directories: BTreeMap::new(), changed };
        table.directories.insert(ROOT, Directory { parent: ROOT, names: BTreeMap::new() });
        for source in sources {
            if let Some(path) = &source.path {
                table.place(path, Child::Source(table.sources.len()));
            }
            table.sources.push(Arc::new(source));
        }
        table
    }

    /// Puts `child` at `path`, and makes the directories above it.
    fn place(&mut self, path: &Path, child: Child) {
        let Some((last, above)) = path.0.split_last() else { return };
        let mut directory = ROOT;
        for name in above {
            let below = number_of(directory, name);
            self.directories.entry(below).or_default().parent = directory;
            self.directory(directory).names.insert(name.clone(), Child::Own(below));
            directory = below;
        }
        self.directory(directory).names.insert(last.clone(), child);
    }

    fn directory(&mut self, number: u64) -> &mut Directory {
        self.directories.entry(number).or_default()
    }

    /// The source of this number.
    pub fn source(&self, number: u8) -> Option<&Arc<Source<B>>> {
        self.sources.iter().find(|source| source.number == number)
    }

    /// The attributes of a directory that is no source's; `None`: it has gone.
    pub fn attr(&self, number: u64) -> Option<Attr> {
        let below = self.directories.get(&number)?.names.len() as u32;
        Some(Attr {
            kind: FileType::Directory,
            mode: MODE,
            nlink: LINKS_MIN + below,
            uid: 0,
            gid: 0,
            size: 4096,
            used: 0,
            rdev: (0, 0),
            fsid: OWN_FSID,
            fileid: number,
            atime: self.changed,
            mtime: self.changed,
            ctime: self.changed,
        })
    }

    /// Where a name leads of a directory that is no source's.
    pub fn look_up(&self, directory: u64, name: &[u8]) -> Result<(FileHandle, Attr)> {
        let directory = self.directories.get(&directory).ok_or_else(|| status(Status::Stale))?;
        match directory.names.get(name) {
            None => Err(status(Status::NoEnt)),
            Some(Child::Own(below)) => Ok((handle::own(*below), self.attr_of_child(*below)?)),
            Some(Child::Source(place)) => {
                let source = &self.sources[*place];
                let root = handle::at(source.number, &source.root).ok_or_else(|| status(Status::BadHandle))?;
                Ok((root, source.placed(source.root_attr())))
            }
        }
    }

    fn attr_of_child(&self, number: u64) -> Result<Attr> {
        self.attr(number).ok_or_else(|| status(Status::Stale))
    }

    /// All of a directory that is no source's, behind a place in its listing. Names come by numbers that do not change when others
    /// come or go.
    pub fn list(&self, number: u64, cookie: u64) -> Result<DirPage> {
        let directory = self.directories.get(&number).ok_or_else(|| status(Status::Stale))?;
        let own = self.attr_of_child(number)?;
        let mut entries = vec![entry(b".", 1, own), entry(b"..", DOTS, self.attr_of_child(directory.parent)?)];
        for (name, child) in &directory.names {
            let attr = match child {
                Child::Own(below) => self.attr_of_child(*below)?,
                Child::Source(place) => self.sources[*place].placed(self.sources[*place].root_attr()),
            };
            entries.push(entry(name, number_of(number, name), attr));
        }
        entries.sort_by_key(|entry| entry.cookie);
        entries.retain(|entry| entry.cookie > cookie);
        Ok(DirPage { dir_attr: Some(own), verifier: [0; 8], entries, eof: true })
    }
}

/// An entry that says what there is, and nothing that would have to be asked for to be true now.
fn entry(name: &[u8], cookie: u64, attr: Attr) -> DirEntry {
    DirEntry { fileid: attr.fileid, name: name.to_vec(), cookie, attr: Some(attr), handle: None }
}

/// A failure with this status.
pub(crate) fn status(status: Status) -> Error {
    Error::new(ErrorKind::Status(status))
}

/// The number of a directory that is no source's, and the place of a name in a listing: it follows from its path, and is larger than
/// [`ROOT`] and [`DOTS`].
fn number_of(parent: u64, name: &[u8]) -> u64 {
    let hash = name.iter().fold(mix(parent), |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    mix(hash) & NUMBER_BITS | 1 << 60
}

/// A permutation of 64 bits in which each bit depends on all (the finalizer of SplitMix64). Part of what applications see on all
/// nodes, and of what is saved: it must not change.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}
