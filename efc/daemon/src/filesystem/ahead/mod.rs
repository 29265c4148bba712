//! Opening ahead: prefetches the files that a program is expected to open next.
//!
//! A program that opens the files of a directory one after the other waits for the server at each. In a mode in which
//! an open may rely on what is known, the first open of each file by each caller still asks whether that caller may;
//! and if verdicts hold longer than the kernel keeps the data, the first read asks. So a file that is expected to be
//! opened is asked for as if it were: that brings the verdict on the caller, and the data of a small file.
//!
//! Expected are the next files in the order of the listing after some were opened in that order ([`scans`]), and small
//! files of a directory in which others are opened in no known order ([`visits`]). Only opens and reads count that had
//! to wait for the server, or would have without the prefetch: a program whose files are in the kernel causes no
//! prefetches. The number in flight adapts to the server's latency ([`pace`]), the memory for the data is limited, and
//! prefetching pauses when more of it was in vain than was used ([`trust`]).
//!
//! In every mode, a directory is listed after several negative lookups in it, to learn which other names do not exist
//! ([`misses`]); few listings run at a time ([`listings`]).
//!
//! Each question uses the credential of the expected caller, and its answer is a verdict for that caller alone. In
//! close-to-open there is nothing to gain: an open asks by itself, and that brings the data of a small file.

mod asked;
mod listings;
mod misses;
mod pace;
pub(super) mod places;
mod scans;
mod trust;
mod visits;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use efc_backend::{Backend, Cred, Seen};
use efc_buffer::{Budget, Buffer, Purpose};
use efc_cache::{Grant, Inode};
use efc_fuse::Errno;
use efc_tasks::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use efc_tasks::sync::{Mutex, MutexGuard};

use super::Inner;
use super::files::{OpenFile, fits_read_at_open};
use asked::{AGE_MAX, Asked, BUFFER_BYTES, Data, Lacking, Reason, Wanted};
use listings::Listings;
use misses::Misses;
use places::Places;
use scans::Scans;
use visits::{Next, Questions};

pub use asked::Figures;

/// Memory for data that waits for its reader: this part of that for all that nobody has asked for yet, and no more than so many bytes.
const MEMORY_PART: u64 = 2;
const MEMORY_MAX: u64 = 64 << 20;
/// How long who looks up a name that is not there waits for a listing.
const LISTING_WAIT_MAX: Duration = Duration::from_secs(1);
/// How often it is looked for files that nobody has opened in time.
const SWEEP_TIME: Duration = Duration::from_secs(1);

/// Whether files are asked for ahead: the option, which can change at any time.
#[derive(Debug)]
pub struct AheadSwitch(AtomicBool);

impl AheadSwitch {
    /// On or off.
    pub fn new(is_on: bool) -> AheadSwitch {
        AheadSwitch(AtomicBool::new(is_on))
    }

