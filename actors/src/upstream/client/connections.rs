//! The connections to one provider: HTTP/1 or 2, kept for the next call. What has come and nobody reads yet is bounded on
//! each, whatever the provider sends: a client that stopped reading holds up its own stream and costs little. Follows no
//! redirect, asks no proxy, and repeats nothing that may have been sent.

use super::{IDLE_CONNECTIONS, Timeouts};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header, response::Parts};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use reqwest::Url;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use std::{
    error::Error,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tower_service::Service;

#[cfg(not(test))]
type Dialer = HttpConnector;
#[cfg(test)]
type Dialer = crate::simulation::Dialer;

/// Of an HTTP/1 connection: the largest head of an answer, and what is read at once.
const BUFFER: usize = 16 << 10;
/// Of an HTTP/2 stream, unread; at 100 ms away still 1.3 MB/s.
const STREAM_WINDOW: u32 = 128 << 10;
/// Of all streams of an HTTP/2 connection: room for so many that are not read that they hold up no other.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 512;
/// A connection that is idle for longer is closed.
const IDLE: Duration = Duration::from_secs(90);
/// Between two signs of life, and for the answer to one.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(15);
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("spillway/", env!("CARGO_PKG_VERSION")));

/// Where a call goes. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Address(Arc<Parsed>);

#[derive(Debug)]
struct Parsed {
    url: Url,
    /// The same, as HTTP takes it.
    uri: Option<Uri>,
}

impl Address {
    pub(super) fn url(&self) -> &Url {
        &self.0.url
    }
}

impl From<Url> for Address {
    fn from(url: Url) -> Self {
        let uri = url.as_str().parse().ok();
        Self(Arc::new(Parsed { url, uri }))
    }
}

/// Cheap to clone: all clones share the connections.
#[derive(Debug, Clone)]
pub(super) struct Connections(Client<InTime<HttpsConnector<Dialer>>, Full<Bytes>>);

impl Connections {
    /// A provider without TLS must not depend on the host having certificates.
    pub(super) fn new(tls: bool, timeouts: Timeouts) -> Result<Self, rustls::Error> {
        super::install_tls_provider();
        let config = ClientConfig::builder();
        let config = match tls {
            true => config.with_platform_verifier()?,
            false => config.with_root_certificates(RootCertStore::empty()),
        };
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(config.with_no_client_auth())
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(dialer());
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http1_max_buf_size(BUFFER)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(SIGN_OF_LIFE)
            .http2_keep_alive_timeout(SIGN_OF_LIFE)
            .build(InTime { inner: https, limit: timeouts.connect });
        Ok(Self(client))
    }

    /// Until the head of the answer. Dropping the future, or the response, closes the socket or resets the stream.
    pub(super) async fn send(
        &self,
        method: Method,
        address: &Address,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, CallError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = address.0.uri.clone().ok_or(CallError::Address)?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
        let (head, body) = self.0.request(request).await?.into_parts();
        Ok(Response { head, body })
    }
}

#[cfg(not(test))]
fn dialer() -> Dialer {
    tcp()
}

/// In virtual time, to a provider in this process.
#[cfg(test)]
fn dialer() -> Dialer {
    Dialer::over(tcp())
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE));
    tcp.set_keepalive_retries(Some(3));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(SIGN_OF_LIFE));
    tcp
}

/// An answer whose body is still coming.
#[derive(Debug)]
pub(super) struct Response {
    head: Parts,
    body: Incoming,
}

impl Response {
    pub(super) const fn status(&self) -> StatusCode {
        self.head.status
    }

    pub(super) const fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The next piece of the body; `None` at its end. Cancel safe.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, CallError> {
        while let Some(frame) = self.body.frame().await {
            // Anything else is trailers.
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// Why a call, or the body of its answer, ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("the address cannot be called")]
    Address,
    #[error(transparent)]
    Call(#[from] legacy::Error),
    #[error(transparent)]
    Body(#[from] hyper::Error),
}

impl CallError {
    /// The provider has seen nothing of the call.
    pub(super) fn is_connect(&self) -> bool {
        match self {
            Self::Address => true,
            Self::Call(error) => error.is_connect(),
            Self::Body(_) => false,
        }
    }

    /// What happened, in words that hold neither URL nor headers.
    pub(super) fn in_words(&self) -> String {
        let io = self.io_kind();
        let doing = match (self.is_connect(), io) {
            (true, Some(io::ErrorKind::TimedOut)) => return "could not be reached in time".into(),
            (true, _) => "could not be reached",
            _ => "broke the connection",
        };
        io.map_or_else(|| doing.to_owned(), |kind| format!("{doing} ({kind})"))
    }

    /// Of the innermost cause that has one.
    fn io_kind(&self) -> Option<io::ErrorKind> {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        let mut kind = None;
        while let Some(error) = cause {
            kind = error.downcast_ref::<io::Error>().map(io::Error::kind).or(kind);
            cause = error.source();
        }
        kind
    }
}

/// A connector that gives up: name resolution, TCP and TLS together take at most `limit`.
#[derive(Debug, Clone)]
struct InTime<C> {
    inner: C,
    limit: Duration,
}

type BoxError = Box<dyn Error + Send + Sync>;

impl<C> Service<Uri> for InTime<C>
where
    C: Service<Uri, Error = BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.limit, self.inner.call(uri));
        Box::pin(async { connecting.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    /// A server that reads one request, answers with these bytes and then waits; its URL.
    async fn server(scheme: &str, answer: Vec<u8>) -> (Address, task::Owned) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{}/v1/x", listener.local_addr().unwrap());
        let url = Url::parse(&url).unwrap().into();
        let serving = task::owned(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 4096]).await;
            let _ = socket.write_all(&answer).await;
            std::future::pending::<()>().await;
        });
        (url, serving)
    }

    fn connections(tls: bool) -> Connections {
        let timeouts = Timeouts { connect: Duration::from_millis(50), ..Timeouts::default() };
        Connections::new(tls, timeouts).unwrap()
    }

    #[tokio::test]
    async fn however_much_is_sent_at_once_little_of_it_is_taken_in_before_it_is_read() {
        let length = 2 << 20;
        let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + length, b'x');
        let (url, _serving) = server("http", answer).await;
        let connections = connections(false);
        let mut response = connections.send(Method::GET, &url, HeaderMap::new(), Bytes::new()).await.unwrap();
        let mut read = 0;
        while let Some(piece) = response.chunk().await.unwrap() {
            assert!(piece.len() <= BUFFER, "{} bytes at once", piece.len());
            read += piece.len();
        }
        assert_eq!(read, length);
    }

    #[tokio::test]
    async fn an_answer_whose_head_never_ends_is_a_broken_connection() {
        let (url, _serving) = server("http", [&b"HTTP/1.1 200 OK\r\nx: "[..], &[b'y'; 4 * BUFFER]].concat()).await;
        let error = connections(false).send(Method::GET, &url, HeaderMap::new(), Bytes::new()).await.unwrap_err();
        assert!(!error.is_connect());
        assert_eq!(error.in_words(), "broke the connection");
    }

    #[tokio::test]
    async fn a_handshake_counts_as_connecting_and_has_its_time() {
        let (url, _serving) = server("https", Vec::new()).await;
        let error = connections(true).send(Method::GET, &url, HeaderMap::new(), Bytes::new()).await.unwrap_err();
        assert!(error.is_connect());
        assert_eq!(error.in_words(), "could not be reached in time");
    }
}
