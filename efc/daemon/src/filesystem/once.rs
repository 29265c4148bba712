//! Exactly-once semantics: requests that must not be executed twice, although the daemon that executed them is gone.
//!
//! Before such a call is sent, the saved state holds its *intent*: its xid, and what will tell afterwards whether it
//! was executed. The kernel redelivers an unanswered request. Then
//!
//! - a recorded answer is given, without asking the server (`efc_fuse` does that);
//! - without an intent nothing had been sent, and the request is treated as new;
//! - otherwise the objects are compared; an error alone is never believed. REMOVE, RMDIR and RENAME are judged by the
//!   handle that the name led to: a newer file of that name is not touched. What was created is recognised by a mark:
//!   the verifier of an EXCLUSIVE CREATE, an access time that no other call sets (MKDIR, MKNOD, SYMLINK), the linked
//!   handle itself. An append goes to its old place if that still ends the file or holds its bytes. A change of
//!   attributes is the same when it is repeated, unless somebody has changed the object since: only its number helps.
//! - A call that turns out not to have been executed, or is harmless to repeat, is sent under its old xid, from its old
//!   port, in the same bytes: if the dead daemon's copy is still on its way, or was executed since, the server's
//!   duplicate-request cache recognises it.
//!
//! The handle behind a name comes from recent answers ([`Names`](efc_cache::Names)) and costs a call only if it has
//! been forgotten.

use std::sync::Arc;
use std::time::Duration;

use efc_backend::{Backend, Call, Cred, Error, FileHandle, SetAttr, SetTime, Status, Ticket, Time};
use efc_cache::{Inode, Named};
use efc_fuse::Errno;
use efc_nfs::Identity;
use efc_state::{Intent, State};

use super::files::OpenFile;
use super::{Caller, Inner};
use crate::errno::errno;

/// This daemon and its successors are one client to the server.
#[derive(Debug)]
pub struct SessionIdentity(pub Arc<State>);

impl Identity for SessionIdentity {
    fn stamp(&self) -> u32 {
        self.0.session_id() as u32
    }

    fn source_port(&self, connection: usize) -> Option<u16> {
        self.0.source_port(connection)
    }

    fn connected(&self, connection: usize, source_port: u16) {
        self.0.fence(); // what is unanswered is sent again on the new connection
        self.0.save_source_port(connection, source_port);
    }

    fn fence(&self) {
        self.0.fence();
    }
}

/// Where the object of a rename is, that may have been executed.
pub enum Moved {
    /// Under its new name.
    Yes,
    /// Under its old name.
    NotYet,
    /// Under neither.
    Lost,
}

impl Caller {
    /// May an earlier copy of the call that failed so have been executed?
    pub(super) fn may_have_succeeded(&self, error: &Error) -> bool {
        self.may_be_done || error.replayed
    }

    /// The time of access that what this request makes is known by.
    pub(super) fn mark(&self, session: u64) -> Time {
        let place = self.earlier.as_ref().map(|intent| intent.place);
        time_of(place.unwrap_or_else(|| new_mark(session, self.unique)))
    }
}

/// Now, within 2 ms, with digits below the millisecond that name the request: it is a time of access like another.
fn new_mark(session: u64, unique: u64) -> u64 {
    let now = efc_tasks::time::since_1970();
    let mixed = (session ^ unique).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let marked = Duration::from_millis(now.as_millis() as u64 + 1) + Duration::from_nanos(mixed % 1_000_000);
    place_of(Time { seconds: marked.as_secs() as u32, nanos: marked.subsec_nanos() })
}

/// Does a time of access show the mark, as finely as the server keeps times (1 ns, 100 ns or 1 us)?
pub fn shows(time: Time, mark: Time) -> bool {
    let cut = |digits: u32| mark.nanos - mark.nanos % digits;
    time.seconds == mark.seconds && [1, 100, 1000].map(cut).contains(&time.nanos)
}

/// A mark as a place of an intent.
pub fn place_of(mark: Time) -> u64 {
    u64::from(mark.seconds) << 32 | u64::from(mark.nanos)
}

fn time_of(place: u64) -> Time {
    Time { seconds: (place >> 32) as u32, nanos: place as u32 }
}

/// A handle of an intent, if it has one.
pub fn noted(handle: &[u8]) -> Option<FileHandle> {
    FileHandle::new(handle).filter(|_| !handle.is_empty())
}

/// The attributes of an object to be made.
pub fn with_mark(mode: u32, mark: Time) -> SetAttr {
    SetAttr { atime: SetTime::To(mark), ..with_mode(mode) }
}

/// The same without a mark.
pub fn with_mode(mode: u32) -> SetAttr {
    SetAttr { mode: Some(mode & 0o7777), ..SetAttr::default() }
}

