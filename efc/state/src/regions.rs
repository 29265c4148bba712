//! The table of regions: all that a saved state has room for, one row for each.
//!
//! A region is an array of equally large slots, found in a state by its tag and the size of its slots. To add one is to
//! add a row, marked optional and above AREAS: a state that an earlier release has made lacks it, and whoever uses it
//! must do without until the dataset is mounted anew; an earlier release that opens a state with it does not look at
//! it. A tag is never used again, and a row that a release has written to states is never changed: its region would
//! count as missing.

pub use super::mapping::PAGE;
use super::mapping::WORD;

/// Bytes of a file handle that a record holds: as many as NFSv3 has, and one more ([`super::file_handles`]).
pub const FILE_HANDLE_MAX: usize = 65;
/// Supplementary groups that a record holds: as many as AUTH_SYS carries.
pub const GROUPS_MAX: usize = 16;
/// Bytes of the largest block of the arena: as much as one write may have.
pub const PAYLOAD_MAX: usize = 1 << 20;
/// Bytes of an area for a request: the largest message fits in it.
pub const MESSAGE_MAX: usize = PAYLOAD_MAX + PAGE;
/// Slots of a region that holds one value and its predecessor, or its copy.
pub const PAIR: u32 = 2;
/// How many nodes there can be. Regions for facts about nodes have as many slots.
const NODES_MAX: u32 = 64 << 20;

/// A release of this software.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release(pub u8, pub u8, pub u8);

const FIRST: Release = Release(0, 1, 0);
const SECOND: Release = Release(0, 2, 0);

/// A row of the table: what is the same for all slots of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Name of the row.
    pub name: &'static str,
    /// Names the region in a state, for ever.
    pub tag: u8,
    /// Version of the sealed words' layout.
    pub version: u8,
    /// Size of a slot, in words of 8 bytes.
    pub words: usize,
    /// How many of a record's words are mutable.
    pub mutable: usize,
    /// Slots at the beginning that are not handed out.
    pub reserved: u32,
    /// Slots that get memory at a time.
    pub chunk: u32,
    /// Slots that there can be. They cost address space only.
    pub capacity: u32,
    /// The release that added the region.
    pub since: Release,
    /// A state without the region can be used.
    pub is_optional: bool,
}

