//! The accept loop of both listeners. Bounds what a peer may cost before it is a request: connections, time to send a
//! header, time without acknowledging what was sent.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use spillway_actors::task;
use std::{sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

/// Pause after a failed accept: out of file descriptors, most likely, and others must close theirs first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; the next one waits in the kernel's backlog.
    pub connections: usize,
    /// From the end of one answer, or the connection's start, to the end of the next request's header. So it also ends
    /// idle connections.
    pub header: Duration,
    /// Sent data unacknowledged for this long ends the connection: a peer that vanished does not hold a GPU.
    pub unacknowledged: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 4096, header: Duration::from_secs(10), unacknowledged: Duration::from_secs(10) }
    }
}

/// Serves until `shutdown`, then stops accepting, closes idle connections and returns when the last open response has
/// ended. Dropping the future cuts what is still open.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken, limits: Limits) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let cut = CancellationToken::new();
    let _cut_on_drop = cut.clone().drop_guard();
    while let Some((socket, place)) = next(&listener, &places, &shutdown).await {
        set_up(&socket, limits);
        let connection = connection(socket, router.clone(), graceful.watcher(), place, limits);
        let cut = cut.clone();
        task::detached(async move {
            tokio::select! {
                () = connection => {}
                () = cut.cancelled() => {}
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// The next connection and its place; `None` at shutdown.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let accept = async {
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((socket, _)) => return Some((socket, place)),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        accepted = accept => accepted,
    }
}

/// Failing to set an option only loses its benefit.
fn set_up(socket: &TcpStream, limits: Limits) {
    let _ = socket.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        let patience = u32::try_from(limits.unacknowledged.as_millis()).unwrap_or(u32::MAX);
        let _ = sockopt::set_tcp_user_timeout(socket, patience);
        // A request that waits sends nothing: probes find out that its client has vanished.
        let _ = sockopt::set_tcp_keepidle(socket, limits.unacknowledged / 2);
        let _ = sockopt::set_tcp_keepintvl(socket, limits.unacknowledged / 4);
        let _ = sockopt::set_socket_keepalive(socket, true);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = limits;
}

async fn connection(socket: TcpStream, router: Router, watcher: Watcher, place: OwnedSemaphorePermit, limits: Limits) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended early");
    }
    drop(place);
}

#[cfg(test)]
mod tests;
