//! The sizes of a root with several sources: the sum of its file systems, of which each counts once.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Duration;

use efc_backend::*;

use crate::table::Source;

/// How long a server may take to say how large its file system is; after that it counts with what it said last.
const TIME_LIMIT: Duration = Duration::from_secs(1);

/// The sum over the sources that show. One whose server is silent, and has never said anything, counts nothing.
pub(crate) async fn sum<B: Backend>(call: Call<'_>, sources: &[Arc<Source<B>>]) -> FsStat {
    let mut counted = Vec::new();
    let mut asked = Vec::new();
    for source in sources.iter().filter(|source| source.path.is_some()) {
        let file_system = (source.storage, source.root_attr().fsid);
        if !counted.contains(&file_system) {
            counted.push(file_system);
            asked.push(sizes(call, source));
        }
    }
    all(asked).await.into_iter().flatten().fold(FsStat::default(), added)
}

/// The sizes of a source's file system, as it says now or has said last.
async fn sizes<B: Backend>(call: Call<'_>, source: &Source<B>) -> Option<FsStat> {
    let asked = source.backend.fsstat(call, &source.root);
    let answered = efc_tasks::time::in_time(asked, Some(TIME_LIMIT)).await;
    let mut known = source.known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(Ok(Seen { value, .. })) = answered {
        known.sizes = Some(value);
    }
    known.sizes
}

/// Awaits all, side by side.
async fn all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<(Pin<Box<_>>, Option<T>)> =
        futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    poll_fn(|context| {
        let mut is_done = true;
        for (future, result) in &mut waiting {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => is_done = false,
                }
            }
        }
        if is_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, result)| result).collect()
}

fn added(sum: FsStat, more: FsStat) -> FsStat {
    FsStat {
        bytes_total: sum.bytes_total.saturating_add(more.bytes_total),
        bytes_free: sum.bytes_free.saturating_add(more.bytes_free),
        bytes_available: sum.bytes_available.saturating_add(more.bytes_available),
        files_total: sum.files_total.saturating_add(more.files_total),
        files_free: sum.files_free.saturating_add(more.files_free),
        files_available: sum.files_available.saturating_add(more.files_available),
    }
}
