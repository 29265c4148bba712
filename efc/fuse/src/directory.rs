//! Pages of directory entries, built in the wire form of READDIR or READDIRPLUS.
//!
//! A page lies in a resident buffer, because it is written to the kernel from there.

use efc_buffer::{Buffer, PAYLOAD_MAX};

use crate::abi::{self, Field};
use crate::request::Entry;
use crate::wire;

/// Entries start at multiples of this many bytes.
const ALIGNMENT: usize = 8;

/// A directory page under construction, never larger than the request's size.
pub struct Directory {
    buffer: Buffer,
    length: usize,
    limit: usize,
    plus: bool,
}

impl Directory {
    /// A page of at most `size` bytes (and at most 1 MiB) in `buffer`; `plus` for READDIRPLUS.
    pub fn new(buffer: Buffer, size: u32, plus: bool) -> Directory {
        let limit = (size as usize).min(buffer.len()).min(PAYLOAD_MAX);
        Directory { buffer, length: 0, limit, plus }
    }

    /// Adds an entry; `false`, and nothing added, if it does not fit. `kind` is the DT_* type. `offset` is where the next page
    /// continues behind it. In a READDIRPLUS page `entry` is the full answer (None: type and ino only, no lookup counted).
    pub fn push(&mut self, ino: u64, offset: u64, kind: u8, name: &[u8], entry: Option<&Entry>) -> bool {
        let head = if self.plus { abi::EntryOut::SIZE } else { 0 };
        let size = (head + abi::Dirent::SIZE + name.len()).next_multiple_of(ALIGNMENT);
        if size > self.limit - self.length {
            return false;
        }
        let bytes = &mut self.buffer[self.length..self.length + size];
        if self.plus {
            entry.map(wire::entry).unwrap_or_default().put(bytes);
        }
        let (dirent, tail) = bytes[head..].split_at_mut(abi::Dirent::SIZE);
        abi::Dirent { ino, offset, name_length: name.len() as u32, kind: u32::from(kind) }.put(dirent);
        let (text, padding) = tail.split_at_mut(name.len());
        text.copy_from_slice(name);
        padding.fill(0);
        self.length += size;
        true
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (node, ino, offset, kind, name) of each entry, read back as the kernel would.
    fn parse(page: &Directory) -> Vec<(u64, u64, u64, u32, Vec<u8>)> {
        let mut bytes = page.bytes();
        let mut entries = Vec::new();
        while !bytes.is_empty() {
            let (node, head) =
                if page.plus { (abi::EntryOut::get(bytes).unwrap().node, abi::EntryOut::SIZE) } else { (0, 0) };
            let dirent = abi::Dirent::get(&bytes[head..]).unwrap();
            let start = head + abi::Dirent::SIZE;
            let end = start + dirent.name_length as usize;
            entries.push((node, dirent.ino, dirent.offset, dirent.kind, bytes[start..end].to_vec()));
            assert!(bytes[end..end.next_multiple_of(8)].iter().all(|&byte| byte == 0), "padding leaks old contents");
            bytes = &bytes[end.next_multiple_of(8)..];
        }
        entries
    }

    #[test]
    fn entries_are_aligned_and_padded() {
        let mut page = Directory::new(Buffer::new(1).unwrap(), 4096, false);
        page.buffer.fill(0xff);
        assert!(page.is_empty());
        for length in 1..20_usize {
            assert!(page.push(length as u64, 100 + length as u64, 8, &vec![b'n'; length], None));
        }
        let entries = parse(&page);
        assert_eq!(entries.len(), 19);
        assert_eq!(entries[2], (0, 3, 103, 8, b"nnn".to_vec()));
    }

    #[test]
    fn plus_entries_carry_the_node_or_nothing() {
        let mut page = Directory::new(Buffer::new(1).unwrap(), 4096, true);
        page.buffer.fill(0xff);
        let entry = Entry { node: 77, ..Entry::default() };
        assert!(page.push(1, 1, 4, b".", None));
        assert!(page.push(2, 2, 8, b"file", Some(&entry)));
        let nodes: Vec<u64> = parse(&page).iter().map(|entry| entry.0).collect();
        assert_eq!(nodes, [0, 77]);
        assert_eq!(abi::EntryOut::get(page.bytes()), Some(abi::EntryOut::default()));
    }

    #[test]
    fn what_does_not_fit_is_not_added() {
        let mut page = Directory::new(Buffer::new(1).unwrap(), 64, false);
        assert!(page.push(1, 1, 8, b"12345678", None)); // 32 bytes
        assert!(!page.push(2, 2, 8, b"123456789", None)); // 40 bytes
        assert!(page.push(3, 3, 8, b"87654321", None));
        assert!(!page.push(4, 4, 8, b"x", None));
        assert_eq!(page.bytes().len(), 64);
        assert!(!Directory::new(Buffer::new(1).unwrap(), 0, false).push(1, 1, 8, b"x", None));
        assert!(!Directory::new(Buffer::new(PAYLOAD_MAX).unwrap(), u32::MAX, false).push(
            1,
            1,
            8,
            &vec![b'x'; PAYLOAD_MAX],
            None
        ));
    }
}
