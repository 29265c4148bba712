//! Requests of the daemon to its keeper, from other threads than the one that talks with it: to register files with the
//! kernel for passthrough, which takes privileges that this process does not have.
//!
//! Nobody blocks here: a request that finds no room in the socket is not sent, and a request without an answer is given
//! up by its caller; a late answer is given back. When a keeper is replaced, something that it was told may be lost, so
//! the next one is told first which numbers are in use, and closes all others. A keeper that does not announce support
//! for this ([`efc_proto::ReportRequest`]) is not asked, because one of an earlier release would take the daemon for
//! broken.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use efc_proto::{BackingClose, BackingOpen, BackingOpened, BackingsKept, ToKeeper, to_keeper};
use tokio::sync::oneshot;

use crate::filesystem::{Backing, Backings};

/// Questions that wait for an answer, at most.
const ASKED_MAX: usize = 64;
/// A keeper that does not answer within this is asked nothing more until it does.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(50);
/// After a refusal nothing is asked for so long: what the kernel refuses once it refuses again.
const REFUSED_TIME: Duration = Duration::from_secs(10);
/// Numbers that no keeper took back yet, at most: more than a session may have.
const UNCLOSED_MAX: usize = 1 << 13;

/// The keeper, for questions from any thread.
#[derive(Default)]
pub struct Keeper(Mutex<Shared>);

#[derive(Default)]
struct Shared {
    /// None while there is none.
    socket: Option<OwnedFd>,
    opens_backing: bool,
    tokens: u64,
    asked: BTreeMap<u64, Question>,
    /// Numbers that are in use, of this daemon and those before it.
    used: BTreeSet<u32>,
    /// The keeper was told these: nothing is asked for before that.
    knows_used: bool,
    /// Numbers that the keeper is still to be told to close.
    unclosed: Vec<u32>,
    refused_at: Option<Instant>,
}

struct Question {
    at: Instant,
    answer: oneshot::Sender<Backing>,
    owner: Arc<dyn Backings>,
}

/// Whether files can be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registering {
    /// They can.
    On,
    /// There is no keeper that does it, or none that answers.
    NoKeeper,
    /// The kernel did not want one lately.
    Refused,
}

impl Keeper {
    /// A keeper talks with this daemon from now on.
    pub fn begin(&self, socket: &OwnedFd) {
        let copy = socket.try_clone().inspect_err(|error| log::error!("the keeper is asked for nothing: {error}"));
        let mut shared = self.lock();
        (shared.socket, shared.opens_backing, shared.knows_used) = (copy.ok(), false, false);
        shared.unclosed.clear(); // they are not used
    }

    /// The keeper is gone: nothing that it was asked is answered.
    pub fn end(&self) {
        let mut shared = self.lock();
        (shared.socket, shared.opens_backing) = (None, false);
        let unanswered = std::mem::take(&mut shared.asked);
        drop(shared);
        drop(unanswered); // whoever waits goes on here
    }

    /// The keeper says whether it registers files.
    pub fn asks_for_report(&self, opens_backing: bool) {
        let mut shared = self.lock();
        shared.opens_backing = opens_backing;
        shared.tell_used();
        for id in std::mem::take(&mut shared.unclosed) {
            shared.close(id);
        }
    }

    /// The keeper answers. What nobody waits for any more goes back.
    pub fn opened(&self, opened: BackingOpened) {
        let BackingOpened { token, id, error } = opened;
        let mut shared = self.lock();
        let question = shared.asked.remove(&token);
        shared.refused_at = (id == 0).then(Instant::now);
        if id != 0 {
            shared.used.insert(id);
        }
        drop(shared); // whoever waits goes on here
        if id == 0 {
            log::warn!("the kernel does not read a file of the local store by itself: {error}");
        } else if let Some(Question { answer, owner, .. }) = question {
            drop(answer.send(Backing::new(id, owner)));
        } else {
            self.close(id);
        }
    }

    /// Whether files can be registered now.
    pub fn registering(&self) -> Registering {
        self.lock().registering()
    }

    /// Has a file registered, which `owner` gives back. `None`: it is not.
    pub async fn open(&self, file: OwnedFd, owner: Arc<dyn Backings>) -> Option<Backing> {
        let answered = self.lock().ask(&file, owner)?;
        drop(file);
        answered.await.ok()
    }

