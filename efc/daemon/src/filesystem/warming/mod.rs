//! Fills one cache level, and no other, with blocks of a file: for `efc warmup --to`.
//!
//! The client opens the file with the flags [`WARMING`] and asks by ioctl(2) for one block after the other
//! ([`Request`]). A request is self-contained, so this daemon needs to remember nothing: a successor gets it
//! redelivered, and the flags of the open are saved like those of any. No data goes to the caller, nor into the
//! kernel's pages, and the answer says whether the level had the block.
//!
//! An open with these flags admits its opener to the file as any open for reading does, but it reads no data and
//! triggers no opening ahead, since both would fill all levels. Without the ioctl such an open is harmless. A release
//! that does not know the ioctl refuses it, and its opens with O_DIRECT fill no level.
//!
//! Not guaranteed: that a level keeps what it was given. The client can ask again to find out.

pub mod request;

use std::sync::Arc;

use efc_backend::{Attr, Backend, Call, FileType, Seen};
use efc_cache::blocks::{Absent, Chain, Warmed};
use efc_fuse::{Errno, ioctl_answer};

use super::files::OpenFile;
use super::{Inner, Outcome, Response};
use crate::errno::errno;
use request::{COMMAND, Request, WARMING};

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
