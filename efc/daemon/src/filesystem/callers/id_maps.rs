//! Which ids a caller has on the file system, where mounts may be id-mapped: for pods with user namespaces (option `idmap`).
//!
//! A container runtime gives such a pod a clone of our mount that maps ids: the pod's root is 100000, say, to the kernel, and 0
//! on the file system. FUSE tells us the kernel's ids of a caller at most, and not through which mount it comes. What is never
//! taken for the map is the one of the caller's own user namespace: anybody can make a namespace in which he is root, and a user
//! of a pod one inside the pod's. The rule is:
//!
//! - If all mounts of ours in the caller's mount namespace are id-mapped, and in the same way, that is the caller's map. Only
//!   CAP_SYS_ADMIN over the file system (the node's root) can make an id-mapped mount of it; a copy in a namespace that a
//!   user makes keeps its map.
//! - Otherwise (none is id-mapped, some are, they differ) ids are the kernel's, unmapped.
//! - Where that cannot be found out (no answer in time, no memory, too many mounts) the request fails with EIO: a guess
//!   would act as somebody else.
//!
//! Where a caller comes through another mount than those that it sees (a descriptor that it was given), the rule can name
//! the wrong ids. The kernel's own check, `default_permissions`, always goes by the mount that is used and by attributes of the
//! NAS; what we send can only be refused in addition. Requests that make something carry the right owner in any case.
//!
//! Asking about another process's mounts takes CAP_SYS_ADMIN and CAP_SYS_PTRACE, which must not be where the network is. So a
//! second process, started before the daemon drops its privileges, does that and nothing else: it reads a thread id,
//! answers with a map, and ends when the daemon does.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair, sockopt};
use rustix::stdio::stdin;

use super::id_map::IdMap;
use super::mount_namespace;
use crate::privileges;

/// The argument that makes `efcd` the second process.
pub const COMMAND: &str = "id-maps";
/// How long an answer may take, on a node without a CPU to spare.
const ANSWER_TIME_LIMIT: Duration = Duration::from_secs(2);
/// Extents of uids and gids in a map; the kernel allows 340, and a pod has one of each.
const EXTENTS_MAX: usize = 64;
const ANSWER_MAX: usize = ERRNO + 4 * (2 + 3 * EXTENTS_MAX);
/// A question: its number and a thread id. An answer begins with it.
const HEAD: usize = 8;
/// What follows in an answer: why there is none, or 0 before the map, which is empty where ids are the kernel's.
const ERRNO: usize = 4;

/// The map in an answer.
fn decode(answer: &[u8]) -> Result<Option<IdMap>, Errno> {
    let (errno, map) = answer.split_first_chunk::<ERRNO>().ok_or(Errno::BADMSG)?;
    match (i32::from_ne_bytes(*errno), map) {
        (0, []) => Ok(None),
        (0, map) => IdMap::from_bytes(map).map(Some).ok_or(Errno::BADMSG),
        (errno, _) => Err(Errno::from_raw_os_error(errno)),
    }
}

/// The answer that [`decode`] understands.
fn encode(found: io::Result<Option<IdMap>>) -> Vec<u8> {
    match found {
        Ok(Some(map)) if map.uids.len() + map.gids.len() > EXTENTS_MAX => libc::E2BIG.to_ne_bytes().to_vec(),
        Ok(map) => [&0_i32.to_ne_bytes()[..], &map.map_or_else(Vec::new, |map| map.to_bytes())].concat(),
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes().to_vec(),
    }
}

/// The rule above: the one map of all mounts.
fn common(mut maps: Vec<Option<IdMap>>) -> Option<IdMap> {
    let last = maps.pop()??;
    maps.iter().all(|map| map.as_ref() == Some(&last)).then_some(last)
}

/// Asks the second process. One question at a time; each has a number, so that a late answer is not taken for another.
pub struct IdMaps {
    socket: Mutex<(OwnedFd, u32)>,
}

