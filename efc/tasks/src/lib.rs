//! Runs the tasks of the data plane, and provides their locks and timers. Nothing here knows what the tasks do.
//!
//! Two features are for tests. With `simulation` a test may install a [`simulation::Simulation`] on its thread: tasks
//! then run there in an order that a seed decides, with a clock that advances only when no task is ready. With
//! `shuttle` the whole program runs in a schedule explorer, which also switches between tasks wherever they take a
//! lock.

mod backoff;
mod detached;
#[cfg(not(feature = "shuttle"))]
mod executor;
#[cfg(feature = "shuttle")]
mod explored;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod sync;
pub mod time;

pub use backoff::Backoff;
pub use detached::{Joined, detached};
#[cfg(not(feature = "shuttle"))]
pub use executor::{block_on, spawn};
#[cfg(feature = "shuttle")]
pub use explored::{block_on, spawn};

/// Starts a task of the test's own; what it ends with is the handle's to give.
///
/// # Panics
/// If this thread has no simulation.
#[cfg(feature = "simulation")]
pub fn spawn_local<T: 'static>(future: impl Future<Output = T> + 'static) -> impl Future<Output = T> {
    #[cfg(not(feature = "shuttle"))]
    return simulation::spawn_local(future);
    #[cfg(feature = "shuttle")]
    {
        let task = shuttle::future::spawn_local(future);
        async move { task.await.expect("a task of the test ends") }
    }
}

/// Starts a task that belongs to none of the processes of a simulation: it goes on when the one that starts it is killed.
#[cfg(feature = "simulation")]
pub fn spawn_outside(future: impl Future<Output = ()> + Send + 'static) {
    #[cfg(not(feature = "shuttle"))]
    simulation::in_process(simulation::OUTSIDE, || spawn(future));
    #[cfg(feature = "shuttle")]
    spawn(future);
}