impl<B: Backend> Inner<B> {
    /// Publishes the intent of a call about `directory`, or in it; the call, under its number. An intent of a predecessor stays, and so does its number.
    pub(super) fn begin<'a>(&self, caller: &'a Caller, directory: &Inode, intent: Intent) -> Result<Call<'a>, Errno> {
        let call = Call::of(&caller.cred).patient();
        caller.progress.set_sent();
        if let Some(earlier) = &caller.earlier {
            return Ok(call.under(Ticket::again(earlier.xid)));
        }
        let ticket = self.backend.ticket(directory.handle());
        let intent = Intent { xid: ticket.number, ..intent };
        self.state.begin(caller.unique, &intent).map_err(|_| Errno(libc::ENOMEM))?;
        Ok(call.under(ticket))
    }

    /// What the name leads to, as far as we know; asks if we do not.
    pub(super) async fn object_of(&self, caller: &Caller, directory: &Inode, name: &[u8]) -> Result<Arc<Inode>, Errno> {
        if let Some(earlier) = caller.earlier.as_ref().and_then(|earlier| noted(&earlier.object)) {
            return Ok(self.inodes.of(&earlier));
        }
        if let Named::Object(known) = self.names.get(directory.handle(), name) {
            return Ok(self.inodes.of(&known));
        }
        let found = self.backend.lookup(Call::of(&caller.cred), directory.handle(), name).await;
        Ok(self.inodes.of(&found.map_err(|error| errno(&error))?.value.handle))
    }

    /// What the name leads to now, by the server.
    async fn look(&self, cred: &Cred, directory: &Inode, name: &[u8]) -> Result<Option<FileHandle>, Errno> {
        match self.backend.lookup(Call::of(cred), directory.handle(), name).await {
            Ok(found) => Ok(Some(found.value.handle)),
            Err(error) if error.is(Status::NoEnt) => Ok(None),
            Err(error) => Err(errno(&error)),
        }
    }

    /// Was the object of a predecessor's REMOVE or RMDIR removed? `false` also if there was no such call.
    pub(super) async fn was_removed(&self, caller: &Caller, directory: &Inode, name: &[u8]) -> Result<bool, Errno> {
        let Some(earlier) = &caller.earlier else { return Ok(false) };
        let found = self.look(&caller.cred, directory, name).await?;
        Ok(found.is_none_or(|found| found.as_bytes() != earlier.object))
    }

    /// Where the object of a predecessor's RENAME is; `NotYet` also if there was no such call.
    pub(super) async fn was_moved(
        &self,
        caller: &Caller,
        (from_dir, from): (&Inode, &[u8]),
        (to_dir, to): (&Inode, &[u8]),
    ) -> Result<Moved, Errno> {
        let Some(earlier) = &caller.earlier else { return Ok(Moved::NotYet) };
        let is_object = |found: Option<FileHandle>| found.is_some_and(|found| found.as_bytes() == earlier.object);
        if is_object(self.look(&caller.cred, to_dir, to).await?) {
            return Ok(Moved::Yes);
        }
        match self.look(&caller.cred, from_dir, from).await? {
            found @ Some(_) if !is_object(found) => Ok(Moved::Lost),
            // Nothing to move by mistake: the server's cache of replies may still know how it went.
            _ => Ok(Moved::NotYet),
        }
    }

    /// Where an append goes: the end of the file as the server knows it, or where a predecessor has put it.
    pub(super) async fn place_append(
        &self,
        unique: u64,
        resent: bool,
        file: &OpenFile,
        data: &[u8],
    ) -> Result<u64, Errno> {
        let end = self.end_for_append(file, resent).await?;
        if let Some(earlier) = resent.then(|| self.state.intent(unique)).flatten()
            && end >= earlier.place
            && self.holds(file, earlier.place, end, data).await?
        {
            return Ok(earlier.place);
        }
        let intent = Intent { place: end, ..Intent::default() };
        self.state.begin(unique, &intent).map_err(|_| Errno(libc::ENOMEM))?;
        Ok(end)
    }

    /// Does the file hold `data` at `place`, as far as it reaches?
    async fn holds(&self, file: &OpenFile, place: u64, end: u64, data: &[u8]) -> Result<bool, Errno> {
        let length = usize::try_from(end - place).unwrap_or(usize::MAX).min(data.len());
        if length == 0 {
            return Ok(true);
        }
        let buffer = self.room_for_data(length).await?.buffer().map_err(|_| Errno(libc::ENOMEM))?;
        match self.read_rest(file, place, buffer, 0..length).await {
            Ok((buffer, filled)) => Ok(filled.len() == length && buffer[..length] == data[..length]),
            Err(_) => Ok(true), // not to be known: the same bytes in the same place do no harm to themselves
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_times_of_now_that_differ_between_requests() {
        let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let marks: Vec<Time> = (0..1000).map(|unique| time_of(new_mark(77, unique * 2))).collect();
        let after = before + Duration::from_secs(5);
        assert!(marks.iter().all(|mark| {
            let time = Duration::new(mark.seconds.into(), mark.nanos);
            time > before && time < after
        }));
        let digits: std::collections::HashSet<u32> = marks.iter().map(|mark| mark.nanos % 1_000_000).collect();
        assert!(digits.len() > 990, "{} of 1000 differ", digits.len());
    }

    #[test]
    fn a_mark_is_known_in_coarser_times_and_no_others() {
        let mark = Time { seconds: 5, nanos: 123_456_789 };
        let seen = [123_456_789, 123_456_700, 123_456_000, 123_456_788, 123_000_000, 0];
        assert_eq!(seen.map(|nanos| shows(Time { seconds: 5, nanos }, mark)), [true, true, true, false, false, false]);
        assert!(!shows(Time { seconds: 6, ..mark }, mark));
    }
}
