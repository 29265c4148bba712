//! ONC RPC messages (RFC 5531): headers of calls and replies, the AUTH_SYS credential, record marks.

use crate::xdr::{Decoded, Decoder, Encoder};
use efc_backend::{Cred, ErrorKind};

/// A remote program: number and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub number: u32,
    pub version: u32,
}

pub(crate) const RPCBIND: Program = Program { number: 100_000, version: 2 };
pub(crate) const NFS: Program = Program { number: 100_003, version: 3 };
pub(crate) const MOUNT: Program = Program { number: 100_005, version: 3 };

/// Set in the mark of a record's last fragment; the other bits are the fragment's length.
pub(crate) const LAST_FRAGMENT: u32 = 0x8000_0000;

const CALL: u32 = 0;
const REPLY: u32 = 1;
const RPC_VERSION: u32 = 2;
const AUTH_NONE: u32 = 0;
pub(crate) const AUTH_SYS: u32 = 1;
/// Longest verifier body (RFC 5531, section 8.2).
const VERIFIER_MAX: usize = 400;

/// Bytes of a reply's header without the verifier's body: xid, type, state, verifier's flavor and length, state.
pub(crate) const REPLY_HEADER: usize = 24;

/// Who calls: part of every AUTH_SYS credential of a client.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub name: Vec<u8>,
    pub stamp: u32,
}

impl Machine {
    /// Longest name that AUTH_SYS carries.
    const NAME_MAX: usize = 255;

    /// This host.
    pub(crate) fn local(stamp: u32) -> Machine {
        let mut name = rustix::system::uname().nodename().to_bytes().to_vec();
        name.truncate(Self::NAME_MAX);
        Machine { name, stamp }
    }
}

/// A call in the making: record mark (patched by [`finish`]), header, and then the arguments.
pub(crate) fn call(machine: &Machine, xid: u32, program: Program, procedure: u32, cred: &Cred) -> Encoder {
    let mut encoder = Encoder::new();
    encoder.u32(0).u32(xid).u32(CALL).u32(RPC_VERSION);
    encoder.u32(program.number).u32(program.version).u32(procedure);
    encode_cred(&mut encoder, machine, cred);
    encoder.u32(AUTH_NONE).u32(0);
    encoder
}

fn encode_cred(encoder: &mut Encoder, machine: &Machine, cred: &Cred) {
    let groups = &cred.groups[..cred.groups.len().min(Cred::GROUPS_MAX)];
    encoder.u32(AUTH_SYS);
    let length_at = encoder.len();
    encoder.u32(0);
    encoder.u32(machine.stamp).opaque(&machine.name).u32(cred.uid).u32(cred.gid);
    encoder.u32(groups.len() as u32);
    for group in groups {
        encoder.u32(*group);
    }
    encoder.patch_u32(length_at, (encoder.len() - length_at - 4) as u32);
}

/// The finished message; `payload` bytes (padding included) will follow it on the wire.
pub(crate) fn finish(mut encoder: Encoder, payload: usize) -> Vec<u8> {
    let length = u32::try_from(encoder.len() - 4 + payload).expect("callers bound their data");
    debug_assert_eq!(length & LAST_FRAGMENT, 0);
    encoder.patch_u32(0, length | LAST_FRAGMENT);
    encoder.finish()
}

/// Reads a reply's header and leaves the decoder at the procedure's results.
pub(crate) fn accept(decoder: &mut Decoder<'_>) -> Result<(), ErrorKind> {
    match decode_accept(decoder) {
        Ok(accepted) => accepted,
        Err(malformed) => Err(ErrorKind::Garbled(malformed.0)),
    }
}

fn decode_accept(decoder: &mut Decoder<'_>) -> Decoded<Result<(), ErrorKind>> {
    let _xid = decoder.u32()?;
    if decoder.u32()? != REPLY {
        return Ok(Err(ErrorKind::Garbled("not a reply")));
    }
    if decoder.u32()? != 0 {
        let mismatch = decoder.u32()? == 0;
        return Ok(Err(if mismatch {
            ErrorKind::Rejected("RPC version mismatch")
        } else {
            ErrorKind::Denied(auth_error(decoder.u32()?))
        }));
    }
    let _flavor = decoder.u32()?;
    decoder.opaque(VERIFIER_MAX)?;
    Ok(match decoder.u32()? {
        0 => Ok(()),
        1 => Err(ErrorKind::Rejected("program unavailable")),
        2 => Err(ErrorKind::Rejected("program version unavailable")),
        3 => Err(ErrorKind::Rejected("procedure unavailable")),
        4 => Err(ErrorKind::Rejected("arguments not understood")),
        5 => Err(ErrorKind::Rejected("system error of the server")),
        _ => Err(ErrorKind::Garbled("unknown state of an accepted call")),
    })
}

fn auth_error(state: u32) -> &'static str {
    match state {
        1 | 2 => "the credential was refused",
        3 | 4 => "the verifier was refused",
        5 => "AUTH_SYS is too weak for this export",
        _ => "authentication failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn a_call_carries_at_most_sixteen_groups() {
        let machine = Machine { name: b"host".to_vec(), stamp: 5 };
        let cred = Cred { uid: 1, gid: 2, groups: (10..40).collect() };
        let message = finish(call(&machine, 9, NFS, 1, &cred), 0);
        let mut expected = vec![LAST_FRAGMENT | (message.len() as u32 - 4), 9, 0, 2, 100_003, 3, 1, 1, 24 + 16 * 4];
        expected.extend([5, 4, u32::from_be_bytes(*b"host"), 1, 2, 16]);
        expected.extend(10..26);
        expected.extend([0, 0]);
        assert_eq!(message, words(&expected));
    }

    #[test]
    fn replies_are_accepted_or_say_why_not() {
        let outcome = |reply: &[u32]| accept(&mut Decoder::new(&words(reply)));
        assert_eq!(outcome(&[1, 1, 0, 0, 0, 0]), Ok(()));
        assert_eq!(outcome(&[1, 1, 0, 0, 4, 77, 0]), Ok(()), "a verifier is skipped");
        assert_eq!(outcome(&[1, 1, 0, 0, 0, 2, 3, 3]), Err(ErrorKind::Rejected("program version unavailable")));
        assert_eq!(outcome(&[1, 1, 1, 1, 5]), Err(ErrorKind::Denied("AUTH_SYS is too weak for this export")));
        assert_eq!(outcome(&[1, 0, 0, 0, 0, 0]), Err(ErrorKind::Garbled("not a reply")));
        assert!(matches!(outcome(&[1, 1, 0, 0, 404, 0]), Err(ErrorKind::Garbled(_))));
        assert!(matches!(outcome(&[1, 1]), Err(ErrorKind::Garbled(_))));
    }
}