macro_rules! regions {
    ($($(#[$about:meta])* $name:ident:
        $tag:expr, $version:expr, $words:expr, $mutable:expr, $reserved:expr, $chunk:expr, $capacity:expr, $since:expr,
        $need:expr;
    )*) => {
        $($(#[$about])* pub const $name: Format = Format {
            name: stringify!($name),
            tag: $tag,
            version: $version,
            words: $words,
            mutable: $mutable,
            reserved: $reserved,
            chunk: $chunk,
            capacity: $capacity,
            since: $since,
            is_optional: $need,
        };)*
        /// All regions, in the order in which they lie in a state. 14 GiB of records if all were in use, and 16 GiB of
        /// written data.
        pub const REGIONS: &[Format] = &[$($name),*];
    };
}

const NEEDED: bool = false;
const OPTIONAL: bool = true;

regions! {
    // name     tag version words               mutable reserved chunk capacity   since
    /// Records of nodes.
    NODES:     1,  1,      16,                 4,      2,       1024, NODES_MAX, FIRST,  NEEDED;
    /// Records of open files and directories.
    HANDLES:   2,  1,      16,                 1,      0,       512,  4 << 20,   FIRST,  NEEDED;
    /// Records of files that were removed while open.
    ORPHANS:   3,  1,      64,                 0,      0,       128,  1 << 20,   FIRST,  NEEDED;
    /// What the daemon knows of its server, in a form of its own.
    BLOB:      4,  1,      512,                0,      0,       2,    PAIR,      FIRST,  NEEDED;
    /// What the session's ends have agreed on.
    AGREEMENT: 5,  1,      16,                 0,      0,       2,    PAIR,      FIRST,  NEEDED;
    /// Entries of the journal.
    JOURNAL:   6,  1,      56,                 29,     0,       64,   1 << 16,   FIRST,  OPTIONAL;
    /// Source ports of connections, four to a word.
    PORTS:     7,  1,      24,                 0,      0,       2,    PAIR,      FIRST,  NEEDED;
    /// Records of writes that wait for COMMIT. A successor looks at each of them before it serves: 0.3 us.
    WRITES:    10, 1,      20,                 1,      0,       128,  1 << 17,   FIRST,  OPTIONAL;
    /// The data of those writes: no records, but pages. The last column of its row is the last daemon that knew of
    /// them.
    ARENA:     11, 1,      PAGE / WORD,        0,      0,       1,    4 << 20,   FIRST,  OPTIONAL;
    /// Records of failures that were not told to all, and of opens that were told.
    FAILURES:  12, 1,      8,                  1,      0,       64,   1 << 16,   SECOND, OPTIONAL;
    /// Facts about nodes: the version of the pages that the kernel holds.
    PAGES:     13, 1,      4,                  0,      0,       128,  NODES_MAX, SECOND, OPTIONAL;
    /// Records of calls in flight that carry data of which the application was told before it was sent.
    CALLS:     14, 1,      8,                  1,      0,       64,   1 << 14,   SECOND, OPTIONAL;
    /// Facts about records of WRITES that were made before the server had the data: the verifier of its answer.
    ANSWERED:  15, 1,      2,                  0,      0,       256,  1 << 17,   SECOND, OPTIONAL;
    /// What the daemon knows of the servers of several sources, in a form of its own. It has memory where there are several.
    SOURCES:   24, 1,      24_640,             0,      0,       2,    PAIR,      SECOND, OPTIONAL;
    /// Source ports of connections beyond those of PORTS, four to a word. It has memory where there are several sources.
    PORTS_OF_SOURCES: 25, 1, 264,              0,      0,       2,    PAIR,      SECOND, OPTIONAL;
    /// Requests that were read and not answered, in a form of their own.
    REQUESTS:  8,  1,      576,                0,      0,       16,   1 << 16,   FIRST,  OPTIONAL;
    /// Areas that requests are read into. At the end of the state: memory from here on is no words
    /// ([`super::mapping`]).
    AREAS:     9,  1,      MESSAGE_MAX / WORD, 0,      0,       1,    1 << 12,   FIRST,  OPTIONAL;
}

const _: () = assert!(are_tags_unique(REGIONS), "two regions have one tag");
const _: () = assert!(REGIONS[REGIONS.len() - 1].tag == AREAS.tag, "the areas must be the last region");
const _: () = assert!(are_later_ones_optional(REGIONS), "no state of an earlier release could be used");

const _: () = assert!(ANSWERED.capacity == WRITES.capacity);

const fn are_tags_unique(regions: &[Format]) -> bool {
    let mut used = [false; u8::MAX as usize + 1];
    let mut row = 0;
    while row < regions.len() {
        if std::mem::replace(&mut used[regions[row].tag as usize], true) {
            return false;
        }
        row += 1;
    }
    true
}

const fn are_later_ones_optional(regions: &[Format]) -> bool {
    let mut row = 0;
    while row < regions.len() {
        let Release(major, minor, patch) = regions[row].since;
        let is_first = major == FIRST.0 && minor == FIRST.1 && patch == FIRST.2;
        if !is_first && !regions[row].is_optional {
            return false;
        }
        row += 1;
    }
    true
}

/// Words in front of the mutable ones of a record.
pub const HEAD: usize = 2;

impl Format {
    /// How many sealed words a record has.
    pub const fn sealed(&self) -> usize {
        self.words - HEAD - self.mutable
    }

    /// What names the region in a state's table: tag, and size of a slot.
    pub fn identity(&self) -> u64 {
        u64::from(self.tag) | (self.words as u64) << 32
    }
}

impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tag, words and capacity of each region of a state that release 0.1.0 has made, in their order there.
    const IN_0_1_0: [(u8, usize, u32); 11] = [
        (1, 16, 67_108_864),
        (2, 16, 4_194_304),
        (3, 64, 1_048_576),
        (4, 512, 2),
        (5, 16, 2),
        (6, 56, 65_536),
        (7, 24, 2),
        (10, 20, 131_072),
        (11, 512, 4_194_304),
        (8, 576, 65_536),
        (9, 131_584, 4096),
    ];

    #[test]
    fn the_first_release_s_regions_are_as_it_wrote_them() {
        let first = REGIONS.iter().filter(|format| format.since == FIRST);
        assert!(first.map(|format| (format.tag, format.words, format.capacity)).eq(IN_0_1_0));
    }

    #[test]
    fn two_regions_of_one_tag_and_a_later_one_that_must_be_there_are_noticed() {
        assert!(!are_tags_unique(&[NODES, PAGES, Format { tag: NODES.tag, ..PORTS }]));
        assert!(!are_later_ones_optional(&[NODES, Format { is_optional: false, ..PAGES }]));
    }
}
