//! Filling one level of cache and no other with blocks of a file, for `efc warmup --to`.
//!
//! Who wants that opens the file with [`WARMING`] and asks by ioctl(2) for one block after the other ([`Request`]). A question says
//! all that it takes, so nothing of it has to outlive this daemon: a successor is delivered it again, and the flags of the open are
//! saved like those of any. No data goes to the caller, nor into the kernel's pages, and the answer says whether the level had the block.
//!
//! An open with these flags lets its file be read by whoever opens it so, as any open for reading does; but it brings no data, and has nothing
//! asked for ahead, which would fill all levels. Without the ioctl that harms nobody. A release that does not know the ioctl
//! refuses it, and its opens with O_DIRECT fill no level.
//!
//! Not guaranteed: that a level keeps what it was given. Who asks again is told.

use std::sync::Arc;

use efc_backend::{Attr, Backend, Call, FileType, Seen};
use efc_cache::blocks::{Absent, Chain, Warmed};
use efc_fuse::{Errno, ioctl_answer};

use super::files::OpenFile;
use super::{Inner, Outcome, Response};
use crate::errno::errno;

/// Flags of an open for this: what is read past all caches is not read synchronously with anything.
pub(super) const WARMING: i32 = libc::O_DIRECT | libc::O_SYNC;

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
    fn level_name(&self) -> Option<&'static str> {
        let place = usize::try_from(self.level).ok()?.checked_sub(1)?;
        LEVELS.get(place).copied().filter(|_| self.outcome == 0 && self.length == 0)
    }
}

/// Is a file that is opened with these flags opened for this?
pub(super) fn is_warming(flags: u32) -> bool {
    let flags = flags as i32;
    flags & libc::O_ACCMODE == libc::O_RDONLY && flags & WARMING == WARMING
}

impl<B: Backend> Inner<B> {
    /// IOCTL: fills a level with a block of a file that is open for reading.
    ///
    /// # Errors
    /// ENOSYS: it is another ioctl. EINVAL: it is none of a regular file's, or says what it should not. EOPNOTSUPP: there is no such level.
    /// EBADF: the file is not open for reading. Others: the NAS's.
    pub(super) async fn ioctl(self: &Arc<Self>, (node, fh): (u64, u64), command: u32, data: &[u8]) -> Outcome {
        if command != COMMAND {
            return Err(Errno(libc::ENOSYS));
        }
        let request = Request::parse(data).ok_or(Errno(libc::EINVAL))?;
        let name = request.level_name().ok_or(Errno(libc::EINVAL))?;
        let chain = self.blocks.as_ref();
        let (chain, level) =
            chain.and_then(|chain| Some((chain, chain.level(name)?))).ok_or(Errno(libc::EOPNOTSUPP))?;
        let file = self.file_of(node, fh, WARMING as u32)?;
        if file.flags & libc::O_ACCMODE as u32 == libc::O_WRONLY as u32 {
            return Err(Errno(libc::EBADF));
        }
        self.admit_read(&file, request.offset).await?;
        let seen = self.version_to_warm(&file).await?;
        let (warmed, length) = self.warm(chain, &file, seen, (level, request.offset)).await?;
        let outcome = match warmed {
            Warmed::WasThere => 1,
            Warmed::Given => 2,
            Warmed::Refused if file.inode.is_at_rest(seen.part(|attr| attr), self.rest) => 3,
            Warmed::Refused => 4,
        };
        Ok(Response::Bytes(ioctl_answer(&Request { outcome, length, ..request }.bytes())).into())
    }

    /// The attributes of the version that is to be cached: as they are known, or asked for if it is not known to be at rest by these.
    async fn version_to_warm(&self, file: &OpenFile) -> Result<Seen<Attr>, Errno> {
        let inode = &file.inode;
        let told = self.attributes(&file.cred, inode).await?;
        if told.attr.kind != FileType::Regular {
            return Err(Errno(libc::EINVAL));
        }
        let known = Seen { value: told.attr, asked: told.asked };
        if inode.is_at_rest(known.part(|attr| attr), self.rest) {
            return Ok(known);
        }
        let asked = self.backend.getattr(Call::of(&file.cred), inode.handle()).await.map_err(|error| errno(&error))?;
        if !inode.is_plausible(&asked.value) {
            return Err(Errno(libc::EIO));
        }
        inode.learn(asked.part(|attr| attr));
        Ok(asked)
    }

    /// Fills a level with the block that has the byte `offset`; with the block's length.
    async fn warm(
        self: &Arc<Self>,
        chain: &Arc<Chain>,
        file: &Arc<OpenFile>,
        seen: Seen<Attr>,
        (level, offset): (usize, u64),
    ) -> Result<(Warmed, u64), Errno> {
        let key = self.key_of(file, efc_cache::Version::of(&seen.value), offset);
        let length = key.length() as u64;
        if length == 0 {
            return Ok((Warmed::WasThere, 0));
        }
        let Some((fetch, said)) = self.fetching(file, seen, key) else { return Ok((Warmed::Refused, length)) };
        match chain.warm(key, level, fetch).await {
            Ok(warmed) => Ok((warmed, length)),
            Err(Absent::TimedOut) => Err(Errno(libc::EIO)),
            Err(Absent::Unshared) => said.error().map_or(Ok((Warmed::Refused, length)), Err),
        }
    }
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
