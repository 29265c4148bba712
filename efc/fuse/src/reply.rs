//! Answers: the one-shot [`Reply`] that travels with a request, and the channel that it writes to.
//!
//! A reply may be given from any thread, and it is a number and a reference: making one allocates nothing. Small
//! answers are built on the stack; bulk data is written from where it lies, in one writev(2), and must be resident
//! memory (a slice of an `efc_buffer::Buffer`): a SIGKILL that hits us inside a page fault of that call would end the
//! request with EIO in the application. Or it comes in a pipe and is no memory of ours at all. That the kernel gave a
//! request up meanwhile is no error.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use efc_buffer::Pipe;
use rustix::io::Errno as SystemErrno;

use crate::directory::Directory;
use crate::inflight::{Arrival, Delivery, InFlight, KeptAnswer};
use crate::request::{Attr, Entry, Errno, OpenReply, Statfs};
use crate::wire::{self, Inline};
use crate::{abi, abi::Field};
use efc_state::State;

/// The bulk data of an answer: up to two pieces of memory, one behind the other, and empty ones last.
pub type Data<'a> = [&'a [u8]; 2];

/// An answer without bulk data.
pub const NO_DATA: Data<'static> = [&[], &[]];

/// How a request has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Coming {
    /// Its unique, with the redelivery bit.
    pub name: u64,
    /// A predecessor has had it.
    pub resent: bool,
    /// Where it is kept in the saved state.
    pub slot: Option<u32>,
    /// It is taken even when there are too many.
    pub gives_back: bool,
}

/// In a simulation, takes an answer: the name of its request, an errno or 0, and what the answer holds. `false`: there is no such request.
#[cfg(feature = "simulation")]
pub type Tap = Box<dyn Fn(u64, i32, &[u8]) -> bool + Send + Sync>;

/// The way back to the kernel, shared by all who answer.
pub struct Channel {
    pub device: OwnedFd,
    pub in_flight: InFlight,
    /// Holds the journal.
    pub state: Arc<State>,
    /// Requests read.
    pub requests: AtomicU64,
    /// Requests are being redelivered while we serve, so a refused answer may still be wanted.
    pub keep_refused: AtomicBool,
    /// A request was read that was not delivered before: whatever was delivered again has been read.
    pub fresh_seen: AtomicBool,
    /// Takes the answers in place of the device.
    #[cfg(feature = "simulation")]
    pub tap: std::sync::OnceLock<Tap>,
}

impl Channel {
    pub fn new(device: OwnedFd, state: Arc<State>) -> Channel {
        Channel {
            device,
            in_flight: InFlight::new(),
            state,
            requests: AtomicU64::new(0),
            keep_refused: AtomicBool::new(false),
            fresh_seen: AtomicBool::new(false),
            #[cfg(feature = "simulation")]
            tap: std::sync::OnceLock::new(),
        }
    }

