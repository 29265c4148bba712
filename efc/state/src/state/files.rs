//! What the state keeps of files: nodes and facts about them, what is open, what was removed while open, failures.

use std::io;

use super::super::failures::FailureOf;
use super::super::handles::OpenHandle;
use super::super::nodes::Node;
use super::super::orphans::Orphan;
use super::super::pages::DataVersion;
use super::State;

impl State {
    /// Sets what node 1 is; before the first request is served.
    ///
    /// # Panics
    /// If the handle is longer than [`crate::FILE_HANDLE_MAX`].
    pub fn set_root(&self, node: &Node) {
        self.nodes.set_root(node).expect("a root handle that fits");
    }

    /// The node of this handle, with its lookup count raised by one before this returns; new if unknown. Its id has its
    /// generation in the upper half, so it names no other file, ever.
    ///
    /// # Errors
    /// EINVAL for a handle that is too long, ENOSPC for too many nodes, ENOMEM for no memory or at the limit.
    pub fn lookup_node(&self, node: &Node) -> io::Result<u64> {
        self.nodes.lookup(node)
    }

    /// The id of this handle if known, without counting.
    pub fn find_node(&self, handle: &[u8]) -> Option<u64> {
        self.nodes.find_id(handle)
    }

    /// What the id stands for; `None` once it is forgotten.
    pub fn node(&self, id: u64) -> Option<Node> {
        self.nodes.get(id)
    }

    /// The `S_IFMT` bits of what the id stands for; `None` once it is forgotten.
    pub fn node_kind(&self, id: u64) -> Option<u32> {
        self.nodes.kind(id)
    }

    /// Lowers the count; `true` if the node is gone now, and what was noted beside it.
    pub fn forget_node(&self, id: u64, lookups: u64) -> bool {
        let Some(slots) = self.nodes.forget(id, lookups) else { return false };
        self.page_versions.forget(id);
        slots.into_iter().for_each(|slots| self.page_versions.release(slots));
        true
    }

    /// Limits the nodes: beyond that [`State::lookup_node`] fails with ENOMEM for those that are not known. What is open takes
    /// of the same memory: with very many opens, [`State::open_handle`] fails, or there may be fewer nodes.
    pub fn limit_nodes(&self, count_max: u64) {
        self.nodes.limit(count_max);
    }

    /// So many requests are under way: whether there is memory for one more, which is that for nodes.
    pub fn admits_request(&self, under_way: u64) -> bool {
        self.nodes.admits_request(under_way)
    }

    /// What [`State::limit_nodes`] set, without what opens and requests take.
    pub fn nodes_max(&self) -> Option<u64> {
        self.nodes.limited_to()
    }

    /// Whether there may be one more node.
    pub fn has_room_for_node(&self) -> bool {
        self.nodes.has_room()
    }

    /// Nodes that are known, the root among them.
    pub fn node_count(&self) -> u64 {
        self.nodes.count()
    }

    /// Notes the directory in which the node was seen last, and whether it may have names elsewhere.
    pub fn set_parent(&self, id: u64, parent: u64, has_other_names: bool) {
        self.nodes.set_parent(id, parent, has_other_names);
    }

    /// What [`State::set_parent`] noted; `None` for the root.
    pub fn parent(&self, id: u64) -> Option<u64> {
        self.nodes.parent(id)
    }

    /// Has a predecessor told the kernel of a node in this directory that no name has led to since?
    pub fn has_unseen_child(&self, parent: u64) -> bool {
        self.nodes.has_unseen_child(parent)
    }

    /// The version that [`State::set_page_version`] noted.
    pub fn page_version(&self, id: u64) -> Option<DataVersion> {
        self.page_versions.get(id)
    }

    /// Notes of which version of the file its pages are that the kernel holds: none of them is older. Only when that is
    /// so, for a successor believes it. Of a node that is forgotten nothing is noted: it would take the place of what is noted of the next in its
    /// slot.
    pub fn set_page_version(&self, id: u64, version: DataVersion) {
        if self.nodes.kind(id).is_some() {
            self.page_versions.set(id, version);
        }
    }

    /// Returns the fh, never 0.
    ///
    /// # Errors
    /// EINVAL for too many groups, ENOSPC for too many handles, ENOMEM for no memory.
    pub fn open_handle(&self, handle: &OpenHandle) -> io::Result<u64> {
        self.nodes.count_open()?;
        self.handles.add(handle).inspect_err(|_| self.nodes.uncount_opens(1))
    }

    /// The open file of this fh; `None` once it is closed.
    pub fn handle(&self, fh: u64) -> Option<OpenHandle> {
        self.handles.get(fh)
    }

    /// Notes the verifier of an open directory's cookies. Not to be called beside its close.
    pub fn set_cookie_verifier(&self, fh: u64, verifier: [u8; 8]) {
        self.handles.set_cookie_verifier(fh, verifier);
    }

    /// The file is closed.
    pub fn close_handle(&self, fh: u64) {
        if self.handles.remove(fh) {
            self.nodes.uncount_opens(1);
        }
    }

    /// Before a redelivered request opens something: closes what it had opened when its daemon died, as nobody was told
    /// of that. Names it.
    pub fn close_opened_by(&self, unique: u64) -> Option<u64> {
        self.handles.remove_opened_by(unique).inspect(|_| self.nodes.uncount_opens(1))
    }

    /// No request of a predecessor is delivered again from now on: [`State::close_opened_by`] finds nothing more.
    pub fn forget_openers(&self) {
        self.handles.forget_openers();
    }

    /// All open handles, for a successor.
    pub fn handles(&self) -> Vec<(u64, OpenHandle)> {
        self.handles.list()
    }

    /// Silly-renamed files: (directory handle, name, file handle), removed on last close or by a successor.
    ///
    /// # Errors
    /// EINVAL for a handle or name that is too long, ENOSPC for too many orphans, ENOMEM for no memory.
    pub fn add_orphan(&self, dir: &[u8], name: &[u8], file: &[u8]) -> io::Result<u64> {
        self.orphans.add(dir, name, file)
    }

    /// The orphan was removed.
    pub fn remove_orphan(&self, slot: u64) {
        self.orphans.remove(slot);
    }

    /// All orphans.
    pub fn orphans(&self) -> Vec<Orphan> {
        self.orphans.list()
    }

    /// Saves a number about a failure, in place of an earlier one about the same.
    ///
    /// # Errors
    /// ENOSPC for too many, ENOMEM for no memory. A state that an older release has made has no place for them, and
    /// saves nothing.
    pub fn set_failure(&self, of: FailureOf, number: u64) -> io::Result<()> {
        self.failures.set(of, number)
    }

    /// Drops the number about this failure.
    pub fn remove_failure(&self, of: FailureOf) {
        self.failures.remove(of);
    }

    /// All numbers about failures, for a successor.
    pub fn failures(&self) -> Vec<(FailureOf, u64)> {
        self.failures.list()
    }
}
