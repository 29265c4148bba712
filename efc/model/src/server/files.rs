//! Calls about one object: attributes, rights, data.

use super::*;

impl Server {
    pub fn getattr(&mut self, handle: &FileHandle) -> Done<Attr> {
        let attr = self.object(handle)?.attr();
        if self.is_due(Fault::OtherType) {
            let kind = if attr.kind == FileType::Regular { FileType::Directory } else { FileType::Regular };
            return Ok(Attr { kind, ..attr });
        }
        Ok(attr)
    }

    pub fn setattr(&mut self, cred: &Cred, handle: &FileHandle, change: &SetAttr) -> Done<Wcc> {
        let (cred, now, granularity) = (self.seen_as(cred), self.now(), self.options.granularity);
        let number = self.number(handle)?;
        let object = self.object_mut(handle)?;
        let before = object.wcc();
        object.check_change(&cred, change)?;
        if let Some(size) = change.size {
            object.content()?.change(Change::Truncate(size as usize));
            object.data_changed(now);
        }
        object.set(change, now, granularity);
        Ok(self.wcc(before, number))
    }

    pub(super) fn search(&self, cred: &Cred, dir: &FileHandle) -> Done<&Directory> {
        let object = self.object(dir)?;
        let directory = object.directory()?;
        object.check(cred, EXECUTE)?;
        Ok(directory)
    }

    pub fn lookup(&mut self, cred: &Cred, dir: &FileHandle, name: &[u8]) -> Done<Lookup> {
        let cred = self.seen_as(cred);
        let directory = self.search(&cred, dir)?;
        if name.len() > NAME_MAX {
            return Err(Status::NameTooLong);
        }
        let number = match name {
            b"." => self.number(dir)?,
            b".." => directory.parent,
            _ => directory.get(name).ok_or(Status::NoEnt)?,
        };
        let attr = self.options.has_attributes.then(|| self.objects[&number].attr());
        let dir_attr = self.options.has_attributes.then(|| self.object(dir).expect("searched").attr());
        Ok(Lookup { handle: self.handle_of(number), attr, dir_attr })
    }

    pub fn access(&mut self, cred: &Cred, handle: &FileHandle, asked: u32) -> Done<(u32, Option<Attr>)> {
        let cred = self.seen_as(cred);
        let object = self.object(handle)?;
        let is_directory = object.attr.kind == FileType::Directory;
        let may = |bit: u32| object.granted(&cred, bit) == bit;
        let mut granted = 0;
        if may(READ) {
            granted |= access::READ;
        }
        if may(WRITE) {
            granted |= access::MODIFY | access::EXTEND | if is_directory { access::DELETE } else { 0 };
        }
        if may(EXECUTE) {
            granted |= if is_directory { access::LOOKUP } else { access::EXECUTE };
        }
        Ok((granted & asked, Some(object.attr())))
    }

    pub fn readlink(&mut self, handle: &FileHandle) -> Done<(Vec<u8>, Option<Attr>)> {
        let object = self.object(handle)?;
        match &object.body {
            Body::Link(target) => Ok((target.clone(), Some(object.attr()))),
            _ => Err(Status::Inval),
        }
    }

    pub fn read(&mut self, cred: &Cred, handle: &FileHandle, offset: u64, count: usize) -> Done<(Vec<u8>, Read)> {
        let (cred, count) = (self.seen_as(cred), count.min(self.options.transfer_max as usize));
        let is_short = self.is_due(Fault::ShortRead);
        let has_attributes = self.options.has_attributes;
        let object = self.object_mut(handle)?;
        // A program that may be executed may be read for it.
        object.check_data(&cred, READ).or_else(|status| object.check(&cred, EXECUTE).map_err(|_| status))?;
        let attr = object.attr();
        let data = &object.content()?.data;
        let begin = (offset as usize).min(data.len());
        let mut bytes = data[begin..(begin + count).min(data.len())].to_vec();
        let mut eof = begin + bytes.len() == data.len();
        if is_short && bytes.len() > 1 {
            bytes.truncate(bytes.len().div_ceil(2));
            eof = false;
        }
        let read = Read { count: bytes.len() as u32, eof, attr: has_attributes.then_some(attr) };
        Ok((bytes, read))
    }

    pub fn write(
        &mut self,
        cred: &Cred,
        handle: &FileHandle,
        offset: u64,
        data: &[u8],
        stable: Stable,
    ) -> Done<Written> {
        let (cred, now, verifier) = (self.seen_as(cred), self.now(), self.write_verifier);
        let is_short = self.is_due(Fault::ShortWrite);
        let taken = data.len().min(self.options.transfer_max as usize);
        let taken = if is_short { taken.div_ceil(2) } else { taken };
        let number = self.number(handle)?;
        let object = self.object_mut(handle)?;
        let before = object.wcc();
        object.check_data(&cred, WRITE)?;
        let is_stable = stable != Stable::Unstable;
        let change = Change::Write { offset: offset as usize, data: data[..taken].to_vec(), is_stable };
        object.content()?.change(change);
        object.data_changed(now);
        Ok(Written { count: taken as u32, stable, verifier, wcc: self.wcc(before, number) })
    }

    pub fn commit(&mut self, handle: &FileHandle) -> Done<Committed> {
        let (number, verifier) = (self.number(handle)?, self.write_verifier);
        let object = self.object_mut(handle)?;
        let before = object.wcc();
        object.content()?.commit();
        Ok(Committed { verifier, wcc: self.wcc(before, number) })
    }
}
