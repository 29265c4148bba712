//! A listing as the server gave it, kept to be served again.
//!
//! It has what a page for the kernel needs beside handles and attributes, which are with the names and the inodes.
//! Positions in it are the server's cookies, so that a stream that begins here can continue at the server, even under
//! another daemon.

use std::sync::Arc;

use crate::version::Version;

/// One entry of a kept listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedName {
    /// The name.
    pub name: Vec<u8>,
    /// The place behind it.
    pub cookie: u64,
    /// The number by which applications know the object.
    pub ino: u64,
    /// Its type, as `DT_*`; 0: not known.
    pub kind: u8,
}

/// Some entries that follow each other, as the server gave them with one page.
struct Page {
    /// The place before the first entry.
    from: u64,
    /// Each entry: cookie, number, type, length of the name, name.
    bytes: Box<[u8]>,
}

/// A whole listing of a directory.
pub struct Listing {
    pages: Vec<Page>,
    version: Version,
    verifier: [u8; 8],
}

/// What an entry takes beside its name.
const HEAD: usize = 8 + 8 + 1 + 1;

impl Page {
    fn entries(&self) -> impl Iterator<Item = ListedName> + '_ {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (head, after) = rest.split_at_checked(HEAD)?;
            let number = |from: usize| u64::from_ne_bytes(head[from..from + 8].try_into().expect("8 bytes"));
            let (name, next) = after.split_at(head[17].into());
            rest = next;
            Some(ListedName { name: name.to_vec(), cookie: number(0), ino: number(8), kind: head[16] })
        })
    }
}

/// A listing that is being read.
pub struct Gathering {
    pages: Vec<Page>,
    version: Version,
    bytes: u64,
    bytes_max: u64,
}

impl Gathering {
    /// Begins with a directory of this version; given up beyond `bytes_max`.
    pub fn new(version: Version, bytes_max: u64) -> Gathering {
        Gathering { pages: Vec::new(), version, bytes: 0, bytes_max }
    }

    /// The version of the directory.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// What it takes of memory so far, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds the page behind the place `from`; `false` if it cannot be kept.
    pub fn add<'a>(&mut self, from: u64, entries: impl Iterator<Item = &'a ListedName>) -> bool {
        let mut bytes = Vec::new();
        for ListedName { name, cookie, ino, kind } in entries {
            let Ok(length) = u8::try_from(name.len()) else { return false };
            bytes.extend_from_slice(&cookie.to_ne_bytes());
            bytes.extend_from_slice(&ino.to_ne_bytes());
            bytes.extend_from_slice(&[*kind, length]);
            bytes.extend_from_slice(name);
        }
        self.bytes += bytes.len() as u64 + size_of::<Page>() as u64;
        self.pages.push(Page { from, bytes: bytes.into() });
        self.bytes <= self.bytes_max
    }

    /// The whole.
    pub fn finish(self, verifier: [u8; 8]) -> Listing {
        Listing { pages: self.pages, version: self.version, verifier }
    }
}

impl Listing {
    /// The version of the directory whose listing it is.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// With which the server goes on behind a place in it.
    pub fn verifier(&self) -> [u8; 8] {
        self.verifier
    }

    /// How many pages the server took for it.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// The page behind the place `from`, and whether it is the last one; `None` if no page begins there.
    pub fn page(&self, from: u64) -> Option<(impl Iterator<Item = ListedName> + '_, bool)> {
        let index = self.pages.iter().position(|page| page.from == from)?;
        Some((self.pages[index].entries(), index + 1 == self.pages.len()))
    }

    /// What it takes of memory, in bytes.
    pub(super) fn bytes(self: &Arc<Self>) -> u64 {
        let pages = self.pages.iter().map(|page| page.bytes.len() + size_of::<Page>()).sum::<usize>();
        (size_of::<Listing>() + pages) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::attr;

    fn listed(name: &[u8], cookie: u64) -> ListedName {
        ListedName { name: name.to_vec(), cookie, ino: 70 + cookie, kind: 8 }
    }

    #[test]
    fn pages_come_back_as_they_were_given() {
        let version = Version::of(&attr(1, 1));
        let mut gathering = Gathering::new(version, 1000);
        let entries: Vec<ListedName> = (1..7).map(|cookie| listed(&b"some name"[..cookie as usize], cookie)).collect();
        assert!(gathering.add(0, entries[..3].iter()) && gathering.add(3, entries[3..].iter()));
        let listing = Arc::new(gathering.finish(*b"verifier"));
        assert_eq!((listing.version(), listing.verifier(), listing.pages()), (&version, *b"verifier", 2));
        let (page, is_last) = listing.page(3).expect("a page begins there");
        let names: Vec<ListedName> = page.collect();
        assert_eq!(names, entries[3..]);
        assert_eq!((names.len(), is_last, listing.page(0).map(|(_, is_last)| is_last)), (3, true, Some(false)));
        assert!(listing.page(2).is_none(), "in the middle of a page");
        assert!(listing.bytes() > 6 * HEAD as u64);
    }

    #[test]
    fn a_listing_that_is_too_large_is_not_kept() {
        let mut gathering = Gathering::new(Version::of(&attr(1, 1)), 100);
        assert!(gathering.add(0, [listed(b"name", 1)].iter()));
        assert!((1..10).any(|from| !gathering.add(from, [listed(b"name", from + 1)].iter())));
        let long = [listed(&[b'x'; 300], 1)];
        assert!(
            !Gathering::new(Version::of(&attr(1, 1)), 1 << 20).add(0, long.iter()),
            "of no server that is to be believed"
        );
    }
}
