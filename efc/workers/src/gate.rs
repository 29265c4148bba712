//! The limit of what is in flight at all workers together: as much as still lets answers arrive in acceptable time,
//! whatever the network's bandwidth. Further questions wait here for their turn, where the wait does not count against
//! a worker.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use efc_tasks::time::in_time;
use tokio::sync::oneshot;

use crate::basics::lock;
use crate::policy::health::weight;
use crate::policy::limit::Limit;

/// Lets through what may be asked now.
#[derive(Debug)]
pub(crate) struct Gate(Mutex<State>);

#[derive(Debug)]
struct State {
    limit: Limit,
    waiting: VecDeque<(u64, oneshot::Sender<Passage>)>,
}

/// Something is under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct Passage {
    gate: Arc<Gate>,
    weight: u64,
}

impl Gate {
    pub(crate) fn new() -> Arc<Gate> {
        Arc::new(Gate(Mutex::new(State { limit: Limit::default(), waiting: VecDeque::new() })))
    }

    /// Waits for its turn to ask for `length` bytes, but not for longer than `limit`.
    pub(crate) async fn pass(self: &Arc<Self>, length: usize, limit: Duration) -> Option<Passage> {
        let weight = weight(length);
        let turn = {
            let mut state = lock(&self.0);
            if state.waiting.is_empty() && state.limit.has_room(weight) {
                return Some(self.begin(&mut state, weight));
            }
            let (passes, turn) = oneshot::channel();
            state.waiting.push_back((weight, passes));
            turn
        };
        in_time(turn, Some(limit)).await?.ok()
    }

    /// A large block takes so long when it comes alone.
    pub(crate) fn adjust(&self, alone: Duration) {
        lock(&self.0).limit.adjust(alone);
    }

    /// The weight of what is under way.
    pub(crate) fn load(&self) -> u64 {
        lock(&self.0).limit.load()
    }

    /// The weight of what is or may come to be under way before what begins now has ended.
    pub(crate) fn load_max(&self) -> u64 {
        lock(&self.0).limit.load_max()
    }

    fn begin(self: &Arc<Self>, state: &mut State, weight: u64) -> Passage {
        state.limit.begin(weight);
        Passage { gate: self.clone(), weight }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut state = lock(&self.gate.0);
        state.limit.end(self.weight);
        let mut next = Vec::new();
        while let Some((weight, _)) = state.waiting.front()
            && state.limit.has_room(*weight)
            && let Some((weight, passes)) = state.waiting.pop_front()
        {
            if !passes.is_closed() {
                next.push((passes, self.gate.begin(&mut state, weight)));
            }
        }
        drop(state);
        // Whoever does not wait any more gives it back, and the next ones are let through.
        next.into_iter().for_each(|(passes, passage)| drop(passes.send(passage)));
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::policy::limit::{LARGE, LIMIT_MAX, LIMIT_MIN};

    fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    fn pass(gate: &Arc<Gate>) -> Option<Passage> {
        poll(pin!(gate.pass(1 << 20, Duration::from_secs(60)))).flatten()
    }

    #[test]
    fn what_does_not_fit_waits_its_turn_and_a_slow_network_lets_less_through() {
        let gate = Gate::new();
        let all: Vec<Passage> = std::iter::from_fn(|| pass(&gate)).collect();
        assert_eq!(all.len() as u64, LIMIT_MAX / LARGE);
        assert_eq!((gate.load(), gate.load_max()), (LIMIT_MAX, LIMIT_MAX));
        let gone = gate.clone();
        let mut gone = Box::pin(gone.pass(1, Duration::from_secs(60)));
        assert!(poll(gone.as_mut()).is_none());
        let mut next = pin!(gate.pass(1, Duration::from_secs(60)));
        assert!(poll(next.as_mut()).is_none());
        drop(gone);
        drop(all);
        assert!(poll(next).flatten().is_some());
        gate.adjust(Duration::from_millis(8));
        assert_eq!(std::iter::from_fn(|| pass(&gate)).collect::<Vec<_>>().len(), 6);
        gate.adjust(Duration::from_secs(1));
        let few: Vec<Passage> = std::iter::from_fn(|| pass(&gate)).collect();
        assert_eq!(few.len() as u64, LIMIT_MIN / LARGE);
    }
}
