//! Operations on names: [lookup], [creation](making), [removal], [renaming].
//!
//! A call that was sent twice (after a lost connection, a restart of the server, or redelivery to a successor) may have
//! succeeded the first time and fail the second. So its error is not believed before the objects were compared: a
//! directory that "exists" may be the one we made. [`super::once`] does that.

mod counted;
mod lookup;
mod making;
mod removal;
mod renaming;

use std::sync::Arc;

use efc_backend::{Backend, Error, Seen, Status, Wcc};
use efc_cache::{Inode, KnownName, Mutation, Named, Standing};
use efc_fuse::Errno;

use super::{Caller, Inner};

pub use counted::Counted;

/// How often a name is looked up that leads elsewhere each time.
const SECOND_LOOKUPS_MAX: u32 = 16;

/// A name in a directory.
type Place<'a> = (&'a Arc<Inode>, &'a [u8]);

impl<B: Backend> Inner<B> {
    /// Nothing is begun of a call that no server could execute.
    fn check_one_storage(&self, one: &Inode, other: &Inode) -> Result<(), Errno> {
        let is_one = self.backend.is_one_storage(one.handle(), other.handle());
        if is_one { Ok(()) } else { Err(Errno(libc::EXDEV)) }
    }

    /// Nothing is made at the server that the kernel could not be told of.
    fn check_room_for_node(&self) -> Result<(), Errno> {
        if self.state.has_room_for_node() { Ok(()) } else { Err(Errno(libc::ENOMEM)) }
    }

    /// What is known of a name. Where names that differ in case only are one name, a listing does not say which are missing, and one that
    /// was missing may have been made by another name.
    fn known_name(&self, directory: &Inode, name: &[u8]) -> KnownName {
        let known = self.names.known(directory, name);
        if known.named == Named::Absent && self.properties_of(directory).ignores_case {
            return KnownName { named: Named::Unknown, proof: None };
        }
        known
    }

    /// A change of a directory's names was answered: what is known of them stands on that. The caller may search the directory.
    fn has_changed(&self, caller: &Caller, directory: &Arc<Inode>, change: Mutation, wcc: Seen<&Wcc>) -> Standing {
        // The answer to a predecessor's call may be from then.
        let standing = change.answered(wcc).doubted_if(caller.earlier.is_some());
        directory.searched(&caller.cred, &standing);
        standing
    }

    /// A change of a name has failed: was it not what it was known to be?
    fn doubt_name(&self, directory: &Inode, name: &[u8], error: &Error) {
        use Status::{BadType, Exist, Inval, IsDir, NoEnt, NotDir, NotSupp, Stale};
        let is_doubtful = |status| matches!(status, Exist | IsDir | NoEnt | NotDir | Stale | BadType | Inval | NotSupp);
        if error.status().is_none_or(is_doubtful) {
            self.names.forget(directory.handle(), name);
        }
    }
}