    /// Of the numbers that predecessors were given, these are in use: the keeper takes all others back.
    pub fn keep(&self, ids: Vec<u32>) {
        let mut shared = self.lock();
        shared.used.extend(ids);
        shared.knows_used = false;
        shared.tell_used();
    }

    /// Gives a number back, now or to the next keeper.
    pub fn close(&self, id: u32) {
        self.lock().close(id);
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().expect("keeper lock")
    }
}

impl Shared {
    fn registering(&self) -> Registering {
        let is_late = self.asked.first_key_value().is_some_and(|(_, oldest)| oldest.at.elapsed() > ANSWER_TIME_MAX);
        match self.refused_at {
            _ if !self.opens_backing || is_late => Registering::NoKeeper,
            Some(at) if at.elapsed() < REFUSED_TIME => Registering::Refused,
            _ => Registering::On,
        }
    }

    fn ask(&mut self, file: &OwnedFd, owner: Arc<dyn Backings>) -> Option<oneshot::Receiver<Backing>> {
        if self.registering() != Registering::On || !self.knows_used || self.asked.len() >= ASKED_MAX {
            return None;
        }
        self.tokens += 1;
        let token = self.tokens;
        let message = to_keeper::Message::BackingOpen(BackingOpen { token });
        let asked =
            efc_proto::send_at_once(self.socket.as_ref()?, &ToKeeper { message: Some(message) }, &[file.as_fd()]);
        asked.inspect_err(|error| log::debug!("the keeper is not asked: {error}")).ok()?;
        let (answer, answered) = oneshot::channel();
        self.asked.insert(token, Question { at: Instant::now(), answer, owner });
        Some(answered)
    }

    fn tell_used(&mut self) {
        if !self.knows_used {
            let ids = self.used.iter().copied().collect();
            self.knows_used = self.tell(to_keeper::Message::BackingsKept(BackingsKept { ids }));
        }
    }

    /// `false`: there is no keeper that does this, or no room in the socket.
    fn tell(&self, message: to_keeper::Message) -> bool {
        let message = ToKeeper { message: Some(message) };
        let keeper = self.socket.as_ref().filter(|_| self.opens_backing);
        keeper.is_some_and(|keeper| efc_proto::send_at_once(keeper, &message, &[]).is_ok())
    }

    fn close(&mut self, id: u32) {
        self.used.remove(&id);
        if !self.knows_used {
            return; // it is not among those that the keeper will be told
        }
        let is_told = self.tell(to_keeper::Message::BackingClose(BackingClose { id }));
        if !is_told && self.unclosed.len() < UNCLOSED_MAX {
            self.unclosed.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::pin::Pin;

    use efc_cache::blocks::BlockKey;
    use futures_lite::future::{block_on, poll_once};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    /// Whose numbers go back by way of the keeper.
    struct Owner(Arc<Keeper>);

    impl Backings for Owner {
        fn open(self: Arc<Self>, _: BlockKey) -> Pin<Box<dyn Future<Output = Option<Backing>> + Send>> {
            Box::pin(async { None })
        }

        fn close(&self, id: u32) {
            self.0.close(id);
        }

        fn keep(&self, ids: Vec<u32>) {
            self.0.keep(ids);
        }
    }

    struct World {
        keeper: Arc<Keeper>,
        theirs: OwnedFd,
    }

    fn world() -> World {
        let (theirs, ours) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).unwrap();
        let keeper = Arc::new(Keeper::default());
        keeper.begin(&ours);
        World { keeper, theirs }
    }

    type Opening<'a> = Pin<Box<dyn Future<Output = Option<Backing>> + 'a>>;

    impl World {
        /// Asks; the outcome if there is one at once.
        fn open(&self) -> Result<Opening<'_>, Option<u32>> {
            let file = std::fs::File::open("/dev/null").unwrap().into();
            let mut opening: Opening<'_> = Box::pin(self.keeper.open(file, Arc::new(Owner(self.keeper.clone()))));
            match block_on(poll_once(&mut opening)) {
                Some(outcome) => Err(outcome.map(Backing::into_id)),
                None => Ok(opening),
            }
        }

        /// What the keeper is told next.
        fn told(&self) -> Option<to_keeper::Message> {
            let (ToKeeper { message }, _) = efc_proto::receive(&self.theirs).ok()??;
            message
        }

        fn answer(&self, token: u64, id: u32) {
            self.keeper.opened(BackingOpened { token, id, error: String::new() });
        }
    }

