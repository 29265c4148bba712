//! Calls about the names of a directory.

use super::*;

impl Server {
    /// A directory in which the caller may make and remove names, and its number.
    fn changeable(&self, cred: &Cred, dir: &FileHandle, name: &[u8]) -> Done<u64> {
        let object = self.object(dir)?;
        object.directory()?;
        object.check(cred, WRITE | EXECUTE)?;
        match name {
            b"" | b"." | b".." => Err(Status::Exist),
            _ if name.len() > NAME_MAX => Err(Status::NameTooLong),
            _ => self.number(dir),
        }
    }

    fn directory_mut(&mut self, number: u64) -> &mut Directory {
        match &mut self.objects.get_mut(&number).expect("a directory that is there").body {
            Body::Directory(directory) => directory,
            _ => unreachable!("it was checked"),
        }
    }

    fn insert_name(&mut self, directory: u64, name: &[u8], object: u64) {
        self.directory_mut(directory).insert(name, object);
        self.log_name(directory, name, Some(object));
    }

    fn remove_name(&mut self, directory: u64, name: &[u8]) {
        self.directory_mut(directory).remove(name);
        self.log_name(directory, name, None);
    }

    fn log_name(&mut self, directory: u64, name: &[u8], object: Option<u64>) {
        let fileid = object.map(|object| self.objects[&object].attr.fileid);
        self.names.push(NameChange { at: efc_tasks::time::now(), directory, name: name.to_vec(), fileid });
    }

    fn names_changed(&mut self, number: u64) {
        let now = self.now();
        self.objects.get_mut(&number).expect("a directory that is there").data_changed(now);
    }

    fn created(&self, number: u64, before: WccAttr, dir: u64) -> Created {
        let (handle, attr) = (self.handle_of(number), self.objects[&number].attr());
        let has_attributes = self.options.has_attributes;
        Created {
            handle: has_attributes.then_some(handle),
            attr: has_attributes.then_some(attr),
            dir: self.wcc(before, dir),
        }
    }

    /// Makes an object of this name, which is free.
    pub(super) fn make(&mut self, cred: &Cred, dir: u64, name: &[u8], kind: FileType, attr: &SetAttr) -> u64 {
        let (now, granularity, fsid) = (self.now(), self.options.granularity, self.objects[&dir].attr.fsid);
        let number = self.new_object(kind, cred, fsid);
        let inherited = (self.objects[&dir].attr.mode & 0o2000 != 0).then_some(self.objects[&dir].attr.gid);
        let object = self.objects.get_mut(&number).expect("made just now");
        object.set(&SetAttr { size: None, ..*attr }, now, granularity);
        object.attr.gid = inherited.unwrap_or(object.attr.gid);
        if kind == FileType::Directory {
            object.attr.nlink = 2;
            object.body = Body::Directory(Directory::new(dir, self.options.ignores_case));
            self.objects.get_mut(&dir).expect("a directory that is there").attr.nlink += 1;
        }
        self.insert_name(dir, name, number);
        self.names_changed(dir);
        number
    }

    pub fn create(&mut self, cred: &Cred, dir: &FileHandle, name: &[u8], how: CreateHow) -> Done<Created> {
        let cred = self.seen_as(cred);
        let directory = self.object(dir)?.directory()?;
        let known = directory.get(name);
        let before = self.object(dir)?.wcc();
        if let Some(number) = known {
            self.search(&cred, dir)?;
            let parent = self.number(dir)?;
            let object = &self.objects[&number];
            return match how {
                CreateHow::Exclusive(verifier) if object.verifier == Some(verifier) => {
                    Ok(self.created(number, before, parent))
                }
                CreateHow::Unchecked(_) if object.attr.kind == FileType::Directory => Err(Status::IsDir),
                CreateHow::Unchecked(attr) if object.attr.kind == FileType::Regular => {
                    if attr.size == Some(0) {
                        let handle = self.handle_of(number);
                        self.setattr(&cred, &handle, &SetAttr { size: Some(0), ..SetAttr::default() })?;
                    }
                    Ok(self.created(number, before, parent))
                }
                _ => Err(Status::Exist),
            };
        }
        let parent = self.changeable(&cred, dir, name)?;
        let (attr, verifier) = match how {
            CreateHow::Unchecked(attr) | CreateHow::Guarded(attr) => (attr, None),
            CreateHow::Exclusive(verifier) => (SetAttr::default(), Some(verifier)),
        };
        let number = self.make(&cred, parent, name, FileType::Regular, &attr);
        self.objects.get_mut(&number).expect("made just now").verifier = verifier;
        Ok(self.created(number, before, parent))
    }

