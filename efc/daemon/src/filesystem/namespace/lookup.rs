//! Looking up a name, and the answer to the kernel when that fails.

use std::sync::Arc;
use std::time::Duration;

use efc_backend::{Attr, Backend, Call, Cred, FileHandle, Lookup, Seen, Status, Tick};
use efc_cache::{Inode, NameProof, Named, Permit};
use efc_fuse::Errno;

use super::{Counted, SECOND_LOOKUPS_MAX};
use crate::errno::errno;
use crate::filesystem::walks::{Note, WALK_TIME_MAX};
use crate::filesystem::{Caller, Inner, NAME_MAX, Outcome, Response, Told};

/// How long the kernel keeps a name of a directory of the backend's own: what is added or taken away shows so soon.
const OWN_NAME_TTL: Duration = Duration::from_secs(1);

impl<B: Backend> Inner<B> {
    pub(in super::super) async fn lookup(self: &Arc<Self>, caller: &Caller, parent: u64, name: &[u8]) -> Outcome {
        let mut found = self.look_up_by_path(caller, parent, name).await;
        if caller.is_second_walk {
            found = match found {
                Ok(entry) => self.hold(caller, parent, name, entry).await,
                Err(errno) => {
                    self.walks.note(caller.tid, Note::Again); // the kernel may look a second time before it gives up
                    Err(errno)
                }
            };
        }
        match found {
            Ok(entry) => Ok(entry.answer()),
            Err(errno) => self.answer_for_known_name(caller, parent, name, errno).await,
        }
    }

