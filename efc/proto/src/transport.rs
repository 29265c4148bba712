//! One message per datagram, file descriptors beside it.
//!
//! `SOCK_SEQPACKET` keeps the borders of messages, tells when the peer has gone, and never delivers half a message; what
//! it does not do is split one, so a message must fit the sender's socket buffer. A sender of large messages calls
//! [`allow_large_messages`] once. A receiver learns a message's size before it takes it, so that a socket on which
//! nothing happens holds no memory; therefore only one thread may receive on a socket at a time.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use prost::Message;
use rustix::fs::{Mode, chmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, listen, recv, recvmsg, sendmsg,
    socket_with, sockopt,
};

/// Largest message, in bytes: a status of a thousand mounts fits.
pub const MESSAGE_MAX: usize = 1 << 20;
/// Most descriptors beside one message.
pub const DESCRIPTORS_MAX: usize = 8;
/// What the kernel reserves of a socket's buffer beside the message itself (`unix_dgram_sendmsg`).
const BUFFER_OVERHEAD: usize = 32;

/// A listening socket at `path`, where nothing may be: mode 0600 before anybody can connect. `backlog` connections may wait.
///
/// # Errors
/// Those of socket(2) to listen(2); ENAMETOOLONG for a path of more than 107 bytes.
pub fn listen_at(path: &Path, backlog: i32) -> io::Result<OwnedFd> {
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bind(&listener, &SocketAddrUnix::new(path)?)?;
    chmod(path, Mode::RUSR | Mode::WUSR)?;
    listen(&listener, backlog)?;
    Ok(listener)
}

/// Lets `socket` send messages of up to [`MESSAGE_MAX`] bytes, or what the system's limit (`net.core.wmem_max`) gives to
/// a process without CAP_NET_ADMIN.
///
/// # Errors
/// Those of `setsockopt(2)`.
pub fn allow_large_messages(socket: impl AsFd) -> io::Result<()> {
    // The kernel doubles what it is given, for its own bookkeeping, and lets a message use all of it.
    let size = MESSAGE_MAX / 2 + BUFFER_OVERHEAD;
    match sockopt::set_socket_send_buffer_size_force(&socket, size) {
        Err(Errno::PERM) => Ok(sockopt::set_socket_send_buffer_size(&socket, size)?),
        result => Ok(result?),
    }
}

/// Whether the process at the other end of a unix socket may give orders here: root, or our own user.
///
/// # Errors
/// Those of `getsockopt(2)`.
pub fn is_allowed_peer(socket: impl AsFd) -> io::Result<bool> {
    let peer = sockopt::socket_peercred(&socket)?.uid;
    Ok(peer.is_root() || peer == rustix::process::getuid())
}

/// Sends `message` with `descriptors` as one datagram.
///
/// # Errors
/// Those of `sendmsg(2)`; EMSGSIZE if the message exceeds [`MESSAGE_MAX`] or the socket's buffer, EINVAL for more than
/// [`DESCRIPTORS_MAX`] descriptors, and for a message without content, which [`receive`] would take for the peer's end.
/// Nothing was sent then.
pub fn send(socket: impl AsFd, message: &impl Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, message, descriptors, SendFlags::NOSIGNAL)
}

/// As [`send`], without ever waiting for room.
///
/// # Errors
/// `WouldBlock` if the peer has not taken what was sent before, and those of [`send`].
pub fn send_at_once(socket: impl AsFd, message: &impl Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, message, descriptors, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

fn send_with(
    socket: impl AsFd,
    message: &impl Message,
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let bytes = message.encode_to_vec();
    if bytes.len() > MESSAGE_MAX {
        return Err(Errno::MSGSIZE.into());
    }
    if bytes.is_empty() || descriptors.len() > DESCRIPTORS_MAX {
        return Err(Errno::INVAL.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::INVAL.into());
    }
    rustix::io::retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(&bytes)], &mut ancillary, flags))?;
    Ok(())
}