    /// Takes note of a request. `Some`: it is new, and this is its reply.
    pub fn arrive(self: &Arc<Self>, coming: Coming) -> Option<Reply> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let Coming { name, resent, slot, gives_back } = coming;
        // What a predecessor has begun is not refused.
        let has_memory = || self.state.admits_request(self.in_flight.count());
        match self.in_flight.arrive(name, slot, gives_back || resent, has_memory) {
            Arrival::New if resent && self.was_answered(name, slot) => {}
            Arrival::New => {
                return Some(Reply { channel: Arc::clone(self), unique: name & !abi::UNIQUE_RESENT, due: true });
            }
            Arrival::Redelivered => log::debug!("request {name:#x} was delivered again while we work on it"),
            Arrival::Answered(mut answer) => self.answer(name, answer.error, &mut answer.content, NO_DATA),
            Arrival::Full => {
                self.write(name, -libc::ENOMEM, &mut Inline::new(), NO_DATA);
                self.end_kept(slot);
            }
        }
        None
    }

    /// Gives the answer that a predecessor had saved and perhaps not given.
    fn was_answered(&self, name: u64, slot: Option<u32>) -> bool {
        let request = name & !abi::UNIQUE_RESENT;
        let journal = self.state.journal();
        journal.claim(request);
        let kept = slot.zip(self.state.requests()).and_then(|(slot, kept)| kept.answer(slot, request));
        let Some((errno, content)) = kept.or_else(|| journal.answer(request)) else { return false };
        let Some(mut content) = Inline::copy(&content) else { return false };
        log::info!("request {request:#x} was answered by a predecessor: errno {errno}");
        self.answer(name, -errno, &mut content, NO_DATA);
        true
    }

    /// Answers a request of the in-flight table.
    fn answer(&self, unique: u64, error: i32, content: &mut Inline, data: Data) {
        self.state.fence();
        let request = unique & !abi::UNIQUE_RESENT;
        let slot = self.in_flight.delivery(unique).and_then(|delivery| delivery.slot);
        if data == NO_DATA {
            self.state.journal().save_answer(request, -error, content.content());
            if let Some((slot, kept)) = slot.zip(self.state.requests()) {
                kept.save_answer(slot, request, -error, content.content());
            }
        }
        self.write_in_flight(unique, error, content, data);
        if self.in_flight.delivery(unique).is_none() {
            // Otherwise the answer is kept for a redelivery. The slot first: with it alone, a successor would execute it.
            self.end_kept(slot);
            self.state.journal().end(request);
        }
    }

    fn end_kept(&self, slot: Option<u32>) {
        if let Some((slot, kept)) = slot.zip(self.state.requests()) {
            kept.end(slot);
        }
    }

    fn write_in_flight(&self, unique: u64, error: i32, content: &mut Inline, data: Data) {
        let mut next: Option<Delivery> = self.in_flight.delivery(unique);
        while let Some(delivery) = next {
            if self.write(delivery.unique, error, content, data) {
                self.in_flight.conclude(unique);
                return;
            }
            let keep = if self.keep_refused.load(Ordering::Acquire) { small(error, content, data) } else { None };
            next = self.in_flight.refused(delivery, keep);
        }
    }

    /// Writes an answer under exactly this unique; `false` if the kernel does not know it.
    pub fn write(&self, unique: u64, error: i32, content: &mut Inline, data: Data) -> bool {
        #[cfg(feature = "simulation")]
        if let Some(tap) = self.tap.get() {
            return tap(unique, error, &[content.content(), data[0], data[1]].concat());
        }
        let head = content.sealed(unique, error, data.iter().map(|part| part.len()).sum());
        let parts = [head, data[0], data[1]].map(IoSlice::new);
        let filled = 1 + data.iter().take_while(|part| !part.is_empty()).count();
        loop {
            match rustix::io::writev(&self.device, &parts[..filled]) {
                Ok(_) => return true,
                Err(SystemErrno::INTR) => {}
                Err(SystemErrno::NOENT) => return false,
                Err(other) => {
                    // The kernel has ended the request with EIO: it was answered, if badly.
                    log::error!("the kernel does not take the answer to request {unique:#x}: {other}");
                    return true;
                }
            }
        }
    }
}

fn small(error: i32, content: &Inline, data: Data) -> Option<Box<KeptAnswer>> {
    let copied = match data {
        NO_DATA => Inline::copy(content.content()),
        [data, []] => Inline::copy(data),
        _ => None,
    };
    copied.map(|content| Box::new(KeptAnswer { error, content }))
}

/// The one answer of a request. Dropped unanswered, it answers EIO. Answers to a request that the kernel gave up are ignored.
pub struct Reply {
    channel: Arc<Channel>,
    unique: u64,
    due: bool,
}

impl Reply {
    fn finish(mut self, error: i32, mut content: Inline, data: Data) {
        self.due = false;
        self.channel.answer(self.unique, error, &mut content, data);
    }

    fn fixed<T: Field>(self, value: T) {
        self.finish(0, Inline::new().with(value, 0), NO_DATA);
    }

    /// The request failed. A number that is no errno becomes EIO.
    pub fn error(self, errno: Errno) {
        let number = if (1..512).contains(&errno.0) { errno.0 } else { libc::EIO };
        self.finish(-number, Inline::new(), NO_DATA);
    }

    /// Success, for requests that have no result.
    pub fn empty(self) {
        self.finish(0, Inline::new(), NO_DATA);
    }

    /// LOOKUP, MKNOD, MKDIR, SYMLINK, LINK. The node's lookup count must be raised already.
    pub fn entry(self, entry: &Entry) {
        self.fixed(wire::entry(entry));
    }

    /// GETATTR and SETATTR; the kernel trusts the attributes for `ttl`.
    pub fn attr(self, attr: &Attr, ttl: Duration) {
        self.fixed(wire::attr_out(attr, ttl));
    }

    /// STATX.
    pub fn statx(self, attr: &Attr, ttl: Duration) {
        self.finish(0, Inline::new().with(wire::statx_out(attr, ttl), abi::STATX_SPARE), NO_DATA);
    }

    /// OPEN and OPENDIR.
    pub fn open(self, open: &OpenReply) {
        self.fixed(abi::OpenOut { fh: open.fh, flags: open.flags, backing: open.backing });
    }

    /// CREATE.
    pub fn create(self, entry: &Entry, open: &OpenReply) {
        let opened = abi::OpenOut { fh: open.fh, flags: open.flags, backing: open.backing };
        self.finish(0, Inline::new().with(wire::entry(entry), 0).with(opened, 0), NO_DATA);
    }

