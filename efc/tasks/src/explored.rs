//! Tasks in a schedule explorer: each is one of its tasks.

use std::future::Future;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Starts `future`.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    drop(shuttle::future::spawn(future)); // it goes on by itself
}

/// Waits until `future` ends, while others run.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    shuttle::future::block_on(future)
}

/// Milliseconds that have passed: each look of a task that waits for a time lets some pass.
static PASSED: AtomicU64 = AtomicU64::new(0);
const PER_LOOK: u64 = 10;

/// Time as it has passed.
pub fn now() -> Instant {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    *BEGIN.get_or_init(Instant::now) + Duration::from_millis(PASSED.load(Ordering::Relaxed))
}

/// Ends when so much has passed.
pub async fn sleep(duration: Duration) {
    let end = now() + duration;
    while now() < end {
        shuttle::future::yield_now().await;
        PASSED.fetch_add(PER_LOOK, Ordering::Relaxed);
    }
}