    /// Makes what is no file, if the name is free.
    fn make_other(
        &mut self,
        cred: &Cred,
        (dir, name): (&FileHandle, &[u8]),
        kind: FileType,
        attr: &SetAttr,
        finish: impl FnOnce(&mut Object),
    ) -> Done<Created> {
        let cred = self.seen_as(cred);
        if self.object(dir)?.directory()?.get(name).is_some() {
            self.search(&cred, dir)?;
            return Err(Status::Exist);
        }
        let (parent, before) = (self.changeable(&cred, dir, name)?, self.object(dir)?.wcc());
        let number = self.make(&cred, parent, name, kind, attr);
        finish(self.objects.get_mut(&number).expect("made just now"));
        Ok(self.created(number, before, parent))
    }

    pub fn mkdir(&mut self, cred: &Cred, dir: &FileHandle, name: &[u8], attr: &SetAttr) -> Done<Created> {
        let mut made = self.make_other(cred, (dir, name), FileType::Directory, attr, |_| {})?;
        made.dir.before = made.dir.before.filter(|_| self.options.mkdir_has_before);
        Ok(made)
    }

    pub fn symlink(
        &mut self,
        cred: &Cred,
        dir: &FileHandle,
        name: &[u8],
        target: &[u8],
        attr: &SetAttr,
    ) -> Done<Created> {
        let link = |object: &mut Object| object.body = Body::Link(target.to_vec());
        self.make_other(cred, (dir, name), FileType::Symlink, attr, link)
    }

    pub fn mknod(
        &mut self,
        cred: &Cred,
        dir: &FileHandle,
        name: &[u8],
        node: NodeKind,
        attr: &SetAttr,
    ) -> Done<Created> {
        let (kind, rdev) = match node {
            NodeKind::Character(major, minor) => (FileType::Character, (major, minor)),
            NodeKind::Block(major, minor) => (FileType::Block, (major, minor)),
            NodeKind::Socket => (FileType::Socket, (0, 0)),
            NodeKind::Fifo => (FileType::Fifo, (0, 0)),
        };
        self.make_other(cred, (dir, name), kind, attr, |object| object.attr.rdev = rdev)
    }

    /// What a name that is to go leads to, if the caller may remove it.
    fn going(&self, cred: &Cred, dir: &FileHandle, name: &[u8]) -> Done<(u64, u64)> {
        let number = self.search(cred, dir)?.get(name).ok_or(Status::NoEnt)?;
        let parent = self.changeable(cred, dir, name)?;
        let (directory, object) = (&self.objects[&parent].attr, &self.objects[&number].attr);
        if directory.mode & 0o1000 != 0 && cred.uid != 0 && ![directory.uid, object.uid].contains(&cred.uid) {
            return Err(Status::Perm);
        }
        Ok((parent, number))
    }

    /// One name of an object less.
    fn unlink(&mut self, parent: u64, name: &[u8], number: u64) {
        let now = self.now();
        self.remove_name(parent, name);
        self.names_changed(parent);
        let object = self.objects.get_mut(&number).expect("it had a name");
        object.attr.ctime = now;
        let is_directory = object.attr.kind == FileType::Directory;
        object.attr.nlink = if is_directory { 0 } else { object.attr.nlink - 1 };
        let is_gone = object.attr.nlink == 0;
        if is_directory {
            self.objects.get_mut(&parent).expect("a directory that is there").attr.nlink -= 1;
        }
        if is_gone {
            self.objects.remove(&number);
            self.free.push_back(number);
        }
    }

    pub fn remove(&mut self, cred: &Cred, dir: &FileHandle, name: &[u8]) -> Done<Wcc> {
        let cred = self.seen_as(cred);
        let before = self.object(dir)?.wcc();
        let (parent, number) = self.going(&cred, dir, name)?;
        if self.objects[&number].attr.kind == FileType::Directory {
            return Err(Status::IsDir);
        }
        self.unlink(parent, name, number);
        Ok(self.wcc(before, parent))
    }

    pub fn rmdir(&mut self, cred: &Cred, dir: &FileHandle, name: &[u8]) -> Done<Wcc> {
        let cred = self.seen_as(cred);
        let before = self.object(dir)?.wcc();
        let (parent, number) = self.going(&cred, dir, name)?;
        if !self.objects[&number].directory()?.entries.is_empty() {
            return Err(Status::NotEmpty);
        }
        self.unlink(parent, name, number);
        Ok(self.wcc(before, parent))
    }

