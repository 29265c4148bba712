//! The protocol of `efc warmup`: the flags of the open, and the ioctl(2) with its bytes.

/// Flags of an open to warm a file: what is read past all caches is not read synchronously with anything.
pub const WARMING: i32 = libc::O_DIRECT | libc::O_SYNC;

/// `_IOWR(0xef, 1, Request)`.
pub const COMMAND: u32 = 3 << 30 | (Request::SIZE as u32) << 16 | 0xef << 8 | 1;

/// The levels by their numbers in a [`Request`], from 1 on.
const LEVELS: [&str; 2] = ["store", "workers"];

/// What the ioctl is given, and answers with, in the machine's byte order as the rest of FUSE: `offset`, `level`, `outcome`, `length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Any byte of the block, by its place in the file.
    pub offset: u64,
    /// Of [`LEVELS`].
    pub level: u32,
    /// Answered: 1 the level had the block, 2 it was given it, 3 it takes nothing now, 4 as far as this daemon knows the file may have
    /// changed lately, so that nobody may be given the block; else 0. A daemon that has just started takes a while to know better.
    pub outcome: u32,
    /// Answered: bytes of the block, 0 behind the end of the file; else 0.
    pub length: u64,
}

impl Request {
    const SIZE: usize = 24;

    /// The bytes of it.
    pub fn bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.offset.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.level.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.outcome.to_ne_bytes());
        bytes[16..].copy_from_slice(&self.length.to_ne_bytes());
        bytes
    }

    /// What these bytes say; `None`: there are more or fewer.
    pub fn parse(bytes: &[u8]) -> Option<Request> {
        let bytes: &[u8; Self::SIZE] = bytes.try_into().ok()?;
        let word = |at: usize| bytes[at..].first_chunk().map(|word| u32::from_ne_bytes(*word));
        let long = |at: usize| bytes[at..].first_chunk().map(|long| u64::from_ne_bytes(*long));
        Some(Request { offset: long(0)?, level: word(8)?, outcome: word(12)?, length: long(16)? })
    }

    /// The name of the level.
    pub fn level_name(&self) -> Option<&'static str> {
        let place = usize::try_from(self.level).ok()?.checked_sub(1)?;
        LEVELS.get(place).copied().filter(|_| self.outcome == 0 && self.length == 0)
    }
}

/// Is a file that is opened with these flags opened to be warmed?
pub fn is_warming(flags: u32) -> bool {
    let flags = flags as i32;
    flags & libc::O_ACCMODE == libc::O_RDONLY && flags & WARMING == WARMING
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_its_bytes_say() {
        let request = Request { offset: 1 << 40, level: 2, outcome: 3, length: 4 };
        assert_eq!(Request::parse(&request.bytes()), Some(request));
        assert_eq!(Request::parse(&request.bytes()[1..]), None);
        assert_eq!(COMMAND, 0xc018_ef01, "as efc warmup has it");
        let asked = |level, outcome| Request { level, outcome, length: 0, ..request }.level_name();
        assert_eq!(
            [0, 1, 2, 3, u32::MAX].map(|level| asked(level, 0)),
            [None, Some("store"), Some("workers"), None, None]
        );
        assert_eq!(asked(1, 1), None, "a later release may mean something by it");
    }

    #[test]
    fn only_who_reads_past_caches_and_synchronously_is_taken_for_one_that_warms() {
        let flags = [WARMING, WARMING | libc::O_NONBLOCK, libc::O_DIRECT, libc::O_SYNC, WARMING | libc::O_RDWR];
        assert_eq!(flags.map(|flags| is_warming(flags as u32)), [true, true, false, false, false]);
    }
}
