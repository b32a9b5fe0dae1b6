//! Waiting for a fact: look, pause, look again, until it holds or its deadline has passed.

use std::time::Duration;
use tokio::time::Instant;

const PAUSE: Duration = Duration::from_millis(5);

/// The first `Some` that `look` gives.
///
/// Panics when `limit` passes without one; `what` says what was waited for.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> T {
    match eventually(limit, &mut look).await {
        Some(found) => found,
        None => panic!("not within {limit:?}: {what}"),
    }
}

/// As [`until`], but `None` when the time is over.
pub async fn eventually<T, F: Future<Output = Option<T>>>(limit: Duration, mut look: impl FnMut() -> F) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// For `Drop`, where nothing can be awaited.
pub fn until_blocking(limit: Duration, look: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if look() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}