    pub fn rename(
        &mut self,
        cred: &Cred,
        (from_dir, from): (&FileHandle, &[u8]),
        (to_dir, to): (&FileHandle, &[u8]),
    ) -> Done<(Wcc, Wcc)> {
        let cred = self.seen_as(cred);
        let (from_before, to_before) = (self.object(from_dir)?.wcc(), self.object(to_dir)?.wcc());
        let (from_parent, number) = self.going(&cred, from_dir, from)?;
        let to_parent = self.changeable(&cred, to_dir, to)?;
        let is_directory = self.objects[&number].attr.kind == FileType::Directory;
        if is_directory && self.is_below(to_parent, number) {
            return Err(Status::Inval);
        }
        let replaced = self.objects[&to_parent].directory()?.get(to);
        if replaced == Some(number) {
            return Ok((self.wcc(from_before, from_parent), self.wcc(to_before, to_parent)));
        }
        if let Some(replaced) = replaced {
            self.going(&cred, to_dir, to)?;
            match (is_directory, &self.objects[&replaced].body) {
                (true, Body::Directory(directory)) if !directory.entries.is_empty() => return Err(Status::NotEmpty),
                (true, Body::Directory(_)) => {}
                (true, _) => return Err(Status::NotDir),
                (false, Body::Directory(_)) => return Err(Status::IsDir),
                (false, _) => {}
            }
            self.unlink(to_parent, to, replaced);
        }
        self.remove_name(from_parent, from);
        self.insert_name(to_parent, to, number);
        self.names_changed(from_parent);
        self.names_changed(to_parent);
        if is_directory && from_parent != to_parent {
            self.directory_mut(number).parent = to_parent;
            self.objects.get_mut(&from_parent).expect("there").attr.nlink -= 1;
            self.objects.get_mut(&to_parent).expect("there").attr.nlink += 1;
        }
        let now = self.now();
        self.objects.get_mut(&number).expect("there").attr.ctime = now;
        Ok((self.wcc(from_before, from_parent), self.wcc(to_before, to_parent)))
    }

    /// Is this directory the other one, or somewhere below it?
    fn is_below(&self, mut directory: u64, above: u64) -> bool {
        loop {
            if directory == above {
                return true;
            }
            match self.objects[&directory].directory() {
                Ok(found) if found.parent != directory => directory = found.parent,
                _ => return false,
            }
        }
    }

    pub fn link(&mut self, cred: &Cred, file: &FileHandle, dir: &FileHandle, name: &[u8]) -> Done<(Option<Attr>, Wcc)> {
        let cred = self.seen_as(cred);
        let number = self.number(file)?;
        if self.objects[&number].attr.kind == FileType::Directory {
            return Err(Status::IsDir);
        }
        let before = self.object(dir)?.wcc();
        if self.object(dir)?.directory()?.get(name).is_some() {
            return Err(Status::Exist);
        }
        let (parent, now) = (self.changeable(&cred, dir, name)?, self.now());
        self.insert_name(parent, name, number);
        self.names_changed(parent);
        let object = self.objects.get_mut(&number).expect("there");
        object.attr.nlink += 1;
        object.attr.ctime = now;
        let attr = object.attr();
        Ok((self.options.has_wcc.then_some(attr), self.wcc(before, parent)))
    }

    pub fn list(
        &mut self,
        cred: &Cred,
        dir: &FileHandle,
        cookie: u64,
        verifier: [u8; 8],
        bytes_max: u32,
    ) -> Done<DirPage> {
        let cred = self.seen_as(cred);
        let is_circle = self.is_due(Fault::Circle);
        let number = self.number(dir)?;
        let object = &self.objects[&number];
        let directory = object.directory()?;
        object.check(&cred, READ)?;
        let Time { seconds, nanos } = object.attr.mtime;
        let current = (u64::from(seconds) << 32 | u64::from(nanos)).to_be_bytes();
        let current = if self.options.checks_cookie_verifiers { current } else { [0; 8] };
        if cookie != 0 && self.options.checks_cookie_verifiers && verifier != current {
            return Err(Status::BadCookie);
        }
        let mut page = DirPage { dir_attr: Some(object.attr()), verifier: current, entries: Vec::new(), eof: true };
        let itself = [(1, &b"."[..], number), (2, &b".."[..], directory.parent)];
        let others = directory.entries.iter().map(|(cookie, (name, number))| (*cookie, name.as_slice(), *number));
        let hides_snapshots = self.options.hides_snapshots;
        let others = others.filter(|(_, name, _)| !hides_snapshots || *name != b".snapshot");
        let from = if is_circle { 0 } else { cookie };
        let mut bytes = 200;
        for (cookie, name, number) in itself.into_iter().chain(others).filter(|entry| entry.0 > from) {
            bytes += 200 + name.len();
            if page.entries.len() >= self.options.page_entries_max || bytes > bytes_max as usize {
                page.eof = false;
                break;
            }
            let object = &self.objects[&number];
            let has_attributes = self.options.has_attributes;
            page.entries.push(DirEntry {
                fileid: object.attr.fileid,
                name: name.to_vec(),
                cookie,
                attr: has_attributes.then(|| object.attr()),
                handle: has_attributes.then(|| self.handle_of(number)),
            });
        }
        if page.entries.is_empty() && !page.eof {
            return Err(Status::TooSmall);
        }
        page.eof &= !is_circle;
        Ok(page)
    }
}
