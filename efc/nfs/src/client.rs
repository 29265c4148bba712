//! The 22 procedures as async functions, and what repeats around each: credentials, time limits, JUKEBOX, counters.
//!
//! A hard client (no time limit) waits for its server for ever, through lost connections and restarts; a soft one gives
//! up. A call answered with JUKEBOX (the server fetches the file from tape, or is in its grace period) was not executed
//! and is made again, with a new xid, after a pause. Dropping a future forgets its call at any point.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use efc_backend::*;
use efc_buffer::{Payload, Sink};
use efc_tasks::Backoff;
use efc_tasks::time::now;

use crate::call::{Destination, Finished};
use crate::config::Config;
use crate::nfs3::{self, TRANSFER_MAX, procedure};
use crate::rpc;
use crate::shared::Shared;
use crate::transport::{Route, Submission, Transport};
use crate::xdr::{Decoder, Encoder};

/// Pauses after JUKEBOX.
const JUKEBOX: Backoff = Backoff::doubling(Duration::from_millis(100), Duration::from_secs(5));
/// A connection without any reply for this long while calls are unanswered is made anew.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often a READ or a READDIR goes out whose answer holds nothing, though neither file nor directory ends there.
const EMPTY_ANSWERS_MAX: u32 = 5;
/// Pauses after such answers.
const EMPTY: Backoff = Backoff::tripling(Duration::from_millis(10));
/// Smallest READDIR or READDIRPLUS reply that is asked for: any entry fits.
const DIR_BYTES_MIN: u32 = 4096;

/// Counters since the client was made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Calls sent, without repetitions.
    pub calls: u64,
    /// Calls sent again.
    pub retransmits: u64,
    /// Connections made again.
    pub reconnects: u64,
    /// READ payload bytes.
    pub bytes_read: u64,
    /// Those of them that went through pipes.
    pub bytes_spliced: u64,
    /// Payloads that did not fit a pipe.
    pub pipe_misfits: u64,
    /// WRITE payload bytes.
    pub bytes_written: u64,
    /// Age of the oldest unanswered call.
    pub oldest_call: Option<Duration>,
}

/// A client of one dataset's server; cheap to clone. When the last clone is dropped, its connections close.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    time_limit: Option<Duration>,
}

struct Inner {
    transport: Transport,
}

/// One procedure call, however often it is made.
struct Request<'a, E> {
    call: Call<'a>,
    /// What the call is about: its connection is chosen by it.
    object: &'a FileHandle,
    procedure: u32,
    route: Route,
    encode: E,
    payload: Bytes,
}

/// What a [`Request`] ended with.
struct Answer {
    reply: Result<Vec<u8>>,
    destination: Option<Destination>,
    replayed: bool,
}

impl Client {
    /// A client without a word to the server: connections are made when they are needed.
    pub fn resume(config: &Config, port: u16) -> Client {
        Client::with_silence(config, port, SILENCE_MAX)
    }

    pub(crate) fn with_silence(config: &Config, port: u16, silence_max: Duration) -> Client {
        let shared = Shared::new((&config.host, port), config.privileged_port, silence_max, config.identity.clone());
        let transport = Transport::new(shared, config.connections);
        Client { inner: Arc::new(Inner { transport }), time_limit: config.time_limit }
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.inner.transport
    }

    /// A number that no other call has: its xid. (A call that is answered with JUKEBOX was not executed, and is made
    /// again under another.)
    pub fn ticket(&self) -> Ticket {
        self.inner.transport.ticket()
    }

    /// How long a call waits that is not patient; `None`: for ever.
    pub fn time_limit(&self) -> Option<Duration> {
        self.time_limit
    }

    /// Counters.
    pub fn counters(&self) -> Counters {
        let stats = &self.inner.transport.shared.stats;
        Counters {
            calls: stats.calls.load(Ordering::Relaxed),
            retransmits: stats.retransmits.load(Ordering::Relaxed),
            reconnects: stats.reconnects.load(Ordering::Relaxed),
            bytes_read: stats.bytes_read.load(Ordering::Relaxed),
            bytes_spliced: stats.bytes_spliced.load(Ordering::Relaxed),
            pipe_misfits: self.inner.transport.shared.splicing.misfits.load(Ordering::Relaxed),
            bytes_written: stats.bytes_written.load(Ordering::Relaxed),
            oldest_call: self.inner.transport.oldest_call().map(|made| made.elapsed()),
        }
    }

