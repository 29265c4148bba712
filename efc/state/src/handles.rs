//! Open files and directories, with the credential that opened them: writeback and read-ahead have no caller of their
//! own.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::{HashMap, HashMapExt as _};

use super::record::{Id, Record};
use super::region::Region;
use super::regions::{GROUPS_MAX, HANDLES};

/// An open file or directory, with the credential captured at open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenHandle {
    /// The id of what is open.
    pub node: u64,
    /// of open(2)
    pub flags: u32,
    /// User id of the opener.
    pub uid: u32,
    /// Group id of the opener.
    pub gid: u32,
    /// Supplementary groups of the opener, at most [`GROUPS_MAX`].
    pub groups: Vec<u32>,
    /// Whether it is a directory.
    pub directory: bool,
    /// What the server's directory cookies belong to.
    pub cookie_verifier: [u8; 8],
    /// The request that opened it.
    pub unique: u64,
    /// The kernel's number of the file of this node that it reads by itself in place of this one; 0: it asks the daemon. The kernel
    /// holds whoever opens the same file to it, until the last of them has closed it.
    pub backing: u32,
}

// The mutable word: the cookie verifier.
const VERIFIER: usize = 0;
// Sealed words.
const NODE: usize = 0;
const FLAGS_AND_UID: usize = 1;
/// In the lower half; the backing in the upper, where older releases look at nothing and have saved 0.
const GID_AND_BACKING: usize = 2;
const COUNT_AND_KIND: usize = 3;
/// Two to a word.
const GROUPS: usize = 4;
/// 0 in what older releases have saved.
const UNIQUE: usize = GROUPS + GROUPS_MAX / 2;

const _: () = assert!(HANDLES.sealed() > UNIQUE);

pub struct Handles {
    region: Region,
    /// Found when the state was opened.
    found: u64,
    /// What predecessors have opened, by the request that did: only such requests are delivered again.
    opened_by: Mutex<HashMap<u64, u64>>,
}

impl Handles {
    /// Finds the handles in `region`; also says how many records are damaged.
    pub fn open(region: Region) -> (Handles, u64) {
        let is_forgotten = |id: Id, record: Record<'_>| cfg!(feature = "drop-state") && record.unpublish(id.generation);
        let (mut opened_by, mut found) = (HashMap::new(), 0);
        let damaged = region.scan(|id, record| {
            if is_forgotten(id, record) {
                return false;
            }
            opened_by.insert(record.sealed()[UNIQUE].load(Ordering::Relaxed), id.into());
            found += 1;
            true
        });
        opened_by.remove(&0);
        (Handles { region, found, opened_by: Mutex::new(opened_by) }, damaged)
    }

    /// How many predecessors had opened and not closed.
    pub fn found(&self) -> u64 {
        self.found
    }

    /// Saves an open file, and names it.
    pub fn add(&self, handle: &OpenHandle) -> io::Result<u64> {
        if handle.groups.len() > GROUPS_MAX {
            return Err(rustix::io::Errno::INVAL.into());
        }
        let (id, record) = self.region.take()?;
        let mut sealed = [0; HANDLES.sealed()];
        sealed[NODE] = handle.node;
        sealed[FLAGS_AND_UID] = u64::from(handle.flags) | u64::from(handle.uid) << 32;
        sealed[GID_AND_BACKING] = u64::from(handle.gid) | u64::from(handle.backing) << 32;
        sealed[COUNT_AND_KIND] = handle.groups.len() as u64 | u64::from(handle.directory) << 32;
        for (index, group) in handle.groups.iter().enumerate() {
            sealed[GROUPS + index / 2] |= u64::from(*group) << (32 * (index % 2));
        }
        sealed[UNIQUE] = handle.unique;
        record.publish(id.generation, &[u64::from_le_bytes(handle.cookie_verifier)], &sealed);
        Ok(id.into())
    }

    /// The open file of this name, while it is open.
    pub fn get(&self, fh: u64) -> Option<OpenHandle> {
        let id = Id::from(fh);
        let record = self.region.record(id.slot)?;
        let verifier = &record.mutable()[VERIFIER];
        record.read(id.generation, |sealed| decode(sealed, verifier.load(Ordering::Acquire)))
    }

    /// Notes the verifier of a directory's cookies. Ignored if `fh` is not open; its close must not run beside this.
    pub fn set_cookie_verifier(&self, fh: u64, verifier: [u8; 8]) {
        let id = Id::from(fh);
        if let Some(record) = self.region.record(id.slot).filter(|record| record.is_live(id.generation)) {
            record.mutable()[VERIFIER].store(u64::from_le_bytes(verifier), Ordering::Release);
        }
    }

    /// The file is closed; `false` if it was not open.
    pub fn remove(&self, fh: u64) -> bool {
        let id = Id::from(fh);
        let was_open = self.region.record(id.slot).is_some_and(|record| record.unpublish(id.generation));
        if was_open {
            self.region.give_back(id.slot);
        }
        was_open
    }

    /// Closes what this request has opened under a predecessor, and names it.
    pub fn remove_opened_by(&self, unique: u64) -> Option<u64> {
        let fh = self.opened_by.lock().expect("openers lock").remove(&unique)?;
        self.remove(fh).then_some(fh)
    }

    /// No request of a predecessor is delivered again from now on.
    pub fn forget_openers(&self) {
        *self.opened_by.lock().expect("openers lock") = HashMap::new();
    }

    /// All that is open.
    pub fn list(&self) -> Vec<(u64, OpenHandle)> {
        let slots = self.region.slots();
        let ids = slots.map(|(slot, record)| u64::from(Id { generation: record.generation(), slot }));
        ids.filter_map(|fh| Some((fh, self.get(fh)?))).collect()
    }
}

fn decode(sealed: &[AtomicU64], verifier: u64) -> OpenHandle {
    let word = |index: usize| sealed[index].load(Ordering::Relaxed);
    let count = (word(COUNT_AND_KIND) as u32 as usize).min(GROUPS_MAX);
    OpenHandle {
        node: word(NODE),
        flags: word(FLAGS_AND_UID) as u32,
        uid: (word(FLAGS_AND_UID) >> 32) as u32,
        gid: word(GID_AND_BACKING) as u32,
        groups: (0..count).map(|index| (word(GROUPS + index / 2) >> (32 * (index % 2))) as u32).collect(),
        directory: word(COUNT_AND_KIND) >> 32 != 0,
        cookie_verifier: verifier.to_le_bytes(),
        unique: word(UNIQUE),
        backing: (word(GID_AND_BACKING) >> 32) as u32,
    }
}
