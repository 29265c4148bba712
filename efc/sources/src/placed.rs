//! What a source answers, as it is under the root: handles with the source's number behind them, file systems that are no other's.

use efc_backend::*;

use crate::handle;
use crate::table::Source;

/// An answer of a source.
pub(crate) trait Placed: Sized {
    /// The answer, under the root.
    fn placed<B>(self, source: &Source<B>) -> Self;
}

/// A reply of a source, or its failure.
pub(crate) fn reply<T: Placed, B>(source: &Source<B>, reply: Reply<T>) -> Reply<T> {
    match reply {
        Ok(Seen { value, asked }) => Ok(Seen { value: value.placed(source), asked }),
        Err(error) => Err(Error { attr: error.attr.placed(source), wcc: error.wcc.placed(source), ..error }),
    }
}

impl Placed for Attr {
    fn placed<B>(self, source: &Source<B>) -> Attr {
        source.placed(self)
    }
}

impl<T: Placed> Placed for Option<T> {
    fn placed<B>(self, source: &Source<B>) -> Option<T> {
        self.map(|value| value.placed(source))
    }
}

impl Placed for FileHandle {
    fn placed<B>(self, source: &Source<B>) -> FileHandle {
        // No NAS has handles that long; what there is of one that has is nothing that any call finds.
        handle::at(source.number, &self).unwrap_or(self)
    }
}

impl Placed for Wcc {
    fn placed<B>(self, source: &Source<B>) -> Wcc {
        Wcc { after: self.after.placed(source), ..self }
    }
}

impl Placed for (Wcc, Wcc) {
    fn placed<B>(self, source: &Source<B>) -> (Wcc, Wcc) {
        (self.0.placed(source), self.1.placed(source))
    }
}

impl Placed for (Option<Attr>, Wcc) {
    fn placed<B>(self, source: &Source<B>) -> (Option<Attr>, Wcc) {
        (self.0.placed(source), self.1.placed(source))
    }
}

impl Placed for (u32, Option<Attr>) {
    fn placed<B>(self, source: &Source<B>) -> (u32, Option<Attr>) {
        (self.0, self.1.placed(source))
    }
}

impl Placed for (Vec<u8>, Option<Attr>) {
    fn placed<B>(self, source: &Source<B>) -> (Vec<u8>, Option<Attr>) {
        (self.0, self.1.placed(source))
    }
}

impl Placed for Lookup {
    fn placed<B>(self, source: &Source<B>) -> Lookup {
        let Lookup { handle, attr, dir_attr } = self;
        Lookup { handle: handle.placed(source), attr: attr.placed(source), dir_attr: dir_attr.placed(source) }
    }
}

impl Placed for Created {
    fn placed<B>(self, source: &Source<B>) -> Created {
        let Created { handle, attr, dir } = self;
        Created { handle: handle.placed(source), attr: attr.placed(source), dir: dir.placed(source) }
    }
}

impl Placed for Read {
    fn placed<B>(self, source: &Source<B>) -> Read {
        Read { attr: self.attr.placed(source), ..self }
    }
}

impl Placed for Written {
    fn placed<B>(self, source: &Source<B>) -> Written {
        Written { wcc: self.wcc.placed(source), ..self }
    }
}

impl Placed for Committed {
    fn placed<B>(self, source: &Source<B>) -> Committed {
        Committed { wcc: self.wcc.placed(source), ..self }
    }
}

impl Placed for DirPage {
    fn placed<B>(mut self, source: &Source<B>) -> DirPage {
        self.dir_attr = self.dir_attr.placed(source);
        for entry in &mut self.entries {
            (entry.attr, entry.handle) = (entry.attr.placed(source), entry.handle.placed(source));
        }
        self
    }
}

impl Placed for FsStat {
    fn placed<B>(self, _source: &Source<B>) -> FsStat {
        self
    }
}
