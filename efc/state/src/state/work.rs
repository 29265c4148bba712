//! What the state keeps of work that a successor must finish: the journal, requests, and written data that is not
//! committed.

use std::io;
use std::sync::Arc;

use super::super::calls::{Answered, SavedCall, SentCall};
use super::super::journal::{Intent, Journal};
use super::super::layout::{HOLDS_DATA, HOLDS_PASSTHROUGH, HOLDS_UNOPENED};
use super::super::payloads::{KeptData, SavedWrite, UncommittedWrite};
use super::super::requests::Requests;
use super::{LOST, State};

impl State {
    /// Whether requests are journalled: not in a state that an older release has made.
    pub fn has_journal(&self) -> bool {
        self.journal.is_kept()
    }

    /// Publishes what is intended for a request, before a call leaves that must not be executed twice.
    ///
    /// # Errors
    /// EINVAL for a handle that is too long, ENOSPC for too many, ENOMEM for no memory.
    pub fn begin(&self, unique: u64, intent: &Intent) -> io::Result<()> {
        self.journal.begin(unique, intent)
    }

    /// What this daemon or a predecessor intended for the request; `None` if nothing has left for it.
    pub fn intent(&self, unique: u64) -> Option<Intent> {
        self.journal.intent(unique)
    }

    /// Notes the handle of what the call of a request has made, before another call changes it.
    pub fn note_made(&self, unique: u64, handle: &[u8]) {
        self.journal.note_made(unique, handle);
    }

    /// Ends what [`State::begin`] began for a request that is answered already.
    pub fn end(&self, unique: u64) {
        self.journal.end(unique);
    }

    /// Requests in the journal.
    pub fn intents(&self) -> usize {
        self.journal.count()
    }

    /// What was begun and answered: for whoever gives the answers.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The requests that are kept for kernels without RESEND; `None` in a state that an older release has made.
    pub fn requests(&self) -> Option<&Arc<Requests>> {
        self.requests.as_ref()
    }

    /// Whether written data is kept for a successor: not in a state that an older release has made.
    pub fn keeps_payloads(&self) -> bool {
        self.payloads.is_some()
    }

    /// Writes that can be kept at once.
    pub fn kept_writes_max(&self) -> u64 {
        self.payloads.as_ref().map_or(u64::MAX, |payloads| payloads.capacity().into())
    }

    /// Copies data that is about to be written, at most 1 MiB.
    ///
    /// # Errors
    /// EINVAL for more, ENOSPC for too much at once, ENOMEM for no memory, ENOSYS if none is kept.
    pub fn keep(&self, data: &[u8]) -> io::Result<KeptData> {
        self.payloads.as_ref().ok_or(rustix::io::Errno::NOSYS)?.keep(data)
    }

    /// Publishes a write whose data is a part of `kept`, before the application is answered. For each file in the order
    /// of writing.
    ///
    /// # Errors
    /// EINVAL for other data or too many groups, ENOSPC for too many, ENOMEM for no memory, ENOSYS if none is kept.
    pub fn save_write(&self, kept: &KeptData, write: &UncommittedWrite) -> io::Result<u64> {
        self.payloads.as_ref().ok_or(rustix::io::Errno::NOSYS)?.publish(kept, write)
    }

    /// The write of this record is committed, or given up. The oldest of a file first, and before its data is dropped.
    pub fn remove_write(&self, record: u64) {
        self.payloads.iter().for_each(|payloads| payloads.remove(record));
    }

    /// Writes that a predecessor saved, in order of writing. They are the caller's from now on.
    pub fn take_saved_writes(&self) -> Vec<SavedWrite> {
        std::mem::take(&mut *self.saved_writes.lock().expect("saved writes lock"))
    }

    /// Whether data may be held back of which the application is told that it is written: not in a state that an older
    /// release has made.
    pub fn may_hold_back(&self) -> bool {
        self.keeps_payloads() && self.calls.is_some()
    }

    /// The server has answered the data of this record, which was held back when that was made.
    pub fn set_answered(&self, record: u64, verifier: [u8; 8]) {
        self.answered.set(record, Answered(verifier));
    }

    /// What [`State::set_answered`] noted.
    pub fn answered(&self, record: u64) -> Option<[u8; 8]> {
        self.answered.get(record).map(|answered| answered.0)
    }

    /// Notes for the keeper whether there is data that the server has not answered ([`crate::HOLDING_OFFSET`]).
    pub fn set_holding(&self, is_holding: bool) {
        self.header.set_holding(HOLDS_DATA, is_holding);
    }

    /// Notes for the keeper whether the kernel reads open files by itself ([`crate::HOLDING_OFFSET`]).
    pub fn set_passing_through(&self, is_passing: bool) {
        self.header.set_holding(HOLDS_PASSTHROUGH, is_passing);
    }

    /// Notes for the keeper that the kernel opens files without asking, which lasts as long as the session ([`crate::HOLDING_OFFSET`]).
    pub fn set_unopened(&self) {
        self.header.set_holding(HOLDS_UNOPENED, true);
    }

    /// Publishes a call that carries written data, before it leaves; its record, if there is room for one.
    pub fn begin_call(&self, call: &SentCall) -> Option<u64> {
        self.calls.as_ref()?.begin(call).ok()
    }

    /// The call of this record is answered.
    pub fn end_call(&self, record: u64) {
        self.calls.iter().for_each(|calls| calls.end(record));
    }

    /// Calls that a predecessor had in flight. They are the caller's from now on.
    pub fn take_saved_calls(&self) -> Vec<SavedCall> {
        std::mem::take(&mut *self.saved_calls.lock().expect("saved calls lock"))
    }

    /// Written data that is not committed: the first verifier since the last commit. Noted beside the node, after the
    /// data is kept.
    pub fn set_uncommitted(&self, id: u64, verifier: Option<[u8; 8]>) {
        self.nodes.set_uncommitted(id, verifier, self.keeps_payloads());
    }

    /// Written data is lost, and nobody was told: no server has the verifier that is noted ([`LOST`]). The next
    /// [`State::set_uncommitted`] takes that back.
    pub fn set_lost(&self, id: u64) {
        self.nodes.set_uncommitted(id, Some(LOST), false);
    }

    /// The verifier of uncommitted data that is not kept, or not all of it: if the server's is another now, it is lost.
    pub fn unkept(&self, id: u64) -> Option<[u8; 8]> {
        let (verifier, is_kept) = self.nodes.uncommitted(id)?;
        (!is_kept || !self.keeps_payloads()).then_some(verifier)
    }
}