    /// READ and READLINK. More than a few bytes must lie in resident memory.
    pub fn data(self, data: Data) {
        self.finish(0, Inline::new(), data);
    }

    /// READ, from a pipe that holds a whole answer: [`data_head`] of this name and the data. The name may be outdated by a
    /// redelivery, and the kernel may refuse the answer. Then the reply comes back, and the request is to be executed
    /// again, which harms nothing as it only reads.
    pub fn piped(mut self, name: u64, mut pipe: Pipe) -> Result<(), Reply> {
        let in_flight = &self.channel.in_flight;
        match in_flight.delivery(self.unique) {
            Some(delivery) if delivery.unique != name => return Err(self),
            Some(delivery) => {
                match pipe.splice_into(&self.channel.device) {
                    Ok(()) => in_flight.conclude(self.unique),
                    // Without a redelivery the kernel gave the request up, or will deliver it as a new one.
                    Err(error) if is_unknown(&error) && in_flight.refused(delivery, None).is_none() => {}
                    Err(_) => return Err(self),
                }
                self.channel.end_kept(delivery.slot);
            }
            None => {}
        }
        self.due = false;
        Ok(())
    }

    /// WRITE took `count` bytes.
    pub fn written(self, count: u32) {
        self.fixed(abi::WriteOut { count, padding: 0 });
    }

    /// STATFS.
    pub fn statfs(self, statfs: &Statfs) {
        self.finish(0, Inline::new().with(wire::statfs(statfs), abi::STATFS_SPARE), NO_DATA);
    }

    /// READDIR and READDIRPLUS; an empty page is the end.
    pub fn directory(self, page: &Directory) {
        self.finish(0, Inline::new(), [page.bytes(), &[]]);
    }
}

/// What precedes `length` bytes of data in the answer to a READ of this [`crate::Request::name`].
pub fn data_head(name: u64, length: u32) -> [u8; abi::OutHeader::SIZE] {
    let length = abi::OutHeader::SIZE as u32 + length;
    let mut head = [0; abi::OutHeader::SIZE];
    abi::OutHeader { length, error: 0, unique: name }.put(&mut head);
    head
}

/// The answer to an IOCTL that has succeeded with 0, for [`Reply::data`]: the caller gets these bytes, as many as the number says at most.
pub fn ioctl_answer(data: &[u8]) -> Vec<u8> {
    let mut answer = vec![0; abi::IoctlOut::SIZE];
    abi::IoctlOut::default().put(&mut answer);
    answer.extend_from_slice(data);
    answer
}

