//! The map of ids of an id-mapped mount: which ids the kernel's are on the file system.

/// `count` ids: `inside` and following ones of the file system are `kernel` and following ones to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First id on the file system.
    pub inside: u32,
    /// First id as the kernel knows callers.
    pub kernel: u32,
    /// How many.
    pub count: u32,
}

impl Extent {
    /// Reads "INSIDE KERNEL COUNT".
    pub fn parse(text: &str) -> Option<Extent> {
        let mut numbers = text.split_ascii_whitespace().map(|number| number.parse().ok());
        let extent = Extent { inside: numbers.next()??, kernel: numbers.next()??, count: numbers.next()?? };
        numbers.next().is_none().then_some(extent)
    }

    fn map(&self, id: u32) -> Option<u32> {
        let distance = id.checked_sub(self.kernel).filter(|distance| *distance < self.count)?;
        self.inside.checked_add(distance)
    }
}

/// The map of an id-mapped mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    /// Of users.
    pub uids: Vec<Extent>,
    /// Of groups.
    pub gids: Vec<Extent>,
}

impl IdMap {
    /// A user's id on the file system; `None` for one who has none.
    pub fn uid(&self, uid: u32) -> Option<u32> {
        self.uids.iter().find_map(|extent| extent.map(uid))
    }

    /// A group's id on the file system.
    pub fn gid(&self, gid: u32) -> Option<u32> {
        self.gids.iter().find_map(|extent| extent.map(gid))
    }

    /// In bytes, as it travels from one process to another.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let extents = self.uids.iter().chain(&self.gids);
        let numbers = extents.flat_map(|extent| [extent.inside, extent.kernel, extent.count]);
        [self.uids.len() as u32, self.gids.len() as u32].into_iter().chain(numbers).flat_map(u32::to_ne_bytes).collect()
    }

    /// The map of these bytes; `None` if they are not of one.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<IdMap> {
        let (words, []) = bytes.as_chunks::<4>() else { return None };
        let numbers: Vec<u32> = words.iter().map(|word| u32::from_ne_bytes(*word)).collect();
        let ([uids, gids], rest) = numbers.split_first_chunk()?;
        let (triples, []) = rest.as_chunks::<3>() else { return None };
        if triples.len() != *uids as usize + *gids as usize {
            return None;
        }
        let mut extents: Vec<Extent> = triples
            .iter()
            .map(|[inside, kernel, count]| Extent { inside: *inside, kernel: *kernel, count: *count })
            .collect();
        let gids = extents.split_off(*uids as usize);
        Some(IdMap { uids: extents, gids })
    }
}

/// The map of a pod whose root is `kernel`.
#[cfg(test)]
pub(super) fn pod(kernel: u32) -> IdMap {
    let extents = vec![Extent { inside: 0, kernel, count: 65_536 }];
    IdMap { uids: extents.clone(), gids: extents }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_pod() {
        let map = pod(100_000);
        assert_eq!(
            [99_999, 100_000, 101_000, 165_535, 165_536].map(|id| map.uid(id)),
            [None, Some(0), Some(1000), Some(65_535), None]
        );
        assert_eq!(map.gid(100_001), Some(1));
        let wraps = Extent { inside: u32::MAX, kernel: 5, count: 3 };
        assert_eq!([4, 5, 6].map(|id| wraps.map(id)), [None, Some(u32::MAX), None]);
    }

    #[test]
    fn maps_travel_whole_or_not_at_all() {
        let mut map = pod(1);
        map.uids.push(Extent { inside: 70_000, kernel: 5, count: 1 });
        for map in [map, pod(3), IdMap::default()] {
            let bytes = map.to_bytes();
            assert_eq!(IdMap::from_bytes(&bytes), Some(map));
            assert!((0..bytes.len()).all(|length| IdMap::from_bytes(&bytes[..length]).is_none()));
        }
    }

    #[test]
    fn extents_are_three_numbers() {
        assert_eq!(Extent::parse("0 100000 65536"), Some(Extent { inside: 0, kernel: 100_000, count: 65_536 }));
        for wrong in ["", "1 2", "1 2 3 4", "1 2 x", "1 2 4294967296", "-1 2 3"] {
            assert_eq!(Extent::parse(wrong), None, "{wrong}");
        }
    }
}
