//! The header page: what the memfd is, who uses it, and where its regions lie.
//!
//! | word | content |
//! |---|---|
//! | 0 | magic; written last, so a state without it was never used |
//! | 1 | layout version in the lower half, number of regions in the upper |
//! | 2 | session id |
//! | 3 | checksum of words 1 and 2 and of the table but for its last column |
//! | 4 | how many daemons have opened this state: the number of the last one |
//! | 5 | the last beat that came through the queue of requests ([`BEAT_OFFSET`]) |
//! | 6 | a regular file that was used lately, of which the keeper's next beat can be about ([`WITNESS_OFFSET`]) |
//! | 7 | how many daemons have found that a later one had opened the state ([`SUPERSEDED_OFFSET`]) |
//! | 511 | what a successor of the first release would do wrong ([`HOLDING_OFFSET`]) |
//! | 8.. | table of regions: tag and words of a slot, capacity, first word, slots with memory (ARENA: its last daemon) |
//!
//! Regions are found by their tags. A release may add one: its predecessor's states lack it, and it must do without
//! until the dataset is mounted anew; its predecessor does not look at it. The areas of requests are the last region.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::SealFlags;
use rustix::rand::GetRandomFlags;

use super::mapping::{Mapping, WORD};
use super::region::{Location, Region};
use super::regions::{Format, PAGE, REGIONS};

const MAGIC: u64 = u64::from_be_bytes(*b"EFCSTATE");
/// Layout version of a session of one source, which the first release opens.
pub const OF_ONE_SOURCE: u64 = 2;
/// Layout version of a session of several: the same layout, but what is saved is for those who know of several sources.
pub const OF_SEVERAL_SOURCES: u64 = 3;
/// Regions that a state of another release may have.
const REGIONS_MAX: usize = (HOLDING - TABLE) / ROW;

const VERSION_AND_COUNT: usize = 1;
const SESSION: usize = 2;
const CHECKSUM: usize = 3;
const DAEMON: usize = 4;
const BEAT: usize = 5;
const WITNESS: usize = 6;
const SUPERSEDED: usize = 7;
const TABLE: usize = 8;
const ROW: usize = 4;
const HOLDING: usize = PAGE / WORD - 1;

const _: () = assert!(REGIONS.len() <= REGIONS_MAX);

/// Where the keeper finds the number of the last beat: a u64 of this machine at this byte of the memfd.
pub const BEAT_OFFSET: u64 = (BEAT * WORD) as u64;
/// Where it finds the id of a node that the kernel knew lately as a regular file; 0 if there was none.
pub const WITNESS_OFFSET: u64 = (WITNESS * WORD) as u64;
/// Where it finds how many daemons ended as they had a successor: what they had read has to be delivered again.
pub const SUPERSEDED_OFFSET: u64 = (SUPERSEDED * WORD) as u64;

/// Where the keeper finds the layout version, in the lower half of a u64: a daemon of a release that knows of one source only must
/// not be started if it is more than [`OF_ONE_SOURCE`].
pub const LAYOUT_OFFSET: u64 = (VERSION_AND_COUNT * WORD) as u64;
/// Where it finds, if not 0, what the first release knows nothing of: no daemon of that may be started then. Bits: [`HOLDS_DATA`],
/// [`HOLDS_PASSTHROUGH`] and [`HOLDS_UNOPENED`].
pub const HOLDING_OFFSET: u64 = (HOLDING * WORD) as u64;
/// There is written data that the server has not answered.
pub const HOLDS_DATA: u64 = 1 << 0;
/// The kernel reads files by itself that are open ([`crate::OpenHandle::backing`]).
pub const HOLDS_PASSTHROUGH: u64 = 1 << 1;
/// The kernel opens files without asking, and reads them through no handle.
pub const HOLDS_UNOPENED: u64 = 1 << 2;

/// The table's words but for its last column, and the size of it all in bytes.
fn table(regions: &[Format]) -> (Vec<[u64; ROW]>, usize) {
    let mut end = PAGE;
    let row = |format: &Format| {
        let first = end / WORD;
        end = (end + format.capacity as usize * format.words * WORD).next_multiple_of(PAGE);
        [format.identity(), u64::from(format.capacity), first as u64, 0]
    };
    (regions.iter().map(row).collect(), end)
}

