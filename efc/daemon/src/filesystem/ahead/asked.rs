//! Prefetched files that are not open yet, with the data of the small ones; the queue of files still to be prefetched;
//! and the outcomes.
//!
//! The data may be used as long as the file has not changed since it was asked for, as far as this node knows, and only
//! as long as the consistency mode allows. It is dropped when the kernel has it, or by age. Its memory is counted:
//! where there is none, nothing is prefetched.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use efc_backend::{Cred, FileHandle, Seen};
use efc_buffer::Room;
use efc_cache::{BeforeRead, Inode, Version};
use foldhash::HashMap;
use tokio::sync::oneshot;

use super::pace::Pace;
use super::trust::Trust;
use super::visits::{Visitor, Visits};

/// Files that are asked for and not opened, or whose data waits for its reader: so many, and fewer where there is little memory for
/// their data.
const FILES_MAX: usize = 16_384;
/// One for so many bytes of that.
const BYTES_OF_A_FILE: u64 = 1024;
/// Files of a storage that are still to be asked for, for each reason, as a part of those.
const QUEUE_PART: usize = 4;
/// Storages that are known; of more, those of which nothing is asked for are forgotten.
const WAYS_MAX: usize = 64;
/// For how long a file waits to be opened.
pub const AGE_MAX: Duration = Duration::from_secs(60);

/// Places of files that have gone, in the order of their ages.
const GONE_MAX: usize = 1024;
/// Memory is counted in pages.
const PAGE: u64 = efc_buffer::PAGE as u64;
/// What the data of a small file is read into.
pub const BUFFER_BYTES: u64 = efc_buffer::SMALL as u64;

/// Why a file is asked for ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is the next of an order in which files are opened.
    Order,
    /// Others of its directory are opened.
    Directory,
}

/// What came of what was asked for ahead, in files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Asked for.
    pub asked: u64,
    /// Opened or read then, without a call of their own.
    pub used: u64,
    /// Not opened in time, changed before they were, or refused.
    pub wasted: u64,
}

/// The same for each reason, and what is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Files that are next.
    pub order: Outcomes,
    /// Other files of a directory.
    pub directory: Outcomes,
    /// Memory of data that waits for its reader, in bytes.
    pub held_bytes: u64,
}

/// A file that is to be asked for.
pub struct Wanted {
    pub inode: Arc<Inode>,
    /// Which storage it is of.
    pub storage: u64,
    pub cred: Cred,
    pub reason: Reason,
    /// Whose directory it is of, if that is why.
    pub visitor: Option<Visitor>,
    /// The place among all opens of the one after which it was wanted.
    pub place: u64,
}

/// What of a file is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// Whether the caller may open it; and its data, if it is small.
    Verdict,
    /// Its data alone.
    Data,
}

/// The data of a small file.
pub struct Data {
    pub bytes: Box<[u8]>,
    pub _room: Room,
    pub before: BeforeRead,
    /// What the server has shown with it.
    pub version: Seen<Version>,
}

impl Data {
    /// May it be given, which must not be older than that?
    fn is_good(&self, inode: &Inode, data_ttl: Option<Duration>) -> bool {
        inode.is_as_before(self.before) && inode.may_give(self.version.part(|version| version), data_ttl)
    }
}

enum State {
    /// It is being asked for; who waits for the end.
    UnderWay(Vec<oneshot::Sender<()>>),
    Answered(Option<Arc<Data>>),
}

struct File {
    wanted: Wanted,
    lacking: Lacking,
    number: u64,
    begun: Instant,
    state: State,
    /// Memory that is counted for it, in bytes.
    bytes: u64,
    is_used: bool,
}

/// The way to a storage, and what is still to be asked for there: nobody waits for another that is silent, or slow.
#[derive(Default)]
struct Way {
    pace: Pace,
    /// By reason, the first one first.
    queues: [VecDeque<Wanted>; 2],
}

impl Way {
    fn is_idle(&self) -> bool {
        !self.pace.is_busy() && self.queues.iter().all(VecDeque::is_empty)
    }
}