    /// Turns it on or off.
    pub fn set(&self, is_on: bool) {
        self.0.store(is_on, Ordering::Relaxed);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is asked for ahead, and why.
pub(super) struct Ahead {
    switch: Arc<AheadSwitch>,
    asked: Mutex<(Scans, Asked)>,
    misses: Mutex<Misses>,
    listings: Arc<Listings>,
    /// Files in it: most reads find that there are none.
    count: AtomicUsize,
    /// Opens so far.
    opens: AtomicU64,
    is_sweeping: AtomicBool,
}

impl Ahead {
    /// Nothing is asked for yet; data takes of this budget.
    pub fn new(switch: Arc<AheadSwitch>, buffers: &Budget) -> Ahead {
        let held_bytes_max = MEMORY_MAX.min(buffers.bytes_max(Purpose::Ahead) / MEMORY_PART);
        Ahead {
            switch,
            asked: Mutex::new((Scans::default(), Asked::new(held_bytes_max))),
            misses: Mutex::default(),
            listings: Arc::default(),
            count: AtomicUsize::new(0),
            opens: AtomicU64::new(0),
            is_sweeping: AtomicBool::new(false),
        }
    }

    /// What came of what was asked for.
    pub fn figures(&self) -> Figures {
        self.lock().1.figures()
    }

    fn lock(&self) -> MutexGuard<'_, (Scans, Asked)> {
        self.asked.lock().expect("asked lock")
    }

    /// Changes what is asked for, or looks at it.
    fn with<T>(&self, change: impl FnOnce(&mut Asked) -> T) -> T {
        let mut locked = self.lock();
        let result = change(&mut locked.1);
        self.count.store(locked.1.len(), Ordering::Release);
        result
    }

    /// What is to be asked for next. Once it is turned off, nothing of what was wanted before.
    fn next(&self) -> Option<Wanted> {
        let is_on = self.switch.is_on();
        self.with(|asked| {
            if is_on {
                asked.next()
            } else {
                asked.want_nothing();
                None
            }
        })
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Does data of this file wait for its reader, which may be given to one who wants none that is older than that?
    pub fn has_data(&self, inode: &Inode, data_ttl: Option<Duration>) -> bool {
        !self.is_empty() && self.with(|asked| asked.data(inode, data_ttl).is_some())
    }

    /// A file was opened or read that had to be waited for, or would have had to: takes in which are expected next. `true`: the directory is
    /// to be listed, to know them.
    fn follow(
        &self,
        (inode, storage, cred): (&Arc<Inode>, u64, &Cred),
        directory: Option<(&Inode, &dyn Fn() -> bool)>,
        places: Places,
    ) -> bool {
        let mut locked = self.lock();
        let (scans, asked) = &mut *locked;
        let next = scans.opened(cred, inode).filter(|_| asked.is_trusted(Reason::Order));
        let is_open_to_others = next.is_none() && asked.is_trusted(Reason::Directory);
        let (mut next, place) = (next.unwrap_or_default(), places.place);
        let Some((directory, knows_names)) = directory else {
            asked.want(next, (cred, Reason::Order, place), (storage, None));
            return false;
        };
        let visitor = (*directory.handle(), cred.clone());
        let questions = Questions { is_small, knows_names };
        let questions = Some(&questions).filter(|_| is_open_to_others);
        let (Next { files, lists }, began) =
            asked.visits.opened((directory, &visitor), (places.former, place), questions);
        next.retain(|file| file.last_open() < began); // two that are next to each other may be so by chance
        asked.want(next, (cred, Reason::Order, place), (storage, None));
        asked.want(files, (cred, Reason::Directory, place), (storage, Some(&visitor)));
        lists
    }
}

/// Is a file read as a whole when it is opened?
fn is_small(inode: &Inode) -> bool {
    inode.last_seen().is_some_and(|attr| fits_read_at_open(&attr))
}

impl<B: Backend> Inner<B> {
    /// A file was opened, which the server was asked for or not: asks for those that its caller will open next.
    pub(super) fn open_ahead(self: &Arc<Self>, file: &OpenFile, is_asked: bool) {
        let is_of_interest = !file.is_writable() && !file.is_warming();
        if !self.freshness.opens_unasked() || !is_of_interest || !self.ahead.switch.is_on() {
            return;
        }
        let place = self.ahead.opens.fetch_add(1, Ordering::Relaxed) + 1;
        let places = Places { former: file.inode.note_open(place), place };
        let opened = || self.ahead.with(|asked| asked.opened(&file.inode, &file.cred, is_asked));
        let is_use = !self.ahead.is_empty() && opened();
        if is_asked || is_use {
            self.follow(file, places);
        } else {
            file.replace_places(Some(places)); // its first read may have to wait
        }
    }

    /// A file was read that had to be waited for, or would have had to: if it is small, and this is the first read of an open that did not
    /// wait, asks for those that its caller will open next.
    pub(super) fn read_ahead(self: &Arc<Self>, file: &OpenFile) {
        if let Some(places) = file.replace_places(None)
            && is_small(&file.inode)
            && !self.has_levels()
        {
            self.follow(file, places);
        }
    }

    /// Is there a level of cache that has the data, or will have it?
    fn has_levels(&self) -> bool {
        self.blocks.as_ref().is_some_and(|chain| chain.serves())
    }

    fn follow(self: &Arc<Self>, file: &OpenFile, places: Places) {
        let directory = self.state.parent(file.node).and_then(|node| self.inode(node).ok());
        let knows_names = || directory.as_ref().is_some_and(|directory| self.knows_names(directory));
        let visited = directory.as_deref().map(|directory| (directory, &knows_names as &dyn Fn() -> bool));
        let (storage, _) = self.backend.shared_name(file.inode.handle());
        let lists = self.ahead.follow((&file.inode, storage, &file.cred), visited, places);
        if let Some(listing) = directory.filter(|_| lists).and_then(|directory| self.listing_of(&directory, &file.cred))
        {
            efc_tasks::spawn(listing);
        }
        while let Some(begun) = self.begin_next() {
            let inner = Arc::clone(self);
            efc_tasks::spawn(async move { inner.ask_one_after_the_other(begun).await });
        }
    }

    /// A caller asked the server for a name that is not in the directory: lists it if that happens again and again.
    ///
    /// The caller waits for it a little: he may be about to make what he has not found, and a directory that we change while it is listed
    /// is not known whole.
    pub(super) async fn missed(self: &Arc<Self>, directory: &Arc<Inode>, cred: &Cred) {
        let is_due = || self.ahead.misses.lock().expect("misses lock").add(directory.handle());
        if self.ahead.switch.is_on()
            && !self.properties_of(directory).ignores_case
            && is_due()
            && !self.knows_names(directory)
            && let Some(listing) = self.listing_of(directory, cred)
        {
            efc_tasks::time::in_time(efc_tasks::detached(listing).end(), Some(LISTING_WAIT_MAX)).await;
        }
    }

    /// Lists a directory, if it is one of those that may be listed now.
    fn listing_of(
        self: &Arc<Self>,
        directory: &Arc<Inode>,
        cred: &Cred,
    ) -> Option<impl Future<Output = ()> + Send + use<B>> {
        let (storage, _) = self.backend.shared_name(directory.handle());
        let turn = self.ahead.listings.begin(storage)?;
        let (inner, directory, cred) = (Arc::clone(self), directory.clone(), cred.clone());
        Some(async move {
            inner.list_ahead(&directory, cred).await;
            drop(turn);
        })
    }

    /// May names of the directory be told as they are known?
    fn knows_names(&self, directory: &Arc<Inode>) -> bool {
        let listing = self.names.listing(directory);
        listing.is_some_and(|(_, proof)| self.freshness.admit_name(directory, &proof).is_some())
    }

    /// Takes the next file that is to be asked for, and that is not known.
    fn begin_next(&self) -> Option<(Arc<OpenFile>, Lacking)> {
        while let Some(wanted) = self.ahead.next() {
            let (inode, cred) = (wanted.inode.clone(), wanted.cred.clone());
            let file = OpenFile::new(inode.node().unwrap_or(0), inode, cred, libc::O_RDONLY as u32);
            match self.lacking(&file, wanted.reason) {
                None => self.ahead.with(|asked| asked.give_up(&wanted)),
                Some(lacking) => {
                    let buffer_bytes = if is_small(&file.inode) { BUFFER_BYTES } else { 0 };
                    if self.ahead.with(|asked| asked.begin(wanted, lacking, buffer_bytes)) {
                        return Some((Arc::new(file), lacking));
                    }
                }
            }
        }
        None
    }

    /// What is not known of a file that is expected, and can be asked for.
    fn lacking(&self, file: &OpenFile, reason: Reason) -> Option<Lacking> {
        let (is_small, is_known) = (is_small(&file.inode), self.open_unasked(file).is_some());
        match reason {
            _ if is_known && is_small && !self.has_levels() && !file.inode.has_whole() => Some(Lacking::Data),
            Reason::Directory if !is_small => None,
            _ => (!is_known).then_some(Lacking::Verdict),
        }
    }

    async fn ask_one_after_the_other(self: Arc<Self>, first: (Arc<OpenFile>, Lacking)) {
        let mut next = Some(first);
        while let Some((file, lacking)) = next {
            // Whatever is wrong, who opens the file hears it again.
            let answer = self.ask_ahead(&file, lacking).await.ok();
            drop(self.ahead.with(|asked| asked.end(file.inode.handle(), answer)));
            self.sweep_ahead();
            next = self.begin_next();
        }
    }

    async fn ask_ahead(self: &Arc<Self>, file: &Arc<OpenFile>, lacking: Lacking) -> Result<Option<Data>, Errno> {
        let before = file.inode.before_read();
        let small = file.inode.last_shown().filter(|known| fits_read_at_open(&known.value));
        let Some(known) = small else { return self.ask_access(file).await.map(|_| None) };
        if lacking == Lacking::Verdict
            && let Ok(shown) = self.have_block(file, known).await
        {
            return self.note_block(file, shown).await.map(|_| None);
        }
        let Some(buffer) = self.buffers.take(Purpose::Ahead, efc_buffer::SMALL).and_then(|room| room.buffer().ok())
        else {
            return self.ask_access(file).await.map(|_| None);
        };
        let (shown, data) = self.read_all(file, buffer).await?;
        let data = data.zip(shown).and_then(|((buffer, size), Seen { value: attr, asked })| {
            let room = self.buffers.take(Purpose::Ahead, size)?;
            let version = Seen { value: efc_cache::Version::of(&attr), asked };
            Some(Data { bytes: buffer[..size].into(), _room: room, before, version })
        });
        Ok(data)
    }

    /// Waits for the answer, if this file is asked for ahead now for this caller. Who has a time limit asks at once, and waits for that alone.
    async fn answered(&self, file: &OpenFile) -> Option<()> {
        if self.ahead.is_empty() || self.backend.time_limit().is_some() {
            return None;
        }
        let end = self.ahead.with(|asked| asked.answer(&file.inode, &file.cred))?;
        let _ = end.await; // dropped at the end
        Some(())
    }

    /// Answers a read from data that was asked for ahead, or is.
    pub(super) async fn read_asked(
        self: &Arc<Self>,
        file: &OpenFile,
        offset: u64,
        length: usize,
    ) -> Option<Seen<(Buffer, Range<usize>)>> {
        if self.ahead.is_empty() {
            return None;
        }
        self.answered(file).await;
        let data = self.ahead.with(|asked| asked.data(&file.inode, self.freshness.data_ttl()))?;
        let size = data.bytes.len();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(size);
        let end = size.min(start.saturating_add(length));
        let mut part = Buffer::new(end - start).ok()?; // for the moment until the kernel has it
        part[..end - start].copy_from_slice(&data.bytes[start..end]);
        if self.ahead.with(|asked| asked.given(&file.inode, &data, end == size)) {
            self.read_ahead(file);
        }
        Some(Seen { value: (part, 0..end - start), asked: data.version.asked })
    }

    /// What an open may rely on: what is known, or is about to be.
    pub(super) async fn open_with_what_is_known(&self, file: &OpenFile) -> Option<Grant> {
        let known = self.open_unasked(file);
        if known.is_some() {
            return known;
        }
        self.answered(file).await?;
        self.open_unasked(file)
    }

    /// Lets files go when they are old, as long as there are any.
    fn sweep_ahead(self: &Arc<Self>) {
        if self.ahead.is_empty() || self.ahead.is_sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = Arc::downgrade(self);
        efc_tasks::spawn(async move {
            loop {
                efc_tasks::time::sleep(SWEEP_TIME).await;
                let Some(inner) = inner.upgrade() else { return };
                let age_max = AGE_MAX.min(inner.freshness.verdict_ttl());
                let is_over = inner.ahead.with(|asked| {
                    asked.drop_old(age_max);
                    // With the lock held: who has another one asked for starts anew.
                    asked.is_empty().then(|| inner.ahead.is_sweeping.store(false, Ordering::Release)).is_some()
                });
                if is_over {
                    return;
                }
            }
        });
    }
}