/// The header page of an open state.
#[derive(Clone)]
pub struct Header {
    mapping: Arc<Mapping>,
}

impl Header {
    /// [`Header::open_in_version`], for a session of one source.
    #[cfg(test)]
    pub fn open(memfd: OwnedFd, regions: &[Format]) -> io::Result<Header> {
        Header::open_in_version(memfd, regions, OF_ONE_SOURCE)
    }

    /// Maps `memfd` and checks it, or formats it with these regions, in this version, if it was never used.
    pub fn open_in_version(memfd: OwnedFd, regions: &[Format], version: u64) -> io::Result<Header> {
        let mut magic = [0; WORD];
        let length = rustix::io::pread(&memfd, &mut magic, 0)?;
        let (table, planned) = table(regions);
        if length == 0 {
            rustix::fs::ftruncate(&memfd, planned as u64)?;
            rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK)?;
        }
        let size = usize::try_from(rustix::fs::fstat(&memfd)?.st_size).unwrap_or(0);
        let mapping = Arc::new(Mapping::new(memfd, size.max(PAGE))?);
        mapping.allocate(0, PAGE / WORD)?;
        let header = Header { mapping: Arc::clone(&mapping) };
        match u64::from_ne_bytes(magic) {
            // Nobody can have opened what was not formatted to its end.
            0 if header.last_daemon() != 0 => return Err(invalid("its beginning is damaged")),
            0 => header.format(&table, version)?,
            MAGIC => header.check(size)?,
            _ => return Err(invalid("it has no such beginning")),
        }
        Ok(header)
    }

    /// Whether [`Header::open`] and what follows it could read `memfd`, which somebody else uses: nothing is written.
    /// Regions that came later may be missing.
    pub fn check_only(memfd: OwnedFd) -> io::Result<()> {
        let mut magic = [0; WORD];
        if rustix::io::pread(&memfd, &mut magic, 0)? < WORD || u64::from_ne_bytes(magic) != MAGIC {
            return Err(invalid("it has no such beginning"));
        }
        let size = usize::try_from(rustix::fs::fstat(&memfd)?.st_size).unwrap_or(0);
        let header = Header { mapping: Arc::new(Mapping::new(memfd, size.max(PAGE))?) };
        header.check(size)?;
        REGIONS.iter().filter(|format| !format.is_optional).try_for_each(|format| header.place(format).map(drop))
    }

    /// The whole state.
    pub fn mapping(&self) -> Arc<Mapping> {
        Arc::clone(&self.mapping)
    }

    /// The layout version.
    pub fn version(&self) -> u64 {
        u64::from(self.word(VERSION_AND_COUNT) as u32)
    }

    fn word(&self, index: usize) -> u64 {
        self.mapping.words(index, 1)[0].load(Ordering::Acquire)
    }

    fn set(&self, index: usize, value: u64) {
        self.mapping.words(index, 1)[0].store(value, Ordering::Release);
    }

    fn format(&self, table: &[[u64; ROW]], version: u64) -> io::Result<()> {
        let mut session = [0; WORD];
        rustix::rand::getrandom(&mut session, GetRandomFlags::empty())?;
        self.set(VERSION_AND_COUNT, version | (table.len() as u64) << 32);
        self.set(SESSION, u64::from_ne_bytes(session));
        self.set(DAEMON, 0);
        for (index, value) in table.iter().flatten().enumerate() {
            self.set(TABLE + index, *value);
        }
        self.set(CHECKSUM, self.checksum());
        self.set(0, MAGIC);
        Ok(())
    }

    /// Rows of the table.
    fn regions(&self) -> usize {
        ((self.word(VERSION_AND_COUNT) >> 32) as usize).min(REGIONS_MAX)
    }

    fn checksum(&self) -> u64 {
        let fixed = (0..self.regions()).flat_map(|row| (0..ROW - 1).map(move |column| TABLE + row * ROW + column));
        let words = [VERSION_AND_COUNT, SESSION].into_iter().chain(fixed);
        let bytes: Vec<u8> = words.flat_map(|index| self.word(index).to_le_bytes()).collect();
        u64::from(crc32c::crc32c(&bytes))
    }

    fn check(&self, size: usize) -> io::Result<()> {
        if !(OF_ONE_SOURCE..=OF_SEVERAL_SOURCES).contains(&self.version()) {
            return Err(invalid("its layout is of another version"));
        }
        if self.word(CHECKSUM) != self.checksum() {
            return Err(invalid("the checksum of its header is wrong"));
        }
        let within = |row: usize| {
            let word = |column: usize| self.word(TABLE + row * ROW + column);
            let length = word(1).checked_mul(word(0) >> 32)?;
            let end = word(2).checked_add(length)?.checked_mul(WORD as u64)?;
            (end <= size as u64).then_some(())
        };
        (0..self.regions()).try_for_each(within).ok_or_else(|| invalid("it is shorter than its regions"))
    }

    /// Where the region of this format lies.
    ///
    /// # Errors
    /// InvalidData if the state has no such region.
    pub fn place(&self, format: &Format) -> io::Result<Location> {
        self.place_if_any(format)?.ok_or_else(|| {
            let Format { name, since, .. } = format;
            invalid(&format!("region {name} of release {since} is missing, or of another form"))
        })
    }

    /// Where the region of this format lies; `None` if the state was made by a release without it.
    pub fn place_if_any(&self, format: &Format) -> io::Result<Option<Location>> {
        let mut rows = (0..self.regions()).map(|row| TABLE + row * ROW);
        let Some(row) = rows.find(|row| self.word(*row) == format.identity()) else { return Ok(None) };
        Ok(Some(Location {
            base: self.word(row + 2) as usize, // checked to lie within the mapping
            capacity: u32::try_from(self.word(row + 1)).map_err(|_| invalid("a region is too large"))?,
            last_column: row + 3,
        }))
    }

    /// The region of this format.
    ///
    /// # Errors
    /// InvalidData if the state has none, and those of [`Region::new`].
    pub fn region(&self, format: &Format) -> io::Result<Region> {
        Region::new(Arc::clone(&self.mapping), *format, self.place(format)?)
    }

    /// The region of this format; `None` if the state was made by a release without it.
    pub fn region_if_any(&self, format: &Format) -> io::Result<Option<Region>> {
        let place = self.place_if_any(format)?;
        place.map(|place| Region::new(Arc::clone(&self.mapping), *format, place)).transpose()
    }

    /// The last column of a region's row.
    pub fn last_column(&self, place: &Location) -> u64 {
        self.word(place.last_column)
    }

    /// Sets the last column of the row of a region that does not count its slots there.
    pub fn set_last_column(&self, place: &Location, value: u64) {
        self.set(place.last_column, value);
    }

    /// Makes it look as if another release had made the region of `format`.
    #[cfg(test)]
    pub fn retag_for_test(&self, format: Format, tag: u8) {
        let mut rows = (0..self.regions()).map(|row| TABLE + row * ROW);
        let row = rows.find(|row| self.word(*row) == format.identity()).expect("such a region");
        self.set(row, Format { tag, ..format }.identity());
        self.set(CHECKSUM, self.checksum());
    }

    /// Counts the daemon that opens the state, and tells its number.
    pub fn count_daemon(&self) -> u64 {
        self.mapping.words(DAEMON, 1)[0].fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Notes a regular file that the kernel knows.
    pub fn set_witness(&self, node: u64) {
        let word = &self.mapping.words(WITNESS, 1)[0];
        // Read first: a line that is only read stays in every core's cache.
        if word.load(Ordering::Relaxed) != node {
            word.store(node, Ordering::Relaxed);
        }
    }

    /// Shows whoever looks at the memfd that the beat has come.
    pub fn set_beat(&self, number: u64) {
        self.set(BEAT, number);
    }

    /// Notes whether there is what this bit of the word says.
    pub fn set_holding(&self, bit: u64, is_holding: bool) {
        let word = &self.mapping.words(HOLDING, 1)[0];
        if is_holding {
            word.fetch_or(bit, Ordering::AcqRel)
        } else {
            word.fetch_and(!bit, Ordering::AcqRel)
        };
    }

    /// Counts a daemon that has a successor and ends for it.
    pub fn count_superseded(&self) {
        self.mapping.words(SUPERSEDED, 1)[0].fetch_add(1, Ordering::AcqRel);
    }

    /// The number of the daemon that opened the state last; 0 if none has.
    pub fn last_daemon(&self) -> u64 {
        self.word(DAEMON)
    }

    pub fn session_id(&self) -> u64 {
        self.word(SESSION)
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("this is not a saved state of ours: {what}"))
}