/// All of them.
#[derive(Default)]
pub struct Asked {
    files: HashMap<FileHandle, File>,
    /// With their numbers, the oldest first; some have gone.
    ages: VecDeque<(FileHandle, u64)>,
    numbers: u64,
    /// By storage.
    ways: BTreeMap<u64, Way>,
    trust: [Trust; 2],
    outcomes: [Outcomes; 2],
    held_bytes: u64,
    held_bytes_max: u64,
    files_max: usize,
    pub visits: Visits,
}

impl Asked {
    /// Data takes no more than so many bytes.
    pub fn new(held_bytes_max: u64) -> Asked {
        let files_max = FILES_MAX.min((held_bytes_max / BYTES_OF_A_FILE) as usize);
        Asked { held_bytes_max, files_max, visits: Visits::new(files_max), ..Asked::default() }
    }

    pub fn figures(&self) -> Figures {
        let [order, directory] = self.outcomes;
        Figures { order, directory, held_bytes: self.held_bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Has asking for this reason been of use?
    pub fn is_trusted(&self, reason: Reason) -> bool {
        self.trust[reason as usize].allows(efc_tasks::time::now())
    }

    /// These of a storage are to be asked for, after the open of this place among all.
    pub fn want(
        &mut self,
        files: Vec<Arc<Inode>>,
        (cred, reason, place): (&Cred, Reason, u64),
        (storage, visitor): (u64, Option<&Visitor>),
    ) {
        if files.is_empty() {
            return;
        }
        if self.ways.len() >= WAYS_MAX {
            self.ways.retain(|_, way| !way.is_idle());
        }
        let queue = &mut self.ways.entry(storage).or_default().queues[reason as usize];
        for inode in files {
            let wanted = Wanted { inode, storage, cred: cred.clone(), reason, visitor: visitor.cloned(), place };
            if queue.len() < self.files_max / QUEUE_PART {
                queue.push_back(wanted);
            } else {
                pass_over(&mut self.visits, &wanted);
            }
        }
    }

    /// What is to be asked for next, if there is room for a question: it is under way from now on.
    pub fn next(&mut self) -> Option<Wanted> {
        let has_memory = self.held_bytes + BUFFER_BYTES <= self.held_bytes_max;
        if !has_memory && self.ways.values().any(|way| way.pace.is_busy()) {
            return None; // what ends gives most of its buffer back
        }
        let has_room = has_memory && self.files.len() < self.files_max;
        for Way { pace, queues } in self.ways.values_mut().filter(|way| way.pace.has_room()) {
            while let Some(wanted) = queues.iter_mut().find_map(VecDeque::pop_front) {
                let is_late = wanted.inode.last_open() > wanted.place;
                if has_room && !is_late && !self.files.contains_key(wanted.inode.handle()) {
                    pace.begin();
                    return Some(wanted);
                }
                pass_over(&mut self.visits, &wanted);
            }
        }
        None
    }

    /// Nothing more is to be asked for.
    pub fn want_nothing(&mut self) {
        for wanted in self.ways.values_mut().flat_map(|way| std::mem::take(&mut way.queues)).flatten() {
            pass_over(&mut self.visits, &wanted);
        }
    }

    /// What [`Asked::next`] has given need not be asked for.
    pub fn give_up(&mut self, wanted: &Wanted) {
        self.ways.entry(wanted.storage).or_default().pace.give_up();
        pass_over(&mut self.visits, wanted);
    }

    /// It is asked for, as so much of it is not known, into a buffer of so many bytes; `false`: it is already, or there is no memory for
    /// that.
    pub fn begin(&mut self, wanted: Wanted, lacking: Lacking, bytes: u64) -> bool {
        let handle = *wanted.inode.handle();
        if self.files.contains_key(&handle) || self.held_bytes + bytes > self.held_bytes_max {
            self.give_up(&wanted);
            return false;
        }
        self.held_bytes += bytes;
        self.numbers += 1;
        self.outcomes[wanted.reason as usize].asked += 1;
        self.ages.push_back((handle, self.numbers));
        let (number, begun, state) = (self.numbers, efc_tasks::time::now(), State::UnderWay(Vec::new()));
        self.files.insert(handle, File { wanted, lacking, number, begun, state, bytes, is_used: false });
        true
    }

    /// The answer is there: with the data of a small file, if it has brought any; `None`: it was no permission. Those who have waited
    /// for it go on when what this returns is dropped, which is not to be done with a lock held.
    pub fn end(&mut self, handle: &FileHandle, answer: Option<Option<Data>>) -> Vec<oneshot::Sender<()>> {
        let Some(file) = self.files.get_mut(handle) else { return Vec::new() };
        let now = efc_tasks::time::now();
        self.ways.entry(file.wanted.storage).or_default().pace.end(now.saturating_duration_since(file.begun), now);
        let is_granted = answer.is_some();
        let data = answer.flatten().map(Arc::new);
        let bytes = data.as_ref().map_or(0, |data| data.bytes.len() as u64).next_multiple_of(PAGE);
        self.held_bytes = self.held_bytes - file.bytes + bytes;
        file.bytes = bytes;
        let former = std::mem::replace(&mut file.state, State::Answered(data));
        if !is_granted {
            self.remove(handle);
        }
        match former {
            State::UnderWay(waiting) => waiting,
            State::Answered(_) => Vec::new(),
        }
    }

    /// Waits for the answer, if this file is asked for now for this caller.
    pub fn answer(&mut self, inode: &Inode, cred: &Cred) -> Option<oneshot::Receiver<()>> {
        let file = self.files.get_mut(inode.handle()).filter(|file| file.wanted.cred == *cred)?;
        let State::UnderWay(waiting) = &mut file.state else { return None };
        let (waiter, end) = oneshot::channel();
        waiting.push(waiter);
        Some(end)
    }

    /// The file was opened by this caller, without asking the server or not; `true`: that it was asked for ahead was of use.
    pub fn opened(&mut self, inode: &Inode, cred: &Cred, is_asked: bool) -> bool {
        let Some(file) = self.files.get(inode.handle()) else { return false };
        let State::Answered(data) = &file.state else { return false };
        if file.wanted.cred != *cred {
            return false;
        }
        if is_asked {
            self.remove(inode.handle());
            return false;
        }
        let (has_data, is_use) = (data.is_some(), file.lacking == Lacking::Verdict && !file.is_used);
        if is_use {
            self.used(inode.handle());
        }
        if !has_data {
            self.remove(inode.handle());
        }
        is_use
    }

    /// The file's data, if it may be given and must not be older than that.
    pub fn data(&mut self, inode: &Inode, data_ttl: Option<Duration>) -> Option<Arc<Data>> {
        let file = self.files.get(inode.handle())?;
        let State::Answered(Some(data)) = &file.state else { return None };
        let data = data.clone();
        if data.is_good(inode, data_ttl) {
            return Some(data);
        }
        self.remove(inode.handle());
        None
    }

    /// This data was given, to the end of the file or not; `true`: only now it is known that it was of use.
    pub fn given(&mut self, inode: &Inode, data: &Arc<Data>, is_end: bool) -> bool {
        let is_its = |file: &&File| matches!(&file.state, State::Answered(Some(held)) if Arc::ptr_eq(held, data));
        let Some(file) = self.files.get(inode.handle()).filter(is_its) else { return false }; // it may be asked for anew by now
        let is_use = !file.is_used;
        if is_use {
            self.used(inode.handle());
        }
        if is_end {
            self.remove(inode.handle());
        }
        is_use
    }

    /// Lets go what is older than that.
    pub fn drop_old(&mut self, age_max: Duration) {
        for _ in 0..self.ages.len() {
            let Some((handle, number)) = self.ages.pop_front() else { break };
            let Some(file) = self.files.get(&handle).filter(|file| file.number == number) else { continue };
            if efc_tasks::time::since(file.begun) < age_max {
                self.ages.push_front((handle, number));
                break;
            }
            match file.state {
                State::UnderWay(_) => self.ages.push_back((handle, number)),
                State::Answered(_) => self.remove(&handle),
            }
        }
    }

    fn used(&mut self, handle: &FileHandle) {
        let Some(file) = self.files.get_mut(handle) else { return };
        file.is_used = true;
        let reason = file.wanted.reason as usize;
        self.outcomes[reason].used += 1;
        self.trust[reason].used(efc_tasks::time::now());
        file.wanted.visitor.iter().for_each(|visitor| self.visits.settled(visitor));
    }

    fn remove(&mut self, handle: &FileHandle) {
        let Some(file) = self.files.remove(handle) else { return };
        self.held_bytes -= file.bytes;
        if !file.is_used {
            let reason = file.wanted.reason as usize;
            self.outcomes[reason].wasted += 1;
            self.trust[reason].wasted(efc_tasks::time::now());
            file.wanted.visitor.iter().for_each(|visitor| self.visits.wasted(visitor));
        }
        if self.ages.len() > 2 * self.files.len() + GONE_MAX {
            self.ages.retain(|(handle, number)| self.files.get(handle).is_some_and(|file| file.number == *number));
        }
    }
}

/// A file need not be asked for, after all.
fn pass_over(visits: &mut Visits, wanted: &Wanted) {
    wanted.visitor.iter().for_each(|visitor| visits.settled(visitor));
}

#[cfg(test)]
mod tests {
    use super::*;
    use efc_backend::{Attr, FileType, Tick, Time};
    use efc_buffer::{Budget, Purpose};
    use efc_cache::{Inodes, Memory};

    const TIME: Time = Time { seconds: 1, nanos: 0 };

    fn attr() -> Attr {
        let (kind, size, rdev) = (FileType::Regular, 4, (0, 0));
        let (mode, nlink, uid, gid, fsid, fileid) = (0o644, 1, 0, 0, 1, 7);
        Attr {
            kind,
            mode,
            nlink,
            uid,
            gid,
            size,
            used: size,
            rdev,
            fsid,
            fileid,
            atime: TIME,
            mtime: TIME,
            ctime: TIME,
        }
    }

    fn begin(asked: &mut Asked, inode: &Arc<Inode>) {
        asked.want(vec![inode.clone()], (&Cred::root(), Reason::Order, 1), (0, None));
        let wanted = asked.next().expect("wanted");
        assert!(asked.begin(wanted, Lacking::Verdict, 4096));
    }

    fn end(asked: &mut Asked, inode: &Arc<Inode>) -> Arc<Data> {
        let shown = Seen { value: &attr(), asked: Tick::of_answer() };
        inode.learn(shown);
        let version = Seen { value: Version::of(shown.value), asked: shown.asked };
        let room = Budget::default().take(Purpose::Ahead, 4).expect("no limit");
        let data = Data { bytes: (*b"data").into(), _room: room, before: inode.before_read(), version };
        drop(asked.end(inode.handle(), Some(Some(data))));
        asked.data(inode, None).expect("there")
    }

    #[test]
    fn what_is_given_of_former_data_is_no_end_of_a_question_that_is_under_way() {
        let inode = Inodes::new(Arc::new(Memory::new(1 << 20))).of(&FileHandle::new(b"file").expect("short"));
        let mut asked = Asked::new(1 << 20);
        begin(&mut asked, &inode);
        let data = end(&mut asked, &inode);
        assert!(asked.given(&inode, &data, true) && asked.is_empty());
        begin(&mut asked, &inode);
        assert!(!asked.given(&inode, &data, true), "by another reader, who had it in hand");
        assert!(asked.answer(&inode, &Cred::root()).is_some());
        let again = end(&mut asked, &inode);
        assert!(asked.given(&inode, &again, true) && asked.is_empty() && asked.figures().held_bytes == 0);
    }
}
