//! System calls about names and directories.

use super::*;

impl Kernel {
    /// What makes an object other than an open file.
    pub(super) async fn make(
        &self,
        task: Task,
        path: &str,
        operation: impl Fn(Vec<u8>) -> Operation + Clone + Send + 'static,
    ) -> Done<u64> {
        self.in_directory(task, path, async |parent, name| {
            match self.walk_name(task, parent, name, false).await {
                Ok(_) => return Err(libc::EEXIST),
                Err(libc::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
            let (asked, version, operation) = (name.as_bytes().to_vec(), self.version(), operation.clone());
            let content = self.ask(task, parent, move || operation(asked.clone())).await?;
            let entry = Content(&content).entry().ok_or(libc::EIO)?;
            self.0.tables().take_entry(parent, name.as_bytes(), &entry, version);
            Ok(entry.node)
        })
        .await
    }

    pub async fn mkdir(&self, task: Task, path: &str) -> Done<u64> {
        self.make(task, path, |name| Operation::Mkdir { name, mode: libc::S_IFDIR | 0o777, umask: 0 }).await
    }

    pub async fn symlink(&self, task: Task, target: &str, path: &str) -> Done<u64> {
        let target = target.as_bytes().to_vec();
        self.make(task, path, move |name| Operation::Symlink { name, target: target.clone() }).await
    }

    pub async fn mknod(&self, task: Task, path: &str, mode: u32) -> Done<u64> {
        self.make(task, path, move |name| Operation::Mknod { name, mode, umask: 0, rdev: 0x123 }).await
    }

    /// link(2)
    pub async fn link(&self, task: Task, from: &str, to: &str) -> Done<u64> {
        self.at_path(task, from, async |node| {
            self.make(task, to, move |new_name| Operation::Link { node, new_name }).await
        })
        .await
    }

    pub async fn readlink(&self, task: Task, path: &str) -> Done<Vec<u8>> {
        self.at_path(task, path, async |node| self.ask(task, node, || Operation::Readlink).await).await
    }

    pub(super) async fn remove(&self, task: Task, path: &str, is_directory: bool) -> Done<()> {
        self.in_directory(task, path, async |parent, name| {
            let held = self.hold(self.walk_name(task, parent, name, true).await?);
            let node = held.node;
            let lock = self.lock_of(node);
            let _locked = lock.write().await;
            let asked = name.as_bytes().to_vec();
            let remove = move || match is_directory {
                true => Operation::Rmdir { name: asked.clone() },
                false => Operation::Unlink { name: asked.clone() },
            };
            let removed = self.ask(task, parent, remove).await.map(drop);
            let mut tables = self.0.tables();
            if removed.is_ok() || removed == Err(libc::EINTR) || removed == Err(libc::ENOENT) {
                tables.dentries.remove(&(parent, name.as_bytes().to_vec()));
            }
            tables.inval_attributes(node);
            tables.inval_attributes(parent);
            drop(tables);
            removed
        })
        .await
    }

    pub async fn unlink(&self, task: Task, path: &str) -> Done<()> {
        self.remove(task, path, false).await
    }

    pub async fn rmdir(&self, task: Task, path: &str) -> Done<()> {
        self.remove(task, path, true).await
    }

    /// rename(2), within one directory or between two.
    pub async fn rename(&self, task: Task, from: &str, to: &str) -> Done<()> {
        let (to_dir, to_name) = Self::split(to);
        let target = self.at_path(task, to_dir, async |node| Ok(self.hold(node))).await?;
        let new_parent = target.node;
        self.at_path(task, Self::split(from).0, async |parent| {
            let name = Self::split(from).1;
            let (first, second) = (self.lock_of(parent.min(new_parent)), self.lock_of(parent.max(new_parent)));
            let _first = first.write().await;
            let _second = if parent == new_parent { None } else { Some(second.write().await) };
            let moved = self.hold(self.walk_name(task, parent, name, true).await?);
            let replaced = self.walk_name(task, new_parent, to_name, true).await.map(|node| self.hold(node));
            let (old, new) = (name.as_bytes().to_vec(), to_name.as_bytes().to_vec());
            let (sent_old, sent_new) = (old.clone(), new.clone());
            let rename =
                move || Operation::Rename { name: sent_old.clone(), new_parent, new_name: sent_new.clone(), flags: 0 };
            let renamed = self.ask(task, parent, rename).await.map(drop);
            let mut tables = self.0.tables();
            match renamed {
                Ok(()) => {
                    let dentry = tables.dentries.remove(&(parent, old));
                    dentry.map(|dentry| tables.dentries.insert((new_parent, new), dentry));
                }
                Err(libc::EINTR) => {
                    tables.dentries.remove(&(parent, old));
                    tables.dentries.remove(&(new_parent, new));
                }
                Err(_) => {}
            }
            let replaced = replaced.as_ref().ok().map(|held| held.node);
            for node in [Some(moved.node), replaced, Some(parent), Some(new_parent)].into_iter().flatten() {
                tables.inval_attributes(node);
            }
            drop(tables);
            renamed
        })
        .await
    }

    /// opendir(3)
    pub async fn opendir(&self, task: Task, path: &str) -> Done<File> {
        self.at_path(task, path, async |node| {
            let content = self.ask(task, node, || Operation::Opendir { flags: 0 }).await?;
            let opened = Content(&content).open().ok_or(libc::EIO)?;
            if let Some(inode) = self.0.tables().inodes.get_mut(&node) {
                inode.users += 1;
            }
            Ok(File { node, fh: opened.fh, flags: 0, open_flags: opened.flags })
        })
        .await
    }

    /// One page of a listing, from `offset` on.
    pub async fn page(&self, task: Task, dir: File, offset: u64, size: u32, plus: bool) -> Done<Vec<Listed>> {
        let (fh, version) = (dir.fh, self.version());
        let read = move || match plus {
            true => Operation::Readdirplus { fh, offset, size },
            false => Operation::Readdir { fh, offset, size },
        };
        let content = self.ask(task, dir.node, read).await?;
        let listed = Content(&content).listed(plus).ok_or(libc::EIO)?;
        let mut tables = self.0.tables();
        for listed in &listed {
            if let Some(entry) = &listed.entry {
                assert!(listed.name != b"." && listed.name != b"..", "no lookup of these is counted");
                tables.take_entry(dir.node, &listed.name, entry, version);
            }
        }
        Ok(listed)
    }

    pub async fn closedir(&self, task: Task, dir: File) {
        let fh = dir.fh;
        self.ask(task, dir.node, move || Operation::Releasedir { fh }).await.expect("it is open");
        if let Some(inode) = self.0.tables().inodes.get_mut(&dir.node) {
            inode.users -= 1;
        }
    }

    /// All names of a directory but `.` and `..`, as they come.
    pub async fn list(&self, task: Task, path: &str, size: u32, plus: bool) -> Done<Vec<String>> {
        let dir = self.opendir(task, path).await?;
        let (mut names, mut offset) = (Vec::new(), 0);
        let result = loop {
            match self.page(task, dir, offset, size, plus).await {
                Err(errno) => break Err(errno),
                Ok(page) if page.is_empty() => break Ok(names),
                Ok(page) => {
                    offset = page.last().expect("not empty").offset;
                    let name = |listed: Listed| String::from_utf8(listed.name).expect("a name of ours");
                    names.extend(page.into_iter().map(name).filter(|name| name != "." && name != ".."));
                }
            }
        };
        self.closedir(task, dir).await;
        result
    }
}
