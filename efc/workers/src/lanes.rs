//! The threads that serve the connections to workers: each connection is served by one thread, each thread serves many.
//!
//! A thread receives answers, completes their questions and runs their tasks inline, as those of the NFS client do, and
//! continues sending where a socket was full. There are few threads, whatever the number of workers.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fd::OwnedFd;

use crate::basics::lock;
use crate::connection::Connection;

/// Threads, at most.
const LANES_MAX: usize = 4;
/// As in the NFS client, whose tasks run inline, too.
const STACK: usize = 2 << 20;
/// What a thread receives at once, beside what has a place of its own.
const SCRATCH: usize = 64 << 10;
/// Connections that are looked at in one turn.
const EVENTS: usize = 64;
const NO_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// The name of what ends a thread; connections have other ones.
const END: u64 = 0;

/// All threads. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: Vec<Arc<Lane>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Lane {
    epoll: OwnedFd,
    end: OwnedFd,
    is_ended: AtomicBool,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
}

impl Lanes {
    /// Starts the threads.
    pub(crate) fn start() -> io::Result<Lanes> {
        let count = thread::available_parallelism().map_or(1, usize::from).clamp(1, LANES_MAX);
        let lanes = Lanes {
            lanes: (0..count).map(|_| Lane::new().map(Arc::new)).collect::<io::Result<_>>()?,
            next: AtomicU64::new(END + 1),
        };
        for lane in &lanes.lanes {
            let lane = lane.clone();
            let thread = thread::Builder::new().name("workers".into()).stack_size(STACK);
            thread.spawn(move || lane.serve())?;
        }
        Ok(lanes)
    }

    /// Serves the connection until it ends.
    pub(crate) fn add(&self, connection: &Arc<Connection>) -> io::Result<()> {
        let name = self.next.fetch_add(1, Ordering::Relaxed);
        let lane = &self.lanes[name as usize % self.lanes.len()];
        lock(&lane.connections).insert(name, connection.clone());
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let added = epoll::add(&lane.epoll, &connection.socket, epoll::EventData::new_u64(name), flags);
        if added.is_err() {
            lock(&lane.connections).remove(&name);
        }
        Ok(added?)
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.is_ended.store(true, Ordering::Release);
            let _ = rustix::io::write(&lane.end, &1u64.to_ne_bytes()); // it takes one
        }
    }
}

impl Lane {
    fn new() -> io::Result<Lane> {
        let (epoll, end) = (epoll::create(epoll::CreateFlags::CLOEXEC)?, eventfd(0, EventfdFlags::CLOEXEC)?);
        epoll::add(&epoll, &end, epoll::EventData::new_u64(END), epoll::EventFlags::IN)?;
        Ok(Lane { epoll, end, is_ended: AtomicBool::new(false), connections: Mutex::default() })
    }

    fn serve(&self) {
        let mut scratch = vec![0; SCRATCH];
        let (mut events, mut ready) = (Vec::with_capacity(EVENTS), VecDeque::new());
        while !self.is_ended.load(Ordering::Acquire) {
            events.clear();
            let limit = if ready.is_empty() { None } else { Some(&NO_TIME) };
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), limit) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return log::error!("workers are not served any more: {error}"),
            }
            ready.extend(events.iter().map(|event| (event.data.u64(), event.flags)));
            // Those that have more to say are served again after all others.
            for (name, flags) in std::mem::take(&mut ready) {
                if self.serve_one(name, flags, &mut scratch) {
                    ready.push_back((name, epoll::EventFlags::IN));
                }
            }
        }
        let connections = std::mem::take(&mut *lock(&self.connections));
        connections.values().for_each(|connection| connection.close("nobody wants it any more"));
    }

    /// `true` if the connection may have more to say.
    fn serve_one(&self, name: u64, flags: epoll::EventFlags, scratch: &mut [u8]) -> bool {
        let Some(connection) = lock(&self.connections).get(&name).cloned() else { return false };
        let has_more = connection.receive(scratch);
        // What was received may be the rest of a TLS handshake, before which nothing is sent.
        if flags.contains(epoll::EventFlags::OUT) || connection.is_encrypted() {
            connection.flush();
        }
        if connection.why().is_some() {
            let connection = lock(&self.connections).remove(&name);
            drop(connection);
        }
        has_more
    }
}
