//! Pipes through which a READ payload goes from a socket to `/dev/fuse` without passing through our memory.
//!
//! splice(2) puts the pages that the network stack received into a pipe, and FUSE copies from them into the page cache:
//! one copy instead of two, and none of our pages to be looked up. A SIGKILL can hit no page fault of ours there; one
//! between the two calls leaves the request unanswered, to be delivered to the next daemon.
//!
//! A pipe has slots, not bytes: each piece that the network stack hands over takes one, however small it is (1,448
//! bytes of an Ethernet frame). So a pipe may be full long before its nominal size, and filling one never blocks: who
//! fills it needs another way for that case.
//!
//! The pool is made once, while the process still has the privilege to make large pipes, and does not grow: without a
//! [`reserve`] there are none, and everybody goes the other way. A pipe is in use for the moments between two system
//! calls of one thread, so a few are enough. Only pipes that are known to be empty return to the pool.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// Nominal sizes, in bytes, best first. A page is a slot: 1,024 take a full payload in Ethernet frames; the second is
/// what the system grants to every user unless it is configured otherwise.
const SIZES: [usize; 2] = [4 << 20, 1 << 20];

/// Bytes that are read out of a pipe at a time to empty it.
const WASTE: usize = 16 << 10;

static IDLE: Mutex<Vec<Ends>> = Mutex::new(Vec::new());

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Ends {
    fn new() -> io::Result<Ends> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let mut set = Err(Errno::PERM);
        for size in SIZES {
            set = set.or_else(|_| fcntl_setpipe_size(&write, size));
        }
        set?;
        Ok(Ends { read, write })
    }

    /// Reads out what is left; false if that cannot be done.
    fn drain(&self) -> bool {
        let mut waste = [0; WASTE];
        loop {
            match rustix::io::read(&self.read, &mut waste) {
                Err(Errno::AGAIN) => return true,
                Ok(1..) | Err(Errno::INTR) => {}
                Ok(0) | Err(_) => return false,
            }
        }
    }
}

fn idle() -> MutexGuard<'static, Vec<Ends>> {
    IDLE.lock().expect("pipes lock")
}

/// Makes `count` pipes for this process, as large as it is permitted to.
///
/// # Errors
/// Those of `pipe2(2)` and of `F_SETPIPE_SZ`; what was made until then stays.
pub fn reserve(count: usize) -> io::Result<()> {
    for _ in 0..count {
        let ends = Ends::new()?;
        idle().push(ends);
    }
    Ok(())
}

/// A pipe that never blocks who fills it.
pub struct Pipe {
    ends: Option<Ends>,
    filled: usize,
}

impl Pipe {
    /// Takes an empty pipe, if one is free.
    pub fn take() -> Option<Pipe> {
        let ends = idle().pop()?;
        Some(Pipe { ends: Some(ends), filled: 0 })
    }

    fn ends(&self) -> &Ends {
        self.ends.as_ref().expect("present until drop")
    }

    /// Copies a few bytes in.
    ///
    /// # Errors
    /// `WriteZero` if it does not take them all.
    pub fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let written = rustix::io::writev(&self.ends().write, parts)?;
        self.filled += written;
        let is_whole = written == parts.iter().map(|part| part.len()).sum::<usize>();
        if is_whole { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
    }

    /// Moves up to `count` bytes in from a socket, waiting for the first as long as the socket is set to, and never for
    /// room. 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock`: the socket's time limit has passed, or the pipe is full.
    pub fn splice_from(&mut self, socket: impl AsFd, count: usize) -> io::Result<usize> {
        let moved = splice(socket, None, &self.ends().write, None, count, SpliceFlags::NONBLOCK)?;
        self.filled += moved;
        Ok(moved)
    }

    /// Moves everything out in one call, which is one message to a device that takes messages.
    ///
    /// # Errors
    /// Those of the device. What is left in the pipe then is unknown and is thrown away with it.
    pub fn splice_into(&mut self, device: impl AsFd) -> io::Result<()> {
        let moved = splice(&self.ends().read, None, device, None, self.filled, SpliceFlags::empty())?;
        self.filled = self.filled.saturating_sub(moved);
        if self.filled == 0 { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
    }

    /// Copies the first bytes out.
    ///
    /// # Errors
    /// `WouldBlock` if there are not so many.
    pub fn read_exact(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            let count = rustix::io::read(&self.ends().read, &mut *into)?;
            self.filled = self.filled.saturating_sub(count);
            into = &mut into[count..];
        }
        Ok(())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else { return };
        if self.filled == 0 || ends.drain() {
            idle().push(ends);
        }
    }
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pipe({} bytes)", self.filled)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// One test, because the pool is one.
    #[test]
    fn pipes_come_back_empty_and_a_full_one_says_so() {
        assert!(Pipe::take().is_none(), "none before they are reserved");
        reserve(1).unwrap();
        let mut pipe = Pipe::take().unwrap();
        assert!(Pipe::take().is_none());
        pipe.write(&[IoSlice::new(b"head"), IoSlice::new(b"more")]).unwrap();
        let mut head = [0; 5];
        pipe.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"headm");
        drop(pipe);

        let mut pipe = Pipe::take().expect("it came back");
        let short = pipe.read_exact(&mut [0]).unwrap_err();
        assert_eq!(short.kind(), ErrorKind::WouldBlock, "and was empty");
        let (near, mut far) = connected();
        assert_eq!(pipe.splice_from(&near, 10).unwrap_err().kind(), ErrorKind::WouldBlock);
        far.write_all(b"payload").unwrap();
        assert_eq!(pipe.splice_from(&near, 3).unwrap(), 3);
        let (out, mut sink) = connected();
        pipe.splice_into(&out).unwrap();
        let mut got = [0; 3];
        io::Read::read_exact(&mut sink, &mut got).unwrap();
        assert_eq!(&got, b"pay");

        // Fill it: every write takes a slot, because they are larger than what is left of its page.
        let mut wrote = 0;
        while pipe.write(&[IoSlice::new(&[7; 3000])]).is_ok() {
            wrote += 1;
        }
        assert!(wrote >= 256, "{wrote} slots");
        assert_eq!(pipe.splice_from(&near, 4).unwrap_err().kind(), ErrorKind::WouldBlock, "full");
        drop(pipe);
        assert!(Pipe::take().unwrap().read_exact(&mut [0]).is_err(), "drained");
        drop(far);
        assert_eq!(Pipe::take().unwrap().splice_from(&near, 10).unwrap(), 4);
        assert_eq!(Pipe::take().unwrap().splice_from(&near, 10).unwrap(), 0, "the end of the stream");
    }
}
