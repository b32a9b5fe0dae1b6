//! The accept loop of both listeners. Bounds what a peer may cost before it is a request and while it is answered:
//! connections, time and bytes for a header, time without reading, memory of what it has not read. Speaks TLS if told to.

mod head;
mod places;
mod watched;

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use places::{ByAddress, Taken};
use spillway_actors::{config::EdgeConfig, observe, task};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{TlsAcceptor, rustls};
use tokio_util::sync::CancellationToken;
use watched::{Answer, Connection, Exchange, Watched};

/// Pause after a failed accept: out of file descriptors, most likely, and others must close theirs first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Sent data unacknowledged for this long ends the connection: a peer that vanished does not hold a GPU.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// What the kernel keeps of an answer that is not read (it doubles the figure); a reader at 100 ms still gets 1 MB/s.
#[cfg(target_os = "linux")]
const SEND_BUFFER: usize = 64 << 10;
/// Least buffer of a connection in this process; it holds a header on the way in and what waits for the kernel on the way
/// out.
const BUFFER: usize = 16 << 10;

/// What one connection may cost; read anew for each.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From one address; 0 = no bound.
    pub per_address: usize,
    /// From a new connection, or from the first byte of a later header, to the header's end.
    pub header: Duration,
    pub header_bytes: usize,
    pub headers: usize,
    /// Between two requests.
    pub idle: Duration,
    /// While nothing can be written because the peer does not read.
    pub stalled_reader: Duration,
}

impl From<&EdgeConfig> for Limits {
    fn from(config: &EdgeConfig) -> Self {
        Self {
            per_address: config.max_connections_per_address,
            header: config.header_timeout,
            header_bytes: config.max_header_bytes,
            headers: config.max_headers,
            idle: config.idle_timeout,
            stalled_reader: config.stalled_reader_timeout,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::from(&EdgeConfig::default())
    }
}

/// How the next connection is let in.
#[derive(Debug, Clone, Default)]
pub struct Door {
    pub limits: Limits,
    /// `None` = plain HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// Serves until `shutdown`, then stops accepting, closes idle connections and returns when the last open response has
/// ended. Dropping the future cuts what is still open. At most `connections` are open at once: the next one waits in the
/// kernel's backlog. `door` is asked for each.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    connections: usize,
    door: impl Fn() -> Door,
) {
    let places = Arc::new(Semaphore::new(connections));
    let open = ByAddress::default();
    let graceful = GracefulShutdown::new();
    let cut = CancellationToken::new();
    let _cut_on_drop = cut.clone().drop_guard();
    while let Some((socket, place)) = next(&listener, &places, &shutdown).await {
        let door = door();
        let Some(taken) = admit(&socket, &open, door.limits.per_address) else {
            observe::connection_cut("address_full");
            continue;
        };
        set_up(&socket);
        let guest = Guest { router: router.clone(), watcher: graceful.watcher(), limits: door.limits };
        let connection = guest.welcome(socket, door.tls, shutdown.clone());
        let (cut, held) = (cut.clone(), (place, taken));
        task::detached(async move {
            tokio::select! {
                () = connection => {}
                () = cut.cancelled() => {}
            }
            drop(held);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// A peer whose address cannot be told has gone already.
fn admit(socket: &TcpStream, open: &ByAddress, most: usize) -> Option<Taken> {
    open.take(socket.peer_addr().ok()?.ip(), most)
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
fn set_up(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        let patience = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
        let _ = sockopt::set_tcp_user_timeout(socket, patience);
        // A request that waits sends nothing: probes find out that its client has vanished.
        let _ = sockopt::set_tcp_keepidle(socket, UNACKNOWLEDGED / 2);
        let _ = sockopt::set_tcp_keepintvl(socket, UNACKNOWLEDGED / 4);
        let _ = sockopt::set_socket_keepalive(socket, true);
        let _ = sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER);
    }
}

/// A connection that was let in.
struct Guest {
    router: Router,
    watcher: Watcher,
    limits: Limits,
}

impl Guest {
    async fn welcome(self, socket: TcpStream, tls: Option<Arc<rustls::ServerConfig>>, shutdown: CancellationToken) {
        let Some(tls) = tls else { return self.listen(socket, shutdown).await };
        match tokio::time::timeout(self.limits.header, TlsAcceptor::from(tls).accept(socket)).await {
            // Boxed, as everything that most connections do not need, or not yet: their memory is what an attack costs.
            Ok(Ok(stream)) => Box::pin(self.listen(stream, shutdown)).await,
            Ok(Err(error)) => {
                observe::connection_cut("tls");
                tracing::debug!(%error, "a TLS handshake failed");
            }
            Err(_) => observe::connection_cut("tls"),
        }
    }

    /// Until the first request begins, or nobody wants it any more.
    async fn listen<S>(self, stream: S, shutdown: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Connection + Unpin + Send + 'static,
    {
        let reading = tokio::time::timeout(self.limits.header, head::read(stream, self.limits.header_bytes));
        let read = tokio::select! {
            read = reading => read,
            () = shutdown.cancelled() => return,
        };
        match read {
            Ok(Ok(stream)) => Box::pin(self.converse(stream)).await,
            Ok(Err(error)) => tracing::debug!(%error, "a connection ended early"),
            Err(_) => observe::connection_cut("header"),
        }
    }

    /// One request after the other.
    async fn converse<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Connection + Unpin + Send + 'static,
    {
        let Self { router, watcher, limits } = self;
        let exchange = Exchange::default();
        let answering = exchange.clone();
        let router = TowerToHyperService::new(router);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let answering = answering.begin();
            let answered = router.call(request);
            async move { answered.await.map(|response| response.map(|body| Answer::<Body>::new(body, answering))) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // Watched tells a header that is late from a connection that is idle.
            .header_read_timeout(None)
            .max_headers(limits.headers)
            .max_header_size(limits.header_bytes)
            .max_buf_size(limits.header_bytes.max(BUFFER))
            .serve_connection(TokioIo::new(Watched::new(stream, exchange, limits)), service);
        if let Err(error) = watcher.watch(connection).await {
            if let Some(cause) = watched::cause(&error) {
                observe::connection_cut(cause);
            }
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

#[cfg(test)]
mod tests;
