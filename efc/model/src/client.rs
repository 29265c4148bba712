//! A client of the model: it executes calls at the server, after they and before their answers have gone their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use efc_backend::*;
use efc_buffer::{Payload, Sink};
use tokio::sync::{Semaphore, oneshot};

use crate::faults::Procedure;
use crate::nas::Nas;
use crate::network::Plan;
use crate::server::Server;

/// Calls that wait on their way, until this is dropped.
pub struct Hold(Nas, Procedure, Arc<Semaphore>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.pass();
        self.2.close();
    }
}

impl Hold {
    /// Calls that are sent from now on are not held; those that are wait on.
    pub fn pass(&self) {
        let mut holds = self.0.network().holds.lock().expect("holds lock");
        holds.retain(|(_, gate)| !Arc::ptr_eq(gate, &self.2));
    }

    /// How many calls of the procedure have not come to the server yet.
    pub fn held(&self) -> usize {
        Arc::strong_count(&self.2) - 1 - usize::from(self.is_set())
    }

    fn is_set(&self) -> bool {
        let holds = self.0.network().holds.lock().expect("holds lock");
        holds.iter().any(|(procedure, gate)| *procedure == self.1 && Arc::ptr_eq(gate, &self.2))
    }
}

impl Nas {
    /// Calls of this procedure that are sent from now on wait on their way.
    pub fn hold(&self, procedure: Procedure) -> Hold {
        let gate = Arc::new(Semaphore::new(0));
        self.network().holds.lock().expect("holds lock").push((procedure, gate.clone()));
        Hold(self.clone(), procedure, gate)
    }

    /// A client. All with the same `number` are one to the server: a daemon and its successors.
    pub fn client(&self, number: u32, time_limit: Option<Duration>) -> Client {
        static TICKETS: AtomicU32 = AtomicU32::new(1);
        let first = TICKETS.fetch_add(1 << 20, Ordering::Relaxed);
        Client { nas: self.clone(), number, tickets: Arc::new(AtomicU32::new(first)), time_limit }
    }
}

/// Ways of a client to the server, which knows a call again on its own only.
const WAYS: u8 = 4;

/// A client of the model. Clones are the same one.
#[derive(Clone)]
pub struct Client {
    nas: Nas,
    number: u32,
    tickets: Arc<AtomicU32>,
    time_limit: Option<Duration>,
}

type Done<T> = std::result::Result<T, Status>;

/// Executes a call as often as it comes, and answers as the last time; whoever has a ticket is answered from memory.
fn execute<T: Clone + Send + 'static>(
    nas: &Nas,
    (procedure, client, ticket): (Procedure, u32, Option<Ticket>),
    is_executed_twice: bool,
    call: &impl Fn(&mut Server) -> Done<T>,
) -> Result<T> {
    let mut server = nas.server();
    // A WRITE may take any way, and takes another one than before if nobody says which that was.
    let way = |ticket: Ticket| if procedure == Procedure::Write { ticket.way.unwrap_or(WAYS) } else { 0 };
    let key = ticket.map(|ticket| (client, way(ticket), ticket.number));
    let remembered = key.and_then(|key| server.replies.get(&key)?.downcast_ref::<Done<T>>().cloned());
    let is_repeated = ticket.is_some_and(|ticket| ticket.is_repeated);
    let done = remembered.unwrap_or_else(|| {
        let mut execute = || server.begin(procedure).and_then(|()| call(&mut server));
        let done = if is_executed_twice { execute().and_then(|_| execute()) } else { execute() };
        if let Some(key) = key {
            server.replies.insert(key, Box::new(done.clone()));
        }
        done
    });
    let replayed = is_repeated || is_executed_twice;
    log::debug!("{procedure:?}, {ticket:?}, twice {is_executed_twice}: {:?}", done.as_ref().err());
    if server.garbles(procedure) {
        return Err(Error { replayed, ..Error::new(ErrorKind::Garbled("the model was told to")) });
    }
    done.map_err(|status| Error { replayed, ..Error::new(ErrorKind::Status(status)) })
}

async fn wait(time: Duration) {
    if !time.is_zero() {
        efc_tasks::time::sleep(time).await;
    }
}