    /// NULL: does the server answer?
    pub async fn ping<'a>(&self, call: impl Into<Call<'a>>) -> Result<()> {
        let nothing = FileHandle::new(&[]).expect("an empty handle is short enough");
        self.invoke(call.into(), &nothing, procedure::NULL, |_| {}, |_| Ok(())).await
    }

    /// GETATTR.
    pub async fn getattr<'a>(&self, call: impl Into<Call<'a>>, object: &FileHandle) -> Result<Attr> {
        let encode = |encoder: &mut Encoder| nfs3::encode_handle(encoder, object);
        self.invoke(call.into(), object, procedure::GETATTR, encode, nfs3::getattr).await
    }

    /// SETATTR; with `guard`, only if the object's ctime is this.
    pub async fn setattr<'a>(
        &self,
        call: impl Into<Call<'a>>,
        object: &FileHandle,
        attr: &SetAttr,
        guard: Option<Time>,
    ) -> Result<Wcc> {
        let encode = |encoder: &mut Encoder| {
            nfs3::encode_handle(encoder, object);
            nfs3::encode_set_attr(encoder, attr);
            nfs3::encode_guard(encoder, guard);
        };
        self.invoke(call.into(), object, procedure::SETATTR, encode, nfs3::changed).await
    }

    /// LOOKUP.
    pub async fn lookup<'a>(&self, call: impl Into<Call<'a>>, dir: &FileHandle, name: &[u8]) -> Result<Lookup> {
        let encode = |encoder: &mut Encoder| nfs3::encode_entry(encoder, dir, name);
        self.invoke(call.into(), dir, procedure::LOOKUP, encode, nfs3::lookup).await
    }

    /// ACCESS: which of `bits` are granted, and the object's attributes.
    pub async fn access<'a>(
        &self,
        call: impl Into<Call<'a>>,
        object: &FileHandle,
        bits: u32,
    ) -> Result<(u32, Option<Attr>)> {
        let encode = |encoder: &mut Encoder| {
            nfs3::encode_handle(encoder, object);
            encoder.u32(bits);
        };
        self.invoke(call.into(), object, procedure::ACCESS, encode, nfs3::access).await
    }

    /// READLINK.
    pub async fn readlink<'a>(&self, call: impl Into<Call<'a>>, link: &FileHandle) -> Result<(Vec<u8>, Option<Attr>)> {
        let encode = |encoder: &mut Encoder| nfs3::encode_handle(encoder, link);
        self.invoke(call.into(), link, procedure::READLINK, encode, nfs3::readlink).await
    }

    /// READ of as many bytes at `offset` as `into` takes. The payload comes back also after a failure, with unspecified
    /// contents, but not from a pipe, nor after [`ErrorKind::TimedOut`] while it was being filled, nor after
    /// [`ErrorKind::NoMemory`].
    ///
    /// # Panics
    /// If the range of a buffer does not lie in it.
    pub async fn read<'a>(
        &self,
        call: impl Into<Call<'a>>,
        file: &FileHandle,
        offset: u64,
        into: Sink,
    ) -> (Option<Payload>, Result<Read>) {
        if let Sink::Buffer(buffer, range) = &into {
            assert!(range.start <= range.end && range.end <= buffer.len(), "{range:?} of {} bytes", buffer.len());
        }
        let Shared { stats, splicing, .. } = &*self.inner.transport.shared;
        let count = into.len();
        let Ok(destination) = Destination::of(into, || splicing.is_worth_a_try()) else {
            return (None, Err(Error::new(ErrorKind::NoMemory)));
        };
        let (destination, read) = self.read_into(call.into(), file, offset, destination).await;
        let payload = destination.and_then(Destination::into_payload);
        match (&payload, &read) {
            (Some(Payload::Pipe(_)), Ok(read)) if read.count as usize == count => {
                stats.bytes_spliced.fetch_add(u64::from(read.count), Ordering::Relaxed);
            }
            (Some(Payload::Pipe(_)) | None, Ok(_)) => {
                return (None, Err(Error::new(ErrorKind::Garbled("READ without a payload"))));
            }
            _ => {}
        }
        (payload, read)
    }

    /// READ into `destination`, until the answer holds something or is the end of the file. An answer that is neither
    /// is asked for again a few times: taken for the end of the file it would cut copies off.
    async fn read_into(
        &self,
        call: Call<'_>,
        file: &FileHandle,
        offset: u64,
        destination: Destination,
    ) -> (Option<Destination>, Result<Read>) {
        let asked = destination.len();
        let mut destination = Some(destination);
        for earlier in 0.. {
            let Some(unfilled) = destination.take() else { break };
            let (filled, result) = self.read_once(call, file, offset, unfilled).await;
            let mut read = match result {
                Ok(read) if read.count == 0 && !read.eof && asked > 0 => read,
                result => return (filled, result),
            };
            if read.attr.is_some_and(|attr| attr.size <= offset) {
                read.eof = true;
                return (filled, Ok(read));
            }
            destination = filled;
            if earlier + 1 == EMPTY_ANSWERS_MAX {
                break;
            }
            EMPTY.wait(earlier).await;
        }
        (destination, Err(Error::new(ErrorKind::Garbled("READ brings nothing, and no end of the file"))))
    }

    async fn read_once(
        &self,
        call: Call<'_>,
        file: &FileHandle,
        offset: u64,
        destination: Destination,
    ) -> (Option<Destination>, Result<Read>) {
        let count = destination.len() as u32;
        let encode = |encoder: &mut Encoder| {
            nfs3::encode_handle(encoder, file);
            encoder.u64(offset).u32(count);
        };
        let route = Route::LeastBusy;
        let request = Request { call, object: file, procedure: procedure::READ, route, encode, payload: Bytes::new() };
        let answer = self.perform(request, Some(destination)).await;
        let result = answer.reply.and_then(|reply| decode(&reply, answer.replayed, nfs3::read));
        if let Ok(read) = &result {
            self.inner.transport.shared.stats.bytes_read.fetch_add(u64::from(read.count), Ordering::Relaxed);
        }
        (answer.destination, result)
    }

    /// WRITE of `data` at `offset`. Keep a clone of `data` until it is committed.
    pub async fn write<'a>(
        &self,
        call: impl Into<Call<'a>>,
        file: &FileHandle,
        offset: u64,
        data: Bytes,
        stable: Stable,
    ) -> Result<Written> {
        let count = data.len() as u32;
        let encode = |encoder: &mut Encoder| {
            nfs3::encode_handle(encoder, file);
            encoder.u64(offset).u32(count).u32(stable as u32).u32(count);
        };
        let route = Route::LeastBusy;
        let call = call.into();
        let request = Request { call, object: file, procedure: procedure::WRITE, route, encode, payload: data };
        let answer = self.perform(request, None).await;
        let written = decode(&answer.reply?, answer.replayed, nfs3::write)?;
        if written.count > count {
            return Err(Error::new(ErrorKind::Garbled("WRITE took more than was sent")));
        }
        self.inner.transport.shared.stats.bytes_written.fetch_add(u64::from(written.count), Ordering::Relaxed);
        Ok(written)
    }

    /// COMMIT of the whole file.
    pub async fn commit<'a>(&self, call: impl Into<Call<'a>>, file: &FileHandle) -> Result<Committed> {
        let encode = |encoder: &mut Encoder| {
            nfs3::encode_handle(encoder, file);
            encoder.u64(0).u32(0);
        };
        self.invoke(call.into(), file, procedure::COMMIT, encode, nfs3::commit).await
    }

    /// CREATE.
    pub async fn create<'a>(
        &self,
        call: impl Into<Call<'a>>,
        dir: &FileHandle,
        name: &[u8],
        how: CreateHow,
    ) -> Result<Created> {
        self.make(call.into(), (dir, name), procedure::CREATE, |encoder| nfs3::encode_create_how(encoder, &how)).await
    }

    /// MKDIR.
    pub async fn mkdir<'a>(
        &self,
        call: impl Into<Call<'a>>,
        dir: &FileHandle,
        name: &[u8],
        attr: &SetAttr,
    ) -> Result<Created> {
        self.make(call.into(), (dir, name), procedure::MKDIR, |encoder| nfs3::encode_set_attr(encoder, attr)).await
    }

    /// SYMLINK.
    pub async fn symlink<'a>(
        &self,
        call: impl Into<Call<'a>>,
        dir: &FileHandle,
        name: &[u8],
        target: &[u8],
        attr: &SetAttr,
    ) -> Result<Created> {
        let encode = |encoder: &mut Encoder| {
            nfs3::encode_set_attr(encoder, attr);
            encoder.opaque(target);
        };
        self.make(call.into(), (dir, name), procedure::SYMLINK, encode).await
    }

    /// MKNOD.
    pub async fn mknod<'a>(
        &self,
        call: impl Into<Call<'a>>,
        dir: &FileHandle,
        name: &[u8],
        kind: NodeKind,
        attr: &SetAttr,
    ) -> Result<Created> {
        self.make(call.into(), (dir, name), procedure::MKNOD, |encoder| nfs3::encode_node(encoder, kind, attr)).await
    }

    /// REMOVE.
    pub async fn remove<'a>(&self, call: impl Into<Call<'a>>, dir: &FileHandle, name: &[u8]) -> Result<Wcc> {
        self.take_away(call.into(), (dir, name), procedure::REMOVE).await
    }

    /// RMDIR.
    pub async fn rmdir<'a>(&self, call: impl Into<Call<'a>>, dir: &FileHandle, name: &[u8]) -> Result<Wcc> {
        self.take_away(call.into(), (dir, name), procedure::RMDIR).await
    }

    /// RENAME: the two directories around the change.
    pub async fn rename<'a>(
        &self,
        call: impl Into<Call<'a>>,
        from_dir: &FileHandle,
        from: &[u8],
        to_dir: &FileHandle,
        to: &[u8],
    ) -> Result<(Wcc, Wcc)> {
        let encode = |encoder: &mut Encoder| {
            nfs3::encode_entry(encoder, from_dir, from);
            nfs3::encode_entry(encoder, to_dir, to);
        };
        self.invoke(call.into(), from_dir, procedure::RENAME, encode, nfs3::rename).await
    }

    /// LINK: the file's attributes and the directory around the change.
    pub async fn link<'a>(
        &self,
        call: impl Into<Call<'a>>,
        file: &FileHandle,
        dir: &FileHandle,
        name: &[u8],
    ) -> Result<(Option<Attr>, Wcc)> {
        let encode = |encoder: &mut Encoder| {
            nfs3::encode_handle(encoder, file);
            nfs3::encode_entry(encoder, dir, name);
        };
        self.invoke(call.into(), dir, procedure::LINK, encode, nfs3::link).await
    }

    /// READDIR: names and inode numbers only.
    pub async fn readdir<'a>(
        &self,
        call: impl Into<Call<'a>>,
        dir: &FileHandle,
        cookie: u64,
        verifier: [u8; 8],
        bytes_max: u32,
    ) -> Result<DirPage> {
        let encode = |encoder: &mut Encoder| {
            nfs3::encode_handle(encoder, dir);
            encoder.u64(cookie).fixed(&verifier).u32(bytes_max.clamp(DIR_BYTES_MIN, TRANSFER_MAX));
        };
        self.invoke(call.into(), dir, procedure::READDIR, encode, nfs3::readdir).await
    }

    /// READDIRPLUS.
    pub async fn readdirplus<'a>(
        &self,
        call: impl Into<Call<'a>>,
        dir: &FileHandle,
        cookie: u64,
        verifier: [u8; 8],
        bytes_max: u32,
    ) -> Result<DirPage> {
        let bytes_max = bytes_max.clamp(DIR_BYTES_MIN, TRANSFER_MAX);
        let encode = |encoder: &mut Encoder| {
            nfs3::encode_handle(encoder, dir);
            encoder.u64(cookie).fixed(&verifier).u32(bytes_max).u32(bytes_max);
        };
        self.invoke(call.into(), dir, procedure::READDIRPLUS, encode, nfs3::readdirplus).await
    }

    /// A page of a listing: READDIRPLUS, or READDIR of a server that lacks it. A page without entries that is not the
    /// last is asked for again a few times: taken for the end it would cut the listing off.
    pub async fn list<'a>(
        &self,
        call: impl Into<Call<'a>>,
        dir: &FileHandle,
        cookie: u64,
        verifier: [u8; 8],
        bytes_max: u32,
    ) -> Result<DirPage> {
        let call = call.into();
        for earlier in 0..EMPTY_ANSWERS_MAX {
            let page = match self.readdirplus(call, dir, cookie, verifier, bytes_max).await {
                Err(error) if error.is(Status::NotSupp) => self.readdir(call, dir, cookie, verifier, bytes_max).await?,
                page => page?,
            };
            if page.eof || !page.entries.is_empty() {
                return Ok(page);
            }
            EMPTY.wait(earlier).await;
        }
        Err(Error::new(ErrorKind::Garbled("a page without entries of a directory that goes on")))
    }

    /// FSSTAT.
    pub async fn fsstat<'a>(&self, call: impl Into<Call<'a>>, root: &FileHandle) -> Result<FsStat> {
        let encode = |encoder: &mut Encoder| nfs3::encode_handle(encoder, root);
        self.invoke(call.into(), root, procedure::FSSTAT, encode, nfs3::fsstat).await
    }

    /// FSINFO, cut to what this client supports.
    pub async fn fsinfo<'a>(&self, call: impl Into<Call<'a>>, root: &FileHandle) -> Result<FsInfo> {
        let encode = |encoder: &mut Encoder| nfs3::encode_handle(encoder, root);
        self.invoke(call.into(), root, procedure::FSINFO, encode, nfs3::fsinfo).await
    }

    /// PATHCONF.
    pub async fn pathconf<'a>(&self, call: impl Into<Call<'a>>, object: &FileHandle) -> Result<PathConf> {
        let encode = |encoder: &mut Encoder| nfs3::encode_handle(encoder, object);
        self.invoke(call.into(), object, procedure::PATHCONF, encode, nfs3::pathconf).await
    }

    /// A call that makes a name in a directory; `encode` encodes what.
    async fn make(
        &self,
        call: Call<'_>,
        (dir, name): (&FileHandle, &[u8]),
        procedure: u32,
        encode: impl Fn(&mut Encoder) + Send + Sync,
    ) -> Result<Created> {
        let encode = |encoder: &mut Encoder| {
            nfs3::encode_entry(encoder, dir, name);
            encode(encoder);
        };
        self.invoke(call, dir, procedure, encode, nfs3::created).await
    }

    /// A call that takes a name out of a directory.
    async fn take_away(&self, call: Call<'_>, (dir, name): (&FileHandle, &[u8]), procedure: u32) -> Result<Wcc> {
        let encode = |encoder: &mut Encoder| nfs3::encode_entry(encoder, dir, name);
        self.invoke(call, dir, procedure, encode, nfs3::changed).await
    }

    /// A call without a payload, from its arguments to its result.
    async fn invoke<T>(
        &self,
        call: Call<'_>,
        object: &FileHandle,
        procedure: u32,
        encode: impl Fn(&mut Encoder) + Send + Sync,
        results: fn(&mut Decoder<'_>) -> Result<T>,
    ) -> Result<T> {
        let request = Request { call, object, procedure, route: Route::Home, encode, payload: Bytes::new() };
        let answer = self.perform(request, None).await;
        decode(&answer.reply?, answer.replayed, results)
    }

    /// Makes the call until its answer is another than JUKEBOX, or the time limit of a soft client has passed.
    async fn perform(
        &self,
        request: Request<'_, impl Fn(&mut Encoder) + Send + Sync>,
        mut destination: Option<Destination>,
    ) -> Answer {
        let limit = self.time_limit.filter(|_| !request.call.is_patient);
        let deadline = limit.map(|limit| now() + limit);
        let mut replayed = false;
        let mut ticket = request.call.ticket;
        let mut earlier = 0;
        loop {
            let limit = deadline.map(|deadline| deadline.saturating_duration_since(now()));
            let reply = self.inner.transport.submit(Submission {
                ticket: ticket.take(),
                program: rpc::NFS,
                procedure: request.procedure,
                cred: request.call.cred,
                object: request.object,
                route: request.route,
                encode: &request.encode,
                payload: request.payload.clone(),
                destination: destination.take(),
                limit,
            });
            let finished: Finished = reply.await;
            self.inner.transport.shared.fence();
            destination = finished.destination;
            replayed |= finished.replayed;
            let retry = finished.outcome.as_ref().is_ok_and(|reply| says_jukebox(reply))
                && deadline.is_none_or(|deadline| now() + JUKEBOX.pause(earlier) < deadline);
            if !retry {
                let reply = finished.outcome.map_err(|kind| Error { replayed, ..Error::new(kind) });
                return Answer { reply, destination, replayed };
            }
            JUKEBOX.wait(earlier).await;
            earlier += 1;
        }
    }
}

fn says_jukebox(reply: &[u8]) -> bool {
    let mut decoder = Decoder::new(reply);
    rpc::accept(&mut decoder).is_ok() && decoder.u32() == Ok(Status::Jukebox as u32)
}

/// Decodes a whole reply. JUKEBOX that has outlasted the time limit is no other failure than silence.
fn decode<T>(reply: &[u8], replayed: bool, results: fn(&mut Decoder<'_>) -> Result<T>) -> Result<T> {
    let mut decoder = Decoder::new(reply);
    let accepted = rpc::accept(&mut decoder).map_err(Error::new);
    accepted.and_then(|()| results(&mut decoder)).map_err(|mut error| {
        if error.is(Status::Jukebox) {
            error.kind = ErrorKind::TimedOut;
        }
        Error { replayed, ..error }
    })
}

#[cfg(test)]
mod tests;
