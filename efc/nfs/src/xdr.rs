//! XDR (RFC 4506) as far as ONC RPC and NFSv3 need it.
//!
//! Written by hand rather than derived: a dozen primitives cover the protocol, a READ reply and a WRITE call must
//! leave their payload out of the structure anyway, and hostile input is met in one place. The decoder borrows from
//! one reply, which the transport has bounded already; it never allocates more than that reply holds, never indexes
//! past it, and returns [`Malformed`] for everything that does not fit.

/// The reply ends too early, or a length or a discriminant is out of its range; the word says where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub &'static str);

pub(crate) type Decoded<T> = Result<T, Malformed>;

/// Zero bytes that follow `len` bytes of opaque data.
pub(crate) fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// Appends XDR to a message.
pub(crate) struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// Nearly every call fits without growing.
    const CAPACITY: usize = 384;

    pub(crate) fn new() -> Encoder {
        Encoder { bytes: Vec::with_capacity(Self::CAPACITY) }
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Encoder {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Encoder {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Opaque data of a fixed length that is a multiple of four.
    pub(crate) fn fixed(&mut self, value: &[u8]) -> &mut Encoder {
        debug_assert_eq!(padding(value.len()), 0);
        self.bytes.extend_from_slice(value);
        self
    }

    /// Opaque data or a string behind its length.
    pub(crate) fn opaque(&mut self, value: &[u8]) -> &mut Encoder {
        self.u32(u32::try_from(value.len()).expect("callers bound their data"));
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(&[0; 3][..padding(value.len())]);
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Overwrites the word at `position`.
    pub(crate) fn patch_u32(&mut self, position: usize, value: u32) {
        self.bytes[position..position + 4].copy_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads XDR from a reply.
#[derive(Clone, Debug)]
pub(crate) struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Decoder<'a> {
        Decoder { rest: bytes }
    }

    fn take(&mut self, count: usize) -> Decoded<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed("the reply ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// `N` bytes as they are; `N` is a multiple of four.
    pub(crate) fn fixed<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        const { assert!(N.is_multiple_of(4)) };
        Ok(self.take(N)?.try_into().expect("took N bytes"))
    }

    pub(crate) fn u32(&mut self) -> Decoded<u32> {
        Ok(u32::from_be_bytes(self.fixed()?))
    }

    pub(crate) fn u64(&mut self) -> Decoded<u64> {
        Ok(u64::from_be_bytes(self.fixed()?))
    }

    pub(crate) fn bool(&mut self) -> Decoded<bool> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a boolean is neither 0 nor 1")),
        }
    }

    /// Opaque data or a string of at most `max` bytes.
    pub(crate) fn opaque(&mut self, max: usize) -> Decoded<&'a [u8]> {
        let len = self.u32()? as usize;
        if len > max {
            return Err(Malformed("a length exceeds its limit"));
        }
        let data = self.take(len)?;
        self.take(padding(len))?;
        Ok(data)
    }

    /// A value that a boolean announces.
    pub(crate) fn option<T>(&mut self, decode: impl FnOnce(&mut Self) -> Decoded<T>) -> Decoded<Option<T>> {
        if self.bool()? { decode(self).map(Some) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let mut encoder = Encoder::new();
        encoder.u32(7).u64(1 << 40).opaque(b"abcde").fixed(&[1, 2, 3, 4]).u32(1).u32(9);
        let bytes = encoder.finish();
        assert_eq!(bytes.len(), 4 + 8 + 12 + 4 + 8);
        let mut decoder = Decoder::new(&bytes);
        assert_eq!(decoder.u32(), Ok(7));
        assert_eq!(decoder.u64(), Ok(1 << 40));
        assert_eq!(decoder.opaque(5), Ok(&b"abcde"[..]));
        assert_eq!(decoder.fixed(), Ok([1, 2, 3, 4]));
        assert_eq!(decoder.option(|decoder| decoder.u32()), Ok(Some(9)));
        assert_eq!(decoder.u32(), Err(Malformed("the reply ends too early")));
    }

    #[test]
    fn hostile_lengths_are_refused() {
        for len in [6, 1000, u32::MAX] {
            let mut bytes = len.to_be_bytes().to_vec();
            bytes.extend_from_slice(b"abcdefgh");
            assert_eq!(Decoder::new(&bytes).opaque(5), Err(Malformed("a length exceeds its limit")));
            assert!(len == 6 || Decoder::new(&bytes).opaque(usize::MAX).is_err());
        }
        assert!(Decoder::new(&[0, 0, 0, 2, b'a', b'b', 0]).opaque(5).is_err(), "the padding is missing");
        assert!(Decoder::new(&[0, 0, 0, 2]).bool().is_err());
    }
}
