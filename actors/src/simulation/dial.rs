//! The network: a provider's connection leads to a task in this process, or to nobody.

use futures_util::future::{BoxFuture, FutureExt};
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use std::{
    cell::RefCell,
    error::Error,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{io::DuplexStream, net::TcpStream};
use tower_service::Service;

/// Connects to the provider of this host.
pub(super) type Network = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<DuplexStream>> + Send + Sync>;

thread_local! {
    static HERE: RefCell<Option<Network>> = const { RefCell::new(None) };
}

/// From now on this thread's clients call here.
pub(super) fn use_network(network: Option<Network>) {
    HERE.set(network);
}

#[derive(Clone)]
pub(crate) struct Dialer {
    tcp: HttpConnector,
    network: Option<Network>,
}

impl Dialer {
    /// Over TCP, unless this thread has a network of its own.
    pub(crate) fn over(tcp: HttpConnector) -> Self {
        Self { tcp, network: HERE.with_borrow(Clone::clone) }
    }
}

impl Service<Uri> for Dialer {
    type Response = Line;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Line, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if let Some(network) = &self.network {
            let dialing = network(uri.host().unwrap_or_default().to_owned());
            return async { Ok(Line::Here(TokioIo::new(dialing.await?))) }.boxed();
        }
        let dialing = self.tcp.call(uri);
        async { Ok(Line::Tcp(dialing.await?)) }.boxed()
    }
}

pub(crate) enum Line {
    Tcp(TokioIo<TcpStream>),
    Here(TokioIo<DuplexStream>),
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        match self {
            Self::Tcp(tcp) => tcp.connected(),
            Self::Here(_) => Connected::new(),
        }
    }
}

impl Read for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Here(here) => Pin::new(here).poll_read(cx, buffer),
        }
    }
}

impl Write for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Here(here) => Pin::new(here).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Here(here) => Pin::new(here).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Here(here) => Pin::new(here).poll_shutdown(cx),
        }
    }
}