    async fn look_up_by_path(
        self: &Arc<Self>,
        caller: &Caller,
        parent: u64,
        name: &[u8],
    ) -> Result<Counted<'_, B>, Errno> {
        let directory = self.inode(parent)?;
        if let Some(found) = self.backend.own_name(directory.handle(), name) {
            return self.own_entry(&directory, found.map_err(|error| errno(&error))?);
        }
        let found = match self.look_up_without_asking(caller, &directory, name).await {
            Some(known) => known,
            None => {
                let asked = self.look_up(caller, &directory, name).await.map(|(entry, _)| entry);
                if asked.as_ref().is_err_and(|errno| *errno == Errno(libc::ENOENT)) {
                    self.missed(&directory, &caller.cred).await;
                }
                asked
            }
        };
        if found.as_ref().err().is_none_or(|errno| *errno == Errno(libc::ENOENT)) {
            self.check_path(caller, parent).await?; // afterwards: whoever may not know gets the same error for both
        }
        found
    }

    /// The entry of an object that lies in a directory of the backend's own. What is there may change at any time, so the kernel asks
    /// for the name again and again, and for the attributes if no answer of the object's own server lets them be given.
    fn own_entry(&self, directory: &Arc<Inode>, (handle, attr): (FileHandle, Attr)) -> Result<Counted<'_, B>, Errno> {
        let inode = self.inodes.of(&handle);
        let counted = self.count_lookup(directory, &inode, &attr)?;
        let seen = Seen { value: attr, asked: Tick::of_answer() };
        let told = self.granted(&inode).unwrap_or_else(|| Told::once(seen));
        Ok(counted.described(told, OWN_NAME_TTL, Permit::unconditional()))
    }

    /// What is known of a name, if that may be given to this caller without asking the server: the consistency mode lets it be
    /// given, and the server has let the caller look into the directory as it is.
    ///
    /// In a second walk of a path nothing is: what was known has led to something that is gone.
    async fn look_up_without_asking(
        &self,
        caller: &Caller,
        directory: &Arc<Inode>,
        name: &[u8],
    ) -> Option<Result<Counted<'_, B>, Errno>> {
        // What is wrong with a name that is too long, the server says: not that there is none.
        if caller.is_second_walk || name.len() > NAME_MAX as usize {
            return None;
        }
        directory.search(&caller.cred, self.freshness.verdict_ttl())?;
        let known = self.known_name(directory, name);
        let granted = self.freshness.admit_name(directory, &known.proof?)?;
        match known.named {
            Named::Unknown => None,
            // The kernel may have a name of a predecessor that this daemon has not heard of.
            Named::Absent if directory.node().is_some_and(|node| self.state.has_unseen_child(node)) => None,
            Named::Absent => Some(Err(Errno(libc::ENOENT))),
            Named::Object(handle) => {
                let inode = self.inodes.get(&handle)?;
                self.drop_before_look_up(&handle, &self.granted(&inode)?.attr).await;
                let told = self.granted(&inode)?;
                Some(self.count_lookup(directory, &inode, &told.attr).map(|counted| {
                    let (entry_ttl, permit) = granted;
                    counted.described(told, entry_ttl, permit)
                }))
            }
        }
    }

    /// The object that a name leads to for certain, as of not longer ago than attributes are trusted: what nobody on this node can
    /// have learned to be otherwise.
    pub(super) fn certain_name(&self, caller: &Caller, directory: &Arc<Inode>, name: &[u8]) -> Named {
        let known = self.known_name(directory, name);
        let proof = known.proof.filter(|_| caller.earlier.is_none());
        let proof = proof.map(|proof| NameProof { since: proof.asked, ..proof });
        match proof.and_then(|proof| self.freshness.admit_name(directory, &proof)) {
            Some(_) => known.named,
            None => Named::Unknown,
        }
    }

    /// In a second walk: what was looked up counts as open until the thread's next request, and was there since it does.
    async fn hold<'a>(
        self: &'a Arc<Self>,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        mut entry: Counted<'a, B>,
    ) -> Result<Counted<'a, B>, Errno> {
        for _ in 0..SECOND_LOOKUPS_MAX {
            if entry.attr.mode & libc::S_IFMT != libc::S_IFREG {
                self.walks.note(caller.tid, Note::Again);
                return Ok(entry);
            }
            let opening = self.opening(caller, entry.inode()).await;
            let again = self.look_up_by_path(caller, parent, name).await?;
            if again.node == entry.node {
                self.keep_walking(caller.tid, Note::Held { _file: Box::new(opening) });
                return Ok(again);
            }
            entry = again;
        }
        Ok(entry)
    }

    /// Notes something for the next request of a thread, and for a while only: it need not come.
    pub(in super::super) fn keep_walking(self: &Arc<Self>, tid: u32, note: Note) {
        let Some(number) = self.walks.note(tid, note) else { return };
        let inner = Arc::clone(self);
        efc_tasks::spawn(async move {
            efc_tasks::time::sleep(WALK_TIME_MAX).await;
            inner.walks.expire(tid, number);
        });
    }

    /// A LOOKUP failed. If that does not prove that the name has gone, and the kernel knows it, the kernel is told what it knows.
    ///
    /// It would take any other answer than this one, ENOMEM and EINTR for a lost name, and drop what is mounted on it or below it, in
    /// every mount namespace (`fuse_dentry_revalidate`). What it is told is void at once, so that nothing else follows from it: whoever
    /// only passes a mount point gets there, and whoever asks for the object itself gets the error then ([`super::walks`]).
    async fn answer_for_known_name(&self, caller: &Caller, parent: u64, name: &[u8], errno: Errno) -> Outcome {
        let directory = self.inode(parent)?;
        let Some(handle) = self.known_object(caller, &directory, name, errno).await else {
            return Err(self.error_for_unknown_name(&directory, name, errno));
        };
        let Some(node) = self.state.find_node(handle.as_bytes()) else { return Err(errno) };
        let inode = self.inode(node)?;
        let Some(attr) = self.attributes_if_any(caller, &inode).await else {
            return Err(Errno(libc::ENOMEM)); // the kernel keeps the name, and asks again
        };
        self.drop_before_growth(&inode, &attr).await;
        let entry = self.known_entry(&directory, &inode, attr)?;
        if entry.node != node {
            return Err(errno); // forgotten meanwhile
        }
        self.walks.note(caller.tid, Note::Refused { node, errno });
        Ok(entry.answer())
    }

    /// Counts a lookup of an object that the kernel knows, and describes it for this once: nothing is learned, and the kernel keeps nothing.
    fn known_entry(&self, directory: &Inode, inode: &Arc<Inode>, attr: Attr) -> Result<Counted<'_, B>, Errno> {
        let counted = self.count_lookup(directory, inode, &attr)?;
        let seen = Seen { value: attr, asked: Tick::of_answer() }; // the kernel is told what is known now
        Ok(counted.described(Told::once(seen), Duration::ZERO, Permit::unconditional()))
    }

    /// What a LOOKUP is answered that failed with `errno`, of a name that is not among those learned.
    ///
    /// The kernel may know it all the same: a predecessor may have told it of the name, and where many names are in use
    /// some are not remembered. If the server has not said anything of the name either, the one failure that lets the
    /// kernel keep what is mounted there is ENOMEM.
    fn error_for_unknown_name(&self, directory: &Inode, name: &[u8], errno: Errno) -> Errno {
        let has_unseen_child = || directory.node().is_some_and(|node| self.state.has_unseen_child(node));
        let may_be_known = self.names.may_have_dropped(directory.handle(), name) || has_unseen_child();
        if may_be_known && !is_verdict(errno) { Errno(libc::ENOMEM) } else { errno }
    }

    /// The object that the kernel knows by this name, if a failure leaves that open.
    async fn known_object(
        &self,
        caller: &Caller,
        directory: &Arc<Inode>,
        name: &[u8],
        errno: Errno,
    ) -> Option<FileHandle> {
        let Errno(code) = errno;
        if matches!(code, libc::ENOENT | libc::ESTALE | libc::ENOTDIR | libc::ENAMETOOLONG | libc::ENOMEM) {
            return None;
        }
        if let Named::Object(handle) = self.names.get(directory.handle(), name) {
            return Some(handle);
        }
        if !matches!(code, libc::EACCES | libc::EPERM) {
            return None;
        }
        // The name was not asked for lately, or only from a predecessor. The owner of the directory may look into it. The caller learns
        // nothing by that: only an object that the kernel knows to lie there is told, to the kernel.
        let owner = self.attributes_if_any(caller, directory).await?;
        let owner = Cred { uid: owner.uid, gid: owner.gid, groups: Arc::from([]) };
        let found = self.backend.lookup(Call::of(&owner), directory.handle(), name).await.ok()?.value;
        let node = self.state.find_node(found.handle.as_bytes())?;
        (self.state.parent(node) == directory.node()).then_some(found.handle)
    }

    /// Attributes from the cache or the server, or else the last ones known.
    async fn attributes_if_any(&self, caller: &Caller, inode: &Arc<Inode>) -> Option<Attr> {
        match self.attributes(&caller.cred, inode).await {
            Ok(told) => Some(told.attr),
            Err(_) => inode.last_seen(),
        }
    }

    pub(super) async fn look_up(
        &self,
        caller: &Caller,
        directory: &Arc<Inode>,
        name: &[u8],
    ) -> Result<(Counted<'_, B>, Attr), Errno> {
        let (call, question) = (Call::of(&caller.cred), directory.ask_names());
        let found = match self.backend.lookup(call, directory.handle(), name).await {
            Ok(found) => found,
            Err(error) => {
                if let (true, Some(asked)) = (error.is(Status::NoEnt), error.asked) {
                    let standing = question.answered(asked, error.attr.as_ref());
                    directory.searched(&caller.cred, &standing);
                    self.names.learn(directory, name, None, &standing);
                }
                return Err(errno(&error));
            }
        };
        let Lookup { handle, attr, dir_attr } = found.value;
        let standing = question.answered(found.asked, dir_attr.as_ref());
        directory.searched(&caller.cred, &standing);
        self.names.learn(directory, name, Some(&handle), &standing);
        let attr = match attr {
            Some(attr) => Seen { value: attr, asked: found.asked },
            None => self.backend.getattr(call, &handle).await.map_err(|error| errno(&error))?,
        };
        let attr = self.shown(&caller.cred, &handle, attr).await?;
        self.drop_before_look_up(&handle, &attr.value).await;
        self.entry(directory, &handle, attr.part(|attr| attr)).map(|entry| (entry, attr.value))
    }

    pub(in super::super) async fn readlink(&self, caller: &Caller, node: u64) -> Outcome {
        self.check_path(caller, node).await?;
        let inode = self.inode(node)?;
        let asked = self.backend.readlink(Call::of(&caller.cred), inode.handle());
        Ok(Response::Bytes(asked.await.map_err(|error| errno(&error))?.value.0).into())
    }
}

/// Does it say something of the name, rather than that the server could not be asked?
fn is_verdict(Errno(code): Errno) -> bool {
    let of_name = matches!(code, libc::ENOENT | libc::ESTALE | libc::ENOTDIR | libc::ENAMETOOLONG);
    of_name || matches!(code, libc::EACCES | libc::EPERM)
}