impl Client {
    /// Sends a call, which goes its way whether the caller waits or not.
    async fn send<T: Clone + Send + 'static>(
        &self,
        procedure: Procedure,
        call: Call<'_>,
        execution: impl Fn(&mut Server, &Cred) -> Done<T> + Send + Sync + 'static,
    ) -> Reply<T> {
        Seen::of(self.exchange(procedure, call, execution)).await
    }

    async fn exchange<T: Clone + Send + 'static>(
        &self,
        procedure: Procedure,
        call: Call<'_>,
        execution: impl Fn(&mut Server, &Cred) -> Done<T> + Send + Sync + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let Plan { there, back, gate, is_lost_without_caller, is_executed_twice } = self.nas.network().plan(procedure);
        let (nas, cred, ticket, number) = (self.nas.clone(), call.cred.clone(), call.ticket, self.number);
        let limit = self.time_limit.filter(|_| !call.is_patient);
        efc_tasks::spawn_outside(async move {
            wait(there).await;
            if let Some(gate) = gate {
                drop(gate.acquire().await); // closed when it opens
            }
            if is_lost_without_caller && answer.is_closed() {
                return;
            }
            let call = |server: &mut Server| execution(server, &cred);
            let result = execute(&nas, (procedure, number, ticket), is_executed_twice && changes(procedure), &call);
            wait(back).await;
            let _ = answer.send(result);
        });
        let answered = async { answered.await.expect("the server answers") };
        efc_tasks::time::in_time(answered, limit).await.unwrap_or_else(|| Err(Error::new(ErrorKind::TimedOut)))
    }
}

/// Does a second copy find what the first has done?
fn changes(procedure: Procedure) -> bool {
    use Procedure::{Create, Link, Mkdir, Mknod, Remove, Rename, Rmdir, Setattr, Symlink, Write};
    matches!(procedure, Setattr | Write | Create | Mkdir | Symlink | Mknod | Remove | Rmdir | Rename | Link)
}

impl Backend for Client {
    fn ticket(&self, _object: &FileHandle) -> Ticket {
        let number = self.tickets.fetch_add(1, Ordering::Relaxed);
        Ticket { number, way: Some((number % u32::from(WAYS)) as u8), is_repeated: false }
    }

    fn time_limit(&self) -> Option<Duration> {
        self.time_limit
    }

    async fn getattr(&self, call: Call<'_>, object: &FileHandle) -> Reply<Attr> {
        let object = *object;
        self.send(Procedure::Getattr, call, move |server, _| server.getattr(&object)).await
    }

    async fn setattr(&self, call: Call<'_>, object: &FileHandle, to: &SetAttr) -> Reply<Wcc> {
        let (object, to) = (*object, *to);
        self.send(Procedure::Setattr, call, move |server, cred| server.setattr(cred, &object, &to)).await
    }

    async fn lookup(&self, call: Call<'_>, dir: &FileHandle, name: &[u8]) -> Reply<Lookup> {
        let (dir, name) = (*dir, name.to_vec());
        self.send(Procedure::Lookup, call, move |server, cred| server.lookup(cred, &dir, &name)).await
    }

    async fn access(&self, call: Call<'_>, object: &FileHandle, asked: u32) -> Reply<(u32, Option<Attr>)> {
        let object = *object;
        self.send(Procedure::Access, call, move |server, cred| server.access(cred, &object, asked)).await
    }

    async fn readlink(&self, call: Call<'_>, link: &FileHandle) -> Reply<(Vec<u8>, Option<Attr>)> {
        let link = *link;
        self.send(Procedure::Readlink, call, move |server, _| server.readlink(&link)).await
    }

    async fn read(&self, call: Call<'_>, file: &FileHandle, offset: u64, into: Sink) -> (Option<Payload>, Reply<Read>) {
        let (file, count) = (*file, into.len());
        let read = self.send(Procedure::Read, call, move |server, cred| server.read(cred, &file, offset, count)).await;
        let (mut buffer, range) = match into {
            Sink::Buffer(buffer, range) => (buffer, range),
            Sink::Pipe { count, room, .. } => (room.buffer().expect("memory for a buffer"), 0..count),
        };
        let read = read.map(|Seen { value: (bytes, read), asked }| {
            buffer[range.start..range.start + bytes.len()].copy_from_slice(&bytes);
            Seen { value: read, asked }
        });
        (Some(Payload::Buffer(buffer, range)), read)
    }