impl IdMaps {
    /// Starts the second process. Call before privileges are dropped.
    ///
    /// # Errors
    /// `Unsupported` on a kernel that does not tell id maps; those of starting a process.
    pub fn start() -> io::Result<IdMaps> {
        if !mount_namespace::can_tell_id_maps() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, Some(ANSWER_TIME_LIMIT))?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND).env_clear().current_dir("/").stdin(Stdio::from(theirs)).stdout(Stdio::null()).spawn()?;
        Ok(IdMaps { socket: Mutex::new((ours, 0)) })
    }

    /// The map of a thread's mounts; `None` where ids are certainly the kernel's. Waits for the answer, which needs nobody but
    /// the kernel.
    ///
    /// # Errors
    /// EAGAIN for no answer in time; what kept the second process from finding out.
    pub fn of(&self, tid: u32) -> Result<Option<IdMap>, Errno> {
        let mut guard = self.socket.lock().expect("id maps lock");
        let (socket, number) = &mut *guard;
        *number = number.wrapping_add(1);
        ask(socket, *number, tid).and_then(|answer| decode(&answer)).inspect_err(|errno| {
            log::error!("cannot find the id map of thread {tid} out ({errno}): its request fails");
        })
    }
}

fn ask(socket: &OwnedFd, number: u32, tid: u32) -> rustix::io::Result<Vec<u8>> {
    let question = [number.to_ne_bytes(), tid.to_ne_bytes()].concat();
    send(socket, &question, SendFlags::NOSIGNAL)?;
    let mut answer = [0; HEAD + ANSWER_MAX];
    loop {
        let (_, length) = retry_on_intr(|| recv(socket, &mut answer[..], RecvFlags::empty()))?;
        if length < HEAD {
            return Err(Errno::CONNRESET);
        }
        if answer[..HEAD] == question {
            return Ok(answer[HEAD..length].to_vec());
        }
    }
}

/// The second process: answers on standard input until the daemon ends.
pub fn serve() -> ExitCode {
    if let Err(error) = privileges::drop_all_but_looking_at_mounts() {
        eprintln!("efcd: the process that looks id maps up cannot drop privileges: {error}");
        return ExitCode::FAILURE;
    }
    let mut question = [0; HEAD];
    while let Ok((_, HEAD)) = retry_on_intr(|| recv(stdin(), &mut question[..], RecvFlags::empty())) {
        let [_, _, _, _, tid @ ..] = question;
        let found = mount_namespace::id_maps(u32::from_ne_bytes(tid)).map(common);
        let answer = [&question[..], &encode(found)].concat();
        if send(stdin(), &answer, SendFlags::NOSIGNAL).is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::super::id_map::pod;
    use super::*;

    #[test]
    fn only_one_map_of_all_mounts_counts() {
        assert_eq!(common(vec![]), None);
        assert_eq!(common(vec![None]), None);
        assert_eq!(common(vec![Some(pod(7)), None]), None);
        assert_eq!(common(vec![None, Some(pod(7))]), None);
        assert_eq!(common(vec![Some(pod(7)), Some(pod(8))]), None);
        assert_eq!(common(vec![Some(pod(7)), Some(pod(7))]), Some(pod(7)));
    }

    #[test]
    fn only_a_certain_answer_is_one() {
        for map in [None, Some(pod(7))] {
            assert_eq!(decode(&encode(Ok(map.clone()))), Ok(map));
        }
        assert_eq!(decode(&encode(Err(io::Error::from_raw_os_error(libc::EMFILE)))), Err(Errno::MFILE));
        assert_eq!(decode(&encode(Err(io::ErrorKind::InvalidData.into()))), Err(Errno::IO));
        let huge = IdMap { uids: vec![pod(7).uids[0]; EXTENTS_MAX + 1], gids: Vec::new() };
        assert_eq!(decode(&encode(Ok(Some(huge)))), Err(Errno::TOOBIG));
        let whole = encode(Ok(Some(pod(7))));
        assert!((0..whole.len()).filter(|length| *length != ERRNO).all(|length| decode(&whole[..length]).is_err()));
    }

    #[test]
    fn a_second_process_that_does_not_answer_fails_the_request() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("sockets");
        sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, Some(Duration::from_millis(50))).expect("a limit");
        let id_maps = IdMaps { socket: Mutex::new((ours, 0)) };
        assert_eq!(id_maps.of(1), Err(Errno::AGAIN));
        drop(theirs);
        assert!(id_maps.of(1).is_err());
    }
}