fn is_unknown(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.due {
            self.channel.answer(self.unique, -libc::EIO, &mut Inline::new(), NO_DATA);
        }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reply({})", self.unique)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use efc_state::Intent;

    /// A device that takes everything.
    fn channel() -> Arc<Channel> {
        let device = std::fs::File::options().write(true).open("/dev/null").unwrap();
        Arc::new(Channel::new(device.into(), state()))
    }

    fn state() -> Arc<State> {
        let flags = rustix::fs::MemfdFlags::ALLOW_SEALING;
        Arc::new(State::open(rustix::fs::memfd_create("efc-reply-test", flags).unwrap()).unwrap())
    }

    const AGAIN: u64 = 8 | abi::UNIQUE_RESENT;

    fn coming(name: u64) -> Coming {
        Coming { name, resent: name & abi::UNIQUE_RESENT != 0, ..Coming::default() }
    }

    fn answer(name: u64) -> Pipe {
        efc_buffer::pipe::reserve(1).unwrap();
        let mut pipe = Pipe::take().unwrap();
        pipe.write(&[IoSlice::new(&data_head(name, 4)), IoSlice::new(b"data")]).unwrap();
        pipe
    }

    #[test]
    fn a_piped_answer_under_an_outdated_name_is_not_sent() {
        let channel = channel();
        let reply = channel.arrive(coming(8)).expect("new");
        assert!(channel.arrive(coming(AGAIN)).is_none(), "known");
        let reply = reply.piped(8, answer(8)).expect_err("renamed");
        assert!(channel.in_flight.delivery(8).is_some(), "still to be answered");
        reply.piped(AGAIN, answer(AGAIN)).expect("taken");
        assert!(channel.in_flight.delivery(8).is_none());
    }

    #[test]
    fn a_piped_answer_that_the_device_refuses_is_executed_again() {
        let device = std::fs::File::open("/dev/null").unwrap(); // not for writing
        let channel = Arc::new(Channel::new(device.into(), state()));
        let reply = channel.arrive(coming(8)).expect("new");
        let reply = reply.piped(8, answer(8)).expect_err("refused");
        assert!(channel.in_flight.delivery(8).is_some());
        let mut left = [0];
        assert!(Pipe::take().unwrap().read_exact(&mut left).is_err(), "its pipe was emptied");
        drop(reply);
    }

    #[test]
    fn a_saved_answer_is_given_to_a_redelivery_and_ends_its_entry() {
        let (device, mut kernel) = std::os::unix::net::UnixStream::pair().unwrap();
        let state = state();
        state.begin(8, &Intent::default()).unwrap();
        state.journal().save_answer(8, 17, b"content.");
        state.begin(10, &Intent::default()).unwrap();
        let channel = Arc::new(Channel::new(device.into(), state));
        assert!(channel.arrive(coming(AGAIN)).is_none(), "the file system is not asked");
        let mut got = [0; 24];
        io::Read::read_exact(&mut kernel, &mut got).unwrap();
        assert_eq!(&got[..], [&b"\x18\0\0\0\xef\xff\xff\xff\x08\0\0\0\0\0\0\x80"[..], b"content."].concat());
        assert_eq!((channel.state.intents(), channel.state.intent(8)), (1, None));
        let reply = channel.arrive(coming(10 | abi::UNIQUE_RESENT)).expect("begun and not answered");
        assert_eq!(channel.state.intent(10), Some(Intent::default()));
        reply.empty();
        assert_eq!(channel.state.intents(), 0);
    }

    /// A request that was read, on a kernel without RESEND, by a daemon with this state; its slot.
    fn kept(state: &State, unique: u64) -> u32 {
        let requests = state.requests().unwrap();
        let mut inbox = requests.arm();
        let message = [48, unique, 0, 0, 0, 0].map(u64::to_ne_bytes).concat();
        inbox.room()[..48].copy_from_slice(&message);
        inbox.keep(48, None).unwrap().0.slot
    }

    #[test]
    fn a_saved_answer_is_given_to_a_replay_and_ends_its_slot_and_its_entry() {
        let memfd = rustix::fs::memfd_create("efc-reply-test", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        let state = || Arc::new(State::open(memfd.try_clone().unwrap()).unwrap());
        {
            let first = state();
            first.begin(8, &Intent::default()).unwrap();
            // Killed when the kernel has the answer, and the slot is not freed.
            first.requests().unwrap().save_answer(kept(&first, 8), 8, 17, b"content.");
            kept(&first, 10);
        }
        let (device, mut kernel) = std::os::unix::net::UnixStream::pair().unwrap();
        let channel = Arc::new(Channel::new(device.into(), state()));
        let requests = channel.state.requests().unwrap();
        let slots: Vec<u32> = requests.take_over().iter().map(|kept| kept.slot).collect();
        let replayed = |name, slot| Coming { name, resent: true, slot: Some(slot), gives_back: false };
        assert!(channel.arrive(replayed(8, slots[0])).is_none(), "the file system is not asked");
        let mut got = [0; 24];
        io::Read::read_exact(&mut kernel, &mut got).unwrap();
        assert_eq!(&got[..], [&b"\x18\0\0\0\xef\xff\xff\xff\x08\0\0\0\0\0\0\0"[..], b"content."].concat());
        assert_eq!((channel.state.intents(), state().requests().unwrap().take_over().len()), (0, 1));
    }

    #[test]
    fn an_answer_is_saved_before_the_kernel_has_it_and_its_slot_is_freed_after() {
        let (device, kernel) = std::os::unix::net::UnixStream::pair().unwrap();
        let channel = Arc::new(Channel::new(device.into(), state()));
        let slot = kept(&channel.state, 8);
        let reply = channel.arrive(Coming { slot: Some(slot), ..coming(8) }).expect("new");
        let requests = Arc::clone(channel.state.requests().unwrap());
        assert_eq!(requests.answer(slot, 8), None);
        // A kernel that does not take it: the call waits with the answer in its hand.
        rustix::net::sockopt::set_socket_send_buffer_size(&channel.device, 4608).unwrap();
        while rustix::net::send(&channel.device, &[0; 512], rustix::net::SendFlags::DONTWAIT).is_ok() {}
        let answering = std::thread::spawn(move || reply.error(Errno(17)));
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while requests.answer(slot, 8).is_none() {
            assert!(std::time::Instant::now() < deadline, "no answer is saved");
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(50));
        assert!(!answering.is_finished() && requests.is_held(slot));
        drop(kernel); // gives up
        answering.join().unwrap();
        assert!(!requests.is_held(slot));
    }

    #[test]
    fn the_head_announces_itself_and_the_data() {
        assert_eq!(data_head(AGAIN, 4), *b"\x14\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\x80");
    }
}