    async fn write(
        &self,
        call: Call<'_>,
        file: &FileHandle,
        offset: u64,
        data: Bytes,
        stable: Stable,
    ) -> Reply<Written> {
        let file = *file;
        let write = move |server: &mut Server, cred: &Cred| server.write(cred, &file, offset, &data, stable);
        self.send(Procedure::Write, call, write).await
    }

    async fn commit(&self, call: Call<'_>, file: &FileHandle) -> Reply<Committed> {
        let file = *file;
        self.send(Procedure::Commit, call, move |server, _| server.commit(&file)).await
    }

    async fn create(&self, call: Call<'_>, dir: &FileHandle, name: &[u8], how: CreateHow) -> Reply<Created> {
        let (dir, name) = (*dir, name.to_vec());
        self.send(Procedure::Create, call, move |server, cred| server.create(cred, &dir, &name, how)).await
    }

    async fn mkdir(&self, call: Call<'_>, dir: &FileHandle, name: &[u8], attr: &SetAttr) -> Reply<Created> {
        let (dir, name, attr) = (*dir, name.to_vec(), *attr);
        self.send(Procedure::Mkdir, call, move |server, cred| server.mkdir(cred, &dir, &name, &attr)).await
    }

    async fn symlink(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        name: &[u8],
        target: &[u8],
        attr: &SetAttr,
    ) -> Reply<Created> {
        let (dir, name, target, attr) = (*dir, name.to_vec(), target.to_vec(), *attr);
        let symlink = move |server: &mut Server, cred: &Cred| server.symlink(cred, &dir, &name, &target, &attr);
        self.send(Procedure::Symlink, call, symlink).await
    }

    async fn mknod(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        name: &[u8],
        kind: NodeKind,
        attr: &SetAttr,
    ) -> Reply<Created> {
        let (dir, name, attr) = (*dir, name.to_vec(), *attr);
        self.send(Procedure::Mknod, call, move |server, cred| server.mknod(cred, &dir, &name, kind, &attr)).await
    }

    async fn remove(&self, call: Call<'_>, dir: &FileHandle, name: &[u8]) -> Reply<Wcc> {
        let (dir, name) = (*dir, name.to_vec());
        self.send(Procedure::Remove, call, move |server, cred| server.remove(cred, &dir, &name)).await
    }

    async fn rmdir(&self, call: Call<'_>, dir: &FileHandle, name: &[u8]) -> Reply<Wcc> {
        let (dir, name) = (*dir, name.to_vec());
        self.send(Procedure::Rmdir, call, move |server, cred| server.rmdir(cred, &dir, &name)).await
    }

    async fn rename(
        &self,
        call: Call<'_>,
        (from_dir, from): (&FileHandle, &[u8]),
        (to_dir, to): (&FileHandle, &[u8]),
    ) -> Reply<(Wcc, Wcc)> {
        let (from_dir, from, to_dir, to) = (*from_dir, from.to_vec(), *to_dir, to.to_vec());
        let rename = move |server: &mut Server, cred: &Cred| server.rename(cred, (&from_dir, &from), (&to_dir, &to));
        self.send(Procedure::Rename, call, rename).await
    }

    async fn link(
        &self,
        call: Call<'_>,
        file: &FileHandle,
        dir: &FileHandle,
        name: &[u8],
    ) -> Reply<(Option<Attr>, Wcc)> {
        let (file, dir, name) = (*file, *dir, name.to_vec());
        self.send(Procedure::Link, call, move |server, cred| server.link(cred, &file, &dir, &name)).await
    }

    async fn list(
        &self,
        call: Call<'_>,
        dir: &FileHandle,
        cookie: u64,
        verifier: [u8; 8],
        bytes_max: u32,
    ) -> Reply<DirPage> {
        let dir = *dir;
        let list = move |server: &mut Server, cred: &Cred| server.list(cred, &dir, cookie, verifier, bytes_max);
        self.send(Procedure::Readdirplus, call, list).await
    }

    async fn fsstat(&self, call: Call<'_>, object: &FileHandle) -> Reply<FsStat> {
        let object = *object;
        self.send(Procedure::Fsstat, call, move |server, _| server.fsstat(&object)).await
    }
}
