//! The future that waits for a call.
//!
//! A *repeated* call may meet its earlier copy in the server: one that was sent on a former socket, or by a predecessor
//! of this process. A server with a duplicate-request cache that is still executing the first copy drops the second
//! silently, and answers the first, to a socket that is gone. So a repeated call is sent again now and then, until an
//! answer comes out of that cache.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use efc_backend::ErrorKind;
use efc_tasks::Backoff;
use efc_tasks::time::sleep;

use crate::call::{Call, Destination, Finished};
use crate::connection::{Connection, Peers};

/// When a repeated call goes out again.
const AGAIN: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(30));

type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

fn timer(duration: Duration) -> Timer {
    Box::pin(sleep(duration))
}

/// The future of a submitted call.
pub(crate) struct Reply {
    call: Arc<Call>,
    peers: Arc<Peers>,
    limit: Option<Timer>,
    /// Of a repeated call: when it goes out again, and how often it has been so.
    again: Option<(Timer, u32)>,
    done: bool,
}

impl Reply {
    /// Waits for `call`, which was submitted to one of `peers`, for at most `limit`.
    pub(crate) fn new(call: Arc<Call>, peers: Arc<Peers>, limit: Option<Duration>) -> Reply {
        Reply { call, peers, limit: limit.map(timer), again: None, done: false }
    }

    /// The connection that serves the call.
    fn connection(&self) -> Option<Arc<Connection>> {
        let place = *self.call.place();
        self.peers.get(place?)
    }

    /// Has a repeated call go out again, when it is time for that.
    fn repeat(&mut self, context: &mut Context<'_>) {
        if !self.call.is_repeated() {
            return;
        }
        let (mut next, mut times) = self.again.take().unwrap_or_else(|| (timer(AGAIN.pause(0)), 0));
        while next.as_mut().poll(context).is_ready() {
            if let Some(connection) = self.connection() {
                connection.send_again(&self.call);
            }
            times += 1;
            next = timer(AGAIN.pause(times));
        }
        self.again = Some((next, times));
    }

    fn forget(&mut self) -> Option<Destination> {
        self.done = true;
        let destination = self.call.forget();
        let place = self.call.place().take();
        if let Some(connection) = place.and_then(|place| self.peers.get(place)) {
            connection.forget(&self.call);
        }
        destination
    }
}

impl Future for Reply {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Finished> {
        if let Poll::Ready(finished) = self.call.poll(context) {
            self.done = true;
            return Poll::Ready(finished);
        }
        let expired = self.limit.as_mut().is_some_and(|limit| limit.as_mut().poll(context).is_ready());
        if !expired {
            self.repeat(context);
            return Poll::Pending;
        }
        let destination = self.forget();
        Poll::Ready(Finished { outcome: Err(ErrorKind::TimedOut), destination, replayed: self.call.replayed() })
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.done {
            drop(self.forget());
        }
    }
}
