//! Time as tasks see it: one place that asks the clock and that waits, so that a test can let time pass as it likes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time by the clock that does not go back.
pub fn now() -> Instant {
    #[cfg(feature = "simulation")]
    if let Some(simulation) = crate::simulation::current() {
        return simulation.now();
    }
    #[cfg(feature = "shuttle")]
    return crate::explored::now();
    #[cfg(not(feature = "shuttle"))]
    Instant::now()
}

/// The time since 1970 by the clock of the system, which may be wrong, and set.
pub fn since_1970() -> Duration {
    #[cfg(feature = "simulation")]
    if let Some(simulation) = crate::simulation::current() {
        return simulation.since_1970();
    }
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The time since `earlier`.
pub fn since(earlier: Instant) -> Duration {
    now().saturating_duration_since(earlier)
}

/// Ends after `duration`.
pub async fn sleep(duration: Duration) {
    #[cfg(feature = "simulation")]
    if let Some(simulated) = crate::simulation::current().map(|simulation| simulation.sleep(duration)) {
        return simulated.await;
    }
    #[cfg(feature = "shuttle")]
    crate::explored::sleep(duration).await;
    #[cfg(not(feature = "shuttle"))]
    async_io::Timer::after(duration).await;
}

/// Ends at `deadline`.
pub async fn sleep_until(deadline: Instant) {
    sleep(deadline.saturating_duration_since(now())).await;
}

/// What `operation` ends with; `None` if that takes longer than `limit`, if there is one.
pub async fn in_time<T>(operation: impl Future<Output = T>, limit: Option<Duration>) -> Option<T> {
    let Some(limit) = limit else { return Some(operation.await) };
    let late = async {
        sleep(limit).await;
        None
    };
    futures_lite::future::or(async { Some(operation.await) }, late).await
}
