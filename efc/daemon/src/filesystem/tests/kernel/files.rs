//! System calls about a file and its data.

use super::*;

/// Others may run for a while of up to so many microseconds.
#[cfg(not(feature = "shuttle"))]
async fn linger(micros_max: u64) {
    let micros = simulation::current().map_or(0, |simulation| simulation.draw(micros_max));
    efc_tasks::time::sleep(Duration::from_micros(micros)).await;
}

/// The schedule explorer lets others run wherever a lock is taken.
#[cfg(feature = "shuttle")]
async fn linger(_micros_max: u64) {}

impl Kernel {
    /// open(2) of a file; with O_CREAT and O_EXCL as given.
    pub async fn open(&self, task: Task, path: &str, flags: i32) -> Done<File> {
        if flags & libc::O_CREAT != 0 {
            let created = self.create(task, path, flags).await;
            if created != Err(libc::EEXIST) || flags & libc::O_EXCL != 0 {
                return created;
            }
        }
        let file = self.at_path(task, path, async |node| self.open_node(task, node, flags).await).await?;
        if flags & libc::O_TRUNC != 0 {
            let change = SetAttr { size: Some(0), fh: Some(file.fh), ..SetAttr::default() };
            if let Err(errno) = self.set(task, file.node, change).await {
                let _ = self.close(task, file).await;
                return Err(errno);
            }
        }
        Ok(file)
    }

    pub async fn open_node(&self, task: Task, node: u64, flags: i32) -> Done<File> {
        let asked = (flags & !(libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC)) as u32;
        let is_unasked = self.0.tables().opens_unasked;
        let opened = if is_unasked {
            Err(libc::ENOSYS)
        } else {
            self.ask(task, node, move || Operation::Open { flags: asked }).await
        };
        if opened == Err(libc::ENOSYS) {
            return Ok(self.open_unasked(node, flags));
        }
        let content = opened?;
        let opened = Content(&content).open().ok_or(libc::EIO)?;
        let mut tables = self.0.tables();
        if opened.flags & (FOPEN_KEEP_CACHE | FOPEN_DIRECT_IO) == 0 {
            tables.drop_pages(node, 0, u64::MAX);
        }
        if let Some(inode) = tables.inodes.get_mut(&node) {
            inode.users += 1;
            inode.mode.enter(&opened, self.0.registry.as_deref());
        }
        Ok(File { node, fh: opened.fh, flags, open_flags: opened.flags })
    }

    /// An open that the daemon hears nothing of.
    fn open_unasked(&self, node: u64, flags: i32) -> File {
        let mut tables = self.0.tables();
        tables.opens_unasked = true;
        if let Some(inode) = tables.inodes.get_mut(&node) {
            inode.users += 1;
        }
        File { node, fh: 0, flags, open_flags: FOPEN_KEEP_CACHE }
    }