    fn asked(token: u64) -> Option<to_keeper::Message> {
        Some(to_keeper::Message::BackingOpen(BackingOpen { token }))
    }

    fn closed(id: u32) -> Option<to_keeper::Message> {
        Some(to_keeper::Message::BackingClose(BackingClose { id }))
    }

    fn used(ids: &[u32]) -> Option<to_keeper::Message> {
        Some(to_keeper::Message::BackingsKept(BackingsKept { ids: ids.into() }))
    }

    #[test]
    fn only_a_keeper_that_registers_files_is_asked() {
        let world = world();
        assert!(matches!(world.open(), Err(None)));
        assert_eq!((world.told(), world.keeper.registering()), (None, Registering::NoKeeper));
        world.keeper.asks_for_report(true);
        assert_eq!(world.told(), used(&[]));
        let opening = world.open().unwrap();
        assert_eq!(world.told(), asked(1));
        world.answer(1, 7);
        let backing = block_on(opening).unwrap();
        assert_eq!(world.told(), None);
        drop(backing);
        assert_eq!(world.told(), closed(7));
    }

    #[test]
    fn a_number_that_nobody_waits_for_any_more_goes_back() {
        let world = world();
        world.keeper.asks_for_report(true);
        drop(world.open().unwrap());
        let answered_unheard = world.open().unwrap();
        assert_eq!([world.told(), world.told(), world.told()], [used(&[]), asked(1), asked(2)]);
        world.answer(1, 7);
        world.answer(2, 8);
        world.answer(3, 9);
        assert_eq!([world.told(), world.told()], [closed(7), closed(9)]);
        drop(answered_unheard);
        assert_eq!(world.told(), closed(8));
    }

    #[test]
    fn each_keeper_hears_what_is_in_use_before_anything_is_asked_for() {
        let world = world();
        world.keeper.keep(vec![7, 8]);
        world.keeper.close(8);
        assert_eq!(world.told(), None, "not before it says that it does this");
        world.keeper.asks_for_report(true);
        let [opening, unanswered] = [(); 2].map(|()| world.open().unwrap());
        world.answer(1, 9);
        let backing = block_on(opening);
        assert_eq!([world.told(), world.told(), world.told(), world.told()], [used(&[7]), asked(1), asked(2), None]);
        world.keeper.end();
        assert!(block_on(unanswered).is_none(), "its keeper is gone");
        world.keeper.close(7);
        let next = self::world();
        world.keeper.begin(next.keeper.lock().socket.as_ref().unwrap());
        assert!(matches!(world.open(), Err(None)));
        world.keeper.asks_for_report(true);
        world.keeper.asks_for_report(true);
        assert_eq!([next.told(), next.told()], [used(&[9]), None]);
        drop(backing);
        assert_eq!([next.told(), next.told()], [closed(9), None]);
    }

    #[test]
    fn whoever_is_late_or_refuses_is_left_alone() {
        let world = world();
        world.keeper.asks_for_report(true);
        let opening = world.open().unwrap();
        std::thread::sleep(2 * ANSWER_TIME_MAX);
        assert!(matches!(world.open(), Err(None)));
        assert_eq!(world.keeper.registering(), Registering::NoKeeper);
        world.answer(1, 0);
        assert!(block_on(opening).is_none());
        assert!(matches!(world.open(), Err(None)));
        assert_eq!(world.keeper.registering(), Registering::Refused);
    }

    #[test]
    fn a_full_socket_is_waited_for_by_nobody() {
        let world = world();
        world.keeper.asks_for_report(true);
        let openings: Vec<_> = (0..ASKED_MAX).filter_map(|_| world.open().ok()).collect();
        assert!(matches!(world.open(), Err(None)), "as many questions as there may be");
        (0..5000).for_each(|id| world.keeper.close(id));
        let unclosed = world.keeper.lock().unclosed.len();
        assert!(unclosed > 0, "the socket is full");
        while world.told().is_some() {}
        world.keeper.asks_for_report(true);
        let told = std::iter::from_fn(|| world.told()).count();
        assert_eq!(told + world.keeper.lock().unclosed.len(), unclosed);
        drop(openings);
    }
}
