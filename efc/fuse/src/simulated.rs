//! A session whose kernel is a test: requests are given as what they mean, answers come as what they mean.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use efc_state::State;

use crate::abi::{self, Field};
use crate::config::SessionConfig;
use crate::negotiation::{Negotiated, negotiate};
pub use crate::reply::Tap;
use crate::request::{Attr, Entry, Errno, OpenReply, Request};
use crate::session::Session;
use crate::{Filesystem, abi::UNIQUE_RESENT};

/// The name of a request that is delivered again.
pub fn name_of_resent(unique: u64) -> u64 {
    unique | UNIQUE_RESENT
}

impl Session {
    /// A session whose answers go to `tap`; a new one is agreed on as with a kernel that has all that `config` lets it have.
    ///
    /// # Errors
    /// If this process cannot open `/dev/null`.
    pub fn simulated(state: Arc<State>, config: SessionConfig, tap: Tap) -> io::Result<Session> {
        let device = File::options().read(true).write(true).open("/dev/null")?;
        let session = Session::new(device.into(), state.clone(), config.clone());
        if Negotiated::of(&state).is_none() {
            let offered = abi::InitIn { major: abi::MAJOR, minor: abi::MINOR, max_readahead: 1 << 17, flags: u32::MAX };
            let agreed = negotiate(&offered, u64::MAX >> 1, &config);
            let (_, negotiated) = agreed.map_err(|errno| io::Error::from_raw_os_error(errno.0))?;
            negotiated.save(&state);
        }
        session.set_tap(tap);
        Ok(session)
    }

    /// Takes a request as if it had been read.
    pub fn deliver(&self, request: Request, filesystem: &dyn Filesystem) {
        self.take_simulated(request, filesystem);
    }
}

/// What an answer holds; `None` where it does not hold so much.
#[derive(Debug)]
pub struct Content<'a>(pub &'a [u8]);

/// An entry of a listing.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are those of a dirent")]
pub struct Listed {
    pub ino: u64,
    pub offset: u64,
    pub kind: u32,
    pub name: Vec<u8>,
    /// In an answer to READDIRPLUS, if the lookup was counted.
    pub entry: Option<Entry>,
}

fn attr(wire: &abi::Attr) -> Attr {
    Attr {
        ino: wire.ino,
        size: wire.size,
        blocks: wire.blocks,
        atime: (wire.atime, wire.atime_nanos),
        mtime: (wire.mtime, wire.mtime_nanos),
        ctime: (wire.ctime, wire.ctime_nanos),
        mode: wire.mode,
        nlink: wire.nlink,
        uid: wire.uid,
        gid: wire.gid,
        rdev: wire.rdev,
        blksize: wire.block_size,
    }
}

fn entry_of(wire: &abi::EntryOut) -> Entry {
    Entry {
        node: wire.node,
        generation: wire.generation,
        entry_ttl: Duration::new(wire.entry_seconds, wire.entry_nanos),
        attr_ttl: Duration::new(wire.attr_seconds, wire.attr_nanos),
        attr: attr(&wire.attr),
    }
}

impl Content<'_> {
    /// Of LOOKUP and what makes objects.
    pub fn entry(&self) -> Option<Entry> {
        abi::EntryOut::get(self.0).map(|wire| entry_of(&wire))
    }

    /// Of GETATTR and SETATTR.
    pub fn attr(&self) -> Option<(Attr, Duration)> {
        abi::AttrOut::get(self.0).map(|wire| (attr(&wire.attr), Duration::new(wire.seconds, wire.nanos)))
    }

    /// Of OPEN and OPENDIR.
    pub fn open(&self) -> Option<OpenReply> {
        abi::OpenOut::get(self.0).map(|wire| OpenReply { fh: wire.fh, flags: wire.flags, backing: wire.backing })
    }

    /// Of CREATE.
    pub fn create(&self) -> Option<(Entry, OpenReply)> {
        Some((self.entry()?, Content(self.0.get(abi::EntryOut::SIZE..)?).open()?))
    }

    /// Of WRITE.
    pub fn written(&self) -> Option<u32> {
        abi::WriteOut::get(self.0).map(|wire| wire.count)
    }

    /// Of IOCTL.
    pub fn ioctl(&self) -> Option<&[u8]> {
        self.0.get(abi::IoctlOut::SIZE..)
    }

    /// Of STATFS: free blocks.
    pub fn blocks_free(&self) -> Option<u64> {
        abi::StatfsOut::get(self.0).map(|wire| wire.blocks_free)
    }

    /// Of READDIR, or READDIRPLUS if `plus`.
    pub fn listed(&self, plus: bool) -> Option<Vec<Listed>> {
        let (mut bytes, mut all) = (self.0, Vec::new());
        while !bytes.is_empty() {
            let head = if plus { abi::EntryOut::SIZE } else { 0 };
            let entry = if plus { Some(abi::EntryOut::get(bytes)?) } else { None };
            let dirent = abi::Dirent::get(bytes.get(head..)?)?;
            let (begin, length) = (head + abi::Dirent::SIZE, dirent.name_length as usize);
            all.push(Listed {
                ino: dirent.ino,
                offset: dirent.offset,
                kind: dirent.kind,
                name: bytes.get(begin..begin + length)?.to_vec(),
                entry: entry.filter(|entry| entry.node != 0).map(|entry| entry_of(&entry)),
            });
            bytes = bytes.get((begin + length).next_multiple_of(8)..)?;
        }
        Some(all)
    }
}

/// An errno as an answer has it.
pub fn errno_of(error: i32) -> Result<(), Errno> {
    if error == 0 { Ok(()) } else { Err(Errno(-error)) }
}