    /// `EEXIST` here also says that the name is known: the caller opens it.
    async fn create(&self, task: Task, path: &str, flags: i32) -> Done<File> {
        self.in_directory(task, path, async |parent, name| {
            match self.walk_name(task, parent, name, false).await {
                Ok(_) => return Err(libc::EEXIST),
                Err(libc::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
            let (asked, version) = (name.as_bytes().to_vec(), self.version());
            let content = self
                .ask(task, parent, move || Operation::Create {
                    name: asked.clone(),
                    mode: libc::S_IFREG | 0o666,
                    umask: 0,
                    flags: flags as u32,
                })
                .await?;
            let (entry, opened) = Content(&content).create().ok_or(libc::EIO)?;
            let mut tables = self.0.tables();
            tables.take_entry(parent, name.as_bytes(), &entry, version);
            let inode = tables.inodes.get_mut(&entry.node).expect("taken");
            inode.users += 1;
            inode.mode.enter(&opened, self.0.registry.as_deref());
            Ok(File { node: entry.node, fh: opened.fh, flags, open_flags: opened.flags })
        })
        .await
    }

    /// Attributes that may be believed, asked for if need be; with `file`, through it.
    pub async fn attributes(&self, task: Task, node: u64, file: Option<File>) -> Done<Attr> {
        let fresh = {
            let tables = self.0.tables();
            let inode = tables.inodes.get(&node).ok_or(libc::ESTALE)?;
            (inode.attr_until > efc_tasks::time::now()).then_some(inode.attr)
        };
        match fresh {
            Some(attr) => Ok(attr),
            None => self.ask_attributes(task, node, file).await,
        }
    }

    async fn ask_attributes(&self, task: Task, node: u64, file: Option<File>) -> Done<Attr> {
        let (version, fh) = (self.version(), file.map(|file| file.fh));
        let content = self.ask(task, node, move || Operation::Getattr { fh }).await?;
        let (attr, ttl) = Content(&content).attr().ok_or(libc::EIO)?;
        let is_cut = self.0.tables().believe(node, &attr, ttl, version);
        if is_cut {
            // A thread that has taken another size is not at once where it cuts the pages off, nor where it drops what is left of them.
            linger(500).await;
            self.0.tables().zero_behind(node, attr.size);
            linger(200).await;
            self.0.tables().drop_pages(node, 0, u64::MAX);
        }
        Ok(attr)
    }

    /// Where the file ends for the kernel, which is not asked for.
    pub fn size_in_kernel(&self, file: File) -> u64 {
        self.0.tables().inodes[&file.node].attr.size
    }

    /// stat(2)
    pub async fn stat(&self, task: Task, path: &str) -> Done<Attr> {
        self.at_path(task, path, async |node| self.attributes(task, node, None).await).await
    }

    /// read(2) at a place; as much as there is.
    pub async fn read(&self, task: Task, file: File, offset: u64, length: usize) -> Done<Vec<u8>> {
        if file.open_flags & FOPEN_DIRECT_IO != 0 {
            return self.ask_read(task, file, offset, length).await;
        }
        if file.open_flags & FOPEN_PASSTHROUGH != 0 {
            let tables = self.0.tables();
            return Ok(tables.inodes.get(&file.node).ok_or(libc::ESTALE)?.mode.read(offset, length));
        }
        let end = offset + length as u64;
        let is_known = {
            let tables = self.0.tables();
            let inode = tables.inodes.get(&file.node).ok_or(libc::ESTALE)?;
            inode.attr_until > efc_tasks::time::now() && end <= inode.attr.size
        };
        if !is_known {
            self.ask_attributes(task, file.node, Some(file)).await?;
        }
        let mut data = Vec::new();
        let mut at = offset;
        while at < end {
            let (size, page) = {
                let tables = self.0.tables();
                let inode = tables.inodes.get(&file.node).ok_or(libc::ESTALE)?;
                (inode.attr.size, inode.pages.get(&(at / PAGE)).cloned())
            };
            if at >= size {
                break;
            }
            let page = match page {
                Some(page) => page,
                None => self.fill_page(task, file, at / PAGE).await?,
            };
            // The size may have been learned anew with the page.
            let size = self.0.tables().inodes.get(&file.node).map_or(size, |inode| inode.attr.size);
            let stop = end.min(size).min((at / PAGE + 1) * PAGE);
            if stop <= at {
                break;
            }
            data.extend_from_slice(&page[(at % PAGE) as usize..(at % PAGE + (stop - at)) as usize]);
            at = stop;
        }
        Ok(data)
    }

    /// A READ as the kernel sends it, past its pages.
    pub async fn ask_read(&self, task: Task, file: File, offset: u64, length: usize) -> Done<Vec<u8>> {
        let File { fh, flags, .. } = file;
        let size = length as u32;
        self.ask(task, file.node, move || Operation::Read { fh, offset, size, flags: flags as u32 }).await
    }

    /// ioctl(2) that takes and gives these bytes.
    pub async fn ioctl(&self, task: Task, file: File, command: u32, data: &[u8]) -> Done<Vec<u8>> {
        let (fh, data) = (file.fh, data.to_vec());
        let answer = self.ask(task, file.node, move || Operation::Ioctl { fh, command, data: data.clone() }).await?;
        Content(&answer).ioctl().map(<[u8]>::to_vec).ok_or(libc::EIO)
    }

    async fn fill_page(&self, task: Task, file: File, page: u64) -> Done<Vec<u8>> {
        let (epoch, version) = {
            let mut tables = self.0.tables();
            let version = tables.attr_version;
            let inode = tables.inodes.get_mut(&file.node).ok_or(libc::ESTALE)?;
            inode.reads += 1;
            (inode.epoch, version)
        };
        let read = self.ask_read(task, file, page * PAGE, PAGE as usize).await;
        let mut tables = self.0.tables();
        let next = tables.next_version();
        let Some(inode) = tables.inodes.get_mut(&file.node) else { return Err(libc::ESTALE) };
        inode.reads -= 1;
        let result = read.map(|mut data| {
            let end = page * PAGE + data.len() as u64;
            if (data.len() as u64) < PAGE && inode.attr_version <= version && end < inode.attr.size {
                inode.attr.size = end;
                inode.attr_version = next;
            }
            data.resize(PAGE as usize, 0);
            if inode.epoch == epoch {
                inode.pages.insert(page, data.clone());
            }
            data
        });
        drop(tables);
        self.0.ended.notify_waiters();
        result
    }

    /// write(2) at a place; at the end of a file that is open with O_APPEND.
    pub async fn write(&self, task: Task, file: File, offset: u64, data: &[u8]) -> Done<u64> {
        let lock = self.lock_of(file.node);
        let _locked = lock.write().await;
        let offset = if file.flags & libc::O_APPEND != 0 {
            self.attributes(task, file.node, Some(file)).await?.size
        } else {
            offset
        };
        self.send_write(task, file, offset, data, 0).await?;
        let mut tables = self.0.tables();
        let version = tables.next_version();
        let Some(inode) = tables.inodes.get_mut(&file.node) else { return Err(libc::ESTALE) };
        let end = offset + data.len() as u64;
        inode.attr.size = inode.attr.size.max(end);
        (inode.attr_version, inode.attr_until) = (version, efc_tasks::time::now());
        inode.epoch += 1; // the kernel's lock of a page keeps READs of it out meanwhile
        if file.open_flags & FOPEN_DIRECT_IO != 0 {
            tables.drop_pages(file.node, offset / PAGE, end / PAGE);
            return Ok(offset);
        }
        for (index, byte) in data.iter().enumerate() {
            let at = offset + index as u64;
            if let Some(page) = inode.pages.get_mut(&(at / PAGE)) {
                page[(at % PAGE) as usize] = *byte;
            }
        }
        Ok(offset)
    }

    /// A page of a shared mapping is written back.
    pub async fn write_back(&self, task: Task, file: File, offset: u64, data: &[u8]) -> Done<()> {
        self.send_write(task, file, offset, data, 1).await
    }

    async fn send_write(&self, task: Task, file: File, offset: u64, data: &[u8], write_flags: u32) -> Done<()> {
        let (data, length) = (Bytes::copy_from_slice(data), data.len());
        let File { node, fh, flags, .. } = file;
        let write = move || Operation::Write { fh, offset, data: data.clone(), flags: flags as u32, write_flags };
        let content = self.ask(task, node, write).await?;
        let written = Content(&content).written().ok_or(libc::EIO)?;
        assert_eq!(written as usize, length, "a WRITE is taken whole");
        Ok(())
    }

    /// fsync(2)
    pub async fn fsync(&self, task: Task, file: File) -> Done<()> {
        let fh = file.fh;
        self.ask(task, file.node, move || Operation::Fsync { fh, datasync: false }).await.map(drop)
    }

    /// close(2) of the only descriptor; the RELEASE goes out without being waited for.
    pub async fn close(&self, task: Task, file: File) -> Done<()> {
        let flushed = if file.open_flags & FOPEN_NOFLUSH != 0 { Ok(()) } else { self.flush(task, file).await };
        self.release(file);
        flushed
    }

    /// close(2) of one of several descriptors.
    pub async fn flush(&self, task: Task, file: File) -> Done<()> {
        let fh = file.fh;
        if self.0.tables().flushes_unasked {
            return Ok(());
        }
        let flushed = self.ask(task, file.node, move || Operation::Flush { fh }).await.map(drop);
        if flushed == Err(libc::ENOSYS) {
            self.0.tables().flushes_unasked = true;
            return Ok(());
        }
        flushed
    }

    fn release(&self, file: File) {
        let mut tables = self.0.tables();
        if file.fh == 0 {
            tables.inodes.get_mut(&file.node).into_iter().for_each(|inode| inode.users -= 1);
            return;
        }
        tables.releases += 1;
        if let Some(inode) = tables.inodes.get_mut(&file.node) {
            inode.mode.leave(file.open_flags);
        }
        drop(tables);
        let kernel = self.clone();
        efc_tasks::spawn_outside(async move {
            let (fh, flags) = (file.fh, file.flags as u32);
            let released = move || Operation::Release { fh, flags, release_flags: 0 };
            let _ = kernel.ask(Task { tid: 0, uid: 0 }, file.node, released).await;
            let mut tables = kernel.0.tables();
            tables.releases -= 1;
            if let Some(inode) = tables.inodes.get_mut(&file.node) {
                inode.users -= 1;
            }
            drop(tables);
            kernel.0.ended.notify_waiters();
        });
    }

    /// Ends when all RELEASEs are answered.
    pub async fn released(&self) {
        self.0.until(|| self.0.tables().releases == 0).await;
    }

    /// SETATTR, with the inode's lock held.
    async fn set(&self, task: Task, node: u64, change: SetAttr) -> Done<Attr> {
        let lock = self.lock_of(node);
        let _locked = lock.write().await;
        let version = self.version();
        let content = self.ask(task, node, move || Operation::Setattr(change)).await?;
        let (attr, ttl) = Content(&content).attr().ok_or(libc::EIO)?;
        let mut tables = self.0.tables();
        if change.size.is_some() {
            tables.inval_attributes(node);
            tables.drop_pages(node, attr.size / PAGE, u64::MAX);
            let now = tables.attr_version;
            tables.take_attributes(node, &attr, ttl, now);
        } else {
            tables.take_attributes(node, &attr, ttl, version);
        }
        Ok(attr)
    }

    /// truncate(2), chmod(2), utimes(2)
    pub async fn setattr(&self, task: Task, path: &str, change: SetAttr) -> Done<Attr> {
        self.at_path(task, path, async |node| self.set(task, node, change).await).await
    }
}
