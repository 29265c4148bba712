//! The answers of operations, with the permits that they rest on until the kernel has them.

use std::ops::Range;
use std::time::Duration;

use efc_backend::{Attr, Seen, Tick};
use efc_buffer::{Buffer, Pipe};
use efc_cache::{Grant, Inode, Permit};
use efc_fuse::{Directory, Entry, Errno, OpenReply, Statfs};

use super::blocks;

/// What an operation answers.
pub(super) enum Response {
    Empty,
    Entry(Entry),
    Attr(Attr, Duration),
    Statx(Attr, Duration),
    Open(OpenReply),
    Create(Entry, OpenReply),
    Data(Buffer, Range<usize>),
    /// Parts of blocks, one behind the other.
    Blocks(blocks::Part, Option<blocks::Part>),
    /// A whole answer to this READ.
    Piped(Pipe, ReadRequest),
    Bytes(Vec<u8>),
    Written(u32),
    Statfs(Statfs),
    Directory(Directory),
}

/// A READ and its name.
#[derive(Clone, Copy)]
pub(super) struct ReadRequest {
    pub(super) name: u64,
    pub(super) node: u64,
    pub(super) fh: u64,
    pub(super) offset: u64,
    pub(super) size: u32,
    /// Those that the file has now: fcntl(2) may have changed those of its open.
    pub(super) flags: u32,
}

impl ReadRequest {
    /// Is it past all caches?
    pub(super) fn is_direct(&self) -> bool {
        self.flags & libc::O_DIRECT as u32 != 0
    }
}

/// An answer of an operation that has succeeded.
pub(super) struct Answer {
    pub(super) body: Response,
    /// What it follows from holds until the kernel has it.
    pub(super) permit: Permit,
}

impl From<Response> for Answer {
    fn from(body: Response) -> Answer {
        Answer { body, permit: Permit::unconditional() }
    }
}

impl Answer {
    /// This answer, which follows from what `permit` allows, too.
    pub(super) fn under(self, permit: Permit) -> Answer {
        Answer { permit: self.permit.and(permit), ..self }
    }
}

/// What an operation ends with.
pub(super) type Outcome = Result<Answer, Errno>;

/// Attributes for the kernel.
pub(super) struct Told {
    pub(super) attr: Attr,
    /// Of the call whose answer they are.
    pub(super) asked: Tick,
    /// For how long the kernel may keep them.
    pub(super) ttl: Duration,
    pub(super) permit: Permit,
}

impl From<Grant> for Told {
    fn from(Grant { seen, ttl, permit }: Grant) -> Told {
        Told { attr: seen.value, asked: seen.asked, ttl, permit }
    }
}

impl Told {
    pub(super) fn answer(self, body: impl FnOnce(Attr, Duration) -> Response) -> Answer {
        Answer { body: body(self.attr, self.ttl), permit: self.permit }
    }

    /// For this answer alone.
    pub(super) fn once(Seen { value: attr, asked }: Seen<Attr>) -> Told {
        Told { attr, asked, ttl: Duration::ZERO, permit: Permit::unconditional() }
    }
}

/// The last that is known of an object that has no name any more, for one answer alone.
pub(super) fn told_as_removed(inode: &Inode) -> Result<Told, Errno> {
    let Seen { value: attr, asked } = inode.last_shown().ok_or(Errno(libc::ESTALE))?;
    Ok(Told::once(Seen { value: Attr { nlink: 0, ..attr }, asked }))
}
