//! Tasks with an owner. A task of an actor ends with its actor; the few that must outlive one say so by name. What waits for a
//! disk is done off the workers.

use std::future::Future;
use tokio::task::{AbortHandle, JoinError, JoinHandle};

/// A task that is aborted when this handle is dropped.
#[derive(Debug)]
pub struct Owned(AbortHandle);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts a task that dies with the returned handle.
#[must_use = "the task is aborted when the handle is dropped"]
pub fn owned<F>(future: F) -> Owned
where
    F: Future<Output = ()> + Send + 'static,
{
    Owned(detached(future).abort_handle())
}

/// Starts a task that ends by itself: it must watch a socket, a channel or an epoch that is sure to close.
#[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
pub fn detached<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}

/// Runs what touches the disk off the workers. An error is a panic of `work`.
pub async fn blocking<T>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError>
where
    T: Send + 'static,
{
    // In virtual time everything happens in one thread, in one order.
    #[cfg(test)]
    if crate::simulation::is_here() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}
