//! Walks along paths.

use super::*;

impl Kernel {
    /// LOOKUP, as a walk does for a name that is not trusted any more.
    async fn look_up(&self, task: Task, parent: u64, name: &[u8]) -> Done<u64> {
        let (asked, version) = (name.to_vec(), self.version());
        let answer = self.ask(task, parent, move || Operation::Lookup { name: asked.clone() }).await;
        let mut tables = self.0.tables();
        match answer {
            Ok(content) => {
                let entry = Content(&content).entry().ok_or(libc::EIO)?;
                tables.take_entry(parent, name, &entry, version);
                Ok(entry.node)
            }
            Err(errno) => {
                if errno != libc::ENOMEM && errno != libc::EINTR {
                    tables.dentries.remove(&(parent, name.to_vec()));
                }
                Err(errno)
            }
        }
    }

    /// The node of a name, trusted as long as the daemon said, or asked anew.
    pub async fn walk_name(&self, task: Task, parent: u64, name: &str, is_trusting: bool) -> Done<u64> {
        let known = {
            let tables = self.0.tables();
            let dentry = tables.dentries.get(&(parent, name.as_bytes().to_vec()));
            dentry.filter(|dentry| is_trusting && dentry.until > efc_tasks::time::now()).map(|dentry| dentry.node)
        };
        match known {
            Some(node) => Ok(node),
            None => self.look_up(task, parent, name.as_bytes()).await,
        }
    }

    pub(super) fn hold(&self, node: u64) -> Held {
        if let Some(inode) = self.0.tables().inodes.get_mut(&node) {
            inode.users += 1;
        }
        Held { kernel: self.clone(), node }
    }

    async fn walk_once(&self, task: Task, path: &str, is_trusting: bool) -> Done<Held> {
        let mut held = self.hold(ROOT);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            held = self.hold(self.walk_name(task, held.node, name, is_trusting).await?);
        }
        Ok(held)
    }

    /// Does something with what a path leads to; once more, with all names asked anew, if that is ESTALE.
    pub(super) async fn at_path<T>(&self, task: Task, path: &str, act: impl AsyncFn(u64) -> Done<T>) -> Done<T> {
        for is_trusting in [true, false] {
            let result = match self.walk_once(task, path, is_trusting).await {
                Ok(held) => act(held.node).await,
                Err(errno) => Err(errno),
            };
            if result.as_ref().err() != Some(&libc::ESTALE) || !is_trusting {
                return result;
            }
        }
        unreachable!("the second walk is the last one")
    }

    pub(super) fn split(path: &str) -> (&str, &str) {
        path.rsplit_once('/').unwrap_or(("", path))
    }

    /// Does something in the directory of a path, whose lock is held.
    pub(super) async fn in_directory<T>(
        &self,
        task: Task,
        path: &str,
        act: impl AsyncFn(u64, &str) -> Done<T>,
    ) -> Done<T> {
        let (dir, name) = Self::split(path);
        self.at_path(task, dir, async |parent| {
            let lock = self.lock_of(parent);
            let _locked = lock.write().await;
            act(parent, name).await
        })
        .await
    }
}
