//! Passthrough as the kernel has it: files of the node under numbers, and the rules by which an open is refused with EIO. No daemon may
//! ever have one refused, so that is a failure here.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use efc_cache::Version;
use efc_cache::blocks::BlockKey;
use efc_fuse::OpenReply;
use efc_model::Nas;
use efc_tasks::simulation::current;

use crate::filesystem::{Backing, Backings};

const FOPEN_DIRECT_IO: u32 = 1 << 0;
const FOPEN_KEEP_CACHE: u32 = 1 << 1;
const FOPEN_PASSTHROUGH: u32 = 1 << 7;

/// So long after its last change a store takes a file: longer than the NAS's clock takes for a tick.
const REST: Duration = Duration::from_millis(50);

/// The kernel's numbers, a keeper that gives them, and a store that holds every file as it is at the NAS.
pub struct Registry {
    /// By storage.
    nas: BTreeMap<u64, Nas>,
    paths: Vec<String>,
    numbers: Mutex<BTreeMap<u32, Arc<Vec<u8>>>>,
    next: AtomicU32,
    /// It takes its time, and does not always.
    pub is_whimsical: AtomicBool,
    /// It never answers.
    pub is_mute: AtomicBool,
    /// It hears of no closes.
    pub is_deaf: AtomicBool,
    asked: AtomicU64,
}

impl Registry {
    /// Of files with these paths; which storage each NAS is, its users know.
    pub fn new(nas: &[(u64, &Nas)], paths: &[&str]) -> Arc<Registry> {
        Arc::new(Registry {
            nas: nas.iter().map(|(storage, nas)| (*storage, (*nas).clone())).collect(),
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            numbers: Mutex::default(),
            next: AtomicU32::new(1),
            is_whimsical: AtomicBool::new(false),
            is_mute: AtomicBool::new(false),
            is_deaf: AtomicBool::new(false),
            asked: AtomicU64::new(0),
        })
    }

    /// Numbers that nobody has given back.
    pub fn left(&self) -> usize {
        self.numbers.lock().unwrap().len()
    }

    /// How often a number was asked for.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    fn content(&self, BlockKey { storage, file, version, .. }: &BlockKey) -> Option<Vec<u8>> {
        let nas = self.nas.get(storage)?;
        let path = self.paths.iter().find(|path| nas.find(path).as_ref() == Some(file))?;
        let is_current = nas.attr(path).is_some_and(|attr| Version::of(&attr) == *version);
        let changed_at = Duration::new(version.ctime.seconds.into(), version.ctime.nanos);
        let is_settled = efc_tasks::time::since_1970() >= changed_at + REST;
        (is_current && is_settled).then(|| nas.content(path)).flatten()
    }

    fn draw(&self, end: u64) -> u64 {
        if self.is_whimsical.load(Ordering::Relaxed) { current().expect("a simulation").draw(end) } else { 0 }
    }
}

impl Backings for Registry {
    fn open(self: Arc<Self>, of: BlockKey) -> Pin<Box<dyn Future<Output = Option<Backing>> + Send>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            if self.is_mute.load(Ordering::Relaxed) {
                return std::future::pending().await;
            }
            let content = self.content(&of)?;
            efc_tasks::time::sleep(Duration::from_millis(self.draw(70))).await;
            if self.draw(4) == 1 {
                return None;
            }
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            self.numbers.lock().unwrap().insert(id, Arc::new(content));
            Some(Backing::new(id, self))
        })
    }

    fn close(&self, id: u32) {
        if self.is_deaf.load(Ordering::Relaxed) {
            return;
        }
        assert!(self.numbers.lock().unwrap().remove(&id).is_some(), "{id} is given back twice");
    }

    fn keep(&self, ids: Vec<u32>) {
        self.numbers.lock().unwrap().retain(|id, _| ids.contains(id));
    }
}

/// How an inode is open (`fuse_file_io_open` and what it calls).
#[derive(Default)]
pub struct Mode {
    with_pages: u32,
    by_passthrough: u32,
    backing: Option<(u32, Arc<Vec<u8>>)>,
}

impl Mode {
    /// Takes an answer to OPEN or CREATE.
    pub fn enter(&mut self, opened: &OpenReply, registry: Option<&Registry>) {
        let OpenReply { flags, backing, .. } = *opened;
        if flags & FOPEN_PASSTHROUGH == 0 {
            assert!(self.backing.is_none(), "EIO: it is open by passthrough, and shall be otherwise");
            self.with_pages += u32::from(flags & FOPEN_DIRECT_IO == 0);
            return;
        }
        assert_eq!(flags & FOPEN_KEEP_CACHE, 0, "EIO: it has no pages to keep");
        assert_eq!(self.with_pages, 0, "EIO: it is open with pages");
        let known = registry.expect("agreed on").numbers.lock().unwrap().get(&backing).cloned();
        let file = known.expect("EIO: no such number");
        let own = self.backing.get_or_insert((backing, file));
        assert_eq!(own.0, backing, "EIO: another number");
        self.by_passthrough += 1;
    }

    /// Before RELEASE is sent.
    pub fn leave(&mut self, flags: u32) {
        if flags & FOPEN_PASSTHROUGH != 0 {
            self.by_passthrough -= 1;
            if self.by_passthrough == 0 {
                self.backing = None;
            }
        } else if flags & FOPEN_DIRECT_IO == 0 {
            self.with_pages -= 1;
        }
    }

    /// A read of an open by passthrough.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let (_, content) = self.backing.as_ref().expect("open so");
        let begin = (offset as usize).min(content.len());
        content[begin..content.len().min(begin + length)].to_vec()
    }
}