/// Receives one message and the descriptors beside it; `None` when the peer has closed.
///
/// # Errors
/// Those of `recvmsg(2)`; `InvalidData` for a message that is too large, came with too many descriptors, or does not
/// decode.
pub fn receive<M: Message + Default>(socket: impl AsFd) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut nothing = [0u8; 0];
    let peek = RecvFlags::PEEK | RecvFlags::TRUNC;
    let (_, size) = rustix::io::retry_on_intr(|| recv(&socket, &mut nothing, peek))?;
    let mut bytes = vec![0; size.min(MESSAGE_MAX)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    // Taken first: whatever is wrong with the message, its descriptors must not leak.
    let descriptors: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        })
        .flatten()
        .collect();
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message or its descriptors cut off"));
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let message =
        M::decode(&bytes[..received.bytes]).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some((message, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DaemonConfig, DaemonStats, FuseStats, KeeperReply, MountStatus, NfsStats, Source, Start, StateStats,
        StatusReply, ToDaemon, keeper_reply, to_daemon,
    };
    use rustix::net::socketpair;
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn start(host: &str) -> ToDaemon {
        let source = Source { host: host.into(), path: "/export".into(), ..Default::default() };
        let config = DaemonConfig { source: Some(source), ..Default::default() };
        ToDaemon { message: Some(to_daemon::Message::Start(Start { config: Some(config), ..Default::default() })) }
    }

    /// In the form of 0.1.0, whose clients take all mounts in one message; later ones take several.
    fn largest_stats() -> DaemonStats {
        let largest = 1 << 42; // bytes: 4 TiB; more than fits is refused, not cut off
        let nfs = NfsStats {
            calls: largest,
            retransmits: largest,
            reconnects: largest,
            bytes_read: largest,
            bytes_written: largest,
            bytes_spliced: largest,
            pipe_misfits: largest,
            responding: true,
            oldest_call_ms: largest,
        };
        let state = StateStats { nodes: largest, nodes_max: largest, open_files: largest, uncommitted_bytes: largest };
        let stats = DaemonStats {
            uptime_ms: largest,
            resumed: true,
            fuse: Some(FuseStats { requests: largest }),
            nfs: Some(nfs),
            state: Some(state),
            ..Default::default()
        };
        stats.for_one_release(false)
    }

    /// A status at the limits of what one mount needs: long paths, large counters.
    fn status_of(count: usize) -> KeeperReply {
        let config = DaemonConfig {
            source: Some(Source {
                host: "a-rather-long-name.of.a.nas.in.some.zone.example.com".into(),
                port: 2049,
                mount_port: 20048,
                path: format!("/exports/{}", "directory/".repeat(12)),
            }),
            connections: 16,
            read_ahead_kib: 8192,
            log_level: "debug".into(),
            ..Default::default()
        };
        let mount = |index: usize| MountStatus {
            target: format!("/var/lib/kubelet/plugins/efc.csi/mounts/{index:0>64}"),
            config: Some(config.clone()),
            options: Some(config.clone()),
            pid: i32::MAX,
            version: "10.20.30".into(),
            state: crate::mount_status::State::Restarting.into(),
            restarts: u32::MAX,
            reason: "r".repeat(160),
            store: format!("/var/cache/efc/{index:0>64}"),
            store_missing: String::new(),
            network_trouble: String::new(),
            upgrades: 0,
            connection: u32::MAX,
            mounted_at_unix_ms: u64::MAX,
            stats: Some(largest_stats()),
            live_fields: (1..20).collect(),
            cgroup: format!("efc/{}", "c".repeat(80)),
            uid: u32::MAX,
        };
        let mounts = (0..count).map(mount).collect();
        KeeperReply { reply: Some(keeper_reply::Reply::Status(StatusReply { mounts, ..Default::default() })) }
    }

    #[test]
    fn descriptors_ride_along_in_order() {
        let (keeper, daemon) = pair();
        let mut files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        files[1].write_all(b"second").unwrap();
        send(&keeper, &start("nas"), &[files[0].as_fd(), files[1].as_fd()]).unwrap();
        send(&keeper, &start("other"), &[]).unwrap();
        let (message, descriptors) = receive::<ToDaemon>(&daemon).unwrap().unwrap();
        assert_eq!(message, start("nas"));
        assert_eq!(descriptors.len(), 2);
        let mut second = File::from(descriptors.into_iter().nth(1).unwrap());
        let mut text = String::new();
        second.rewind().unwrap();
        second.read_to_string(&mut text).unwrap();
        assert_eq!(text, "second");
        assert!(rustix::io::fcntl_getfd(&second).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        let (message, descriptors) = receive::<ToDaemon>(&daemon).unwrap().unwrap();
        assert_eq!((message, descriptors.len()), (start("other"), 0));
    }

    #[test]
    fn a_closed_peer_is_the_end() {
        let (keeper, daemon) = pair();
        send(&keeper, &start("nas"), &[]).unwrap();
        drop(keeper);
        assert!(receive::<ToDaemon>(&daemon).unwrap().is_some());
        assert!(receive::<ToDaemon>(&daemon).unwrap().is_none());
        let error = send(&daemon, &start("nas"), &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        // What would look like one is not sent.
        let (keeper, _daemon) = pair();
        assert_eq!(send(&keeper, &ToDaemon::default(), &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn who_may_not_wait_is_told_that_there_is_no_room() {
        let (keeper, daemon) = pair();
        let sent = (0..10_000).find_map(|_| send_at_once(&daemon, &start("nas"), &[]).err());
        assert_eq!(sent.expect("a bounded queue").kind(), io::ErrorKind::WouldBlock);
        assert!(receive::<ToDaemon>(&keeper).unwrap().is_some());
        send_at_once(&daemon, &start("nas"), &[]).unwrap();
    }

    #[test]
    fn a_status_of_a_thousand_mounts_fits() {
        let (keeper, client) = pair();
        allow_large_messages(&keeper).unwrap();
        let reply = status_of(1_000);
        assert!(reply.encoded_len() > 400_000, "{}", reply.encoded_len());
        send(&keeper, &reply, &[]).unwrap();
        assert_eq!(receive::<KeeperReply>(&client).unwrap().unwrap().0, reply);
    }

    #[test]
    fn the_largest_message_passes_and_a_larger_one_does_not() {
        let (keeper, client) = pair();
        allow_large_messages(&keeper).unwrap();
        let envelope = start("").encoded_len() + 16;
        let message = start(&"h".repeat(MESSAGE_MAX - envelope));
        send(&keeper, &message, &[]).unwrap();
        assert_eq!(receive::<ToDaemon>(&client).unwrap().unwrap().0, message);
        let error = send(&keeper, &start(&"h".repeat(MESSAGE_MAX)), &[]).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::MSGSIZE));
    }

    #[test]
    fn garbage_and_excess_are_refused_as_root() {
        let (keeper, daemon) = pair();
        sockopt::set_socket_send_buffer_size_force(&keeper, 4 * MESSAGE_MAX).unwrap();
        rustix::net::send(&keeper, b"\xff\xff\xff", SendFlags::empty()).unwrap();
        assert_eq!(receive::<ToDaemon>(&daemon).unwrap_err().kind(), io::ErrorKind::InvalidData);
        rustix::net::send(&keeper, &vec![0; MESSAGE_MAX + 1], SendFlags::empty()).unwrap();
        assert_eq!(receive::<ToDaemon>(&daemon).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let file = tempfile::tempfile().unwrap();
        let error = send(&keeper, &start("nas"), &[file.as_fd(); DESCRIPTORS_MAX + 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        send(&keeper, &start("nas"), &[]).unwrap();
        assert_eq!(receive::<ToDaemon>(&daemon).unwrap().unwrap().0, start("nas"));
    }
}
