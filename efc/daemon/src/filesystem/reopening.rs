//! Reopens, in a successor, what was open when its predecessor died.

use std::sync::Arc;

use efc_backend::{Backend, Cred};

use super::Inner;
use super::directories::OpenDirectory;
use super::files::OpenFile;

impl<B: Backend> Inner<B> {
    /// Opens again what was open when a predecessor died.
    pub(super) fn reopen(&self) {
        let handles = self.state.handles();
        let files = handles.iter().filter(|(_, opened)| !opened.directory);
        self.modes.load(files.map(|(_, opened)| (opened.node, opened.backing)));
        for (fh, opened) in handles {
            let Ok(inode) = self.inode(opened.node) else { continue };
            let cred = Cred { uid: opened.uid, gid: opened.gid, groups: opened.groups.into() };
            let mut open = self.open.lock().expect("open files lock");
            if opened.directory {
                let directory = OpenDirectory::new(opened.node, inode, cred, opened.cookie_verifier, &self.at_hand);
                open.directories.insert(fh, Arc::new(directory));
            } else {
                inode.count(cred.uid == 0);
                open.files.insert(fh, Arc::new(OpenFile::new(opened.node, inode, cred, opened.flags)));
            }
        }
    }
}
